"""ModelSpec: a shape within an architecture."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .units import BadInput

LARGEST_SIZE = 10**9  # far beyond any model; products of a few sizes stay within what a float holds

SIZES = ("n_layer", "n_head", "n_embd", "n_inner", "n_positions", "vocab_size", "n_kv_head")  # of a ModelSpec


class Extras(Mapping[str, Any]):
    """Entries of a Hugging Face config in which a model differs from its architecture's usual ones, by their own names.

    An immutable, hashable mapping of JSON values, such as {"tie_word_embeddings": True, "head_dim": 128}.

    Args:
        values: the entries.
    """

    __slots__ = ("_text", "_values")

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self._text = json.dumps(dict(values or {}), sort_keys=True)
        self._values: dict[str, Any] = json.loads(self._text)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and self._values == dict(other)

    def __repr__(self) -> str:
        return f"Extras({self._text})"


NOTHING = Extras()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The shape of a model: everything that decides its parameters and FLOPs, nothing about its training.

    Sizes are named as in transformers' GPT2Config.

    Args:
        architecture: a name of `families.architectures.REGISTRY`, such as "gpt2", "bert" or "llama".
        n_layer: number of blocks.
        n_head: attention heads of a block.
        n_embd: width of the residual stream.
        n_inner: width of the feed-forward layer; 4·n_embd by default.
        n_positions: context length in tokens.
        vocab_size: number of tokens in the vocabulary.
        n_kv_head: key and value heads of grouped-query attention; n_head by default.
        config: what else differs from the architecture's usual config, by the names of Hugging Face: head size, tied head,
            experts, rotary positions.

    Raises:
        BadInput: a size below 1 or beyond LARGEST_SIZE, or n_embd not a multiple of n_head where `config` has no head size.
    """

    architecture: str = "gpt2"
    n_layer: int
    n_head: int
    n_embd: int
    n_inner: int = 0  # 0 stands for 4·n_embd and is replaced on construction
    n_positions: int = 1024
    vocab_size: int = 50257
    n_kv_head: int = 0  # key and value heads of grouped-query attention; 0 stands for n_head
    config: Mapping[str, Any] = NOTHING

    def __post_init__(self) -> None:
        if not isinstance(self.config, Extras):
            object.__setattr__(self, "config", Extras(self.config))
        for name in SIZES:
            value = getattr(self, name)
            if value == 0 and name in ("n_inner", "n_kv_head"):
                value = 4 * self.n_embd if name == "n_inner" else self.n_head
                object.__setattr__(self, name, value)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST_SIZE:
                raise BadInput(
                    f"{name} is {value!r}; it must be a whole number of at least 1 and at most {LARGEST_SIZE:,}"
                )
        if self.n_embd % self.n_head and not HEAD_SIZES & self.config.keys():
            raise BadInput(
                f"n_embd is {self.n_embd}; it must be a multiple of n_head, which is {self.n_head}: "
                f"{nearest_multiples(self.n_embd, self.n_head)}"
            )
        if self.n_head % self.n_kv_head:
            raise BadInput(
                f"n_head is {self.n_head}; it must be a multiple of n_kv_head, which is {self.n_kv_head}: "
                f"n_kv_head may be {' or '.join(map(str, nearest_divisors(self.n_head, self.n_kv_head)))}"
            )

    @property
    def shape(self) -> str:
        """L8 d512 h8, the shape in the field's shorthand."""
        return f"L{self.n_layer} d{self.n_embd} h{self.n_head}"


HEAD_SIZES = {"head_dim", "qk_nope_head_dim"}  # entries that set the size of a head apart from the width


def nearest_multiples(value: int, of: int) -> str:
    """Return the nearest multiples of a number below and above a value as text, "768 or 832"."""
    below = value // of * of
    return f"{below} or {below + of}" if below else str(of)


def nearest_divisors(value: int, near: int) -> list[int]:
    """Return the divisors of a value next to a number, below and above it."""
    divisors = [part for part in range(1, value + 1) if value % part == 0] if value <= 1 << 16 else [1, value]
    below = [part for part in divisors if part <= near]
    above = [part for part in divisors if part >= near]
    return sorted({*below[-1:], *above[:1]})
