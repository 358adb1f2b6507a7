"""Figures of the law along compute: isoFLOP curves, and the compute-optimal frontier with its indifference band."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from families.units import BadInput, format_size
from scaling.fitting.predictor import Fit
from scaling.laws import Convention
from scaling.planning.band import WITHIN_NATS
from scaling.runs import Run, RunTable
from scaling.stats import Array, format_loss

from .law import (
    draw_legend,
    draw_points,
    expected_loss,
    optimal_allocations,
    point_label,
    require_runs,
    run_size,
    without_local_correction,
)
from .style import (
    GREEN,
    MUTED,
    PALETTE,
    PURPLE,
    Plot,
    log_losses,
    log_sizes,
    new_figure,
    set_title,
    style_context,
    tooltips,
)

BEYOND = 10.0  # the frontier is drawn to this many times the largest compute of the runs
BAND_SIZES = 241  # sizes evaluated for the band, from a tenth to ten times the best


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoFlopCurve:
    """The law's loss against N at one budget, with the runs nearest to it.

    Attributes:
        C: the budget, FLOPs.
        N: sizes, shape (sizes,).
        loss: the law's loss at each, nats per token.
        optimum: (N, loss) of the best size, where it lies among those sizes.
        run_index: indices of the runs shown with this curve.
        shifted_loss: their losses moved along the law to this budget, each keeping its residual.
    """

    C: float
    N: Array
    loss: Array
    optimum: tuple[float, float] | None
    run_index: NDArray[np.intp]
    shifted_loss: Array


def isoflop_curves(predictor: Fit, runs: Sequence[Run]) -> list[IsoFlopCurve]:
    """IsoFLOP curves at up to four budgets that span those of the runs.

    Raises:
        BadInput: no runs, or a law of one variable.
    """
    require_runs(runs)
    if predictor.variable:
        raise BadInput("the law depends on one variable, so no size is the best of a budget")
    predictor = without_local_correction(predictor)
    table = RunTable.of(runs, predictor.convention)
    C = 6 * table.N * table.D
    budgets = np.geomspace(C.min() * 1.5, C.max(), 4) if C.max() > 3 * C.min() else C.max()[None]
    grid = np.geomspace(table.N.min() / 2, table.N.max() * 2, 120)
    nearest = np.abs(np.log(C[:, None] / budgets)).argmin(axis=1)
    law = expected_loss(predictor, table)
    curves = []
    for i, budget in enumerate(budgets.tolist()):
        D = budget / (6 * grid)
        inside = (table.D.min() / 3 < D) & (table.D.max() * 5 > D)
        if inside.sum() < 2:
            continue
        N = grid[inside]
        best = optimal_allocations(predictor, np.array([budget]))
        near = np.flatnonzero((nearest == i) & (np.abs(np.log(C / budget)) < 0.7))
        law_at_budget = (
            np.asarray(predictor.predict(table.N[near], budget / (6 * table.N[near]), force=True).loss)
            if len(near)
            else np.empty(0)
        )
        optimum = None
        if best is not None and N[0] <= best[0][0] <= N[-1]:
            optimum = float(best[0][0]), float(best[2][0])
        curves.append(
            IsoFlopCurve(
                C=budget,
                N=N,
                loss=np.asarray(predictor.predict(N, D[inside], force=True).loss),
                optimum=optimum,
                run_index=near,
                shifted_loss=table.L[near] / law[near] * law_at_budget,
            )
        )
    return curves


def isoflops(predictor: Fit, runs: Sequence[Run], sealed_runs: frozenset[str] = frozenset()) -> Plot:
    """The law's loss against N at fixed budgets, each minimum marked; runs moved along the law to the nearest budget.

    Raises:
        BadInput: no runs, or a law of one variable.
    """
    curves = isoflop_curves(predictor, runs)
    table = RunTable.of(runs, predictor.convention)
    with style_context():
        figure, (axes,) = new_figure(height=4.0)
        for i, curve in enumerate(curves):
            colour = PALETTE[i % len(PALETTE)]
            axes.plot(curve.N, curve.loss, color=colour)
            if curve.optimum is not None:
                axes.scatter(*curve.optimum, marker="*", s=110, color=colour, zorder=6, edgecolor="none")
            axes.annotate(  # beyond its right end, where nothing of it is
                f"{format_size(curve.C, 2)} FLOPs",
                (curve.N[-1], curve.loss[-1]),
                color=colour,
                fontsize=8,
                xytext=(4, 0),
                textcoords="offset points",
                ha="left",
                va="center",
                zorder=7,
            )
            near = curve.run_index
            if len(near):
                x, sealed = table.N[near], np.array([runs[int(k)].run in sealed_runs for k in near])
                for mask, marker, size in ((~sealed, "o", 24), (sealed, "D", 40)):
                    points = axes.scatter(
                        x[mask],
                        curve.shifted_loss[mask],
                        s=size,
                        color=colour,
                        marker=marker,
                        zorder=5,
                        alpha=0.8,
                    )
                    tooltips(points, [point_label(runs[int(k)], predictor.convention) for k in near[mask]])
        if curves:  # room for the labels
            low, high = (
                min(float(curve.N[0]) for curve in curves),
                max(float(curve.N[-1]) for curve in curves),
            )
            axes.set_xlim(low / 1.1, high * (high / low) ** 0.28)
        log_sizes(axes, "x")
        log_losses(axes)
        axes.set_xlabel("parameters, N")
        axes.set_ylabel("loss, nats per token")
    return Plot(
        figure=set_title(figure, _isoflops_title(curves)),
        header=("what", "run", "C", "N", "loss"),
        rows=tuple(row for curve in curves for row in _isoflop_rows(curve, runs, predictor.convention)),
    )


def _isoflops_title(curves: Sequence[IsoFlopCurve]) -> str:
    best = [(format_size(c.C, 2), format_size(c.optimum[0], 2)) for c in curves if c.optimum is not None]
    if not best:
        return "Loss against size at fixed compute; the best size of each budget lies outside these sizes"
    if len(best) == 1:
        return f"At {best[0][0]} FLOPs the best size is {best[0][1]} parameters"
    return (
        f"The best size goes from {best[0][1]} parameters at {best[0][0]} FLOPs "
        f"to {best[-1][1]} at {best[-1][0]}"
    )


def _isoflop_rows(curve: IsoFlopCurve, runs: Sequence[Run], convention: Convention) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = [
        ("law", "", curve.C, float(N), float(L)) for N, L in zip(curve.N, curve.loss, strict=True)
    ]
    if curve.optimum is not None:
        rows.append(("best", "", curve.C, *curve.optimum))
    for k, shifted in zip(curve.run_index.tolist(), curve.shifted_loss.tolist(), strict=True):
        rows.append(("run", runs[k].run, curve.C, run_size(runs[k], convention), shifted))
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """Compute-optimal allocations along budgets; all arrays of shape (budgets,).

    Attributes:
        C: budgets, FLOPs.
        N: the best size of each.
        D: its tokens.
        loss: the loss there, nats per token.
        interval_80: its 80 % interval, low and high; None where the law has none.
        band: the smallest and the largest N within `nats` of that loss.
        nats: width of the band, nats per token.
        N_interval_80: 80 % interval of N; None where the law has none.
    """

    C: Array
    N: Array
    D: Array
    loss: Array
    interval_80: tuple[Array, Array] | None
    band: tuple[Array, Array]
    nats: float
    N_interval_80: tuple[Array, Array] | None = None


def compute_frontier(predictor: Fit, compute: Array, *, nats: float = WITHIN_NATS) -> Frontier:
    """The frontier of the law's forms at each budget.

    Raises:
        BadInput: the law has no optimum.
    """
    predictor = without_local_correction(predictor)
    best = [predictor.allocate(float(c), force=True) for c in compute]
    N, D = np.array([a.N for a in best]), np.array([a.D for a in best])
    optimal = predictor.predict(N, D, force=True)
    sizes = N[:, None] * np.geomspace(0.1, 10, BAND_SIZES)
    points_only = replace(predictor, intervals=False)
    losses = np.asarray(points_only.predict(sizes, compute[:, None] / (6 * sizes), force=True).loss)
    excess = losses - np.asarray(optimal.loss)[:, None] - nats
    middle = BAND_SIZES // 2
    return Frontier(
        C=compute,
        N=N,
        D=D,
        loss=np.asarray(optimal.loss),
        interval_80=optimal.interval_80,
        band=(
            _crossing(sizes[:, middle::-1], excess[:, middle::-1]),
            _crossing(sizes[:, middle:], excess[:, middle:]),
        ),
        nats=nats,
        N_interval_80=_size_interval([a.N_interval_80 for a in best]),
    )


def _size_interval(bounds: Sequence[tuple[float, float] | None]) -> tuple[Array, Array] | None:
    known = [pair for pair in bounds if pair is not None]
    if len(known) < len(bounds):
        return None
    low, high = np.array(known).T
    return low, high


def _crossing(sizes: Array, excess: Array) -> Array:
    """The size at which each row's excess, negative at first, turns positive; linear in log N between two sizes."""
    beyond = excess > 0
    at = np.where(beyond.any(axis=1), np.maximum(beyond.argmax(axis=1), 1), sizes.shape[1] - 1)
    rows = np.arange(len(sizes))
    low, high = excess[rows, at - 1], excess[rows, at]
    share = np.clip(-low / np.where(high > low, high - low, 1.0), 0, 1)
    return np.asarray(np.exp((1 - share) * np.log(sizes[rows, at - 1]) + share * np.log(sizes[rows, at])))


