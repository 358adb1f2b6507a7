"""Budgets: "8xA100-hours", "24h@8xA100", "1.4e18" or "0.02 PF-days" as training FLOPs."""

import math
import re
from typing import Literal

from pydantic import Field

from families.units import BadInput, ungrouped

from .files import Record
from .hardware import Accelerator, accelerator

ASSUMED_MFU = 0.4  # well-tuned training on one node; the family of MosaicML's GPT-2 card reached 0.07 to 0.08
PF_DAY = 8.64e19  # FLOPs in a petaFLOP/s-day (Kaplan et al. 2020)

MfuSource = Literal["assumed", "measured", "estimated"]

EXAMPLES = "8xA100-hours, 24h@8xA100, 02:44@8xA100, 64 H100-hours, 1.4e18 FLOPs or 0.02 PF-days"

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_UNIT = r"(weeks?|wk|w|days?|d|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)"
_NUMBER = r"([0-9][0-9_]*\.?[0-9]*(?:e[+-]?[0-9]+)?|\.[0-9]+(?:e[+-]?[0-9]+)?)"
_DEVICES = r"(?:([0-9]+)\s*[x×*]\s*)?"
_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21, "y": 1e24}
_WORDS = {
    "kilo": "k",
    "mega": "m",
    "giga": "g",
    "tera": "t",
    "peta": "p",
    "exa": "e",
    "zetta": "z",
    "yotta": "y",
}

_FLOPS = re.compile(rf"{_NUMBER}\s*(?:({'|'.join(_WORDS)}|[kmgtpezy]?)[- ]?flops?)?", re.IGNORECASE)
_FLOPS_TIME = re.compile(
    rf"{_NUMBER}\s*({'|'.join(_WORDS)}|[tpe])[- ]?f(?:lops?)?(?:/s)?[- ]?{_UNIT}", re.IGNORECASE
)
_DEVICE_TIME = re.compile(
    rf"(?:{_NUMBER}\s+(?![x×*]\s))?{_DEVICES}([a-z0-9][a-z0-9 _-]*?)[- ]{_UNIT}", re.IGNORECASE
)
_TIME_AT = re.compile(rf"(.+?)\s*(?:@|\bon\b)\s*{_DEVICES}(\S.*)", re.IGNORECASE)
_CLOCK = re.compile(r"([0-9]+):([0-5][0-9])(?::([0-5][0-9]))?")
_DURATION = re.compile(rf"(?:{_NUMBER}\s*{_UNIT}\s*)+", re.IGNORECASE)


class Budget(Record):
    """Training budget. `flops` is always known; time needs an accelerator.

    device_seconds: seconds times devices. mfu: model FLOPs utilisation, a share of the dense peak.
    """

    text: str
    flops: float = Field(gt=0)
    device_seconds: float | None = Field(default=None, gt=0)
    accelerator: str | None = None
    devices: int | None = Field(default=None, ge=1)
    mfu: float | None = Field(default=None, gt=0, le=1)
    mfu_source: MfuSource | None = None

    def hours(self, flops: float) -> float | None:
        """Return wall-clock hours of `flops` on these devices; None without an accelerator."""
        seconds = self.device_seconds_for(flops)
        return None if seconds is None or self.devices is None else seconds / self.devices / 3600

    def device_seconds_for(self, flops: float) -> float | None:
        """Return seconds times devices of `flops`; None without an accelerator."""
        if self.accelerator is None or self.mfu is None:
            return None
        return flops / (accelerator(self.accelerator).training_peak * self.mfu)

    def price(self, flops: float) -> float | None:
        """Return USD at the catalogue's typical price; None without an accelerator or a price."""
        seconds = self.device_seconds_for(flops)
        if seconds is None or self.accelerator is None:
            return None
        hourly = accelerator(self.accelerator).price
        return None if hourly is None else hourly * seconds / 3600


def parse_budget(
    text: str, *, mfu: float | None = None, mfu_source: MfuSource = "assumed", on: str | None = None
) -> Budget:
    """Read a budget.

    Args:
        text: the budget, like "8xA100-hours".
        mfu: model FLOPs utilisation, a share of the dense peak, 0 to 1; default 0.4.
        mfu_source: where the MFU is from; the plan names it.
        on: devices like "8xA100", for the hours of a budget in FLOPs or device-hours.

    Raises:
        BadInput: not a budget, not positive and finite, an unknown accelerator, or devices named twice.
    """
    share = _checked_mfu(mfu)
    words = text.strip()
    if not words:
        raise BadInput(f"budget is empty; it must be like {EXAMPLES}")
    if words.startswith("-"):
        raise BadInput(f"budget is {words}; it must be positive")
    if words.lower() in ("inf", "infinity", "nan"):
        raise BadInput(f"budget is {words}; it must be finite")
    words = ungrouped(words, "budget")
    flops = parse_flops(words)
    if flops is not None:
        _check_size(words, flops, "FLOPs")
        devices, device = parse_devices(on) if on else (None, None)
        return Budget(
            text=words,
            flops=flops,
            device_seconds=flops / (device.training_peak * share) if device else None,
            accelerator=device.name if device else None,
            devices=devices,
            mfu=share if device else None,
            mfu_source=mfu_source if device else None,
        )
    device, devices, seconds = _read_time(words)
    _check_size(words, seconds, "seconds")
    if on:
        other_devices, other = parse_devices(on)
        if other != device:
            raise BadInput(
                f"budget {words!r} is on {device.name} and --on is {other.name}; give one accelerator"
            )
        if devices is not None and devices != other_devices:
            raise BadInput(
                f"budget {words!r} is on {devices} devices and --on is {other_devices}; give one number"
            )
        devices = other_devices
    return Budget(
        text=words,
        flops=seconds * device.training_peak * share,
        device_seconds=seconds,
        accelerator=device.name,
        devices=devices or 1,
        mfu=share,
        mfu_source=mfu_source,
    )


