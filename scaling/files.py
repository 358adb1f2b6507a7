"""Files of ours: written atomically, opening with their kind, version and the SHA-256 of their inputs.

A command writes over a file of the kind that it writes itself; any other file only with --yes (`refuse_overwrite`).
"""

import csv
import datetime
import errno
import hashlib
import io
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from families.units import BadInput

from .untrusted import parse_json
from .version import __version__

StrPath = str | os.PathLike[str]

LARGEST_FILE = 4 * 10**9  # bytes of a table, a log or a JSON file, which are read whole

_NO_FILES = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


class NewerFile(BadInput):
    """A file of ours that a newer program wrote."""


def now() -> str:
    """The current time in UTC, to the second, as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")


def parse_time(text: str, what: str) -> datetime.datetime:
    """A time as `now` writes it, or another ISO 8601 time with a zone.

    Args:
        text: the time.
        what: stands in the message.

    Raises:
        BadInput: it is no such time.
    """
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInput(f"{what} is {text!r}; it must be a time such as {now()}") from error
    if moment.tzinfo is None:
        raise BadInput(f"{what} is {text!r}; it must have a time zone, as {now()} has")
    return moment


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: StrPath, *, largest: float = LARGEST_FILE) -> str:
    """Hexadecimal SHA-256 of a file's bytes.

    Raises:
        BadInput: it is a pipe or a device, or has more bytes than `largest`.
    """
    check_file(path, largest=largest)
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hashes(paths: Iterable[StrPath]) -> dict[str, str]:
    """SHA-256 of each file by its name, for the `inputs` of a document."""
    return {Path(path).name: sha256_file(path) for path in paths}


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal bytes, as hashing needs."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


@contextmanager
def clear_io_errors(path: StrPath) -> Iterator[None]:
    """Turn an OSError, such as that of a full disk, into one clear line.

    Args:
        path: stands in the message where the error names no file.

    Raises:
        BadInput: naming the file and the reason.
    """
    try:
        yield
    except OSError as error:
        file = error.filename if isinstance(error.filename, str | bytes | os.PathLike) else path
        reason = error.strerror or str(error)
        raise BadInput(f"cannot write {os.fsdecode(file)}: {reason}") from error


def csv_text(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table as comma-separated text with a header line; numbers keep every digit.

    A text that begins like a formula gets an apostrophe before it, since a spreadsheet would compute it and a run's name
    may come from anybody (OWASP, CSV injection).
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_as_text(cell) for cell in row] for row in rows)
    return out.getvalue()


def _as_text(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def atomic_write(path: StrPath, data: bytes | str) -> None:
    """Write a file whole or not at all: temporary file beside it, fsync, rename, fsync of the folder.

    Raises:
        BadInput: the disk is full or the folder cannot be written; nothing has changed then.
    """
    atomic_writes({Path(path): data})


def atomic_writes(files: Mapping[Path, bytes | str], *, new: Path | None = None) -> None:
    """Write several files, all or none: temporary files beside them first, then the renames.

    Args:
        files: contents by path.
        new: one of them that must not exist; of two processes that write it at once the second is refused.

    Raises:
        BadInput: the disk is full, a folder cannot be written, or `new` exists; nothing has changed then, and no folder is
            left.
    """
    temporaries: dict[Path, Path] = {}
    made: list[Path] = []
    linked: Path | None = None  # has its new name already, and loses it again where a later rename fails
    try:
        for path in files:
            with clear_io_errors(path):
                _check_replaceable(path)
                made += [parent for parent in path.parents if parent not in made and not parent.exists()]
                path.parent.mkdir(parents=True, exist_ok=True)
                temporaries[path] = _written(path, files[path])
        if new is not None:
            with clear_io_errors(new):
                _link(temporaries[new], new)
                linked = new
        for path, temporary in temporaries.items():
            with clear_io_errors(path):
                temporary.replace(path)
                temporary.unlink(missing_ok=True)  # of two links to one file a rename removes neither
    except BaseException:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
        if linked is not None:
            linked.unlink(missing_ok=True)
        for parent in sorted(made, key=lambda parent: -len(parent.parts)):
            with suppress(OSError):
                parent.rmdir()
        raise
    for folder in {path.parent for path in temporaries}:
        sync_folder(folder)


def _check_replaceable(path: Path) -> None:
    """Refuse a folder, and what is no file: a rename would put a file in the place of /dev/null.

    Raises:
        OSError: a folder is there.
        BadInput: a named pipe, a device or a socket.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if (kind := _no_file(path)) is not None:
        raise BadInput(f"cannot write {path}: it is {kind} and no file")


def _link(temporary: Path, path: Path) -> None:
    """Give a file its name unless something has it; a file system without hard links is not asked to tell."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None


def _written(path: Path, data: bytes | str) -> Path:
    """A temporary file beside a path that holds the data, on the disk."""
    temporary = _beside(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less the user's umask
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):  # a file that is replaced keeps its permissions
            temporary.chmod(stat.S_IMODE(path.stat().st_mode) & 0o777)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _beside(path: Path) -> Path:
    """A new name for a temporary beside a path, short enough where the path's own name is long."""
    return path.with_name(f".{path.name[:60]}.{secrets.token_hex(6)}")


