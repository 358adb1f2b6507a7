"""Object stores by URL, such as s3://bucket/text, through fsspec: text is fetched once, finished models are written.

fsspec comes with torch; what speaks to a store is an extra of its own (`pip install 'scaling-planner[s3]'`).
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from families.errors import BadInput, RunFailed
from scaling.files import Document, Record, sha256_bytes, sync_file, writing
from scaling.study import safe_name

from .rung import MODEL, RUNG, RungFile, finished_rungs
from .text import SUFFIXES

FETCHED = "fetched.json"
ROOM = 2**26  # bytes left free beside what is fetched
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.+)", re.IGNORECASE | re.DOTALL)
# Here a folder is a part of a name, and making one would make a bucket of a slip of the hand.
_OBJECTS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oci", "oss", "r2"})
_EXTRAS = {
    "s3": "scaling-planner[s3]",
    "s3a": "scaling-planner[s3]",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "az": "adlfs",
}

Progress = Callable[[str, float], None]


class FetchedFile(Record):
    """One object: its name below the URL, and its bytes."""

    name: str
    bytes: int


class Fetched(Document):
    """fetched.json, written last: what a URL held when it was copied."""

    KIND: ClassVar[str] = "fetched"

    url: str
    files: tuple[FetchedFile, ...]


def is_url(where: str) -> bool:
    """Whether it is a URL and no path."""
    return _URL.fullmatch(where) is not None


def local_text(data: str, folder: Path, progress: Progress = lambda what, share: None) -> str:
    """The same text as a path: data itself, or the copy below `folder` of what its URL holds, made once.

    Raises:
        BadInput: a store that is not known, cannot be reached or holds no text, or a disk that is too small.
    """
    if not is_url(data):
        return data
    place = folder / f"{safe_name(PurePosixPath(data).name)}-{sha256_bytes(data.encode())[:8]}"
    if (place / FETCHED).exists():
        return str(place / "text")
    with _speaking("data", data, "reading"):
        store, root = _open("data", data)
        sizes = {
            name: int(facts["size"] or 0) for name, facts in sorted(store.find(root, detail=True).items())
        }
    names = {name: _below(name, root, data) for name in sizes}
    wanted = [name for name in sizes if PurePosixPath(name).suffix.lower() in SUFFIXES]
    if not wanted:
        raise BadInput(f"data is {data!r}, which holds no {', '.join(SUFFIXES)} file")
    missing = [name for name in wanted if not _whole(place / "text" / names[name], sizes[name])]
    _check_room(place, sum(sizes[name] for name in missing), data)
    for number, name in enumerate(missing):
        progress(f"fetching {names[name]}", number / len(missing))
        _fetch(store, name, place / "text" / names[name], data)
    Fetched(url=data, files=tuple(FetchedFile(name=names[n], bytes=sizes[n]) for n in wanted)).write(
        place / FETCHED
    )
    return str(place / "text")


def _fetch(store: Any, name: str, path: Path, data: str) -> None:
    """Copy one object under a temporary name, and rename it when it is whole."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        with _speaking("data", data, "reading"):
            store.get_file(name, str(part))
        sync_file(part)
        part.replace(path)
        sync_file(path.parent)


def _whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _below(name: str, root: str, data: str) -> str:
    """An object's name below the URL, as a path that cannot leave the folder.

    Raises:
        BadInput: it would.
    """
    root = root.rstrip("/")
    inside = PurePosixPath(name).name if name.rstrip("/") == root else name.removeprefix(f"{root}/")
    parts = inside.split("/")
    if inside == name or any(
        part in ("", ".", "..") or not part.isprintable() or "\\" in part for part in parts
    ):
        raise BadInput(f"data is {data!r}, which holds an object named {name!r}; that is no path of a file")
    return inside


