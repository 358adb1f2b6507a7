"""Forecast of a run's final loss from its curve so far, its schedule, and its finished siblings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from families.units import BadInput

from ..stats import Array
from . import constants as const
from .curves import RunCurves, end_losses, loss_scale, reference_progress
from .siblings import forecast_from_siblings, observations, prior_from_siblings
from .trajectory import LrProfile, Trajectory, fit_trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A forecast of a rung's final loss, in nats per token, made at a step of it.

    Args:
        run: name of the run.
        steps: length of the rung.
        at_step: step at which the forecast was made.
        loss: expected final loss.
        sd: its standard deviation.
        target: the loss that is forecast: "held-out" (the whole eval set), "glance" (the windows of the partial
            evaluations) or "training".
        siblings: number of finished siblings used.
        trajectory: posterior of the curve.
        profile: schedule of the rung.
        offset: the target's loss less the curve's at the end.
    """

    run: str
    steps: int
    at_step: int
    loss: float
    sd: float
    target: str
    siblings: int
    trajectory: Trajectory
    profile: LrProfile
    offset: float

    def interval(self, z: float) -> tuple[float, float]:
        """Return the interval of ± z standard deviations."""
        return self.loss - z * self.sd, self.loss + z * self.sd

    def path(self, step: Array) -> tuple[Array, Array]:
        """Return the expected loss of the target at steps of the schedule, and its standard deviation, each (steps,)."""
        mean, sd = self.trajectory.at(self.profile, step)
        return mean + self.offset, sd


def forecast_final_loss(
    run: RunCurves, siblings: Sequence[RunCurves] = (), *, steps: int | None = None, until: int | None = None,
) -> Forecast:  # fmt: skip
    """Forecast the final loss of a rung.

    Args:
        run: the run.
        siblings: comparable runs that have finished a rung.
        steps: length of the rung; default: the shortest unfinished one.
        until: step up to which the run's curve is used; default: all of it.

    Raises:
        BadInput: too few lines are logged, or all rungs are finished.
    """
    rung = steps if steps is not None else run.next_rung
    if rung is None:
        raise BadInput(f"{run.name} is finished; no rung is left to forecast")
    own = forecast_from_curve(run, siblings, rung, until)
    loss, sd = combine_forecasts((own.loss, own.sd), forecast_from_siblings(run, siblings, rung, until))
    sd = math.hypot(sd, const.COMMON_ERROR * loss)
    return replace(own, loss=loss, sd=sd, offset=own.offset + loss - own.loss)


def forecast_from_curve(
    run: RunCurves, siblings: Sequence[RunCurves], rung: int, until: int | None
) -> Forecast:
    """Forecast the final loss from the run's own curve; siblings contribute the prior but not their final losses.

    Args:
        run: the run.
        siblings: comparable runs that have finished a rung.
        rung: length of the rung in steps.
        until: step up to which the run's curve is used; None for all of it.

    Raises:
        BadInput: too few lines are logged.
    """
    curve = run.rung(rung) if until is None else run.rung(rung).until(until)
    reference = reference_progress(run, rung)
    sibling_prior = prior_from_siblings(run, siblings, rung, reference, loss_scale(curve))
    points = observations(run, rung, curve, sibling_prior)
    if points is None:
        raise BadInput(
            f"{run.name} has logged {len(curve.step)} lines; a forecast needs {const.MIN_POINTS} after the warm-up"
        )
    trajectory = fit_trajectory((points,), sibling_prior.prior, reference)
    profile = LrProfile.of(run.plan.schedule_to(rung))
    mean, sd = trajectory.at(profile, np.array([float(rung)]))
    end = float(mean[0]) + sibling_prior.residual
    own = tuple(
        end_losses(run, shorter) for shorter in run.finals if shorter != rung and shorter <= (until or rung)
    )
    ends = sibling_prior.ends + own
    offset, offset_sd = offset_at(end, ends) if ends else (0.0, 0.0)
    has_evals = bool(len(curve.eval_step))
    return Forecast(
        run=run.name,
        steps=rung,
        at_step=int(curve.step[-1]),
        loss=end + offset,
        sd=math.hypot(float(sd[0]), offset_sd, const.MODEL_ERROR * end),
        target="held-out" if ends or (has_evals and run.whole_evals) else "glance" if has_evals else "training",
        siblings=len(sibling_prior.fits),
        trajectory=trajectory,
        profile=profile,
        offset=sibling_prior.residual + offset,
    )  # fmt: skip


def combine_forecasts(
    curve: tuple[float, float], siblings: tuple[float, float] | None
) -> tuple[float, float]:
    """Minimum-variance combination of the curve forecast and the sibling forecast, correlation 0.5.

    All are (mean, standard deviation). The weight of the sibling forecast falls where the two disagree: a failing run ends
    where its own curve goes.
    """
    if siblings is None:
        return curve
    (mean, sd), (sibling_mean, sibling_sd) = curve, siblings
    excess = max(0.0, abs(mean - sibling_mean) - const.DISAGREEMENT * math.hypot(sd, sibling_sd))
    sibling_sd = math.hypot(sibling_sd, 2 * excess)
    covariance = const.ERROR_CORRELATION * sd * sibling_sd
    weight = (sd**2 - covariance) / (sd**2 + sibling_sd**2 - 2 * covariance)
    weight = min(max(weight, 0.0), 1.0)
    variance = ((1 - weight) * sd) ** 2 + (weight * sibling_sd) ** 2 + 2 * weight * (1 - weight) * covariance
    return mean + weight * (sibling_mean - mean), math.sqrt(variance)


def offset_at(loss: float, ends: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the offset of the whole eval set from a curve that ends at `loss`, and its standard deviation.

    Bayesian linear regression of (final − curve end) on the curve end, over the finished rungs `ends`.
    """
    distance = np.array([end - loss for end, _ in ends])
    values = np.array([final - end for end, final in ends])
    design = np.column_stack([np.ones(len(ends)), distance])
    noise = const.OFFSET_NOISE * loss
    total = np.diag([loss**-2.0, const.OFFSET_SLOPE[1] ** -2.0]) + design.T @ design / noise**2
    right = np.array([0.0, const.OFFSET_SLOPE[0] / const.OFFSET_SLOPE[1] ** 2]) + design.T @ values / noise**2
    covariance = np.linalg.inv(total)
    return float((covariance @ right)[0]), math.hypot(math.sqrt(covariance[0, 0]), noise / 2)
