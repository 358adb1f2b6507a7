"""Tokens on disk: their manifest (data.json), windows, and batches as a function of (seed, step)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from families.units import BadInput, format_size
from scaling.files import Document, Record, check_file, sha256_file
from scaling.paths import safe_name


class SourceFile(Record):
    """A source file: name, size, hash, and the split it belongs to."""

    name: str
    bytes: int
    sha256: str
    split: Literal["train", "heldout", "both"]
    modified_ns: int = 0  # when it was hashed; a file of the same size and time is not hashed again


class Shard(Record):
    """A file of tokens; its hash is "" where an older version made it."""

    name: str
    tokens: int
    sha256: str = ""


class DataManifest(Document):
    """data.json: sources of the tokens, and how to read them."""

    KIND: ClassVar[str] = "data"

    source: str
    tokenizer: str
    vocab_size: int  # of the tokenizer; a model's may be larger
    eos_token_id: int
    mask_token_id: int | None = None  # if the text was prepared for masked language modelling
    dtype: Literal["uint16", "uint32"]
    held_out: float
    train: tuple[Shard, ...]
    heldout: Shard
    heldout_bytes: int
    heldout_words: int
    heldout_sha256: str
    files: tuple[SourceFile, ...]
    train_bytes: int = 0  # of text; 0 where an older version made it
    used_entries: int = 0  # of the tokenizer that occur in the training text
    how: str = ""  # what is held out
    left_out: tuple[str, ...] = ()  # files that hold no text or are not trained on, with the reason
    tokenizer_sha256: str = ""  # of tokenizer.json

    @property
    def held_share(self) -> float:
        """Share of the text that is held out, in bytes."""
        return self.heldout_bytes / max(1, self.heldout_bytes + self.train_bytes)

    def group(self, architecture: str) -> str:
        """Return the group of runs on this text: one law per corpus, tokenizer and architecture."""
        return f"{safe_name(Path(self.source).name)}-{self.heldout_sha256[:8]}-{architecture}"

    @property
    def train_tokens(self) -> int:
        """Number of tokens in the training split."""
        return sum(shard.tokens for shard in self.train)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Least text for a run: a batch of training windows and one held-out window."""

    n_positions: int
    batch_size: int


LEAST_POSITIONS = 8  # of a context that is worth naming as one that fits


