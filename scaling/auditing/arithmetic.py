"""Checks of tokens, FLOPs and perplexity from a row's other cells, and of repeated rows."""

import math
import re
from collections import Counter
from collections.abc import Sequence

from families import params, params_active, params_non_embedding
from families.units import format_size

from ..published_runs import PUBLISHED_RUNS
from ..runs.columns import folded
from ..stats import format_loss
from .findings import MOST_OK, Finding, Verdict, cell
from .specs import architecture_of, expert_params, experts_of, flops_per_token, shape_kind, spec_of
from .tables import SourceTable, StatedNumber, TableEntry, parse_stated
from .utilisation import utilisation_findings

_LARGEST_BATCH = 32768  # a batch size above this counts tokens, not sequences
_MARGIN = 0.005  # by which printed unique tokens may exceed printed tokens
SIZE_FIELDS = ("params", "params_non_embedding")
LARGEST_LOSS = 50.0  # nats per token; guessing among a million tokens is 14
# Tokens per parameter: laws were fitted on 1 to 341 (Hoffmann et al. 2022) and 5 to 640 (Gadre et al. 2024).
_PLAUSIBLE_RATIO = (0.1, 1000.0)
_LOWEST_LOSS = 1.3  # nats per token of web text (Chinchilla's E is 1.69 to 1.82)
_TELLING_DIGITS = 7  # of a single loss, for two equal ones to be no accident
_QUANTISED = 0.1  # share of rows that repeat an earlier loss, beyond which the losses were read off a grid
_LOSSES = ("loss", "loss_train", "loss_adjusted", "ppl")
_PUBLISHED = {  # by name: the run, and where its steps and batch are stated
    folded(run.member): (run, published.tokens_source)
    for published in PUBLISHED_RUNS.values()
    for run in published.runs
    if run.steps is not None and run.batch is not None
}


def tokens_of(entry: TableEntry) -> float | None:
    """Tokens trained on: steps × batch where both are known, else as stated, else compute/(6·params), else None."""
    stated = _stated_tokens(entry)
    return stated if stated is not None else _implied_tokens(entry)


def _stated_tokens(entry: TableEntry) -> float | None:
    """Tokens by steps × batch or as stated, without help of the compute."""
    known = _known_tokens(entry)
    if known is not None:
        return known[0]
    number = entry.numbers.get("tokens")
    return None if number is None else number.value


def _implied_tokens(entry: TableEntry) -> float | None:
    """Tokens that the stated compute is 6·N·D of; N the active parameters where they are stated."""
    compute, size = entry.numbers.get("compute"), _size(entry)
    return None if compute is None or size is None else compute.value / (6 * size.value)


def _size(entry: TableEntry) -> StatedNumber | None:
    """The N of 6·N·D: active parameters, else all, else those without embeddings."""
    return next(
        (entry.numbers[field] for field in ("params_active", *SIZE_FIELDS) if field in entry.numbers), None
    )


def _active_params(entry: TableEntry) -> float | None:
    """Active parameters as stated, else those of the stated experts; None for a dense model."""
    number, spec, experts = entry.numbers.get("params_active"), spec_of(entry), experts_of(entry)
    if number is not None:
        return number.value
    if spec is not None and params_active(spec) < params(spec):
        return float(params_active(spec))
    if spec is None or experts is None or spec.architecture != "llama":
        return None
    return float(expert_params(spec, experts)[1])


def derivation_notes(rows: Sequence[TableEntry]) -> tuple[str, ...]:
    """How the tokens of rows that do not state them were derived, with the number of those rows."""
    ways: Counter[str] = Counter()
    for entry in rows:
        if "tokens" in entry.numbers:
            continue
        known = _known_tokens(entry)
        if known is not None and "steps" in entry.numbers:
            batch = "batch_tokens" if "batch_tokens" in entry.numbers else "batch"
            ways[f"{entry.headers.get('steps', 'steps')} x {entry.headers.get(batch, batch)}"] += 1
        elif known is None and _implied_tokens(entry) is not None:
            size = "active parameters" if "params_active" in entry.numbers else "parameters"
            ways[f"{entry.headers['compute']} / (6 x {size})"] += 1
    return tuple(
        f"tokens are not stated in {count} row{'s' * (count != 1)}: derived as {way}"
        for way, count in ways.items()
    )


