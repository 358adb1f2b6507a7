"""Checks of parameter counts, names and attention widths against shapes, and shapes that explain a wrong count."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from .findings import Finding, Verdict, cell
from .tables import StatedNumber, TableEntry, parse_stated, size_in

_GENERATOR = "an earlier generator of the same GPT-2 family (heads of 48, feed-forward not 4·d)"

EARLIER: tuple[tuple[int, int, int, int], ...] = (
    # n_layer, n_embd, n_inner, n_head of the shapes for which the 52M, 83M and 125M members were first counted
    (6, 576, 2376, 12),
    (8, 720, 2800, 15),
    (9, 816, 3320, 17),
)
_HEAD_WIDTHS = (32, 48, 64, 80, 96, 128)  # in common use
_INNER = (3.5, 4.5)  # n_inner per n_embd of GPT-2-like shapes
_ASPECT = (24.0, 144.0)  # n_embd per layer
_TILE = 8  # n_inner is a multiple of this
_NOMINAL = 0.02  # by which a size of two digits, as in a name, is off: Llama-2-70B has 68.98 billion
_OTHER_TOLERANCE = 2e-3  # within which a count is that of another convention
_SHOWN = 3  # shapes that an explanation names
VOCABULARY, CONTEXT = 50257, 1024  # GPT-2's, where a table does not say

GPT2_NAMES = ("gpt2", "gpt-2", "gpt 2")
_DEFAULTS = {  # context and vocabulary by architecture, where a table does not say
    "gpt2": (CONTEXT, VOCABULARY),
    "bert": (512, 30522),
    "llama": (4096, 32000),
}
_LLAMA_NAMES = ("llama", "mistral", "mixtral", "vicuna", "alpaca")
_NAMES = {"bert": frozenset(("bert",)), "llama": frozenset(("stories", "yi"))}
_PADDED = (64, 128, 256, 512, 1024)  # a vocabulary is padded to a multiple of one of these
_MOST_PADDING = 0.05  # of the vocabulary, which Megatron's tensor parallelism can come to
_KNOWN = {folded(name): known for name, known in MEMBERS.items()}
# OpenAI's first counts, which the repository of GPT-2 calls an error: stated -> true.
_MISCOUNTED = {117e6: 124_439_808, 345e6: 354_823_168, 762e6: 774_030_080, 1542e6: 1_557_611_200}
_MOST_SEARCHES = (
    12  # rows whose counts are searched for other shapes, 50 ms each: a family, not thousands of runs
)
_MISCOUNT = "OpenAI's first count, which its repository calls an error"


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateShape:
    """A shape whose parameter count rounds to a stated one."""

    spec: ModelSpec
    source: str = ""

    @property
    def count(self) -> int:
        """Number of all parameters."""
        return params(self.spec)

    def __str__(self) -> str:
        spec = self.spec
        return f"L{spec.n_layer} d{spec.n_embd} ff{spec.n_inner} h{spec.n_head} ({self.count:,})"


def explanations(count: StatedNumber, like: ModelSpec) -> tuple[tuple[CandidateShape, ...], int]:
    """Shapes whose parameter counts print as `count`.

    Args:
        count: the stated number of parameters.
        like: gives vocabulary and context, and the depth-to-width ratio that a plausible shape is near.

    Returns:
        A few of them, known ones first, then those most like GPT-2; and the number of all that fit.
    """
    known = [
        CandidateShape(spec=spec, source=_GENERATOR)
        for layers, width, inner, heads in EARLIER
        if count.agrees(params(spec := _candidate_spec(like, layers, width, inner, heads)))
    ]
    aspect = like.n_embd / like.n_layer
    fitting: list[tuple[float, CandidateShape]] = []
    for layers in range(2, 65):
        low, high = (max(_TILE, round(ratio * layers)) for ratio in _ASPECT)
        for width in range(low - low % 16, high + 1, 16):
            head = next((size for size in (64, *_HEAD_WIDTHS) if width % size == 0), None)
            if head is None:
                continue
            for inner in _inner_widths(count, like, layers, width):
                spec = _candidate_spec(like, layers, width, inner, width // head)
                oddity = abs(inner / width - 4) + 0.2 * abs(math.log(width / layers / aspect))
                fitting.append((oddity + (0.05 if head != 64 else 0), CandidateShape(spec=spec)))
    fitting.sort(key=lambda pair: pair[0])
    distinct = {(shape.spec.n_layer, shape.spec.n_embd): shape for shape in known}
    for _, shape in fitting:
        distinct.setdefault((shape.spec.n_layer, shape.spec.n_embd), shape)
    return tuple(distinct.values())[: len(known) + _SHOWN], len(fitting)


def _candidate_spec(like: ModelSpec, layers: int, width: int, inner: int, heads: int) -> ModelSpec:
    return ModelSpec(
        n_layer=layers,
        n_embd=width,
        n_inner=inner,
        n_head=heads,
        n_positions=like.n_positions,
        vocab_size=like.vocab_size,
    )


def _inner_widths(count: StatedNumber, like: ModelSpec, layers: int, width: int) -> range:
    """Feed-forward widths with which that depth and width print as `count`; parameters are linear in n_inner."""
    base = params(_candidate_spec(like, layers, width, 1, 1))
    slope = layers * (2 * width + 1)
    low = max(1 + (count.value - count.unit / 2 - base) / slope, _INNER[0] * width)
    high = min(1 + (count.value + count.unit - base) / slope, _INNER[1] * width)
    return range(_TILE * math.ceil(low / _TILE), math.floor(high) + 1, _TILE)


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
            nominal = _NOMINAL if count.relative > _NOMINAL / 10 else 0.0
            totals = _class_counts(spec, experts)
            if abs(count.value / next(iter(totals.values())) - 1) <= nominal:
                return spec
            if any(count.agrees(total) for total in totals.values()):
                return spec
            if spec.architecture == "gpt2" and _convention(count, spec):
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
        unknown = "n_experts" in entry.numbers and not _is_mixture(spec)
        return None if unknown else train_flops_per_token(spec)
    return train_flops_per_token(spec) + 6 * (expert_params(spec, experts)[1] - params(spec))


def _is_mixture(spec: ModelSpec) -> bool:
    """True for a published mixture of experts, whose spec has them."""
    return params_active(spec) < params(spec)


def _is_gated(spec: ModelSpec) -> bool:
    """True for the decoders after GPT-2: a head that may be tied or not, grouped queries."""
    return spec.architecture not in ("gpt2", "bert")


def _class_counts(spec: ModelSpec, experts: Experts | None) -> dict[str, int]:
    """All parameters by model class."""
    if experts is not None and spec.architecture == "llama":
        return {"mixture of experts": expert_params(spec, experts)[0]}
    counts = dict(architecture(spec.architecture).counts(spec))
    if _is_gated(spec) and len(counts) > 1:
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


def shape_findings(rows: Sequence[TableEntry]) -> list[Finding]:
    """Parameters, names and attention widths of each row against its shape, then the parameter column."""
    findings: list[Finding] = []
    explained: list[tuple[TableEntry, tuple[CandidateShape, ...]]] = []
    checked = wrong = 0
    usual = _usual_widths(rows)
    for entry in rows:
        spec = spec_of(entry)
        if spec is None:
            continue
        checked += "params" in entry.numbers
        counted, shapes = _params(entry, spec, search=wrong < _MOST_SEARCHES)
        findings += counted
        wrong += any(finding.verdict is Verdict.MISMATCH for finding in counted)
        if shapes and "params" in entry.numbers:
            explained.append((entry, shapes))
        findings += _name(entry, spec) + _attention(entry, spec, usual) + _published(entry)
    if len(explained) > 1 and len(explained) == checked:
        known = [shapes[0] for _, shapes in explained if shapes[0].source]
        cause = (
            f"all {checked} counts are those of {known[0].source}: " + ", ".join(map(str, known))
            if len(known) == checked
            else f"none of the {checked} counts fits its own row's shape"
        )
        findings.insert(
            0,
            Finding(
                check="parameters column",
                where=f"all {checked} rows",
                column=explained[0][0].headers["params"],
                stated=", ".join(entry.numbers["params"].text for entry, _ in explained),
                recomputed=", ".join(
                    f"{params(spec):,}" for entry, _ in explained if (spec := spec_of(entry)) is not None
                ),
                verdict=Verdict.MISMATCH,
                explanation=f"the column is of other shapes than the table's: {cause}",
                severity=1.0,
            ),
        )
    return findings


def _usual_widths(rows: Sequence[TableEntry]) -> tuple[int, int]:
    """Number of rows with an attention width beside their width, and of those where the two are equal."""
    stated = [row.numbers for row in rows if {"d_attn", "n_embd"} <= row.numbers.keys()]
    return len(stated), sum(row["d_attn"].value == row["n_embd"].value for row in stated)


def _params(
    entry: TableEntry, spec: ModelSpec, *, search: bool
) -> tuple[list[Finding], tuple[CandidateShape, ...]]:
    """A row's stated counts against its shape, and other shapes that would explain a GPT-2's wrong one."""
    findings: list[Finding] = []
    shapes: tuple[CandidateShape, ...] = ()
    experts = experts_of(entry) if spec.architecture == "llama" else None
    for field in ("params", "params_non_embedding", "params_active"):
        number = entry.numbers.get(field)
        if number is None:
            continue
        if (
            experts is None
            and not _is_mixture(spec)
            and (field == "params_active" or "n_experts" in entry.numbers)
        ):
            continue  # its experts are not known
        if field == "params":
            count, model = _nearest_count(number, spec, experts)
        else:
            table = params(spec) - params_non_embedding(spec)
            whole, active = expert_params(spec, experts) if experts else (params(spec), params_active(spec))
            count, model = (active, "active parameters") if field == "params_active" else (whole - table, "")
        if field == "params_non_embedding" and experts is None and number.agrees(params_kaplan(spec)):
            count, model = params_kaplan(spec), "matmul weights of the blocks (Kaplan)"
        verdict, cause, explained = _compare_count(
            entry, spec, number, count, model, search=search and field != "params_active"
        )
        shapes = shapes or explained
        findings.append(
            Finding(
                check="parameters",
                **cell(entry, field),
                recomputed=f"{count:,}",
                verdict=verdict,
                explanation=cause,
                severity=abs(number.value / count - 1),
            )
        )
    return findings, shapes


def _compare_count(
    entry: TableEntry, spec: ModelSpec, number: StatedNumber, count: int, model: str, *, search: bool
) -> tuple[Verdict, str, tuple[CandidateShape, ...]]:
    """Verdict on a stated number against the count, the likely cause, and other shapes that it would fit."""
    off = number.value / count - 1
    table = _counted_twice(entry, spec, number)
    if table:
        return Verdict.MISMATCH, table, ()
    if number.agrees(count) or abs(off) < 1e-6:
        rounding = "" if number.rounds(count) or abs(off) < 1e-6 else "truncated, not rounded"
        return Verdict.OK, ", ".join(filter(None, (model, _assumed(entry, spec), rounding))), ()
    if _MISCOUNTED.get(number.value) == count:
        return Verdict.MISMATCH, f"{off:+.1%}: {_MISCOUNT}", ()
    if _is_gated(spec) and (full := _full_heads(number, spec)):
        return Verdict.MISMATCH, f"{off:+.1%}: {full}", ()
    named = size_in(entry.name)
    if named is not None and named.value == number.value and abs(off) <= _NOMINAL:
        return (
            Verdict.SUSPICIOUS,
            f"{off:+.1%}: the nominal size of the name{_assumed(entry, spec, ', ')}",
            (),
        )
    other = _padded(number, spec) or _convention(number, spec)
    if other:
        return Verdict.SUSPICIOUS, f"counts {other}", ()
    if not is_gpt2(entry):
        cause = (
            f"{off:+.1%} against {shape_kind(entry, spec)} of this shape by any count{_assumed(entry, spec, ' with ')}: "
            "another architecture or another shape"
        )
        return Verdict.SUSPICIOUS, cause, ()
    if not search:
        return Verdict.MISMATCH, f"{off:+.1%}", ()
    shapes, fitting = explanations(number, spec)
    listed = ", ".join(map(str, shapes))
    cause = (
        f"{fitting} GPT-2-like shapes print as {number.text}, among them {listed}"
        if shapes
        else f"no GPT-2-like shape prints as {number.text}"
    )
    return Verdict.MISMATCH, f"{off:+.1%}; {cause}", shapes


def _nearest_count(number: StatedNumber, spec: ModelSpec, experts: Experts | None) -> tuple[int, str]:
    """The nearest count among the model classes of a spec, and that class's name where there are several."""
    counts = _class_counts(spec, experts)
    model = min(counts, key=lambda name: abs(counts[name] - number.value))
    return counts[model], model if len(counts) > 1 or experts is not None else ""


