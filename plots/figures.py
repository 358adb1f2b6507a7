"""Every figure of a study by name, with the values it shows as a table."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from families.errors import BadInput
from families.units import nearest
from scaling.predictor import Predictor
from scaling.runs import columns

from . import promised, style, surface, training
from .seen import Seen

Table = tuple[tuple[str, ...], list[tuple[Any, ...]]]


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
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows(self.rows)
        return text.getvalue()


def _predictor(seen: Seen) -> Predictor:
    if seen.law is None:
        raise BadInput(f"{seen.folder} has no law.json; run scaling fit first")
    return seen.law.predictor()


def _predicted(seen: Seen) -> tuple[Figure, Table]:
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
    return promised.predicted_against_actual(rows), (
        header,
        [
            (r.member, r.tokens, r.predicted_loss, *r.interval_80, *r.interval_95, r.actual_loss, r.error)
            for r in rows
        ],
    )


def _learning(seen: Seen) -> tuple[Figure, Table]:
    predictor = seen.law.predictor() if seen.law else None
    runs = seen.lawful or tuple(run for run in seen.runs if run.annealed)
    figure = training.learning_curves(seen.curves, runs, predictor)
    rows: list[tuple[Any, ...]] = [
        (curve.run, curve.part or "run", float(tokens), float(loss))
        for curve in seen.curves
        for tokens, loss in zip(
            training.thin(curve.tokens), training.thin(training.smooth(curve.loss)), strict=True
        )
    ]
    rows += [(run.run, "annealed", run.tokens, run.loss) for run in runs]
    return figure, (("run", "part", "tokens", "loss"), rows)


def _law_rows(seen: Seen, predictor: Predictor) -> Table:
    runs = seen.lawful
    if not runs:
        return ("run", "N", "D", "C", "loss", "law", "percent"), []
    table = columns(runs, predictor.convention)
    law = np.asarray(
        training.bare(predictor).predict(table.N, table.D, unique_tokens=table.U, force=True).loss
    )
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


def _of_law(
    draw: Callable[..., Figure],
) -> Callable[[Seen], tuple[Figure, Table]]:
    def made(seen: Seen) -> tuple[Figure, Table]:
        predictor = _predictor(seen)
        return draw(predictor, seen.lawful, seen.held), _law_rows(seen, predictor)

    return made


def _frontier(seen: Seen) -> tuple[Figure, Table]:
    predictor = _predictor(seen)
    rows = seen.comparison.rows if seen.comparison else ()
    figure = surface.frontier(predictor, seen.lawful, rows)
    return figure, _law_rows(seen, predictor)


def _backtest(seen: Seen) -> tuple[Figure, Table]:
    if seen.law is None:
        raise BadInput(f"{seen.folder} has no law.json; run scaling fit first")
    forms = seen.law.forms
    return promised.backtest(forms), (
        ("form", "rollout_error", "weight", "status"),
        [(form.name, form.rollout_error, form.weight, form.status.value) for form in forms],
    )


def _calibration(seen: Seen) -> tuple[Figure, Table]:
    rows = seen.comparison.rows if seen.comparison else ()
    return promised.calibration(rows), (
        ("member", "tokens", "z", "inside_80", "inside_95"),
        [(row.member, row.tokens, row.z, row.inside_80, row.inside_95) for row in rows],
    )


def _cost(seen: Seen) -> tuple[Figure, Table]:
    rows = seen.comparison.rows if seen.comparison else ()
    planned = {row.run: row.planned_flops for row in rows if row.planned_flops}
    return training.cost(seen.work, planned), (
        ("run", "part", "from_step", "to_step", "tokens", "flops", "wall_s", "planned_flops"),
        [
            (w.run, w.part, w.from_step, w.to_step, w.tokens, w.flops, w.wall_s, planned.get(w.run))
            for w in seen.work
        ],
    )


def _throughput(seen: Seen) -> tuple[Figure, Table]:
    figure = training.throughput(seen.curves, seen.runs)
    return figure, (
        ("run", "part", "median_tokens_per_s"),
        [(c.run, c.part, float(np.median(c.tokens_per_s))) for c in seen.curves if len(c.tokens_per_s)],
    )


FIGURES: dict[str, tuple[str, Callable[[Seen], tuple[Figure, Table]]]] = {
    "predicted": (
        "Thick bar 80 %, thin bar 95 % interval of the sealed prediction; diamond: what came.",
        _predicted,
    ),
    "learning": (
        "Solid: loss on training batches, smoothed. Points: held-out loss of annealed rungs, which is what the law is "
        "fitted on. Dashed: the law.",
        _learning,
    ),
    "surface": (
        "Contours: loss the law gives to N parameters and D tokens; darker is lower. Dotted: equal compute.",
        _of_law(surface.surface),
    ),
    "isoflops": (
        "One curve for each budget. Star: the law's best size. Points: runs, moved along the law to the nearest budget.",
        _of_law(surface.isoflops),
    ),
    "frontier": (
        "Line: the least loss each budget can buy, by the law; dashed beyond the fitted runs.",
        _frontier,
    ),
    "residuals": (
        "Above zero: the run came out worse than the law's forms say, without the correction that predictions add "
        "near single runs.",
        _of_law(surface.residuals),
    ),
    "backtest": (
        "Each form was fitted on cheap runs and foretold costlier ones of the same study.",
        _backtest,
    ),
    "calibration": ("On the dashed line the intervals hold as often as they promise.", _calibration),
    "cost": ("Counted in the training loop, not planned; a black tick marks what was planned.", _cost),
    "throughput": ("Measured while training, evaluation and saving left out.", _throughput),
}


def picture(name: str, seen: Seen) -> Picture:
    """One figure of a study.

    Raises:
        BadInput: no figure of that name, or the study lacks what it shows.
    """
    if name not in FIGURES:
        raise BadInput(f"figure is {name!r}; {nearest(name, FIGURES)}")
    about, draw = FIGURES[name]
    figure, (header, rows) = draw(seen)
    return Picture(name=name, about=about, figure=figure, header=header, rows=tuple(rows))


def pictures(seen: Seen, names: Sequence[str] | None = None) -> tuple[tuple[Picture, ...], dict[str, str]]:
    """(the figures this study can have, name → why the others cannot be drawn)."""
    names = names or (tuple(FIGURES) if seen.studies == 1 else OF_OUTCOMES)
    drawn, lacking = [], {}
    for name in names:
        try:
            drawn.append(picture(name, seen))
        except BadInput as error:
            lacking[name] = str(error)
    return tuple(drawn), lacking
