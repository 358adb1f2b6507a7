"""What the columns that are not read say against the rows: other texts, a second count, a perplexity, another unit of loss."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import Any

from families.units import BadInput, parse_size

from .columns import LossName, LossUnit, field_of, folded, header_factor, last_part, loss_name
from .identity import unfinished
from .mapping import Mapped, differing, is_export
from .run import Run

_UNIT_COLUMNS = ("lossunit", "lossunits", "unitofloss", "lossin", "unit", "units")
_UNIT_WORDS: dict[str, LossUnit] = {
    "nat": "nats",
    "nats": "nats",
    "bit": "bits",
    "bits": "bits",
    "ppl": "ppl",
}
_UNIT_WORDS["perplexity"] = "ppl"

_REMARKS = frozenset(["note", "notes", "comment", "comments", "remark", "remarks"])

# Columns of words that say nothing of the model or its text.
_OF_MACHINES = frozenset(
    (
        "user", "username", "host", "hostname", "node", "gpu", "device", "accelerator", "hardware", "cluster", "partition",
        "created", "date", "time", "day", "commit", "branch", "sha", "tags", "tag", "id", "uuid", "name", "path", "logdir", "dir",
        "url", "link", "color", "colour", "author", "owner",
    )
) | _REMARKS  # fmt: skip
_OF_SUMMARIES = frozenset(
    ("mean", "average", "avg", "median", "total", "sum", "std", "overall", "mittelwert", "moyenne", "media")
)
_LONGEST = 60  # characters of a cell that may name a loss
_MOST_KINDS = 20  # names of losses in a column
_MOST_NOTES = 4
_SAME = 0.01  # two counts of one thing, or a loss and the logarithm of its perplexity, agree to this share


def unread_notes(
    rows: Sequence[Mapping[str, Any]],
    runs: Sequence[Run],
    mapped: Mapped,
    columns: Sequence[str],
    *,
    constant: Collection[str],
    own: Collection[str],
    loss_unit: str,
) -> list[str]:
    """A line for each thing that an unread column says against the rows.

    Args:
        rows: the rows by column, as read.
        runs: the run of each.
        mapped: the columns that are read.
        columns: all columns.
        constant: those of one value.
        own: those that a user keeps.
        loss_unit: the unit that the losses were read in.

    Raises:
        BadInput: a column states another unit of the losses, or a perplexity shows it.
    """
    used = {source.header for source in mapped.sources.values()} | {flag.header for flag in mapped.flags}
    unread = [name for name in columns if name not in used and name not in own]
    _check_unit(unread, rows, loss_unit)
    named = [name for name in differing(columns, constant, mapped) if name not in own]
    if not is_export(columns) and "group" not in mapped.sources:
        named += [name for name in unread if name not in named and _splits(name, rows, runs)]
    notes = [
        f"the rows differ in {name!r}, which is not read: --columns group={name} and --group fit those of one"
        for name in (named if len(named) <= _MOST_NOTES else named[:_MOST_NOTES])
    ]
    notes += _kinds_of_loss(unread, rows)
    notes += _doubled(unread, rows, used)
    notes += _summaries(runs)
    notes += _second_counts(unread, rows, mapped, columns)
    notes += _perplexity(unread, rows, runs, mapped) if loss_unit == "nats" else []
    return notes + _epochs(rows, mapped) + _remarks(unread, rows, runs)


def _kinds_of_loss(unread: Collection[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A column that names several losses, as the long form of a log does: train/loss and eval/loss."""
    for name in unread:
        values = {value for row in rows if isinstance(value := row.get(name), str) and len(value) < _LONGEST}
        if 1 < len(values) < _MOST_KINDS and all(loss_name(value) is not None for value in values):
            shown = ", ".join(map(repr, sorted(values)))
            return [
                f"{name!r} says that the rows are of several losses ({shown}), and all are read: keep those of one"
            ]
    return []


def _doubled(unread: Collection[str], rows: Sequence[Mapping[str, Any]], used: Collection[str]) -> list[str]:
    """A second column of the name of one that is read, with other numbers."""
    notes = []
    for name in unread:
        first, _, number = name.rpartition(".")
        if first in used and number.isdecimal() and any(row.get(name) != row.get(first) for row in rows):
            notes.append(f"two columns are called {first!r} and differ: the first is read")
    return notes


def _summaries(runs: Sequence[Run]) -> list[str]:
    """Rows called mean or total below the others."""
    names = [run.run for run in runs if len(runs) > 2 and run.run.strip().lower() in _OF_SUMMARIES]
    return (
        [f"the row {names[0]!r} seems to sum up the others, and counts as a run: take it out"]
        if names
        else []
    )