def _known_tokens(entry: TableEntry) -> tuple[float, str] | None:
    """Steps × batch and how they are known: from a published run of that name, else from the row."""
    published = _PUBLISHED.get(folded(entry.name))
    if published is not None:
        run, source = published
        context = run.spec.n_positions
        text = f"{source}: {run.steps:,} steps x {run.batch} sequences x {context} tokens"
        return float((run.steps or 0) * (run.batch or 0) * context), text
    numbers = entry.numbers
    if {"steps", "batch_tokens"} <= numbers.keys():
        batch = numbers["batch_tokens"].value
        return numbers["steps"].value * batch, f"{numbers['steps'].text} steps x {batch:g} tokens"
    if {"steps", "batch", "n_positions"} <= numbers.keys():
        batch = numbers["batch"].value
        batch *= 1 if batch > _LARGEST_BATCH else numbers["n_positions"].value
        return numbers["steps"].value * batch, f"{numbers['steps'].text} steps x {batch:g} tokens"
    return None


def bookkeeping_findings(rows: Sequence[TableEntry]) -> list[Finding]:
    """Tokens, compute, MFU, perplexity and loss unit of each row; then checks across rows."""
    findings: list[Finding] = []
    for entry in rows:
        findings += _tokens(entry) + _exact_flops(entry) + _compute(entry) + _active(entry)
        findings += utilisation_findings(entry, tokens_of(entry))
        findings += _perplexity(entry) + _loss_unit(entry)
    return [
        *findings,
        *_adjusted_losses(rows),
        *_tokens_per_param(rows),
        *_unique_tokens(rows),
        *_epochs(rows),
    ]


def _tokens(entry: TableEntry) -> list[Finding]:
    number, known = entry.numbers.get("tokens"), _known_tokens(entry)
    if number is None or known is None:
        return []
    count, source = known
    off = number.value / count - 1
    fits = number.agrees(count) or abs(off) < 1e-4
    return [
        Finding(
            check="tokens",
            **cell(entry, "tokens"),
            recomputed=f"{count:,.0f}",
            verdict=Verdict.OK if fits else Verdict.MISMATCH,
            explanation=source if fits else f"{off:+.1%} against {source}",
            severity=abs(off),
        )
    ]


def _exact_flops(entry: TableEntry) -> list[Finding]:
    """The exact FLOPs of a row whose architecture, shape and tokens are stated."""
    spec, tokens, per_token = spec_of(entry), _stated_tokens(entry), flops_per_token(entry)
    if spec is None or tokens is None or per_token is None or not architecture_of(entry):
        return []
    exact = per_token * tokens
    count = _active_params(entry) or params(spec)
    return [
        Finding(
            check="FLOPs",
            where=entry.where,
            recomputed=f"{exact:.4g}",
            verdict=Verdict.OK,
            explanation=f"exact count for {shape_kind(entry, spec)} of this shape; "
            f"6ND is {6 * count * tokens / exact - 1:+.1%}",
        )
    ]


def _compute(entry: TableEntry) -> list[Finding]:
    """Stated FLOPs against 6·N·D and the exact count."""
    spec, tokens, number = spec_of(entry), _stated_tokens(entry), entry.numbers.get("compute")
    if tokens is None or number is None:
        return []
    counts: dict[str, float] = {}
    slack = number.relative + 0.001
    active = _active_params(entry) is not None
    labels = {
        "params_active": "6·N·D, N the active parameters",
        "params": "6·N·D, N all parameters" if active else "6·N·D",
        "params_non_embedding": "6·N·D, N without embeddings",
    }
    if active and "params_active" not in entry.numbers:
        counts[labels["params_active"]] = 6 * (_active_params(entry) or 0) * tokens
    for field, label in labels.items():
        if field in entry.numbers:
            counts[label] = 6 * entry.numbers[field].value * tokens
            slack = max(slack, number.relative + entry.numbers[field].relative + 0.001)
    per_token = flops_per_token(entry)
    exact = None
    if spec is not None and per_token is not None:
        kind = shape_kind(entry, spec)
        exact = per_token * tokens
        counts[f"the exact count for {kind} of this shape"] = exact
        if "n_experts" not in entry.numbers:
            counts[f"6·N·D, N of {kind} without embeddings"] = 6 * params_non_embedding(spec) * tokens
    if not counts:
        return []
    if "tokens" in entry.numbers:
        slack += entry.numbers["tokens"].relative
    off = {label: number.value / count - 1 for label, count in counts.items()}
    best = min(off, key=lambda label: abs(off[label]))
    fits = abs(off[best]) <= slack
    first = next(iter(counts))
    dense = (
        fits and active and best == labels["params"]
    )  # the FLOPs of a mixture go with its active parameters
    if dense:
        cause = f"equals {best}: a token passes through the active ones alone, {counts[first]:.4g}"
    else:
        implied = f"; as 6·N·D it is of {format_size(number.value / (6 * tokens))} parameters"
        cause = (
            f"equals {best}"
            if fits
            else f"{1 + off[first]:.3g}x {first}{_compute_cause(off[first], number.value, exact)}{implied}"
        )
    return [
        Finding(
            check="compute",
            **cell(entry, "compute"),
            recomputed=f"{counts[best if fits and not dense else first]:.4g}",
            verdict=Verdict.OK if fits and not dense else Verdict.SUSPICIOUS,
            explanation=cause,
            severity=abs(off[first if dense else best]),
        )
    ]


