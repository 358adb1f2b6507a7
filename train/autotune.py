"""What this machine can do: probed speed, free memory, and the micro-batch that fits."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from families import ModelSpec, train_flops_per_token
from families.accounting import training_memory
from families.design import name_of
from scaling.machine import MachineFile, quickest

from .config import Settings
from .host import machine_id
from .loop import Session, start, train_step
from .shape import SHAPE_FIELDS

MEMORY_SHARE = 0.8  # of what is free: the rest is for everything the arithmetic leaves out
STEP_EFFICIENCY = 0.5  # of a plain matmul's speed that a training step reaches
PROBE_WIDTH = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run will need: bytes, and seconds at `flops_per_s`.

    That speed was measured on this shape, or is a plain matrix product's times the efficiency; `source` says which.
    plain_seconds: by the latter, in any case.
    """

    memory: float
    available: float
    seconds: float
    plain_seconds: float
    flops_per_s: float
    machine: str
    source: str


def free_memory(device: str) -> float:
    """Bytes that a run may take."""
    if device == "cuda":
        return MEMORY_SHARE * torch.cuda.mem_get_info()[0]
    return MEMORY_SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def machine_name(device: str) -> str:
    """1 x NVIDIA H200, or 2 CPU threads."""
    if device == "cuda":
        return f"1 x {torch.cuda.get_device_name()}"
    return f"{torch.get_num_threads()} CPU threads"


def fitting_micro_batch(spec: ModelSpec, batch_size: int, device: str, *, checkpointing: bool = False) -> int:
    """What `scaling tune` found here; else the largest divisor of the batch whose memory fits, 1 where none does."""
    tuned = MachineFile.open().tuned_for(machine_id(device), spec, device, batch_size)
    if tuned is not None and tuned.checkpointing == checkpointing:
        return tuned.micro_batch
    room = free_memory(device)
    for micro in range(batch_size, 0, -1):
        if batch_size % micro == 0:
            need = training_memory(spec, micro, checkpointing=checkpointing)
            if sum(need.values()) <= room:
                return micro
    return 1


def matmul_speed(device: str, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of square matmuls, the best of a few: about a third of a second."""
    a = torch.randn(PROBE_WIDTH, PROBE_WIDTH, device=device, dtype=dtype)
    best = 0.0
    for _ in range(6):
        began = time.perf_counter()
        for _ in range(4):
            a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 8 * PROBE_WIDTH**3 / (time.perf_counter() - began))
    return best


def speed_of(device: str, dtype: str) -> float:
    """FLOP/s of matmuls in fp32 or bf16 on as many threads as torch now has, measured once."""
    return _measured(device, dtype, torch.get_num_threads())


@lru_cache
def _measured(device: str, dtype: str, threads: int) -> float:
    return matmul_speed(device, torch.bfloat16 if dtype == "bf16" else torch.float32)


def estimate(settings: Settings, steps: int, device: str) -> Estimate:
    """Memory and time of a run, from the arithmetic and a probe; an estimate, said as one."""
    spec = settings.spec()
    speed = speed_of(device, settings.dtype) * STEP_EFFICIENCY
    flops = steps * settings.batch_tokens * train_flops_per_token(spec)
    known = MachineFile.open().of(machine_id(device), spec, device, settings.micro_batch)
    found = quickest(known, steps * settings.batch_size / settings.micro_batch) if known else None
    actual = found.flops_per_s if found else speed
    return Estimate(
        memory=float(
            sum(training_memory(spec, settings.micro_batch, checkpointing=settings.checkpointing).values())
        ),
        available=free_memory(device),
        seconds=flops / actual,
        plain_seconds=flops / speed,
        flops_per_s=actual,
        machine=machine_name(device),
        source="measured here at this shape" if found else "estimated from a probe",
    )


def probe_members(
    specs: Sequence[ModelSpec], batch_size: int, *, threads: int, steps: int = 12
) -> dict[str, float]:
    """Seconds of a real training step on this machine's CPU on so many threads, by the member's name.

    Medians of steps that are interleaved over the members, which spreads a moment's disturbance over all of them.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        sessions = {name_of(spec): _probe_session(spec, batch_size) for spec in specs}
        shape = (batch_size, specs[0].n_positions + 1)
        windows = torch.randint(specs[0].vocab_size, shape, generator=torch.Generator().manual_seed(0))
        times: dict[str, list[float]] = {name: [] for name in sessions}
        for _ in range(steps + 1):
            for name, session in sessions.items():
                began = time.perf_counter()
                train_step(session, windows, session.settings.lr)
                times[name].append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    return {name: sorted(seconds[1:])[steps // 2] for name, seconds in times.items()}


def _probe_session(spec: ModelSpec, batch_size: int) -> Session:
    shape = {name: getattr(spec, name) for name in SHAPE_FIELDS}
    settings = Settings(
        run="probe", member="probe", group="probe", **shape, eos_token_id=0, seed=0, batch_size=batch_size,
        micro_batch=batch_size, lr=1e-3, warmup=0, schedule="wsd", cooldown=0.2, weight_decay=0.1, beta1=0.9, beta2=0.99,
        grad_clip=1.0, dropout=0.0, init_std=0.02, dtype="fp32", data_sha256="",
    )  # fmt: skip
    return start(settings, "cpu")
