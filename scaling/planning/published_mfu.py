"""MFUs that published training runs reached, and what they say about the roofline estimate of another run.

MFU is of the device's dense bf16 peak, attention counted over the whole context, recomputation not counted.
"""

from dataclasses import dataclass
from functools import cache
from statistics import median

from families import ModelSpec

from ..hardware import Accelerator, accelerator

_FOUNDRY = "mosaicml/llm-foundry, scripts/train/benchmarking/README.md"

# Decoders with a vocabulary of 50,368 and learned positions, FSDP. Every row of that page for these contexts on 8 or more
# H100 80 GB (bf16 autocast) and A100; sequences per forward pass on a device and per step; ck: activations recomputed.
_MEASURED = """
accelerator  layers width heads context devices  micro  batch  ck   MFU
H100             64  8192    64    2048      64      8   2048   1  42.57
H100             48  7168    56    2048      32     14   1344   1  43.92
H100             48  7168    56    2048      16     10    480   1  43.07
H100             48  7168    56    2048       8      3    504   1  38.11
H100             40  5120    40    2048      64      2    128   0  39.86
H100             40  5120    40    2048      32      2     64   0  39.95
H100             40  5120    40    2048       8      2     16   0  39.79
H100             40  5120    40    4096       8     10    240   1  41.60
H100             32  4096    32    2048       8      6     48   0  46.44
H100             32  4096    32    4096       8     16    256   1  40.42
H100             32  2560    20    2048      64      6   1152   0  40.80
H100             32  2560    20    2048      32      6    576   0  41.70
H100             32  2560    20    2048      16     10    480   0  43.73
H100             32  2560    20    4096       8      5    240   0  42.31
H100             24  2048    16    2048      64     20   1280   0  40.85
H100             24  2048    16    2048      32     20    640   0  41.52
H100             24  2048    16    2048       8     14    112   0  41.82
H100             24  2048    16    4096       8      7    224   0  40.26
H100             24  1536    12    2048      32     24    768   0  37.57
H100             24  1536    12    2048       8     24    384   0  34.90
A100             64  8192    64    2048      64      8   2048   1  53.33
A100             48  7168    56    2048       8      3    504   1  55.30
A100             40  5120    40    2048       8      2     48   0  59.57
A100             32  4096    32    2048       8      6     96   0  64.23
A100             32  4096    32    4096       8     16    256   1  54.84
A100             32  2560    20    2048       8     10    160   0  62.11
A100             24  2048    16    2048       8     14    448   0  59.86
A100             24  1536    12    2048       8     24    384   0  56.85
A100             24  1024    16    2048       8     32    512   0  51.62
A100             12   768    12    2048       8     40    640   0  44.79
A100-40GB        48  7168    56    2048     128      6    768   1  52.25
A100-40GB        40  5120    40    2048     128     16   2048   1  51.93
A100-40GB        40  5120    40    2048      64     16   1024   1  52.04
A100-40GB        32  4096    32    2048     128     18   2304   1  50.14
A100-40GB        32  4096    32    2048      64     18   1152   1  50.73
A100-40GB        32  2560    20    2048     128      6    768   0  54.80
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """A published run whose settings are known well enough to estimate its MFU.

    Args:
        accelerator: the device.
        spec: shape.
        devices: number of devices.
        micro_batch: sequences in one forward pass on one device.
        batch_sequences: sequences of a step.
        checkpointing: activations were recomputed.
        mfu: share of the dense peak, 0 to 1.
        source: where it is published.
    """

    accelerator: Accelerator
    spec: ModelSpec
    devices: int
    micro_batch: int
    batch_sequences: int
    checkpointing: bool
    mfu: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedRun:
    """A published run of which little but the MFU is known: a range, shares of the dense peak."""

    model: str
    accelerator: str
    devices: int
    low: float
    high: float
    source: str


# Of large runs, as their authors state them.
REPORTED: tuple[ReportedRun, ...] = (
    ReportedRun(
        model="Llama 3.1 405B", accelerator="H100", devices=16384, low=0.38, high=0.43,
        source="Llama Team 2024, arXiv:2407.21783, table 4",
    ),
    ReportedRun(
        model="Llama 3.1 8B, FSDP2 with and without torch.compile", accelerator="H100", devices=128, low=0.33, high=0.39,
        source="pytorch/torchtitan, docs/performance.md",
    ),
    ReportedRun(
        model="Llama 3 8B and 70B, FSDP2", accelerator="A100", devices=64, low=0.517, high=0.582,
        source="pytorch/torchtitan, docs/performance.md of 2024",
    ),
    ReportedRun(
        model="Llama 2 7B, 3,760 tokens/s per device", accelerator="A100", devices=128, low=0.555, high=0.555,
        source="foundation-model-stack/fms-fsdp, README.md; 46.08 GFLOPs per token at context 4096",
    ),
    ReportedRun(
        model="GPT-3 shapes of 2B to 462B, Megatron-Core", accelerator="H100", devices=6144, low=0.41, high=0.48,
        source="NVIDIA/Megatron-LM, README.md",
    ),
    ReportedRun(
        model="PaLM 540B", accelerator="TPU-v4", devices=6144, low=0.462, high=0.462,
        source="Chowdhery et al. 2022, arXiv:2204.02311, table 3",
    ),
    ReportedRun(
        model="Gopher 280B", accelerator="TPU-v3", devices=4096, low=0.325, high=0.325,
        source="Chowdhery et al. 2022, arXiv:2204.02311, table 3",
    ),
    ReportedRun(
        model="Megatron-Turing NLG 530B", accelerator="A100", devices=2240, low=0.302, high=0.302,
        source="Chowdhery et al. 2022, arXiv:2204.02311, table 3",
    ),
)  # fmt: skip

# Devices of one generation reach alike, by the ratio of compute to bandwidth and power: A100 and H100 differ by a quarter.
_GENERATION = {
    "A100": ("A100", "A100-40GB", "A800"),
    "H100": ("H100", "H800", "H200", "GH200", "GH200-144GB", "H100-PCIe", "H100-NVL", "H200-NVL"),
}


@cache
def measured_runs() -> tuple[MeasuredRun, ...]:
    """Published runs with their settings."""
    found = []
    for line in _MEASURED.strip().splitlines()[1:]:
        name, *cells = line.split()
        layers, width, heads, context, devices, micro, batch, recomputed = map(int, cells[:-1])
        spec = ModelSpec(n_layer=layers, n_embd=width, n_head=heads, n_positions=context, vocab_size=50368)
        found.append(
            MeasuredRun(
                accelerator=accelerator(name),
                spec=spec,
                devices=devices,
                micro_batch=micro,
                batch_sequences=batch,
                checkpointing=bool(recomputed),
                mfu=float(cells[-1]) / 100,
                source=_FOUNDRY,
            )
        )
    return tuple(found)


def generation(name: str) -> str:
    """The generation of a device, whose runs say what it reaches: its name where no other device shares it."""
    return next((kind for kind, names in _GENERATION.items() if name in names), name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """What published runs on devices of one generation reached: lowest and highest MFU, number of runs and of devices."""

    low: float
    high: float
    runs: int
    devices: tuple[int, int]

    def __str__(self) -> str:
        """As a note of a plan has it."""
        return f"{self.low:.2f} to {self.high:.2f} on {self.devices[0]:,} to {self.devices[1]:,} devices"


def reached(name: str) -> Reached | None:
    """What published runs on a device's generation reached; None where none is known.

    Args:
        name: the accelerator's name.
    """
    kind = generation(name)
    ranges = [
        (one.mfu, one.mfu, one.devices) for one in measured_runs() if generation(one.accelerator.name) == kind
    ]
    ranges += [(one.low, one.high, one.devices) for one in REPORTED if generation(one.accelerator) == kind]
    if not ranges:
        return None
    lows, highs, devices = zip(*ranges, strict=True)
    return Reached(low=min(lows), high=max(highs), runs=len(ranges), devices=(min(devices), max(devices)))


def calibration(name: str, ratios: tuple[tuple[str, float], ...]) -> tuple[float, float, float]:
    """(Factor, lowest, highest) by which runs on a device's generation miss a model of their MFU.

    Without a run of that generation: the median of all, and the range of all.

    Args:
        name: the accelerator's name.
        ratios: (generation, published over modelled MFU) of each measured run.
    """
    own = [ratio for kind, ratio in ratios if kind == generation(name)]
    values = own or [ratio for _, ratio in ratios]
    return median(values), min(values), max(values)