def check_writable(path: StrPath) -> None:
    """Refuse a place where no file can be written, before anything is done for it.

    Raises:
        BadInput: a folder is there, or something above it is no folder or cannot be written.
    """
    path = Path(path)
    with clear_io_errors(path):
        _check_replaceable(path)
        above = next(parent for parent in path.absolute().parents if parent.exists())
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@contextmanager
def atomic_dir(folder: StrPath) -> Iterator[Path]:
    """Make a folder whole or not at all: filled under a temporary name beside it, then renamed.

    An existing folder of that name is replaced. On an error nothing is left, not even parents made for it.

    Yields:
        the temporary folder to fill.

    Raises:
        BadInput: the disk is full or the folder cannot be written.
    """
    folder = Path(folder)
    with clear_io_errors(folder):
        made = [parent for parent in folder.parents if not parent.exists()]
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = _beside(folder)
            temporary.mkdir()
            try:
                yield temporary
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
        sync_folder(folder.parent)


def sync_folder(folder: StrPath) -> None:
    """Flush a folder's names to the disk where the file system can: some network file systems refuse it.

    An error is passed over: the names have changed by then, and the caller could undo nothing.
    """
    with suppress(OSError):
        sync_file(folder)


def sync_file(path: StrPath) -> None:
    """Flush a file or a folder to the disk, so that it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_line(path: StrPath, line: str | Callable[[bytes], str], *, first: str = "") -> None:
    """Append one line and fsync. A half-written last line, left by a crash, is cut off first.

    A symbolic link is not followed: in a folder that others write to, it could lead to any file of the user's. A file has one
    writer (`scaling.runs.store`), so no lock is needed: a machine that dies leaves none behind on a network file system.

    Args:
        path: the file.
        line: the line, without its end; or a function of the line before it that returns it.
        first: the line that a new file opens with.

    Raises:
        BadInput: the file cannot be written, or is a symbolic link.
    """
    path = Path(path)
    with clear_io_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_unlinked(path, os.O_RDWR | os.O_CREAT, "r+b") as file:
            end = _end_of_lines(file, file.seek(0, os.SEEK_END))
            opening = f"{first}\n".encode() if first and not end else b""
            text = line if isinstance(line, str) else line(opening[:-1] if opening else _last_line(file, end))
            file.truncate(end)
            file.seek(end)
            file.write(opening + text.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def open_to_append(path: StrPath) -> IO[bytes]:
    """Open a file for appending bytes, as `append_line` does: a symbolic link is refused."""
    return open_unlinked(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, "ab")


def open_unlinked(path: StrPath, flags: int, mode: str) -> IO[bytes]:
    """Open a file that is no symbolic link.

    Raises:
        BadInput: the path is a symbolic link.
        OSError: it cannot be opened.
    """
    try:
        return os.fdopen(os.open(path, flags | os.O_NOFOLLOW, 0o666), mode)
    except OSError as error:
        if error.errno != errno.ELOOP or not Path(path).is_symlink():
            raise
        raise BadInput(
            f"{path} is a symbolic link, which is not followed when lines are appended; remove it"
        ) from error


def _last_line(file: IO[bytes], end: int) -> bytes:
    """The line that ends at a position, without its end; b"" at the file's beginning."""
    start = _end_of_lines(file, end - 1) if end else 0
    file.seek(start)
    return file.read(max(0, end - 1 - start))


def _end_of_lines(file: IO[bytes], end: int, block: int = 1 << 16) -> int:
    """The position after the last line end before `end`, read from there: a ledger of a million lines is not read whole."""
    while end > 0:
        start = max(0, end - block)
        file.seek(start)
        if (found := file.read(end - start).rfind(b"\n")) >= 0:
            return start + found + 1
        end = start
    return 0


