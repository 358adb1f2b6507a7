"""Readers of runs: CSV, TSV and JSONL tables of any column names and loss unit, and what trackers leave behind."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

from pydantic import ValidationError

from families.units import BadInput, format_size, nearest, parse_size

from ..files import StrPath, check_kind, first_problem, read_text
from ..untrusted import parse_csv, parse_json
from .run import RUNS_VERSION, Run, RunTable
from .store import merged_text
from .trackers import is_tracker, tracker_rows

LossUnit = Literal["nats", "bits", "ppl"]  # of a loss per token; ppl is the perplexity

Row = tuple[int, dict[str, Any] | str]  # line number, and the row or what is wrong with it

LOSS_UNITS: tuple[LossUnit, ...] = get_args(LossUnit)

TINY = 1e4  # parameters; a table whose largest size is below it likely states millions

MISMATCH = 2.5  # stated compute over 6·N·D, or its inverse: attention and counts of N explain less

_FIELDS = tuple(Run.model_fields)

_REQUIRED = ("params", "tokens", "loss")

_SIZES = ("params", "params_non_embedding", "tokens", "unique_tokens", "compute", "batch_tokens")

_ALIASES = {  # letters and digits in lower case; where several columns match, the later alias counts
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

_BITS_PER_BYTE = (
    "bits per byte, and a law's losses are per token: add a column loss of nats per token, which are "
    "bits per byte × ln 2 × bytes per token"
)

_TORN = "it has no line end and is not JSON: it is being written, or was cut off"


def read_runs(
    path: StrPath,
    *,
    column_names: Mapping[str, str] | None = None,
    max_bad_share: float = 0.0,
    least: int = 1,
    loss_unit: LossUnit = "nats",
    own_columns: Collection[str] = (),
) -> RunTable:
    """Read runs from .jsonl, .csv, a trainer_state.json, a TensorBoard event file, or a folder of the latter two.

    A study's runs.jsonl is read with the observations in its run folders, whether or not they have been gathered.

    Args:
        path: the file or folder.
        column_names: field of `Run` to the file's column, where the names differ: {"params": "N", "tokens": "D"}.
        max_bad_share: share of bad rows that is tolerated; they are left out and named in `RunTable.bad`.
        least: number of rows below which the file is refused; 0 for a study that may have none yet.
        loss_unit: unit of the file's losses, per token; they are converted to nats.
        own_columns: columns that are no field of `Run`, kept in `Run.extra`.

    Returns:
        The runs as a table, with the reader's warnings and the rows it left out.

    Raises:
        BadInput: no such file, a newer version, an unknown field or column in `column_names`, too few rows, or too many
            bad ones. A last line that is still being written is named in `bad` and never too many.
    """
    path = Path(path)
    if not 0 <= max_bad_share <= 1:
        raise BadInput(f"bad rows is {max_bad_share:g}; it must be a share from 0 to 1, like 0.05 for 5 %")
    names = dict(column_names or {})
    for field in names:
        _check_field(field)
    rows = list(_rows(path))
    samples = _samples(row for _, row in rows if not isinstance(row, str))
    if samples:
        check_columns(names, samples, path)
        for column in own_columns:
            if column not in samples:
                raise BadInput(f"{path} has no column {column!r}: {nearest(column, samples)}")
    columns = _renamed(dict.fromkeys(samples), names)
    unnamed = bool(columns) and "run" not in columns
    sources: list[object] = []
    runs: list[Run] = []
    bad: list[str] = []
    torn = (
        0  # half-written last lines: the file grows while it is read, which is no reason to refuse the rest
    )
    for line, row in rows:
        torn += row == _TORN
        if isinstance(row, str):
            bad.append(f"line {line}: {row}")
            continue
        values = _renamed(row, names) | ({"run": f"row {line}"} if unnamed else {})
        try:
            runs.append(_run(_in_nats(values, loss_unit), own_columns))
            sources.append(row)
        except ValidationError as error:
            bad.append(f"line {line}: {first_problem(error)}")
        except BadInput as error:
            bad.append(f"line {line}: {error}")
    total = len(runs) + len(bad) - torn
    if total < least:
        raise BadInput(f"{path} has {total} runs; at least {least} {'is' if least == 1 else 'are'} needed")
    constant = [name for name, values in samples.items() if len(values) == 1 < len(rows)]
    if columns and not runs and (missing := missing_columns(columns, _FIELDS, constant)):
        raise BadInput(f"{path} {missing}")
    if len(bad) - torn > max_bad_share * total:
        more = f" (and {len(bad) - 1} more of {total} rows)" if len(bad) > 1 else ""
        raise BadInput(f"{path} {bad[0]}{more}; at most {max_bad_share:.0%} of rows may be bad")
    warnings = []
    if unnamed:
        name = _run_column(columns, _FIELDS, constant) or "NAME"
        warnings.append(
            f"no column run: each row counts as a run of its own; --columns run={name} says which share one"
        )
    warnings += filter(None, [_unit_warning(names.get("loss"), loss_unit)])
    return RunTable(
        runs,
        bad=bad,
        warnings=[*warnings, *data_warnings(runs, sources)],
        ignored_columns=[name for name in columns if name not in _FIELDS and name not in own_columns],
    )


def parse_columns(text: str) -> dict[str, str]:
    """Parse "params=N,tokens=D" into the file's column of each field.

    Raises:
        BadInput: a part without "=", an unknown field, or one given twice.
    """
    names: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        field, equals, column = (word.strip() for word in part.partition("="))
        if not (equals and column):
            raise BadInput(f"columns has {part!r}; it must be like params=N,tokens=D")
        _check_field(field)
        if field in names:
            raise BadInput(f"columns names {field} twice: {names[field]!r} and {column!r}")
        names[field] = column
    return names


def check_loss_unit(text: str) -> LossUnit:
    """Check that a text is one of LOSS_UNITS.

    Raises:
        BadInput: bits per byte, which do not determine a loss per token, or another word.
    """
    for unit in LOSS_UNITS:
        if text == unit:
            return unit
    if _folded(text) in _PER_BYTE:
        raise BadInput(f"loss unit is {text!r}, {_BITS_PER_BYTE}")
    raise BadInput(f"loss unit is {text!r}; {nearest(text, LOSS_UNITS)} (per token)")


def check_columns(names: Mapping[str, str], columns: Collection[str], path: object) -> None:
    """Check that a file has the columns that `column_names` maps to.

    Raises:
        BadInput: naming a missing column, with the nearest.
    """
    for field, column in names.items():
        if column not in columns:
            raise BadInput(
                f"columns says {field}={column}; {path} has no column {column!r}: {nearest(column, columns)}"
            )


def missing_columns(columns: Collection[str], fields: Collection[str], constant: Collection[str] = ()) -> str:
    """Say which columns a table of runs lacks, and which --columns would supply them.

    Args:
        columns: the table's columns.
        fields: the fields of a run.
        constant: columns that hold one value only, which hence do not name runs.

    Returns:
        the end of a message that begins with the file's name; empty where nothing is missing.
    """
    missing = [name for name in _REQUIRED if name not in columns]
    if "params_non_embedding" in columns and "params" in missing:
        missing.remove("params")
    if not missing:
        return ""
    free = [name for name in columns if name not in fields]
    guesses = {name: column for name in missing if (column := _guess(name, free)) is not None}
    if "run" not in columns and (run := _run_column(columns, fields, constant)) is not None:
        guesses = {"run": run, **guesses}
    unit, hint = "", ""
    if "loss" in missing and "loss" not in guesses:
        other = next((name for name in free if _folded(name) in _UNITS), None)
        per_byte = next((name for name in free if _folded(name) in _PER_BYTE), None)
        if other is not None:
            guesses["loss"] = other
            unit = f" --loss-unit {_UNITS[_folded(other)]}"
        elif per_byte is not None:
            hint = f"{per_byte} looks like {_BITS_PER_BYTE}"
    if not hint and set(missing) <= set(guesses):
        hint = "--columns " + ",".join(f"{field}={column}" for field, column in guesses.items()) + unit
    elif not hint:
        unknown = next(name for name in missing if name not in guesses)
        hint = f"--columns {unknown}=… names the file's own"
    shown = ", ".join(list(columns)[:12]) + (", …" if len(columns) > 12 else "")
    lacks = ", ".join("params or params_non_embedding" if name == "params" else name for name in missing)
    return f"has no column {lacks}; it has {shown}: {hint}"


def data_warnings(runs: Sequence[Run], rows: Sequence[object]) -> list[str]:
    """A line for each thing that looks wrong: sizes in millions, swapped columns, duplicate rows.

    Args:
        runs: the runs.
        rows: the row that each run was read from; equal ones are copies.
    """
    warnings = []
    sizes = [run.n_params() for run in runs]
    if sizes and max(sizes) < TINY:
        warnings.append(
            f"the largest N is {max(sizes):g}: sizes are counted in parameters, so 124 million is 124M or 124e6"
        )
    ratios = [
        run.compute / (6 * size * run.tokens)
        for run, size in zip(runs, sizes, strict=True)
        if run.compute and run.compute_kind != "exact"
    ]
    if ratios and not 1 / MISMATCH <= (ratio := median(ratios)) <= MISMATCH:
        warnings.append(
            f"compute is {format_size(ratio)} times 6·N·D in the median: are N, D and compute in the same units, and "
            "none of them swapped?"
        )
    copies = len(rows) - len({repr(row) for row in rows})
    if copies:
        warnings.append(
            f"{copies} row{' is an exact copy' if copies == 1 else 's are exact copies'} of another; each counts"
        )
    return warnings


def _check_field(name: str) -> None:
    if name not in _FIELDS:
        raise BadInput(f"columns names {name!r}; {nearest(name, _FIELDS)}")


def _folded(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _guess(field: str, columns: Iterable[str]) -> str | None:
    by_alias = {_folded(name): name for name in columns}
    return next((by_alias[alias] for alias in reversed(_ALIASES[field]) if alias in by_alias), None)


def _run_column(columns: Iterable[str], fields: Collection[str], constant: Collection[str]) -> str | None:
    """The column that seems to name training runs; none that holds one value only."""
    return _guess("run", [name for name in columns if name not in fields and name not in constant])


def _renamed(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A row under the names of fields; a column that `names` maps to counts before one of the field's own name."""
    taken = {*names, *names.values()}
    own = {name: value for name, value in row.items() if name not in taken}
    return own | {field: row[column] for field, column in names.items() if column in row}


