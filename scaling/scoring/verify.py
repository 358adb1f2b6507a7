"""Was a loss predicted before its run? The order and the match of a sealed plan and a run (docs/seal.md)."""

import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from families.units import BadInput

from ..files import now, parse_time, sha256_file
from ..fitting.predictor import load_law
from ..laws import PARAMS_FIELD, Domain, LawReference
from ..paths import StudyPaths
from ..planning.match import differences, run_folders, run_settings, settings_in
from ..planning.planfile import PlanFile, PlannedMember, Seal
from ..runs import Run
from ..runs.chain import Chain, read_chain
from ..runs.store import LEDGER, SHARDS, read_ledger
from ..untrusted import parse_json

Grade = Literal["chain", "clock", "undecided", "none", ""]  # "": the order was not looked at

GRADES: Mapping[Grade, str] = {
    "chain": "held before by hash chain on this machine",
    "clock": "before by this machine's clock alone",
    "": "order not checked",
    "undecided": "undecided",
    "none": "not a prediction",
}  # the first three count, each apart, in this order

ROUNDING = datetime.timedelta(
    seconds=2
)  # times are written to the second, and so are the ledger's seconds subtracted


@dataclass(frozen=True, slots=True)
class Verdict:
    """The grade of a run as the outcome of a sealed prediction, and the reasons where it does not count."""

    grade: Grade
    reasons: tuple[str, ...] = ()

    @property
    def counts(self) -> bool:
        """True if the run is scored as the prediction's outcome."""
        return self.grade in ("chain", "clock")


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What a plan and the files of its study say, read once for all of its members.

    Args:
        plan: a sealed plan, unchanged since.
        study: the study that holds the runs; None for runs in memory, of which no file tells the order.
    """

    plan: PlanFile
    study: StudyPaths | None = None

    @property
    def seal(self) -> Seal:
        """The plan's seal."""
        assert self.plan.seal is not None
        return self.plan.seal

    @cached_property
    def law(self) -> tuple[LawReference | None, Domain | None]:
        """The law as it was sealed: what it was fitted on, and its domain where law.json is still that law."""
        law, study = self.plan.law, self.study
        if law is None or study is None or not study.law.exists():
            return law, None
        if sha256_file(study.law) != self.seal.law_sha256:
            return law, None
        fit = load_law(study.law)
        return (law if law.row_hashes else fit.reference), fit.domain

    @cached_property
    def work_of_the_study(self) -> Sequence[Any]:
        """Entries of the study's ledger, as studies of 0.1.0 keep them."""
        if self.study is None or not self.study.ledger.exists():
            return ()
        try:
            return read_ledger(self.study.ledger)
        except BadInput:
            return ()

    @cached_property
    def moved(self) -> Mapping[str, Path]:
        """Folders of the study's runs by the name in their run.json, for those whose folder is called otherwise."""
        folders = sorted((self.study.folder / SHARDS).glob("*/run.json")) if self.study is not None else []
        named = ((settings_in(path.parent) or {}, path.parent) for path in folders)
        return {str(found.get("run")): folder for found, folder in named}

    def files_of(self, run: Run) -> "RunFiles":
        """The files that a run left in the study."""
        study = self.study
        if study is None:
            return RunFiles()
        settings = run_settings(study, run.run)
        folder = next((one for one in run_folders(study, run.run) if (one / LEDGER).exists()), None)
        if settings is None and run.run in self.moved:
            folder = self.moved[run.run]
            settings = settings_in(folder)
        chain = read_chain(folder / LEDGER) if folder is not None else None
        if folder is None or (settings is None and folder == study.folder):
            own = tuple(entry for entry in self.work_of_the_study if entry.run == run.run)
            chain = Chain(entries=own) if own else None
        return RunFiles(settings=settings, chain=chain, folder=folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """A run's run.json and ledger, None where there is none, and their folder."""

    settings: dict[str, Any] | None = None
    chain: Chain | None = None
    folder: Path | None = None

    @property
    def seal(self) -> str:
        """Digest of the seal that run.json carries; "" for none."""
        return str((self.settings or {}).get("seal") or "")

    def seed_of(self, run: Run) -> int | None:
        """The run's seed, by run.json where there is one."""
        return run.seed if self.settings is None else self.settings.get("seed")

    @property
    def began(self) -> datetime.datetime | None:
        """When the run began, by the clock: the earlier of run.json's time and its first work's; None where unknown."""
        times = [_moment((self.settings or {}).get("created_at"))]
        if self.chain is not None and self.chain.entries:
            first = self.chain.entries[0]
            ended = _moment(first.at)
            times.append(ended - datetime.timedelta(seconds=first.wall_s) if ended else None)
        return min((time for time in times if time is not None), default=None)


def _moment(text: object) -> datetime.datetime | None:
    try:
        return parse_time(str(text), "time")
    except BadInput:
        return None


@dataclass(slots=True)
class _Found:
    """Reasons against a run: those that contradict the prediction, and those that leave the order open."""

    against: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)

    def verdict(self, grade: Grade) -> Verdict:
        if self.against:
            return Verdict("none", (*self.against, *self.unclear))
        return Verdict("undecided", tuple(self.unclear)) if self.unclear else Verdict(grade)


