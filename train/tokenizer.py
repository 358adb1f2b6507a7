"""Byte-level BPE: trained on the text at hand, or read from where people keep one."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from families.errors import BadInput

END_OF_TEXT = "<|endoftext|>"
MASK = "[MASK]"
ENDS = (
    END_OF_TEXT,
    "<|end_of_text|>",
    "</s>",
    "[SEP]",
    "<eos>",
)  # what closes a document, by the first that is there
MASKS = (MASK, "<mask>", "<|mask|>")
LONGEST = 1024  # characters of one kind, in training: 100,000 in a row, an image in base64, take 6 s and 300,000 a minute
_RUN = re.compile(rf"\S{{{LONGEST}}}|\s{{{LONGEST}}}")


def special_token(tokenizer: Any, names: tuple[str, ...]) -> int:
    """The number of the first of these tokens that the tokenizer has; the first is added where it has none."""
    for name in names:
        number = tokenizer.token_to_id(name)
        if number is not None:
            return int(number)
    tokenizer.add_special_tokens([names[0]])
    return int(tokenizer.token_to_id(names[0]))


def _cut(pieces: Iterable[str]) -> Iterator[str]:
    """Pieces in which no word is longer than LONGEST: the trainer's time grows with the square of a word's length."""
    for piece in pieces:
        begin = 0
        for run in _RUN.finditer(piece):
            yield piece[begin : run.end()]
            begin = run.end()
        yield piece[begin:]


def train_tokenizer(pieces: Iterable[str], vocab_size: int, *, mask: bool = False) -> Any:
    """A byte-level BPE like GPT-2's, its end of text the last entry, as GPT-2 has it; `mask` asks for one of BERT's."""
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
