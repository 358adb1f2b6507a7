"""A published table of predictions and outcomes: recomputed predictions, the audit's corrections, and a fit to it."""

import math
from collections.abc import Sequence

from families import params_kaplan
from families.units import BadInput, format_size

from ..budget import PF_DAY
from ..files import Record
from ..laws import KaplanFrontier
from ..published_laws import published_law
from ..published_runs import PUBLISHED_RUNS, PublishedRun, PublishedRuns, published_runs
from . import audit_markdown
from .arithmetic import tokens_of
from .findings import Finding, Verdict
from .tables import TableEntry
from .trends import fit_outcomes, outcomes
from .utilisation import utilisation

AHEAD = 10.0  # times the largest budget, at which the two laws are compared

# Column of the document that each check of the audit corrects.
_COLUMN = {
    "parameters": "params",
    "parameters column": "params",
    "attention width": "member",
    "tokens": "tokens",
    "MFU": "hours",
    "prediction": "ppl",
    "one-sided errors": "ppl",
    "exponent": "loss",
}


class PublishedRow(Record):
    """One member, with printed values as in the document, the others recomputed. Losses in nats per token.

    Attributes:
        member: its name.
        params: exact count of its shape.
        params_non_embedding: 12·n_layer·n_embd², the law's N.
        printed_params: as printed, where it differs.
        tokens: steps × batch.
        printed_tokens: as printed, where it differs.
        law_tokens: compute-optimal tokens by the law.
        hours: wall clock, as printed.
        mfu: share of the devices' dense peak that the hours imply, in [0, 1].
        printed_loss: final loss.
        predicted_loss: the law's at params_non_embedding.
        predicted_ppl: its exponential.
        printed_predicted_ppl: as printed.
        actual_ppl: as printed.
        error: predicted_ppl/actual_ppl − 1.
        marks: letter of the correction of each column.
    """

    member: str
    params: int
    params_non_embedding: int
    printed_params: float | None
    tokens: float
    printed_tokens: float | None
    law_tokens: float
    hours: float | None
    mfu: float | None
    printed_loss: float
    predicted_loss: float
    predicted_ppl: float
    printed_predicted_ppl: float | None
    actual_ppl: float
    error: float
    marks: dict[str, str]


class Correction(Record):
    """The audit's findings on one column, those on all rows first, under the letter that marks it."""

    mark: str
    column: str
    findings: tuple[Finding, ...]


class OwnFit(Record):
    """L = (scale/C_min)^exponent through the printed outcomes, C_min by the law; losses in nats per token.

    Attributes:
        exponent: of the fit.
        exponent_80: its 80 % interval.
        law_exponent: of the law.
        crossing_flops: compute at which both give the same loss.
        factor: crossing_flops over the largest budget.
        largest: the member with that budget.
        ahead_flops: AHEAD times that budget.
        ahead_law: the law's loss there.
        ahead_own: the fit's loss there.
    """

    exponent: float
    exponent_80: tuple[float, float] | None
    law_exponent: float
    crossing_flops: float
    factor: float
    largest: str
    ahead_flops: float
    ahead_law: float
    ahead_own: float


class PublishedComparison(Record):
    """A published table with its corrections and a fit to its outcomes."""

    name: str
    title: str
    source: str
    law: str
    hardware: str
    caveat: str
    rows: tuple[PublishedRow, ...]
    corrections: tuple[Correction, ...]
    fit: OwnFit


def compare_published(name: str) -> PublishedComparison:
    """The published set `name` against the law that it quotes.

    Raises:
        BadInput: no such set, or it prints no predictions.
    """
    runs = published_runs(name)
    law = published_law(runs.law).frontier if runs.law else None
    if law is None:
        names = [other.name for other in PUBLISHED_RUNS.values() if other.law]
        raise BadInput(f"published set {runs.name} prints no predictions; {', '.join(names)} does")
    audited = audit_markdown(card(runs))
    corrections = _corrections(audited.findings)
    rows = {entry.name: entry for entry in audited.rows}
    return PublishedComparison(
        name=runs.name,
        title=runs.title,
        source=runs.source,
        law=f"{runs.law}: {published_law(runs.law).source}",
        hardware=_hardware(runs.runs),
        caveat=runs.caveat,
        rows=tuple(_row(run, rows[run.member], law, corrections) for run in runs.runs),
        corrections=corrections,
        fit=_own_fit(audited.rows, law),
    )


