"""Delimited text: its delimiter, its header row, and how its numbers group thousands and mark decimals."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..untrusted import parse_csv
from .columns import stated_factor

Decimal = Literal[".", ","]
Cells = Sequence[str]
Knows = Callable[[str], bool]  # whether a text is the header of a known column

DELIMITERS = (",", ";", "\t", "|")
HEADER_WITHIN = 20  # rows that are searched for the header: titles and remarks stand above it
_UNIT_WORDS = frozenset(("nats", "bits", "nats/token", "bits/token", "tokens", "params", "flops", "ppl"))
_SAMPLE = 50_000  # characters by which the delimiter is chosen
_LONGEST = 60  # characters of a cell that may be a number

# Spaces (plain, no-break, narrow, thin, figure) and apostrophes between groups of three digits.
_GAPS = "[ \u00a0\u202f\u2009\u2007'\u2019]"
_NUMBER = re.compile(
    rf"([~≈+-]?)([0-9]{{1,3}}(?:{_GAPS}[0-9]{{3}})+(?:[.,][0-9]+)?|[0-9][0-9.,]*)((?![0-9.,]).*)?", re.DOTALL
)
_GAP = re.compile(rf"(?<=[0-9]){_GAPS}(?=[0-9]{{3}})")
_AFTER = re.compile(
    r"\s*(?:e[+-]?[0-9]+)?\s*(?:[kmbgt]|thousand|million|billion|trillion|mio|mrd|mlrd|mill|mln|mn|mm|bln|bn|млн|млрд|millones|"
    r"millions|millionen|milliards?|milliarden|miliardi|milioni)?\.?\s*%?",
    re.IGNORECASE,
)
_TO_DECIDE = re.compile(
    rf",|\.[^\0]*\.|[0-9]{_GAPS}[0-9]"
)  # without one of these in any cell, numbers are as they should be
_DIGITS = {
    first + n: str(n) for first in (0x660, 0x6F0, 0x966, 0xFF10) for n in range(10)
}  # Arabic, Persian, Hindi, full width
_DIGITS |= {0x66B: ".", 0x66C: ",", 0xFF0E: "."}
_GROUPS = {mark: re.compile(rf"[0-9]{{1,3}}(?:\{mark}[0-9]{{3}})+") for mark in (",", ".")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delimited:
    """Rows of cells under a header.

    Attributes:
        header: the cells of the header row; empty where the text has no rows.
        rows: (number of the line, cells), or in place of the cells what is wrong with a row.
        notes: choices that were made in reading, a line each.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...] | str], ...]
    notes: tuple[str, ...]


def read_delimited(text: str, knows: Knows, delimiter: str | None = None) -> Delimited:
    """Parse comma-, semicolon-, tab- or bar-separated text with a header somewhere in its first rows.

    Args:
        text: the text.
        knows: whether a text is the header of a known column.
        delimiter: between cells; chosen by the text where None.

    Returns:
        The table, its numbers with a decimal point and without separators of thousands.
    """
    text = text if text.isascii() else text.translate(_DIGITS)
    stated = re.match(r"\s*\"?sep=(.)\"?\r?\n", text)  # a spreadsheet's own first line
    if stated:
        delimiter, text = stated[1], "\n" + text[stated.end() :]
    if delimiter is None:
        delimiter = _delimiter(text[:_SAMPLE], knows)
        if (spaced := _between_spaces(text, delimiter, knows)) is not None:
            return read_rows(parse_csv(spaced, " "), knows, " ")
    return read_rows(parse_csv(text, delimiter), knows, delimiter)


