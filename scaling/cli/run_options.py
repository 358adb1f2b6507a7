"""Which runs a verb learns from: the options of one spelling, and how they are read."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from families.units import BadInput, nearest

from ..files import first_problem
from .output import log

if TYPE_CHECKING:
    from ..runs import RunTable


# MERGED DOCSTRINGS
# key=value arguments, merged into a pydantic model: a wrong key or value is one line.

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


def read_and_warn(source: Path, columns: str, bad_rows: float, loss_unit: str) -> "RunTable":
    """The runs of a file, losses in nats; each bad row is said and left out, and what looks wrong is said.

    Raises:
        BadInput: no such file, or more bad rows than are tolerated.
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


def pairs(words: Sequence[str], allowed: Sequence[str]) -> dict[str, str]:
    """["family=gpt2", …] as a dictionary.

    Raises:
        BadInput: a word without "=", an unknown or a repeated key.
    """
    values: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            how = f"write {word}=VALUE" if word in allowed else nearest(word, allowed, 30)
            raise BadInput(f"{word!r} is not key=value; {how}")
        if key not in allowed:
            raise BadInput(f"unknown key {key!r}; {nearest(key, allowed, 30)}")
        if key in values:
            raise BadInput(f"{key} is given twice: {values[key]!r} and {value!r}")
        values[key] = value
    return values


def merge(model: type[M], words: Sequence[str], **given: Any) -> M:
    """A model from key=value words and what is `given` besides.

    Raises:
        BadInput: naming the key, its value and what is allowed.
    """
    values = pairs(words, [name for name in model.model_fields if name not in given])
    try:
        return model.model_validate({**values, **given})
    except ValidationError as error:
        problem = error.errors()[0]
        if problem["type"] == "missing":
            raise BadInput(f"{problem['loc'][0]}= is missing; it is needed") from error
        raise BadInput(first_problem(error)) from error
