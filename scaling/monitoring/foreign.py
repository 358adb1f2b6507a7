"""Curve and schedule of a training that is not ours, from its trainer_state.json or TensorBoard events."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from families.units import BadInput, parse_count

from ..files import read_text
from ..runs.columns import folded, loss_name
from ..runs.configs import model_counts
from ..runs.events import read_scalars, read_text_entry
from ..runs.trackers import (
    EVENTS,
    STATE,
    counts_of,
    find_logs,
    held_out_keys,
    number_of,
    run_name_of,
    tokens_key_of,
    tokens_per_step,
)
from ..schedule import Kind
from ..stats import Array
from ..untrusted import parse_json
from .curves import EMPTY, LOG, Curve, PlannedRung, RunCurves, RunPlan

_RATES = ("lr", "learningrate")

_STEADY = 1e-3  # relative: learning rates closer than this to the largest are at the peak

_CLOSE = 0.01  # of the peak: how far logged learning rates may lie off a schedule that they follow

_FLOOR = 0.15  # of the peak: a cosine that ends there or lower is taken to end at 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InferredSchedule:
    """A learning-rate schedule as a log shows it.

    Args:
        kind: wsd or cosine.
        peak: largest learning rate.
        warmup: steps of warm-up.
        steps: all steps.
        cooldown: share of the steps over which wsd decays; 0 for a constant rate.
    """

    kind: Kind
    peak: float
    warmup: int
    steps: int
    cooldown: float


def is_foreign(path: Path) -> bool:
    """True for a trainer's file, or for a folder with such files and no underway.json of ours."""
    if path.is_file():
        return path.name == STATE or EVENTS in path.name
    return (
        path.is_dir()
        and not (path / "underway.json").exists()
        and (any(path.rglob(STATE)) or any(path.rglob(f"*{EVENTS}*")))
    )


def read_foreign(
    path: Path, *, steps: int | None = None, batch_tokens: float | None = None, tokens: str | None = None
) -> RunCurves:
    """Read the curve of a training that is not ours; where a folder has a state and events, whichever is further.

    Args:
        path: trainer_state.json, an event file, or a folder that holds those of one run.
        steps: its planned steps; default: max_steps of the state, else what its learning rate says.
        batch_tokens: tokens of a step; default: by its count of tokens or of FLOPs.
        tokens: its planned tokens, in place of `steps`.

    Raises:
        BadInput: several runs, a log without losses or learning rates, a schedule that is not understood, or an end or a
            number of tokens that nothing states; with the option that states it.
    """
    logs = [_read(files) for files in _logs(path)]
    log = max(logs, key=lambda log: max(log.entries, default=0))
    if not log.losses and not log.evals:
        raise BadInput(f"{log.file}: it has logged no loss yet")
    batch = batch_tokens or log.batch_tokens
    if not batch or batch < 1:
        raise BadInput(
            f"{log.file}: the tokens of a step are not known ({log.unknown}); --batch-tokens 65536 states them"
        )
    if tokens is not None:
        steps = max(1, round(parse_count(tokens, "tokens") / batch))
    schedule = infer_schedule(log.rates, steps or log.steps, str(log.file))
    last = max((*log.losses, *log.evals))
    if steps is None and log.steps is None and last < schedule.steps <= max(last + 1, last * (1 + _CLOSE)):
        schedule = replace(
            schedule, steps=round(last)
        )  # an end that was inferred is known to a step or a percent
    total = round(max(schedule.steps, last))
    plan = RunPlan(
        run=log.name,
        rungs=(PlannedRung(steps=total, folder=LOG, cooldown=schedule.cooldown),),
        batch_tokens=max(1, round(batch)),
        lr=schedule.peak,
        warmup=min(schedule.warmup, total),
        schedule=schedule.kind,
        params=round(log.sizes.get("params", 0)),
        params_non_embedding=round(log.sizes.get("params_non_embedding", 0)),
    )
    steps_of = np.array(sorted(log.losses), dtype=np.float64)
    evaluated = np.array(sorted(log.evals), dtype=np.float64)
    curve = Curve(
        step=steps_of,
        loss=np.array([log.losses[step] for step in steps_of]),
        norm=np.array([log.norms.get(step, math.nan) for step in steps_of]),
        eval_step=evaluated,
        eval_loss=np.array([log.evals[step] for step in evaluated]),
    )
    finals = {total: log.evals[total]} if last >= total and total in log.evals else {}
    return RunCurves(
        name=log.name, plan=plan, trunk=EMPTY, branches={total: curve}, finals=finals, whole_evals=True
    )


