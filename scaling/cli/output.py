"""What all verbs share: options of one spelling, and one way to print a table, a line or a JSON object."""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from families.units import format_duration

from ..untrusted import shortened, shown

# MERGED DOCSTRINGS
# Progress with time left, on standard error: a line that rewrites itself on a terminal, a line now and then elsewhere.
# Copying finished models to a store.

WIDTH = 100  # columns of what is printed, at most


def readable_study(folder: Path | None) -> Path | None:
    """Refuse, before anything else is done, a study that a newer version wrote."""
    if folder is not None and (folder / "study.json").exists():
        from ..paths import open_study

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
        from ..version import __version__

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


def format_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
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
    kept, gone = format_table(headers, rows, left=left), 0
    while gone < len(spare) and len(kept.partition("\n")[2].partition("\n")[0]) > WIDTH:
        gone += 1
        places = [place for place, name in enumerate(headers) if name not in spare[:gone]]
        kept = format_table(
            [headers[place] for place in places],
            [[row[place] for place in places] for row in rows],
            left=left,
        )
    return kept


def echo(line: str = "") -> None:
    """One line on standard output."""
    print(shown(line))


def log(line: str) -> None:
    """One line on standard error: progress and warnings. On a terminal it takes the place of a progress line."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")  # to the line's beginning, and erase it
    print(shortened(shown(line)), file=sys.stderr, flush=True)


QUIET_SECONDS = 10.0  # between lines where standard error is no terminal

TICK_SECONDS = 0.2

BAR_WIDTH = 140


def fitted(what: str, tail: str, room: int) -> str:
    """One line: what goes on, cut off where the time left would not fit behind it."""
    if not tail:
        return what[:room]
    return f"{what[: max(0, room - len(tail) - 2)]}  {tail}"[:room]


class Progress:
    """Work done of work in all, in any unit; the time left assumes the speed so far.

    Args:
        elsewhere: whether a line is written now and then where standard error is no terminal, as long training needs.
    """

    def __init__(self, elsewhere: bool = True) -> None:
        self.total = 1.0
        self.done = 0.0
        self._began = time.monotonic()
        self._from = 0.0
        self._shown = 0.0
        self._live = sys.stderr.isatty()
        self._silent = not (self._live or elsewhere)
        self._width = 0

    def at(self, done: float, total: float, what: str, fresh: bool = True) -> None:
        """Say where the work is; work that an earlier call had done is not `fresh` and does not count into the speed."""
        if total != self.total or done < self.done:  # another piece of work begins
            # How long it took to get here is not known: the speed is that from here on.
            self.total, self.done, self._from, self._began = total, done, done, time.monotonic()
        if not fresh:
            self._from += max(0.0, done - self.done)
        self.done = done
        if self._silent:
            return
        now = time.monotonic()
        if now - self._shown < (TICK_SECONDS if self._live else QUIET_SECONDS):
            return
        self._shown = now
        self._write(what, now)

    def end(self) -> None:
        """Leave the line."""
        if self._live and self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()

    def _write(self, what: str, now: float) -> None:
        fresh = self.done - self._from
        left = (self.total - self.done) * (now - self._began) / fresh if fresh > 0 else None
        share = min(1.0, self.done / self.total) if self.total else 1.0
        tail = f"about {format_duration(max(0.0, left))} left" if left is not None else ""
        room = min(BAR_WIDTH, shutil.get_terminal_size().columns - 1) if self._live else BAR_WIDTH
        line = fitted(f"{share:4.0%}  {what}", tail, room)
        if self._live:
            sys.stderr.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()


def export_models(study: Path, rungs: Any, url: str | None) -> None:
    """Those of the runs that have these rungs, and say where they are; nothing where no URL was asked for."""
    if url is None:
        return
    from train.data.remote import export_runs

    for place in export_runs(study, [rung.observation.run for rung in rungs], url):
        log(f"exported {place}")
