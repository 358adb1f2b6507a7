"""The optimiser under every fit: damped Newton on log-Huber, for many starts or many resamples at once.

Coordinates θ = (e, a, b, α, β, g) keep the problem well conditioned where (E, A, B, α, β, γ) has a condition number of 1e11:

    log L = log( exp(e) + R ),   R = ( exp(u/γ) + exp(v/γ) )^γ,   u = a − α·x,   v = b − β·z,   γ = exp(g)

with x = log N and z = log D centred on the data. So α and β are the slopes of the two reducible terms themselves (γ times
those of `Law`), and γ only sets how sharply the larger term wins. Derivatives are exact; second ones are sums of rank-one
terms (docs/math.md), so a Newton step costs three small products.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..laws import Law
from ..stats import Array, products

Mask = NDArray[np.bool_]

E_, A_, B_, ALPHA_, BETA_, G_ = range(6)

ABSENT = -1000.0  # exp(ABSENT) is 0 in double precision: a term that a form does not have

MAX_STEPS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class FormShape:
    """Free coordinates of a form, and the values of the others."""

    name: str
    free: tuple[int, ...]
    fixed: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    beta_is_gamma: bool = False  # Kaplan: beta = 1 in `Law`, hence β = γ here
    variable: str = "ND"

    def at(self, theta: Array) -> Array:
        """θ with the coordinates that are not free set to their values."""
        full = np.array(theta, dtype=np.float64, copy=True)
        for index in range(6):
            if index not in self.free:
                full[..., index] = self.fixed[index]
        if self.beta_is_gamma:
            full[..., BETA_] = np.exp(full[..., G_])
        return full


SHAPES: dict[str, FormShape] = {
    shape.name: shape
    for shape in (
        FormShape(name="chinchilla", free=(E_, A_, B_, ALPHA_, BETA_)),
        FormShape(name="general", free=(E_, A_, B_, ALPHA_, BETA_, G_)),
        FormShape(
            name="kaplan", free=(A_, B_, ALPHA_, G_), fixed=(ABSENT, 0, 0, 0, 0, 0), beta_is_gamma=True
        ),
        FormShape(name="L(N)", free=(E_, A_, ALPHA_), fixed=(0, 0, ABSENT, 0, 0, 0), variable="N"),
        FormShape(name="L(D)", free=(E_, B_, BETA_), fixed=(0, ABSENT, 0, 0, 0, 0), variable="D"),
        FormShape(name="L(C)", free=(E_, A_, ALPHA_), fixed=(0, 0, ABSENT, 0, 0, 0), variable="C"),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Rows to fit, shape (n,): x, z centred logs of N and D, y log loss. `weights` (n,) or, one set per problem, (k, n).

    objective = Σ w·huber_δ(log L − y) + ½ Σ precision·(θ − centre)²; the second sum is empty in a plain fit. Rows that lie
    below the law count `tilt` times: 1 fits their middle, 10 their lower envelope.
    """

    x: Array
    z: Array
    y: Array
    x_mean: float
    z_mean: float
    delta: float
    weights: Array
    centre: Array
    precision: Array
    tilt: float = 1.0

    @classmethod
    def of(
        cls,
        N: Array,
        D: Array,
        L: Array,
        *,
        delta: float = 1e-3,
        weights: Array | None = None,
        centre: Array | None = None,
        precision: Array | None = None,
    ) -> "Problem":
        """Rows to fit, with logs of N and D centred at their means.

        Args:
            N: parameters, shape (n,).
            D: tokens, shape (n,).
            L: losses in nats per token, shape (n,).
            delta: residual in log loss beyond which the Huber loss is linear.
            weights: of the rows, shape (n,), or one set per problem, (k, n) (default: 1).
            centre: mean of the normal prior of θ, shape (6,) (default: 0).
            precision: weight of the prior in each coordinate of θ, shape (6,) (default: 0, no prior).
        """
        x, z = np.log(N), np.log(D)
        return cls(
            x=x - x.mean(),
            z=z - z.mean(),
            y=np.log(L),
            x_mean=float(x.mean()),
            z_mean=float(z.mean()),
            delta=delta,
            weights=np.ones(len(x)) if weights is None else weights,
            centre=np.zeros(6) if centre is None else centre,
            precision=np.zeros(6) if precision is None else precision,
        )

    def theta(self, law: Law) -> Array:
        """A law in the coordinates of this problem."""
        with np.errstate(divide="ignore"):
            logs = np.maximum(np.log([law.E, law.A, law.B]), ABSENT)
        g = law.gamma
        return np.array(
            [
                logs[0],
                max(g * (logs[1] - law.alpha * self.x_mean), ABSENT),
                max(g * (logs[2] - law.beta * self.z_mean), ABSENT),
                g * law.alpha,
                g * law.beta,
                np.log(g),
            ]
        )

    def constants(self, theta: Array) -> Array:
        """(E, A, B, alpha, beta, gamma) of `Law`, for θ of shape (…, 6)."""
        gamma = np.exp(theta[..., G_])
        alpha, beta = theta[..., ALPHA_] / gamma, theta[..., BETA_] / gamma
        log_A = theta[..., A_] / gamma + alpha * self.x_mean
        log_B = theta[..., B_] / gamma + beta * self.z_mean
        return np.stack(
            [
                np.exp(theta[..., E_]),
                np.exp(np.minimum(log_A, 700)),
                np.exp(np.minimum(log_B, 700)),
                alpha,
                beta,
                gamma,
            ],
            axis=-1,
        )


