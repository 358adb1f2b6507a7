"""Figure of a law's settings: the loss that runs give away against how far each lies from its own best value."""

from collections.abc import Sequence

import numpy as np
from matplotlib.lines import Line2D

from families.units import BadInput, format_size
from scaling.fitting.columns import columns_of
from scaling.fitting.coordinates import valley as height
from scaling.fitting.predictor import Fit
from scaling.fitting.valley import best_settings, settings_of
from scaling.runs import Run, RunTable

from .law import require_runs
from .style import BLUE, INK, Plot, legend_above, log_sizes, new_figure, set_title, style_context

FARTHEST = 0.15  # of loss given away; runs farther up lie at the edge

MOST_DRAWN = 1500


def valley(fit: Fit, runs: Sequence[Run]) -> Plot:
    """One panel per setting: x the setting over its best value for the run's N and D, y the share of loss given away.

    The share that the other settings give away, by the law, is taken off.

    Raises:
        BadInput: the law has no settings, or there are no runs.
    """
    names = settings_of(fit)
    if not names or fit.fitted_coordinates is None:
        raise BadInput(
            f"{fit.name} has no settings such as lr; scaling fit --coordinates lr,batch_tokens fits them"
        )
    table = RunTable.of(runs, fit.convention)
    require_runs(table)
    coordinates = fit.fitted_coordinates
    given = columns_of(coordinates, table)
    columns = coordinates.columns(given, table.N)
    shift = coordinates.shift(table.N, table.D, columns)
    best = np.asarray(fit.loss(table.N, table.D, own={k: v for k, v in given.items() if k not in names}))
    log_off = np.log(table.L / best)
    rows = []
    keep = np.linspace(0, len(table) - 1, min(len(table), MOST_DRAWN)).round().astype(int)
    with style_context():
        figure, axes = new_figure(columns=len(names), sharey=True)
        for panel, name in zip(axes, names, strict=True):
            deviation = columns[name] - coordinates.best_log(name, table.N, table.D, columns)
            part = next(p for p in coordinates.parts if p.column == name)
            kappa, skew = np.exp(part.constant("log_kappa")), part.constant("skew")
            own = kappa * height(deviation, skew)[0]
            given_away = np.expm1(log_off - (shift.share - own))
            line = np.linspace(deviation.min(), deviation.max(), 101)
            curve = np.expm1(kappa * height(line, skew)[0])
            shown = np.minimum(given_away, FARTHEST)
            panel.scatter(
                np.exp(deviation[keep]), 100 * shown[keep], s=7, color=BLUE, alpha=0.5, edgecolor="none"
            )
            inside = curve <= FARTHEST
            panel.plot(np.exp(line[inside]), 100 * curve[inside], color=INK)
            log_sizes(panel, "x")
            panel.set_xlabel(f"{name} / best {name}")
            rows += [
                (table[i].run, name, float(np.exp(deviation[i])), float(given_away[i])) for i in keep.tolist()
            ]
        axes[0].set_ylabel("loss above the best, %")
        marks = [
            Line2D([], [], color=BLUE, marker="o", markersize=3, linestyle="", label="runs"),
            Line2D([], [], color=INK, label="law"),
        ]
        legend_above(axes[0], marks)
        ahead = best_settings(fit)
        said = (
            ", ".join(f"{name} {_short(value.value)}" for name, value in ahead[-1].best.items())
            if ahead
            else ""
        )
        title = (
            f"At {ahead[-1].C / fit.domain.C[1]:g} times the compute of the runs the law's best settings are {said}"
            if ahead
            else "Settings"
        )
        set_title(figure, title)
    return Plot(figure=figure, header=("run", "setting", "over_best", "loss_above_best"), rows=tuple(rows))


def _short(value: float) -> str:
    """A setting with three digits: 2.22M, 0.000615."""
    return format_size(value) if value >= 1000 else f"{value:.3g}"
