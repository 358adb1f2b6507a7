"""Every figure of a study by name, with the values it shows as a table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from families.errors import BadInput
from families.units import nearest
from scaling.files import csv_text

from . import residuals, style, surface
from .drawing import (
    Drawn,
    draw_backtest,
    draw_calibration,
    draw_cost,
    draw_forecast,
    draw_frontier,
    draw_isoflops,
    draw_learning,
    draw_of_law,
    draw_planned,
    draw_predicted,
    draw_throughput,
)
from .seen import Seen

OF_OUTCOMES = ("predicted", "calibration")  # what a folder of studies has


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure, what it concludes, and its data. `about` says how to read it."""

    name: str
    about: str
    figure: Figure
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    @property
    def title(self) -> str:
        """The one-line conclusion."""
        return style.conclusion(self.figure)

    def csv(self) -> str:
        """The data, a header line first."""
        return csv_text(self.header, self.rows)


FIGURES: dict[str, tuple[str, Callable[[Seen], Drawn]]] = {
    "planned": (
        "The sizes on offer for the budget. Star: recommended. Green: about as good. Dashed: what other laws would choose.",
        draw_planned,
    ),
    "predicted": (
        "Thick bar 80 %, thin bar 95 % interval of the sealed prediction; diamond: what came.",
        draw_predicted,
    ),
    "forecast": (
        "Blue: where the run was likely to end, from its own curve so far and the schedule still to come, with 80 and 95 % "
        "bands; of a finished run as it stood after a third of its steps. Diamond: what was sealed. Cross: what came.",
        draw_forecast,
    ),
    "learning": (
        "Solid: loss on training batches, smoothed. Points: held-out loss of annealed rungs, which is what the law is "
        "fitted on. Dashed: the law.",
        draw_learning,
    ),
    "surface": (
        "Contours: loss the law gives to N parameters and D tokens; darker is lower. Dotted: equal compute.",
        draw_of_law(surface.surface),
    ),
    "isoflops": (
        "One curve for each budget. Star: the law's best size. Points: runs, moved along the law to the nearest budget; "
        "a diamond was sealed.",
        draw_isoflops,
    ),
    "frontier": (
        "Line: the least loss each budget can buy by the law, and the size that does it; dashed beyond the fitted runs. "
        "Green: the indifference band, sizes within 0.01 nats of the best.",
        draw_frontier,
    ),
    "residuals": (
        "Above zero: the run came out worse than the law's forms say, without the correction that predictions add "
        "near single runs.",
        draw_of_law(residuals.residuals),
    ),
    "backtest": (
        "Each form was fitted on cheap runs and foretold costlier ones of the same study.",
        draw_backtest,
    ),
    "calibration": ("On the dashed line the intervals hold as often as they promise.", draw_calibration),
    "cost": (
        "Counted in the training loop; a tick marks what was planned, a ladder's trunk counted once.",
        draw_cost,
    ),
    "throughput": (
        "Measured while training, evaluation and saving left out. To the right: MFU, the share of the named dense peak; where "
        "no peak is known for the device, the model's own FLOP/s.",
        draw_throughput,
    ),
}


def picture(name: str, seen: Seen) -> Picture:
    """One figure of a study.

    Raises:
        BadInput: no figure of that name, or the study lacks what it shows.
    """
    if name not in FIGURES:
        raise BadInput(f"figure is {name!r}; {nearest(name, FIGURES)}")
    about, draw = FIGURES[name]
    figure, (header, rows) = draw(seen if name == "cost" else seen.thinned)
    return Picture(name=name, about=about, figure=figure, header=header, rows=tuple(rows))


def _fitting(seen: Seen) -> tuple[str, ...]:
    """Names of the figures that such a folder is meant to have, drawn or not."""
    if seen.studies != 1:
        return OF_OUTCOMES
    chosen = seen.plan is not None and seen.plan.recommended is not None
    begun = any((seen.folder / "runs").glob("*/underway.json"))
    meant = {"planned": chosen, "forecast": begun}
    return tuple(name for name in FIGURES if meant.get(name, True))


def pictures(
    seen: Seen,
    names: Sequence[str] | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> tuple[tuple[Picture, ...], dict[str, str]]:
    """(the figures this study can have, name → why the others cannot be drawn)."""
    names = names or _fitting(seen)
    drawn, lacking = [], {}
    for number, name in enumerate(names):
        progress(number, len(names), name)
        try:
            drawn.append(picture(name, seen))
        except BadInput as error:
            lacking[name] = str(error)
    return tuple(drawn), lacking
