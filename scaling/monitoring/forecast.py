"""Where a run will end: its curve so far, its schedule still to come, and what its finished siblings teach."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from families.units import BadInput

from ..stats import Array
from .curves import FEWEST_POINTS, RunCurves, end_of, reference_of, scale_of
from .siblings import DISAGREE, forecast_from_siblings, observe, prior_from_siblings
from .trajectory import LrProfile, Trajectory, learn

_OFFSET_SLOPE, _OFFSET_NOISE = (0.1, 0.15), 0.004  # nats per nat; of the loss

_MODEL_ERROR = 0.004  # of the loss

_BOTH_MISS = (
    0.006  # of the loss: what neither the curve nor the siblings know; with it simulated runs are covered too
)

_ERR_TOGETHER = 0.5  # correlation of a curve's own error with that of the forecast beside siblings


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
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
    profile: LrProfile
    offset: float  # of the target's loss from the curve's own at the end

    def interval(self, z: float) -> tuple[float, float]:
        """The loss give or take z standard deviations."""
        return self.loss - z * self.sd, self.loss + z * self.sd

    def path(self, step: Array) -> tuple[Array, Array]:
        """The expected loss on the target's own text at steps of the schedule, and its standard deviation."""
        mean, sd = self.trajectory.at(self.profile, step)
        return mean + self.offset, sd


def forecast_final_loss(
    run: RunCurves, siblings: Sequence[RunCurves] = (), *, steps: int | None = None, until: int | None = None,
) -> Forecast:  # fmt: skip
    """The final loss of a rung (default: the one in hand) from what was logged up to a step (default: all).

    Raises:
        BadInput: too little is logged to say anything, or every rung is done.
    """
    rung = steps if steps is not None else run.ahead
    if rung is None:
        raise BadInput(f"{run.name} is finished; there is nothing left to foresee")
    found = forecast_from_curve(run, siblings, rung, until)
    loss, doubt = combine_forecasts(
        (found.loss, found.sd), forecast_from_siblings(run, siblings, rung, until)
    )
    doubt = math.hypot(doubt, _BOTH_MISS * loss)
    return replace(found, loss=loss, sd=doubt, offset=found.offset + loss - found.loss)


def forecast_from_curve(
    run: RunCurves, siblings: Sequence[RunCurves], rung: int, until: int | None
) -> Forecast:
    """The forecast that a run's own curve makes, with what siblings teach of such curves but not where they ended.

    Raises:
        BadInput: too little is logged to say anything.
    """
    curve = run.rung(rung) if until is None else run.rung(rung).until(until)
    reference = reference_of(run, rung)
    school = prior_from_siblings(run, siblings, rung, reference, scale_of(curve))
    points = observe(run, rung, curve, school)
    if points is None:
        raise BadInput(
            f"{run.name} has logged {len(curve.step)} lines; a forecast needs {FEWEST_POINTS} past its warm-up"
        )
    trajectory = learn((points,), school.prior, reference)
    profile = LrProfile.of(run.underway.to(rung))
    mean, sd = trajectory.at(profile, np.array([float(rung)]))
    end = float(mean[0]) + school.residual
    own = tuple(
        end_of(run, shorter) for shorter in run.finals if shorter != rung and shorter <= (until or rung)
    )
    ends = school.ends + own
    offset, offset_sd = offset_at(end, ends) if ends else (0.0, 0.0)
    looked = bool(len(curve.eval_step))
    return Forecast(
        run=run.name,
        steps=rung,
        at_step=int(curve.step[-1]),
        loss=end + offset,
        sd=math.hypot(float(sd[0]), offset_sd, _MODEL_ERROR * end),
        target="held-out" if ends else "glance" if looked else "training",
        siblings=len(school.lessons),
        trajectory=trajectory,
        profile=profile,
        offset=school.residual + offset,
    )  # fmt: skip


def combine_forecasts(curve: tuple[float, float], alike: tuple[float, float] | None) -> tuple[float, float]:
    """The best average of what a run's own curve says of its end and what its place beside its siblings says: (mean, sd).

    The siblings' share falls where the two disagree: a run that goes wrong ends where its own curve goes.
    """
    if alike is None:
        return curve
    (here, own), (there, theirs) = curve, alike
    beyond = max(0.0, abs(here - there) - DISAGREE * math.hypot(own, theirs))
    theirs = math.hypot(theirs, 2 * beyond)
    covariance = _ERR_TOGETHER * own * theirs
    share = (own**2 - covariance) / (own**2 + theirs**2 - 2 * covariance)
    share = min(max(share, 0.0), 1.0)
    variance = ((1 - share) * own) ** 2 + (share * theirs) ** 2 + 2 * share * (1 - share) * covariance
    return here + share * (there - here), math.sqrt(variance)


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
