"""Numbers as printed: what they say, and how far they were rounded."""

import re
from dataclasses import dataclass

_WORDS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_WORDS |= {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_NUMBER = re.compile(
    r"[~≈]?\s*([0-9]{1,3}(?:,[0-9]{3})+|[0-9][0-9_]*)(\.[0-9]+)?(?:e([+-]?[0-9]+))?\s*(thousand|million|billion|trillion|[kmbgt])?"
    r"(?:\s+\w+|\s*\(.*\)|\s*)?",
    re.IGNORECASE,
)
_CLOCK = re.compile(r"([0-9]+):([0-5][0-9])(?::([0-5][0-9]))?")
_LARGEST_EXPONENT = 60  # beyond any count of anything here
_ROUNDED = 4  # a whole number of at most so many digits before its zeros is a rounded one


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """A number as printed: its value, and the worth of one unit in its last digit."""

    text: str
    value: float
    unit: float

    def agrees(self, value: float) -> bool:
        """Whether `value` prints so, rounded or cut off."""
        return -self.unit / 2 * (1 + 1e-9) <= value - self.value < self.unit

    def rounds(self, value: float) -> bool:
        """Whether `value` rounds to it."""
        return abs(value - self.value) <= self.unit / 2 * (1 + 1e-9)

    @property
    def relative(self) -> float:
        """Half a unit, as a share of the value."""
        return self.unit / 2 / self.value


def stated(text: str) -> Stated | None:
    """Read 53.9M, 117 million, 1,234, 2.6e18, 02:44 (hours) or "3.38 (rising)"; None where there is no number above 0."""
    words = text.strip().strip("`*$")
    clock = _CLOCK.fullmatch(words)
    if clock:
        hours, minutes, seconds = int(clock[1]), int(clock[2]), int(clock[3] or 0)
        unit, value = 1 / 3600 if clock[3] else 1 / 60, hours + minutes / 60 + seconds / 3600
        return Stated(text=words, value=value, unit=unit) if value else None
    match = _NUMBER.fullmatch(words)
    if match is None:
        return None
    whole, decimals, exponent, word = match.groups()
    digits = re.sub("[_,]", "", whole)
    if abs(int(exponent or 0)) > _LARGEST_EXPONENT or len(digits) > _LARGEST_EXPONENT:
        return None
    factor = _WORDS[(word or "").lower()] * 10.0 ** int(exponent or 0)
    value = float(digits + (decimals or "")) * factor
    if value <= 0:
        return None
    unit = 10.0 ** -(len(decimals) - 1 if decimals else 0) * factor
    zeros = len(digits) - len(digits.rstrip("0"))
    if exponent and not decimals:
        unit = 0.1 * factor  # 2e+20 stands for 2.0e20: printers drop the zero
    elif not decimals and zeros >= 3 and len(digits) - zeros <= _ROUNDED:
        unit = 10.0 ** (zeros - (len(digits) == zeros + 1)) * factor  # 1000000000 stands for 1.0B
    elif not decimals and zeros and word and len(digits) > 2:
        unit = 10.0 ** min(zeros, len(digits) - 2) * factor  # 340 million may stand for 335
    return Stated(text=words, value=value, unit=unit)


def size_in(name: str) -> Stated | None:
    """The size in a member's name: 52M of "GPT-2 52M"."""
    match = re.search(r"(?<![a-z0-9.])([0-9]+(?:\.[0-9]+)?[mb])(?![a-z0-9])", name, re.IGNORECASE)
    return stated(match[1].upper()) if match else None
