"""Runs whose learning rate was too high: they diverge, and end at a loss that hardly depends on N and D.

A valley has no such plateau, and rows on it would bend its bottom. So rows that lie on one are no part of the valley's fit; how
likely a run diverges is a logistic function of log lr about a threshold linear in log N and log D, and a prediction at a
stated rate is a mixture of both outcomes (docs/log.md#e287).
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..stats import Z_80
from .coordinates import Coordinate, Coordinates, Divergence
from .joint import LAW, JointFit, Rows, law_gradient, model

COLUMN = "lr"

LEAST_EXCESS = (
    0.2  # of log loss above the best: the steepest row of a public grid without diverged runs has 0.14
)

FEWEST = 12  # rows on a plateau

FLATTER = 0.5  # of the valley's mean error at those rows, which a plateau must leave at most

PASSES = 2  # of finding the rows and fitting the valley without them

# Of the logistic's weak prior, for a constant, log lr, x and z: widths of ten and of three.
PRECISION, MIDDLE = np.array([0.01, 0.01, 0.1, 0.1]), np.array([-4.0, 2.0, 0.0, 0.0])

STEPS, STEEPEST = 60, 20.0  # Newton's, and the largest slope in log lr


def diverged(parts: Sequence[Coordinate], rows: Rows, joint: JointFit) -> NDArray[np.bool_] | None:
    """Rows above the best learning rate that lie on a plateau of loss, shape (n,); None where there is none.

    Args:
        parts: the coordinates.
        rows: all rows.
        joint: the fit of the valley, to all rows or to those of an earlier answer's rest.
    """
    if not any(part.column == COLUMN and part.kind == "setting" for part in parts):
        return None
    predicted, _, shift = model(parts, joint.q, rows)
    bottom = law_gradient(joint.q[:LAW], rows.x + shift.dx, rows.z + shift.dz)[0]
    best = Coordinates(log_N=0.0, log_D=0.0, parts=tuple(parts)).best_log(
        COLUMN, np.exp(rows.x), np.exp(rows.z), rows.columns, joint.q[LAW:]
    )
    excess, above = rows.y - bottom, rows.columns[COLUMN] > best
    high = above & (excess > LEAST_EXCESS)
    if high.sum() < FEWEST:
        return None
    level = float(np.median(rows.y[high]))
    flat = float(np.abs(rows.y - level)[high].mean())
    if flat > FLATTER * float(np.abs(rows.y - predicted)[high].mean()):
        return None
    return np.asarray(above & (excess > (level - bottom) / 2) & (level > bottom))


def without_diverged(
    parts: Sequence[Coordinate], rows: Rows, joint: JointFit, refit: Callable[[Rows], JointFit | None]
) -> tuple[NDArray[np.bool_], JointFit, Divergence] | None:
    """Which rows are no diverged ones, the valley's fit to them, and how diverged runs end; None where none diverged.

    Args:
        parts: the coordinates.
        rows: all rows.
        joint: the fit to them.
        refit: fits the coordinates to other rows; None where these do not determine them.
    """
    first = diverged(parts, rows, joint)
    if first is None:
        return None
    found, fresh = first, joint
    for _ in range(PASSES):
        again = refit(rows.select(~found))
        if again is None:
            return None
        fresh = again
        later = _again(parts, rows, fresh, found)
        if (later == found).all():
            break
        found = later
    level = float(np.median(rows.y[found]))
    spread = float(np.quantile(np.abs(rows.y[found] - level), 0.8)) / Z_80
    return ~found, fresh, threshold(rows, found, level, spread)


def _again(
    parts: Sequence[Coordinate], rows: Rows, joint: JointFit, found: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """The same rows, about the valley that was fitted without them."""
    _, _, shift = model(parts, joint.q, rows)
    bottom = law_gradient(joint.q[:LAW], rows.x + shift.dx, rows.z + shift.dz)[0]
    later = found & (rows.y - bottom > (float(np.median(rows.y[found])) - bottom) / 2)
    return later if later.sum() >= FEWEST else found


def threshold(rows: Rows, found: NDArray[np.bool_], level: float, spread: float) -> Divergence:
    """The chance to diverge by learning rate, N and D: logistic regression by Newton's method.

    Args:
        rows: all rows.
        found: which diverged, shape (n,).
        level: log loss of those.
        spread: its standard deviation.
    """
    from scipy.special import expit

    log_h = rows.columns[COLUMN]
    middle = float(log_h.mean())
    by = np.stack([np.ones_like(log_h), log_h - middle, rows.x, rows.z], axis=1)
    w = MIDDLE.copy()
    for _ in range(STEPS):
        chance = expit(by @ w)
        slope = by.T @ (chance - found) + PRECISION * (w - MIDDLE)
        hessian = (by * (chance * (1 - chance))[:, None]).T @ by + np.diag(PRECISION)
        step = np.linalg.solve(hessian, slope)
        w = w - step * min(1.0, 1 / max(float(np.abs(step).max()), 1e-300))
    steep = float(np.clip(w[1], 0.1, STEEPEST))
    return Divergence(
        at=middle - float(w[0]) / steep, N=-float(w[2]) / steep, D=-float(w[3]) / steep, width=1 / steep,
        level=level, spread=spread,
    )  # fmt: skip
