"""What finished siblings teach a run: the constants of its curve, each a line in the logarithm of the parameters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..stats import Array
from .curves import Curve, RunCurves, end_of, points_of, scale_of
from .trajectory import LrProfile, Points, TrajectoryPrior, learn

# MERGED DOCSTRINGS
# Where siblings of a run's own length and schedule ended, and how far it stands from them at the same step.
#
#     ln L_end(sibling) − ln L_end(run) = k·gap + c·(K(N_sibling) − K(N_run)),     K(N) = ln(1 + D/(r·N))
#
# gap is ln L(sibling) − ln L(run) where the run is now. Most of it is gone by the end: who learns fast early is caught up with. A
# difference of size comes in its place, in the form of Kaplan et al. 2020 (arXiv:2001.08361, eq. 1.5): large where parameters are
# short, small where tokens D are. 1 − k and c are in proportion to how far the learning rate will still carry the run (the share
# of x of `trajectory`), and what several siblings show of them corrects what is believed beforehand.
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
class SiblingFit:
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
class SiblingPrior:
    """The siblings' lessons for one run, and the prior that they make."""

    lessons: tuple[SiblingFit, ...]
    prior: TrajectoryPrior
    ends: tuple[tuple[float, float], ...]
    residual: float
    lines: dict[float, float]
    looks: dict[float, float]


def default_prior(scale: float) -> TrajectoryPrior:
    """What is believed of a run without siblings, whose loss so far is `scale`."""
    mean = scale * np.array([1.0, _SLOPE[0], _GAIN[0], _SHIFT[0], _DRIFT[0]])
    sd = scale * np.array([1.0, _SLOPE[1], _GAIN[1], _SHIFT[1], _DRIFT[1]])
    return TrajectoryPrior(mean=mean, sd=sd, alpha=_ALPHA, log_memory=_LOG_MEMORY)


