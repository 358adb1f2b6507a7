"""Token shards in the formats of other engines, streamed from a study's own."""

import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from families.units import BadInput
from scaling.files import clear_io_errors

from ..data import DataManifest, Shard

BLOCK = 1 << 24  # bytes read at a time

# Megatron's indexed dataset: megatron/core/datasets/indexed_dataset.py of megatron-core 0.16 to 0.19.
MEGATRON_HEADER = b"MMIDIDX\x00\x00"
_MEGATRON_CODES = {"uint16": 8, "uint32": 4}  # 4 is int32, which ids below 2**31 fill alike

# NanogptDataset: nemo_automodel/components/datasets/llm/nanogpt_dataset.py of nemo-automodel 0.7.
NANOGPT_MAGIC, NANOGPT_INTS = 278895051, 256


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A file to write: its content in blocks, as often as it is asked for, and the SHA-256 of it."""

    blocks: Callable[[], Iterator[bytes]]
    sha256: str

    @classmethod
    def of(cls, blocks: Callable[[], Iterator[bytes]]) -> "ShardFile":
        """Hash a content."""
        digest = hashlib.sha256()
        for block in blocks():
            digest.update(block)
        return cls(blocks, digest.hexdigest())

    def write(self, path: Path) -> None:
        """Write the file whole, or not at all.

        Raises:
            BadInput: it cannot be written, or the tokens changed since they were hashed.
        """
        digest, part = hashlib.sha256(), path.with_name(f".{path.name}.part")
        with clear_io_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                for block in self.blocks():
                    digest.update(block)
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            if digest.hexdigest() != self.sha256:
                part.unlink()
                raise BadInput(f"{path}: the tokens of the study changed while they were written")
            part.replace(path)


def _tokens(path: Path) -> Iterator[bytes]:
    with clear_io_errors(path), path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def _megatron_index(shard: Shard, dtype: str, length: int) -> bytes:
    """Return the .idx of a shard as sequences of at most `length` tokens, all of one document."""
    lengths = np.full(-(-shard.tokens // length), length, dtype=np.int32)
    lengths[-1] = shard.tokens - length * (len(lengths) - 1)
    size = np.dtype(dtype).itemsize
    pointers = np.arange(len(lengths), dtype=np.int64) * length * size
    documents = np.array([0, len(lengths)], dtype=np.int64)
    head = MEGATRON_HEADER + struct.pack("<QBQQ", 1, _MEGATRON_CODES[dtype], len(lengths), len(documents))
    return head + lengths.tobytes() + pointers.tobytes() + documents.tobytes()


SEQUENCE = 2**24  # tokens of a sequence in an index: one below its 32-bit lengths


def megatron_shards(study: Path, manifest: DataManifest) -> dict[str, ShardFile]:
    """Return the .bin and .idx files of Megatron's indexed dataset for a study's tokens, by path."""
    found: dict[str, ShardFile] = {}
    for shard in (*manifest.train, manifest.heldout):
        stem = Path(shard.name).stem
        found[f"data/{stem}.bin"] = ShardFile.of(partial(_tokens, study / "data" / shard.name))
        index = _megatron_index(shard, manifest.dtype, SEQUENCE)
        found[f"data/{stem}.idx"] = ShardFile.of(partial(iter, [index]))
    return found


def nanogpt_shards(study: Path, manifest: DataManifest) -> dict[str, ShardFile]:
    """Return the .bin files of NanogptDataset for a study's tokens, by path."""

    def blocks(shard: Shard) -> Iterator[bytes]:
        header = np.zeros(NANOGPT_INTS, dtype="<i4")
        header[:4] = NANOGPT_MAGIC, 1, shard.tokens, np.dtype(manifest.dtype).itemsize
        yield header.tobytes()
        yield from _tokens(study / "data" / shard.name)

    return {
        f"data/{Path(shard.name).stem}.bin": ShardFile.of(partial(blocks, shard))
        for shard in (*manifest.train, manifest.heldout)
    }
