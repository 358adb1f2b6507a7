"""Law of the learning curve as a function of the learning-rate schedule, fitted as a Bayesian linear model on a grid.

    L(s) = level − slope·h(x/x_end) − gain·a(s)        h(r) = (1 − r^-alpha)/alpha

x is the progress variable, Σ η^0.7 with η in units of the peak, and x_end its value at a reference point, so that level and
slope are the trunk's loss and its fall per e-fold of x there. A power law in x as in Tissue et al. 2024 (arXiv:2408.11029,
eq. 1), who use the plain area; with that, cosine runs ended below and wsd runs above the law that fitted both
(docs/log.md). a is the annealing term, between 0 and 1: the effect of each drop of the learning rate grows with the area
after it (multi-power law of Luo et al. 2025, arXiv:2503.12811, with an exponential in place of their power),

    a(s) = Σ_k (η_{k-1} − η_k)·(1 − exp(−S_k(s)·η_k^-1/2 / memory))

with S_k(s) the part of x from step k to s. For given alpha and memory the law is linear in its other constants; those are
integrated out in closed form, alpha and memory on a grid (variable projection with a prior).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..schedule import Schedule
from ..stats import Array
from . import constants as const

CELLS = 240  # of the decay in the discretised schedule

ALPHAS = np.linspace(0.05, 1.25, 13)

MEMORIES = np.geomspace(4.0, 4000.0, 13)  # in steps at the peak learning rate

LEVEL, SLOPE, GAIN, SHIFT, DRIFT = range(5)

NAMES = ("level", "slope", "gain", "shift", "drift")


_MIN_RATE = 1e-3  # share of the peak; lower learning rates have the memory of this one


@dataclass(frozen=True, slots=True, kw_only=True)
class LrProfile:
    """A discretised learning-rate schedule: progress variable x and annealing term a as functions of the step.

    Arrays of shape (cells,), `edge` and `area` of shape (cells + 1,).
    """

    edge: Array  # in steps, from 0 to the last step
    area: Array  # x at each edge, in steps at the peak learning rate
    drop: Array  # fall of the learning rate within each cell, in units of the peak; 0 where it rises
    rate: Array  # learning rate in the middle of each cell, in units of the peak

    @staticmethod
    @lru_cache(maxsize=64)
    def of(schedule: Schedule) -> "LrProfile":
        """Discretise a schedule, finely where the learning rate falls."""
        steps = schedule.steps
        falls = min(max(schedule.decay_starts, 0), steps)
        rises = min(schedule.warmup, falls)
        edges = np.unique(
            np.concatenate(
                [np.linspace(0, rises, 9), np.linspace(rises, falls, 9), np.linspace(falls, steps, CELLS)]
            )
        )
        # rate of the step before each edge, so that the first cell of a cooldown starts at the peak
        rate = np.array([schedule.lr(max(0, round(edge) - 1)) for edge in edges]) / schedule.peak
        rate[-1] = 0.0 if falls < steps else rate[-1]
        middle = (rate[1:] + rate[:-1]) / 2
        area = np.concatenate([[0.0], np.cumsum(middle**const.PROGRESS_POWER * np.diff(edges))])
        return LrProfile(edge=edges, area=area, drop=np.maximum(0.0, rate[:-1] - rate[1:]), rate=middle)

    def area_at(self, step: Array) -> Array:
        """Return x at the steps, in steps at the peak learning rate; same shape as `step`."""
        return np.asarray(np.interp(step, self.edge, self.area))

    def annealed(self, step: Array, memory: Array) -> Array:
        """Return the annealing term a(s), shape (len(memory), len(step))."""
        falling = np.flatnonzero(self.drop > 0)
        if not len(falling) or not len(step):
            return np.zeros((len(memory), len(step)))
        middles = (self.area[falling] + self.area[falling + 1]) / 2
        after = np.maximum(0.0, self.area_at(step)[:, None] - middles)  # (steps, cells)
        after = after * np.maximum(self.rate[falling], _MIN_RATE) ** -0.5
        # a cell that contains the step, or lies after it, contributes nothing yet
        return np.stack([(1 - np.exp(-after / tau)) @ self.drop[falling] for tau in memory])


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Observed losses under one schedule, arrays of shape (points,): y = L(step) + train·(shift + drift·ln(x/x_end)) ± noise.

    Losses and noise (standard deviation) in nats per token; `train` is 1 for training loss, 0 for held-out loss.
    """

    profile: LrProfile
    step: Array
    loss: Array
    noise: Array
    train: Array

    def features(self, reference: float) -> Array:
        """Return the design matrices of the linear constants, shape (alphas·memories, points, 5)."""
        return features(self.profile, self.step, self.train, reference)


