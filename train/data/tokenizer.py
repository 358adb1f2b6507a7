"""Byte-level BPE tokenizers, trained on the text; and loaded ones, neutral: no truncation, no padding, their files kept."""

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from families.units import BadInput, format_size
from scaling.files import atomic_write
from scaling.untrusted import parse_json

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

SpecialTokens = Literal["markers", "text"]  # what special tokens written in the text are

LONGEST = 1024  # characters of a word in BPE training: one of 100,000 (an image in base64) takes 6 s, one of 300,000 a minute

TRAINING_BYTES = 2**27  # of text that a tokenizer is trained on; of more, evenly spread pieces

_BYTES = 256  # entries of a byte-level vocabulary that are there for any text

_PIECE = 2**16  # characters handed to the trainer at once, which keeps 256 pieces in memory

_RUN = re.compile(rf"\S{{{LONGEST}}}|\s{{{LONGEST}}}")

_SPACE = re.compile(r"\S(?= \S)")

CONFIG = "tokenizer_config.json"

# A tokenizer's files besides tokenizer.json that say how it is used; carried to the models trained with it.
COMPANIONS = (CONFIG, "special_tokens_map.json", "chat_template.jinja", "chat_template.json")

_TEMPLATES = "additional_chat_templates"  # folder of the chat templates that have a name


def special_token(tokenizer: Any, names: Iterable[str]) -> int:
    """Return the id of the first of these tokens that the tokenizer has; if it has none, the first of ENDS or MASKS is added.

    Raises:
        BadInput: a token cannot be added, because its id would be another's.
    """
    names = tuple(names)
    for name in names:
        number = tokenizer.token_to_id(name)
        if number is not None:
            return int(number)
    taken = set(tokenizer.get_vocab().values())
    tokenizer.add_special_tokens([names[0]])
    number = int(tokenizer.token_to_id(names[0]))
    if number in taken:
        raise BadInput(
            f"the tokenizer has no token {names[0]!r}, and its ids have gaps so that none can be added; give one that has it"
        )
    return number


def check_vocabulary(tokenizer: Any, name: str) -> None:
    """Check that a tokenizer can be kept: it has entries, and each its own id.

    Raises:
        BadInput: naming two entries of one id.
    """
    names: dict[int, str] = {}
    for entry, number in tokenizer.get_vocab().items():
        if (other := names.setdefault(number, entry)) != entry:
            raise BadInput(
                f"tokenizer {name!r} has two entries of id {number}, {other!r} and {entry!r}; each must have its own"
            )
    if not names:
        raise BadInput(f"tokenizer {name!r} has no entries")


def vocabulary_size(tokenizer: Any) -> int:
    """Return the rows that a model needs: the greatest id plus one, which is more than the entries where ids have gaps."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def _cut(pieces: Iterable[str], markers: re.Pattern[str] | None) -> Iterator[str]:
    """Split words longer than LONGEST, as the trainer's time is quadratic in a word's length; leave out markers."""
    for whole in pieces:
        for piece in (whole,) if markers is None else markers.split(whole):
            begin = 0
            for run in _RUN.finditer(piece):
                yield piece[begin : run.end()]
                begin = run.end()
            yield piece[begin:]


def portions(piece: str) -> Iterator[str]:
    """Cut a piece before single spaces: GPT-2's pattern of words begins a word there, so that no token changes."""
    begin = 0
    while len(piece) - begin > 2 * _PIECE and (found := _SPACE.search(piece, begin + _PIECE)):
        yield piece[begin : found.start() + 1]
        begin = found.start() + 1
    yield piece[begin:]


def splits_at_spaces(tokenizer: Any) -> bool:
    """Return True if `portions` of a text have the text's own tokens: a byte-level BPE with GPT-2's pattern of words."""
    facts = json.loads(tokenizer.to_str())
    before = facts.get("pre_tokenizer") or {}
    return (
        facts.get("normalizer") is None
        and before.get("type") == "ByteLevel"
        and before.get("add_prefix_space") is False
        and before.get("use_regex", True) is True
    )


