"""The picked engine on one, two, … devices at the same global batch, and the model of time through them."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from families.errors import BadInput, RunFailed
from scaling.planning.devices import TimeModel, fit_times
from scaling.tuning import micro_batches

from .experiment import Tuning, ask, experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Seconds of a step of the same global batch on so many devices, and the model through them."""

    measured: dict[int, float]
    model: TimeModel
    threads: int


def check_counts(counts: Sequence[int], batch: int, device: str) -> None:
    """Numbers of devices that this machine has and that share the batch evenly.

    Raises:
        BadInput: fewer than two numbers, or one that the machine or the batch does not allow.
    """
    there = devices_here(device)
    if len(set(counts)) < 2 or min(counts) < 1 or max(counts) > there:
        has = (
            f"two numbers or more from 1 to {there}, like 1,2"
            if there > 1
            else "nothing: this machine has one"
        )
        raise BadInput(f"devices is {','.join(map(str, counts))}; give {has}")
    bad = next((count for count in counts if batch % count), None)
    if bad is not None:
        raise BadInput(f"devices is {bad}; the batch of {batch} sequences cannot be shared evenly by so many")


def devices_here(device: str) -> int:
    """GPUs, or cores of the CPU that this process may use."""
    return torch.cuda.device_count() if device == "cuda" else len(os.sched_getaffinity(0))


def scaling_curve(tuning: Tuning, counts: Sequence[int], tell: Callable[[str], None]) -> Curve:
    """The picked engine on one, two, … processes that share the batch; a CPU's cores are divided evenly, one device being
    the share of the largest number.

    Raises:
        BadInput: numbers that `check_counts` refuses.
    """
    check_counts(counts, tuning.batch, tuning.device)
    most, batch = max(counts), tuning.batch
    assert tuning.picked is not None
    threads = 0 if tuning.device == "cuda" else max(1, devices_here(tuning.device) // most)
    engine = tuning.picked.model.way.engine.model_copy(update={"threads": threads})
    micro = max(m for m in micro_batches(batch, most) if m <= tuning.picked.micro)
    found = {}
    for count in sorted(set(counts)):
        tell(f"{tuning.settings.member}: {count} device{'s' if count > 1 else ''}")
        way = replace(tuning.picked.model.way, engine=engine, devices=count)
        answer = experiment(tuning, [ask(tuning, way, micro, batch=batch)], count)[0]
        if not answer["fits"]:
            raise RunFailed(f"{count} devices ran out of memory at {micro} sequences each")
        found[count] = answer["step"]
    return Curve(measured=found, model=fit_times(found), threads=threads)
