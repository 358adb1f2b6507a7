"""Text on disk: which files of a path hold text, which of them are held out by name, and which are left out, with the reason."""

import hashlib
import math
import os
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from families.units import BadInput
from scaling.files import check_file

from .readers import COMPRESSED, MARKED, RECORDS, SUFFIXES, SourceText, open_bytes, read_chunks

_SPLITS = ("train", "valid", "validation", "dev", "test", "heldout", "data", "text")

_TESTS = {"test", "tests", "idle_test", "site-packages", "__pycache__"}

Role = Literal["", "train", "heldout", "test"]

_ROLES: dict[str, Role] = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(
        (
            *("valid", "val", "validation", "validate", "valset", "dev", "devel", "devset"),
            *("eval", "evaluation", "evalset", "heldout", "holdout"),
        ),
        "heldout",
    ),
    **dict.fromkeys(("test", "tests", "testing", "testset"), "test"),
}

# Beside a word of _ROLES in a name, these, numbers and words of two letters say nothing: test_set.jsonl, valid_v1.en.jsonl,
# valid-00000-of-00002.parquet.
_COMMON = {
    "part",
    "shard",
    "set",
    "split",
    "data",
    "text",
    "full",
    "small",
    "large",
    "clean",
    "other",
    "raw",
    "tokens",
}

_CODE = (".py", ".md", ".rst", ".tex")  # test_units.py is a file about tests, not a split

# Files about a data set or a model, which libraries write beside the text.
_ABOUT = re.compile(
    r"(readme|license|licence|changelog|notice|citation|contributing|copying)(\..*)?|merges\.txt|~\$.*"
    r"|dataset_infos?\.json|dataset_dict\.json|state\.json|.*config.*\.json|.*metadata.*\.(json|csv)|cache-.*\.arrow"
    r"|tokenizer.*\.json|vocab.*\.json|special_tokens_map\.json|package.*\.json|requirements.*\.txt",
    re.IGNORECASE,
)

MOST_NAMED = 3  # files in a line about what is left out


def dataset_name(data: str) -> str:
    """Return the display name of a text: its folder, or its file without the extension; a split file is named by its folder."""
    path = Path(data)
    if path.stem in _SPLITS and path.suffix in SUFFIXES and path.parent.name:
        return path.parent.name  # wikitext-2/test.txt
    name = path.name
    for suffixes in (COMPRESSED, SUFFIXES):
        name = next((name.removesuffix(end) for end in suffixes if name.endswith(end)), name)
    return name


@dataclass(slots=True)
class Survey:
    """The files of a path: those with text by their role, and the names of the others by the reason."""

    train: list[SourceText] = field(default_factory=list)
    heldout: list[SourceText] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    @property
    def texts(self) -> list[SourceText]:
        """All files with text."""
        return [*self.train, *self.heldout]

    def leave(self, reason: str, names: Iterable[str]) -> None:
        """Leave files out."""
        if found := list(names):
            self.left_out.setdefault(reason, []).extend(found)

    def lines(self) -> Iterator[str]:
        """Yield a line about each reason for which files are left out."""
        for reason, names in self.left_out.items():
            more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
            yield f"{', '.join(names[:MOST_NAMED])}{more}: {reason}"


def survey(data: str, field: str = "", *, roles: bool = True) -> Survey:
    """Return the text files under a path; `stdlib` is the running interpreter's library without its tests.

    In a folder, links are followed, hidden files are left out, and files called valid, validation, val, dev or test are
    held out or, if others are, left out. A file that is named itself is read whatever its name.

    Args:
        data: a file, a folder or stdlib.
        field: field of records to read; "" for the usual one.
        roles: False to take all files of a folder as one text, whatever their names.

    Raises:
        BadInput: there is no such path, or no file of text below it.
    """
    if data == "stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        found = [path for path in root.rglob("*.py") if not _TESTS & set(path.relative_to(root).parts)]
        return Survey([SourceText(path.relative_to(root).as_posix(), path) for path in sorted(found)])
    root = Path(data).expanduser()
    check_file(root, largest=math.inf)
    try:
        is_file, is_folder = root.is_file(), root.is_dir()
    except (OSError, ValueError) as error:  # a name that is too long, or holds a NUL
        raise BadInput(f"data is {data!r}: {getattr(error, 'strerror', None) or error}") from error
    if is_file:
        return Survey([_named(root, data, field)])
    if not is_folder:
        raise BadInput(
            f"data is {data!r}, which does not exist; it must be a text file, a folder of them, or stdlib"
        )
    found_here = _in_folder(root, field, roles)
    if not found_here.train:
        names = ", ".join(text.name for text in found_here.heldout[:MOST_NAMED])
        if names:
            raise BadInput(
                f"data is {data!r}, a folder whose text is all held out by its name ({names}); "
                "name the file to train on, and with validation= the other"
            )
        others = "; ".join(found_here.lines())
        raise BadInput(
            f"data is {data!r}, a folder with no {', '.join(SUFFIXES)} file"
            + (f"; it has {others}" if others else "")
        )
    return found_here


