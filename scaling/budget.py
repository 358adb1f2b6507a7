"""A budget as people say it ("64 H100 for 2 weeks", "57,600 A100-hours", "$5000 on H100", "10^21") -> training FLOPs."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field

from families.units import BadInput, ungrouped

from .devices import Devices, combine, read_devices
from .files import Record
from .hardware import Accelerator, accelerator

ASSUMED_MFU = 0.4  # well-tuned training on one node; the family of MosaicML's GPT-2 card reached 0.07 to 0.08
PF_DAY = 8.64e19  # FLOPs in a petaFLOP/s-day (Kaplan et al. 2020)

MfuSource = Literal["assumed", "measured", "estimated"]
Source = Literal["given", "assumed"]

EXAMPLES = (
    "64 H100 for 2 weeks, 24h@8xA100, 02:44@8xA100, 8xA100-hours, 57,600 A100-hours, $5000 on H100, "
    "1e21 FLOPs or 0.02 PF-days"
)

_DAY = 86400.0
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": _DAY, "w": 7 * _DAY, "mo": 30 * _DAY, "y": 365 * _DAY}
_UNIT = r"(years?|yrs?|months?|mos?|weeks?|wks?|w|days?|d|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)(?![a-z])"
_DIGITS = r"[0-9][0-9_]*\.?[0-9]*(?:e[+-]?[0-9]+)?|\.[0-9]+(?:e[+-]?[0-9]+)?"
_NUMBER = rf"({_DIGITS})"
_WRITTEN = {"a": 1.0, "an": 1.0, "one": 1.0, "two": 2.0, "three": 3.0, "four": 4.0, "five": 5.0, "six": 6.0}
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
_MULTIPLES = {"": 1.0, "k": 1e3, "thousand": 1e3, "m": 1e6, "million": 1e6, "b": 1e9, "billion": 1e9}
_MULTIPLE = r"(k|m|b|\s*thousand|\s*million|\s*billion)?"  # 500k, 0.5 million; "0.5 m" would be minutes

_POWER = re.compile(
    rf"(?:{_NUMBER}\s*[x×*·]\s*)?(?<![0-9.])10\s*(?:\^|\*\*)\s*\{{?\+?(-?[0-9]+)\}}?", re.IGNORECASE
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_FLOPS = re.compile(rf"{_NUMBER}\s*(?:({'|'.join(_WORDS)}|[kmgtpezy]?)[- ]?flops?)?", re.IGNORECASE)
_FLOPS_TIME = re.compile(
    rf"{_NUMBER}(k|m)?\s*({'|'.join(_WORDS)}|[tpe])[- ]?f(?:lops?)?(?:/s|-?s(?=[- ]))?[- ]?{_UNIT}",
    re.IGNORECASE,
)
_RATE_TIME = re.compile(
    rf"{_NUMBER}\s*({'|'.join(_WORDS)}|[gtpe])[- ]?flops?/s(?:\s+sustained)?\s+(?:for|over|x|×)\s+(.+)",
    re.IGNORECASE,
)
_DEVICE_TIME = re.compile(
    rf"(?:{_NUMBER}{_MULTIPLE}\s+(?![x×*]\s))?([a-z0-9][a-z0-9 _×*,()-]*?)(?:[- ·]|(?<=[0-9])(?=h)|(?<=[gt]pu)(?=h)){_UNIT}",
    re.IGNORECASE,
)
_ANY_DEVICE = re.compile(r"(?:gpu|tpu|device|accelerator|chip|card)s?", re.IGNORECASE)
_MONEY = re.compile(
    rf"(?:(?:US)?\$|USD)\s*{_NUMBER}{_MULTIPLE}(?:\s*USD)?|{_NUMBER}{_MULTIPLE}\s*(?:USD|(?:US)?\$|(?:US )?dollars?)",
    re.IGNORECASE,
)
_OTHER_MONEY = re.compile(
    r"[€£¥₹]|\b(?:EUR|euros?|GBP|pounds?|CNY|RMB|yuan|JPY|yen|CHF|INR)\b", re.IGNORECASE
)
_ON = re.compile(r"\s*@\s*|\s+(?:on|using)\s+", re.IGNORECASE)
_BETWEEN = re.compile(r"\s+(?:worth of|with|of|for|over|during|x|×|\*)\s+|\s*,\s+", re.IGNORECASE)
_TWO_NUMBERS = re.compile(
    r"[0-9]+\s|.*[\s×x*][0-9]+", re.IGNORECASE
)  # 500 A100 of "10 500 A100-hours"; "A100 x 15"
_MOST_LETTERS = 200  # of a budget
_FEWEST = 1e12  # FLOPs that a bare number on devices may mean: a second of any of them does more
_OWN_MFU = re.compile(r"\bMFU\b", re.IGNORECASE)
_OWN_PRICE = re.compile(r"\$\s*[0-9.,]+\s*(?:/|per|an|a)\s*[a-z0-9 -]*?(?:h|hr|hour)\b", re.IGNORECASE)
_CLOCK = re.compile(r"([0-9]+):([0-5][0-9])(?::([0-5][0-9]))?")
# "1d12h", but not "500 H100h": a unit before a digit stands at its own number.
_PART = re.compile(rf"({_DIGITS}|\b(?:{'|'.join(_WRITTEN)})\b)(?:\s+{_UNIT}(?![0-9])|{_UNIT})", re.IGNORECASE)
_DURATION = re.compile(rf"(?:{_PART.pattern}\s*(?:and\s+|,\s*)?)+", re.IGNORECASE)
# Commas that group thousands before a word: 57,600 A100-hours; 1,500M or 1,234e3 may as well be decimals.
_THOUSANDS = re.compile(
    r"(?<![\w.-])(?<![0-9],)[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9]|[.,][0-9])(?!\s*(?:[kmgtpezyb]\b|e[+-]?[0-9]|thousand|[mbtr]+illion))",
    re.IGNORECASE,
)


class Budget(Record):
    """Training budget: FLOPs, and time and money where an accelerator is named.

    Attributes:
        text: The budget as it was given.
        flops: Training FLOPs.
        device_seconds: Seconds times devices; None without an accelerator.
        accelerator: Name in the catalogue of accelerators, such as "A100"; None for a budget in FLOPs alone.
        devices: Number of devices.
        devices_source: "given", or "assumed" for the one device of a budget that states no number.
        mfu: Model FLOPs utilisation, a share of the device's dense peak.
        mfu_source: "measured", "estimated" or "assumed".
        mfu_interval: Range of an estimated MFU; None for others.
        hourly_price: USD per device-hour if the budget is money or a price was given; None for the catalogue's.
        price_source: Provider and year of that price, or "given".

    Examples:
        >>> budget = parse_budget("8xA100-hours", mfu=0.4)
        >>> f"{budget.flops:.3g}", budget.hours(budget.flops)
        ('3.59e+18', 1.0)
    """

    text: str
    flops: float = Field(gt=0)
    device_seconds: float | None = Field(default=None, gt=0)
    accelerator: str | None = None
    devices: int | None = Field(default=None, ge=1)
    devices_source: Source | None = None
    mfu: float | None = Field(default=None, gt=0, le=1)
    mfu_source: MfuSource | None = None
    mfu_interval: tuple[float, float] | None = None
    hourly_price: float | None = Field(default=None, gt=0)
    price_source: str | None = None

    def hours(self, flops: float) -> float | None:
        """Return wall-clock hours of `flops` on these devices; None without an accelerator."""
        seconds = self.device_seconds_for(flops)
        return None if seconds is None or self.devices is None else seconds / self.devices / 3600

    def device_seconds_for(self, flops: float) -> float | None:
        """Return seconds times devices of `flops`; None without an accelerator."""
        if self.accelerator is None or self.mfu is None:
            return None
        return flops / (accelerator(self.accelerator).training_peak * self.mfu)

    @property
    def hourly(self) -> tuple[float, str] | None:
        """USD per device-hour and where it is from: the budget's own, else the catalogue's; None without one."""
        if self.accelerator is None:
            return None
        if self.hourly_price is not None:
            return self.hourly_price, self.price_source or "given"
        device = accelerator(self.accelerator)
        return None if device.price is None else (device.price, device.price_source)

    def price(self, flops: float) -> float | None:
        """Return USD at the budget's own price, else the catalogue's; None without an accelerator or a price."""
        seconds, hourly = self.device_seconds_for(flops), self.hourly
        return None if seconds is None or hourly is None else hourly[0] * seconds / 3600

    @property
    def fixes_compute(self) -> bool:
        """True for a budget in FLOPs or of a target, which an MFU makes longer; one in time or money buys fewer FLOPs."""
        return self.text.startswith("target ") or parse_flops(self.text) is not None

    def at_mfu(self, mfu: float) -> Self:
        """The same budget at another MFU.

        Args:
            mfu: share of the dense peak, above 0 and up to 1.

        Raises:
            BadInput: the budget names no accelerator.
        """
        if self.mfu is None or self.device_seconds is None:
            raise BadInput(f"budget is {self.text}, which has no MFU; --on 8xA100 names devices")
        share = mfu / self.mfu
        changes: dict[str, float | None] = {"mfu": mfu}
        if self.fixes_compute:
            changes["device_seconds"] = self.device_seconds / share
        else:
            changes["flops"] = self.flops * share
        return self.model_copy(update={**changes, "mfu_interval": None})


def parse_budget(
    text: str,
    *,
    mfu: float | None = None,
    mfu_source: MfuSource = "assumed",
    on: str | None = None,
    price: float | None = None,
) -> Budget:
    """Read a budget: FLOPs, a time on devices, device-hours or money, in the words people use.

    Args:
        text: the budget, like "64 H100 for 2 weeks".
        mfu: model FLOPs utilisation, a share of the dense peak, 0 to 1; default 0.4.
        mfu_source: where the MFU is from; the plan names it.
        on: devices like "8xA100", for a budget that names none or not how many.
        price: USD per device-hour, in place of the catalogue's.

    Raises:
        BadInput: not a budget, not positive and finite, an unknown accelerator, or devices named twice.
    """
    share = _checked_mfu(mfu)
    if price is not None and not (math.isfinite(price) and price > 0):
        raise BadInput(f"price is {price:g}; it must be positive, in USD per device-hour")
    words = " ".join(text.split())
    if len(words) > _MOST_LETTERS:
        raise BadInput(f"budget is {words[:40]!r}…, {len(words)} letters; it must be like {EXAMPLES}")
    if not words:
        raise BadInput(f"budget is empty; it must be like {EXAMPLES}")
    if words.startswith("-"):
        raise BadInput(f"budget is {words}; it must be positive")
    if words.lower() in ("inf", "infinity", "nan"):
        raise BadInput(f"budget is {words}; it must be finite")
    words = _ungrouped(words)
    _refuse_options(words)
    amount, named = _split(words)
    devices = combine(amount.devices, named, None if on is None else _devices(on))
    if devices.problem:
        raise BadInput(f"budget is {words!r}{'' if on is None else f' and --on {on}'}: {devices.problem}")
    device = devices.accelerator
    how_many: Source = "assumed" if devices.count is None else "given"
    source = None if price is None else "given"
    if amount.flops is not None:
        _check_size(words, amount.flops, "FLOPs")
        if named is not None and amount.flops < _FEWEST and re.fullmatch(_DIGITS, amount.text, re.IGNORECASE):
            raise BadInput(
                f"budget is {words!r}: {amount.text} of what? write {amount.text}h for hours, or {amount.text} FLOPs"
            )
        if device is None and price is not None:
            raise BadInput(
                f"budget is {words!r} and price is {price:g} USD per device-hour; --on 8xA100 names the device"
            )
        return Budget(
            text=amount.text,
            flops=amount.flops,
            device_seconds=amount.flops / (device.training_peak * share) if device else None,
            accelerator=device.name if device else None,
            devices=devices.count or 1 if device else None,
            devices_source=how_many if device else None,
            mfu=share if device else None,
            mfu_source=mfu_source if device else None,
            hourly_price=price,
            price_source=source,
        )
    if device is None:
        like = words if devices.count is None else amount.text
        raise BadInput(
            f"budget is {words!r}, which names no device; write {like} on 8xA100, or add --on 8xA100"
        )
    count = devices.count or 1
    if amount.usd is not None:
        if price is None:
            price, source = device.price, device.price_source
        if price is None:
            raise BadInput(
                f"budget is {words!r}, and no price of {device.name} is known; give --price USD per device-hour"
            )
        seconds = amount.usd / price * 3600
    else:
        seconds = amount.device_seconds or (amount.seconds or 0.0) * count
    _check_size(words, seconds, "seconds")
    return Budget(
        text=words,
        flops=seconds * device.training_peak * share,
        device_seconds=seconds,
        accelerator=device.name,
        devices=count,
        devices_source=how_many,
        mfu=share,
        mfu_source=mfu_source,
        hourly_price=price,
        price_source=source,
    )


def _refuse_options(words: str) -> None:
    """Refuse an MFU and a price per hour in the words of a budget.

    Raises:
        BadInput: naming the option that takes it.
    """
    if _OWN_MFU.search(words):
        raise BadInput(f"budget is {words!r}: an MFU is an option of its own, like --mfu 50%")
    if _OWN_PRICE.search(words):
        raise BadInput(
            f"budget is {words!r}: a price per device-hour is an option of its own, like --price 2.50"
        )


def split_budgets(text: str) -> list[str]:
    """Several budgets separated by commas, which also group the thousands of one.

    Raises:
        BadInput: a comma may be a decimal one, as in 1,4e18.
    """
    words = _ungrouped(text.strip())
    parts = [part.strip() for part in words.split(",")]
    return parts if all(parts) else [words]


def parse_devices(text: str) -> tuple[int | None, Accelerator]:
    """Read "8xA100", "8 A100s" or "A100", whose number is None.

    Raises:
        BadInput: the accelerator is unknown, or there are no devices.
    """
    found = _devices(text)
    if found.accelerator is None:
        raise BadInput(f"devices is {text!r}; it must be like 8xA100")
    return found.count, found.accelerator


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


def _devices(text: str) -> Devices:
    found = read_devices(text)
    if found.problem:
        raise BadInput(found.problem)
    return found


def _ungrouped(text: str) -> str:
    """A text without the commas that group thousands, of a plain number or before a word: 57,600 A100-hours."""
    return ungrouped(_THOUSANDS.sub(lambda found: found[0].replace(",", ""), text), "budget")


def _number(text: str) -> float:
    written = _WRITTEN.get(text.lower())
    return float(text.replace("_", "")) if written is None else written


def _prefix(text: str | None) -> float:
    letters = (text or "").lower()
    return _PREFIXES[_WORDS.get(letters, letters)]


def _multiple(text: str | None) -> float:
    return _MULTIPLES[(text or "").strip().lower()]


def _seconds(unit: str) -> float:
    letters = unit.lower()
    return _SECONDS["mo" if letters.startswith("mo") else letters[0]]


def parse_flops(text: str) -> float | None:
    """FLOPs of 1.4e18, 10^21, 20 EFLOPs or 0.02 PF-days; None of anything else."""
    words = re.sub(
        r"(?<=10)[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda found: "^" + found[0].translate(_SUPERSCRIPTS), text.strip()
    )
    power = _POWER.match(words)
    if power is not None:
        words = f"{_number(power[1]) if power[1] else 1.0!r}e{power[2]}{words[power.end() :]}"
        if power[1] and not re.fullmatch(r"[0-9]+\.?[0-9]*", power[1]):
            return None
    if (match := _FLOPS.fullmatch(words)) is not None:
        return _number(match[1]) * _prefix(match[2])
    if (match := _FLOPS_TIME.fullmatch(words)) is not None:
        return _number(match[1]) * _multiple(match[2]) * _prefix(match[3]) * _seconds(match[4])
    rate = _RATE_TIME.fullmatch(words)
    if rate is not None and (seconds := _duration(rate[3])) is not None:
        return _number(rate[1]) * _prefix(rate[2]) * seconds
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Amount:
    """How much of something: one of FLOPs, seconds of wall clock, seconds times devices, or USD.

    devices: those in its unit, A100 of A100-hours.
    """

    text: str
    flops: float | None = None
    seconds: float | None = None
    device_seconds: float | None = None
    usd: float | None = None
    devices: Devices | None = None


def _amount(words: str) -> _Amount | None:
    """An amount without the devices it is spent on; None of anything else."""
    flops = parse_flops(words)
    if flops is not None:
        return _Amount(text=words, flops=flops)
    money = _MONEY.fullmatch(words)
    if money is not None:
        number, multiple = (money[1], money[2]) if money[1] else (money[3], money[4])
        return _Amount(text=words, usd=_number(number) * _multiple(multiple))
    seconds = _duration(words)
    if seconds is not None:
        return _Amount(text=words, seconds=seconds)
    match = _DEVICE_TIME.fullmatch(words)
    if match is None or (match[1] is not None and _TWO_NUMBERS.match(match[3])):
        return None
    amount = 1.0 if match[1] is None else _number(match[1]) * _multiple(match[2])
    devices = Devices() if _ANY_DEVICE.fullmatch(match[3]) else read_devices(match[3])
    if devices.problem and devices.accelerator is not None:
        devices = Devices(accelerator=devices.accelerator)  # A100s-hours: the number is of hours
    if devices.problem or (devices.accelerator is None and not _ANY_DEVICE.fullmatch(match[3])):
        return None
    total = amount * (devices.count or 1) * _seconds(match[4])
    return _Amount(text=words, device_seconds=total, devices=devices)


def _pairs(words: str) -> Iterator[tuple[str, str, str]]:
    """Two parts of a budget, in both orders, and the word between where it says which is which: @, on, using.

    24h on 8xA100, 8xA100 for 24h, 24h (8xA100), 8xA100 24h.
    """
    for match in _ON.finditer(words):
        yield words[: match.start()], words[match.end() :], match[0].strip().lower()
    spans = [match.span() for match in _BETWEEN.finditer(words)]
    bracket = re.fullmatch(r"(.+?)\s*\((.+)\)", words)
    if bracket is not None:
        yield bracket[1], bracket[2], ""
        yield bracket[2], bracket[1], ""
    for start, end in [*spans, *(match.span() for match in re.finditer(r"\s+|(?<=[a-z0-9])@", words))]:
        yield words[:start], words[end:], ""
        yield words[end:], words[:start], ""


def _split(words: str) -> tuple[_Amount, Devices | None]:
    """The amount of a budget, and the devices named beside it.

    Raises:
        BadInput: no amount, or devices that are not understood.
    """
    amount = _amount(words)
    if amount is not None:
        return amount, None
    problem = ""
    for left, right, between in _pairs(words):
        amount = _amount(left)
        if amount is None or (amount.flops is not None and between in ("", "@")):  # 8 of "8 A100" is no FLOPs
            continue
        devices = read_devices(right)
        if amount.seconds is None and amount.flops is None and devices.problem and devices.accelerator:
            devices = Devices(accelerator=devices.accelerator)  # H100s: device-hours need no number
        if between and devices.problem:
            raise BadInput(devices.problem)
        if not devices.problem and (between or devices.accelerator is not None or amount.seconds is not None):
            if devices.accelerator is None and not re.search("[a-z]", right, re.IGNORECASE):
                continue  # a bare number names no devices
            return amount, devices
        if amount.seconds is not None and (
            devices.accelerator is not None or _said_apart(left, right, words)
        ):
            problem = problem or devices.problem  # A100s for 24h, 8 Gaudi2 for 1 day
    raise BadInput(problem or _misread(words))


def _said_apart(left: str, right: str, words: str) -> bool:
    """True for two parts with a word like for between them, in either order."""
    return bool(_BETWEEN.fullmatch(words, len(left), len(words) - len(right))) or bool(
        _BETWEEN.fullmatch(words, len(right), len(words) - len(left))
    )


def _misread(words: str) -> str:
    """One line on a text that is no budget: the part that is not understood, or what a budget is like."""
    if _OTHER_MONEY.search(words):
        return f"budget is {words!r}; prices are in USD: write it like $5000 on H100"
    match = _DEVICE_TIME.fullmatch(words)
    if match is not None and not _TWO_NUMBERS.match(match[3]) and (problem := read_devices(match[3]).problem):
        return problem
    if re.search(r"@|\bon\b", words):
        left = re.split(r"\s*(?:@|\bon\b)", words, maxsplit=1)[0]
        return f"budget is {words!r}: {left!r} is not a time; write 24h, 90min, 3 days or 02:44 (hh:mm)"
    if not read_devices(words).problem:
        return f"budget is {words!r}, devices without a time; it must be like {EXAMPLES}"
    return f"budget is {words!r}; it must be like {EXAMPLES}"


def parse_duration(words: str) -> float:
    """Seconds of 24h, 66m40.167s, 3 days, a week; a bare clock time is hours and minutes.

    A month is 30 days and a year 365.

    Raises:
        BadInput: the text is not a time.
    """
    seconds = _duration(words)
    if seconds is None:
        raise BadInput(f"{words!r} is not a time; write 24h, 90min, 3 days or 02:44 (hh:mm)")
    return seconds


def _duration(text: str) -> float | None:
    words = text.strip()
    clock = _CLOCK.fullmatch(words)
    if clock is not None:
        return 3600.0 * int(clock[1]) + 60.0 * int(clock[2]) + int(clock[3] or 0)
    if len(words) > _MOST_LETTERS or _DURATION.fullmatch(words) is None:
        return None
    return math.fsum(_number(part[1]) * _seconds(part[2] or part[3]) for part in _PART.finditer(words))
