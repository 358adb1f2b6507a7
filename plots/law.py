"""Figures of the fitted law: its loss surface with the runs, residuals, and profile likelihood of its exponents."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from families.units import BadInput, format_size
from scaling.fitting.columns import columns_of
from scaling.fitting.forms import ResidualGP
from scaling.fitting.predictor import Fit
from scaling.fitting.selection import bend_warning
from scaling.fitting.sensitivity import CHI_SQUARE, LikelihoodProfile
from scaling.laws import Convention
from scaling.runs import Run, RunTable
from scaling.stats import Array, format_loss

from .style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    Plot,
    legend_above,
    log_sizes,
    new_figure,
    set_title,
    short_label,
    style_context,
    tooltips,
)

TREND = 2.0  # standard errors of a slope beyond which residuals are reported to have a trend
GREEK = {"alpha": "α", "beta": "β", "gamma": "γ"}
CEILING = 3.0  # times the 95 % limit: the height of the panels of the profile


_COUNTED: dict[Convention, str] = {
    "total": "",
    "non_embedding": " (without embeddings)",
    "active": " (active)",
}


def without_local_correction(predictor: Fit) -> Fit:
    """The law's forms alone: the correction that predictions add close to single runs would draw kinks."""
    return replace(predictor, local=ResidualGP.nothing())


def expected_loss(predictor: Fit, table: RunTable) -> Array:
    """The loss that the law's forms give to each run, shape (runs,), in nats per token."""
    settings = columns_of(predictor.fitted_coordinates, table)
    law = without_local_correction(predictor)
    return np.asarray(law.predict(table.N, table.D, unique_tokens=table.U, force=True, own=settings).loss)


def run_size(run: Run, convention: Convention = "total") -> float:
    """N of a run by the law's convention; by the other one where the run lacks it."""
    try:
        return run.n_params(convention)
    except BadInput:
        return run.n_params()


def point_label(run: Run, convention: Convention) -> str:
    """The tooltip of a run's point."""
    return (
        f"{run.run}\nN {format_size(run_size(run, convention))}, D {format_size(run.tokens)}: "
        f"loss {format_loss(run.loss)}"
    )


_BACKGROUND = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.6}  # of a label over lines

_EDGE = 0.03  # of the axes, within which a contour has no label


def optimal_allocations(predictor: Fit, compute: Array) -> tuple[Array, Array, Array] | None:
    """N*, D* and loss at each budget, shape (budgets,); None where the law has no optimum."""
    try:
        best = [predictor.allocate(float(c), force=True) for c in compute]
    except BadInput:
        return None
    return np.array([a.N for a in best]), np.array([a.D for a in best]), np.array([a.loss for a in best])


def draw_points(
    axes: Axes, x: Array, y: Array, runs: Sequence[Run], sealed_runs: frozenset[str], convention: Convention
) -> None:
    """Draw runs as points with tooltips: fitted ones round, sealed ones as diamonds.

    Args:
        axes: where to draw.
        x: coordinates, shape (runs,).
        y: coordinates, shape (runs,).
        runs: named in the tooltips, in the order of x and y.
        sealed_runs: names of the runs predicted before they were trained.
        convention: the count of N in the tooltips, "total" or "non_embedding".
    """
    sealed = np.array([run.run in sealed_runs for run in runs], dtype=bool)
    for mask, colour, marker, size in ((~sealed, BLUE, "o", 26), (sealed, ORANGE, "D", 44)):
        if mask.any():
            points = axes.scatter(
                x[mask], y[mask], s=size, color=colour, marker=marker, edgecolor="none", zorder=5
            )
            tooltips(points, [point_label(run, convention) for run, ok in zip(runs, mask, strict=True) if ok])


def draw_legend(axes: Axes, sealed: bool, extra: Sequence[Artist] = ()) -> None:
    """Draw a legend above the axes: fitted runs, sealed ones where there are any, and `extra` handles."""
    handles: list[Artist] = []
    handles.append(Line2D([], [], color=BLUE, marker="o", linestyle="", markersize=5, label="runs fitted"))
    if sealed:
        handles.append(Line2D([], [], color=ORANGE, marker="D", linestyle="", markersize=5.5, label="sealed"))
    legend_above(axes, [*handles, *extra], columnspacing=1.0, handlelength=1.5)