def _assumed(entry: TableEntry, spec: ModelSpec, joint: str = "") -> str:
    """The sizes of a Llama that the row does not state and that its count depends on."""
    if not _is_gated(spec) or not {"n_layer", "n_embd"} <= entry.numbers.keys():
        return ""
    values = {
        "n_inner": f"n_inner {spec.n_inner}",
        "n_kv_head": "" if spec.n_kv_head == spec.n_head else f"{spec.n_kv_head} key and value heads",
        "vocab_size": f"vocabulary {spec.vocab_size}",
    }
    assumed = [text for field, text in values.items() if text and field not in entry.numbers]
    return f"{joint}{', '.join(assumed)} assumed" if assumed else ""


def _counted_twice(entry: TableEntry, spec: ModelSpec, number: StatedNumber) -> str:
    """The two counts of a Llama whose name has the size with a tied head and whose row has the one without."""
    named = size_in(entry.name)
    whole, table = params(spec), spec.vocab_size * spec.n_embd
    if spec.architecture != "llama" or named is None or not number.agrees(whole):
        return ""
    if abs(named.value - (whole - table)) >= named.unit or abs(named.value - whole) < named.unit:
        return ""
    return (
        f"counts the table of {spec.vocab_size} x {spec.n_embd} twice, as embedding and as head; the name's "
        f"{named.text} is the model with a tied head, {whole - table:,}"
    )


