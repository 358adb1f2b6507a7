"""Parameters, names and attention widths recomputed from shapes."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from families import MEMBERS, Member, ModelSpec, params, params_kaplan, params_non_embedding
from families.architectures import architecture
from families.units import BadInput

from .findings import Finding, Verdict, at
from .tables import Entry, Stated, folded, size_in, stated

# MERGED DOCSTRINGS
# The shapes that a rounded parameter count could have come from.

_GENERATOR = "an earlier generator of the same GPT-2 family (heads of 48, feed-forward not 4·d)"

EARLIER: tuple[tuple[int, int, int, int], ...] = (
    # n_layer, n_embd, n_inner, n_head: shapes under which the 52M, 83M and 125M members were first sized
    (6, 576, 2376, 12),
    (8, 720, 2800, 15),
    (9, 816, 3320, 17),
)

_HEADS = (32, 48, 64, 80, 96, 128)  # widths of an attention head that people use

_INNER = (3.5, 4.5)  # n_inner per n_embd of GPT-2-like shapes

_ASPECT = (24.0, 144.0)  # n_embd per layer

_TILE = 8  # n_inner comes in multiples of this

_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateShape:
    """A shape whose count prints as a stated one."""

    spec: ModelSpec
    source: str = ""

    @property
    def count(self) -> int:
        """All its parameters."""
        return params(self.spec)

    def __str__(self) -> str:
        spec = self.spec
        return f"L{spec.n_layer} d{spec.n_embd} ff{spec.n_inner} h{spec.n_head} ({self.count:,})"


def explanations(count: Stated, like: ModelSpec) -> tuple[tuple[CandidateShape, ...], int]:
    """Shapes whose parameters print as `count`: known ones first, then those most like GPT-2; and how many fit.

    Args:
        like: vocabulary and context, and the depth-to-width ratio that a plausible shape is near.
    """
    known = [
        CandidateShape(spec=spec, source=_GENERATOR)
        for layers, width, inner, heads in EARLIER
        if count.agrees(params(spec := _candidate_spec(like, layers, width, inner, heads)))
    ]
    aspect = like.n_embd / like.n_layer
    found: list[tuple[float, CandidateShape]] = []
    for layers in range(2, 65):
        low, high = (max(_TILE, round(ratio * layers)) for ratio in _ASPECT)
        for width in range(low - low % 16, high + 1, 16):
            head = next((size for size in (64, *_HEADS) if width % size == 0), None)
            if head is None:
                continue
            for inner in _inners(count, like, layers, width):
                spec = _candidate_spec(like, layers, width, inner, width // head)
                oddity = abs(inner / width - 4) + 0.2 * abs(math.log(width / layers / aspect))
                found.append((oddity + (0.05 if head != 64 else 0), CandidateShape(spec=spec)))
    found.sort(key=lambda pair: pair[0])
    distinct = {(shape.spec.n_layer, shape.spec.n_embd): shape for shape in known}
    for _, shape in found:
        distinct.setdefault((shape.spec.n_layer, shape.spec.n_embd), shape)
    return tuple(distinct.values())[: len(known) + _SHOWN], len(found)


def _candidate_spec(like: ModelSpec, layers: int, width: int, inner: int, heads: int) -> ModelSpec:
    return ModelSpec(
        n_layer=layers,
        n_embd=width,
        n_inner=inner,
        n_head=heads,
        n_positions=like.n_positions,
        vocab_size=like.vocab_size,
    )


def _inners(count: Stated, like: ModelSpec, layers: int, width: int) -> range:
    """The feed-forward widths with which that depth and width print as `count`: parameters are linear in n_inner."""
    base = params(_candidate_spec(like, layers, width, 1, 1))
    slope = layers * (2 * width + 1)
    low = max(1 + (count.value - count.unit / 2 - base) / slope, _INNER[0] * width)
    high = min(1 + (count.value + count.unit - base) / slope, _INNER[1] * width)
    return range(_TILE * math.ceil(low / _TILE), math.floor(high) + 1, _TILE)


VOCABULARY, CONTEXT = 50257, 1024  # GPT-2's, where a table does not say

NAMES = ("gpt2", "gpt-2", "gpt 2")

_BERT = (512, 30522)

_KNOWN = {folded(name): known for name, known in MEMBERS.items()}

# OpenAI's own first counts, which the repository of GPT-2 calls an error: stated -> true.
_MISCOUNTED = {117e6: 124_439_808, 345e6: 354_823_168}

_SEARCHED = (
    12  # rows for which other shapes are looked for, 50 ms each: members of a family, not thousands of runs
)

_MISCOUNT = "OpenAI's own first count, which its repository calls an error"


def architecture_of(entry: Entry) -> str:
    """gpt2, bert or llama where a row's name or its group says so, else nothing."""
    said = f"{entry.name} {entry.words.get('group', '')}".lower()
    if any(name in said for name in NAMES):
        return "gpt2"
    words = re.split(r"[^a-z]+", said)
    return next((name for name in ("bert", "llama") if name in words), "")


