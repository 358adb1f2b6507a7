"""Status of a run in progress: forecast of its final loss, difference from the prediction made beforehand, alarms."""

import difflib
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from families.units import BadInput

from ..files import Record
from ..fitting.predictor import load_law
from ..laws import n_params
from ..paths import StudyPaths
from ..planning.planfile import PlanFile
from ..planning.seal import SealedPrediction, open_seal, sealed_predictions
from ..stats import Z_80, Z_95, Interval, format_loss
from .alarms import Alarm, first_alarm
from .curves import RunCurves, read_run, read_siblings
from .forecast import Forecast, forecast_final_loss
from .foreign import read_foreign

State = Literal[
    "waiting", "no plan", "on plan", "above plan", "below plan",
    "diverging", "not learning", "repeating data", "finished",
]  # fmt: skip

MIN_INTERVAL = 5.0  # seconds between forecasts in a progress line

MAX_TIME_SHARE = 0.01  # of a run's time spent on forecasts for its progress line

TARGET_TEXT = {
    "held-out": "held-out loss",
    "glance": "loss on the held-out windows of its partial evaluations",
    "training": "training loss",
}


class Reference(Record):
    """The loss predicted for a rung before training, in nats per token; by the sealed plan if `sealed`, else by law.json."""

    loss: float
    interval_80: Interval | None
    sealed: bool

    @property
    def sd(self) -> float:
        """Standard deviation, from the 80 % interval; 0 if there is no interval."""
        return (self.interval_80[1] - self.interval_80[0]) / (2 * Z_80) if self.interval_80 else 0.0


class AlarmRecord(Record):
    """A fault, the step at which it was detected, and the evidence."""

    fault: str
    step: int
    evidence: str


class Assessment(Record):
    """Status of a rung. Losses in nats per token; `target` is the loss that is forecast, None without a forecast."""

    run: str
    state: State
    sentence: str
    step: int
    steps: int
    tokens: int
    tokens_planned: int
    loss_now: float | None
    forecast: float | None = None
    interval_80: Interval | None = None
    interval_95: Interval | None = None
    target: str | None = None
    siblings: int = 0
    promise: Reference | None = None
    difference: float | None = None  # forecast (or final) loss less the promise's
    alarm: AlarmRecord | None = None


def find_run(run: str, study: Path) -> Path:
    """Return the folder of a run, given as a folder or as the name of a run in a study.

    Raises:
        BadInput: there is no such run.
    """
    for folder in (Path(run), StudyPaths(study).run_folder(run)):
        if (folder / "underway.json").exists():
            return folder
    if Path(run).is_dir():
        raise BadInput(
            f"{run} holds no underway.json of ours, no trainer_state.json and no events of TensorBoard"
        )
    names = [path.parent.name for path in (study / "runs").glob("*/underway.json")]
    close = difflib.get_close_matches(run, names, n=1)
    hint = (
        f"; did you mean {close[0]}?"
        if close
        else f"; {study} has {', '.join(sorted(names)[:8]) or 'no runs'}"
    )
    raise BadInput(f"run is {run!r}, which is neither the folder of a run nor a run of {study}{hint}")


def reference_prediction(study: StudyPaths, run: RunCurves, steps: int) -> Reference | None:
    """Return the prediction for a rung by the study's sealed plan, else by its law; None if neither predicts it.

    Raises:
        BadInput: the seal is broken.
    """
    tokens = steps * run.plan.batch_tokens
    if study.plan.exists():
        sealed: tuple[SealedPrediction, ...] = ()
        if PlanFile.read(study.plan).seal is not None:  # pilot ladders have no predictions, and need no seal
            plan = open_seal(study.plan)
            with suppress(BadInput):  # a sealed plan that consists of ladders
                sealed = sealed_predictions(plan)
        for prediction in sealed:
            if prediction.params == run.plan.params and abs(prediction.tokens / tokens - 1) < 1e-3:
                return Reference(loss=prediction.loss, interval_80=prediction.interval_80, sealed=True)
    if study.law.exists():
        law = load_law(study.law)
        same_text = not law.group or law.group == run.plan.group
        size = n_params(run.plan, law.convention)
        if same_text:
            try:
                predicted = law.predict(size, tokens, convention=law.convention)
            except BadInput:  # outside the law's domain
                return None
            return Reference(loss=predicted.loss, interval_80=predicted.interval_80, sealed=False)
    return None


