"""Checks of tokens, FLOPs, MFU and perplexity from a row's other cells, and of repeated rows."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from families import params, params_non_embedding, train_flops

from ..budget import ASSUMED_MFU
from ..hardware import Accelerator
from ..published_runs import PUBLISHED_RUNS
from ..stats import format_loss
from .devices import named_devices, of_each_device
from .findings import MOST_OK, Finding, Verdict, cell
from .shapes import is_gpt2, spec_of
from .tables import SourceTable, TableEntry, folded, parse_stated

_LARGEST_BATCH = 32768  # a batch size above this counts tokens, not sequences
LOW_MFU = 0.2  # training on one node reaches 0.3 to 0.55; below this the hours include something else
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
    """Tokens trained on: steps × batch where both are known, else as stated, else None."""
    known = _known_tokens(entry)
    if known is not None:
        return known[0]
    number = entry.numbers.get("tokens")
    return None if number is None else number.value


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
        findings += _tokens(entry) + _compute(entry) + _mfu(entry) + _perplexity(entry) + _loss_unit(entry)
    return [*findings, *_adjusted_losses(rows), *_tokens_per_param(rows), *_epochs(rows)]


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


def _compute(entry: TableEntry) -> list[Finding]:
    """Stated FLOPs against 6·N·D and the exact count; where none are stated, the exact count."""
    spec, tokens, number = spec_of(entry), tokens_of(entry), entry.numbers.get("compute")
    if tokens is None:
        return []
    if number is None:
        if spec is None or not is_gpt2(entry):
            return []
        exact = train_flops(spec, tokens)
        return [
            Finding(
                check="FLOPs",
                where=entry.where,
                recomputed=f"{exact:.4g}",
                verdict=Verdict.OK,
                explanation=f"exact count for a GPT-2 of this shape; 6ND is {6 * params(spec) * tokens / exact - 1:+.1%}",
            )
        ]
    counts: dict[str, float] = {}
    slack = number.relative + 0.001
    for field, label in (("params", "6·N·D"), ("params_non_embedding", "6·N·D, N without embeddings")):
        if field in entry.numbers:
            counts[label] = 6 * entry.numbers[field].value * tokens
            slack = max(slack, number.relative + entry.numbers[field].relative + 0.001)
    if spec is not None:
        counts["the exact count for a GPT-2 of this shape"] = train_flops(spec, tokens)
        counts["6·N·D, N of a GPT-2 without embeddings"] = 6 * params_non_embedding(spec) * tokens
    if not counts:
        return []
    if "tokens" in entry.numbers:
        slack += entry.numbers["tokens"].relative
    off = {label: number.value / count - 1 for label, count in counts.items()}
    best = min(off, key=lambda label: abs(off[label]))
    fits = abs(off[best]) <= slack
    first = next(iter(counts))
    return [
        Finding(
            check="compute",
            **cell(entry, "compute"),
            recomputed=f"{counts[best if fits else first]:.4g}",
            verdict=Verdict.OK if fits else Verdict.SUSPICIOUS,
            explanation=f"equals {best}"
            if fits
            else f"{1 + off[first]:.3g}x {first}{_compute_cause(off[first])}",
            severity=abs(off[best]),
        )
    ]


def _compute_cause(off: float) -> str:
    if not 1e-2 < 1 + off < 1e2:
        return ": another unit, or another run's FLOPs"
    if 0 < off < 2:
        return ": an exact count with head and attention is higher, most at small sizes; or other tokens"
    if off > 0:
        return ": other tokens, or FLOPs beyond training included"
    return ": not all parameters counted, or other tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Utilisation:
    """MFU that a row's hours imply: `flops`, exact or as stated, over seconds × devices × dense peak.

    devices: None where the row states no number; then one is assumed.
    """

    mfu: float
    exact: bool
    tokens_per_s: float
    devices: int | None
    device: Accelerator


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What a row says was done, and in what time."""

    flops: float
    exact: bool
    tokens: float
    seconds: float


