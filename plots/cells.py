"""The cells of a study's tables: a number as people read it, and its value to sort by."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from families.units import format_duration, format_size

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Cell:
    """A shown text, and the number it stands for where it is one."""

    text: str
    value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Header and rows. Cells without a value are text."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @staticmethod
    def of(title: str, rows: Iterable[Row], columns: Mapping[str, Callable[[Row], Cell]]) -> "Table":
        """A row for each of `rows`, a column for each header, which says what to show of one."""
        shown = tuple(tuple(cell(row) for cell in columns.values()) for row in rows)
        return Table(title=title, header=tuple(columns), rows=shown)


def worded(value: float | None, words: Callable[[float], str]) -> Cell:
    """A number in such words; a dash where there is none."""
    return Cell("–") if value is None else Cell(words(value), float(value))


def whole(value: int) -> Cell:
    """A count as it is."""
    return Cell(str(value), value)


def size(value: float | None) -> Cell:
    """A count as 52M."""
    return worded(value, format_size)


def number(value: float | None, digits: int = 3) -> Cell:
    """A number with that many decimals; what a diverged run makes of a loss or a perplexity is kept short."""
    return worded(value, lambda known: short(known, digits))


def short(value: float, digits: int) -> str:
    """2.822, 16.81; 1.01e+304 from ten million on."""
    return f"{value:.{digits}f}" if abs(value) < 1e7 else f"{value:.3g}"


def percent(value: float | None) -> Cell:
    """A signed share in percent."""
    return worded(value, lambda share: signed(100 * share) + " %")


def signed(value: float) -> str:
    """Two decimals with a sign; the minus is a minus, not a hyphen."""
    return f"{value:+.2f}".replace("-", "−")


def scientific(value: float) -> str:
    """Four digits; beyond a million as 2.122e6."""
    return f"{value:.4g}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")


def interval(bounds: tuple[float, float] | None) -> Cell:
    """An interval by its ends; sorted by its width."""
    return Cell("–") if bounds is None else Cell(f"{bounds[0]:.3f}–{bounds[1]:.3f}", width(bounds))


def width(bounds: tuple[float, float] | None) -> float | None:
    """Of an interval, where there is one."""
    return None if bounds is None else bounds[1] - bounds[0]


def duration(hours: float | None) -> Cell:
    """Hours as a person says them."""
    return worded(hours, lambda known: format_duration(3600 * known))
