"""Faults seen early: a run held against its finished siblings at the same step, and against its own earlier curve."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from .curves import Curve, RunCurves, reference_of, robust_std, scale_of
from .siblings import SiblingPrior, observe, prior_from_siblings
from .trajectory import SHIFT, learn

Fault = Literal["diverging", "not learning", "repeating data"]


# Chosen on studies code-a to docs-f of benchmarks/forecast.py, but for two rules that say so. Shares are of the loss.
_RECENT = 3  # lines whose mean is looked at

_SIGMAS = 4.0

# How far a healthy run may lie above or below all its siblings at the same step, beyond noise. A larger model is ahead of
# smaller ones, by up to 6 % while the loss falls steeply, and was never more than 1.3 % behind.
_BEHIND, _AHEAD, _AHEAD_STEEP = 0.045, 0.12, 0.2

# The least departure from its own earlier curve that counts, beside siblings and without.
_JUMP, _JUMP_ALONE = 0.035, 0.07

_JUMP_SIGMAS = 5.0

_GAP = 0.12  # that training loss may fall below held-out loss, beyond what siblings show

# Sluggish beside siblings that have begun to learn: behind them, and falling less than half as fast or with a gradient
# norm well under theirs. Healthy runs fell at least 0.74 times as fast, with 0.99 of the norm; this rule was added after
# docs-b, where text that took 70 steps to learn from looked like a plateau of its own.
_LAG, _FALLS, _NORM, _BEGUN = 0.01, 0.5, 0.75, 0.04

# Before they have well begun to: behind with half the gradient norm, or further behind and falling more slowly. Added after
# docs-f, where a tenth of the budget was over before any of its runs had left the plateau; held to that time after docs-m,
# whose four layers began later than three and fell 0.6 times as fast for a while.
_LAG_ASLEEP, _NORM_ASLEEP, _LAG_FAR, _FALLS_FAR, _WELL_BEGUN = 0.004, 0.6, 0.017, 0.7, 0.1

# What falls by this share per e-fold of steps learns, however far behind. Added after code-k, where three layers began 4 %
# behind two, fell by 0.106, and caught up; of runs that read shuffled labels code-w's still fell by 0.086 at a tenth.
# Early on such a run may also lie as far above its siblings as a larger one lies below them, or further below one that has
# not begun: code-t's three layers were 12 % ahead of two.
_LEARNS = 0.09

# A plateau, where there are no siblings: early, near the first line's loss, falling by less than this share per e-fold of
# steps. Healthy runs fell by 0.022 or more by then (docs-p: docstrings take 90 steps to begin with).
_PLATEAU, _NEAR_START, _EARLY = 0.02, 0.6, (0.08, 0.2)

MOST_LOOKS = 80  # at a run's past


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """What is wrong, the step it was seen at, and the evidence in one clause."""

    fault: Fault
    step: int
    evidence: str


def first_alarm(run: RunCurves, siblings: Sequence[RunCurves], steps: int, since: int = 0) -> Alarm | None:
    """The first line of a rung's curve, after step `since`, at which a fault showed."""
    curve = run.rung(steps)
    if not len(curve.step):
        return None
    school = prior_from_siblings(run, siblings, steps, reference_of(run, steps), scale_of(curve))
    others = [expected_at_same_place(run, one, steps) for one in nearest(run, siblings)]
    ends = curve.step[curve.step > since]
    if len(ends) > MOST_LOOKS:
        ends = ends[np.linspace(0, len(ends) - 1, MOST_LOOKS).round().astype(int)]
    for end in ends:
        found = alarm(run, steps, curve.until(float(end)), school, others)
        if found is not None:
            return found
    return None


def alarm(
    run: RunCurves, steps: int, curve: Curve, school: SiblingPrior, others: Sequence[tuple[int, Curve]]
) -> Alarm | None:
    """Whether the last lines of a curve show a fault."""
    if len(curve.step) < _RECENT + 1:
        return None
    found = _gap(curve, school) or _beside(run, curve, others) or _before(run, steps, curve, school)
    if found is not None or not run.underway.fresh:  # what begins from trained weights need not fall
        return found
    return _sluggish(run, steps, curve, others) if others else _plateau(run, steps, curve)


