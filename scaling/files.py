"""Files at the joints: written whole or not at all, opening with kind, version and the hashes of what they came from."""

import csv
import datetime
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from families.units import BadInput

from . import __version__
from .untrusted import parse_json

# MERGED DOCSTRINGS
# A file that is there is written over where it is what the same command writes; any other only when told (--yes).


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """One byte string for one value: sorted keys, no spaces, no NaN. What is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


class NewerFile(BadInput):
    """A file of ours that a newer program wrote."""


@contextmanager
def clear_io_errors(what: str | Path) -> Iterator[None]:
    """Turn a full disk or an unwritable folder into one clear line."""
    try:
        yield
    except OSError as error:
        where = error.filename if isinstance(error.filename, str | bytes | os.PathLike) else what
        reason = error.strerror or str(error)
        raise BadInput(f"cannot write {os.fsdecode(where)}: {reason}") from error


def csv_text(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table as comma-separated text, a header line first; every digit of a number.

    A spreadsheet computes a text that begins like a formula, and a run's name may be anybody's: such a text gets an
    apostrophe before it (OWASP, CSV injection).
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_as_text(cell) for cell in row] for row in rows)
    return out.getvalue()


def _as_text(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write a file whole or not at all: temporary file beside it, fsync, rename, fsync of the folder.

    Raises:
        BadInput: the disk is full or the folder cannot be written; nothing has changed then.
    """
    payload = data.encode() if isinstance(data, str) else data
    with clear_io_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_file(path.parent)


@contextmanager
def atomic_dir(folder: Path) -> Iterator[Path]:
    """A folder that is there whole or not at all: filled under a temporary name beside it, renamed when all is well.

    One of that name that was there is replaced. On an error nothing is left, not even parents made for it.

    Raises:
        BadInput: the disk is full or the folder cannot be written.
    """
    with clear_io_errors(folder):
        made = [parent for parent in folder.parents if not parent.exists()]
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            try:
                yield temporary
                temporary.chmod(0o755)
                if folder.exists():
                    shutil.rmtree(folder)
                temporary.replace(folder)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        except BaseException:
            for parent in made:
                with suppress(OSError):
                    parent.rmdir()
            raise
        sync_file(folder.parent)


def sync_file(path: Path) -> None:
    """Make what a file or a folder holds survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_line(path: Path, line: str, *, first: str = "") -> None:
    """Append one line and fsync. A half-written last line, left by a crash, is cut off first.

    `first` is the line that a new file opens with. A file has one writer (scaling.gather): no lock is needed, and none is
    left behind on a network file system by a machine that died.
    """
    with clear_io_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        with os.fdopen(descriptor, "r+b") as file:
            end = _whole_lines(file.read())
            file.truncate(end)
            file.seek(end)
            file.write(((first + "\n") if first and not end else "").encode() + line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _whole_lines(data: bytes) -> int:
    return data.rfind(b"\n") + 1


class Record(BaseModel):
    """Base of everything that crosses a file border: frozen, and no key it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Document(Record):
    """A JSON file of ours. `inputs` maps the name of each file it was made from to that file's SHA-256.

    MADE_BY says what writes one, for whoever asks for a file that is not there.
    """

    KIND: ClassVar[str]
    MADE_BY: ClassVar[str] = ""
    VERSION: ClassVar[int] = 1

    kind: str = ""
    version: int = 0
    tool: str = f"scaling {__version__}"
    created_at: str = ""
    inputs: dict[str, str] = {}

    def model_post_init(self, context: Any, /) -> None:
        for name, value in (("kind", self.KIND), ("version", self.VERSION), ("created_at", now())):
            if not getattr(self, name):
                object.__setattr__(self, name, value)

    def dump(self) -> str:
        """The file's text."""
        return json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"

    def write(self, path: Path) -> None:
        """Write whole or not at all."""
        atomic_write(path, self.dump())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check.

        Raises:
            BadInput: no such file, not JSON, another kind, a newer version, or a value that is not allowed.
        """
        if cls.MADE_BY and not path.exists():
            raise BadInput(f"{path} does not exist; {cls.MADE_BY} writes one")
        return cls.parse(read_text(path), str(path))

    @classmethod
    def parse(cls, text: str, name: str) -> Self:
        """Check a document's text; `name` stands in the errors."""
        try:
            value = parse_json(text)
        except json.JSONDecodeError as error:
            raise BadInput(f"{name} is not JSON: line {error.lineno}: {error.msg}") from error
        check_kind(value, cls.KIND, cls.VERSION, name)
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise BadInput(f"{name}: {first_problem(error)}") from error


def check_kind(value: Any, kind: str, version: int, name: str) -> None:
    """Refuse what is not a file of ours of that kind, or is newer than this program.

    Raises:
        BadInput: naming what was found and what is needed.
    """
    found = value.get("kind") if isinstance(value, dict) else None
    if found != kind:
        raise BadInput(f"{name} is not a {kind} file: its kind is {found!r}")
    number = value.get("version")
    if not isinstance(number, int) or number < 1:
        raise BadInput(f"{name} has version {number!r}; this program reads 1 to {version}")
    if number > version:
        raise NewerFile(
            f"{name} was written by a newer program ({kind} version {number}, {value.get('tool', 'unknown')}); "
            f"this one, scaling {__version__}, reads up to {version}: upgrade it"
        )


def first_problem(error: ValidationError) -> str:
    """The first problem of a pydantic error as one line: where, what it is, what is allowed."""
    problem = error.errors(include_url=False)[0]
    if problem["type"] == "value_error" and (
        not problem["loc"] or isinstance(problem["ctx"]["error"], BadInput)
    ):
        return problem["msg"].removeprefix("Value error, ")
    where = ".".join(str(part) for part in problem["loc"]) or "value"
    given = problem.get("input")
    shown = "" if isinstance(given, dict | list) or given is None else f" is {given!r}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}{shown}: {message[:1].lower() + message[1:]}"


def read_text(path: Path) -> str:
    """A file's text, without a mark of the byte order: spreadsheets put one before the first column's name.

    Raises:
        BadInput: it is not there, is a folder, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise BadInput(f"{path} does not exist") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except (OSError, ValueError) as error:  # a NUL in a name is a ValueError
        raise BadInput(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def hashes(paths: Iterable[Path]) -> dict[str, str]:
    """File name to SHA-256, for a document's `inputs`."""
    return {path.name: sha256_file(path) for path in paths}


def refuse_overwrite(path: Path, kind: type[Document], *, replace: bool = False) -> None:
    """Refuse a place for a JSON file of ours that holds anything but one of its kind.

    Raises:
        BadInput: such a file is there.
    """
    if path.is_file() and not replace:
        try:
            there = parse_json(path.read_bytes())
        except ValueError:
            there = None
        if not (isinstance(there, dict) and there.get("kind") == kind.KIND):
            _refuse_path(path, f"a {kind.KIND}")


def refuse_overwrite_text(path: Path, opening: bytes | str, what: str, *, replace: bool = False) -> None:
    """Refuse a place that holds a file which begins with other words than `opening`, the beginning of what is to be
    written; `what` names that, as in "a table of runs".

    Raises:
        BadInput: such a file is there.
    """
    if path.is_file() and not replace:
        words = (opening.encode() if isinstance(opening, str) else opening).split()
        if path.read_bytes().split(maxsplit=len(words))[: len(words)] != words:
            _refuse_path(path, what)


def _refuse_path(path: Path, what: str) -> None:
    raise BadInput(f"{path} is there and is not {what}; give another --out, or --yes to replace it")
