"""Where a run will end: its curve so far, its schedule still to come, and what its finished siblings teach."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from families.errors import BadInput

from .curves import Curve, RunCurves
from .trajectory import Points, Prior, Profile, Trajectory, learn

Array = NDArray[np.float64]
Z_80, Z_95 = 1.2815515655446004, 1.959963984540054  # standard normal quantiles at 0.9 and 0.975
FEWEST_POINTS = 4  # with less nothing is foreseen
MOST_LINES = 200  # of training loss; more are averaged, for speed

# Chosen on four studies of benchmarks/forecast.py (code-a, docs-b, code-c, code-d); two others were held back (docs/log.md).
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
_SAME_LENGTH = 0.1  # log of the ratio of two rungs that count as equally long
_OFFSET_SLOPE, _OFFSET_NOISE = (0.1, 0.15), 0.004  # nats per nat; of the loss
_LOOK_NOISE = 0.006  # of the loss: what a look wanders at constant rate, beyond any trend
_TOGETHER = 2.0  # how much more the mean of neighbouring points errs than if each erred alone
_BORROWED = 0.3  # of a sibling's residual that may be its own
_BEND = 0.1  # of a run's steps, which its siblings' law leaves out: the first bend is no power law
_PAST = 0.5  # of the steps so far that may be left out for the bend, at most
_OWN_BEND = 0.5  # of the steps so far, where no sibling says what the bend looks like
_WIDEN, _MODEL_ERROR = 1.0, 0.004
# Of the logarithm of the final loss of runs of one length and schedule: its trend per e-fold of parameters, how far that
# may be off, its wander along sizes and the scatter of single runs; and how far it and a curve's own law err together.
_END_TREND, _END_WANDER, _END_SCATTER, _ERR_TOGETHER = (-0.03, 0.02), 0.006, 0.012, 0.5
_DISAGREE = 2.0  # deviations beyond which the two are held to disagree, and the curve is believed


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """A forecast of a rung's final loss, nats per token, made at a step of it.

    target: what the loss is of: "held-out" (the whole eval set), "glance" (the few held-out windows that are looked at on
    the way) or "training".
    """

    run: str
    steps: int
    at_step: int
    loss: float
    sd: float
    target: str
    siblings: int
    trajectory: Trajectory
    profile: Profile
    offset: float  # of the target's loss from the curve's own at the end

    def interval(self, z: float) -> tuple[float, float]:
        """The loss give or take z standard deviations."""
        return self.loss - z * self.sd, self.loss + z * self.sd

    def path(self, step: Array) -> tuple[Array, Array]:
        """The expected loss on the target's own text at steps of the schedule, and its standard deviation."""
        mean, sd = self.trajectory.at(self.profile, step)
        return mean + self.offset, _WIDEN * sd


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What one finished sibling teaches: its constants, how its curve's end relates to its final loss, and its residuals."""

    log_params: float
    constants: Array  # level, slope, gain, shift, drift, alpha, log memory
    sd: Array
    ends: tuple[
        tuple[float, float], ...
    ]  # of each rung: the curve's last loss, and the loss on the whole eval set
    residual: float | None  # of the law at the end of a rung of the run's own length and schedule
    other: bool  # it had another schedule
    lines: dict[float, float]  # by step: how much harder than expected the batches were
    looks: dict[float, float]
    looked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class School:
    """The siblings' lessons for one run, and the prior that they make."""

    lessons: tuple[Lesson, ...]
    prior: Prior
    ends: tuple[tuple[float, float], ...]
    residual: float
    lines: dict[float, float]
    looks: dict[float, float]


def reference_of(run: RunCurves, steps: int) -> float:
    """x_end of a rung, in steps at the peak rate."""
    return float(Profile.of(run.underway.to(steps)).area[-1])


def foresee(
    run: RunCurves, siblings: Sequence[RunCurves] = (), *, steps: int | None = None, until: int | None = None,
) -> Foreseen:  # fmt: skip
    """The final loss of a rung (default: the one in hand) from what was logged up to a step (default: all).

    Raises:
        BadInput: too little is logged to say anything, or every rung is done.
    """
    rung = steps if steps is not None else run.ahead
    if rung is None:
        raise BadInput(f"{run.name} is finished; there is nothing left to foresee")
    found = by_curve(run, siblings, rung, until)
    loss, doubt = together((found.loss, found.sd), ended_alike(run, siblings, rung))
    return replace(found, loss=loss, sd=doubt, offset=found.offset + loss - found.loss)


