"""A law of the learning curve that knows the learning rate: what a run has shown, and what its schedule still brings.

    L(s) = level − slope·h(x/x_end) − gain·a(s)        h(r) = (1 − r^-alpha)/alpha

x is how far the learning rate has carried the run, Σ η^0.7 with η in units of the peak, and x_end a fixed one, so that level
and slope are the trunk's loss and its fall per e-fold there (a power law in x as in Tissue et al. 2024, arXiv:2408.11029,
eq. 1, who take the plain area; with it cosine runs ended below, and wsd runs above the law that fitted both: docs/log.md).
a is what annealing has brought, between 0 and 1: each drop of the rate pays off as the area after it grows (the multi-power
law of Luo et al. 2025, arXiv:2503.12811, with an exponential in place of their power),

    a(s) = Σ_k (η_{k-1} − η_k)·(1 − exp(−S_k(s)·η_k^-1/2 / memory))

with S_k(s) the share of x from step k to s. For given alpha and memory the law is linear
in its other constants: these are integrated out in closed form, and the two by a grid (variable projection with a prior).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..schedule import Schedule
from ..stats import Array

CELLS = 240  # that a schedule is cut into

ALPHAS = np.linspace(0.05, 1.25, 13)

MEMORIES = np.geomspace(4.0, 4000.0, 13)  # steps at the peak rate

LEVEL, SLOPE, GAIN, SHIFT, DRIFT = range(5)

NAMES = ("level", "slope", "gain", "shift", "drift")

PROGRESS = 0.7  # power of the rate that x sums

_FLATTEST = 1e-3  # of the peak, below which the rate makes no difference to the memory


@dataclass(frozen=True, slots=True, kw_only=True)
class LrProfile:
    """A schedule as a function to ask: how far it carries a run, and how far annealing has come."""

    edge: Array  # steps, from 0 to the last
    area: Array  # x at each edge, in steps at the peak rate
    drop: Array  # of the rate within each cell, 0 where it rises
    rate: Array  # in the middle of each cell

    @staticmethod
    @lru_cache(maxsize=64)
    def of(schedule: Schedule) -> "LrProfile":
        """Cut finely where the rate falls."""
        steps = schedule.steps
        falls = min(max(schedule.decay_starts, 0), steps)
        rises = min(schedule.warmup, falls)
        edges = np.unique(
            np.concatenate(
                [np.linspace(0, rises, 9), np.linspace(rises, falls, 9), np.linspace(falls, steps, CELLS)]
            )
        )
        # of the step before each edge, so that the first cell of a cooldown begins at the peak
        rate = np.array([schedule.lr(max(0, round(edge) - 1)) for edge in edges]) / schedule.peak
        rate[-1] = 0.0 if falls < steps else rate[-1]
        middle = (rate[1:] + rate[:-1]) / 2
        area = np.concatenate([[0.0], np.cumsum(middle**PROGRESS * np.diff(edges))])
        return LrProfile(edge=edges, area=area, drop=np.maximum(0.0, rate[:-1] - rate[1:]), rate=middle)

    def area_at(self, step: Array) -> Array:
        """Steps at the peak rate that are worth as much as those up to a step."""
        return np.asarray(np.interp(step, self.edge, self.area))

    def annealed(self, step: Array, memory: Array) -> Array:
        """a(s), shape (len(memory), len(step))."""
        falling = np.flatnonzero(self.drop > 0)
        if not len(falling) or not len(step):
            return np.zeros((len(memory), len(step)))
        middles = (self.area[falling] + self.area[falling + 1]) / 2
        after = np.maximum(0.0, self.area_at(step)[:, None] - middles)  # (steps, cells)
        after = after * np.maximum(self.rate[falling], _FLATTEST) ** -0.5
        # a cell that the step lies in, or that lies after it, has paid nothing yet
        return np.stack([(1 - np.exp(-after / tau)) @ self.drop[falling] for tau in memory])


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Observed losses under one schedule: y = L(step) + train·(shift + drift·log(x/x_end)), give or take `noise`.

    train: 1 for lines of training loss, 0 for looks at held-out text.
    """

    profile: LrProfile
    step: Array
    loss: Array
    noise: Array  # standard deviation, nats
    train: Array

    def features(self, reference: float) -> Array:
        """What each point says of the linear constants, shape (alphas·memories, points, 5)."""
        return features(self.profile, self.step, self.train, reference)


def features(profile: LrProfile, step: Array, train: Array, reference: float) -> Array:
    """Of level, slope, gain, shift and drift, for each alpha and memory of the grid."""
    ratio = np.log(np.maximum(profile.area_at(step), 1e-9) / reference)
    fall = -np.expm1(-ALPHAS[:, None] * ratio) / ALPHAS[:, None]  # (alphas, points)
    gained = profile.annealed(step, MEMORIES)  # (memories, points)
    found = np.empty((len(ALPHAS), len(MEMORIES), len(step), 5))
    found[..., LEVEL] = 1.0
    found[..., SLOPE] = -fall[:, None, :]
    found[..., GAIN] = -gained[None, :, :]
    found[..., SHIFT] = train
    found[..., DRIFT] = train * ratio
    return found.reshape(-1, len(step), 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryPrior:
    """What is believed before the run is seen: independent normals of the linear constants, alpha and log memory."""

    mean: Array  # of level, slope, gain (nats), shift, drift
    sd: Array
    alpha: tuple[float, float]
    log_memory: tuple[float, float]

    def log_weights(self) -> Array:
        """Of each alpha and memory of the grid."""
        first = -0.5 * ((ALPHAS - self.alpha[0]) / self.alpha[1]) ** 2
        second = -0.5 * ((np.log(MEMORIES) - self.log_memory[0]) / self.log_memory[1]) ** 2
        return np.asarray((first[:, None] + second[None, :]).ravel())


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """What is believed of the law's constants: for each point of the grid a weight, and a normal of the linear ones."""

    reference: float  # x_end, in steps at the peak rate
    weight: Array  # (grid,)
    mean: Array  # (grid, 5)
    covariance: Array  # (grid, 5, 5)

    def at(self, profile: LrProfile, step: Array, *, train: bool = False) -> tuple[Array, Array]:
        """Expected loss at steps of a schedule, and its standard deviation, noise of single observations left out."""
        found = features(profile, step, np.full(len(step), float(train)), self.reference)
        means = np.einsum("gpk,gk->gp", found, self.mean)
        inner = np.einsum("gpk,gkl,gpl->gp", found, self.covariance, found)
        mean = self.weight @ means
        variance = self.weight @ (inner + (means - mean) ** 2)
        return mean, np.sqrt(np.maximum(variance, 0.0))

    def constants(self) -> tuple[Array, Array]:
        """Means and standard deviations of level, slope, gain, shift, drift, alpha and log memory."""
        alpha = np.repeat(ALPHAS, len(MEMORIES))
        memory = np.tile(np.log(MEMORIES), len(ALPHAS))
        values = np.column_stack([self.mean, alpha, memory])
        mean = self.weight @ values
        within = np.zeros_like(values)
        within[:, :5] = np.diagonal(self.covariance, axis1=1, axis2=2)
        return mean, np.sqrt(self.weight @ (within + (values - mean) ** 2))


def learn(points: tuple[Points, ...], prior: TrajectoryPrior, reference: float) -> Trajectory:
    """The posterior after these points."""
    phi = np.concatenate([one.features(reference) for one in points], axis=1)
    loss = np.concatenate([one.loss for one in points])
    precision = np.concatenate([one.noise for one in points]) ** -2.0
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
