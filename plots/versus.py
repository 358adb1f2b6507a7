"""Figure of a comparison of two arms: the compute multiplier against compute, with its intervals."""

import numpy as np

from families.units import format_size
from scaling.fitting.versus import SCALES, Versus

from .style import BLUE, INK, MUTED, Plot, log_sizes, new_figure, set_title, style_context


def multiplier_figure(result: Versus) -> Plot:
    """The multiplier with its 80 and 90 % intervals from the smallest compute to 100 times the largest."""
    grid = np.geomspace(result.C[0], SCALES[-1] * result.C[1], 81)
    points = [result.at(float(C)) for C in grid]
    with style_context():
        figure, (axes,) = new_figure()
        for name, alpha in (("interval_90", 0.12), ("interval_80", 0.25)):
            low, high = np.array([getattr(point, name) for point in points]).T
            axes.fill_between(grid, low, high, color=BLUE, alpha=alpha, linewidth=0)
        axes.plot(grid, [point.value for point in points], color=BLUE)
        axes.axhline(1.0, color=INK, linewidth=0.8)
        axes.axvspan(*result.C, color=MUTED, alpha=0.12, linewidth=0)
        log_sizes(axes, "x")
        axes.set_xlabel("compute, FLOPs (shaded: the runs)")
        axes.set_ylabel(f"compute multiplier of {result.names[1]} over {result.names[0]}")
        words = {"pays": "pays", "costs": "costs more", "undecided": "is undecided"}[result.verdict]
        set_title(
            figure,
            f"{result.names[1]} {words} at {format_size(result.C[1])} FLOPs; the multiplier is {result.scaling}",
        )
    rows = tuple((p.C, p.value, *p.interval_80, *p.interval_90) for p in points)
    return Plot(
        figure=figure, header=("flops", "multiplier", "low_80", "high_80", "low_90", "high_90"), rows=rows
    )
