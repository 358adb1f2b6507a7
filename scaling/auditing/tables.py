"""Published tables and lists: cells of tables in any format, their fields, and numbers with their rounding."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from families.units import BadInput

from ..budget import parse_duration, parse_flops
from ..files import read_text
from ..runs.columns import FACTORS, field_of, folded, header_factor
from ..runs.sheet import MARKDOWN, TORN, Sheet, pipe_tables, read_sheet
from ..runs.store import ORIGIN

_NUMBER = re.compile(
    r"[~≈]?\s*([0-9]{1,3}(?:,[0-9]{3})+|[0-9][0-9_]*)(\.[0-9]+)?(?:e([+-]?[0-9]+))?\s*(thousand|million|billion|trillion|[kmbgt])?"
    r"(?:\s+\w+|\s*\(.*\)|\s*)?",
    re.IGNORECASE,
)

_PERCENT = re.compile(r"[~≈]?\s*([0-9]+(?:\.[0-9]+)?)\s*(?:%|per ?cent)", re.IGNORECASE)
_WHOLE = re.compile(r"[0-9]{1,7}(?:,[0-9]{3})?")
_CLOCK = re.compile(r"([0-9]+):([0-5][0-9])(?::([0-5][0-9]))?")
_LARGEST_EXPONENT = 60  # beyond any count here
_OTHER_TIME = re.compile(
    r"[0-9]\s*(?:s|secs?|seconds?|min|mins|minutes?|d|days?|weeks?|months?)\b", re.IGNORECASE
)
_LARGEST_SHARE = 1.5  # a bare MFU above this is in per cent
_NAMED_SIZE = re.compile(
    r"(?:(?<![a-z0-9.])|(?<=[a-z]{3}))([0-9]+(?:\.[0-9]+)?[mb])(?![a-z0-9])", re.IGNORECASE
)
_LONGEST_NUMBER = 200  # characters of a cell that may hold a number and a remark, and of a header
_LONGEST_LINE = 10_000  # characters of prose that are searched for numbers
_ROUNDED = 4  # an integer with at most so many digits before its trailing zeros is taken as rounded


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedNumber:
    """A number as printed: its text, its value, and the value of one unit in its last digit."""

    text: str
    value: float
    unit: float

    def agrees(self, value: float) -> bool:
        """True if `value`, rounded or truncated, prints as this number."""
        return -self.unit / 2 * (1 + 1e-9) <= value - self.value < self.unit

    def rounds(self, value: float) -> bool:
        """True if `value` rounds to this number."""
        return abs(value - self.value) <= self.unit / 2 * (1 + 1e-9)

    @property
    def relative(self) -> float:
        """Rounding error, half a unit, as a share of the value."""
        return self.unit / 2 / self.value


def parse_stated(text: str) -> StatedNumber | None:
    """Parse 53.9M, 117 million, 1,234, 2.6e18, 02:44 (hours) or "3.38 (rising)"; None without a number above 0."""
    words = text.strip().strip("`*$")
    if len(words) > _LONGEST_NUMBER:
        return None
    clock = _CLOCK.fullmatch(words)
    if clock:
        hours, minutes, seconds = int(clock[1]), int(clock[2]), int(clock[3] or 0)
        unit, value = 1 / 3600 if clock[3] else 1 / 60, hours + minutes / 60 + seconds / 3600
        return StatedNumber(text=words, value=value, unit=unit) if value else None
    match = _NUMBER.fullmatch(words)
    if match is None:
        return None
    integer, decimals, exponent, word = match.groups()
    digits = re.sub("[_,]", "", integer)
    if abs(int(exponent or 0)) > _LARGEST_EXPONENT or len(digits) > _LARGEST_EXPONENT:
        return None
    factor = FACTORS[(word or "").lower()] * 10.0 ** int(exponent or 0)
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
    return StatedNumber(text=words, value=value, unit=unit)


def parse_share(text: str, *, percent: bool = False) -> StatedNumber | None:
    """Parse a share: 46%, 0.46, or 46 under a header in per cent; a bare number above 1.5 is taken as per cent."""
    match = _PERCENT.fullmatch(text.strip().strip("`*$"))
    number = parse_stated(match[1] if match else text)
    if number is None:
        return None
    scale = 0.01 if match or percent or number.value > _LARGEST_SHARE else 1.0
    return StatedNumber(text=text.strip(), value=number.value * scale, unit=number.unit * scale)


def size_in(name: str) -> StatedNumber | None:
    """The size in a model's name, 52M of "GPT-2 52M" and 15M of "stories15M"; None without one."""
    match = _NAMED_SIZE.search(name)
    return parse_stated(match[1].upper()) if match else None


