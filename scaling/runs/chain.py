"""The hash chain of a run's ledger: every entry holds the SHA-256 of the line before it, from the seal on (docs/seal.md)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from families.units import BadInput

from ..files import canonical_json, check_file, first_problem, sha256_bytes
from ..untrusted import parse_json
from .store import WorkEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A run's own ledger, as far as its chain is whole.

    Args:
        seal: digest of the sealed plan that the run was started from; "" for none.
        settings: settings that determine the run's numbers, by name; {} in ledgers of 0.1.0.
        entries: entries up to the first fault.
        heads: SHA-256 of each line up to the first fault, the opening's first.
        chained: True if the ledger opens a chain; False in ledgers of 0.1.0.
        fault: the first line that does not follow from the one before, and why; "" for a whole chain.
    """

    seal: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    entries: tuple[WorkEntry, ...] = ()
    heads: tuple[str, ...] = ()
    chained: bool = False
    fault: str = ""

    def covers(self, steps: int, branch: str) -> bool:
        """True if the entries of the trunk and of a branch leave no step between 0 and `steps` out."""
        reached = 0
        work = [entry for entry in self.entries if entry.part in ("trunk", branch) and not entry.result]
        for entry in sorted(work, key=lambda entry: entry.from_step):
            if entry.from_step > reached:
                return False
            reached = max(reached, entry.to_step)
        return reached >= steps

    def result(self, row_hash: str) -> WorkEntry | None:
        """The entry that closed a rung with that observation; None where no entry did."""
        return next((entry for entry in self.entries if entry.result and entry.result == row_hash), None)


def read_chain(path: Path) -> Chain | None:
    """Read a run's ledger and follow its chain; None where there is no ledger.

    A last line without its end was cut by a crash, and does not count. A broken line ends the chain and is named in
    `fault`; nothing is raised for it.
    """
    try:
        check_file(path)
        data = path.read_bytes()
    except BadInput as error:
        return Chain(fault=str(error))
    except OSError:
        return None
    lines = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
    opening = _parsed(lines[0]) if lines else None
    if not isinstance(opening, dict) or opening.get("kind") != "ledger":
        return Chain(fault="line 1 is not the opening of a ledger")
    settings = opening.get("settings")
    chained = isinstance(settings, dict) and isinstance(opening.get("seal"), str)
    identity = sha256_bytes(canonical_json(settings))
    entries: list[WorkEntry] = []
    heads, fault = [sha256_bytes(lines[0])], ""
    for number, line in enumerate(lines[1:], start=2):
        try:
            entry = WorkEntry.model_validate(_parsed(line))
        except ValidationError as error:
            fault = f"line {number} is no entry: {first_problem(error)}"
            break
        if entry.previous != heads[-1] and (chained or entry.previous):
            fault = f"line {number} does not follow from line {number - 1}"
            break
        if chained and entry.settings_sha256 != identity:
            fault = f"line {number} has other settings than the ledger opens with"
            break
        entries.append(entry)
        heads.append(sha256_bytes(line))
    return Chain(
        seal=opening["seal"] if chained else "",
        settings=settings if chained and isinstance(settings, dict) else {},
        entries=tuple(entries),
        heads=tuple(heads),
        chained=chained,
        fault=fault,
    )


def _parsed(line: bytes) -> Any:
    try:
        return parse_json(line)
    except ValueError:
        return None
