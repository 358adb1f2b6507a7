"""ModelSpec: a shape within an architecture."""

from dataclasses import dataclass

from .units import BadInput

LARGEST_SIZE = 10**9  # far beyond any model; products of a few sizes stay within what a float holds

SIZES = ("n_layer", "n_head", "n_embd", "n_inner", "n_positions", "vocab_size", "n_kv_head")  # of a ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The shape of a model: everything that decides its parameters and FLOPs, nothing about its training.

    Fields are named as in transformers' GPT2Config.

    Args:
        architecture: "gpt2", "bert" or "llama".
        n_layer: number of blocks.
        n_head: attention heads of a block.
        n_embd: width of the residual stream.
        n_inner: width of the feed-forward layer; 4·n_embd by default.
        n_positions: context length in tokens.
        vocab_size: number of tokens in the vocabulary.
        n_kv_head: key and value heads of grouped-query attention; n_head by default.

    Raises:
        BadInput: a size below 1 or beyond LARGEST_SIZE, or n_embd not a multiple of n_head.
    """

    architecture: str = "gpt2"
    n_layer: int
    n_head: int
    n_embd: int
    n_inner: int = 0  # 0 stands for 4·n_embd and is replaced on construction
    n_positions: int = 1024
    vocab_size: int = 50257
    n_kv_head: int = 0  # key and value heads of grouped-query attention; 0 stands for n_head

    def __post_init__(self) -> None:
        for name in SIZES:
            value = getattr(self, name)
            if value == 0 and name in ("n_inner", "n_kv_head"):
                value = 4 * self.n_embd if name == "n_inner" else self.n_head
                object.__setattr__(self, name, value)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST_SIZE:
                raise BadInput(
                    f"{name} is {value!r}; it must be a whole number of at least 1 and at most {LARGEST_SIZE:,}"
                )
        if self.n_embd % self.n_head:
            raise BadInput(
                f"n_embd is {self.n_embd}; it must be a multiple of n_head, which is {self.n_head}"
            )
        if self.n_head % self.n_kv_head:
            raise BadInput(
                f"n_head is {self.n_head}; it must be a multiple of n_kv_head, which is {self.n_kv_head}"
            )

    @property
    def shape(self) -> str:
        """L8 d512 h8, the shape in the field's shorthand."""
        return f"L{self.n_layer} d{self.n_embd} h{self.n_head}"
