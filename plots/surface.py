"""The law's loss over parameters and tokens, with the runs."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from families.units import format_size
from scaling.predictor import Predictor
from scaling.runs import Run, columns

from .law import bare, check, draw_legend, draw_points, optimum
from .style import GREEN, INK, MUTED, PALETTE, conclude, house, log_sizes, new_figure

Array = NDArray[np.float64]


def surface(predictor: Predictor, runs: Sequence[Run], held: frozenset[str] = frozenset()) -> Figure:
    """Contours of the law's loss over N and D, the runs, isoFLOP lines and the compute-optimal frontier.

    Raises:
        BadInput: no runs.
    """
    check(runs)
    predictor = bare(predictor)
    table = columns(runs, predictor.convention)
    n_low, n_high = float(table.N.min()) / 2, float(table.N.max()) * 2.2
    d_low, d_high = float(table.D.min()) / 2, float(table.D.max()) * 2.2
    N, D = np.meshgrid(np.geomspace(n_low, n_high, 70), np.geomspace(d_low, d_high, 70), indexing="ij")
    loss = np.asarray(predictor.predict(N, D, force=True).loss)
    levels = _levels(float(loss.min()), float(loss.max()))
    with house():
        figure, (axes,) = new_figure(height=4.3)
        axes.grid(visible=False)
        axes.set_xlim(n_low, n_high)
        axes.set_ylim(d_low, d_high)
        log_sizes(axes, "x")
        log_sizes(axes, "y")
        shades = [(*to_rgb(GREEN), 0.34 * (1 - i / len(levels)) ** 1.2) for i in range(len(levels) - 1)]
        axes.contourf(N, D, loss, levels=levels, colors=shades)
        lines = axes.contour(N, D, loss, levels=levels[1:-1], colors=[GREEN], linewidths=0.9)
        axes.clabel(lines, fmt=lambda value: f"{value:.3g}", fontsize=7.5, colors=[INK])
        _isoflop_lines(axes, 6 * table.N * table.D, (n_low, n_high), (d_low, d_high))
        compute = np.geomspace(6 * n_low * d_low, 6 * n_high * d_high, 60)
        best = optimum(predictor, compute)
        if best is not None:
            axes.plot(best[0], best[1], color=PALETTE[3], linewidth=2.2, zorder=4)
        draw_points(axes, table.N, table.D, runs, held, predictor.convention)
        axes.set_xlabel(
            "parameters, N" + ("" if predictor.convention == "total" else " (without embeddings)")
        )
        axes.set_ylabel("tokens, D")
        draw_legend(
            axes,
            any(run.run in held for run in runs),
            [
                Line2D([], [], color=PALETTE[3], linewidth=2.2, label="optimal"),
                Line2D([], [], color=MUTED, linewidth=1, linestyle=":", label="isoFLOP"),
            ],
        )
    law = predictor.law
    if best is None:
        return conclude(
            figure, "The fitted loss surface; the law sees one variable only, so no split is optimal"
        )
    exponent = law.beta / (law.alpha + law.beta) if law.alpha + law.beta > 0 else math.nan
    top = predictor.allocate(float((6 * table.N * table.D).max()), force=True)
    return conclude(
        figure,
        f"At {format_size(top.C, 2)} FLOPs the law wants {format_size(top.N, 2)} parameters and "
        f"{format_size(top.tokens_per_param, 2)} tokens for each; N* grows as C^{exponent:.2f}",
    )


def _levels(low: float, high: float) -> list[float]:
    """Round losses that span the surface, at most about ten, and an edge on either side."""
    step = next(
        (s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.0) if (high - low) / s < 11),
        (high - low) / 8,
    )
    inner = [round(i * step, 6) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [low * 0.999, *[value for value in inner if low < value < high], high * 1.001]


def _isoflop_lines(
    axes: Axes, compute: Array, n_span: tuple[float, float], d_span: tuple[float, float]
) -> None:
    """Straight lines 6·N·D = C through the range of the runs, named where they leave."""
    low, high = math.log10(compute.min()), math.log10(compute.max())
    for C in np.logspace(low, high, max(2, min(5, round((high - low) * 1.5) + 1))):
        grid = np.geomspace(*n_span, 50)
        line = C / (6 * grid)
        inside = (line >= d_span[0]) & (line <= d_span[1])
        if inside.sum() < 2:
            continue
        axes.plot(grid[inside], line[inside], color=MUTED, linewidth=1, linestyle=":", zorder=2)
        axes.annotate(
            format_size(float(C), 2),
            (grid[inside][-1], line[inside][-1]),
            color=MUTED,
            fontsize=7.5,
            xytext=(-9, 3),
            textcoords="offset points",
            ha="right",
            va="bottom",
        )
