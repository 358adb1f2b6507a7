"""Tokens, FLOPs, hours and perplexity, recomputed from what stands beside them."""

import math
import re
from collections.abc import Sequence

from families import params, params_non_embedding, train_flops

from ..budget import ASSUMED_MFU
from ..hardware import Accelerator, recognise
from .findings import FEW, Finding, Verdict, at
from .shapes import is_gpt2, spec_of
from .tables import Entry, Table, folded, stated

# MERGED DOCSTRINGS
# The rows themselves: cells that are missing, rows given twice, measurements that stand in two different rows.

_FILES = "the family's own training files: {steps:,} steps x 512 sequences x 1024 tokens"

FAMILY_STEPS = {"gpt252m": 9_000, "gpt283m": 11_000, "gpt2125m": 14_000}  # MosaicML Composer's GPT-2 recipes

FAMILY_BATCH = 512 * 1024

_TOKENS = 32768  # a batch size above this counts tokens, not sequences

_WHOSE_HOURS = re.compile(r"(?<![\w-])([a-z][\w-]*?)s?[ _-]?hours?\b", re.IGNORECASE)

_DEVICE_WORDS = ("gpu", "tpu", "device", "chip", "accelerator", "card")

LOW_MFU = 0.2  # engines of one node reach .3 to .55; below this the hours hold something else besides

LARGEST_LOSS = 50.0  # nats per token; guessing among a million tokens is 14

# Tokens per parameter: laws of loss were fitted on 1 to 341 (Hoffmann et al. 2022) and 5 to 640 (Gadre et al. 2024).
_EXTREME = (0.1, 1000.0)

_ENTROPY = 1.3  # nats per token below which no law of web text goes (Chinchilla's E is 1.69 to 1.82)


def tokens_of(entry: Entry) -> float | None:
    """Tokens trained on: steps times batch where both are known, else as stated."""
    known = _known_tokens(entry)
    if known is not None:
        return known[0]
    number = entry.numbers.get("tokens")
    return None if number is None else number.value


def _known_tokens(entry: Entry) -> tuple[float, str] | None:
    steps = FAMILY_STEPS.get(folded(entry.name))
    if steps is not None:
        return float(steps * FAMILY_BATCH), _FILES.format(steps=steps)
    numbers = entry.numbers
    if {"steps", "batch_tokens"} <= numbers.keys():
        batch = numbers["batch_tokens"].value
        return numbers["steps"].value * batch, f"{numbers['steps'].text} steps x {batch:g} tokens"
    if {"steps", "batch", "n_positions"} <= numbers.keys():
        batch = numbers["batch"].value
        batch *= 1 if batch > _TOKENS else numbers["n_positions"].value
        return numbers["steps"].value * batch, f"{numbers['steps'].text} steps x {batch:g} tokens"
    return None


def bookkeeping_findings(rows: Sequence[Entry]) -> list[Finding]:
    """Row by row: tokens, compute, MFU, perplexity; then what the rows have in common."""
    found: list[Finding] = []
    for entry in rows:
        found += _tokens(entry) + _compute(entry) + _mfu(entry) + _perplexity(entry) + _unit(entry)
    return [*found, *_ratio_of_adjusted(rows), *_extremes(rows), *_epochs(rows)]


def _tokens(entry: Entry) -> list[Finding]:
    number, known = entry.numbers.get("tokens"), _known_tokens(entry)
    if number is None or known is None:
        return []
    count, source = known
    off = number.value / count - 1
    fits = number.agrees(count) or abs(off) < 1e-4
    return [
        Finding(
            check="tokens",
            **at(entry, "tokens"),
            recomputed=f"{count:,.0f}",
            verdict=Verdict.OK if fits else Verdict.MISMATCH,
            explanation=source if fits else f"{off:+.1%} of {source}",
            severity=abs(off),
        )
    ]


