"""Fit of the data-constrained form: the value of repeated tokens, and of parameters too many for their data."""

from itertools import product

import numpy as np

from ..laws import PUBLISHED_REPETITION, Repetition
from ..stats import Array
from .optimise import SHAPES, FormShape, Problem, minimise, starts

GRID_N, GRID_D = np.geomspace(0.5, 100, 5), np.geomspace(1, 150, 6)

REFINEMENTS = 4  # halvings of the grid's step in log R

MOST_ROWS = 300

# Of the logarithms of R_N and R_D about the published ones: between subsets of Muennighoff's own runs R_D is 8 to 66.
PRIOR_WIDTH = float(np.log(3))

_PUBLISHED = (float(np.log(PUBLISHED_REPETITION.R_N)), float(np.log(PUBLISHED_REPETITION.R_D)))

_NOTHING = 1e-30  # an objective of rows that lie on the form


def unidentified(repetition: Repetition) -> tuple[str, ...]:
    """Names and values among R_N, R_D whose optimum is on the edge of the search grid, hence not identified by the data."""
    pairs = (("R_N", repetition.R_N, GRID_N), ("R_D", repetition.R_D, GRID_D))
    return tuple(
        f"{name} {value:.3g}" for name, value, grid in pairs if not 1.001 * grid[0] < value < 0.999 * grid[-1]
    )


def fit_repetition(
    N: Array, D: Array, U: Array, L: Array, *, delta: float, form: str = "chinchilla", prior: bool = False
) -> Repetition:
    """R_N and R_D with which the form fits best: a grid in their logarithms, refined by halving its step.

    Rows that never have more parameters than U/20 leave R_N open, whatever grid is searched, and rows of little more than one
    epoch R_D. Under the prior they are then the published ones.

    Args:
        N: parameters, shape (n,).
        D: tokens, shape (n,), repeated ones counted each time.
        U: distinct tokens among D, shape (n,).
        L: losses in nats per token, shape (n,).
        delta: residual in log loss beyond which the Huber loss is linear.
        form: name of the form, a key of `SHAPES`.
        prior: the posterior's mode, under a prior about the published values; else the least objective.
    """
    if len(N) > MOST_ROWS:
        keep = np.argsort(N * D, kind="stable")[np.linspace(0, len(N) - 1, MOST_ROWS).round().astype(int)]
        N, D, U, L = N[keep], D[keep], U[keep], L[keep]
    shape = SHAPES[form]
    known: dict[tuple[float, float], float] = {}

    def cost(log_R: tuple[float, float]) -> float:
        if log_R not in known:
            known[log_R] = _misfit(log_R, N, D, U, L, delta, shape)
            if prior:
                likelihood = len(L) / 2 * np.log(max(known[log_R], _NOTHING))
                known[log_R] = float(likelihood + np.square(_apart(log_R)).sum() / 2)
        return known[log_R]

    grid = [(float(a), float(b)) for a, b in product(np.log(GRID_N), np.log(GRID_D))]
    grid += [_PUBLISHED] * prior
    best = min(grid, key=cost)
    step = float(np.log(GRID_D[1] / GRID_D[0])) / 2
    for _ in range(REFINEMENTS):
        best = min(
            ((best[0] + a * step, best[1] + b * step) for a, b in product((-1, 0, 1), repeat=2)), key=cost
        )
        step /= 2
    return Repetition(R_N=float(np.exp(best[0])), R_D=float(np.exp(best[1])))


def _apart(log_R: tuple[float, float]) -> Array:
    """How far they lie from the published values, in widths of the prior, shape (2,)."""
    return np.asarray((np.array(log_R) - np.array(_PUBLISHED)) / PRIOR_WIDTH)


def left_open(repetition: Repetition) -> tuple[str, ...]:
    """Names of those among R_N, R_D that are the published values, as rows that say nothing of them leave them."""
    pairs = (
        ("R_N", repetition.R_N, PUBLISHED_REPETITION.R_N),
        ("R_D", repetition.R_D, PUBLISHED_REPETITION.R_D),
    )
    return tuple(name for name, value, published in pairs if abs(value / published - 1) < 1e-3)


def _misfit(
    log_R: tuple[float, float], N: Array, D: Array, U: Array, L: Array, delta: float, shape: FormShape
) -> float:
    params, tokens = Repetition(R_N=float(np.exp(log_R[0])), R_D=float(np.exp(log_R[1]))).effective(N, D, U)
    problem = Problem.of(params, tokens, L, delta=delta)
    return float(np.nanmin(minimise(problem, shape, starts(problem, shape, 2), steps=60).objective))