def _active(entry: TableEntry) -> list[Finding]:
    """Active parameters against all of them."""
    active, whole = entry.numbers.get("params_active"), entry.numbers.get("params")
    if active is None or whole is None:
        return []
    fits = active.value <= whole.value * (1 + active.relative + whole.relative)
    return [
        Finding(
            check="active parameters",
            **cell(entry, "params_active"),
            recomputed=f"{active.value / whole.value:.1%} of {whole.text}",
            verdict=Verdict.OK if fits else Verdict.MISMATCH,
            explanation="" if fits else "more active parameters than parameters: swapped columns",
            severity=active.value / whole.value,
        )
    ]


def _compute_cause(off: float, stated: float, exact: float | None) -> str:
    if not 1e-2 < 1 + off < 1e2:
        return ": another unit, or another run's FLOPs"
    if exact is not None:
        return f", {stated / exact:.3g}x the exact count with head and attention, {exact:.4g}"
    if 0 < off < 2:
        return ": an exact count with head and attention is higher, most at small sizes; or other tokens"
    if off > 0:
        return ": other tokens, or FLOPs beyond training included"
    return ": not all parameters counted or active (a mixture of experts), or other tokens"


def _perplexity(entry: TableEntry) -> list[Finding]:
    """Stated perplexity against exp(loss), within the rounding of both."""
    findings = []
    for loss_field, ppl_field in (("loss", "ppl"), ("loss_predicted", "ppl_predicted")):
        loss, number = entry.numbers.get(loss_field), entry.numbers.get(ppl_field)
        if loss is None or number is None or loss.value > LARGEST_LOSS:
            continue
        low, high = (math.exp(loss.value + sign * loss.unit / 2) for sign in (-1, 1))
        half = number.unit / 2
        fits = low - half <= number.value <= high + half
        implied = math.log(number.value)
        findings.append(
            Finding(
                check="perplexity",
                **cell(entry, ppl_field),
                recomputed=f"{math.exp(loss.value):.2f}",
                verdict=Verdict.OK if fits else Verdict.MISMATCH,
                explanation=f"exp({loss.text})"
                if fits
                else f"exp({loss.text}); {number.text} is a loss of {format_loss(implied)}",
                severity=abs(implied - loss.value),
            )
        )
    return findings


def _loss_unit(entry: TableEntry) -> list[Finding]:
    """Losses that cannot be nats per token of text."""
    loss = entry.numbers.get("loss")
    if loss is None:
        return []
    vocabulary = entry.numbers["vocab_size"].value if "vocab_size" in entry.numbers else 0
    if loss.value < _LOWEST_LOSS:
        cause = "below the entropy of web text per token (1.69 to 1.82): bits per byte, or another unit"
    elif vocabulary and loss.value > math.log(vocabulary) * 1.05:
        cause = f"worse than guessing: ln {vocabulary:g} is {format_loss(math.log(vocabulary))}"
    else:
        return []
    return [
        Finding(
            check="loss unit",
            **cell(entry, "loss"),
            verdict=Verdict.SUSPICIOUS,
            explanation=cause,
            severity=1 / loss.value,
        )
    ]