def _check_room(place: Path, needed: int, data: str) -> None:
    there = next(parent for parent in place.resolve().parents if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed + ROOM:
        raise BadInput(f"data is {data!r} with {needed / 1e9:.2f} GB; {there} has {free / 1e9:.2f} GB left")


def check_export(url: str) -> None:
    """Nothing, where a store takes what is written; said before the training and not after it.

    Raises:
        BadInput: it is no URL, or cannot be written.
    """
    if not is_url(url):
        raise BadInput(
            f"export is {url!r}; it must be a URL such as s3://bucket/models or file:///shared/models"
        )
    with _speaking("export", url, "writing"):
        store, root = _open("export", url)
        _make_folder(store, root)
        probe = f"{root.rstrip('/')}/.scaling-{sha256_bytes(url.encode())[:8]}"
        store.pipe_file(probe, b"scaling can write here\n")
        store.rm_file(probe)


def export_runs(study: Path, runs: Iterable[str], url: str) -> tuple[str, ...]:
    """Export every finished rung of some runs of a study; the places that were written.

    Raises:
        RunFailed: as `export`.
    """
    wanted = set(runs)
    finished = finished_rungs(study)
    return export(
        tuple(rung for rung in finished if RungFile.read(rung / RUNG).observation.run in wanted), url
    )


def export(rungs: tuple[Path, ...], url: str) -> tuple[str, ...]:
    """Copy the models of finished rungs to URL/RUN/RUNG/, rung.json last; one that is there already is left alone.

    Returns the places that were written.

    Raises:
        RunFailed: it cannot be written; the models are whole where they were made.
    """
    written = []
    try:
        with _speaking("export", url, "writing"):
            store, root = _open("export", url)
            for rung in rungs:
                said = (rung / RUNG).read_bytes()
                run = RungFile.read(rung / RUNG).observation.run
                there = f"{root.rstrip('/')}/{safe_name(run)}/{rung.name}"
                if store.exists(f"{there}/{RUNG}") and store.cat_file(f"{there}/{RUNG}") == said:
                    continue
                _make_folder(store, f"{there}/{MODEL}")
                for path in sorted(path for path in (rung / MODEL).rglob("*") if path.is_file()):
                    name = path.relative_to(rung).as_posix()
                    store.put_file(str(path), f"{there}/{name}")
                    if store.info(f"{there}/{name}")["size"] != path.stat().st_size:
                        raise OSError(f"{name} did not arrive whole")
                store.pipe_file(f"{there}/{RUNG}", said)
                written.append(f"{url.rstrip('/')}/{safe_name(run)}/{rung.name}")
    except BadInput as error:
        raise RunFailed(
            f"{error}; {len(written)} of {len(rungs)} models were exported, and the others are whole where they were trained: "
            "the same command exports them"
        ) from error
    return tuple(written)


def _make_folder(store: Any, path: str) -> None:
    protocols = {store.protocol} if isinstance(store.protocol, str) else set(store.protocol)
    if not protocols & _OBJECTS:
        store.makedirs(path, exist_ok=True)


def _open(key: str, url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path on it."""
    match = _URL.fullmatch(url)
    assert match is not None
    if "@" in match[2].split("/", 1)[0] and match[1].lower() not in ("abfs", "abfss"):
        raise BadInput(
            f"{key} is a URL of {match[1]}:// with a name and password in it, which would be written into files; "
            "give them as the store's environment variables"
        )
    from fsspec.core import url_to_fs

    store, root = url_to_fs(url)
    return store, str(root)


@contextmanager
def _speaking(key: str, url: str, doing: str) -> Iterator[None]:
    """Turn what the many libraries of stores raise into one line.

    Raises:
        BadInput: for every error.
    """
    try:
        yield
    except (BadInput, KeyboardInterrupt):
        raise
    except ImportError as error:
        protocol = url.partition(":")[0].lower()
        needed = _EXTRAS.get(protocol, f"what fsspec names for it ({first_line(error)})")
        raise BadInput(f"{key} is {url!r}; {doing} it needs: pip install '{needed}'") from error
    except FileNotFoundError as error:
        raise BadInput(f"{key} is {url!r}, which does not exist") from error
    except Exception as error:  # botocore, aiohttp, paramiko …: each has its own kinds
        raise BadInput(f"{key} is {url!r}; {doing} it failed: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
