"""Readers of runs: bytes → table → columns with units → what rows share → a RunTable with its warnings and bad rows.

`sheet` makes a table of any format, `mapping` says which column is which field, `identity` what may stand together; the
files of trainers (`trackers`) give rows of runs themselves.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from families.units import BadInput, nearest, parse_size

from ..budget import parse_flops
from ..files import StrPath, first_problem
from .columns import LOSS_UNITS, SCALED, folded, loss_name, raised
from .configs import EXACT_RATE, config_counts
from .errors import with_error
from .identity import (
    data_warnings,
    derived_tokens,
    mark_checkpoints,
    mark_early,
    state_notes,
    unfinished,
    without_rates,
)
from .mapping import (
    FIELDS,
    HELPERS,
    LENIENT,
    PER_BYTE,
    STATE,
    Mapped,
    Source,
    check_columns,
    check_field,
    guess_run,
    map_columns,
    missing_columns,
    parse_columns,
    refuse_curves,
    unit_warning,
)
from .run import Run, RunTable
from .sheet import TORN, Sheet, read_lines, read_sheet
from .store import ORIGIN, RUNS, SHARDS
from .trackers import is_tracker, run_name_of, tracker_rows
from .unread import unread_notes

__all__ = [
    "check_columns",
    "check_loss_unit",
    "missing_columns",
    "parse_columns",
    "read_runs",
    "read_study_text",
]

Unstated = Literal["last", "all"]  # which rows of a run count as annealed where a table does not say

_SIZES = (
    "params",
    "params_non_embedding",
    "params_active",
    "tokens",
    "unique_tokens",
    "compute",
    "batch_tokens",
)

_WHOLE = ("seed", "n_positions", "vocab_size", "n_layer", "n_embd", "n_head")

_OPTIONAL = tuple(name for name in FIELDS if name not in ("run", "params", "tokens", "loss"))

_MAY_LACK = frozenset((*_OPTIONAL, *HELPERS))

_HISTORY = frozenset(
    ("_step", "_runtime", "_timestamp")
)  # columns of the history of one run, as W&B gives it

_LIGHTNING = "metrics.csv"  # what Lightning's logger calls the history of one run

_BLANK = frozenset(("", "-", "–", "—", "?", "n/a", "na", "none", "null", "nan", "nat", "tbd", "..."))

_WORDS = re.compile(
    r"(?<=[0-9.])\s*(thousand|million|billion|trillion|mio|mrd|mlrd|mill|mln|mn|mm|bln|bil|bn|tn|tsd|тыс|млн|млрд|трлн|"
    r"millones|millions|millionen|milliards?|milliarden|miliardi|milioni|billions|lakhs?|crores?)\b\.?",
    re.IGNORECASE,
)
_EAST_ASIAN = re.compile(r"([0-9.]+)\s*([万萬亿億])")  # 10^4 and 10^8

_NEARLY = 0.98  # of the last step: the step that is logged may lie before it

_LARGEST_SIZE = 1e16  # parameters or tokens: more than anybody has

_OFFSET = re.compile(r"nats\+([0-9]{1,4}(?:\.[0-9]+)?)")

_COUNTED = re.compile(
    r"\s*\b(?:tokens?|param(?:eter)?s?|flops?)$", re.IGNORECASE
)  # after the number of what is counted

_TIMES = re.compile(r"([0-9.])\s*[x×*·]\s*10\s*(?:\^|\*\*)\s*([+-]?[0-9]{1,2})$")

_LETTER = {
    "thousand": "k",
    "million": "M",
    "billion": "B",
    "trillion": "T",
    "tsd": "k",
    "mio": "M",
    "mln": "M",
    "mn": "M",
}
_LETTER |= dict.fromkeys(("mill", "mm", "млн", "millones", "millions", "millionen", "milioni"), "M")
_LETTER |= dict.fromkeys(
    ("mlrd", "bil", "млрд", "milliard", "milliards", "milliarden", "miliardi", "billions"), "B"
)
_LETTER |= {"тыс": "k", "трлн": "T", "lakh": "e5", "lakhs": "e5", "crore": "e7", "crores": "e7"}
_LETTER |= {"mrd": "B", "bln": "B", "bn": "B", "tn": "T"}


@dataclass(slots=True)
class _Read:
    """What the rows of a table gave."""

    runs: list[Run] = field(default_factory=list)
    sources: list[Mapping[str, Any]] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    excused: int = 0  # bad lines that are no reason to refuse the rest
    derived: dict[str, int] = field(default_factory=dict)
    unscaled: dict[str, int] = field(default_factory=dict)  # cells by column
    unevaluated: int = 0  # rows of a log between two evaluations
    early: dict[int, None] = field(
        default_factory=dict
    )  # places of rows before the last step of their schedule
    stopped: list[tuple[str, str]] = field(default_factory=list)  # (run, state)
    states: set[str] = field(default_factory=set)
    lowest: float = 0.0  # loss
    with_error: str = ""  # a cell that holds a loss and its error

    @property
    def remedy(self) -> str:
        """What to write where losses are relative to a baseline's; empty where none is below 0."""
        if self.lowest >= 0:
            return ""
        offset = math.ceil(1 - self.lowest)
        return (
            "; losses below 0 are relative to another loss, such as that of word frequencies, which belongs on top of them: "
            f"--loss-unit nats+{offset} adds {offset} to each, which shifts the law's E alone"
        )


