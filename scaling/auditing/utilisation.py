"""Devices, throughput and MFU of a row: by its hours, by its tokens per second, and as it states them."""

import math
from dataclasses import dataclass

from ..budget import ASSUMED_MFU
from ..hardware import Accelerator, known
from .devices import named_devices, of_each_device
from .findings import Finding, Verdict, cell
from .specs import architecture_of, flops_per_token
from .tables import TableEntry

LOW_MFU = 0.2  # training on one node reaches 0.3 to 0.55; below this the hours include something else
_SPEEDS = ("tokens_per_s", "device_tokens_per_s", "device_teraflops")  # fields of a stated throughput
_AGREES = 0.05  # relative, between a stated and a recomputed MFU or throughput: conventions differ so
_EXPLAINS = 0.02  # relative, for another peak, count or convention to be named as the cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """Accelerators of a row. `counted` is False where the row states no number, and 1 is taken."""

    count: int
    device: Accelerator
    counted: bool

    @property
    def text(self) -> str:
        """8 x A100 at 312 TFLOP/s bf16 dense."""
        peak = f"{self.device.training_peak / 1e12:g} TFLOP/s {self.device.training_format} dense"
        return f"{self.count} x {self.device.name} at {peak}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Utilisation:
    """MFU of a row: FLOPs per second over devices × dense peak.

    Attributes:
        flops: "exact", "stated" or "6·N·D", where the FLOPs are from.
        tokens_per_s: of all devices; None where the row states no tokens.
    """

    mfu: float
    flops: str
    tokens_per_s: float | None
    devices: Devices


def devices_of(entry: TableEntry) -> Devices | None:
    """Number and kind of a row's accelerators; None where none is named that is understood."""
    named = named_devices(entry)
    if named is None or named.problem or named.accelerator is None:
        return None
    return Devices(count=named.count or 1, device=named.accelerator, counted=named.count is not None)


def _seconds(entry: TableEntry, devices: int) -> float | None:
    """Wall-clock seconds of a row's training."""
    hours, wall = entry.numbers.get("hours"), entry.numbers.get("wall_s")
    if hours is None:
        return None if wall is None else wall.value
    return hours.value * 3600 / (devices if of_each_device(entry.headers["hours"]) else 1)


def _flops_per_token(entry: TableEntry, tokens: float | None) -> tuple[float, str] | None:
    """FLOPs per token and where they are from: exact for a known shape, as stated, or 6·N."""
    exact, numbers = flops_per_token(entry), entry.numbers
    if exact is not None and (architecture_of(entry) or "compute" not in numbers):
        return exact, "exact"
    if "compute" in numbers and tokens is not None:
        return numbers["compute"].value / tokens, "stated"
    for field in ("params_active", "params", "params_non_embedding"):
        if field in numbers:
            return 6 * numbers[field].value, "6·N·D"
    return None


def utilisation(entry: TableEntry, tokens: float | None) -> Utilisation | None:
    """MFU that a row's hours imply; None without devices, time or FLOPs.

    Args:
        entry: the row.
        tokens: number of tokens that it was trained on; None where unknown.
    """
    devices, per_token = devices_of(entry), _flops_per_token(entry, tokens)
    seconds = None if devices is None else _seconds(entry, devices.count)
    if devices is None or not seconds:
        return None
    if per_token is not None and tokens is not None:
        flops, source = per_token[0] * tokens, per_token[1]
    elif "compute" in entry.numbers:
        flops, source = entry.numbers["compute"].value, "stated"
    else:
        return None
    return Utilisation(
        mfu=flops / (seconds * devices.count * devices.device.training_peak),
        flops=source,
        tokens_per_s=None if tokens is None else tokens / seconds,
        devices=devices,
    )


def utilisation_findings(entry: TableEntry, tokens: float | None) -> list[Finding]:
    """MFU by the hours; stated throughput and MFU against what the row's other cells give."""
    if not {"hours", "wall_s", "mfu", *_SPEEDS} & entry.numbers.keys():
        return []
    return [
        *_unknown_device(entry),
        *_by_hours(entry, tokens),
        *_throughput(entry, tokens),
        *_stated_mfu(entry, tokens),
    ]