def require_runs(runs: Sequence[Run]) -> None:
    """Refuse an empty sequence of runs.

    Raises:
        BadInput: there are none.
    """
    if not runs:
        raise BadInput("there are 0 annealed runs that the law applies to; the figure needs 1")


def _residual_plot(figure: Figure, predictor: Fit, runs: Sequence[Run], table: RunTable) -> Plot:
    """A figure with each run's loss, the law's, and the difference in percent."""
    law = expected_loss(predictor, table)
    values = zip(
        table.N, table.D, 6 * table.N * table.D, table.L, law, 100 * (table.L / law - 1), strict=True
    )
    return Plot(
        figure=figure,
        header=("run", "N", "D", "C", "loss", "law", "percent"),
        rows=tuple((run.run, *map(float, row)) for run, row in zip(runs, values, strict=True)),
    )


def surface(predictor: Fit, runs: Sequence[Run], sealed_runs: frozenset[str] = frozenset()) -> Plot:
    """Contours of the law's loss over N and D, the runs, isoFLOP lines and the compute-optimal frontier.

    Raises:
        BadInput: no runs.
    """
    require_runs(runs)
    predictor = without_local_correction(predictor)
    table = RunTable.of(runs, predictor.convention)
    n_low, n_high = float(table.N.min()) / 2, float(table.N.max()) * 2.2
    d_low, d_high = float(table.D.min()) / 2, float(table.D.max()) * 2.2
    N, D = np.meshgrid(np.geomspace(n_low, n_high, 70), np.geomspace(d_low, d_high, 70), indexing="ij")
    loss = np.asarray(predictor.predict(N, D, force=True).loss)
    levels = _levels(float(loss.min()), float(loss.max()))
    with style_context():
        figure, (axes,) = new_figure(height=4.3)
        axes.grid(visible=False)
        axes.set_xlim(n_low, n_high)
        axes.set_ylim(d_low, d_high)
        log_sizes(axes, "x")
        log_sizes(axes, "y")
        shades = [(*to_rgb(GREEN), 0.34 * (1 - i / len(levels)) ** 1.2) for i in range(len(levels) - 1)]
        axes.contourf(N, D, loss, levels=levels, colors=shades)
        lines = axes.contour(N, D, loss, levels=levels[1:-1], colors=[GREEN], linewidths=0.9)
        labels = axes.clabel(
            lines, fmt=lambda value: f"{value:.3g}", fontsize=7.5, colors=[INK], inline=False, zorder=3
        )
        budgets = _isoflop_lines(axes, 6 * table.N * table.D, (n_low, n_high), (d_low, d_high))
        best = optimal_allocations(predictor, np.geomspace(6 * n_low * d_low, 6 * n_high * d_high, 60))
        optimal = [] if best is None else list(zip(best[0].tolist(), best[1].tolist(), strict=True))
        _hide_struck(axes, labels, budgets, optimal)
        if best is not None:
            axes.plot(best[0], best[1], color=PURPLE, linewidth=2.2, zorder=4)
        draw_points(axes, table.N, table.D, runs, sealed_runs, predictor.convention)
        axes.set_xlabel("parameters, N" + _COUNTED[predictor.convention])
        axes.set_ylabel("tokens, D")
        draw_legend(
            axes,
            any(run.run in sealed_runs for run in runs),
            [
                Line2D([], [], color=PURPLE, linewidth=2.2, label="optimal"),
                Line2D([], [], color=MUTED, linewidth=1, linestyle=":", label="isoFLOP"),
            ],
        )
    if best is None:
        title = "Fitted loss surface; the law depends on one variable only, so no split is optimal"
    else:
        law = predictor.main_form.law
        exponent = law.beta / (law.alpha + law.beta) if law.alpha + law.beta > 0 else math.nan
        top = predictor.allocate(float((6 * table.N * table.D).max()), force=True)
        title = (
            f"At {format_size(top.C, 2)} FLOPs the optimum is {format_size(top.N, 2)} parameters with "
            f"{format_size(top.tokens_per_param, 2)} tokens per parameter; N* grows as C^{exponent:.2f}"
        )
    return _residual_plot(set_title(figure, title), predictor, runs, table)