def features(profile: LrProfile, step: Array, train: Array, reference: float) -> Array:
    """Return the design matrices of level, slope, gain, shift and drift, shape (alphas·memories, points, 5).

    Args:
        profile: the schedule.
        step: shape (points,).
        train: 1 for training loss, 0 for held-out loss, shape (points,).
        reference: x_end, in steps at the peak learning rate.
    """
    ratio = np.log(np.maximum(profile.area_at(step), 1e-9) / reference)
    fall = -np.expm1(-ALPHAS[:, None] * ratio) / ALPHAS[:, None]  # (alphas, points)
    gained = profile.annealed(step, MEMORIES)  # (memories, points)
    design = np.empty((len(ALPHAS), len(MEMORIES), len(step), 5))
    design[..., LEVEL] = 1.0
    design[..., SLOPE] = -fall[:, None, :]
    design[..., GAIN] = -gained[None, :, :]
    design[..., SHIFT] = train
    design[..., DRIFT] = train * ratio
    return design.reshape(-1, len(step), 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryPrior:
    """Independent normal priors of the linear constants, alpha and log memory; pairs are (mean, standard deviation)."""

    mean: Array  # (5,): level, slope, gain, shift, drift, in nats per token
    sd: Array  # (5,)
    alpha: tuple[float, float]
    log_memory: tuple[float, float]

    def log_weights(self) -> Array:
        """Return the log prior of each point of the grid, shape (alphas·memories,), up to a constant."""
        first = -0.5 * ((ALPHAS - self.alpha[0]) / self.alpha[1]) ** 2
        second = -0.5 * ((np.log(MEMORIES) - self.log_memory[0]) / self.log_memory[1]) ** 2
        return np.asarray((first[:, None] + second[None, :]).ravel())


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """Posterior of the law's constants: a weight for each point of the grid, and a normal of the linear constants there."""

    reference: float  # x_end, in steps at the peak learning rate
    weight: Array  # (grid,)
    mean: Array  # (grid, 5)
    covariance: Array  # (grid, 5, 5)

    def at(self, profile: LrProfile, step: Array, *, train: bool = False) -> tuple[Array, Array]:
        """Return mean and standard deviation of the loss at steps of a schedule, without observation noise.

        Args:
            profile: the schedule.
            step: shape (steps,).
            train: True for training loss, False for held-out loss.
        """
        design = features(profile, step, np.full(len(step), float(train)), self.reference)
        means = np.einsum("gpk,gk->gp", design, self.mean)
        inner = np.einsum("gpk,gkl,gpl->gp", design, self.covariance, design)
        mean = self.weight @ means
        variance = self.weight @ (inner + (means - mean) ** 2)
        return mean, np.sqrt(np.maximum(variance, 0.0))

    def constants(self) -> tuple[Array, Array]:
        """Return posterior means and standard deviations, each (7,), of NAMES, alpha and log memory."""
        alpha = np.repeat(ALPHAS, len(MEMORIES))
        memory = np.tile(np.log(MEMORIES), len(ALPHAS))
        values = np.column_stack([self.mean, alpha, memory])
        mean = self.weight @ values
        within = np.zeros_like(values)
        within[:, :5] = np.diagonal(self.covariance, axis1=1, axis2=2)
        return mean, np.sqrt(self.weight @ (within + (values - mean) ** 2))


def fit_trajectory(points: tuple[Points, ...], prior: TrajectoryPrior, reference: float) -> Trajectory:
    """Return the posterior of the law's constants given observations under one or more schedules."""
    phi = np.concatenate([part.features(reference) for part in points], axis=1)
    loss = np.concatenate([part.loss for part in points])
    precision = np.concatenate([part.noise for part in points]) ** -2.0
    residual = loss - phi @ prior.mean  # (grid, points)
    weighted = phi * precision[None, :, None]
    total = np.einsum("gpk,gpl->gkl", weighted, phi) + np.diag(prior.sd**-2.0)
    right = np.einsum("gpk,gp->gk", weighted, residual)
    covariance = np.linalg.inv(total)
    shift = np.einsum("gkl,gl->gk", covariance, right)
    misfit = np.einsum("gp,p->g", residual**2, precision) - np.einsum("gk,gk->g", right, shift)
    log = prior.log_weights() - 0.5 * (misfit + np.linalg.slogdet(total)[1])
    weight = np.exp(log - log.max())
    return Trajectory(
        reference=reference, weight=weight / weight.sum(), mean=prior.mean + shift, covariance=covariance
    )