def split_budgets(text: str) -> list[str]:
    """Split budgets separated by commas; commas that group the thousands of plain FLOPs stay.

    Raises:
        BadInput: a comma may be a decimal one, as in 1,4e18.
    """
    words = ungrouped(text.strip(), "budget")
    parts = [part.strip() for part in words.split(",")]
    return parts if all(parts) else [words]


def parse_devices(text: str) -> tuple[int, Accelerator]:
    """Read "8xA100" or "A100".

    Raises:
        BadInput: the accelerator is unknown, or there are no devices.
    """
    match = re.fullmatch(rf"{_DEVICES}(\S.*)", text.strip(), re.IGNORECASE)
    if match is None:
        raise BadInput(f"devices is {text!r}; it must be like 8xA100")
    if match[1] and int(match[1]) < 1:
        raise BadInput(f"devices is {text!r}; at least 1 is needed")
    return int(match[1] or 1), accelerator(match[2])


def parse_mfu(text: str) -> float:
    """Read 0.4 or 40%.

    Raises:
        BadInput: the text is not a share between 0 and 1.
    """
    words = text.strip()
    try:
        value = float(words.removesuffix("%")) / (100 if words.endswith("%") else 1)
    except ValueError as error:
        raise BadInput(f"mfu is {text!r}; it must be a share like 0.4 or 40%") from error
    return _checked_mfu(value)


def _checked_mfu(mfu: float | None) -> float:
    if mfu is None:
        return ASSUMED_MFU
    if not (math.isfinite(mfu) and 0 < mfu <= 1):
        raise BadInput(
            f"mfu is {mfu:g}; it must be a share of the dense peak, above 0 and up to 1 (40% is 0.4)"
        )
    return mfu


def _check_size(text: str, value: float, unit: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise BadInput(f"budget is {text}; it must be positive and finite, not {value:g} {unit}")
    if value > 1e40:
        raise BadInput(f"budget is {text}, which is {value:g} {unit}; it must be at most 1e40")


def _number(text: str) -> float:
    return float(text.replace("_", ""))


def _prefix(text: str | None) -> float:
    letters = (text or "").lower()
    return _PREFIXES[_WORDS.get(letters, letters)]


def _seconds(unit: str) -> float:
    return _SECONDS[unit[0].lower()]


def parse_flops(text: str) -> float | None:
    """Read FLOPs like 1.4e18, 20 EFLOPs or 0.02 PF-days; return None for any other text."""
    match = _FLOPS.fullmatch(text)
    if match is not None:
        return _number(match[1]) * _prefix(match[2])
    match = _FLOPS_TIME.fullmatch(text)
    if match is not None:
        return _number(match[1]) * _prefix(match[2]) * _seconds(match[3])
    return None


def _read_time(text: str) -> tuple[Accelerator, int | None, float]:
    """Read the device, the number of devices (None where it is not given), and seconds times devices."""
    match = _TIME_AT.fullmatch(text)
    if match is not None:
        devices = _count(text, match[2]) or 1
        return accelerator(match[3]), devices, devices * _read_duration(match[1], text)
    match = _DEVICE_TIME.fullmatch(text)
    if match is not None:
        amount = 1.0 if match[1] is None else _number(match[1])
        counted = _count(text, match[2])
        return accelerator(match[3]), counted, amount * (counted or 1) * _seconds(match[4])
    raise BadInput(f"budget is {text!r}; it must be like {EXAMPLES}")


def _count(text: str, digits: str | None) -> int | None:
    if digits is None:
        return None
    if int(digits) < 1:
        raise BadInput(f"budget is {text}; at least 1 device is needed")
    return int(digits)


def parse_duration(words: str) -> float:
    """Read a time like 24h, 66m40.167s or 3 days in seconds; a clock time is hours and minutes.

    Raises:
        BadInput: the text is not a time.
    """
    return _read_duration(words, words)


def _read_duration(words: str, text: str) -> float:
    clock = _CLOCK.fullmatch(words.strip())
    if clock is not None:
        return 3600.0 * int(clock[1]) + 60.0 * int(clock[2]) + int(clock[3] or 0)
    if _DURATION.fullmatch(words.strip()) is None:
        where = "" if words == text else f"budget is {text!r}: "
        raise BadInput(f"{where}{words!r} is not a time; write 24h, 90min, 3 days or 02:44 (hh:mm)")
    parts = re.finditer(_NUMBER + r"\s*" + _UNIT, words, re.IGNORECASE)
    return math.fsum(_number(part[1]) * _seconds(part[2]) for part in parts)
