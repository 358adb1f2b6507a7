"""A run in progress in one line: where it will end, how that compares with what was promised, and whether it is ill."""

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
from ..fitting.lawfile import LawFile
from ..laws import n_params
from ..paths import StudyPaths
from ..planning.planfile import PlanFile, SealedPrediction, open_seal, sealed_predictions
from ..stats import Z_80, Z_95, Interval
from .alarms import Alarm, first_alarm
from .curves import RunCurves, read_run, read_siblings
from .forecast import Forecast, forecast_final_loss

State = Literal[
    "waiting", "no plan", "on plan", "above plan", "below plan",
    "diverging", "not learning", "repeating data", "finished",
]  # fmt: skip

EVERY_SECONDS = 5.0  # between forecasts in a progress line, at least

SHARE_OF_TIME = 0.01  # of a run's time that its own progress line may spend on forecasts

TARGETS = {
    "held-out": "held-out loss",
    "glance": "loss on the few held-out windows looked at on the way",
    "training": "training loss",
}


class Reference(Record):
    """What was expected of a rung before it was trained; `sealed` where it was promised, else what law.json says."""

    loss: float
    interval_80: Interval | None
    sealed: bool

    @property
    def sd(self) -> float:
        """Standard deviation, from the 80 % interval; 0 where there is none."""
        return (self.interval_80[1] - self.interval_80[0]) / (2 * Z_80) if self.interval_80 else 0.0


class AlarmRecord(Record):
    """A fault, the step it was seen at, and the evidence."""

    fault: str
    step: int
    evidence: str


class Assessment(Record):
    """How a rung stands. Losses in nats per token; `target` says what the forecast is of, None where there is none."""

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
    difference: float | None = None  # forecast (or final) less promise
    alarm: AlarmRecord | None = None


def find_run(run: str, study: Path) -> Path:
    """A run's folder, given as a folder or as the name of a run of a study.

    Raises:
        BadInput: there is no such run.
    """
    for folder in (Path(run), StudyPaths(study).run_folder(run)):
        if (folder / "underway.json").exists():
            return folder
    names = [path.parent.name for path in (study / "runs").glob("*/underway.json")]
    close = difflib.get_close_matches(run, names, n=1)
    hint = (
        f"; did you mean {close[0]}?"
        if close
        else f"; {study} has {', '.join(sorted(names)[:8]) or 'no runs'}"
    )
    raise BadInput(f"run is {run!r}, which is neither a run's folder nor a run of {study}{hint}")


def reference_prediction(study: StudyPaths, run: RunCurves, steps: int) -> Reference | None:
    """What the study's sealed plan, else its law, says of a rung; None where neither says anything.

    Raises:
        BadInput: the seal is broken.
    """
    tokens = steps * run.underway.batch_tokens
    if study.plan.exists():
        sealed: tuple[SealedPrediction, ...] = ()
        if PlanFile.read(study.plan).seal is not None:  # pilot ladders promise nothing, and need no seal
            plan = open_seal(study.plan)
            with suppress(BadInput):  # a sealed plan of ladders alone
                sealed = sealed_predictions(plan)
        for one in sealed:
            if one.params == run.underway.params and abs(one.tokens / tokens - 1) < 1e-3:
                return Reference(loss=one.loss, interval_80=one.interval_80, sealed=True)
    if study.law.exists():
        law = LawFile.read(study.law)
        same_text = not law.group or law.group == run.underway.group
        size = n_params(run.underway, law.convention)
        if same_text:
            try:
                found = law.predictor().predict(size, tokens, convention=law.convention)
            except BadInput:  # out of the law's reach: it promises nothing
                return None
            return Reference(loss=found.loss, interval_80=found.interval_80, sealed=False)
    return None


def watch(folder: Path, *, steps: int | None = None) -> Assessment:
    """How a run stands, from its files as they are now.

    Args:
        steps: the rung; default: the one in hand, or the longest of a finished run.

    Raises:
        BadInput: no run there, or no such rung.
    """
    run = read_run(folder)
    rung = steps or run.ahead or max(run.underway.steps)
    if rung not in run.underway.steps:
        known = ", ".join(f"{one * run.underway.batch_tokens}" for one in run.underway.steps)
        raise BadInput(f"{run.name} has no rung of {rung * run.underway.batch_tokens} tokens; it has {known}")
    promise = reference_prediction(study_of(folder), run, rung)
    return assess(run, read_siblings(folder.parent, run), rung, promise)


def study_of(folder: Path) -> StudyPaths:
    """The study that a run's folder belongs to: two above, or the folder itself for a run with a folder of its own."""
    own = folder.resolve()
    return StudyPaths(own.parents[1] if own.parent.name == "runs" else own)


