"""The rows themselves: cells that are missing, rows given twice, measurements that stand in two different rows."""

import re
from collections.abc import Sequence

from .findings import FEW, Finding, Verdict
from .stated import stated
from .tables import Table

_TELLING_DIGITS = 7  # of a single loss, for two equal ones to be no accident
_QUANTISED = 0.1  # share of rows that repeat an earlier loss, beyond which the losses came off a grid
_LOSSES = ("loss", "loss_train", "loss_adjusted", "ppl")


def table_findings(tables: Sequence[Table]) -> list[Finding]:
    """Rows with too few or too many cells, rows given twice, and measurements that stand in two different rows."""
    found: list[Finding] = []
    for table in tables:
        for row, line in zip(table.rows, table.lines, strict=True):
            if len(row) != len(table.header):
                found.append(
                    Finding(
                        check="cells",
                        where=f"line {line}",
                        stated=str(len(row)),
                        recomputed=str(len(table.header)),
                        verdict=Verdict.MISMATCH,
                        explanation=f"the row ends {table.header[len(row) - 1]!r} with {row[-1]!r}: a cell is missing, "
                        "so the cells after it stand in the wrong columns"
                        if len(row) < len(table.header)
                        else "more cells than the header",
                        severity=abs(len(row) - len(table.header)),
                    )
                )
        found += _repeated(table)
    return found


def _repeated(table: Table) -> list[Finding]:
    """Equal rows; and rows that differ in what was run but agree in their measured numbers."""
    measured = [index for index, field in enumerate(table.fields()) if field in _LOSSES]
    found: list[Finding] = []
    shared: list[Finding] = []
    seen: dict[tuple[str, ...], int] = {}
    results: dict[tuple[str, ...], int] = {}
    for row, line in zip(table.rows, table.lines, strict=True):
        first = seen.setdefault(row, line)
        if first != line:
            why = f"the same row as line {first}"
            found.append(_repeat("duplicated row", f"line {line}", "", Verdict.MISMATCH, why))
            continue
        key = tuple(row[index] for index in measured if index < len(row) and stated(row[index]) is not None)
        if not key or (len(key) < 2 and len(re.sub(r"[^0-9]", "", key[0])) < _TELLING_DIGITS):
            continue
        before = results.setdefault(key, line)
        if before != line:
            why = f"line {before} has the same measurements: copied, or one run under two names"
            cells = ", ".join(key)
            shared.append(_repeat("duplicated measurement", f"line {line}", cells, Verdict.SUSPICIOUS, why))
    if len(shared) > max(FEW, _QUANTISED * len(table.rows)):
        why = f"{len(results)} distinct losses in {len(table.rows)} rows: read off a figure or a colour scale, or rounded"
        shared = [_repeat("quantised losses", f"{len(shared)} rows", "", Verdict.SUSPICIOUS, why)]
    return found + shared


def _repeat(check: str, where: str, cells: str, verdict: Verdict, why: str) -> Finding:
    return Finding(
        check=check, where=where, stated=cells or None, verdict=verdict, explanation=why, severity=1.0
    )