def _compute(entry: Entry) -> list[Finding]:
    """Stated FLOPs against 6·N·D and the exact count; where none are stated, the exact count for the record."""
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
                explanation=f"exact, of a GPT-2 of this shape; 6ND is {6 * params(spec) * tokens / exact - 1:+.1%}",
            )
        ]
    counts: dict[str, float] = {}
    slack = number.relative + 0.001
    for field, label in (("params", "6·N·D"), ("params_non_embedding", "6·N·D, N without embeddings")):
        if field in entry.numbers:
            counts[label] = 6 * entry.numbers[field].value * tokens
            slack = max(slack, number.relative + entry.numbers[field].relative + 0.001)
    if spec is not None:
        counts["the exact count of a GPT-2 of this shape"] = train_flops(spec, tokens)
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
            **at(entry, "compute"),
            recomputed=f"{counts[best if fits else first]:.4g}",
            verdict=Verdict.OK if fits else Verdict.SUSPICIOUS,
            explanation=f"is {best}" if fits else f"{1 + off[first]:.3g}x {first}{_why_compute(off[first])}",
            severity=abs(off[best]),
        )
    ]


def _why_compute(off: float) -> str:
    if not 1e-2 < 1 + off < 1e2:
        return ": another unit, or another run's"
    if 0 < off < 2:
        return ": an exact count, with head and attention, would be so, more at small sizes; or other tokens"
    if off > 0:
        return ": other tokens, or more than training counted"
    return ": not all parameters counted, or other tokens"


def devices_of(entry: Entry) -> tuple[int, Accelerator] | None:
    """How many of which accelerator, from the row or from the header of its hours: "Training Hours on 8xA100s"."""
    words = entry.words.get("accelerator", "")
    match = re.search(r"\bon\s+(.+)", entry.headers.get("hours", ""), re.IGNORECASE)
    count, device = recognise(words or (match[1] if match else ""))
    return None if device is None else (count, device)


def _of_each_device(header: str) -> bool:
    """Whether hours are summed over devices: "GPU hours", "A100-hours"."""
    match = _WHOSE_HOURS.search(header)
    return match is not None and (match[1].lower() in _DEVICE_WORDS or recognise(match[1])[1] is not None)


def _mfu(entry: Entry) -> list[Finding]:
    """FLOPs over hours times peak: exact FLOPs where the shape is known."""
    devices, tokens, spec = devices_of(entry), tokens_of(entry), spec_of(entry)
    hours = entry.numbers.get("hours")
    seconds = (
        hours.value * 3600 if hours else entry.numbers["wall_s"].value if "wall_s" in entry.numbers else 0
    )
    if devices is None or tokens is None or not seconds:
        return []
    if spec is not None and (is_gpt2(entry) or "compute" not in entry.numbers):
        flops, label = train_flops(spec, tokens), "exact FLOPs"
    elif "compute" in entry.numbers:
        flops, label = entry.numbers["compute"].value, "stated FLOPs"
    else:
        return []
    count, device = devices
    if hours and _of_each_device(entry.headers["hours"]):
        seconds /= count
    share = flops / (seconds * count * device.training_peak)
    peak = (
        f"{count} x {device.name} at {device.training_peak / 1e12:g} TFLOP/s {device.training_format} dense"
    )
    if share > 1:
        verdict, why = Verdict.MISMATCH, "more than the hardware can do"
    elif share < LOW_MFU:
        verdict = Verdict.SUSPICIOUS
        why = f"a planner that assumes {ASSUMED_MFU:.0%} is off {ASSUMED_MFU / share:.1f}x"
    else:
        verdict, why = Verdict.OK, ""
    return [
        Finding(
            check="MFU",
            where=entry.where,
            column=entry.headers.get("hours", entry.headers.get("wall_s", "")),
            stated=hours.text + " h" if hours else f"{seconds:g} s",
            recomputed=f"{share:.1%}",
            verdict=verdict,
            explanation=f"{label}, {tokens / seconds:,.0f} tokens/s, {peak}" + (f": {why}" if why else ""),
            severity=abs(math.log(share / ASSUMED_MFU)),
        )
    ]


