"""Parts of a fitted law: its forms with resampled constants, and the smoothed residuals near the fitted runs."""

from dataclasses import dataclass

import numpy as np

from families.units import BadInput

from ..laws import CONSTANTS, Law
from ..stats import Array, StatusEnum
from .curve import curve_loss

LENGTH = 1.0  # in log N and log D: the correction fades over a factor of e

REACH = 9.0  # lengths beyond which the correction's smooth part, below exp(-40), is 0 to any digit

NEARBY = 1.5  # standard deviation of the smooth part, in units of the residuals' own

SAME_SIZE = 0.7  # and of the part that rows of one N share: width, depth, learning rate

EQUAL = 5e-3  # log N within which two rows have the same size

MOST_CELLS = 250  # rows beyond this number are averaged in cells first

CELL = 0.4  # width of such a cell in log N and log D

ROBUST_STEPS = 3

OUTLIER = 2.0  # residuals past twice the noise count less (Student's t)


class Status(StatusEnum):
    """Verdict on a fit. Each member carries its message; only OK is free of doubt."""

    OK = "ok", "several starts agree and the gradient is zero"
    NOT_CONVERGED = (
        "not_converged",
        "the starts do not agree on one optimum, or the gradient is not zero: do not use it",
    )
    AT_BOUND = "at_bound", "a constant ran to the edge of what has meaning; another form may fit these data"
    ILL_CONDITIONED = (
        "ill_conditioned",
        "the data do not tell the constants apart: predictions only, no allocation",
    )
    TOO_FEW = "too_few", "fewer distinct points than constants; the prior carries the fit"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualGP:
    """Gaussian-process smoothing of the law's residuals in (log N, log D); fades with distance.

    Coordinates and coefficient of each row, shape (m,) each. Empty arrays correct nothing.
    """

    log_N: Array
    log_D: Array
    coefficient: Array

    def __post_init__(self) -> None:
        if not len(self.log_N) == len(self.log_D) == len(self.coefficient):
            raise BadInput("log_N, log_D and coefficient must have one length")

    @classmethod
    def nothing(cls) -> "ResidualGP":
        """No correction."""
        return cls(log_N=np.empty(0), log_D=np.empty(0), coefficient=np.empty(0))

    @classmethod
    def of(cls, N: Array, D: Array, residuals: Array) -> "ResidualGP":
        """Smooth the residuals (log actual − log fitted) over log N and log D.

        The mean of a Gaussian process with unit noise, a squared-exponential part and an offset for each N, rows that
        lie far off weighed down as by Student's t.
        """
        scale = float(np.median(np.abs(residuals)) / 0.6745)
        if scale < 1e-7:
            return cls.nothing()
        x, z, scaled, count = _cells(np.log(N), np.log(D), residuals / scale)
        kernel = _kernel(x, z, x, z)
        # Begun without a correction: begun with equal weights, diverged rows bend it so far that the others look far off.
        weight: Array = np.asarray(1 / (1 + (scaled / OUTLIER) ** 2), dtype=np.float64)
        coefficient: Array = np.zeros(len(x))
        for _ in range(ROBUST_STEPS):
            coefficient = np.asarray(
                np.linalg.solve(kernel + np.diag(1 / (weight * count)), scaled), dtype=np.float64
            )
            off = (scaled - kernel @ coefficient) / OUTLIER
            weight = np.asarray(1 / (1 + off**2), dtype=np.float64)
        return cls(log_N=x, log_D=z, coefficient=scale * coefficient)

    def correction(self, N: Array, D: Array) -> Array:
        """Addition to log loss at each point, shape (n,)."""
        added = np.zeros(len(N))
        if len(self.log_N):
            x, z = np.log(N), np.log(D)
            near = np.flatnonzero(self._near(x))
            added[near] = _kernel(x[near], z[near], self.log_N, self.log_D) @ self.coefficient
        return added

    def correction_grid(self, N: Array, D: Array) -> Array:
        """Addition to log loss at every pair of N, shape (n,), and D, shape (d,): shape (n, d)."""
        added = np.zeros((len(N), len(D)))
        if len(self.log_N):
            x = np.log(N)
            near = np.flatnonzero(self._near(x))
            dx = x[near, None] - self.log_N
            dz = np.log(D)[:, None] - self.log_D
            by_N, by_D = (np.exp(-0.5 * (offset / LENGTH) ** 2) for offset in (dx, dz))
            at_size = (SAME_SIZE**2 * (np.abs(dx) < EQUAL)) @ self.coefficient
            added[near] = (NEARBY**2 * by_N * self.coefficient) @ by_D.T + at_size[:, None]
        return added

    def _near(self, x: Array) -> Array:
        reach = REACH * LENGTH
        return np.asarray((x > self.log_N.min() - reach) & (x < self.log_N.max() + reach))


