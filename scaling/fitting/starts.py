"""Where fits start: variable projection. For given exponents the loss is linear in E, A and B: a grid is enough."""

import numpy as np
from numpy.typing import NDArray

from .optimise import A_, ABSENT, ALPHA_, B_, BETA_, E_, G_, Problem, Shape

Array = NDArray[np.float64]
EXPONENTS = np.geomspace(0.06, 1.6, 10)  # published exponents lie between 0.05 and 1
GAMMAS = np.array([0.4, 1.0, 2.0])
KAPLAN_ALPHAS = np.geomspace(0.02, 0.6, 10)


def starts(problem: Problem, shape: Shape, count: int = 8) -> Array:
    """The `count` best starts of a grid over the nonlinear exponents, shape (count, 6)."""
    if shape.beta_is_gamma:
        return _kaplan_starts(problem, shape, count)
    has_N, has_D = A_ in shape.free, B_ in shape.free
    weights = np.exp(-2 * problem.y) * (problem.weights if problem.weights.ndim == 1 else 1.0)
    loss = np.exp(problem.y)
    k = len(EXPONENTS)
    basis = np.vstack(
        [
            np.exp(-EXPONENTS[:, None] * problem.x),
            np.exp(-EXPONENTS[:, None] * problem.z),
            np.ones_like(loss),
            loss,
        ]
    )
    gram = (basis * weights) @ basis.T
    i, j = (index.ravel() for index in np.meshgrid(np.arange(k), np.arange(k), indexing="ij"))
    columns = [np.full(k * k, 2 * k)]
    if has_N:
        columns.append(i)
    if has_D:
        columns.append(j + k)
    if not (has_N and has_D):
        columns = [column[(j == 0) if has_N else (i == 0)] for column in columns]
        keep = (j == 0) if has_N else (i == 0)
        i, j = i[keep], j[keep]
    index = np.stack(columns, axis=1)
    left = gram[index[:, :, None], index[:, None, :]]
    right = gram[index, -1]
    left = left + 1e-10 * np.einsum("kii->ki", left)[:, :, None] * np.eye(index.shape[1])
    solved = np.linalg.solve(left, right[:, :, None])[:, :, 0]
    solved = np.maximum(solved, 0.02 * loss.min() / 3)
    misfit = gram[-1, -1] - 2 * (solved * right).sum(axis=1) + np.einsum("ki,kij,kj->k", solved, left, solved)
    theta = np.zeros((len(index), 6))
    theta[:, E_] = np.log(np.minimum(solved[:, 0], 0.98 * loss.min()))
    at = 1
    if has_N:
        theta[:, A_], theta[:, ALPHA_] = np.log(solved[:, at]), EXPONENTS[i]
        at += 1
    if has_D:
        theta[:, B_], theta[:, BETA_] = np.log(solved[:, at]), EXPONENTS[j]
    best = theta[_spread(misfit, count)]
    if G_ in shape.free:
        best = np.repeat(best[: max(1, count // len(GAMMAS) + 1)], len(GAMMAS), axis=0)
        best[:, G_] = np.tile(np.log(GAMMAS), len(best) // len(GAMMAS))
    return shape.at(best)


def _spread(misfit: Array, count: int) -> NDArray[np.intp]:
    """The best half of the starts by misfit, and the other half spaced through the best fifth of the grid."""
    order = np.argsort(misfit, kind="stable")
    head = order[: (count + 1) // 2]
    tail = order[len(head) : max(len(order) // 5, count)]
    return np.concatenate(
        [head, tail[:: max(1, len(tail) // max(1, count - len(head)))][: count - len(head)]]
    )


def _kaplan_starts(problem: Problem, shape: Shape, count: int) -> Array:
    """L^(1/aD) = A·N^-alpha + B/D is linear in A and B for given aN, aD."""
    found = []
    weights = problem.weights if problem.weights.ndim == 1 else np.ones_like(problem.y)
    for gamma in KAPLAN_ALPHAS:
        target = np.exp((problem.y - problem.y.mean()) / gamma)
        scale = weights / target**2
        for slope in KAPLAN_ALPHAS:
            columns = np.stack([np.exp(-slope / gamma * problem.x), np.exp(-problem.z)])
            left = (columns * scale) @ columns.T
            left = left + 1e-10 * np.diag(np.diag(left))
            solved = np.maximum(np.linalg.solve(left, (columns * scale) @ target), 1e-3)
            misfit = float((weights * (gamma * np.log(solved @ columns / target)) ** 2).sum())
            theta = np.array([ABSENT, 0.0, 0.0, slope, gamma, np.log(gamma)])
            theta[[A_, B_]] = gamma * np.log(solved) + problem.y.mean()
            found.append((misfit, theta))
    order = np.argsort([misfit for misfit, _ in found], kind="stable")
    return shape.at(np.stack([found[i][1] for i in order[:count]]))
