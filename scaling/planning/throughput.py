"""Model FLOPs utilisation, measured or estimated, and the time on more devices from measured times."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median

import numpy as np

from families import ModelSpec, accounting
from families.architectures import architecture
from families.memory import Layout
from families.units import BadInput

from ..budget import parse_duration
from ..devices import recognise
from ..hardware import Accelerator
from ..machine import MachineFile, Measured, Tuned
from ..runs import Run
from ..stats import Array
from .parallel_time import step_time
from .published_mfu import (
    Engine,
    MeasuredRun,
    Ratio,
    Reached,
    calibration,
    generation,
    measured_runs,
    reached,
    width_exponent,
    width_factor,
)

_MATMUL = 0.70  # of the dense peak: what large matrix products reach on one device, launch gaps included

_PASSES = 3.0  # times an activation crosses memory: written forward, read backward, its gradient fused

_STEP_BYTES = (
    28.0  # per parameter and step: AdamW reads and writes weight, gradient and two states in 32 bits
)

ERROR = 1.25  # the estimate is good to a factor of this: gpt2-124M, 355M and 774M on one H200 reach .45-.50, .50-.55, .50-.55


@dataclass(frozen=True, slots=True, kw_only=True)
class Utilisation:
    """Share of the dense peak, with its error band; `reached` is what published runs on such devices reached."""

    mfu: float
    low: float
    high: float
    reached: Reached | None = None


def measured_mfu(runs: Sequence[Run], device: Accelerator) -> float | None:
    """Median compute / (wall time · peak) over runs on that device; None where no run was.

    A run's `accelerator` is a device's name, with its number before it if there were several ("8xA100").
    """
    shares = []
    for run in runs:
        count, used = recognise(run.accelerator)
        if used == device and run.compute and run.wall_s and run.compute_kind == "exact":
            shares.append(run.compute / (run.wall_s * count * device.training_peak))
    return median(shares) if shares else None


def profiled_mfu(device: Accelerator) -> float | None:
    """Median over shapes of the fastest step probed on that device, as a share of its peak; None where none was.

    From the user's cache, which `scaling train` and `scaling tune` fill. A CPU is known where the user's own hardware file
    names it as its maker does.
    """
    best: dict[str, float] = {}
    file = MachineFile.open()
    for machine in {*file.machines, *file.tuned}:
        if recognise(machine.partition(",")[0])[1] == device:
            steps: tuple[Measured | Tuned, ...] = file.machines.get(machine, ())
            for step in (*steps, *file.tuned.get(machine, ())):
                share = step.flops / step.seconds / device.training_peak
                best[step.shape] = max(best.get(step.shape, 0.0), share)
    return median(best.values()) if best else None


def estimated_mfu(
    spec: ModelSpec,
    device: Accelerator,
    *,
    micro_batch: int,
    batch_sequences: int,
    devices: int = 1,
    layout: Layout | None = None,
    interleave: int = 1,
) -> Utilisation:
    """Roofline estimate; on several devices scaled to what published runs on that generation reached.

    With tensor, pipeline, context or expert parallelism those of Megatron Core, which hides most of its communication; else
    those of FSDP.

    Args:
        spec: the shape.
        device: the accelerator.
        micro_batch: sequences in one forward pass on one device.
        batch_sequences: sequences in one optimiser step.
        devices: number of devices.
        layout: degrees of parallelism, and whether activations are recomputed, a fourth forward pass that an MFU does not
            count (default: neither).
        interleave: pieces of each pipeline stage (virtual stages); the plans made here have one.
    """
    layout = layout or Layout()
    several = layout.tensor * layout.pipeline * layout.context * layout.expert > 1
    replicas = max(1, devices // (layout.tensor * layout.pipeline * layout.context))
    mfu = _parallel_mfu(
        spec,
        device,
        layout,
        micro_batch,
        max(1, batch_sequences // devices),
        batch_sequences / replicas / micro_batch,
        interleave,
    )
    if devices == 1:
        return Utilisation(mfu=mfu, low=mfu / ERROR, high=min(1.0, mfu * ERROR))
    exponent = width_exponent(_ratios())
    engine: Engine = "megatron" if several else "fsdp"
    factor, low, high = calibration(device.name, engine, _ratios(), exponent)
    mfu *= width_factor(spec, exponent)
    return Utilisation(
        mfu=min(1.0, mfu * factor), low=mfu * low, high=min(1.0, mfu * high), reached=reached(device.name)
    )


def _parallel_mfu(
    spec: ModelSpec,
    device: Accelerator,
    layout: Layout,
    micro_batch: int,
    share: int,
    micro_batches: float,
    interleave: int = 1,
) -> float:
    """MFU by the roofline and by what a layout adds to a step, before any calibration.

    Args:
        spec: the shape.
        device: the accelerator.
        layout: the degrees, and whether activations are recomputed.
        micro_batch: sequences in one forward pass on one device.
        share: sequences of a step for each device, which pay for its optimiser's part.
        micro_batches: of a step, in one replica.
        interleave: pieces of each pipeline stage.
    """
    mfu = _roofline(spec, device, micro_batch, share)
    time = step_time(
        spec,
        device,
        layout,
        micro_batch=micro_batch,
        micro_batches=max(1.0, micro_batches),
        mfu=mfu,
        interleave=interleave,
    )
    return mfu * (3 / 4 if layout.checkpointing else 1.0) / time.slowdown


@cache
def _ratios() -> tuple[Ratio, ...]:
    """Published over modelled MFU of each published run."""
    return tuple(
        Ratio(
            kind=generation(run.accelerator.name),
            engine=run.engine,
            value=run.mfu / _modelled(run),
            width=run.spec.n_embd,
            model=run.model.partition("/")[0],
        )
        for run in measured_runs()
    )


def _modelled(run: MeasuredRun) -> float:
    """MFU of a published run, before any calibration."""
    share = max(1, run.batch_sequences // run.devices)
    return _parallel_mfu(
        run.spec, run.accelerator, run.layout, run.micro_batch, share, run.micro_batches, run.interleave
    )


def predicted_published() -> tuple[tuple[MeasuredRun, float], ...]:
    """Each published run, and its MFU as the estimate says it from the others of its generation and engine.

    Runs of one model on ever more devices say the same, so all of them are left out where one is estimated.
    """
    runs, ratios = measured_runs(), _ratios()
    found = []
    for index, run in enumerate(runs):
        model = ratios[index].model
        others = tuple(
            one for at, one in enumerate(ratios) if at != index and not (model and one.model == model)
        )
        exponent = width_exponent(others)
        factor = calibration(run.accelerator.name, run.engine, others, exponent)[0]
        found.append((run, _modelled(run) * factor * width_factor(run.spec, exponent)))
    return tuple(found)


def _roofline(spec: ModelSpec, device: Accelerator, micro_batch: int, sequences: int) -> float:
    """MFU with fused attention and compiled elementwise work, without communication.

    Matrix products run at 70 % of peak; activations, logits and the optimiser's step at the memory's bandwidth.
    """
    tokens = micro_batch * spec.n_positions
    flops = accounting.train_flops_per_token(spec)
    saved = architecture(spec.architecture).activation_bytes(spec, micro_batch, "sdpa")
    activations = _PASSES * (spec.n_layer * (saved.layer + saved.wide) / 2 + 2 * saved.logits) / tokens
    count = accounting.params(spec)
    weights = 3 * 2 * count / tokens + _STEP_BYTES * count / (sequences * spec.n_positions)
    ideal = flops / device.training_peak
    return ideal / (ideal / _MATMUL + (activations + weights) / device.bandwidth)


EXPONENTS = (0.3, 3.0)  # searched; 1 is data parallelism without loss (Amdahl 1967)

PAYS = 0.10  # of the time that a doubling must save to be worth it

MOST = 65536  # devices considered


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeModel:
    """T(n) = floor + parallel·n^-exponent, in seconds on n devices.

    Args:
        floor: seconds that more devices do not shorten: start, input, evaluation, synchronisation.
        parallel: seconds of divisible work on one device.
        exponent: 1 for work that is merely divided, above 1 where a smaller share also runs faster, below 1 where
            communication takes some of the gain.
        error: largest relative error at the fitted points.
        points: (devices, seconds) that it was fitted to.
    """

    floor: float
    parallel: float
    exponent: float
    error: float
    points: tuple[tuple[int, float], ...]

    def seconds(self, devices: float) -> float:
        """T(n)."""
        return self.floor + self.parallel * float(devices**-self.exponent)

    def efficiency(self, devices: float) -> float:
        """T(1) / (n·T(n)): 1 where n devices are n times as fast."""
        return self.seconds(1) / (devices * self.seconds(devices))

    def pays_until(self, saving: float = PAYS) -> int:
        """The most devices, doubling from 1, whose last doubling still saved that share of the time."""
        devices = 1
        while devices < MOST and self.seconds(2 * devices) <= (1 - saving) * self.seconds(devices):
            devices *= 2
        return devices


def parse_times(text: str) -> dict[int, float]:
    """Read "1=66m40s,2=40m19s": seconds by number of devices.

    Raises:
        BadInput: not devices=time, or a number of devices twice.
    """
    times: dict[int, float] = {}
    for part in text.split(","):
        devices, equals, duration = part.partition("=")
        if not equals or not devices.strip().isdigit():
            raise BadInput(f"times has {part.strip()!r}; write devices=time, like 2=40m19s")
        number, seconds = int(devices), parse_duration(duration)
        if number in times:
            raise BadInput(f"times has {number} devices twice; give one time for each number")
        times[number] = seconds
    return times


def fit_times(points: Mapping[int, float]) -> TimeModel:
    """The model nearest to measured times in relative error: floor and parallel at least 0, exact for three points.

    Two points leave the exponent at 1, Amdahl's law.

    Raises:
        BadInput: fewer than two numbers of devices, or a time or number that is not positive.
    """
    for devices, seconds in points.items():
        if devices < 1 or not (math.isfinite(seconds) and seconds > 0):
            raise BadInput(f"{devices} devices take {seconds:g} s; both must be positive")
    if len(points) < 2:
        raise BadInput(f"there are times for {len(points)} numbers of devices; at least 2 are needed")
    n = np.array(sorted(points), dtype=np.float64)
    times = np.array([points[int(devices)] for devices in n])
    exponent = 1.0 if len(points) == 2 else _best_exponent(n, times)
    floor, parallel, _ = _linear(n, times, exponent)
    fitted = floor + parallel * n**-exponent
    return TimeModel(
        floor=floor,
        parallel=parallel,
        exponent=exponent,
        error=float(np.abs(fitted / times - 1).max()),
        points=tuple((int(devices), float(seconds)) for devices, seconds in zip(n, times, strict=True)),
    )


def _best_exponent(n: Array, times: Array) -> float:
    """A grid, then golden section around its best: the misfit has one valley where both parts are positive."""
    grid = np.linspace(*EXPONENTS, 109)
    middle = int(np.argmin([_linear(n, times, exponent)[2] for exponent in grid]))
    low, high = float(grid[max(0, middle - 1)]), float(grid[min(len(grid) - 1, middle + 1)])
    ratio = (math.sqrt(5) - 1) / 2
    while high - low > 1e-10:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if _linear(n, times, left)[2] < _linear(n, times, right)[2]:
            high = right
        else:
            low = left
    return (low + high) / 2


def _linear(n: Array, times: Array, exponent: float) -> tuple[float, float, float]:
    """(floor, parallel, summed squared relative error) at an exponent, neither part below 0."""
    shape = n**-exponent

    def misfit(floor: float, parallel: float) -> float:
        return float((((floor + parallel * shape) / times - 1) ** 2).sum())

    design = np.stack([1 / times, shape / times], axis=1)
    (floor, parallel), *_ = np.linalg.lstsq(design, np.ones(len(n)), rcond=None)
    if floor >= 0 and parallel >= 0:
        return float(floor), float(parallel), misfit(float(floor), float(parallel))
    alone = [(float(column.sum() / (column**2).sum()), index) for index, column in enumerate(design.T)]
    pairs = [(value, 0.0) if index == 0 else (0.0, value) for value, index in alone]
    best = min(pairs, key=lambda pair: misfit(*pair))
    return (*best, misfit(*best))
