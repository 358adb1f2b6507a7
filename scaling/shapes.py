"""Parameters recomputed from shapes, and the shapes that a parameter count could have come from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from families import ModelSpec, params, params_kaplan, params_non_embedding
from families.errors import BadInput

from .findings import Finding, Verdict
from .tables import Entry, Stated, size_in

VOCABULARY, CONTEXT = 50257, 1024  # GPT-2's, where a table does not say
NAMES = ("gpt2", "gpt-2", "gpt 2")

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
class Shape:
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


def spec_of(entry: Entry) -> ModelSpec | None:
    """The GPT-2 shape a row states, or None where layers or width are missing.

    A row without heads gets heads of 64 where they fit, else one: they decide no count.
    """
    value = {field: round(number.value) for field, number in entry.numbers.items()}
    if not {"n_layer", "n_embd"} <= value.keys():
        return None
    width = value["n_embd"]
    heads = value.get("n_head") or max(1, width // 64 if width % 64 == 0 else 1)
    try:
        return ModelSpec(
            n_layer=value["n_layer"],
            n_embd=width,
            n_head=heads if width % heads == 0 else 1,
            n_inner=value.get("n_inner", 0),
            n_positions=value.get("n_positions", CONTEXT),
            vocab_size=value.get("vocab_size", VOCABULARY),
        )
    except BadInput:
        return None


def is_gpt2(entry: Entry) -> bool:
    """Whether the row says that it is a GPT-2."""
    return any(name in entry.name.lower() for name in NAMES)


def explanations(count: Stated, like: ModelSpec) -> tuple[tuple[Shape, ...], int]:
    """Shapes whose parameters print as `count`: known ones first, then those most like GPT-2; and how many fit.

    Args:
        like: vocabulary and context, and the depth-to-width ratio that a plausible shape is near.
    """
    known = [
        Shape(spec=spec, source=_GENERATOR)
        for layers, width, inner, heads in EARLIER
        if count.agrees(params(spec := _spec(like, layers, width, inner, heads)))
    ]
    aspect = like.n_embd / like.n_layer
    found: list[tuple[float, Shape]] = []
    for layers in range(2, 65):
        low, high = (max(_TILE, round(ratio * layers)) for ratio in _ASPECT)
        for width in range(low - low % 16, high + 1, 16):
            head = next((size for size in (64, *_HEADS) if width % size == 0), None)
            if head is None:
                continue
            for inner in _inners(count, like, layers, width):
                spec = _spec(like, layers, width, inner, width // head)
                oddity = abs(inner / width - 4) + 0.2 * abs(math.log(width / layers / aspect))
                found.append((oddity + (0.05 if head != 64 else 0), Shape(spec=spec)))
    found.sort(key=lambda pair: pair[0])
    distinct = {(shape.spec.n_layer, shape.spec.n_embd): shape for shape in known}
    for _, shape in found:
        distinct.setdefault((shape.spec.n_layer, shape.spec.n_embd), shape)
    return tuple(distinct.values())[: len(known) + _SHOWN], len(found)


def _spec(like: ModelSpec, layers: int, width: int, inner: int, heads: int) -> ModelSpec:
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
    base = params(_spec(like, layers, width, 1, 1))
    slope = layers * (2 * width + 1)
    low = max(1 + (count.value - count.unit / 2 - base) / slope, _INNER[0] * width)
    high = min(1 + (count.value + count.unit - base) / slope, _INNER[1] * width)
    return range(_TILE * math.ceil(low / _TILE), math.floor(high) + 1, _TILE)


def shape_findings(rows: Sequence[Entry]) -> list[Finding]:
    """Parameters, names and attention widths against shapes, row by row, then the parameter column as a whole."""
    found: list[Finding] = []
    foreign: list[tuple[Entry, tuple[Shape, ...]]] = []
    checked = 0
    for entry in rows:
        spec = spec_of(entry)
        if spec is None:
            continue
        checked += "params" in entry.numbers
        finding, shapes = _params(entry, spec)
        if finding is not None:
            found.append(finding)
        if shapes:
            foreign.append((entry, shapes))
        found += _name(entry, spec) + _attention(entry, spec, rows)
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


def _params(entry: Entry, spec: ModelSpec) -> tuple[Finding | None, tuple[Shape, ...]]:
    """One row's count against its shape, and the other shapes that would explain a GPT-2's wrong one."""
    for field, count in (("params", params(spec)), ("params_non_embedding", params_non_embedding(spec))):
        number = entry.numbers.get(field)
        if number is None:
            continue
        off = number.value / count - 1
        common = {
            "check": "parameters",
            "where": entry.where,
            "column": entry.headers[field],
            "stated": number.text,
            "recomputed": f"{count:,}",
            "severity": abs(off),
        }
        if number.agrees(count) or abs(off) < 1e-6:
            cut = "" if number.rounds(count) else "cut off rather than rounded"
            return Finding(**common, verdict=Verdict.OK, explanation=cut), ()
        other = _other_count(number, spec)
        if other:
            return Finding(**common, verdict=Verdict.SUSPICIOUS, explanation=f"it counts {other}"), ()
        if not is_gpt2(entry):
            why = f"{off:+.1%} of a GPT-2 of this shape, by any count: another architecture, or other shapes"
            return Finding(**common, verdict=Verdict.SUSPICIOUS, explanation=why), ()
        shapes, fitting = explanations(number, spec)
        listed = ", ".join(map(str, shapes))
        why = f"{off:+.1%}; "
        why += (
            f"{fitting} GPT-2-like shapes print as {number.text}, among them {listed}"
            if shapes
            else "no GPT-2-like shape prints so"
        )
        return Finding(**common, verdict=Verdict.MISMATCH, explanation=why), shapes
    return None, ()


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
        "12·n_layer·n_embd² and half an embedding": params_kaplan(spec) + table // 2,
    }
    near = {name: abs(number.value / count - 1) for name, count in counts.items()}
    best = min(near, key=lambda name: near[name])
    return best if near[best] < max(2e-3, 2 * number.relative) else ""


def _name(entry: Entry, spec: ModelSpec) -> list[Finding]:
    """The size in a name against the shape; names are rounded up as often as down."""
    size = size_in(entry.name)
    if size is None or "params" not in entry.numbers:
        return []
    count = params(spec)
    fits = abs(count - size.value) < size.unit
    return [
        Finding(
            check="name",
            where=entry.where,
            column=entry.headers.get("name", ""),
            stated=size.text,
            recomputed=f"{count:,}",
            verdict=Verdict.OK if fits else Verdict.SUSPICIOUS,
            explanation="" if fits else f"the name is {size.value / count - 1:+.1%} off its shape",
            severity=abs(size.value / count - 1),
        )
    ]


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
                where=entry.where,
                column=entry.headers["d_attn"],
                stated=number.text,
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
                where=entry.where,
                column=entry.headers["n_head"],
                stated=heads.text,
                verdict=Verdict.SUSPICIOUS,
                explanation=f"{heads.text} heads do not divide a width of {spec.n_embd}",
            )
        )
    return found
