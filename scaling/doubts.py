"""What looks wrong in a table of runs that can be read all the same: sizes in millions, swapped columns, rows twice."""

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from families.units import format_size

if TYPE_CHECKING:
    from .runs import Run

TINY = 1e4  # parameters; below it a size is likely one in millions
APART = 2.5  # times 6ND; attention and counts of N explain less


def doubts_of(runs: Sequence["Run"], rows: Sequence[object]) -> list[str]:
    """One line for each thing that looks wrong.

    Args:
        rows: what each run was read from, to tell copies by.
    """
    said = []
    sizes = [run.params or run.params_non_embedding or 0.0 for run in runs]
    if sizes and max(sizes) < TINY:
        said.append(
            f"the largest N is {max(sizes):g}: sizes are counted in parameters, so 124 million is 124M or 124e6"
        )
    pairs = zip(runs, sizes, strict=True)
    stated = [
        run.compute / (6 * size * run.tokens)
        for run, size in pairs
        if run.compute and run.compute_kind != "exact"
    ]
    if stated and not 1 / APART <= (ratio := median(stated)) <= APART:
        said.append(
            f"compute is {format_size(ratio)} times 6·N·D in the median: are N, D and compute in the same units, and "
            "none of them swapped?"
        )
    copies = len(rows) - len({repr(row) for row in rows})
    if copies:
        said.append(
            f"{copies} row{' is an exact copy' if copies == 1 else 's are exact copies'} of another; each counts"
        )
    return said
