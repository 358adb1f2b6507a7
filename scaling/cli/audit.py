"""scaling audit: recompute a published table or one's own, and say what does not add up."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .asked_runs import ColumnsOption
from .show import JsonOption, YesOption, print_json, say

if TYPE_CHECKING:
    from ..auditing.findings import Finding

EPILOG = "Example: scaling audit model-card.md"
_TITLES = {"mismatch": "Does not add up", "suspicious": "Looks wrong", "ok": "Adds up"}


def audit(
    table: Annotated[Path, typer.Argument(help="A .csv, .tsv, .jsonl or Markdown file with tables.")],
    columns: ColumnsOption = "",
    out: Annotated[Path | None, typer.Option("--out", help="Write the audit here as JSON.")] = None,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> int:
    """Recompute parameters, tokens, FLOPs, MFU, perplexity and trends of a table, and explain what is off."""
    from ..audit import Audit
    from ..audit import audit as audit_table
    from ..overwriting import check_document
    from ..runs import parse_columns

    if out is not None:
        check_document(out, Audit, replace=yes)
    found = audit_table(table, column_names=parse_columns(columns))
    if out is not None:
        found.write(out)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return 0
    tables = f"{found.tables} table{'' if found.tables == 1 else 's'}"
    say(
        f"{found.source}: {tables}, {found.rows} rows or members, {len(found.findings)} checks; stated -> recomputed"
    )
    for verdict, number in found.counts.items():
        if number:
            say()
            say(f"{_TITLES[verdict]} ({number})")
            for line in lines(finding for finding in found.findings if finding.verdict == verdict):
                say(line)
    return 0


def lines(findings: "Iterable[Finding]") -> Iterable[str]:
    """Each finding: what and where with both numbers on a line, the explanation below it."""
    from textwrap import wrap

    for finding in findings:
        stated, recomputed = finding.stated or "", finding.recomputed or ""
        numbers = " -> ".join(filter(None, (stated, recomputed)))
        yield from wrap(
            f"  {finding.check:<22} {finding.where}: {numbers}"
            if numbers
            else f"  {finding.check:<22} {finding.where}",
            width=100,
            subsequent_indent=" " * 25,
        )
        if finding.explanation:
            yield from wrap(
                finding.explanation, width=100, initial_indent=" " * 25, subsequent_indent=" " * 25
            )
