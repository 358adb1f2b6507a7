"""Accelerators: dense peak FLOP/s by number format, memory, bandwidth and price, each with its source."""

import os
import re
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator

from families.units import BadInput, nearest

from .files import Document, Record

_TRAINING_FORMATS = ("bf16", "fp16", "fp32")  # an accelerator trains in the first that it has


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One device. Peaks are dense: vendors' figures "with sparsity" are twice as high and do not apply to training.

    Args:
        name: as --on and budgets name it.
        peak: FLOP/s of the matrix units by number format, accumulating in 32 bits.
        memory: bytes.
        bandwidth: bytes/s of that memory.
        price: USD per device-hour, a typical on-demand list price of 2025; None where it is not rented by the hour.
        source: where the figures are from.
    """

    name: str
    peak: dict[str, float]
    memory: float
    bandwidth: float
    price: float | None
    source: str

    @property
    def training_format(self) -> str:
        """Number format of training: bf16 where the device has it, else fp16, else fp32."""
        return next(name for name in _TRAINING_FORMATS if name in self.peak)

    @property
    def training_peak(self) -> float:
        """Dense FLOP/s in `training_format`, the denominator of an MFU."""
        return self.peak[self.training_format]

    def facts(self) -> dict[str, object]:
        """Return all fields, training format and peak included."""
        return {**asdict(self), "training_format": self.training_format, "training_peak": self.training_peak}


def _entry(
    name: str, memory_gb: float, gb_per_s: float, price: float | None, source: str, **teraflops: float
) -> Accelerator:
    return Accelerator(
        name=name,
        peak={key: value * 1e12 for key, value in teraflops.items()},
        memory=memory_gb * 1e9,
        bandwidth=gb_per_s * 1e9,
        price=price,
        source=source,
    )


# Dense TFLOP/s by number format; where a vendor prints figures with sparsity, half of them (NVIDIA prints them so from
# the A100 on: 1,979 for an H100's bf16 is 989.5 dense, printed as 989). RTX cards at 32-bit accumulation, half of the
# advertised fp16. Prices: typical on-demand list prices of 2025 per device-hour, of the provider named last. They change
# monthly: costs are approximate, and hardware.json takes current prices.
_TABLE = """
accelerator   GB  GB/s  USD/h     fp8    bf16    fp16   tf32   fp32  source; price
V100          16   900   3.06       -       -     125      -   15.7  NVIDIA datasheet, V100 SXM2 16 GB; AWS p3.2xlarge
V100-32GB     32   900   3.90       -       -     125      -   15.7  NVIDIA datasheet, V100 SXM2 32 GB; AWS p3dn.24xlarge / 8
A100-40GB     40  1555   1.29       -     312     312    156   19.5  NVIDIA datasheet, A100 SXM4 40 GB; Lambda
A100          80  2039   1.79       -     312     312    156   19.5  NVIDIA datasheet, A100 SXM4 80 GB; Lambda
H100-PCIe     80  2000   2.49    1513     756     756    378     51  NVIDIA datasheet, H100 PCIe; Lambda
H100          80  3350   2.99    1979     989     989  494.5     67  NVIDIA datasheet, H100 SXM5; Lambda, 8x
H200         141  4800   3.59    1979     989     989  494.5     67  NVIDIA datasheet, H200 SXM; RunPod
B200         180  7700   4.99    4500    2250    2250   1100     75  NVIDIA Blackwell datasheet, HGX B200; Lambda
L4            24   300   0.71   242.5     121     121     60   30.3  NVIDIA datasheet, L4; Google g2-standard-4
L40S          48   864   0.86     733     362     362    183   91.6  NVIDIA datasheet, L40S; RunPod
A10G          24   600   1.01       -      70      70     35   31.5  NVIDIA datasheet, A10G; AWS g5.xlarge
T4            16   320   0.53       -       -      65      -    8.1  NVIDIA datasheet, T4; AWS g4dn.xlarge
RTX-3090      24   936   0.46       -      71      71   35.6   35.6  NVIDIA GA102 whitepaper, 32-bit sums; RunPod
RTX-4090      24  1008   0.69   330.3   165.2   165.2   82.6   82.6  NVIDIA Ada whitepaper, 32-bit sums; RunPod
RTX-5090      32  1792   0.94     419   209.5   209.5  104.8  104.8  NVIDIA RTX Blackwell whitepaper, 32-bit sums; RunPod
MI250X       128  3277      -       -     383     383      -   47.9  AMD datasheet, both dies; not rented by the hour
MI300X       192  5300   2.49  2614.9  1307.4  1307.4  653.7  163.4  AMD datasheet; RunPod
TPU-v4        32  1228   3.22       -     275       -      -      -  Google Cloud TPU v4 documentation, per chip; list
TPU-v5e       16   819   1.20       -     197       -      -      -  Google Cloud TPU v5e documentation, per chip; list
TPU-v5p       95  2765   4.20       -     459       -      -      -  Google Cloud TPU v5p documentation, per chip; list
"""


def _read_table(text: str) -> dict[str, Accelerator]:
    header, *rows = text.strip().splitlines()
    formats = header.split()[4:9]
    entries = {}
    for row in rows:
        name, memory, bandwidth, price, *rest = row.split(maxsplit=9)
        peaks = {key: float(cell) for key, cell in zip(formats, rest, strict=False) if cell != "-"}
        cost = None if price == "-" else float(price)
        entries[name] = _entry(name, float(memory), float(bandwidth), cost, rest[5], **peaks)
    return entries


CATALOGUE = _read_table(_TABLE)

_ALIASES = {
    "A100-80GB": "A100",
    "V100-16GB": "V100",
    "H100-SXM": "H100",
    "H100-SXM5": "H100",
    "H100-80GB": "H100",
    "H200-SXM": "H200",
    "3090": "RTX-3090",
    "4090": "RTX-4090",
    "5090": "RTX-5090",
    "v4": "TPU-v4",
    "v5e": "TPU-v5e",
    "v5p": "TPU-v5p",
}


USER_FILE = "SCALING_HARDWARE"  # environment variable: path of the user's hardware.json


class OwnAccelerator(Record):
    """An entry of hardware.json: peaks in dense TFLOP/s by number format, memory in GB, bandwidth in GB/s."""

    name: str = Field(min_length=1)
    teraflops: dict[str, float] = Field(min_length=1)
    memory_gb: float = Field(gt=0)
    bandwidth_gb_s: float = Field(gt=0)
    price: float | None = Field(default=None, ge=0)
    source: str = "your own file"

    @field_validator("teraflops")
    @classmethod
    def _trains(cls, value: dict[str, float]) -> dict[str, float]:
        if not set(value) & set(_TRAINING_FORMATS):
            raise ValueError(f"one of {', '.join(_TRAINING_FORMATS)} is needed")
        if any(not peak > 0 for peak in value.values()):
            raise ValueError("every peak must be positive")
        return value


class HardwareFile(Document):
    """hardware.json: the user's accelerators, which take precedence over the catalogue."""

    KIND: ClassVar[str] = "hardware"

    accelerators: tuple[OwnAccelerator, ...]


