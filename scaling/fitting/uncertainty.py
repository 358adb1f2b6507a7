"""Uncertainty of a fit: resampling of whole runs, noise between like runs, and the profile of an exponent."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..runs import RunTable
from ..stats import Array
from .optimise import ABSENT, FormShape, Problem, influence, minimise

FEWEST_RUNS = 4

CHUNK = 300_000  # row-resamples in memory at once, about 200 MB

MOST_REFITTED = 1000  # rows; larger tables are resampled to first order, which their size makes exact enough

SPENT = (
    3  # degrees of freedom that a law takes from the spread of few runs; the prior holds its other constants
)

FEWEST_BELOW = 20  # residuals below 0 from which their own spread is known well enough

FEWEST_REPLICATES = 3  # degrees of freedom at which replicated cells give the noise


def cluster_weights(cluster: NDArray[np.intp], count: int, rng: np.random.Generator) -> Array:
    """Weights of the rows in `count` Bayesian bootstraps of whole runs (Rubin 1981), shape (count, n).

    Runs get Dirichlet(1, …, 1) weights rather than whole-number counts: every resample keeps every run, so that
    four runs do not yield resamples that hold a single size.
    """
    runs = int(cluster.max()) + 1
    draws = rng.standard_exponential((count, runs))
    return np.asarray((draws * (runs / draws.sum(axis=1, keepdims=True)))[:, cluster])


def cluster_draws(
    problem: Problem, shape: FormShape, theta: Array, cluster: NDArray[np.intp], count: int, seed: int
) -> Array:
    """Constants refitted to each of `count` resamples of whole runs, in the order of CONSTANTS: shape (count, 6).

    Their spread is widened by sqrt(runs/(runs − 3)): few runs bend the law towards themselves.

    Args:
        problem: the rows, n of them.
        shape: the form.
        theta: the optimum with equal weights, shape (6,).
        cluster: number of each row's run, from 0, shape (n,).
        count: resamples; 0 for none.
        seed: of the resampling.
    """
    if not count:
        return np.empty((0, 6))
    weights = cluster_weights(cluster, count, np.random.default_rng([seed, 2]))
    if len(problem.x) > MOST_REFITTED:
        draws = theta + (weights - 1) @ influence(problem, shape, theta).T
    else:
        draws = np.concatenate(
            [
                minimise(
                    replace(problem, weights=part),
                    shape,
                    np.tile(theta, (len(part), 1)),
                    continuation=(1.0,),
                    steps=60,
                ).theta
                for part in _chunks(weights)
            ]
        )
    runs = int(cluster.max()) + 1
    draws = theta + np.sqrt(runs / (runs - SPENT)) * (draws - theta)
    constants = problem.constants(shape.at(draws))
    broken = ~np.isfinite(constants).all(axis=1)
    constants[broken] = problem.constants(theta)
    return constants


def _chunks(weights: Array) -> list[Array]:
    size = max(1, CHUNK // weights.shape[1])
    return [weights[at : at + size] for at in range(0, len(weights), size)]


def noise_of(table: RunTable, residuals: Array) -> float:
    """Standard deviation of log loss between like runs.

    From replicated cells (same N, D and distinct tokens, different runs) where at least 3 degrees of freedom are there, or from
    loss_se; else from the residuals of the fit, by the quantiles of their size that a normal's would have at one
    standard deviation's 0.67 and 1.28, which then holds misfit too.
    """
    runs = int(table.cluster.max()) + 1
    means = np.bincount(table.cluster, residuals) / np.bincount(table.cluster)
    widened = np.sqrt(runs / max(runs - SPENT, 1))
    fitted = max(_spread(residuals), float(widened) * _spread(means))
    cells: dict[tuple[float, float, float], dict[int, float]] = {}
    for n, d, u, run, loss in zip(table.N, table.D, table.U, table.cluster, table.L, strict=True):
        cells.setdefault((float(n), float(d), float(u)), {})[int(run)] = float(np.log(loss))
    replicated = [np.array(list(runs.values())) for runs in cells.values() if len(runs) > 1]
    freedom = sum(len(values) - 1 for values in replicated)
    if freedom >= FEWEST_REPLICATES:
        return float(np.sqrt(sum(float(np.var(v)) * len(v) for v in replicated) / freedom))
    known = np.isfinite(table.se)
    if known.sum() >= len(table) / 2:
        return max(float(np.median(table.se[known] / table.L[known])), fitted)
    return fitted


def _spread(values: Array) -> float:
    """Standard deviation by quantiles, of the values below 0 alone where they are many and spread less.

    Runs fail upwards: untuned, early and diverged ones lie far above a law, and nothing lies as far below it.
    """
    below = values[values < 0]
    spread = _scale(values)
    return min(spread, _scale(below)) if len(below) >= FEWEST_BELOW else spread


def _scale(values: Array) -> float:
    half, most = np.quantile(np.abs(values), [0.5, 0.8])
    return float(max(half / 0.6745, most / 1.2816))


def profile(
    problem: Problem, shape: FormShape, theta: Array, coordinate: int, values: Array
) -> tuple[Array, Array]:
    """The least objective with one coordinate of θ held at each of `values`: (objective, θ) of shapes (k,), (k, 6).

    Args:
        problem: the rows.
        shape: the form.
        theta: the optimum, shape (6,), from which the first fit starts.
        coordinate: index in θ of the one held.
        values: of that coordinate, shape (k,), in the order of the fits.
    """
    fixed = list(theta)
    objectives: list[float] = []
    thetas: list[Array] = []
    for value in values:
        fixed[coordinate] = float(value)
        held = FormShape(
            name=shape.name,
            free=tuple(index for index in shape.free if index != coordinate),
            fixed=tuple(fixed[i] if i == coordinate or i not in shape.free else ABSENT for i in range(6)),
            beta_is_gamma=shape.beta_is_gamma,
            variable=shape.variable,
        )
        start = np.array(thetas[-1] if thetas else theta)
        solution = minimise(problem, held, np.stack([start, theta]))
        best = int(np.nanargmin(solution.objective))
        objectives.append(float(solution.objective[best]))
        thetas.append(solution.theta[best])
    return np.array(objectives), np.array(thetas)
