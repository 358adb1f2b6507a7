"""A table from bytes: CSV in any dialect and encoding, JSON in the shapes that programs write, Markdown, Excel, Parquet."""

import ast
import io
import json
import math
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from families.units import BadInput

from ..files import StrPath, check_file, check_kind
from ..untrusted import parse_json
from .columns import field_of, is_known
from .consoles import litgpt_columns, litgpt_rows
from .dialect import Delimited, read_delimited, read_rows
from .pasted import Rows, html_tables, latex_rows
from .run import RUNS_VERSION
from .store import merged_lines
from .textlogs import read_log

TORN = "it has no line end and is not JSON: it is being written, or was cut off"

MARKDOWN = (".md", ".markdown")

EXTRA = "pip install 'scaling-planner[tables]'"

_BOMS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"BZh": "bzip2"}
_LOG_SUFFIXES = (".log", ".out", ".err")
_PAGES = (".html", ".htm")
_LARGEST_BOOK = 500_000_000  # bytes of a workbook's parts, unpacked
OWN_COLUMNS = "extra"  # the field of Run that is an object
_MARKED = re.compile(r"(\*\*|__|`)([^*`]+)\1")
_DEPTH = 5  # of objects in a cell that become columns of their own
_MOST_KEYS = 5000
_LONGEST_CELL = 1_000_000  # characters of a cell that may hold an object


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """Rows under a header, from any format.

    Attributes:
        header: names of the columns, each once.
        rows: (number of the line, cells), or in place of the cells what is wrong with a row; line 0 is one of a run's own
            file, which the text names. Cells of CSV and spreadsheets
            are text, numbers in it with a decimal point; those of JSON keep their types. Empty is None or "".
        notes: choices that were made in reading, a line each.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[int, tuple[object, ...] | str], ...]
    notes: tuple[str, ...] = ()

    def records(self) -> Iterator[tuple[int, dict[str, Any] | str]]:
        """(number of the line, row by column), or what is wrong with the row."""
        width = len(self.header)
        for line, row in self.rows:
            if isinstance(row, str):
                yield line, row
            elif len(row) != width:
                yield line, f"it has {len(row)} cells where the header has {width}"
            else:
                yield (
                    line,
                    {name: cell for name, cell in zip(self.header, row, strict=True) if cell is not ABSENT},
                )


class _Absent:
    """A cell of a column that a JSON row does not have."""

    def __str__(self) -> str:
        return ""


ABSENT = _Absent()


def read_sheet(path: StrPath) -> Sheet:
    """The table in a file; of several (Markdown, sheets of a workbook) the one with most known columns.

    Raises:
        BadInput: no such file, a format that is no table, or a package that is needed and missing.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        text, faults = merged_lines(path)
        sheet = _json_lines(text, path)
        return replace(sheet, rows=(*sheet.rows, *((0, fault) for fault in faults)))
    data = _bytes(path)
    if data.startswith(b"PAR1"):
        return _expanded(_parquet(data, path))
    if data.startswith(b"PK\x03\x04"):
        return _expanded(_workbook(data, path))
    _refuse_binary(data, path)
    text, notes = _decoded(data, path)
    is_log = suffix in (*_LOG_SUFFIXES, ".txt", "") or (suffix in MARKDOWN and "validation bpb: " in text)
    if is_log and (log := read_log(text, path.stem)) is not None:
        return replace(_of_objects(list(enumerate(log[0], start=1))), notes=(*notes, *log[1]))
    if suffix in MARKDOWN:
        tables = pipe_tables(text)
        if not tables:
            raise BadInput(
                f"{path} holds no table: a Markdown table has a header and a rule of dashes under it"
            )
        sheet = max(tables, key=lambda table: sum(map(is_known, table.header)))
        notes += (
            [f"of {len(tables)} tables, the one on line {sheet.rows[0][0]} is read"]
            if len(tables) > 1
            else []
        )
    elif text.lstrip()[:1] in ("{" if suffix in _LOG_SUFFIXES else ("{", "[")) or suffix in (
        ".json",
        ".ndjson",
    ):
        sheet = _json(text, path)
    elif suffix in _PAGES or (text.lstrip()[:1] == "<" and "<table" in text.lower()):
        sheet = _of(_pasted(html_tables(text), path))
    elif (suffix == ".tex" or text.lstrip()[:1] in ("\\", "%")) and (cells := latex_rows(text)) is not None:
        sheet = _of(_pasted([cells], path))
    else:
        found = read_delimited(text, is_known, "\t" if suffix == ".tsv" and "\t" in text else None)
        sheet = _of(found)
        if litgpt_columns(sheet.header):
            records = [record for _, record in sheet.records() if not isinstance(record, str)]
            if len(records) == len(sheet.rows):  # broken rows are named as they are
                made, said = litgpt_rows(records)
                sheet = replace(_of_objects(list(enumerate(made, start=2))), notes=(*sheet.notes, *said))
        if suffix in _LOG_SUFFIXES and sum(field_of(name) is not None for name in sheet.header) < 2:
            raise BadInput(
                f"{path} is no log that is known here (Megatron, NeoX, nanoGPT, nanochat, llm.c, OLMo, torchtune, torchtitan, "
                "litgpt, fairseq, Levanter) and no table: write its numbers as "
                "CSV with the columns run, params, tokens, loss, or give the trainer's TensorBoard folder"
            )
    return _expanded(replace(sheet, notes=(*notes, *sheet.notes)))