_TEXT = ("name", "accelerator", "architecture", "group", "data", "annealed")
_HELD_OUT = re.compile(r"val|eval|test|held", re.IGNORECASE)  # of two columns of losses, the one to read
_BLANK = frozenset(("", "-", "–", "—", "?", "n/a", "na", "none", "null", "nan", "tbd", "..."))


@dataclass(frozen=True, slots=True, kw_only=True)
class TableEntry:
    """A model or run in a table or a list.

    Attributes:
        name: as printed, "" without one.
        where: its name, its line, or both, for findings.
        table: number of its table in the document; -1 for prose.
        numbers: by field; some may come from another table, joined by name.
        words: texts by field.
        headers: the column that each field was read from.
    """

    name: str
    where: str
    table: int
    numbers: dict[str, StatedNumber]
    words: dict[str, str]
    headers: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTable:
    """Rows of cells under a header, with the line of each row, and what was decided in reading them."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def fields(self) -> tuple[str | None, ...]:
        """The field of each column, None where it is unknown."""
        return tuple(field_of(header) for header in self.header)

    def columns(self) -> tuple["_Column", ...]:
        """The known columns; of several for one loss the held-out one first, then as they stand."""
        known = [
            _Column(place=place, header=header, field=field, factor=header_factor(header, field))
            for place, (header, field) in enumerate(zip(self.header, self.fields(), strict=True))
            if field is not None
        ]
        return tuple(
            sorted(known, key=lambda column: column.field == "loss" and not _HELD_OUT.search(column.header))
        )

    def renamed(self, names: Mapping[str, str]) -> "SourceTable":
        """The table with field names in place of the headers that `names` maps them to: {"params": "N"}."""
        fields = {header: field for field, header in names.items()}
        return replace(self, header=tuple(fields.get(header, header) for header in self.header))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """A known column: its place and header, its field, and the factor that its header states."""

    place: int
    header: str
    field: str
    factor: float


def read_tables(path: Path) -> tuple[SourceTable, ...]:
    """All tables of a Markdown file, or the table of any other format that `runs.sheet` reads.

    Raises:
        BadInput: no such file, no table, or one without rows.
    """
    if path.suffix.lower() in MARKDOWN:
        return markdown_tables(read_text(path))
    sheet = read_sheet(path)
    rows, lines = [], []
    for line, row in sheet.rows:
        if not isinstance(row, str):
            rows.append(tuple(map(_printed, row)))
            lines.append(line)
        elif line and row != TORN:
            raise BadInput(f"{path} line {line}: {row}")
    if not rows:
        raise BadInput(f"{path} has 0 rows under a header; at least 1 is needed")
    return (SourceTable(header=sheet.header, rows=tuple(rows), lines=tuple(lines), notes=sheet.notes),)


def markdown_tables(text: str) -> tuple[SourceTable, ...]:
    """The pipe tables of a Markdown text."""
    return tuple(_of_sheet(sheet) for sheet in pipe_tables(text))


def _of_sheet(sheet: Sheet) -> SourceTable:
    rows = [(line, tuple(map(_printed, row))) for line, row in sheet.rows if not isinstance(row, str)]
    return SourceTable(
        header=sheet.header,
        rows=tuple(row for _, row in rows),
        lines=tuple(line for line, _ in rows),
        notes=sheet.notes,
    )


def _printed(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def entries(tables: Sequence[SourceTable]) -> tuple[TableEntry, ...]:
    """Every row with its fields; rows of several tables with one name become one entry."""
    merged: list[TableEntry] = []
    by_name: dict[str, list[int]] = {}  # entries of earlier tables, by folded name and by the size in it
    by_size: dict[str, list[int]] = {}
    for number, table in enumerate(tables):
        columns = table.columns()
        added = [
            _entry(number, table, columns, row, line)
            for row, line in zip(table.rows, table.lines, strict=True)
        ]
        names = Counter(entry.name for entry in added)
        start = len(merged)
        for entry in added:
            index = _matching_index(entry, by_name, by_size) if names[entry.name] == 1 else None
            if index is None:
                merged.append(entry)
            else:
                first = merged[index]
                merged[index] = replace(
                    first,
                    numbers={**entry.numbers, **first.numbers},
                    words={**entry.words, **first.words},
                    headers={**entry.headers, **first.headers},
                )
        if number + 1 == len(tables):
            break
        for index in range(start, len(merged)):
            name = merged[index].name
            by_name.setdefault(folded(name), []).append(index)
            if size := size_in(name):
                by_size.setdefault(size.text, []).append(index)
    names = Counter(entry.name for entry in merged)
    return tuple(
        replace(entry, where=entry.name) if entry.name and names[entry.name] == 1 else entry
        for entry in merged
    )


def _entry(
    number: int, table: SourceTable, columns: Sequence[_Column], row: Sequence[str], line: int
) -> TableEntry:
    numbers: dict[str, StatedNumber] = {}
    words: dict[str, str] = {}
    headers: dict[str, str] = {}
    filled = len(row) - (len(row) < len(table.header))  # a short row's last cell is another column's
    for column in columns:
        cell = row[column.place] if column.place < filled else ""
        field = column.field
        if field == "accelerator" and _WHOLE.fullmatch(cell):
            field = "devices"  # a column GPUs that holds their number
        elif field == "devices" and not _WHOLE.fullmatch(cell):
            field = "accelerator"  # and one of numbers that holds 8xA100
        if not cell or field in headers:
            continue
        if field in _TEXT:
            words[field], headers[field] = cell, column.header
        elif (value := _cell_number(cell, column)) is not None:
            numbers[field], headers[field] = value, column.header
    name = words.get("name", "")
    where = f"{name}, line {line}" if name else f"line {line}"
    return TableEntry(name=name, where=where, table=number, numbers=numbers, words=words, headers=headers)


def _cell_number(cell: str, column: _Column) -> StatedNumber | None:
    """The number in a cell, by the unit of its header unless the cell has its own."""
    if column.field == "mfu":
        return parse_share(cell, percent="%" in column.header or "per cent" in column.header.lower())
    if column.field in ("hours", "compute") and re.search(r"[a-z^]", cell, re.IGNORECASE):
        own = _with_unit(cell, column.field)
        if own is not None:
            return own
    value = parse_stated(cell)
    if column.field == "hours" and value is not None and _OTHER_TIME.search(cell):
        return None
    if value is None or column.factor == 1 or re.search("[a-z]", cell.lower().replace("e", "")):
        return value
    if value.value >= column.factor:  # 124000000 under "Params (M)" is not in millions
        return value
    return replace(value, value=value.value * column.factor, unit=value.unit * column.factor)


def _with_unit(cell: str, field: str) -> StatedNumber | None:
    """Hours of a cell like 36000 s or 3 days, FLOPs of 3640 PF-days or 3.14 x 10^23; None of one in other words."""
    words = cell.strip().strip("`*$").replace("×", "x")
    if len(words) > _LONGEST_NUMBER:
        return None
    try:
        value = parse_duration(words) / 3600 if field == "hours" else parse_flops(words)
    except BadInput:
        return None
    number = re.match(r"[~≈]?\s*[0-9][0-9.]*", words)
    printed = None if number is None else parse_stated(number[0])
    if not value or not math.isfinite(value) or printed is None or parse_stated(words) == printed:
        return None
    return StatedNumber(text=words, value=value, unit=value * 2 * printed.relative)


def reading_notes(tables: Sequence[SourceTable]) -> tuple[str, ...]:
    """Notes on reading: unknown columns, second columns of a field, units of columns, cells without a number."""
    notes: list[str] = []
    for number, table in enumerate(tables, start=1):
        prefix = f"table {number}: " if len(tables) > 1 else ""
        columns = table.columns()
        notes += [f"{prefix}{note}" for note in table.notes]
        unknown = [
            header
            for header, field in zip(table.header, table.fields(), strict=True)
            if field is None and header != ORIGIN
        ]
        if unknown:
            notes.append(f"{prefix}not read: {_shortened(unknown)}")
        first: dict[str, str] = {}
        for column in columns:
            if column.field == "accelerator":
                continue
            other = first.setdefault(column.field, column.header)
            if other != column.header:
                notes.append(f"{prefix}{column.field} is read from {other!r}, not from {column.header!r}")
        for column in columns:
            if column.factor != 1:
                notes.append(f"{prefix}{column.header!r} is read in units of {column.factor:g}")
            if column.field not in _TEXT:
                notes += _unread_cells(prefix, table, column)
    return tuple(notes)


def _unread_cells(prefix: str, table: SourceTable, column: _Column) -> list[str]:
    """The cells of a column of numbers that hold none."""
    bad = [
        (line, row[column.place])
        for row, line in zip(table.rows, table.lines, strict=True)
        if column.place < len(row)
        and row[column.place].strip("`*$ ").lower() not in _BLANK
        and _cell_number(row[column.place], column) is None
    ]
    if not bad:
        return []
    line, text = bad[0]
    cells = "1 cell" if len(bad) == 1 else f"{len(bad)} cells"
    return [
        f"{prefix}{cells} of {column.header!r} hold no positive number, first {text[:40]!r} on line {line}"
    ]


def _shortened(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _matching_index(
    entry: TableEntry, by_name: Mapping[str, Sequence[int]], by_size: Mapping[str, Sequence[int]]
) -> int | None:
    """Index of the one entry of an earlier table with the same name, or the same size in its name; else None."""
    if not entry.name:
        return None
    same = by_name.get(folded(entry.name), ())
    if not same and (size := size_in(entry.name)):
        same = by_size.get(size.text, ())
    return same[0] if len(same) == 1 else None


_PROSE_SIZE = r"(?<![\w.])([0-9][0-9,.]{0,30}\s*(?:million|billion|[MBK]\b)?)"

_PHRASES = {
    "n_layer": r"layers?\b",
    "n_embd": r"(?:hidden (?:size|dimensions?|units)|wide\b)",
    "n_head": r"(?:attention )?heads\b",
    "params": r"(?:trainable )?param(?:eter)?s\b",
}

_COUNTED = {
    field: re.compile(rf"{_PROSE_SIZE}[- ]+{phrase}", re.IGNORECASE) for field, phrase in _PHRASES.items()
}

_ASSIGNED = re.compile(r"\b([A-Za-z_]+)=([0-9][0-9_]*)\b")

_LONGEST_TITLE = 300  # characters

_TOTAL = re.compile(rf"model size:\s*{_PROSE_SIZE}", re.IGNORECASE)

_HEADING = re.compile(r"\s*(?:#+\s*(.+?)|\*\*(.+?)\*\*:?|[-*]\s+([\w .-]+):)\s*")

_NAMED = re.compile(r"\s*[-*]\s+`?([A-Za-z][\w .-]*?)`?\s*(\([^)]*\))?\s*(?::|\s[-–—]\s)(.*)")


def prose_entries(text: str) -> tuple[TableEntry, ...]:
    """Entries of lists ("12 layers, 768 hidden size, 117 million parameters") and commands ("NHIDDEN=2048; NLAYERS=24")."""
    return tuple(_prose(text.split("\n")))


def _prose(lines: Sequence[str]) -> Iterator[TableEntry]:
    """Join neighbouring lines to one entry until a field repeats, a heading comes, or a line has a name of its own."""
    heading, family = "", ""
    open_name, open_line, facts, aliases = "", 0, dict[str, StatedNumber](), ""

    def entry() -> TableEntry:
        words = {"name": open_name, "group": family, **({"aliases": aliases} if aliases else {})}
        headers = {"name": "", **dict.fromkeys(facts, "text")}
        where = f"{open_name}, line {open_line}" if open_name else f"line {open_line}"
        return TableEntry(name=open_name, where=where, table=-1, numbers=facts, words=words, headers=headers)

    for number, printed in enumerate(lines, start=1):
        if printed.lstrip().startswith("|"):
            continue
        line = " ".join(printed[:_LONGEST_LINE].split())  # the patterns try each part of a run of spaces
        title = _HEADING.fullmatch(line)
        if title:
            if facts:
                yield entry()
                facts, aliases = {}, ""
            heading = re.sub(
                r"\[([^\]]*)\]\([^)]*\)", r"\1", next(filter(None, title.groups()))[:_LONGEST_TITLE]
            ).strip(": ")
            family = heading if not title[3] else family
            continue
        named = _NAMED.fullmatch(line)
        numbers = _numbers_in(named[3] if named else line)
        if not numbers:
            continue
        if facts and (named or numbers.keys() & facts.keys()):
            yield entry()
            facts, aliases = {}, ""
        if not facts:
            open_name, open_line = (named[1] if named else heading), number
            aliases = ", ".join(re.findall(r"`([0-9.]+[MB])`", named[2] or "")) if named else ""
        facts |= numbers
    if facts:
        yield entry()


def _numbers_in(line: str) -> dict[str, StatedNumber]:
    """Numbers that a line of prose states, by field."""
    numbers: dict[str, StatedNumber] = {}
    for field, pattern in _COUNTED.items():
        match = pattern.search(line)
        if match and (number := parse_stated(match[1].strip(" ,"))) is not None:
            numbers[field] = number
    for name, value in _ASSIGNED.findall(line):
        known = field_of(name)
        if known is not None and (number := parse_stated(value)) is not None:
            numbers.setdefault(known, number)
    total = _TOTAL.search(line)
    if total and (number := parse_stated(total[1].strip())) is not None:
        numbers["params"] = number
    return numbers
