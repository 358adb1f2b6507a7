"""Data sets of the Hugging Face hub by name, written once as JSONL: one document a line. Needs the extra `hub`."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from families.errors import BadInput
from scaling.files import whole_folder

from .init import hub_answers

SHARD_CHARACTERS = 10**8  # of one file of documents: a split by files needs many, and none is read whole
PREFIX = "hub:"
_HEADING = re.compile(r" ?= [^=].*[^=] = ?\n?|= [^=] = ?\n?")  # " = Title = ", and not " = = Section = = "


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSet:
    """A data set on the hub. held_out: the split that people evaluate on; None where there is none.

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
    """The data set that a name stands for: a known one, or hub:OWNER/NAME[:CONFIG]; None where it is a path."""
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
        with whole_folder(folder) as place:
            _write(_documents(splits["train"], found, data), place / "train")
            if found.held_out is not None:
                _write(_documents(splits[found.held_out], found, data), place / "heldout")
    held = folder / "heldout"
    return folder / "train", held if held.exists() else None


def _load(data: str, found: HubSet) -> Any:
    answers = hub_answers()
    if not answers:
        os.environ["HF_HUB_OFFLINE"] = "1"  # what was downloaded before is still found, without waiting
    try:
        import datasets
    except ImportError as error:
        raise BadInput(
            f"data is {data!r}, a data set of the Hugging Face hub; reading it needs: pip install 'scaling-planner[hub]'"
        ) from error
    try:
        return datasets.load_dataset(found.path, found.config)
    except Exception as error:  # the library raises many kinds, and all mean that the data is not to be had
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