def read_runs(
    path: StrPath,
    *,
    column_names: Mapping[str, str] | None = None,
    max_bad_share: float = 0.0,
    least: int = 1,
    loss_unit: str = "nats",
    unstated: Unstated = "last",
    own_columns: Collection[str] = (),
    one_variable: bool = False,
) -> RunTable:
    """Read runs from a table (CSV, JSON, Markdown, Excel, Parquet), a trainer_state.json, a TensorBoard file, or a folder.

    A study's runs.jsonl is read with the observations in its run folders, whether or not they have been gathered.

    Args:
        path: the file or folder.
        column_names: field of `Run` to the file's column, where the names differ: {"params": "N", "tokens": "D"}; in a
            tracker's file, to its key or tag.
        max_bad_share: share of bad rows that is tolerated; they are left out and named in `RunTable.bad`.
        least: number of rows below which the file is refused; 0 for a study that may have none yet.
        loss_unit: unit of the file's losses, per token: nats, bits or ppl; they are converted to nats. "nats+8.5" adds 8.5
            to each, as losses relative to a baseline's need.
        own_columns: columns that are no field of `Run`, kept in `Run.extra`.
        unstated: which of several rows of one run count as annealed where no column says: the last, or all.
        one_variable: take a table without sizes, or without tokens, for a law of one variable: what it does not state
            counts as 1, and is named.

    Returns:
        The runs as a table, with the reader's warnings and the rows it left out.

    Raises:
        BadInput: no such file, a newer version, an unknown field or column in `column_names`, too few rows, or too many
            bad ones. A last line that is still being written, and a broken line in a run's own file, are named in `bad`
            and never too many.
    """
    path = Path(path)
    if not 0 <= max_bad_share <= 1:
        raise BadInput(f"bad rows is {max_bad_share:g}; it must be a share from 0 to 1, like 0.05 for 5 %")
    names = dict(column_names or {})
    for name in names:
        check_field(name)
    if is_tracker(path):
        rows = tuple(tracker_rows(path, names))
        columns = dict.fromkeys(key for _, row in rows if not isinstance(row, str) for key in row)
        sheet, names = Sheet(header=tuple(columns), rows=()), {}
    else:
        sheet = read_sheet(path)
        rows = tuple(sheet.records())
    return _table(
        path,
        sheet,
        rows,
        names=names,
        max_bad_share=max_bad_share,
        least=least,
        loss_unit=loss_unit,
        unstated=unstated,
        own=own_columns,
        one_variable=one_variable,
    )


def read_study_text(text: str, path: StrPath, *, max_bad_share: float = 0.0) -> RunTable:
    """Read runs from the text of a study's runs.jsonl that is not written yet.

    Args:
        text: lines of JSON, as the file would hold them.
        path: of the file, for messages.
        max_bad_share: share of bad rows that is tolerated.

    Raises:
        BadInput: as `read_runs`.
    """
    sheet = read_lines(text, path)
    return _table(Path(path), sheet, tuple(sheet.records()), names={}, max_bad_share=max_bad_share)


