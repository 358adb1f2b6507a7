"""Many writers, one study: each run writes only inside its own folder, and readers put the parts together.

A study may lie on a network file system, with runs on many machines. There is no lock that a dead machine could hold:
runs/NAME/runs.jsonl and runs/NAME/ledger.jsonl have one writer each, and the study's own runs.jsonl is a view of them,
rewritten whole, with the rows that a person put there. A view that is behind loses nothing: what reads it merges again.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from families.units import BadInput

from ..files import Record, append_line, atomic_write, check_kind, first_problem, now, read_text
from ..untrusted import parse_json
from . import RUNS_VERSION, Run

# MERGED DOCSTRINGS
# The ledger: an append-only book of the work that was really done, counted in the training loop.

RUNS = "runs.jsonl"

LEDGER = "ledger.jsonl"

SHARDS = "runs"  # the folder of the run folders

_TRIES = 5  # to replace a view that somebody else is changing


Key = tuple[str, float, str, str]


def shard_paths(path: Path) -> list[Path]:
    """The files that a study's runs.jsonl or ledger.jsonl is made of besides itself: runs/*/NAME, by run."""
    if path.name not in (RUNS, LEDGER):
        return []
    try:
        names = sorted(entry.name for entry in (path.parent / SHARDS).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path.parent / SHARDS / name / path.name for name in names if not name.startswith(".")]


def exists(path: Path) -> bool:
    """Whether a study's runs.jsonl or ledger.jsonl, or a part of it, is there."""
    return path.exists() or any(part.exists() for part in shard_paths(path))


def shard_lines(part: Path) -> list[str]:
    """A part's whole lines: one that another machine is just writing is not there yet, and no file is no line."""
    try:
        text = part.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise BadInput(f"cannot read {part}: {error.strerror}") from error
    return text[: text.rfind(b"\n") + 1].decode("utf-8", errors="replace").splitlines()


def run_key(row: dict[str, Any]) -> Key:
    """What makes two rows one observation: the same run, tokens, eval set and schedule."""
    return (
        str(row.get("run", "")),
        _number(row.get("tokens")),
        str(row.get("eval_set", "")),
        str(row.get("schedule", "")),
    )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def merged_rows(path: Path) -> dict[Key, str]:
    """The lines of the parts of a runs.jsonl, in the order of run, tokens and eval set."""
    found: dict[Key, str] = {}
    for part in shard_paths(path):
        for number, line in enumerate(shard_lines(part), start=1):
            row = parse(line, part, number)
            if row and "kind" not in row:
                found.setdefault(run_key(row), line)
    return dict(sorted(found.items()))


def parse(line: str, path: Path, number: int) -> dict[str, Any]:
    """A line's JSON object; nothing for an empty line.

    Raises:
        BadInput: it is not a JSON object.
    """
    if not line.strip():
        return {}
    try:
        row = parse_json(line)
    except json.JSONDecodeError as error:
        raise BadInput(f"{path} line {number}: it is not JSON: {error.msg}") from error
    if not isinstance(row, dict):
        raise BadInput(f"{path} line {number}: it is not a JSON object but {type(row).__name__}")
    return row


def merged_text(path: Path) -> str:
    """The text of a study's runs.jsonl with its parts: what a person put there, then each run's observations."""
    own = merged_rows(path)
    there = read_text(path) if path.exists() or not own else ""
    if not own:
        return there
    kept = []
    for line in (lines := there.splitlines(keepends=True)):
        try:
            row = parse_json(line)
        except json.JSONDecodeError:
            if line is lines[-1] and not line.endswith("\n"):
                continue  # half of a line that a crash cut off: other lines would stand behind it
            row = None  # a person's slip: kept, and named by whoever reads the rows
        if not (isinstance(row, dict) and run_key(row) in own):
            kept.append(line.removesuffix("\n"))
    return "".join(f"{line}\n" for line in (*kept, *own.values()))


def gather(path: Path, opening: str) -> None:
    """Rewrite a study's runs.jsonl from its parts, where that changes it. `opening` is the line a new one begins with.

    Two who gather at once both write a good view; a row that a person adds meanwhile is looked for again before the
    view is replaced.

    Raises:
        BadInput: a part is broken, or the folder cannot be written.
    """
    for _ in range(_TRIES):
        before = path.read_bytes() if path.exists() else None
        text = merged_text(path) if before is not None or merged_rows(path) else ""
        if not text or text.encode() == before:
            return
        if before is None:
            text = f"{opening}\n{text}"
        if (path.read_bytes() if path.exists() else None) == before:
            atomic_write(path, text)
            return


def append_new(path: Path, line: str, *, first: str) -> None:
    """Append an observation to a file with one writer, unless it holds the same one already."""
    wanted = run_key(parse_json(line))
    if all(run_key(row) != wanted for row in _shard_rows(path)):
        append_line(path, line, first=first)


def _shard_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(shard_lines(path), start=1):
        yield parse(line, path, number)


LEDGER_VERSION = 1


