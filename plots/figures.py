"""Registry of a study's figures: each by name, with how to read it and the function that draws it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from families.units import BadInput, nearest
from scaling.fitting.predictor import Fit
from scaling.monitoring import reference_prediction
from scaling.monitoring.curves import read_run, read_siblings
from scaling.paths import StudyPaths
from scaling.runs import Run
from scaling.scoring import ComparisonRow

from . import curve, frontier, law, plan, predictions, training
from .forecast import forecast_figure
from .study_data import StudyData
from .style import Plot

OUTCOME_FIGURES = ("predicted", "calibration")  # those of a folder of studies
_CURVE = "Line: the law and its 80 % interval, to ten times the data. Dotted: the end of the data."


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFigure(Plot):
    """A figure of a study by its name in the registry; `about` explains how to read it."""

    name: str
    about: str


def _law_of(study: StudyData) -> Fit:
    if study.law is None:
        raise BadInput(f"{study.folder} has no law.json; run scaling fit first")
    return study.law


def _law_inputs(study: StudyData) -> tuple[Fit, tuple[Run, ...], frozenset[str]]:
    return _law_of(study), study.comparable_runs, study.sealed_runs


def _scored(study: StudyData) -> Sequence[ComparisonRow]:
    return study.comparison.rows if study.comparison else ()


def _learning(study: StudyData) -> Plot:
    predictor = study.law
    runs = study.comparable_runs or tuple(run for run in study.runs if run.annealed)
    return training.learning_curves(study.curves, runs, predictor)


def _planned(study: StudyData) -> Plot:
    if study.plan is None or study.plan.recommended is None:
        raise BadInput(f"{study.folder} has no plan of choices; run scaling plan first")
    return plan.planned(study.plan, (), study.runs)


def _forecast(study: StudyData) -> Plot:
    """Forecast for the first started sealed member; for a finished run, the forecast at one third of its steps."""
    folder = study.folder / "runs"
    for member in study.plan.members if study.plan and study.seal_intact else ():
        for run in [read_run(path.parent) for path in sorted(folder.glob("*/underway.json"))]:
            steps = round(member.tokens / run.plan.batch_tokens)
            if run.plan.params != member.params or steps not in run.plan.steps:
                continue
            return forecast_figure(
                run,
                read_siblings(folder, run),
                steps,
                reference_prediction(StudyPaths(study.folder), run, steps),
                until=steps // 3 if steps in run.finals else None,
            )
    raise BadInput("no sealed member's run has begun; a forecast needs one")


FIGURES: dict[str, tuple[str, Callable[[StudyData], Plot]]] = {
    "planned": (
        "Candidate sizes for the budget. Star: recommended. Thick: about as good. Dashed: sizes preferred under other laws.",
        _planned,
    ),
    "predicted": (
        "Thick bar: 80 %, thin bar: 95 % interval of the sealed prediction; diamond: actual loss.",
        lambda study: predictions.predicted_against_actual(_scored(study)),
    ),
    "forecast": (
        "Thick line with bands: forecast of the run's end from its own curve so far and the rest of its schedule, 80 and 95 %; "
        "for a finished run, the forecast at one third of its steps, retold by this version's method, which need not be the one "
        "that ran. Diamond: sealed prediction. Cross: actual loss.",
        _forecast,
    ),
    "learning": (
        "Solid: loss on training batches, smoothed. Filled marks: held-out loss of annealed rungs, to which the law is "
        "fitted. Dashed: the law. A size has one mark, hollow on its training curve.",
        _learning,
    ),
    "surface": (
        "Contours: the law's loss at N parameters and D tokens; darker is lower. Dotted: equal compute.",
        lambda study: (curve.curve if _law_of(study).variable else law.surface)(*_law_inputs(study)),
    ),
    "isoflops": (
        "One curve for each budget. Star: the law's best size. Points: runs, moved along the law to the nearest budget; "
        "diamonds were sealed.",
        lambda study: frontier.isoflops(*_law_inputs(study)),
    ),
    "frontier": (
        "Line: the lowest loss for each budget by the law, and the size that reaches it; dashed beyond the fitted runs. "
        "Below, shaded: sizes within 0.01 nats of the best (indifference band); thin dashes: 80 % interval of the best size.",
        lambda study: frontier.frontier(*_law_inputs(study)),
    ),
    "residuals": (
        "Above zero: the run's loss is higher than the law's forms predict, without the correction that predictions add "
        "near single runs.",
        lambda study: law.residuals(*_law_inputs(study)),
    ),
    "backtest": (
        "Each form was fitted on cheap runs and predicted costlier ones of the same study.",
        lambda study: predictions.backtest(_law_of(study).forms),
    ),
    "calibration": (
        "On the dashed line, intervals hold as often as their nominal coverage.",
        lambda study: predictions.calibration(_scored(study)),
    ),
    "cost": (
        "FLOPs counted in the training loop; hatched: cooldowns; a tick marks the planned FLOPs, a ladder's trunk counted once.",
        lambda study: training.cost(study.work, study.planned_flops),
    ),
    "throughput": (
        "Measured while training, without evaluation and checkpoints. Right: MFU, the share of the named dense peak; "
        "the model's own FLOP/s where the device's peak is unknown.",
        lambda study: training.throughput(study.curves, study.runs),
    ),
}


def draw_figure(name: str, study: StudyData) -> StudyFigure:
    """One figure of a study.

    Raises:
        BadInput: no figure of that name, or the study lacks its data.
    """
    if name not in FIGURES:
        raise BadInput(f"figure is {name!r}; {nearest(name, FIGURES)}")
    about, draw = FIGURES[name]
    if name == "surface" and study.law is not None and study.law.variable:
        about = _CURVE
    plot = draw(study if name == "cost" else study.subsampled)
    return StudyFigure(name=name, about=about, figure=plot.figure, header=plot.header, rows=plot.rows)


def _applicable(study: StudyData) -> tuple[str, ...]:
    """Names of the figures that apply to such a study, whether or not their data exist yet."""
    if study.n_studies != 1:
        return OUTCOME_FIGURES
    applies = {
        "planned": study.plan is not None and study.plan.recommended is not None,
        "forecast": any((study.folder / "runs").glob("*/underway.json")),
        **dict.fromkeys(("isoflops", "frontier"), study.law is None or not study.law.variable),
    }
    return tuple(name for name in FIGURES if applies.get(name, True))


def draw_figures(
    study: StudyData,
    names: Sequence[str] | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> tuple[tuple[StudyFigure, ...], dict[str, str]]:
    """Draw the figures of a study.

    Args:
        study: as read from its folder.
        names: of the figures; default: all that apply to such a study.
        progress: called before each figure with the number done, the total, and the figure's name.

    Returns:
        The figures drawn, and for each of the others the reason why it cannot be drawn, by name.
    """
    names = names or _applicable(study)
    drawn, not_drawn = [], {}
    for number, name in enumerate(names):
        progress(number, len(names), name)
        try:
            drawn.append(draw_figure(name, study))
        except BadInput as error:
            not_drawn[name] = str(error)
    return tuple(drawn), not_drawn