def user_file() -> Path:
    """Return the path of the user's file: $SCALING_HARDWARE, else scaling/hardware.json in the configuration folder."""
    named = os.environ.get(USER_FILE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "scaling" / "hardware.json"


@cache
def _own(path: Path) -> dict[str, Accelerator]:
    if not path.exists():
        return {}
    return {
        own.name: _entry(own.name, own.memory_gb, own.bandwidth_gb_s, own.price, own.source, **own.teraflops)
        for own in HardwareFile.read(path).accelerators
    }


def known() -> dict[str, Accelerator]:
    """Return the catalogue, with the additions and replacements of the user's file.

    Raises:
        BadInput: the user's file cannot be read.
    """
    return {**CATALOGUE, **_own(user_file())}


def _folded(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _by_name() -> dict[str, Accelerator]:
    aliases = {_folded(alias): CATALOGUE[name] for alias, name in _ALIASES.items()}
    return aliases | {_folded(name): entry for name, entry in known().items()}


def accelerator(name: str) -> Accelerator:
    """Return the accelerator of that name. Case, spaces and hyphens are ignored, and A100 is the 80 GB model.

    Raises:
        BadInput: the name is unknown; with the nearest match.
    """
    entry = _by_name().get(_folded(name))
    if entry is None:
        names = known()
        raise BadInput(f"accelerator is {name.strip()!r}; {nearest(name, names, len(names))}")
    return entry


def recognise(name: str) -> tuple[int, Accelerator | None]:
    """Find number and kind of device in a driver's name ("NVIDIA A100-SXM4-40GB") or a text like "8xA100".

    All words of a known name must occur, in their order: an L40 is not an L4.
    """
    match = re.fullmatch(r"(?:([0-9]+)\s*x\s*)?(.*)", name.strip(), re.IGNORECASE)
    count, rest = (int(match[1] or 1), match[2].lower()) if match else (1, "")
    names, spelled = _by_name(), {_folded(one): one for one in (*_ALIASES, *known())}
    # "v4" alone is a TPU in a user's text; within a driver's name it means something else.
    usable = [one for one in names if len(one) > 3 or not one.startswith("v")]
    inside = [one for one in usable if re.search(_whole_words(spelled[one]), rest)]
    return count, names[max(inside, key=len)] if inside else None


@cache
def _whole_words(name: str) -> str:
    """Return a pattern for the words of a name in their order, with other words between them or not."""
    words = re.findall(r"[^\W_]+", name.lower())
    between = r"(?:[\W_]*|(?![^\W_]).*(?<![^\W_]))"
    return rf"(?<![^\W_]){between.join(words)}s?(?![^\W_])" if words else "(?!)"
