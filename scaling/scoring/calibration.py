"""Calibration: how often sealed predictions held, over the studies under a folder, each computed from its own files."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from statistics import fmean

from families.units import BadInput

from ..files import Record, StrPath
from ..paths import StudyPaths
from ..planning.planfile import PlanFile
from .comparison import Comparison, ComparisonRow, NotPrediction, compared
from .verify import GRADES, Grade


class Calibration(Record):
    """Summary of scored predictions. Counts are out of `predictions`; errors are predicted/actual − 1 of the loss.

    Args:
        z: (predicted − actual) in the prediction's standard deviations, in the order of the studies.
        grade: what shows that these predictions came before their runs; those of a lesser grade are counted `apart`.
        apart: a sentence for each lesser grade.
    """

    predictions: int
    studies: int
    inside_80: int
    inside_95: int
    mean_bias: float
    mean_absolute_error: float
    largest_absolute_error: float
    z: tuple[float, ...]
    grade: Grade = ""
    apart: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """A summary like "80 % intervals held 11 of 14, 95 % intervals 13; mean bias +0.3 %, mean error 0.5 % of the loss"."""
        return (
            f"80 % intervals held {self.inside_80} of {self.predictions}, 95 % intervals {self.inside_95}; "
            f"mean bias {100 * self.mean_bias:+.2g} %, mean error {100 * self.mean_absolute_error:.2g} % of the loss"
        )


def calibrate(comparisons: Sequence[Comparison] | StrPath) -> Calibration:
    """Summarise how often sealed predictions held, over all comparisons together.

    Only rows of the best grade that there is are counted: what a hash chain holds is not mixed with what a clock says.

    Args:
        comparisons: comparisons, or a folder of studies (`comparisons_under`).

    Raises:
        BadInput: there are no predictions; or see `comparisons_under`.
    """
    if isinstance(comparisons, str | PathLike):
        comparisons = tuple(comparisons_under(comparisons).values())
    by_grade = {
        grade: [row for comparison in comparisons for row in comparison.rows if row.grade == grade]
        for grade in GRADES
    }
    grade = next((grade for grade, rows in by_grade.items() if rows), None)
    if grade is None:
        raise BadInput("there are 0 scored predictions; calibration needs at least 1")
    rows = by_grade.pop(grade)
    errors = [row.error for row in rows]
    return Calibration(
        predictions=len(rows),
        studies=sum(any(row.grade == grade for row in comparison.rows) for comparison in comparisons),
        inside_80=sum(row.inside_80 for row in rows),
        inside_95=sum(row.inside_95 for row in rows),
        mean_bias=fmean(errors),
        mean_absolute_error=fmean(map(abs, errors)),
        largest_absolute_error=max(map(abs, errors)),
        z=tuple(row.z for row in rows),
        grade=grade,
        apart=tuple(_apart(other, held) for other, held in by_grade.items() if held),
    )


def _apart(grade: Grade, rows: Sequence[ComparisonRow]) -> str:
    inside = sum(row.inside_80 for row in rows)
    return f"counted apart, {GRADES[grade]}: 80 % intervals held {inside} of {len(rows)}"


def comparisons_under(folder: StrPath) -> dict[str, Comparison]:
    """Compare every study at or below a folder, each from its plan, runs and ledgers; what comparison.json says is checked.

    A comparison.json without a sealed plan and runs beside it counts nothing, and a copy of a study counts once.

    Returns:
        comparisons by the path of their study relative to the folder, in the order of names.

    Raises:
        BadInput: there is no study, a file is broken, or a plan was edited after it was sealed.
    """
    folder = Path(folder)
    places = {path.parent for path in folder.rglob("comparison.json")}
    places |= {path.parent for path in folder.rglob("plan.json") if _is_sealed(path)}
    found: dict[str, Comparison] = {}
    seen: dict[tuple[str, str, float], str] = {}
    for place in sorted(places):
        name, study = str(place.relative_to(folder)), StudyPaths(place)
        comparison = compared(study) or _unfounded(study)
        if comparison is not None:
            found[name] = _without_copies(comparison, name, _digest(study), seen)
    if not found:
        raise BadInput(
            f"{folder} holds no study with a sealed plan and a finished run, and no comparison.json, at any depth; "
            "run scaling compare in a study first"
        )
    return found


def _is_sealed(path: Path) -> bool:
    """True for a sealed plan of ours; another program may call a file plan.json too."""
    try:
        return PlanFile.read(path).seal is not None
    except BadInput:
        return False


def _digest(study: StudyPaths) -> str:
    plan = PlanFile.read(study.plan) if study.plan.exists() else None
    return plan.seal.digest if plan is not None and plan.seal is not None else ""


def _unfounded(study: StudyPaths) -> Comparison | None:
    """A comparison.json that nothing beside it bears out: every row is shown, and none counts."""
    if not study.comparison.exists():
        return None
    stored = Comparison.read(study.comparison)
    reason = "comparison.json stands alone: no sealed plan and run beside it bear it out"
    rows = (
        NotPrediction(**row.model_dump(exclude={"grade", "reasons"}), grade="none", reasons=(reason,))
        for row in dict.fromkeys(stored.rows)
    )
    return stored.model_copy(update={"rows": (), "not_predictions": tuple(rows), "refit": None})


def _without_copies(
    comparison: Comparison, name: str, digest: str, seen: dict[tuple[str, str, float], str]
) -> Comparison:
    """Move what another study has counted to where it does not count; `seen` is filled with this one's."""
    rows, copies = [], []
    for row in comparison.rows:
        first = seen.setdefault((digest, row.member, row.actual_loss), name)
        if first == name:
            rows.append(row)
        else:
            copies.append(
                NotPrediction(
                    **row.model_dump(exclude={"grade"}),
                    grade="none",
                    reasons=(f"it is a copy of {first}, and counted there",),
                )
            )
    if not copies:
        return comparison
    return comparison.model_copy(
        update={"rows": tuple(rows), "not_predictions": (*comparison.not_predictions, *copies)}
    )
