"""Figure of a comparison of two arms: the compute multiplier against compute, with its intervals."""

import numpy as np

from families.units import format_size
from scaling.fitting.versus import SCALES, Versus

from .style import (
    BLUE,
    INK,
    MUTED,
    Plot,
    legend_above,
    log_sizes,
    new_figure,
    set_title,
    short_label,
    style_context,
)


def multiplier_figure(result: Versus) -> Plot:
    """The multiplier with its 80 and 90 % intervals, from the smallest compute to 100 times the largest."""
    grid = np.geomspace(result.C[0], SCALES[-1] * result.C[1], 81)
    points = [result.at(float(C)) for C in grid]
    with style_context():
        figure, (axes,) = new_figure()
        for level, alpha in ((90, 0.12), (80, 0.25)):
            low, high = np.array([getattr(point, f"interval_{level}") for point in points]).T
            axes.fill_between(grid, low, high, color=BLUE, alpha=alpha, linewidth=0, label=f"{level} %")
        values = np.array([point.value for point in points])
        inside = grid <= result.C[1] * (1 + 1e-9)
        axes.plot(grid[inside], values[inside], color=BLUE, label="multiplier")
        axes.plot(grid[~inside], values[~inside], color=BLUE, linestyle="--")
        axes.axhline(1.0, color=INK, linewidth=0.8)
        axes.axvline(
            result.C[1], color=MUTED, linewidth=1, linestyle=":", label="largest compute of the runs"
        )
        axes.set_xlim(grid[0], grid[-1])
        log_sizes(axes, "x")
        axes.set_xlabel("compute, FLOPs (dashed: beyond the runs)")
        axes.set_ylabel("compute multiplier (above 1: pays)")
        legend_above(axes, axes.get_legend_handles_labels()[0])
        a, b = result.names
        words = {"pays": "pays", "costs": "costs more", "undecided": "undecided"}[result.verdict]
        set_title(
            figure,
            f"{_arm(b)} over {_arm(a)}: {words} at {format_size(result.C[1])} FLOPs, {result.scaling_text}",
        )
    rows = tuple((p.C, p.value, *p.interval_80, *p.interval_90) for p in points)
    return Plot(
        figure=figure, header=("flops", "multiplier", "low_80", "high_80", "low_90", "high_90"), rows=rows
    )


def _arm(name: str) -> str:
    """An arm's name as a title takes it; of a folder or a table the last part."""
    return short_label(name.rstrip("/").rpartition("/")[2] or name)