def nearest(run: RunCurves, siblings: Sequence[RunCurves], most: int = 3) -> list[RunCurves]:
    """The siblings nearest in size."""
    size = math.log(run.underway.params)
    return sorted(siblings, key=lambda one: abs(math.log(one.underway.params) - size))[:most]


def expected_at_same_place(run: RunCurves, sibling: RunCurves, steps: int) -> tuple[int, Curve]:
    """A sibling's parameters, and its curve by the run's own steps (equal tokens), from the rung nearest in length."""
    length = min(sibling.finals, key=lambda one: abs(math.log(one / steps)))
    curve = sibling.rung(length)
    ratio = sibling.underway.batch_tokens / run.underway.batch_tokens
    return sibling.underway.params, replace(curve, step=curve.step * ratio, eval_step=curve.eval_step * ratio)


def _recent(curve: Curve) -> tuple[float, float, float]:
    """Mean step and loss of the last lines, and the last step."""
    return float(curve.middle[-_RECENT:].mean()), float(curve.loss[-_RECENT:].mean()), float(curve.step[-1])


def _beside(run: RunCurves, curve: Curve, others: Sequence[tuple[int, Curve]]) -> Alarm | None:
    """Against siblings at the same step: above the highest of them, or below the lowest."""
    _, mine, last = _recent(curve)
    if not others or last < 2 * run.underway.warmup:
        return None
    first = float(curve.step[-_RECENT - 1])
    theirs, sizes = [], []
    for size, other in others:
        inside = (other.step > first) & (other.step <= last)
        if inside.any() and other.step[-1] >= last:
            theirs.append(float(other.loss[inside].mean()))
            sizes.append(size)
    if not theirs:
        return None
    noise = _SIGMAS * robust_std(curve.loss) / math.sqrt(_RECENT)
    largest = run.underway.params >= max(sizes)
    above, below = mine - max(theirs), min(theirs) - mine
    fall = _fall(curve)
    steep = last <= _EARLY[1] * max(run.underway.steps) and fall is not None and fall[0] > _LEARNS
    if above > max(noise, (_BEHIND if largest and not steep else _AHEAD) * mine):
        return _said("diverging", last, mine, above, "its siblings at the same step")
    if below > max(noise, (_AHEAD_STEEP if steep else _AHEAD) * mine):
        return _said("repeating data", last, mine, -below, "its siblings at the same step")
    return None


def _before(run: RunCurves, steps: int, curve: Curve, school: SiblingPrior) -> Alarm | None:
    """Against what its own earlier curve, under the schedule, led one to expect of the last lines."""
    earlier = curve.until(float(curve.step[-_RECENT - 1]))
    points = observe(run, steps, earlier, school)
    if points is None or earlier.step[-1] < 0.1 * steps:
        return None
    trajectory = learn((points,), school.prior, reference_of(run, steps))
    middle = curve.middle[-_RECENT:]
    looked = bool(len(earlier.eval_step))
    mean, sd = trajectory.at(points.profile, middle, train=looked)
    harder = np.array([school.lines.get(float(step), math.nan) for step in curve.step[-_RECENT:]])
    off = curve.loss[-_RECENT:] - mean - np.nan_to_num(harder)
    noise = (
        robust_std(earlier.loss)
        if np.isnan(harder).any()
        else float(np.median(points.noise[points.train > 0] if looked else points.noise))
    )
    single = np.hypot(noise, sd)
    if not (np.all(off > 2 * single) or np.all(off < -2 * single)):
        return None
    mean_off, expected = float(off.mean()), float(mean.mean())
    jump = (_JUMP if school.lessons else _JUMP_ALONE) * expected
    if abs(mean_off) < max(_JUMP_SIGMAS * math.hypot(noise / math.sqrt(_RECENT), float(sd.mean())), jump):
        return None
    fault: Fault = "diverging" if mean_off > 0 else "repeating data"
    return _said(
        fault, float(curve.step[-1]), float(curve.loss[-_RECENT:].mean()), mean_off, "its own earlier curve"
    )