def _table(
    path: Path,
    sheet: Sheet,
    rows: Sequence[tuple[int, dict[str, Any] | str]],
    *,
    names: Mapping[str, str],
    max_bad_share: float,
    least: int = 1,
    loss_unit: str = "nats",
    unstated: Unstated = "last",
    own: Collection[str] = (),
    one_variable: bool = False,
) -> RunTable:
    """The runs of a table's rows; see `read_runs`."""
    refuse_curves(sheet.header, path)
    columns, notes, constant = sheet.header, [*sheet.notes], _constant(sheet)
    mapped = map_columns(columns, names if columns else {}, constant, path=path)
    blank = _unstated_variable(mapped, columns if sheet.rows else (), constant, own) if one_variable else ""
    if blank:
        mapped = map_columns(columns, {**names, blank: "1"}, constant, path=path)
        mapped = replace(mapped, notes=tuple(n for n in mapped.notes if not n.startswith(f"{blank} is ")))
        notes.append(f"{blank} are not stated: a law of one variable needs none (they count as 1)")
    for column in own:
        if column not in columns:
            raise BadInput(f"{path} has no column {column!r}: {nearest(column, columns)}")
    unnamed = bool(columns) and "run" not in mapped.sources
    history = path.stem if set(columns) & _HISTORY else ""
    if not history and path.name == _LIGHTNING and {"epoch", "step"} <= set(columns):
        history = run_name_of(path)
    read = _read_rows(rows, mapped, loss_unit, unnamed=unnamed, own=own, history=history)
    total = len(read.runs) + len(read.bad) + len(read.stopped) - read.excused
    if read.unevaluated:
        notes.append(
            f"{read.unevaluated} row{'s have' if read.unevaluated > 1 else ' has'} a training loss and no "
            f"{mapped.sources['loss'].header}: logged between evaluations, and not read"
        )
    if total < least:
        raise BadInput(f"{path} has {total} runs; at least {least} {'is' if least == 1 else 'are'} needed")
    if columns and not read.runs:
        _refuse_missing(path, columns, mapped, constant)
    if len(read.bad) - read.excused > max_bad_share * total:
        more = f" (and {len(read.bad) - 1} more of {total} rows)" if len(read.bad) > 1 else ""
        raise BadInput(
            f"{path} {read.bad[0]}{more}; at most {max_bad_share:.0%} of rows may be bad{read.remedy}"
        )
    if read.stopped and not read.runs and least:
        raise BadInput(f"{path} {state_notes(read.stopped, ())[0]}; no row is of a finished run")
    if unnamed and history:
        notes.append(
            f"no column run, and a column of steps as W&B or Lightning log them: all rows are of one run, {history!r}"
        )
    elif unnamed:
        name = guess_run(columns, FIELDS, constant) or "NAME"
        notes.append(
            f"no column run: each row counts as a run of its own; --columns run={name} says which share one"
        )
    notes += mapped.notes
    try:
        notes += unread_notes(
            read.sources, read.runs, mapped, columns, constant=constant, own=own, loss_unit=loss_unit
        )
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    notes += [
        f"{count} of {name!r} {'is' if count == 1 else 'are'} too large for its unit, and read as printed"
        for name, count in read.unscaled.items()
    ]
    notes += [
        f"tokens are not stated in {count} row{'s' * (count != 1)}: derived as {way}"
        for way, count in read.derived.items()
    ]
    if read.with_error:
        notes.append(
            f"loss_se is read from {mapped.sources['loss'].header!r}, as of {read.with_error!r}: a standard error, which a "
            "spread over seeds or an interval is not"
        )
    if "loss" in names:
        notes += filter(None, [unit_warning(names["loss"], loss_unit)])
    notes += state_notes(read.stopped, read.states)
    runs, more_notes = without_rates(read.runs)
    notes += more_notes
    if read.early and unstated != "all":
        runs, more_notes = mark_early(runs, read.early)
        notes += more_notes
    if "annealed" not in mapped.sources:
        runs, more_notes = mark_checkpoints(runs, keep_all=unstated == "all")
        notes += more_notes
    used = {source.header for source in mapped.sources.values()} | set(own)
    return RunTable(
        runs,
        bad=read.bad,
        warnings=[*notes, *([] if blank else data_warnings(runs, read.sources))],
        ignored_columns=[name for name in columns if name not in used and name != ORIGIN],
    )


