"""The law's loss against size at fixed budgets, with the runs nearest to each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from families.units import format_size
from scaling.predictor import Predictor
from scaling.runs import Run, columns

from .law import bare, check, expected, label, optimum
from .style import PALETTE, conclude, house, log_losses, log_sizes, new_figure, tips

Array = NDArray[np.float64]


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


def iso_curves(predictor: Predictor, runs: Sequence[Run]) -> list[IsoCurve]:
    """Curves at up to four budgets that span the runs'.

    Raises:
        BadInput: no runs.
    """
    check(runs)
    predictor = bare(predictor)
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


def isoflops(predictor: Predictor, runs: Sequence[Run], held: frozenset[str] = frozenset()) -> Figure:
    """The law's loss against N at fixed budgets, each minimum marked; runs moved along the law to the nearest.

    Raises:
        BadInput: no runs.
    """
    curves = iso_curves(predictor, runs)
    table = columns(runs, predictor.convention)
    with house():
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
                    tips(
                        points,
                        [label(runs[int(k)], predictor.convention) for k in curve.near[mask]],
                    )
        log_sizes(axes, "x")
        log_losses(axes)
        axes.set_xlabel("parameters, N")
        axes.set_ylabel("loss, nats per token")
    worth = [(curve.C, curve.optimum[0]) for curve in curves if curve.optimum is not None]
    if len(worth) > 1:
        return conclude(
            figure,
            f"The best size goes from {format_size(worth[0][1], 2)} parameters at {format_size(worth[0][0], 2)} FLOPs "
            f"to {format_size(worth[-1][1], 2)} at {format_size(worth[-1][0], 2)}",
        )
    return conclude(
        figure,
        "Loss against size at fixed compute; no budget's best size lies among these sizes"
        if not worth
        else f"At {format_size(worth[0][0], 2)} FLOPs the best size is {format_size(worth[0][1], 2)} parameters",
    )
