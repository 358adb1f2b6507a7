"""What all verbs share: options of one spelling, and one way to print a table, a line or a JSON object."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

WIDTH = 100  # columns of what is printed, at most


def readable_study(folder: Path | None) -> Path | None:
    """Refuse, before anything else is done, a study that a newer version wrote."""
    if folder is not None and (folder / "study.json").exists():
        from ..study import open_study

        open_study(folder)
    return folder


StudyOption = Annotated[Path, typer.Option("--study", callback=readable_study, help="The study's folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
VocabOption = Annotated[str, typer.Option("--vocab", help="Vocabulary size.")]
ContextOption = Annotated[str, typer.Option("--context", help="Context length, n_positions.")]
HeadSizeOption = Annotated[int, typer.Option("--head-size", help="n_embd per attention head.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Go ahead without asking.")]


def _version(value: bool) -> None:
    if value:
        from scaling import __version__

        print(f"scaling {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Plan, train and check language models with scaling laws.

    The flow: design, train, fit, plan, seal, train, compare, report. `scaling demo` walks it in about five minutes.
    """


def print_json(value: Any) -> None:
    """One object on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Aligned text, two spaces between columns: the first `left` columns to the left, the rest to the right."""
    cells = [list(headers), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    lines = [
        "  ".join(
            c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def fitting_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str], *, left: int = 1
) -> str:
    """The table; where it would be wider than WIDTH, without as many of the `spare` columns, in their order, as it takes."""
    kept, gone = table(headers, rows, left=left), 0
    while gone < len(spare) and len(kept.partition("\n")[2].partition("\n")[0]) > WIDTH:
        gone += 1
        places = [place for place, name in enumerate(headers) if name not in spare[:gone]]
        kept = table(
            [headers[place] for place in places],
            [[row[place] for place in places] for row in rows],
            left=left,
        )
    return kept


def say(line: str = "") -> None:
    """One line on standard output."""
    print(line)


def note(line: str) -> None:
    """One line on standard error: progress and warnings. On a terminal it takes the place of a progress line."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")  # to the line's beginning, and erase it
    print(line, file=sys.stderr, flush=True)
