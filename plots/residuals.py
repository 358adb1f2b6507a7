"""How far runs lie off the law, against what they could depend on."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scaling.predictor import Predictor
from scaling.runs import Run, columns

from .law import check, draw_points, expected
from .style import INK, conclude, house, log_sizes, new_figure, plain

Array = NDArray[np.float64]
TREND = 2.0  # standard errors of a slope beyond which residuals are said to have a trend


def residual_percent(predictor: Predictor, runs: Sequence[Run]) -> Array:
    """100·(actual/predicted − 1) of each run: positive where it came out worse than the law says."""
    table = columns(runs, predictor.convention)
    return np.asarray(100 * (table.L / expected(predictor, table) - 1))


def residuals(predictor: Predictor, runs: Sequence[Run], held: frozenset[str] = frozenset()) -> Figure:
    """Percent by which each run came out above the law, against N, D and C.

    Raises:
        BadInput: no runs.
    """
    check(runs)
    table = columns(runs, predictor.convention)
    error = residual_percent(predictor, runs)
    fitted = np.array([run.run not in held for run in runs], dtype=bool)
    inside = fitted if fitted.any() else ~fitted
    with house():
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
    return conclude(
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
