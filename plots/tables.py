"""Tables of a study for the report and the card: each cell a text, and its number to sort by."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from families.units import BadInput, format_duration, format_size
from scaling.fitting.curve import FORMULAS
from scaling.fitting.forms import FittedForm
from scaling.fitting.one_variable import USED, WORDS
from scaling.fitting.predictor import GROWTH_STEP, Fit
from scaling.laws import CONSTANTS, Allocation
from scaling.planning.candidates import candidates
from scaling.planning.experiment_design import Advice
from scaling.planning.next_run import advise_fit
from scaling.planning.query import rule_of
from scaling.scoring.refit import change_interval, change_name, change_value
from scaling.scoring.verify import GRADES
from scaling.stats import MOST_ROWS, Interval, perplexity, subsample_evenly

from .study_data import StudyData

Row = TypeVar("Row")
BUDGET_SHARE = (
    0.05  # of the next run's cost, for a ladder that narrows its interval (scaling next's own default)
)
TIMES = (1.0, 3.0, 10.0, 100.0)  # the largest fitted compute
DIGITS_KEPT = 1e7  # from here on a number is printed by its order of magnitude


@dataclass(frozen=True, slots=True)
class Cell:
    """A text, and the number it stands for where it is one."""

    text: str
    value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTable:
    """A titled table; cells without a value are text."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @staticmethod
    def of(title: str, rows: Iterable[Row], columns: Mapping[str, Callable[[Row], Cell]]) -> "ReportTable":
        """A table with a row for each of `rows` and a column for each header, which makes the cell of a row."""
        cells = tuple(tuple(cell(row) for cell in columns.values()) for row in rows)
        return ReportTable(title=title, header=tuple(columns), rows=cells)


def text_cell(value: float | None, text: Callable[[float], str]) -> Cell:
    """A number formatted by `text`; a dash for None."""
    return Cell("–") if value is None else Cell(text(value), float(value))


def int_cell(value: int) -> Cell:
    """An integer."""
    return Cell(str(value), value)


def size_cell(value: float | None) -> Cell:
    """A size as 52M."""
    return text_cell(value, format_size)


def number_cell(value: float | None, digits: int = 3) -> Cell:
    """A number with that many decimals; short where a diverged run made it very large."""
    return text_cell(value, lambda number: short_number(number, digits))


def loss_cell(value: float | None) -> Cell:
    """A loss in nats per token, four decimals."""
    return number_cell(value, 4)


def short_number(value: float, digits: int) -> str:
    """That many decimals; three digits from ten million on: 2.822, 1.01e+304."""
    return f"{value:.{digits}f}" if abs(value) < DIGITS_KEPT else f"{value:.3g}"


def percent_cell(value: float | None) -> Cell:
    """A share as a signed percentage."""
    return text_cell(value, lambda share: signed_number(100 * share) + " %")


def signed_number(value: float) -> str:
    """Two decimals with a sign, a true minus for negative numbers."""
    return f"{value:+.2f}".replace("-", "−")


def scientific_number(value: float) -> str:
    """Four digits; large and small numbers as 2.122e6."""
    return f"{value:.4g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")


def interval_cell(bounds: tuple[float, float] | None) -> Cell:
    """An interval of a loss by its ends; sorted by its width."""
    if bounds is None:
        return Cell("–")
    low, high = (short_number(bound, 4) for bound in bounds)
    return Cell(f"{low}–{high}", interval_width(bounds))


def interval_width(bounds: tuple[float, float] | None) -> float | None:
    """Width of an interval; None without one."""
    return None if bounds is None else bounds[1] - bounds[0]


def duration_cell(hours: float | None) -> Cell:
    """A duration given in hours, as 2 h 5 min."""
    return text_cell(hours, lambda number: format_duration(3600 * number))


_ORDER = {"chain": "hash chain", "clock": "clock alone"}  # grades in a narrow column


def outcome_table(study: StudyData) -> ReportTable | None:
    """Predicted against actual losses and perplexities; None where nothing is scored."""
    if study.comparison is None or not study.comparison.rows:
        return None
    rows = study.comparison.rows
    differ = (
        len({row.grade for row in rows}) > 1
    )  # one grade for all stands with the seal, and needs no column
    return ReportTable.of(
        "Predicted against actual, losses in nats per token; error and z are positive where the loss was predicted too high",
        rows,
        {
            "member": lambda row: Cell(row.member),
            "tokens": lambda row: size_cell(row.tokens),
            "predicted": lambda row: loss_cell(row.predicted_loss),
            "actual": lambda row: loss_cell(row.actual_loss),
            "loss error": lambda row: percent_cell(row.error),
            # the page has no room for both at 1280 pixels
            **({} if differ else {"ppl pred.": lambda row: number_cell(row.predicted_ppl, 2)}),
            "ppl": lambda row: number_cell(row.actual_ppl, 2),
            "80 % interval": lambda row: interval_cell(row.interval_80),
            "95 % interval": lambda row: interval_cell(row.interval_95),
            "z": lambda row: Cell(signed_number(row.z), row.z),
            "held": lambda row: Cell("80 %" if row.inside_80 else "95 %" if row.inside_95 else "outside"),
            **({"order": lambda row: Cell(_ORDER.get(row.grade, GRADES[row.grade]))} if differ else {}),
        },
    )