def _pasted(tables: Sequence[Rows], path: Path) -> Delimited:
    """The table of a page or a paper with most known columns.

    Raises:
        BadInput: there is none.
    """
    found = [read_rows(table, is_known) for table in tables if table]
    if not found:
        raise BadInput(f"{path} holds no table: neither <table> with rows nor a tabular")
    best = max(found, key=lambda table: sum(map(is_known, table.header)))
    more = [f"of {len(found)} tables, number {found.index(best) + 1} is read"] if len(found) > 1 else []
    return replace(best, notes=(*more, *best.notes))


def read_lines(text: str, path: StrPath) -> Sheet:
    """The table in a text of JSON lines, such as a runs.jsonl that is about to be written to `path`."""
    return _json_lines(text, Path(path))


def _of(found: Delimited) -> Sheet:
    return Sheet(header=found.header, rows=found.rows, notes=found.notes)


# Bytes and their encoding


def _bytes(path: Path) -> bytes:
    check_file(path)
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BadInput(f"{path} does not exist") from error
    except (OSError, ValueError) as error:  # a NUL in a name is a ValueError
        raise BadInput(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _refuse_binary(data: bytes, path: Path) -> None:
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        raise BadInput(f"{path} is a workbook in Excel's old format: save it as .xlsx or .csv")
    for magic, name in _PACKED.items():
        if data.startswith(magic):
            raise BadInput(f"{path} is compressed ({name}): unpack it first")


def _decoded(data: bytes, path: Path) -> tuple[str, list[str]]:
    """The text of bytes, and a note where their encoding had to be guessed."""
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), None)
    if encoding is None and len(data) > 3:
        sample = data[:4000]
        odd, even = sample[1::2], sample[::2]
        if odd.count(0) > 0.6 * len(odd) > 0 == even.count(0):
            encoding = "utf-16-le"
        elif even.count(0) > 0.6 * len(even) > 0 == odd.count(0):
            encoding = "utf-16-be"
    try:
        return data.decode(encoding or "utf-8"), []
    except UnicodeDecodeError as error:
        refused = BadInput(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}")
        if encoding is not None or re.search(rb"[\x00-\x08\x0e-\x1f]", data):
            raise refused from error
    try:
        return data.decode("cp1252"), ["the text is not UTF-8 and was read as Windows-1252"]
    except UnicodeDecodeError:
        raise refused from None


# JSON


