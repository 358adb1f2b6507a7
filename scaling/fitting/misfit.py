"""Constants of the law in view of its own misfit: a posterior in which rows near each other err alike.

    log L = f_θ(log N, log D) + wander + offset of the size + noise          θ normal about published fits

No law of six constants is exact, so the rows of a large table do not pin it down as independent ones would, and rows far
below the target in compute say less about it than rows near it. The wander is a Gaussian process over decades of N and D
whose variance grows with distance (Ornstein and Uhlenbeck 1930); how large it is, each table says by its evidence (the
marginal likelihood), linear in θ about the plain fit. Three answers are averaged, in
which rows err more, much more, and very much more the higher their loss lies (early, small and untuned ones).
"""

from dataclasses import dataclass, replace
from importlib import import_module

import numpy as np
from numpy.typing import NDArray

from ..stats import Array
from .forms import EQUAL
from .optimise import G_, FormShape, Problem, linearised, log_loss

LENGTH = 7.0  # decades over which the wander forgets where it was: beyond any table's own range

WANDERS = np.array([2e-5, 2e-4, 2e-3, 6e-3, 2e-2])  # standard deviation of log loss per root decade

OFFSETS = np.array([2e-5, 1e-3, 4e-3, 1.5e-2])  # of log loss, shared by the rows of one size

NOISE_SHARES = np.array([1.0, 0.4])  # of the plain fit's residuals that are noise and not wander

# Normal priors of the logarithms of wander and offset: what public tables have (log e136).
WANDER_PRIOR = (np.log(8e-3), 1.0)
OFFSET_PRIOR = (np.log(3e-3), 1.0)

PRIOR_TAIL = 1.5  # widths from which these priors fall as an exponential: a table may have hardly any noise

STEEPNESSES = (2.0, 4.0, 8.0)  # powers of loss by which misfit grows above the smallest loss

TEMPER = 0.3  # power of the evidence: neighbouring values average, since the wander is an image of misfit, not its cause

LEAST_WEIGHT = 0.04  # of the best value of wander, offset and noise: what counts less is left out

MOST_CELLS = 240  # residuals of larger tables are averaged in cells

CELL = 0.1  # least width of such a cell, in log N and log D

FREEDOM = 4.0  # of Student's t, by which rows far off count less

MOST_STEPS = 100

# Of the posterior's variance that intervals of constants and optima have, by simulation (log e182): of the floor, of the
# two terms in mid-data, which decide N*, of their slopes and of log gamma.
CONSTANTS_SHARE = np.array([0.9, 0.75, 0.75, 0.25, 0.25, 1.0])

# Of a slope's logarithm, what it errs further with log gamma: in simulation their errors correlate by 0.7 to 0.8, in the
# posterior by 0.2 to 0.3 (log e208).
WITH_GAMMA = 0.25

PREDICTED = 0.03  # of these draws' variance at a prediction: along the ridge on which constants err together rows hold it

SLOPES = [3, 4]  # of θ

USUAL_WANDER = (
    6e-3  # towards which a table's own is drawn, a quarter of the way in its logarithm, before it is a drift
)

