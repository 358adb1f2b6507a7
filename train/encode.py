"""Texts into shards of tokens, a few megabytes at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.files import write_whole

from .manifest import Shard
from .text import CHUNK_CHARACTERS, Text, holds_documents

SHARD_TOKENS = 2**28

Pieces = Sequence[tuple[Text, Iterator[str]]]


@dataclass(frozen=True, slots=True)
class _Written:
    shards: tuple[Shard, ...]
    bytes: int
    words: int


class Encoder:
    """Writes the tokens of texts, each closed by the end of text, into shards."""

    def __init__(
        self, coder: Any, eos: int, folder: Path, dtype: np.dtype[Any], report: Callable[[int], None]
    ) -> None:
        self.eos = eos
        self._coder, self._folder, self._dtype, self._report = coder, folder, dtype, report
        self._read = 0

    def write(self, texts: Pieces, stem: str) -> _Written:
        """Encode texts a few megabytes at a time; only training text is split into shards."""
        shards: list[Shard] = []
        pending: list[NDArray[Any]] = []
        bytes_read = words = 0
        for pieces, ends in self._batches(texts):
            pending.extend(self._encode(pieces, ends))
            bytes_read += sum(len(piece.encode()) for piece in pieces)
            words += sum(len(piece.split()) for piece in pieces)
            self._report(self._read + bytes_read)
            if stem == "train" and sum(map(len, pending)) >= SHARD_TOKENS:
                shards.append(self._flush(pending, f"{stem}-{len(shards):05d}.bin"))
        if any(map(len, pending)):
            name = "heldout.bin" if stem == "heldout" else f"{stem}-{len(shards):05d}.bin"
            shards.append(self._flush(pending, name))
        self._read += bytes_read
        return _Written(tuple(shards), bytes_read, words)

    def _batches(self, texts: Pieces) -> Iterator[tuple[list[str], list[bool]]]:
        """Pieces to encode together, and whether each closes its document."""
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
        for encoding, end in zip(
            self._coder.encode_batch(pieces, add_special_tokens=False), ends, strict=True
        ):
            closing = [self.eos] if end else []
            yield np.asarray(encoding.ids + closing, dtype=self._dtype)

    def _flush(self, pending: list[NDArray[Any]], name: str) -> Shard:
        tokens = np.concatenate(pending)
        pending.clear()
        write_whole(self._folder / name, tokens.tobytes())
        return Shard(name=name, tokens=len(tokens))


def _marking_last(chunks: Iterator[str]) -> Iterator[tuple[str, bool]]:
    """Each chunk, and whether it is the last."""
    before: str | None = None
    for chunk in chunks:
        if before is not None:
            yield before, False
        before = chunk
    if before is not None:
        yield before, True
