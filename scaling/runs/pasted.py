"""Tables as people paste them from a page or a paper: HTML and LaTeX, as rows of cells."""

import re
from html.parser import HTMLParser
from itertools import islice

Rows = list[tuple[int, list[str] | str]]

_MOST_SPANNED = 100  # columns or rows of one cell
_MOST_CELLS = 2_000_000
_MOST_TABLES = 1000
_SAMPLE = 20_000  # characters in which rows without their tabular are looked for

_TABULAR = re.compile(r"\\begin\{(tabular[xy*]?|longtable|array|NiceTabular)\}")
_BREAK = re.compile(r"\\\\(?:\[[^\]\n]{0,20}\])?|\\tabularnewline\b")
_NEXT_CELL = re.compile(r"(?<!\\)&")
_COMMENT = re.compile(r"(?<!\\)%[^\n]*")
_RULES = re.compile(
    r"\\(?:toprule|midrule|bottomrule|hline|endhead|endfirsthead|endfoot|endlastfoot)\b|"
    r"\\(?:cmidrule|cline|addlinespace|specialrule|rowcolor)(?:\([a-z]{0,9}\))?(?:\[[^\]\n]{0,200}\])?(?:\{[^{}\n]{0,200}\})*"
)
_SPANNING = re.compile(r"^\s*\\multicolumn\s*\{(\d{1,2})\}\s*\{[^{}]{0,200}\}\s*\{(.*)\}\s*$", re.DOTALL)
_ROWS_OF = re.compile(
    r"\\multirow(?:cell)?\s*(?:\[[^\]]{0,200}\])?\{[^{}]{0,200}\}\s*\{[^{}]{0,200}\}\s*(?=\{)"
)
_DROPPED = re.compile(
    r"\\(?:cellcolor|color|rowcolor|cite[pt]?|label|footnote|tnote)(?:\[[^\]]{0,200}\])?\{[^{}]{0,200}\}"
)
_STYLES = re.compile(r"\\(?:tiny|scriptsize|footnotesize|small|bf|it|tt|bfseries|itshape|centering)(?![a-z])")
_OF_TEXT = re.compile(
    r"\\(?:text[a-z]{0,10}|math[a-z]{2,4}|emph|underline|num|SI|makecell|bm|boldsymbol|shortstack)\s*(?=\{)"
)
_SIGNS = (
    (r"\pm", "±"), (r"\times", "×"), (r"\cdot", "·"), (r"\approx", "≈"), (r"\sim", "~"), (r"\%", "%"), (r"\_", "_"), (r"\#", "#"),
    (r"\&", "&"), (r"\,", " "), (r"\;", " "), (r"\ ", " "), (r"\!", ""),
    ("{,}", ","), ("{.}", "."),
)  # fmt: skip


def latex_rows(text: str) -> Rows | None:
    """The rows of each LaTeX table in a text, one behind the other; None for a text without one."""
    found = [*islice(_TABULAR.finditer(text), _MOST_TABLES)]
    lines = text[:_SAMPLE].split("\n")
    if not found and sum("&" in line and line.rstrip().endswith("\\\\") for line in lines) < 2:
        return None
    rows: Rows = []
    starts = [match.end() for match in found] or [0]
    line = at = 0
    for place, start in enumerate(starts):
        limit = found[place + 1].start() if place + 1 < len(found) else len(text)
        end = text.find("\\end{", start, limit)
        body = text[start : limit if end < 0 else end]
        kept = _after_columns(body) if found else body
        first = start + len(body) - len(kept)
        line, at = line + text.count("\n", at, first), first
        below = line + 1
        for row in _BREAK.split(_COMMENT.sub("", kept)):
            plain = _RULES.sub("", row)
            cells = [cell for part in _NEXT_CELL.split(plain) for cell in _spanned(part)]
            if any(cells):
                rows.append((below + plain[: len(plain) - len(plain.lstrip())].count("\n"), cells))
            below += row.count("\n")
    return rows


