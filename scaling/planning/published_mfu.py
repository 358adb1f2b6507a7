"""MFUs that published training runs reached, and what they say about the roofline estimate of another run.

MFU is of the device's dense bf16 peak, attention counted over the whole context, recomputation not counted. Each row of the
two tables was compared with its source, as stored publicly.
"""

import math
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Literal

from families import ModelSpec, accounting
from families.memory import Layout

from ..hardware import Accelerator, accelerator

Engine = Literal["fsdp", "megatron"]

_FOUNDRY = "mosaicml/llm-foundry, scripts/train/benchmarking/README.md"

# Decoders with a vocabulary of 50,368 and learned positions, FSDP. Every row of that page in bf16 at these two contexts;
# sequences per forward pass on a device and per step; ck: activations recomputed.
_MEASURED = """accelerator  layers width heads context devices  micro  batch  ck   MFU
H100             64  8192    64    2048      64      8   2048   1  42.57
H100             64  8192    64    2048      32      2   1024   1  36.15
H100             48  7168    56    2048      32     14   1344   1  43.92
H100             48  7168    56    2048      16     10    480   1  43.07
H100             48  7168    56    2048       8      3    504   1  38.11
H100             48  7168    56    4096       8      1    168   1  35.86
H100             40  5120    40    2048      64      2    128   0  39.86
H100             40  5120    40    2048      32      2     64   0  39.95
H100             40  5120    40    2048      16      2     32   0  39.58
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
H100             24  2048    16    2048      16     20    320   0  42.36
H100             24  2048    16    2048       8     14    112   0  41.82
H100             24  2048    16    4096       8      7    224   0  40.26
H100             24  1536    12    2048      32     24    768   0  37.57
H100             24  1536    12    2048      16     24    384   0  37.89
H100             24  1536    12    2048       8     24    384   0  34.90
H100             24  1536    12    4096       8     12    192   0  35.83
A100             64  8192    64    2048      64      8   2048   1  53.33
A100             64  8192    64    2048      32      2   1024   1  48.56
A100             48  7168    56    2048       8      3    504   1  55.30
A100             48  7168    56    4096       8      1    168   1  51.37
A100             40  5120    40    2048       8      2     48   0  59.57
A100             40  5120    40    4096       8     10    240   1  57.62
A100             32  4096    32    2048       8      6     96   0  64.23
A100             32  4096    32    4096       8     16    256   1  54.84
A100             32  2560    20    2048       8     10    160   0  62.11
A100             32  2560    20    4096       8      5    240   0  60.53
A100             24  2048    16    2048       8     14    448   0  59.86
A100             24  2048    16    4096       8      7    224   0  59.00
A100             24  1536    12    2048       8     24    384   0  56.85
A100             24  1536    12    4096       8     12    192   0  56.05
A100             24  1024    16    2048       8     32    512   0  51.62
A100             24  1024    16    4096       8     16    256   0  53.31
A100             12   768    12    2048       8     40    640   0  44.79
A100             12   768    12    2048       8     32    512   0  44.45
A100             12   768    12    4096       8     16    256   0  46.08
A100-40GB        64  8192    64    2048     128      4    512   1  48.91
A100-40GB        64  8192    64    2048      64      2    128   1  35.87
A100-40GB        48  7168    56    2048     128      6    768   1  52.25
A100-40GB        48  7168    56    2048      32      4    128   1  51.74
A100-40GB        40  5120    40    2048     128     16   2048   1  51.93
A100-40GB        40  5120    40    2048      64     16   1024   1  52.04
A100-40GB        40  5120    40    2048      32     14    448   1  52.62
A100-40GB        40  5120    40    2048      16     10    160   1  52.50
A100-40GB        40  5120    40    2048       8      4    512   1  43.94
A100-40GB        40  5120    40    4096       8      2    256   1  44.85
A100-40GB        32  4096    32    2048     128     18   2304   1  50.14
A100-40GB        32  4096    32    2048      64     18   1152   1  50.73
A100-40GB        32  4096    32    2048      32     18    576   1  51.55
A100-40GB        32  4096    32    2048      16     16    256   1  50.44
A100-40GB        32  4096    32    2048       8     12    384   1  50.92
A100-40GB        32  4096    32    4096       8      6    192   1  50.11
A100-40GB        32  2560    20    2048     128      6    768   0  54.80
A100-40GB        32  2560    20    2048      64      6    384   0  55.94
A100-40GB        32  2560    20    2048      32      6    192   0  56.96
A100-40GB        32  2560    20    2048      16      5     80   0  56.02
A100-40GB        32  2560    20    2048       8      5    320   0  57.82
A100-40GB        32  2560    20    4096       8      2    128   0  56.18
A100-40GB        24  2048    16    2048     128     10   1280   0  54.41
A100-40GB        24  2048    16    2048      64     10    640   0  55.44
A100-40GB        24  2048    16    2048      32     10    320   0  45.39
A100-40GB        24  2048    16    2048      16      8    128   0  55.69
A100-40GB        24  2048    16    2048       8      8    512   0  56.23
A100-40GB        24  2048    16    4096       8      4    256   0  55.85
A100-40GB        24  1536    12    2048     128     12   1536   0  50.73
A100-40GB        24  1536    12    2048      64     12    768   0  51.44
A100-40GB        24  1536    12    2048      32     12    384   0  51.97
A100-40GB        24  1536    12    2048      16     12    192   0  51.90
A100-40GB        24  1536    12    2048       8     12    384   0  52.89
A100-40GB        24  1536    12    4096       8      6    192   0  53.00
A100-40GB        24  1024    16    2048     128     18   2304   0  45.61
A100-40GB        24  1024    16    2048      64     18   1152   0  46.27
A100-40GB        24  1024    16    2048      32     18    576   0  47.26
A100-40GB        24  1024    16    2048      16     18    288   0  48.66
A100-40GB        24  1024    16    2048       8     16    512   0  49.17
A100-40GB        24  1024    16    4096       8      8    256   0  50.38
A100-40GB        12   768    12    2048     128     26   3328   0  38.86
A100-40GB        12   768    12    2048      64     26   1664   0  39.27
A100-40GB        12   768    12    2048      32     26    832   0  39.86
A100-40GB        12   768    12    2048      16     26    416   0  40.93
A100-40GB        12   768    12    2048       8     26    624   0  42.75
A100-40GB        12   768    12    4096       8     13    312   0  44.82
"""

