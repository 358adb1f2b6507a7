"""What the rows near a point know beyond the law: smoothed residuals, which fade with distance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LENGTH = 1.0  # in log N and log D: the correction fades over a factor of e
NEARBY = 1.5  # standard deviation of the smooth part, in units of the residuals' own
SAME_SIZE = 0.7  # and of what rows of one N share: width, depth, learning rate
EQUAL = 5e-3  # log N within which two rows have the same size
MOST_CELLS = 250  # rows beyond this number are averaged in cells first
CELL = 0.4  # width of such a cell in log N and log D
ROBUST_STEPS = 3
OUTLIER = 2.0  # residuals past twice the noise count less (Student's t)


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """A correction of log loss: kriging of the law's residuals, shape (m,) each. Empty arrays correct nothing."""

    x: Array
    z: Array
    coefficient: Array

    @classmethod
    def nothing(cls) -> "Local":
        """No correction."""
        return cls(x=np.empty(0), z=np.empty(0), coefficient=np.empty(0))

    @classmethod
    def of(cls, N: Array, D: Array, residuals: Array) -> "Local":
        """Smooth the residuals (log actual − log fitted) over log N and log D.

        The mean of a Gaussian process with unit noise, a squared-exponential part and an offset for each N, rows that
        lie far off weighed down as by Student's t.
        """
        scale = float(np.median(np.abs(residuals)) / 0.6745)
        if scale < 1e-7:
            return cls.nothing()
        x, z, scaled, count = _cells(np.log(N), np.log(D), residuals / scale)
        kernel = _kernel(x, z, x, z)
        weight: Array = np.ones(len(x))
        coefficient: Array = np.zeros(len(x))
        for _ in range(ROBUST_STEPS):
            coefficient = np.asarray(
                np.linalg.solve(kernel + np.diag(1 / (weight * count)), scaled), dtype=np.float64
            )
            off = (scaled - kernel @ coefficient) / OUTLIER
            weight = np.asarray(1 / (1 + off**2), dtype=np.float64)
        return cls(x=x, z=z, coefficient=scale * coefficient)

    def correction(self, N: Array, D: Array) -> Array:
        """What to add to log loss at each point, shape (n,)."""
        if not len(self.x):
            return np.zeros(len(N))
        return np.asarray(_kernel(np.log(N), np.log(D), self.x, self.z) @ self.coefficient)


def _kernel(x: Array, z: Array, x0: Array, z0: Array) -> Array:
    dx = x[:, None] - x0[None]
    near = np.exp(-0.5 * (dx**2 + (z[:, None] - z0[None]) ** 2) / LENGTH**2)
    return np.asarray(NEARBY**2 * near + SAME_SIZE**2 * (np.abs(dx) < EQUAL))


def _cells(x: Array, z: Array, r: Array) -> tuple[Array, Array, Array, Array]:
    """Rows averaged in cells where they are many, with how many rows each holds."""
    if len(x) <= MOST_CELLS:
        return x, z, r, np.ones(len(x))
    keys = np.column_stack([np.round(x / CELL), np.round(z / CELL)])
    _, inverse, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.ravel()
    mean = [np.bincount(inverse, values) / count for values in (x, z, r)]
    return mean[0], mean[1], mean[2], count.astype(np.float64)
