"""What the figures of a law share: its forms alone, its optimum along budgets, and runs as points beside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from families.units import BadInput, format_size
from scaling.fitting.forms import ResidualGP
from scaling.fitting.predictor import Fit
from scaling.fitting.sensitivity import CHI_SQUARE, LikelihoodProfile
from scaling.planning.band import WITHIN_NATS
from scaling.runs import Columns, Run, columns
from scaling.scoring import ComparisonRow
from scaling.stats import Array

from .style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PALETTE,
    legend_above,
    log_losses,
    log_sizes,
    new_figure,
    plain,
    set_title,
    style_context,
    tooltips,
)

# MERGED DOCSTRINGS
# The law's loss over parameters and tokens, with the runs.
# The law's loss against size at fixed budgets, with the runs nearest to each.
# The compute-optimal frontier: what each budget can reach, with which size, and which sizes do about as well.
# How far runs lie off the law, against what they could depend on.
# Figure of the profile likelihood: how far each exponent may move before the fit is worse than the noise explains.


def without_local_correction(predictor: Fit) -> Fit:
    """The law's forms alone: the correction that a prediction adds close to single runs would draw kinks."""
    return replace(predictor, local=ResidualGP.nothing())


def expected(predictor: Fit, table: Columns) -> Array:
    """The loss that the law's forms give to each of these runs, in nats per token."""
    return np.asarray(
        without_local_correction(predictor).predict(table.N, table.D, unique_tokens=table.U, force=True).loss
    )


def size_of(run: Run, convention: str = "total") -> float:
    """N of a run by the law's convention, else by what it has."""
    first, second = run.params, run.params_non_embedding
    if convention != "total":
        first, second = second, first
    return float(first if first is not None else second or 0)


def label(run: Run, convention: str) -> str:
    """A run as the tip of its point says it."""
    return f"{run.run}\nN {format_size(size_of(run, convention))}, D {format_size(run.tokens)}: loss {run.loss:.4g}"


def optimum(predictor: Fit, compute: Array) -> tuple[Array, Array, Array] | None:
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
            tooltips(found, [label(run, convention) for run, ok in zip(runs, mask, strict=True) if ok])


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


