"""The tables of a study, as values: every way of writing them (page, card, paper) shows the same."""

import math
from dataclasses import dataclass

import numpy as np

from families import params, params_non_embedding
from families.errors import BadInput
from families.units import format_duration, format_size
from scaling.laws import Allocation
from scaling.planfile import PlannedMember
from scaling.planning.asking import rule_of
from scaling.planning.candidates import candidates
from scaling.planning.next_run import Advice, advise
from scaling.refit import change_interval, change_name, change_value
from scaling.runs import compute_of
from scaling.thin import MOST_ROWS, spread

from .seen import Seen

SHARE = 0.05  # of the next run's cost, for a ladder that makes it surer (scaling next's own default)
TIMES = (1.0, 3.0, 10.0, 100.0)  # the largest fitted compute


@dataclass(frozen=True, slots=True)
class Cell:
    """A shown text, and the number it stands for where it is one."""

    text: str
    value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Header and rows. Cells without a value are text."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def size(value: float | None, unit: str = "") -> Cell:
    """A count as 52M."""
    return Cell("–") if value is None else Cell(format_size(value) + unit, float(value))


def number(value: float | None, digits: int = 3) -> Cell:
    """A number with that many decimals; what a diverged run makes of a loss or a perplexity is kept short."""
    return Cell("–") if value is None else Cell(short(value, digits), float(value))


def short(value: float, digits: int) -> str:
    """2.822, 16.81; 1.01e+304 from ten million on."""
    return f"{value:.{digits}f}" if abs(value) < 1e7 else f"{value:.3g}"


def percent(value: float | None) -> Cell:
    """A signed share in percent."""
    return Cell("–") if value is None else Cell(signed(100 * value) + " %", float(value))


def signed(value: float) -> str:
    """Two decimals with a sign; the minus is a minus, not a hyphen."""
    return f"{value:+.2f}".replace("-", "−")


def scientific(value: float) -> str:
    """Four digits; beyond a million as 2.122e6."""
    return f"{value:.4g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")


def interval(bounds: tuple[float, float] | None) -> Cell:
    """An interval by its ends; sorted by its width."""
    return Cell("–") if bounds is None else Cell(f"{bounds[0]:.3f}–{bounds[1]:.3f}", bounds[1] - bounds[0])


def duration(hours: float | None) -> Cell:
    """Hours as a person says them."""
    return Cell("–") if hours is None else Cell(format_duration(3600 * hours), hours)


def outcome(seen: Seen) -> Table | None:
    """Predicted against actual."""
    if seen.comparison is None or not seen.comparison.rows:
        return None
    header = (
        "member",
        "tokens",
        "predicted",
        "actual",
        "error",
        "ppl pred.",
        "ppl",
        "80 % interval",
        "95 % interval",
        "z",
        "held",
    )
    rows = tuple(
        (
            Cell(row.member),
            size(row.tokens),
            number(row.predicted_loss),
            number(row.actual_loss),
            percent(row.error),
            number(row.predicted_ppl, 2),
            number(row.actual_ppl, 2),
            interval(row.interval_80),
            interval(row.interval_95),
            Cell(signed(row.z), row.z),
            Cell("80 %" if row.inside_80 else "95 %" if row.inside_95 else "outside"),
        )
        for row in seen.comparison.rows
    )
    return Table(title="Predicted against actual, losses in nats per token", header=header, rows=rows)


def costs(seen: Seen) -> Table | None:
    """What each scored prediction was to cost and what it did."""
    if seen.comparison is None or not seen.comparison.rows:
        return None
    header = ("member", "FLOPs planned", "FLOPs booked", "time planned", "time booked")
    rows = tuple(
        (
            Cell(row.member),
            size(row.planned_flops),
            size(row.booked_flops),
            duration(row.planned_hours),
            duration(row.booked_hours),
        )
        for row in seen.comparison.rows
    )
    return Table(title="Cost, planned and booked", header=header, rows=rows)


def _width(bounds: tuple[float, float] | None) -> float | None:
    return None if bounds is None else bounds[1] - bounds[0]


