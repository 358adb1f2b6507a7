"""Tuning of a member on this machine at a fixed global batch: few trials, each in its own process.

Also the scaling curve of the chosen configuration over the number of devices.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from families import train_flops_per_token
from families.accounting import training_memory
from families.units import BadInput, RunFailed, format_size
from scaling.machine import Measured, StepBackend, Tuned, cpu_share, remember, shape_key, step_flops
from scaling.planning.throughput import TimeModel, fit_times

from ..backend import (
    MARGIN,
    NEAR_BEST,
    SHARE_SECONDS,
    BackendRequest,
    available_attention,
    available_dtypes,
    free_memory,
)
from ..config import Settings
from ..runtime import machine_id
from .model import Model, Trial, TrialConfig, micro_batches, pick, two_micro_batches
from .probe import PROCESS, TrialResult, Tuning, experiment, probe_request, probed


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingCurve:
    """Seconds per step of the same global batch by number of devices, and the model fitted to them."""

    measured: dict[int, float]
    model: TimeModel
    threads: int

    @property
    def fastest(self) -> int:
        """Number of devices with the shortest measured step."""
        return min(self.measured, key=self.measured.__getitem__)


def check_counts(counts: Sequence[int], batch: int, device: str) -> None:
    """Return the numbers of devices of this machine that divide the batch evenly.

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
    """Return the number of GPUs, or of CPU cores that this process may use."""
    return torch.cuda.device_count() if device == "cuda" else len(os.sched_getaffinity(0))


def scaling_curve(tuning: Tuning, counts: Sequence[int], log: Callable[[str], None]) -> ScalingCurve:
    """Measure the chosen engine on each number of processes that share the batch.

    On a CPU, a device is an equal share of the cores: the number of cores divided by the largest number of processes.

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
        log(f"{tuning.settings.member}: {count} device{'s' if count > 1 else ''}")
        way = replace(tuning.picked.model.way, engine=engine, devices=count)
        answer = experiment(tuning, [probe_request(tuning, way, micro, batch=batch)], count)[0]
        if not answer["fits"]:
            raise RunFailed(f"{count} devices ran out of memory at {micro} sequences each")
        found[count] = answer["step"]
    return ScalingCurve(measured=found, model=fit_times(found), threads=threads)


BLOCK = 1  # layers of the model on which backends are compared


def tune(
    settings: Settings,
    wanted: BackendRequest,
    *,
    device: str,
    room: float | None,
    log: Callable[[str], None],
) -> Tuning:
    """Survey the engines on one block of the member, fit the best at two micro-batches, and verify the choice.

    Args:
        settings: settings of the member.
        wanted: requested step backend, measured where "auto".
        device: "cpu" or "cuda".
        room: memory in bytes that a trial may take; None for the free memory of the device.
        log: called with each message.

    Raises:
        BadInput: not even one sequence fits into memory.
    """
    began = time.monotonic()
    tuning = Tuning(settings=settings, device=device, room=room or free_memory(device))
    again = settings.checkpointing or not _allowed(tuning, checkpointing=False)
    allowed = _allowed(tuning, checkpointing=again)
    if not allowed:
        least = _analytic(settings, 1, checkpointing=True)
        raise BadInput(
            f"memory is {format_size(tuning.room)} bytes; one sequence of {settings.member} needs {format_size(least)}: "
            "choose a smaller member or fewer n_positions"
        )
    low, high = two_micro_batches(allowed)
    plain = wanted.plain(device).model_copy(update={"threads": _threads(wanted, device)[0]})
    kept = _survey(tuning, wanted, plain, (low, high), again, log)
    if kept is not None:
        way = TrialConfig(engine=kept, checkpointing=again)
        _draw(tuning, way, (low, high), log)
    tuning.picked = pick(tuning.models, tuning.batch, tuning.room)
    if tuning.picked is None:
        raise BadInput(f"memory is {format_size(tuning.room)} bytes; nothing that was tried stays below it")
    _verify(tuning, log)
    tuning.seconds = time.monotonic() - began
    _remember(tuning)
    return tuning


def _allowed(tuning: Tuning, *, checkpointing: bool) -> list[int]:
    """Return the micro-batches whose estimated memory fits."""
    return [
        micro
        for micro in micro_batches(tuning.batch)
        if _analytic(tuning.settings, micro, checkpointing=checkpointing) <= tuning.room
    ]


def _analytic(settings: Settings, micro: int, *, checkpointing: bool) -> float:
    return PROCESS + sum(training_memory(settings.spec(), micro, checkpointing=checkpointing).values())


def _threads(wanted: BackendRequest, device: str) -> list[int]:
    if device == "cuda":
        return [0]
    if isinstance(wanted.threads, int):
        return [wanted.threads]
    return list(dict.fromkeys((torch.get_num_threads(), 1)))


def _survey(
    tuning: Tuning,
    wanted: BackendRequest,
    plain: StepBackend,
    micros: tuple[int, int],
    again: bool,
    log: Callable[[str], None],
) -> StepBackend | None:
    """Measure, in one process, the plain engine at both micro-batches and every other on a single block.

    Returns:
        The fastest engine; None if it is the plain one.
    """
    dtypes = [wanted.dtype] if wanted.dtype != "auto" else available_dtypes(tuning.device)
    kinds = {dtype: attention_rivals(wanted.attention, tuning.device, dtype) for dtype in dtypes}
    rivals = [
        plain.model_copy(update={"dtype": dtype, "attention": kind, "threads": threads, "compile": False})
        for dtype in dtypes
        for kind in kinds[dtype]
        for threads in _threads(wanted, tuning.device)
    ]
    whole = [TrialConfig(engine=plain, checkpointing=again)] * 2
    asks = [
        probe_request(tuning, way, micro, n_layer=tuning.settings.n_layer)
        for way, micro in zip(whole, micros, strict=True)
    ]
    asks += [probe_request(tuning, TrialConfig(engine=engine), micros[0], n_layer=BLOCK) for engine in rivals]
    log(f"{tuning.settings.member}: a survey of {len(rivals)} engines on one block")
    answers = experiment(tuning, asks, 1)
    lines = [probed(way, micro, answer) for way, micro, answer in zip(whole, micros, answers, strict=False)]
    tuning.tried += lines
    fitting = [one for one in lines if one.fits]
    if fitting:
        tuning.models.append(Model.of(fitting[0], fitting[-1]))
    timed = {
        engine: answer["seconds"] + answer["update"]
        for engine, answer in zip(rivals, answers[2:], strict=True)
        if answer["fits"]
    }
    best = min(timed, key=timed.__getitem__, default=plain)
    if plain in timed and timed[best] > MARGIN * timed[plain]:
        best = plain
    if wanted.compile in ("auto", True):
        best = _compiles_best(timed, best)
        # A compiler fuses explicit operations best; fused kernels win where scores no longer fit the caches.
        short = tuning.device == "cpu" and tuning.settings.n_positions <= 512 and "eager" in kinds[dtypes[0]]
        best = best.model_copy(update={"compile": True, **({"attention": "eager"} if short else {})})
    return None if best == plain else best


def attention_rivals(wanted: str, device: str, dtype: str) -> tuple[str, ...]:
    """Attention kernels of a survey: the one asked for, else all but torch's own choice on a GPU, which is among them."""
    if wanted != "auto":
        return (wanted,)
    return tuple(kind for kind in available_attention(device, dtype) if device == "cpu" or kind != "sdpa")