def cost_table(study: StudyData) -> ReportTable | None:
    """Planned and recorded cost of each scored prediction; None where nothing is scored."""
    if study.comparison is None or not study.comparison.rows:
        return None
    return ReportTable.of(
        "Cost, planned and recorded",
        study.comparison.rows,
        {
            "member": lambda row: Cell(row.member),
            "FLOPs planned": lambda row: size_cell(row.planned_flops),
            "FLOPs recorded": lambda row: size_cell(row.booked_flops),
            "time planned": lambda row: duration_cell(row.planned_hours),
            "time recorded": lambda row: duration_cell(row.booked_hours),
        },
    )


def refit_table(study: StudyData) -> ReportTable | None:
    """The law without and with the sealed runs; None without a refit."""
    refit = study.comparison.refit if study.comparison else None
    if refit is None:
        return None
    return ReportTable.of(
        f"Refitted with the new runs: {refit.rows_before} rows become {refit.rows_after}",
        refit.changes,
        {
            "quantity": lambda change: Cell(change_name(refit, change)),
            "before": lambda change: Cell(change_value(change, change.before), change.before),
            "80 % interval": lambda change: Cell(
                change_interval(change, change.before_80), interval_width(change.before_80)
            ),
            "after": lambda change: Cell(change_value(change, change.after), change.after),
            "80 % interval ": lambda change: Cell(
                change_interval(change, change.after_80), interval_width(change.after_80)
            ),
        },
    )


def band_table(study: StudyData) -> ReportTable | None:
    """The plan's indifference band; None without one."""
    band = study.plan.band if study.plan else None
    if band is None:
        return None
    return ReportTable.of(
        "About as good as the best",
        band.members,
        {
            "member": lambda member: Cell(member.choice.member),
            "params": lambda member: size_cell(member.choice.params),
            "tokens": lambda member: size_cell(member.choice.tokens),
            "loss": lambda member: loss_cell(member.choice.loss),
            "nats above the best": lambda member: Cell(f"+{member.nats:.4f}", member.nats),
            "extra FLOPs to match it": lambda member: size_cell(member.extra_flops),
            "extra time": lambda member: duration_cell(member.extra_hours),
            "extra USD": lambda member: text_cell(member.extra_price, "{:,.2f}".format),
        },
    )


def plan_table(study: StudyData) -> ReportTable | None:
    """Planned members: the ladder's and the sealed ones, else the plan's choices; None without a plan."""
    if not study.members:
        return _choices_table(study)
    return ReportTable.of(
        "Members planned",
        [(member, member.prediction) for member in study.members],
        {
            "member": lambda row: Cell(row[0].member),
            "params": lambda row: size_cell(row[0].params),
            "tokens": lambda row: size_cell(row[0].tokens),
            "rungs": lambda row: int_cell(max(len(row[0].rungs), 1)),
            "FLOPs": lambda row: size_cell(row[0].flops),
            "predicted loss": lambda row: loss_cell(row[1].loss if row[1] else None),
            "80 % interval": lambda row: interval_cell(row[1].interval_80 if row[1] else None),
            "predicted ppl": lambda row: number_cell(row[1].ppl if row[1] else None, 2),
        },
    )


def _choices_table(study: StudyData) -> ReportTable | None:
    """The frontier of a plan without members."""
    if study.plan is None:
        return None
    choices = study.plan.frontier or ((study.plan.recommended,) if study.plan.recommended else ())
    if not choices:
        return None
    return ReportTable.of(
        "Choices planned",
        choices,
        {
            "member": lambda choice: Cell(choice.member),
            "params": lambda choice: size_cell(choice.params),
            "tokens": lambda choice: size_cell(choice.tokens),
            "FLOPs": lambda choice: size_cell(choice.flops),
            "predicted loss": lambda choice: loss_cell(choice.loss),
            "80 % interval": lambda choice: interval_cell(choice.interval_80),
            "ppl": lambda choice: number_cell(choice.ppl, 2),
            "time": lambda choice: duration_cell(choice.hours),
        },
    )


