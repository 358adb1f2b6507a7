"""The ledger: an append-only book of the work that was really done, counted in the training loop."""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from families.errors import BadInput

from .files import Record, append_line, check_kind, first_problem, now, read_text
from .gather import part_lines, parts

LEDGER_VERSION = 1


class Work(Record):
    """Steps trained and kept. `part` is "trunk" or "rung-TOKENS"; `flops` are exact training FLOPs."""

    run: str
    part: str
    from_step: int
    to_step: int
    tokens: int
    flops: float
    wall_s: float
    settings_sha256: str
    at: str


def book(path: Path, work: Work) -> None:
    """Append one entry to a ledger.jsonl, which opens with its kind and version."""
    opening = json.dumps({"kind": "ledger", "version": LEDGER_VERSION, "created_at": now(), "inputs": {}})
    append_line(path, work.model_dump_json(), first=opening)


def read_ledger(path: Path) -> tuple[Work, ...]:
    """All entries of a ledger.jsonl; of a study's, its runs' own ledgers with it, by run.

    A last line without its end is still being written and passed over.

    Raises:
        BadInput: no such file, a newer version, or a broken line, which is named.
    """
    files = [part for part in parts(path) if part.exists()]
    entries = _entries(read_text(path).split("\n")[:-1], path) if path.exists() or not files else []
    for part in files:
        entries += _entries(part_lines(part), part)
    return tuple(entries)


def _entries(lines: Sequence[str], path: Path) -> list[Work]:
    entries = []
    for number, row in _rows(lines, path):
        try:
            entries.append(Work.model_validate(row))
        except ValidationError as error:
            raise BadInput(f"{path} line {number}: {first_problem(error)}") from error
    return entries


def read_totals(path: Path) -> tuple[Work, ...]:
    """The work of each part of each run as one entry: from its first step to its last, tokens, FLOPs and seconds added up.

    For a ledger of any length: a million rows take seconds, and the memory of their totals.

    Raises:
        BadInput: as `read_ledger`.
    """
    files = [part for part in parts(path) if part.exists()]
    totals: dict[tuple[str, str], dict[str, Any]] = {}
    for file in [path, *files] if path.exists() or not files else files:
        try:
            with file.open(encoding="utf-8", errors="replace") as lines:
                _add_up(lines, file, totals)
        except OSError as error:
            raise BadInput(f"cannot read {file}: {error.strerror}") from error
    try:
        return tuple(Work.model_validate(total) for total in totals.values())
    except ValidationError as error:
        raise BadInput(f"{path} has a run whose entries do not add up: {first_problem(error)}") from error


def _add_up(lines: Iterable[str], path: Path, totals: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Into `totals`, an entry's fields by run and part; of each part the first entry is checked in full, of the others
    that they add up.
    """
    whole = takewhile(lambda line: line.endswith("\n"), lines)  # the last may still be being written
    for number, row in _rows(whole, path):
        try:
            total = totals.get((row["run"], row["part"]))
            if total is None:
                work = Work.model_validate(row)
                totals[work.run, work.part] = work.model_dump()
                continue
            total["from_step"] = min(total["from_step"], row["from_step"])
            total["to_step"] = max(total["to_step"], row["to_step"])
            total["tokens"] += row["tokens"]
            total["flops"] += row["flops"]
            total["wall_s"] += row["wall_s"]
            total["settings_sha256"] = row["settings_sha256"]
            total["at"] = row["at"]
        except ValidationError as error:
            raise BadInput(f"{path} line {number}: {first_problem(error)}") from error
        except (KeyError, TypeError) as error:
            raise BadInput(f"{path} line {number}: it is no entry of a ledger: {error}") from error


def _rows(lines: Iterable[str], path: Path) -> Iterator[tuple[int, Any]]:
    """(number of the line, its JSON) of each entry; the first line says what file this is."""
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInput(f"{path} line {number}: it is not JSON: {error.msg}") from error
        if number == 1:
            check_kind(row, "ledger", LEDGER_VERSION, str(path))
        else:
            yield number, row


def booked_flops(entries: tuple[Work, ...], run: str | None = None) -> float:
    """Training FLOPs booked, of one run or of all."""
    return sum(entry.flops for entry in entries if run is None or entry.run == run)