def _perplexity(entry: Entry) -> list[Finding]:
    """exp(loss) against perplexity, within what rounding the loss allows."""
    found = []
    for loss_field, ppl_field in (("loss", "ppl"), ("loss_predicted", "ppl_predicted")):
        loss, number = entry.numbers.get(loss_field), entry.numbers.get(ppl_field)
        if loss is None or number is None or loss.value > LARGEST_LOSS:
            continue
        low, high = (math.exp(loss.value + sign * loss.unit / 2) for sign in (-1, 1))
        half = number.unit / 2
        fits = low - half <= number.value <= high + half
        meant = math.log(number.value)
        found.append(
            Finding(
                check="perplexity",
                **at(entry, ppl_field),
                recomputed=f"{math.exp(loss.value):.2f}",
                verdict=Verdict.OK if fits else Verdict.MISMATCH,
                explanation=f"exp({loss.text})"
                if fits
                else f"exp({loss.text}); {number.text} is a loss of {meant:.4g}",
                severity=abs(meant - loss.value),
            )
        )
    return found


def _unit(entry: Entry) -> list[Finding]:
    """Losses that cannot be nats per token of text."""
    loss = entry.numbers.get("loss")
    if loss is None:
        return []
    vocabulary = entry.numbers["vocab_size"].value if "vocab_size" in entry.numbers else 0
    if loss.value < _ENTROPY:
        why = "below the entropy of web text per token (1.69 to 1.82): bits per byte, or another unit"
    elif vocabulary and loss.value > math.log(vocabulary) * 1.05:
        why = f"worse than guessing: ln {vocabulary:g} is {math.log(vocabulary):.2f}"
    else:
        return []
    return [
        Finding(
            check="loss unit",
            **at(entry, "loss"),
            verdict=Verdict.SUSPICIOUS,
            explanation=why,
            severity=1 / loss.value,
        )
    ]


def _ratio_of_adjusted(rows: Sequence[Entry]) -> list[Finding]:
    """A loss per word over the loss per token is tokens over words: one number for one text."""
    groups: dict[str, list[tuple[Entry, float]]] = {}
    for entry in rows:
        if {"loss", "loss_adjusted"} <= entry.numbers.keys():
            ratio = entry.numbers["loss_adjusted"].value / entry.numbers["loss"].value
            groups.setdefault(entry.words.get("data", ""), []).append((entry, ratio))
    found = []
    for text, pairs in groups.items():
        middle = sorted(ratio for _, ratio in pairs)[len(pairs) // 2]
        for entry, ratio in pairs:
            loss, adjusted = entry.numbers["loss"], entry.numbers["loss_adjusted"]
            fits = abs(ratio / middle - 1) <= 2 * (loss.relative + adjusted.relative) + 1e-3
            found.append(
                Finding(
                    check="adjusted loss",
                    **at(entry, "loss_adjusted"),
                    recomputed=f"{loss.value * middle:.2f}",
                    verdict=Verdict.OK if fits else Verdict.SUSPICIOUS,
                    explanation=f"{middle:.4g} times the loss, tokens per word{f' of {text}' if text else ''}"
                    + (
                        ""
                        if fits
                        else f"; here {ratio:.4g}, and a loss of {adjusted.value / middle:.3g} would fit"
                    ),
                    severity=abs(ratio / middle - 1),
                )
            )
    return found


def _extremes(rows: Sequence[Entry]) -> list[Finding]:
    """Tokens per parameter, the whole column's range."""
    pairs = [
        (tokens / size.value, entry)
        for entry in rows
        if (size := entry.numbers.get("params")) is not None and (tokens := tokens_of(entry)) is not None
    ]
    if not pairs:
        return []
    (low, lowest), (high, highest) = (pick(pairs, key=lambda pair: pair[0]) for pick in (min, max))
    wild = low < _EXTREME[0] or high > _EXTREME[1]
    return [
        Finding(
            check="tokens per parameter",
            where=f"{lowest.where} to {highest.where}" if len(pairs) > 1 else lowest.where,
            recomputed=f"{low:.3g} to {high:.3g}",
            verdict=Verdict.SUSPICIOUS if wild else Verdict.OK,
            explanation="beyond what laws of loss were fitted on, about 1 to 640"
            if wild
            else "Chinchilla's optimum is 10 to 28",
        )
    ]


def _epochs(rows: Sequence[Entry]) -> list[Finding]:
    """How often data repeats; past about 4 epochs repeated tokens are worth less (Muennighoff et al. 2023)."""
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
            explanation="at most; past about 4 a law of fresh tokens does not hold (Muennighoff et al. 2023)",
        )
    ]