def forms_table(study: StudyData) -> ReportTable | None:
    """The law's forms with their constants; None without a law."""
    if study.law is None:
        return None

    def constant(name: str, cell: Callable[[float], Cell]) -> Callable[[FittedForm], Cell]:
        return lambda form: cell(getattr(form.law, name)) if name in _constants_of(form) else Cell("–")

    return ReportTable.of(
        f"{_formula(study.law)}, in nats per token",
        study.law.forms,
        {
            "form": lambda form: Cell(f"{form.name}: {FORMULAS[form.curve]}" if form.curve else form.name),
            "weight": lambda form: Cell(f"{100 * form.weight:.0f} %", form.weight),
            "E": constant("E", loss_cell),
            "A": constant("A", lambda value: text_cell(value, scientific_number)),
            "B": constant("B", lambda value: text_cell(value, scientific_number)),
            "alpha": constant("alpha", number_cell),
            "beta": constant("beta", number_cell),
            "gamma": constant("gamma", number_cell),
            "backtest error": lambda form: text_cell(
                form.rollout_error, lambda error: f"{100 * error:.2f} %"
            ),
            "status": lambda form: Cell(form.status.value),
        },
    )


def _constants_of(form: FittedForm) -> tuple[str, ...]:
    """Names of the constants that a form has; a curve has those of its shape."""
    return tuple(USED[form.curve].split()) if form.curve else CONSTANTS


def _formula(fit: Fit) -> str:
    """The formula of a law's forms; those of one variable have one each, and share x."""
    if fit.variable:
        return f"Loss against {WORDS[fit.variable]} x"
    return "L = E + (A/N^alpha + B/D^beta)^gamma"


def constants_table(study: StudyData) -> ReportTable | None:
    """Constants of the law's main form, and the exponents of N* and D*, each with its intervals; None without a law."""
    if study.law is None:
        return None
    fit = study.law
    law = fit.main_form.law
    main = fit.main_form
    values = {name: getattr(law, name) for name in _constants_of(main)}
    title = f"Constants of {main.name}, {_formula(fit)} in nats per token"
    if main.curve:
        title = (
            f"Constants of {main.name}, L = {FORMULAS[main.curve]} in nats per token, x {WORDS[fit.variable]}"
        )
    try:
        growth = fit.optimum_exponent(GROWTH_STEP * fit.domain.C[1])[0]
        values |= {"a": growth, "b": 1 - growth}
        title += ", and exponents of N* in C^a and D* in C^b beyond the data"
    except BadInput:
        pass  # a law of one variable has no optimum

    def within(level: float) -> Callable[[str], Cell]:
        def cell(name: str) -> Cell:
            bounds = fit.interval(name, level)
            return Cell("–" if bounds is None else f"{bounds[0]:.4g}–{bounds[1]:.4g}")

        return cell

    return ReportTable.of(
        title,
        [*values],
        {
            "constant": Cell,
            "value": lambda name: text_cell(values[name], "{:.4g}".format),
            "80 % interval": within(0.8),
            "95 % interval": within(0.95),
        },
    )


def _optima(study: StudyData) -> list[tuple[float, Allocation]]:
    """The law's optimum at each of TIMES the largest compute fitted, where it has one."""
    found: list[tuple[float, Allocation]] = []
    if study.law is None:
        return found
    for times in TIMES:
        try:
            found.append((times, study.law.allocate(times * study.law.domain.C[1])))
        except BadInput:
            continue
    return found


def optimum_table(study: StudyData) -> ReportTable | None:
    """N*, D* and the loss there at 1, 3, 10 and 100 times the fitted compute, each with its 80 % interval; None without."""
    optima = _optima(study)
    if not optima:
        return None

    def sizes(pair: Interval | None) -> Cell:
        return Cell("–" if pair is None else f"{format_size(pair[0])}–{format_size(pair[1])}")

    return ReportTable.of(
        "Compute-optimal sizes at multiples of the largest fitted compute",
        optima,
        {
            "compute": lambda row: Cell(f"{row[0]:g} ×", row[0]),
            "FLOPs": lambda row: size_cell(row[1].C),
            "N*": lambda row: size_cell(row[1].N),
            "80 % of N*": lambda row: sizes(row[1].N_interval_80),
            "D*": lambda row: size_cell(row[1].D),
            "80 % of D*": lambda row: sizes(row[1].D_interval_80),
            "loss": lambda row: loss_cell(row[1].loss),
            "80 % of the loss": lambda row: interval_cell(row[1].loss_interval_80),
        },
    )


def card_table(study: StudyData) -> ReportTable | None:
    """The fit card of the law; None without one."""
    if study.law is None:
        return None
    return ReportTable.of(
        "Fit card",
        study.law.card.items(),
        {"field": lambda entry: Cell(entry[0]), "value": lambda entry: Cell(entry[1])},
    )


