"""Findings of an audit: one check of one cell, column or table each."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TypedDict

from ..files import Record
from .tables import TableEntry

MOST_OK = 4  # findings of one kind listed one by one; more are collapsed into the worst of them
MOST_WRONG = 8  # the same for findings that do not add up


class Verdict(StrEnum):
    """Agreement of the stated and the recomputed number."""

    MISMATCH = "mismatch"
    SUSPICIOUS = "suspicious"
    OK = "ok"


class Finding(Record):
    """One check of one cell or column.

    Attributes:
        check: its name.
        where: row or rows.
        column: the header, "" where it is about more than one.
        stated: as printed; None where the explanation says it all.
        recomputed: as text, likewise.
        verdict: whether both can be right.
        explanation: the likely cause of a difference.
        severity: size of the difference in the check's own measure; orders findings of one check.
    """

    check: str
    where: str
    column: str = ""
    stated: str | None = None
    recomputed: str | None = None
    verdict: Verdict
    explanation: str = ""
    severity: float = 0.0


class CellReference(TypedDict):
    """Row, column and printed text of a cell."""

    where: str
    column: str
    stated: str


def cell(entry: TableEntry, field: str) -> CellReference:
    """The cell of a row: Finding(check=…, **cell(entry, "tokens"), …)."""
    return {"where": entry.where, "column": entry.headers[field], "stated": entry.numbers[field].text}


def sort_findings(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Mismatches first, then suspicious findings; within a verdict in the order of the checks."""
    rank = {verdict: place for place, verdict in enumerate(Verdict)}
    return tuple(sorted(findings, key=lambda finding: rank[finding.verdict]))


def collapse(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Replace many findings of one check and verdict in one column by the worst of them with their number."""
    kinds: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.check, finding.column, finding.verdict), []).append(finding)
    kept: list[Finding] = []
    for same in kinds.values():
        if len(same) <= (MOST_OK if same[0].verdict is Verdict.OK else MOST_WRONG):
            kept += same
            continue
        worst = max(same, key=lambda finding: finding.severity)
        kept.append(worst.model_copy(update={"where": f"{len(same)} rows, the farthest off: {worst.where}"}))
    return tuple(kept)