DRIFT = 2.6  # standard deviation of log loss per decade beyond the data, in units of the wander so drawn (log e181)


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """Normal posterior of θ, and what else the table says of its misfit.

    Args:
        theta: mean, shape (6,), in the coordinates of the problem.
        covariance: shape (6, 6); zero where a coordinate is not free.
        wander: standard deviation of log loss per root decade.
        offset: standard deviation of log loss that the rows of one size share.
        converged: false where the search for the mean ended before its gradient was small.
        prior_share: of the slopes' prior variance, what the rows leave: 0 where they decide, 1 where they say nothing.
    """

    theta: Array
    covariance: Array
    wander: float
    offset: float
    converged: bool
    prior_share: float = 0.0

    @property
    def drift(self) -> float:
        """Standard deviation of log loss that a decade of compute beyond the data adds."""
        return DRIFT * float(self.wander**0.75 * USUAL_WANDER**0.25)

    def widened(self, factor: float) -> "Posterior":
        """The same with its covariance times a factor: few runs bend a law towards themselves."""
        return replace(self, covariance=factor * self.covariance)

    def draws(self, shape: FormShape, count: int, seed: int) -> Array:
        """`count` draws of θ, shape (count, 6)."""
        free = list(shape.free)
        values, vectors = np.linalg.eigh(self.covariance[np.ix_(free, free)])
        root = vectors * np.sqrt(np.maximum(values, 0))
        theta = np.tile(self.theta, (count, 1))
        theta[:, free] += np.random.default_rng([seed, 2]).standard_normal((count, len(free))) @ root.T
        return shape.at(theta)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Rows, averaged in cells where they are many: `average` (cells, n) takes residuals of rows to those of cells."""

    problem: Problem
    shape: FormShape
    average: Array
    count: Array
    near: Array  # correlation of the wander between cells, in units of wander² per decade
    same: Array  # 1 where two cells have one size
    height: Array  # log loss above the smallest, by the plain fit

    def residual(self, theta: Array) -> Array:
        """Log loss of the cells less that of each θ (k, 6): shape (k, cells)."""
        off = self.problem.y - log_loss(theta, self.problem.x, self.problem.z)
        return off if self.alone else np.asarray(off @ self.average.T)

    def linearised(self, theta: Array) -> tuple[Array, Array]:
        """The residual, and the gradient of the law in the free coordinates: (k, cells), (k, cells, p)."""
        value, gradient = linearised(theta, self.problem.x, self.problem.z, self.shape)
        off = self.problem.y - value
        return (off, gradient) if self.alone else (off @ self.average.T, self.average @ gradient)

    @property
    def alone(self) -> bool:
        """True where each row is a cell of its own."""
        return len(self.average) == len(self.problem.x)


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalParts:
    """Mixture of normal distributions of θ, the first of them the main one.

    Args:
        log_weights: shape (k,).
        centres: shape (k, 6).
        roots: R with R·R' the covariance, shape (k, 6, 6).
    """

    log_weights: Array
    centres: Array
    roots: Array

    @property
    def covariances(self) -> Array:
        """Shape (k, 6, 6)."""
        return np.asarray(self.roots @ self.roots.transpose(0, 2, 1))

    def part(self, which: "NDArray[np.intp] | list[int]") -> "NormalParts":
        """Some of the parts, also one more than once."""
        return NormalParts(
            log_weights=self.log_weights[which], centres=self.centres[which], roots=self.roots[which]
        )


def posterior(
    problem: Problem, shape: FormShape, theta: Array, prior: NormalParts, noise: float
) -> Posterior:
    """The posterior of θ, averaged over how misfit grows with loss and over its size.

    Args:
        problem: the rows.
        shape: the form.
        theta: the plain fit, shape (6,), at which the search starts.
        prior: of θ.
        noise: standard deviation of log loss about the plain fit.
    """
    rows = _averaged(problem, shape, theta, noise)
    found = [part for steepness in STEEPNESSES for part in _weighted(rows, theta, prior, noise, steepness)]
    weights = np.array([part[0] for part in found])
    weights /= weights.sum()
    means = np.array([part[1].theta for part in found])
    mean = weights @ means
    between = means - mean
    covariance = sum(w * part[1].covariance for w, part in zip(weights, found, strict=True))
    covariance = covariance + (weights[:, None] * between).T @ between
    return Posterior(
        theta=shape.at(mean),
        covariance=_of_constants(shape.at(mean), covariance),
        wander=float(np.exp(weights @ np.log([part[1].wander for part in found]))),
        offset=float(np.exp(weights @ np.log([part[1].offset for part in found]))),
        converged=all(part[1].converged for part in found),
        prior_share=min(float(np.mean((np.diag(covariance) / np.diag(prior.covariances[0]))[SLOPES])), 1.0),
    )


def _of_constants(theta: Array, covariance: Array) -> Array:
    """The covariance that intervals have: shares of the posterior's, and slopes that err with gamma."""
    together = np.eye(6)
    together[SLOPES, G_] = WITH_GAMMA * theta[SLOPES]
    root = together * np.sqrt(CONSTANTS_SHARE)
    return np.asarray(root @ covariance @ root.T)