def frontier(predictor: Fit, runs: Sequence[Run], sealed_runs: frozenset[str] = frozenset()) -> Plot:
    """Loss and size of the compute-optimal frontier against compute, with the runs.

    Above: loss, with the law's 80 % interval. Below: the best size with its 80 % interval (dashed), and the
    indifference band of sizes within 0.01 nats of it. Compute goes from the cheapest run to ten times the costliest.

    Raises:
        BadInput: no runs, or the law has no optimum.
    """
    require_runs(runs)
    table = RunTable.of(runs, predictor.convention)
    C = 6 * table.N * table.D
    compute = np.geomspace(float(C.min()), float(C.max()) * BEYOND, 50)
    try:
        best = compute_frontier(predictor, compute)
    except BadInput as error:
        raise BadInput(f"there is no frontier: {error}") from error
    edge = float(predictor.domain.C[1])
    with style_context():
        figure, (above, below) = new_figure(height=5.6, rows=2, sharex=True)
        if best.interval_80 is not None:
            above.fill_between(compute, *best.interval_80, color=PURPLE, alpha=0.2, linewidth=0)
        below.fill_between(compute, *best.band, color=GREEN, alpha=0.25, linewidth=0)
        if best.N_interval_80 is not None:
            for edge_of in best.N_interval_80:
                below.plot(compute, edge_of, color=PURPLE, linewidth=1, linestyle="--")
        for axes, y, points in ((above, best.loss, table.L), (below, best.N, table.N)):
            _frontier_line(axes, compute, y, edge)
            draw_points(axes, C, points, runs, sealed_runs, predictor.convention)
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
            any(run.run in sealed_runs for run in runs),
            [
                Line2D([], [], color=PURPLE, linewidth=2.2, label="law's best, 80 %"),
                Patch(color=GREEN, alpha=0.25, linewidth=0, label=f"within {best.nats:g} nats"),
            ],
        )
    blank = ("",) * len(compute)
    low, high = best.interval_80 or (blank, blank)
    drawn: list[tuple[Any, ...]] = [
        ("law's best", "", *(float(v) if v != "" else "" for v in values))
        for values in zip(compute, best.N, best.D, best.loss, low, high, *best.band, strict=True)
    ]
    drawn += [
        ("run", run.run, *map(float, values), "", "", "", "")
        for run, *values in zip(runs, C, table.N, table.D, table.L, strict=True)
    ]
    return Plot(
        figure=set_title(figure, _frontier_title(predictor, 10 * edge)),
        header=("what", "run", "C", "N", "D", "loss", "low_80", "high_80", "band_low_N", "band_high_N"),
        rows=tuple(drawn),
    )


def _frontier_line(axes: Axes, x: Array, y: Array, edge: float) -> None:
    """Draw a line, solid up to the fitted compute and dashed beyond."""
    fitted = x <= edge
    axes.plot(x[fitted], y[fitted], color=PURPLE, linewidth=2.2)
    axes.plot(x[~fitted], y[~fitted], color=PURPLE, linewidth=2.2, linestyle=(0, (3, 1.5)))


def _frontier_title(predictor: Fit, compute: float) -> str:
    best = compute_frontier(predictor, np.array([compute]))
    interval = ""
    if best.interval_80 is not None:
        interval = " ({} to {})".format(*(format_loss(float(bound[0])) for bound in best.interval_80))
    low, high = (format_size(float(bound[0]), 2) for bound in best.band)
    return (
        f"Ten times the fitted compute, {format_size(compute, 2)} FLOPs, would reach "
        f"{format_loss(float(best.loss[0]))}{interval}; {low} to {high} parameters do about as well"
    )