def watch(folder: Path, *, steps: int | None = None) -> Assessment:
    """Return the current status of a run from its files.

    Args:
        folder: folder of the run.
        steps: length of the rung; default: the shortest unfinished one, or the longest of a finished run.

    Raises:
        BadInput: the folder holds no run, or the run no such rung.
    """
    run = read_run(folder)
    rung = steps or run.next_rung or max(run.plan.steps)
    if rung not in run.plan.steps:
        known = ", ".join(f"{length * run.plan.batch_tokens}" for length in run.plan.steps)
        raise BadInput(f"{run.name} has no rung of {rung * run.plan.batch_tokens} tokens; it has {known}")
    reference = reference_prediction(study_of(folder), run, rung)
    return assess(run, read_siblings(folder.parent, run), rung, reference)


def watch_foreign(
    path: Path,
    study: StudyPaths,
    *,
    steps: int | None = None,
    batch_tokens: float | None = None,
    tokens: str | None = None,
) -> Assessment:
    """Return the current status of a training that is not ours, from its trainer's files.

    Args:
        path: trainer_state.json, an event file, or a folder that holds those of one run.
        study: study whose sealed plan or law predicts it, and whose runs may be its siblings.
        steps: its planned steps.
        batch_tokens: tokens of a step.
        tokens: its planned tokens, in place of `steps`.

    Raises:
        BadInput: as `scaling.monitoring.foreign.read_foreign`.
    """
    run = read_foreign(path, steps=steps, batch_tokens=batch_tokens, tokens=tokens)
    (length,) = run.plan.steps
    if not run.plan.params:  # without its size it has no prediction and no siblings
        return assess(run, (), length, None)
    return assess(
        run, read_siblings(study.folder / "runs", run), length, reference_prediction(study, run, length)
    )


def study_of(folder: Path) -> StudyPaths:
    """Return the study of a run: two levels above its folder, or the folder itself for a run outside a study."""
    own = folder.resolve()
    return StudyPaths(own.parents[1] if own.parent.name == "runs" else own)


def assess(
    run: RunCurves, siblings: Sequence[RunCurves], steps: int, reference: Reference | None
) -> Assessment:
    """Return the status of a rung: finished, else an alarm, else the forecast compared with the reference prediction.

    Args:
        run: the run.
        siblings: comparable runs that have finished a rung.
        steps: length of the rung.
        reference: the prediction made before training; None if there is none.
    """
    curve = run.rung(steps)
    now = float(curve.loss[-3:].mean()) if len(curve.loss) else None
    at = int(curve.step[-1]) if len(curve.step) else 0
    batch = run.plan.batch_tokens
    base = Assessment(
        run=run.name, state="waiting", sentence="", step=at, steps=steps, tokens=at * batch, tokens_planned=steps * batch,
        loss_now=now, promise=reference,
    )  # fmt: skip
    if steps in run.finals:
        return _finished(base, run.finals[steps], reference)
    alarm = first_alarm(run, siblings, steps)
    forecast: Forecast | None
    try:
        forecast = forecast_final_loss(run, siblings, steps=steps)
    except BadInput as error:
        forecast, reason = None, str(error)
    changes = {} if forecast is None else _forecast_fields(forecast, reference)
    if alarm is not None:
        record = AlarmRecord(fault=alarm.fault, step=alarm.step, evidence=alarm.evidence)
        return base.model_copy(
            update={**changes, "state": alarm.fault, "alarm": record, "sentence": _alarm_text(alarm, at)}
        )
    if forecast is None:
        return base.model_copy(update={"sentence": f"waiting: {reason}"})
    return base.model_copy(update=changes)


