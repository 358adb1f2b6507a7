"""Remote text: object stores by URL (fsspec), and data sets of the Hugging Face hub (extra `hub`).

Text of a store such as s3://bucket/text is fetched once, and finished models can be exported. Data sets are written once
as JSONL, one document a line.

fsspec comes with torch; what speaks to a store is an extra of its own (`pip install 'scaling-planner[s3]'`).
"""

import json
import os
import re
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from families.units import BadInput, RunFailed, format_bytes
from scaling.files import (
    Document,
    Record,
    atomic_dir,
    clear_io_errors,
    sha256_bytes,
    sync_file,
)
from scaling.paths import safe_name

from ..rung import MODEL, RUNG, RungFile, finished_rungs
from .readers import COMPRESSED, SUFFIXES

FETCHED = "fetched.json"

ROOM = 2**26  # bytes to leave free after fetching

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.+)", re.IGNORECASE | re.DOTALL)

# In object stores a folder is part of a name; making one could create a bucket from a typing error.
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
    """fetched.json, written last: the objects of a URL when it was copied."""

    KIND: ClassVar[str] = "fetched"

    url: str
    files: tuple[FetchedFile, ...]


def is_url(where: str) -> bool:
    """Return True for a URL, False for a path."""
    return _URL.fullmatch(where) is not None


def local_text(data: str, folder: Path, progress: Progress = lambda what, share: None) -> str:
    """Return a path to the text: `data` itself, or a local copy of its URL below `folder`, made once.

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
    wanted = [name for name in sizes if PurePosixPath(name).suffix.lower() in (*SUFFIXES, *COMPRESSED)]
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
    """Copy one object under a temporary name, and rename it when complete."""
    with clear_io_errors(path):
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
    """Return an object's name below the URL, as a path that cannot leave the folder.

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
        raise BadInput(f"data is {data!r} with {format_bytes(needed)}; {there} has {format_bytes(free)} left")


def check_export(url: str) -> None:
    """Check that a store is writable, before training rather than after it.

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
    """Export all finished rungs of some runs of a study; returns the URLs written.

    Raises:
        RunFailed: as `export`.
    """
    wanted = set(runs)
    finished = finished_rungs(study)
    return export(
        tuple(rung for rung in finished if RungFile.read(rung / RUNG).observation.run in wanted), url
    )


def export(rungs: tuple[Path, ...], url: str) -> tuple[str, ...]:
    """Copy the models of finished rungs to URL/RUN/RUNG/, rung.json last; existing ones are kept.

    Returns the URLs written.

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
    """Return the file system of a URL, and the path on it."""
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
    """Convert the errors of store libraries to one clear line.

    Raises:
        BadInput: for every error.
    """
    try:
        yield
    except (BadInput, KeyboardInterrupt):
        raise
    except ImportError as error:
        protocol = url.partition(":")[0].lower()
        needed = _EXTRAS.get(protocol, f"what fsspec names for it ({first_error_line(error)})")
        raise BadInput(f"{key} is {url!r}; {doing} it needs: pip install '{needed}'") from error
    except FileNotFoundError as error:
        raise BadInput(f"{key} is {url!r}, which does not exist") from error
    except Exception as error:  # botocore, aiohttp, paramiko …: each has its own kinds
        raise BadInput(f"{key} is {url!r}; {doing} it failed: {first_error_line(error)}") from error


