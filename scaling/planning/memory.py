"""Settings with which a model trains within the memory of its devices: micro-batch, recomputation, sharding, batch.

Sharding the states over all devices (FSDP) comes first. A model that does not fit so is laid out by tensor, pipeline and
expert parallelism, as Megatron-LM does, and by context parallelism where a sequence is too long for that.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from families import ModelSpec, accounting
from families.memory import Layout, Precision, degrees_text, device_memory, experts
from families.units import BadInput, format_bytes

from ..hardware import Accelerator

USABLE = 0.92  # of a device's memory; the rest is the context's, the libraries' and the allocator's
MOST_DEVICES = 2**16  # considered where a model fits into none of fewer
NEAR = 0.05  # relative change of a batch that a micro-batch twice as large is worth
WIDEST_TENSOR = (
    8  # devices of a node, within which tensor parallelism stays (Narayanan et al. 2021, section 3)
)
CONTEXTS = (
    1,
    2,
    4,
    8,
    16,
    32,
)  # degrees of context parallelism considered; 16 is what Llama 3 took for 131,072


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFit:
    """Settings with which a member trains within a device's memory.

    Args:
        micro_batch: sequences in one forward pass on one device.
        batch_sequences: sequences of a step: a multiple of devices × micro-batch.
        checkpointing: activations are recomputed in the backward pass.
        shards: devices that share the states.
        memory: bytes by part on each device.
        tensor: devices that share each matrix; 1 as `pipeline` and `expert` are where sharding alone suffices.
        pipeline: devices that share the blocks, in stages.
        context: devices that share each sequence.
        expert: devices that share the experts of a mixture.
    """

    micro_batch: int
    batch_sequences: int
    checkpointing: bool
    shards: int
    memory: dict[str, int]
    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    expert: int = 1

    @property
    def layout(self) -> Layout:
        """The degrees, and how states are shared."""
        return Layout(
            tensor=self.tensor,
            pipeline=self.pipeline,
            context=self.context,
            expert=self.expert,
            shards=self.shards,
            stage=3 if self.pipeline == 1 else 1,
            checkpointing=self.checkpointing,
        )


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
    they do not fit into one. Where that is not enough, tensor, pipeline and expert parallelism of as few devices as will do, the
    rest of them replicas that share the states; and context parallelism where none of those holds a sequence. Without a device
    the micro-batch is 1.

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
        most = _most(measure, usable, share)
        if not most:
            continue
        micro, whole = _divided(share, most)
        return MemoryFit(
            micro_batch=micro,
            batch_sequences=devices * whole,
            checkpointing=checkpointing,
            shards=shards,
            memory=measure(micro),
        )
    for layout in _layouts(spec, device, devices):
        replicas = layout.shards // layout.context
        share = max(layout.pipeline, round(batch_sequences / replicas))  # a stage needs a micro-batch
        measure = partial(device_memory, spec, layout=layout)
        most = _most(measure, usable, share // layout.pipeline)
        if most:
            micro, whole = _divided(share, most)
            return MemoryFit(
                micro_batch=micro,
                batch_sequences=replicas * whole,
                checkpointing=layout.checkpointing,
                shards=layout.shards,
                memory=measure(micro),
                tensor=layout.tensor,
                pipeline=layout.pipeline,
                context=layout.context,
                expert=layout.expert,
            )
    raise _too_large(spec, device, devices, name)


def _most(measure: Callable[[int], dict[str, int]], usable: float, share: int) -> int:
    """The largest micro-batch that fits, at most `share`; 0 if one sequence does not. Memory is affine in it."""
    one, two = (sum(measure(size).values()) for size in (1, 2))
    return 0 if one > usable else min(share, 1 + int((usable - one) / (two - one)))


def _layouts(spec: ModelSpec, device: Accelerator, devices: int | None) -> Iterator[Layout]:
    """Layouts by tensor, pipeline and expert parallelism, the fewest devices to a replica first, then the fewest stages.

    Those with context parallelism come after all without it. Stages may be uneven: any number of them that divides the
    devices. Without a pipeline the replicas share all states (FSDP); with one the optimiser's alone, since weights that are
    gathered for each micro-batch of each stage would cross the network many times a step.

    Args:
        spec: the model.
        device: the accelerator.
        devices: all of them, which the replicas share; None yields each layout with one replica, or one to each expert
            group.
    """
    precision: Precision = "autocast" if device.training_format != "fp32" else "fp32"
    number = max(1, experts(spec))
    experts_shared = [size for size in range(1, number + 1) if number % size == 0]
    tensors = [
        size
        for size in range(1, WIDEST_TENSOR + 1)
        if spec.n_head % size == 0 and (spec.n_kv_head or spec.n_head) % size == 0
    ]
    depths = [
        stages
        for stages in range(1, spec.n_layer + 1)
        if spec.n_layer % stages == 0
        or (stages & (stages - 1) == 0 if devices is None else devices % stages == 0)
    ]
    degrees = [(tensor, pipeline) for tensor in tensors for pipeline in depths]
    degrees.sort(key=lambda pair: (pair[0] * pair[1], pair[1]))
    for context in CONTEXTS:
        if spec.n_positions % (
            2 * context
        ):  # each device takes two pieces, one from either end (Megatron Core)
            continue
        for tensor, pipeline in degrees:
            group = tensor * pipeline * context
            if devices is not None and devices % group:
                continue
            for expert in experts_shared:
                replicas = expert if devices is None else devices // group
                if replicas % expert == 0 and group * expert > 1:
                    for checkpointing in (False, True):
                        yield Layout(
                            tensor=tensor,
                            pipeline=pipeline,
                            context=context,
                            expert=expert,
                            shards=replicas * context,
                            stage=3 if pipeline == 1 else 1,
                            precision=precision,
                            checkpointing=checkpointing,
                        )


def _least_replicated(spec: ModelSpec, usable: float, layout: Layout, most: int) -> int | None:
    """The fewest devices below `most` that hold a model in that layout, whatever the number of replicas; None if none do."""
    group = layout.tensor * layout.pipeline * layout.context

    def holds(replicas: int) -> bool:
        shared = replace(layout, shards=replicas * layout.context)
        return sum(device_memory(spec, 1, shared).values()) <= usable

    multiples = range(layout.expert, (most - 1) // group + 1, layout.expert)
    if not multiples or not holds(multiples[-1]):
        return None
    low, high = -1, len(multiples) - 1  # too few, enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(multiples[middle]) else (middle, high)
    return group * multiples[high]


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
    high = MOST_DEVICES + 1  # enough, of those considered
    if needed(MOST_DEVICES) <= usable:
        low, high = devices, MOST_DEVICES  # too few, enough
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if needed(middle) <= usable else (middle, high)
    least, how = high, ""
    for layout in _layouts(spec, device, None):
        if layout.checkpointing and layout.devices < least:
            fewer = _least_replicated(spec, usable, layout, least)
            if fewer is not None and fewer > devices:
                words = degrees_text(layout.tensor, layout.pipeline, layout.expert, layout.context)
                least, how = fewer, f", by {words}"
    if least > MOST_DEVICES:
        return BadInput(f"{problem}: no number of them holds it; take devices with more memory")
    sharded = f" ({high} with states sharded alone)" if how and high <= MOST_DEVICES else ""
    return BadInput(
        f"{problem}: take more or larger devices, such as --on {least}x{device.name}, the smallest number that holds "
        f"it{how}{sharded}"
    )