def by_curve(run: RunCurves, siblings: Sequence[RunCurves], rung: int, until: int | None) -> Foreseen:
    """The forecast that a run's own curve makes, with what siblings teach of such curves but not where they ended.

    Raises:
        BadInput: too little is logged to say anything.
    """
    curve = run.rung(rung) if until is None else run.rung(rung).until(until)
    reference = reference_of(run, rung)
    school = attend(run, siblings, rung, reference, scale_of(curve))
    points = observe(run, rung, curve, school)
    if points is None:
        raise BadInput(
            f"{run.name} has logged {len(curve.step)} lines; a forecast needs {FEWEST_POINTS} past its warm-up"
        )
    trajectory = learn((points,), school.prior, reference)
    profile = Profile.of(run.underway.to(rung))
    mean, sd = trajectory.at(profile, np.array([float(rung)]))
    end = float(mean[0]) + school.residual
    own = tuple(
        _ends(run, shorter) for shorter in run.finals if shorter != rung and shorter <= (until or rung)
    )
    ends = school.ends + own
    offset, offset_sd = offset_at(end, ends) if ends else (0.0, 0.0)
    looked = bool(len(curve.eval_step))
    return Foreseen(
        run=run.name,
        steps=rung,
        at_step=int(curve.step[-1]),
        loss=end + offset,
        sd=math.hypot(_WIDEN * float(sd[0]), offset_sd, _MODEL_ERROR * end),
        target="held-out" if ends else "glance" if looked else "training",
        siblings=len(school.lessons),
        trajectory=trajectory,
        profile=profile,
        offset=school.residual + offset,
    )  # fmt: skip


def ended_alike(run: RunCurves, siblings: Sequence[RunCurves], steps: int) -> tuple[float, float] | None:
    """The final loss that siblings of the same length and schedule lead one to expect at the run's size, and its deviation.

    None where none is finished.
    """
    asked, tokens = run.underway.rung(steps), steps * run.underway.batch_tokens
    found = [
        (math.log(one.underway.params / run.underway.params), math.log(one.finals[length]))
        for one in siblings
        for length in one.finals
        if one.underway.schedule == run.underway.schedule
        and (one.underway.rung(length).cooldown, one.underway.rung(length).shape)
        == (asked.cooldown, asked.shape)
        and abs(math.log(length * one.underway.batch_tokens / tokens)) < _SAME_LENGTH
    ]
    if not found:
        return None
    distance, values = np.array(found).T
    mean, sd = at_own_size(
        distance, values, np.zeros(len(values)), before=(float(values.mean()), 1.0), trend=_END_TREND,
        wander=_END_WANDER, scatter=_END_SCATTER,
    )  # fmt: skip
    return math.exp(mean), sd * math.exp(mean)


def together(curve: tuple[float, float], alike: tuple[float, float] | None) -> tuple[float, float]:
    """What a run's own curve says of its end with what its siblings' ends say: (mean, standard deviation).

    The siblings' share falls where the two disagree: a run that goes wrong ends where its own curve goes.
    """
    if alike is None:
        return curve
    (here, own), (there, theirs) = curve, alike
    beyond = max(0.0, abs(here - there) - _DISAGREE * math.hypot(own, theirs))
    theirs = math.hypot(theirs, 2 * beyond)
    share = own**2 / (own**2 + theirs**2)
    covariance = _ERR_TOGETHER * own * theirs
    variance = ((1 - share) * own) ** 2 + (share * theirs) ** 2 + 2 * share * (1 - share) * covariance
    return here + share * (there - here), math.sqrt(variance)


def scale_of(curve: Curve) -> float:
    """The loss so far: the scale of the prior."""
    values = curve.eval_loss if len(curve.eval_loss) else curve.loss
    return float(np.mean(values[-3:])) if len(values) else 1.0


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
    same = [
        lesson
        for lesson, one in zip(lessons, siblings, strict=False)
        if one.underway.batches == run.underway.batches
    ]
    residuals = [lesson.residual for lesson in lessons if lesson.residual is not None]
    return School(
        lessons=lessons,
        prior=Prior(
            mean=means[:5], sd=deviations[:5], alpha=(means[5], deviations[5]), log_memory=(means[6], deviations[6])
        ),
ends=tuple(end for lesson in lessons for end in lesson.ends),
        residual=sum(residuals) / (len(residuals) + 1),
        lines=_mean([lesson.lines for lesson in same]),
        looks=_mean([lesson.looks for lesson in same]),
    )  # fmt: skip


