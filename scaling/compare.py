"""Predicted against actual: sealed predictions scored by the runs that came after."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from families.errors import BadInput

from .files import Document, Record, hashes
from .perplexity import perplexity
from .planfile import PlanFile
from .refit import Refit, refit_study
from .runs import Run, read_runs
from .seal import open_seal
from .study import Study

Interval = tuple[float, float]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedPrediction:
    """What was promised, before the run: the part of a sealed plan that a comparison needs."""

    member: str
    params: float
    tokens: float
    loss: float
    interval_80: Interval
    interval_95: Interval
    sealed_at: str
    flops: float | None = None
    hours: float | None = None


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


def sealed_predictions(plan: PlanFile) -> tuple[SealedPrediction, ...]:
    """What a sealed plan promised for its members.

    Raises:
        BadInput: the plan is not sealed, or predicts nothing with intervals.
    """
    if plan.seal is None:
        raise BadInput("the plan is not sealed; a prediction counts only when it was frozen before the run")
    found = [
        SealedPrediction(
            member=planned.member,
            params=planned.params,
            tokens=planned.tokens,
            loss=planned.prediction.loss,
            interval_80=planned.prediction.interval_80,
            interval_95=planned.prediction.interval_95,
            sealed_at=plan.seal.sealed_at,
            flops=planned.flops,
            hours=planned.hours,
        )
        for planned in plan.members
        if planned.prediction and planned.prediction.interval_80 and planned.prediction.interval_95
    ]
    if not found:
        raise BadInput("the plan predicts no member's loss with an interval")
    return tuple(found)


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


def compare_study(place: Study) -> tuple[Comparison, str]:
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