def _after_columns(body: str) -> str:
    """What follows the widths and columns of a table: "[t]{5cm}{l|rr}" in front of the rows."""
    for _ in range(4):
        match = re.match(r"\s*(?:\[[^\]]{0,200}\]|\{)", body)
        if match is None:
            break
        if not match[0].endswith("{"):
            body = body[match.end() :]
            continue
        depth = 0
        for place, letter in enumerate(body[:1000]):
            depth += (letter == "{") - (letter == "}")
            if letter == "}" and depth == 0:
                body = body[place + 1 :]
                break
        else:
            return body
    return body


def _spanned(part: str) -> list[str]:
    match = _SPANNING.match(part)
    return [_plain(match[2])] * int(match[1]) if match and int(match[1]) else [_plain(part)]


def _plain(cell: str) -> str:
    """What a cell of LaTeX shows."""
    if "\\" in cell or "{" in cell or "$" in cell or "~" in cell:
        for pattern in (_DROPPED, _ROWS_OF, _OF_TEXT, _STYLES):
            cell = pattern.sub("", cell)
        cell = cell.replace("~", " ")
        for sign, shown in _SIGNS:
            cell = re.sub(re.escape(sign) + (r"(?![a-z])" if sign[-1:].isalpha() else ""), shown, cell)
        cell = re.sub(r"(?<!\\)[{}$]", "", cell).replace("\\", "")
    return " ".join(cell.split())


def html_tables(text: str) -> list[Rows]:
    """The tables of an HTML text, cells that span several columns or rows in each of them."""
    parser = _Tables()
    parser.feed(text)
    parser.close()
    return [table for table in parser.tables if table]


class _Tables(HTMLParser):
    """Collects the cells of tables; a table in a cell is a table of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[Rows] = []
        self._open: list[int] = []  # tables that are open, by their place
        self._below: list[
            dict[int, tuple[int, str]]
        ] = []  # by column: rows that a cell still spans, and its text
        self._cell: list[str] | None = None
        self._spans = (1, 1)
        self._cells = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._close_cell()
            self._open.append(len(self.tables))
            self._below.append({})
            self.tables.append([])
        elif not self._open:
            return
        elif tag == "tr":
            self._close_cell()
            self._fill()
            self.tables[self._open[-1]].append((self.getpos()[0], []))
        elif tag in ("td", "th"):
            self._close_cell()
            spans = dict(attrs)
            self._spans = (_span(spans.get("colspan")), _span(spans.get("rowspan")))
            self._cell = []
        elif tag == "br" and self._cell is not None:
            self._cell.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "tr", "table"):
            self._close_cell()
        if tag == "table" and self._open:
            self._fill()
            self._open.pop()
            self._below.pop()

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)

    def _row(self) -> list[str] | None:
        table = self.tables[self._open[-1]] if self._open else []
        row = table[-1][1] if table else None
        return row if isinstance(row, list) else None

    def _fill(self) -> None:
        """Add the cells that reach into this row from above, at its end."""
        row = self._row()
        while row is not None and len(row) in self._below[-1]:
            self._from_above(row)

    def _from_above(self, row: list[str]) -> None:
        rows, text = self._below[-1].pop(len(row))
        if rows > 1:
            self._below[-1][len(row)] = (rows - 1, text)
        row.append(text)

    def _close_cell(self) -> None:
        row, cell, self._cell = self._row(), self._cell, None
        if row is None or cell is None:
            return
        while len(row) in self._below[-1]:
            self._from_above(row)
        text = " ".join("".join(cell).split())
        for _ in range(self._spans[0]):
            self._cells += 1
            if self._cells > _MOST_CELLS:
                return
            if self._spans[1] > 1:
                self._below[-1][len(row)] = (self._spans[1] - 1, text)
            row.append(text)


def _span(text: str | None) -> int:
    return min(int(text), _MOST_SPANNED) if text and text.isdecimal() and len(text) < 5 and int(text) else 1
