"""A few of many, evenly: what a page or a picture can hold of a study of thousands of runs."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

MOST_READ = 480  # runs whose curves are read, and looked at for a loss that rises
MOST_CURVES = 48  # runs whose curves are drawn
MOST_LINES = 240  # runs with a line of the law
MOST_DRAWN = 1500  # observations in a figure
MOST_BARS = 40  # runs with a bar of their own
MOST_ROWS = 1000  # of a table on a page


def spread(items: Sequence[T], most: int) -> tuple[T, ...]:
    """At most that many, evenly in their order, first and last among them."""
    if len(items) <= most:
        return tuple(items)
    if most == 1:
        return (items[0],)
    last = len(items) - 1
    return tuple(items[round(index * last / (most - 1))] for index in range(most))
