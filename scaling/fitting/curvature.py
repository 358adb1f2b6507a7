"""What the Hessian at an optimum tells: how well rows tell the constants apart, and how much each row moves them."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .optimise import Problem, Shape, evaluate, log_loss

Array = NDArray[np.float64]
DIFFERENCE = 1e-6  # step of central differences in θ, whose error is its square


def spectrum(problem: Problem, shape: Shape, theta: Array) -> float:
    """Condition number of J'J with unit diagonal at one θ (6,), by the rows alone: the prior left out."""
    weights = np.ones((1, len(problem.x)))
    bare = replace(problem, precision=np.zeros(6))
    upper = evaluate(bare, shape, shape.at(theta[None]), weights, 1e6)[3][0]
    scale = 1 / np.sqrt(np.maximum(np.diag(upper), 1e-300))
    values = np.linalg.eigvalsh(upper * scale[:, None] * scale[None])
    return float(values[-1] / max(values[0], 1e-18))


def influence(problem: Problem, shape: Shape, theta: Array) -> Array:
    """How θ (6,) moves when one row's weight grows by 1, to first order: shape (6, n)."""
    n = len(problem.x)
    free = list(shape.free)
    _, _, newton, upper = evaluate(problem, shape, theta[None], np.ones((1, n)), problem.delta)
    scale = 1 / np.sqrt(np.diag(upper[0]))
    values, vectors = np.linalg.eigh(newton[0] * scale[:, None] * scale[None])
    inverse = (vectors / np.maximum(np.abs(values), 1e-12)) @ vectors.T * scale[:, None] * scale[None]
    psi = np.clip(log_loss(theta[None], problem.x, problem.z)[0] - problem.y, -problem.delta, problem.delta)
    shift = np.eye(6)[free] * DIFFERENCE
    up, down = (log_loss(shape.at(theta + sign * shift), problem.x, problem.z) for sign in (1, -1))
    slopes = (up - down) / (2 * DIFFERENCE) * psi
    moves = np.zeros((6, n))
    moves[free] = -inverse @ slopes
    return moves
