"""Figure of a law of one variable: the curve with its 80 % interval, and the rows behind it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from families.units import BadInput, format_size
from scaling.fitting.one_variable import values_of
from scaling.fitting.predictor import Fit
from scaling.runs import Run, RunTable
from scaling.stats import format_loss

from .law import draw_legend, draw_points, require_runs
from .style import (
    GREEN,
    Plot,
    log_losses,
    log_sizes,
    new_figure,
    set_title,
    style_context,
)

BEYOND = 10.0  # the curve is drawn to this many times the largest value of the rows

POINTS = 160

LABELS = {"N": "parameters, N", "D": "tokens, D", "C": "FLOPs, C"}


def curve(predictor: Fit, runs: Sequence[Run], sealed_runs: frozenset[str] = frozenset()) -> Plot:
    """Loss against the law's one variable, observed and predicted to ten times the data.

    Raises:
        BadInput: no runs, or a law of N and D.
    """
    require_runs(runs)
    if not predictor.variable:
        raise BadInput("the law depends on N and on D; the figure of a curve needs a law of one variable")
    table = RunTable.of(runs, predictor.convention)
    x = values_of(predictor.variable, table.N, table.D)
    first = float(x.min() / x.max())
    places = np.geomspace(first, BEYOND, POINTS)
    N, D = np.array([predictor.point(times=float(times)) for times in places]).T
    drawn = values_of(predictor.variable, N, D)
    found = predictor.predict(N, D, force=True)
    loss = np.asarray(found.loss)
    low, high = found.interval_80 or (loss, loss)
    with style_context():
        figure, (axes,) = new_figure(height=3.6)
        axes.set_xscale("log")
        axes.fill_between(drawn, low, high, color=GREEN, alpha=0.18, linewidth=0)
        axes.plot(drawn, loss, color=GREEN, linewidth=2)
        axes.axvline(float(x.max()), color=GREEN, linewidth=0.8, linestyle=":")
        draw_points(axes, x, table.L, runs, sealed_runs, predictor.convention)
        log_losses(axes)
        log_sizes(axes, "x")
        axes.set_xlabel(LABELS[predictor.variable])
        axes.set_ylabel("loss, nats per token")
        draw_legend(
            axes,
            any(run.run in sealed_runs for run in runs),
            [
                Line2D([], [], color=GREEN, linewidth=2, label="law"),
                Patch(color=GREEN, alpha=0.18, label="80 % of runs"),
            ],
        )
    end = float(loss[-1])
    bounds = "" if found.interval_80 is None else f" ({format_loss(low[-1])} to {format_loss(high[-1])})"
    set_title(
        figure,
        f"A law of {LABELS[predictor.variable].split(',')[0]} alone: {format_loss(end)}{bounds} expected at "
        f"{format_size(float(drawn[-1]), 2)}, ten times the data",
    )
    return Plot(
        figure=figure,
        header=("run", predictor.variable, "loss", "law"),
        rows=tuple(
            (run.run, float(at), float(value), float(law))
            for run, at, value, law in zip(
                runs, x, table.L, np.asarray(predictor.loss(table.N, table.D)), strict=True
            )
        ),
    )
