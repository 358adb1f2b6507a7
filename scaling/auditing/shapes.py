"""Checks of parameter counts, names and attention widths against shapes, and shapes that explain a wrong count."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from families import MEMBERS, Member, ModelSpec, params, params_kaplan, params_non_embedding
from families.architectures import architecture
from families.units import BadInput

from .findings import Finding, Verdict, cell
from .tables import StatedNumber, TableEntry, folded, parse_stated, size_in

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
_SHOWN = 3  # shapes that an explanation names
VOCABULARY, CONTEXT = 50257, 1024  # GPT-2's, where a table does not say

GPT2_NAMES = ("gpt2", "gpt-2", "gpt 2")
_BERT = (512, 30522)  # context and vocabulary
_KNOWN = {folded(name): known for name, known in MEMBERS.items()}
# OpenAI's first counts, which the repository of GPT-2 calls an error: stated -> true.
_MISCOUNTED = {117e6: 124_439_808, 345e6: 354_823_168}
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
    """gpt2, bert or llama where a row's name or group names it, else ""."""
    text = f"{entry.name} {entry.words.get('group', '')}".lower()
    if any(name in text for name in GPT2_NAMES):
        return "gpt2"
    words = re.split(r"[^a-z]+", text)
    return next((name for name in ("bert", "llama") if name in words), "")


def known_member(entry: TableEntry) -> Member | None:
    """The published member that a row names, alone ("gpt2-medium") or under its heading ("tiny" under BERT); else None."""
    group = entry.words.get("group", "")
    return _KNOWN.get(folded(entry.name)) or _KNOWN.get(folded(group + entry.name))


def spec_of(entry: TableEntry) -> ModelSpec | None:
    """The shape that a row states, else that of the published member it names, else None.

    A row without an architecture is taken as a GPT-2. One without heads gets heads of width 64 where they fit, else one
    head; heads do not affect the count. A Llama's count needs values that tables leave out.
    """
    value = {field: round(number.value) for field, number in entry.numbers.items()}
    architecture = architecture_of(entry) or "gpt2"
    if not {"n_layer", "n_embd"} <= value.keys():
        known = known_member(entry)
        return None if known is None else known.spec
    if architecture == "llama":
        return None
    context, vocabulary = (CONTEXT, VOCABULARY) if architecture == "gpt2" else _BERT
    width = value["n_embd"]
    heads = value.get("n_head") or max(1, width // 64 if width % 64 == 0 else 1)
    try:
        return ModelSpec(
            architecture=architecture,
            n_layer=value["n_layer"],
            n_embd=width,
            n_head=heads if width % heads == 0 else 1,
            n_inner=value.get("n_inner", 0),
            n_positions=value.get("n_positions", context),
            vocab_size=value.get("vocab_size", vocabulary),
        )
    except BadInput:
        return None


def is_gpt2(entry: TableEntry) -> bool:
    """True if the row names GPT-2 as its architecture."""
    return architecture_of(entry) == "gpt2"


def shape_findings(rows: Sequence[TableEntry]) -> list[Finding]:
    """Parameters, names and attention widths of each row against its shape, then the parameter column."""
    findings: list[Finding] = []
    explained: list[tuple[TableEntry, tuple[CandidateShape, ...]]] = []
    checked = wrong = 0
    for entry in rows:
        spec = spec_of(entry)
        if spec is None:
            continue
        checked += "params" in entry.numbers
        finding, shapes = _params(entry, spec, search=wrong < _MOST_SEARCHES)
        if finding is not None:
            findings.append(finding)
            wrong += finding.verdict is Verdict.MISMATCH
        if shapes and "params" in entry.numbers:
            explained.append((entry, shapes))
        findings += _name(entry, spec) + _attention(entry, spec, rows) + _published(entry)
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


def _params(
    entry: TableEntry, spec: ModelSpec, *, search: bool
) -> tuple[Finding | None, tuple[CandidateShape, ...]]:
    """A row's stated count against its shape, and other shapes that would explain a GPT-2's wrong one."""
    for field in ("params", "params_non_embedding"):
        number = entry.numbers.get(field)
        if number is None:
            continue
        count, model = _nearest_count(number, spec) if field == "params" else (params_non_embedding(spec), "")
        verdict, cause, shapes = _compare_count(entry, spec, number, count, model, search=search)
        return Finding(
            check="parameters",
            **cell(entry, field),
            recomputed=f"{count:,}",
            verdict=verdict,
            explanation=cause,
            severity=abs(number.value / count - 1),
        ), shapes
    return None, ()


def _compare_count(
    entry: TableEntry, spec: ModelSpec, number: StatedNumber, count: int, model: str, *, search: bool
) -> tuple[Verdict, str, tuple[CandidateShape, ...]]:
    """Verdict on a stated number against the count, the likely cause, and other shapes that it would fit."""
    off = number.value / count - 1
    if number.agrees(count) or abs(off) < 1e-6:
        rounding = "" if number.rounds(count) or abs(off) < 1e-6 else "truncated, not rounded"
        return Verdict.OK, ", ".join(filter(None, (model, rounding))), ()
    if _MISCOUNTED.get(number.value) == count:
        return Verdict.MISMATCH, f"{off:+.1%}: {_MISCOUNT}", ()
    other = _other_count(number, spec)
    if other:
        return Verdict.SUSPICIOUS, f"counts {other}", ()
    if not is_gpt2(entry):
        kind = {"bert": "BERT"}.get(architecture_of(entry), "GPT-2")
        cause = (
            f"{off:+.1%} against a {kind} of this shape by any count: another architecture or another shape"
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


def _nearest_count(number: StatedNumber, spec: ModelSpec) -> tuple[int, str]:
    """The nearest count among the model classes of a spec, and that class's name where there are several."""
    counts = architecture(spec.architecture).counts(spec)
    model = min(counts, key=lambda name: abs(counts[name] - number.value))
    return counts[model], model if len(counts) > 1 else ""


def _other_count(number: StatedNumber, spec: ModelSpec) -> str:
    """The other convention that gives the number within 0.2 %, else ""."""
    total, body = params(spec), params_non_embedding(spec)
    table = spec.vocab_size * spec.n_embd
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
    return best if near[best] < max(2e-3, 2 * number.relative) else ""


def _name(entry: TableEntry, spec: ModelSpec) -> list[Finding]:
    """Sizes in a name against the shape; names are rounded up as often as down."""
    own = size_in(entry.name) if "params" in entry.numbers else None
    aliases = [parse_stated(word) for word in entry.words.get("aliases", "").split(", ")]
    count = params(spec)
    findings = []
    for size in (own, *aliases):
        if size is None:
            continue
        fits, off = abs(count - size.value) < size.unit, size.value / count - 1
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


def _attention(entry: TableEntry, spec: ModelSpec, rows: Sequence[TableEntry]) -> list[Finding]:
    """Check that d_attn is d_model, as in GPT-2 (Radford et al. 2019), and that n_heads divides it."""
    findings: list[Finding] = []
    number = entry.numbers.get("d_attn")
    if number is not None:
        fits = number.value == spec.n_embd
        others = [
            row.numbers for row in rows if row is not entry and {"d_attn", "n_embd"} <= row.numbers.keys()
        ]
        usual = sum(row["d_attn"].value == row["n_embd"].value for row in others)
        cause = f"probably an error for {spec.n_embd}; {usual} of the {len(others)} other rows have d_attn = d_model"
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
