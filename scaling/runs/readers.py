"""What a table's columns are called: which of them are ours, under which names, and in which unit their losses are."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from families.units import BadInput, format_size, nearest, parse_size

from ..files import check_kind, first_problem, read_text
from ..untrusted import parse_csv, parse_json
from . import RUNS_VERSION, Run
from .store import merged_text
from .trackers import is_tracker, tracker_rows

if TYPE_CHECKING:
    from . import Run


# MERGED DOCSTRINGS
# What looks wrong in a table of runs that can be read all the same: sizes in millions, swapped columns, rows twice.

LossUnit = Literal["nats", "bits", "ppl"]

LOSS_UNITS: tuple[LossUnit, ...] = ("nats", "bits", "ppl")

NEEDED = ("params", "tokens", "loss")


_ALIASES = {  # as people name them, letters and digits in lower case; the last of a line that is there counts
    "run": ("experiment", "id", "name", "modelname", "model", "runname", "runid"),
    "params": ("size", "modelsize", "nparams", "numparams", "parameters", "n"),
    "tokens": ("ntokens", "numtokens", "tokensseen", "traintokens", "trainingtokens", "d"),
    "loss": ("trainloss", "testloss", "evalloss", "validationloss", "valloss", "finalloss", "l"),
}

_PER_BYTE = ("bpb", "bitsperbyte", "bitsbyte", "evalbpb", "valbpb")

_UNITS: dict[str, LossUnit] = {
    **dict.fromkeys(("lossbits", "bits", "bitspertoken", "bitstoken", "bpt", "lossbitspertoken"), "bits"),
    **dict.fromkeys(
        ("ppl", "perplexity", "testppl", "evalppl", "valppl", "validationppl", "valperplexity", "testperplexity"),
        "ppl",
    ),
}  # fmt: skip


def _folded(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def check_named(names: Mapping[str, str], there: Collection[str], path: object) -> None:
    """Refuse a --columns that names a column which the file does not have.

    Raises:
        BadInput: naming it, with the nearest.
    """
    for ours, theirs in names.items():
        if theirs not in there:
            raise BadInput(
                f"columns says {ours}={theirs}; {path} has no column {theirs!r}: {nearest(theirs, there)}"
            )


def renamed(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A row under our names; a column that --columns names counts before one that is called so by itself."""
    taken = {*names, *names.values()}
    own = {name: value for name, value in row.items() if name not in taken}
    return own | {ours: row[theirs] for ours, theirs in names.items() if theirs in row}


def run_column(there: Iterable[str], known: Collection[str], constant: Collection[str] = ()) -> str | None:
    """The column that seems to name training runs; none that holds one value only."""
    return _guess("run", [name for name in there if name not in known and name not in constant])


def missing_columns(there: Collection[str], known: Collection[str], constant: Collection[str] = ()) -> str:
    """What a table of these columns lacks to be one of runs, and how to say which column it is; empty where nothing
    is missing. A row without a run is a run of its own.

    Args:
        known: the fields of a run.
        constant: columns that hold one value only.
    """
    lacks = [name for name in NEEDED if name not in there]
    if "params_non_embedding" in there and "params" in lacks:
        lacks.remove("params")
    if not lacks:
        return ""
    free = [name for name in there if name not in known]
    guesses = {name: found for name in lacks if (found := _guess(name, free)) is not None}
    if "run" not in there and (run := run_column(there, known, constant)) is not None:
        guesses = {"run": run, **guesses}
    shown = list(there)[:12]
    columns = ", ".join(shown) + (", …" if len(there) > len(shown) else "")
    other = next((name for name in free if _folded(name) in _UNITS), None)
    per_byte = next((name for name in free if _folded(name) in _PER_BYTE), None)
    unit = ""
    if "loss" in lacks and "loss" not in guesses and other is not None:
        guesses["loss"] = other
        unit = f" --loss-unit {_UNITS[_folded(other)]}"
    if "loss" in lacks and "loss" not in guesses and per_byte is not None:
        how = f"{per_byte} looks like {_BITS_PER_BYTE}"
    elif set(lacks) <= set(guesses):
        how = "--columns " + ",".join(f"{ours}={theirs}" for ours, theirs in guesses.items()) + unit
    else:
        unknown = next(name for name in lacks if name not in guesses)
        how = f"--columns {unknown}=… names the file's own"
    said = ", ".join("params or params_non_embedding" if name == "params" else name for name in lacks)
    return f"has no column {said}; it has {columns}: {how}"


def _guess(ours: str, free: Iterable[str]) -> str | None:
    named = {_folded(name): name for name in free}
    return next((named[alias] for alias in reversed(_ALIASES[ours]) if alias in named), None)


