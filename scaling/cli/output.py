"""Output and options that all verbs share: tables, lines, JSON objects and progress lines."""

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

WIDTH = 100  # columns of printed output, at most
PROGRESS_WIDTH = 140  # columns of a progress line, at most
LOG_SECONDS = 10.0  # between progress lines where standard error is not a terminal
REDRAW_SECONDS = 0.2  # between updates of a progress line on a terminal


def readable_study(folder: Path | None) -> Path | None:
    """Refuse a study that was written by a newer version, before anything else is done."""
    if folder is not None and (folder / "study.json").exists():
        from ..paths import open_study

        open_study(folder)
    return folder


StudyOption = Annotated[Path, typer.Option("--study", callback=readable_study, help="Folder of the study.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Random seed.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Proceed, and overwrite files, without confirmation.")]


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

    Workflow: design, train, fit, plan, seal, train, compare, report. `scaling demo` runs it in about five minutes.
    """


def print_json(value: Any) -> None:
    """Print one JSON object on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def loss_and_error(loss: float, error: float | None) -> str:
    """Format a loss with its standard error; a single window has none."""
    return f"{loss:.4f} ± {error:.4f}" if error else f"{loss:.4f} ± –"


def format_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Align a table with two spaces between columns; the first `left` columns to the left, the rest to the right."""
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
    headers: Sequence[str], rows: Sequence[Sequence[str]], optional: Sequence[str], *, left: int = 1
) -> str:
    """Align a table within WIDTH columns of text, leaving out columns where it would be wider.

    Args:
        headers: headings of the columns.
        rows: cells, one sequence for each row.
        optional: headings of columns that may be left out, the least important first.
        left: number of columns aligned to the left.
    """
    text, left_out = format_table(headers, rows, left=left), 0
    while left_out < len(optional) and len(text.partition("\n")[2].partition("\n")[0]) > WIDTH:
        left_out += 1
        kept = [place for place, name in enumerate(headers) if name not in optional[:left_out]]
        text = format_table(
            [headers[place] for place in kept], [[row[place] for place in kept] for row in rows], left=left
        )
    return text


def echo(line: str = "") -> None:
    """Print one line on standard output."""
    print(shown(line))


def log(line: str) -> None:
    """Print one line on standard error, in place of the progress line on a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")  # to the line's beginning, and erase it
    print(shortened(shown(line)), file=sys.stderr, flush=True)


def fitted(text: str, tail: str, width: int) -> str:
    """Join a text and its tail in one line of at most `width` columns; the text is cut, not the tail."""
    if not tail:
        return text[:width]
    return f"{text[: max(0, width - len(tail) - 2)]}  {tail}"[:width]


class Progress:
    """Progress line on standard error, with the time left at the speed so far; any unit of work.

    Args:
        elsewhere: also write a line every few seconds where standard error is not a terminal, as long training needs.
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

    def at(self, done: float, total: float, text: str, fresh: bool = True) -> None:
        """Update the line.

        Args:
            done: work done.
            total: all of the work; another total begins a new measurement of speed.
            text: the current step.
            fresh: the work since the last call was done now; False leaves it out of the speed, as after a resume.
        """
        if total != self.total or done < self.done:  # another piece of work begins
            # The time it took to get here is unknown: the speed is measured from here on.
            self.total, self.done, self._from, self._began = total, done, done, time.monotonic()
        if not fresh:
            self._from += max(0.0, done - self.done)
        self.done = done
        if self._silent:
            return
        now = time.monotonic()
        if now - self._shown < (REDRAW_SECONDS if self._live else LOG_SECONDS):
            return
        self._shown = now
        self._write(text, now)

    def end(self) -> None:
        """Erase the line."""
        if self._live and self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()

    def _write(self, text: str, now: float) -> None:
        fresh = self.done - self._from
        left = (self.total - self.done) * (now - self._began) / fresh if fresh > 0 else None
        share = min(1.0, self.done / self.total) if self.total else 1.0
        tail = f"about {format_duration(max(0.0, left))} left" if left is not None else ""
        width = min(PROGRESS_WIDTH, shutil.get_terminal_size().columns - 1) if self._live else PROGRESS_WIDTH
        line = fitted(f"{share:4.0%}  {text}", tail, width)
        if self._live:
            sys.stderr.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()


def export_models(study: Path, rungs: Any, url: str | None) -> None:
    """Copy the models of the runs that have these rungs to a URL, and log where they are; None copies nothing."""
    if url is None:
        return
    from train.data.remote import export_runs

    for place in export_runs(study, [rung.observation.run for rung in rungs], url):
        log(f"exported {place}")