def refitted(seen: Seen) -> Table | None:
    """The law without and with the runs that were sealed."""
    found = seen.comparison.refit if seen.comparison else None
    if found is None:
        return None
    rows = tuple(
        (
            Cell(change_name(found, one)),
            Cell(change_value(one, one.before), one.before),
            Cell(change_interval(one, one.before_80), _width(one.before_80)),
            Cell(change_value(one, one.after), one.after),
            Cell(change_interval(one, one.after_80), _width(one.after_80)),
        )
        for one in found.changes
    )
    title = f"What refitting with the new runs changes: {found.rows_before} rows become {found.rows_after}"
    return Table(
        title=title, header=("quantity", "before", "80 % interval", "after", "80 % interval "), rows=rows
    )


def indifferent(seen: Seen) -> Table | None:
    """The plan's indifference band."""
    band = seen.plan.band if seen.plan else None
    if band is None:
        return None
    rows = tuple(
        (
            Cell(one.choice.member),
            size(one.choice.params),
            size(one.choice.tokens),
            number(one.choice.loss),
            Cell(f"+{one.nats:.4f}", one.nats),
            size(one.extra_flops),
            duration(one.extra_hours),
            Cell("–") if one.extra_price is None else Cell(f"{one.extra_price:,.2f}", one.extra_price),
        )
        for one in band.members
    )
    header = (
        "member",
        "params",
        "tokens",
        "loss",
        "nats above the best",
        "extra FLOPs to match it",
        "extra time",
        "extra USD",
    )
    return Table(title="About as good as the best", header=header, rows=rows)


def planned(seen: Seen) -> Table | None:
    """What was to be trained: the ladder, and what was sealed."""
    members = [*(seen.ladder.members if seen.ladder else ()), *(seen.plan.members if seen.plan else ())]
    if not members:
        return _chosen(seen)
    header = (
        "member",
        "params",
        "tokens",
        "rungs",
        "FLOPs",
        "predicted loss",
        "80 % interval",
        "predicted ppl",
    )
    return Table(
        title="Members planned", header=header, rows=tuple(_planned_row(member) for member in members)
    )


def _planned_row(member: PlannedMember) -> tuple[Cell, ...]:
    guess = member.prediction
    return (
        Cell(member.member),
        size(member.params),
        size(member.tokens),
        Cell(str(max(len(member.rungs), 1)), max(len(member.rungs), 1)),
        size(member.flops),
        number(guess.loss if guess else None),
        interval(guess.interval_80 if guess else None),
        number(guess.ppl if guess else None, 2),
    )


def _chosen(seen: Seen) -> Table | None:
    """A plan without members: its frontier of choices."""
    if seen.plan is None or not (seen.plan.frontier or seen.plan.recommended):
        return None
    choices = seen.plan.frontier or (seen.plan.recommended,)
    rows = tuple(
        (
            Cell(c.member),
            size(c.params),
            size(c.tokens),
            size(c.flops),
            number(c.loss),
            interval(c.interval_80),
            number(c.ppl, 2),
            duration(c.hours),
        )
        for c in choices
        if c is not None
    )
    header = ("member", "params", "tokens", "FLOPs", "predicted loss", "80 % interval", "ppl", "time")
    return Table(title="Choices planned", header=header, rows=rows)


def forms(seen: Seen) -> Table | None:
    """The law's forms and their constants."""
    if seen.law is None:
        return None
    header = ("form", "weight", "E", "A", "B", "alpha", "beta", "gamma", "backtest error", "status")
    rows = tuple(
        (
            Cell(f.name),
            Cell(f"{100 * f.weight:.0f} %", f.weight),
            number(f.E),
            Cell(scientific(f.A), f.A),
            Cell(scientific(f.B), f.B),
            number(f.alpha),
            number(f.beta),
            number(f.gamma),
            Cell("–") if f.rollout_error is None else Cell(f"{100 * f.rollout_error:.2f} %", f.rollout_error),
            Cell(f.status.value),
        )
        for f in seen.law.forms
    )
    return Table(title="L = E + (A/N^alpha + B/D^beta)^gamma, in nats per token", header=header, rows=rows)


def next_runs(seen: Seen) -> Table | None:
    """The law's best member at 1, 3, 10 and 100 times the compute fitted so far."""
    if seen.law is None:
        return None
    predictor = seen.law.predictor()
    rows = []
    for times in TIMES:
        try:
            best = predictor.allocate(times * predictor.domain.C[1])
        except BadInput:
            continue
        guess = predictor.predict(best.N, best.D, force=True)
        rows.append(
            (
                Cell(f"{times:g} ×", times),
                size(best.C),
                size(best.N),
                size(best.D),
                Cell(f"{best.tokens_per_param:.3g}", best.tokens_per_param),
                number(guess.loss),
                interval(guess.interval_80),
                number(math.exp(guess.loss), 2),
            )
        )
    if not rows:
        return None
    header = (
        "compute",
        "FLOPs",
        "parameters",
        "tokens",
        "tokens per parameter",
        "loss",
        "80 % interval",
        "ppl",
    )
    return Table(title="Compute-optimal next runs, by this law", header=header, rows=tuple(rows))


