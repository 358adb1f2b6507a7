"""Readers of text: plain, JSON Lines, JSON, CSV, Parquet and Arrow, each also compressed, in pieces of bounded size."""

import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from families.units import BadInput
from scaling.files import check_fetched, check_file
from scaling.untrusted import parse_json

PLAIN = (".txt", ".md", ".py", ".text", ".raw", ".tokens", ".rst", ".tex")

RECORDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")  # each record is a document

COMPRESSED = (".gz", ".zst", ".xz", ".bz2")

LINES = (".ndjson", ".jsonlines")  # other names of .jsonl

SUFFIXES = (*PLAIN, *RECORDS, *LINES)

FIELDS = (
    "text",
    "content",
    "document",
    "body",
    "story",
    "article",
    "raw_content",
)  # names of the field that holds a record's text, the first that a file has, in capitals too

# A field so called is not the text, even where it is the only one that holds strings: chats have an id and a list.
_FACTS = re.compile(
    r"(.*[_-])?(id|ids|uuid|guid|url|uri|title|name|label|labels|split|lang|language|source|date|time|timestamp|hash|sha\d*|md5"
    r"|file|filename|path|category|topic|author|role|type|license|meta|metadata)",
    re.IGNORECASE,
)

LONGEST_NAME = (
    40  # characters of a field that is guessed; a longer first line of a CSV file is a row and no header
)

_DELIMITERS = ",;\t|"

_LINES_SEEN = 200  # of a CSV file, that tell whether it quotes

_START = 2**16  # characters at the start of a plain file that show what it is

_TAGS = re.compile(r"<!doctype html|<html|<\?xml", re.IGNORECASE)

CHUNK_CHARACTERS = 2**22

LONGEST_RECORD = 2**28  # characters of a line of JSON or a cell of CSV

LARGEST_JSON = 2**29  # bytes of a .json file, which is read whole

MARKED = (b"\xff\xfe", b"\xfe\xff")

_ENCODINGS = dict.fromkeys(MARKED, "utf-16")  # by the byte order mark; all else is UTF-8

_WIDE = 2**12  # characters at the start of a plain file that show whether they are one byte each

# By their first bytes, what people name by another ending.
_BINARY = {
    b"\x1f\x8b": "compressed by gzip (.gz)",
    b"\x28\xb5\x2f\xfd": "compressed by zstd (.zst)",
    b"\xfd7zXZ": "compressed by xz (.xz)",
    b"BZh": "compressed by bzip2 (.bz2)",
    b"PK\x03\x04": "a zip archive (unpack it)",
    b"7z\xbc\xaf": "a 7z archive (unpack it)",
    b"PAR1": "Parquet (.parquet)",
    b"ARROW1": "Arrow (.arrow)",
    b"%PDF": "a PDF",
    b"SQLite f": "an SQLite database",
}

_BROKEN = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)


@dataclass(frozen=True, slots=True)
class SourceText:
    """A text file, its name in the data set, and the field of its records to read; "" for the usual one."""

    name: str
    path: Path
    field: str = ""

    @property
    def kind(self) -> str:
        """The format: the suffix without that of a compression, or .txt where the suffix is no known one."""
        suffixes = [suffix.lower() for suffix in self.path.suffixes[-2:]]
        if suffixes and suffixes[-1] in COMPRESSED:
            suffixes.pop()
        if suffixes and suffixes[-1] in LINES:
            return ".jsonl"
        return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else ".txt"

    @property
    def compression(self) -> str:
        """The suffix of the compression; "" without one."""
        suffix = self.path.suffix.lower()
        return suffix if suffix in COMPRESSED else ""


def holds_documents(text: SourceText) -> bool:
    """Return True if each piece of the file is a document."""
    return text.kind in RECORDS


def read_chunks(text: SourceText) -> Iterator[str]:
    """Yield a file's text in pieces of a few megabytes: whole documents of a file of records, else pieces that end at a line.

    A line longer than a piece ends at a space, or anywhere if it has none. A document without text is none, and a mark of
    the byte order at the start of a file is not text.

    Raises:
        BadInput: the file cannot be read, is not UTF-8 (or UTF-16 with its mark), or a record has no text.
    """
    check_file(text.path, largest=math.inf)
    check_fetched(text.path)
    read = {
        ".jsonl": _json_lines,
        ".json": _json,
        ".csv": _csv,
        ".tsv": _csv,
        ".parquet": _parquet,
        ".arrow": _arrow,
    }.get(text.kind, _plain)
    return (piece for piece in read(text) if piece)


