"""Accelerators: dense peak FLOP/s by number format, memory, bandwidth, price; each with its source."""

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator

from families.errors import BadInput
from families.units import nearest

from .files import Document, Record

_TRAINING_FORMATS = ("bf16", "fp16", "fp32")  # the first that an accelerator has is what it trains in


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One device. Peaks are dense: vendors' "with sparsity" figures are twice as high, and training never
    sees them.

    peak: FLOP/s of the matrix units by number format, accumulating in 32 bits.
    memory: bytes. bandwidth: bytes/s of that memory.
    price: USD per device-hour, a typical on-demand list price of 2025, or None where nobody rents it by the
    hour.
    """

    name: str
    peak: dict[str, float]
    memory: float
    bandwidth: float
    price: float | None
    source: str

    @property
    def training_format(self) -> str:
        """bf16 where the device has it, else fp16, else fp32."""
        return next(name for name in _TRAINING_FORMATS if name in self.peak)

    @property
    def training_peak(self) -> float:
        """Dense FLOP/s in `training_format`: what an MFU is a share of."""
        return self.peak[self.training_format]


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


_NV = "NVIDIA datasheet"
CATALOGUE: dict[str, Accelerator] = {
    entry.name: entry
    for entry in (
        _entry("V100", 16, 900, 3.06, f"{_NV}, V100 SXM2 16 GB; price AWS p3.2xlarge", fp16=125, fp32=15.7),
        _entry(
            "V100-32GB",
            32,
            900,
            3.90,
            f"{_NV}, V100 SXM2 32 GB; price AWS p3dn.24xlarge / 8",
            fp16=125,
            fp32=15.7,
        ),
        _entry(
            "A100-40GB",
            40,
            1555,
            1.29,
            f"{_NV}, A100 SXM4 40 GB; price Lambda",
            bf16=312,
            fp16=312,
            tf32=156,
            fp32=19.5,
        ),
        _entry(
            "A100",
            80,
            2039,
            1.79,
            f"{_NV}, A100 SXM4 80 GB; price Lambda",
            bf16=312,
            fp16=312,
            tf32=156,
            fp32=19.5,
        ),
        _entry(
            "H100-PCIe",
            80,
            2000,
            2.49,
            f"{_NV}, H100 PCIe: half of its sparse figures; price Lambda",
            fp8=1513,
            bf16=756,
            fp16=756,
            tf32=378,
            fp32=51,
        ),
        _entry(
            "H100",
            80,
            3350,
            2.99,
            f"{_NV}, H100 SXM5: half of its sparse figures; price Lambda, 8x",
            fp8=1979,
            bf16=989,
            fp16=989,
            tf32=494.5,
            fp32=67,
        ),
        _entry(
            "H200",
            141,
            4800,
            3.59,
            f"{_NV}, H200 SXM: half of its sparse figures; price RunPod",
            fp8=1979,
            bf16=989,
            fp16=989,
            tf32=494.5,
            fp32=67,
        ),
        _entry(
            "B200",
            180,
            7700,
            4.99,
            f"{_NV}, DGX B200 / 8: half of its sparse figures; price Lambda",
            fp8=4500,
            bf16=2250,
            fp16=2250,
            tf32=1125,
            fp32=75,
        ),
        _entry(
            "L4",
            24,
            300,
            0.71,
            f"{_NV}, L4: half of its sparse figures; price Google g2-standard-4",
            fp8=242.5,
            bf16=121,
            fp16=121,
            tf32=60,
            fp32=30.3,
        ),
        _entry(
            "L40S",
            48,
            864,
            0.86,
            f"{_NV}, L40S, without sparsity; price RunPod",
            fp8=733,
            bf16=362,
            fp16=362,
            tf32=183,
            fp32=91.6,
        ),
        _entry(
            "A10G",
            24,
            600,
            1.01,
            f"{_NV}, A10G, without sparsity; price AWS g5.xlarge",
            bf16=70,
            fp16=70,
            tf32=35,
            fp32=31.5,
        ),
        _entry("T4", 16, 320, 0.53, f"{_NV}, T4; price AWS g4dn.xlarge", fp16=65, fp32=8.1),
        _entry(
            "RTX-3090",
            24,
            936,
            0.46,
            "NVIDIA GA102 whitepaper, FP32 accumulate, without sparsity; price RunPod",
            bf16=71,
            fp16=71,
            tf32=35.6,
            fp32=35.6,
        ),
        _entry(
            "RTX-4090",
            24,
            1008,
            0.69,
            "NVIDIA Ada whitepaper, FP32 accumulate, without sparsity; price RunPod",
            fp8=330.3,
            bf16=165.2,
            fp16=165.2,
            tf32=82.6,
            fp32=82.6,
        ),
        _entry(
            "RTX-5090",
            32,
            1792,
            0.94,
            "NVIDIA RTX Blackwell whitepaper, FP32 accumulate, without sparsity; price RunPod",
            fp8=419,
            bf16=209.5,
            fp16=209.5,
            tf32=104.8,
            fp32=104.8,
        ),
        _entry(
            "MI250X",
            128,
            3277,
            None,
            "AMD datasheet, both dies; sold in supercomputers, not by the hour",
            bf16=383,
            fp16=383,
            fp32=47.9,
        ),
        _entry(
            "MI300X",
            192,
            5300,
            2.49,
            "AMD datasheet, without sparsity; price RunPod",
            fp8=2614.9,
            bf16=1307.4,
            fp16=1307.4,
            tf32=653.7,
            fp32=163.4,
        ),
        _entry(
            "TPU-v4", 32, 1228, 3.22, "Google Cloud TPU v4 documentation and price list, per chip", bf16=275
        ),
        _entry(
            "TPU-v5e", 16, 819, 1.20, "Google Cloud TPU v5e documentation and price list, per chip", bf16=197
        ),
        _entry(
            "TPU-v5p", 95, 2765, 4.20, "Google Cloud TPU v5p documentation and price list, per chip", bf16=459
        ),
    )
}

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


USER_FILE = "SCALING_HARDWARE"  # environment variable that names a file of one's own


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
    """hardware.json: accelerators of one's own, before those of the catalogue."""

    KIND: ClassVar[str] = "hardware"

    accelerators: tuple[OwnAccelerator, ...]


def user_file() -> Path:
    """$SCALING_HARDWARE, else scaling/hardware.json in the user's configuration folder."""
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
    """The catalogue, and what the user's own file adds to it or puts in its place.

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
    """The accelerator of that name; case, spaces and hyphens do not matter, and A100 means the 80 GB one.

    Raises:
        BadInput: naming the known ones, the nearest first.
    """
    found = _by_name().get(_folded(name))
    if found is None:
        names = known()
        raise BadInput(f"accelerator is {name.strip()!r}; {nearest(name, names, len(names))}")
    return found


def recognise(name: str) -> tuple[int, Accelerator | None]:
    """How many, and which: from what a driver calls a device ("NVIDIA A100-SXM4-80GB") or people write
    ("8xA100").
    """
    match = re.fullmatch(r"(?:([0-9]+)\s*x\s*)?(.*)", name.strip(), re.IGNORECASE)
    count, rest = (int(match[1] or 1), _folded(match[2])) if match else (1, "")
    names = _by_name()
    # A TPU's bare "v4" is a person's word for it; inside a driver's name it is something else.
    inside = [name for name in names if name in rest and (len(name) > 3 or not name.startswith("v"))]
    return count, names[max(inside, key=len)] if inside else None
