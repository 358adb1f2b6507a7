"""Laws of one variable x: parameters, tokens or compute. Shapes of the curve, and their posteriors on a grid.

    power        E + A·(x/B)^-alpha
    offset       E + A·(1 + x/B)^-alpha
    saturating   E + A / (1 + (x/B)^alpha)
    broken       E + A·(x/B)^-alpha · ((1 + (x/B)^(1/gamma))/2)^(-(beta - alpha)·gamma)
    logarithmic  E - A·ln(x/B)

`broken` has one smooth break (Caballero et al. 2023, eq. 1). E and A enter linearly, so their posterior is in closed form at
every point of a grid over the others and over the noise, and nothing can get stuck (docs/math.md).
"""

from dataclasses import dataclass, replace

import numpy as np

from ..stats import Array

SLOTS = ("E", "A", "B", "alpha", "beta", "gamma")  # as in `Law`, so that law.json holds them alike

FORMULAS = {
    "power": "E + A·(x/B)^-alpha",
    "offset": "E + A·(1 + x/B)^-alpha",
    "saturating": "E + A/(1 + (x/B)^alpha)",
    "broken": "E + A·(x/B)^-alpha·((1 + (x/B)^(1/gamma))/2)^(-(beta - alpha)·gamma)",
    "logarithmic": "E - A·ln(x/B)",
}

FREE = {"power": 3, "offset": 4, "saturating": 4, "broken": 6, "logarithmic": 2}  # constants of each

# Priors, chosen on single sizes of public tables and on half of the curves of benchmarks/one_variable.py (log e175).
FLOOR, FLOOR_WIDTH = 0.85, 0.12  # share of the smallest loss that is irreducible: curves flatten
SLOPE, SLOPE_WIDTH = 0.35, 0.7  # of a power law; the width is of the logarithm
BENT, BENT_WIDTH = 0.6, 0.9  # of an offset or saturating one, whose exponent is approached only far out
TURN = 0.7  # width of the logarithm of the ratio of two slopes
LOG_SLOPE_WIDTH = 0.2  # of a - b·ln x, as a share of the smallest loss
NOISE, NOISE_WIDTH = 2e-3, 1.5  # standard deviation of log loss; the width is of the logarithm

NOISES = np.geomspace(1e-6, 1e-2, 20)

LEAST = 1e-2  # of E: a logarithm falls below every loss, far enough out

AGREEMENT = 1e-6  # relative difference of objectives at which two starts have found one optimum

CONCENTRATED = 0.5  # of the posterior on one grid point: the rows tell more than the grid

CLEAN = (
    3e-4  # noise of log loss below which they do: less than any run's, as in rows of a surface without noise
)

JITTER = 0.02  # of the coordinates of an optimum that one start alone found

MOST_ROWS = 60  # of a curve; longer ones are thinned evenly, their neighbours hardly differ


def curve_loss(name: str, constants: Array, x: Array) -> Array:
    """Loss of a shape, in nats per token.

    Args:
        name: of the shape.
        constants: in the order of SLOTS along the first axis: shape (6, …).
        x: the variable; broadcasts with each constant.
    """
    E, A, B, alpha, beta, gamma = constants
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        z = np.log(x) - np.log(B)
        return np.asarray(np.maximum(E + A * _fall(name, z, alpha, beta, gamma), LEAST * E))