def _plain(text: SourceText) -> Iterator[str]:
    with _reading(text) as file:
        carry = ""
        _check_letters(text, file)
        while chunk := carry + file.read(CHUNK_CHARACTERS - len(carry)):
            carry = ""
            if not chunk.endswith(("\n", "\r")):
                rest = file.readline(CHUNK_CHARACTERS)
                chunk += rest
                if len(rest) == CHUNK_CHARACTERS and not rest.endswith(("\n", "\r")):
                    at = chunk.rfind(" ", CHUNK_CHARACTERS // 2) + 1 or CHUNK_CHARACTERS
                    if len(chunk) - at >= CHUNK_CHARACTERS:
                        at = len(chunk) - CHUNK_CHARACTERS // 2
                    chunk, carry = chunk[:at], chunk[at:]
            yield chunk


def _check_letters(text: SourceText, file: TextIO) -> None:
    """Refuse what begins with many NUL characters: UTF-16 without its mark, UTF-32, or no text; the file is rewound.

    Raises:
        BadInput: it does.
    """
    start = file.read(_WIDE)
    file.seek(0)
    if start.count("\0") > len(start) / 8:
        raise BadInput(
            f"{text.path} is no UTF-8 text: of its first {len(start):,} characters {start.count(chr(0)):,} are NUL, as in UTF-16 "
            "without its mark and in UTF-32; write it as UTF-8, as iconv -f utf-16le -t utf-8 does"
        )


@contextmanager
def open_bytes(path: Path, compression: str) -> Iterator[BinaryIO]:
    """Open a file for reading, decompressed.

    Raises:
        BadInput: it cannot be read, is damaged, or needs a package.
    """
    opened: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open, ".zst": _zstandard}
    try:
        with opened.get(compression, Path.open)(path, "rb") as file:
            yield file
    except _BROKEN as error:
        raise BadInput(f"cannot read {path}: {str(error) or 'it is cut off'}") from error
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from error


def _zstandard(path: Path, mode: str) -> Any:
    try:
        from compression import zstd  # type: ignore[import-not-found]  # of Python 3.14

        return zstd.open(path, mode)
    except ImportError:
        pass
    try:
        import pyarrow
    except ImportError as error:
        raise BadInput(
            f"{path} is compressed with zstd; reading it needs: pip install 'scaling-planner[parquet]'"
        ) from error

    class Stream(io.RawIOBase):
        """The decompressed bytes as a file of Python."""

        def __init__(self) -> None:
            self._stream = pyarrow.input_stream(str(path), compression="zstd")

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            found = self._stream.read(len(buffer))
            buffer[: len(found)] = found
            return len(found)

    return io.BufferedReader(Stream(), 2**20)


@contextmanager
def _reading(text: SourceText, newline: str | None = "") -> Iterator[TextIO]:
    with open_bytes(text.path, text.compression) as raw:
        start = raw.peek(8)[:8] if hasattr(raw, "peek") else b""
        encoding = _ENCODINGS.get(start[:2], "utf-8-sig")
        try:
            yield io.TextIOWrapper(raw, encoding=encoding, newline=newline)
        except (UnicodeDecodeError, UnicodeError) as error:
            reason = getattr(error, "reason", str(error))
            if (
                kind := next((kind for magic, kind in _BINARY.items() if start.startswith(magic)), None)
            ) is not None:
                raise BadInput(f"{text.path} is {kind} by its first bytes, and no text") from error
            raise BadInput(
                f"{text.path} is not UTF-8 text: {reason} at byte {_bad_byte(text, encoding)}; "
                "write it as UTF-8, as iconv -f latin1 -t utf-8 does"
            ) from error


def _bad_byte(text: SourceText, encoding: str) -> int:
    """Return where in the (decompressed) file the first byte stands that is not text."""
    import codecs

    size = 0
    decoder = codecs.getincrementaldecoder("utf-8" if encoding == "utf-8-sig" else encoding)()
    with open_bytes(text.path, text.compression) as file:
        while chunk := file.read(2**16):
            waiting = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                return size - waiting + error.start
            size += len(chunk)
    return size - len(decoder.getstate()[0])


def _lines(text: SourceText) -> Iterator[str]:
    """Yield lines that end at a line feed only: JSON may contain other line separators unescaped.

    Raises:
        BadInput: a line of more than LONGEST_RECORD characters.
    """
    with _reading(text, newline="\n") as file:
        number = 0
        while line := file.readline(LONGEST_RECORD):
            number += 1
            if len(line) == LONGEST_RECORD and not line.endswith("\n"):
                raise BadInput(
                    f"{text.path} line {number} has more than {LONGEST_RECORD:,} characters; is it .json?"
                )
            yield line


