"""Encoding of text into token shards on disk, a few megabytes at a time."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from families.units import BadInput

from . import Shard
from .readers import CHUNK_CHARACTERS, SourceText, holds_documents
from .tokenizer import portions, special_strings, splits_at_spaces

SHARD_TOKENS = 2**28

TOGETHER = 2**20  # characters encoded at once: what a tokenizer returns takes some 70 bytes a character

Pieces = Iterable[tuple[SourceText, Iterator[str]]]


@dataclass(frozen=True, slots=True)
class Written:
    """Shards of a side, and the bytes and words of its text, special tokens left out."""

    shards: tuple[Shard, ...]
    bytes: int
    words: int


class _Shard:
    """A shard that is being written."""

    def __init__(self, path: Path) -> None:
        self.path, self.tokens = path, 0
        self._file = path.open("wb")
        self._hash = hashlib.sha256()

    def add(self, ids: NDArray[Any]) -> None:
        data = ids.tobytes()
        self._file.write(data)
        self._hash.update(data)
        self.tokens += len(ids)

    def end(self) -> Shard:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return Shard(name=self.path.name, tokens=self.tokens, sha256=self._hash.hexdigest())


# What people write between documents; where it is no special token of the tokenizer, it is read as words.
_MARKERS = re.compile(
    r"<\|(?:endoftext|end_of_text|begin_of_text|eot_id|im_start|im_end|end)\|>|</?s>|<[eb]os>|\[(?:SEP|CLS|EOS)\]"
)

_ENDS = re.compile(r"^\S+|\S+$")

_WINDOW = 512  # characters of a sample

_WINDOWS = 16  # samples of a batch of CHUNK_CHARACTERS


class Coverage:
    """What a tokenizer makes of samples of a text: characters that it loses, and markers that it takes for words."""

    def __init__(self, coder: Any) -> None:
        # None of a tokenizer in Python, which tells no places in the text.
        self._encode: Callable[..., Any] | None = getattr(coder, "encode", None)
        model = getattr(coder, "model", None)
        unknown = getattr(model, "unk_token", "<unk>" if type(model).__name__ == "Unigram" else None)
        self._unknown = coder.token_to_id(unknown) if unknown else None
        self._seen = self._lost = 0
        self.markers: Counter[str] = Counter()

    @property
    def lost(self) -> float:
        """Share of the characters, spaces left out, that no known token stands for."""
        return self._lost / max(1, self._seen)

    def look(self, pieces: list[str]) -> None:
        """Look at samples that are spread evenly over a batch of pieces."""
        if self._encode is None:
            return
        every = max(_WINDOW, sum(map(len, pieces)) // _WINDOWS)
        at = 0
        for piece in pieces:
            for begin in range(-at % every, len(piece), every):
                sample = piece[begin : begin + _WINDOW]
                whole = _ENDS.sub("", sample) or sample  # a word that is cut may be unknown
                self._count(whole, self._encode(whole, add_special_tokens=False))
            at += len(piece)

    def _count(self, text: str, encoding: Any) -> None:
        self.markers.update(_MARKERS.findall(text))
        lost = np.array([not letter.isspace() for letter in text], dtype=bool)
        self._seen += int(lost.sum())
        for number, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if number != self._unknown:
                lost[begin:end] = False
        self._lost += int(lost.sum())


@contextmanager
def _says_why() -> Iterator[None]:
    """Refuse a text that a tokenizer cannot encode, as where it has no entry for what it does not know.

    Raises:
        BadInput: with the library's reason.
    """
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the tokenizers library raises bare Exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"the tokenizer cannot encode the text: {reason}") from error


class Encoder:
    """Writes the tokens of texts into shards, each text followed by the end-of-text token."""

    def __init__(
        self, coder: Any, eos: int, folder: Path, dtype: np.dtype[Any], report: Callable[[int], None]
    ) -> None:
        self.eos = eos
        self.used = np.zeros(1 + max(coder.get_vocab().values(), default=0), dtype=bool)  # entries, by id
        self._coder, self._folder, self._dtype, self._report = coder, folder, dtype, report
        self._cuts = splits_at_spaces(coder)
        self._special: re.Pattern[str] | None = special_strings(coder)
        self._read = 0
        self.coverage = Coverage(coder)

    def write(self, texts: Pieces, stem: str) -> Written:
        """Encode texts a few megabytes at a time; only training text is split into shards.

        Raises:
            OSError: the disk is full.
        """
        shards: list[Shard] = []
        current: _Shard | None = None
        bytes_read = words = 0
        for pieces, ends in self._batches(texts):
            with _says_why():
                self.coverage.look(pieces)
            for ids in self._encode(pieces, ends):
                if not len(ids):
                    continue
                if current is None:
                    name = f"{stem}.bin" if stem == "heldout" else f"{stem}-{len(shards):05d}.bin"
                    current = _Shard(self._folder / name)
                current.add(ids)
            for piece in self._portions(pieces):
                text, marks = self._special.subn(" ", piece) if self._special else (piece, 0)
                bytes_read += len(text.encode()) - marks  # a space stands for each
                words += len(text.split())
            self._report(self._read + bytes_read)
            if stem == "train" and current is not None and current.tokens >= SHARD_TOKENS:
                shards.append(current.end())
                current = None
        if current is not None:
            shards.append(current.end())
        self._read += bytes_read
        return Written(tuple(shards), bytes_read, words)

    def _batches(self, texts: Pieces) -> Iterator[tuple[list[str], list[bool]]]:
        """Yield lists of pieces to encode together, each with True if it ends its document."""
        pieces: list[str] = []
        ends: list[bool] = []
        characters = 0
        for text, chunks in texts:
            documents = holds_documents(text)
            for chunk, last in _marking_last(chunks):
                pieces.append(chunk)
                ends.append(documents or last)
                characters += len(chunk)
                if characters >= CHUNK_CHARACTERS:
                    yield pieces, ends
                    pieces, ends, characters = [], [], 0
        if pieces:
            yield pieces, ends

    def _encode(self, pieces: list[str], ends: list[bool]) -> Iterator[NDArray[Any]]:
        encode = getattr(self._coder, "encode_batch_fast", self._coder.encode_batch)  # of tokenizers 0.20
        parts: list[str] = []
        closing: list[bool] = []
        for piece, end in zip(pieces, ends, strict=True):
            cut = list(portions(piece)) if self._cuts else [piece]
            parts += cut
            closing += [False] * (len(cut) - 1) + [end]
        begin = 0
        while begin < len(parts):
            until, characters = begin, 0
            while until < len(parts) and (characters < TOGETHER or until == begin):
                characters += len(parts[until])
                until += 1
            with _says_why():
                batch = encode(parts[begin:until], add_special_tokens=False)
            for encoding, end in zip(batch, closing[begin:until], strict=True):
                ids = encoding.ids
                if end and not (ids and ids[-1] == self.eos):
                    ids.append(self.eos)
                found = np.asarray(ids, dtype=self._dtype)
                self.used[found] = True
                yield found
            begin = until

    def _portions(self, pieces: list[str]) -> Iterator[str]:
        for piece in pieces:
            yield from portions(piece) if self._cuts else (piece,)


def _marking_last(chunks: Iterator[str]) -> Iterator[tuple[str, bool]]:
    """Yield each chunk, with True for the last."""
    before: str | None = None
    for chunk in chunks:
        if before is not None:
            yield before, False
        before = chunk
    if before is not None:
        yield before, True