def _corrections(findings: Sequence[Finding]) -> tuple[Correction, ...]:
    """Findings that are not OK, by column in the order of the audit; those on all rows before those on one."""
    columns: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.verdict is not Verdict.OK:
            columns.setdefault(_COLUMN.get(finding.check, finding.check), []).append(finding)
    return tuple(
        Correction(
            mark=chr(ord("a") + place),
            column=column,
            findings=tuple(sorted(of_column, key=lambda finding: not finding.where.startswith("all "))),
        )
        for place, (column, of_column) in enumerate(columns.items())
    )


def card(document: PublishedRuns) -> str:
    """The document's two tables in Markdown, as it prints them, for the audit."""
    shapes = [
        f"| {run.member} | {run.spec.n_layer} | {run.spec.n_embd} | {run.spec.n_inner} "
        f"| {run.stated_attention or run.spec.n_embd} | {run.spec.n_head} |"
        for run in document.runs
    ]
    outcomes = [
        f"| {run.member} | {format_size(run.stated_params or run.params)} | {_clock(run.hours)} "
        f"| {format_size(run.stated_tokens or run.tokens or 0)} | {run.loss:.{document.digits}f} "
        f"| {run.predicted_ppl} | {run.actual_ppl} |"
        for run in document.runs
    ]
    return "\n".join(
        (
            "| Name | n_layer | d_model | d_ff | d_attn | n_heads |",
            "|---|---|---|---|---|---|",
            *shapes,
            "",
            f"| Member | Parameters | Training Hours on {_hardware(document.runs)}s | Training Tokens | Final Loss "
            "| Predicted Perplexity | Actual Perplexity |",
            "|---|---|---|---|---|---|---|",
            *outcomes,
        )
    )


def _hardware(runs: Sequence[PublishedRun]) -> str:
    return next((f"{run.devices}x{run.accelerator}" for run in runs if run.accelerator), "")


def _clock(hours: float | None) -> str:
    if hours is None:
        return ""
    minutes = round(60 * hours)
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _row(
    run: PublishedRun, entry: TableEntry, law: KaplanFrontier, corrections: Sequence[Correction]
) -> PublishedRow:
    N = params_kaplan(run.spec)
    predicted = law.loss(N)
    actual = run.actual_ppl or math.exp(run.loss)
    used = utilisation(entry, tokens_of(entry))
    return PublishedRow(
        member=run.member,
        params=run.params,
        params_non_embedding=N,
        printed_params=run.stated_params,
        tokens=tokens_of(entry) or 0,
        printed_tokens=run.stated_tokens,
        law_tokens=law.tokens(N),
        hours=run.hours,
        mfu=None if used is None else used.mfu,
        printed_loss=run.loss,
        predicted_loss=predicted,
        predicted_ppl=math.exp(predicted),
        printed_predicted_ppl=run.predicted_ppl,
        actual_ppl=actual,
        error=math.exp(predicted) / actual - 1,
        marks={
            correction.column: correction.mark
            for correction in corrections
            if any(
                finding.where == run.member or finding.where.startswith("all ")
                for finding in correction.findings
            )
        },
    )


def _own_fit(rows: Sequence[TableEntry], law: KaplanFrontier) -> OwnFit:
    """The audit's fit through the outcomes, and its crossing with the law."""
    scored = outcomes(rows)
    own, compute = fit_outcomes(scored, law)
    top = float(compute.max())
    return OwnFit(
        exponent=own.exponent,
        exponent_80=own.exponent_80,
        law_exponent=law.L_exponent,
        crossing_flops=own.crossing * PF_DAY,
        factor=own.crossing / top,
        largest=scored[int(compute.argmax())].entry.name,
        ahead_flops=AHEAD * top * PF_DAY,
        ahead_law=float((law.C_scale / (AHEAD * top)) ** law.L_exponent),
        ahead_own=own.loss(AHEAD * top),
    )
