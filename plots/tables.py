"""The tables of a study, as values: every way of writing them (page, card, paper) shows the same."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from families import params, params_non_embedding
from families.units import BadInput, format_duration, format_size
from scaling.laws import Allocation
from scaling.planning.candidates import candidates
from scaling.planning.experiment_design import Advice, advise
from scaling.planning.query import rule_of
from scaling.runs import compute_of
from scaling.scoring.refit import change_interval, change_name, change_value
from scaling.stats import MOST_ROWS, perplexity, subsample_evenly

from .study_data import StudyData

# MERGED DOCSTRINGS
# The cells of a study's tables: a number as people read it, and its value to sort by.

Row = TypeVar("Row")


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

    @staticmethod
    def of(title: str, rows: Iterable[Row], columns: Mapping[str, Callable[[Row], Cell]]) -> "Table":
        """A row for each of `rows`, a column for each header, which says what to show of one."""
        shown = tuple(tuple(cell(row) for cell in columns.values()) for row in rows)
        return Table(title=title, header=tuple(columns), rows=shown)


def text_cell(value: float | None, words: Callable[[float], str]) -> Cell:
    """A number in such words; a dash where there is none."""
    return Cell("–") if value is None else Cell(words(value), float(value))


def int_cell(value: int) -> Cell:
    """A count as it is."""
    return Cell(str(value), value)


def size_cell(value: float | None) -> Cell:
    """A count as 52M."""
    return text_cell(value, format_size)


def number_cell(value: float | None, digits: int = 3) -> Cell:
    """A number with that many decimals; what a diverged run makes of a loss or a perplexity is kept short."""
    return text_cell(value, lambda known: short_cell(known, digits))


def short_cell(value: float, digits: int) -> str:
    """2.822, 16.81; 1.01e+304 from ten million on."""
    return f"{value:.{digits}f}" if abs(value) < 1e7 else f"{value:.3g}"


def percent_cell(value: float | None) -> Cell:
    """A signed share in percent."""
    return text_cell(value, lambda share: signed_cell(100 * share) + " %")


def signed_cell(value: float) -> str:
    """Two decimals with a sign; the minus is a minus, not a hyphen."""
    return f"{value:+.2f}".replace("-", "−")


def scientific_cell(value: float) -> str:
    """Four digits; beyond a million as 2.122e6."""
    return f"{value:.4g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")


def interval_cell(bounds: tuple[float, float] | None) -> Cell:
    """An interval by its ends; sorted by its width."""
    return Cell("–") if bounds is None else Cell(f"{bounds[0]:.3f}–{bounds[1]:.3f}", width_cell(bounds))


def width_cell(bounds: tuple[float, float] | None) -> float | None:
    """Of an interval, where there is one."""
    return None if bounds is None else bounds[1] - bounds[0]


def duration_cell(hours: float | None) -> Cell:
    """Hours as a person says them."""
    return text_cell(hours, lambda known: format_duration(3600 * known))


SHARE = 0.05  # of the next run's cost, for a ladder that makes it surer (scaling next's own default)

TIMES = (1.0, 3.0, 10.0, 100.0)  # the largest fitted compute


def outcome_table(seen: StudyData) -> Table | None:
    """Predicted against actual."""
    if seen.comparison is None or not seen.comparison.rows:
        return None
    return Table.of(
        "Predicted against actual, losses in nats per token",
        seen.comparison.rows,
        {
            "member": lambda row: Cell(row.member),
            "tokens": lambda row: size_cell(row.tokens),
            "predicted": lambda row: number_cell(row.predicted_loss),
            "actual": lambda row: number_cell(row.actual_loss),
            "error": lambda row: percent_cell(row.error),
            "ppl pred.": lambda row: number_cell(row.predicted_ppl, 2),
            "ppl": lambda row: number_cell(row.actual_ppl, 2),
            "80 % interval": lambda row: interval_cell(row.interval_80),
            "95 % interval": lambda row: interval_cell(row.interval_95),
            "z": lambda row: Cell(signed_cell(row.z), row.z),
            "held": lambda row: Cell("80 %" if row.inside_80 else "95 %" if row.inside_95 else "outside"),
        },
    )


def cost_table(seen: StudyData) -> Table | None:
    """What each scored prediction was to cost and what it did."""
    if seen.comparison is None or not seen.comparison.rows:
        return None
    return Table.of(
        "Cost, planned and booked",
        seen.comparison.rows,
        {
            "member": lambda row: Cell(row.member),
            "FLOPs planned": lambda row: size_cell(row.planned_flops),
            "FLOPs booked": lambda row: size_cell(row.booked_flops),
            "time planned": lambda row: duration_cell(row.planned_hours),
            "time booked": lambda row: duration_cell(row.booked_hours),
        },
    )


def refit_table(seen: StudyData) -> Table | None:
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
            "80 % interval": lambda one: Cell(change_interval(one, one.before_80), width_cell(one.before_80)),
            "after": lambda one: Cell(change_value(one, one.after), one.after),
            "80 % interval ": lambda one: Cell(change_interval(one, one.after_80), width_cell(one.after_80)),
        },
    )


def band_table(seen: StudyData) -> Table | None:
    """The plan's indifference band."""
    band = seen.plan.band if seen.plan else None
    if band is None:
        return None
    return Table.of(
        "About as good as the best",
        band.members,
        {
            "member": lambda one: Cell(one.choice.member),
            "params": lambda one: size_cell(one.choice.params),
            "tokens": lambda one: size_cell(one.choice.tokens),
            "loss": lambda one: number_cell(one.choice.loss),
            "nats above the best": lambda one: Cell(f"+{one.nats:.4f}", one.nats),
            "extra FLOPs to match it": lambda one: size_cell(one.extra_flops),
            "extra time": lambda one: duration_cell(one.extra_hours),
            "extra USD": lambda one: text_cell(one.extra_price, "{:,.2f}".format),
        },
    )