_DGXC = "NVIDIA/dgxc-benchmarking, READMEs of nemo_megatron, llama3.1, nemotron, grok1 and qwen3"

# Megatron Core on DGX H100 in bf16: the model, context, degrees of tensor, pipeline, context and expert parallelism, pieces of
# a stage, sequences per forward pass and per step, and tokens per second on all devices. Proxies of 405B have fewer layers.
_MEGATRON = """
model             context devices  tp pp cp ep  v  micro  batch  tokens/s
gpt3-175b            2048     128   4  8  1  1 12      1    256     63099
gpt3-175b            2048     256   4  8  1  1 12      1    512    124712
gpt3-175b            2048     512   4  8  1  1 12      1   1024    249068
gpt3-175b            2048    1024   4  8  1  1 12      1   2048    496191
gpt3-175b            2048    2048   4  8  1  1 12      1   4096    988057
llama-3.1-405b       8192     576   8  9  2  1  7      1    252    120022
llama-3.1-405b       8192    1152   8  9  2  1  7      1    504    235660
llama-3.1-405b       8192    2304   8  9  2  1  7      1   1008    468646
llama-3.1-405b/7     8192      32   8  1  2  1  1      1    126    116632
llama-3.1-405b/21    8192      96   8  3  2  1  7      1    126    117965
llama-3.1-405b/42    8192     192   8  3  2  1  7      1    252    121936
llama-3.1-70b        8192      64   4  4  2  1  5      1    128     71235
llama-3.1-70b        8192     128   4  4  2  1  5      1    256    142373
llama-3.1-70b        8192     256   4  4  2  1  5      1    512    283399
llama-3.1-70b        8192     512   4  4  2  1  5      1   1024    563372
llama-3.1-70b        8192    1024   4  4  2  1  5      1   2048   1124478
llama-3.1-70b        8192    2048   4  4  2  1  5      1   4096   2248957
llama-3.1-8b         8192       8   1  1  2  1  1      1    128     81222
llama-3.1-8b         8192      16   1  1  2  1  1      1    256    161319
llama-3.1-8b         8192      32   1  1  2  1  1      1    512    321403
llama-3.1-8b         8192      64   1  1  2  1  1      1   1024    641331
llama-3.1-8b         8192     128   1  1  2  1  1      1   2048   1280704
nemotron-4-340b      4096     128   8  8  1  1 12      1     32     28432
nemotron-4-340b      4096     256   8  8  1  1 12      1     64     56134
nemotron-4-340b      4096     512   8  8  1  1 12      1    128    111551
nemotron-4-340b      4096    1024   8  8  1  1 12      1    256    221686
nemotron-4-340b      4096    2048   8  8  1  1 12      1    512    433296
nemotron-4-15b       4096      16   4  1  1  1  1      4     64     93223
nemotron-4-15b       4096      32   4  1  1  1  1      4    128    185654
nemotron-4-15b       4096      64   4  1  1  1  1      4    256    368568
nemotron-4-15b       4096     128   4  1  1  1  1      4    512    733526
nemotron-4-15b       4096     256   4  1  1  1  1      4   1024   1470654
nemotron-4-15b       4096     512   4  1  1  1  1      4   2048   2917777
nemotron-4-15b       4096    1024   4  1  1  1  1      4   4096   5795239
nemotron-4-15b       4096    2048   4  1  1  1  1      4   8192  11622595
grok-1               8192     512   4  8  2  8  8      1   1024    402718
grok-1               8192    1024   4  8  2  8  8      1   2048    798915
grok-1               8192    2048   4  8  2  8  8      1   4096   1591011
qwen3-235b-a22b      4096     256   2  8  1 32  4      1   2048    328554
"""