def assess(
    run: RunCurves, siblings: Sequence[RunCurves], steps: int, promise: Reference | None
) -> Assessment:
    """The verdict on a rung: finished, else ill, else where it is going against what was promised."""
    curve = run.rung(steps)
    now = float(curve.loss[-3:].mean()) if len(curve.loss) else None
    at = int(curve.step[-1]) if len(curve.step) else 0
    batch = run.underway.batch_tokens
    base = Assessment(
        run=run.name, state="waiting", sentence="", step=at, steps=steps, tokens=at * batch, tokens_planned=steps * batch,
        loss_now=now, promise=promise,
    )  # fmt: skip
    if steps in run.finals:
        return _finished(base, run.finals[steps], promise)
    alarm = first_alarm(run, siblings, steps)
    seen: Forecast | None
    try:
        seen = forecast_final_loss(run, siblings, steps=steps)
    except BadInput as error:
        seen, why = None, str(error)
    changes = {} if seen is None else _forecast(seen, promise)
    if alarm is not None:
        record = AlarmRecord(fault=alarm.fault, step=alarm.step, evidence=alarm.evidence)
        return base.model_copy(
            update={**changes, "state": alarm.fault, "alarm": record, "sentence": _alarm_text(alarm, at)}
        )
    if seen is None:
        return base.model_copy(update={"sentence": f"waiting: {why}"})
    return base.model_copy(update=changes)


def _finished(base: Assessment, final: float, promise: Reference | None) -> Assessment:
    if promise is None:
        return base.model_copy(update={"state": "finished", "sentence": f"finished at {final:.3f}"})
    low, high = promise.interval_80 or (math.nan, math.nan)
    inside = "inside" if low <= final <= high else "outside"
    held = f", {inside} its 80 % interval" if promise.interval_80 else ""
    return base.model_copy(
        update={
            "state": "finished",
            "sentence": f"finished at {final:.3f}; {_source(promise)} {promise.loss:.3f}{held}",
            "difference": final - promise.loss,
        }
    )


def _forecast(seen: Forecast, promise: Reference | None) -> dict[str, object]:
    """The forecast's part of a verdict."""
    facts: dict[str, object] = {
        "forecast": seen.loss,
        "interval_80": seen.interval(Z_80),
        "interval_95": seen.interval(Z_95),
        "target": seen.target,
        "siblings": seen.siblings,
    }
    going = f"ends at {seen.loss:.3f} ± {Z_80 * seen.sd:.3f}"
    if promise is None:
        return {**facts, "state": "no plan", "sentence": f"{going}; nothing was planned for it"}
    if seen.target != "held-out":
        why = f"that is its {TARGETS[seen.target]}, which does not compare with {_source(promise)} {promise.loss:.3f}"
        return {**facts, "state": "no plan", "sentence": f"{going}; {why} until a sibling is finished"}
    off = seen.loss - promise.loss
    doubt = Z_80 * math.hypot(seen.sd, promise.sd)
    state: State = "on plan" if abs(off) <= doubt else "above plan" if off > 0 else "below plan"
    verdict = state if state == "on plan" else f"{state}: likely {off:+.2f} nats"
    sentence = f"{verdict}; {going}, {_source(promise)} {promise.loss:.3f}"
    return {**facts, "state": state, "difference": off, "sentence": sentence}


def _source(promise: Reference) -> str:
    return "sealed" if promise.sealed else "the law says"


def _alarm_text(alarm: Alarm, at: int) -> str:
    since = f" since step {alarm.step}" if alarm.step < at else ""
    return f"{alarm.fault}{since}: {alarm.evidence}"


@dataclass(slots=True)
class ProgressForecast:
    """The verdict for a progress line: made afresh at most every few seconds and in a hundredth of the time, never raising."""

    folder: Path
    steps: int
    silent: bool = False  # in all processes of a run but the first
    _next: float = field(default_factory=lambda: time.monotonic() + EVERY_SECONDS)
    _said: str = ""

    def words(self) -> str:
        """`, ends at 3.31 ± 0.05, on plan`, or nothing while there is nothing to say."""
        began = time.monotonic()
        if began >= self._next and not self.silent:
            try:
                self._said = short_status(watch(self.folder, steps=self.steps))
            except Exception:
                self._said = ""  # a forecast is no reason to stop training
            ended = time.monotonic()
            self._next = ended + max(EVERY_SECONDS, (ended - began) / SHARE_OF_TIME)
        return self._said


def short_status(verdict: Assessment) -> str:
    """A verdict in a few words, for the end of a line."""
    if verdict.alarm is not None:
        return f", {verdict.alarm.fault.upper()}"
    if verdict.forecast is None or verdict.interval_80 is None:
        return ""
    half = (verdict.interval_80[1] - verdict.interval_80[0]) / 2
    stands = {"on plan": ", on plan", "above plan": f", {verdict.difference or 0:.2f} above plan",
              "below plan": f", {-(verdict.difference or 0):.2f} below plan"}.get(verdict.state, "")  # fmt: skip
    return f", ends at {verdict.forecast:.2f} ± {half:.2f}{stands}"
