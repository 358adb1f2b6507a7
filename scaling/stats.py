"""Verdicts that say what they mean: an enumeration whose members carry a message."""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

# MERGED DOCSTRINGS
# A few of many, evenly: what a page or a picture can hold of a study of thousands of runs.
# exp(loss), also of losses that nobody should reach: a diverged run, or a law far below its data.


class StatusEnum(StrEnum):
    """Base of verdicts; a member is written NAME = "name", "what it means"."""

    message: str

    def __new__(cls, value: str, message: str) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.message = message
        return member


Array = NDArray[np.float64]
Interval = tuple[float, float]
T = TypeVar("T")


MOST_READ = 480  # runs whose curves are read, and looked at for a loss that rises

MOST_CURVES = 48  # runs whose curves are drawn

MOST_LINES = 240  # runs with a line of the law

MOST_DRAWN = 1500  # observations in a figure

MOST_BARS = 40  # runs with a bar of their own

MOST_ROWS = 1000  # of a table on a page


def subsample_evenly(items: Sequence[T], most: int) -> tuple[T, ...]:
    """At most that many, evenly in their order, first and last among them."""
    if len(items) <= most:
        return tuple(items)
    if most == 1:
        return (items[0],)
    last = len(items) - 1
    return tuple(items[round(index * last / (most - 1))] for index in range(most))


LARGEST_EXPONENT = 700.0  # what a float holds

MANY = 1e7  # from here on a perplexity is printed by its order of magnitude


def perplexity(loss: float) -> float:
    """exp(loss), per token; of a loss beyond 700 nats the perplexity of 700."""
    return math.exp(min(loss, LARGEST_EXPONENT))


def format_loss(loss: float) -> str:
    """Four decimals, nats per token."""
    return f"{loss:.4f}"


def format_perplexity(value: float) -> str:
    """Two decimals, or three digits where it is very large."""
    return f"{value:.2f}" if value < MANY else f"{value:.3g}"
