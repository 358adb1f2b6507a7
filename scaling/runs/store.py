"""The append-only store of a study: runs.jsonl (observations) and ledger.jsonl (work done), one shard per run.

A study may lie on a network file system, with runs on many machines, and there is no lock that a dead machine could hold:
each run writes only its shards runs/NAME/runs.jsonl and runs/NAME/ledger.jsonl. The study's own runs.jsonl is a view: the
rows that a person put there and those of the shards, rewritten whole by `gather_runs`. A view that is behind loses
nothing, since readers merge the shards again. Each row of a shard names it there as its origin, and goes when its run
folder goes; a broken line of a shard is left out and named.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import SerializerFunctionWrapHandler, ValidationError, model_serializer

from families.units import BadInput, parse_size

from ..files import (
    Record,
    StrPath,
    append_line,
    atomic_write,
    check_file,
    check_kind,
    first_problem,
    now,
    read_text,
    sha256_bytes,
)
from ..untrusted import parse_json
from .run import RUNS_VERSION, Run

RUNS = "runs.jsonl"
LEDGER = "ledger.jsonl"
SHARDS = "runs"  # the folder of the run folders
LEDGER_VERSION = 2  # of version 1, entries do not hold the hash of the line before

ORIGIN = (
    "origin"  # key of a row of a study: "runs/NAME" for a run's own row, else the name of the imported file
)

_TRIES = 5  # at replacing a view that another process is changing

Key = tuple[str, float, str, str]  # run, tokens, eval set, schedule


class WorkEntry(Record):
    """Steps trained and kept. `part` is "trunk" or "rung-TOKENS"; `flops` are exact training FLOPs.

    Args:
        result: hash of the observation (`Run.row_hash`) with which the part ended; such an entry has no steps.
        previous: SHA-256 of the ledger's line before this one; "" in ledgers of 0.1.0.
    """

    run: str
    part: str
    from_step: int
    to_step: int
    tokens: int
    flops: float
    wall_s: float
    settings_sha256: str
    at: str
    result: str = ""
    previous: str = ""

    @model_serializer(mode="wrap")
    def _as_before(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is empty: the seals of older checkpoints cover entries without these fields."""
        fields: dict[str, Any] = whole(self)
        return {name: value for name, value in fields.items() if value or name not in ("result", "previous")}


def exists(path: StrPath) -> bool:
    """Return True if a study's runs.jsonl or ledger.jsonl, or a shard of it, exists."""
    path = Path(path)
    return path.exists() or any(shard.exists() for shard in _shards(path))


def append_run(path: StrPath, run: Run) -> None:
    """Append an observation to a runs.jsonl; a new file opens with its kind and version."""
    append_line(path, run.model_dump_json(exclude_none=True), first=_opening("runs", RUNS_VERSION))


def record_run(path: StrPath, run: Run) -> None:
    """Append an observation to a run's shard unless it is there: the same run, tokens, eval set and schedule.

    A half-written last line, which a crash can leave, does not count and is cut off; a broken line stays as it is.

    Raises:
        BadInput: the shard cannot be written.
    """
    path = Path(path)
    if run_key(run.model_dump()) not in {key for key, _ in _shard_rows(path)}:
        append_run(path, run)


def gather_runs(path: StrPath) -> None:
    """Bring a study's runs.jsonl up to date with the observations in its run folders.

    Two processes that gather at once both write a valid view; a row that a person adds meanwhile is kept.

    Raises:
        BadInput: the study cannot be written.
    """
    path = Path(path)
    check_file(path)
    for _ in range(_TRIES):
        before = path.read_bytes() if path.exists() else None
        text = merged_text(path) if before is not None or _merged_rows(path)[0] else ""
        if not text or text.encode() == before:
            return
        if before is None:
            text = f"{_opening('runs', RUNS_VERSION)}\n{text}"
        if (path.read_bytes() if path.exists() else None) == before:
            atomic_write(path, text)
            return


def merged_text(path: Path) -> str:
    """The text of a study's runs.jsonl merged with its shards: rows that a person added, then each run's observations.

    Raises:
        BadInput: the file cannot be read.
    """
    return merged_lines(path)[0]


def merged_lines(path: Path) -> tuple[str, list[str]]:
    """The text of `merged_text`, and the lines of shards that are no observations, each with its file and its fault.

    Raises:
        BadInput: the file cannot be read.
    """
    observed, faults = _merged_rows(path)
    runs = path.parent / SHARDS
    text = read_text(path) if path.exists() or not (observed or faults) else ""
    if not observed and ORIGIN not in text:
        return text, faults
    kept = []
    for line in (lines := text.splitlines(keepends=True)):
        try:
            row = parse_json(line)
        except json.JSONDecodeError:
            if line is lines[-1] and not line.endswith("\n"):
                continue  # half of a line that a crash cut off; other rows would follow it
            row = None  # a person's slip, which `read_runs` names
        if not (isinstance(row, dict) and (run_key(row) in observed or _deleted(row, runs))):
            kept.append(line.removesuffix("\n"))
    return "".join(f"{line}\n" for line in (*kept, *observed.values())), faults