def _fall(name: str, z: Array, alpha: Array, beta: Array, gamma: Array) -> Array:
    """The part of a shape that A multiplies, at z = ln(x/B)."""
    if name == "power":
        return np.asarray(np.exp(-alpha * z))
    if name == "offset":
        return np.asarray(np.exp(-alpha * np.logaddexp(0.0, z)))
    if name == "saturating":
        return np.asarray(np.exp(-np.logaddexp(0.0, alpha * z)))
    if name == "broken":
        bend = gamma * (np.logaddexp(0.0, z / gamma) - np.log(2))
        return np.asarray(np.exp(-alpha * z - (beta - alpha) * bend))
    return np.asarray(-z + 0 * alpha)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Distinct values of x in ascending order and the mean loss at each, shape (n,)."""

    x: Array
    y: Array

    @classmethod
    def of(cls, x: Array, y: Array) -> "Curve":
        """Rows averaged where they have one x, and thinned evenly to MOST_ROWS."""
        values, inverse = np.unique(x, return_inverse=True)
        means = np.bincount(inverse.ravel(), y) / np.bincount(inverse.ravel())
        if len(values) > MOST_ROWS:
            keep = np.unique(np.linspace(0, len(values) - 1, MOST_ROWS).round().astype(int))
            values, means = values[keep], means[keep]
        return cls(x=values, y=means)

    def until(self, x: float) -> "Curve":
        """The part up to and including x."""
        keep = self.x <= x
        return Curve(x=self.x[keep], y=self.y[keep])

    def after(self, x: float) -> "Curve":
        """The part beyond x."""
        keep = self.x > x
        return Curve(x=self.x[keep], y=self.y[keep])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """Constants besides E and A at every point of a grid, with the logarithm of their prior: shape (k,) each."""

    B: Array
    alpha: Array
    beta: Array
    gamma: Array
    log_prior: Array

    @classmethod
    def of(cls, name: str, curve: Curve) -> "_Grid":
        first, last = float(curve.x[0]), float(curve.x[-1])
        span = np.log(last / first)
        one = np.ones(1)
        if name == "power":
            alpha = np.geomspace(0.03, 2.0, 22)
            return cls._of(np.full(22, last), alpha, prior=_normal(alpha, SLOPE, SLOPE_WIDTH))
        if name == "offset":
            alpha, B = _mesh(np.geomspace(0.05, 6.0, 24), np.geomspace(first, 2 * last, 14))
            return cls._of(B, alpha, prior=_normal(alpha, BENT, BENT_WIDTH))
        if name == "saturating":
            alpha, B = _mesh(np.geomspace(0.1, 3.0, 20), np.geomspace(first, np.e * last, 14))
            return cls._of(B, alpha, prior=_normal(alpha, BENT, BENT_WIDTH))
        if name == "broken":
            alpha, beta, B, gamma = _mesh(
                np.geomspace(0.03, 2.0, 12),
                np.geomspace(0.03, 2.0, 12),
                np.exp(np.linspace(-0.9 * span, -0.1 * span, 8)) * last,
                np.array([0.1, 0.5]),
            )
            prior = _normal(alpha, SLOPE, SLOPE_WIDTH + 0.1) + _normal(beta / alpha, 1.0, TURN)
            return cls._of(B, alpha, beta, gamma, prior=prior)
        return cls._of(np.full(1, last), one, prior=np.zeros(1))

    @classmethod
    def _of(
        cls, B: Array, alpha: Array, beta: Array | None = None, gamma: Array | None = None, *, prior: Array
    ) -> "_Grid":
        blank = np.ones(len(B))
        return cls(
            B=B,
            alpha=alpha,
            beta=blank if beta is None else beta,
            gamma=blank if gamma is None else gamma,
            log_prior=prior - np.log(len(B)),
        )

    def fall(self, name: str, x: Array) -> Array:
        """What A multiplies, 1 at the last x of the curve: shape (k, n)."""
        z = np.log(x) - np.log(self.B)[:, None]
        return _fall(name, z, self.alpha[:, None], self.beta[:, None], self.gamma[:, None])


def _mesh(*axes: Array) -> list[Array]:
    return [part.ravel() for part in np.meshgrid(*axes, indexing="ij")]


def _normal(value: Array, centre: float, width: float) -> Array:
    return np.asarray(-0.5 * (np.log(value / centre) / width) ** 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePosterior:
    """Posterior of one shape on its grid.

    Args:
        name: of the shape.
        constants: E, A, B, alpha, beta, gamma at every grid point, E and A at their best there, shape (6, m).
        spread: covariance of E and A at each: variances and covariance, shape (3, m).
        chance: probability of each, shape (m,).
        noise: standard deviation of log loss at each, shape (m,).
        evidence: logarithm of the marginal likelihood.
    """

    name: str
    constants: Array
    spread: Array
    chance: Array
    noise: Array
    evidence: float

    @property
    def mean_noise(self) -> float:
        """Geometric mean of the noise."""
        return float(np.exp(self.chance @ np.log(self.noise)))

    def log_loss(self, x: Array) -> Array:
        """Posterior mean of log loss, shape (n,)."""
        kept = self.chance > self.chance.max() * 1e-4
        weight = self.chance[kept] / self.chance[kept].sum()
        values = curve_loss(self.name, self.constants[:, kept, None], x)
        return np.asarray(weight @ np.log(values))

    def draws(self, count: int, rng: np.random.Generator) -> Array:
        """Constants drawn from the posterior: shape (count, 6)."""
        at = rng.choice(len(self.chance), size=count, p=self.chance)
        values = self.constants[:, at].T.copy()
        var_E, var_A, both = self.spread[:, at]
        first, second = rng.standard_normal((2, count))
        step_E = np.sqrt(var_E) * first
        step_A = both / np.maximum(np.sqrt(var_E), 1e-300) * first
        step_A += np.sqrt(np.maximum(var_A - both**2 / np.maximum(var_E, 1e-300), 0.0)) * second
        values[:, 0] = np.maximum(values[:, 0] + step_E, 0.0)
        values[:, 1] = np.maximum(values[:, 1] + step_A, 0.0)
        return values


def posterior(name: str, curve: Curve) -> CurvePosterior:
    """The posterior of a shape's constants and of the noise.

    Residuals are relative, f(x)/y - 1, and normal; E and A have normal priors and are not negative.

    Args:
        name: of the shape, a key of FORMULAS.
        curve: the observed part, n >= 3 distinct points.
    """
    grid = _Grid.of(name, curve)
    w = 1 / curve.y
    fall = grid.fall(name, curve.x)
    last = fall[:, -1:] if name != "logarithmic" else np.ones((1, 1))
    F = fall / last * w
    centre, width = _linear_prior(name, curve)
    ss_1, ss_F = w @ w, (F * F).sum(axis=1)
    cross, one_t, F_t = F @ w, w.sum(), F.sum(axis=1)
    variance = NOISES[:, None] ** 2  # (s, 1) against the grid's (k,)
    m11, m22 = ss_1 / variance + 1 / width[0] ** 2, ss_F / variance + 1 / width[1] ** 2
    m12 = cross / variance
    b1 = one_t / variance + centre[0] / width[0] ** 2
    b2 = F_t / variance + centre[1] / width[1] ** 2
    det = m11 * m22 - m12**2
    E, A = (m22 * b1 - m12 * b2) / det, (m11 * b2 - m12 * b1) / det
    E, A = np.where(E < 0, 0.0, E), np.where(E < 0, b2 / m22, A)
    E, A = np.where(A < 0, b1 / m11, E), np.maximum(A, 0.0)
    n = len(w)
    squares = n - 2 * (E * one_t + A * F_t) + E**2 * ss_1 + A**2 * ss_F + 2 * E * A * cross
    exact = np.maximum(squares, 1e-15 * n) / variance
    penalty = ((E - centre[0]) / width[0]) ** 2 + ((A - centre[1]) / width[1]) ** 2
    log = -0.5 * (exact + penalty + np.log(det)) - n * np.log(NOISES)[:, None]
    log = log - np.log(width).sum() + grid.log_prior + _normal(NOISES, NOISE, NOISE_WIDTH)[:, None]
    top = float(log.max())
    chance = np.exp(log - top).ravel()
    total = float(chance.sum())
    shape = log.shape

    def spread_out(values: Array) -> Array:
        return np.broadcast_to(values, shape).ravel()

    scale = spread_out(last.ravel())
    amplitude = A.ravel() / scale
    return CurvePosterior(
        name=name,
        constants=np.array(
            [
                E.ravel(),
                amplitude,
                spread_out(grid.B),
                spread_out(grid.alpha),
                spread_out(grid.beta),
                spread_out(grid.gamma),
            ]
        ),
        spread=np.array(
            [
                spread_out(m22 / det),
                spread_out(m11 / det) / scale**2,
                spread_out(-m12 / det) / scale,
            ]
        ),
        chance=chance / total,
        noise=spread_out(NOISES[:, None]),
        evidence=top + float(np.log(total)),
    )


def _linear_prior(name: str, curve: Curve) -> tuple[Array, Array]:
    """Centre and width of the normal priors of E and of A, the height of the last point above the floor."""
    least = float(curve.y.min())
    if name == "logarithmic":
        return np.array([curve.y[-1], 0.0]), np.array([2 * least, LOG_SLOPE_WIDTH * least])
    return np.array([FLOOR * least, (1 - FLOOR) * least]), np.array([FLOOR_WIDTH * least, least])


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveOptimum:
    """The most probable constants of a shape, refined from several grid points, and the evidence for them.

    Args:
        constants: in the order of SLOTS, shape (6,).
        objective: half the sum of squares, in units of the noise, prior included.
        starts: number of grid points from which the search began.
        agreeing: how many of them reached the best objective.
        gradient: largest slope of the objective per unit of the search's coordinates, over max(1, objective).
        condition: of J'J with unit diagonal.
    """

    constants: Array
    objective: float
    starts: int
    agreeing: int
    gradient: float
    condition: float


def sharp_posterior(name: str, curve: Curve) -> CurvePosterior:
    """The posterior on the grid; of rows without noise, the optimum, for which the grid is too coarse.

    Args:
        name: of the shape.
        curve: the observed part.
    """
    found = posterior(name, curve)
    by_point = found.chance.reshape(len(NOISES), -1).sum(axis=0)
    if name == "logarithmic" or by_point.max() < CONCENTRATED:
        return found
    noise = found.mean_noise
    freedom = max(len(curve.x) - FREE[name], 1)
    for _ in range(2):
        best = optimum(name, curve, found, noise, count=1)
        off = curve_loss(name, best.constants, curve.x) / curve.y - 1
        noise = max(float(np.sqrt((off**2).sum() / freedom)), float(NOISES[0]))
    if noise > CLEAN:
        return found
    top = int(found.chance.argmax())
    return replace(
        found,
        constants=best.constants[:, None],
        spread=found.spread[:, [top]] * (noise / found.noise[top]) ** 2,
        chance=np.ones(1),
        noise=np.array([noise]),
        evidence=found.evidence + len(curve.x) * float(np.log(found.mean_noise / noise)),
    )


def optimum(name: str, curve: Curve, found: CurvePosterior, noise: float, count: int = 4) -> CurveOptimum:
    """Refine the likeliest grid points by Gauss-Newton at one noise.

    Args:
        name: of the shape.
        curve: the observed part.
        found: its posterior on the grid.
        noise: standard deviation of log loss.
        count: grid points to start from.
    """
    from scipy.optimize import least_squares  # 0.1 s to import; a prediction needs none of it

    free = {"logarithmic": [], "power": [3], "offset": [2, 3], "saturating": [2, 3], "broken": [2, 3, 4, 5]}[
        name
    ]
    least = float(curve.y.min())
    centre, width = _linear_prior(name, curve)
    per_point = found.chance.reshape(len(NOISES), -1)
    likely = np.argsort(-per_point.max(axis=0))[:count]
    level = per_point[:, likely].argmax(axis=0)
    starts = found.constants.reshape(6, len(NOISES), -1)[:, level, likely].T
    span = np.log(curve.x[-1] / curve.x[0])

    def full(q: Array, base: Array) -> Array:
        """The constants of q: E and the height at the last point as shares, the others as logarithms."""
        values = base.copy()
        values[free] = np.exp(q[2:])
        unit = np.array([0.0, 1.0, *values[2:]])
        height = 1.0 if name == "logarithmic" else float(_at(name, unit, curve.x[-1:])[0])
        values[0], values[1] = q[0] * least, q[1] * least / max(height, 1e-300)
        return values

    def residuals(q: Array, base: Array) -> Array:
        values = full(q, base)
        off = curve_loss(name, values, curve.x) / curve.y - 1
        prior = (q[:2] * least - centre) / width
        a, b = (values[3], values[4])
        slope = (SLOPE, SLOPE_WIDTH) if name == "power" else (BENT, BENT_WIDTH)
        more = [np.log(a / slope[0]) / slope[1]] if name in ("power", "offset", "saturating") else []
        if name == "broken":
            more = [np.log(a / SLOPE) / (SLOPE_WIDTH + 0.1), np.log(b / a) / TURN]
            more.append(np.log(values[5] / 0.25) / 1.0)
        if name != "power" and free:  # a break far outside the curve is none
            more.append(max(abs(np.log(values[2] / curve.x[-1]) + span / 2) - span, 0.0))
        return np.concatenate([off / noise, prior, more])

    def search(q0: Array, base: Array) -> tuple[float, Array, Array, float, float]:
        """Objective, coordinates, constants, gradient and condition of one search."""
        low = np.array([0.0, 0.0, *np.full(len(free), -np.inf)])
        solved = least_squares(
            residuals, np.maximum(q0, low + 1e-9), bounds=(low, np.inf), args=(base,), xtol=1e-14, ftol=1e-14, gtol=1e-10
        )  # fmt: skip
        cost = float(solved.cost)
        slope = float(np.abs(solved.grad * (solved.active_mask == 0)).max())
        dense = np.asarray(solved.jac, dtype=np.float64)
        J = dense / np.maximum(np.linalg.norm(dense, axis=0), 1e-300)
        return cost, solved.x, full(solved.x, base), slope / max(1.0, cost), float(np.linalg.cond(J.T @ J))

    results = []
    for base in starts:
        unit = np.array([0.0, 1.0, *base[2:]])
        height = 1.0 if name == "logarithmic" else float(_at(name, unit, curve.x[-1:])[0])
        results.append(
            search(np.array([base[0] / least, base[1] * height / least, *np.log(base[free])]), base)
        )
    best = min(results, key=lambda one: one[0])
    tried = len(results)
    if count > 1 and _agreeing(results, best[0]) < min(
        2, tried
    ):  # an optimum found once is tried again from near it
        rng = np.random.default_rng([0, 3])
        again = best[1] * np.exp(JITTER * rng.standard_normal((3, len(best[1]))))
        results += [search(q, starts[0]) for q in again]
        best, tried = min(results, key=lambda one: one[0]), len(results)
    return CurveOptimum(
        constants=best[2],
        objective=best[0],
        starts=tried,
        agreeing=_agreeing(results, best[0]),
        gradient=best[3],
        condition=best[4],
    )


def _agreeing(results: list[tuple[float, Array, Array, float, float]], least: float) -> int:
    return sum(one[0] <= least * (1 + AGREEMENT) + 1e-9 for one in results)


def _at(name: str, constants: Array, x: Array) -> Array:
    return _fall(name, np.log(x) - np.log(constants[2]), constants[3], constants[4], constants[5])