_TELLING_DIGITS = 7  # of a single loss, for two equal ones to be no accident

_QUANTISED = 0.1  # share of rows that repeat an earlier loss, beyond which the losses came off a grid

_LOSSES = ("loss", "loss_train", "loss_adjusted", "ppl")


def table_findings(tables: Sequence[Table]) -> list[Finding]:
    """Rows with too few or too many cells, rows given twice, and measurements that stand in two different rows."""
    found: list[Finding] = []
    for table in tables:
        for row, line in zip(table.rows, table.lines, strict=True):
            if len(row) != len(table.header):
                found.append(
                    Finding(
                        check="cells",
                        where=f"line {line}",
                        stated=str(len(row)),
                        recomputed=str(len(table.header)),
                        verdict=Verdict.MISMATCH,
                        explanation=f"the row ends {table.header[len(row) - 1]!r} with {row[-1]!r}: a cell is missing, "
                        "so the cells after it stand in the wrong columns"
                        if len(row) < len(table.header)
                        else "more cells than the header",
                        severity=abs(len(row) - len(table.header)),
                    )
                )
        found += _repeated(table)
    return found


def _repeated(table: Table) -> list[Finding]:
    """Equal rows; and rows that differ in what was run but agree in their measured numbers."""
    measured = [index for index, field in enumerate(table.fields()) if field in _LOSSES]
    found: list[Finding] = []
    shared: list[Finding] = []
    seen: dict[tuple[str, ...], int] = {}
    results: dict[tuple[str, ...], int] = {}
    for row, line in zip(table.rows, table.lines, strict=True):
        first = seen.setdefault(row, line)
        if first != line:
            why = f"the same row as line {first}"
            found.append(_repeated_column("duplicated row", f"line {line}", "", Verdict.MISMATCH, why))
            continue
        key = tuple(row[index] for index in measured if index < len(row) and stated(row[index]) is not None)
        if not key or (len(key) < 2 and len(re.sub(r"[^0-9]", "", key[0])) < _TELLING_DIGITS):
            continue
        before = results.setdefault(key, line)
        if before != line:
            why = f"line {before} has the same measurements: copied, or one run under two names"
            cells = ", ".join(key)
            shared.append(
                _repeated_column("duplicated measurement", f"line {line}", cells, Verdict.SUSPICIOUS, why)
            )
    if len(shared) > max(FEW, _QUANTISED * len(table.rows)):
        why = f"{len(results)} distinct losses in {len(table.rows)} rows: read off a figure or a colour scale, or rounded"
        shared = [_repeated_column("quantised losses", f"{len(shared)} rows", "", Verdict.SUSPICIOUS, why)]
    return found + shared


def _repeated_column(check: str, where: str, cells: str, verdict: Verdict, why: str) -> Finding:
    return Finding(
        check=check, where=where, stated=cells or None, verdict=verdict, explanation=why, severity=1.0
    )
