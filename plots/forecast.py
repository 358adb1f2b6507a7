"""Figure of a run in progress: its curve so far, the fan of its forecast, and what was promised before it began."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from families.units import format_size
from scaling.monitoring import Reference
from scaling.monitoring.curves import RunCurves
from scaling.monitoring.forecast import Forecast, forecast_final_loss
from scaling.stats import Z_80, Z_95, Array

from .study_data import smooth, thin
from .style import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    log_losses,
    log_sizes,
    new_figure,
    set_title,
    style_context,
    tooltips,
)

STEPS_AHEAD = 200  # points of the fan

FROM = 0.08  # of the steps, before which nothing is drawn


def forecast_figure(
    run: RunCurves,
    siblings: Sequence[RunCurves],
    steps: int,
    promise: Reference | None = None,
    *,
    until: int | None = None,
) -> Figure:
    """A rung's training loss, its looks at held-out text, the forecast with 80 and 95 % bands, and the promise at its end.

    Args:
        until: draw the forecast made at that step, and what came after it faintly; default: all that is logged.

    Raises:
        BadInput: too little is logged to foresee anything.
    """
    seen = forecast_final_loss(run, siblings, steps=steps, until=until)
    whole = run.rung(steps)
    curve = whole.until(seen.at_step)
    unit = run.underway.batch_tokens
    mean, low, high = fan(seen, steps)
    with style_context():
        figure, (axes,) = new_figure(height=4.0)
        later = whole.step > seen.at_step
        axes.plot(
            thin(whole.step[later]) * unit,
            thin(smooth(whole.loss)[later]),
            color=MUTED,
            linewidth=0.8,
            alpha=0.45,
        )
        axes.plot(thin(curve.step) * unit, thin(smooth(curve.loss)), color=MUTED, linewidth=1.3)
        axes.scatter(whole.eval_step[whole.eval_step > seen.at_step] * unit, whole.eval_loss[whole.eval_step > seen.at_step],
                     s=14, facecolor="none", edgecolor=INK, linewidth=0.7, alpha=0.6)  # fmt: skip
        looks = axes.scatter(curve.eval_step * unit, curve.eval_loss, s=16, color=INK, zorder=4)
        tooltips(looks, [f"{format_size(step * unit)} tokens: held-out loss {loss:.3f}"
                     for step, loss in zip(curve.eval_step, curve.eval_loss, strict=True)])  # fmt: skip
        ahead = mean[:, 0]
        for (under, over), alpha in (((low[:, 1], high[:, 1]), 0.13), ((low[:, 0], high[:, 0]), 0.22)):
            axes.fill_between(ahead * unit, under, over, color=BLUE, alpha=alpha, linewidth=0)
        axes.plot(ahead * unit, mean[:, 1], color=BLUE, linewidth=1.8)
        end = steps * unit
        point = axes.scatter([end], [seen.loss], s=34, color=BLUE, zorder=5)
        tooltips(
            point, [f"forecast at step {seen.at_step:,}: {seen.loss:.3f} ± {Z_80 * seen.sd:.3f} at 80 %"]
        )
        handles = _handles(bool(later.any()))
        if promise is not None:
            if promise.interval_80:
                axes.plot(
                    (end, end),
                    promise.interval_80,
                    color=ORANGE,
                    linewidth=5,
                    alpha=0.45,
                    solid_capstyle="butt",
                )
            axes.scatter([end], [promise.loss], s=44, marker="D", color=ORANGE, zorder=6)
            handles.append(
                Line2D(
                    [],
                    [],
                    color=ORANGE,
                    marker="D",
                    linestyle="",
                    label="sealed" if promise.sealed else "the law",
                )
            )
        if steps in run.finals:
            axes.scatter([end], [run.finals[steps]], s=60, marker="x", color=INK, zorder=7)
            handles.append(Line2D([], [], color=INK, marker="x", linestyle="", label="came"))
        first = max(1.5 * run.underway.warmup, FROM * steps)
        shown = [
            low[:, 1],
            high[:, 1],
            smooth(curve.loss)[curve.step > first],
            curve.eval_loss[curve.eval_step > first],
        ]
        if promise is not None:
            shown.append(np.array(promise.interval_80 or (promise.loss,)))
        _frame(axes, np.concatenate(shown), first * unit, end)
        axes.legend(handles=handles, loc="upper right", ncols=2, columnspacing=1.2, handlelength=1.5)
    return set_title(figure, _title(run, steps, promise, seen))


def fan(seen: Forecast, steps: int) -> tuple[Array, Array, Array]:
    """From the step of the forecast to the end: (step, expected loss), and the lower and upper edges at 80 and 95 %.

    It leaves the windows that are looked at on the way, and ends, evenly shifted, at the loss that is foreseen and as wide:
    that of the whole eval set, where siblings tell how far it lies off.
    """
    step = np.unique(np.linspace(seen.at_step, steps, STEPS_AHEAD))
    mean, sd = seen.path(step)
    share = (step - step[0]) / max(step[-1] - step[0], 1.0)
    mean = mean - (1 - share) * seen.offset
    width = (1 - share) * sd + share * seen.sd
    levels = np.array([Z_80, Z_95])
    return (
        np.column_stack([step, mean]),
        mean[:, None] - width[:, None] * levels,
        mean[:, None] + width[:, None] * levels,
    )


def rows(seen: Forecast, steps: int, batch_tokens: int) -> tuple[list[str], list[list[float]]]:
    """The fan as a table, for the CSV beside the figure."""
    mean, low, high = fan(seen, steps)
    names = ["tokens", "forecast", "low_80", "high_80", "low_95", "high_95"]
    values = np.column_stack(
        [mean[:, 0] * batch_tokens, mean[:, 1], low[:, 0], high[:, 0], low[:, 1], high[:, 1]]
    )
    return names, values.tolist()


def _handles(later: bool) -> list[Line2D]:
    handles = [
        Line2D([], [], color=MUTED, label="training loss"),
        Line2D([], [], color=INK, marker="o", linestyle="", markersize=4, label="looks at held-out text"),
        Line2D([], [], color=BLUE, marker="o", markersize=5, label="forecast, 80 and 95 %"),
    ]
    if later:
        handles.append(Line2D([], [], color=MUTED, linewidth=0.8, alpha=0.5, label="came later"))
    return handles


def _frame(axes: Axes, losses: Array, first: float, last: float) -> None:
    """Leave out the first fall, which would flatten all that matters."""
    low, high = float(losses.min()), float(losses.max())
    axes.set_xlim(first, last * 1.06)
    axes.set_ylim(low - 0.08 * (high - low), high + 0.25 * (high - low))
    log_sizes(axes, "x")
    log_losses(axes)
    axes.set_xlabel("tokens")
    axes.set_ylabel("loss, nats per token")


def _title(run: RunCurves, steps: int, promise: Reference | None, seen: Forecast) -> str:
    """What the forecast says, and against what."""
    share = 100 * seen.at_step / steps
    said = f"{run.name}, {share:.0f} % trained: likely to end at {seen.loss:.2f} ± {Z_80 * seen.sd:.2f}"
    if steps in run.finals:
        said += f"; it came to {run.finals[steps]:.2f}"
    if promise is not None:
        said += f"; {'sealed' if promise.sealed else 'the law says'} {promise.loss:.2f}"
    return said
