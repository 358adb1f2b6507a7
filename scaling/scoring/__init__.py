"""Predicted against actual: score the predictions of sealed plans by the runs that came after, in one study or in many."""

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from families.units import BadInput

from ..files import Document, Record, StrPath, hashes
from ..paths import StudyPaths, open_study
from ..planning.planfile import PlanFile, SealedPrediction, open_seal, sealed_predictions
from ..runs import Run
from ..runs.readers import read_runs
from ..runs.store import gather_runs
from ..stats import Z_80, Interval, perplexity
from .refit import Refit, refit_study

SAME_TOKENS = 1e-3  # relative difference up to which a run has the tokens of its prediction: steps are whole


class ComparisonRow(Record):
    """One sealed prediction and its outcome. Losses in nats per token; intervals are of the loss."""

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
    """comparison.json: every scored prediction of a study, and the law refitted with the new runs."""

    KIND: ClassVar[str] = "comparison"

    rows: tuple[ComparisonRow, ...]
    waiting: tuple[str, ...] = ()  # sealed members whose run is not finished
    refit: Refit | None = None  # None where the study has no law of its own
    no_refit: str = Field(default="", exclude=True)  # why there is no refit; not in the file

    @property
    def mean_bias(self) -> float:
        """Mean of predicted/actual − 1 of the loss."""
        return math.fsum(row.error for row in self.rows) / len(self.rows)


class Calibration(Record):
    """Summary of scored predictions. Counts are out of `predictions`; errors are predicted/actual − 1 of the loss."""

    predictions: int
    studies: int
    inside_80: int
    inside_95: int
    mean_bias: float
    mean_absolute_error: float
    largest_absolute_error: float
    z: tuple[
        float, ...
    ]  # (actual − predicted) in the prediction's standard deviations, in the order of the studies

    @property
    def sentence(self) -> str:
        """A summary like "80 % intervals held 11 of 14, 95 % intervals 13; mean bias +0.3 %, mean error 0.5 %"."""
        return (
            f"80 % intervals held {self.inside_80} of {self.predictions}, 95 % intervals {self.inside_95}; "
            f"mean bias {100 * self.mean_bias:+.2g} %, mean error {100 * self.mean_absolute_error:.2g} %"
        )


def compare_study(study: StudyPaths | StrPath) -> Comparison:
    """Score a study's sealed plan by its runs, refit its law with them, and write comparison.json.

    Brings the study's runs.jsonl up to date too. Where the law cannot be refitted, `Comparison.no_refit` says why.

    Args:
        study: the folder of a study, or its paths.

    Returns:
        what was written to comparison.json.

    Raises:
        BadInput: the seal is broken or missing, or none of its members is finished; nothing is written then.
    """
    paths = study if isinstance(study, StudyPaths) else open_study(Path(study))
    plan = open_seal(paths.plan)
    runs = read_runs(paths.runs)
    comparison = compare(plan, runs)
    gather_runs(paths.runs)
    update: dict[str, object] = {"inputs": hashes((paths.plan, paths.runs))}
    try:
        update["refit"] = refit_study(paths, plan, runs, [row.run for row in comparison.rows])
    except BadInput as error:
        update["no_refit"] = str(error)
    comparison = comparison.model_copy(update=update)
    comparison.write(paths.comparison)
    return comparison


def compare(
    plan: PlanFile | StrPath, runs: Sequence[Run] | StrPath, inputs: Mapping[str, str] | None = None
) -> Comparison:
    """Score every prediction of a sealed plan whose run is finished.

    Args:
        plan: a sealed plan, or its file.
        runs: runs, or a file that `read_runs` reads.
        inputs: SHA-256 of each file behind the comparison, by name; default: those of the files that are given.

    Raises:
        BadInput: the plan is not sealed, its file was edited after sealing, or none of its members is finished.
    """
    files = [Path(source) for source in (plan, runs) if isinstance(source, str | PathLike)]
    if isinstance(plan, str | PathLike):
        plan = open_seal(Path(plan))
    if isinstance(runs, str | PathLike):
        runs = read_runs(runs)
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
    return Comparison(
        rows=tuple(rows), waiting=tuple(waiting), inputs=hashes(files) if inputs is None else dict(inputs)
    )


def score(prediction: SealedPrediction, run: Run) -> ComparisonRow:
    """Score a prediction by the annealed run of the same member and tokens."""
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
    """The last annealed run with the parameters of a prediction, and its tokens within one part in a thousand.

    Raises:
        BadInput: no such run is finished.
    """
    matches = [
        run
        for run in runs
        if run.annealed
        and run.params == prediction.params
        and abs(run.tokens / prediction.tokens - 1) < SAME_TOKENS
    ]
    if not matches:
        raise BadInput(
            f"no run of {prediction.member} with {prediction.tokens:g} tokens is finished; train it first"
        )
    return matches[-1]


def comparisons_under(folder: StrPath) -> dict[str, Comparison]:
    """Read every comparison.json at or below a folder.

    Returns:
        comparisons by the path of their study relative to the folder, in the order of names.

    Raises:
        BadInput: there is none, one is broken, or one states another prediction than the sealed plan beside it.
    """
    folder = Path(folder)
    comparisons = {}
    for path in sorted(folder.rglob("comparison.json")):
        comparison = Comparison.read(path)
        check_seal(path, comparison)
        comparisons[str(path.parent.relative_to(folder))] = comparison
    if not comparisons:
        raise BadInput(
            f"{folder} holds no comparison.json, at any depth; run scaling compare in a study first"
        )
    return comparisons


def check_seal(path: Path, comparison: Comparison) -> None:
    """Check a comparison against the sealed plan beside its file, where there is one.

    Raises:
        BadInput: the seal is broken, or a row states another prediction than was sealed.
    """
    plan = path.with_name("plan.json")
    if not plan.exists():
        return
    sealed = {(one.member, one.tokens): one for one in sealed_predictions(open_seal(plan))}
    for row in comparison.rows:
        prediction = sealed.get((row.member, row.tokens))
        if prediction is None or (prediction.loss, prediction.interval_80) != (
            row.predicted_loss,
            row.interval_80,
        ):
            raise BadInput(
                f"{path} says that {row.member} was predicted {row.predicted_loss:g}, which {plan} did not seal; "
                "run scaling compare in that study again"
            )


def calibrate(comparisons: Sequence[Comparison] | StrPath) -> Calibration:
    """Summarise how often sealed predictions held, over all comparisons together.

    Args:
        comparisons: comparisons, or a folder whose comparison.json files are read at any depth.

    Raises:
        BadInput: there are no predictions; or see `comparisons_under`.
    """
    if isinstance(comparisons, str | PathLike):
        comparisons = tuple(comparisons_under(comparisons).values())
    rows = [row for comparison in comparisons for row in comparison.rows]
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
