"""Joint fit of the general form and its coordinates: damped Gauss-Newton, several starts, and resamples of whole runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from families.units import BadInput

from ..stats import Array, products
from .coordinates import Coordinate, Shift, shift_of
from .ensemble import DELTA, PRIOR, USUAL_NOISE
from .uncertainty import cluster_weights

LAW = 6  # constants of the general form, before those of the coordinates

FAR = 0.02  # of log loss up a valley at which a row counts half: a parabola fits its bottom, not its walls

PASSES = 4  # of fitting and weighing anew

STEPS, LAST_STEPS = 40, 80  # of a pass, and of the starts whose agreement certifies the fit

MANY, COARSE = 800, 300  # rows from which on a start comes near the optimum by so many of them first

AGREEMENT = 1e-5  # relative difference of objectives at which two starts have found one optimum

GRADIENT = 1e-5  # largest scaled gradient of a converged fit

MOST_REFITTED = 300  # rows; larger tables are resampled to first order

REFIT_STEPS = 4

NEWTON_STEPS, DIFFERENCE = (
    60,
    1e-5,
)  # where Gauss-Newton crawls; the second in q, of central differences of the gradient

NEARER = 0.5  # of the scaled gradient: a step that leaves more of it asks for a new Hessian

FEWEST_CELLS = 8

# Middle and width of the normal prior of a setting's constants, from public fits: lr* ~ N^-0.71 D^0.31 (Li et al. 2025),
# N^-0.62 D^-0.15 B^0.49 (random settings) and N^-0.36 (Porian et al. 2024); batch* ~ D^0.57 and, in all, C^0.33
# (Bi et al. 2024). Half the curvature is the share of loss that a factor e away from the best gives away: 0.7 % to 1.5 %.
SLOPES = {"lr": (-0.5, 0.15), "batch_tokens": (0.0, 0.55)}
SLOPE_WIDTH = (
    0.2  # as far as those fits differ; runs of toy sizes alone misled the slopes at 0.5 (docs/log.md#e187)
)
COUPLING = {"lr": 0.4}
COUPLING_WIDTH = 0.5
LOG_KAPPA, LOG_KAPPA_WIDTH = float(np.log(0.02)), 1.5
AT_WIDTH = 3.0
SKEW_WIDTH = 0.3
# Clark et al. 2022 (arXiv:2202.01169, table 3) find that counts of experts start at 1.8 to 4.2.
LOG_START = float(np.log(2.5))
# Chen et al. 2025 (arXiv:2505.10475) find rates of 0.33 and 0.39 for parallel streams.
LOG_RATE = float(np.log(0.35))
MULTIPLIER_WIDTHS = {
    "power": 1.0, "trend": 0.1, "log_limit": 2.0, "log_start": 0.5, "log_rate": 1.5, "log_weight": 2.0, "slope": 10.0,
}  # fmt: skip
TERM_SIZE_WIDTH, EXPONENT, EXPONENT_WIDTH = 2.0, 0.3, 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of a joint fit, shape (n,): x and z about their middle, y log loss, the coordinates' columns by key."""

    x: Array
    z: Array
    y: Array
    columns: Mapping[str, Array]
    cluster: NDArray[np.intp]
    log_N: float
    log_D: float

    @classmethod
    def of(
        cls, N: Array, D: Array, L: Array, columns: Mapping[str, Array], cluster: NDArray[np.intp]
    ) -> "Rows":
        """Rows about their middle.

        Args:
            N: parameters, shape (n,).
            D: tokens, shape (n,).
            L: losses in nats per token, shape (n,).
            columns: values by `Coordinate.key`, settings as logarithms, shape (n,) each.
            cluster: number of each row's run, from 0, shape (n,).
        """
        x, z = np.log(N), np.log(D)
        middle = float(x.mean()), float(z.mean())
        return cls(
            x=x - middle[0], z=z - middle[1], y=np.log(L), columns=columns, cluster=cluster,
            log_N=middle[0], log_D=middle[1],
        )  # fmt: skip

    def select(self, keep: NDArray[np.bool_] | NDArray[np.intp]) -> "Rows":
        """Some of the rows, about the same middle."""
        _, cluster = np.unique(self.cluster[keep], return_inverse=True)
        columns = {name: values[keep] for name, values in self.columns.items()}
        return replace(
            self, x=self.x[keep], z=self.z[keep], y=self.y[keep], columns=columns, cluster=cluster.ravel()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JointFit:
    """The optimum: q are the law's θ and then the coordinates' constants.

    Args:
        q: shape (6 + constants,).
        delta: where log-Huber turns from squares to absolute values: the noise, or `ensemble.DELTA` where that is more.
        objective: at the optimum.
        starts: starts tried; `agreeing` of them reach the optimum.
        agreeing: see there.
        gradient: the largest scaled gradient.
        noise: standard deviation of log loss about the fit, rows up a valley counted less.
        weights: of the rows by their place in a valley, shape (n,).
        hessian: of the objective, Gauss-Newton, shape (p, p).
    """

    q: Array
    delta: float
    objective: float
    starts: int
    agreeing: int
    gradient: float
    noise: float
    weights: Array
    hessian: Array

    @property
    def certified(self) -> bool:
        """True where two starts agree on the optimum and the gradient there is 0."""
        return self.agreeing >= min(2, self.starts) and self.gradient <= GRADIENT


def law_gradient(theta: Array, x: Array, z: Array) -> tuple[Array, Array]:
    """Log L of the general form at points of shape (n,), and its derivatives in θ, x and z: shape (8, n)."""
    e, a, b, alpha, beta, g = theta
    gamma = np.exp(g)
    u, v = a - alpha * x, b - beta * z
    tau = (u - v) / gamma
    rho = gamma * np.logaddexp(u / gamma, v / gamma)
    q = 1 / (1 + np.exp(-np.clip(tau, -500, 500)))
    value = np.logaddexp(e, rho)
    p = np.exp(rho - value)
    entropy = rho - q * u - (1 - q) * v
    by = np.stack([1 - p, p * q, p * (1 - q), -p * q * x, -p * (1 - q) * z, p * entropy, -p * q * alpha,
                   -p * (1 - q) * beta])  # fmt: skip
    return np.asarray(value), by


def model(parts: Sequence[Coordinate], q: Array, rows: Rows) -> tuple[Array, Array, Shift]:
    """Log loss of the rows (n,), its derivatives in q (p, n), and the shifts."""
    shift = shift_of(parts, q[LAW:], rows.x, rows.z, rows.columns)
    law, by_law = law_gradient(q[:LAW], rows.x + shift.dx, rows.z + shift.dz)
    inner = np.exp(law) + shift.add
    positive = inner > 1e-6
    inner = np.where(positive, inner, 1e-6)
    share = np.where(positive, np.exp(law) / inner, 0.0)
    kinds = {part.kind for part in parts}
    by = np.empty((len(q), len(rows.x)))
    by[:LAW], by[LAW:] = share * by_law[:LAW], shift.by_share
    if "multiplier" in kinds:
        by[LAW:] += share * (by_law[LAW] * shift.by_dx + by_law[LAW + 1] * shift.by_dz)
    if "term" in kinds:
        by[LAW:] += np.where(positive, shift.by_add / inner, 0.0)
    return np.log(inner) + shift.share, by, shift


def prior_of(parts: Sequence[Coordinate], rows: Rows) -> tuple[Array, Array]:
    """Middle and width of the normal prior of q: weak, from public fits."""
    middle, width = list(PRIOR.centre(float(rows.y.min()))), list(PRIOR.widths)
    for part in parts:
        if part.kind == "setting":
            slope_N, slope_D = SLOPES.get(part.column, (0.0, 0.0))
            known = rows.columns[part.key]
            others = len(part.names) - 5
            middle += [float(np.median(known)), slope_N, slope_D, *[COUPLING.get(part.column, 0.0)] * others, 0.0,
                       LOG_KAPPA]  # fmt: skip
            width += [
                AT_WIDTH,
                SLOPE_WIDTH,
                SLOPE_WIDTH,
                *[COUPLING_WIDTH] * others,
                SKEW_WIDTH,
                LOG_KAPPA_WIDTH,
            ]
        elif part.kind == "multiplier":
            for name in part.names:
                most = 0.0 if part.is_share else float(np.log(rows.columns[part.key].max()))
                middle.append(
                    {"log_limit": most, "log_start": LOG_START, "log_rate": LOG_RATE}.get(name, 0.0)
                )
                width.append(MULTIPLIER_WIDTHS[name])
        else:
            middle += [float(rows.y.min() + np.log(0.3) + EXPONENT * np.log(part.reference)), EXPONENT]
            width += [TERM_SIZE_WIDTH, EXPONENT_WIDTH]
    return np.array(middle), np.array(width)


def fit_joint(
    parts: Sequence[Coordinate],
    rows: Rows,
    *,
    starts: int = 3,
    strength: float = 1.0,
    seed: int = 0,
    first: Array | None = None,
) -> JointFit:
    """Fit the general form and its coordinates to rows.

    Args:
        parts: the coordinates, without constants yet.
        rows: the rows.
        starts: starts; the prior's middle with slopes of 0, the prior's middle, and jittered ones.
        strength: of the law's prior.
        seed: of the jitter.
        first: a start in place of the prior's middle, shape (p,).

    Raises:
        BadInput: fewer rows than constants.
    """
    middle, width = prior_of(parts, rows)
    if len(rows.y) < len(middle) - LAW + 4:
        raise BadInput(f"there are {len(rows.y)} rows; these coordinates need {len(middle) - LAW + 4}")
    precision = 1 / width**2
    precision[:LAW] *= strength
    rng = np.random.default_rng([seed, 3])
    q = _flat(parts, middle) if first is None else first
    weights: Array = np.ones(len(rows.y))
    noise, delta = 10 * USUAL_NOISE, 10 * USUAL_NOISE
    for _ in range(PASSES):  # weights and noise belong to the objective: from here on they stay
        q, _ = _descend(parts, rows, q, weights, noise**2 * precision, middle, delta)
        predicted, _, shift = model(parts, q, rows)
        weights = 1 / (1 + shift.share / FAR) ** 2
        noise = _noise(rows, predicted, weights, len(q))
        delta = max(DELTA, noise)
    tries = [q]
    tries += [middle] if starts > 1 else []
    while len(tries) < starts:
        tries.append(q + rng.normal(0, 0.3, len(q)) * np.minimum(width, 0.5))
    problem = (weights, noise**2 * precision, middle, delta)
    tries[1:] = [_coarse(parts, rows, start, problem) for start in tries[1:]]
    found = [_descend(parts, rows, start, *problem, steps=LAST_STEPS) for start in tries]
    if starts > 1:  # a single start certifies nothing
        found = _polish_all(parts, rows, found, problem)
    values = np.array([value for _, value in found])
    q = found[int(np.nanargmin(values))][0]
    value, slope, hessian = _evaluate(parts, rows, q, *problem)
    return JointFit(
        q=q,
        delta=delta,
        objective=value,
        starts=len(tries),
        agreeing=int((values <= value * (1 + AGREEMENT) + 1e-12).sum()),
        gradient=_scaled(slope, hessian, value),
        noise=noise,
        weights=weights,
        hessian=hessian,
    )


def _coarse(
    parts: Sequence[Coordinate], rows: Rows, start: Array, problem: tuple[Array, Array, Array, float]
) -> Array:
    """The optimum from a start for some of the rows, where there are many: a cheap place to come near that of all."""
    n = len(rows.y)
    if n <= MANY:
        return start
    weights, precision, middle, delta = problem
    keep = np.argsort(rows.x + rows.z, kind="stable")[np.linspace(0, n - 1, COARSE).round().astype(int)]
    few = rows.select(keep)
    coarse = (weights[keep], precision * COARSE / n, middle, delta)
    return _polish(parts, few, _descend(parts, few, start, *coarse, steps=LAST_STEPS)[0], coarse)[0]


def _polish_all(
    parts: Sequence[Coordinate],
    rows: Rows,
    found: Sequence[tuple[Array, float]],
    problem: tuple[Array, Array, Array, float],
) -> list[tuple[Array, float]]:
    """Polish the best optimum, and those that do not agree with it: each with its objective, in their order."""
    order = np.argsort([value for _, value in found], kind="stable")
    polished, best = list(found), np.inf
    for at in order.tolist():
        if polished[at][1] > best * (1 + AGREEMENT) + 1e-12 or best == np.inf:
            polished[at] = _polish(parts, rows, polished[at][0], problem)
            best = min(best, polished[at][1])
    return polished


def _flat(parts: Sequence[Coordinate], middle: Array) -> Array:
    """The prior's middle with slopes of 0."""
    q = middle.copy()
    at = LAW
    for part in parts:
        if part.kind == "setting":
            q[at + 1 : at + len(part.names) - 1] = 0.0
        at += len(part.names)
    return q


def _noise(rows: Rows, predicted: Array, weights: Array, constants: int) -> float:
    size = np.abs(predicted - rows.y) * np.sqrt(weights)
    cost = float(np.where(size < DELTA, size**2, 2 * DELTA * size - DELTA**2).sum())
    freedom = max(float(weights.sum()) - constants, 0.0)
    return float(np.sqrt((cost + USUAL_NOISE**2) / (freedom + 1)))


def _evaluate(
    parts: Sequence[Coordinate],
    rows: Rows,
    q: Array,
    weights: Array,
    precision: Array,
    middle: Array,
    delta: float,
) -> tuple[float, Array, Array]:
    """Objective, gradient (p,) and Gauss-Newton Hessian (p, p): log-Huber with a prior, as in `optimise`.

    Args:
        parts: the coordinates.
        rows: the rows.
        q: constants, shape (p,).
        weights: of the rows, shape (n,).
        precision: of the prior, shape (p,).
        middle: of the prior, shape (p,).
        delta: where log-Huber turns from squares to absolute values.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        predicted, by, _ = model(parts, q, rows)
        r = predicted - rows.y
        size = np.abs(r)
        psi = np.clip(r, -delta, delta)
        cost = float((weights * psi * (r - 0.5 * psi)).sum())
        slope = by @ (weights * psi)
        hessian = products(by * (weights * delta / np.maximum(size, delta)), by)
    off = q - middle
    cost += float(0.5 * (precision * off**2).sum())
    return cost if np.isfinite(cost) else np.inf, slope + precision * off, hessian + np.diag(precision)


def _slope(
    parts: Sequence[Coordinate], rows: Rows, q: Array, problem: tuple[Array, Array, Array, float]
) -> Array:
    """The gradient alone, shape (p,), as `_evaluate` has it."""
    weights, precision, middle, delta = problem
    predicted, by, _ = model(parts, q, rows)
    psi = np.clip(predicted - rows.y, -delta, delta)
    return np.asarray(by @ (weights * psi) + precision * (q - middle))


def _scaled(slope: Array, hessian: Array, cost: float) -> float:
    """The largest gradient in units of what the objective could gain, as in `optimise`."""
    return float((np.abs(slope) / np.sqrt(np.diag(hessian) * max(cost, 1e-12))).max())


def _descend(
    parts: Sequence[Coordinate],
    rows: Rows,
    q: Array,
    weights: Array,
    precision: Array,
    middle: Array,
    delta: float,
    steps: int = STEPS,
) -> tuple[Array, float]:
    """Levenberg-Marquardt from q: the optimum and its objective. Arguments as `_evaluate`."""
    damping = 1e-3
    cost, slope, hessian = _evaluate(parts, rows, q, weights, precision, middle, delta)
    for _ in range(steps):
        scale = 1 / np.sqrt(np.maximum(np.diag(hessian), 1e-300))
        inner = hessian * scale[:, None] * scale[None] + damping * np.eye(len(q))
        try:
            step = np.linalg.solve(inner, slope * scale) * scale
        except np.linalg.LinAlgError:
            damping *= 10
            continue
        trial = q - step * min(1.0, 2 / max(float(np.abs(step).max()), 1e-300))
        new = _evaluate(parts, rows, trial, weights, precision, middle, delta)
        if new[0] < cost:
            gain = cost - new[0]
            q, (cost, slope, hessian) = trial, new
            damping = max(damping * 0.2, 1e-10)
            if gain <= 1e-9 * cost and _scaled(slope, hessian, cost) < 0.5 * GRADIENT:
                break
        else:
            damping *= 6
            if damping > 1e8:
                break
    return q, cost


def cells(rows: Rows) -> NDArray[np.intp]:
    """The number of each row's cell of like N and D, from 0, shape (n,)."""
    return np.unique(np.stack([rows.x, rows.z]).round(2), axis=1, return_inverse=True)[1].ravel()


def _units(rows: Rows) -> NDArray[np.intp]:
    """What is resampled: cells of like N and D where there are enough, since a law's misfit is one for each; else runs."""
    cell = cells(rows)
    return cell if cell.max() + 1 >= FEWEST_CELLS else rows.cluster


def _polish(
    parts: Sequence[Coordinate], rows: Rows, q: Array, problem: tuple[Array, Array, Array, float]
) -> tuple[Array, float]:
    """Newton from q with the whole Hessian, where Gauss-Newton has not ended: the optimum and its objective."""
    cost, slope, hessian = _evaluate(parts, rows, q, *problem)
    damping = 1e-4
    steps = DIFFERENCE * np.eye(len(q))
    left, fresh = _scaled(slope, hessian, cost), True
    for _ in range(NEWTON_STEPS):
        if left < 0.5 * GRADIENT:
            break
        if fresh:
            scale = 1 / np.sqrt(np.diag(hessian))
            ends = [[_slope(parts, rows, q + sign * step, problem) for sign in (1, -1)] for step in steps]
            whole = np.array([(up - down) / (2 * DIFFERENCE) for up, down in ends])
            whole = 0.5 * (whole + whole.T) * scale[:, None] * scale[None]
            values, vectors = np.linalg.eigh(whole)
        move = scale * (vectors @ ((vectors.T @ (slope * scale)) / (np.abs(values) + damping)))
        trial = q - move * min(1.0, 2 / max(float(np.abs(move).max()), 1e-300))
        new = _evaluate(parts, rows, trial, *problem)
        fresh = False
        if new[0] < cost:
            q, (cost, slope, hessian) = trial, new
            damping = max(damping * 0.2, 1e-9)
            before, left = left, _scaled(slope, hessian, cost)
            fresh = (
                left > NEARER * before
            )  # a Hessian that still leads there is kept: it costs two gradients a constant
        else:
            damping *= 10
            if damping > 1e4:
                break
    return q, cost


def resampled(
    parts: Sequence[Coordinate], rows: Rows, fit: JointFit, count: int, seed: int, strength: float = 1.0
) -> Array:
    """Constants q refitted to `count` resamples of whole cells of like N and D, or of whole runs: shape (count, p).

    Args:
        parts: the coordinates.
        rows: the rows of the fit.
        fit: the fit.
        count: resamples; 0 for none.
        seed: of the resampling.
        strength: of the law's prior, as in the fit.
    """
    if not count:
        return np.empty((0, len(fit.q)))
    middle, width = prior_of(parts, rows)
    precision = fit.noise**2 / width**2
    precision[:LAW] *= strength
    drawn = cluster_weights(_units(rows), count, np.random.default_rng([seed, 2]))
    if len(rows.y) > MOST_REFITTED:
        predicted, by, _ = model(parts, fit.q, rows)
        psi = np.clip(predicted - rows.y, -fit.delta, fit.delta)
        slopes = products((drawn - 1) * (fit.weights * psi), by)
        return np.asarray(fit.q - np.linalg.solve(fit.hessian, slopes.T).T)
    draws = []
    for weight in drawn:
        q = fit.q
        for _ in range(REFIT_STEPS):
            _, slope, hessian = _evaluate(parts, rows, q, fit.weights * weight, precision, middle, fit.delta)
            step = np.linalg.solve(hessian, slope)
            q = q - step * min(1.0, 1 / max(float(np.abs(step).max()), 1e-300))
        draws.append(q)
    return np.array(draws)