def plan_table(seen: StudyData) -> Table | None:
    """What was to be trained: the ladder, and what was sealed."""
    if not seen.members:
        return _chosen(seen)
    return Table.of(
        "Members planned",
        [(member, member.prediction) for member in seen.members],
        {
            "member": lambda row: Cell(row[0].member),
            "params": lambda row: size_cell(row[0].params),
            "tokens": lambda row: size_cell(row[0].tokens),
            "rungs": lambda row: int_cell(max(len(row[0].rungs), 1)),
            "FLOPs": lambda row: size_cell(row[0].flops),
            "predicted loss": lambda row: number_cell(row[1].loss if row[1] else None),
            "80 % interval": lambda row: interval_cell(row[1].interval_80 if row[1] else None),
            "predicted ppl": lambda row: number_cell(row[1].ppl if row[1] else None, 2),
        },
    )


def _chosen(seen: StudyData) -> Table | None:
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
            "params": lambda one: size_cell(one.params),
            "tokens": lambda one: size_cell(one.tokens),
            "FLOPs": lambda one: size_cell(one.flops),
            "predicted loss": lambda one: number_cell(one.loss),
            "80 % interval": lambda one: interval_cell(one.interval_80),
            "ppl": lambda one: number_cell(one.ppl, 2),
            "time": lambda one: duration_cell(one.hours),
        },
    )


def forms_table(seen: StudyData) -> Table | None:
    """The law's forms and their constants."""
    if seen.law is None:
        return None
    return Table.of(
        "L = E + (A/N^alpha + B/D^beta)^gamma, in nats per token",
        seen.law.forms,
        {
            "form": lambda form: Cell(form.name),
            "weight": lambda form: Cell(f"{100 * form.weight:.0f} %", form.weight),
            "E": lambda form: number_cell(form.law.E),
            "A": lambda form: text_cell(form.law.A, scientific_cell),
            "B": lambda form: text_cell(form.law.B, scientific_cell),
            "alpha": lambda form: number_cell(form.law.alpha),
            "beta": lambda form: number_cell(form.law.beta),
            "gamma": lambda form: number_cell(form.law.gamma),
            "backtest error": lambda form: text_cell(
                form.rollout_error, lambda error: f"{100 * error:.2f} %"
            ),
            "status": lambda form: Cell(form.status.value),
        },
    )