def _work(entry: TableEntry) -> _Work | None:
    """FLOPs, exact where the shape is known, and seconds; None without tokens, time or FLOPs."""
    tokens, spec, numbers = tokens_of(entry), spec_of(entry), entry.numbers
    hours = numbers.get("hours")
    seconds = hours.value * 3600 if hours else numbers["wall_s"].value if "wall_s" in numbers else 0
    if tokens is None or not seconds:
        return None
    if spec is not None and (is_gpt2(entry) or "compute" not in numbers):
        return _Work(flops=train_flops(spec, tokens), exact=True, tokens=tokens, seconds=seconds)
    if "compute" in numbers:
        return _Work(flops=numbers["compute"].value, exact=False, tokens=tokens, seconds=seconds)
    return None


def utilisation(entry: TableEntry) -> Utilisation | None:
    """MFU of a row, by the exact FLOPs where the shape is known; None without devices, tokens, time or FLOPs."""
    devices, work = named_devices(entry), _work(entry)
    if devices is None or devices.problem or devices.accelerator is None or work is None:
        return None
    count, seconds = devices.count or 1, work.seconds
    if "hours" in entry.numbers and of_each_device(entry.headers["hours"]):
        seconds /= count
    return Utilisation(
        mfu=work.flops / (seconds * count * devices.accelerator.training_peak),
        exact=work.exact,
        tokens_per_s=work.tokens / seconds,
        devices=devices.count,
        device=devices.accelerator,
    )


def _unread_devices(entry: TableEntry) -> list[Finding]:
    """The reason why a row that has all else for an MFU has none: its devices are not understood."""
    devices = named_devices(entry)
    if devices is None or not devices.problem or _work(entry) is None:
        return []
    field = next((field for field in ("accelerator", "devices") if field in entry.words), "hours")
    return [
        Finding(
            check="device",
            where=entry.where,
            column=entry.headers.get(field, ""),
            verdict=Verdict.SUSPICIOUS,
            explanation=f"{devices.problem.partition(' known: ')[0].rstrip('; ')}: no MFU is computed",
        )
    ]


def _mfu(entry: TableEntry) -> list[Finding]:
    """The MFU of a row against what hardware reaches."""
    used = utilisation(entry)
    if used is None:
        return _unread_devices(entry)
    if used.mfu > 1:
        verdict, cause = Verdict.MISMATCH, ": exceeds the hardware's peak"
    elif used.mfu < LOW_MFU:
        verdict = Verdict.SUSPICIOUS
        cause = f": a plan that assumes {ASSUMED_MFU:.0%} is off {ASSUMED_MFU / used.mfu:.1f}x"
    else:
        verdict, cause = Verdict.OK, ""
    hours, peak = entry.numbers.get("hours"), used.device.training_peak / 1e12
    each = hours is not None and of_each_device(entry.headers["hours"])
    number = f"{used.devices} x" if used.devices else "per" if each else "1 x"
    return [
        Finding(
            check="MFU",
            where=entry.where,
            column=entry.headers.get("hours", entry.headers.get("wall_s", "")),
            stated=hours.text + " h" if hours else f"{entry.numbers['wall_s'].value:g} s",
            recomputed=f"{used.mfu:.1%}",
            verdict=verdict,
            explanation=f"{'exact' if used.exact else 'stated'} FLOPs, {used.tokens_per_s:,.0f} tokens/s, "
            f"{number} {used.device.name} at {peak:g} TFLOP/s {used.device.training_format} dense"
            f"{'' if used.devices or each else ' (no number of devices is stated: 1 is taken)'}{cause}",
            severity=abs(math.log(used.mfu / ASSUMED_MFU)),
        )
    ]


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


def _epochs(rows: Sequence[TableEntry]) -> list[Finding]:
    """Largest number of epochs; beyond about 4, repeated tokens are worth less (Muennighoff et al. 2023)."""
    pairs = [
        (entry.numbers["tokens"].value / entry.numbers["unique_tokens"].value, entry)
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
            explanation="epochs at most; beyond about 4 a law of unique tokens does not hold (Muennighoff et al. 2023)",
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