class Record(BaseModel):
    """Base of everything that crosses a file boundary: frozen, finite numbers only, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Document(Record):
    """Base of our JSON files.

    Attributes:
        KIND: kind of the file.
        MADE_BY: the command that writes one, for the message where the file does not exist.
        VERSION: newest version of the format that this program reads.
        inputs: SHA-256 of each file that it was made from, by name.
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
        """Fill in kind, version and time where the document is new."""
        for name, value in (("kind", self.KIND), ("version", self.VERSION), ("created_at", now())):
            if not getattr(self, name):
                object.__setattr__(self, name, value)

    def dump(self) -> str:
        """The file's text."""
        return json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"

    def write(self, path: StrPath) -> None:
        """Write the file whole or not at all."""
        atomic_write(path, self.dump())

    @classmethod
    def read(cls, path: StrPath) -> Self:
        """Read and check a file.

        Raises:
            BadInput: no such file, not JSON, another kind, a newer version, or a value that is not allowed.
        """
        return cls.parse(read_text(path, made_by=cls.MADE_BY), str(path))

    @classmethod
    def parse(cls, text: str, name: str) -> Self:
        """Check a document's text; `name` stands in the messages.

        Raises:
            BadInput: as `read`.
        """
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
    """Refuse anything but a file of ours of that kind, in a version that this program reads.

    Args:
        value: the file's first JSON value.
        kind: the kind that is needed.
        version: the newest version that this program reads.
        name: stands in the message.

    Raises:
        BadInput: another kind, or no valid version.
        NewerFile: a newer version.
    """
    stated = value.get("kind") if isinstance(value, dict) else None
    if stated != kind:
        raise BadInput(f"{name} is not a {kind} file: its kind is {stated!r}")
    number = value.get("version")
    if not isinstance(number, int) or number < 1:
        raise BadInput(f"{name} has version {number!r}; this program reads 1 to {version}")
    if number > version:
        raise NewerFile(
            f"{name} was written by a newer program ({kind} version {number}, {value.get('tool', 'unknown')}); "
            f"this one, scaling {__version__}, reads up to {version}: upgrade it"
        )


def first_problem(error: ValidationError) -> str:
    """The first problem of a pydantic error as one line: the key, its value, and what is allowed."""
    problem = error.errors(include_url=False)[0]
    if problem["type"] == "value_error" and (
        not problem["loc"] or isinstance(problem["ctx"]["error"], BadInput)
    ):
        return problem["msg"].removeprefix("Value error, ")
    key = ".".join(str(part) for part in problem["loc"]) or "value"
    value = problem.get("input")
    shown = "" if isinstance(value, dict | list) or value is None else f" is {value!r}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}{shown}: {message[:1].lower() + message[1:]}"


def check_file(path: StrPath, *, largest: float = LARGEST_FILE) -> None:
    """Refuse a named pipe, a device or a socket, whose reading may never end, and a file too large to be read whole.

    What is not there, or is a folder, is left to the reading itself.

    Raises:
        BadInput: naming the path and what it is.
    """
    if (kind := _no_file(path)) is not None:
        raise BadInput(f"{path} is {kind} and no file: write what it gives to a file, and name that")
    try:
        size = Path(path).stat().st_size
    except (OSError, ValueError):
        return
    if size > largest:
        raise BadInput(f"{path} has {size / 1e9:.1f} GB; at most {largest / 1e9:g} GB are read whole")


_LFS = b"version https://git-lfs.github.com/spec/"  # the first line of a file that Git LFS has not fetched


def check_fetched(path: StrPath) -> None:
    """Refuse the pointer that Git LFS leaves where a large file was not fetched.

    Raises:
        BadInput: naming the path and the command that fetches it.
    """
    start = b""
    with suppress(OSError, ValueError), Path(path).open("rb") as file:
        start = file.read(len(_LFS))
    if start == _LFS:
        raise BadInput(f"{path} is a pointer of Git LFS and not the file itself: git lfs pull fetches it")


def _no_file(path: StrPath) -> str | None:
    """What a path leads to, where that is there and neither a file nor a folder."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return None
    return next((name for is_one, name in _NO_FILES if is_one(mode)), None)


def read_text(path: StrPath, *, made_by: str = "") -> str:
    """A file's text, without the byte order mark that spreadsheets put before the first column's name.

    Args:
        path: of the file.
        made_by: the command that writes one, for the message where there is none.

    Raises:
        BadInput: the file does not exist, is a folder or a pipe, or is not UTF-8.
    """
    check_file(path)
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        hint = f"; {made_by} writes one" if made_by else ""
        raise BadInput(f"{path} does not exist{hint}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except (OSError, ValueError) as error:  # a NUL in a name is a ValueError
        raise BadInput(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def refuse_overwrite(path: StrPath, kind: type[Document], *, replace: bool = False) -> None:
    """Refuse to write a document over a file of another kind.

    Raises:
        BadInput: such a file exists, and `replace` is false.
    """
    path = Path(path)
    if path.is_file() and not replace:
        try:
            value = parse_json(path.read_bytes())
        except ValueError:
            value = None
        if not (isinstance(value, dict) and value.get("kind") == kind.KIND):
            _refuse_path(path, f"a {kind.KIND}")


def refuse_overwrite_text(path: StrPath, opening: bytes | str, what: str, *, replace: bool = False) -> None:
    """Refuse to write a text over a file that begins with other words.

    Args:
        path: the file to be written.
        opening: the beginning of the text.
        what: what the text is, as in "a table of runs"; stands in the message.
        replace: write over any file.

    Raises:
        BadInput: such a file exists, and `replace` is false.
    """
    path = Path(path)
    if path.is_file() and not replace:
        words = (opening.encode() if isinstance(opening, str) else opening).split()
        if path.read_bytes().split(maxsplit=len(words))[: len(words)] != words:
            _refuse_path(path, what)


def _refuse_path(path: Path, what: str) -> None:
    raise BadInput(f"{path} exists and is not {what}; give another --out, or --yes to replace it")