def _compiles_best(timed: dict[StepBackend, float], best: StepBackend) -> StepBackend:
    """Return the number format to compile in: slightly slower bf16 wins once compiled, where its casts are free."""
    rivals = {engine: seconds for engine, seconds in timed.items() if engine.dtype == "bf16"}
    quickest = min(rivals, key=rivals.__getitem__, default=best)
    return quickest if best in timed and rivals and rivals[quickest] < NEAR_BEST * timed[best] else best


def _draw(tuning: Tuning, way: TrialConfig, micros: tuple[int, int], log: Callable[[str], None]) -> None:
    """Fit the lines of a configuration through two trials; one that runs out of memory is repeated at half the size."""
    seen: list[Trial] = []
    for micro in sorted(micros):
        while micro:
            log(f"{tuning.settings.member}: {way.space} at {micro} sequences")
            found = probed(
                way, micro, experiment(tuning, [probe_request(tuning, way, micro)], way.devices)[0]
            )
            tuning.tried.append(found)
            if found.fits:
                seen.append(found)
                break
            micro //= 2
    if seen:
        tuning.models.append(Model.of(seen[0], seen[-1]))


def _verify(tuning: Tuning, log: Callable[[str], None]) -> None:
    """Measure full steps of the choice; if memory runs out, of the next smaller micro-batch."""
    while tuning.picked is not None:
        chosen = tuning.picked
        log(f"{tuning.settings.member}: verifying {chosen.name}")
        asked = probe_request(tuning, chosen.model.way, chosen.micro, batch=tuning.batch)
        answer = experiment(tuning, [asked], chosen.model.way.devices)[0]
        found = probed(chosen.model.way, chosen.micro, answer)
        tuning.tried.append(found)
        if found.fits:
            tuning.verified = TrialResult(probed=found, step=answer["step"])
            return
        smaller = [m for m in micro_batches(tuning.batch, chosen.model.way.devices) if m < chosen.micro]
        tuning.picked = replace(chosen, micro=smaller[-1]) if smaller else None
    raise BadInput(f"memory is {format_size(tuning.room)} bytes; nothing that was tried stays below it")


def _remember(tuning: Tuning) -> None:
    """Save the measurements to the machine profile that plan, train and tune read."""
    assert tuning.verified is not None
    assert tuning.picked is not None
    settings, seen, spec = tuning.settings, tuning.verified, tuning.settings.spec()
    share = cpu_share(torch.get_num_threads(), SHARE_SECONDS) if tuning.device == "cpu" else None
    measured = [
        Measured(
            shape=shape_key(spec), device=tuning.device, micro_batch=one.micro, engine=one.way.engine,
            seconds=one.seconds + one.update, first_seconds=one.first, flops=step_flops(spec, one.micro), memory=one.memory,
            share=share,
        )
        for one in tuning.tried
        if one.fits and one.way.devices == 1 and not one.way.checkpointing
    ]  # fmt: skip
    way, hand = tuning.picked.model.way, tuning.hand
    tuned = Tuned(
        shape=shape_key(spec),
        device=tuning.device,
        batch_size=settings.batch_size,
        devices=way.devices,
        micro_batch=tuning.picked.micro,
        checkpointing=way.checkpointing,
        engine=way.engine,
        seconds=seen.step,
        plain_seconds=seen.step if hand is None else max(seen.step, hand.step),
        first_seconds=seen.probed.first,
        memory=seen.probed.memory,
        flops=float(train_flops_per_token(spec) * settings.batch_tokens),
    )
    remember(machine_id(tuning.device), measured, [tuned])