def _samples(rows: Iterable[Mapping[str, Any]]) -> dict[str, set[str]]:
    """At most two different values of each column, which tell whether it is constant."""
    samples: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.items():
            values = samples.setdefault(name, set())
            if len(values) < 2:
                values.add(str(value))
    return samples


def _in_nats(row: dict[str, Any], unit: LossUnit) -> dict[str, Any]:
    """A row with its loss and standard error in nats per token; what is not a number is left to the validation.

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


def _unit_warning(column: str | None, unit: LossUnit) -> str:
    """A warning where the name of the loss's column suggests another unit than the one it is read in, else nothing."""
    if column is None:
        return ""
    if _folded(column) in _PER_BYTE:
        return f"{column} looks like {_BITS_PER_BYTE}; it is read as {unit} per token"
    likely = _UNITS.get(_folded(column), unit)
    if likely == unit:
        return ""
    return f"{column} is read as {unit}, and its name suggests {likely}: --loss-unit {likely}"


def _run(row: Mapping[str, Any], own: Collection[str] = ()) -> Run:
    extra = {name: _own(row[name]) for name in own if row.get(name) not in (None, "")}
    values = {name: value for name, value in row.items() if name in _FIELDS and value not in (None, "")}
    for name in _SIZES:
        if isinstance(values.get(name), str):
            values[name] = parse_size(values[name], name)
    return Run.model_validate(
        {**values, "extra": {**(values.get("extra") or {}), **extra}} if extra else values
    )


def _own(value: Any) -> float | str:
    """A cell of a user's own column: a number where it is one, else text."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else str(value)


def _rows(path: Path) -> Iterable[Row]:
    if is_tracker(path):
        return tracker_rows(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return _csv_rows(read_text(path))
    return _jsonl_rows(merged_text(path), str(path))


def _csv_rows(text: str) -> Iterable[Row]:
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


def _jsonl_rows(text: str, name: str) -> Iterable[Row]:
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
