"""How often sealed predictions held, over all studies under a folder."""

from collections.abc import Sequence
from pathlib import Path

from families.errors import BadInput

from .compare import Comparison, ComparisonRow, sealed_predictions
from .files import Record
from .seal import open_seal


class Calibration(Record):
    """A running score of scored predictions. Shares are of `predictions`; errors are predicted/actual − 1 of the loss."""

    predictions: int
    studies: int
    inside_80: int
    inside_95: int
    mean_bias: float
    mean_absolute_error: float
    largest_absolute_error: float
    z: tuple[
        float, ...
    ]  # (actual − predicted) in standard deviations of the prediction, in the order of the studies

    @property
    def sentence(self) -> str:
        """ "80 % intervals held 11 of 14; mean bias +0.3 %"."""
        return (
            f"80 % intervals held {self.inside_80} of {self.predictions}, 95 % intervals {self.inside_95}; "
            f"mean bias {100 * self.mean_bias:+.2g} %, mean error {100 * self.mean_absolute_error:.2g} %"
        )


def comparisons_under(folder: Path) -> dict[str, Comparison]:
    """Every comparison.json at or below a folder, by the study's path from there, in the order of names.

    Raises:
        BadInput: there is none, one is broken, or one tells another prediction than the sealed plan beside it.
    """
    found = {}
    for path in sorted(folder.rglob("comparison.json")):
        one = Comparison.read(path)
        check_seal(path, one)
        found[str(path.parent.relative_to(folder))] = one
    if not found:
        raise BadInput(
            f"{folder} holds no comparison.json, at any depth; run scaling compare in a study first"
        )
    return found


def check_seal(path: Path, found: Comparison) -> None:
    """Hold a comparison against the sealed plan beside it, where there is one.

    Raises:
        BadInput: the seal is broken, or a row tells another prediction than was sealed.
    """
    plan = path.with_name("plan.json")
    if not plan.exists():
        return
    sealed = {(one.member, one.tokens): one for one in sealed_predictions(open_seal(plan))}
    for row in found.rows:
        promised = sealed.get((row.member, row.tokens))
        if promised is None or (promised.loss, promised.interval_80) != (row.predicted_loss, row.interval_80):
            raise BadInput(
                f"{path} says that {row.member} was predicted {row.predicted_loss:g}, which {plan} did not seal; "
                "run scaling compare in that study again"
            )


def calibrate(comparisons: Sequence[Comparison]) -> Calibration:
    """Score all predictions together.

    Raises:
        BadInput: no predictions.
    """
    rows: list[ComparisonRow] = [row for comparison in comparisons for row in comparison.rows]
    if not rows:
        raise BadInput("there are 0 scored predictions; calibration needs at least 1")
    errors = [row.error for row in rows]
    return Calibration(
        predictions=len(rows),
        studies=sum(bool(comparison.rows) for comparison in comparisons),
        inside_80=sum(row.inside_80 for row in rows),
        inside_95=sum(row.inside_95 for row in rows),
        mean_bias=sum(errors) / len(rows),
        mean_absolute_error=sum(map(abs, errors)) / len(rows),
        largest_absolute_error=max(map(abs, errors)),
        z=tuple(row.z for row in rows),
    )
