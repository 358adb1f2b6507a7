"""Figure of a run in progress: its curve so far, the forecast of its end, and the prediction made before it began."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from families.units import format_size
from scaling.monitoring import Reference
from scaling.monitoring.curves import RunCurves
from scaling.monitoring.forecast import Forecast, forecast_final_loss
from scaling.stats import Z_80, Z_95, Array, format_loss

from .study_data import smooth, thin
from .style import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    Plot,
    log_losses,
    log_sizes,
    new_figure,
    set_title,
    style_context,
    tooltips,
)

FORECAST_POINTS = 200  # drawn of the forecast
FIRST_SHARE = 0.08  # of the steps, before which nothing is drawn


def forecast_figure(
    run: RunCurves,
    siblings: Sequence[RunCurves],
    steps: int,
    reference: Reference | None = None,
    *,
    until: int | None = None,
) -> Plot:
    """A rung's training loss, its partial evaluations, the forecast with 80 and 95 % bands, and the reference prediction.

    Args:
        run: what the run has logged.
        siblings: other runs of the study, from which the forecast learns.
        steps: at which the rung ends.
        reference: the prediction made before the run, shown at the rung's end.
        until: draw the forecast made at that step, and later losses faintly; default: the last step logged.

    Raises:
        BadInput: too little is logged for a forecast.
    """
    forecast = forecast_final_loss(run, siblings, steps=steps, until=until)
    rung = run.rung(steps)
    curve = rung.until(forecast.at_step)
    unit = run.plan.batch_tokens
    mean, low, high = forecast_band(forecast, steps)
    with style_context():
        figure, (axes,) = new_figure(height=4.0)
        later = rung.step > forecast.at_step
        axes.plot(
            thin(rung.step[later]) * unit,
            thin(smooth(rung.loss)[later]),
            color=MUTED,
            linewidth=0.8,
            alpha=0.45,
        )
        axes.plot(thin(curve.step) * unit, thin(smooth(curve.loss)), color=MUTED, linewidth=1.3)
        axes.scatter(rung.eval_step[rung.eval_step > forecast.at_step] * unit, rung.eval_loss[rung.eval_step > forecast.at_step],
                     s=14, facecolor="none", edgecolor=INK, linewidth=0.7, alpha=0.6)  # fmt: skip
        evals = axes.scatter(curve.eval_step * unit, curve.eval_loss, s=16, color=INK, zorder=4)
        tooltips(evals, [f"{format_size(step * unit)} tokens: held-out loss {format_loss(loss)}"
                     for step, loss in zip(curve.eval_step, curve.eval_loss, strict=True)])  # fmt: skip
        ahead = mean[:, 0]
        for (under, over), alpha in (((low[:, 1], high[:, 1]), 0.13), ((low[:, 0], high[:, 0]), 0.22)):
            axes.fill_between(ahead * unit, under, over, color=BLUE, alpha=alpha, linewidth=0)
        axes.plot(ahead * unit, mean[:, 1], color=BLUE, linewidth=1.8)
        end = steps * unit
        point = axes.scatter([end], [forecast.loss], s=34, color=BLUE, zorder=5)
        tooltips(
            point,
            [
                f"forecast at step {forecast.at_step:,}: {format_loss(forecast.loss)} ± {format_loss(Z_80 * forecast.sd)} at 80 %"
            ],
        )
        handles = _handles(bool(later.any()))
        if reference is not None:
            if reference.interval_80:
                axes.plot(
                    (end, end),
                    reference.interval_80,
                    color=ORANGE,
                    linewidth=5,
                    alpha=0.45,
                    solid_capstyle="butt",
                )
            axes.scatter([end], [reference.loss], s=44, marker="D", color=ORANGE, zorder=6)
            handles.append(
                Line2D(
                    [],
                    [],
                    color=ORANGE,
                    marker="D",
                    linestyle="",
                    label="sealed" if reference.sealed else "the law",
                )
            )
        if steps in run.finals:
            axes.scatter([end], [run.finals[steps]], s=60, marker="x", color=INK, zorder=7)
            handles.append(Line2D([], [], color=INK, marker="x", linestyle="", label="actual"))
        first = max(1.5 * run.plan.warmup, FIRST_SHARE * steps)
        shown = [
            low[:, 1],
            high[:, 1],
            smooth(curve.loss)[curve.step > first],
            curve.eval_loss[curve.eval_step > first],
        ]
        if reference is not None:
            shown.append(np.array(reference.interval_80 or (reference.loss,)))
        _frame(axes, np.concatenate(shown), first * unit, end)
        axes.legend(handles=handles, loc="upper right", ncols=2, columnspacing=1.2, handlelength=1.5)
    values = np.column_stack([mean[:, 0] * unit, mean[:, 1], low[:, 0], high[:, 0], low[:, 1], high[:, 1]])
    return Plot(
        figure=set_title(figure, _title(run, steps, reference, forecast)),
        header=("tokens", "forecast", "low_80", "high_80", "low_95", "high_95"),
        rows=tuple(map(tuple, values.tolist())),
    )


def forecast_band(forecast: Forecast, steps: int) -> tuple[Array, Array, Array]:
    """Expected loss and its band from the step of the forecast to the end.

    The loss shifts linearly from that of the partial evaluations to that of the whole eval set, which is forecast where
    siblings give the difference; so does its width.

    Returns:
        (step, expected loss), shape (points, 2); lower and upper edges at 80 and 95 %, shape (points, 2) each.
    """
    step = np.unique(np.linspace(forecast.at_step, steps, FORECAST_POINTS))
    mean, sd = forecast.path(step)
    share = (step - step[0]) / max(step[-1] - step[0], 1.0)
    mean = mean - (1 - share) * forecast.offset
    width = (1 - share) * sd + share * forecast.sd
    levels = np.array([Z_80, Z_95])
    return (
        np.column_stack([step, mean]),
        mean[:, None] - width[:, None] * levels,
        mean[:, None] + width[:, None] * levels,
    )


def _handles(later: bool) -> list[Line2D]:
    handles = [
        Line2D([], [], color=MUTED, label="training loss"),
        Line2D([], [], color=INK, marker="o", linestyle="", markersize=4, label="partial evaluations"),
        Line2D([], [], color=BLUE, marker="o", markersize=5, label="forecast, 80 and 95 %"),
    ]
    if later:
        handles.append(Line2D([], [], color=MUTED, linewidth=0.8, alpha=0.5, label="later losses"))
    return handles


def _frame(axes: Axes, losses: Array, first: float, last: float) -> None:
    """Set the axes' limits without the initial fall, which would flatten the rest."""
    low, high = float(losses.min()), float(losses.max())
    axes.set_xlim(first, last * 1.06)
    axes.set_ylim(low - 0.08 * (high - low), high + 0.25 * (high - low))
    log_sizes(axes, "x")
    log_losses(axes)
    axes.set_xlabel("tokens")
    axes.set_ylabel("loss, nats per token")


def _title(run: RunCurves, steps: int, reference: Reference | None, forecast: Forecast) -> str:
    """The forecast, the actual loss where the rung is finished, and the reference prediction."""
    share = 100 * forecast.at_step / steps
    retold = ", retold by this version" if steps in run.finals else ""
    title = (
        f"{run.name}, {share:.0f} % trained{retold}: forecast {format_loss(forecast.loss)} ± "
        f"{format_loss(Z_80 * forecast.sd)} nats per token"
    )
    if steps in run.finals:
        title += f"; actual {format_loss(run.finals[steps])}"
    if reference is not None:
        title += f"; {'sealed prediction' if reference.sealed else 'the law predicts'} {format_loss(reference.loss)}"
    return title