def prior_from_siblings(
    run: RunCurves, siblings: Sequence[RunCurves], steps: int, reference: float, scale: float
) -> SiblingPrior:
    """The prior that finished siblings make for a run: each constant a line in the logarithm of the parameters.

    Their lines are taken at the run's own x_end. A sibling that reads the same batches also says how hard each was.
    """
    lessons = tuple(
        lesson for one in siblings if (lesson := fit_sibling(one, run, steps, reference)) is not None
    )
    base = default_prior(scale)
    if not lessons:
        return SiblingPrior(lessons=(), prior=base, ends=(), residual=0.0, lines={}, looks={})
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
    prior = TrajectoryPrior(
        mean=means[:5],
        sd=deviations[:5],
        alpha=(means[5], deviations[5]),
        log_memory=(means[6], deviations[6]),
    )
    return SiblingPrior(
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


def fit_sibling(sibling: RunCurves, run: RunCurves, steps: int, reference: float) -> SiblingFit | None:
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
    trajectory = learn(tuple(pieces), default_prior(scale), here)
    constants, sd = trajectory.constants()
    lines: dict[float, float] = {}
    looks: dict[float, float] = {}
    for length in sorted(sibling.finals):
        profile = LrProfile.of(sibling.underway.to(length))
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
        profile = LrProfile.of(sibling.underway.to(nearest))
        law = float(trajectory.at(profile, np.array([float(nearest)]))[0][0])
        residual = end_of(sibling, nearest)[0] - law
    return SiblingFit(
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


def observe(run: RunCurves, steps: int, curve: Curve, school: SiblingPrior) -> Points | None:
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


# Chosen by likelihood of what was foreseen at a third of all 147 full-length runs with siblings of two sizes in the 24 studies
# code-a to docs-x of benchmarks/forecast.py (docs/log.md). Per share of x that is still to come: how much of a gap is lost by
# the end, and what a unit of K brings; each with its standard deviation between studies.
_LOST, _SIZE = (0.81, 0.37), (0.058, 0.01)

# Deviations of ln L: along K, of single runs, and with what is to come.
_SIBLING_WANDER, _SIBLING_SCATTER, _SCATTER_LEFT = 0.0055, 0.0017, 0.004

_TOKENS_A_PARAMETER = 2.0  # r

_SINCE = 0.5  # of the steps so far: where a gap is measured

_FEWEST_LINES, _FEWEST_LOOKS = 4, 3  # that a gap is measured on

_FEWEST_TO_JUDGE = 3  # siblings, for one to be out of line with the others

DISAGREE = 2.0  # deviations beyond which two forecasts are held to disagree


def forecast_from_siblings(
    run: RunCurves, siblings: Sequence[RunCurves], steps: int, until: int | None = None
) -> tuple[float, float] | None:
    """The final loss that siblings of the same length and schedule lead one to expect, and its standard deviation.

    None where none is finished, or the run has not logged enough to be held beside them.
    """
    asked, tokens = run.underway.rung(steps), steps * run.underway.batch_tokens
    rows = []
    for one in siblings:
        if one.underway.schedule != run.underway.schedule:
            continue
        for length, final in one.finals.items():
            rung = one.underway.rung(length)
            alike = (rung.cooldown, rung.shape) == (asked.cooldown, asked.shape)
            if alike and abs(math.log(length * one.underway.batch_tokens / tokens)) < SAME_LENGTH:
                found = gap(run, steps, one, length, until)
                if found is not None:
                    rows.append((_size(one, tokens) - _size(run, tokens), math.log(final), *found))
    if not rows:
        return None
    size, ends, gaps, doubt = np.array(rows).T
    left = remaining_lr_fraction(run, steps, until)
    kept = 1 - _LOST[0] * left
    values = ends - kept * gaps
    shared = (_LOST[1] * left) ** 2 * np.outer(gaps, gaps)

    def expected(at: float, given: NDArray[np.bool_], doubts: Array) -> tuple[float, float]:
        return at_own_size(
            size[given] - at, values[given], doubts[given], before=(float(values[given].mean()), 1.0),
            trend=(_SIZE[0] * left, _SIZE[1] * left), wander=_SIBLING_WANDER * math.sqrt(left),
            scatter=math.hypot(_SIBLING_SCATTER, _SCATTER_LEFT * math.sqrt(left)), shared=shared[np.ix_(given, given)],
        )  # fmt: skip

    everyone, doubts = np.ones(len(values), dtype=bool), kept * doubt
    if len(values) >= _FEWEST_TO_JUDGE:  # the sibling furthest out of line with the others counts for less
        others = ~np.eye(len(values), dtype=bool)
        beyond = np.zeros(len(values))
        for i, given in enumerate(others):
            mean, sd = expected(size[i], given, doubts)
            sd = math.hypot(sd, doubts[i], math.sqrt(shared[i, i]))
            beyond[i] = max(0.0, abs(values[i] - mean) - DISAGREE * sd)
        worst = int(beyond.argmax())
        doubts[worst] = math.hypot(doubts[worst], 2 * beyond[worst])
    mean, sd = expected(0.0, everyone, doubts)
    return math.exp(mean), sd * math.exp(mean)


def remaining_lr_fraction(run: RunCurves, steps: int, until: int | None = None) -> float:
    """How much of what the learning rate does for a run of so many steps it still has to do, as a share."""
    curve = run.rung(steps) if until is None else run.rung(steps).until(until)
    now, end = LrProfile.of(run.underway.to(steps)).area_at(np.array([float(curve.step[-1]), float(steps)]))
    return 1 - min(float(now / end), 1.0)


def gap(
    run: RunCurves, steps: int, sibling: RunCurves, length: int, until: int | None = None
) -> tuple[float, float] | None:
    """How far a sibling's logarithm of the loss lay above the run's own after as many tokens, and its standard error.

    Of training loss where both read the same batches, whose noise then falls out; else of looks at the same held-out windows,
    where both have enough. A line in the logarithm of the step, taken at the last one. None where too little is logged.
    """
    mine = run.rung(steps) if until is None else run.rung(steps).until(until)
    theirs = sibling.rung(length)
    if not len(mine.step):
        return None
    now = float(mine.step[-1])
    ratio = sibling.underway.batch_tokens / run.underway.batch_tokens
    begin = max(1.5 * run.underway.warmup, _SINCE * now)
    lines, looks = mine.step > begin, mine.eval_step > begin
    of_lines = _line(mine.step[lines], mine.loss[lines], theirs.step * ratio, theirs.loss, now, _FEWEST_LINES)
    of_looks = _line(
        mine.eval_step[looks],
        mine.eval_loss[looks],
        theirs.eval_step * ratio,
        theirs.eval_loss,
        now,
        _FEWEST_LOOKS,
    )
    same = sibling.underway.batches == run.underway.batches
    return (of_lines or of_looks) if same else (of_looks or of_lines)


def _line(
    step: Array, loss: Array, other_step: Array, other: Array, now: float, fewest: int
) -> tuple[float, float] | None:
    """ln(other/loss) at `now`, and its standard error, by least squares over ln(step)."""
    if not len(other_step):
        return None
    inside = (step >= other_step[0]) & (step <= other_step[-1])
    if inside.sum() < fewest:
        return None
    values = np.interp(step[inside], other_step, np.log(other)) - np.log(loss[inside])
    design = np.column_stack([np.ones(len(values)), np.log(step[inside] / now)])
    inverse = np.linalg.inv(design.T @ design)
    found = inverse @ design.T @ values
    rest = values - design @ found
    return float(found[0]), math.sqrt(float(rest @ rest) / (len(values) - 2) * inverse[0, 0])


def _size(run: RunCurves, tokens: int) -> float:
    """K(N)."""
    return math.log1p(tokens / (_TOKENS_A_PARAMETER * run.underway.params))