def thinned(problem: Problem, rows: int) -> Problem:
    """Every k-th row by x + z, about `rows` in all, the prior scaled with them: a cheap place to come near an optimum."""
    n = len(problem.x)
    keep = np.argsort(problem.x + problem.z, kind="stable")[
        np.linspace(0, n - 1, min(rows, n)).round().astype(int)
    ]
    return replace(
        problem,
        x=problem.x[keep],
        z=problem.z[keep],
        y=problem.y[keep],
        weights=problem.weights[keep],
        precision=problem.precision * (len(keep) / n),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """Solutions of k problems: θ (k, 6), objective (k,), largest scaled gradient (k,), and Newton steps in total."""

    theta: Array
    objective: Array
    gradient: Array
    steps: int


def log_loss(theta: Array, x: Array, z: Array) -> Array:
    """Log L at (x, z) for θ (k, 6): shape (k, n)."""
    e, a, b, alpha, beta, g = (theta[:, i, None] for i in range(6))
    gamma = np.exp(g)
    u, v = a - alpha * x, b - beta * z
    return np.asarray(np.logaddexp(e, gamma * np.logaddexp(u / gamma, v / gamma)))


class _Parts(NamedTuple):
    """Log L and what its derivatives are made of, each (k, n), but `slope`, ∇(ρ − e): (k, 6, n)."""

    log_loss: Array
    tau: Array  # (u − v)/γ
    q: Array  # share of the N term in R, to the power of 1/γ
    p: Array  # share of R in L
    entropy: Array  # ∂ρ/∂g, with ρ = log R
    slope: Array


def _parts(theta: Array, x: Array, z: Array) -> _Parts:
    e, a, b, alpha, beta, g = (theta[:, i, None] for i in range(6))
    gamma = np.exp(g)
    u, v = a - alpha * x, b - beta * z
    tau = (u - v) / gamma
    t = np.exp(-np.abs(tau))
    big = 1 / (1 + t)
    q = np.where(tau >= 0, big, 1 - big)
    rho = np.maximum(u, v) + gamma * np.log1p(t)
    gap = rho - e
    s = np.exp(-np.abs(gap))
    big = 1 / (1 + s)
    entropy = gamma * (np.log1p(t) + (1 - np.maximum(q, 1 - q)) * np.abs(tau))  # ∂ρ/∂g = γ·H(q)
    slope = np.empty((len(theta), 6, len(x)))
    slope[:, E_] = -1
    slope[:, A_] = q
    slope[:, B_] = 1 - q
    slope[:, ALPHA_] = -q * x
    slope[:, BETA_] = (q - 1) * z
    slope[:, G_] = entropy
    return _Parts(
        log_loss=np.maximum(rho, e) + np.log1p(s),
        tau=tau,
        q=q,
        p=np.where(gap >= 0, big, 1 - big),
        entropy=entropy,
        slope=slope,
    )


def _gradient(slope: Array, p: Array, free: list[int]) -> Array:
    """∇ log L over free coordinates, (k, p, n), from ∇(ρ − e) over the same."""
    jacobian = slope * p[:, None]
    if E_ in free:
        jacobian[:, free.index(E_)] += 1
    return np.asarray(jacobian)


def linearised(theta: Array, x: Array, z: Array, shape: FormShape) -> tuple[Array, Array]:
    """Log L at points and its gradient over the free coordinates: shapes (k, n), (k, n, p).

    Args:
        theta: coordinates, shape (k, 6).
        x: log N less its mean, shape (n,).
        z: log D less its mean, shape (n,).
        shape: the form.
    """
    at = _parts(theta, x, z)
    if shape.beta_is_gamma:
        at.slope[:, G_] += at.slope[:, BETA_] * np.exp(theta[:, G_, None])
    free = list(shape.free)
    return at.log_loss, _gradient(at.slope[:, free], at.p, free).transpose(0, 2, 1)


def objective(problem: Problem, theta: Array) -> Array:
    """The objective of each θ (k, 6)."""
    residual = log_loss(theta, problem.x, problem.z) - problem.y
    r = np.abs(residual)
    cost = np.where(r <= problem.delta, 0.5 * r * r, problem.delta * (r - 0.5 * problem.delta))
    weights = (
        problem.weights if problem.tilt == 1 else np.where(residual > 0, problem.tilt, 1) * problem.weights
    )
    prior = 0.5 * (problem.precision * (theta - problem.centre) ** 2).sum(axis=1)
    return np.asarray((cost * weights).sum(axis=1) + prior)


def evaluate(
    problem: Problem, shape: FormShape, theta: Array, weights: Array, delta: float
) -> tuple[Array, Array, Array, Array]:
    """Objective (k,), gradient (k, p), Hessian (k, p, p) and its positive Gauss-Newton part, over free coordinates.

    Args:
        problem: rows and prior.
        shape: the form.
        theta: coordinates, shape (k, 6).
        weights: of the rows, shape (k, n).
        delta: where log-Huber turns from squares to absolute values.
    """
    k, n = len(theta), len(problem.x)
    x, z = problem.x, problem.z
    gamma = np.exp(theta[:, G_, None])
    at = _parts(theta, x, z)
    tau, q, p, entropy, slope = at.tau, at.q, at.p, at.entropy, at.slope
    r = at.log_loss - problem.y
    if problem.tilt != 1:
        weights = np.where(r > 0, problem.tilt, 1) * weights
    psi = np.clip(r, -delta, delta)
    magnitude = np.abs(r)
    cost = (weights * psi * (r - 0.5 * psi)).sum(axis=1)
    turn = np.zeros((k, 6, n))  # ∇τ
    inverse = 1 / gamma
    turn[:, A_] = inverse
    turn[:, B_] = -inverse
    turn[:, ALPHA_] = -inverse * x
    turn[:, BETA_] = inverse * z
    turn[:, G_] = -tau
    if shape.beta_is_gamma:
        slope[:, G_] += slope[:, BETA_] * gamma
        turn[:, G_] += turn[:, BETA_] * gamma
    free = list(shape.free)
    slope, turn = slope[:, free], turn[:, free]
    jacobian = _gradient(slope, p, free)
    w_psi = weights * psi
    gradient = (jacobian @ w_psi[:, :, None])[:, :, 0]
    majorant = weights * (delta / np.maximum(magnitude, delta))
    newton = weights * (magnitude <= delta)
    base = (jacobian * newton[:, None]) @ jacobian.transpose(0, 2, 1)
    upper = (jacobian * majorant[:, None]) @ jacobian.transpose(0, 2, 1)
    curved = (slope * (w_psi * p * (1 - p))[:, None]) @ slope.transpose(0, 2, 1)
    curved += (turn * (w_psi * p * gamma * q * (1 - q))[:, None]) @ turn.transpose(0, 2, 1)
    if G_ in shape.free:
        index = free.index(G_)
        curved[:, index, index] += (w_psi * p * entropy).sum(axis=1)
    precision = problem.precision[free]
    offset = theta[:, free] - problem.centre[free]
    diagonal = np.eye(len(free)) * precision
    cost += 0.5 * (precision * offset**2).sum(axis=1)
    gradient += precision * offset
    return cost, gradient, base + curved + diagonal, upper + diagonal


def minimise(
    problem: Problem,
    shape: FormShape,
    theta: Array,
    *,
    continuation: tuple[float, ...] = (30.0, 5.0, 1.0),
    steps: int = MAX_STEPS,
) -> Solution:
    """Newton with Levenberg-Marquardt damping from each start θ (k, 6), every start or resample at once.

    The kinks of a Huber loss with δ = 1e-3 slow any step, so δ shrinks to its value through `continuation`. No box: a
    coordinate that runs away is reported by the caller, not held.

    Args:
        problem: the rows, with weights for one problem or for k of them.
        shape: the form; only its free coordinates move.
        theta: starts, shape (k, 6).
        continuation: factors of δ, one stage each, the last of them 1.
        steps: most Newton steps in the last stage; earlier stages take 15 at most.
    """
    theta = shape.at(theta)
    taken = 0
    gradient = np.full(len(theta), np.inf)
    for stage, factor in enumerate(continuation):
        last = stage == len(continuation) - 1
        theta, gradient, used = _descend(
            problem, shape, theta, problem.delta * factor, steps if last else 15, 1e-9 if last else 1e-3
        )
        taken += used
    return Solution(theta=theta, objective=objective(problem, theta), gradient=gradient, steps=taken)


def _descend(
    problem: Problem, shape: FormShape, theta: Array, delta: float, steps: int, tolerance: float
) -> tuple[Array, Array, int]:
    k = len(theta)
    free = list(shape.free)
    theta = theta.copy()
    weights = np.broadcast_to(problem.weights, (k, len(problem.x)))
    damping = np.full(k, 1e-3)
    active = np.arange(k)
    cost, slope, newton, upper = evaluate(problem, shape, theta, weights, delta)
    scaled = _scaled(cost, slope, upper)
    used = 0
    for _ in range(steps):
        live = scaled[active] > tolerance
        active = active[live]
        if not len(active):
            break
        used += 1
        step = _step(newton[active], upper[active], slope[active], damping[active])
        trial = theta[active].copy()
        trial[:, free] -= step
        trial = shape.at(trial)
        new = evaluate(problem, shape, trial, weights[active], delta)
        better = new[0] < cost[active]
        winners, losers = active[better], active[~better]
        theta[winners] = trial[better]
        gain = cost[winners] - new[0][better]
        cost[winners], slope[winners] = new[0][better], new[1][better]
        newton[winners], upper[winners] = new[2][better], new[3][better]
        damping[winners] = np.maximum(damping[winners] * 0.2, 1e-12)
        damping[losers] *= 6
        scaled[winners] = _scaled(cost[winners], slope[winners], upper[winners])
        scaled[winners[gain <= 1e-15 * cost[winners]]] *= 0.3  # at the floor of double precision
        stuck = losers[damping[losers] > 1e8]
        scaled[stuck] = np.minimum(scaled[stuck], tolerance)
    return theta, _scaled(cost, slope, upper), used


def _step(newton: Array, upper: Array, slope: Array, damping: Array) -> Array:
    """Solve (H + λ·U)·step = gradient, negative curvature turned positive, in coordinates where U has unit diagonal."""
    scale = 1 / np.sqrt(np.maximum(np.einsum("kii->ki", upper), 1e-300))
    h = newton * scale[:, :, None] * scale[:, None, :]
    values, vectors = np.linalg.eigh(h)
    values = np.abs(values) + damping[:, None]
    inner = (vectors.transpose(0, 2, 1) @ (slope * scale)[:, :, None])[:, :, 0] / np.maximum(values, 1e-14)
    step = (vectors @ inner[:, :, None])[:, :, 0] * scale
    size = np.abs(step).max(axis=1, keepdims=True)
    return np.asarray(step * np.minimum(1, 2 / np.maximum(size, 1e-300)))


def _scaled(cost: Array, slope: Array, upper: Array) -> Array:
    """The largest gradient in units of what the objective could gain: |g| / sqrt(U_ii · objective)."""
    scale = np.sqrt(np.maximum(np.einsum("kii->ki", upper), 1e-300) * np.maximum(cost, 1e-30)[:, None])
    with np.errstate(
        invalid="ignore"
    ):  # a start that ran off has no finite gradient: nan, which is never small
        return np.asarray((np.abs(slope) / scale).max(axis=1))


DIFFERENCE = 1e-6  # step of central differences in θ, whose error is its square


def spectrum(problem: Problem, shape: FormShape, theta: Array) -> float:
    """Condition number of J'J with unit diagonal at one θ (6,), by the rows alone: the prior left out."""
    weights = np.ones((1, len(problem.x)))
    bare = replace(problem, precision=np.zeros(6))
    upper = evaluate(bare, shape, shape.at(theta[None]), weights, 1e6)[3][0]
    scale = 1 / np.sqrt(np.maximum(np.diag(upper), 1e-300))
    values = np.linalg.eigvalsh(upper * scale[:, None] * scale[None])
    return float(values[-1] / max(values[0], 1e-18))


def influence(problem: Problem, shape: FormShape, theta: Array) -> Array:
    """Derivative of θ (6,) with respect to each row's weight: shape (6, n)."""
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


EXPONENTS = np.geomspace(0.06, 1.6, 10)  # published exponents lie between 0.05 and 1

GAMMAS = np.array([0.4, 1.0, 2.0])

KAPLAN_ALPHAS = np.geomspace(0.02, 0.6, 10)


def starts(problem: Problem, shape: FormShape, count: int = 8) -> Array:
    """The `count` best starts of a grid over the nonlinear exponents, shape (count, 6): variable projection.

    For given exponents the loss is linear in E, A and B.
    """
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
    gram = products(basis * weights, basis)
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


def _kaplan_starts(problem: Problem, shape: FormShape, count: int) -> Array:
    """L^(1/aD) = A·N^-alpha + B/D is linear in A and B for given aN, aD."""
    candidates = []
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
            candidates.append((misfit, theta))
    order = np.argsort([misfit for misfit, _ in candidates], kind="stable")
    return shape.at(np.stack([candidates[i][1] for i in order[:count]]))