_BITS_PER_BYTE = (
    "bits per byte, and a law's losses are per token: add a column loss of nats per token, which are "
    "bits per byte × ln 2 × bytes per token"
)


def check_loss_unit(text: str) -> LossUnit:
    """One of LOSS_UNITS.

    Raises:
        BadInput: bits per byte, which says nothing of a token, or another word.
    """
    for unit in LOSS_UNITS:
        if text == unit:
            return unit
    if _folded(text) in _PER_BYTE:
        raise BadInput(f"loss unit is {text!r}, {_BITS_PER_BYTE}")
    raise BadInput(f"loss unit is {text!r}; {nearest(text, LOSS_UNITS)} (per token)")


def in_nats(row: dict[str, Any], unit: LossUnit) -> dict[str, Any]:
    """A row whose loss and its standard error are in nats per token; what is no number is left to whoever checks it.

    Raises:
        BadInput: a perplexity of 1 or less.
    """
    if unit == "nats":
        return row
    try:
        loss = float(row["loss"])
        error = None if row.get("loss_se") in (None, "") else float(row["loss_se"])
    except (KeyError, TypeError, ValueError):
        return row
    if unit == "bits":
        factor = math.log(2)
        return row | {"loss": loss * factor} | ({} if error is None else {"loss_se": error * factor})
    if not loss > 1:
        raise BadInput(f"loss is {loss:g}; a perplexity is above 1")
    return row | {"loss": math.log(loss)} | ({} if error is None else {"loss_se": error / loss})


def unit_doubt(theirs: str | None, unit: LossUnit) -> str:
    """Where the column that is read as the loss is called like another unit than the one it is read in; else empty."""
    if theirs is None:
        return ""
    if _folded(theirs) in _PER_BYTE:
        return f"{theirs} looks like {_BITS_PER_BYTE}; it is read as {unit} per token"
    likely = _UNITS.get(_folded(theirs), unit)
    return (
        "" if likely == unit else f"{theirs} is read as {unit}; --loss-unit {likely} reads it as it is called"
    )


TINY = 1e4  # parameters; below it a size is likely one in millions

APART = 2.5  # times 6ND; attention and counts of N explain less


def data_warnings(runs: Sequence["Run"], rows: Sequence[object]) -> list[str]:
    """One line for each thing that looks wrong.

    Args:
        rows: what each run was read from, to tell copies by.
    """
    said = []
    sizes = [run.params or run.params_non_embedding or 0.0 for run in runs]
    if sizes and max(sizes) < TINY:
        said.append(
            f"the largest N is {max(sizes):g}: sizes are counted in parameters, so 124 million is 124M or 124e6"
        )
    pairs = zip(runs, sizes, strict=True)
    stated = [
        run.compute / (6 * size * run.tokens)
        for run, size in pairs
        if run.compute and run.compute_kind != "exact"
    ]
    if stated and not 1 / APART <= (ratio := median(stated)) <= APART:
        said.append(
            f"compute is {format_size(ratio)} times 6·N·D in the median: are N, D and compute in the same units, and "
            "none of them swapped?"
        )
    copies = len(rows) - len({repr(row) for row in rows})
    if copies:
        said.append(
            f"{copies} row{' is an exact copy' if copies == 1 else 's are exact copies'} of another; each counts"
        )
    return said


_FIELDS = tuple(Run.model_fields)

_SIZES = ("params", "params_non_embedding", "tokens", "unique_tokens", "compute", "batch_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a reader made of a file: the good rows, what it left out and why."""

    runs: tuple[Run, ...]
    bad: tuple[str, ...] = ()  # "line 7: loss is -1: …"
    doubts: tuple[str, ...] = ()  # what looks wrong, and was read all the same
    ignored_columns: tuple[str, ...] = ()


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
    doubts = [unit_doubt(names.get("loss"), loss_unit), *data_warnings(runs, sources)]
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
    rows = parse_csv(text, delimiter="\t" if "\t" in sample.split("\n")[0] else ",")
    _, first = next(rows, (1, []))
    if isinstance(first, str):
        yield 1, first
        return
    header = [name.strip() for name in first]
    for number, row in rows:
        if isinstance(row, str):
            yield number, row
        elif not any(cell.strip() for cell in row):
            continue
        elif len(row) != len(header):
            yield number, f"it has {len(row)} cells where the header has {len(header)}"
        else:
            yield number, dict(zip(header, (cell.strip() for cell in row), strict=True))


def _jsonl_rows(text: str, name: str) -> Iterable[tuple[int, dict[str, Any] | str]]:
    lines = text.split("\n")  # the last is empty where the file is whole
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
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
