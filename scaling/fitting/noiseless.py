"""Rows without noise: the law that passes through them, which no prior bends.

Losses made by a formula, such as a published law's own, tell six constants to the last digit wherever they lie, also where no
trained table of the prior's lies: within a few per cent of their floor, or of a floor near 0. No training run repeats itself to
1e-4 of its loss (seeds differ by 5e-4 and more), so a law of six constants that misses more than eight rows by less
is taken for the formula behind them.
"""

from dataclasses import replace

import numpy as np

from ..stats import Array
from .misfit import SLOPES, Posterior
from .optimise import A_, ALPHA_, B_, BETA_, E_, G_, FormShape, Problem, linearised, minimise

STILL = (
    1e-4  # of log loss: less noise than any training has, and what is still left open of a law without noise
)

FEWEST_FREE = 3  # distinct points beyond the number of constants

MOST_ROWS = 200  # rows beyond this number outweigh the prior by themselves

NEARLY = 2.0  # times STILL, to first order, from which the search is worth its time

NO_FLOOR = 12.0  # log of the smallest loss over a floor that is none

MOST_STEPS = 400


def law_through(problem: Problem, shape: FormShape, theta: Array) -> Array | None:
    """θ (6,) of the law that passes through the rows within STILL, searched from a fit with a prior; None where none does.

    Args:
        problem: the rows.
        shape: the general form.
        theta: a fit of the same rows, shape (6,).
    """
    freedom = len(problem.x) - len(shape.free)
    if freedom < FEWEST_FREE or len(problem.x) > MOST_ROWS:
        return None
    value, gradient = (part[0] for part in linearised(theta[None], problem.x, problem.z, shape))
    off = problem.y - value
    across = off - gradient @ np.linalg.lstsq(gradient, off, rcond=1e-9)[0]
    if (across**2).sum() > freedom * (NEARLY * STILL) ** 2:
        return None
    points = len(np.unique(np.column_stack([problem.x, problem.z]), axis=0))
    if points - len(shape.free) < FEWEST_FREE:
        return None
    bare = replace(problem, precision=np.full(6, 1e-12), centre=theta)
    low = theta.copy()
    low[E_] = problem.y.min() - NO_FLOOR
    without = replace(shape, free=(A_, B_, ALPHA_, BETA_, G_), fixed=tuple(low.tolist()))
    found = [
        minimise(bare, form, start[None], continuation=(1.0,), steps=MOST_STEPS)
        for form, start in ((shape, theta), (without, low))
    ]
    best = min(found, key=lambda one: float(one.objective[0]))
    off = problem.y - linearised(best.theta, problem.x, problem.z, shape)[0][0]
    return best.theta[0] if (off**2).sum() <= freedom * STILL**2 else None


def still_posterior(problem: Problem, shape: FormShape, theta: Array, widths: Array) -> Posterior:
    """The posterior of rows whose only error is STILL, independent and small, about the law through them.

    Args:
        problem: the rows.
        shape: the general form.
        theta: of the law through them, shape (6,).
        widths: standard deviations of the prior, shape (6,): what holds constants that the rows leave open.
    """
    free = list(shape.free)
    gradient = linearised(theta[None], problem.x, problem.z, shape)[1][0]
    covariance = np.zeros((6, 6))
    covariance[np.ix_(free, free)] = np.linalg.inv(
        gradient.T @ gradient / STILL**2 + np.diag(1 / widths[free] ** 2)
    )
    return Posterior(
        theta=theta,
        covariance=covariance,
        wander=STILL,
        offset=STILL,
        converged=True,
        prior_share=min(float(np.mean(np.diag(covariance)[SLOPES] / widths[SLOPES] ** 2)), 1.0),
    )


def share_on_rows(log_losses: Array) -> float:
    """Share of the draws' variance with which they miss the rows by STILL: ridges are curved, and normal draws leave them.

    Args:
        log_losses: of each draw at each row, shape (draws, rows).
    """
    return STILL**2 / max(float(np.var(log_losses, axis=0).mean()), STILL**2)
