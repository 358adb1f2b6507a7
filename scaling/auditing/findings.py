"""What an audit found, one line for each thing that was recomputed."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TypedDict

from ..files import Record
from .tables import Entry

FEW = 4  # findings of one kind that are told one by one; more become one with the worst of them
FEW_WRONG = 8  # where they do not add up


class Verdict(StrEnum):
    """Whether the stated and the recomputed number can both be right."""

    MISMATCH = "mismatch"
    SUSPICIOUS = "suspicious"
    OK = "ok"


class Finding(Record):
    """One check of one cell or column. `stated` is as printed; both numbers are None where a text says it all."""

    check: str
    where: str
    column: str = ""
    stated: str | None = None
    recomputed: str | None = None
    verdict: Verdict
    explanation: str = ""
    severity: float = 0.0  # how far off, by a measure of the check's own; orders findings of one check


class Place(TypedDict):
    """Where a finding's cell stands, and what is printed there."""

    where: str
    column: str
    stated: str


def at(entry: Entry, field: str) -> Place:
    """A row's own cell: Finding(check=…, **at(entry, "tokens"), …)."""
    return {"where": entry.where, "column": entry.headers[field], "stated": entry.numbers[field].text}


def ordered(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """What does not add up first; within a verdict in the order of the checks."""
    rank = {verdict: place for place, verdict in enumerate(Verdict)}
    return tuple(sorted(findings, key=lambda finding: rank[finding.verdict]))


def collapsed(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Many findings of one check and verdict in one column as one: how many, and the worst."""
    kinds: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.check, finding.column, finding.verdict), []).append(finding)
    found: list[Finding] = []
    for same in kinds.values():
        if len(same) <= (FEW if same[0].verdict is Verdict.OK else FEW_WRONG):
            found += same
            continue
        worst = max(same, key=lambda finding: finding.severity)
        found.append(worst.model_copy(update={"where": f"{len(same)} rows, the farthest off: {worst.where}"}))
    return tuple(found)
