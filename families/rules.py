"""Families as rules: what a family's makers choose at a width, so that it has a member of any size."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from .architectures import architecture
from .architectures.base import TOKEN_IDS
from .architectures.decoder import Decoder
from .architectures.llama import rope
from .published import GEMMA_ENDS, LLAMA3_ENDS, PUBLISHED, QWEN_ENDS, TIED
from .spec import ModelSpec, nearest_divisors
from .units import BadInput, nearest

NARROW = (
    2560  # widths below it have heads of 64 and come in multiples of 64, the others of 128 (as in Llama 3.2)
)
KV_HEADS = 8  # of grouped queries, in Llama 3 and Qwen 3 of every size


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """The rule of a family: everything that follows from a width, as its makers choose it.

    Args:
        name: of the family, as `--architecture` and `--family` take it.
        architecture: name in the registry.
        n_positions: context that its members are pre-trained with.
        vocab_size: tokens of its tokenizer.
        ratio: n_embd per layer; of the published members the median.
        head_size: size of a head at a width; None: 64 for narrow models and 128 for others.
        kv_heads: most key and value heads; 0: as many as there are heads.
        inner: width of the feed-forward layer at a width; None: the architecture's usual one.
        config: entries of the config at a width.
        published: the family of published members.
    """

    name: str
    architecture: str
    n_positions: int
    vocab_size: int
    ratio: float = 64.0
    head_size: Callable[[int], int] | None = None
    kv_heads: int = 0
    inner: Callable[[int], int] | None = None
    config: Callable[[int], dict[str, Any]] = lambda width: {}
    published: str = ""

    @property
    def is_mixture(self) -> bool:
        """Return True for a mixture of experts."""
        return getattr(architecture(self.architecture), "mixture", None) is not None

    @property
    def experts_per_token(self) -> int:
        """Return the routed experts that a token passes through; 1 of a dense family."""
        return int(self._routes["num_experts_per_tok"]) if self.is_mixture else 1

    @property
    def _routes(self) -> dict[str, Any]:
        found = architecture(self.architecture)
        return {**found.library, **found.usual} if isinstance(found, Decoder) else {}

    def _routing(self, experts: int) -> dict[str, Any]:
        """Return the entries of the config for a number of experts; none where it is the makers' own."""
        if not experts:
            return {}
        if not self.is_mixture:
            raise BadInput(f"experts is {experts}; {self.name} has none, {', '.join(MIXTURES)} have")
        usual, groups = self._routes, self._routes.get("n_group") or 0
        if groups and (
            experts % groups or experts < 2 * groups
        ):  # its router adds up the best two of each group
            raise BadInput(
                f"experts is {experts}; {self.name} routes among {groups} groups of two or more: take a multiple of "
                f"{groups} from {2 * groups} on"
            )
        found_in = architecture(self.architecture)
        assert isinstance(found_in, Decoder)
        assert found_in.mixture is not None
        number = found_in.mixture.number
        found = {} if usual[number] == experts else {number: experts}
        return found if experts >= self.experts_per_token else {**found, "num_experts_per_tok": experts}

    def head(self, width: int) -> int:
        """Return the size of a head at a width."""
        if self.head_size is not None:
            return self.head_size(width)
        return 64 if width < NARROW else 128

    def spec(
        self,
        n_layer: int,
        width: int,
        *,
        head_size: int,
        n_positions: int,
        vocab_size: int,
        kv_heads: int = 0,
        experts: int = 0,
    ) -> ModelSpec:
        """Return the member of a depth and a width that its heads divide.

        Args:
            n_layer: depth.
            width: n_embd.
            head_size: size of a head.
            n_positions: context in tokens.
            vocab_size: tokens of the vocabulary.
            kv_heads: key and value heads, in place of the makers' choice; the nearest divisor of the heads is taken.
            experts: routed experts of a layer, in place of the makers' choice.

        Raises:
            BadInput: experts of a family that has none, or that its router cannot take.
        """
        heads = width // head_size
        found = architecture(self.architecture)
        config = {**self.config(width), **self._routing(experts)}
        if "query_pre_attn_scalar" in config:
            config["query_pre_attn_scalar"] = head_size  # scores are scaled by the root of a head's size
        return ModelSpec(
            architecture=self.architecture,
            n_layer=n_layer,
            n_head=heads,
            n_embd=width,
            n_inner=found.default_inner(width) if self.inner is None else self.inner(width),
            n_positions=n_positions,
            vocab_size=vocab_size,
            n_kv_head=grouped(heads, kv_heads) if kv_heads else _shared(heads, self.kv_heads),
            config=config,
        )