def known_member(entry: Entry) -> Member | None:
    """The published member that a row names, by itself ("gpt2-medium") or under its heading ("tiny" under BERT)."""
    group = entry.words.get("group", "")
    return _KNOWN.get(folded(entry.name)) or _KNOWN.get(folded(group + entry.name))


def spec_of(entry: Entry) -> ModelSpec | None:
    """The shape a row states, else that of the published member it names, else None.

    A row that names no architecture is taken for a GPT-2. One without heads gets heads of 64 where they fit, else one:
    they decide no count. A Llama's count needs what tables leave out.
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


def is_gpt2(entry: Entry) -> bool:
    """Whether the row says that it is a GPT-2."""
    return architecture_of(entry) == "gpt2"


def shape_findings(rows: Sequence[Entry]) -> list[Finding]:
    """Parameters, names and attention widths against shapes, row by row, then the parameter column as a whole."""
    found: list[Finding] = []
    foreign: list[tuple[Entry, tuple[CandidateShape, ...]]] = []
    checked = wrong = 0
    for entry in rows:
        spec = spec_of(entry)
        if spec is None:
            continue
        checked += "params" in entry.numbers
        finding, shapes = _params(entry, spec, search=wrong < _SEARCHED)
        if finding is not None:
            found.append(finding)
            wrong += finding.verdict is Verdict.MISMATCH
        if shapes and "params" in entry.numbers:
            foreign.append((entry, shapes))
        found += _name(entry, spec) + _attention(entry, spec, rows) + _published(entry)
    if len(foreign) > 1 and len(foreign) == checked:
        known = [shapes[0] for _, shapes in foreign if shapes[0].source]
        told = (
            f"all {checked} counts are those of {known[0].source}: " + ", ".join(map(str, known))
            if len(known) == checked
            else f"none of the {checked} counts fits its own row's shape"
        )
        found.insert(
            0,
            Finding(
                check="parameters column",
                where=f"all {checked} rows",
                column=foreign[0][0].headers["params"],
                stated=", ".join(entry.numbers["params"].text for entry, _ in foreign),
                recomputed=", ".join(
                    f"{params(spec):,}" for entry, _ in foreign if (spec := spec_of(entry)) is not None
                ),
                verdict=Verdict.MISMATCH,
                explanation=f"the column belongs to other shapes than the architecture's: {told}",
                severity=1.0,
            ),
        )
    return found


def _params(
    entry: Entry, spec: ModelSpec, *, search: bool
) -> tuple[Finding | None, tuple[CandidateShape, ...]]:
    """One row's count against its shape, and the other shapes that would explain a GPT-2's wrong one."""
    for field in ("params", "params_non_embedding"):
        number = entry.numbers.get(field)
        if number is None:
            continue
        count, model = _nearest_count(number, spec) if field == "params" else (params_non_embedding(spec), "")
        verdict, why, shapes = _judged(entry, spec, number, count, model, search=search)
        return Finding(
            check="parameters",
            **at(entry, field),
            recomputed=f"{count:,}",
            verdict=verdict,
            explanation=why,
            severity=abs(number.value / count - 1),
        ), shapes
    return None, ()


def _judged(
    entry: Entry, spec: ModelSpec, number: Stated, count: int, model: str, *, search: bool
) -> tuple[Verdict, str, tuple[CandidateShape, ...]]:
    """Whether a stated number is the count, why it may not be, and other shapes that it would fit."""
    off = number.value / count - 1
    if number.agrees(count) or abs(off) < 1e-6:
        cut = "" if number.rounds(count) or abs(off) < 1e-6 else "cut off rather than rounded"
        return Verdict.OK, ", ".join(filter(None, (model, cut))), ()
    if _MISCOUNTED.get(number.value) == count:
        return Verdict.MISMATCH, f"{off:+.1%}: {_MISCOUNT}", ()
    other = _other_count(number, spec)
    if other:
        return Verdict.SUSPICIOUS, f"it counts {other}", ()
    if not is_gpt2(entry):
        kind = {"bert": "BERT"}.get(architecture_of(entry), "GPT-2")
        why = f"{off:+.1%} of a {kind} of this shape, by any count: another architecture, or other shapes"
        return Verdict.SUSPICIOUS, why, ()
    if not search:
        return Verdict.MISMATCH, f"{off:+.1%}", ()
    shapes, fitting = explanations(number, spec)
    listed = ", ".join(map(str, shapes))
    why = (
        f"{fitting} GPT-2-like shapes print as {number.text}, among them {listed}"
        if shapes
        else "no GPT-2-like shape prints so"
    )
    return Verdict.MISMATCH, f"{off:+.1%}; {why}", shapes


def _nearest_count(number: Stated, spec: ModelSpec) -> tuple[int, str]:
    """The count of the model class that comes nearest, and its name where a spec makes several."""
    counts = architecture(spec.architecture).counts(spec)
    model = min(counts, key=lambda name: abs(counts[name] - number.value))
    return counts[model], model if len(counts) > 1 else ""


def _other_count(number: Stated, spec: ModelSpec) -> str:
    """Which other convention gives the number, if one does within 0.2 %."""
    total, body = params(spec), params_non_embedding(spec)
    table = spec.vocab_size * spec.n_embd
    counts = {
        "non-embedding parameters": body,
        "12·n_layer·n_embd² (Kaplan)": params_kaplan(spec),
        "all but position embeddings": total - spec.n_positions * spec.n_embd,
        "an untied head besides": total + table,
        "an untied head, no positions": body + 2 * table,
        "matmul weights, head included": params_kaplan(spec) + table,
        "matmul weights and both embeddings": params_kaplan(spec) + 2 * table,
    }
    near = {name: abs(number.value / count - 1) for name, count in counts.items()}
    best = min(near, key=lambda name: near[name])
    return best if near[best] < max(2e-3, 2 * number.relative) else ""


def _name(entry: Entry, spec: ModelSpec) -> list[Finding]:
    """The sizes in a name against the shape; names are rounded up as often as down."""
    own = size_in(entry.name) if "params" in entry.numbers else None
    also = [stated(word) for word in entry.words.get("aliases", "").split(", ")]
    count = params(spec)
    found = []
    for size in (own, *also):
        if size is None:
            continue
        fits, off = abs(count - size.value) < size.unit, size.value / count - 1
        miscount = f": {_MISCOUNT}" if _MISCOUNTED.get(size.value) == count else ""
        found.append(
            Finding(
                check="name",
                where=entry.where,
                column=entry.headers.get("name", ""),
                stated=size.text,
                recomputed=f"{count:,}",
                verdict=Verdict.OK if fits else Verdict.SUSPICIOUS,
                explanation="" if fits else f"the name is {off:+.1%} off its shape{miscount}",
                severity=abs(off),
            )
        )
    return found


def _published(entry: Entry) -> list[Finding]:
    """Stated layers, width and heads against those of the published member that the row names."""
    known = known_member(entry)
    if known is None:
        return []
    found = []
    for field in ("n_layer", "n_embd", "n_head"):
        number, true = entry.numbers.get(field), getattr(known.spec, field)
        if number is not None and number.value != true:
            found.append(
                Finding(
                    check="published shape",
                    **at(entry, field),
                    recomputed=str(true),
                    verdict=Verdict.MISMATCH,
                    explanation=f"{field} of {known.name}, {known.source}",
                    severity=abs(number.value / true - 1),
                )
            )
    return found


def _attention(entry: Entry, spec: ModelSpec, rows: Sequence[Entry]) -> list[Finding]:
    """d_attn is d_model in GPT-2 (Radford et al. 2019), and n_heads divides it."""
    found: list[Finding] = []
    number = entry.numbers.get("d_attn")
    if number is not None:
        fits = number.value == spec.n_embd
        others = [
            row.numbers for row in rows if row is not entry and {"d_attn", "n_embd"} <= row.numbers.keys()
        ]
        usual = sum(row["d_attn"].value == row["n_embd"].value for row in others)
        slip = f"a slip for {spec.n_embd}; {usual} of the {len(others)} other rows have d_attn = d_model"
        if "n_head" in entry.numbers and number.value == entry.numbers["n_head"].value:
            slip += f", and {number.text} is this row's number of heads"
        found.append(
            Finding(
                check="attention width",
                **at(entry, "d_attn"),
                recomputed=str(spec.n_embd),
                verdict=Verdict.OK if fits else Verdict.MISMATCH,
                explanation="" if fits else slip,
                severity=abs(math.log(number.value / spec.n_embd)),
            )
        )
    heads = entry.numbers.get("n_head")
    if heads is not None and spec.n_embd % max(1, round(heads.value)):
        found.append(
            Finding(
                check="heads",
                **at(entry, "n_head"),
                verdict=Verdict.SUSPICIOUS,
                explanation=f"{heads.text} heads do not divide a width of {spec.n_embd}",
            )
        )
    return found
