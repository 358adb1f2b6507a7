"""Learning curves with their cooldown branches, beside the law."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from families.errors import BadInput
from families.units import format_size
from scaling.predictor import Predictor
from scaling.runs import Run

from .curves import joined, ordered, smooth, thin
from .law import bare, size_of
from .seen import Curve
from .style import (
    INK,
    MARKERS,
    PALETTE,
    conclude,
    house,
    label_ends,
    legend_above,
    log_losses,
    log_sizes,
    new_figure,
    plain,
    tips,
)

FROM_MIDDLE = 3.0  # times the median loss shown: a run that diverges leaves the picture, not the others
MOST_NAMED = 14  # lines that can be named at their ends


def learning_curves(
    curves: Sequence[Curve], runs: Sequence[Run], predictor: Predictor | None = None
) -> Figure:
    """Loss against tokens: a line for each trunk, thin lines for cooldowns, points for annealed rungs, dashes for the law.

    Raises:
        BadInput: neither curves nor runs.
    """
    names = ordered(curves, runs)
    if not names:
        raise BadInput("there are 0 learning curves and 0 runs; the figure needs 1")
    style = {name: (PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)}
    rungs = {
        name: sorted((r for r in runs if r.run == name and r.annealed), key=lambda r: r.tokens)
        for name in names
    }
    ends = []
    with house():
        figure, (axes,) = new_figure(height=4.2)
        for curve in curves:
            colour = style[curve.run][0]
            cooldown = curve.part.startswith("rung")
            axes.plot(
                *(thin(values) for values in joined(curve, curves)),
                color=colour,
                linewidth=0.9 if cooldown else 1.5,
                alpha=0.55 if cooldown else 0.9,
            )
        for name in names:
            colour, marker = style[name]
            points = rungs[name]
            if points:
                scatter = axes.scatter(
                    [r.tokens for r in points],
                    [r.loss for r in points],
                    s=30,
                    marker=marker,
                    color=colour,
                    edgecolor="none",
                    zorder=4,
                )
                tips(scatter, [f"{name}\n{format_size(r.tokens)} tokens: loss {r.loss:.4g}" for r in points])
            tails = [
                (curve.tokens[-1], float(smooth(curve.loss)[-1])) for curve in curves if curve.run == name
            ]
            annealed = (
                [(points[-1].tokens * 1.01, points[-1].loss)] if points else []
            )  # before a tail as long
            last = max(annealed + tails)
            size = next((size_of(r) for r in points), 0.0)
            ends.append(
                (float(last[0]), float(last[1]), format_size(size) if size else plain(name, 14), colour)
            )
        shown = [r.tokens for points in rungs.values() for r in points] or [c.tokens[-1] for c in curves]
        left = min([*shown, *(float(c.tokens[min(len(c.tokens) - 1, 8)]) for c in curves)])
        last_step = max([*shown, *(float(c.tokens[-1]) for c in curves)])
        axes.set_xlim(left / 1.1, last_step * 1.25)
        lines = list(axes.get_lines())
        visible = np.concatenate(
            [
                np.asarray(line.get_ydata(), dtype=float)[np.asarray(line.get_xdata(), dtype=float) >= left]
                for line in lines
            ]
            + [np.array([r.loss for points in rungs.values() for r in points])]
        )
        low = float(visible.min())
        high = min(float(np.quantile(visible, 0.995)), FROM_MIDDLE * float(np.median(visible)))
        axes.set_ylim(low / 1.04, high * 1.04)
        if predictor is not None:
            for name in names:
                if rungs[name]:
                    _law_line(axes, predictor, rungs[name], style[name][0], max(shown))
        log_sizes(axes, "x")
        log_losses(axes)
        axes.set_xlabel("tokens trained on, D")
        axes.set_ylabel("loss, nats per token")
        by_loss = sorted(ends, key=lambda end: end[1])
        named = np.linspace(0, len(ends) - 1, min(MOST_NAMED, len(ends))).round().astype(int)
        label_ends(axes, [by_loss[i] for i in named])
        handles = [
            Line2D([], [], color=INK, linewidth=1.5, label="training"),
            Line2D([], [], color=INK, linewidth=0.9, alpha=0.55, label="cooldown"),
            Line2D([], [], color=INK, marker="o", markersize=5, linestyle="", label="held-out, annealed"),
        ]
        if predictor is not None:
            handles.append(Line2D([], [], color=INK, linewidth=1, linestyle=(0, (4, 2)), label="law"))
        legend_above(axes, handles, columnspacing=1.1, handlelength=1.5)
    every = [r for points in rungs.values() for r in points]
    if every:
        best = min(every, key=lambda r: r.loss)
        title = (
            f"{_count(len(names), 'run')}, {_count(len(every), 'annealed point')}; "
            f"the best is {format_size(size_of(best))} parameters "
            f"on {format_size(best.tokens)} tokens: loss {best.loss:.3g}"
        )
    else:
        title = f"{_count(len(names), 'run')}, none annealed yet: lines are training loss"
    return conclude(figure, title)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _law_line(axes: Axes, predictor: Predictor, points: Sequence[Run], colour: str, last: float) -> None:
    """The law at that run's N, over the tokens of its rungs."""
    size = size_of(points[0], predictor.convention)
    grid = np.geomspace(
        points[0].tokens / 1.3, max(points[-1].tokens * 1.15, min(last, points[-1].tokens)), 60
    )
    loss = np.asarray(bare(predictor).predict(np.full_like(grid, size), grid, force=True).loss)
    axes.plot(grid, loss, color=colour, linewidth=1.0, linestyle=(0, (4, 2)), zorder=3)
