"""Model FLOPs utilisation: measured on a study's runs, or estimated from the shape and the device."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from families import ModelSpec, accounting
from families.architectures import architecture

from ..hardware import Accelerator, recognise
from ..machine import MachineFile, Measured, Tuned
from ..runs import Run

_MATMUL = 0.70  # of the dense peak: what large matrix products reach on one device, launch gaps included
_PASSES = 3.0  # times an activation crosses memory: written forward, read backward, its gradient fused
_STEP_BYTES = (
    28.0  # per parameter and step: AdamW reads and writes weight, gradient and two states in 32 bits
)
ERROR = 1.25  # the estimate is good to a factor of this: gpt2-124M, 355M and 774M on one H200 reach .45-.50, .50-.55, .50-.55


@dataclass(frozen=True, slots=True, kw_only=True)
class Utilisation:
    """A share of the dense peak, with the band it may lie in."""

    mfu: float
    low: float
    high: float


def measured_mfu(runs: Sequence[Run], device: Accelerator) -> float | None:
    """Median compute / (wall time · peak) over runs on that device; None where no run was.

    A run's `accelerator` is a device's name, with its number before it if there were several ("8xA100").
    """
    shares = []
    for run in runs:
        count, found = recognise(run.accelerator)
        if found == device and run.compute and run.wall_s and run.compute_kind == "exact":
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
            for one in (*steps, *file.tuned.get(machine, ())):
                share = one.flops / one.seconds / device.training_peak
                best[one.shape] = max(best.get(one.shape, 0.0), share)
    return median(best.values()) if best else None


def estimated_mfu(
    spec: ModelSpec, device: Accelerator, *, micro_batch: int, batch_sequences: int
) -> Utilisation:
    """A roofline for an engine with fused attention and compiled elementwise work: matrix products at 70 % of
    peak, then activations, logits and the optimiser's step at the memory's bandwidth. Communication is not in
    it.
    """
    tokens = micro_batch * spec.n_positions
    flops = accounting.train_flops_per_token(spec)
    saved = architecture(spec.architecture).saved(spec, micro_batch, "sdpa")
    activations = _PASSES * (spec.n_layer * (saved.layer + saved.wide) / 2 + 2 * saved.logits) / tokens
    count = accounting.params(spec)
    weights = 3 * 2 * count / tokens + _STEP_BYTES * count / (batch_sequences * spec.n_positions)
    ideal = flops / device.training_peak
    seconds = ideal / _MATMUL + (activations + weights) / device.bandwidth
    mfu = ideal / seconds
    return Utilisation(mfu=mfu, low=mfu / ERROR, high=min(1.0, mfu * ERROR))