def telling(seen: Seen) -> Table | None:
    """The ladders that narrow the prediction at ten times the fitted compute most, for their cost."""
    found = advised(seen)
    if found is None:
        return None
    target, advice = found
    rows = tuple(
        (
            Cell(offer.purchase.member.name),
            size(offer.purchase.tokens),
            Cell(str(len(offer.purchase.rungs)), len(offer.purchase.rungs)),
            size(offer.purchase.flops),
            Cell(f"±{100 * offer.half_width_80:.1f} %", offer.half_width_80),
        )
        for offer in advice.offers
    )
    title = (
        f"Ladders that tell most about {format_size(target.N)} parameters on {format_size(target.D)} tokens, "
        f"now known to ±{100 * advice.half_width_80:.1f} %"
    )
    return Table(
        title=title, header=("member", "tokens", "rungs", "FLOPs", "80 % interval with it"), rows=rows
    )


def advised(seen: Seen) -> tuple[Allocation, Advice] | None:
    """Which run to do next (`scaling next`), for the law's best use of ten times the fitted compute; None where the law
    has no optimum or the runs do not say their shapes.
    """
    runs = seen.lawful
    if seen.law is None or not runs or not all(run.n_layer and run.n_embd and run.n_head for run in runs):
        return None
    predictor = seen.law.predictor()
    try:
        target = predictor.allocate(10 * predictor.domain.C[1])
        count = params if seen.law.convention == "total" else params_non_embedding
        shapes = candidates("all", rule_of(runs))
        able = np.asarray(count(shapes.as_spec)) >= predictor.domain.N[0]  # smaller ones may obey no law
        shapes = shapes.chosen(able)
        found = advise(
            runs,
            seen.law.law,
            shapes,
            np.asarray(count(shapes.as_spec), dtype=np.float64),
            target=(target.N, target.D),
            budget=SHARE * target.C,
            convention=seen.law.convention,
        )
    except BadInput:
        return None
    return target, found


def observed(seen: Seen) -> Table | None:
    """Every run."""
    if not seen.runs:
        return None
    header = (
        "run",
        "params",
        "tokens",
        "loss",
        "ppl",
        "FLOPs",
        "annealed",
        "learning rate",
        "time",
        "group",
        "eval set",
    )
    rows = tuple(
        (
            Cell(r.run),
            size(r.params or r.params_non_embedding),
            size(r.tokens),
            number(r.loss),
            number(math.exp(min(r.loss, 700)), 2),
            size(compute_of(r)),
            Cell("yes" if r.annealed else "no"),
            Cell("–") if r.lr is None else Cell(f"{r.lr:.3g}", r.lr),
            duration(None if r.wall_s is None else r.wall_s / 3600),
            Cell(r.group or "–"),
            Cell(r.eval_set or "–"),
        )
        for r in spread(
            sorted(seen.runs, key=lambda r: (r.params or r.params_non_embedding or 0, r.run, r.tokens)),
            MOST_ROWS,
        )
    )
    every = len(seen.runs)
    title = "1 observation" if every == 1 else f"{every} observations"
    if len(rows) < every:
        title = f"{len(rows):,} of {every:,} observations, evenly by size; all are in runs.jsonl"
    return _common_aside(Table(title=title, header=header, rows=rows))


def _common_aside(table: Table) -> Table:
    """A text that every row shares is said once, in the title; a column that says nothing is left out."""
    keep, said = [], []
    for i, name in enumerate(table.header):
        texts = {row[i].text for row in table.rows}
        if len(texts) > 1 or i == 0 or (texts != {"–"} and table.rows[0][i].value is not None):
            keep.append(i)
        elif texts != {"–"}:
            said.append(f"{name} {texts.pop()}")
    return Table(
        title="; ".join([table.title, *said]),
        header=tuple(table.header[i] for i in keep),
        rows=tuple(tuple(row[i] for i in keep) for row in table.rows),
    )