def _remarks(unread: Collection[str], rows: Sequence[Mapping[str, Any]], runs: Sequence[Run]) -> list[str]:
    """A remark like "diverged at 3k" in a column of them."""
    for name in unread:
        if folded(last_part(name)) not in _REMARKS:
            continue
        for row, run in zip(rows, runs, strict=True):
            text = " ".join(str(row.get(name) or "").split())[:60]
            if unfinished(text) is not None:
                return [
                    f"{name!r} says {text!r} of {run.run}: such rows count, unless a column state says so or they are taken out"
                ]
    return []


def _check_unit(unread: Collection[str], rows: Sequence[Mapping[str, Any]], loss_unit: str) -> None:
    for name in unread:
        if folded(last_part(name)) not in _UNIT_COLUMNS:
            continue
        words = (re.split(r"[^a-z]+", str(row.get(name, "")).lower())[0] for row in rows)
        stated = sorted({_UNIT_WORDS[word] for word in words if word in _UNIT_WORDS})
        if len(stated) > 1:
            raise BadInput(
                f"the column {name!r} says {' and '.join(stated)}; losses of one file are in one unit"
            )
        if stated and stated[0] != loss_unit.partition("+")[0]:
            raise BadInput(
                f"the column {name!r} says {stated[0]}, and losses are read as {loss_unit}: --loss-unit {stated[0]}"
            )


def _splits(name: str, rows: Sequence[Mapping[str, Any]], runs: Sequence[Run]) -> bool:
    """True for a column of words that parts the rows, and is no name of a size or of a machine."""
    if folded(last_part(name)) in _OF_MACHINES or field_of(name) in ("name", "accelerator"):
        return False
    values = [row.get(name) for row in rows]
    if not all(
        isinstance(value, str) and re.fullmatch(r"[^\W\d_][^\n]{0,60}", value.strip()) for value in values
    ):
        return False
    if not 2 <= len(set(values)) <= len(rows) / 2:
        return False
    of_size: dict[float, set[Any]] = {}
    for value, run in zip(values, runs, strict=True):
        of_size.setdefault(run.n_params(), set()).add(value)
    return any(len(found) > 1 for found in of_size.values())


def _size(value: object) -> float | None:
    try:
        return parse_size(str(value), "size")
    except BadInput:
        return None


def _second_counts(
    unread: Collection[str], rows: Sequence[Mapping[str, Any]], mapped: Mapped, columns: Collection[str]
) -> list[str]:
    """Columns that mean the parameters or the tokens, too, and hold other numbers than the one that is read."""
    notes = []
    for field in ("params", "tokens"):
        source = mapped.sources.get(field)
        if source is None or source.header not in columns:
            continue
        for name in unread:
            if field_of(name) != field:
                continue
            pairs = [(_size(row.get(source.header)), _size(row.get(name))) for row in rows]
            if any(
                a and b and abs(b * header_factor(name, field) / (a * source.factor) - 1) > _SAME
                for a, b in pairs
            ):
                notes.append(
                    f"{field} is read from {source.header!r}, and {name!r} holds other numbers: --columns {field}={name} "
                    "reads that"
                )
    return notes


def _perplexity(
    unread: Collection[str], rows: Sequence[Mapping[str, Any]], runs: Sequence[Run], mapped: Mapped
) -> list[str]:
    """A perplexity beside the loss that is not e to its power."""
    source = mapped.sources.get("loss")
    loss = loss_name(source.header) if source is not None else None
    if source is None or loss is None:
        return []
    for name in unread:
        other = loss_name(name)
        if other is None or other.unit != "ppl" or other.per or not _of_one_text(loss, other):
            continue
        numbers = [
            (ppl, run.loss) for row, run in zip(rows, runs, strict=True) if (ppl := _size(row.get(name)))
        ]
        ratios = [math.log(ppl) / held for ppl, held in numbers if ppl > 1]
        if not ratios or abs((ratio := median(ratios)) - 1) <= _SAME:
            continue
        if abs(ratio / math.log(2) - 1) <= _SAME:
            raise BadInput(
                f"{name!r} is 2 to the power of {source.header!r}, which hence is in bits: --loss-unit bits"
            )
        return [
            f"ln {name} is {ratio:.3g} times {source.header} in the median: one of the two is not per token in nats"
        ]
    return []


def _of_one_text(loss: LossName, other: LossName) -> bool:
    return (loss.held_out, loss.training, loss.eval_set) == (other.held_out, other.training, other.eval_set)


def _epochs(rows: Sequence[Mapping[str, Any]], mapped: Mapped) -> list[str]:
    source = mapped.sources.get("epochs")
    if source is None or "tokens" not in mapped.sources or "unique_tokens" in mapped.sources:
        return []
    most = max((_size(row.get(source.header)) or 0.0 for row in rows), default=0.0)
    if most <= 1:
        return []
    return [
        f"{source.header} is up to {most:g} and unique_tokens are not stated: tokens count all that were seen, in every epoch, "
        "and none as seen again"
    ]
