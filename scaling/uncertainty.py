"""How sure: resampling of whole runs, and the noise between like runs."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .optimise import Problem, Shape, minimise
from .runs import Columns

Array = NDArray[np.float64]
FEWEST_RUNS = 4
CHUNK = 400_000  # row-resamples in memory at once, about 200 MB


def cluster_weights(cluster: NDArray[np.intp], count: int, rng: np.random.Generator) -> Array:
    """Weights of the rows in `count` Bayesian bootstraps of whole runs (Rubin 1981), shape (count, n).

    Runs get Dirichlet(1, …, 1) weights rather than whole-number counts: every resample keeps every run, so that four runs
    do not yield resamples that hold a single size.
    """
    runs = int(cluster.max()) + 1
    draws = rng.standard_exponential((count, runs))
    return np.asarray((draws * (runs / draws.sum(axis=1, keepdims=True)))[:, cluster])


def cluster_draws(
    problem: Problem, shape: Shape, theta: Array, cluster: NDArray[np.intp], count: int, seed: int
) -> Array:
    """Constants refitted to each of `count` resamples of whole runs, in the order of CONSTANTS: shape (count,
    6).
    """
    if not count:
        return np.empty((0, 6))
    rng = np.random.default_rng([seed, 2])
    weights = cluster_weights(cluster, count, rng) * problem.weights
    size = max(1, CHUNK // len(problem.x))
    found = []
    for at in range(0, count, size):
        part = weights[at : at + size]
        start = np.tile(theta, (len(part), 1))
        found.append(
            minimise(replace(problem, weights=part), shape, start, continuation=(1.0,), steps=60).theta
        )
    constants = problem.constants(np.concatenate(found))
    return np.asarray(constants[np.isfinite(constants).all(axis=1)])


def noise_of(table: Columns, residuals: Array) -> float:
    """Standard deviation of log loss between like runs.

    From replicated cells (same N and D, different runs) where at least 3 degrees of freedom are there, or from loss_se;
    else from the residuals of the fit, robustly (median |r| / 0.6745), which then holds misfit too.
    """
    cells: dict[tuple[float, float], list[float]] = {}
    for n, d, loss in zip(table.N, table.D, table.L, strict=True):
        cells.setdefault((float(n), float(d)), []).append(float(np.log(loss)))
    replicated = [values for values in cells.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in replicated)
    fitted = float(np.median(np.abs(residuals)) / 0.6745)
    if freedom >= 3:
        return max(float(np.sqrt(sum(np.var(v) * len(v) for v in replicated) / freedom)), 1e-9)
    known = table.se[np.isfinite(table.se)]
    if len(known):
        return max(float(np.median(known / table.L[np.isfinite(table.se)])), fitted)
    return fitted
