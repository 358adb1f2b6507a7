"""The tables of a study, as values: every way of writing them (page, card, paper) shows the same."""

import numpy as np

from families import params, params_non_embedding
from families.errors import BadInput
from families.units import format_size
from scaling.laws import Allocation
from scaling.perplexity import perplexity
from scaling.planning.asking import rule_of
from scaling.planning.candidates import candidates
from scaling.planning.next_run import Advice, advise
from scaling.refit import change_interval, change_name, change_value
from scaling.runs import compute_of
from scaling.thin import MOST_ROWS, spread

from .cells import (
    Cell,
    Table,
    duration,
    interval,
    number,
    percent,
    scientific,
    signed,
    size,
    whole,
    width,
    worded,
)
from .seen import Seen

SHARE = 0.05  # of the next run's cost, for a ladder that makes it surer (scaling next's own default)
TIMES = (1.0, 3.0, 10.0, 100.0)  # the largest fitted compute


def outcome(seen: Seen) -> Table | None:
    """Predicted against actual."""
    if seen.comparison is None or not seen.comparison.rows:
        return None
    return Table.of(
        "Predicted against actual, losses in nats per token",
        seen.comparison.rows,
        {
            "member": lambda row: Cell(row.member),
            "tokens": lambda row: size(row.tokens),
            "predicted": lambda row: number(row.predicted_loss),
            "actual": lambda row: number(row.actual_loss),
            "error": lambda row: percent(row.error),
            "ppl pred.": lambda row: number(row.predicted_ppl, 2),
            "ppl": lambda row: number(row.actual_ppl, 2),
            "80 % interval": lambda row: interval(row.interval_80),
            "95 % interval": lambda row: interval(row.interval_95),
            "z": lambda row: Cell(signed(row.z), row.z),
            "held": lambda row: Cell("80 %" if row.inside_80 else "95 %" if row.inside_95 else "outside"),
        },
    )


def costs(seen: Seen) -> Table | None:
    """What each scored prediction was to cost and what it did."""
    if seen.comparison is None or not seen.comparison.rows:
        return None
    return Table.of(
        "Cost, planned and booked",
        seen.comparison.rows,
        {
            "member": lambda row: Cell(row.member),
            "FLOPs planned": lambda row: size(row.planned_flops),
            "FLOPs booked": lambda row: size(row.booked_flops),
            "time planned": lambda row: duration(row.planned_hours),
            "time booked": lambda row: duration(row.booked_hours),
        },
    )


def refitted(seen: Seen) -> Table | None:
    """The law without and with the runs that were sealed."""
    found = seen.comparison.refit if seen.comparison else None
    if found is None:
        return None
    return Table.of(
        f"What refitting with the new runs changes: {found.rows_before} rows become {found.rows_after}",
        found.changes,
        {
            "quantity": lambda one: Cell(change_name(found, one)),
            "before": lambda one: Cell(change_value(one, one.before), one.before),
            "80 % interval": lambda one: Cell(change_interval(one, one.before_80), width(one.before_80)),
            "after": lambda one: Cell(change_value(one, one.after), one.after),
            "80 % interval ": lambda one: Cell(change_interval(one, one.after_80), width(one.after_80)),
        },
    )


def indifferent(seen: Seen) -> Table | None:
    """The plan's indifference band."""
    band = seen.plan.band if seen.plan else None
    if band is None:
        return None
    return Table.of(
        "About as good as the best",
        band.members,
        {
            "member": lambda one: Cell(one.choice.member),
            "params": lambda one: size(one.choice.params),
            "tokens": lambda one: size(one.choice.tokens),
            "loss": lambda one: number(one.choice.loss),
            "nats above the best": lambda one: Cell(f"+{one.nats:.4f}", one.nats),
            "extra FLOPs to match it": lambda one: size(one.extra_flops),
            "extra time": lambda one: duration(one.extra_hours),
            "extra USD": lambda one: worded(one.extra_price, "{:,.2f}".format),
        },
    )


def planned(seen: Seen) -> Table | None:
    """What was to be trained: the ladder, and what was sealed."""
    if not seen.members:
        return _chosen(seen)
    return Table.of(
        "Members planned",
        [(member, member.prediction) for member in seen.members],
        {
            "member": lambda row: Cell(row[0].member),
            "params": lambda row: size(row[0].params),
            "tokens": lambda row: size(row[0].tokens),
            "rungs": lambda row: whole(max(len(row[0].rungs), 1)),
            "FLOPs": lambda row: size(row[0].flops),
            "predicted loss": lambda row: number(row[1].loss if row[1] else None),
            "80 % interval": lambda row: interval(row[1].interval_80 if row[1] else None),
            "predicted ppl": lambda row: number(row[1].ppl if row[1] else None, 2),
        },
    )


