"""The engine of a run: what its keys leave to `auto` is probed on this machine, at the run's own shape, and remembered."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from families import ModelSpec, params, params_active, train_flops_per_token
from families.accounting import training_memory
from families.design import name_of
from families.units import BadInput, format_duration
from scaling.machine import (
    BUSY,
    MachineFile,
    Measured,
    StepBackend,
    cpu_share,
    fastest_backend,
    remember,
    shape_key,
    step_flops,
)

from .config import SHAPE_FIELDS, Settings, TrainConfig
from .distributed import ALONE, World
from .loop import Session, start, train_step
from .model.flash3 import no_flash3
from .runtime import gpu_share, machine_id, probe
from .speed import STEP_EFFICIENCY, gpu_rates, gpu_step_seconds, speed_of

WORTH = 90.0  # seconds of plain training below which a run is not worth a probe

COMPILE_SHARE = 0.1  # largest share of a run for compiling a step whose speed is not known

COMPILE_SECONDS = 40.0  # of compiling on two CPU cores, 15 to 60; used until measured

GAIN = 1.2  # least speed-up of a bf16 matrix product for bf16 to be measured

MARGIN = 0.98  # a candidate must take less than this share of the best time, to beat the noise

NEAR_BEST = (
    1.4  # bf16 that is no faster than this times fp32 may still win compiled, where its casts cost nothing
)

STEPS, MANY = 3, 10

PROBE = 0.5  # seconds of steps, where a step is short

SHARE_SECONDS = 0.3  # for which the share of the cores is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendRequest:
    """Requested step backend of a run; "auto" leaves a field to measurement."""

    dtype: str = "auto"
    compile: bool | str = "auto"
    attention: str = "auto"
    threads: int | str = "auto"

    @classmethod
    def of(cls, config: TrainConfig) -> "BackendRequest":
        """Return the request of a configuration; a mixture of experts is not compiled."""
        spec = config.spec()
        return cls(
            dtype=config.dtype,
            compile=(config.compiles or config.compile) if params_active(spec) == params(spec) else False,
            attention=config.attention,
            threads=config.threads,
        )

    def allows(self, engine: StepBackend) -> bool:
        """Return True if a backend satisfies the request."""
        return all(
            getattr(self, key) in ("auto", getattr(engine, key))
            for key in ("dtype", "compile", "attention", "threads")
        )

    def plain(self, device: str = "cpu") -> StepBackend:
        """Return the backend without measurement: as given, else not compiled, torch's own attention, fp32 on a CPU.

        On a GPU the number format is the fastest that it has, in which its tensor units compute.
        """
        given = {key: value for key in StepBackend.model_fields if (value := getattr(self, key)) != "auto"}
        usual = {"dtype": available_dtypes(device)[0]} if device == "cuda" else {}
        return StepBackend.model_validate({**usual, **given})


def select_backend(
    requested: BackendRequest,
    settings: Settings,
    *,
    steps: int,
    expected: float,
    device: str,
    log: Callable[[str], None],
    measure: Callable[[Settings, StepBackend, str], Measured] | None = None,
) -> StepBackend:
    """Return the backend with which a run finishes first.

    Runs expected to take less than WORTH seconds use the plain backend: measuring would cost more than it saves.

    Args:
        requested: the requested backend.
        settings: settings of the run.
        steps: steps of the run.
        expected: estimated seconds of the run with the plain backend.
        device: "cpu" or "cuda".
        log: called with a message.
        measure: measures a backend; default: real steps in this process.

    Raises:
        BadInput: the device lacks a requested backend.
    """
    if requested.attention == "cudnn" and device != "cuda":
        raise BadInput("attention is cudnn, which needs a GPU; on a CPU it is eager, sdpa or flash")
    if requested.dtype == "bf16" and device == "cuda" and "bf16" not in available_dtypes(device):
        raise BadInput(
            f"dtype is bf16, which {torch.cuda.get_device_name()} only emulates (compute capability below 8.0): "
            f"dtype={available_dtypes(device)[0]}"
        )
    plain = requested.plain(device)
    if expected < WORTH or not _open(requested):
        return plain
    spec = settings.spec()
    micro_steps = steps * settings.batch_size / settings.micro_batch
    machine = machine_id(device)
    tuned = MachineFile.open().tuned_for(machine, spec, device, settings.batch_size)
    if tuned is not None and tuned.micro_batch == settings.micro_batch and requested.allows(tuned.engine):
        return tuned.engine if tuned.pays(steps) else plain
    share = cpu_share(torch.get_num_threads(), SHARE_SECONDS) if device == "cpu" else None
    known = {
        measured.engine: measured
        for measured in MachineFile.open().of(machine, spec, device, settings.micro_batch)
        if requested.allows(measured.engine) and measured.holds_at(share)
    }
    timer = _Timer(settings, device, measure or time_step, known, log)
    best = _search(requested, timer, micro_steps, device)
    if best is None:
        log(f"{settings.run}: no backend could be measured; uses {plain.name}")
        return plain
    if timer.new:
        remember(machine, [one.model_copy(update={"share": share}) for one in timer.new])
        beside = (
            ""
            if share is None or share >= BUSY
            else f", beside other work that takes {1 - share:.0%} of the cores"
        )
        log(f"{settings.run}: measured {len(timer.new)} backends for {shape_key(spec)}{beside}; uses {best.engine.name}, "
             f"{format_duration(best.seconds)} a step of {settings.micro_batch} sequences")  # fmt: skip
    return best.engine


def _open(requested: BackendRequest) -> bool:
    return "auto" in (requested.dtype, requested.compile, requested.attention, requested.threads)


@dataclass(slots=True)
class _Timer:
    """Measures backends that are not known yet."""

    settings: Settings
    device: str
    measure: Callable[[Settings, StepBackend, str], Measured]
    known: dict[StepBackend, Measured]
    log: Callable[[str], None]
    new: list[Measured]
    failed: set[StepBackend]

    def __init__(self, settings: Settings, device: str, measure: Any, known: Any, log: Any) -> None:
        self.settings, self.device, self.measure, self.log = settings, device, measure, log
        self.known, self.new, self.failed = known, [], set()

    def __call__(self, engine: StepBackend) -> Measured | None:
        """Return the measurement of a backend; None for one that fails here, which is said once."""
        if engine in self.failed:
            return None
        if engine not in self.known:
            try:
                self.known[engine] = self.measure(self.settings, engine, self.device)
            except (
                Exception
            ) as error:  # whatever a compiler, a kernel or memory raises: another backend may do
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
                self.failed.add(engine)
                self.log(
                    f"{self.settings.run}: {engine.name} fails on this machine and is left out ({reason})"
                )
                return None
            self.new.append(self.known[engine])
        return self.known[engine]


def _search(
    requested: BackendRequest, time_backend: _Timer, micro_steps: float, device: str
) -> Measured | None:
    """Search greedily from the best so far: number format, attention, threads, then the compiler.

    Returns None if nothing that was asked for could be measured.
    """
    dtypes = _allowed(requested.dtype, available_dtypes(device))
    kinds = _allowed(requested.attention, available_attention(device, dtypes[0]))
    most = torch.get_num_threads()
    threads = _allowed(requested.threads, (0,) if device == "cuda" else tuple({most: 0, 1: 0}))
    firsts = [
        StepBackend(dtype=dtype, compile=requested.compile is True, attention=kind, threads=threads[0])
        for dtype in dtypes
        for kind in kinds
    ]
    first, best = next(
        ((engine, found) for engine in firsts if (found := time_backend(engine)) is not None), (None, None)
    )
    if first is None or best is None:
        return None
    for changes in (
        [{"dtype": dtype} for dtype in dtypes[1:]],
        [{"attention": kind} for kind in kinds[1:] if kind != "sdpa" or device == "cpu"],
        [{"threads": count} for count in threads[1:]],
    ):
        for change in changes:
            rival = time_backend(best.engine.model_copy(update=change))
            if rival is not None and rival.seconds < MARGIN * best.seconds:
                best = rival
    if requested.compile != "auto":
        return best
    left = micro_steps * best.seconds
    written_out = [
        kind for kind in ("eager", "flash") if kind in kinds
    ]  # a compiler fuses best what is written out
    rivals = [best.engine.model_copy(update={"compile": True, "attention": kind})
              for kind in dict.fromkeys([*written_out, best.engine.attention])]  # fmt: skip
    if best.engine.dtype == "fp32" and "bf16" in dtypes:
        plain = time_backend.known.get(first.model_copy(update={"dtype": "bf16"}))
        if plain is not None and plain.seconds < NEAR_BEST * time_backend.known[first].seconds:
            rivals.append(rivals[0].model_copy(update={"dtype": "bf16"}))
    for engine in rivals:
        if engine in time_backend.known or COMPILE_SHARE * left > COMPILE_SECONDS:
            time_backend(engine)
    return fastest_backend(time_backend.known.values(), micro_steps)


def _allowed(given: Any, candidates: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(candidates) if given == "auto" else (given,)


def available_attention(device: str, dtype: str) -> tuple[str, ...]:
    """Return the attention backends to consider in a number format, the usual one first."""
    if device != "cuda":
        return ("sdpa", "eager")
    return ("flash", "cudnn", "sdpa", *(() if no_flash3(device, dtype) else ("flash3",)))


def available_dtypes(device: str) -> tuple[str, ...]:
    """Return the number formats to consider: on a CPU fp32 first; on a GPU that of its tensor units.

    bf16 from compute capability 8.0 on, fp16 from 7.0 on, which other GPUs only emulate. ROCm's devices have both.
    """
    if device == "cuda":
        if torch.version.hip is not None or torch.cuda.get_device_capability() >= (8, 0):
            return ("bf16",)
        return ("fp16",) if torch.cuda.get_device_capability() >= (7, 0) else ("fp32",)
    return ("fp32", "bf16") if probe().bf16_gain >= GAIN else ("fp32",)


def time_step(settings: Settings, engine: StepBackend, device: str) -> Measured:
    """Measure real steps of one micro-batch of random tokens; the fastest of a few, as other processes only slow it down."""
    spec, micro = settings.spec(), settings.micro_batch
    changes = {**engine.model_dump(), "batch_size": micro, "micro_batch": micro, "run": "probe"}
    with _own_threads():
        session = start(settings.model_copy(update=changes), device)
        windows = random_examples(settings, micro).to(device)
        first = _seconds(lambda: train_step(session, windows, 1e-4), device)
        times: list[float] = []
        while len(times) < STEPS or (sum(times) < PROBE and len(times) < MANY * STEPS):
            times.append(_seconds(lambda: train_step(session, windows, 1e-4), device))
    return Measured(
        shape=shape_key(spec),
        device=device,
        micro_batch=micro,
        engine=engine,
        seconds=min(times),
        first_seconds=max(0.0, first - min(times)),
        flops=step_flops(spec, micro),
    )


def random_examples(settings: Settings, count: int) -> torch.Tensor:
    """Return examples of random tokens in the objective's format."""
    from .model.objective import objective_of

    rng = torch.Generator().manual_seed(0)
    windows = torch.randint(settings.vocab_size, (count, settings.n_positions + 1), generator=rng)
    return torch.from_numpy(objective_of(settings).examples(windows.numpy(), (0, 0)))


