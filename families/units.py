"""Sizes, durations and names as text, like 52M, 4.6B, 200k or 1.4e18; errors of user input."""

import difflib
import itertools
import math
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar


class BadInput(ValueError):
    """Input from a person or a file that cannot be used. The message is one line: the thing, its value, what is allowed.

    The command line prints it on standard error and exits with status 2; nothing is written.
    """


class RunFailed(RuntimeError):
    """Work that failed on valid input: a loss that is not a number, a process that was killed. The message is one line.

    The command line prints it on standard error and exits with status 1; what was saved before stays.
    """


T = TypeVar("T")


_FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}

_SIZE = re.compile(r"([0-9][0-9_]*\.?[0-9]*(?:e[+-]?[0-9]+)?|\.[0-9]+)\s*([kmbgt]?)", re.IGNORECASE)

_GROUPED = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+")

_INSIDE = re.compile(
    r"(?<![0-9.e+_a-z-])[0-9]{1,9},(?=[0-9])", re.IGNORECASE
)  # 1,4 of 1,4e18; not 8,1 of 1e18,1e19

_SHORT = re.compile(r"[1-9][0-9]{0,2}")  # 0 is a value of its own: weight_decay=0,1e-2

_WITH_UNIT = re.compile(r"[0-9]+(?:e[+-]?[0-9]+|\s*[kmbgt])", re.IGNORECASE)

_THOUSANDS = re.compile(r"(?<![0-9.])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")


SMALLEST = 1e-100  # a quantity divided by a smaller one may be beyond what a double holds


def parse_size(text: str | float, name: str = "size") -> float:
    """Read 52M, 4.6B, 200k, 1.4e18 or a plain number; always finite and at least SMALLEST.

    Raises:
        BadInput: with `name`, the value and what is allowed.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        value = float(text)
    else:
        match = _SIZE.fullmatch(ungrouped(str(text).strip(), name))
        if match is None:
            raise BadInput(f"{name} is {str(text)!r}; it must be a size like 52M, 4.6B, 200k or 1.4e18")
        value = float(match[1].replace("_", "")) * _FACTORS[match[2].lower()]
    if not (math.isfinite(value) and value > 0):
        raise BadInput(f"{name} is {text}; it must be positive and finite")
    if value < SMALLEST:
        raise BadInput(f"{name} is {text}; it must be at least {SMALLEST:g}")
    return value


def ungrouped(text: str, name: str) -> str:
    """Remove the commas that group the thousands of a plain number: 1,000,000.

    Elsewhere a comma may be a decimal one: 1,4e18 would become 14e18.

    Raises:
        BadInput: a number with a comma has a unit, an exponent or other groups than thousands.
    """
    if _GROUPED.fullmatch(text):
        return text.replace(",", "")
    if _INSIDE.search(text):
        pointed = _INSIDE.sub(lambda match: match[0][:-1] + ".", text)
        bare = _INSIDE.sub(lambda match: match[0][:-1], text)
        write = f"{bare} or {pointed}" if _THOUSANDS.search(text) else pointed
        if re.search(r"\.[0-9]*\.", pointed):  # two points in one number
            write = bare
        raise BadInput(
            f"{name} is {text!r}; decimals take a point, and a comma only groups 1,000,000: write {write}"
        )
    return text


def listed(text: str, name: str) -> list[str]:
    """Split a list of sizes separated by commas, like 10M,85M.

    Raises:
        BadInput: a comma may be a decimal one, as in 1,5M or 1,5e-3.
    """
    parts = [part.strip() for part in text.split(",")]
    for left, right in itertools.pairwise(parts):
        if _SHORT.fullmatch(left) and _WITH_UNIT.fullmatch(right):
            raise BadInput(
                f"{name} has {left},{right}, which may be one number or two: "
                f"decimals take a point, so write {left}.{right} or {left}.0,{right}"
            )
    return parts


def parse_count(text: str | float, name: str = "count") -> int:
    """Read a size, and round it to a whole number of at least 1: tokens, steps, parameters.

    Raises:
        BadInput: with `name`, the value and what is allowed.
    """
    value = parse_size(text, name)
    if value < 1:
        raise BadInput(f"{name} is {text}; it must be at least 1")
    return round(value)


def format_size(value: float, digits: int = 3) -> str:
    """Format a number like 52M, 4.6B or 200k; from 1e15 up in powers of ten (1.4e+18)."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 1e15 or abs(value) < 1e-3:
        return f"{value:.{digits}g}"
    for factor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * (1 - 0.5 * 10**-digits):
            return _plain(value / factor, digits) + letter
    return _plain(value, digits)


def format_bytes(value: float) -> str:
    """Format bytes in decimal units, like 498 MB, 5.65 GB or 1.2 TB."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= factor * 0.9995:
            return f"{_plain(value / factor, 3)} {unit}"
    return f"{value:.0f} B"


def _plain(value: float, digits: int) -> str:
    """Format `digits` significant digits without an exponent and trailing zeros."""
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_duration(seconds: float) -> str:
    """Format seconds like 45 s, 3 min 20 s, 2 h 44 min or 12 days 3 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} days {minutes % 1440 // 60} h"


def look_up(table: Mapping[str, T], name: str, what: str) -> T:
    """Return the entry of that name, in any case.

    Raises:
        BadInput: there is none; with `what` it is a name of, and the nearest match.
    """
    entry = table.get(name.strip().lower())
    if entry is None:
        raise BadInput(f"{what} is {name!r}; {nearest(name, table)}")
    return entry


def nearest(word: str, allowed: Iterable[str], shown: int = 12) -> str:
    """Return the end of a message about an unknown word: its nearest match and the allowed words."""
    names = list(allowed)
    folded = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.5)
    hint = f"did you mean {folded[close[0]]}? " if close else ""
    listing = ", ".join(names[:shown]) + (f", … ({len(names)} in all)" if len(names) > shown else "")
    return f"{hint}known: {listing}"
