"""The model that a row of a table states: its architecture, shape and experts, and their counts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from families import (
    MEMBERS,
    Member,
    ModelSpec,
    params,
    params_active,
    params_kaplan,
    params_non_embedding,
    train_flops_per_token,
)
from families.architectures import architecture
from families.spec import SIZES
from families.units import BadInput

from ..runs.columns import folded
from .tables import StatedNumber, TableEntry, size_in

NOMINAL = 0.02  # by which a size of two digits, as in a name, is off: Llama-2-70B has 68.98 billion
OTHER_TOLERANCE = 2e-3  # within which a count is that of another convention
VOCABULARY, CONTEXT = 50257, 1024  # GPT-2's, where a table does not say

GPT2_NAMES = ("gpt2", "gpt-2", "gpt 2")
_DEFAULTS = {  # context and vocabulary by architecture, where a table does not say
    "gpt2": (CONTEXT, VOCABULARY),
    "bert": (512, 30522),
    "llama": (4096, 32000),
}
_LLAMA_NAMES = ("llama", "mistral", "mixtral", "vicuna", "alpaca")
_NAMES = {"bert": frozenset(("bert",)), "llama": frozenset(("stories", "yi"))}
_KNOWN = {folded(name): known for name, known in MEMBERS.items()}


def architecture_of(entry: TableEntry) -> str:
    """gpt2, bert or llama where a row's name, group or architecture names it or its grouped queries tell it, else ""."""
    text = " ".join((entry.name, entry.words.get("group", ""), entry.words.get("architecture", ""))).lower()
    if any(name in text for name in GPT2_NAMES):
        return "gpt2"
    if any(name in text for name in _LLAMA_NAMES):
        return "llama"
    words = re.split(r"[^a-z]+", text)
    known = next((name for name, others in _NAMES.items() if not others.isdisjoint(words)), "")
    if known:
        return known
    numbers = entry.numbers
    grouped = "n_kv_head" in numbers and "n_head" in numbers
    if grouped and numbers["n_kv_head"].value < numbers["n_head"].value:
        return "llama"  # of the three, the one with grouped queries
    return "llama" if "n_experts" in numbers and numbers["n_experts"].value > 1 else ""


def known_member(entry: TableEntry) -> Member | None:
    """The published member that a row names, alone ("gpt2-medium") or under its heading ("tiny" under BERT); else None."""
    group = entry.words.get("group", "")
    return _KNOWN.get(folded(entry.name)) or _KNOWN.get(folded(group + entry.name))


def spec_of(entry: TableEntry) -> ModelSpec | None:
    """The shape that a row states, else that of the published member it names, else None.

    A row without an architecture is taken as a GPT-2, or as a Llama where its count is that of a Llama with the stated
    feed-forward width or key and value heads. One without heads gets heads of width 64 where they fit, else one head.
    What a Llama's row leaves out is chosen so that its stated count comes out, if any choice does that.
    """
    numbers = entry.numbers
    published = known_member(entry)
    if not {"n_layer", "n_embd"} <= numbers.keys():
        return None if published is None else published.spec
    if published is not None and all(
        numbers[field].value == getattr(published.spec, field) for field in SIZES if field in numbers
    ):
        return published.spec
    value = tuple(
        (field, round(numbers[field].value))
        for field in (*SIZES, "n_experts", "experts_per_token")
        if field in numbers
    )
    size = numbers.get("params") or size_in(entry.name)
    spec = _stated_spec(architecture_of(entry), value, size)
    return published.spec if spec is None and published is not None else spec


@lru_cache(maxsize=4096)
def _stated_spec(
    named: str, sizes: tuple[tuple[str, int], ...], count: StatedNumber | None
) -> ModelSpec | None:
    """The first shape of the stated sizes whose count prints as `count`; the first of all where none does."""
    value = dict(sizes)
    names = [named] if named else ["gpt2", *(["llama"] if {"n_inner", "n_kv_head"} & value.keys() else [])]
    specs = [spec for name in names for spec in _possible_specs(name, value)]
    if count is not None:
        experts = _experts(value)
        for spec in specs:
            nominal = NOMINAL if count.relative > NOMINAL / 10 else 0.0
            totals = class_counts(spec, experts)
            if abs(count.value / next(iter(totals.values())) - 1) <= nominal:
                return spec
            if any(count.agrees(total) for total in totals.values()):
                return spec
            if spec.architecture == "gpt2" and other_convention(count, spec):
                return spec
    return specs[0] if specs else None