def check_loss_unit(text: str) -> str:
    """Check that a text is one of LOSS_UNITS, or nats and what is to be added to them, like nats+8.5.

    Raises:
        BadInput: bits per byte, which do not determine a loss per token, or another word.
    """
    if text in LOSS_UNITS or _OFFSET.fullmatch(text):
        return text
    if folded(text) in ("bpb", "bitsperbyte", "bitsbyte"):
        raise BadInput(f"loss unit is {text!r}, {PER_BYTE}")
    raise BadInput(
        f"loss unit is {text!r}; {nearest(text, LOSS_UNITS)} (per token), or nats+8.5 to add 8.5 to each"
    )


def _refuse_missing(path: Path, columns: Collection[str], mapped: Mapped, constant: Collection[str]) -> None:
    """Refuse a table without a size, tokens or a loss that a column holds or follows from.

    Raises:
        BadInput: naming the columns that it has, and what to write.
    """
    sources = dict(mapped.sources)
    sized = {"params", "params_non_embedding"} & sources.keys()
    ways = (
        {"steps", "batch_tokens"},
        {"steps", "batch", "n_positions"},
        *(({"compute"}, {"total_flos"}) if sized else ()),
    )
    if any(way <= sources.keys() for way in ways):
        sources.setdefault("tokens", Source(header=""))
    given = Mapped(sources=sources, guessed=mapped.guessed, notes=())
    missing = missing_columns(columns, FIELDS, constant, given=given)
    if missing:
        raise BadInput(f"{path} {missing}")


def _unstated_variable(
    mapped: Mapped, columns: Collection[str], constant: Collection[str], own: Collection[str]
) -> str:
    """Which of params and tokens a table of one variable does not state; empty where it states both, or may mean one.

    A column that varies and is not understood may be the missing one: then none is filled in.
    """
    known = set(mapped.sources)
    used = {source.header for source in mapped.sources.values()} | set(own)
    if "loss" not in known or any(c not in used and c not in constant and c != ORIGIN for c in columns):
        return ""
    sized = bool({"params", "params_non_embedding"} & known)
    long = (
        "tokens" in known or {"steps", "batch_tokens"} <= known or {"steps", "batch", "n_positions"} <= known
    )
    budget = bool({"compute", "total_flos"} & known)
    if not sized and (long or budget):
        return "params"
    return "tokens" if sized and not long and not budget else ""


def _constant(sheet: Sheet) -> list[str]:
    """Columns that hold one value only in several rows."""
    if len(sheet.rows) < 2:
        return []
    rows = [row for _, row in sheet.rows if not isinstance(row, str) and len(row) == len(sheet.header)]
    return [
        name
        for place, name in enumerate(sheet.header)
        if rows and all(row[place] == rows[0][place] for row in rows)
    ]