def _levels(low: float, high: float) -> list[float]:
    """Round losses that span the surface, at most about ten, and an edge on either side."""
    step = next(
        (s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.0) if (high - low) / s < 11),
        (high - low) / 8,
    )
    inner = [round(i * step, 6) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [low * 0.999, *[value for value in inner if low < value < high], high * 1.001]


def _hide_struck(
    axes: Axes,
    labels: Sequence[Text],
    others: Sequence[tuple[float, float]],
    line: Sequence[tuple[float, float]],
) -> None:
    """Hide labels of contours that would be struck through; the others interrupt what lies under them.

    Args:
        axes: the axes.
        labels: the contours' labels; those at the edge of the axes are hidden too.
        others: (x, y) of other labels.
        line: (x, y) along the line that is drawn over them.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    taken = [(*to_axes.transform(place), 0.11, 0.06) for place in others]
    taken += [(*to_axes.transform(place), 0.04, 0.04) for place in line]
    for label in labels:
        x, y = to_axes.transform(label.get_position())
        inside = _EDGE < x < 1 - _EDGE and _EDGE < y < 1 - _EDGE
        label.set_visible(inside and all(abs(x - u) > du or abs(y - v) > dv for u, v, du, dv in taken))
        label.set_bbox(_BACKGROUND)


def _isoflop_lines(
    axes: Axes, compute: Array, n_span: tuple[float, float], d_span: tuple[float, float]
) -> list[tuple[float, float]]:
    """Draw lines 6·N·D = C through the range of the runs, labelled at their right ends; returns where the labels lie."""
    low, high = math.log10(compute.min()), math.log10(compute.max())
    placed = []
    for C in np.logspace(low, high, max(2, min(5, round((high - low) * 1.5) + 1))):
        grid = np.geomspace(*n_span, 50)
        line = C / (6 * grid)
        inside = (line >= d_span[0]) & (line <= d_span[1])
        if inside.sum() < 2:
            continue
        axes.plot(grid[inside], line[inside], color=MUTED, linewidth=1, linestyle=":", zorder=2)
        end = float(grid[inside][-1]), float(line[inside][-1])
        axes.annotate(
            format_size(float(C), 2),
            end,
            color=MUTED,
            fontsize=7.5,
            xytext=(-9, 3),
            textcoords="offset points",
            ha="right",
            va="bottom",
            bbox=_BACKGROUND,
            zorder=3,
        )
        x, y = axes.transData.transform(end)
        # the middle of the label: 9 points to the left, and half its width of about 26
        middle = axes.transData.inverted().transform(
            (x - 22 * axes.figure.dpi / 72, y + 7 * axes.figure.dpi / 72)
        )
        placed.append((float(middle[0]), float(middle[1])))
    return placed


def residual_percent(predictor: Fit, runs: Sequence[Run]) -> Array:
    """100·(actual/predicted − 1) of each run, shape (runs,): positive where the loss is above the law."""
    table = RunTable.of(runs, predictor.convention)
    return np.asarray(100 * (table.L / expected_loss(predictor, table) - 1))


def residuals(predictor: Fit, runs: Sequence[Run], sealed_runs: frozenset[str] = frozenset()) -> Plot:
    """Percent by which each run's loss is above the law, against N, D and C, or the one variable of the law.

    Raises:
        BadInput: no runs.
    """
    require_runs(runs)
    table = RunTable.of(runs, predictor.convention)
    error = residual_percent(predictor, runs)
    fitted = np.array([run.run not in sealed_runs for run in runs], dtype=bool)
    used = fitted if fitted.any() else ~fitted
    variables = {"N": table.N, "D": table.D, "C": 6 * table.N * table.D}
    if predictor.variable:  # of a law of one variable the others are no data
        variables = {predictor.variable: variables[predictor.variable]}
    labels = {"N": "parameters, N", "D": "tokens, D", "C": "FLOPs, C"}
    with style_context():
        figure, panels = new_figure(height=2.9, columns=len(variables), sharey=True)
        for axes, (name, x) in zip(panels, variables.items(), strict=True):
            axes.axhline(0, color=INK, linewidth=0.8)
            draw_points(axes, x, error, runs, sealed_runs, predictor.convention)
            log_sizes(axes, "x")
            ticks = [t for t in axes.get_xticks() if axes.get_xlim()[0] <= t <= axes.get_xlim()[1]]
            if len(ticks) > 3:
                axes.set_xticks(ticks[:: math.ceil(len(ticks) / 3)])
            axes.set_xlabel(labels[name])
        panels[0].set_ylabel("actual over law, percent")
    rms = float(np.sqrt(np.mean(error[used] ** 2)))
    worst = int(np.abs(error).argmax())
    trends = [name for name, x in variables.items() if _has_trend(np.log(x[used]), error[used])]
    trend_text = f"with a trend in {' and '.join(trends)}" if trends else "with no trend"
    if not trends and bend_warning(table.N[used], table.D[used], np.log1p(error[used] / 100)):
        trend_text = "with a bend that the law does not follow"
    sealed = "the sealed " if runs[worst].run in sealed_runs else ""
    side = "above" if error[worst] > 0 else "below"
    set_title(
        figure,
        f"Fitted runs lie within {rms:.2g} % (rms) of the law, {trend_text}; "
        f"the largest residual is {sealed}{short_label(runs[worst].run)}, {abs(error[worst]):.2g} % {side} it",
    )
    return _residual_plot(figure, predictor, runs, table)


def _has_trend(x: Array, y: Array) -> bool:
    """True if the slope of y on x is more than TREND standard errors from 0."""
    if len(x) < 5 or np.ptp(x) == 0:
        return False
    x, y = x - x.mean(), y - y.mean()
    slope = (x @ y) / (x @ x)
    rest = y - slope * x
    error = math.sqrt(float(rest @ rest) / (len(x) - 2) / float(x @ x))
    return bool(abs(slope) > TREND * error) if error > 0 else False


def profile(profiles: Sequence[LikelihoodProfile]) -> Plot:
    """Rise of χ² against each exponent, the other constants refitted, with the 80 and 95 % limits.

    Raises:
        BadInput: no exponents.
    """
    if not profiles:
        raise BadInput("there are 0 exponents to profile; the figure needs 1")
    with style_context():
        figure, panels = new_figure(height=3.1, columns=len(profiles), sharey=True)
        for axes, likelihood in zip(panels, profiles, strict=True):
            _profile_panel(axes, likelihood)
        for level in CHI_SQUARE:
            panels[-1].annotate(
                f"{level} %",
                (1.02, CHI_SQUARE[level]),
                xycoords=("axes fraction", "data"),
                va="center",
                color=MUTED,
                fontsize=8,
                annotation_clip=False,
            )
        panels[0].set_ylabel("rise of the misfit, χ²")
        panels[0].set_ylim(0, CEILING * CHI_SQUARE[95])
    return Plot(
        figure=set_title(figure, "At 95 %, " + ", ".join(map(_bounds_text, profiles))),
        header=("exponent", "value", "rise"),
        rows=tuple((p.name, *row) for p in profiles for row in zip(p.values, p.rises, strict=True)),
    )


def _profile_panel(axes: Axes, likelihood: LikelihoodProfile) -> None:
    values, rise = np.array(likelihood.values), np.array(likelihood.rises)
    shown = rise <= 1.5 * CEILING * CHI_SQUARE[95]
    low, high = values[shown].min(), values[shown].max()
    margin = 0.03 * (high - low)
    axes.set_xlim(low - margin, high + margin)
    for level, style in ((80, (0, (3, 1.5))), (95, ":")):
        left, right = likelihood.interval_80 if level == 80 else likelihood.interval_95
        axes.axvspan(
            low - margin if left is None else left,
            high + margin if right is None else right,
            color=GREEN,
            alpha=0.14,
            linewidth=0,
        )
        axes.axhline(CHI_SQUARE[level], color=MUTED, linewidth=1, linestyle=style)
    axes.plot(values, rise, color=BLUE, marker="o", markersize=2.6)
    axes.axvline(likelihood.best, color=INK, linewidth=0.8)
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel(f"{GREEK[likelihood.name]}, best {likelihood.best:.3f}")


def _bounds_text(likelihood: LikelihoodProfile) -> str:
    low, high = (("open" if bound is None else f"{bound:.3g}") for bound in likelihood.interval_95)
    return f"{GREEK[likelihood.name]} {low} to {high}"
