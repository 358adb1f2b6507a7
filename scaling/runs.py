"""Run: one observation of a training run, the contract between whoever makes runs and whoever learns from them."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from families.errors import BadInput
from families.units import nearest, parse_size

from .doubts import doubts_of
from .files import Record, append_line, check_kind, first_problem, now, read_text
from .gather import append_new, gather, merged_text
from .headers import LossUnit, check_named, in_nats, missing_columns, renamed, run_column, unit_doubt
from .trackers import is_tracker, tracker_rows

RUNS_VERSION = 1
Convention = Literal["total", "non_embedding"]


class Run(Record):
    """One observation (docs/formats.md). Losses are in nats per token; rows of one training run share `run`."""

    run: str = Field(min_length=1)
    group: str = ""
    params: float | None = Field(default=None, gt=0)
    params_non_embedding: float | None = Field(default=None, gt=0)
    tokens: float = Field(gt=0)
    loss: float = Field(gt=0)
    unique_tokens: float | None = Field(default=None, gt=0)
    compute: float | None = Field(default=None, gt=0)
    compute_kind: Literal["exact", "6ND"] | None = None
    annealed: bool = True
    schedule: str = ""
    loss_se: float | None = Field(default=None, ge=0)
    seed: int | None = None
    eval_set: str = ""
    n_positions: int | None = Field(default=None, gt=0)
    vocab_size: int | None = Field(default=None, gt=0)
    batch_tokens: float | None = Field(default=None, gt=0)
    lr: float | None = Field(default=None, gt=0)
    n_layer: int | None = Field(default=None, gt=0)
    n_embd: int | None = Field(default=None, gt=0)
    n_head: int | None = Field(default=None, gt=0)
    wall_s: float | None = Field(default=None, ge=0)
    accelerator: str = ""

    @model_validator(mode="after")
    def _one_size(self) -> "Run":
        if self.params is None and self.params_non_embedding is None:
            raise ValueError("params and params_non_embedding are both missing; one of the two is needed")
        return self


_FIELDS = tuple(Run.model_fields)
_SIZES = ("params", "params_non_embedding", "tokens", "unique_tokens", "compute", "batch_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Runs as arrays of shape (n,), in the order of the rows.

    N by `convention`; D tokens; U distinct tokens; C training FLOPs; L nats per token; se its standard error (NaN where
    unknown); cluster numbers rows of one training run alike; annealed is false for a point in mid-schedule.
    """

    N: NDArray[np.float64]
    D: NDArray[np.float64]
    U: NDArray[np.float64]
    C: NDArray[np.float64]
    L: NDArray[np.float64]
    se: NDArray[np.float64]
    cluster: NDArray[np.intp]
    annealed: NDArray[np.bool_]
    convention: Convention

    def __len__(self) -> int:
        return len(self.N)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a reader made of a file: the good rows, what it left out and why."""

    runs: tuple[Run, ...]
    bad: tuple[str, ...] = ()  # "line 7: loss is -1: …"
    doubts: tuple[str, ...] = ()  # what looks wrong, and was read all the same
    ignored_columns: tuple[str, ...] = ()


def convention_of(runs: Sequence[Run]) -> Convention:
    """ "total" where every row has `params`, else "non_embedding" where every row has that.

    Raises:
        BadInput: some rows have only the one and some only the other.
    """
    if all(run.params is not None for run in runs):
        return "total"
    if all(run.params_non_embedding is not None for run in runs):
        return "non_embedding"
    raise BadInput(
        "some rows count params and others only params_non_embedding; one law needs one convention in every row"
    )


def columns(runs: Sequence[Run], convention: Convention | None = None) -> Columns:
    """Runs as arrays, N counted by `convention` (default: total where every row has it).

    Raises:
        BadInput: no rows, or a row without N in that convention.
    """
    if not runs:
        raise BadInput("there are 0 runs; at least 1 is needed")
    convention = convention or convention_of(runs)
    field = "params" if convention == "total" else "params_non_embedding"
    for run in runs:
        if getattr(run, field) is None:
            raise BadInput(f"run {run.run!r} has no {field}, which the convention {convention!r} counts")
    numbers = {name: index for index, name in enumerate(dict.fromkeys(run.run for run in runs))}

    def array(values: Iterable[float]) -> NDArray[np.float64]:
        return np.fromiter(values, dtype=np.float64, count=len(runs))

    return Columns(
        N=array(getattr(run, field) for run in runs),
        D=array(run.tokens for run in runs),
        U=array(run.tokens if run.unique_tokens is None else run.unique_tokens for run in runs),
        C=array(compute_of(run) for run in runs),
        L=array(run.loss for run in runs),
        se=array(math.nan if run.loss_se is None else run.loss_se for run in runs),
        cluster=np.fromiter((numbers[run.run] for run in runs), dtype=np.intp, count=len(runs)),
        annealed=np.fromiter((run.annealed for run in runs), dtype=np.bool_, count=len(runs)),
        convention=convention,
    )


def compute_of(run: Run) -> float:
    """Training FLOPs; 6·N·D where the row does not say."""
    if run.compute is not None:
        return run.compute
    size = run.params if run.params is not None else run.params_non_embedding
    assert size is not None
    return 6 * size * run.tokens


def by_group(runs: Sequence[Run]) -> dict[str, tuple[Run, ...]]:
    """Runs of each group, groups in the order they first appear: one law per group."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    return {name: tuple(members) for name, members in groups.items()}