def verify(basis: Basis, member: PlannedMember, run: Run) -> Verdict:
    """Grade a run of a sealed member's size as the outcome of its prediction.

    Args:
        basis: the plan and its study.
        member: the sealed member.
        run: a run with its parameters and tokens.
    """
    files, found = basis.files_of(run), _Found()
    _check_evidence(basis, member, run, found)
    found.against += _mismatches(basis, member, run, files)
    old = basis.seal.format < 2 and not files.seal
    if old:
        if files.chain is None:
            found.unclear.append("it has no ledger: nothing shows when it was trained")
    else:
        found.against += _breaks(basis.seal, run, files)
    _check_clock(basis.seal, files, found)
    return found.verdict("clock" if old else "chain")


def _check_evidence(basis: Basis, member: PlannedMember, run: Run, found: _Found) -> None:
    """Check that the run is not among those that the law was fitted on."""
    law, domain = basis.law
    if law is None:
        return
    if run.row_hash in law.row_hashes:
        found.against.append("it is among the runs that the law was fitted on")
    elif not law.row_hashes:
        N = getattr(run, PARAMS_FIELD[law.convention])
        inside = domain is None or (
            N is not None and domain.N[0] <= N <= domain.N[1] and domain.D[0] <= run.tokens <= domain.D[1]
        )
        if inside:
            found.unclear.append("the law does not say which runs it was fitted on: fit and plan again")


def _mismatches(basis: Basis, member: PlannedMember, run: Run, files: RunFiles) -> Iterator[str]:
    """Yield where the run is another than the sealed one: group, eval set, text, shape, recipe, seed."""
    seal, (law, _) = basis.seal, basis.law
    if law is not None and law.eval_set not in ("", run.eval_set):
        yield f"its eval set is {run.eval_set or 'not stated'}, the law's {law.eval_set}"
    if law is not None and law.group not in ("", run.group):
        yield f"its group is {run.group or 'not stated'}, the law's {law.group}"
    settings = files.settings
    if settings is not None and seal.data_sha256 not in ("", settings.get("data_sha256")):
        yield "it was trained on another text than the runs behind the law"
    others = list(differences(member, settings if settings is not None else _stated(run), run.schedule))
    if others:
        yield "; ".join(others[:2]) + (f" and {len(others) - 2} more" if len(others) > 2 else "")
    seed = files.seed_of(run)
    if seal.named and seed not in seal.named:
        yield f"its seed is {seed}; the plan named {seal.named_text}"


def _stated(run: Run) -> dict[str, Any]:
    """Settings that an observation states by itself."""
    names = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "lr")
    found = {name: value for name in names if (value := getattr(run, name)) is not None}
    if run.batch_tokens and run.n_positions:
        found["batch_size"] = run.batch_tokens / run.n_positions
    return found


def _breaks(seal: Seal, run: Run, files: RunFiles) -> Iterator[str]:
    """Yield where the chain from the seal to the run's loss is not whole."""
    settings, chain = files.settings, files.chain
    if settings is None:
        yield "it has no run.json: it was trained elsewhere, or before the seal"
        return
    if not files.seal:
        yield "it began without this seal"
        return
    if files.seal != seal.digest:
        yield f"it was started from another seal, {files.seal[:12]}"
        return
    if chain is None:
        yield "it has no ledger"
    elif chain.fault:
        yield f"its ledger is broken: {chain.fault}"
    elif not chain.chained or chain.seal != seal.digest:
        other = f"another seal, {chain.seal[:12]}" if chain.seal else "no seal"
        yield f"run.json and ledger disagree: the ledger carries {other}"
    else:
        yield from _ledger_breaks(run, settings, chain, files.folder)


def _ledger_breaks(run: Run, settings: Mapping[str, Any], chain: Chain, folder: Path | None) -> Iterator[str]:
    for name, value in chain.settings.items():
        if settings.get(name) != value:
            yield f"run.json and ledger disagree: {name} is {settings.get(name)}, in the ledger {value}"
            return
    closed = chain.result(run.row_hash)
    if closed is None:
        results = any(entry.result for entry in chain.entries)
        yield (
            "its loss is not the one that its ledger closed with"
            if results
            else "its ledger is cut: it holds no result"
        )
        return
    batch = [value for name in ("batch_size", "n_positions") if isinstance(value := settings.get(name), int)]
    if len(batch) < 2 or not chain.covers(round(run.tokens / max(1, math.prod(batch))), closed.part):
        yield "its ledger leaves out steps"
    own = folder is not None and Path(closed.part).name == closed.part
    rung = _rung(folder / closed.part / "rung.json") if folder is not None and own else None
    if rung is not None and rung.get("inputs", {}).get(LEDGER) not in chain.heads:
        yield "its ledger is cut: rung.json names a line that is not there"


def _rung(path: Path) -> dict[str, Any] | None:
    """The rung.json of a finished rung, unchecked; None where there is none yet."""
    try:
        value = parse_json(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("inputs"), dict) else None


def _check_clock(seal: Seal, files: RunFiles, found: _Found) -> None:
    sealed, began = seal.time, files.began
    if sealed > parse_time(now(), "now") + ROUNDING:
        found.unclear.append(
            f"its seal is of {seal.sealed_at}, which has not come yet by this machine's clock"
        )
    elif began is not None and began < sealed - ROUNDING:
        at = began.astimezone(datetime.UTC).replace(microsecond=0, tzinfo=None)
        found.unclear.append(
            f"by the clock it began at {at.isoformat()}Z, before the seal of {seal.sealed_at}"
        )