def at_own_size(
    distance: Array, values: Array, sds: Array, *, before: tuple[float, float], trend: tuple[float, float],
    wander: float, scatter: float,
) -> tuple[float, float]:  # fmt: skip
    """A constant at the run's own size, and its standard deviation, from its siblings' at log distances from it.

    A Gaussian process: a line of uncertain trend, a Brownian path away from the run's own size, and scatter of single runs.

    Args:
        before: mean and standard deviation at the run's own size, before any sibling is seen.
    """
    together = np.where(
        np.sign(distance)[:, None] == np.sign(distance)[None, :],
        np.minimum(np.abs(distance)[:, None], np.abs(distance)[None, :]),
        0.0,
    )
    shared = before[1] ** 2 + trend[1] ** 2 * np.outer(distance, distance) + wander**2 * together
    covariance = shared + np.diag(sds**2 + scatter**2)
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
        piece = _points(sibling, length, curve, max(after, begin))
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
    if not other and abs(math.log(nearest / steps)) < _SAME_LENGTH:
        profile = Profile.of(sibling.underway.to(nearest))
        law = float(trajectory.at(profile, np.array([float(nearest)]))[0][0])
        residual = _ends(sibling, nearest)[0] - law
    return Lesson(
        log_params=math.log(sibling.underway.params),
        constants=constants,
        sd=sd,
        ends=tuple(_ends(sibling, length) for length in sorted(sibling.finals)),
        residual=residual,
        other=other,
        lines=lines,
        looks=looks,
        looked=bool(looks),
    )


def _ends(run: RunCurves, steps: int) -> tuple[float, float]:
    """The last loss of a finished rung's curve, and its loss on the whole eval set."""
    curve = run.rung(steps)
    return (
        float(curve.eval_loss[-1]) if len(curve.eval_step) else float(curve.loss[-3:].mean())
    ), run.finals[steps]


def offset_at(loss: float, ends: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """How far the whole eval set lies from a curve that ends at `loss`, a line through the finished rungs, and its deviation."""
    here = np.array([end - loss for end, _ in ends])
    values = np.array([final - end for end, final in ends])
    design = np.column_stack([np.ones(len(ends)), here])
    noise = _OFFSET_NOISE * loss
    total = np.diag([loss**-2.0, _OFFSET_SLOPE[1] ** -2.0]) + design.T @ design / noise**2
    right = np.array([0.0, _OFFSET_SLOPE[0] / _OFFSET_SLOPE[1] ** 2]) + design.T @ values / noise**2
    covariance = np.linalg.inv(total)
    return float((covariance @ right)[0]), math.hypot(math.sqrt(covariance[0, 0]), noise / 2)


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
    return _points(run, steps, curve, begin, school.lines, school.looks)


def _points(
    run: RunCurves, steps: int, curve: Curve, begin: float,
    lines: dict[float, float] | None = None, looks: dict[float, float] | None = None,
) -> Points | None:  # fmt: skip
    middle = curve.middle
    kept = middle > begin
    looked = curve.eval_step > begin
    if kept.sum() + looked.sum() < FEWEST_POINTS:
        return None
    harder = _given(curve.step[kept], lines or {})
    step, loss, noise = _thinned(middle[kept], curve.loss[kept], harder)
    wander = _given(curve.eval_step[looked], looks or {})
    values = curve.eval_loss[looked] - np.nan_to_num(wander)
    look_noise = np.hypot(_LOOK_NOISE * values, _BORROWED * np.nan_to_num(wander))
    any_looks = bool(len(curve.eval_step))
    return Points(
        profile=Profile.of(run.underway.to(steps)),
        step=np.concatenate([step, curve.eval_step[looked]]),
        loss=np.concatenate([loss, values]),
        noise=_TOGETHER * np.concatenate([noise, look_noise]),
        train=np.concatenate([np.full(len(step), float(any_looks)), np.zeros(len(values))]),
    )


def _given(step: Array, residuals: dict[float, float]) -> Array:
    return np.array([residuals.get(float(one), math.nan) for one in step])


def _thinned(step: Array, loss: Array, harder: Array) -> tuple[Array, Array, Array]:
    """Lines less what siblings met on the same batches, with their noise, averaged to at most MOST_LINES."""
    known = np.isfinite(harder)
    clean = loss - np.nan_to_num(harder)
    noise = np.where(known, spread(clean[known]), spread(loss))
    noise = np.hypot(noise, _BORROWED * np.abs(np.nan_to_num(smooth(np.nan_to_num(harder)))))
    if len(step) <= MOST_LINES:
        return step, clean, noise
    parts = np.array_split(np.arange(len(step)), MOST_LINES)
    count = np.array([len(part) for part in parts])
    return (
        np.array([step[part].mean() for part in parts]),
        np.array([clean[part].mean() for part in parts]),
        np.array([noise[part].mean() for part in parts]) / np.sqrt(count),
    )


def smooth(values: Array) -> Array:
    """A running mean over nine lines: what of a residual is shape and not batches."""
    if len(values) < 9:
        return np.full(len(values), float(np.mean(values)) if len(values) else 0.0)
    padded = np.pad(values, 4, mode="edge")
    return np.convolve(padded, np.full(9, 1 / 9), mode="valid")


def spread(values: Array) -> float:
    """Standard deviation of single lines around any smooth curve, from differences between neighbours; outliers count little."""
    if len(values) < 5:
        return 0.1
    differences = np.abs(np.diff(values, n=2)) / math.sqrt(6)
    return max(float(np.median(differences)) / 0.6744897501960817, 1e-3 * abs(float(np.mean(values))))