def check_enough(manifest: DataManifest, need: Need | None) -> None:
    """Check that the text is large enough to split and for one batch.

    Raises:
        BadInput: it is not; names the available and the needed amount.
    """
    if not manifest.train or manifest.heldout.tokens < 2:
        raise BadInput(
            f"data is {manifest.source!r}, which is too small to split into training and held-out text"
        )
    if need is None:
        return
    windows = sum((shard.tokens - 1) // need.n_positions for shard in manifest.train)
    if windows < need.batch_size:
        fits = (manifest.train_tokens - 1) // need.batch_size
        ways = [f"batch_size={windows}"] * (windows > 0) + [f"n_positions={fits}"] * (fits >= LEAST_POSITIONS)
        raise BadInput(
            f"the training text has {format_size(manifest.train_tokens)} tokens, {windows} windows of {need.n_positions}; "
            f"one batch needs {need.batch_size}: give more text"
            + (f", or {' or '.join(ways)}" if ways else "")
        )
    if manifest.heldout.tokens <= need.n_positions:
        fits = manifest.heldout.tokens - 1
        way = f" or n_positions={fits}" if fits >= LEAST_POSITIONS else ""
        more = "" if "validation" in manifest.inputs else ", a larger held_out="
        raise BadInput(
            f"the held-out text has {manifest.heldout.tokens} tokens, less than one context of {need.n_positions}; "
            f"give more text{more}{way}"
        )


def check_shards(folder: Path, manifest: DataManifest) -> None:
    """Check that tokens and tokenizer on disk are those that were written.

    Raises:
        BadInput: a file is missing or differs; names it.
    """
    files = [(shard.name, shard.sha256) for shard in manifest.train]
    files.append((manifest.heldout.name, manifest.heldout.sha256 or manifest.heldout_sha256))
    for name, digest in (*files, ("tokenizer.json", manifest.tokenizer_sha256)):
        if not digest:
            continue
        try:
            found = sha256_file(folder / name, largest=math.inf)
        except OSError as error:
            raise BadInput(f"{folder / name} cannot be read: {error.strerror}") from error
        if found != digest:
            raise BadInput(
                f"{folder / name} is not what was written: its hash differs from data.json's; restore it, or remove "
                f"{folder} to make the tokens again from the same text"
            )


def read_prepared(folder: Path) -> DataManifest:
    """Read the manifest of prepared tokens, and check them.

    Raises:
        BadInput: there is none, or a file differs from what was written.
    """
    manifest = DataManifest.read(folder / "data.json")
    check_shards(folder, manifest)
    return manifest


_SUBSET_SEED = 0  # of the choice of a fraction of the windows


@dataclass(frozen=True, slots=True)
class Tokens:
    """Memory-mapped tokens as windows of n_positions + 1 tokens that overlap by one."""

    maps: tuple[NDArray[Any], ...]
    n_positions: int
    chosen: NDArray[np.int64] | None = None  # indices of the windows used; None for all

    @staticmethod
    def open(
        folder: Path, shards: Sequence[Shard], dtype: str, n_positions: int, fraction: float = 1.0
    ) -> "Tokens":
        """Map the shards.

        Args:
            folder: folder of the shards.
            shards: the shards.
            dtype: number format of the tokens.
            n_positions: context length.
            fraction: share of the windows, the same for every run; a smaller share is a subset of a larger one.

        Raises:
            BadInput: a shard is missing, or its length differs from the manifest's.
        """
        maps = []
        for shard in shards:
            path = folder / shard.name
            check_file(path, largest=math.inf)
            try:
                mapped = np.memmap(path, dtype=dtype, mode="r")
            except (OSError, ValueError) as error:
                raise BadInput(f"{path} cannot be read: {error}") from error
            if len(mapped) != shard.tokens:
                raise BadInput(f"{path} holds {len(mapped)} tokens; data.json says {shard.tokens}")
            maps.append(mapped)
        full = Tokens(tuple(maps), n_positions)
        if fraction == 1:
            return full
        taken = _taken(len(full), fraction)
        chosen = np.sort(np.random.default_rng(_SUBSET_SEED).permutation(len(full))[:taken]).astype(np.int64)
        return Tokens(tuple(maps), n_positions, chosen)

    def __len__(self) -> int:
        return sum(self._counts()) if self.chosen is None else len(self.chosen)

    def _counts(self) -> list[int]:
        return [(len(mapped) - 1) // self.n_positions for mapped in self.maps]

    def windows(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the windows of these indices, shape (len(indices), n_positions + 1)."""
        if self.chosen is not None:
            indices = self.chosen[indices]
        starts = np.cumsum([0, *self._counts()])
        shard_of = np.searchsorted(starts, indices, side="right") - 1
        out = np.empty((len(indices), self.n_positions + 1), dtype=np.int64)
        for row, (index, shard) in enumerate(zip(indices.tolist(), shard_of.tolist(), strict=True)):
            begin = (index - int(starts[shard])) * self.n_positions
            out[row] = self.maps[shard][begin : begin + self.n_positions + 1]
        return out


def _taken(count: int, fraction: float) -> int:
    return max(1, round(fraction * count))


def count_windows(manifest: DataManifest, n_positions: int, fraction: float = 1.0) -> int:
    """Return the number of training windows that `Tokens.open` gives."""
    return _taken(sum((shard.tokens - 1) // n_positions for shard in manifest.train), fraction)


@lru_cache(maxsize=2)
def _epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


def batch(
    tokens: Tokens, batch_size: int, seed: int, step: int, rows: range | None = None
) -> NDArray[np.int64]:
    """Return the batch of a step, shape (batch_size, n_positions + 1), a function of (seed, step), so resuming is a seek.

    Windows are drawn without replacement within an epoch, each epoch in its own order.

    Args:
        tokens: the training windows.
        batch_size: windows per step.
        seed: seed of the run.
        step: the step, from 0.
        rows: rows of the batch to read; default: all.
    """
    count = len(tokens)
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    indices = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(positions // count).tolist():
        in_epoch = positions // count == epoch
        indices[in_epoch] = _epoch_order(count, seed, epoch)[positions[in_epoch] % count]
    return tokens.windows(indices if rows is None else indices[rows.start : rows.stop])


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedText:
    """The text of a run: training windows, held-out windows, and their manifest."""

    folder: Path
    manifest: DataManifest
    train: Tokens
    heldout: Tokens

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's tokenizer.json."""
        return self.folder / "tokenizer.json"

    @staticmethod
    def open(
        folder: Path, manifest: DataManifest, n_positions: int, fraction: float = 1.0
    ) -> "TokenizedText":
        """Map both splits.

        Args:
            folder: folder of the tokens.
            manifest: its data.json.
            n_positions: context length.
            fraction: share of the training windows.
        """
        return TokenizedText(
            folder=folder,
            manifest=manifest,
            train=Tokens.open(folder, manifest.train, manifest.dtype, n_positions, fraction),
            heldout=Tokens.open(folder, (manifest.heldout,), manifest.dtype, n_positions),
        )
