"""The record of a folder of studies: every sealed prediction, how far it reached, and whether it held."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from families.units import BadInput

from ..files import StrPath
from ..paths import StudyPaths
from ..planning.planfile import PlanFile, PlannedMember
from ..planning.seal import open_seal
from ..runs.readers import read_runs
from .calibration import comparisons_under
from .comparison import ComparisonRow, NotPrediction
from .verify import Basis


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedResult:
    """One sealed prediction and what became of it.

    Args:
        study: path of the study below the folder.
        member: the planned member, with its prediction.
        sealed_at: time of the seal, as the machine's clock gave it.
        reach: training FLOPs in units of the costliest run that the law was fitted on; None where that is not known.
        row: its outcome; a `NotPrediction` where the run does not count; None where it has not been opened.
        attested: who attests the time of the seal.
    """

    study: str
    member: PlannedMember
    sealed_at: str
    reach: float | None
    row: ComparisonRow | NotPrediction | None
    attested: tuple[str, ...] = ()

    @property
    def counts(self) -> bool:
        """True if the prediction is opened and its seal verifies."""
        return self.row is not None and not isinstance(self.row, NotPrediction)


def sealed_results(folder: StrPath) -> tuple[SealedResult, ...]:
    """Return every sealed prediction at or below a folder, opened or not, the nearest first.

    Raises:
        BadInput: there is none, a file is broken, or a plan was edited after it was sealed.
    """
    folder = Path(folder)
    found = []
    for path in sorted(folder.rglob("plan.json")):
        if PlanFile.read(path).seal is not None:
            found += list(_results(folder, StudyPaths(path.parent)))
    if not found:
        raise BadInput(f"{folder} holds no sealed plan, at any depth")
    return tuple(sorted(found, key=lambda one: (one.reach or 0.0, one.study)))


def _results(folder: Path, study: StudyPaths) -> Iterator[SealedResult]:
    plan = open_seal(study.plan)
    assert plan.seal is not None
    try:
        comparison = comparisons_under(study.folder)["."]
    except BadInput:  # not opened yet
        comparison = None
    rows: dict[str, ComparisonRow] = {}
    if comparison is not None:
        rows = {row.member: row for row in (*comparison.not_predictions, *comparison.rows)}
    for member in plan.members:
        if member.prediction is not None:
            yield SealedResult(
                study=str(study.folder.relative_to(folder)),
                member=member,
                sealed_at=plan.seal.sealed_at,
                reach=_reach(plan, study, member),
                row=rows.get(member.member),
                attested=() if comparison is None else comparison.attested,
            )


def _reach(plan: PlanFile, study: StudyPaths, member: PlannedMember) -> float | None:
    """Compute of a member over that of the costliest run behind the law, both exact FLOPs of the whole run.

    A law of 0.1.0 does not name its runs: they are those of another size.
    """
    law, _ = Basis(plan=plan, study=study).law
    behind = set(law.row_hashes) if law is not None else set()
    costs = [
        run.compute
        for run in (read_runs(study.runs) if study.runs.exists() else ())
        if run.compute is not None and (run.row_hash in behind if behind else run.params != member.params)
    ]
    return member.flops / max(costs) if costs else None
