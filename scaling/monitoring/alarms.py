"""Early alarms: a run compared with its finished siblings after equal tokens, and with its own earlier curve."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..stats import format_loss
from . import constants as const
from .curves import Curve, RunCurves, loss_scale, reference_progress, robust_std
from .siblings import SiblingPrior, observations, prior_from_siblings
from .trajectory import SHIFT, fit_trajectory

Fault = Literal["diverging", "not learning", "repeating data"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A fault, the step at which it was detected, and the evidence in one clause."""

    fault: Fault
    step: int
    evidence: str


def first_alarm(run: RunCurves, siblings: Sequence[RunCurves], steps: int, since: int = 0) -> Alarm | None:
    """Return the first alarm on a rung's curve; None if there is none.

    Args:
        run: the run.
        siblings: comparable runs that have finished a rung.
        steps: length of the rung.
        since: step after which the curve is checked; default: all of it.
    """
    curve = run.rung(steps)
    if not len(curve.step):
        return None
    sibling_prior = prior_from_siblings(
        run, siblings, steps, reference_progress(run, steps), loss_scale(curve)
    )
    others = [sibling_curve(run, sibling, steps) for sibling in nearest_siblings(run, siblings)]
    ends = curve.step[curve.step > since]
    if len(ends) > const.MAX_CHECKS:
        ends = ends[np.linspace(0, len(ends) - 1, const.MAX_CHECKS).round().astype(int)]
    for end in ends:
        alarm = check_curve(run, steps, curve.until(float(end)), sibling_prior, others)
        if alarm is not None:
            return alarm
    return None


def check_curve(
    run: RunCurves, steps: int, curve: Curve, sibling_prior: SiblingPrior, others: Sequence[tuple[int, Curve]]
) -> Alarm | None:
    """Return an alarm if the last lines of a curve show a fault.

    Args:
        run: the run.
        steps: length of the rung.
        curve: its curve up to the step that is checked.
        sibling_prior: prior and residuals from the siblings.
        others: parameters and curve of the nearest siblings, by the run's own steps.
    """
    if len(curve.step) < const.RECENT_LINES + 1:
        return None
    alarm = (
        _train_eval_gap(curve, sibling_prior)
        or _off_siblings(run, curve, others)
        or _off_own_curve(run, steps, curve, sibling_prior)
    )
    if alarm is not None or not run.plan.fresh:  # from trained weights the loss need not fall
        return alarm
    return _sluggish(run, steps, curve, others) if others else _plateau(run, steps, curve)


def nearest_siblings(run: RunCurves, siblings: Sequence[RunCurves], most: int = 3) -> list[RunCurves]:
    """Return at most `most` siblings, nearest in parameters first."""
    if not siblings:
        return []
    size = math.log(run.plan.params)
    return sorted(siblings, key=lambda sibling: abs(math.log(sibling.plan.params) - size))[:most]


def sibling_curve(run: RunCurves, sibling: RunCurves, steps: int) -> tuple[int, Curve]:
    """Return a sibling's parameters, and the curve of its rung nearest in length, by the run's steps (equal tokens)."""
    length = min(sibling.finals, key=lambda length: abs(math.log(length / steps)))
    curve = sibling.rung(length)
    ratio = sibling.plan.batch_tokens / run.plan.batch_tokens
    return sibling.plan.params, replace(curve, step=curve.step * ratio, eval_step=curve.eval_step * ratio)


def _recent(curve: Curve) -> tuple[float, float, float]:
    """Return mean step and loss of the last lines, and the last step."""
    return (
        float(curve.midpoints[-const.RECENT_LINES :].mean()),
        float(curve.loss[-const.RECENT_LINES :].mean()),
        float(curve.step[-1]),
    )


