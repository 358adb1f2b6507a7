"""audit(path): recompute what a table states, and say what does not add up and what would explain it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from families.errors import BadInput

from .auditing.bookkeeping import bookkeeping_findings
from .auditing.findings import Finding, Verdict, collapsed, ordered
from .auditing.prose import prose_entries
from .auditing.rows import table_findings
from .auditing.shapes import shape_findings
from .auditing.tables import Entry, Table, entries, markdown_tables, read_tables
from .auditing.trends import prediction_findings, residual_findings
from .files import Document, hashes, read_text
from .headers import check_named, missing_columns
from .runs import Run, read_runs

_RUNS = (".csv", ".tsv", ".jsonl")


class Audit(Document):
    """What was recomputed, mismatches first. Findings are data: an audit that finds a mismatch has not failed."""

    KIND: ClassVar[str] = "audit"

    source: str
    tables: int
    rows: int
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many findings of each verdict."""
        counted = Counter(finding.verdict for finding in self.findings)
        return {verdict: counted[verdict] for verdict in Verdict}

    def of(self, check: str) -> tuple[Finding, ...]:
        """The findings of one check."""
        return tuple(finding for finding in self.findings if finding.check == check)


def audit(path: Path, *, column_names: Mapping[str, str] | None = None) -> Audit:
    """Audit the tables of a .csv, .tsv, .jsonl or Markdown file.

    Args:
        column_names: our field to the file's column, where the names differ: {"params": "N", "tokens": "D"}.

    Raises:
        BadInput: the file cannot be read, or it holds nothing that could be recomputed.
    """
    names = column_names or {}
    printed = read_tables(path)
    if printed:
        check_named(names, {name: None for table in printed for name in table.header}, path)
    tables = tuple(table.renamed(names) for table in printed)
    rows = entries(tables)
    prose = prose_entries(read_text(path)) if path.suffix.lower() not in _RUNS else ()
    known = {field for entry in (*rows, *prose) for field in entry.numbers}
    if not known:
        raise BadInput(
            f"{path} holds no table with a column known here (parameters, layers, tokens, hours, loss, perplexity, …)"
        )
    found = _findings(tables, rows, prose)
    of_runs = path.suffix.lower() in _RUNS and not any(
        "run" not in table.header or missing_columns(table.header, tuple(Run.model_fields))
        for table in tables
    )
    if of_runs and {"tokens", "loss"} <= known:
        found += _residuals(path, names)
    return Audit(
        source=path.name,
        tables=len(tables),
        rows=len(rows) + len(prose),
        findings=ordered(collapsed(found)),
        inputs=hashes([path]),
    )


def audit_text(markdown: str) -> tuple[Finding, ...]:
    """The findings on a Markdown text, mismatches first."""
    tables = markdown_tables(markdown)
    return ordered(collapsed(_findings(tables, entries(tables), prose_entries(markdown))))


def _findings(tables: Sequence[Table], rows: Sequence[Entry], prose: Sequence[Entry]) -> list[Finding]:
    return [
        *shape_findings(rows),
        *shape_findings(prose),
        *bookkeeping_findings(rows),
        *prediction_findings(rows),
        *table_findings(tables),
    ]


def _residuals(path: Path, names: Mapping[str, str]) -> list[Finding]:
    """Trends of a fit, where the file is a table of runs; the rows that are not runs by themselves."""
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
    return [*bad, *residual_findings(reading.runs)]
