"""Audit of published tables: recompute the numbers that a table states, and explain the inconsistent ones."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from families.units import BadInput

from ..files import Document, hashes, read_text
from ..runs import Run
from ..runs.mapping import is_export, map_columns
from ..runs.readers import check_columns, missing_columns, read_runs
from ..runs.sheet import MARKDOWN
from .arithmetic import bookkeeping_findings, derivation_notes, table_findings
from .configuration import config_file, config_findings
from .findings import Finding, Verdict, collapse, sort_findings
from .shapes import shape_findings
from .specs import known_member
from .tables import (
    SourceTable,
    TableEntry,
    entries,
    markdown_tables,
    prose_entries,
    read_tables,
    reading_notes,
)
from .trends import FEWEST_ROWS, observations, prediction_findings, residual_findings


class Audit(Document):
    """Findings on a file, mismatches first. An audit that finds a mismatch has not failed.

    Attributes:
        source: the file's name.
        tables: number of tables read.
        rows: number of rows, and of models described in prose.
        findings: one for each check.
        notes: what was derived, left out or not read; why nothing was checked, where that is so.
    """

    KIND: ClassVar[str] = "audit"

    source: str
    tables: int
    rows: int
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

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
    """Audit the tables of a Markdown file, the table in a file of another format that `runs.sheet` reads, or a config.json.

    Args:
        path: of the file, or of a folder that holds a config.json.
        column_names: our field to the file's column, where the names differ: {"params": "N", "tokens": "D"}.

    Raises:
        BadInput: the file cannot be read, or it holds nothing that could be recomputed.
    """
    if (config := config_file(path)) is not None:
        return Audit(
            source=str(path),
            tables=0,
            rows=1,
            findings=sort_findings(config_findings(config)),
            inputs=hashes([config]),
        )
    names = dict(column_names or {})
    printed = read_tables(path)
    if printed:
        check_columns(names, {name: None for table in printed for name in table.header}, path)
    exported: tuple[str, ...] = ()
    if len(printed) == 1 and is_export(printed[0].header):
        mapped = map_columns(printed[0].header, names, path=path)
        names |= {name: mapped.sources[name].header for name in mapped.guessed if name in Run.model_fields}
        exported = mapped.notes
    tables = tuple(table.renamed(names) for table in printed)
    rows = entries(tables)
    of_runs = path.suffix.lower() not in MARKDOWN
    prose = () if of_runs else _described_models(read_text(path))
    fields = {field for entry in (*rows, *prose) for field in entry.numbers}
    if not fields:
        raise BadInput(
            f"{path} holds no table with a known column (parameters, layers, tokens, hours, loss, perplexity, …)"
        )
    findings = _findings(tables, rows, prose)
    notes = [*exported, *reading_notes(tables), *derivation_notes(rows)]
    if of_runs:
        findings += _bad_rows(path, tables, names)
        runs, left = observations(rows)
        findings += residual_findings(runs)
        notes += left if len(runs) >= FEWEST_ROWS else ()
    if not findings:
        notes.insert(0, _nothing_checked(fields | {field for entry in rows for field in entry.words}))
    return Audit(
        source=path.name,
        tables=len(tables),
        rows=len(rows) + len(prose),
        findings=sort_findings(collapse(findings)),
        notes=tuple(notes),
        inputs=hashes([path]),
    )


# Fields that a check needs, and its name; of several sets for one check, one is enough.
_NEEDS: tuple[tuple[str, frozenset[str]], ...] = tuple(
    (check, frozenset(fields.split()))
    for check, fields in (
        ("parameters", "params n_layer n_embd"),
        ("tokens", "tokens steps batch_tokens"),
        ("compute", "compute params tokens"),
        ("MFU", "accelerator hours tokens params"),
        ("MFU", "accelerator tokens_per_s params"),
        ("stated MFU", "mfu accelerator tokens_per_s params"),
        ("perplexity", "ppl loss"),
        ("prediction", "ppl_predicted ppl"),
        ("epochs", "tokens unique_tokens"),
        ("tokens per parameter", "tokens params"),
    )
)


def _nothing_checked(fields: Collection[str]) -> str:
    """Why no check was possible: the columns read, and what the nearest checks lack."""
    lacking = sorted(
        ((needed - set(fields), check) for check, needed in _NEEDS if needed & set(fields)),
        key=lambda pair: len(pair[0]),
    )
    nearest = "; ".join(
        f"{check} lacks {', '.join(sorted(missing))}" for missing, check in lacking[:3] if missing
    )
    read = ", ".join(sorted(fields))
    return f"nothing could be checked: the columns read are {read}" + (f"; {nearest}" if nearest else "")


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


def _bad_rows(path: Path, tables: Sequence[SourceTable], names: Mapping[str, str]) -> list[Finding]:
    """The rows that `scaling fit` would refuse, of a table whose columns are those of runs."""
    fields = tuple(Run.model_fields)
    if any("run" not in table.header or missing_columns(table.header, fields) for table in tables):
        return []
    if not all({"tokens", "loss"} <= set(table.fields()) for table in tables):
        return []
    try:
        reading = read_runs(path, column_names=names, max_bad_share=1.0)
    except BadInput as error:
        return [
            Finding(
                check="runs", where="all rows", verdict=Verdict.SUSPICIOUS, explanation=f"no runs: {error}"
            )
        ]
    return [
        Finding(check="row", where=line.partition(":")[0], verdict=Verdict.MISMATCH, explanation=line)
        for line in reading.bad
    ]
