"""Which runs a verb learns from: the options of one spelling, and how they are read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .show import note

if TYPE_CHECKING:
    from ..runs import Reading

RunsArgument = Annotated[
    Path | None, typer.Argument(help="runs.csv or runs.jsonl; default: runs.jsonl of the study.")
]
ConventionOption = Annotated[
    str | None, typer.Option("--convention", help="What N counts: total or non_embedding.")
]
ColumnsOption = Annotated[str, typer.Option("--columns", help="Our names for the file's: params=N,tokens=D.")]
BadRowsOption = Annotated[float, typer.Option("--bad-rows", help="The share of bad rows that is tolerated.")]

LossUnitOption = Annotated[
    str, typer.Option("--loss-unit", help="Of the table's losses, per token: nats, bits or ppl (perplexity).")
]


def read_noted(source: Path, columns: str, bad_rows: float, loss_unit: str) -> "Reading":
    """The runs of a file, losses in nats; each bad row is said and left out, and what looks wrong is said.

    Raises:
        BadInput: no such file, or more bad rows than are tolerated.
    """
    from ..headers import check_loss_unit
    from ..runs import parse_columns, read_runs

    reading = read_runs(
        source,
        column_names=parse_columns(columns),
        max_bad_share=bad_rows,
        loss_unit=check_loss_unit(loss_unit),
    )
    for line in reading.bad:
        note(f"left out {line}")
    for line in reading.doubts:
        note(f"note: {line}")
    return reading