def read_rows(rows: Iterable[tuple[int, list[str] | str]], knows: Knows, delimiter: str = "\t") -> Delimited:
    """Rows of cells, as `parse_csv` or a spreadsheet gives them, as a table under its header."""
    notes: list[str] = []
    rows = [(line, row) for line, row in rows if not _blank(row)]
    if len(rows) > 2 and _is_rule(rows[0][1]):  # reStructuredText's lines above and below
        rows = [pair for pair in rows if not _is_rule(pair[1])]
    place = _header_place([row for _, row in rows[:HEADER_WITHIN]], knows)
    if not rows or place is None:
        return Delimited(header=(), rows=tuple((line, _cells(row)) for line, row in rows), notes=())
    place, joined = _joined_headers(rows, place, knows)
    above = [row for _, row in rows[:place]]
    titles = [row if isinstance(row, str) else " ".join(" ".join(row).split()) for row in above]
    if shown := [title for title in titles if not title.startswith("#")]:
        many = "1 line" if len(shown) == 1 else f"{len(shown)} lines"
        notes.append(f"{many} above the header not read: {shown[0][:60]!r}")
    header, start = _header(rows[place][1]), place + 1
    if joined:
        header, start = _header(joined), place + 2
        if start < len(rows) and (index := _index_name(rows[start][1], header)):
            header, start = (index, *header[1:]), start + 1
        notes.append(f"two rows of headers are read as one: {', '.join(header[:8])}")
    elif start < len(rows) and (units := _units(rows[start][1], header)) is not None:
        header, start = units, start + 1
    if start < len(rows) and _is_rule(rows[start][1]):
        start += 1
    own = [cell.strip() for cell in _trimmed(rows[place][1])]
    again = sum(_is_again(row, own) for _, row in rows[start:])
    if again:  # files put one behind the other
        rows = [*rows[:start], *(pair for pair in rows[start:] if not _is_again(pair[1], own))]
        notes.append(f"the header occurs {again + 1} times and is read once")
    end = _end(rows, start, len(header))
    if end < len(rows):
        below = [" ".join(" ".join(row).split()) for _, row in rows[end:]]
        many = "1 line" if len(below) == 1 else f"{len(below)} lines"
        notes.append(f"{many} below the table not read: {below[0][:60]!r}")
    widths = {len(_trimmed(row)) for _, row in rows[start:end]} if delimiter in (" ", "\t") else set()
    if widths == {len(header) + 1}:
        header = ("index", *header)  # as pandas prints a frame, and R writes one
        notes.append(f"rows have a cell more than the header, read as an index before {header[1]!r}")
    body = [(line, _body(row, len(header))) for line, row in rows[start:end] if not _remark(row, len(header))]
    return _with_points(header, body, delimiter, notes)


_STATISTICS = {
    "mean": "",
    "avg": "",
    "value": "",
    "sem": "_se",
    "se": "_se",
    "stderr": "_se",
    "std err": "_se",
}
_OTHER_STATISTICS = ("std", "count", "min", "max", "median", "var", "size")


def _joined_headers(
    rows: Sequence[tuple[int, list[str] | str]], place: int, knows: Knows
) -> tuple[int, list[str]]:
    """The place of the first of two rows of headers, groups over columns, and the names of both; () where there is one row.

    A group stands over each of its columns, as pandas writes it, or over the first alone, as merged cells are exported.
    """
    for first in (place, place - 1):
        if not 0 <= first < len(rows) - 2 or any(isinstance(row, str) for _, row in rows[first : first + 2]):
            continue
        groups, names = ([cell.strip() for cell in _trimmed(rows[at][1])] for at in (first, first + 1))
        groups += [""] * (len(names) - len(groups))
        names += [""] * (len(groups) - len(names))
        inner = [cell for cell in names if cell]
        few = len({cell for cell in groups if cell}) < len(inner) or "" in groups[1:]
        if not few or sum(map(bool, groups)) < 2 or len(inner) < 2 or any(map(_is_number, (*groups, *names))):
            continue
        if first < place and len(set(inner)) == len(inner):  # the second row says all
            continue
        if not any(_names_column(cell, knows) for cell in inner):
            continue
        return first, _joined(groups, names, knows)
    return place, []


def _names_column(cell: str, knows: Knows) -> bool:
    """True for a header of a column, and no unit like tokens or (M)."""
    word = cell.lower()
    return word in (*_STATISTICS, *_OTHER_STATISTICS) or (
        word not in _UNIT_WORDS and knows(cell) and stated_factor(f"x ({cell})") == 1
    )


def _joined(groups: Sequence[str], names: Sequence[str], knows: Knows) -> list[str]:
    joined, group = [], ""
    counts = Counter(names)
    for over, name in zip(groups, names, strict=True):
        group = over or (group if name else "")
        if not name or not group:
            joined.append(name or over)
        elif name.lower() in _STATISTICS:
            joined.append(group + _STATISTICS[name.lower()])
        elif counts[name] == 1 and (knows(name) or name.endswith("_se")):
            joined.append(name)
        else:
            joined.append(f"{group} {name}")
    return joined


def _index_name(row: list[str] | str, header: Sequence[str]) -> str:
    """The name of the index that pandas writes in a row of its own below two rows of headers."""
    if (
        isinstance(row, str)
        or not header[0].startswith("column ")
        or len(_trimmed(row)) != 1
        or len(header) < 3
    ):
        return ""
    return "" if _is_number(row[0].strip()) else row[0].strip()


