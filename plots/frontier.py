"""The compute-optimal frontier: what each budget can reach, with which size, and which sizes do about as well."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from families.errors import BadInput
from families.units import format_size
from scaling.compare import ComparisonRow
from scaling.planning.band import WITHIN_NATS
from scaling.predictor import Predictor
from scaling.runs import Run, columns

from .law import bare, check, draw_legend, draw_points
from .style import GREEN, MUTED, PALETTE, conclude, house, log_losses, log_sizes, new_figure

Array = NDArray[np.float64]
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


def along(predictor: Predictor, compute: Array, *, nats: float = WITHIN_NATS) -> Frontier:
    """The frontier of the law's forms at each budget.

    Raises:
        BadInput: the law has no optimum.
    """
    predictor = bare(predictor)
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


def spanned(predictor: Predictor, runs: Sequence[Run]) -> Array:
    """Budgets from the cheapest run to ten times beyond the dearest."""
    check(runs)
    table = columns(runs, predictor.convention)
    C = 6 * table.N * table.D
    return np.geomspace(float(C.min()), float(C.max()) * BEYOND, 50)


def frontier(predictor: Predictor, runs: Sequence[Run], rows: Sequence[ComparisonRow] = ()) -> Figure:
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
    with house():
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
    return conclude(figure, _title(predictor, 10 * edge))


def _line(axes: Axes, x: Array, y: Array, edge: float) -> None:
    seen = x <= edge
    axes.plot(x[seen], y[seen], color=_CURVE, linewidth=2.2)
    axes.plot(x[~seen], y[~seen], color=_CURVE, linewidth=2.2, linestyle=(0, (3, 1.5)))


def _title(predictor: Predictor, far: float) -> str:
    found = along(predictor, np.array([far]))
    spread = ""
    if found.interval_80 is not None:
        spread = f" ({float(found.interval_80[0][0]):.2f} to {float(found.interval_80[1][0]):.2f})"
    low, high = (format_size(float(bound[0]), 2) for bound in found.band)
    return (
        f"Ten times the fitted compute, {format_size(far, 2)} FLOPs, would reach {float(found.loss[0]):.2f}{spread}; "
        f"{low} to {high} parameters do about as well"
    )