def train_tokenizer(
    pieces: Iterable[str], vocab_size: int, *, mask: bool = False, special_tokens: SpecialTokens = "markers"
) -> Any:
    """Train a byte-level BPE like GPT-2's, with the end of text as its last entry; with `mask`, also a mask token like BERT's.

    Args:
        pieces: the text.
        vocab_size: number of entries, at most.
        mask: True to add a mask token.
        special_tokens: "markers" to learn nothing from an end of text that is written in the text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1 - mask, initial_alphabet=sorted(alphabet), show_progress=False
    )
    markers = re.compile(re.escape(END_OF_TEXT)) if special_tokens == "markers" else None
    tokenizer.train_from_iterator(_cut(_portions_of(pieces), markers), trainer)
    tokenizer.add_special_tokens([*([MASK] if mask else []), END_OF_TEXT])
    tokenizer.encode_special_tokens = special_tokens == "text"
    return tokenizer


def _portions_of(pieces: Iterable[str]) -> Iterator[str]:
    for piece in pieces:
        yield from portions(piece)


def spread(pieces: Iterator[str], total: int) -> Iterator[str]:
    """Yield pieces that are spread evenly over a text of `total` bytes, TRAINING_BYTES of them at most."""
    kept = seen = 0
    for piece in pieces:
        if kept <= seen * TRAINING_BYTES / max(total, TRAINING_BYTES):
            kept += len(piece)
            yield piece
        seen += len(piece)


def neutral(tokenizer: Any, special_tokens: SpecialTokens = "markers") -> Any:
    """Return a tokenizer without truncation and padding, which belong to batches of examples, and BPE's random dropout."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None
    tokenizer.encode_special_tokens = special_tokens == "text"
    return tokenizer


def special_strings(tokenizer: Any) -> re.Pattern[str] | None:
    """Return a pattern of the special tokens that are read as such where the text has them; None if there are none."""
    if tokenizer.encode_special_tokens:
        return None
    names = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    return (
        re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)))
        if names
        else None
    )


def load_tokenizer(name: str, special_tokens: SpecialTokens = "markers") -> Any:
    """Load a tokenizer, neutral, from a tokenizer.json or a Hugging Face folder; a hub name only if it is cached here.

    Raises:
        BadInput: nothing there can be read as a tokenizer.
    """
    return neutral(load_files(name)[0], special_tokens)


def load_files(name: str) -> tuple[Any, dict[str, str]]:
    """Load a tokenizer as it is, and the text of its COMPANIONS by name.

    Raises:
        BadInput: as `load_tokenizer`.
    """
    from tokenizers import Tokenizer

    path = Path(name).expanduser()
    if path.is_file():
        check_merges(path, name)
        try:
            return Tokenizer.from_file(str(path)), companions(path.parent)
        except (
            BaseException
        ) as error:  # tokenizers raises bare Exception, and panics where a merge is too short
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise BadInput(f"tokenizer {name!r} cannot be read: {error}") from error
    if (path / "tokenizer.json").is_file():
        return load_files(str(path / "tokenizer.json"))
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        return _byte_level_from_folder(path), companions(path)
    try:
        from transformers import AutoTokenizer

        loaded = AutoTokenizer.from_pretrained(name, local_files_only=True, trust_remote_code=False)
        with tempfile.TemporaryDirectory() as folder:
            loaded.save_pretrained(folder)
            return loaded.backend_tokenizer, companions(Path(folder))
    except (OSError, ValueError, AttributeError) as error:
        raise BadInput(
            f"tokenizer is {name!r}; it must be a tokenizer.json, a folder that holds one (or vocab.json and merges.txt), "
            "or a hub name already downloaded to this machine"
        ) from error


def check_merges(path: Path, name: str) -> None:
    """Refuse merges shorter than the prefix of word pieces: the library panics on them, with a trace on standard error.

    Raises:
        BadInput: naming the first.
    """
    try:
        text = path.read_text(encoding="utf-8")
        model = parse_json(text).get("model") if _PREFIX.search(text) else None
        merges = (model or {}).get("merges")
        prefix = len(model["continuing_subword_prefix"].encode()) if model and isinstance(merges, list) else 0
    except (OSError, ValueError, AttributeError, TypeError, KeyError, MemoryError):
        return  # the library says what is wrong
    for merge in merges if prefix and merges else ():
        parts = merge.split(" ") if isinstance(merge, str) else merge
        last = parts[-1] if isinstance(parts, list) and parts else None
        if isinstance(last, str) and (
            len(data := last.encode()) < prefix or data[prefix : prefix + 1] in _WITHIN
        ):
            raise BadInput(
                f"tokenizer {name!r} cannot be read: its merge {merge!r} is shorter than its continuing_subword_prefix"
            )


