"""scaling table RUNS…: finished runs as the table in which people report fine-tuning."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..files import write_whole
from ..overwriting import check_opening
from .show import JsonOption, YesOption, print_json, say
from .show import table as aligned

EPILOG = "Example: scaling table study/runs/gpt2-ft-s0 study/runs/gpt2-medium-ft-s0 --format md"


def table(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, of rungs, or whole studies.")],
    form: Annotated[Literal["text", "md", "csv"], typer.Option("--format", help="How to print it.")] = "text",
    every: Annotated[bool, typer.Option("--all", help="Every rung, not only the longest of a run.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write it to this file besides.")] = None,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Print finished runs: dataset, context, model, batch, training, validation and adjusted loss, best epoch, run."""
    from train.summary import SHORT, as_csv, markdown, rows

    found = rows(runs, every=every)
    if form == "md":
        text = markdown(found)
    elif form == "csv":
        text = as_csv(found)
    else:
        text = aligned(SHORT, [row.cells() for row in found])
    if out is not None:
        check_opening(out, text.split("\n")[0], "such a table", replace=yes)
        write_whole(out, text + "\n")
    if as_json:
        print_json({"rows": [row.model_dump(mode="json") for row in found]})
    else:
        say(text)