def _json_lines(text: str, path: Path) -> Sheet:
    lines = text.split("\n")  # the last is empty where the file is whole
    rows: list[tuple[int, dict[str, Any] | str]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
        except json.JSONDecodeError as error:
            torn = number == len(lines)
            rows.append((number, TORN if torn else f"it is not JSON: {error.msg} at column {error.colno}"))
            continue
        if not isinstance(value, dict):
            rows.append((number, f"it is not a JSON object but {type(value).__name__}"))
        elif "kind" in value:
            check_kind(value, "runs", RUNS_VERSION, str(path))
        else:
            rows.append((number, value))
    return _of_objects(rows)


def _json(text: str, path: Path) -> Sheet:
    """A JSON document, or lines of JSON where it is none."""
    try:
        value = parse_json(text)
    except json.JSONDecodeError as error:
        sheet = _json_lines(text, path)
        if any(not isinstance(row, str) for _, row in sheet.rows):
            return sheet
        raise BadInput(
            f"{path} is not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from error
    if isinstance(value, dict) and "kind" in value:
        check_kind(value, "runs", RUNS_VERSION, str(path))
        return Sheet(header=(), rows=())
    objects = _objects(value)
    if objects is None:
        raise BadInput(f"{path} is JSON, but no table: a list of objects is one, each a row like {_EXAMPLE}")
    return _of_objects(list(enumerate(objects, start=1)))


_EXAMPLE = '{"run": "a", "params": 52e6, "tokens": 4.6e9, "loss": 3.43}'


def _objects(value: Any) -> list[dict[str, Any] | str] | None:
    """The rows of a JSON document in one of the shapes that programs write; None for another."""
    if isinstance(value, list):
        if value and all(isinstance(row, list) for row in value):
            return _under(value[0], value[1:]) if all(isinstance(name, str) for name in value[0]) else None
        return [
            row if isinstance(row, dict) else f"it is not a JSON object but {type(row).__name__}"
            for row in value
        ]
    if not isinstance(value, dict) or not value:
        return None
    columns, data, results = value.get("columns"), value.get("data"), value.get("results")
    if isinstance(columns, list) and isinstance(data, list):  # pandas' "split", and W&B's tables
        return _under(columns, data)
    if isinstance(results, dict) and any(isinstance(scores, dict) for scores in results.values()):
        return _evaluations(value, results)
    inner = list(value.values())
    if len(inner) == 1 and isinstance(inner[0], list) and inner[0] and isinstance(inner[0][0], dict):
        return _objects(inner[0])
    if all(isinstance(column, list) for column in inner) and len({len(column) for column in inner}) == 1:
        return _under(list(value), [list(row) for row in zip(*inner, strict=True)])
    lists = [rows for rows in inner if isinstance(rows, list) and rows and isinstance(rows[0], dict)]
    if len(lists) == 1:  # pandas' "table", and {"runs": […]}
        return _objects(lists[0])
    held = [rows for rows in inner if isinstance(rows, dict) and _is_table(rows)]
    if len(held) == 1 and not _is_table(value):  # {"meta": {…}, "runs": {"a": {…}, "b": {…}}}
        return _objects(held[0])
    if all(isinstance(column, dict) for column in inner):
        names = dict.fromkeys(name for column in inner for name in column)
        if sum(map(is_known, value)) > sum(map(is_known, names)):  # pandas' own way: by column, then by row
            return [{column: rows[name] for column, rows in value.items() if name in rows} for name in names]
        named = not all(name.isdigit() for name in value)
        return [{**({"run": name} if named else {}), **row} for name, row in value.items()]
    return [value] if any(map(is_known, value)) else None


def _is_table(value: Mapping[str, Any]) -> bool:
    """True for an object of several objects in which two keys or more are known, as runs by their names."""
    rows = list(value.values())
    return len(rows) > 1 and all(isinstance(row, dict) and sum(map(is_known, row)) > 1 for row in rows)


def _under(header: Sequence[Any], rows: Sequence[Any]) -> list[dict[str, Any] | str]:
    names = [str(name) for name in header]
    return [
        dict(zip(names, row, strict=True))
        if isinstance(row, list) and len(row) == len(names)
        else f"it is not a row of {len(names)} cells"
        for row in rows
    ]


def _evaluations(document: Mapping[str, Any], results: Mapping[str, Any]) -> list[dict[str, Any] | str]:
    """Rows of lm-eval's results JSON: one for each task, with what it says of the model."""
    config = document.get("config")
    model = {"run": document.get("model_name")}
    if isinstance(config, dict):
        model["params"] = config.get("model_num_parameters")
    about = {name: value for name, value in model.items() if value is not None}
    return [
        {**about, "eval_set": task, **scores} for task, scores in results.items() if isinstance(scores, dict)
    ]


def _of_objects(rows: Sequence[tuple[int, dict[str, Any] | str]]) -> Sheet:
    flat = [(number, row if isinstance(row, str) else _flat(row)) for number, row in rows]
    header = tuple(dict.fromkeys(name for _, row in flat if not isinstance(row, str) for name in row))
    return Sheet(
        header=header,
        rows=tuple(
            (number, row if isinstance(row, str) else tuple(row.get(name, ABSENT) for name in header))
            for number, row in flat
        ),
    )


def _flat(row: Mapping[str, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """A row with each object in it as columns of their own: {"config": {"lr": 1}} as config.lr."""
    if not any(isinstance(value, dict) for value in row.values()):
        return {f"{prefix}{name}": value for name, value in row.items()}
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict) and set(value) <= {"value", "desc"} and "value" in value:
            value = value["value"]  # as W&B keeps a setting
        if (
            isinstance(value, dict)
            and depth < _DEPTH
            and len(flat) < _MOST_KEYS
            and (depth or name != OWN_COLUMNS)
        ):
            flat |= _flat(value, f"{prefix}{name}.", depth + 1)
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _expanded(sheet: Sheet) -> Sheet:
    """The sheet with columns of objects, as JSON or as Python prints them, split into columns of their own."""
    nested = set()
    for _, row in sheet.rows[:50]:
        if not isinstance(row, str):
            nested |= {place for place, cell in enumerate(row[: len(sheet.header)]) if _holds_object(cell)}
    if not nested:
        return sheet
    rows: list[tuple[int, dict[str, Any] | str]] = []
    for line, record in sheet.records():
        if isinstance(record, str):
            rows.append((line, record))
            continue
        own: dict[str, Any] = {}
        for place, name in enumerate(sheet.header):
            cell = record.get(name)
            value = _object(cell) if place in nested and _holds_object(cell) else None
            own |= {name: cell} if value is None else _flat(value, f"{name}.")
        rows.append((line, own))
    return replace(_of_objects(rows), notes=sheet.notes)


def _holds_object(cell: object) -> bool:
    return isinstance(cell, dict) or (
        isinstance(cell, str) and cell.startswith("{") and cell.endswith("}") and len(cell) <= _LONGEST_CELL
    )


def _object(cell: Any) -> dict[str, Any] | None:
    """The object in a cell: JSON, or a dictionary as Python prints it (W&B's documented export writes those)."""
    if isinstance(cell, dict):
        return cell
    try:
        value = parse_json(cell)
    except ValueError:
        try:
            value = ast.literal_eval(re.sub(r"(?<=[:\[,] )(?:nan|-?inf)\b", "None", cell))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return {str(name): held for name, held in value.items()} if isinstance(value, dict) else None


# Markdown


def pipe_tables(text: str) -> tuple[Sheet, ...]:
    """The pipe tables of a Markdown text."""
    lines, tables, index = text.split("\n"), [], 0
    while index + 1 < len(lines):
        header, rule = _bar_cells(lines[index]), _bar_cells(lines[index + 1])
        if header is None or rule is None or not all(re.fullmatch(r":?-+:?", cell) for cell in rule):
            index += 1
            continue
        rows: list[tuple[int, tuple[str, ...]]] = []
        index += 2
        while index < len(lines) and (cells := _bar_cells(lines[index])) is not None:
            rows.append((index + 1, cells))
            index += 1
        if rows:
            tables.append(Sheet(header=header, rows=tuple(rows)))
    return tuple(tables)


def _bar_cells(line: str) -> tuple[str, ...] | None:
    """The cells of "| a | b |"; None for other lines."""
    words = line.strip()
    if words.count("|") < 2 or not words.startswith("|"):
        return None
    inner = words[1:-1] if words.endswith("|") else words[1:]
    return tuple(_bare(cell.strip()) for cell in re.split(r"(?<!\\)\|", inner))


def _bare(cell: str) -> str:
    """A cell without the marks that set all of it in bold or as code: 3.21 of "**3.21**"."""
    match = _MARKED.fullmatch(cell)
    return match[2].strip() if match else cell


# Excel and Parquet, through pandas


def _workbook(data: bytes, path: Path) -> Sheet:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as parts:
            names, size = set(parts.namelist()), sum(part.file_size for part in parts.infolist())
    except zipfile.BadZipFile as error:
        raise BadInput(f"{path} is a broken zip file: {error}") from error
    if "xl/workbook.xml" not in names:
        raise BadInput(
            f"{path} is a zip file and no .xlsx workbook: unpack it, or save the table as .xlsx or .csv"
        )
    if size > _LARGEST_BOOK:
        raise BadInput(
            f"{path} holds {size / 1e6:,.0f} MB unpacked; at most {_LARGEST_BOOK / 1e6:,.0f} MB are read"
        )
    try:
        import pandas

        sheets = pandas.read_excel(io.BytesIO(data), sheet_name=None, header=None, dtype=object)
    except ImportError as error:
        raise BadInput(f"{path} is an Excel workbook, which needs pandas and openpyxl: {EXTRA}") from error
    except Exception as error:
        raise BadInput(f"{path} cannot be read as a workbook: {error}") from error
    tables = {
        str(name): _of(
            read_rows(enumerate((list(map(_as_text, row)) for row in frame.to_numpy()), start=1), is_known)
        )
        for name, frame in sheets.items()
    }
    if not tables:
        raise BadInput(f"{path} has no sheets")
    name = max(tables, key=lambda name: sum(map(is_known, tables[name].header)))
    sheet = tables[name]
    others = f"sheet {name!r} of {len(tables)} is read"
    alike = [repr(other) for other in tables if other != name and tables[other].header == sheet.header]
    if alike:
        others += f", and not {', '.join(alike[:6])} of the same columns"
    return replace(sheet, notes=(*([others] if len(tables) > 1 else []), *sheet.notes))


def _parquet(data: bytes, path: Path) -> Sheet:
    try:
        import pandas

        frame = pandas.read_parquet(io.BytesIO(data))
        frame = frame.reset_index() if any(frame.index.names) else frame
    except ImportError as error:
        raise BadInput(f"{path} is a Parquet file, which needs pandas and pyarrow: {EXTRA}") from error
    except Exception as error:
        raise BadInput(f"{path} cannot be read as Parquet: {error}") from error
    names = [
        "_".join(filter(None, map(str, name))) if isinstance(name, tuple) else str(name) for name in frame
    ]
    return _of_objects([(line, dict(zip(names, row, strict=True))) for line, row in _frame_rows(frame)])


def _frame_rows(frame: Any) -> Iterable[tuple[int, list[Any]]]:
    for line, row in enumerate(frame.itertuples(index=False, name=None), start=1):
        yield line, [_plain_value(value) for value in row]


def _plain_value(value: Any) -> Any:
    """A cell of a data frame as a value of Python; a missing one as None."""
    if isinstance(value, dict):
        return {name: held for name, held in value.items() if held is not None}
    value = value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value
    missing = value is None or type(value).__name__ in ("NAType", "NaTType") or value != value
    return None if missing else value if isinstance(value, str | int | float | bool) else str(value)


def _as_text(value: Any) -> str:
    value = _plain_value(value)
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and math.isfinite(value) and abs(value) < 1e18:
        return str(int(value))
    return repr(value) if isinstance(value, float) else str(value)