def _read_rows(
    rows: Iterable[tuple[int, dict[str, Any] | str]],
    mapped: Mapped,
    loss_unit: str,
    *,
    unnamed: bool,
    own: Collection[str] = (),
    history: str = "",
) -> _Read:
    read = _Read()
    trained = _training_losses(rows, mapped)
    scaled = [(name, source) for name, source in mapped.sources.items() if source.factor != 1]
    for line, row in rows:
        if isinstance(row, str):
            read.excused += row == TORN or line == 0
            read.bad.append(f"line {line}: {row}" if line else row)
            continue
        try:
            values = _values(row, mapped)
            if not read.with_error and "loss_se" in values and "loss" in mapped.sources:
                cell = row.get(mapped.sources["loss"].header)
                read.with_error = cell if isinstance(cell, str) and with_error(cell) is not None else ""
            for name, source in scaled:
                printed = row.get(source.header)
                if values.get(name) is not None and _beyond(_finite(printed), name, source.factor):
                    read.unscaled[source.header] = read.unscaled.get(source.header, 0) + 1
            if extra := {name: _own(row[name]) for name in own if row.get(name) not in (None, "")}:
                values["extra"] = {**(values.get("extra") or {}), **extra}
            if unnamed:
                values["run"] = history or f"row {line}"
            state = None if values.get(STATE) is None else unfinished(values[STATE])
            said = (flag.state_of(row.get(flag.header)) for flag in mapped.flags)
            state = state or next(filter(None, said), None)
            if state is not None:
                read.stopped.append((str(values.get("run", f"line {line}")), state))
                continue
            if values.get(STATE) is not None:
                read.states.add(str(values[STATE]))
            if trained and "loss" not in values and any(row.get(name) not in (None, "") for name in trained):
                read.unevaluated += 1
                continue
            if "params" not in values and "params_non_embedding" not in values:
                values |= config_counts(row)
            if values.get("tokens") in (None, "") and (derived := derived_tokens(values)) is not None:
                values["tokens"], way = derived
                read.derived[way] = read.derived.get(way, 0) + 1
            if mapped.batches_by_length:
                _add_batch(values)
            _add_exact_compute(values)
            run = _run(_in_nats(values, loss_unit))
            if _stops_early(values, mapped):
                read.early[len(read.runs)] = None
            read.runs.append(run)
            read.sources.append(row)
        except (ValidationError, BadInput) as error:
            problem = first_problem(error) if isinstance(error, ValidationError) else str(error)
            origin = str(row.get(ORIGIN, ""))
            shard = origin.startswith(
                f"{SHARDS}/"
            )  # one bad row in one run's file is no reason to refuse the study
            read.excused += shard
            read.lowest = min(
                read.lowest,
                _finite(row.get(mapped.sources["loss"].header)) if "loss" in mapped.sources else 0.0,
            )
            read.bad.append(f"{origin}/{RUNS}: {problem}" if shard else f"line {line}: {problem}")
    return read


def _training_losses(rows: Iterable[tuple[int, dict[str, Any] | str]], mapped: Mapped) -> list[str]:
    """The columns of training losses beside a held-out one that is read: a log fills them between evaluations, too."""
    source = mapped.sources.get("loss")
    held = None if source is None else loss_name(source.header)
    if held is None or not held.held_out:
        return []
    columns = next((list(row) for _, row in rows if not isinstance(row, str)), [])
    return [
        name
        for name in columns
        if (loss := loss_name(name)) is not None and not loss.held_out and loss.unit == "nats"
    ]


def _stops_early(values: Mapping[str, Any], mapped: Mapped) -> bool:
    """True for a row before the last step of its schedule, where a table states both; W&B's _step counts calls."""
    steps, most = values.get("steps"), values.get("max_steps")
    if (
        "annealed" in mapped.sources
        or not isinstance(steps, int | float)
        or not isinstance(most, int | float)
    ):
        return False
    return mapped.sources["steps"].header != "_step" and steps < _NEARLY * most


def _finite(value: Any) -> float:
    """A number; 0 for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return number if math.isfinite(number) else 0.0


def _is_zero(value: Any) -> bool:
    try:
        return float(value) == 0
    except (TypeError, ValueError, OverflowError):
        return False


def _add_exact_compute(values: dict[str, Any]) -> None:
    """Set the compute that follows from the model's configuration, where a row states none."""
    rate, tokens = values.get(EXACT_RATE), values.get("tokens")
    if "compute" not in values and isinstance(rate, int | float) and isinstance(tokens, int | float):
        values |= {"compute": rate * tokens, "compute_kind": "exact"}


def _add_batch(values: dict[str, Any]) -> None:
    """Set the tokens of a batch from its sequences and their length, which the user gave."""
    factors = [values.get("batch"), values.get("n_positions"), values.get("grad_accumulation", 1)]
    if "batch_tokens" not in values and all(
        isinstance(factor, int | float) and factor > 0 for factor in factors
    ):
        values["batch_tokens"] = math.prod(map(float, factors))