def next_runs_table(seen: StudyData) -> Table | None:
    """The law's best member at 1, 3, 10 and 100 times the compute fitted so far."""
    if seen.law is None:
        return None
    predictor = seen.law
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
            "FLOPs": lambda row: size_cell(row[1].C),
            "parameters": lambda row: size_cell(row[1].N),
            "tokens": lambda row: size_cell(row[1].D),
            "tokens per parameter": lambda row: text_cell(row[1].tokens_per_param, "{:.3g}".format),
            "loss": lambda row: number_cell(row[2].loss),
            "80 % interval": lambda row: interval_cell(row[2].interval_80),
            "ppl": lambda row: number_cell(perplexity(row[2].loss), 2),
        },
    )


def forms_table_aside(seen: StudyData) -> Table | None:
    """The ladders that narrow the prediction at ten times the fitted compute most, for their cost."""
    found = advice_table(seen)
    if found is None:
        return None
    target, advice = found
    return Table.of(
        f"Ladders that tell most about {format_size(target.N)} parameters on {format_size(target.D)} tokens, "
        f"now known to ±{100 * advice.half_width_80:.1f} %",
        advice.offers,
        {
            "member": lambda offer: Cell(offer.purchase.member.name),
            "tokens": lambda offer: size_cell(offer.purchase.tokens),
            "rungs": lambda offer: int_cell(len(offer.purchase.rungs)),
            "FLOPs": lambda offer: size_cell(offer.purchase.flops),
            "80 % interval with it": lambda offer: text_cell(
                offer.half_width_80, lambda share: f"±{100 * share:.1f} %"
            ),
        },
    )


def advice_table(seen: StudyData) -> tuple[Allocation, Advice] | None:
    """Which run to do next (`scaling next`), for the law's best use of ten times the fitted compute; None where the law
    has no optimum or the runs do not say their shapes.
    """
    runs = seen.lawful
    if seen.law is None or not runs or not all(run.n_layer and run.n_embd and run.n_head for run in runs):
        return None
    predictor = seen.law
    try:
        target = predictor.allocate(10 * predictor.domain.C[1])
        count = params if seen.law.convention == "total" else params_non_embedding
        shapes = candidates("all", rule_of(runs))
        able = np.asarray(count(shapes.as_spec)) >= predictor.domain.N[0]  # smaller ones may obey no law
        shapes = shapes.chosen(able)
        found = advise(
            runs,
            seen.law.main_form.law,
            shapes,
            np.asarray(count(shapes.as_spec), dtype=np.float64),
            target=(target.N, target.D),
            budget=SHARE * target.C,
            convention=seen.law.convention,
        )
    except BadInput:
        return None
    return target, found


def observations_table(seen: StudyData) -> Table | None:
    """Every run."""
    if not seen.runs:
        return None
    by_size = sorted(
        seen.runs, key=lambda run: (run.params or run.params_non_embedding or 0, run.run, run.tokens)
    )
    shown, every = subsample_evenly(by_size, MOST_ROWS), len(seen.runs)
    title = "1 observation" if every == 1 else f"{every} observations"
    if len(shown) < every:
        title = f"{len(shown):,} of {every:,} observations, evenly by size; all are in runs.jsonl"
    table = Table.of(
        title,
        shown,
        {
            "run": lambda run: Cell(run.run),
            "params": lambda run: size_cell(run.params or run.params_non_embedding),
            "tokens": lambda run: size_cell(run.tokens),
            "loss": lambda run: number_cell(run.loss),
            "ppl": lambda run: number_cell(perplexity(run.loss), 2),
            "FLOPs": lambda run: size_cell(compute_of(run)),
            "annealed": lambda run: Cell("yes" if run.annealed else "no"),
            "learning rate": lambda run: text_cell(run.lr, "{:.3g}".format),
            "time": lambda run: duration_cell(None if run.wall_s is None else run.wall_s / 3600),
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