def _units(row: list[str] | str, header: tuple[str, ...]) -> tuple[str, ...] | None:
    """The header with the units that the row below it states; None where that row is none of units."""
    if isinstance(row, str) or len(row) > len(header):
        return None
    cells = [cell.strip().strip("()[]") for cell in row] + [""] * (len(header) - len(row))
    stated = [cell for cell in cells if cell]
    if not any(stated_factor(f"x ({cell})") != 1 or cell.lower() in _UNIT_WORDS for cell in stated):
        return None
    if any(_is_number(cell.strip()) for cell in row):  # 1e10 is a value; (1e10), and 10^10, may be a unit
        return None
    return tuple(f"{name} ({cell})" if cell else name for name, cell in zip(header, cells, strict=True))


def _end(rows: Sequence[tuple[int, list[str] | str]], start: int, width: int) -> int:
    """Where remarks under the table begin: lines of one cell that is no number, under rows of three and more."""
    end = len(rows)
    while width > 2 and end > start + 1:
        row = rows[end - 1][1]
        if (
            isinstance(row, str)
            or len(_trimmed(row)) != 1
            or _is_number(row[0].strip())
            or row[0].startswith("#")
        ):
            break
        end -= 1
    return end


def _is_rule(row: list[str] | str) -> bool:
    """True for the line of dashes under a header, as databases, Org and Markdown print it."""
    return not isinstance(row, str) and all(re.fullmatch(r"[-+=:| ]*", cell) for cell in row)


def _is_again(row: list[str] | str, header: Sequence[str]) -> bool:
    return not isinstance(row, str) and [cell.strip() for cell in _trimmed(row)] == header


def _cells(row: list[str] | str) -> tuple[str, ...] | str:
    return row if isinstance(row, str) else tuple(cell.strip() for cell in row)


def _blank(row: list[str] | str) -> bool:
    return not isinstance(row, str) and not any(cell.strip() for cell in row)


def _remark(row: list[str] | str, width: int) -> bool:
    """True for a line like "# exported by me" among the rows."""
    return not isinstance(row, str) and row[0].lstrip().startswith("#") and len(_trimmed(row)) < width


def _trimmed(row: Cells) -> Cells:
    """The cells without the empty ones at the end."""
    end = len(row)
    while end and not row[end - 1].strip():
        end -= 1
    return row[:end]


def _body(row: list[str] | str, width: int) -> tuple[str, ...] | str:
    """Cells of a row; empty ones beyond the header's width are a spreadsheet's."""
    if isinstance(row, str):
        return row
    cells = row if len(row) <= width else [*row[:width], *_trimmed(row[width:])]
    return tuple(_shown(cell.strip()) for cell in cells)


def _shown(cell: str) -> str:
    """What a spreadsheet shows of a cell that is exported as ="12"."""
    return cell[2:-1] if cell.startswith('="') and cell.endswith('"') and len(cell) > 2 else cell


def _header(row: list[str] | str) -> tuple[str, ...]:
    """Names of the columns: without the "# " of numpy.savetxt, numbered where one stands twice or is empty."""
    assert not isinstance(row, str)
    names: list[str] = []
    cells = [cell.strip() for cell in _trimmed(row)]
    if cells[0].startswith("#"):
        cells[0] = cells[0].lstrip("# ")
    taken = Counter[str]()
    for place, cell in enumerate(cells, start=1):
        name = cell or f"column {place}"
        taken[name] += 1
        names.append(name if taken[name] == 1 else f"{name}.{taken[name] - 1}")
    return tuple(names)


def _delimiter(sample: str, knows: Knows) -> str:
    """The delimiter under which most headers are known; of equals, that under which most rows are of one width."""
    if len(sample) == _SAMPLE:
        sample = sample[: sample.rfind("\n") + 1] or sample

    def score(delimiter: str) -> tuple[int, float, int]:
        rows = [
            row for _, row in parse_csv(sample, delimiter) if not isinstance(row, str) and not _blank(row)
        ]
        known = max((_known(row, knows) for row in rows[:HEADER_WITHIN]), default=0)
        widths = Counter(len(row) for row in rows)
        width, rows_of_it = widths.most_common(1)[0] if widths else (1, 0)
        return known, rows_of_it / len(rows) if width > 1 else 0.0, width

    return max(DELIMITERS, key=score)


def _between_spaces(text: str, delimiter: str, knows: Knows) -> str | None:
    """The text with one space between cells, where its header is known by spaces alone; else None."""
    first = next(
        (line for line in text[:_SAMPLE].split("\n") if line.strip(" =-+\t\r") and not line.startswith("#")),
        "",
    )
    if delimiter in first or _known(first.split(), knows) < 2:
        return None
    return "\n".join(" ".join(line.split()) for line in text.split("\n"))


