"""Text in, memory-mapped tokens out, and batches as a function of (seed, step)."""

import hashlib
import json
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from families.errors import BadInput
from scaling.files import Document, Record, read_text, write_whole, writing

SUFFIXES = (".txt", ".md", ".py", ".jsonl", ".parquet")
SHARD_TOKENS = 2**28
CHUNK_CHARACTERS = 2**22
END_OF_TEXT = "<|endoftext|>"
_TESTS = {"test", "tests", "idle_test", "site-packages", "__pycache__"}

Progress = Callable[[str, float], None]


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


@dataclass(frozen=True, slots=True)
class _Text:
    name: str
    path: Path


def find_texts(data: str) -> list[_Text]:
    """The files of text under a path; `stdlib` is the running interpreter's library without its tests.

    Raises:
        BadInput: there is no such path, or no file of text below it.
    """
    if data == "stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        found = [path for path in root.rglob("*.py") if not _TESTS & set(path.relative_to(root).parts)]
        return [_Text(path.relative_to(root).as_posix(), path) for path in sorted(found)]
    root = Path(data).expanduser()
    if root.is_file():
        if root.suffix.lower() not in SUFFIXES:
            raise BadInput(f"data is {data!r}; its ending must be one of {', '.join(SUFFIXES)}")
        return [_Text(root.name, root)]
    if not root.is_dir():
        raise BadInput(
            f"data is {data!r}, which does not exist; it must be a text file, a folder of them, or stdlib"
        )
    texts = [
        _Text(path.relative_to(root).as_posix(), path)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix.lower() in SUFFIXES
    ]
    if not texts:
        raise BadInput(f"data is {data!r}, a folder with no {', '.join(SUFFIXES)} file")
    return texts


