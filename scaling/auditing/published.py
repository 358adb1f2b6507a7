"""A published table of predictions and outcomes, line by line: our own predictions beside the printed ones, what the
audit corrects, and a fit through its points.
"""

import math
from collections.abc import Sequence

import numpy as np

from families import params_kaplan
from families.units import BadInput, format_size

from ..budget import PF_DAY
from ..files import Record
from ..laws import KaplanFrontier, published_law
from ..published_runs import PUBLISHED_RUNS, PublishedRun, PublishedRuns, published_runs
from . import audit_text
from .findings import Finding, Verdict
from .trends import frontier_fit

AHEAD = 10.0  # times the largest budget at which the two laws are held side by side

# The column of the card that a check of the audit corrects; others are about the table as a whole.
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
    """One member. Printed figures as the document has them; ours recomputed from the shape and the law.

    Losses in nats per token; error is predicted/actual − 1 of the perplexity, from our prediction and the printed
    outcome; mfu the share of the devices' dense peak that the printed hours imply; marks: column → letter of its correction.
    """

    member: str
    params: int
    params_non_embedding: int
    printed_params: float | None
    tokens: float
    printed_tokens: float | None
    law_tokens: float  # what the law would train on
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
    """What the audit says of one column, under the letter that marks it: the widest finding first."""

    mark: str
    column: str
    findings: tuple[Finding, ...]


class OwnFit(Record):
    """L = (scale/C_min)^exponent through the printed outcomes, C_min by the law; budgets in FLOPs.

    factor: the crossing over the largest budget. ahead: a budget beyond, with both laws' losses there.
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
    """The table, its corrections, and our own fit."""

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
    """The published set of that name against its own law.

    Raises:
        BadInput: no such set, or it prints no predictions.
    """
    found = published_runs(name)
    law = published_law(found.law).frontier if found.law else None
    if law is None:
        able = [one.name for one in PUBLISHED_RUNS.values() if one.law]
        raise BadInput(f"published set {found.name} prints no predictions; {', '.join(able)} does")
    corrections = _corrections(audit_text(card(found)))
    return PublishedComparison(
        name=found.name,
        title=found.title,
        source=found.source,
        law=f"{found.law}: {published_law(found.law).source}",
        hardware=_hardware(found.runs),
        caveat=found.caveat,
        rows=tuple(_row(run, law, corrections) for run in found.runs),
        corrections=corrections,
        fit=_fit(found.runs, law),
    )


def _corrections(findings: Sequence[Finding]) -> tuple[Correction, ...]:
    """What is not OK, by column in the order of the audit; findings on all rows before those on one."""
    columns: dict[str, list[Finding]] = {}
    for one in findings:
        if one.verdict is not Verdict.OK:
            columns.setdefault(_COLUMN.get(one.check, one.check), []).append(one)
    return tuple(
        Correction(
            mark=chr(ord("a") + place),
            column=column,
            findings=tuple(sorted(found, key=lambda one: not one.where.startswith("all "))),
        )
        for place, (column, found) in enumerate(columns.items())
    )


def card(found: PublishedRuns) -> str:
    """The document's two tables in Markdown, as it prints them: what the audit reads."""
    shapes = [
        f"| {run.member} | {run.spec.n_layer} | {run.spec.n_embd} | {run.spec.n_inner} "
        f"| {run.stated_attention or run.spec.n_embd} | {run.spec.n_head} |"
        for run in found.runs
    ]
    outcomes = [
        f"| {run.member} | {format_size(run.stated_params or run.params)} | {_clock(run.hours)} "
        f"| {format_size(run.stated_tokens or run.tokens or 0)} | {run.loss:.{found.digits}f} "
        f"| {run.predicted_ppl} | {run.actual_ppl} |"
        for run in found.runs
    ]
    return "\n".join(
        (
            "| Name | n_layer | d_model | d_ff | d_attn | n_heads |",
            "|---|---|---|---|---|---|",
            *shapes,
            "",
            f"| Member | Parameters | Training Hours on {_hardware(found.runs)}s | Training Tokens | Final Loss "
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


def _row(run: PublishedRun, law: KaplanFrontier, corrections: Sequence[Correction]) -> PublishedRow:
    N = params_kaplan(run.spec)
    predicted = law.loss(N)
    actual = run.actual_ppl or math.exp(run.loss)
    return PublishedRow(
        member=run.member,
        params=run.params,
        params_non_embedding=N,
        printed_params=run.stated_params,
        tokens=run.tokens or 0,
        printed_tokens=run.stated_tokens,
        law_tokens=law.tokens(N),
        hours=run.hours,
        mfu=run.mfu,
        printed_loss=run.loss,
        predicted_loss=predicted,
        predicted_ppl=math.exp(predicted),
        printed_predicted_ppl=run.predicted_ppl,
        actual_ppl=actual,
        error=math.exp(predicted) / actual - 1,
        marks={
            one.column: one.mark
            for one in corrections
            if any(
                finding.where == run.member or finding.where.startswith("all ") for finding in one.findings
            )
        },
    )


def _fit(runs: Sequence[PublishedRun], law: KaplanFrontier) -> OwnFit:
    """Through the printed perplexities, which have more digits than the losses."""
    compute = np.array([law.compute(params_kaplan(run.spec)) for run in runs])
    loss = np.array([math.log(run.actual_ppl or math.exp(run.loss)) for run in runs])
    own = frontier_fit(law, compute, loss)
    top = float(compute.max())
    return OwnFit(
        exponent=own.exponent,
        exponent_80=own.exponent_80,
        law_exponent=law.L_exponent,
        crossing_flops=own.crossing * PF_DAY,
        factor=own.crossing / top,
        largest=runs[int(compute.argmax())].member,
        ahead_flops=AHEAD * top * PF_DAY,
        ahead_law=float((law.C_scale / (AHEAD * top)) ** law.L_exponent),
        ahead_own=own.loss(AHEAD * top),
    )
