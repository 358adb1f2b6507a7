"""Certified fit of one form: agreement of starts, gradient, conditioning, constants at the edge of their meaning."""

from dataclasses import dataclass

import numpy as np

from ..laws import CONSTANTS, Law
from ..stats import Array
from .forms import Status
from .optimise import A_, ALPHA_, B_, BETA_, E_, G_, FormShape, Problem, minimise, spectrum, starts, thinned

AGREEMENT = 1e-6  # relative difference of objectives at which two starts have found one optimum

GRADIENT = 1e-5  # largest scaled gradient of a converged fit

CONDITION = 1e7  # of J'J with unit diagonal; public tables that tell the constants apart stay below 1e5

GAMMA_RANGE = (
    0.03,
    30.0,
)  # beyond these the two terms' maximum or their product is fitted, and gamma has no value

NEGLIGIBLE = 1e-4  # a term below this share of the smallest loss, everywhere, has left the fit

MANY_ROWS, FEW_ROWS = 1000, 400  # above the first, starts come near the optimum on the second

JITTER = 0.15  # standard deviation of log-coordinates when an optimum found once is tried again


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A form's optimum and the evidence for it."""

    name: str
    law: Law
    theta: Array
    objective: float
    status: Status
    detail: str
    starts: int
    agreeing: int
    gradient: float
    condition: float


def certify(problem: Problem, shape: FormShape, given: Array | None = None, seed: int = 0) -> Certificate:
    """Fit one form from several starts, and judge the result.

    Args:
        problem: the rows, with their weights and prior.
        shape: the form.
        given: starts in the coordinates of the problem, shape (k, 6) (default: from variable projection).
        seed: of the jittered starts that follow where fewer than 3 starts agree.
    """
    theta = starts(problem, shape) if given is None else np.atleast_2d(given)
    if len(problem.x) > MANY_ROWS:
        near = minimise(thinned(problem, FEW_ROWS), shape, theta).theta
        solution = minimise(problem, shape, near, continuation=(1.0,))
    else:
        solution = minimise(problem, shape, theta)
    best = int(np.nanargmin(solution.objective))
    tried = len(theta)
    agreeing = _agreeing(solution.objective, solution.objective[best], problem)
    best_theta, value, gradient = (
        solution.theta[best],
        float(solution.objective[best]),
        float(solution.gradient[best]),
    )
    if agreeing < 3:
        rng = np.random.default_rng([seed, 1])
        again = np.tile(best_theta, (6, 1))
        again[:, list(shape.free)] += rng.normal(0, JITTER, (6, len(shape.free))) * (
            np.abs(best_theta[list(shape.free)]) * 0.3 + 0.1
        )
        second = minimise(problem, shape, again)
        values = np.append(second.objective, solution.objective)
        tried += 6
        if second.objective.min() < value:
            at = int(second.objective.argmin())
            best_theta, value, gradient = (
                second.theta[at],
                float(second.objective[at]),
                float(second.gradient[at]),
            )
        agreeing = _agreeing(values, value, problem)
    status, detail, condition = _judge(problem, shape, best_theta, agreeing, gradient, value)
    return Certificate(
        name=shape.name,
        law=_law(problem, shape, best_theta),
        theta=best_theta,
        objective=value,
        status=status,
        detail=detail,
        starts=tried,
        agreeing=agreeing,
        gradient=gradient,
        condition=condition,
    )


def _agreeing(values: Array, best: float, problem: Problem) -> int:
    floor = (
        len(problem.y) * (1e-9) ** 2
    )  # residuals of 1e-9: an exact fit, where relative differences mean nothing
    return int((values <= best * (1 + AGREEMENT) + floor).sum())


def _law(problem: Problem, shape: FormShape, theta: Array) -> Law:
    values = problem.constants(theta)
    missing = {E_: 0, A_: 1, B_: 2}
    for coordinate, index in missing.items():
        if coordinate not in shape.free:
            values[index] = 0.0
    if A_ not in shape.free:
        values[3] = 0.0
    if B_ not in shape.free:
        values[4] = 0.0
    return Law(**dict(zip(CONSTANTS, (max(float(value), 0.0) for value in values), strict=True)))


def _judge(
    problem: Problem, shape: FormShape, theta: Array, agreeing: int, gradient: float, value: float
) -> tuple[Status, str, float]:
    condition = spectrum(problem, shape, theta)
    edge = _edge(problem, shape, theta)
    cells = len(np.unique(np.column_stack([problem.x, problem.z]).round(9), axis=0))
    exact = value <= len(problem.y) * (1e-7) ** 2
    if edge:
        return Status.AT_BOUND, edge, condition
    if cells < len(shape.free):
        return Status.TOO_FEW, f"{cells} distinct points for {len(shape.free)} constants", condition
    if condition > CONDITION:
        return Status.ILL_CONDITIONED, f"condition number {condition:.2g}", condition
    if agreeing < 3:
        return Status.NOT_CONVERGED, f"{agreeing} of the starts reach the best objective", condition
    if gradient > GRADIENT and not exact:
        return Status.NOT_CONVERGED, f"scaled gradient {gradient:.2g}", condition
    return Status.OK, "", condition


def _edge(problem: Problem, shape: FormShape, theta: Array) -> str:
    """The constant that left its range; empty where none did."""
    gamma = float(np.exp(theta[G_]))
    if G_ in shape.free and not GAMMA_RANGE[0] < gamma < GAMMA_RANGE[1]:
        return f"gamma ran to {gamma:.3g}"
    floor = np.log(NEGLIGIBLE) + problem.y.min()
    terms = {
        E_: ("E", theta[E_]),
        A_: ("the N term", (theta[A_] - theta[ALPHA_] * problem.x).max()),
        B_: ("the D term", (theta[B_] - theta[BETA_] * problem.z).max()),
    }
    for coordinate, (name, largest) in terms.items():
        if coordinate in shape.free and largest < floor:
            return f"{name} ran to 0"
    for coordinate, name in ((ALPHA_, "alpha"), (BETA_, "beta")):
        if coordinate in shape.free and theta[coordinate] <= 0:
            return f"{name} ran to {theta[coordinate] / gamma:.3g}, below 0: loss would rise with size"
    return ""
