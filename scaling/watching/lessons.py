"""What finished siblings teach a run: the constants of its curve, each a line in the logarithm of the parameters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .curves import Curve, RunCurves
from .points import end_of, points_of, scale_of
from .trajectory import Points, Prior, Profile, learn

Array = NDArray[np.float64]
# Chosen on four studies of benchmarks/forecast.py: code-a, docs-b, code-c, code-d (docs/log.md).
# In units of the loss so far, so that they carry over to other sizes: (mean, standard deviation).
_SLOPE, _GAIN, _SHIFT, _DRIFT = (0.075, 0.025), (0.07, 0.03), (0.0, 0.15), (0.0, 0.015)
_ALPHA, _LOG_MEMORY = (0.5, 0.15), (math.log(12.0), 0.8)
# Between runs of one study, of level, slope, gain, shift, drift (shares of the loss), alpha and log memory, and of the
# offset between a run's own curve and its loss on the whole eval set: the trend per e-fold of parameters, how far that
# may be off, and the scatter of single runs around it.
_TREND = np.array([-0.03, 0.01, 0.0, 0.0, 0.0, 0.0, 0.0])
_TREND_SD = np.array([0.02, 0.005, 0.004, 0.01, 0.01, 0.06, 0.2])
_WANDER = np.array([0.006, 0.003, 0.0016, 0.006, 0.004, 0.1, 0.2])
_SCATTER = np.array([0.008, 0.003, 0.0025, 0.01, 0.006, 0.08, 0.25])
# What a sibling under another schedule may be off by, and the offset per e-fold of length, in the same units.
_OTHER_SCHEDULE = np.array([0.015, 0.006, 0.02, 0.004, 0.004, 0.1, 0.5])
SAME_LENGTH = 0.1  # log of the ratio of two rungs that count as equally long
_BEND = 0.1  # of a run's steps, which its siblings' law leaves out: the first bend is no power law
_PAST = 0.5  # of the steps so far that may be left out for the bend, at most
_OWN_BEND = 0.5  # of the steps so far, where no sibling says what the bend looks like


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What one finished sibling teaches: its constants, how its curve's end relates to its final loss, and its residuals."""

    log_params: float
    constants: Array  # level, slope, gain, shift, drift, alpha, log memory
    sd: Array
    ends: tuple[
        tuple[float, float], ...
    ]  # of each rung: its curve's last loss, and that on the whole eval set
    residual: float | None  # of the law at the end of a rung of the run's own length and schedule
    other: bool  # it had another schedule
    same: bool  # it read the same batches
    lines: dict[float, float]  # by step: how much harder than expected the batches were
    looks: dict[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class School:
    """The siblings' lessons for one run, and the prior that they make."""

    lessons: tuple[Lesson, ...]
    prior: Prior
    ends: tuple[tuple[float, float], ...]
    residual: float
    lines: dict[float, float]
    looks: dict[float, float]


def universal(scale: float) -> Prior:
    """What is believed of a run without siblings, whose loss so far is `scale`."""
    mean = scale * np.array([1.0, _SLOPE[0], _GAIN[0], _SHIFT[0], _DRIFT[0]])
    sd = scale * np.array([1.0, _SLOPE[1], _GAIN[1], _SHIFT[1], _DRIFT[1]])
    return Prior(mean=mean, sd=sd, alpha=_ALPHA, log_memory=_LOG_MEMORY)


def attend(
    run: RunCurves, siblings: Sequence[RunCurves], steps: int, reference: float, scale: float
) -> School:
    """The prior that finished siblings make for a run: each constant a line in the logarithm of the parameters.

    Their lines are taken at the run's own x_end. A sibling that reads the same batches also says how hard each was.
    """
    lessons = tuple(lesson for one in siblings if (lesson := study(one, run, steps, reference)) is not None)
    base = universal(scale)
    if not lessons:
        return School(lessons=(), prior=base, ends=(), residual=0.0, lines={}, looks={})
    here = math.log(run.underway.params)
    distance = np.array([lesson.log_params - here for lesson in lessons])
    scales = np.array([scale] * 5 + [1.0, 1.0])
    values = np.array([lesson.constants for lesson in lessons])
    sds = np.array([np.hypot(lesson.sd, lesson.other * _OTHER_SCHEDULE * scales) for lesson in lessons])
    own_mean = np.array([*base.mean, base.alpha[0], base.log_memory[0]])
    own_sd = np.array([*base.sd, base.alpha[1], base.log_memory[1]])
    means, deviations = np.empty(7), np.empty(7)
    for i in range(7):
        size = scales[i]
        means[i], deviations[i] = at_own_size(
            distance, values[:, i], sds[:, i], before=(own_mean[i], own_sd[i]),
            trend=(_TREND[i] * size, _TREND_SD[i] * size), wander=_WANDER[i] * size, scatter=_SCATTER[i] * size,
        )  # fmt: skip
    same = [lesson for lesson in lessons if lesson.same]
    residuals = [lesson.residual for lesson in lessons if lesson.residual is not None]
    prior = Prior(
        mean=means[:5],
        sd=deviations[:5],
        alpha=(means[5], deviations[5]),
        log_memory=(means[6], deviations[6]),
    )
    return School(
        lessons=lessons,
        prior=prior,
        ends=tuple(end for lesson in lessons for end in lesson.ends),
        residual=sum(residuals) / (len(residuals) + 1),
        lines=_mean([lesson.lines for lesson in same]),
        looks=_mean([lesson.looks for lesson in same]),
    )


def at_own_size(
    distance: Array, values: Array, sds: Array, *, before: tuple[float, float], trend: tuple[float, float],
    wander: float, scatter: float, shared: Array | None = None,
) -> tuple[float, float]:  # fmt: skip
    """A constant at the run's own size, and its standard deviation, from its siblings' at log distances from it.

    A Gaussian process: a line of uncertain trend, a Brownian path away from the run's own size, and scatter of single runs.

    Args:
        before: mean and standard deviation at the run's own size, before any sibling is seen.
        shared: covariance that the siblings' values have besides.
    """
    together = np.where(
        np.sign(distance)[:, None] == np.sign(distance)[None, :],
        np.minimum(np.abs(distance)[:, None], np.abs(distance)[None, :]),
        0.0,
    )
    process = before[1] ** 2 + trend[1] ** 2 * np.outer(distance, distance) + wander**2 * together
    covariance = process + np.diag(sds**2 + scatter**2) + (0.0 if shared is None else shared)
    gain = np.linalg.solve(covariance, np.full(len(values), before[1] ** 2))
    mean = before[0] + gain @ (values - before[0] - trend[0] * distance)
    variance = before[1] ** 2 - gain.sum() * before[1] ** 2
    return float(mean), math.sqrt(max(variance, 0.0) + scatter**2)


def _mean(residuals: Sequence[dict[float, float]]) -> dict[float, float]:
    """By step, over those that have it; drawn towards nothing where few do."""
    sums: dict[float, list[float]] = {}
    for one in residuals:
        for step, value in one.items():
            sums.setdefault(step, []).append(value)
    return {step: sum(values) / (len(values) + 0.2) for step, values in sums.items()}


def study(sibling: RunCurves, run: RunCurves, steps: int, reference: float) -> Lesson | None:
    """A finished sibling's law at the run's x_end, fitted to all its rungs together; None where it logged too little."""
    here = reference * run.underway.batch_tokens / sibling.underway.batch_tokens
    longest = max(sibling.finals)
    begin = max(1.5 * sibling.underway.warmup, _BEND * longest)
    pieces = []
    seen_trunk = False
    for length in sorted(sibling.finals, reverse=True):
        curve = sibling.rung(length)
        after = sibling.underway.to(length).decay_starts if seen_trunk else begin
        seen_trunk = seen_trunk or sibling.underway.schedule == "wsd"
        piece = points_of(sibling, length, curve, max(after, begin))
        if piece is not None:
            pieces.append(piece)
    if not pieces:
        return None
    scale = scale_of(sibling.rung(longest))
    trajectory = learn(tuple(pieces), universal(scale), here)
    constants, sd = trajectory.constants()
    lines: dict[float, float] = {}
    looks: dict[float, float] = {}
    for length in sorted(sibling.finals):
        profile = Profile.of(sibling.underway.to(length))
        curve = sibling.rung(length)
        looked = bool(len(curve.eval_step))
        past = curve.middle > 1.5 * sibling.underway.warmup
        expected = trajectory.at(profile, np.maximum(curve.middle, 1.0), train=looked)[0]
        lines |= dict(zip(curve.step[past].tolist(), (curve.loss - expected)[past].tolist(), strict=True))
        if looked:
            expected = trajectory.at(profile, curve.eval_step)[0]
            looks |= dict(zip(curve.eval_step.tolist(), (curve.eval_loss - expected).tolist(), strict=True))
    nearest = min(sibling.finals, key=lambda one: abs(math.log(one / steps)))
    other = sibling.underway.schedule != run.underway.schedule
    residual = None
    if not other and abs(math.log(nearest / steps)) < SAME_LENGTH:
        profile = Profile.of(sibling.underway.to(nearest))
        law = float(trajectory.at(profile, np.array([float(nearest)]))[0][0])
        residual = end_of(sibling, nearest)[0] - law
    return Lesson(
        log_params=math.log(sibling.underway.params),
        constants=constants,
        sd=sd,
        ends=tuple(end_of(sibling, length) for length in sorted(sibling.finals)),
        residual=residual,
        other=other,
        same=sibling.underway.batches == run.underway.batches,
        lines=lines,
        looks=looks,
    )


def observe(run: RunCurves, steps: int, curve: Curve, school: School) -> Points | None:
    """A rung's curve as points for the law; the first bend only where siblings say what it looks like."""
    warm = 1.5 * run.underway.warmup
    if not len(curve.step):
        return None
    last = float(curve.step[-1])
    begin = (
        max(warm, min(_BEND * max(run.underway.steps), _PAST * last))
        if school.lines
        else max(warm, _OWN_BEND * last)
    )
    return points_of(run, steps, curve, begin, school.lines, school.looks)
