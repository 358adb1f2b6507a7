"""What an audit reads and recomputes: cells, prose, shapes, book-keeping, trends."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from families.units import BadInput

from ..files import Document, hashes, read_text
from ..runs import Run
from ..runs.readers import check_columns, missing_columns, read_runs
from .arithmetic import bookkeeping_findings, table_findings
from .findings import Finding, Verdict, collapsed, ordered
from .shapes import known_member, shape_findings
from .tables import Entry, Stated, Table, entries, field_of, markdown_tables, read_tables, stated
from .trends import prediction_findings, residual_findings

# MERGED DOCSTRINGS
# Shapes and sizes that a model card states in lists and commands rather than in tables.
# audit(path): recompute what a table states, and say what does not add up and what would explain it.

_PROSE_SIZE = r"(?<![\w.])([0-9][0-9,.]*\s*(?:million|billion|[MBK]\b)?)"

_PHRASES = {
    "n_layer": r"layers?\b",
    "n_embd": r"(?:hidden (?:size|dimensions?|units)|wide\b)",
    "n_head": r"(?:attention )?heads\b",
    "params": r"(?:trainable )?param(?:eter)?s\b",
}

_WORDED = {
    field: re.compile(rf"{_PROSE_SIZE}[- ]+{phrase}", re.IGNORECASE) for field, phrase in _PHRASES.items()
}

_ASSIGNED = re.compile(r"\b([A-Za-z_]+)=([0-9][0-9_]*)\b")

_TOTAL = re.compile(rf"model size:\s*{_PROSE_SIZE}", re.IGNORECASE)

_HEADING = re.compile(r"\s*(?:#+\s*(.+?)|\*\*(.+?)\*\*:?|[-*]\s+([\w .-]+):)\s*")

_NAMED = re.compile(r"\s*[-*]\s+`?([A-Za-z][\w .-]*?)`?\s*(\([^)]*\))?\s*(?::|\s[-–—]\s)(.*)")


def prose_entries(text: str) -> tuple[Entry, ...]:
    """What lists say ("12 layers, 768 hidden size, 117 million parameters") and commands ("NHIDDEN=2048; NLAYERS=24").

    An entry has a count of parameters and a shape, or the name of a published member.
    """
    return tuple(
        entry
        for entry in _gathered(text.split("\n"))
        if known_member(entry) is not None
        or (
            {"n_layer", "n_embd"} <= entry.numbers.keys()
            and ("params" in entry.numbers or "aliases" in entry.words)
        )
    )


def _gathered(lines: Sequence[str]) -> Iterator[Entry]:
    """Neighbouring lines make one entry, until a field repeats, a heading comes or a line has a name of its own."""
    heading, family = "", ""
    open_name, open_line, facts, aliases = "", 0, dict[str, Stated](), ""

    def entry() -> Entry:
        words = {"name": open_name, "group": family, **({"aliases": aliases} if aliases else {})}
        headers = {"name": "", **dict.fromkeys(facts, "text")}
        where = f"{open_name}, line {open_line}" if open_name else f"line {open_line}"
        return Entry(name=open_name, where=where, table=-1, numbers=facts, words=words, headers=headers)

    for number, line in enumerate(lines, start=1):
        if line.lstrip().startswith("|"):
            continue
        title = _HEADING.fullmatch(line)
        if title:
            if facts:
                yield entry()
                facts, aliases = {}, ""
            heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", next(filter(None, title.groups()))).strip(": ")
            family = heading if not title[3] else family
            continue
        named = _NAMED.fullmatch(line)
        said = facts_of(named[3] if named else line)
        if not said:
            continue
        if facts and (named or said.keys() & facts.keys()):
            yield entry()
            facts, aliases = {}, ""
        if not facts:
            open_name, open_line = (named[1] if named else heading), number
            aliases = ", ".join(re.findall(r"`([0-9.]+[MB])`", named[2] or "")) if named else ""
        facts |= said
    if facts:
        yield entry()


def facts_of(line: str) -> dict[str, Stated]:
    """Field to number, as a line states them."""
    found: dict[str, Stated] = {}
    for field, pattern in _WORDED.items():
        match = pattern.search(line)
        if match and (number := stated(match[1].strip(" ,"))) is not None:
            found[field] = number
    for name, value in _ASSIGNED.findall(line):
        known = field_of(name)
        if known is not None and (number := stated(value)) is not None:
            found.setdefault(known, number)
    total = _TOTAL.search(line)
    if total and (number := stated(total[1].strip())) is not None:
        found["params"] = number
    return found


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
        check_columns(names, {name: None for table in printed for name in table.header}, path)
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
    return [*bad, *residual_findings(reading)]
