"""Checks of parameter counts, names and attention widths against shapes, and shapes that explain a wrong count."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from families import (
    ModelSpec,
    params,
    params_active,
    params_kaplan,
    params_non_embedding,
)

from .findings import Finding, Verdict, cell
from .specs import (
    NOMINAL,
    OTHER_TOLERANCE,
    Experts,
    class_counts,
    expert_params,
    experts_of,
    is_gated,
    is_gpt2,
    is_mixture,
    known_member,
    other_convention,
    shape_kind,
    spec_of,
)
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
_SHOWN = 3  # shapes that an explanation names
_PADDED = (64, 128, 256, 512, 1024)  # a vocabulary is padded to a multiple of one of these
_MOST_PADDING = 0.05  # of the vocabulary, which Megatron's tensor parallelism can come to
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
            and not is_mixture(spec)
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
    if is_gated(spec) and (full := _full_heads(number, spec)):
        return Verdict.MISMATCH, f"{off:+.1%}: {full}", ()
    named = size_in(entry.name)
    if named is not None and named.value == number.value and abs(off) <= NOMINAL:
        return (
            Verdict.SUSPICIOUS,
            f"{off:+.1%}: the nominal size of the name{_assumed(entry, spec, ', ')}",
            (),
        )
    other = _padded(number, spec) or other_convention(number, spec)
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
    counts = class_counts(spec, experts)
    model = min(counts, key=lambda name: abs(counts[name] - number.value))
    return counts[model], model if len(counts) > 1 or experts is not None else ""


def _assumed(entry: TableEntry, spec: ModelSpec, joint: str = "") -> str:
    """The sizes of a Llama that the row does not state and that its count depends on."""
    if not is_gated(spec) or not {"n_layer", "n_embd"} <= entry.numbers.keys():
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
    if not (number.agrees(whole) or abs(number.value / whole - 1) < OTHER_TOLERANCE):
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


def _name(entry: TableEntry, spec: ModelSpec) -> list[Finding]:
    """Sizes in a name against the shape; names are rounded up as often as down."""
    own = size_in(entry.name) if "params" in entry.numbers else None
    aliases = [parse_stated(word) for word in entry.words.get("aliases", "").split(", ")]
    experts = experts_of(entry)
    findings = []
    for size in (own, *aliases):
        if size is None or ("n_experts" in entry.numbers and experts is None):
            continue
        count = params(spec) if not is_gated(spec) else _nearest_count(size, spec, experts)[0]
        off = size.value / count - 1
        fits = abs(count - size.value) < size.unit or abs(off) <= NOMINAL
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