def _off_siblings(run: RunCurves, curve: Curve, others: Sequence[tuple[int, Curve]]) -> Alarm | None:
    """Compare with siblings at the same step: above the highest or below the lowest of them."""
    _, mine, last = _recent(curve)
    if not others or last < 2 * run.plan.warmup:
        return None
    first = float(curve.step[-const.RECENT_LINES - 1])
    theirs, sizes = [], []
    for size, other in others:
        inside = (other.step > first) & (other.step <= last)
        if inside.any() and other.step[-1] >= last:
            theirs.append(float(other.loss[inside].mean()))
            sizes.append(size)
    if not theirs:
        return None
    noise = const.NOISE_SIGMAS * robust_std(curve.loss) / math.sqrt(const.RECENT_LINES)
    largest = run.plan.params >= max(sizes)
    above, below = mine - max(theirs), min(theirs) - mine
    fall = _fall(curve)
    steep = (
        last <= const.EARLY[1] * max(run.plan.steps) and fall is not None and fall[0] > const.LEARNING_FALL
    )
    if above > max(noise, (const.BEHIND if largest and not steep else const.AHEAD) * mine):
        return _deviation_alarm("diverging", last, mine, above, "its siblings at the same step")
    ahead = const.AHEAD_STEEP if steep else const.AHEAD
    ahead += const.AHEAD_BY_SIZE * max(0.0, math.log(run.plan.params / max(sizes) / 2))
    if below > max(noise, ahead * mine):
        return _deviation_alarm("repeating data", last, mine, -below, "its siblings at the same step")
    return None


def _off_own_curve(run: RunCurves, steps: int, curve: Curve, sibling_prior: SiblingPrior) -> Alarm | None:
    """Compare the last lines with the extrapolation of the run's own earlier curve under its schedule."""
    earlier = curve.until(float(curve.step[-const.RECENT_LINES - 1]))
    points = observations(run, steps, earlier, sibling_prior)
    if points is None or earlier.step[-1] < 0.1 * steps:
        return None
    trajectory = fit_trajectory((points,), sibling_prior.prior, reference_progress(run, steps))
    middle = curve.midpoints[-const.RECENT_LINES :]
    has_evals = bool(len(earlier.eval_step))
    mean, sd = trajectory.at(points.profile, middle, train=has_evals)
    residuals = np.array(
        [
            sibling_prior.line_residuals.get(float(step), math.nan)
            for step in curve.step[-const.RECENT_LINES :]
        ]
    )
    off = curve.loss[-const.RECENT_LINES :] - mean - np.nan_to_num(residuals)
    noise = (
        robust_std(earlier.loss)
        if np.isnan(residuals).any()
        else float(np.median(points.noise[points.train > 0] if has_evals else points.noise))
    )
    single = np.hypot(noise, sd)
    if not (np.all(off > 2 * single) or np.all(off < -2 * single)):
        return None
    mean_off, expected = float(off.mean()), float(mean.mean())
    jump = (const.JUMP if sibling_prior.fits else const.JUMP_ALONE) * expected
    if abs(mean_off) < max(
        const.JUMP_SIGMAS * math.hypot(noise / math.sqrt(const.RECENT_LINES), float(sd.mean())), jump
    ):
        return None
    fault: Fault = "diverging" if mean_off > 0 else "repeating data"
    return _deviation_alarm(
        fault,
        float(curve.step[-1]),
        float(curve.loss[-const.RECENT_LINES :].mean()),
        mean_off,
        "its own earlier curve",
    )