_WIDTHS = (768, 8192)  # of the models in the first table, beyond which no speed is extrapolated
_WIDTH = 2048  # at which the factor for a model's width is 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """A published run whose settings are known well enough to estimate its MFU.

    Args:
        model: its name, "" where only the shape is published.
        engine: what trained it.
        accelerator: the device.
        spec: shape.
        devices: number of devices.
        layout: degrees of parallelism, and whether activations were recomputed.
        interleave: pieces of each pipeline stage.
        micro_batch: sequences in one forward pass on one device.
        batch_sequences: sequences of a step.
        mfu: share of the dense peak, 0 to 1.
        source: where it is published.
    """

    model: str = ""
    engine: Engine
    accelerator: Accelerator
    spec: ModelSpec
    devices: int
    layout: Layout
    interleave: int = 1
    micro_batch: int
    batch_sequences: int
    mfu: float
    source: str

    @property
    def micro_batches(self) -> float:
        """Micro-batches of a step in one replica."""
        replicas = self.devices / (self.layout.tensor * self.layout.pipeline * self.layout.context)
        return max(1.0, self.batch_sequences / (replicas * self.micro_batch))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedRun:
    """A published run of which little but the MFU is known: a range, shares of the dense peak."""

    model: str
    accelerator: str
    devices: int
    low: float
    high: float
    source: str


# Of large runs, as their authors state them. The sources were compared as stored publicly but for PaLM's table, which was not at
# hand: its three rows are from memory.
REPORTED: tuple[ReportedRun, ...] = (
    ReportedRun(
        model="Llama 3.1 405B, 430, 400 and 380 TFLOP/s per device", accelerator="H100", devices=16384, low=0.38, high=0.43,
        source="Llama Team 2024, arXiv:2407.21783, table 4",
    ),
    ReportedRun(
        model="Llama 3.1 8B, FSDP2 without and with torch.compile, 500 W", accelerator="H100", devices=128, low=0.33, high=0.39,
        source="pytorch/torchtitan, benchmarks/llama3_h100_202412_torchtitan.md",
    ),
    ReportedRun(
        model="Llama 3 8B and 70B, FSDP2", accelerator="A100", devices=64, low=0.517, high=0.582,
        source="pytorch/torchtitan, docs/performance.md of 2024",
    ),
    ReportedRun(
        model="Llama 2 13B and 70B, FSDP2", accelerator="A100", devices=64, low=0.505, high=0.611,
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


def _llama(layers: int, width: int, heads: int, inner: int, context: int, vocabulary: int) -> ModelSpec:
    """A decoder with 8 key and value heads. Nemotron's ungated layers of 4·d are as many products as gated ones of 8/3·d."""
    return ModelSpec(
        architecture="llama",
        n_layer=layers,
        n_embd=width,
        n_head=heads,
        n_kv_head=8,
        n_inner=inner,
        n_positions=context,
        vocab_size=vocabulary,
    )