def _kernel(x: Array, z: Array, x0: Array, z0: Array) -> Array:
    dx = x[:, None] - x0[None]
    near = np.exp(-0.5 * (dx**2 + (z[:, None] - z0[None]) ** 2) / LENGTH**2)
    return np.asarray(NEARBY**2 * near + SAME_SIZE**2 * (np.abs(dx) < EQUAL))


def _cells(x: Array, z: Array, r: Array) -> tuple[Array, Array, Array, Array]:
    """Rows averaged in cells where they are many, with the rows in each; a row far off counts less, as it does alone."""
    if len(x) <= MOST_CELLS:
        return x, z, r, np.ones(len(x))
    keys = np.column_stack([np.round(x / CELL), np.round(z / CELL)])
    inverse = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
    weight = 1 / (1 + (r / OUTLIER) ** 2)
    count = np.bincount(inverse, weight)
    mean = [np.bincount(inverse, weight * values) / count for values in (x, z, r)]
    return mean[0], mean[1], mean[2], count.astype(np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class LastValue:
    """The last loss of a curve, towards which its prediction is drawn.

    Args:
        log_loss: of the last row.
        variance: mean squared error of log loss of rollouts inside the curve.
    """

    log_loss: float
    variance: float

    def draw(self, log_loss: Array) -> Array:
        """Log loss of the shapes, drawn to the last value: a change d counts d²/(d² + variance), elementwise."""
        change = log_loss - self.log_loss
        return np.asarray(self.log_loss + change**3 / (change**2 + self.variance))


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedForm:
    """Fit of one form: its law, its status and its weight in the combined prediction.

    Args:
        name: of the form and its prior.
        law: best constants.
        status: verdict of the certificate.
        objective: least objective.
        weight: share in the combined log loss, 0 to 1.
        draws: resampled constants, shape (k, 6), in the order of CONSTANTS.
        variable: "C" where the law's N is 6·N·D; of a curve "N", "D" or "C", what it is of.
        curve: shape of a law of one variable (`curve.FORMULAS`), whose constants `law` and `draws` hold; empty for a law
            of N and D. Its prediction is the mean over its draws.
        rollout_error: rms log error of predictions ten times beyond what they were fitted on, inside these data; None
            where there were too few rows for rollouts.
    """

    name: str
    law: Law
    status: Status
    objective: float
    weight: float
    draws: Array
    variable: str = "ND"
    curve: str = ""
    rollout_error: float | None = None

    def log_loss(self, N: Array, D: Array) -> Array:
        """Log L at each point, elementwise."""
        if self.curve:
            x = self._of(np.asarray(N, dtype=np.float64), np.asarray(D, dtype=np.float64))
            return np.asarray(self._curve_draws(x.ravel()).mean(axis=0).reshape(x.shape))
        return np.asarray(np.log(self.law.loss(6 * N * D if self.variable == "C" else N, D)))

    def log_losses(self, N: Array, D: Array) -> Array:
        """Log L of each draw: shape (k, n) at points of shape (n,), or of the k-th draw at the k-th of points (k, 1)."""
        if self.curve:
            return self._curve_draws(self._of(N, D))
        E, A, B, alpha, beta, gamma = (self.draws[:, i, None] for i in range(len(CONSTANTS)))
        n = 6 * N * D if self.variable == "C" else N
        with np.errstate(over="ignore", under="ignore", divide="ignore"):
            inner = np.exp(np.log(A) - alpha * np.log(n)) + np.exp(np.log(B) - beta * np.log(D))
            return np.asarray(np.log(E + inner**gamma))

    def _of(self, N: Array, D: Array) -> Array:
        """The one variable of a curve."""
        return np.asarray(
            {"N": N + 0 * D, "D": D + 0 * N}[self.variable] if self.variable != "C" else 6 * N * D
        )

    def _curve_draws(self, x: Array) -> Array:
        """Log loss of each draw at points of shape (n,), or of the k-th at the k-th of (k, 1)."""
        return np.asarray(np.log(curve_loss(self.curve, self.draws.T[:, :, None], x)))

    def log_optima(self, product: float) -> Array:
        """Log N* of each draw at N·D = product, in closed form: shape (k,); not finite where a draw has no optimum."""
        _, A, B, alpha, beta, _ = self.draws.T
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            log_g = np.log(alpha * A / (beta * B)) / (alpha + beta)
            return np.asarray(log_g + beta / (alpha + beta) * np.log(product))