def _train_eval_gap(curve: Curve, sibling_prior: SiblingPrior) -> Alarm | None:
    """Compare training with held-out loss: far below it, the text has been read before."""
    if not len(curve.eval_step):
        return None
    last_eval = float(curve.eval_step[-1])
    near = np.abs(curve.step - last_eval) <= np.diff(curve.step[-2:])[0] * 1.5
    training = float(curve.loss[near].mean()) if near.any() else math.nan
    held = float(curve.eval_loss[-1])
    usual = min(0.0, sibling_prior.prior.mean[SHIFT]) if sibling_prior.fits else 0.0
    if not math.isfinite(training) or training - held > usual - const.TRAIN_EVAL_GAP * held:
        return None
    if (
        curve.loss[-1] > (1 + const.JUMP) * curve.loss[-const.RECENT_LINES - 1 : -1].min()
    ):  # both rise: it diverges
        return None
    return Alarm(
        fault="repeating data",
        step=int(curve.step[-1]),
        evidence=f"training loss {format_loss(training)}, but {format_loss(held)} on held-out text",
    )


def _fall(curve: Curve) -> tuple[float, float] | None:
    """Return the relative fall of the loss per e-fold of steps over the second half of the steps, and the mean loss there."""
    if not len(curve.step):
        return None
    half = curve.midpoints > curve.step[-1] / 2
    if half.sum() < 3:
        return None
    level = float(curve.loss[half].mean())
    return -float(np.polyfit(np.log(curve.midpoints[half]), curve.loss[half], 1)[0]) / level, level


def _sluggish(run: RunCurves, steps: int, curve: Curve, others: Sequence[tuple[int, Curve]]) -> Alarm | None:
    """Detect, early in a run, that siblings learn at the same step and this run does not."""
    last = float(curve.step[-1])
    size, sibling = others[0]
    theirs = sibling.until(last)
    mine, other = _fall(curve), _fall(theirs)
    if not (2 * run.plan.warmup <= last <= const.EARLY[1] * steps) or mine is None or other is None:
        return None
    here, there = (
        float(curve.loss[-const.RECENT_LINES :].mean()),
        float(theirs.loss[-const.RECENT_LINES :].mean()),
    )
    norm = float(curve.norm[-const.RECENT_LINES :].mean() / theirs.norm[-const.RECENT_LINES :].mean())
    lag = here / there - 1 if size <= run.plan.params else 0.0
    slower = mine[0] / other[0] if other[0] > 0 else 1.0
    learning = lag > const.LAG and (slower <= const.FALL_RATIO or norm < const.NORM_RATIO)
    on_plateau = (lag > const.LAG_PLATEAU and norm < const.NORM_RATIO_PLATEAU) or (
        lag > const.LAG_FAR and slower < const.FALL_RATIO_FAR
    )
    faulty = (other[0] > const.LEARNING_SIBLING and learning) or (
        other[0] < const.PLATEAU_SIBLING and on_plateau
    )
    if mine[0] > const.LEARNING_FALL or not faulty:
        return None
    return Alarm(
        fault="not learning",
        step=int(last),
        evidence=f"training loss {format_loss(here)}, {here - there:.2f} above a smaller sibling that falls "
        f"{'faster' if mine[0] < other[0] else 'as fast'}; gradient norm {norm:.2f} times the sibling's",
    )


def _plateau(run: RunCurves, steps: int, curve: Curve) -> Alarm | None:
    """Detect, early in a run without siblings, that the loss hardly falls."""
    last = float(curve.step[-1])
    fall = _fall(curve)
    if (
        not (const.EARLY[0] * steps <= last <= const.EARLY[1] * steps)
        or last < 2 * run.plan.warmup
        or fall is None
    ):
        return None
    share, level = fall
    if share > const.PLATEAU_FALL or level < const.PLATEAU_LEVEL * curve.loss[0]:
        return None
    fell = max(0.0, share * level * math.log(2))
    return Alarm(
        fault="not learning",
        step=int(last),
        evidence=f"training loss stays near {format_loss(level)}; it fell by {fell:.2f} while the steps doubled",
    )


def _deviation_alarm(fault: Fault, step: float, loss: float, off: float, reference: str) -> Alarm:
    side = "above" if off > 0 else "below"
    return Alarm(
        fault=fault,
        step=int(step),
        evidence=f"training loss {format_loss(loss)}, {abs(off):.2f} {side} {reference}",
    )
