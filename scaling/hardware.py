"""Accelerators with their published figures, and how their names are read.

Figures are dense peak FLOP/s by number format, memory, bandwidth and price, each with its source.

A device's name is matched whole: every word is one of the catalogue's name, or of the few that do not change the
device (its vendor, its memory where there is only one); else it is another device, and unknown.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator

from families.units import BadInput, nearest

from .files import Document, Record

_TRAINING_FORMATS = ("bf16", "fp16", "fp32")  # an accelerator trains in the first that it has
PRICES_OF = 2025  # the year of the catalogue's list prices


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One device. Peaks are dense: vendors' figures "with sparsity" are twice as high and do not apply to training.

    Args:
        name: as --on and budgets name it.
        peak: FLOP/s of the matrix units by number format, accumulating in 32 bits.
        memory: bytes.
        bandwidth: bytes/s of that memory.
        price: USD per device-hour, a typical on-demand list price of PRICES_OF; None where none is known.
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

    @property
    def price_source(self) -> str:
        """Provider and year of the price: "Lambda, 8x, list price of 2025"."""
        peaks, _, seller = self.source.partition("; ")
        return f"{seller}, list price of {PRICES_OF}" if seller else peaks

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
# advertised fp16; A6000, RTX 6000 and RTX PRO accumulate in 32 bits at the full rate. A device is what torch counts as
# one: a die of an MI250 or MI250X, a GPU of a GB200's two, a chip of a TPU. Prices: typical on-demand list prices of
# PRICES_OF per device-hour, of the provider named last. They change monthly: costs are approximate, and --price and
# hardware.json take current prices. The training peaks of 34 of 45 rows were confirmed by a second public source (Lightning's
# and torchtitan's tables of peaks, Google's pages of each TPU, NVIDIA's whitepapers as others quote them); "not confirmed" are
# those of which no other source was at hand, or whose other source says otherwise (A10G: the A10's 125; TPU v2: 45; GB200:
# 2,450; B300: 270 GB).
_NOT_CONFIRMED = frozenset(
    [
        "A10G",
        "H200-NVL",
        "GH200",
        "GH200-144GB",
        "B300",
        "GB200",
        "RTX-3090-Ti",
        "RTX-6000-Ada",
        "RTX-5090",
        "RTX-PRO-6000",
        "TPU-v2",
    ]
)
_TABLE = """
accelerator      GB  GB/s  USD/h     fp8    bf16    fp16   tf32   fp32  source; price
V100             16   900   3.06       -       -     125      -   15.7  NVIDIA datasheet, V100 SXM2 16 GB; AWS p3.2xlarge
V100-32GB        32   900   3.90       -       -     125      -   15.7  NVIDIA datasheet, V100 SXM2 32 GB; AWS p3dn.24xlarge / 8
V100-PCIe        16   900      -       -       -     112      -     14  NVIDIA datasheet, V100 PCIe 16 GB; no price
V100-PCIe-32GB   32   900      -       -       -     112      -     14  NVIDIA datasheet, V100 PCIe 32 GB; no price
A100-40GB        40  1555   1.29       -     312     312    156   19.5  NVIDIA datasheet, A100 SXM4 40 GB; Lambda
A100             80  2039   1.79       -     312     312    156   19.5  NVIDIA datasheet, A100 SXM4 80 GB; Lambda
A800             80  2039      -       -     312     312    156   19.5  NVIDIA datasheet, A800 SXM4 80 GB; no price
A30              24   933      -       -     165     165     82   10.3  NVIDIA datasheet, A30; no price
A40              48   696      -       -   149.7   149.7   74.8   37.4  NVIDIA datasheet, A40; no price
A10              24   600   0.75       -     125     125   62.5   31.2  NVIDIA datasheet, A10; Lambda
A10G             24   600   1.01       -      70      70     35   31.5  NVIDIA datasheet, A10G; AWS g5.xlarge
A6000            48   768   0.80       -   154.8   154.8   77.4   38.7  NVIDIA RTX A6000 datasheet; Lambda
H100-PCIe        80  2000   2.49    1513     756     756    378     51  NVIDIA datasheet, H100 PCIe; Lambda
H100-NVL         94  3938      -  1670.5   835.5   835.5  417.5     60  NVIDIA datasheet, H100 NVL; no price
H100             80  3350   2.99    1979     989     989  494.5     67  NVIDIA datasheet, H100 SXM5; Lambda, 8x
H800             80  3350      -    1979     989     989  494.5     67  NVIDIA datasheet, H800 SXM5; no price
H20              96  4000      -     296     148     148     74     44  NVIDIA datasheet, H20 96 GB; no price
H200            141  4800   3.59    1979     989     989  494.5     67  NVIDIA datasheet, H200 SXM; RunPod
H200-NVL        141  4800      -  1670.5   835.5   835.5  417.5     60  NVIDIA datasheet, H200 NVL; no price
GH200            96  4000   1.49    1979     989     989  494.5     67  NVIDIA datasheet, GH200 with 96 GB HBM3; Lambda
GH200-144GB     144  4900      -    1979     989     989  494.5     67  NVIDIA datasheet, GH200 with 144 GB HBM3e; no price
B200            180  7700   4.99    4500    2250    2250   1100     75  NVIDIA Blackwell datasheet, HGX B200; Lambda
B300            288  8000      -    4500    2250    2250   1125     75  NVIDIA Blackwell Ultra datasheet, HGX B300; no price
GB200           186  8000      -    5000    2500    2500   1250     80  NVIDIA GB200 NVL72 datasheet, one GPU of two; no price
L4               24   300   0.71   242.5     121     121     60   30.3  NVIDIA datasheet, L4; Google g2-standard-4
L40              48   864      -   362.1  181.05  181.05   90.5   90.5  NVIDIA datasheet, L40; no price
L40S             48   864   0.86     733     362     362    183   91.6  NVIDIA datasheet, L40S; RunPod
T4               16   320   0.53       -       -      65      -    8.1  NVIDIA datasheet, T4; AWS g4dn.xlarge
RTX-3090         24   936   0.46       -      71      71   35.6   35.6  NVIDIA GA102 whitepaper, 32-bit sums; RunPod
RTX-3090-Ti      24  1008      -       -      80      80     40     40  NVIDIA RTX 3090 Ti specifications, 32-bit sums; no price
RTX-4090         24  1008   0.69   330.3   165.2   165.2   82.6   82.6  NVIDIA Ada whitepaper, 32-bit sums; RunPod
RTX-6000-Ada     48   960      -   728.5   364.2   364.2  182.1   91.1  NVIDIA Ada whitepaper, RTX 6000 Ada; no price
RTX-5090         32  1792   0.94     419   209.5   209.5  104.8  104.8  NVIDIA RTX Blackwell whitepaper, 32-bit sums; RunPod
RTX-PRO-6000     96  1792      -  1007.6   503.8   503.8  251.9    126  NVIDIA RTX PRO Blackwell whitepaper, Workstation; no price
MI250            64  1638      -       -   181.1   181.1      -   45.3  AMD datasheet, one die (GCD) of a card's two; no price
MI250X           64  1638      -       -   191.5   191.5      -   47.9  AMD datasheet, one die (GCD) of a card's two; no price
MI300X          192  5300   2.49  2614.9  1307.4  1307.4  653.7  163.4  AMD datasheet; RunPod
MI325X          256  6000      -  2614.9  1307.4  1307.4  653.7  163.4  AMD datasheet; no price
MI355X          288  8000      -  5033.2  2516.6  2516.6      -  157.3  AMD datasheet; no price
TPU-v2           16   700      -       -      46       -      -      -  Google Cloud TPU v2 documentation, per chip; no price
TPU-v3           32   900      -       -     123       -      -      -  Google Cloud TPU v3 documentation, per chip; no price
TPU-v4           32  1228   3.22       -     275       -      -      -  Google Cloud TPU v4 documentation, per chip; list
TPU-v5e          16   819   1.20       -     197       -      -      -  Google Cloud TPU v5e documentation, per chip; list
TPU-v5p          95  2765   4.20       -     459       -      -      -  Google Cloud TPU v5p documentation, per chip; list
TPU-v6e          32  1638   2.70       -     918       -      -      -  Google Cloud TPU v6e documentation, per chip; list
"""


def _read_table(text: str) -> dict[str, Accelerator]:
    header, *rows = text.strip().splitlines()
    formats = header.split()[4:9]
    entries = {}
    for row in rows:
        name, memory, bandwidth, price, *rest = row.split(maxsplit=9)
        peaks = {key: float(cell) for key, cell in zip(formats, rest, strict=False) if cell != "-"}
        cost = None if price == "-" else float(price)
        source = rest[5].replace(";", " (not confirmed);") if name in _NOT_CONFIRMED else rest[5]
        entries[name] = _entry(name, float(memory), float(bandwidth), cost, source, **peaks)
    return entries


CATALOGUE = _read_table(_TABLE)

_ALIASES = {
    "RTX-A6000": "A6000",
    "3090": "RTX-3090",
    "3090-Ti": "RTX-3090-Ti",
    "4090": "RTX-4090",
    "5090": "RTX-5090",
    "RTX-PRO-6000-Blackwell": "RTX-PRO-6000",
    "RTX-PRO-6000-Blackwell-Workstation": "RTX-PRO-6000",
    "v2": "TPU-v2",
    "v3": "TPU-v3",
    "v4": "TPU-v4",
    "v5e": "TPU-v5e",
    "v5lite": "TPU-v5e",
    "v5litepod": "TPU-v5e",
    "TPU-v5-lite": "TPU-v5e",  # as JAX names it
    "TPU-v5-litepod": "TPU-v5e",
    "v5p": "TPU-v5p",
    "v6e": "TPU-v6e",
    "TPU-v6-lite": "TPU-v6e",
    "Trillium": "TPU-v6e",
    "TPU-Trillium": "TPU-v6e",
}

# Words that may stand beside a device's own without making it another one.
_SAME_DEVICE = {
    "V100": "sxm 16gb hbm2",
    "V100-32GB": "sxm hbm2",
    "V100-PCIe": "16gb hbm2",
    "V100-PCIe-32GB": "hbm2",
    "A100-40GB": "sxm pcie hbm2",
    "A100": "sxm pcie 80gb hbm2e",
    "A800": "sxm 80gb hbm2e",
    "A30": "pcie 24gb hbm2",
    "A40": "pcie 48gb",
    "A10": "pcie 24gb",
    "A10G": "24gb",
    "A6000": "48gb",
    "H100-PCIe": "80gb hbm2e",
    "H100-NVL": "pcie 94gb hbm3",
    "H100": "sxm 80gb hbm3",
    "H800": "sxm 80gb hbm3",
    "H20": "sxm 96gb hbm3",
    "H200": "sxm 141gb hbm3e",
    "H200-NVL": "pcie 141gb hbm3e",
    "GH200": "96gb 120gb 480gb hbm3",  # 120 and 480 GB are the processor's
    "GH200-144GB": "hbm3e",
    "B200": "sxm 180gb hbm3e",
    "B300": "sxm 288gb hbm3e",
    "GB200": "186gb hbm3e",
    "L4": "pcie 24gb",
    "L40": "pcie 48gb",
    "L40S": "pcie 48gb",
    "T4": "pcie 16gb",
    "RTX-3090": "24gb",
    "RTX-3090-Ti": "24gb",
    "RTX-4090": "24gb",
    "RTX-6000-Ada": "48gb",
    "RTX-5090": "32gb",
    "RTX-PRO-6000": "96gb",
    "MI250": "oam hbm2e",
    "MI250X": "oam hbm2e",
    "MI300X": "oam 192gb hbm3",
    "MI325X": "oam 256gb hbm3e",
    "MI355X": "oam 288gb hbm3e",
}
CORES = {
    "TPU-v2": 2,
    "TPU-v3": 2,
    "TPU-v4": 2,
    "TPU-v5p": 2,
}  # to a chip; slices of these are named by cores

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


# Words that say nothing of which device it is.
_PLURALS = frozenset({"gpus", "devices", "cards", "accelerators", "chips", "tpus"})
_VENDOR = _PLURALS | {
    "nvidia",
    "amd",
    "google",
    "cloud",
    "geforce",
    "tesla",
    "instinct",
    "generation",
    "edition",
}
_VENDOR |= {"gpu", "device", "card", "accelerator", "chip"}
_FORM = re.compile(r"sxm|pcie|nvl|oam|hbm[0-9]e?|gddr[0-9]x?|[0-9]+gb")  # a device's form and memory
_GLUED = re.compile(r"(?<=[0-9])(sxm|pcie|nvl)", re.IGNORECASE)  # H100SXM5
# Words that, next to the name of a user's device, make it another device.
_NEIGHBOUR = frozenset({"ti", "super", "laptop", "mobile", "max", "q", "maxq", "d", "mig", "nvl", "pcie"})


def _folded(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _tokens(name: str) -> tuple[str, ...]:
    """Words of a name in their case: of "A100-SXM4 80 GB" A100, sxm, 80gb."""
    text = re.sub(r"\b([0-9]+)\s*G(?:i?B)?\b", r"\1gb", _GLUED.sub(r" \1", name), flags=re.IGNORECASE)
    text = re.sub(r"\btensor[\s-]*core\b|['’]s\b", " ", text, flags=re.IGNORECASE)
    return tuple(
        re.sub(r"^sxm[0-9]$", "sxm", word, flags=re.IGNORECASE) for word in re.findall(r"[^\W_]+", text)
    )


@dataclass(frozen=True, slots=True)
class _Words:
    """A device's name: its words in one, those of form and memory, and whether it is a plural."""

    core: str
    form: frozenset[str]
    plural: bool = False