def grouped(heads: int, asked: int) -> int:
    """Return the divisor of a number of heads that is nearest to the key and value heads asked for."""
    return min(nearest_divisors(heads, min(asked, heads)), key=lambda found: (abs(found - asked), found))


def _shared(heads: int, most: int) -> int:
    """Return the largest divisor of a number of heads up to `most`, below the number itself where there is one."""
    if not most or heads == 1:
        return heads
    return max(part for part in range(1, min(most, heads // 2) + 1) if heads % part == 0)


def _llama3_inner(width: int) -> int:
    """Return 1.3 · 8/3 of the width rounded up to 1,024 (8B, 70B), to 256 below width 2,048, to 64 below 768."""
    multiple = 1024 if width >= 2048 else 256 if width >= 768 else 64
    return -(-int(1.3 * int(8 * width / 3)) // multiple) * multiple


def _llama3(width: int) -> dict[str, Any]:
    tied = TIED if width < 4096 else {}  # as in the 1B and the 3B
    return {**tied, **LLAMA3_ENDS, "rope_parameters": rope(500000.0)}


def _qwen(widest_tied: int, extra: dict[str, Any] | None = None) -> Callable[[int], dict[str, Any]]:
    def config(width: int) -> dict[str, Any]:
        tied = TIED if width <= widest_tied else {}
        return {**tied, **QWEN_ENDS, "rope_parameters": rope(1e6), **(extra or {})}

    return config


def _always(entries: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    return lambda width: dict(entries)


def _constant(size: int) -> Callable[[int], int]:
    return lambda width: size


def _deepseek(width: int) -> dict[str, Any]:
    """Return the ranks of the latents in V3's proportion to the width, in multiples of 64, and its dense first layers."""
    return {
        "bos_token_id": 0,
        "eos_token_id": 1,
        "kv_lora_rank": 64 * max(1, round(width / 14 / 64)),
        "q_lora_rank": 64 * max(1, round(3 * width / 14 / 64)),
        "first_k_dense_replace": 1 if width < 4096 else 3,
    }


_HEAD_64, _HEAD_128 = _constant(64), _constant(128)
_OLMO2 = dict(PUBLISHED["olmo-2"][1][0][1].config)
_ENDS = {"bos_token_id": 1, "eos_token_id": 2}


def _rule(
    name: str, architecture: str, n_positions: int, vocab_size: int, published: str, **rest: Any
) -> Maker:
    ratios = [spec.n_embd / spec.n_layer for _, spec in PUBLISHED[published][1]]
    return Maker(
        name=name,
        architecture=architecture,
        n_positions=n_positions,
        vocab_size=vocab_size,
        published=published,
        ratio=round(median(ratios), 1),
        **rest,
    )


_ALL = (
    Maker(name="gpt2", architecture="gpt2", n_positions=1024, vocab_size=50257, head_size=_HEAD_64, published="gpt2"),
    Maker(name="bert", architecture="bert", n_positions=1024, vocab_size=50257, head_size=_HEAD_64, published="bert"),
    Maker(name="llama", architecture="llama", n_positions=1024, vocab_size=50257, head_size=_HEAD_64, published="llama"),
    _rule("llama2", "llama", 4096, 32000, "llama-2", head_size=_HEAD_128, config=_always(_ENDS)),
    _rule("llama3", "llama", 8192, 128256, "llama-3", kv_heads=KV_HEADS, inner=_llama3_inner, config=_llama3),
    _rule(
        "mistral", "mistral", 8192, 32768, "mistral", kv_heads=KV_HEADS,
        config=_always({**_ENDS, "rope_parameters": rope(1e6)}),
    ),
    _rule("qwen2.5", "qwen2", 4096, 151936, "qwen2.5", kv_heads=KV_HEADS, config=_qwen(2048)),
    _rule("qwen3", "qwen3", 4096, 151936, "qwen3", head_size=_HEAD_128, kv_heads=KV_HEADS, config=_qwen(2560)),
    _rule("gemma2", "gemma2", 8192, 256000, "gemma-2", head_size=_HEAD_128, kv_heads=16, config=_always(
        {**GEMMA_ENDS, "query_pre_attn_scalar": 128})),
    _rule("gemma3", "gemma3_text", 8192, 262144, "gemma-3", head_size=_HEAD_128, kv_heads=16, config=_always(
        {**GEMMA_ENDS, "query_pre_attn_scalar": 128, "sliding_window": 512})),
    _rule("olmo2", "olmo2", 4096, 100352, "olmo-2", head_size=_HEAD_128, config=_always(_OLMO2)),
    _rule(
        "pythia", "gpt_neox", 2048, 50304, "pythia", head_size=_HEAD_64,
        config=_always({"bos_token_id": 0, "eos_token_id": 0}),
    ),
    _rule(
        "smollm2", "llama", 2048, 49152, "smollm2", head_size=_HEAD_64, kv_heads=KV_HEADS,
        config=_always(dict(PUBLISHED["smollm2"][1][0][1].config)),
    ),
    _rule("phi3", "phi3", 4096, 32064, "phi-3", config=_always(
        {"bos_token_id": 1, "eos_token_id": 32000, "pad_token_id": 32000})),
    _rule("mixtral", "mixtral", 8192, 32000, "mixtral", kv_heads=KV_HEADS, config=_always(_ENDS)),
    _rule("qwen3-moe", "qwen3_moe", 4096, 151936, "qwen3-moe", head_size=_HEAD_64, kv_heads=4,
          config=_qwen(0, {"norm_topk_prob": True})),
    _rule("olmoe", "olmoe", 4096, 50304, "olmoe", head_size=_HEAD_128, config=_always(
        {"bos_token_id": None, "eos_token_id": 50279, "pad_token_id": 1})),
    _rule("deepseek-v3", "deepseek_v3", 4096, 129280, "deepseek-v3", head_size=_HEAD_64, config=_deepseek),
)  # fmt: skip
MAKERS: dict[str, Maker] = {maker.name: maker for maker in _ALL}
MIXTURES = tuple(maker.name for maker in _ALL if maker.is_mixture)

_OTHER_NAMES = {
    "llama-2": "llama2",
    "llama-3": "llama3",
    "llama3.1": "llama3",
    "llama3.2": "llama3",
    "qwen2": "qwen2.5",
    "gpt_neox": "pythia",
    "neox": "pythia",
    "gpt-neox": "pythia",
    "gemma-2": "gemma2",
    "gemma-3": "gemma3",
    "gemma3_text": "gemma3",
    "olmo-2": "olmo2",
    "phi-3": "phi3",
    "smollm": "smollm2",
    "qwen3_moe": "qwen3-moe",
    "deepseek": "deepseek-v3",
    "deepseek_v3": "deepseek-v3",
}
_KINDS = ("moe", "mixture", "mixture-of-experts", "experts", "sparse")


def maker(name: str) -> Maker:
    """Return the rule of that name, in any case and under the names of `config.json`.

    Raises:
        BadInput: with the nearest match, or the mixtures of experts where that is what was asked for.
    """
    key = name.strip().lower()
    if key in _KINDS:
        raise BadInput(f"architecture is {name!r}; mixtures of experts are {', '.join(MIXTURES)}")
    found = MAKERS.get(_OTHER_NAMES.get(key, key))
    if found is None:
        raise BadInput(f"architecture is {name!r}; {nearest(name, MAKERS, shown=len(MAKERS))}")
    return found


def is_rule(name: str) -> bool:
    """Return True for the name of a family that is a rule, or of a kind of them."""
    key = name.strip().lower()
    return key in MAKERS or key in _OTHER_NAMES or key in _KINDS


def maker_of(spec: ModelSpec) -> str:
    """Return the name of the rule that gives this very shape at its depth and width, else its architecture's name.

    Args:
        spec: the shape; vocabulary, context and head size may be any.
    """
    head = spec.n_embd // spec.n_head
    for rule in MAKERS.values():
        if rule.architecture != spec.architecture or spec.n_embd % spec.n_head:
            continue
        made = rule.spec(
            spec.n_layer,
            spec.n_embd,
            head_size=head,
            n_positions=spec.n_positions,
            vocab_size=spec.vocab_size,
        )
        if _without_ids(made) == _without_ids(spec):
            return rule.name
    return spec.architecture


def _without_ids(spec: ModelSpec) -> ModelSpec:
    """Return a spec without its first and last tokens, which are its tokenizer's."""
    return replace(spec, config={key: value for key, value in spec.config.items() if key not in TOKEN_IDS})