def _values(row: Mapping[str, Any], mapped: Mapped) -> dict[str, Any]:
    """The row by field, sizes as numbers, without what is not stated.

    Raises:
        BadInput: a size that is none.
    """
    values: dict[str, Any] = {}
    for name, source in mapped.sources.items():
        value = row.get(source.header) if source.constant is None else source.constant
        if isinstance(value, float) and math.isnan(value) and name in _MAY_LACK:
            continue
        if isinstance(value, str):
            value = value.strip()
            if name in _MAY_LACK and value.lower() in _BLANK:
                continue
        if value is None or value == "":
            continue
        if name == "lr" and _is_zero(value):  # the rate at the end of a schedule, and no setting
            continue
        if name == "loss" and isinstance(value, str) and (parts := with_error(value)) is not None:
            values["loss"], error = parts
            values.setdefault("loss_se", error)
            continue
        values[name] = _number(value, name, source.factor)
    return values


def _number(value: Any, name: str, factor: float) -> Any:
    """A cell of a field: sizes and whole numbers as numbers, all others as they are."""
    if name in LENIENT:
        try:
            return parse_size(value, name)
        except BadInput:
            return None
    if name == "compute" and isinstance(value, str) and re.search("[a-z]{2}", value, re.IGNORECASE):
        flops = parse_flops(value)  # 3640 PF-days
        if flops is not None:
            return flops
    if name in ("steps", "batch", "grad_accumulation", "total_flos") or (
        name in _SIZES and isinstance(value, str)
    ):
        text = _WORDS.sub(
            lambda match: _LETTER[match[1].lower()], _COUNTED.sub("", raised(str(value))) or str(value)
        ).lstrip("~≈ ")
        text = _TIMES.sub(r"\1e\2", text)
        if (match := _EAST_ASIAN.fullmatch(text)) is not None:
            text = f"{match[1]}{'e4' if match[2] in '万萬' else 'e8'}"
        own_unit = bool(re.search(r"[kmbgt]\s*$", text, re.IGNORECASE))
        size = parse_size(text, name)
        return size if own_unit or _beyond(size, name, factor) else size * factor
    if name in _SIZES and factor != 1 and isinstance(value, int | float) and name in SCALED:
        return value if _beyond(value, name, factor) else value * factor
    if name in _WHOLE and isinstance(value, str):
        try:
            return int(float(value)) if float(value).is_integer() else value
        except (ValueError, OverflowError):
            return parse_size(value, name) if name in ("vocab_size", "n_positions") else value
    return value


def _beyond(value: float, name: str, factor: float) -> bool:
    """True for a size that cannot be in the unit of its header: 124000000 under "Params (M)"."""
    return value >= factor or value * factor > (math.inf if name == "compute" else _LARGEST_SIZE)


def _in_nats(row: dict[str, Any], unit: str) -> dict[str, Any]:
    """A row with its loss and standard error in nats per token; what is not a number is left to the validation.

    Raises:
        BadInput: a perplexity of 1 or less, or a loss of 0 or less.
    """
    try:
        loss = float(row["loss"])
        error = None if row.get("loss_se") in (None, "") else float(row["loss_se"])
    except (KeyError, TypeError, ValueError):
        return row
    offset = _OFFSET.fullmatch(unit)
    if unit == "nats" and loss > 0:
        return row
    if unit == "bits":
        factor = math.log(2)
        return row | {"loss": loss * factor} | ({} if error is None else {"loss_se": error * factor})
    if unit == "ppl":
        if not loss > 1:
            raise BadInput(f"loss is {loss:g}; a perplexity is above 1")
        return row | {"loss": math.log(loss)} | ({} if error is None else {"loss_se": error / loss})
    return row | {"loss": loss + float(offset[1])} if offset else row


def _own(value: Any) -> float | str:
    """A cell of a user's own column: a number where it is one, else text."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else str(value)


def _run(row: Mapping[str, Any]) -> Run:
    values = {name: value for name, value in row.items() if name in FIELDS}
    if "run" in values and not isinstance(values["run"], str):
        values["run"] = str(values["run"])
    return Run.model_validate(values)