def _known(row: Cells, knows: Knows) -> int:
    cells = [cell.strip().lstrip("# ") for cell in row]
    return sum(bool(cell) and not _is_number(cell) and knows(cell) for cell in cells[:200])


def _is_number(cell: str) -> bool:
    return len(cell) <= _LONGEST and _parts(cell) is not None


def _header_place(rows: Sequence[list[str] | str], knows: Knows) -> int | None:
    """Place of the header: the first row with two known columns; without one, the first that is no title."""
    texts = [(place, row) for place, row in enumerate(rows) if not isinstance(row, str)]
    for place, row in texts:
        if _known(row, knows) >= 2 and not any(_is_number(cell.strip()) for cell in row):
            return place
    widest = max((len(_trimmed(row)) for _, row in texts), default=0)
    return next((place for place, row in texts if len(_trimmed(row)) >= min(2, widest)), None)


# Numbers


def _parts(cell: str) -> tuple[str, str, str] | None:
    """(sign, digits with their marks, what follows) of a cell that holds a number and at most a unit; else None."""
    if len(cell) > _LONGEST or not any(letter.isdigit() for letter in cell[:2]):
        return None
    match = _NUMBER.fullmatch(cell)
    if match is None or not _AFTER.fullmatch(match[3] or ""):
        return None
    return match[1], _GAP.sub("", match[2]), match[3] or ""


def _evidence(digits: str) -> Decimal | None:
    """The decimal mark that the digits of one number prove: 1.234,5 a comma, 1,234,567 a point, 1,234 neither."""
    commas, points = digits.count(","), digits.count(".")
    if commas and points:
        last: Decimal = "," if digits.rfind(",") > digits.rfind(".") else "."
        return last if digits.count(last) == 1 else None
    if not commas and not points:
        return None
    mark: Decimal = "," if commas else "."
    other: Decimal = "." if commas else ","
    if commas + points > 1:
        return other if _GROUPS[mark].fullmatch(digits) else None
    before, _, after = digits.partition(mark)
    return mark if len(after) != 3 or len(before) > 3 or before.startswith("0") else None


def _plain(cell: str, decimal: Decimal) -> str:
    """A number with a decimal point and nothing between its thousands; other cells, and malformed ones, as they are."""
    parts = _parts(cell)
    if parts is None:
        return cell
    sign, digits, after = parts
    group: Decimal = "." if decimal == "," else ","
    whole, mark, fraction = digits.partition(decimal)
    if group in fraction or decimal in fraction or (group in whole and not _GROUPS[group].fullmatch(whole)):
        return cell
    return f"{sign}{whole.replace(group, '')}{'.' if mark else ''}{fraction}{after}"


def _with_points(
    header: tuple[str, ...],
    body: Sequence[tuple[int, tuple[str, ...] | str]],
    delimiter: str,
    notes: Iterable[str],
) -> Delimited:
    """The table with every number in one notation, each column by what its own cells prove, else by the file's.

    Where nothing is proven, 1,234 is 1.234 between semicolons or tabs, and stays as it is between commas.
    """
    if not any(isinstance(row, tuple) and _TO_DECIDE.search("\0".join(row)) for _, row in body):
        return Delimited(header=header, rows=tuple(body), notes=tuple(notes))
    proven: list[set[Decimal]] = [set() for _ in header]
    comma = False
    for _, row in body:
        for marks, cell in zip(proven, () if isinstance(row, str) else row, strict=False):
            if cell.isalnum() or (parts := _parts(cell)) is None:
                continue
            mark = _evidence(parts[1])
            comma |= "," in parts[1]
            if mark is not None:
                marks.add(mark)
    of_file: set[Decimal] = set().union(*proven)
    if not of_file and comma and delimiter != ",":
        of_file = {","}
    chosen = [next(iter(marks)) if len(marks) == 1 else None for marks in (own or of_file for own in proven)]
    rows: list[tuple[int, tuple[str, ...] | str]] = []
    example = ""
    for line, row in body:
        if isinstance(row, str):
            rows.append((line, row))
            continue
        plain = tuple(
            cell if mark is None or cell.isalnum() else _plain(cell, mark)
            for cell, mark in zip(row, [*chosen, *[None] * len(row)], strict=False)
        )
        if not example and "," in chosen:
            changed = zip(row, plain, chosen, strict=False)
            example = next(
                (f"{was} is read as {now}" for was, now, mark in changed if mark == "," and was != now), ""
            )
        rows.append((line, plain))
    said = [f"numbers have a decimal comma: {example}"] if example else []
    return Delimited(header=header, rows=tuple(rows), notes=(*notes, *said))