def _averaged(problem: Problem, shape: FormShape, theta: Array, noise: float) -> _Rows:
    n, x, z = len(problem.x), problem.x, problem.z
    fitted = log_loss(theta[None], x, z)[0]
    width, inverse = CELL, np.arange(n)
    while len(np.unique(inverse)) > MOST_CELLS:
        keys = np.column_stack([np.round(x / width), np.round(z / width)])
        inverse = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
        width *= 1.3
    average = np.zeros((int(inverse.max()) + 1, n))
    off = (
        problem.y - fitted
    ) / noise  # within a cell rows far off count less at once, or they would move its mean
    alone = len(average) == n
    average[inverse, np.arange(n)] = 1.0 if alone else (FREEDOM + 1) / (FREEDOM + off**2)
    count = average.sum(axis=1)
    average /= count[:, None]
    at_x, at_z, height = average @ x, average @ z, average @ fitted
    order = np.argsort(at_x, kind="stable")
    size = np.empty(
        len(at_x), dtype=np.intp
    )  # sizes are parted where two neighbours differ, so that `same` is transitive
    size[order] = np.cumsum(np.diff(at_x[order], prepend=at_x[order[0]]) > EQUAL)
    distance = np.hypot(at_x[:, None] - at_x, at_z[:, None] - at_z) / np.log(10)
    return _Rows(
        problem=problem,
        shape=shape,
        average=average,
        count=count,
        near=LENGTH * np.exp(-distance / LENGTH),
        same=(size[:, None] == size).astype(np.float64),
        height=height - height.min(),
    )


def _weighted(
    rows: _Rows, theta: Array, prior: NormalParts, noise: float, steepness: float
) -> list[tuple[float, Posterior]]:
    """Posteriors at the likely values of wander, offset and noise, with weights that add to 1."""
    scale = np.exp(steepness * rows.height)
    grid = [(q, s, share * noise) for q in WANDERS for s in OFFSETS for share in NOISE_SHARES]
    weight: Array = np.ones(len(rows.count))
    for turn in range(2):  # rows far off count less once it is known which they are
        lower, by_part = _chances(rows, theta, prior, _covariances(rows, scale, weight, grid), grid)
        if turn == 0:
            part, best = divmod(int(np.argmax(by_part)), len(grid))
            whitening = _inverses(lower[[best]])
            theta = _search(rows, theta, prior.part([part]), whitening)[0][0]
            spread = grid[best][2] * scale / np.sqrt(rows.count)
            own = spread * (whitening[0].T @ (whitening[0] @ rows.residual(theta[None])[0]))
            weight = (FREEDOM + 1) / (FREEDOM + own**2)
    parts, kept = np.nonzero(by_part >= LEAST_WEIGHT * by_part.max())
    chances = by_part[parts, kept]
    used, at_used = np.unique(kept, return_inverse=True)
    whitening = _inverses(lower[used])[at_used.ravel()]
    modes, covariances, converged = _search(rows, theta, prior.part(parts), whitening)
    return [
        (
            float(chances[at] / chances.sum()),
            Posterior(
                theta=modes[at],
                covariance=covariances[at],
                wander=float(grid[index][0]),
                offset=float(grid[index][1]),
                converged=bool(converged[at]),
            ),
        )
        for at, index in enumerate(kept.tolist())
    ]


def _covariances(rows: _Rows, scale: Array, weight: Array, grid: list[tuple[float, float, float]]) -> Array:
    """Covariance of the cells' residuals for each wander, offset and noise: shape (values, cells, cells)."""
    wander, offset, noise = (values[:, None, None] ** 2 for values in np.array(grid).T)
    own = np.diag(scale**2 / (weight * rows.count))
    matrix = wander * (rows.near * np.outer(scale, scale)) + offset * rows.same + noise * own
    ridge = 1e-10 * np.trace(matrix, axis1=1, axis2=2) / len(scale) + 1e-16
    return np.asarray(matrix + ridge[:, None, None] * np.eye(len(scale)))


def _chances(
    rows: _Rows,
    theta: Array,
    prior: NormalParts,
    covariances: Array,
    grid: list[tuple[float, float, float]],
) -> tuple[Array, Array]:
    """The covariances' Cholesky factors, and the tempered evidence of each part of the prior and value, θ integrated out.

    Returns:
        Shapes (values, cells, cells) and (parts of the prior, values); the second adds to 1.
    """
    free = list(rows.shape.free)
    off, J = (part[0] for part in rows.linearised(theta[None]))
    lower = np.linalg.cholesky(covariances)
    both = np.column_stack([off, J])
    dtrsm = import_module(
        "scipy.linalg.blas"
    ).dtrsm  # late: predicting needs no scipy; dtrtrs wakes OpenBLAS's threads
    whitened = np.stack([dtrsm(1.0, one, both, lower=1) for one in lower])
    half = np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(axis=1)
    off_wander = np.zeros(len(grid))
    for column, (centre, width) in ((0, WANDER_PRIOR), (1, OFFSET_PRIOR)):
        far = np.abs(np.log([values[column] for values in grid]) - centre) / width
        off_wander += np.where(far < PRIOR_TAIL, 0.5 * far**2, PRIOR_TAIL * (far - 0.5 * PRIOR_TAIL))
    logs = []
    for centre, root, weight in zip(prior.centres, prior.roots, prior.log_weights, strict=True):
        white = whitened[..., 0] - whitened[..., 1:] @ (centre - theta)[free]
        slopes = whitened[..., 1:] @ root[np.ix_(free, free)]
        # The determinant and the inverse of K + J·W·J' (Woodbury) ask for matrices of six rows only.
        inner = np.eye(len(free)) + slopes.transpose(0, 2, 1) @ slopes
        along = (slopes.transpose(0, 2, 1) @ white[..., None])[..., 0]
        square = (white**2).sum(axis=1) - (along * np.linalg.solve(inner, along[..., None])[..., 0]).sum(
            axis=1
        )
        logs.append(TEMPER * (-0.5 * square - half - 0.5 * np.linalg.slogdet(inner)[1]) + weight - off_wander)
    chances = np.exp(np.array(logs) - np.max(logs))
    return np.asarray(lower), np.asarray(chances / chances.sum())