def _shape(name: str, context: int) -> ModelSpec:
    """Shape of a model in the second table, as its README states it."""
    name, _, layers = name.partition("/")
    if name == "gpt3-175b":
        return ModelSpec(n_layer=96, n_embd=12288, n_head=96, n_positions=context, vocab_size=51200)
    if name == "grok-1":
        mixture = {"num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 128}
        return ModelSpec(
            architecture="mixtral",
            n_layer=64,
            n_embd=6144,
            n_head=48,
            n_kv_head=8,
            n_inner=32768,
            n_positions=context,
            vocab_size=131072,
            config=mixture,
        )
    if name == "qwen3-235b-a22b":
        mixture = {
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 1536,
        }
        return ModelSpec(
            architecture="qwen3_moe",
            n_layer=94,
            n_embd=4096,
            n_head=64,
            n_kv_head=4,
            n_inner=12288,
            n_positions=context,
            vocab_size=151936,
            config=mixture,
        )
    shapes = {
        "llama-3.1-8b": _llama(32, 4096, 32, 14336, context, 128256),
        "llama-3.1-70b": _llama(80, 8192, 64, 28672, context, 128256),
        "llama-3.1-405b": _llama(int(layers or 126), 16384, 128, 53248, context, 128256),
        "nemotron-4-15b": _llama(32, 6144, 48, 16384, context, 256000),
        "nemotron-4-340b": _llama(96, 18432, 96, 49152, context, 256000),
    }
    return shapes[name]


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
                engine="fsdp",
                accelerator=accelerator(name),
                spec=spec,
                devices=devices,
                layout=Layout(shards=devices, checkpointing=bool(recomputed)),
                micro_batch=micro,
                batch_sequences=batch,
                mfu=float(cells[-1]) / 100,
                source=_FOUNDRY,
            )
        )
    device = accelerator("H100")
    for line in _MEGATRON.strip().splitlines()[1:]:
        name, *cells = line.split()
        context, devices, tensor, pipeline, shared, expert, pieces, micro, batch, speed = map(int, cells)
        spec = _shape(name, context)
        found.append(
            MeasuredRun(
                model=name,
                engine="megatron",
                accelerator=device,
                spec=spec,
                devices=devices,
                layout=Layout(
                    tensor=tensor,
                    pipeline=pipeline,
                    context=shared,
                    expert=expert,
                    shards=devices // (tensor * pipeline),
                    stage=1,
                ),
                interleave=pieces,
                micro_batch=micro,
                batch_sequences=batch,
                mfu=accounting.train_flops_per_token(spec) * speed / (devices * device.training_peak),
                source=_DGXC,
            )
        )
    return tuple(found)


