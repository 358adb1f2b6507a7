"""Settings with which a model trains within the memory of its devices: micro-batch, recomputation, sharding, batch."""

import math
from dataclasses import dataclass
from functools import partial

from families import ModelSpec, accounting
from families.units import BadInput, format_bytes

from ..hardware import Accelerator

USABLE = 0.92  # of a device's memory; the rest is the context's, the libraries' and the allocator's
MOST_DEVICES = 2**16  # considered where a model fits into none of fewer
NEAR = 0.05  # relative change of a batch that a micro-batch twice as large is worth


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFit:
    """Settings with which a member trains within a device's memory.

    Args:
        micro_batch: sequences in one forward pass on one device.
        batch_sequences: sequences of a step: a multiple of devices × micro-batch.
        checkpointing: activations are recomputed in the backward pass.
        shards: devices that share the states.
        memory: bytes by part on each device.
    """

    micro_batch: int
    batch_sequences: int
    checkpointing: bool
    shards: int
    memory: dict[str, int]


def fit_memory(
    spec: ModelSpec,
    device: Accelerator | None,
    devices: int,
    batch_sequences: int,
    *,
    name: str = "the model",
) -> MemoryFit:
    """The batch nearest to the one asked for that the devices share evenly, and the largest micro-batch that fits.

    Activation checkpointing is used only where it must be, and states are sharded over all devices (ZeRO 3, FSDP) only where
    they do not fit into one. Without a device the micro-batch is 1.

    Args:
        spec: the model.
        device: the accelerator; None where none is named.
        devices: number of them, which divide each step's sequences.
        batch_sequences: sequences of a step that the recipe asks for.
        name: stands in the message.

    Raises:
        BadInput: not even one sequence fits; it says the smallest number of devices that can.
    """
    share = max(1, round(batch_sequences / devices))
    if device is None:
        memory = accounting.training_memory(spec, 1)
        return MemoryFit(
            micro_batch=1, batch_sequences=devices * share, checkpointing=False, shards=1, memory=memory
        )
    bf16 = device.training_format != "fp32"
    usable = USABLE * device.memory
    for shards, checkpointing in ((1, False), (1, True), (devices, False), (devices, True)):
        measure = partial(
            accounting.training_memory, spec, checkpointing=checkpointing, bf16=bf16, shards=shards
        )
        one, two = (sum(measure(size).values()) for size in (1, 2))
        if one > usable:
            continue
        most = min(share, 1 + int((usable - one) / (two - one)))  # memory is affine in the micro-batch
        micro, whole = _divided(share, most)
        return MemoryFit(
            micro_batch=micro,
            batch_sequences=devices * whole,
            checkpointing=checkpointing,
            shards=shards,
            memory=measure(micro),
        )
    raise _too_large(spec, device, devices, name)


def _divided(share: int, most: int) -> tuple[int, int]:
    """The micro-batch, and the sequences of a step on one device, a multiple of it near `share`.

    The share itself where a divisor of it is at least half of the largest micro-batch that fits; else the number within 5 %
    of it that has the largest divisor.
    """

    def divisor(sequences: int) -> int:
        return next(size for size in range(min(most, sequences), 0, -1) if sequences % size == 0)

    micro = divisor(share)
    if 2 * micro >= min(most, share):
        return micro, share
    near = range(max(1, math.ceil(share * (1 - NEAR))), math.floor(share * (1 + NEAR)) + 1)
    best = max(near, key=lambda sequences: (divisor(sequences), -abs(sequences - share)))
    return divisor(best), best


def _too_large(spec: ModelSpec, device: Accelerator, devices: int, name: str) -> BadInput:
    """The reason why a model fits into no sharding over so many devices, and how many can hold it."""
    bf16 = device.training_format != "fp32"

    def needed(count: int) -> int:
        return sum(accounting.training_memory(spec, 1, checkpointing=True, bf16=bf16, shards=count).values())

    sharing = "" if devices == 1 else f", states sharded over {devices}"
    problem = (
        f"{name} needs {format_bytes(needed(devices))} of a device's memory, one sequence at a time{sharing}; "
        f"{device.name} has {format_bytes(device.memory)}"
    )
    usable = USABLE * device.memory
    if needed(MOST_DEVICES) > usable:
        return BadInput(f"{problem}: no number of them holds it; take devices with more memory")
    low, high = devices, MOST_DEVICES  # too few, enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if needed(middle) <= usable else (middle, high)
    return BadInput(
        f"{problem}: take more or larger devices, such as --on {high}x{device.name}, the smallest number that holds it"
    )