def _gap(curve: Curve, school: SiblingPrior) -> Alarm | None:
    """Training loss far below the loss on held-out text: what is read has been read before."""
    if not len(curve.eval_step):
        return None
    look = float(curve.eval_step[-1])
    near = np.abs(curve.step - look) <= np.diff(curve.step[-2:])[0] * 1.5
    training = float(curve.loss[near].mean()) if near.any() else math.nan
    held = float(curve.eval_loss[-1])
    usual = min(0.0, school.prior.mean[SHIFT]) if school.lessons else 0.0
    if not math.isfinite(training) or training - held > usual - _GAP * held:
        return None
    if curve.loss[-1] > (1 + _JUMP) * curve.loss[-_RECENT - 1 : -1].min():  # both rise: it diverges
        return None
    return Alarm(
        fault="repeating data",
        step=int(curve.step[-1]),
        evidence=f"training loss {training:.2f}, but {held:.2f} on held-out text",
    )


def _fall(curve: Curve) -> tuple[float, float] | None:
    """Fall of the loss per e-fold of steps over the later half of the steps, as a share of the loss, and that loss."""
    if not len(curve.step):
        return None
    half = curve.middle > curve.step[-1] / 2
    if half.sum() < 3:
        return None
    level = float(curve.loss[half].mean())
    return -float(np.polyfit(np.log(curve.middle[half]), curve.loss[half], 1)[0]) / level, level


def _sluggish(run: RunCurves, steps: int, curve: Curve, others: Sequence[tuple[int, Curve]]) -> Alarm | None:
    """Early: siblings have begun to learn at the same step, and this run has not."""
    last = float(curve.step[-1])
    size, nearest_one = others[0]
    theirs = nearest_one.until(last)
    mine, other = _fall(curve), _fall(theirs)
    if not (2 * run.underway.warmup <= last <= _EARLY[1] * steps) or mine is None or other is None:
        return None
    here, there = float(curve.loss[-_RECENT:].mean()), float(theirs.loss[-_RECENT:].mean())
    norm = float(curve.norm[-_RECENT:].mean() / theirs.norm[-_RECENT:].mean())
    lag = here / there - 1 if size <= run.underway.params else 0.0
    slower = mine[0] / other[0] if other[0] > 0 else 1.0
    awake = lag > _LAG and (slower <= _FALLS or norm < _NORM)
    asleep = (lag > _LAG_ASLEEP and norm < _NORM_ASLEEP) or (lag > _LAG_FAR and slower < _FALLS_FAR)
    ill = (other[0] > _BEGUN and awake) or (other[0] < _WELL_BEGUN and asleep)
    if mine[0] > _LEARNS or not ill:
        return None
    return Alarm(
        fault="not learning",
        step=int(last),
        evidence=f"training loss {here:.2f}, {here - there:.2f} above a smaller sibling that falls "
        f"{'faster' if mine[0] < other[0] else 'as fast'}; gradient norm {norm:.2f} of its",
    )


def _plateau(run: RunCurves, steps: int, curve: Curve) -> Alarm | None:
    """Early, and the loss hardly falls."""
    last = float(curve.step[-1])
    fall = _fall(curve)
    if not (_EARLY[0] * steps <= last <= _EARLY[1] * steps) or last < 2 * run.underway.warmup or fall is None:
        return None
    share, level = fall
    if share > _PLATEAU or level < _NEAR_START * curve.loss[0]:
        return None
    fell = max(0.0, share * level * math.log(2))
    return Alarm(
        fault="not learning",
        step=int(last),
        evidence=f"training loss stays near {level:.2f}; it fell by {fell:.2f} while the steps doubled",
    )


def _said(fault: Fault, step: float, loss: float, off: float, than: str) -> Alarm:
    side = "above" if off > 0 else "below"
    return Alarm(
        fault=fault, step=int(step), evidence=f"training loss {loss:.2f}, {abs(off):.2f} {side} {than}"
    )