def next_runs_table(study: StudyData) -> ReportTable | None:
    """The law's optimum at 1, 3, 10 and 100 times the largest compute fitted; None where it has none."""
    optima = _optima(study)
    if not optima:
        return None
    return ReportTable.of(
        "Compute-optimal next runs, by this law",
        optima,
        {
            "compute": lambda row: Cell(f"{row[0]:g} ×", row[0]),
            "FLOPs": lambda row: size_cell(row[1].C),
            "parameters": lambda row: size_cell(row[1].N),
            "tokens": lambda row: size_cell(row[1].D),
            "tokens per parameter": lambda row: text_cell(row[1].tokens_per_param, "{:.3g}".format),
            "loss": lambda row: loss_cell(row[1].loss),
            "80 % interval": lambda row: interval_cell(row[1].loss_interval_80),
            "ppl": lambda row: number_cell(perplexity(row[1].loss), 2),
        },
    )


def informative_ladders_table(study: StudyData) -> ReportTable | None:
    """Ladders that most narrow the prediction at ten times the fitted compute for their cost; None without advice."""
    advised = advise_next_run(study)
    if advised is None or not advised[1].offers:
        return None
    target, advice = advised
    return ReportTable.of(
        f"Most informative ladders for {format_size(target.N)} parameters on {format_size(target.D)} tokens, "
        f"now predicted to ±{100 * advice.half_width_80:.1f} %",
        advice.offers,
        {
            "member": lambda offer: Cell(offer.ladder.member.name),
            "tokens": lambda offer: size_cell(offer.ladder.tokens),
            "rungs": lambda offer: int_cell(len(offer.ladder.rungs)),
            "FLOPs": lambda offer: size_cell(offer.ladder.flops),
            "80 % interval with it": lambda offer: text_cell(
                offer.half_width_80, lambda share: f"±{100 * share:.1f} %"
            ),
        },
    )


def advise_next_run(study: StudyData) -> tuple[Allocation, Advice] | None:
    """The next run to train (`scaling next`) for the law's optimum at ten times the fitted compute.

    Returns:
        That optimum and the advice; None where the law has no optimum or the runs do not state their shapes.
    """
    runs = study.comparable_runs
    if study.law is None or not runs or not all(run.n_layer and run.n_embd and run.n_head for run in runs):
        return None
    predictor = study.law
    try:
        target = predictor.allocate(10 * predictor.domain.C[1])
        advice = advise_fit(
            predictor,
            runs,
            candidates("all", rule_of(runs)),
            target=(target.N, target.D),
            budget=BUDGET_SHARE * target.C,
        )
    except BadInput:
        return None
    return target, advice


def observations_table(study: StudyData) -> ReportTable | None:
    """All observations, of very many a part; None without any."""
    if not study.runs:
        return None
    by_size = sorted(study.runs, key=lambda run: (run.n_params(), run.run, run.tokens))
    shown, total = subsample_evenly(by_size, MOST_ROWS), len(study.runs)
    title = "1 observation" if total == 1 else f"{total} observations"
    if len(shown) < total:
        title = f"{len(shown):,} of {total:,} observations, evenly by size; all are in runs.jsonl"
    table = ReportTable.of(
        title,
        shown,
        {
            "run": lambda run: Cell(run.run),
            "params": lambda run: size_cell(run.n_params()),
            "tokens": lambda run: size_cell(run.tokens),
            "loss": lambda run: loss_cell(run.loss),
            "ppl": lambda run: number_cell(perplexity(run.loss), 2),
            "FLOPs": lambda run: size_cell(run.flops),
            "annealed": lambda run: Cell("yes" if run.annealed else "no"),
            "learning rate": lambda run: text_cell(run.lr, "{:.3g}".format),
            "time": lambda run: duration_cell(None if run.wall_s is None else run.wall_s / 3600),
            "group": lambda run: Cell(run.group or "–"),
            "eval set": lambda run: Cell(run.eval_set or "–"),
        },
    )
    return _factor_out_constants(table)


def _factor_out_constants(table: ReportTable) -> ReportTable:
    """Move texts that all rows share into the title, and drop empty columns."""
    keep, shared = [], []
    for i, name in enumerate(table.header):
        texts = {row[i].text for row in table.rows}
        if len(texts) > 1 or i == 0 or (texts != {"–"} and table.rows[0][i].value is not None):
            keep.append(i)
        elif texts != {"–"}:
            shared.append(f"{name} {texts.pop()}")
    return ReportTable(
        title="; ".join([table.title, *shared]),
        header=tuple(table.header[i] for i in keep),
        rows=tuple(tuple(row[i] for i in keep) for row in table.rows),
    )