def first_error_line(error: BaseException) -> str:
    """Return an error's message on one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


SHARD_CHARACTERS = 10**8  # per file of documents: a split by files needs several

PREFIX = "hub:"

_HEADING = re.compile(r" ?= [^=].*[^=] = ?\n?|= [^=] = ?\n?")  # " = Title = ", and not " = = Section = = "


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSet:
    """A data set on the hub. held_out: the split commonly used for evaluation; None without one.

    articles: rows are lines, and a line that is a title begins a document; else a row is a document.
    """

    path: str
    config: str | None = None
    held_out: str | None = None
    articles: bool = False


KNOWN = {
    "wikitext-2": HubSet(
        path="Salesforce/wikitext", config="wikitext-2-raw-v1", held_out="validation", articles=True
    ),
    "wikitext-103": HubSet(
        path="Salesforce/wikitext", config="wikitext-103-raw-v1", held_out="validation", articles=True
    ),
    "imdb": HubSet(path="stanfordnlp/imdb", held_out="test"),
    "openwebtext": HubSet(path="Skylion007/openwebtext"),
}


def hub_set(data: str) -> HubSet | None:
    """Return the data set of a name: a known one, or hub:OWNER/NAME[:CONFIG]; None for a path."""
    if data.startswith(PREFIX):
        path, _, config = data.removeprefix(PREFIX).partition(":")
        if not path:
            raise BadInput(
                f"data is {data!r}; a data set of the hub is written hub:OWNER/NAME or hub:OWNER/NAME:CONFIG"
            )
        return HubSet(path=path, config=config or None)
    known = KNOWN.get(data)
    return None if known is None or Path(data).exists() else known


def fetch(data: str, found: HubSet, folder: Path) -> tuple[Path, Path | None]:
    """Write a data set's documents below `folder`, once; the folder of training text, and that of held-out text.

    Raises:
        BadInput: without the extra, without a network, or no such data set: one line each.
    """
    if not folder.exists():
        splits = _load(data, found)
        with atomic_dir(folder) as place:
            _write(_documents(splits["train"], found, data), place / "train")
            if found.held_out is not None:
                _write(_documents(splits[found.held_out], found, data), place / "heldout")
    held = folder / "heldout"
    return folder / "train", held if held.exists() else None


def _load(data: str, found: HubSet) -> Any:
    answers = hub_answers()
    if not answers:
        os.environ["HF_HUB_OFFLINE"] = "1"  # downloaded data sets are found in the cache without waiting
    try:
        import datasets
    except ImportError as error:
        raise BadInput(
            f"data is {data!r}, a data set of the Hugging Face hub; reading it needs: pip install 'scaling-planner[hub]'"
        ) from error
    try:
        return datasets.load_dataset(found.path, found.config)
    except (
        Exception
    ) as error:  # the library raises many kinds, all of which mean that the data is unavailable
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if not answers:
            reason = "it was not downloaded to this machine before, and the hub cannot be reached"
        raise BadInput(f"data is {data!r}, {found.path} on the hub: {reason}") from error


def _documents(rows: Iterable[dict[str, Any]], found: HubSet, data: str) -> Iterator[str]:
    lines: list[str] = []
    for row in rows:
        text = row.get("text")
        if not isinstance(text, str):
            raise BadInput(f"data is {data!r}, whose rows have no text but {', '.join(row)}")
        if not found.articles:
            yield text
            continue
        if _HEADING.fullmatch(text) and any(line.strip() for line in lines):
            yield "".join(lines)
            lines = []
        lines.append(text)
    if any(line.strip() for line in lines):
        yield "".join(lines)


def _write(documents: Iterable[str], folder: Path) -> None:
    folder.mkdir()
    written, file = SHARD_CHARACTERS, None
    try:
        for document in documents:
            if not document.strip():
                continue
            if written >= SHARD_CHARACTERS:
                if file is not None:
                    file.close()
                file = (folder / f"{len(list(folder.iterdir())):05d}.jsonl").open("w", encoding="utf-8")
                written = 0
            assert file is not None
            written += file.write(json.dumps({"text": document}) + "\n")
    finally:
        if file is not None:
            file.close()


NETWORK_SECONDS = (
    5.0  # to hear from the hub; without a network its own client keeps a person waiting for 49 s
)


def hub_answers() -> bool:
    """Return True if the hub (HF_ENDPOINT) can be reached now, through the environment's proxies."""
    if os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in ("1", "on", "yes", "true"):
        return False
    heard = threading.Event()
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")

    def ask() -> None:
        try:
            with urllib.request.urlopen(endpoint, timeout=NETWORK_SECONDS):  # noqa: S310, the user's own endpoint
                heard.set()
        except urllib.error.HTTPError:
            heard.set()  # an error status is an answer too
        except OSError:
            return

    thread = threading.Thread(target=ask, daemon=True)  # a name that does not resolve ignores the timeout
    thread.start()
    thread.join(NETWORK_SECONDS)
    return heard.is_set()