def _finished(base: Assessment, final: float, reference: Reference | None) -> Assessment:
    if reference is None:
        return base.model_copy(update={"state": "finished", "sentence": f"finished at {format_loss(final)}"})
    low, high = reference.interval_80 or (math.nan, math.nan)
    inside = "inside" if low <= final <= high else "outside"
    coverage = f", {inside} its 80 % interval" if reference.interval_80 else ""
    return base.model_copy(
        update={
            "state": "finished",
            "sentence": f"finished at {format_loss(final)}; {_source(reference)} {format_loss(reference.loss)}{coverage}",
            "difference": final - reference.loss,
        }
    )


def _forecast_fields(forecast: Forecast, reference: Reference | None) -> dict[str, object]:
    """Return the fields of an assessment that follow from the forecast."""
    facts: dict[str, object] = {
        "forecast": forecast.loss,
        "interval_80": forecast.interval(Z_80),
        "interval_95": forecast.interval(Z_95),
        "target": forecast.target,
        "siblings": forecast.siblings,
    }
    expected = f"ends at {format_loss(forecast.loss)} ± {format_loss(Z_80 * forecast.sd)}"
    if reference is None:
        return {
            **facts,
            "state": "no plan",
            "sentence": f"{expected}; there is no prediction to compare with",
        }
    if forecast.target != "held-out":
        reason = (
            f"this is its {TARGET_TEXT[forecast.target]}, which does not compare with "
            f"{_source(reference)} {format_loss(reference.loss)}"
        )
        return {**facts, "state": "no plan", "sentence": f"{expected}; {reason} until a sibling is finished"}
    off = forecast.loss - reference.loss
    tolerance = Z_80 * math.hypot(forecast.sd, reference.sd)
    state: State = "on plan" if abs(off) <= tolerance else "above plan" if off > 0 else "below plan"
    relation = state if state == "on plan" else f"{state}: likely {off:+.2f} nats"
    sentence = f"{relation}; {expected}, {_source(reference)} {format_loss(reference.loss)}"
    return {**facts, "state": state, "difference": off, "sentence": sentence}


def _source(reference: Reference) -> str:
    return "sealed" if reference.sealed else "law"


def _alarm_text(alarm: Alarm, at: int) -> str:
    since = f" since step {alarm.step}" if alarm.step < at else ""
    return f"{alarm.fault}{since}: {alarm.evidence}"


@dataclass(slots=True)
class ProgressForecast:
    """Forecast for a progress line: updated at most every few seconds, in at most 1 % of the run's time; never raises.

    Args:
        folder: folder of the run.
        steps: length of the rung in training.
        silent: no text; set in all processes of a run but the first.
    """

    folder: Path
    steps: int
    silent: bool = False
    _next: float = field(default_factory=lambda: time.monotonic() + MIN_INTERVAL)
    _text: str = ""

    def text(self) -> str:
        """Return e.g. `, ends at 3.3124 ± 0.0512, on plan`; an empty string while there is no forecast."""
        started = time.monotonic()
        if started >= self._next and not self.silent:
            try:
                self._text = short_status(watch(self.folder, steps=self.steps))
            except Exception:
                self._text = ""  # a failed forecast must not stop training
            ended = time.monotonic()
            self._next = ended + max(MIN_INTERVAL, (ended - started) / MAX_TIME_SHARE)
        return self._text


def short_status(assessment: Assessment) -> str:
    """Return the status in a few words, for the end of a progress line."""
    if assessment.alarm is not None:
        return f", {assessment.alarm.fault.upper()}"
    if assessment.forecast is None or assessment.interval_80 is None:
        return ""
    half = (assessment.interval_80[1] - assessment.interval_80[0]) / 2
    comparison = {"on plan": ", on plan", "above plan": f", {assessment.difference or 0:.2f} above plan",
              "below plan": f", {-(assessment.difference or 0):.2f} below plan"}.get(assessment.state, "")  # fmt: skip
    return f", ends at {format_loss(assessment.forecast)} ± {format_loss(half)}{comparison}"