def _adjusted_losses(rows: Sequence[TableEntry]) -> list[Finding]:
    """Loss per word against loss per token: their ratio, tokens per word, is one number for one text."""
    groups: dict[str, list[tuple[TableEntry, float]]] = {}
    for entry in rows:
        if {"loss", "loss_adjusted"} <= entry.numbers.keys():
            ratio = entry.numbers["loss_adjusted"].value / entry.numbers["loss"].value
            groups.setdefault(entry.words.get("data", ""), []).append((entry, ratio))
    findings = []
    for text, pairs in groups.items():
        median = sorted(ratio for _, ratio in pairs)[len(pairs) // 2]
        for entry, ratio in pairs:
            loss, adjusted = entry.numbers["loss"], entry.numbers["loss_adjusted"]
            fits = abs(ratio / median - 1) <= 2 * (loss.relative + adjusted.relative) + 1e-3
            findings.append(
                Finding(
                    check="adjusted loss",
                    **cell(entry, "loss_adjusted"),
                    recomputed=f"{loss.value * median:.2f}",
                    verdict=Verdict.OK if fits else Verdict.SUSPICIOUS,
                    explanation=f"{median:.4g} tokens per word{f' of {text}' if text else ''} times the loss"
                    + (
                        ""
                        if fits
                        else f"; this row's ratio is {ratio:.4g}, and a loss of "
                        f"{format_loss(adjusted.value / median)} would fit"
                    ),
                    severity=abs(ratio / median - 1),
                )
            )
    return findings


def _tokens_per_param(rows: Sequence[TableEntry]) -> list[Finding]:
    """Range of tokens per parameter over all rows."""
    pairs = [
        (tokens / size.value, entry)
        for entry in rows
        if (size := entry.numbers.get("params")) is not None and (tokens := tokens_of(entry)) is not None
    ]
    if not pairs:
        return []
    (low, lowest), (high, highest) = (pick(pairs, key=lambda pair: pair[0]) for pick in (min, max))
    implausible = low < _PLAUSIBLE_RATIO[0] or high > _PLAUSIBLE_RATIO[1]
    return [
        Finding(
            check="tokens per parameter",
            where=f"{lowest.where} to {highest.where}" if len(pairs) > 1 else lowest.where,
            recomputed=f"{low:.3g} to {high:.3g}",
            verdict=Verdict.SUSPICIOUS if implausible else Verdict.OK,
            explanation="outside the range that published laws were fitted on, about 1 to 640"
            if implausible
            else "Chinchilla's optimum is 10 to 28",
        )
    ]


def _unique_tokens(rows: Sequence[TableEntry]) -> list[Finding]:
    """Unique tokens against all tokens, of which they are a part: most rows with more of them are swapped columns."""
    pairs = [
        (entry.numbers["unique_tokens"].value / entry.numbers["tokens"].value, entry)
        for entry in rows
        if {"tokens", "unique_tokens"} <= entry.numbers.keys()
    ]
    if not pairs:
        return []
    more = [pair for pair in pairs if pair[0] > 1 + _MARGIN]
    most, entry = max(pairs, key=lambda pair: pair[0])
    one = len({entry.numbers["unique_tokens"].value for _, entry in more}) == 1 < len(pairs)
    names = f"{entry.headers['unique_tokens']} and {entry.headers['tokens']}"
    if not more:
        cause = "no row has more unique tokens than tokens"
    elif one:
        cause = "more unique tokens than tokens, one number in all of them: the size of the corpus, not what a run saw of it"
    elif columns_swapped(rows):
        cause = f"more unique tokens than tokens, which cannot be: {names} are swapped columns"
    else:
        cause = "more unique tokens than tokens, which cannot be"
    return [
        Finding(
            check="unique tokens",
            where=f"{len(more)} of {len(pairs)} rows" if more else f"{len(pairs)} rows",
            column=entry.headers["unique_tokens"],
            stated=f"{most:.3g} x tokens at most, {entry.where}" if more else None,
            verdict=Verdict.MISMATCH if more and not one else Verdict.SUSPICIOUS if more else Verdict.OK,
            explanation=cause,
            severity=len(more) / len(pairs),
        )
    ]


def columns_swapped(rows: Sequence[TableEntry]) -> bool:
    """True if most rows have more unique tokens than tokens, and not one number of them: the columns are swapped."""
    stated = [row.numbers for row in rows if {"tokens", "unique_tokens"} <= row.numbers.keys()]
    more = [row for row in stated if row["unique_tokens"].value > row["tokens"].value * (1 + _MARGIN)]
    values = {row["unique_tokens"].value for row in more}
    return 2 * len(more) > len(stated) and (len(values) > 1 or len(stated) == 1)


def _epochs(rows: Sequence[TableEntry]) -> list[Finding]:
    """Largest number of epochs; beyond about 4, repeated tokens are worth less (Muennighoff et al. 2023)."""
    total, unique = ("unique_tokens", "tokens") if columns_swapped(rows) else ("tokens", "unique_tokens")
    pairs = [
        (entry.numbers[total].value / entry.numbers[unique].value, entry)
        for entry in rows
        if {"tokens", "unique_tokens"} <= entry.numbers.keys()
    ]
    if not pairs:
        return []
    most, entry = max(pairs, key=lambda pair: pair[0])
    return [
        Finding(
            check="epochs",
            where=entry.where,
            column=entry.headers["unique_tokens"],
            recomputed=f"{most:.3g}",
            verdict=Verdict.SUSPICIOUS if most > 4.5 else Verdict.OK,
            explanation="epochs at most; beyond about 4 a law of unique tokens does not hold (Muennighoff et al. 2023)"
            + ("; the two columns read the other way round" if total == "unique_tokens" else ""),
        )
    ]


def table_findings(tables: Sequence[SourceTable]) -> list[Finding]:
    """Rows with too few or too many cells, duplicated rows, and equal measurements in different rows."""
    findings: list[Finding] = []
    for table in tables:
        for row, line in zip(table.rows, table.lines, strict=True):
            if len(row) != len(table.header):
                findings.append(
                    Finding(
                        check="cells",
                        where=f"line {line}",
                        stated=str(len(row)),
                        recomputed=str(len(table.header)),
                        verdict=Verdict.MISMATCH,
                        explanation=f"the row's last cell, {row[-1]!r}, is under {table.header[len(row) - 1]!r}: a cell is "
                        "missing, and the cells after it are in the wrong columns"
                        if len(row) < len(table.header)
                        else "more cells than the header",
                        severity=abs(len(row) - len(table.header)),
                    )
                )
        findings += _duplicates(table)
    return findings


def _duplicates(table: SourceTable) -> list[Finding]:
    """Equal rows; and rows that differ in what was run but agree in their measured numbers."""
    measured = [index for index, field in enumerate(table.fields()) if field in _LOSSES]
    findings: list[Finding] = []
    equal: list[Finding] = []
    first_line: dict[tuple[str, ...], int] = {}
    first_measured: dict[tuple[str, ...], int] = {}
    for row, line in zip(table.rows, table.lines, strict=True):
        first = first_line.setdefault(row, line)
        if first != line:
            findings.append(
                Finding(
                    check="duplicated row",
                    where=f"line {line}",
                    verdict=Verdict.MISMATCH,
                    explanation=f"the same row as line {first}",
                    severity=1.0,
                )
            )
            continue
        key = tuple(
            row[index] for index in measured if index < len(row) and parse_stated(row[index]) is not None
        )
        if not key or (len(key) < 2 and len(re.sub(r"[^0-9]", "", key[0])) < _TELLING_DIGITS):
            continue
        first = first_measured.setdefault(key, line)
        if first != line:
            equal.append(
                Finding(
                    check="duplicated measurement",
                    where=f"line {line}",
                    stated=", ".join(key),
                    verdict=Verdict.SUSPICIOUS,
                    explanation=f"line {first} has the same measurements: copied, or one run under two names",
                    severity=1.0,
                )
            )
    if len(equal) > max(MOST_OK, _QUANTISED * len(table.rows)):
        cause = "read off a figure or a colour scale, or rounded"
        equal = [
            Finding(
                check="quantised losses",
                where=f"{len(equal)} rows",
                verdict=Verdict.SUSPICIOUS,
                explanation=f"{len(first_measured)} distinct losses in {len(table.rows)} rows: {cause}",
                severity=1.0,
            )
        ]
    return findings + equal
