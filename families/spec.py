"""What a model is: a shape within an architecture."""

from dataclasses import dataclass, field

from .units import BadInput, look_up

# MERGED DOCSTRINGS
# Published members, each with its source.

LARGEST_SIZE = 10**9  # far beyond any model; products of a few sizes stay within what a float holds

SIZES = ("n_layer", "n_head", "n_embd", "n_inner", "n_positions", "vocab_size", "n_kv_head")  # of a ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A realisable model: everything that decides its parameters and FLOPs, nothing about its training.

    Fields are named as in transformers' GPT2Config; `n_inner` is the width of the feed-forward layer.

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
                raise BadInput(f"{name} is {value!r}; it must be a whole number from 1 to {LARGEST_SIZE:,}")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A spec with the name and the source under which people know it."""

    name: str
    spec: ModelSpec
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Members that differ in size alone, smallest first, as a law needs them."""

    name: str
    members: tuple[Member, ...] = field(default=())
    source: str = ""


_CARD = "MosaicML Composer's GPT-2 model card: the Pareto members under Kaplan's law"

_RADFORD = "Radford et al. 2019, as published on the Hugging Face hub"


def _gpt2(name: str, n_layer: int, n_embd: int, n_head: int, source: str) -> Member:
    return Member(name=name, spec=ModelSpec(n_layer=n_layer, n_embd=n_embd, n_head=n_head), source=source)


# Tiny has 2 heads of 64 in the published checkpoint (google/bert_uncased_L-2_H-128_A-2); lists that say 4 are wrong.
_TURC = "Turc et al. 2019 (miniatures) and Devlin et al. 2019, as published on the Hugging Face hub"

_PAIR = "HuggingFaceM4's deep and shallow pair at context 2048; heads of 64 are our choice"

_LLAMA = "as published on the Hugging Face hub"


def _bert(name: str, n_layer: int, n_embd: int, n_head: int) -> Member:
    spec = ModelSpec(
        architecture="bert", n_layer=n_layer, n_embd=n_embd, n_head=n_head, n_positions=512, vocab_size=30522
    )
    return Member(name=name, spec=spec, source=_TURC)


def _llama(
    name: str, n_layer: int, n_embd: int, n_head: int, n_kv_head: int, inner: int, context: int
) -> Member:
    spec = ModelSpec(
        architecture="llama",
        n_layer=n_layer,
        n_embd=n_embd,
        n_head=n_head,
        n_kv_head=n_kv_head,
        n_inner=inner,
        n_positions=context,
        vocab_size=32000,
    )
    return Member(name=name, spec=spec, source=_LLAMA)


def _pair(name: str, n_layer: int, n_embd: int) -> Member:
    spec = ModelSpec(n_layer=n_layer, n_embd=n_embd, n_head=n_embd // 64, n_positions=2048)
    return Member(name=name, spec=spec, source=_PAIR)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="gpt2-kaplan",
            source=_CARD,
            members=(
                _gpt2("gpt2-52m", 8, 512, 8, _CARD),
                _gpt2("gpt2-83m", 10, 640, 10, _CARD),
                _gpt2("gpt2-125m", 12, 768, 12, _CARD),
            ),
        ),
        Family(
            name="gpt2",
            source=_RADFORD,
            members=(
                _gpt2("gpt2", 12, 768, 12, _RADFORD),
                _gpt2("gpt2-medium", 24, 1024, 16, _RADFORD),
                _gpt2("gpt2-large", 36, 1280, 20, _RADFORD),
                _gpt2("gpt2-xl", 48, 1600, 25, _RADFORD),
            ),
        ),
        Family(
            name="gpt2-deep-shallow",
            source=_PAIR,
            members=(_pair("gpt2-shallow-1b32", 24, 2048), _pair("gpt2-deep-1b56", 48, 1600)),
        ),
        Family(
            name="bert",
            source=_TURC,
            members=(
                _bert("bert-tiny", 2, 128, 2),
                _bert("bert-mini", 4, 256, 4),
                _bert("bert-small", 4, 512, 8),
                _bert("bert-medium", 8, 512, 8),
                _bert("bert-base", 12, 768, 12),
                _bert("bert-large", 24, 1024, 16),
            ),
        ),
        Family(
            name="llama",
            source=_LLAMA,
            members=(
                _llama("tinyllama-1.1b", 22, 2048, 32, 4, 5632, 2048),
                _llama("llama-2-7b", 32, 4096, 32, 32, 11008, 4096),
            ),
        ),
    )
}


MEMBERS: dict[str, Member] = {
    member.name: member for family in FAMILIES.values() for member in family.members
}


def member(name: str) -> Member:
    """The published member of that name, in any case.

    Raises:
        BadInput: with the nearest match.
    """
    return look_up(MEMBERS, name, "family")


def family(name: str) -> Family:
    """The published family of that name, in any case.

    Raises:
        BadInput: with the nearest match.
    """
    return look_up(FAMILIES, name, "family")