def _unknown_device(entry: TableEntry) -> list[Finding]:
    named = named_devices(entry)
    if named is None or not named.problem:
        return []
    return [
        Finding(
            check="device",
            where=entry.where,
            column=entry.headers.get("accelerator", entry.headers.get("hours", "")),
            stated=entry.words.get("accelerator"),
            verdict=Verdict.SUSPICIOUS,
            explanation=f"{named.problem.partition(' known: ')[0].rstrip('; ')}: no MFU is computed, "
            "not a device with a known peak: hardware.json in your configuration folder adds one"
            if "not known" in named.problem
            else f"{named.problem}: no MFU is computed",
        )
    ]


def _judged(mfu: float) -> tuple[Verdict, str]:
    """Verdict on an MFU, and its cause."""
    if mfu > 1:
        return Verdict.MISMATCH, ": exceeds the hardware's peak"
    if mfu < LOW_MFU:
        return Verdict.SUSPICIOUS, f": a plan that assumes {ASSUMED_MFU:.0%} is off {ASSUMED_MFU / mfu:.1f}x"
    return Verdict.OK, ""


def _uncounted(devices: Devices) -> str:
    return "" if devices.counted else " (no number of devices is stated: 1 is taken)"


def _by_hours(entry: TableEntry, tokens: float | None) -> list[Finding]:
    """The MFU of a row's hours against what hardware reaches."""
    used = utilisation(entry, tokens)
    if used is None:
        return []
    verdict, cause = _judged(used.mfu)
    hours = entry.numbers.get("hours")
    speed = "" if used.tokens_per_s is None else f"{used.tokens_per_s:,.0f} tokens/s, "
    summed = hours is not None and of_each_device(entry.headers["hours"])
    compute, per_token = entry.numbers.get("compute"), _flops_per_token(entry, tokens)
    by_stated = ""
    if compute is not None and tokens is not None and per_token is not None and used.flops == "exact":
        by_stated = f", {used.mfu * compute.value / (per_token[0] * tokens):.1%} by the stated {compute.text}"
    return [
        Finding(
            check="MFU",
            where=entry.where,
            column=entry.headers.get("hours", entry.headers.get("wall_s", "")),
            stated=hours.text + " h" * (not hours.text[-1:].isalpha())
            if hours
            else f"{entry.numbers['wall_s'].value:g} s",
            recomputed=f"{used.mfu:.1%}",
            verdict=verdict,
            explanation=f"{used.flops} FLOPs{by_stated}, {speed}{used.devices.text}"
            f"{'' if summed else _uncounted(used.devices)}{cause}",
            severity=abs(math.log(used.mfu / ASSUMED_MFU)),
        )
    ]


def _throughput(entry: TableEntry, tokens: float | None) -> list[Finding]:
    """Stated tokens per second against tokens and time, and the MFU they imply where no time is stated."""
    findings: list[Finding] = []
    devices, numbers = devices_of(entry), entry.numbers
    count = devices.count if devices else round(numbers["devices"].value) if "devices" in numbers else 1
    timed = _seconds(entry, count)
    for field in _SPEEDS:
        number = numbers.get(field)
        if number is None:
            continue
        if tokens is not None and timed and field != "device_teraflops":
            speed = tokens / timed / (count if field == "device_tokens_per_s" else 1)
            off = number.value / speed - 1
            fits = abs(off) <= _AGREES + number.relative
            findings.append(
                Finding(
                    check="throughput",
                    **cell(entry, field),
                    recomputed=f"{speed:,.0f} tokens/s",
                    verdict=Verdict.OK if fits else Verdict.SUSPICIOUS,
                    explanation="tokens over time"
                    if fits
                    else f"{_times(1 + off)} tokens over time{_by_count(1 + off, count)}",
                    severity=abs(math.log1p(off)),
                )
            )
        implied = _mfu_of_speed(entry, field, tokens)
        if implied is None or devices is None:
            continue
        mfu, source = implied
        verdict, cause = _judged(mfu)
        used = devices if field == "tokens_per_s" else Devices(count=1, device=devices.device, counted=True)
        findings.append(
            Finding(
                check="MFU of throughput",
                **cell(entry, field),
                recomputed=f"{mfu:.1%}",
                verdict=verdict,
                explanation=f"{source} FLOPs, {used.text}{_uncounted(used)}{cause}",
                severity=abs(math.log(mfu / ASSUMED_MFU)),
            )
        )
    return findings