def _words(tokens: Iterable[str]) -> _Words:
    lower = [token.lower() for token in tokens]
    own = [word for word in lower if word not in _VENDOR]
    return _Words(
        core="".join(word for word in own if not _FORM.fullmatch(word)),
        form=frozenset(word for word in own if _FORM.fullmatch(word)),
        plural=any(word in _PLURALS for word in lower),
    )


@cache
def _spellings() -> dict[str, tuple[tuple[frozenset[str], frozenset[str], str], ...]]:
    """By core: the words of form a device needs, those it may have, and its name in the catalogue."""
    found: dict[str, list[tuple[frozenset[str], frozenset[str], str]]] = {}
    for spelled, name in [*((name, name) for name in CATALOGUE), *_ALIASES.items()]:
        words = _words(_tokens(spelled))
        may = words.form | frozenset(_SAME_DEVICE.get(name, "").split())
        found.setdefault(words.core, []).append((words.form, may, name))
    return {core: tuple(entries) for core, entries in found.items()}


def _whole(words: _Words) -> str | None:
    """The catalogue's name of a device that all the words name, else None."""
    for needs, may, name in _spellings().get(words.core, ()):
        if needs <= words.form <= may:
            return name
    return None


def _own_name(text: str) -> str | None:
    """Longest name of a user's device whose words occur in the text in order, with no word of another device beside them."""
    lower = text.lower()
    inside = [name for name in _own(user_file()) if re.search(_in_order(name), lower)]
    beside = {word.lower() for word in _tokens(text)} & _NEIGHBOUR
    able = [name for name in inside if beside <= {word.lower() for word in _tokens(name)}]
    return max(able, key=lambda name: len(_folded(name)), default=None)


