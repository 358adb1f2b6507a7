"""Many writers, one study: each run writes only inside its own folder, and readers put the parts together.

A study may lie on a network file system, with runs on many machines. There is no lock that a dead machine could hold:
runs/NAME/runs.jsonl and runs/NAME/ledger.jsonl have one writer each, and the study's own runs.jsonl is a view of them,
rewritten whole, with the rows that a person put there. A view that is behind loses nothing: what reads it merges again.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from families.errors import BadInput

from .files import append_line, read_text, write_whole

RUNS = "runs.jsonl"
LEDGER = "ledger.jsonl"
PARTS = "runs"  # the folder of the run folders
_TRIES = 5  # to replace a view that somebody else is changing

Key = tuple[str, float, str, str]


def parts(path: Path) -> list[Path]:
    """The files that a study's runs.jsonl or ledger.jsonl is made of besides itself: runs/*/NAME, by run."""
    if path.name not in (RUNS, LEDGER):
        return []
    try:
        names = sorted(entry.name for entry in (path.parent / PARTS).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path.parent / PARTS / name / path.name for name in names if not name.startswith(".")]


def written(path: Path) -> bool:
    """Whether a study's runs.jsonl or ledger.jsonl, or a part of it, is there."""
    return path.exists() or any(part.exists() for part in parts(path))


def part_lines(part: Path) -> list[str]:
    """A part's whole lines: one that another machine is just writing is not there yet, and no file is no line."""
    try:
        text = part.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise BadInput(f"cannot read {part}: {error.strerror}") from error
    return text[: text.rfind(b"\n") + 1].decode("utf-8", errors="replace").splitlines()


def key(row: dict[str, Any]) -> Key:
    """What makes two rows one observation: the same run, tokens, eval set and schedule."""
    return (
        str(row.get("run", "")),
        _number(row.get("tokens")),
        str(row.get("eval_set", "")),
        str(row.get("schedule", "")),
    )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def observed(path: Path) -> dict[Key, str]:
    """The lines of the parts of a runs.jsonl, in the order of run, tokens and eval set."""
    found: dict[Key, str] = {}
    for part in parts(path):
        for number, line in enumerate(part_lines(part), start=1):
            row = parse(line, part, number)
            if row and "kind" not in row:
                found.setdefault(key(row), line)
    return dict(sorted(found.items()))


def parse(line: str, path: Path, number: int) -> dict[str, Any]:
    """A line's JSON object; nothing for an empty line.

    Raises:
        BadInput: it is not a JSON object.
    """
    if not line.strip():
        return {}
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadInput(f"{path} line {number}: it is not JSON: {error.msg}") from error
    if not isinstance(row, dict):
        raise BadInput(f"{path} line {number}: it is not a JSON object but {type(row).__name__}")
    return row


def merged_text(path: Path) -> str:
    """The text of a study's runs.jsonl with its parts: what a person put there, then each run's observations."""
    own = observed(path)
    there = read_text(path) if path.exists() or not own else ""
    if not own:
        return there
    kept = []
    for line in (lines := there.splitlines(keepends=True)):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            if line is lines[-1] and not line.endswith("\n"):
                continue  # half of a line that a crash cut off: other lines would stand behind it
            row = None  # a person's slip: kept, and named by whoever reads the rows
        if not (isinstance(row, dict) and key(row) in own):
            kept.append(line.removesuffix("\n"))
    return "".join(f"{line}\n" for line in (*kept, *own.values()))


def gather(path: Path, opening: str) -> None:
    """Rewrite a study's runs.jsonl from its parts, where that changes it. `opening` is the line a new one begins with.

    Two who gather at once both write a good view; a row that a person adds meanwhile is looked for again before the
    view is replaced.

    Raises:
        BadInput: a part is broken, or the folder cannot be written.
    """
    for _ in range(_TRIES):
        before = path.read_bytes() if path.exists() else None
        text = merged_text(path) if before is not None or observed(path) else ""
        if not text or text.encode() == before:
            return
        if before is None:
            text = f"{opening}\n{text}"
        if (path.read_bytes() if path.exists() else None) == before:
            write_whole(path, text)
            return


def append_new(path: Path, line: str, *, first: str) -> None:
    """Append an observation to a file with one writer, unless it holds the same one already."""
    wanted = key(json.loads(line))
    if all(key(row) != wanted for row in _rows(path)):
        append_line(path, line, first=first)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(part_lines(path), start=1):
        yield parse(line, path, number)