def _deleted(row: dict[str, Any], runs: Path) -> bool:
    """True for the row of a run whose folder was deleted; a copy of the view alone, without run folders, keeps all."""
    folder, _, name = str(row.get(ORIGIN, "")).partition("/")
    return (
        folder == SHARDS and bool(name) and "/" not in name and runs.is_dir() and not (runs / name).exists()
    )


def imported_text(path: StrPath, runs: Iterable[Run], origin: str) -> str:
    """The text of a study's runs.jsonl with the rows of a table in it, in place of those of an earlier import of it.

    Args:
        path: the study's runs.jsonl, which may not exist yet; it is not written.
        runs: the rows of the table.
        origin: name of the table's file; it stands in each row, and is how a later import finds them.

    Raises:
        BadInput: the study's file cannot be read.
    """
    path = Path(path)
    observed, _ = _merged_rows(path)
    lines = merged_text(path).splitlines() if path.exists() or observed else []
    if not path.exists():
        lines = [_opening("runs", RUNS_VERSION), *lines]
    others = [line for line in lines if not _has_origin(line, origin)]
    own = [json.dumps({**_stated(run), ORIGIN: origin}) for run in runs]
    start = len(others) - len(observed)  # each run's own observations stand last, as a view has them
    return "".join(f"{line}\n" for line in (*others[:start], *own, *others[start:]))


def _stated(run: Run) -> dict[str, Any]:
    return {
        name: value for name, value in run.model_dump(mode="json", exclude_none=True).items() if value != ""
    }


def _has_origin(line: str, origin: str) -> bool:
    if ORIGIN not in line:
        return False
    try:
        row = parse_json(line)
    except json.JSONDecodeError:
        return False
    return isinstance(row, dict) and row.get(ORIGIN) == origin


def run_key(row: dict[str, Any]) -> Key | None:
    """Key of the observation that a row holds: rows of the same run, tokens, eval set and schedule are one observation.

    None for a row that names no run or whose tokens are not a number: it is never merged with another.
    """
    tokens = row.get("tokens")
    if isinstance(tokens, str):
        try:
            tokens = parse_size(tokens, "tokens")
        except BadInput:
            return None
    if not row.get("run") or isinstance(tokens, bool) or not isinstance(tokens, int | float):
        return None
    if not math.isfinite(tokens):
        return None
    return str(row["run"]), float(tokens), str(row.get("eval_set") or ""), str(row.get("schedule") or "")


def append_entry(path: StrPath, work: WorkEntry, *, opening: Mapping[str, Any] | None = None) -> str:
    """Append an entry to a ledger.jsonl, chained to the line before it (`scaling.runs.chain`).

    Args:
        path: the ledger; a new one opens with its kind and version.
        work: the entry; its `previous` is filled in.
        opening: what a new ledger's first line says besides: the seal and the settings of the run.

    Returns:
        SHA-256 of the line.
    """
    written: list[str] = []

    def line(before: bytes) -> str:
        chained = work.model_copy(update={"previous": sha256_bytes(before)})
        written.append(chained.model_dump_json())
        return written[0]

    append_line(path, line, first=_opening("ledger", LEDGER_VERSION, **(opening or {})))
    return sha256_bytes(written[0].encode())


def read_ledger(path: StrPath) -> tuple[WorkEntry, ...]:
    """All entries of a ledger.jsonl and of the shards beside it, by run.

    A last line without its end is still being written, and is skipped.

    Raises:
        BadInput: no such file, a newer version, or a broken line, which is named.
    """
    path = Path(path)
    shards = [shard for shard in _shards(path) if shard.exists()]
    entries = []
    if path.exists() or not shards:
        entries = [*_entries(read_text(path).split("\n")[:-1], path)]
    for shard in shards:
        entries += _entries(_whole_lines(shard), shard)
    return tuple(entries)


