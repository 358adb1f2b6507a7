"""What the figures of a law share: its forms alone, its optimum along budgets, and runs as points beside it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from families.errors import BadInput
from families.units import format_size
from scaling.fitting.local import Local
from scaling.predictor import Predictor
from scaling.runs import Columns, Run

from .style import BLUE, ORANGE, legend_above, tips

Array = NDArray[np.float64]


def bare(predictor: Predictor) -> Predictor:
    """The law's forms alone: the correction that a prediction adds close to single runs would draw kinks."""
    return replace(predictor, local=Local.nothing())


def expected(predictor: Predictor, table: Columns) -> Array:
    """The loss that the law's forms give to each of these runs, in nats per token."""
    return np.asarray(bare(predictor).predict(table.N, table.D, unique_tokens=table.U, force=True).loss)


def size_of(run: Run, convention: str = "total") -> float:
    """N of a run by the law's convention, else by what it has."""
    first, second = run.params, run.params_non_embedding
    if convention != "total":
        first, second = second, first
    return float(first if first is not None else second or 0)


def label(run: Run, convention: str) -> str:
    """A run as the tip of its point says it."""
    return f"{run.run}\nN {format_size(size_of(run, convention))}, D {format_size(run.tokens)}: loss {run.loss:.4g}"


def optimum(predictor: Predictor, compute: Array) -> tuple[Array, Array, Array] | None:
    """N*, D* and loss along budgets; None where the law has no optimum."""
    try:
        found = [predictor.allocate(float(c), force=True) for c in compute]
    except BadInput:
        return None
    return np.array([a.N for a in found]), np.array([a.D for a in found]), np.array([a.loss for a in found])


def draw_points(
    axes: Axes, x: Array, y: Array, runs: Sequence[Run], held: frozenset[str], convention: str
) -> None:
    """Runs as points with their tips: fitted ones round, sealed ones as diamonds."""
    sealed = np.array([run.run in held for run in runs], dtype=bool)
    for mask, colour, marker, size in ((~sealed, BLUE, "o", 26), (sealed, ORANGE, "D", 44)):
        if mask.any():
            found = axes.scatter(
                x[mask], y[mask], s=size, color=colour, marker=marker, edgecolor="none", zorder=5
            )
            tips(found, [label(run, convention) for run, ok in zip(runs, mask, strict=True) if ok])


def draw_legend(axes: Axes, held: bool, extra: Sequence[Artist] = ()) -> None:
    """A legend above the axes."""
    handles: list[Artist] = []
    handles.append(Line2D([], [], color=BLUE, marker="o", linestyle="", markersize=5, label="runs fitted"))
    if held:
        handles.append(Line2D([], [], color=ORANGE, marker="D", linestyle="", markersize=5.5, label="sealed"))
    legend_above(axes, [*handles, *extra], columnspacing=1.0, handlelength=1.5)


def check(runs: Sequence[Run]) -> None:
    """Refuse no runs.

    Raises:
        BadInput: saying so.
    """
    if not runs:
        raise BadInput("there are 0 annealed runs that the law can be held against; the figure needs 1")
