"""Figure of the profile likelihood: how far each exponent may move before the fit is worse than the noise explains."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from families.errors import BadInput
from scaling.fitting.sensitivity import CHI_SQUARE, Profile

from .style import BLUE, GREEN, INK, MUTED, conclude, house, new_figure

GREEK = {"alpha": "α", "beta": "β", "gamma": "γ"}
CEILING = 3.0  # times the 95 % limit: the height of the panels


def profile(profiles: Sequence[Profile]) -> Figure:
    """Rise of the misfit against each exponent, the rest refitted; where it passes the 80 and 95 % limits.

    Raises:
        BadInput: no exponents.
    """
    if not profiles:
        raise BadInput("there are 0 exponents to profile; the figure needs 1")
    with house():
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
    return conclude(figure, "At 95 %, " + ", ".join(found))


def _panel(axes: Axes, one: Profile) -> None:
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


def _bounds(one: Profile) -> str:
    low, high = (("open" if bound is None else f"{bound:.3g}") for bound in one.interval_95)
    return f"{GREEK[one.name]} {low} to {high}"