def read_totals(path: StrPath) -> tuple[WorkEntry, ...]:
    """The work of each part of each run as one entry: first to last step, with tokens, FLOPs and seconds summed.

    Streams the ledger: a million rows take seconds, and the memory of their totals.

    Raises:
        BadInput: as `read_ledger`.
    """
    path = Path(path)
    shards = [shard for shard in _shards(path) if shard.exists()]
    totals: dict[tuple[str, str], dict[str, Any]] = {}
    for file in [path, *shards] if path.exists() or not shards else shards:
        check_file(file)
        try:
            with file.open(encoding="utf-8", errors="replace") as lines:
                _add_up(lines, file, totals)
        except OSError as error:
            raise BadInput(f"cannot read {file}: {error.strerror}") from error
    try:
        return tuple(WorkEntry.model_validate(total) for total in totals.values())
    except ValidationError as error:
        raise BadInput(f"{path} has a run whose entries do not add up: {first_problem(error)}") from error


def _opening(kind: str, version: int, **more: Any) -> str:
    return json.dumps({"kind": kind, "version": version, "created_at": now(), "inputs": {}, **more})


def _shards(path: Path) -> list[Path]:
    """Shards of a study's runs.jsonl or ledger.jsonl, runs/*/NAME, by run; none of any other file."""
    if path.name not in (RUNS, LEDGER):
        return []
    try:
        names = sorted(entry.name for entry in (path.parent / SHARDS).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path.parent / SHARDS / name / path.name for name in names if not name.startswith(".")]


def _whole_lines(shard: Path) -> list[str]:
    """Lines of a shard up to the last line end: another machine may be writing the rest. None where it does not exist."""
    check_file(shard)
    try:
        data = shard.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise BadInput(f"cannot read {shard}: {error.strerror}") from error
    return data[: data.rfind(b"\n") + 1].decode("utf-8", errors="replace").splitlines()


def _shard_rows(shard: Path) -> Iterator[tuple[Key | None, str]]:
    """(key, line) of each observation in a shard; without a key, what is wrong with a line."""
    try:
        lines = _whole_lines(shard)
    except BadInput as error:
        yield None, str(error)
        return
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except json.JSONDecodeError as error:
            yield None, f"{shard} line {number}: it is not JSON: {error.msg}"
            continue
        if not isinstance(row, dict):
            yield None, f"{shard} line {number}: it is not a JSON object but {type(row).__name__}"
            continue
        if "kind" in row:
            continue
        key = run_key(row)
        if key is None:
            stated = ", ".join(f"{name} {row.get(name)!r}" for name in ("run", "tokens"))
            yield None, f"{shard} line {number}: {stated}; a row needs a run and a number of tokens"
            continue
        yield key, line


def _merged_rows(path: Path) -> tuple[dict[Key, str], list[str]]:
    """Lines of all shards of a runs.jsonl, in the order of run, tokens and eval set, of equal keys the first; and faults."""
    rows: dict[Key, str] = {}
    faults: list[str] = []
    for shard in _shards(path):
        origin = f"{SHARDS}/{shard.parent.name}"
        for key, line in _shard_rows(shard):
            if key is None:
                faults.append(line)
            else:
                rows.setdefault(key, f"{line.rstrip()[:-1]},{json.dumps(ORIGIN)}:{json.dumps(origin)}}}")
    return dict(sorted(rows.items())), faults


def _entries(lines: Iterable[str], path: Path) -> Iterator[WorkEntry]:
    for number, row in _ledger_rows(lines, path):
        try:
            yield WorkEntry.model_validate(row)
        except ValidationError as error:
            raise BadInput(f"{path} line {number}: {first_problem(error)}") from error


def _add_up(lines: Iterable[str], path: Path, totals: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Add a ledger's entries to `totals`, fields by run and part; only the first entry of each part is validated in full."""
    complete = takewhile(lambda line: line.endswith("\n"), lines)  # the last may still be being written
    for number, row in _ledger_rows(complete, path):
        try:
            total = totals.get((row["run"], row["part"]))
            if total is None:
                work = WorkEntry.model_validate(row)
                totals[work.run, work.part] = work.model_dump()
                continue
            total["from_step"] = min(total["from_step"], row["from_step"])
            total["to_step"] = max(total["to_step"], row["to_step"])
            for name in ("tokens", "flops", "wall_s"):
                total[name] += row[name]
            for name in ("settings_sha256", "at"):
                total[name] = row[name]
        except ValidationError as error:
            raise BadInput(f"{path} line {number}: {first_problem(error)}") from error
        except (KeyError, TypeError) as error:
            raise BadInput(f"{path} line {number}: it is not an entry of a ledger: {error}") from error


def _ledger_rows(lines: Iterable[str], path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, JSON value) of each entry; the first line states the file's kind and version."""
    for number, line in enumerate(lines, start=1):
        try:
            row = parse_json(line)
        except json.JSONDecodeError as error:
            raise BadInput(f"{path} line {number}: it is not JSON: {error.msg}") from error
        if number == 1:
            check_kind(row, "ledger", LEDGER_VERSION, str(path))
        else:
            yield number, row