@dataclass(slots=True)
class _Log:
    """What a trainer logged, by step."""

    file: Path
    name: str
    entries: dict[float, dict[str, float]]
    losses: dict[float, float]
    evals: dict[float, float]
    rates: dict[float, float]
    norms: dict[float, float]
    sizes: Mapping[str, float]
    unknown: str  # why the tokens of a step are not known
    steps: int | None = None
    batch_tokens: float | None = None


def _logs(path: Path) -> list[list[Path]]:
    """The files of each log of the one run at a path."""
    if not path.is_dir():
        return [[path]]
    states, events = [], sorted(path.rglob(f"*{EVENTS}*"))
    if any(path.rglob(STATE)):
        states = [file for file in find_logs(path) if file.name == STATE]
    folders = sorted({file.parent for file in events})
    for kind, found in ((STATE, states), ("folder of events", folders)):
        if len(found) > 1:
            names = ", ".join(str(file.relative_to(path)) for file in found[:6])
            raise BadInput(f"{path} holds {len(found)} runs, each with a {kind}: watch one of {names}")
    return [[file] for file in states] + [
        [file for file in events if file.parent == folder] for folder in folders
    ]


def _read(files: list[Path]) -> _Log:
    file = files[-1]
    state: Mapping[str, Any] = {}
    entries: dict[float, dict[str, float]] = {}
    if file.name == STATE:
        state = _state(file)
        for entry in state["log_history"]:
            step = number_of(entry.get("step")) if isinstance(entry, dict) else None
            if step:
                numbers = {key: number_of(value) for key, value in entry.items()}
                entries.setdefault(step, {}).update({k: v for k, v in numbers.items() if v is not None})
    else:
        for events in files:
            for step, tag, value in read_scalars(events):
                if step and math.isfinite(value):
                    entries.setdefault(float(step), {})[tag] = value
    keys = sorted({key for entry in entries.values() for key in entry})
    held: dict[str, str] = {}
    try:
        held = held_out_keys(keys, {}, file)
    except BadInput:
        held = {}  # nothing is evaluated yet
    sizes = counts_of(file)
    if isinstance(sizes, str) and not state:
        sizes = _logged_counts(files) or sizes
    known = {} if isinstance(sizes, str) else sizes

    def series(key: str | None) -> dict[float, float]:
        return {step: entry[key] for step, entry in entries.items() if key is not None and key in entry}

    log = _Log(
        file=file,
        name=str(state.get("trial_name") or run_name_of(file)),
        entries=entries,
        losses=series(_training_loss(keys)),
        evals=series(next(iter(held), None)),
        rates=series(next((key for key in keys if _is_rate(key)), None)),
        norms=series(next((key for key in keys if folded(key).endswith("gradnorm")), None)),
        sizes=known,
        unknown="no count of tokens is logged" if known else f"no count of tokens is logged, and {sizes}",
        steps=round(number_of(state.get("max_steps")) or 0) or None,
    )
    seen = {step: value for step, value in series(tokens_key_of(keys, {}, file)).items() if value > 0}
    if seen:
        step = max(seen)
        log.batch_tokens = seen[step] / step
    elif known and state:
        log.batch_tokens = tokens_per_step(state, known)
    return log


def _logged_counts(files: list[Path]) -> dict[str, float]:
    """The counts of the configuration that the Trainer logs with its scalars; none without one that is understood."""
    for events in files:
        text = read_text_entry(events, "model_config")
        if text is not None:
            with suppress(ValueError, BadInput):
                return model_counts(parse_json(text))
    return {}


def _state(file: Path) -> Mapping[str, Any]:
    try:
        state = parse_json(read_text(file))
    except json.JSONDecodeError as error:
        raise BadInput(f"{file} is not JSON: {error.msg} at line {error.lineno}") from error
    if not isinstance(state, dict) or not isinstance(state.get("log_history"), list):
        raise BadInput(f"{file} has no log_history; it is not a trainer_state.json")
    return state


def _training_loss(keys: list[str]) -> str | None:
    """The key of the training loss: the one that says so, else a plain "loss"."""
    named = []
    for key in keys:
        loss = loss_name(key)
        if (
            loss is not None
            and loss.unit == "nats"
            and not loss.per
            and not loss.held_out
            and " vs " not in key
        ):
            named.append(
                (folded(key) == "trainloss" and "train" in key and "/" not in key, not loss.training, key)
            )
    return min(named)[2] if named else None