def _times(ratio: float) -> str:
    return f"{ratio:.3g}x"


def _by_count(ratio: float, count: int) -> str:
    """A cause where a throughput is off by the number of devices."""
    if count > 1 and abs(ratio * count - 1) < _AGREES:
        return f": that of one of the {count} devices"
    return f": that of all {count} devices" if count > 1 and abs(ratio / count - 1) < _AGREES else ""


def _mfu_of_speed(entry: TableEntry, field: str, tokens: float | None) -> tuple[float, str] | None:
    """The MFU that a stated throughput implies, and where its FLOPs are from."""
    devices, per_token, number = devices_of(entry), _flops_per_token(entry, tokens), entry.numbers.get(field)
    if devices is None or number is None:
        return None
    if field == "device_teraflops":
        return number.value * 1e12 / devices.device.training_peak, "stated"
    if per_token is None:
        return None
    count = devices.count if field == "tokens_per_s" else 1
    return number.value * per_token[0] / (count * devices.device.training_peak), per_token[1]


def _stated_mfu(entry: TableEntry, tokens: float | None) -> list[Finding]:
    """A stated MFU against that of the row's throughput, TFLOP/s or hours, and against 100 %."""
    number = entry.numbers.get("mfu")
    if number is None:
        return []
    devices = devices_of(entry)
    implied = None
    for field in _SPEEDS:
        implied = implied or _mfu_of_speed(entry, field, tokens)
    timed = utilisation(entry, tokens)
    if implied is None and timed is not None:
        implied = timed.mfu, timed.flops
    if implied is None or devices is None:
        return [
            Finding(
                check="stated MFU",
                **cell(entry, "mfu"),
                verdict=Verdict.MISMATCH if number.value > 1 else Verdict.OK,
                explanation="exceeds the hardware's peak"
                if number.value > 1
                else "below 100 %; a known device, a size and a throughput or hours would tell more",
                severity=number.value,
            )
        ]
    mfu, source = implied
    slack = 0.5 * number.unit + _AGREES * mfu * (3 if source == "6·N·D" else 1)
    fits = abs(number.value - mfu) <= slack
    above = " (above 100 %, which no hardware reaches)" if number.value > 1 else ""
    cause = f"{source} FLOPs, {devices.text}{_uncounted(devices)}"
    return [
        Finding(
            check="stated MFU",
            **cell(entry, "mfu"),
            recomputed=f"{mfu:.1%}",
            verdict=Verdict.OK if fits and not above else Verdict.MISMATCH,
            explanation=cause if fits else f"{cause}{above}{_mfu_cause(number.value / mfu, devices)}",
            severity=abs(math.log(number.value / mfu)),
        )
    ]


def _mfu_cause(ratio: float, devices: Devices) -> str:
    """Cause of an MFU that is `ratio` times too high: a peak of another device, of sparse matrices, or a forgotten count."""
    peak = devices.device.training_peak
    if devices.count > 1 and abs(ratio / devices.count - 1) < _EXPLAINS:
        return f"; {ratio:.3g}x too high: the work of {devices.count} devices over the peak of one"
    if abs(2 * ratio - 1) < _EXPLAINS:
        return "; half of it: over the peak with sparsity"
    same = sorted(
        other.name
        for other in known().values()
        if other.training_peak != peak and abs(ratio * other.training_peak / peak - 1) < _EXPLAINS
    )
    if same:
        return f"; it would be right over the peak of {' or '.join(same[:3])}"
    return f"; {ratio:.3g}x the recomputed"
