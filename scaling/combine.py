"""The default predictor: a few forms, weighted by how well each predicts the expensive part of the data from
the cheap part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .optimise import G_, SHAPES, Problem, Shape, log_loss, minimise
from .starts import starts

Array = NDArray[np.float64]
PRIOR_CENTRE = np.array([0.0, 0.0, 0.0, 0.35, 0.35, np.log(0.7)])
PRIOR_WIDTH = np.array([0.5, 2.0, 2.0, 0.2, 0.2, 0.6])
FEWEST_TRAINING_ROWS = 6
FEWEST_HELD_ROWS = 2
DECADES = (0.3, 0.5, 0.75, 1.0)  # how far below the largest compute the rollouts cut
UNTESTED_ERROR = (
    0.02  # rms log error over a decade where no rollout can be made (measured means: 0.013 to 0.023)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A form of the default predictor. emphasis κ weighs a row by (C/C_max)^κ, so that expensive runs count
    more.
    """

    name: str
    shape: Shape
    emphasis: float = 0.0
    prior: bool = True


CANDIDATES = (
    Candidate(name="chinchilla", shape=SHAPES["chinchilla"]),
    Candidate(name="general", shape=SHAPES["general"]),
)


def problem_of(candidate: Candidate, N: Array, D: Array, L: Array, *, delta: float, scale: float) -> Problem:
    """Rows with the candidate's weights and prior. `scale` is the mean |residual|, which sets what the prior
    weighs.
    """
    C = N * D
    weights = (C / C.max()) ** candidate.emphasis
    problem = Problem.of(N, D, L, delta=delta, weights=weights * (len(C) / weights.sum()))
    if not candidate.prior:
        return problem
    centre = PRIOR_CENTRE.copy()
    low = float(problem.y.min())
    centre[0] = low + np.log(0.6)
    centre[1] = centre[2] = low + np.log(0.3)
    return Problem.of(
        N,
        D,
        L,
        delta=delta,
        weights=problem.weights,
        centre=centre,
        precision=delta * max(scale, delta) / PRIOR_WIDTH**2,
    )


def solve(problem: Problem, shape: Shape) -> Array:
    """The best θ (6,) of one problem."""
    solution = minimise(problem, shape, starts(problem, shape, 6))
    return np.asarray(solution.theta[int(np.nanargmin(solution.objective))])


def residual_scale(N: Array, D: Array, L: Array, delta: float) -> float:
    """Mean |log residual| of the plain general form: the noise of these rows and what no law catches."""
    problem = problem_of(Candidate(name="", shape=SHAPES["general"]), N, D, L, delta=delta, scale=0.005)
    theta = solve(problem, SHAPES["general"])
    return float(np.abs(log_loss(theta[None], problem.x, problem.z)[0] - problem.y).mean())


def predict_log(problem: Problem, theta: Array, N: Array, D: Array) -> Array:
    """log L of one θ at other points."""
    return np.asarray(log_loss(theta[None], np.log(N) - problem.x_mean, np.log(D) - problem.z_mean)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts:
    """Errors of each candidate on rows held out above a cut in compute.

    errors: log predicted − log actual, shape (candidates, held rows of all cuts); decades: log10 of how far beyond the
    training part each held row lies; cut: which cut it belongs to.
    """

    errors: Array
    decades: Array
    cut: NDArray[np.intp]


def rollouts(
    candidates: Sequence[Candidate], N: Array, D: Array, L: Array, *, delta: float, scale: float
) -> Rollouts | None:
    """Fit below each cut, score above it. None where the rows are too few."""
    C = N * D
    errors, decades, cuts = [], [], []
    for number, gap in enumerate(DECADES):
        cheap = C * 10**gap <= C.max() * (1 + 1e-9)
        if cheap.sum() < FEWEST_TRAINING_ROWS or (~cheap).sum() < FEWEST_HELD_ROWS:
            continue
        row = []
        for candidate in candidates:
            problem = problem_of(candidate, N[cheap], D[cheap], L[cheap], delta=delta, scale=scale)
            theta = solve(problem, candidate.shape)
            row.append(predict_log(problem, theta, N[~cheap], D[~cheap]) - np.log(L[~cheap]))
        errors.append(np.array(row))
        decades.append(np.log10(C[~cheap] / C[cheap].max()))
        cuts.append(np.full(int((~cheap).sum()), number))
    if not errors:
        return None
    return Rollouts(
        errors=np.concatenate(errors, axis=1), decades=np.concatenate(decades), cut=np.concatenate(cuts)
    )


def weigh(result: Rollouts | None, candidates: Sequence[Candidate]) -> tuple[Array, Array | None, float]:
    """Weights by inverse squared rollout error, each candidate's error, and the drift per decade of the
    combination.
    """
    if result is None:
        equal = np.array([0.2 if G_ in candidate.shape.free else 0.8 for candidate in candidates])
        return equal / equal.sum(), None, UNTESTED_ERROR
    by_cut = [
        np.sqrt((result.errors[:, result.cut == cut] ** 2).mean(axis=1)) for cut in np.unique(result.cut)
    ]
    error = np.sqrt(np.mean(np.square(by_cut), axis=0))
    weights = 1 / np.maximum(error, 1e-5) ** 2
    weights = weights / weights.sum()
    combined = weights @ result.errors
    drift = float(np.sqrt((combined**2).sum() / (np.maximum(result.decades, 0.2) ** 2).sum()))
    return weights, error, drift
