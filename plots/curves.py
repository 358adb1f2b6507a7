"""Learning curves as values: smoothed, joined with the trunk they left, thinned."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scaling.runs import Run

from .seen import Curve, smallest_first

Array = NDArray[np.float64]
MOST_POINTS = 400  # of one curve; more cannot be seen


def smooth(loss: Array, share: float = 0.06) -> Array:
    """Mean over a window of that share of the curve, cut off at its ends: the loss of single batches is noisy."""
    half = max(3, round(len(loss) * share / 2))
    sums = np.concatenate([[0.0], np.cumsum(loss)])
    index = np.arange(len(loss))
    first, last = np.maximum(index - half, 0), np.minimum(index + half, len(loss) - 1)
    return np.asarray((sums[last + 1] - sums[first]) / (last - first + 1))


def joined(curve: Curve, curves: Sequence[Curve]) -> tuple[Array, Array]:
    """A curve's tokens and smoothed loss; a cooldown is smoothed together with the trunk it left, and starts on it."""
    trunk = next((c for c in curves if c.run == curve.run and c.part == "trunk"), None)
    if trunk is None or not curve.part.startswith("rung"):
        return curve.tokens, smooth(curve.loss)
    before = trunk.tokens < curve.tokens[0]
    start = max(int(before.sum()) - 1, 0)
    loss = smooth(np.concatenate([trunk.loss[before], curve.loss]))
    return np.concatenate([trunk.tokens[before], curve.tokens])[start:], loss[start:]


def thin(values: Array, most: int = MOST_POINTS) -> Array:
    """At most that many, evenly, first and last among them."""
    if len(values) <= most:
        return values
    return np.asarray(values[np.unique(np.linspace(0, len(values) - 1, most).round().astype(int))])


def ordered(curves: Sequence[Curve], runs: Sequence[Run]) -> list[str]:
    """Names of training runs, smallest first."""
    return smallest_first([*(curve.run for curve in curves), *(run.run for run in runs)], runs)