def _inverses(lower: Array) -> Array:
    """Inverses of lower triangles, shape (k, n, n)."""
    dtrtri = import_module("scipy.linalg.lapack").dtrtri
    return np.stack([dtrtri(one, lower=1)[0] for one in lower])


def _search(
    rows: _Rows, theta: Array, priors: NormalParts, whitening: Array
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """The mode of θ under each of k covariances, by Gauss-Newton with damping, and its own covariance.

    Args:
        rows: the cells.
        theta: where every search starts, shape (6,).
        priors: the part of the prior under which each search goes, k of them.
        whitening: of the residuals, shape (k, cells, cells).

    Returns:
        Modes (k, 6), covariances (k, 6, 6), and where a search ended with a small gradient (k,).
    """
    free = list(rows.shape.free)
    precision = np.linalg.inv(priors.covariances[:, np.array(free)[:, None], free])
    centre = priors.centres[:, free]

    def cost(at: Array, which: NDArray[np.intp]) -> Array:
        white = (whitening[which] @ rows.residual(at)[..., None])[..., 0]
        gap = at[:, free] - centre[which]
        return np.asarray(
            0.5 * (white**2).sum(axis=1) + 0.5 * (gap[:, None] @ precision[which] @ gap[..., None])[:, 0, 0]
        )

    count = len(whitening)
    modes, damping, converged = (
        np.tile(theta, (count, 1)),
        np.full(count, 1e-3),
        np.zeros(count, dtype=np.bool_),
    )
    least = cost(modes, np.arange(count))
    curvature = precision.copy()
    active = np.arange(count)
    for _ in range(MOST_STEPS):
        off, gradient = rows.linearised(modes[active])
        J, white = whitening[active] @ gradient, (whitening[active] @ off[..., None])
        gap = modes[active][:, free] - centre[active]
        slope = (J.transpose(0, 2, 1) @ white)[..., 0] - (precision[active] @ gap[..., None])[..., 0]
        curvature[active] = J.transpose(0, 2, 1) @ J + precision[active]
        step = np.linalg.solve(curvature[active], slope[..., None])[..., 0]
        done = (slope * step).sum(axis=1) < 1e-8 * np.maximum(1.0, least[active])
        converged[active[done]] = True
        active, slope = active[~done], slope[~done]
        if not len(active):
            break
        trying = np.arange(len(active))
        for _ in range(12):
            at = active[trying]
            diagonal = np.eye(len(free)) * np.diagonal(curvature[at], axis1=1, axis2=2)[:, None]
            step = np.linalg.solve(
                curvature[at] + damping[at, None, None] * diagonal, slope[trying][..., None]
            )[..., 0]
            trial = modes[at].copy()
            trial[:, free] += step * np.minimum(1.0, 1.0 / np.abs(step).max(axis=1))[:, None]
            value = cost(trial, at)
            better = value < least[at]
            modes[at[better]], least[at[better]] = trial[better], value[better]
            damping[at] = np.where(better, np.maximum(damping[at] * 0.2, 1e-9), damping[at] * 6)
            trying = trying[~better]
            if not len(trying):
                break
        stuck = active[trying]  # no step improves: at the floor of double precision
        converged[stuck] = True
        active = np.setdiff1d(active, stuck)
        if not len(active):
            break
    covariance = np.zeros((count, 6, 6))
    covariance[:, np.array(free)[:, None], free] = np.linalg.inv(curvature)
    return modes, covariance, converged