def _seconds(step: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


@contextmanager
def _own_threads() -> Iterator[None]:
    before, random = torch.get_num_threads(), torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_rng_state(random)


MEMORY_SHARE = 0.8  # of the free memory; the rest is for what the arithmetic leaves out


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Estimated memory (bytes) and time (seconds, at `flops_per_s`) of a run.

    The speed was measured on this shape; else it is that of a plain matmul times STEP_EFFICIENCY, on a GPU that of the step
    model, as `source` says. `plain_seconds` is always by one of the latter.
    """

    memory: float
    available: float
    seconds: float
    plain_seconds: float
    flops_per_s: float
    machine: str
    source: str


def free_memory(device: str) -> float:
    """Return the bytes that a run may use."""
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        return MEMORY_SHARE * min(free, gpu_share() * total)
    return MEMORY_SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def machine_name(device: str, processes: int = 1) -> str:
    """Return e.g. "1 x NVIDIA H200" or "2 CPU threads"."""
    if device == "cuda":
        return f"{processes} x {torch.cuda.get_device_name()}"
    return f"{processes * torch.get_num_threads()} CPU threads"


def fitting_micro_batch(spec: ModelSpec, batch_size: int, device: str, *, checkpointing: bool = False) -> int:
    """Return the micro-batch tuned on this machine, else the largest divisor of the batch that fits, or 1.

    Args:
        spec: the model.
        batch_size: sequences per step.
        device: "cpu" or "cuda".
        checkpointing: True if activations are recomputed.
    """
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


def estimate(settings: Settings, steps: int, device: str, world: World = ALONE) -> Estimate:
    """Estimate memory of one device and time of a run from arithmetic and a measurement.

    Args:
        settings: settings of the run.
        steps: steps of the run.
        device: "cpu" or "cuda".
        world: the processes that share the run; their exchange of gradients is taken to be hidden.
    """
    spec = settings.spec()
    micro = min(settings.micro_batch, max(1, settings.batch_size // world.size))
    flops = steps * settings.batch_tokens * train_flops_per_token(spec)
    if device == "cuda":
        rates = gpu_rates(settings.dtype)
        seconds = steps * gpu_step_seconds(spec, settings.batch_size, settings.micro_batch, rates)
        speed = flops / seconds
    else:
        speed = speed_of(device, settings.dtype) * STEP_EFFICIENCY
    known = MachineFile.open().of(machine_id(device), spec, device, settings.micro_batch)
    if device == "cpu":
        known = tuple(one for one in known if one.share is not None and one.share >= BUSY) or known
    fastest = fastest_backend(known, steps * settings.batch_size / settings.micro_batch) if known else None
    actual = fastest.flops_per_s if fastest else speed
    return Estimate(
        memory=float(
            sum(
                training_memory(
                    spec,
                    micro,
                    checkpointing=settings.checkpointing,
                    bf16=device == "cuda" and settings.dtype != "fp32",
                    shards=world.size if world.zero == 3 else 1,
                ).values()
            )
        ),
        available=free_memory(device),
        seconds=flops / actual / world.size,
        plain_seconds=flops / speed / world.size,
        flops_per_s=actual * world.size,
        machine=machine_name(device, world.size),
        source="measured here at this shape"
        if fastest
        else "the step model at this GPU's measured rates"
        if device == "cuda"
        else "estimated from a probe",
    )


def probe_members(
    specs: Sequence[ModelSpec], batch_size: int, *, threads: int, steps: int = 12, share: float = 1.0
) -> dict[str, float]:
    """Measure seconds per training step on this machine's CPU, by the member's name.

    Medians of steps that are interleaved over the members, so that a disturbance affects all of them. A step shorter than a
    time slice is rarely interrupted and hides other work: the quickest over `share` is then the longer, and counts.

    Args:
        specs: the members.
        batch_size: sequences per step.
        threads: CPU threads.
        steps: measured steps of each member.
        share: of the cores that this process gets (`scaling.machine.cpu_share`).
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
    return {
        name: max(sorted(seconds[1:])[steps // 2], min(seconds[1:]) / share)
        for name, seconds in times.items()
    }


def _probe_session(spec: ModelSpec, batch_size: int) -> Session:
    shape = {name: getattr(spec, name) for name in (*SHAPE_FIELDS, "n_kv_head")} | {
        "config": dict(spec.config)
    }
    settings = Settings(
        run="probe", member="probe", group="probe", **shape, eos_token_id=0, seed=0, batch_size=batch_size,
        micro_batch=batch_size, lr=1e-3, warmup=0, schedule="wsd", cooldown=0.2, weight_decay=0.1, beta1=0.9, beta2=0.99,
        grad_clip=1.0, dropout=0.0, init_std=0.02, dtype="fp32", data_sha256="",
    )  # fmt: skip
    return start(settings, "cpu")
