"""Figures for notebooks: of a fit, a plan or a study, by name. `scaling` asks for them through its values' plot methods."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from families.units import BadInput, nearest
from scaling.fitting.sensitivity import profiles_of
from scaling.planning.planfile import PlanFile
from scaling.planning.query import IsoFlopCurve
from scaling.runs import Run, RunTable

from . import curve, frontier, law, predictions
from .figures import draw_figure
from .plan import planned
from .study_data import load_study
from .style import Plot
from .valley import valley

if TYPE_CHECKING:
    from scaling.fitting.predictor import Fit

FIT_FIGURES: dict[str, Callable[["Fit", RunTable], Plot]] = {
    "surface": law.surface,
    "curve": curve.curve,
    "isoflops": frontier.isoflops,
    "frontier": frontier.frontier,
    "residuals": law.residuals,
    "profile": lambda fit, runs: law.profile(profiles_of(fit, runs)[1]),
    "backtest": lambda fit, runs: predictions.backtest(fit.forms),
    "valley": valley,
}


def plot_fit(fit: "Fit", runs: RunTable, kind: str) -> Figure:
    """One figure of a fit and the runs behind it.

    Raises:
        BadInput: no figure of that name.
    """
    if kind not in FIT_FIGURES:
        raise BadInput(f"figure is {kind!r}; {nearest(kind, FIT_FIGURES)}")
    return FIT_FIGURES[kind](fit, runs).figure


def plot_plan(plan: PlanFile, curves: Sequence[IsoFlopCurve], runs: Sequence[Run]) -> Figure:
    """The sizes within a plan's budget, the recommended one, and those about as good."""
    return planned(plan, curves, runs).figure


def plot_study(folder: Path, name: str) -> Figure:
    """One figure of a study.

    Raises:
        BadInput: no figure of that name, or the study lacks what it shows.
    """
    return draw_figure(name, load_study(folder)).figure