def read_chunks(text: _Text) -> Iterator[str]:
    """A file's text in pieces that end at a line; .jsonl gives the field `text`, .parquet its column `text`."""
    suffix = text.path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet(text)
    elif suffix == ".jsonl":
        for number, line in enumerate(read_text(text.path).splitlines(), start=1):
            if line.strip():
                yield _text_field(line, f"{text.path} line {number}")
    else:
        try:
            with text.path.open(encoding="utf-8", newline="") as file:
                while lines := file.readlines(CHUNK_CHARACTERS):
                    yield "".join(lines)
        except UnicodeDecodeError as error:
            raise BadInput(f"{text.path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
        except OSError as error:
            raise BadInput(f"cannot read {text.path}: {error.strerror}") from error


def _text_field(line: str, where: str) -> str:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadInput(f"{where} is not JSON: {error.msg}") from error
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise BadInput(f"{where} has no field 'text' holding a string")
    found: str = value["text"]
    return found


def _parquet(text: _Text) -> Iterator[str]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise BadInput(f"{text.path} is Parquet; reading it needs: pip install 'scaling[parquet]'") from error
    table = parquet.ParquetFile(text.path)
    if "text" not in table.schema_arrow.names:
        raise BadInput(f"{text.path} has no column 'text', but {', '.join(table.schema_arrow.names)}")
    for batch in table.iter_batches(columns=["text"]):
        yield from (value for value in batch.column(0).to_pylist() if value)


LARGEST_SHARE = 1 / 8  # of the held-out text that one file may be, so that no single file decides the loss


def split_texts(texts: Sequence[_Text], share: float) -> tuple[list[_Text], list[_Text]]:
    """Hold out whole files, in the order of their names' hashes, until `share` of the bytes; the rest is for training.

    A split by file keeps near-copies within a file on one side. A file that alone would be more than an eighth of the
    held-out text is trained on, unless all are so. With one file there is no such split: see `prepare`.
    """
    sizes = {text.name: text.path.stat().st_size for text in texts}
    wanted = share * sum(sizes.values())
    ordered = sorted(texts, key=lambda text: hashlib.sha256(text.name.encode()).hexdigest())
    small = [text for text in ordered if sizes[text.name] <= LARGEST_SHARE * wanted]
    if sum(sizes[text.name] for text in small) < wanted:
        small = ordered
    heldout: list[_Text] = []
    while sum(sizes[text.name] for text in heldout) < wanted and len(heldout) < len(texts) - 1:
        heldout.append(small[len(heldout)])
    chosen = {text.name for text in heldout}
    return [text for text in texts if text.name not in chosen], heldout


def train_tokenizer(pieces: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE like GPT-2's, its end of text the last entry, as GPT-2 has it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(pieces, trainer)
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def load_tokenizer(name: str) -> Any:
    """A tokenizer from a tokenizer.json or a Hugging Face folder; a hub name only if it is already on this machine.

    Raises:
        BadInput: nothing there can be read as a tokenizer.
    """
    from tokenizers import Tokenizer

    path = Path(name).expanduser()
    if path.is_file():
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise BadInput(f"tokenizer {name!r} cannot be read: {error}") from error
    if (path / "tokenizer.json").is_file():
        return load_tokenizer(str(path / "tokenizer.json"))
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        return _byte_level_from_folder(path)
    try:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(name, local_files_only=True).backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        raise BadInput(
            f"tokenizer is {name!r}; it must be a tokenizer.json, a folder that holds one (or vocab.json and merges.txt), "
            "or a hub name already downloaded to this machine"
        ) from error


def _byte_level_from_folder(path: Path) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE.from_file(str(path / "vocab.json"), str(path / "merges.txt")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def prepare(
    data: str,
    folder: Path,
    *,
    vocab_size: int,
    tokenizer: str | None = None,
    held_out: float = 0.05,
    progress: Progress | None = None,
) -> DataManifest:
    """Tokenise text into `folder` once: tokenizer.json, train-*.bin, heldout.bin and, last of all, data.json.

    A folder that already holds the same files under the same settings is used as it is.

    Raises:
        BadInput: no text, empty text, or a tokenizer larger than `vocab_size`.
    """
    manifest_path = folder / "data.json"
    texts = find_texts(data)
    report = progress or (lambda what, share: None)
    fingerprints = {text.name: _fingerprint(text.path) for text in texts}
    wanted = {
        "data": data,
        "vocab_size": str(vocab_size),
        "tokenizer": tokenizer or "",
        "held_out": repr(held_out),
    }
    if manifest_path.exists():
        manifest = DataManifest.read(manifest_path)
        same = {file.name: file.sha256 for file in manifest.files} == {
            n: f[1] for n, f in fingerprints.items()
        }
        if same and manifest.inputs == wanted:
            return manifest
        raise BadInput(
            f"{manifest_path} was made from other text or settings; choose another folder, or remove it"
        )
    if sum(size for size, _ in fingerprints.values()) == 0:
        raise BadInput(f"data is {data!r}, which is empty; it must hold text")

    whole, heldout = split_texts(texts, held_out)
    pieces = _cut(texts[0], held_out) if not heldout else None

    def train_pieces() -> Iterator[str]:
        if pieces is not None:
            yield from pieces[0]
        else:
            for text in whole:
                yield from read_chunks(text)

    report("training the tokenizer", 0.0)
    made = tokenizer is None
    coder = train_tokenizer(train_pieces(), vocab_size) if made else load_tokenizer(str(tokenizer))
    size = coder.get_vocab_size()
    if size > vocab_size:
        raise BadInput(
            f"tokenizer {tokenizer!r} has {size} entries; the model's vocab_size is {vocab_size}, which must hold them"
        )
    eos = coder.token_to_id(END_OF_TEXT)
    dtype = np.dtype("uint16") if size <= 2**16 else np.dtype("uint32")

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "tokenizer.json", coder.to_str(pretty=False))
    if pieces is None:
        learn = [(text, read_chunks(text)) for text in whole]
        held = [(text, read_chunks(text)) for text in heldout]
    else:
        learn, held = ([(texts[0], iter(part))] for part in pieces)
    total = sum(size for size, _ in fingerprints.values())
    shards, _, _ = _encode(coder, learn, eos, folder, "train", dtype, report, total)
    heldout_shards, held_bytes, held_words = _encode(
        coder, held, eos, folder, "heldout", dtype, report, total
    )
    if len(heldout_shards) != 1 or heldout_shards[0].tokens < 2 or not shards or shards[0].tokens < 2:
        raise BadInput(
            f"data is {data!r}, which is too small to split into text for training and for evaluation"
        )
    names = {text.name for text in heldout}
    manifest = DataManifest(
        inputs=wanted,
        source=data,
        tokenizer="byte-level BPE trained on the training split" if made else str(tokenizer),
        vocab_size=size,
        eos_token_id=0 if eos is None else eos,
        dtype="uint16" if dtype.itemsize == 2 else "uint32",
        held_out=held_out,
        train=tuple(shards),
        heldout=heldout_shards[0],
        heldout_bytes=held_bytes,
        heldout_words=held_words,
        heldout_sha256=_fingerprint(folder / heldout_shards[0].name)[1],
        files=tuple(
            SourceFile(
                name=text.name,
                bytes=fingerprints[text.name][0],
                sha256=fingerprints[text.name][1],
                split="both" if pieces is not None else "heldout" if text.name in names else "train",
            )
            for text in texts
        ),
    )
    manifest.write(manifest_path)
    return manifest


def _fingerprint(path: Path) -> tuple[int, str]:
    try:
        with path.open("rb") as file:
            return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error


def _cut(text: _Text, share: float) -> tuple[list[str], list[str]]:
    """One file: its last `share` of lines or documents, by characters, is held out."""
    documents = _holds_documents(text)
    parts = [
        part for chunk in read_chunks(text) for part in ([chunk] if documents else chunk.splitlines(True))
    ]
    total = sum(map(len, parts))
    size = 0
    cut = len(parts)
    while cut > 1 and size < share * total:
        cut -= 1
        size += len(parts[cut])
    return (parts[:cut], parts[cut:]) if documents else (_joined(parts[:cut]), _joined(parts[cut:]))


def _holds_documents(text: _Text) -> bool:
    """Whether each piece of the file is a document of its own."""
    return text.path.suffix.lower() in (".jsonl", ".parquet")


def _joined(lines: list[str]) -> list[str]:
    """Lines as a few pieces of about CHUNK_CHARACTERS, so that merges across lines are seen as in the whole."""
    size = sum(map(len, lines))
    step = max(1, len(lines) * CHUNK_CHARACTERS // max(1, size))
    return ["".join(lines[start : start + step]) for start in range(0, len(lines), step)]


def _encode(
    coder: Any,
    texts: Sequence[tuple[_Text, Iterator[str]]],
    eos: int | None,
    folder: Path,
    stem: str,
    dtype: np.dtype[Any],
    report: Progress,
    total_bytes: int,
) -> tuple[list[Shard], int, int]:
    """Write the tokens of texts, each closed by the end of text, into shards; returns them, bytes and words read."""
    shards: list[Shard] = []
    pending: list[NDArray[Any]] = []
    count = read_bytes = words = 0

    def flush() -> None:
        nonlocal pending, count
        if count:
            name = f"{stem}-{len(shards):05d}.bin" if stem == "train" else f"{stem}.bin"
            write_whole(folder / name, np.concatenate(pending).tobytes())
            shards.append(Shard(name=name, tokens=count))
        pending, count = [], 0

    def take(pieces: list[str], ends: list[bool]) -> None:
        nonlocal count
        for encoding, end in zip(coder.encode_batch(pieces, add_special_tokens=False), ends, strict=True):
            ids = encoding.ids + ([eos] if end and eos is not None else [])
            pending.append(np.asarray(ids, dtype=dtype))
            count += len(ids)
        if count >= SHARD_TOKENS and stem == "train":
            flush()

    pieces: list[str] = []
    ends: list[bool] = []
    characters = 0
    for text, chunks in texts:
        one_document = not _holds_documents(text)
        for chunk in chunks:
            pieces.append(chunk)
            ends.append(not one_document)
            characters += len(chunk)
            read_bytes += len(chunk.encode())
            words += len(chunk.split())
            if characters >= CHUNK_CHARACTERS:
                take(pieces, ends)
                pieces, ends, characters = [], [], 0
                report("tokenising", min(1.0, read_bytes / total_bytes))
        if one_document and ends:
            ends[-1] = True
        elif one_document and pending and eos is not None:
            pending.append(np.asarray([eos], dtype=dtype))
            count += 1
    if pieces:
        take(pieces, ends)
    flush()
    return shards, read_bytes, words


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens on disk, mapped into memory, seen as windows of n_positions + 1 that overlap by one token."""

    maps: tuple[NDArray[Any], ...]
    n_positions: int

    @staticmethod
    def open(folder: Path, shards: Sequence[Shard], dtype: str, n_positions: int) -> "Tokens":
        """Map the shards.

        Raises:
            BadInput: a shard is missing, or not as long as the manifest says.
        """
        maps = []
        for shard in shards:
            path = folder / shard.name
            try:
                mapped = np.memmap(path, dtype=dtype, mode="r")
            except (OSError, ValueError) as error:
                raise BadInput(f"{path} cannot be read: {error}") from error
            if len(mapped) != shard.tokens:
                raise BadInput(f"{path} holds {len(mapped)} tokens; data.json says {shard.tokens}")
            maps.append(mapped)
        return Tokens(tuple(maps), n_positions)

    def __len__(self) -> int:
        return sum(self._counts())

    def _counts(self) -> list[int]:
        return [(len(mapped) - 1) // self.n_positions for mapped in self.maps]

    def windows(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Windows of those indices, shape (len(indices), n_positions + 1)."""
        starts = np.cumsum([0, *self._counts()])
        shard_of = np.searchsorted(starts, indices, side="right") - 1
        out = np.empty((len(indices), self.n_positions + 1), dtype=np.int64)
        for row, (index, shard) in enumerate(zip(indices.tolist(), shard_of.tolist(), strict=True)):
            begin = (index - int(starts[shard])) * self.n_positions
            out[row] = self.maps[shard][begin : begin + self.n_positions + 1]
        return out


@lru_cache(maxsize=2)
def _epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


def batch(tokens: Tokens, batch_size: int, seed: int, step: int) -> NDArray[np.int64]:
    """The batch of a step, shape (batch_size, n_positions + 1): a function of (seed, step), so resuming is a seek.

    Windows are drawn without replacement within an epoch, in an order of the epoch's own.
    """
    count = len(tokens)
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    indices = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(positions // count).tolist():
        here = positions // count == epoch
        indices[here] = _epoch_order(count, seed, epoch)[positions[here] % count]
    return tokens.windows(indices)