def _chosen(seen: Seen) -> Table | None:
    """A plan without members: its frontier of choices."""
    if seen.plan is None:
        return None
    choices = seen.plan.frontier or ((seen.plan.recommended,) if seen.plan.recommended else ())
    if not choices:
        return None
    return Table.of(
        "Choices planned",
        choices,
        {
            "member": lambda one: Cell(one.member),
            "params": lambda one: size(one.params),
            "tokens": lambda one: size(one.tokens),
            "FLOPs": lambda one: size(one.flops),
            "predicted loss": lambda one: number(one.loss),
            "80 % interval": lambda one: interval(one.interval_80),
            "ppl": lambda one: number(one.ppl, 2),
            "time": lambda one: duration(one.hours),
        },
    )


def forms(seen: Seen) -> Table | None:
    """The law's forms and their constants."""
    if seen.law is None:
        return None
    return Table.of(
        "L = E + (A/N^alpha + B/D^beta)^gamma, in nats per token",
        seen.law.forms,
        {
            "form": lambda form: Cell(form.name),
            "weight": lambda form: Cell(f"{100 * form.weight:.0f} %", form.weight),
            "E": lambda form: number(form.E),
            "A": lambda form: worded(form.A, scientific),
            "B": lambda form: worded(form.B, scientific),
            "alpha": lambda form: number(form.alpha),
            "beta": lambda form: number(form.beta),
            "gamma": lambda form: number(form.gamma),
            "backtest error": lambda form: worded(form.rollout_error, lambda error: f"{100 * error:.2f} %"),
            "status": lambda form: Cell(form.status.value),
        },
    )


def next_runs(seen: Seen) -> Table | None:
    """The law's best member at 1, 3, 10 and 100 times the compute fitted so far."""
    if seen.law is None:
        return None
    predictor = seen.law.predictor()
    found = []
    for times in TIMES:
        try:
            best = predictor.allocate(times * predictor.domain.C[1])
        except BadInput:
            continue
        found.append((times, best, predictor.predict(best.N, best.D, force=True)))
    if not found:
        return None
    return Table.of(
        "Compute-optimal next runs, by this law",
        found,
        {
            "compute": lambda row: Cell(f"{row[0]:g} ×", row[0]),
            "FLOPs": lambda row: size(row[1].C),
            "parameters": lambda row: size(row[1].N),
            "tokens": lambda row: size(row[1].D),
            "tokens per parameter": lambda row: worded(row[1].tokens_per_param, "{:.3g}".format),
            "loss": lambda row: number(row[2].loss),
            "80 % interval": lambda row: interval(row[2].interval_80),
            "ppl": lambda row: number(perplexity(row[2].loss), 2),
        },
    )


def telling(seen: Seen) -> Table | None:
    """The ladders that narrow the prediction at ten times the fitted compute most, for their cost."""
    found = advised(seen)
    if found is None:
        return None
    target, advice = found
    return Table.of(
        f"Ladders that tell most about {format_size(target.N)} parameters on {format_size(target.D)} tokens, "
        f"now known to ±{100 * advice.half_width_80:.1f} %",
        advice.offers,
        {
            "member": lambda offer: Cell(offer.purchase.member.name),
            "tokens": lambda offer: size(offer.purchase.tokens),
            "rungs": lambda offer: whole(len(offer.purchase.rungs)),
            "FLOPs": lambda offer: size(offer.purchase.flops),
            "80 % interval with it": lambda offer: worded(
                offer.half_width_80, lambda share: f"±{100 * share:.1f} %"
            ),
        },
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
    by_size = sorted(
        seen.runs, key=lambda run: (run.params or run.params_non_embedding or 0, run.run, run.tokens)
    )
    shown, every = spread(by_size, MOST_ROWS), len(seen.runs)
    title = "1 observation" if every == 1 else f"{every} observations"
    if len(shown) < every:
        title = f"{len(shown):,} of {every:,} observations, evenly by size; all are in runs.jsonl"
    table = Table.of(
        title,
        shown,
        {
            "run": lambda run: Cell(run.run),
            "params": lambda run: size(run.params or run.params_non_embedding),
            "tokens": lambda run: size(run.tokens),
            "loss": lambda run: number(run.loss),
            "ppl": lambda run: number(perplexity(run.loss), 2),
            "FLOPs": lambda run: size(compute_of(run)),
            "annealed": lambda run: Cell("yes" if run.annealed else "no"),
            "learning rate": lambda run: worded(run.lr, "{:.3g}".format),
            "time": lambda run: duration(None if run.wall_s is None else run.wall_s / 3600),
            "group": lambda run: Cell(run.group or "–"),
            "eval set": lambda run: Cell(run.eval_set or "–"),
        },
    )
    return _common_aside(table)


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
