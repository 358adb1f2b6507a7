"""What a table's columns are called: which of them are ours, under which names, and in which unit their losses are."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from families.errors import BadInput
from families.units import nearest

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