def _is_rate(key: str) -> bool:
    last = key.replace("\\", "/").split("/")[-1]
    return folded(last) in _RATES or last.lower().startswith("lr-")


def infer_schedule(
    rates: Mapping[float, float], steps: int | None, where: str = "the log"
) -> InferredSchedule:
    """Find the schedule that logged learning rates follow: a linear warm-up, then constant, linear, cosine or a cooldown.

    Args:
        rates: learning rates by step.
        steps: all steps, where they are known.
        where: stands in messages.

    Raises:
        BadInput: no learning rates, none of these schedules, or an end that neither they nor `steps` say.
    """
    if not rates or max(rates.values()) <= 0:
        raise BadInput(f"{where}: no learning rate is logged, and the forecast follows the schedule")
    step = np.array(sorted(rates))
    rate = np.array([rates[at] for at in step])
    peak = float(rate.max())
    top = int(np.argmax(rate >= peak * (1 - _STEADY)))
    rising = [at for at in range(top) if 0 < rate[at] < rate[top]]
    warmup = 0.0
    if rising:
        warmup = min(float(step[top]), float(step[rising[-1]] * peak / rate[rising[-1]]))
    after, fall = step[top:], rate[top:] / peak
    if np.all(fall >= 1 - _STEADY):
        if steps is None:
            raise BadInput(
                f"{where}: the learning rate is constant so far, so it does not say how long the training is; --steps says"
            )
        return InferredSchedule(kind="wsd", peak=peak, warmup=round(warmup), steps=steps, cooldown=0.0)
    candidates = [_cosine(after, fall, warmup, steps), _cooldown(after, fall, steps)]
    error, found = min(candidates, key=lambda pair: pair[0])
    if error > _CLOSE or found is None:
        raise BadInput(
            f"{where}: the learning rate falls neither linearly nor as a cosine to at most {_FLOOR:.0%} of its peak (off by "
            f"{error:.0%} of it); such schedules are not forecast"
        )
    kind, total, cooldown = found
    return InferredSchedule(
        kind=kind, peak=peak, warmup=round(warmup), steps=max(1, round(total)), cooldown=cooldown
    )


_Found = tuple[
    float, tuple[Kind, float, float] | None
]  # error in units of the peak; kind, all steps, cooldown

_NONE: _Found = (math.inf, None)


def _cosine(step: Array, fall: Array, warmup: float, steps: int | None) -> _Found:
    """A cosine after the warm-up, to 0 or to a floor of at most _FLOOR; its end by the phase where it is not known."""
    if steps is None:
        phase = np.arccos(np.clip(2 * fall - 1, -1, 1))
        past = step - warmup
        used = (fall < 1 - _STEADY) & (fall > _STEADY)
        if used.sum() < 2:
            return _NONE
        slope = float((past[used] @ phase[used]) / (past[used] @ past[used]))
        total = warmup + math.pi / slope
        floor = 0.0
    else:
        total = float(steps)
        wave = (1 + np.cos(math.pi * np.clip((step - warmup) / max(1.0, total - warmup), 0, 1))) / 2
        rest = 1 - wave
        floor = float(np.clip((rest @ (fall - wave)) / (rest @ rest), 0, _FLOOR)) if rest @ rest else 0.0
    wave = (1 + np.cos(math.pi * np.clip((step - warmup) / max(1.0, total - warmup), 0, 1))) / 2
    return float(np.max(np.abs(floor + (1 - floor) * wave - fall))), ("cosine", total, 0.0)


def _cooldown(step: Array, fall: Array, steps: int | None) -> _Found:
    """Constant, then a straight line to 0: its slope and end by least squares over the falling part."""
    falling = fall < 1 - _STEADY
    x, y = step[falling], fall[falling]
    if len(x) < 2 and steps is None:
        return _NONE
    if steps is not None:
        left = steps - x
        slope = float((left @ y) / (left @ left)) if left @ left else 0.0
        total = float(steps)
    else:
        middle = x - x.mean()
        slope = -float((middle @ y) / (middle @ middle)) if middle @ middle else 0.0
        total = float(x.mean() + y.mean() / slope) if slope > 0 else 0.0
    if slope <= 0:
        return _NONE
    begins = max(0.0, total - 1 / slope)
    line = np.clip((total - step) * slope, 0, 1)
    return float(np.max(np.abs(line - fall))), ("wsd", total, float(min(1.0, (total - begins) / total)))
