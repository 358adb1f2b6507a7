"""Audit of published tables: recompute what a table states, and explain what does not add up."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from families.units import BadInput

from ..files import Document, hashes, read_text
from ..runs import Run
from ..runs.readers import check_columns, missing_columns, read_runs
from .arithmetic import bookkeeping_findings, table_findings
from .findings import Finding, Verdict, collapse, sort_findings
from .shapes import known_member, shape_findings
from .tables import SourceTable, TableEntry, entries, markdown_tables, prose_entries, read_tables
from .trends import prediction_findings, residual_findings

_RUN_FORMATS = (".csv", ".tsv", ".jsonl")


class Audit(Document):
    """Findings on a file, mismatches first. An audit that finds a mismatch has not failed.

    Attributes:
        source: the file's name.
        tables: number of tables read.
        rows: number of rows, and of models described in prose.
        findings: one for each check.
    """

    KIND: ClassVar[str] = "audit"

    source: str
    tables: int
    rows: int
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[Verdict, int]:
        """Number of findings of each verdict."""
        counted = Counter(finding.verdict for finding in self.findings)
        return {verdict: counted[verdict] for verdict in Verdict}

    def of(self, check: str) -> tuple[Finding, ...]:
        """The findings of one check."""
        return tuple(finding for finding in self.findings if finding.check == check)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedText:
    """Entries of a Markdown text's tables, and the findings on it, mismatches first."""

    rows: tuple[TableEntry, ...]
    findings: tuple[Finding, ...]


def audit(path: Path, *, column_names: Mapping[str, str] | None = None) -> Audit:
    """Audit the tables of a .csv, .tsv, .jsonl or Markdown file.

    Args:
        path: of the file.
        column_names: our field to the file's column, where the names differ: {"params": "N", "tokens": "D"}.

    Raises:
        BadInput: the file cannot be read, or it holds nothing that could be recomputed.
    """
    names = column_names or {}
    printed = read_tables(path)
    if printed:
        check_columns(names, {name: None for table in printed for name in table.header}, path)
    tables = tuple(table.renamed(names) for table in printed)
    rows = entries(tables)
    of_runs = path.suffix.lower() in _RUN_FORMATS
    prose = () if of_runs else _described_models(read_text(path))
    fields = {field for entry in (*rows, *prose) for field in entry.numbers}
    if not fields:
        raise BadInput(
            f"{path} holds no table with a known column (parameters, layers, tokens, hours, loss, perplexity, …)"
        )
    findings = _findings(tables, rows, prose)
    are_runs = of_runs and not any(
        "run" not in table.header or missing_columns(table.header, tuple(Run.model_fields))
        for table in tables
    )
    if are_runs and {"tokens", "loss"} <= fields:
        findings += _run_findings(path, names)
    return Audit(
        source=path.name,
        tables=len(tables),
        rows=len(rows) + len(prose),
        findings=sort_findings(collapse(findings)),
        inputs=hashes([path]),
    )


def audit_markdown(text: str) -> AuditedText:
    """Audit the tables and lists of a Markdown text."""
    tables = markdown_tables(text)
    rows = entries(tables)
    findings = _findings(tables, rows, _described_models(text))
    return AuditedText(rows=rows, findings=sort_findings(collapse(findings)))


def audit_text(markdown: str) -> tuple[Finding, ...]:
    """The findings on a Markdown text, mismatches first."""
    return audit_markdown(markdown).findings


def _described_models(text: str) -> tuple[TableEntry, ...]:
    """Entries of prose with a shape and a count of parameters, or with the name of a published member."""
    return tuple(
        entry
        for entry in prose_entries(text)
        if known_member(entry) is not None
        or (
            {"n_layer", "n_embd"} <= entry.numbers.keys()
            and ("params" in entry.numbers or "aliases" in entry.words)
        )
    )


def _findings(
    tables: Sequence[SourceTable], rows: Sequence[TableEntry], prose: Sequence[TableEntry]
) -> list[Finding]:
    return [
        *shape_findings(rows),
        *shape_findings(prose),
        *bookkeeping_findings(rows),
        *prediction_findings(rows),
        *table_findings(tables),
    ]


def _run_findings(path: Path, names: Mapping[str, str]) -> list[Finding]:
    """Bad rows of a table of runs, and the residuals of a fit to the good ones."""
    try:
        reading = read_runs(path, column_names=names, max_bad_share=0.5)
    except BadInput as error:
        return [
            Finding(
                check="runs", where="all rows", verdict=Verdict.SUSPICIOUS, explanation=f"no fit: {error}"
            )
        ]
    bad = [
        Finding(check="row", where=line.partition(":")[0], verdict=Verdict.MISMATCH, explanation=line)
        for line in reading.bad
    ]
    return [*bad, *residual_findings(reading)]
