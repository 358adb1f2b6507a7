"""Predicted against actual: sealed predictions scored by the runs that came after."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from families.units import BadInput

from ..files import Document, Record, hashes
from ..paths import StudyPaths
from ..planning.planfile import PlanFile, SealedPrediction, open_seal, sealed_predictions
from ..runs import Run
from ..runs.readers import read_runs
from ..runs.store import gather_runs
from ..stats import Interval, perplexity
from .refit import Refit, refit_study

# MERGED DOCSTRINGS
# How often sealed predictions held, over all studies under a folder.
Z_80 = 1.2815515655446004  # standard normal quantile at 0.9


class ComparisonRow(Record):
    """One sealed prediction and what happened. Losses in nats per token; intervals are of the loss."""

    member: str
    tokens: float
    predicted_loss: float
    interval_80: Interval
    interval_95: Interval
    actual_loss: float
    actual_loss_se: float | None = None
    predicted_ppl: float
    actual_ppl: float
    sealed_at: str
    run: str = ""
    error: float  # predicted/actual − 1 of the loss
    z: float  # (actual − predicted) in units of the prediction's standard deviation
    inside_80: bool
    inside_95: bool
    planned_flops: float | None = None
    booked_flops: float | None = None
    planned_hours: float | None = None
    booked_hours: float | None = None


class Comparison(Document):
    """comparison.json."""

    KIND: ClassVar[str] = "comparison"

    rows: tuple[ComparisonRow, ...]
    waiting: tuple[str, ...] = ()  # sealed members whose run is not finished
    refit: Refit | None = None  # what the new runs changed; None where the study has no law of its own

    @property
    def mean_bias(self) -> float:
        """Mean of predicted/actual − 1."""
        return math.fsum(row.error for row in self.rows) / len(self.rows)


def score(prediction: SealedPrediction, run: Run) -> ComparisonRow:
    """One row: the prediction against the annealed run of the same member and tokens."""
    low, high = prediction.interval_80
    deviation = (high - low) / (2 * Z_80)
    return ComparisonRow(
        member=prediction.member,
        tokens=prediction.tokens,
        predicted_loss=prediction.loss,
        interval_80=prediction.interval_80,
        interval_95=prediction.interval_95,
        actual_loss=run.loss,
        actual_loss_se=run.loss_se,
        predicted_ppl=perplexity(prediction.loss),
        actual_ppl=perplexity(run.loss),
        sealed_at=prediction.sealed_at,
        run=run.run,
        error=prediction.loss / run.loss - 1,
        z=(run.loss - prediction.loss) / deviation if deviation > 0 else 0.0,
        inside_80=low <= run.loss <= high,
        inside_95=prediction.interval_95[0] <= run.loss <= prediction.interval_95[1],
        planned_flops=prediction.flops,
        booked_flops=run.compute,
        planned_hours=prediction.hours,
        booked_hours=None if run.wall_s is None else run.wall_s / 3600,
    )


def run_for(prediction: SealedPrediction, runs: Sequence[Run]) -> Run:
    """The annealed run that the prediction is about: the same parameters, and tokens within one part in a thousand.

    Raises:
        BadInput: there is none yet.
    """
    found = [
        run
        for run in runs
        if run.annealed and run.params == prediction.params and abs(run.tokens / prediction.tokens - 1) < 1e-3
    ]
    if not found:
        raise BadInput(
            f"no run of {prediction.member} with {prediction.tokens:g} tokens is finished; train it first"
        )
    return found[-1]


def compare(plan: PlanFile, runs: Sequence[Run], inputs: Mapping[str, str]) -> Comparison:
    """Score every prediction of a sealed plan whose run is finished.

    Raises:
        BadInput: the plan is not sealed, or none of its members is finished.
    """
    rows: list[ComparisonRow] = []
    waiting: list[str] = []
    missing: list[BadInput] = []
    for prediction in sealed_predictions(plan):
        try:
            rows.append(score(prediction, run_for(prediction, runs)))
        except BadInput as error:
            waiting.append(prediction.member)
            missing.append(error)
    if not rows:
        raise missing[0]
    return Comparison(rows=tuple(rows), waiting=tuple(waiting), inputs=dict(inputs))


def compare_study(place: StudyPaths) -> tuple[Comparison, str]:
    """Open a study's seal, score it, and refit with the new runs: (comparison, why there is no refit or "").

    Raises:
        BadInput: the seal is broken or missing, or none of its members is finished.
    """
    plan = open_seal(place.plan)
    runs = read_runs(place.runs).runs
    found = compare(plan, runs, hashes((place.plan, place.runs)))
    try:
        changed = refit_study(place, plan, runs, [row.run for row in found.rows])
    except BadInput as error:
        return found, str(error)
    return found.model_copy(update={"refit": changed}), ""


def write_comparison(place: StudyPaths) -> tuple[Comparison, str]:
    """Score a study and write its comparison.json: (comparison, why there is no refit or "").

    Raises:
        BadInput: the seal is broken or missing, none of its members is finished, or the study cannot be written.
    """
    gather_runs(place.runs)
    comparison, reason = compare_study(place)
    comparison.write(place.comparison)
    return comparison, reason


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
