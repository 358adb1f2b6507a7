"""Every figure of a study by name, with the values it shows as a table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from families.units import BadInput, nearest
from scaling.files import csv_text
from scaling.fitting.predictor import Fit
from scaling.monitoring import reference_prediction
from scaling.monitoring.curves import RunCurves, read_run, read_siblings
from scaling.monitoring.forecast import forecast_final_loss
from scaling.planning.pilot import ladder_flops
from scaling.runs import columns
from scaling.stats import MOST_LINES, subsample_evenly
from scaling.study import Study

from . import forecast, law, plan, predictions, style, training
from .law import expected, size_of
from .study_data import StudyData, smooth, thin

# MERGED DOCSTRINGS
# Each figure as it is drawn from a study, with the values it shows.

FigureTable = tuple[tuple[str, ...], list[tuple[Any, ...]]]  # header and rows

Drawn = tuple[Figure, FigureTable]


def _law(seen: StudyData) -> Fit:
    if seen.law is None:
        raise BadInput(f"{seen.folder} has no law.json; run scaling fit first")
    return seen.law


def draw_predicted(seen: StudyData) -> Drawn:
    """Predicted against actual."""
    rows = seen.comparison.rows if seen.comparison else ()
    header = (
        "member",
        "tokens",
        "predicted_loss",
        "low_80",
        "high_80",
        "low_95",
        "high_95",
        "actual_loss",
        "error",
    )
    return predictions.predicted_against_actual(rows), (
        header,
        [
            (r.member, r.tokens, r.predicted_loss, *r.interval_80, *r.interval_95, r.actual_loss, r.error)
            for r in rows
        ],
    )


def draw_learning(seen: StudyData) -> Drawn:
    """Learning curves, and the annealed points."""
    predictor = seen.law if seen.law else None
    runs = seen.lawful or tuple(run for run in seen.runs if run.annealed)
    names = {curve.run: None for curve in seen.curves} or {run.run: None for run in runs}
    if len({run.run for run in runs}) > MOST_LINES:
        chosen = set(subsample_evenly(list(names), MOST_LINES))
        runs = tuple(run for run in runs if run.run in chosen)
    figure = training.learning_curves(seen.curves, runs, predictor)
    rows: list[tuple[Any, ...]] = [
        (curve.run, curve.part or "run", float(tokens), float(loss))
        for curve in seen.curves
        for tokens, loss in zip(thin(curve.tokens), thin(smooth(curve.loss)), strict=True)
    ]
    rows += [(run.run, "annealed", run.tokens, run.loss) for run in runs]
    return figure, (("run", "part", "tokens", "loss"), rows)


def _law_rows(seen: StudyData, predictor: Fit) -> FigureTable:
    runs = seen.lawful
    if not runs:
        return ("run", "N", "D", "C", "loss", "law", "percent"), []
    table = columns(runs, predictor.convention)
    law = expected(predictor, table)
    rows = zip(
        (r.run for r in runs),
        table.N,
        table.D,
        6 * table.N * table.D,
        table.L,
        law,
        100 * (table.L / law - 1),
        strict=True,
    )
    return ("run", "N", "D", "C", "loss", "law", "percent"), [
        (r[0], *(float(v) for v in r[1:])) for r in rows
    ]


def draw_of_law(draw: Callable[..., Figure]) -> Callable[[StudyData], Drawn]:
    """A figure of the law and its runs, with how far each lies off."""

    def made(seen: StudyData) -> Drawn:
        predictor = _law(seen)
        return draw(predictor, seen.lawful, seen.held), _law_rows(seen, predictor)

    return made


def draw_isoflops(seen: StudyData) -> Drawn:
    """Loss against size at fixed budgets."""
    predictor = _law(seen)
    lawful = seen.lawful  # once: it is worked out anew each time
    figure = law.isoflops(predictor, lawful, seen.held)
    rows: list[tuple[Any, ...]] = []
    for curve in law.iso_curves(predictor, lawful):
        rows += [("law", "", curve.C, float(N), float(L)) for N, L in zip(curve.N, curve.loss, strict=True)]
        if curve.optimum is not None:
            rows.append(("best", "", curve.C, *curve.optimum))
        for k, moved in zip(curve.near.tolist(), curve.moved.tolist(), strict=True):
            run = lawful[k]
            rows.append(("run", run.run, curve.C, size_of(run, predictor.convention), moved))
    return figure, (("what", "run", "C", "N", "loss"), rows)


def draw_frontier(seen: StudyData) -> Drawn:
    """What each budget can reach."""
    predictor = _law(seen)
    rows = seen.comparison.rows if seen.comparison else ()
    figure = law.frontier(predictor, seen.lawful, rows)
    found = law.along(predictor, law.spanned(predictor, seen.lawful))
    low, high = found.interval_80 or (("",) * len(found.C), ("",) * len(found.C))
    drawn: list[tuple[Any, ...]] = [
        ("law's best", "", *(float(v) if v != "" else "" for v in values))
        for values in zip(found.C, found.N, found.D, found.loss, low, high, *found.band, strict=True)
    ]
    drawn += [
        ("run", run, C, N, D, loss, "", "", "", "")
        for run, N, D, C, loss, *_ in _law_rows(seen, predictor)[1]
    ]
    header = ("what", "run", "C", "N", "D", "loss", "low_80", "high_80", "band_low_N", "band_high_N")
    return figure, (header, drawn)


def draw_backtest(seen: StudyData) -> Drawn:
    """How each form foretold costlier runs."""
    forms = _law(seen).forms
    return predictions.backtest(forms), (
        ("form", "rollout_error", "weight", "status"),
        [(form.name, form.rollout_error, form.weight, form.status.value) for form in forms],
    )


def draw_calibration(seen: StudyData) -> Drawn:
    """How often intervals held."""
    rows = seen.comparison.rows if seen.comparison else ()
    return predictions.calibration(rows), (
        ("member", "tokens", "z", "inside_80", "inside_95"),
        [(row.member, row.tokens, row.z, row.inside_80, row.inside_95) for row in rows],
    )


def planned_flops(seen: StudyData) -> dict[str, float]:
    """Training FLOPs that the plans meant for each run by name: of a ladder, its trunk once and each cooldown.

    A member's run is named after it, with its seed: gpt2-52m-s0.
    """
    meant = {member.member: ladder_flops(member) for member in seen.members}
    names = dict.fromkeys([*(work.run for work in seen.work), *(run.run for run in seen.runs)])
    return {name: meant[stem] for name in names if (stem := name.rpartition("-s")[0]) in meant}


def draw_cost(seen: StudyData) -> Drawn:
    """Work booked and planned."""
    planned = planned_flops(seen)
    return training.cost(seen.work, planned), (
        ("run", "part", "from_step", "to_step", "tokens", "flops", "wall_s", "planned_flops"),
        [
            (w.run, w.part, w.from_step, w.to_step, w.tokens, w.flops, w.wall_s, planned.get(w.run))
            for w in seen.work
        ],
    )


def draw_throughput(seen: StudyData) -> Drawn:
    """Tokens per second."""
    figure = training.throughput(seen.curves, seen.runs)
    return figure, (
        (
            "run",
            "low_10_tokens_per_s",
            "median_tokens_per_s",
            "high_90_tokens_per_s",
            "flops_per_token",
            "mfu",
            "peak",
        ),
        [
            (s.run, s.low, s.median, s.high, s.flops_per_token, s.mfu, s.peak)
            for s in training.speeds(seen.curves, seen.runs)
        ],
    )


def draw_planned(seen: StudyData) -> Drawn:
    """The sizes on offer for the budget."""
    if seen.plan is None or seen.plan.recommended is None:
        raise BadInput(f"{seen.folder} has no plan of choices; run scaling plan first")
    choices = seen.plan.frontier or (seen.plan.recommended,)
    band = {member.choice.member for member in seen.plan.band.members} if seen.plan.band else set()
    return plan.planned(seen.plan, (), seen.runs), (
        ("member", "params", "tokens", "flops", "loss", "within_band"),
        [(c.member, c.params, c.tokens, c.flops, c.loss, c.member in band) for c in choices],
    )


def draw_forecast(seen: StudyData) -> Drawn:
    """Of the first sealed member whose run has begun; of one that is finished, as it stood after a third of its steps."""
    place = Study(seen.folder)
    for member in seen.plan.members if seen.plan and seen.seal_intact else ():
        for run in _begun(seen):
            steps = round(member.tokens / run.underway.batch_tokens)
            if run.underway.params != member.params or steps not in run.underway.steps:
                continue
            until = steps // 3 if steps in run.finals else None
            siblings = read_siblings(place.folder / "runs", run)
            promise = reference_prediction(place, run, steps)
            drawn = forecast.forecast_figure(run, siblings, steps, promise, until=until)
            header, rows = forecast.rows(
                forecast_final_loss(run, siblings, steps=steps, until=until), steps, run.underway.batch_tokens
            )
            return drawn, (tuple(header), [tuple(row) for row in rows])
    raise BadInput("no sealed member's run has begun; a forecast needs one")


def _begun(seen: StudyData) -> list[RunCurves]:
    """Runs that say where they are going; those of older versions do not."""
    return [read_run(path.parent) for path in sorted((seen.folder / "runs").glob("*/underway.json"))]


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


FIGURES: dict[str, tuple[str, Callable[[StudyData], Drawn]]] = {
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
        draw_of_law(law.surface),
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
        draw_of_law(law.residuals),
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


def picture(name: str, seen: StudyData) -> Picture:
    """One figure of a study.

    Raises:
        BadInput: no figure of that name, or the study lacks what it shows.
    """
    if name not in FIGURES:
        raise BadInput(f"figure is {name!r}; {nearest(name, FIGURES)}")
    about, draw = FIGURES[name]
    figure, (header, rows) = draw(seen if name == "cost" else seen.thinned)
    return Picture(name=name, about=about, figure=figure, header=header, rows=tuple(rows))


def _fitting(seen: StudyData) -> tuple[str, ...]:
    """Names of the figures that such a folder is meant to have, drawn or not."""
    if seen.studies != 1:
        return OF_OUTCOMES
    chosen = seen.plan is not None and seen.plan.recommended is not None
    begun = any((seen.folder / "runs").glob("*/underway.json"))
    meant = {"planned": chosen, "forecast": begun}
    return tuple(name for name in FIGURES if meant.get(name, True))


def pictures(
    seen: StudyData,
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
