"""data.json: what the tokens of a study were made from, how to read them, and whether they are enough."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from families.errors import BadInput
from families.units import format_size
from scaling.files import Document, Record


class SourceFile(Record):
    """One file of text: its name, its bytes and their hash, and the split it went to."""

    name: str
    bytes: int
    sha256: str
    split: Literal["train", "heldout", "both"]


class Shard(Record):
    """One file of tokens."""

    name: str
    tokens: int


class DataManifest(Document):
    """data.json: what the tokens were made from, and how to read them."""

    KIND: ClassVar[str] = "data"

    source: str
    tokenizer: str
    vocab_size: int  # of the tokenizer; a model's may be larger
    eos_token_id: int
    mask_token_id: int | None = None  # where the text was prepared for masked language modelling
    dtype: Literal["uint16", "uint32"]
    held_out: float
    train: tuple[Shard, ...]
    heldout: Shard
    heldout_bytes: int
    heldout_words: int
    heldout_sha256: str
    files: tuple[SourceFile, ...]

    @property
    def train_tokens(self) -> int:
        """Distinct tokens to train on."""
        return sum(shard.tokens for shard in self.train)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """The least that a run can use: a batch of windows to train on and one window to evaluate on."""

    n_positions: int
    batch_size: int


def check_enough(manifest: DataManifest, need: Need | None) -> None:
    """Refuse text that is too small to split, or for one batch.

    Raises:
        BadInput: saying what there is and what is needed.
    """
    if not manifest.train or manifest.heldout.tokens < 2:
        raise BadInput(
            f"data is {manifest.source!r}, which is too small to split into training and held-out text"
        )
    if need is None:
        return
    windows = sum((shard.tokens - 1) // need.n_positions for shard in manifest.train)
    if windows < need.batch_size:
        raise BadInput(
            f"the training text has {format_size(manifest.train_tokens)} tokens, {windows} windows of {need.n_positions}; "
            f"one batch needs {need.batch_size}: give more text, or a smaller batch_size= or n_positions="
        )
    if manifest.heldout.tokens <= need.n_positions:
        raise BadInput(
            f"the held-out text has {manifest.heldout.tokens} tokens, less than one context of {need.n_positions}; "
            "give more text, a larger held_out=, or a smaller n_positions="
        )
