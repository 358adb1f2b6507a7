"""Each figure as it is drawn from a study, with the values it shows."""

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from families.errors import BadInput
from scaling.lawfile import LawFile
from scaling.planning.pilot import ladder_flops
from scaling.predictor import Predictor
from scaling.runs import columns
from scaling.study import Study
from scaling.thin import MOST_LINES, spread
from scaling.watch import promise_for
from scaling.watching.curves import RunCurves, read_run, read_siblings
from scaling.watching.foresee import foresee

from . import cost, foreseen, frontier, isoflops, learning, planned, promised, throughput
from .curves import smooth, thin
from .law import expected, size_of
from .seen import Seen

Table = tuple[tuple[str, ...], list[tuple[Any, ...]]]  # header and rows
Drawn = tuple[Figure, Table]


def _law(seen: Seen) -> LawFile:
    if seen.law is None:
        raise BadInput(f"{seen.folder} has no law.json; run scaling fit first")
    return seen.law


def draw_predicted(seen: Seen) -> Drawn:
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
    return promised.predicted_against_actual(rows), (
        header,
        [
            (r.member, r.tokens, r.predicted_loss, *r.interval_80, *r.interval_95, r.actual_loss, r.error)
            for r in rows
        ],
    )


def draw_learning(seen: Seen) -> Drawn:
    """Learning curves, and the annealed points."""
    predictor = seen.law.predictor() if seen.law else None
    runs = seen.lawful or tuple(run for run in seen.runs if run.annealed)
    names = {curve.run: None for curve in seen.curves} or {run.run: None for run in runs}
    if len({run.run for run in runs}) > MOST_LINES:
        chosen = set(spread(list(names), MOST_LINES))
        runs = tuple(run for run in runs if run.run in chosen)
    figure = learning.learning_curves(seen.curves, runs, predictor)
    rows: list[tuple[Any, ...]] = [
        (curve.run, curve.part or "run", float(tokens), float(loss))
        for curve in seen.curves
        for tokens, loss in zip(thin(curve.tokens), thin(smooth(curve.loss)), strict=True)
    ]
    rows += [(run.run, "annealed", run.tokens, run.loss) for run in runs]
    return figure, (("run", "part", "tokens", "loss"), rows)


def _law_rows(seen: Seen, predictor: Predictor) -> Table:
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


def draw_of_law(draw: Callable[..., Figure]) -> Callable[[Seen], Drawn]:
    """A figure of the law and its runs, with how far each lies off."""

    def made(seen: Seen) -> Drawn:
        predictor = _law(seen).predictor()
        return draw(predictor, seen.lawful, seen.held), _law_rows(seen, predictor)

    return made


def draw_isoflops(seen: Seen) -> Drawn:
    """Loss against size at fixed budgets."""
    predictor = _law(seen).predictor()
    lawful = seen.lawful  # once: it is worked out anew each time
    figure = isoflops.isoflops(predictor, lawful, seen.held)
    rows: list[tuple[Any, ...]] = []
    for curve in isoflops.iso_curves(predictor, lawful):
        rows += [("law", "", curve.C, float(N), float(L)) for N, L in zip(curve.N, curve.loss, strict=True)]
        if curve.optimum is not None:
            rows.append(("best", "", curve.C, *curve.optimum))
        for k, moved in zip(curve.near.tolist(), curve.moved.tolist(), strict=True):
            run = lawful[k]
            rows.append(("run", run.run, curve.C, size_of(run, predictor.convention), moved))
    return figure, (("what", "run", "C", "N", "loss"), rows)


def draw_frontier(seen: Seen) -> Drawn:
    """What each budget can reach."""
    predictor = _law(seen).predictor()
    rows = seen.comparison.rows if seen.comparison else ()
    figure = frontier.frontier(predictor, seen.lawful, rows)
    found = frontier.along(predictor, frontier.spanned(predictor, seen.lawful))
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


def draw_backtest(seen: Seen) -> Drawn:
    """How each form foretold costlier runs."""
    forms = _law(seen).forms
    return promised.backtest(forms), (
        ("form", "rollout_error", "weight", "status"),
        [(form.name, form.rollout_error, form.weight, form.status.value) for form in forms],
    )


def draw_calibration(seen: Seen) -> Drawn:
    """How often intervals held."""
    rows = seen.comparison.rows if seen.comparison else ()
    return promised.calibration(rows), (
        ("member", "tokens", "z", "inside_80", "inside_95"),
        [(row.member, row.tokens, row.z, row.inside_80, row.inside_95) for row in rows],
    )


def planned_flops(seen: Seen) -> dict[str, float]:
    """Training FLOPs that the plans meant for each run by name: of a ladder, its trunk once and each cooldown.

    A member's run is named after it, with its seed: gpt2-52m-s0.
    """
    meant = {member.member: ladder_flops(member) for member in seen.members}
    names = dict.fromkeys([*(work.run for work in seen.work), *(run.run for run in seen.runs)])
    return {name: meant[stem] for name in names if (stem := name.rpartition("-s")[0]) in meant}


def draw_cost(seen: Seen) -> Drawn:
    """Work booked and planned."""
    planned = planned_flops(seen)
    return cost.cost(seen.work, planned), (
        ("run", "part", "from_step", "to_step", "tokens", "flops", "wall_s", "planned_flops"),
        [
            (w.run, w.part, w.from_step, w.to_step, w.tokens, w.flops, w.wall_s, planned.get(w.run))
            for w in seen.work
        ],
    )


def draw_throughput(seen: Seen) -> Drawn:
    """Tokens per second."""
    figure = throughput.throughput(seen.curves, seen.runs)
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
            for s in throughput.speeds(seen.curves, seen.runs)
        ],
    )


def draw_planned(seen: Seen) -> Drawn:
    """The sizes on offer for the budget."""
    if seen.plan is None or seen.plan.recommended is None:
        raise BadInput(f"{seen.folder} has no plan of choices; run scaling plan first")
    choices = seen.plan.frontier or (seen.plan.recommended,)
    band = {member.choice.member for member in seen.plan.band.members} if seen.plan.band else set()
    return planned.planned(seen.plan, (), seen.runs), (
        ("member", "params", "tokens", "flops", "loss", "within_band"),
        [(c.member, c.params, c.tokens, c.flops, c.loss, c.member in band) for c in choices],
    )


def draw_forecast(seen: Seen) -> Drawn:
    """Of the first sealed member whose run has begun; of one that is finished, as it stood after a third of its steps."""
    place = Study(seen.folder)
    for member in seen.plan.members if seen.plan and seen.seal_intact else ():
        for run in _begun(seen):
            steps = round(member.tokens / run.underway.batch_tokens)
            if run.underway.params != member.params or steps not in run.underway.steps:
                continue
            until = steps // 3 if steps in run.finals else None
            siblings = read_siblings(place.folder / "runs", run)
            promise = promise_for(place, run, steps)
            drawn = foreseen.forecast(run, siblings, steps, promise, until=until)
            header, rows = foreseen.rows(
                foresee(run, siblings, steps=steps, until=until), steps, run.underway.batch_tokens
            )
            return drawn, (tuple(header), [tuple(row) for row in rows])
    raise BadInput("no sealed member's run has begun; a forecast needs one")


def _begun(seen: Seen) -> list[RunCurves]:
    """Runs that say where they are going; those of older versions do not."""
    return [read_run(path.parent) for path in sorted((seen.folder / "runs").glob("*/underway.json"))]
