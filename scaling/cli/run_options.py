"""Options that select and read runs, and key=value arguments checked by a pydantic model."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from families.units import BadInput

from ..files import first_problem
from .keys import pairs
from .output import log

if TYPE_CHECKING:
    from ..fitting.coordinates import Kind
    from ..runs import RunTable

RunsArgument = Annotated[
    Path | None,
    typer.Argument(
        help="A table of runs (.csv, .json, .jsonl, .md, .xlsx, .parquet), a tracker's export, or a folder of "
        "trainer_state.json or TensorBoard files (default: runs.jsonl of the study)."
    ),
]

ConventionOption = Annotated[
    str | None, typer.Option("--convention", help="Parameters that N counts: total, non_embedding or active.")
]

ColumnsOption = Annotated[
    str, typer.Option("--columns", help="Columns of the file by field, like params=N,tokens=D.")
]

BadRowsOption = Annotated[
    float, typer.Option("--bad-rows", help="Largest tolerated share of unreadable rows, 0 to 1.")
]


EvalSetOption = Annotated[
    str | None, typer.Option("--eval-set", help="The eval set to fit, where the runs have several.")
]

LossUnitOption = Annotated[
    str,
    typer.Option(
        "--loss-unit", help="Unit of the losses, per token: nats, bits, ppl, or nats+8.5 to add 8.5."
    ),
]


CoordinatesOption = Annotated[
    str | None,
    typer.Option(
        "--coordinates",
        help="Columns besides N and D that decide the loss, like lr,batch_tokens; none for N and D alone "
        "(default: those that help in rollouts).",
    ),
]

WithOption = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        help="A column of your own as COLUMN, or COLUMN:KIND with multiplier, setting, term or share (of the training data); "
        "COLUMN,COLUMN:KIND for several; repeatable.",
    ),
]


def parse_coordinates(
    coordinates: str | None, own: Sequence[str] | None
) -> tuple[list[str] | None, "dict[str, Kind | None]"]:
    """Parse --coordinates and --with: columns (None for those that rollouts ask for), and kinds of the user's own.

    Raises:
        BadInput: an unknown kind, or a column given twice.
    """
    from ..fitting.columns import own_kind

    kinds: dict[str, Kind | None] = {}
    for text in own or ():
        names, kind = own_kind(text)
        for name in names:
            if name in kinds:
                raise BadInput(f"with names {name!r} twice")
            kinds[name] = kind
    if coordinates is None:
        return None, kinds
    names = [name.strip() for name in coordinates.split(",") if name.strip()]
    return ([] if names == ["none"] else names), kinds


def read_and_warn(
    source: Path,
    columns: str,
    bad_rows: float,
    loss_unit: str,
    annealed: str | None = None,
    own: Sequence[str] = (),
    one_variable: bool = False,
    notes: bool = True,
) -> "RunTable":
    """Read the runs of a file, losses in nats; log the rows left out and the warnings.

    Args:
        source: file of runs.
        columns: columns of the file by field, like params=N,tokens=D.
        bad_rows: largest tolerated share of unreadable rows, 0 to 1.
        loss_unit: nats, bits or ppl.
        own: columns of the user's own to keep.
        one_variable: take a table without sizes, or without tokens, for a law of one variable.
        annealed: "all" counts every row as annealed where the file does not say.
        notes: log the warnings; False where the caller prints them in another way.

    Raises:
        BadInput: there is no such file, or more rows are unreadable than tolerated.
    """
    from ..runs import Run
    from ..runs.readers import check_loss_unit, parse_columns, read_runs

    runs = read_runs(
        source,
        column_names=parse_columns(columns),
        max_bad_share=bad_rows,
        loss_unit=check_loss_unit(loss_unit),
        unstated="all" if annealed == "all" else "last",
        own_columns=[name for name in own if name not in Run.model_fields],
        one_variable=one_variable,
    )
    for line in runs.bad:
        log(f"left out {line}")
    if notes:
        log_notes(runs.warnings)
    return runs


def log_notes(lines: Iterable[str]) -> None:
    """Log the notes of a reader."""
    for line in lines:
        log(f"note: {line}")


def read_curve_or_runs(
    source: Path,
    columns: str,
    bad_rows: float,
    loss_unit: str,
    annealed: str | None = None,
    own: Sequence[str] = (),
    *,
    notes: bool = True,
) -> "RunTable":
    """Read runs as `read_and_warn` does, or the logged curve of a run's own folder; sizes or tokens may be unstated.

    Args:
        source: file of runs, or the folder of one run of `scaling train`.
        columns: columns of the file by field.
        bad_rows: largest tolerated share of unreadable rows, 0 to 1.
        loss_unit: nats, bits or ppl.
        annealed: "all" counts every row as annealed where the file does not say.
        own: columns of the user's own to keep.
        notes: log the warnings; False where the caller prints them in another way.
    """
    from ..monitoring.curves import curve_table, is_run

    if is_run(source):
        table = curve_table(source)
        if notes:
            log_notes(table.warnings)
        return table
    return read_and_warn(source, columns, bad_rows, loss_unit, annealed, own, one_variable=True, notes=notes)


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