_PREFIX = re.compile(r'"continuing_subword_prefix"\s*:\s*"[^"]')

_WITHIN = frozenset(bytes([byte]) for byte in range(0x80, 0xC0))  # bytes within a character of UTF-8


def _byte_level_from_folder(path: Path) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    try:
        tokenizer = Tokenizer(models.BPE.from_file(str(path / "vocab.json"), str(path / "merges.txt")))
    except Exception as error:  # tokenizers raises bare Exception
        raise BadInput(f"tokenizer {str(path)!r} cannot be read: {error}") from error
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def companions(folder: Path) -> dict[str, str]:
    """Return the text of a folder's COMPANIONS by name; what names code of the folder is left out, and so is what is no JSON."""
    found = {}
    more = sorted(path.name for path in (folder / _TEMPLATES).glob("*.jinja"))
    for name in (*COMPANIONS, *(f"{_TEMPLATES}/{template}" for template in more)):
        path = folder / name
        try:
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
            if text and name.endswith(".json"):
                facts = parse_json(text)
                if not isinstance(facts, dict):
                    continue
                facts.pop("auto_map", None)
                text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
        except (OSError, ValueError):
            continue
        if text:
            found[name] = text
    return found


def write_companions(files: Mapping[str, str], folder: Path) -> None:
    """Write a tokenizer's COMPANIONS into a folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        atomic_write(folder / name, text)


def token_names(files: dict[str, str], key: str) -> tuple[str, ...]:
    """Return the token that a tokenizer's own config has under a key such as eos_token; empty without one."""
    value = parse_json(files[CONFIG]).get(key) if CONFIG in files else None
    value = value.get("content") if isinstance(value, dict) else value
    return (value,) if isinstance(value, str) and value else ()


def end_in_config(name: str, tokenizer: Any) -> tuple[str, ...]:
    """Return the token that ends a text by the config.json of the model in a tokenizer's folder; empty without one."""
    path = Path(name).expanduser() / "config.json"
    try:
        value = parse_json(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
    except (OSError, ValueError, AttributeError):
        return ()
    number = value[0] if isinstance(value, list) and value else value
    found = tokenizer.id_to_token(number) if isinstance(number, int) and 0 <= number < 2**31 else None
    return (found,) if found else ()


def vocabulary_remark(size: int, used: int, tokens: int, *, loaded: bool) -> str | None:
    """Return a remark on a vocabulary far too large for a text, of which less than half occurs; None if it is not.

    Args:
        size: entries of the tokenizer.
        used: entries that occur in the training text.
        tokens: training tokens.
        loaded: True for a tokenizer that was not trained on the text.
    """
    if used >= (size - _BYTES) / 2:
        return None
    way = "leave out tokenizer= to train one on the text, with" if loaded else "choose"
    return (
        f"the tokenizer has {size:,} entries, of which {used:,} occur in the {format_size(tokens)} training tokens; the others "
        f"stay as they are initialised: {way} a smaller vocab_size= such as {max(300, 2 ** (used.bit_length() - 1)):,}"
    )


LEAST_LOST = 1e-3  # share of the characters from which on it is said that a tokenizer loses them

LEAST_MARKERS = 2  # in the samples of a text; one may be a text about markers


def losses_of_text(lost: float, markers: Mapping[str, int], tokenizer: Any) -> Iterator[str]:
    """Yield remarks on what a tokenizer does not take from a text.

    Args:
        lost: share of the text's characters that no known token stands for.
        markers: how often what people write between documents was seen.
        tokenizer: the tokenizer.
    """
    if lost >= LEAST_LOST:
        yield (
            f"the tokenizer loses {lost:.1%} of the text's characters, which are unknown to it or dropped: losses are of the "
            "rest, and compare with no other tokenizer's"
        )
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    words = sorted(name for name, count in markers.items() if count >= LEAST_MARKERS and name not in special)
    if words and not tokenizer.encode_special_tokens:
        yield (
            f"the text holds {', '.join(words)}, no special token of this tokenizer: read as words, not as the end of a "
            "document"
        )