def _possible_specs(name: str, value: Mapping[str, int]) -> list[ModelSpec]:
    """The stated sizes with usual choices for those left out, the most usual first."""
    context, vocabulary = _DEFAULTS[name]
    width = value["n_embd"]
    heads = value.get("n_head") or max(1, width // 64 if width % 64 == 0 else 1)
    heads = heads if width % heads == 0 else 1
    inner = value.get("n_inner") or (architecture(name).default_inner(width) if name == "llama" else 0)
    groups = [value["n_kv_head"]] if "n_kv_head" in value else [0]
    if name == "llama" and "n_kv_head" not in value and "n_head" in value:
        groups += [number for number in (8, 4, 2, 1, 16) if heads % number == 0 and number < heads]
    specs = []
    for number in groups:
        try:
            specs.append(
                ModelSpec(
                    architecture=name,
                    n_layer=value["n_layer"],
                    n_embd=width,
                    n_head=heads,
                    n_inner=inner,
                    n_positions=value.get("n_positions", context),
                    vocab_size=value.get("vocab_size", vocabulary),
                    n_kv_head=number if name == "llama" and number and heads % number == 0 else 0,
                )
            )
        except BadInput:
            return []
    return specs


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture of experts: feed-forward networks in each layer, and how many of them a token passes through."""

    number: int
    per_token: int


def experts_of(entry: TableEntry) -> Experts | None:
    """The experts that a row states; None for a dense model, or where the number per token is not stated."""
    return _experts(
        {field: round(number.value) for field, number in entry.numbers.items() if "expert" in field}
    )


def _experts(value: Mapping[str, int]) -> Experts | None:
    number, per_token = value.get("n_experts", 0), value.get("experts_per_token", 0)
    return Experts(number=number, per_token=per_token) if 0 < per_token <= number and number > 1 else None


def expert_params(spec: ModelSpec, experts: Experts) -> tuple[int, int]:
    """All and active parameters of a Llama whose feed-forward layer is repeated, with a router (Jiang et al. 2024)."""
    dense, layer = params(spec), spec.n_layer * 3 * spec.n_embd * spec.n_inner
    base = dense - layer + spec.n_layer * spec.n_embd * experts.number
    return base + experts.number * layer, base + experts.per_token * layer


def flops_per_token(entry: TableEntry) -> int | None:
    """Exact training FLOPs per token of the row's shape, of active experts alone; None without a shape."""
    spec = spec_of(entry)
    if spec is None:
        return None
    experts = experts_of(entry) if spec.architecture == "llama" else None
    if experts is None:
        unknown = "n_experts" in entry.numbers and not is_mixture(spec)
        return None if unknown else train_flops_per_token(spec)
    return train_flops_per_token(spec) + 6 * (expert_params(spec, experts)[1] - params(spec))


def is_mixture(spec: ModelSpec) -> bool:
    """True for a published mixture of experts, whose spec has them."""
    return params_active(spec) < params(spec)


def is_gated(spec: ModelSpec) -> bool:
    """True for the decoders after GPT-2: a head that may be tied or not, grouped queries."""
    return spec.architecture not in ("gpt2", "bert")


def class_counts(spec: ModelSpec, experts: Experts | None) -> dict[str, int]:
    """All parameters by model class."""
    if experts is not None and spec.architecture == "llama":
        return {"mixture of experts": expert_params(spec, experts)[0]}
    counts = dict(architecture(spec.architecture).counts(spec))
    if is_gated(spec) and len(counts) > 1:
        tied = f"head tied to the embedding of {spec.vocab_size} x {spec.n_embd}, or left out"
        counts[tied] = counts.pop(next(reversed(counts)))
    return counts


def shape_kind(entry: TableEntry, spec: ModelSpec) -> str:
    """Kind of model that the row's shape is taken for: "a GPT-2", "a BERT", "a Llama" or "a Llama with experts"."""
    known = {"gpt2": "a GPT-2", "bert": "a BERT", "llama": "a Llama"}
    kind = known.get(spec.architecture, f"a model of architecture {spec.architecture}")
    return f"{kind} with experts" if experts_of(entry) is not None and spec.architecture == "llama" else kind


def is_gpt2(entry: TableEntry) -> bool:
    """True if the row names GPT-2 as its architecture."""
    return architecture_of(entry) == "gpt2"


def other_convention(number: StatedNumber, spec: ModelSpec) -> str:
    """The other convention that gives the number within 0.2 %, else ""."""
    total, body = params(spec), params_non_embedding(spec)
    table = spec.vocab_size * spec.n_embd
    if is_gated(spec):
        counts = {
            "all but the embedding, head included": body,
            "all but embedding and head": body - table,
            "matmul weights of the blocks": params_kaplan(spec),
            "two feed-forward matrices, not the three of SwiGLU": total
            - spec.n_layer * spec.n_embd * spec.n_inner,
        }
    else:
        counts = {
            "non-embedding parameters": body,
            "12·n_layer·n_embd² (Kaplan)": params_kaplan(spec),
            "all but position embeddings": total - spec.n_positions * spec.n_embd,
            "an untied head in addition": total + table,
            "an untied head, without positions": body + 2 * table,
            "matmul weights, head included": params_kaplan(spec) + table,
            "matmul weights and both embeddings": params_kaplan(spec) + 2 * table,
        }
    near = {name: abs(number.value / count - 1) for name, count in counts.items()}
    best = min(near, key=lambda name: near[name])
    return best if near[best] < max(OTHER_TOLERANCE, 2 * number.relative) else ""