def read_runs(
    path: Path | str,
    *,
    column_names: Mapping[str, str] | None = None,
    max_bad_share: float = 0.0,
    least: int = 1,
    loss_unit: LossUnit = "nats",
) -> Reading:
    """Read runs from .jsonl, .csv, a trainer_state.json, a TensorBoard event file, or a folder of the latter two.

    A study's runs.jsonl is read with the observations in its run folders, whether or not they have been gathered.

    Args:
        column_names: our field to the file's column, where the names differ: {"params": "N", "tokens": "D"}.
        max_bad_share: the share of bad rows that is tolerated; they are left out and named in `bad`.
        loss_unit: of the file's losses, per token; they are converted to nats.
        least: rows without which it is refused; 0 for a study that may have none yet.

    Raises:
        BadInput: no such file, a newer version, an unknown field or a column that is not there in `column_names`, no rows,
            or too many bad ones. A last line that is being written is named in `bad` and never too many.
    """
    path = Path(path)
    if not 0 <= max_bad_share <= 1:
        raise BadInput(f"bad rows is {max_bad_share:g}; it must be a share from 0 to 1, like 0.05 for 5 %")
    names = dict(column_names or {})
    for ours in names:
        if ours not in _FIELDS:
            raise BadInput(f"columns names {ours!r}; {nearest(ours, _FIELDS)}")
    rows = list(_rows(path))
    there = _values(row for _, row in rows if not isinstance(row, str))
    if there:
        check_named(names, there, path)
    given = renamed(dict.fromkeys(there), names)
    lone = bool(given) and "run" not in given
    sources: list[object] = []
    runs: list[Run] = []
    bad: list[str] = []
    torn = 0  # of a file that grows while it is read; it is said, and no reason to refuse the rest
    for line, row in rows:
        torn += row == _TORN
        if isinstance(row, str):
            bad.append(f"line {line}: {row}")
            continue
        values = renamed(row, names) | ({"run": f"row {line}"} if lone else {})
        try:
            runs.append(_run(in_nats(values, loss_unit)))
            sources.append(row)
        except ValidationError as error:
            bad.append(f"line {line}: {first_problem(error)}")
        except BadInput as error:
            bad.append(f"line {line}: {error}")
    total = len(runs) + len(bad) - torn
    if total < least:
        raise BadInput(f"{path} has {total} runs; at least {least} {'is' if least == 1 else 'are'} needed")
    constant = [name for name, values in there.items() if len(values) == 1 < len(rows)]
    if given and not runs and (missing := missing_columns(given, _FIELDS, constant)):
        raise BadInput(f"{path} {missing}")
    if len(bad) - torn > max_bad_share * total:
        more = f" (and {len(bad) - 1} more of {total} rows)" if len(bad) > 1 else ""
        raise BadInput(f"{path} {bad[0]}{more}; at most {max_bad_share:.0%} of rows may be bad")
    doubts = [unit_doubt(names.get("loss"), loss_unit), *doubts_of(runs, sources)]
    if lone:
        like = run_column(given, _FIELDS, constant)
        doubts.insert(
            0,
            f"no column run: each row counts as a run of its own; --columns run={like or 'NAME'} says which share one",
        )
    return Reading(
        runs=tuple(runs),
        bad=tuple(bad),
        doubts=tuple(filter(None, doubts)),
        ignored_columns=tuple(name for name in given if name not in _FIELDS),
    )