def width_factor(spec: ModelSpec, exponent: float) -> float:
    """How much faster than at a width of 2,048 the products of a model run, relative to the peak: (width/2048)^exponent.

    Args:
        spec: the model.
        exponent: as the published runs have it.
    """
    least, most = _WIDTHS
    return float((min(max(spec.n_embd, least), most) / _WIDTH) ** exponent)


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
        mfu, devices = (
            (f"{self.low:.2f}", f"{self.high:.2f}"),
            (f"{self.devices[0]:,}", f"{self.devices[1]:,}"),
        )
        return f"{' to '.join(dict.fromkeys(mfu))} on {' to '.join(dict.fromkeys(devices))} devices"

    @property
    def counted(self) -> str:
        """The number of runs, in words."""
        return "one published run" if self.runs == 1 else f"{self.runs} published runs"


def reached(name: str) -> Reached | None:
    """What published runs of dense models on a device's generation reached; None where none is known.

    Mixtures of experts reach less: 0.43 and 0.22 are the two in `measured_runs`.

    Args:
        name: the accelerator's name.
    """
    kind = generation(name)
    ranges = [
        (one.mfu, one.mfu, one.devices)
        for one in measured_runs()
        if generation(one.accelerator.name) == kind and one.layout.expert == 1
    ]
    ranges += [(one.low, one.high, one.devices) for one in REPORTED if generation(one.accelerator) == kind]
    if not ranges:
        return None
    lows, highs, devices = zip(*ranges, strict=True)
    return Reached(low=min(lows), high=max(highs), runs=len(ranges), devices=(min(devices), max(devices)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Published over modelled MFU of a run, its device's generation, its engine, and the model's width.

    Args:
        kind: generation of the device.
        engine: what trained it.
        value: published over modelled MFU.
        width: n_embd.
        model: name of the model; runs that share one are one case.
    """

    kind: str
    engine: Engine
    value: float
    width: int
    model: str


def width_exponent(ratios: tuple[Ratio, ...]) -> float:
    """Slope of the logarithm of runs' ratios in that of the width, by least squares over FSDP runs, one mean a generation."""
    runs = [one for one in ratios if one.engine == "fsdp"]
    above = below = 0.0
    for kind in {one.kind for one in runs}:
        own = [(math.log(one.width), math.log(one.value)) for one in runs if one.kind == kind]
        mean_x, mean_y = (sum(values) / len(own) for values in zip(*own, strict=True))
        above += sum((x - mean_x) * (y - mean_y) for x, y in own)
        below += sum((x - mean_x) ** 2 for x, _ in own)
    return above / below if below else 0.0


def calibration(
    name: str, engine: Engine, ratios: tuple[Ratio, ...], exponent: float
) -> tuple[float, float, float]:
    """(Factor, lowest, highest) by which runs of an engine on a device's generation miss a model of their MFU at width 2,048.

    Without a run of that generation: the median of all of that engine, and their range. Models count alike, however many runs
    each has.

    Args:
        name: the accelerator's name.
        engine: what trains.
        ratios: of the published runs.
        exponent: of the width.
    """
    runs = [one for one in ratios if one.engine == engine]
    runs = [one for one in runs if one.kind == generation(name)] or runs
    cases: dict[str, list[float]] = {}
    for index, one in enumerate(runs):
        least, most = _WIDTHS
        scaled = one.value / (min(max(one.width, least), most) / _WIDTH) ** exponent
        cases.setdefault(one.model or str(index), []).append(scaled)
    values = [median(case) for case in cases.values()]
    return (
        median(values),
        min(min(case) for case in cases.values()),
        max(max(case) for case in cases.values()),
    )