def surface(predictor: Fit, runs: Sequence[Run], held: frozenset[str] = frozenset()) -> Figure:
    """Contours of the law's loss over N and D, the runs, isoFLOP lines and the compute-optimal frontier.

    Raises:
        BadInput: no runs.
    """
    check(runs)
    predictor = without_local_correction(predictor)
    table = columns(runs, predictor.convention)
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
    law = predictor.main_form.law
    if best is None:
        return set_title(
            figure, "The fitted loss surface; the law sees one variable only, so no split is optimal"
        )
    exponent = law.beta / (law.alpha + law.beta) if law.alpha + law.beta > 0 else math.nan
    top = predictor.allocate(float((6 * table.N * table.D).max()), force=True)
    return set_title(
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


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoCurve:
    """The law's loss against N at one budget, and its optimum (N, loss) where that lies among those sizes.

    near: which runs are shown with it; moved: their losses at its budget, each keeping its residual.
    """

    C: float
    N: Array
    loss: Array
    optimum: tuple[float, float] | None
    near: NDArray[np.intp]
    moved: Array


def iso_curves(predictor: Fit, runs: Sequence[Run]) -> list[IsoCurve]:
    """Curves at up to four budgets that span the runs'.

    Raises:
        BadInput: no runs.
    """
    check(runs)
    predictor = without_local_correction(predictor)
    table = columns(runs, predictor.convention)
    C = 6 * table.N * table.D
    budgets = np.geomspace(C.min() * 1.5, C.max(), 4) if C.max() > 3 * C.min() else C.max()[None]
    grid = np.geomspace(table.N.min() / 2, table.N.max() * 2, 120)
    nearest = np.abs(np.log(C[:, None] / budgets)).argmin(axis=1)
    law = expected(predictor, table)
    found = []
    for i, budget in enumerate(budgets.tolist()):
        D = budget / (6 * grid)
        inside = (table.D.min() / 3 < D) & (table.D.max() * 5 > D)
        if inside.sum() < 2:
            continue
        N = grid[inside]
        best = optimum(predictor, np.array([budget]))
        among = best is not None and N[0] <= best[0][0] <= N[-1]
        near = np.flatnonzero((nearest == i) & (np.abs(np.log(C / budget)) < 0.7))
        at_budget = (
            np.asarray(predictor.predict(table.N[near], budget / (6 * table.N[near]), force=True).loss)
            if len(near)
            else np.empty(0)
        )
        found.append(
            IsoCurve(
                C=budget,
                N=N,
                loss=np.asarray(predictor.predict(N, D[inside], force=True).loss),
                optimum=(float(best[0][0]), float(best[2][0])) if among and best is not None else None,
                near=near,
                moved=table.L[near] / law[near] * at_budget,
            )
        )
    return found


def isoflops(predictor: Fit, runs: Sequence[Run], held: frozenset[str] = frozenset()) -> Figure:
    """The law's loss against N at fixed budgets, each minimum marked; runs moved along the law to the nearest.

    Raises:
        BadInput: no runs.
    """
    curves = iso_curves(predictor, runs)
    table = columns(runs, predictor.convention)
    with style_context():
        figure, (axes,) = new_figure(height=4.0)
        for i, curve in enumerate(curves):
            colour = PALETTE[i % len(PALETTE)]
            axes.plot(curve.N, curve.loss, color=colour)
            if curve.optimum is not None:
                N, floor = curve.optimum
                axes.scatter([N], [floor], marker="*", s=110, color=colour, zorder=6, edgecolor="none")
            rising = curve.loss[-1] > curve.loss[-len(curve.loss) // 4]
            axes.annotate(  # beside its right end, where the curves lie farthest apart
                f"{format_size(curve.C, 2)} FLOPs",
                (curve.N[-1], curve.loss[-1]),
                color=colour,
                fontsize=8,
                xytext=(-7, 1) if rising else (0, 4),
                textcoords="offset points",
                ha="right",
                va="bottom",
            )
            if len(curve.near):
                x, sealed = table.N[curve.near], np.array([runs[int(k)].run in held for k in curve.near])
                for mask, marker, size in ((~sealed, "o", 24), (sealed, "D", 40)):
                    points = axes.scatter(
                        x[mask], curve.moved[mask], s=size, color=colour, marker=marker, zorder=5, alpha=0.8
                    )
                    tooltips(
                        points,
                        [label(runs[int(k)], predictor.convention) for k in curve.near[mask]],
                    )
        log_sizes(axes, "x")
        log_losses(axes)
        axes.set_xlabel("parameters, N")
        axes.set_ylabel("loss, nats per token")
    worth = [(curve.C, curve.optimum[0]) for curve in curves if curve.optimum is not None]
    if len(worth) > 1:
        return set_title(
            figure,
            f"The best size goes from {format_size(worth[0][1], 2)} parameters at {format_size(worth[0][0], 2)} FLOPs "
            f"to {format_size(worth[-1][1], 2)} at {format_size(worth[-1][0], 2)}",
        )
    return set_title(
        figure,
        "Loss against size at fixed compute; no budget's best size lies among these sizes"
        if not worth
        else f"At {format_size(worth[0][0], 2)} FLOPs the best size is {format_size(worth[0][1], 2)} parameters",
    )


BEYOND = 10.0  # the frontier is drawn to this many times the largest compute seen

_STEPS = 241  # sizes tried for the band, from a tenth to ten times the best

_CURVE = PALETTE[3]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """Along budgets C, arrays of one shape: the best N and D, the loss there in nats per token with its 80 % interval
    (None without one), and the smallest and largest N within `nats` of that loss.
    """

    C: Array
    N: Array
    D: Array
    loss: Array
    interval_80: tuple[Array, Array] | None
    band: tuple[Array, Array]
    nats: float


def along(predictor: Fit, compute: Array, *, nats: float = WITHIN_NATS) -> Frontier:
    """The frontier of the law's forms at each budget.

    Raises:
        BadInput: the law has no optimum.
    """
    predictor = without_local_correction(predictor)
    best = [predictor.allocate(float(c), force=True) for c in compute]
    N, D = np.array([a.N for a in best]), np.array([a.D for a in best])
    found = predictor.predict(N, D, force=True)
    sizes = N[:, None] * np.geomspace(0.1, 10, _STEPS)
    quiet = replace(predictor, intervals=False)
    losses = np.asarray(quiet.predict(sizes, compute[:, None] / (6 * sizes), force=True).loss)
    excess = losses - np.asarray(found.loss)[:, None] - nats
    middle = _STEPS // 2
    return Frontier(
        C=compute,
        N=N,
        D=D,
        loss=np.asarray(found.loss),
        interval_80=found.interval_80,
        band=(
            _edge(sizes[:, middle::-1], excess[:, middle::-1]),
            _edge(sizes[:, middle:], excess[:, middle:]),
        ),
        nats=nats,
    )


def _edge(sizes: Array, excess: Array) -> Array:
    """Where each row's excess, negative at first, turns positive: between two sizes, on a straight line in log N."""
    beyond = excess > 0
    at = np.where(beyond.any(axis=1), np.maximum(beyond.argmax(axis=1), 1), sizes.shape[1] - 1)
    rows = np.arange(len(sizes))
    low, high = excess[rows, at - 1], excess[rows, at]
    share = np.clip(-low / np.where(high > low, high - low, 1.0), 0, 1)
    return np.asarray(np.exp((1 - share) * np.log(sizes[rows, at - 1]) + share * np.log(sizes[rows, at])))


def spanned(predictor: Fit, runs: Sequence[Run]) -> Array:
    """Budgets from the cheapest run to ten times beyond the dearest."""
    check(runs)
    table = columns(runs, predictor.convention)
    C = 6 * table.N * table.D
    return np.geomspace(float(C.min()), float(C.max()) * BEYOND, 50)


def frontier(predictor: Fit, runs: Sequence[Run], rows: Sequence[ComparisonRow] = ()) -> Figure:
    """Above, loss against compute: the runs, the law's best and its 80 % interval. Below, the best size and the
    indifference band: the sizes within 0.01 nats of it.

    Raises:
        BadInput: no runs, or the law has no optimum.
    """
    compute = spanned(predictor, runs)
    try:
        found = along(predictor, compute)
    except BadInput as error:
        raise BadInput(f"there is no frontier: {error}") from error
    table = columns(runs, predictor.convention)
    held = frozenset(row.run for row in rows)
    edge = float(predictor.domain.C[1])
    with style_context():
        figure, (above, below) = new_figure(height=5.6, rows=2, sharex=True)
        if found.interval_80 is not None:
            above.fill_between(compute, *found.interval_80, color=_CURVE, alpha=0.2, linewidth=0)
        below.fill_between(compute, *found.band, color=GREEN, alpha=0.25, linewidth=0)
        for axes, y, points in ((above, found.loss, table.L), (below, found.N, table.N)):
            _line(axes, compute, y, edge)
            draw_points(axes, 6 * table.N * table.D, points, runs, held, predictor.convention)
            axes.axvline(edge, color=MUTED, linewidth=1, linestyle=":")
        log_sizes(below, "x")
        log_sizes(below, "y")
        log_losses(above)
        above.annotate(
            "fitted so far ",
            (edge, 1.0),
            xycoords=("data", "axes fraction"),
            color=MUTED,
            fontsize=8,
            ha="right",
            va="top",
        )
        above.set_ylabel("loss, nats per token")
        below.set_ylabel("parameters, N")
        below.set_xlabel("compute, C = 6·N·D, FLOPs")
        draw_legend(
            above,
            any(run.run in held for run in runs),
            [
                Line2D([], [], color=_CURVE, linewidth=2.2, label="law's best, 80 %"),
                Patch(color=GREEN, alpha=0.25, linewidth=0, label=f"within {found.nats:g} nats"),
            ],
        )
    return set_title(figure, _title(predictor, 10 * edge))


def _line(axes: Axes, x: Array, y: Array, edge: float) -> None:
    seen = x <= edge
    axes.plot(x[seen], y[seen], color=_CURVE, linewidth=2.2)
    axes.plot(x[~seen], y[~seen], color=_CURVE, linewidth=2.2, linestyle=(0, (3, 1.5)))


def _title(predictor: Fit, far: float) -> str:
    found = along(predictor, np.array([far]))
    spread = ""
    if found.interval_80 is not None:
        spread = f" ({float(found.interval_80[0][0]):.2f} to {float(found.interval_80[1][0]):.2f})"
    low, high = (format_size(float(bound[0]), 2) for bound in found.band)
    return (
        f"Ten times the fitted compute, {format_size(far, 2)} FLOPs, would reach {float(found.loss[0]):.2f}{spread}; "
        f"{low} to {high} parameters do about as well"
    )


TREND = 2.0  # standard errors of a slope beyond which residuals are said to have a trend


def residual_percent(predictor: Fit, runs: Sequence[Run]) -> Array:
    """100·(actual/predicted − 1) of each run: positive where it came out worse than the law says."""
    table = columns(runs, predictor.convention)
    return np.asarray(100 * (table.L / expected(predictor, table) - 1))


def residuals(predictor: Fit, runs: Sequence[Run], held: frozenset[str] = frozenset()) -> Figure:
    """Percent by which each run came out above the law, against N, D and C.

    Raises:
        BadInput: no runs.
    """
    check(runs)
    table = columns(runs, predictor.convention)
    error = residual_percent(predictor, runs)
    fitted = np.array([run.run not in held for run in runs], dtype=bool)
    inside = fitted if fitted.any() else ~fitted
    with style_context():
        figure, panels = new_figure(height=2.9, columns=3, sharey=True)
        for axes, x, name in zip(
            panels, (table.N, table.D, 6 * table.N * table.D), ("N", "D", "C"), strict=True
        ):
            axes.axhline(0, color=INK, linewidth=0.8)
            draw_points(axes, x, error, runs, held, predictor.convention)
            log_sizes(axes, "x")
            ticks = [t for t in axes.get_xticks() if axes.get_xlim()[0] <= t <= axes.get_xlim()[1]]
            if len(ticks) > 3:
                axes.set_xticks(ticks[:: math.ceil(len(ticks) / 3)])
            axes.set_xlabel({"N": "parameters, N", "D": "tokens, D", "C": "FLOPs, C"}[name])
        panels[0].set_ylabel("actual over law, percent")
    spread = float(np.sqrt(np.mean(error[inside] ** 2)))
    worst = int(np.abs(error).argmax())
    trend = [
        name
        for name, x in (("N", table.N), ("D", table.D), ("C", 6 * table.N * table.D))
        if _trend(np.log(x[inside]), error[inside])
    ]
    tail = f"a trend is left in {' and '.join(trend)}" if trend else "no trend is left"
    which = "the sealed " if runs[worst].run in held else ""
    off = f"{abs(error[worst]):.2g} % {'above' if error[worst] > 0 else 'below'} it"
    return set_title(
        figure,
        f"Fitted runs lie within {spread:.2g} % (rms) of the law, {tail}; "
        f"farthest is {which}{plain(runs[worst].run)}, {off}",
    )


def _trend(x: Array, y: Array) -> bool:
    """Is the slope of y on x more than 2 standard errors from 0?"""
    if len(x) < 5 or np.ptp(x) == 0:
        return False
    x, y = x - x.mean(), y - y.mean()
    slope = (x @ y) / (x @ x)
    rest = y - slope * x
    error = math.sqrt(float(rest @ rest) / (len(x) - 2) / float(x @ x))
    return bool(abs(slope) > TREND * error) if error > 0 else False


GREEK = {"alpha": "α", "beta": "β", "gamma": "γ"}

CEILING = 3.0  # times the 95 % limit: the height of the panels


def profile(profiles: Sequence[LikelihoodProfile]) -> Figure:
    """Rise of the misfit against each exponent, the rest refitted; where it passes the 80 and 95 % limits.

    Raises:
        BadInput: no exponents.
    """
    if not profiles:
        raise BadInput("there are 0 exponents to profile; the figure needs 1")
    with style_context():
        figure, panels = new_figure(height=3.1, columns=len(profiles), sharey=True)
        for axes, one in zip(panels, profiles, strict=True):
            _panel(axes, one)
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
    found = [_bounds(one) for one in profiles]
    return set_title(figure, "At 95 %, " + ", ".join(found))


def _panel(axes: Axes, one: LikelihoodProfile) -> None:
    values, rise = np.array(one.values), np.array(one.rises)
    seen = rise <= 1.5 * CEILING * CHI_SQUARE[95]
    low, high = values[seen].min(), values[seen].max()
    margin = 0.03 * (high - low)
    axes.set_xlim(low - margin, high + margin)
    for level, style in ((80, (0, (3, 1.5))), (95, ":")):
        left, right = one.interval_80 if level == 80 else one.interval_95
        axes.axvspan(
            low - margin if left is None else left,
            high + margin if right is None else right,
            color=GREEN,
            alpha=0.14,
            linewidth=0,
        )
        axes.axhline(CHI_SQUARE[level], color=MUTED, linewidth=1, linestyle=style)
    axes.plot(values, rise, color=BLUE, marker="o", markersize=2.6)
    axes.axvline(one.best, color=INK, linewidth=0.8)
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel(f"{GREEK[one.name]}, best {one.best:.3f}")


def _bounds(one: LikelihoodProfile) -> str:
    low, high = (("open" if bound is None else f"{bound:.3g}") for bound in one.interval_95)
    return f"{GREEK[one.name]} {low} to {high}"