@cache
def _in_order(name: str) -> str:
    """A pattern for the words of a name, one behind the other or with others between them."""
    words = re.findall(r"[^\W_]+", name.lower())
    between = r"(?:[\W_]*|(?![^\W_]).*(?<![^\W_]))"
    return rf"(?<![^\W_]){between.join(words)}s?(?![^\W_])" if words else "(?!)"


def find_named(text: str) -> tuple[Accelerator | None, bool]:
    """The accelerator that a text names whole, and whether in the plural.

    Raises:
        BadInput: L40s, which may be one device or several of another.
    """
    tokens = _tokens(text)
    if not tokens:
        return None, False
    words = _words(tokens)
    singular = tuple(re.sub(r"(?<=[A-Za-z0-9])s$", "", token) for token in tokens)  # V100S is no plural
    plain, single = _whole(words), _whole(_words(singular)) if singular != tokens else None
    if (
        plain
        and single
        and plain != single
        and any(token[:-1] != token[:-1].lower() for token in tokens if token[-1] == "s")
    ):
        raise BadInput(
            f"accelerator is {text.strip()!r}, which may be {plain} or several {single}; write either"
        )
    name, plural = (plain, words.plural) if plain else (single, True)
    own = _own_name(text)
    if own is not None and (
        name is None or name in _own(user_file()) or len(_folded(own)) > len(_folded(name))
    ):
        return known()[own], plural and name == own
    return (None, False) if name is None else (known()[name], plural)


def not_known(text: str) -> str:
    """One line on a device that is not known: its nearest match, then the known ones."""
    names, words = known(), {token.lower() for token in _tokens(text)}
    inside = [name for name in names if {token.lower() for token in _tokens(name)} <= words]
    core = " ".join(token for token in _tokens(text) if token.lower() not in _VENDOR)
    likely = max(inside, key=len, default=core)
    return f"accelerator is {text.strip()!r}, which is not known; {nearest(likely, names, len(names))}"


def accelerator(name: str) -> Accelerator:
    """Return the accelerator of that name. Case, spaces and hyphens are ignored, and A100 is the 80 GB model.

    Raises:
        BadInput: the name is unknown; with the nearest match.
    """
    own = _own(user_file())
    exact = own.get(name) or CATALOGUE.get(name)
    if exact is not None and not (own and name not in own):
        return exact
    for known_name, entry in own.items():
        if _folded(known_name) == _folded(name):
            return entry
    found, _ = find_named(name)
    if found is None:
        raise BadInput(not_known(name))
    return found