def _full_heads(number: StatedNumber, spec: ModelSpec) -> str:
    """The stated count explained by keys and values of all heads, else ""."""
    if spec.n_kv_head == spec.n_head:
        return ""
    whole = params(replace(spec, n_kv_head=spec.n_head))
    if not (number.agrees(whole) or abs(number.value / whole - 1) < _OTHER_TOLERANCE):
        return ""
    return (
        f"counts keys and values of all {spec.n_head} heads, {whole:,}; the model groups its queries on "
        f"{spec.n_kv_head} of them"
    )


def _padded(number: StatedNumber, spec: ModelSpec) -> str:
    """The padded, or unpadded, vocabulary that gives the stated count, else ""."""
    vocabulary, total = spec.vocab_size, params(spec)
    row = params(replace(spec, vocab_size=vocabulary + 1)) - total  # parameters of one more token
    rows = (number.value - total) / row
    exact = number.unit < row and abs(rows - round(rows)) < 1e-9
    if exact and round(rows) and abs(rows) <= _MOST_PADDING * vocabulary:
        other = vocabulary + round(rows)
        if rows > 0 and other % 8 == 0:
            return f"a vocabulary padded to {other}: {round(rows)} x {row} more than the stated {vocabulary} gives"
        if rows < 0 and vocabulary % 8 == 0:
            return f"a vocabulary of {other}, {vocabulary} before padding"
        return ""
    for multiple in _PADDED:
        other = -(-vocabulary // multiple) * multiple
        count = total + (other - vocabulary) * row
        if other > vocabulary and number.unit < count - total + number.unit / 2 and number.agrees(count):
            return f"a vocabulary padded to {other}, {count:,}"
    return ""


def _convention(number: StatedNumber, spec: ModelSpec) -> str:
    """The other convention that gives the number within 0.2 %, else ""."""
    total, body = params(spec), params_non_embedding(spec)
    table = spec.vocab_size * spec.n_embd
    if _is_gated(spec):
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
    return best if near[best] < max(_OTHER_TOLERANCE, 2 * number.relative) else ""


def _name(entry: TableEntry, spec: ModelSpec) -> list[Finding]:
    """Sizes in a name against the shape; names are rounded up as often as down."""
    own = size_in(entry.name) if "params" in entry.numbers else None
    aliases = [parse_stated(word) for word in entry.words.get("aliases", "").split(", ")]
    experts = experts_of(entry)
    findings = []
    for size in (own, *aliases):
        if size is None or ("n_experts" in entry.numbers and experts is None):
            continue
        count = params(spec) if not _is_gated(spec) else _nearest_count(size, spec, experts)[0]
        off = size.value / count - 1
        fits = abs(count - size.value) < size.unit or abs(off) <= _NOMINAL
        miscount = f": {_MISCOUNT}" if _MISCOUNTED.get(size.value) == count else ""
        findings.append(
            Finding(
                check="name",
                where=entry.where,
                column=entry.headers.get("name", ""),
                stated=size.text,
                recomputed=f"{count:,}",
                verdict=Verdict.OK if fits else Verdict.SUSPICIOUS,
                explanation="" if fits else f"the name is {off:+.1%} against its shape{miscount}",
                severity=abs(off),
            )
        )
    return findings


def _published(entry: TableEntry) -> list[Finding]:
    """Stated layers, width and heads against those of the published member that the row names."""
    known = known_member(entry)
    if known is None:
        return []
    findings = []
    for field in ("n_layer", "n_embd", "n_head"):
        number, value = entry.numbers.get(field), getattr(known.spec, field)
        if number is not None and number.value != value:
            findings.append(
                Finding(
                    check="published shape",
                    **cell(entry, field),
                    recomputed=str(value),
                    verdict=Verdict.MISMATCH,
                    explanation=f"{field} of {known.name}, {known.source}",
                    severity=abs(number.value / value - 1),
                )
            )
    return findings


def _attention(entry: TableEntry, spec: ModelSpec, usual: tuple[int, int]) -> list[Finding]:
    """Check that d_attn is d_model, as in GPT-2 (Radford et al. 2019), and that n_heads divides it."""
    findings: list[Finding] = []
    number = entry.numbers.get("d_attn")
    if number is not None:
        fits = number.value == spec.n_embd
        own = "n_embd" in entry.numbers
        others, equal = usual[0] - own, usual[1] - (own and number.value == entry.numbers["n_embd"].value)
        cause = (
            f"probably an error for {spec.n_embd}; {equal} of the {others} other rows have d_attn = d_model"
        )
        if "n_head" in entry.numbers and number.value == entry.numbers["n_head"].value:
            cause += f", and {number.text} is this row's number of heads"
        findings.append(
            Finding(
                check="attention width",
                **cell(entry, "d_attn"),
                recomputed=str(spec.n_embd),
                verdict=Verdict.OK if fits else Verdict.MISMATCH,
                explanation="" if fits else cause,
                severity=abs(math.log(number.value / spec.n_embd)),
            )
        )
    heads = entry.numbers.get("n_head")
    if heads is not None and spec.n_embd % max(1, round(heads.value)):
        findings.append(
            Finding(
                check="heads",
                **cell(entry, "n_head"),
                verdict=Verdict.SUSPICIOUS,
                explanation=f"{heads.text} heads do not divide a width of {spec.n_embd}",
            )
        )
    return findings