class Field:
    """The field of a file's records that holds their text: the one asked for, else decided by the first record."""

    def __init__(self, asked: str) -> None:
        self.name = asked

    def of(self, record: Any, where: str) -> str:
        """Return a record's text; a string is its own.

        Raises:
            BadInput: it has none.
        """
        if isinstance(record, str):
            return _encodable(record, where)
        if isinstance(record, Mapping):
            if not self.name:
                self.name = text_field({key for key, value in record.items() if isinstance(value, str)})
            found = record.get(self.name or FIELDS[0])
            if isinstance(found, str):
                return _encodable(found, where)
        raise BadInput(f"{where} has no field {self.name or FIELDS[0]!r} holding a string{_there(record)}")


def _there(record: Any) -> str:
    if not isinstance(record, Mapping):
        return ""
    for key, value in record.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            return f"; {key} holds the turns of a chat: write each chat as one string"
    names = [key for key, value in record.items() if isinstance(value, str)]
    return f"; field= names another: {', '.join(names[:8])}" if names else ""


def text_field(names: Iterable[str]) -> str:
    """Return the name of the field that holds the text: a usual name, else the only one; "" if that is not clear."""
    there = {name.lower(): name for name in names}
    for usual in FIELDS:
        if usual in there:
            return there[usual]
    only = "".join(there.values()) if len(there) == 1 else ""
    return "" if len(only) > LONGEST_NAME or _FACTS.fullmatch(only) else only


def _encodable(found: str, where: str) -> str:
    try:
        found.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"{where} holds half a character, {found[error.start]!r}") from error
    return found


def _json_lines(text: SourceText) -> Iterator[str]:
    field = Field(text.field)
    for number, line in enumerate(_lines(text), start=1):
        if line.strip():
            where = f"{text.path} line {number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:  # numbers of 5,000 digits, deeply nested lists
                raise BadInput(f"{where} is not JSON: {getattr(error, 'msg', error)}") from error
            yield field.of(value, where)


def _json(text: SourceText) -> Iterator[str]:
    """Yield the records of a list, of the only list in an object, or of lines that are objects."""
    with open_bytes(text.path, text.compression) as file:
        raw = file.read(LARGEST_JSON + 1)
    try:
        value = parse_json(raw[:LARGEST_JSON].removeprefix(b"\xef\xbb\xbf"))
    except json.JSONDecodeError as error:
        if raw.lstrip()[:1] == b"{":
            del raw
            yield from _json_lines(text)
            return
        reason = f"is not JSON: line {error.lineno}: {error.msg}"
        if len(raw) > LARGEST_JSON:
            reason = f"has more than {LARGEST_JSON:,} bytes in one list; write it as .jsonl, a record a line"
        raise BadInput(f"{text.path} {reason}") from error
    if isinstance(value, dict):
        lists = [part for part in value.values() if isinstance(part, list)]
        value = lists[0] if len(lists) == 1 else [value]
    field = Field(text.field)
    for number, record in enumerate(value if isinstance(value, list) else [value], start=1):
        yield field.of(record, f"{text.path} record {number}")


def _csv(text: SourceText) -> Iterator[str]:
    before = csv.field_size_limit(LONGEST_RECORD)
    try:
        with _reading(text) as file:
            names, reader = _header(text, file)
            name = text.field or text_field(names)
            if name not in names:
                there = ", ".join(name[:LONGEST_NAME] for name in names[:8])
                raise BadInput(
                    f"{text.path} has no column {name or FIELDS[0]!r}, but {there}; field= names another"
                )
            column = names.index(name)
            for number, row in enumerate(reader, start=2):
                if not row:
                    continue
                if len(row) <= column:
                    raise BadInput(f"{text.path} row {number} has no column {name!r}")
                yield row[column]
    except csv.Error as error:
        raise BadInput(f"{text.path} is not CSV: {error}") from error
    finally:
        csv.field_size_limit(before)


