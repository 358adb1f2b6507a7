"""Text on disk: its files, chunks and held-out split; byte-level BPE tokenizers, trained or loaded."""

import hashlib
import json
import re
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from families.units import BadInput

SUFFIXES = (".txt", ".md", ".py", ".jsonl", ".parquet")

CHUNK_CHARACTERS = 2**22

_SPLITS = ("train", "valid", "validation", "dev", "test", "heldout", "data", "text")

_TESTS = {"test", "tests", "idle_test", "site-packages", "__pycache__"}


@dataclass(frozen=True, slots=True)
class SourceText:
    """A text file and its name in the data set."""

    name: str
    path: Path


def dataset_name(data: str) -> str:
    """Return the display name of a text: its folder, or its file without the extension; a split file is named by its folder."""
    path = Path(data)
    if path.stem in _SPLITS and path.suffix in SUFFIXES and path.parent.name:
        return path.parent.name  # wikitext-2/test.txt
    name = path.name
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def find_texts(data: str) -> list[SourceText]:
    """Return the text files under a path; `stdlib` is the running interpreter's library without its tests.

    Raises:
        BadInput: there is no such path, or no file of text below it.
    """
    if data == "stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        found = [path for path in root.rglob("*.py") if not _TESTS & set(path.relative_to(root).parts)]
        return [SourceText(path.relative_to(root).as_posix(), path) for path in sorted(found)]
    root = Path(data).expanduser()
    if root.is_file():
        if root.suffix.lower() not in SUFFIXES:
            raise BadInput(f"data is {data!r}; its ending must be one of {', '.join(SUFFIXES)}")
        return [SourceText(root.name, root)]
    if not root.is_dir():
        raise BadInput(
            f"data is {data!r}, which does not exist; it must be a text file, a folder of them, or stdlib"
        )
    texts = [
        SourceText(path.relative_to(root).as_posix(), path)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix.lower() in SUFFIXES
    ]
    if not texts:
        raise BadInput(f"data is {data!r}, a folder with no {', '.join(SUFFIXES)} file")
    return texts


def read_chunks(text: SourceText) -> Iterator[str]:
    """Yield a file's text in pieces that end at a line; .jsonl gives the field `text`, .parquet its column `text`.

    A document without text is none, and a mark of the byte order at the start of a file is not text.
    """
    suffix = text.path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet(text)
    elif suffix == ".jsonl":
        for number, line in enumerate(_lines(text.path), start=1):
            if line.strip() and (found := _text_field(line, f"{text.path} line {number}")):
                yield found
    else:
        with _reading(text.path) as file:
            while lines := file.readlines(CHUNK_CHARACTERS):
                yield "".join(lines)


@contextmanager
def _reading(path: Path, newline: str = "") -> Iterator[TextIO]:
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            yield file
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error


def _lines(path: Path) -> Iterator[str]:
    """Yield lines that end at a line feed only: JSON may contain other line separators unescaped."""
    with _reading(path, newline="\n") as file:
        yield from file


def _text_field(line: str, where: str) -> str:
    try:
        value = json.loads(line)
    except (
        ValueError,
        RecursionError,
    ) as error:  # numbers of 5,000 digits and deeply nested lists raise other errors
        raise BadInput(f"{where} is not JSON: {getattr(error, 'msg', error)}") from error
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise BadInput(f"{where} has no field 'text' holding a string")
    found: str = value["text"]
    try:
        found.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"{where} holds half a character, {found[error.start]!r}") from error
    return found


def _parquet(text: SourceText) -> Iterator[str]:
    try:
        from pyarrow import ArrowException, parquet, types
    except ImportError as error:
        raise BadInput(
            f"{text.path} is Parquet; reading it needs: pip install 'scaling-planner[parquet]'"
        ) from error
    try:
        table = parquet.ParquetFile(text.path)
        names = table.schema_arrow.names
        if "text" not in names:
            raise BadInput(f"{text.path} has no column 'text', but {', '.join(names)}")
        kind = table.schema_arrow.field("text").type
        if types.is_dictionary(kind):
            kind = kind.value_type
        if not (types.is_string(kind) or types.is_large_string(kind)):
            raise BadInput(f"{text.path} has a column 'text' of {kind}; it must hold strings")
        for batch in table.iter_batches(columns=["text"]):
            yield from (value for value in batch.column(0).to_pylist() if value)
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {text.path}: {str(error).splitlines()[0]}") from error


