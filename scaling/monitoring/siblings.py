"""Prior and forecast of a run from its finished siblings.

The prior of each constant of the run's curve is a Gaussian process in ln N through the constants of its siblings. The
forecast uses siblings of the same length and schedule:

    ln L_end(sibling) − ln L_end(run) = k·gap + c·(K(N_sibling) − K(N_run)),     K(N) = ln(1 + D/(r·N))

gap is ln L(sibling) − ln L(run) at the run's current step; most of it is lost by the end, because slower learners catch up.
The second term is the effect of model size, in the form of Kaplan et al. 2020 (arXiv:2001.08361, eq. 1.5): large where
parameters are the bottleneck, small where the tokens D are. 1 − k and c are proportional to the fraction of x (see
`trajectory`) that the schedule has still to come; several siblings update their prior.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..stats import Array
from . import constants as const
from .curves import Curve, RunCurves, curve_points, end_losses, loss_scale
from .trajectory import LrProfile, Points, TrajectoryPrior, fit_trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class SiblingFit:
    """The curve fit of one finished sibling: constants, losses at the ends of its rungs, and residuals (nats, by step)."""

    log_params: float
    constants: Array  # (7,): level, slope, gain, shift, drift, alpha, log memory
    sd: Array  # (7,)
    ends: tuple[tuple[float, float], ...]  # per rung: last loss of the curve, loss on the whole eval set
    residual: float | None  # of the law at the end of a rung of the run's own length and schedule
    other_schedule: bool
    same_batches: bool
    line_residuals: dict[float, float]  # of training loss
    eval_residuals: dict[float, float]  # of partial evaluations


@dataclass(frozen=True, slots=True, kw_only=True)
class SiblingPrior:
    """The prior of a run's curve from its siblings, with the siblings' fits and mean residuals."""

    fits: tuple[SiblingFit, ...]
    prior: TrajectoryPrior
    ends: tuple[tuple[float, float], ...]
    residual: float
    line_residuals: dict[float, float]
    eval_residuals: dict[float, float]


def default_prior(scale: float) -> TrajectoryPrior:
    """Return the prior of a run without siblings, whose current loss is `scale` (nats per token)."""
    mean = scale * np.array(
        [1.0, const.PRIOR_SLOPE[0], const.PRIOR_GAIN[0], const.PRIOR_SHIFT[0], const.PRIOR_DRIFT[0]]
    )
    sd = scale * np.array(
        [1.0, const.PRIOR_SLOPE[1], const.PRIOR_GAIN[1], const.PRIOR_SHIFT[1], const.PRIOR_DRIFT[1]]
    )
    return TrajectoryPrior(mean=mean, sd=sd, alpha=const.PRIOR_ALPHA, log_memory=const.PRIOR_LOG_MEMORY)


def prior_from_siblings(
    run: RunCurves, siblings: Sequence[RunCurves], steps: int, reference: float, scale: float
) -> SiblingPrior:
    """Return the prior of a run's curve from its finished siblings.

    Args:
        run: the run.
        siblings: its siblings; one that reads the same batches also contributes its residuals.
        steps: length of the run's rung.
        reference: x_end of that rung, at which all constants are taken.
        scale: current loss of the run, nats per token.
    """
    fits = tuple(
        fit for sibling in siblings if (fit := fit_sibling(sibling, run, steps, reference)) is not None
    )
    base = default_prior(scale)
    if not fits:
        return SiblingPrior(fits=(), prior=base, ends=(), residual=0.0, line_residuals={}, eval_residuals={})
    log_params = math.log(run.plan.params)
    distance = np.array([fit.log_params - log_params for fit in fits])
    scales = np.array([scale] * 5 + [1.0, 1.0])
    values = np.array([fit.constants for fit in fits])
    sds = np.array([np.hypot(fit.sd, fit.other_schedule * const.OTHER_SCHEDULE_SD * scales) for fit in fits])
    own_mean = np.array([*base.mean, base.alpha[0], base.log_memory[0]])
    own_sd = np.array([*base.sd, base.alpha[1], base.log_memory[1]])
    means, deviations = np.empty(7), np.empty(7)
    for i in range(7):
        size = scales[i]
        means[i], deviations[i] = gp_at_size(
            distance, values[:, i], sds[:, i], before=(own_mean[i], own_sd[i]),
            trend=(const.SIZE_TREND[i] * size, const.SIZE_TREND_SD[i] * size), wander=const.SIZE_WANDER[i] * size,
            scatter=const.RUN_SCATTER[i] * size,
        )  # fmt: skip
    same_batches = [fit for fit in fits if fit.same_batches]
    residuals = [fit.residual for fit in fits if fit.residual is not None]
    prior = TrajectoryPrior(
        mean=means[:5],
        sd=deviations[:5],
        alpha=(means[5], deviations[5]),
        log_memory=(means[6], deviations[6]),
    )
    return SiblingPrior(
        fits=fits,
        prior=prior,
        ends=tuple(end for fit in fits for end in fit.ends),
        residual=sum(residuals) / (len(residuals) + 1),
        line_residuals=_mean([fit.line_residuals for fit in same_batches]),
        eval_residuals=_mean([fit.eval_residuals for fit in same_batches]),
    )


def gp_at_size(
    distance: Array, values: Array, sds: Array, *, before: tuple[float, float], trend: tuple[float, float],
    wander: float, scatter: float, shared: Array | None = None,
) -> tuple[float, float]:  # fmt: skip
    """Return mean and standard deviation of a constant at the run's own size, from its siblings' values.

    Gaussian process: linear trend, Brownian path away from the run's own size, independent scatter of single runs.

    Args:
        distance: ln N of each sibling less that of the run, shape (siblings,).
        values: the siblings' values, shape (siblings,).
        sds: their standard deviations, shape (siblings,).
        before: prior mean and standard deviation at the run's own size.
        trend: prior mean and standard deviation of the trend, per unit of distance.
        wander: standard deviation of the Brownian path, per square root of distance.
        scatter: standard deviation of single runs.
        shared: additional covariance of the siblings' values, shape (siblings, siblings); default: none.
    """
    brownian = np.where(
        np.sign(distance)[:, None] == np.sign(distance)[None, :],
        np.minimum(np.abs(distance)[:, None], np.abs(distance)[None, :]),
        0.0,
    )
    process = before[1] ** 2 + trend[1] ** 2 * np.outer(distance, distance) + wander**2 * brownian
    covariance = process + np.diag(sds**2 + scatter**2) + (0.0 if shared is None else shared)
    gain = np.linalg.solve(covariance, np.full(len(values), before[1] ** 2))
    mean = before[0] + gain @ (values - before[0] - trend[0] * distance)
    variance = before[1] ** 2 - gain.sum() * before[1] ** 2
    return float(mean), math.sqrt(max(variance, 0.0) + scatter**2)


def _mean(residuals: Sequence[dict[float, float]]) -> dict[float, float]:
    """Average residuals by step, shrunk towards 0 where few siblings have the step."""
    sums: dict[float, list[float]] = {}
    for by_step in residuals:
        for step, value in by_step.items():
            sums.setdefault(step, []).append(value)
    return {step: sum(values) / (len(values) + 0.2) for step, values in sums.items()}


def fit_sibling(sibling: RunCurves, run: RunCurves, steps: int, reference: float) -> SiblingFit | None:
    """Fit the law to all rungs of a finished sibling, at the run's x_end; None if it logged too little.

    Args:
        sibling: the finished sibling.
        run: the run to be forecast.
        steps: length of the run's rung.
        reference: x_end of that rung, in steps of the run at the peak learning rate.
    """
    own_reference = reference * run.plan.batch_tokens / sibling.plan.batch_tokens
    longest = max(sibling.finals)
    begin = max(1.5 * sibling.plan.warmup, const.INITIAL_BEND * longest)
    pieces = []
    trunk_used = False
    for length in sorted(sibling.finals, reverse=True):
        curve = sibling.rung(length)
        after = sibling.plan.schedule_to(length).decay_starts if trunk_used else begin
        trunk_used = trunk_used or sibling.plan.schedule == "wsd"
        piece = curve_points(sibling, length, curve, max(after, begin))
        if piece is not None:
            pieces.append(piece)
    if not pieces:
        return None
    scale = loss_scale(sibling.rung(longest))
    trajectory = fit_trajectory(tuple(pieces), default_prior(scale), own_reference)
    constants, sd = trajectory.constants()
    line_residuals: dict[float, float] = {}
    eval_residuals: dict[float, float] = {}
    for length in sorted(sibling.finals):
        profile = LrProfile.of(sibling.plan.schedule_to(length))
        curve = sibling.rung(length)
        has_evals = bool(len(curve.eval_step))
        past = curve.midpoints > 1.5 * sibling.plan.warmup
        expected = trajectory.at(profile, np.maximum(curve.midpoints, 1.0), train=has_evals)[0]
        residuals = (curve.loss - expected)[past]
        line_residuals |= dict(zip(curve.step[past].tolist(), residuals.tolist(), strict=True))
        if has_evals:
            expected = trajectory.at(profile, curve.eval_step)[0]
            residuals = curve.eval_loss - expected
            eval_residuals |= dict(zip(curve.eval_step.tolist(), residuals.tolist(), strict=True))
    nearest = min(sibling.finals, key=lambda length: abs(math.log(length / steps)))
    other_schedule = sibling.plan.schedule != run.plan.schedule
    residual = None
    if not other_schedule and abs(math.log(nearest / steps)) < const.SAME_LENGTH:
        profile = LrProfile.of(sibling.plan.schedule_to(nearest))
        law = float(trajectory.at(profile, np.array([float(nearest)]))[0][0])
        residual = end_losses(sibling, nearest)[0] - law
    return SiblingFit(
        log_params=math.log(sibling.plan.params),
        constants=constants,
        sd=sd,
        ends=tuple(end_losses(sibling, length) for length in sorted(sibling.finals)),
        residual=residual,
        other_schedule=other_schedule,
        same_batches=sibling.plan.batches == run.plan.batches,
        line_residuals=line_residuals,
        eval_residuals=eval_residuals,
    )


def observations(run: RunCurves, steps: int, curve: Curve, sibling_prior: SiblingPrior) -> Points | None:
    """Return the observations of a rung's curve for the fit of the law; None if there are too few.

    The initial bend is left out, more of it where no sibling's residuals show its shape.

    Args:
        run: the run.
        steps: length of the rung, which determines the schedule.
        curve: its curve, or a part of it.
        sibling_prior: the prior from its siblings, with their mean residuals.
    """
    warm = 1.5 * run.plan.warmup
    if not len(curve.step):
        return None
    last = float(curve.step[-1])
    begin = (
        max(warm, min(const.INITIAL_BEND * max(run.plan.steps), const.MAX_BEND * last))
        if sibling_prior.line_residuals
        else max(warm, const.BEND_ALONE * last)
    )
    return curve_points(run, steps, curve, begin, sibling_prior.line_residuals, sibling_prior.eval_residuals)


def forecast_from_siblings(
    run: RunCurves, siblings: Sequence[RunCurves], steps: int, until: int | None = None
) -> tuple[float, float] | None:
    """Return the final loss predicted from siblings of the same length and schedule, and its standard deviation.

    None if no such sibling is finished, or too little is logged to measure a gap.

    Args:
        run: the run.
        siblings: its siblings.
        steps: length of the run's rung.
        until: step up to which the run's own curve is used; default: all of it.
    """
    own_rung, tokens = run.plan.rung(steps), steps * run.plan.batch_tokens
    rows = []
    for sibling in siblings:
        if sibling.plan.schedule != run.plan.schedule:
            continue
        for length, final in sibling.finals.items():
            rung = sibling.plan.rung(length)
            same_decay = (rung.cooldown, rung.shape) == (own_rung.cooldown, own_rung.shape)
            if same_decay and abs(math.log(length * sibling.plan.batch_tokens / tokens)) < const.SAME_LENGTH:
                gap = loss_gap(run, steps, sibling, length, until)
                if gap is not None:
                    distance = _size_term(sibling, tokens) - _size_term(run, tokens)
                    rows.append((distance, math.log(final), *gap))
    if not rows:
        return None
    size, ends, gaps, gap_sd = np.array(rows).T
    left = remaining_lr_fraction(run, steps, until)
    kept = 1 - const.GAP_DECAY[0] * left
    values = ends - kept * gaps
    shared = (const.GAP_DECAY[1] * left) ** 2 * np.outer(gaps, gaps)

    def predict(at: float, given: NDArray[np.bool_], sds: Array) -> tuple[float, float]:
        return gp_at_size(
            size[given] - at, values[given], sds[given], before=(float(values[given].mean()), 1.0),
            trend=(const.SIZE_EFFECT[0] * left, const.SIZE_EFFECT[1] * left), wander=const.SIBLING_WANDER * math.sqrt(left),
            scatter=math.hypot(const.SIBLING_SCATTER, const.REMAINING_SCATTER * math.sqrt(left)),
            shared=shared[np.ix_(given, given)],
        )  # fmt: skip

    sds = kept * gap_sd
    if (
        len(values) >= const.MIN_SIBLINGS_FOR_OUTLIER
    ):  # the sibling furthest out of line with the others counts for less
        others = ~np.eye(len(values), dtype=bool)
        beyond = np.zeros(len(values))
        for i, given in enumerate(others):
            mean, sd = predict(size[i], given, sds)
            sd = math.hypot(sd, sds[i], math.sqrt(shared[i, i]))
            beyond[i] = max(0.0, abs(values[i] - mean) - const.DISAGREEMENT * sd)
        worst = int(beyond.argmax())
        sds[worst] = math.hypot(sds[worst], 2 * beyond[worst])
    mean, sd = predict(0.0, np.ones(len(values), dtype=bool), sds)
    return math.exp(mean), sd * math.exp(mean)


def remaining_lr_fraction(run: RunCurves, steps: int, until: int | None = None) -> float:
    """Return the remaining fraction of the schedule's progress variable: 1 − x(step)/x(end), in [0, 1]."""
    curve = run.rung(steps) if until is None else run.rung(steps).until(until)
    now, end = LrProfile.of(run.plan.schedule_to(steps)).area_at(
        np.array([float(curve.step[-1]), float(steps)])
    )
    return 1 - min(float(now / end), 1.0)