class WorkEntry(Record):
    """Steps trained and kept. `part` is "trunk" or "rung-TOKENS"; `flops` are exact training FLOPs."""

    run: str
    part: str
    from_step: int
    to_step: int
    tokens: int
    flops: float
    wall_s: float
    settings_sha256: str
    at: str


def append_entry(path: Path, work: WorkEntry) -> None:
    """Append one entry to a ledger.jsonl, which opens with its kind and version."""
    opening = json.dumps({"kind": "ledger", "version": LEDGER_VERSION, "created_at": now(), "inputs": {}})
    append_line(path, work.model_dump_json(), first=opening)


def read_ledger(path: Path) -> tuple[WorkEntry, ...]:
    """All entries of a ledger.jsonl; of a study's, its runs' own ledgers with it, by run.

    A last line without its end is still being written and passed over.

    Raises:
        BadInput: no such file, a newer version, or a broken line, which is named.
    """
    files = [part for part in shard_paths(path) if part.exists()]
    entries = _entries(read_text(path).split("\n")[:-1], path) if path.exists() or not files else []
    for part in files:
        entries += _entries(shard_lines(part), part)
    return tuple(entries)


def _entries(lines: Sequence[str], path: Path) -> list[WorkEntry]:
    entries = []
    for number, row in _ledger_rows(lines, path):
        try:
            entries.append(WorkEntry.model_validate(row))
        except ValidationError as error:
            raise BadInput(f"{path} line {number}: {first_problem(error)}") from error
    return entries


def read_totals(path: Path) -> tuple[WorkEntry, ...]:
    """The work of each part of each run as one entry: from its first step to its last, tokens, FLOPs and seconds added up.

    For a ledger of any length: a million rows take seconds, and the memory of their totals.

    Raises:
        BadInput: as `read_ledger`.
    """
    files = [part for part in shard_paths(path) if part.exists()]
    totals: dict[tuple[str, str], dict[str, Any]] = {}
    for file in [path, *files] if path.exists() or not files else files:
        try:
            with file.open(encoding="utf-8", errors="replace") as lines:
                _add_up(lines, file, totals)
        except OSError as error:
            raise BadInput(f"cannot read {file}: {error.strerror}") from error
    try:
        return tuple(WorkEntry.model_validate(total) for total in totals.values())
    except ValidationError as error:
        raise BadInput(f"{path} has a run whose entries do not add up: {first_problem(error)}") from error


def _add_up(lines: Iterable[str], path: Path, totals: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Into `totals`, an entry's fields by run and part; of each part the first entry is checked in full, of the others
    that they add up.
    """
    whole = takewhile(lambda line: line.endswith("\n"), lines)  # the last may still be being written
    for number, row in _ledger_rows(whole, path):
        try:
            total = totals.get((row["run"], row["part"]))
            if total is None:
                work = WorkEntry.model_validate(row)
                totals[work.run, work.part] = work.model_dump()
                continue
            total["from_step"] = min(total["from_step"], row["from_step"])
            total["to_step"] = max(total["to_step"], row["to_step"])
            total["tokens"] += row["tokens"]
            total["flops"] += row["flops"]
            total["wall_s"] += row["wall_s"]
            total["settings_sha256"] = row["settings_sha256"]
            total["at"] = row["at"]
        except ValidationError as error:
            raise BadInput(f"{path} line {number}: {first_problem(error)}") from error
        except (KeyError, TypeError) as error:
            raise BadInput(f"{path} line {number}: it is no entry of a ledger: {error}") from error


def _ledger_rows(lines: Iterable[str], path: Path) -> Iterator[tuple[int, Any]]:
    """(number of the line, its JSON) of each entry; the first line says what file this is."""
    for number, line in enumerate(lines, start=1):
        try:
            row = parse_json(line)
        except json.JSONDecodeError as error:
            raise BadInput(f"{path} line {number}: it is not JSON: {error.msg}") from error
        if number == 1:
            check_kind(row, "ledger", LEDGER_VERSION, str(path))
        else:
            yield number, row


def recorded_flops(entries: tuple[WorkEntry, ...], run: str | None = None) -> float:
    """Training FLOPs booked, of one run or of all."""
    return sum(entry.flops for entry in entries if run is None or entry.run == run)


def _opening() -> str:
    return json.dumps({"kind": "runs", "version": RUNS_VERSION, "created_at": now(), "inputs": {}})


def append_run(path: Path, run: Run) -> None:
    """Append one observation to a runs.jsonl, which opens with its kind and version."""
    append_line(path, run.model_dump_json(exclude_none=True), first=_opening())


def record_run(path: Path, run: Run) -> None:
    """Append an observation unless it is there already: the same run, tokens, eval set and schedule.

    A half-written last line, which a crash can leave, does not count; appending cuts it off.
    """
    append_new(path, run.model_dump_json(exclude_none=True), first=_opening())


def gather_runs(path: Path) -> None:
    """Bring a study's runs.jsonl up to date with the observations in its run folders.

    Raises:
        BadInput: a run's own file is broken, or the study cannot be written.
    """
    gather(path, _opening())