def _header(text: SourceText, file: TextIO) -> tuple[list[str], Iterator[list[str]]]:
    """Return the names of a CSV file's columns, and its rows."""
    first = file.readline(2**16)
    delimiter = "\t" if text.kind == ".tsv" else max(_DELIMITERS, key=first.count)
    lines = [first, *islice(file, _LINES_SEEN)]
    # A quote that opens a cell and is not closed in its line is a quotation mark where each line has all cells.
    bare = all(line.count(delimiter) == first.count(delimiter) for line in lines if line.strip()) and any(
        cell.startswith('"') and cell.count('"') % 2
        for line in lines
        for cell in line.rstrip("\r\n").split(delimiter)
    )
    rows = chain(lines, file)
    if bare and delimiter == "\t":
        reader = csv.reader(rows, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(rows, delimiter=delimiter)
    return next(reader, []), reader


def _parquet(text: SourceText) -> Iterator[str]:
    with _tables(text) as pyarrow:
        from pyarrow import parquet

        table = parquet.ParquetFile(text.path)
        name = _column(table.schema_arrow, text, pyarrow)
        for batch in table.iter_batches(columns=[name], batch_size=1024):
            yield from (value for value in batch.column(0).to_pylist() if value)


def _arrow(text: SourceText) -> Iterator[str]:
    with _tables(text) as pyarrow:
        source = pyarrow.memory_map(str(text.path))
        try:
            batches: Any = pyarrow.ipc.open_stream(source)
        except pyarrow.ArrowInvalid:
            source.seek(0)
            found = pyarrow.ipc.open_file(source)
            schema, batches = found.schema, map(found.get_batch, range(found.num_record_batches))
        else:
            schema = batches.schema
        name = _column(schema, text, pyarrow)
        for batch in batches:
            column = batch.column(batch.schema.get_field_index(name))
            column.validate(full=True)  # a spoilt offset would end the process
            for start in range(0, len(column), 1024):
                yield from (value for value in column.slice(start, 1024).to_pylist() if value)


@contextmanager
def _tables(text: SourceText) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        kind = text.kind.removeprefix(".").title()
        raise BadInput(
            f"{text.path} is {kind}; reading it needs: pip install 'scaling-planner[parquet]'"
        ) from error
    if text.compression:
        raise BadInput(f"{text.path} is compressed as a whole; decompress it, {text.kind} compresses itself")
    try:
        yield pyarrow
    except (
        pyarrow.ArrowException,
        OSError,
        UnicodeDecodeError,
        SystemError,
    ) as error:  # the last of spoilt offsets
        raise BadInput(f"cannot read {text.path}: {str(error).splitlines()[0]}") from error


def _column(schema: Any, text: SourceText, pyarrow: Any) -> str:
    """Return the name of the column that holds the text."""

    def kind(name: str) -> Any:
        found = schema.field(name).type
        return found.value_type if pyarrow.types.is_dictionary(found) else found

    strings = [name for name in schema.names if _is_string(kind(name), pyarrow)]
    name = text.field or text_field(strings) or FIELDS[0]
    if name not in schema.names:
        raise BadInput(
            f"{text.path} has no column {name!r}, but {', '.join(schema.names[:12])}; field= names another"
        )
    if name not in strings:
        raise BadInput(f"{text.path} has a column {name!r} of {kind(name)}; it must hold strings")
    return str(name)


def _is_string(kind: Any, pyarrow: Any) -> bool:
    types = pyarrow.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def names_field(text: SourceText) -> str:
    """Return the field that a file of records is read by, where it was guessed and is not FIELDS[0]; else "".

    Raises:
        BadInput: as `read_chunks`.
    """
    if text.field or text.kind not in (".jsonl", ".csv", ".tsv", ".parquet", ".arrow"):
        return ""
    if text.kind == ".jsonl":
        for line in _lines(text):
            if line.strip():
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    return ""  # read_chunks says so
                strings = (
                    [key for key, value in record.items() if isinstance(value, str)]
                    if isinstance(record, dict)
                    else []
                )
                break
        else:
            return ""
    elif text.kind in (".csv", ".tsv"):
        try:
            with _reading(text) as file:
                strings, _ = _header(text, file)
        except csv.Error:
            return ""  # read_chunks says so
    else:
        return ""
    found = text_field(strings)
    return "" if found == FIELDS[0] else found


def markup_in(text: SourceText) -> str:
    """Return what a plain file holds that its name does not say, such as JSON; "" if it is text as far as its start shows.

    Raises:
        BadInput: as `read_chunks`.
    """
    if text.kind not in PLAIN or text.kind in (".py", ".md", ".rst", ".tex"):
        return ""
    start = next(read_chunks(text), "")[:_START].lstrip()
    if start[:1] in "{[" and start:
        try:
            first = json.loads(start.partition("\n")[0])
        except (ValueError, RecursionError):
            return ""
        return (
            "JSON, brackets and all: called .jsonl, it is read by its field"
            if isinstance(first, dict)
            else ""
        )
    return "markup, tags and all" if _TAGS.match(start) else ""


def content_sha256(text: SourceText, sha256: str) -> str:
    """Return the SHA-256 of a file's characters, by which copies are known whatever their compression, mark or ends of lines.

    Args:
        text: the file.
        sha256: of its bytes, which stands where they are the characters, or no text.

    Raises:
        BadInput: as `read_chunks`.
    """
    if text.kind in (".parquet", ".arrow"):
        return sha256
    with open_bytes(text.path, "") as file:
        odd = bool(text.compression) or file.read(3).startswith((*MARKED, b"\xef\xbb\xbf"))
        while not odd and (block := file.read(2**20)):
            odd = b"\r" in block
    if not odd:
        return sha256
    found = hashlib.sha256()
    with _reading(text, newline=None) as lines:
        while part := lines.read(2**20):
            found.update(part.encode())
    return found.hexdigest()