def _values(rows: Iterable[Mapping[str, Any]]) -> dict[str, set[str]]:
    """Each column, and two of its values at most: whether it is constant."""
    found: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.items():
            values = found.setdefault(name, set())
            if len(values) < 2:
                values.add(str(value))
    return found


def _rows(path: Path) -> Iterable[tuple[int, dict[str, Any] | str]]:
    if is_tracker(path):
        return tracker_rows(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return _csv_rows(read_text(path))
    return _jsonl_rows(merged_text(path), str(path))


def parse_columns(text: str) -> dict[str, str]:
    """ "params=N,tokens=D" as our field to the file's column.

    Raises:
        BadInput: a part without "=", an unknown field, or one given twice.
    """
    names: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        ours, equals, theirs = (word.strip() for word in part.partition("="))
        if not (equals and theirs):
            raise BadInput(f"columns has {part!r}; it must be like params=N,tokens=D")
        if ours not in _FIELDS:
            raise BadInput(f"columns names {ours!r}; {nearest(ours, _FIELDS)}")
        if ours in names:
            raise BadInput(f"columns names {ours} twice: {names[ours]!r} and {theirs!r}")
        names[ours] = theirs
    return names


_TORN = "it has no line end and is not JSON: it is being written, or was cut off"


def _run(row: Mapping[str, Any]) -> Run:
    values = {name: value for name, value in row.items() if name in _FIELDS and value not in (None, "")}
    for name in _SIZES:
        if isinstance(values.get(name), str):
            values[name] = parse_size(values[name], name)
    return Run.model_validate(values)


def _csv_rows(text: str) -> Iterable[tuple[int, dict[str, Any] | str]]:
    sample = text[:4096]
    reader = csv.reader(io.StringIO(text), delimiter="\t" if "\t" in sample.split("\n")[0] else ",")
    header = [name.strip() for name in next(reader, [])]
    for row in reader:
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            yield reader.line_num, f"it has {len(row)} cells where the header has {len(header)}"
        else:
            yield reader.line_num, dict(zip(header, (cell.strip() for cell in row), strict=True))


def _jsonl_rows(text: str, name: str) -> Iterable[tuple[int, dict[str, Any] | str]]:
    lines = text.split("\n")  # the last is empty where the file is whole
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                yield number, _TORN
                continue
            yield number, f"it is not JSON: {error.msg} at column {error.colno}"
            continue
        if not isinstance(value, dict):
            yield number, f"it is not a JSON object but {type(value).__name__}"
        elif "kind" in value:
            check_kind(value, "runs", RUNS_VERSION, name)
        else:
            yield number, value


def _opening() -> str:
    return json.dumps({"kind": "runs", "version": RUNS_VERSION, "created_at": now(), "inputs": {}})


def append_run(path: Path, run: Run) -> None:
    """Append one observation to a runs.jsonl, which opens with its kind and version."""
    append_line(path, run.model_dump_json(exclude_none=True), first=_opening())


def record_run(path: Path, run: Run) -> None:
    """Append an observation unless it is there already: the same run, tokens, eval set and schedule.

    A half-written last line, which a crash can leave, does not count; appending cuts it off.
    """
    append_new(path, run.model_dump_json(exclude_none=True), first=_opening())


def gather_runs(path: Path) -> None:
    """Bring a study's runs.jsonl up to date with the observations in its run folders.

    Raises:
        BadInput: a run's own file is broken, or the study cannot be written.
    """
    gather(path, _opening())