LARGEST_SHARE = (
    1 / 8
)  # largest share of a file in the held-out text, so that no single file dominates the loss


def split_texts(texts: Sequence[SourceText], share: float) -> tuple[list[SourceText], list[SourceText]]:
    """Hold out whole files, in the order of their names' hashes, until `share` of the bytes is reached; the rest is for training.

    A split by file keeps near-copies within a file on one side. A file that alone would be more than an eighth of the
    held-out text is trained on, unless all are so. With one file there is no such split: see `prepare`.
    """
    sizes = {text.name: text.path.stat().st_size for text in texts}
    wanted = share * sum(sizes.values())
    ordered = sorted(texts, key=lambda text: hashlib.sha256(text.name.encode()).hexdigest())
    small = [text for text in ordered if sizes[text.name] <= LARGEST_SHARE * wanted]
    if sum(sizes[text.name] for text in small) < wanted:
        small = ordered
    heldout: list[SourceText] = []
    while sum(sizes[text.name] for text in heldout) < wanted and len(heldout) < len(texts) - 1:
        heldout.append(small[len(heldout)])
    chosen = {text.name for text in heldout}
    return [text for text in texts if text.name not in chosen], heldout


def fingerprint(path: Path) -> tuple[int, str]:
    """Return size in bytes and SHA-256 of a file."""
    try:
        with path.open("rb") as file:
            return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error


def cut_text(text: SourceText, share: float) -> tuple[list[str], list[str]]:
    """Split one file: its last `share` of lines or documents, by characters, is held out."""
    documents = holds_documents(text)
    parts = [
        part for chunk in read_chunks(text) for part in ([chunk] if documents else chunk.splitlines(True))
    ]
    total = sum(map(len, parts))
    size = 0
    at = len(parts)
    while at > 1 and size < share * total:
        at -= 1
        size += len(parts[at])
    return (parts[:at], parts[at:]) if documents else (_joined(parts[:at]), _joined(parts[at:]))


def holds_documents(text: SourceText) -> bool:
    """Return True if each piece of the file is a document."""
    return text.path.suffix.lower() in (".jsonl", ".parquet")


def _joined(lines: list[str]) -> list[str]:
    """Join lines to pieces of about CHUNK_CHARACTERS, so that merges across lines are found as in the full text."""
    size = sum(map(len, lines))
    step = max(1, len(lines) * CHUNK_CHARACTERS // max(1, size))
    return ["".join(lines[start : start + step]) for start in range(0, len(lines), step)]


END_OF_TEXT = "<|endoftext|>"

MASK = "[MASK]"

ENDS = (
    END_OF_TEXT,
    "<|end_of_text|>",
    "</s>",
    "[SEP]",
    "<eos>",
)  # end of text, the first that a tokenizer has

MASKS = (MASK, "<mask>", "<|mask|>")

LONGEST = 1024  # characters of a word in BPE training: one of 100,000 (an image in base64) takes 6 s, one of 300,000 a minute

_RUN = re.compile(rf"\S{{{LONGEST}}}|\s{{{LONGEST}}}")


def special_token(tokenizer: Any, names: tuple[str, ...]) -> int:
    """Return the id of the first of these tokens that the tokenizer has; if it has none, the first is added."""
    for name in names:
        number = tokenizer.token_to_id(name)
        if number is not None:
            return int(number)
    tokenizer.add_special_tokens([names[0]])
    return int(tokenizer.token_to_id(names[0]))


def _cut(pieces: Iterable[str]) -> Iterator[str]:
    """Split words longer than LONGEST: the trainer's time is quadratic in a word's length."""
    for piece in pieces:
        begin = 0
        for run in _RUN.finditer(piece):
            yield piece[begin : run.end()]
            begin = run.end()
        yield piece[begin:]


def train_tokenizer(pieces: Iterable[str], vocab_size: int, *, mask: bool = False) -> Any:
    """Train a byte-level BPE like GPT-2's, with the end of text as its last entry; with `mask`, also a mask token like BERT's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1 - mask, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(_cut(pieces), trainer)
    tokenizer.add_special_tokens([*([MASK] if mask else []), END_OF_TEXT])
    return tokenizer


def load_tokenizer(name: str) -> Any:
    """Load a tokenizer from a tokenizer.json or a Hugging Face folder; a hub name only if it is cached here.

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
