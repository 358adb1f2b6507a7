"""Shared statistics and number formats: enumerations with messages, normal quantiles, subsampling, perplexity."""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Interval = tuple[float, float]
T = TypeVar("T")

# Half-widths of the central 50, 80 and 95 % intervals of a standard normal: its quantiles at 0.75, 0.9 and 0.975.
Z_50, Z_80, Z_95 = 0.6744897501960817, 1.2815515655446004, 1.959963984540054

# Half-width of a prediction's 95 % interval in its standard deviations. Errors of rollouts have heavy tails: the 80 %
# interval has the normal's width, and this is wider by the ratio of Student's t with 5 degrees of freedom at the two
# levels, 2.571/1.476 (calibrated in benchmarks/coverage.py).
HEAVY_TAILED_95 = 2.23

# Largest numbers of things that a page or a figure shows of a study with thousands of runs.
MOST_READ = 480  # runs whose curves are read and checked for a rising loss
MOST_CURVES = 48  # runs whose curves are drawn
MOST_LINES = 240  # runs with a line of the law
MOST_DRAWN = 1500  # observations in a figure
MOST_BARS = 40  # runs with a bar each
MOST_ROWS = 1000  # rows of a table on a page

LARGEST_EXPONENT = 700.0  # exp of more overflows a float

LARGE_PERPLEXITY = 1e7  # from here on a perplexity prints with three significant digits


ONE_THREAD = 2**18  # multiplications of a product up to which OpenBLAS makes it with one thread


class StatusEnum(StrEnum):
    """Enumeration whose members carry a message; a member is written NAME = "name", "message"."""

    message: str

    def __new__(cls, value: str, message: str) -> Self:
        """Build a member from its value and its message."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.message = message
        return member


def subsample_evenly(items: Sequence[T], most: int) -> tuple[T, ...]:
    """At most `most` items, evenly spaced in their order, the first and the last among them."""
    if len(items) <= most:
        return tuple(items)
    if most == 1:
        return (items[0],)
    last = len(items) - 1
    return tuple(items[round(index * last / (most - 1))] for index in range(most))


def products(a: Array, b: Array) -> Array:
    """The products of the rows of a (p, n) with those of b (m, n), a·bᵀ of shape (p, m), a block of columns at a time.

    Where n is large beside p and m, threads of OpenBLAS cost more than they save: they wait by spinning. Blocks are small
    enough for one thread, whatever their number is set to.
    """
    step = max(1, ONE_THREAD // max(1, len(a) * len(b)))
    if a.shape[1] <= step:
        return np.asarray(a @ b.T)
    whole = a.shape[1] // step * step
    left, right = (part[:, :whole].reshape(len(part), -1, step).swapaxes(0, 1) for part in (a, b))
    return np.asarray((left @ right.swapaxes(1, 2)).sum(axis=0) + a[:, whole:] @ b[:, whole:].T)


def format_loss(loss: float) -> str:
    """Format a loss in nats per token with four decimals."""
    return f"{loss:.4f}"


def perplexity(loss: float) -> float:
    """exp(loss) per token, clipped at 700 nats to avoid overflow: a run may diverge, a law may lie far off its data."""
    return math.exp(min(loss, LARGEST_EXPONENT))


def format_perplexity(value: float) -> str:
    """A perplexity with two decimals, or with three significant digits from 1e7 on."""
    return f"{value:.2f}" if value < LARGE_PERPLEXITY else f"{value:.3g}"
