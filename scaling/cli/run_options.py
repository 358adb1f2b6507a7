"""Options that select and read runs, and key=value arguments checked by a pydantic model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from families.units import BadInput

from ..files import first_problem
from .keys import pairs
from .output import log

if TYPE_CHECKING:
    from ..runs import RunTable

RunsArgument = Annotated[
    Path | None, typer.Argument(help="Runs as .csv or .jsonl (default: runs.jsonl of the study).")
]

ConventionOption = Annotated[
    str | None, typer.Option("--convention", help="Parameters that N counts: total or non_embedding.")
]

ColumnsOption = Annotated[
    str, typer.Option("--columns", help="Columns of the file by field, like params=N,tokens=D.")
]

BadRowsOption = Annotated[
    float, typer.Option("--bad-rows", help="Largest tolerated share of unreadable rows, 0 to 1.")
]


LossUnitOption = Annotated[
    str, typer.Option("--loss-unit", help="Unit of the losses, per token: nats, bits or ppl (perplexity).")
]


def read_and_warn(source: Path, columns: str, bad_rows: float, loss_unit: str) -> "RunTable":
    """Read the runs of a file, losses in nats; log the rows left out and the warnings.

    Args:
        source: file of runs.
        columns: columns of the file by field, like params=N,tokens=D.
        bad_rows: largest tolerated share of unreadable rows, 0 to 1.
        loss_unit: nats, bits or ppl.

    Raises:
        BadInput: there is no such file, or more rows are unreadable than tolerated.
    """
    from ..runs.readers import check_loss_unit, parse_columns, read_runs

    runs = read_runs(
        source,
        column_names=parse_columns(columns),
        max_bad_share=bad_rows,
        loss_unit=check_loss_unit(loss_unit),
    )
    for line in runs.bad:
        log(f"left out {line}")
    for line in runs.warnings:
        log(f"note: {line}")
    return runs


M = TypeVar("M", bound=BaseModel)


def merge(model: type[M], words: Sequence[str], **given: Any) -> M:
    """Build a pydantic model from key=value words and the fields `given` besides.

    Raises:
        BadInput: with the key, its value and what is allowed.
    """
    values = pairs(words, [name for name in model.model_fields if name not in given])
    try:
        return model.model_validate({**values, **given})
    except ValidationError as error:
        problem = error.errors()[0]
        if problem["type"] == "missing":
            raise BadInput(f"{problem['loc'][0]}= is missing; it is required") from error
        raise BadInput(first_problem(error)) from error
