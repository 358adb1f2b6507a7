"""Whether a run fits this machine, and the engine that it takes there."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from families import params
from families.units import BadInput, format_bytes, format_duration, format_size

from ..backend import BackendRequest, Estimate, estimate, free_memory, select_backend
from ..config import Settings
from ..distributed import ALONE, World
from ..graphs import no_graphs
from ..metrics import PeakFlops, peak_of
from ..model.flash3 import no_flash3
from ..settings import (
    planned_steps,
)
from ..speed import speed_of
from .pool import runs_of_a_gpu

PATIENCE = 24 * 3600.0  # seconds beyond which a run asks for --yes


def check_machine(
    settings: Settings,
    rungs: tuple[int, ...],
    device: str,
    *,
    yes: bool,
    log: Callable[[str], None],
    world: World = ALONE,
    flops_per_s: float | None = None,
) -> Estimate:
    """Log the estimated memory and time of a run, and refuse one too large for this machine.

    Args:
        settings: settings of the run.
        rungs: lengths of the rungs in tokens.
        device: "cpu" or "cuda".
        yes: True to accept a run too large for this machine.
        log: called with the estimate as one line.
        world: the processes that share the run.
        flops_per_s: speed that was measured for this run; None estimates one.

    Raises:
        BadInput: more memory than there is, or more than a day, without `yes`.
    """
    steps = planned_steps(settings, rungs)
    need = estimate(settings, steps, device, world)
    if flops_per_s is not None:
        need = replace(
            need,
            seconds=need.seconds * need.flops_per_s / flops_per_s,
            flops_per_s=flops_per_s,
            source="measured now",
        )
    said = (
        f"{settings.run}: {steps:,} steps of {format_size(settings.batch_tokens)} tokens; about "
        f"{format_bytes(need.memory)} of memory of {format_bytes(need.available)} and "
        f"{format_duration(need.seconds)} on {need.machine} "
        f"({need.source}: {need.flops_per_s / 1e9:.0f} GFLOP/s)"
    )
    too_big = need.memory > need.available
    if (too_big or need.seconds > PATIENCE) and not yes:
        total = settings.batch_tokens * steps
        if too_big:
            fits = params(settings.spec()) * need.available / need.memory
            reason, way = (
                "more memory than this machine has free",
                f"a member of about {format_size(fits, 2)} parameters fits",
            )
        else:
            fits = total * PATIENCE / need.seconds
            reason, way = "more than a day", f"tokens={format_size(fits, 2)} take a day"
        raise BadInput(
            f"{said}; that is {reason}: {way}: choose a smaller member or fewer tokens=, or go ahead with --yes"
        )
    log(said)
    return need


def with_engine(
    settings: Settings,
    rungs: tuple[int, ...],
    wanted: BackendRequest,
    need: Estimate,
    device: str,
    log: Callable[[str], None],
) -> Settings:
    """Return the settings with the fastest engine for a run of this length.

    Args:
        settings: settings of the run.
        rungs: lengths of the rungs in tokens.
        wanted: requested step backend, measured where "auto".
        need: the estimate of the run's time on the plain engine.
        device: "cpu" or "cuda".
        log: called with each message of a measurement.
    """
    steps = planned_steps(settings, rungs)
    engine = select_backend(
        wanted, settings, steps=steps, expected=need.plain_seconds, device=device, log=log
    )
    return settings.model_copy(update=engine.model_dump())


def with_residual(settings: Settings, zero: int) -> Settings:
    """Return the settings with activations between blocks in bf16 where weights are sharded and gathered in bf16."""
    half = settings.dtype == "bf16" and zero >= 2
    return settings.model_copy(update={"residual": "bf16" if half else "fp32"})


def with_kernels(settings: Settings, device: str, processes: int, log: Callable[[str], None]) -> Settings:
    """Return the settings without the CUDA graphs and kernels that this run or this machine cannot have.

    Args:
        settings: settings of the run.
        device: "cpu" or "cuda".
        processes: processes that share the run.
        log: called with the reason of each.
    """
    changes: dict[str, str] = {}
    if reason := no_graphs(settings, device, processes):
        changes["compile_mode"] = "default"
        log(f"{settings.run}: its steps run without CUDA graphs: {reason}")
    if settings.attention == "flash3" and (reason := no_flash3(device, settings.dtype)):
        changes["attention"] = "flash"
        log(f"{settings.run}: uses flash attention in place of flash3: {reason}")
    return settings.model_copy(update=changes)


# Bytes of a GPU's memory that a process takes beside its tensors: CUDA's context, its loaded kernels and cuBLAS's workspaces.
# Not measured here; NVIDIA's documentation of MPS counts some hundred megabytes for a process's context.
CONTEXT = 0.8e9


def check_shared(settings: Sequence[Settings], at_once: int, log: Callable[[str], None]) -> None:
    """Refuse runs side by side whose memory the GPUs here do not hold; each is held to an equal part of its GPU.

    Args:
        settings: settings of the runs.
        at_once: runs that train at a time, each in a process of its own.
        log: called with how they share.

    Raises:
        BadInput: the largest run needs more than its part.
    """
    together = runs_of_a_gpu(at_once, torch.cuda.device_count())
    if together < 2:
        return
    largest = max(settings, key=lambda one: estimate(one, 1, "cuda").memory)
    need = estimate(largest, 1, "cuda").memory + CONTEXT
    room = free_memory("cuda")
    if need * together > room:
        fit = int(room // need)
        way = f"jobs={fit * torch.cuda.device_count()}" if fit else "jobs=1"
        raise BadInput(
            f"jobs is {at_once}, {together} runs to a GPU; {largest.run} needs {need / 1e9:.2f} GB and a part is "
            f"{room / together / 1e9:.2f} GB: {way}, or a smaller micro_batch="
        )
    pipes = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))  # noqa: S108 - NVIDIA's own default
    turns = (
        "" if pipes.exists() else "; without NVIDIA's MPS (nvidia-cuda-mps-control -d) they compute in turns"
    )
    log(f"{together} runs share a GPU, each with {room / together / 1e9:.2f} GB{turns}")


def peak_said(settings: Settings, device: str, devices: int, log: Callable[[str], None]) -> PeakFlops:
    """Return the peak rate to which the run's MFU refers, and log it once.

    Args:
        settings: settings of the run, for its number format.
        device: "cpu" or "cuda".
        devices: devices that share the run.
        log: called with the sentence that names the peak.
    """
    found = peak_of(device, speed_of(device, settings.dtype), settings.dtype, devices)
    log(found.sentence)
    return found
