"""Preparation of text: encoded once into token shards on disk, with a manifest of their sources.

Also finds a model and its data for validation; without torch, so that a wrong name is reported at once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from families.units import BadInput
from scaling.files import atomic_dir, atomic_write, sha256_file
from scaling.planning.planfile import PlanFile

from ..rung import MODEL, RUNG, RungFile
from . import DataManifest, Need, Shard, SourceFile, check_enough
from .remote import PREFIX, fetch, hub_set, is_url, local_text
from .text import (
    CHUNK_CHARACTERS,
    ENDS,
    MASKS,
    SourceText,
    cut_text,
    find_texts,
    fingerprint,
    holds_documents,
    load_tokenizer,
    read_chunks,
    special_token,
    split_texts,
    train_tokenizer,
)

SHARD_TOKENS = 2**28


Pieces = Sequence[tuple[SourceText, Iterator[str]]]


@dataclass(frozen=True, slots=True)
class _Written:
    shards: tuple[Shard, ...]
    bytes: int
    words: int


class Encoder:
    """Writes the tokens of texts into shards, each text followed by the end-of-text token."""

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
        for encoding, end in zip(
            self._coder.encode_batch(pieces, add_special_tokens=False), ends, strict=True
        ):
            closing = [self.eos] if end else []
            yield np.asarray(encoding.ids + closing, dtype=self._dtype)

    def _flush(self, pending: list[NDArray[Any]], name: str) -> Shard:
        tokens = np.concatenate(pending)
        pending.clear()
        atomic_write(self._folder / name, tokens.tobytes())
        return Shard(name=name, tokens=len(tokens))


def _marking_last(chunks: Iterator[str]) -> Iterator[tuple[str, bool]]:
    """Yield each chunk, with True for the last."""
    before: str | None = None
    for chunk in chunks:
        if before is not None:
            yield before, False
        before = chunk
    if before is not None:
        yield before, True


Progress = Callable[[str, float], None]


def prepare(
    data: str,
    folder: Path,
    *,
    vocab_size: int,
    tokenizer: str | None = None,
    held_out: float = 0.05,
    validation: str | None = None,
    mask: bool = False,
    need: Need | None = None,
    progress: Progress | None = None,
) -> DataManifest:
    """Tokenise text into `folder`, once: tokenizer.json, train-*.bin, heldout.bin and data.json.

    A folder that already holds the same text under the same settings is used as it is.

    Args:
        data: a text file, a folder of text files, a URL, or a data set of the Hugging Face hub.
        folder: destination of the tokenised text.
        vocab_size: largest number of tokenizer entries; the size of a tokenizer trained here.
        tokenizer: file or name of a tokenizer to load; None trains one on the text.
        held_out: share of the text that is held out, between 0 and 1; not used with `validation`.
        validation: text that is held out in place of a share of `data`; a data set of the hub may bring its own.
        mask: True to require a mask token in the tokenizer.
        need: least text that the run needs; None skips the check.
        progress: called with a description and the completed share, 0 to 1.

    Returns:
        The manifest written to data.json.

    Raises:
        BadInput: no text, less than is needed, or a tokenizer larger than `vocab_size`; nothing is written then.
    """
    manifest_path = folder / "data.json"
    report = progress or (lambda what, share: None)
    texts, named = _texts(data, validation, folder.parent, report)
    fingerprints = {text.name: fingerprint(text.path) for text in texts}
    wanted = {
        "data": data,
        "vocab_size": str(vocab_size),
        "tokenizer": tokenizer or "",
        "held_out": repr(held_out),
        **({"mask": "yes"} if mask else {}),
        **({"validation": validation} if validation else {}),
    }
    if manifest_path.exists():
        manifest = DataManifest.read(manifest_path)
        same = {file.name: file.sha256 for file in manifest.files} == {
            n: f[1] for n, f in fingerprints.items()
        }
        if same and manifest.inputs == wanted:
            check_enough(manifest, need)
            return manifest
        raise BadInput(
            f"{manifest_path} was made from other text or settings; choose another folder, or remove it"
        )
    if sum(size for size, _ in fingerprints.values()) == 0:
        raise BadInput(f"data is {data!r}, which is empty; it must hold text")

    split = _Split.of(texts, held_out, named)
    report("training the tokenizer", 0.0)
    coder = (
        train_tokenizer(split.train_pieces(), vocab_size, mask=mask)
        if tokenizer is None
        else load_tokenizer(tokenizer)
    )
    end = special_token(coder, ENDS)
    masking = special_token(coder, MASKS) if mask else None
    size = coder.get_vocab_size()
    if size > vocab_size:
        raise BadInput(
            f"tokenizer {tokenizer!r} has {size} entries; the model's vocab_size is {vocab_size}, which must hold them"
        )
    dtype = np.dtype("<u2" if size <= 2**16 else "<u4")
    total = sum(size for size, _ in fingerprints.values())
    with atomic_dir(folder) as place:
        (place / "tokenizer.json").write_text(coder.to_str(pretty=False), encoding="utf-8")
        writer = Encoder(
            coder,
            end,
            place,
            dtype,
            lambda done: report("tokenising", done / total),
        )
        train = writer.write(split.train, "train")
        heldout = writer.write(split.heldout, "heldout")
        manifest = DataManifest(
            inputs=wanted,
            source=data,
            tokenizer=tokenizer or "byte-level BPE trained on the training split",
            vocab_size=size,
            eos_token_id=end,
            mask_token_id=masking,
            dtype="uint16" if dtype.itemsize == 2 else "uint32",
            held_out=held_out,
            train=train.shards,
            heldout=heldout.shards[0] if heldout.shards else Shard(name="heldout.bin", tokens=0),
            heldout_bytes=heldout.bytes,
            heldout_words=heldout.words,
            heldout_sha256=sha256_file(place / "heldout.bin") if heldout.shards else "",
            files=tuple(
                SourceFile(
                    name=text.name,
                    bytes=fingerprints[text.name][0],
                    sha256=fingerprints[text.name][1],
                    split=split.of_file(text.name),
                )
                for text in texts
            ),
        )
        check_enough(manifest, need)
        manifest.write(place / "data.json")
    return manifest


def check_data(data: str) -> None:
    """Check a path for text before anything else is done; data to download is checked when it is fetched.

    Raises:
        BadInput: there is no such path, or no file of text below it.
    """
    if hub_set(data) is None and not is_url(data):
        find_texts(data)


def _texts(
    data: str, validation: str | None, study: Path, report: Progress
) -> tuple[list[SourceText], frozenset[str]]:
    """Return all texts, and the names of those explicitly held out."""
    found = hub_set(data)
    stored = study / "fetched"
    held: str | Path | None = None if validation is None else local_text(validation, stored, report)
    source: str | Path = local_text(data, stored, report)
    if found is not None:
        source, own = fetch(
            data, found, study / "hub" / data.removeprefix(PREFIX).replace("/", "--").replace(":", "--")
        )
        held = held or own
    texts = find_texts(str(source))
    if held is None:
        return texts, frozenset()
    prefix, names = "validation/", {text.name for text in texts}
    held_texts = find_texts(str(held))
    while any(prefix + text.name in names for text in held_texts):  # the data may have a folder of that name
        prefix = f"_{prefix}"
    taken = [SourceText(prefix + text.name, text.path) for text in held_texts]
    same = {text.path.resolve() for text in texts} & {text.path.resolve() for text in taken}
    if same:
        raise BadInput(
            f"validation has {min(same)}, which is in data too; held-out text must not be trained on"
        )
    return [*texts, *taken], frozenset(text.name for text in taken)


@dataclass(frozen=True, slots=True)
class _Split:
    """Split of the text into training and held-out text: whole files, or one file cut in two."""

    texts: tuple[SourceText, ...]
    held: tuple[SourceText, ...]
    cut: tuple[list[str], list[str]] | None

    @classmethod
    def of(cls, texts: Sequence[SourceText], share: float, named: frozenset[str] = frozenset()) -> "_Split":
        """Return the split by a share, or by the names of the held-out texts if given."""
        if named:
            return cls(
                tuple(text for text in texts if text.name not in named),
                tuple(text for text in texts if text.name in named),
                None,
            )
        learn, held = split_texts(texts, share)
        return cls(tuple(learn), tuple(held), None if held else cut_text(texts[0], share))

    @property
    def train(self) -> Pieces:
        if self.cut:
            return [(self.texts[0], iter(self.cut[0]))]
        return [(text, read_chunks(text)) for text in self.texts]

    @property
    def heldout(self) -> Pieces:
        if self.cut:
            return [(self.texts[0], iter(self.cut[1]))]
        return [(text, read_chunks(text)) for text in self.held]

    def train_pieces(self) -> Iterator[str]:
        for _, chunks in self.train:
            yield from chunks

    def of_file(self, name: str) -> Literal["train", "heldout", "both"]:
        if self.cut:
            return "both"
        return "heldout" if any(text.name == name for text in self.held) else "train"


def prepare_planned(
    plan: PlanFile, folder: Path, data: str | None, tokenizer: str | None, trained: Sequence[str] = ()
) -> None:
    """Tokenise the text of a plan's members into a folder, or use the tokens that are there.

    Args:
        plan: the plan.
        folder: of the tokens.
        data: the text; None takes what is there.
        tokenizer: a folder or file; None trains one.
        trained: names of the members that the text must be enough for; empty means all.

    Raises:
        BadInput: there is none, and none was given; or as `prepare`.
    """
    if data is None:
        if not (folder / "data.json").exists():
            raise BadInput(f"{folder.parent} has no text yet; say which with --data")
        return
    vocab = max((member.vocab_size for member in plan.members), default=0)
    masked = any(member.architecture == "bert" for member in plan.members)
    needs = [
        Need(n_positions=member.n_positions, batch_size=member.recipe.batch_sequences)
        for member in plan.only(trained).members
        if member.recipe
    ]
    need = max(needs, key=lambda one: one.n_positions * one.batch_size, default=None)
    prepare(data, folder, vocab_size=vocab, tokenizer=tokenizer, mask=masked, need=need)


DATA = "data.json"

MAX_PARENTS = 5  # parent folders of a model that are searched for its data


def model_folder(folder: Path) -> Path:
    """Return the folder to load: the folder itself, a rung's model, or the model of a run's longest rung.

    Raises:
        BadInput: there is no config.json in any of them.
    """
    rungs = sorted(folder.glob(f"rung-*/{RUNG}"), key=lambda path: RungFile.read(path).observation.tokens)
    for place in (folder, folder / MODEL, *(path.parent / MODEL for path in reversed(rungs))):
        if (place / "config.json").is_file():
            return place
    raise BadInput(f"{folder} holds no config.json; it must be a Hugging Face model folder, a rung or a run")


def find_prepared_data(place: Path, data: str | None) -> Path | None:
    """Return the folder of prepared tokens: the given one, or the nearest above the model; None if there is none.

    Raises:
        BadInput: what is named is neither such a folder nor a text.
    """
    above = [parent / "data" for parent in list(place.resolve().parents)[:MAX_PARENTS]]
    named = above if data is None else [Path(data), Path(data) / "data"]
    found = next((folder for folder in named if (folder / DATA).is_file()), None)
    if found is None and data is not None and not is_url(data):
        find_texts(data)  # raises with the reason for a wrong path
    return found