def find_texts(data: str, field: str = "") -> list[SourceText]:
    """Return all text files under a path, whatever their names say of a split.

    Raises:
        BadInput: as `survey`.
    """
    return survey(data, field, roles=False).texts


def _named(path: Path, data: str, field: str) -> SourceText:
    """Return a file that was named itself; an unknown ending is plain text, unless it holds a NUL."""
    text = SourceText(path.name, path, field)
    if not _known(path):
        with open_bytes(path, text.compression) as file:
            start = file.read(2**16)
        if b"\0" in start and start[:2] not in MARKED:
            raise BadInput(
                f"data is {data!r}, which is no text; its ending must be one of {', '.join(SUFFIXES)}"
            )
    return text


def _known(path: Path) -> bool:
    name = path.name.lower()
    for end in COMPRESSED:
        name = name.removesuffix(end)
    return name.endswith(SUFFIXES)


def _in_folder(root: Path, field: str, roles: bool) -> Survey:
    found = Survey()
    texts = []
    for path in sorted(_walk(root, found)):
        name = path.relative_to(root).as_posix()
        if (shown := name.encode(errors="backslashreplace").decode()) != name:
            found.leave("a name that is not UTF-8", [shown])
        elif any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts):
            found.leave("hidden", [name])
        elif _known(path):
            texts.append(SourceText(name, path, field))
        else:
            found.leave(f"no text, {path.suffix.lower() or 'no ending'}", [name])
    others = any(not _ABOUT.fullmatch(text.path.name) for text in texts)
    for text in texts:
        about = _ABOUT.fullmatch(text.path.name) and (text.kind in RECORDS or others)
        role = role_of(text) if roles else ""
        if about:
            found.leave("about the data, not part of it", [text.name])
        elif reason := _not_text(text):
            found.leave(reason, [text.name])
        elif role in ("heldout", "test"):
            found.heldout.append(text)
        else:
            found.train.append(text)
    named = [text for text in found.heldout if role_of(text) == "heldout"]
    if named and found.train:
        found.leave("test text, never trained on", (t.name for t in found.heldout if t not in named))
        found.heldout = named
    return found


def _walk(root: Path, found: Survey) -> Iterator[Path]:
    """Yield the files below a folder, those behind links too, each folder once."""
    seen = set()
    for place, folders, names in os.walk(root, followlinks=True):
        real = Path(place).resolve()
        if real in seen:
            folders.clear()
            found.leave("a link to a folder that is read already", [Path(place).relative_to(root).as_posix()])
            continue
        seen.add(real)
        hidden = [name for name in folders if name.startswith(".")]
        found.leave("hidden", ((Path(place) / name).relative_to(root).as_posix() + "/" for name in hidden))
        folders[:] = sorted(set(folders) - set(hidden))
        yield from (path for name in names if (path := Path(place) / name).is_file())
        found.leave(
            "a pipe, a device or a socket",
            (
                path.relative_to(root).as_posix()
                for name in names
                if (path := Path(place) / name).exists() and not path.is_file()
            ),
        )
        found.leave(
            "a link to nothing",
            (
                path.relative_to(root).as_posix()
                for name in names
                if (path := Path(place) / name).is_symlink() and not path.exists()
            ),
        )


def role_of(text: SourceText) -> Role:
    """Return the split that a file's folder or name says it belongs to; "" if neither says."""
    if text.kind in _CODE:
        return ""
    *folders, name = PurePosixPath(text.name).parts
    for folder in folders:
        if len(words := _telling_words(folder)) == 1 and words[0] in _ROLES:
            return _ROLES[words[0]]
    for suffixes in (COMPRESSED, SUFFIXES):
        name = next((name[: -len(end)] for end in suffixes if name.lower().endswith(end)), name)
    words = _telling_words(name)
    return next((_ROLES[word] for word in (words[:1] + words[-1:]) if word in _ROLES), "")


def _telling_words(name: str) -> list[str]:
    """Return the words of a name without those that say nothing of a split: testA_v2 has one, held_out too."""
    joined = re.sub(r"(?i)h(e|o)ld[-_. ]?out", "heldout", name)
    parts = re.findall(r"[a-z]+|[A-Z]+(?![a-z])|[A-Z][a-z]+", joined)
    return [
        word
        for number, part in enumerate(parts)
        if (word := part.lower()) not in _COMMON and (len(word) > 2 or not number)
    ]


def _not_text(text: SourceText) -> str:
    """Return why a .json or .csv file of a folder is no text: such files often describe other ones. "" if it is text."""
    if text.kind not in (".json", ".csv", ".tsv"):
        return ""
    try:
        next(read_chunks(text), "")
    except BadInput as error:
        return str(error).removeprefix(f"{text.path} ")
    return ""


def fingerprint(path: Path) -> tuple[int, str]:
    """Return size in bytes and SHA-256 of a file."""
    try:
        with path.open("rb") as file:
            return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