def loss_gap(
    run: RunCurves, steps: int, sibling: RunCurves, length: int, until: int | None = None
) -> tuple[float, float] | None:
    """Return ln L(sibling) − ln L(run) after equal tokens, at the run's last step, and its standard error.

    Training loss is compared if both runs read the same batches, whose noise then cancels; else partial evaluations, if
    both runs have enough. Least squares, linear in the logarithm of the step. None if too little is logged.

    Args:
        run: the run.
        steps: length of its rung.
        sibling: the sibling.
        length: length of the sibling's rung, in its own steps.
        until: step up to which the run's own curve is used; default: all of it.
    """
    mine = run.rung(steps) if until is None else run.rung(steps).until(until)
    theirs = sibling.rung(length)
    if not len(mine.step):
        return None
    now = float(mine.step[-1])
    ratio = sibling.plan.batch_tokens / run.plan.batch_tokens
    begin = max(1.5 * run.plan.warmup, const.GAP_WINDOW * now)
    lines, evals = mine.step > begin, mine.eval_step > begin
    line_gap = _gap_at(
        mine.step[lines], mine.loss[lines], theirs.step * ratio, theirs.loss, now, const.MIN_GAP_LINES
    )
    eval_gap = _gap_at(
        mine.eval_step[evals],
        mine.eval_loss[evals],
        theirs.eval_step * ratio,
        theirs.eval_loss,
        now,
        const.MIN_GAP_EVALS,
    )
    if sibling.plan.batches == run.plan.batches:
        return line_gap or eval_gap
    return eval_gap or line_gap


def _gap_at(
    step: Array, loss: Array, other_step: Array, other: Array, now: float, fewest: int
) -> tuple[float, float] | None:
    """Return ln(other/loss) at step `now`, and its standard error, by least squares over ln(step)."""
    if not len(other_step):
        return None
    inside = (step >= other_step[0]) & (step <= other_step[-1])
    if inside.sum() < fewest:
        return None
    values = np.interp(step[inside], other_step, np.log(other)) - np.log(loss[inside])
    design = np.column_stack([np.ones(len(values)), np.log(step[inside] / now)])
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ design.T @ values
    rest = values - design @ coefficients
    return float(coefficients[0]), math.sqrt(float(rest @ rest) / (len(values) - 2) * inverse[0, 0])


def _size_term(run: RunCurves, tokens: int) -> float:
    """Return K(N)."""
    return math.log1p(tokens / (const.TOKENS_PER_PARAMETER * run.plan.params))
