"""Measurements of this machine in the user's cache: seconds of a training step by shape and backend."""

import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field

from families import ModelSpec, train_flops_per_token
from families.units import BadInput

from .files import Document, Record

CACHE = "SCALING_CACHE"  # environment variable: folder of the cache

BUSY = 0.85  # share of the cores below which a machine does other work

LIKE = 0.15  # of the cores: shares no further apart are of like load

Attention = Literal["eager", "sdpa", "flash", "cudnn", "flash3"]


def user_cache() -> Path:
    """Return the folder of the cache: $SCALING_CACHE, else scaling/ in $XDG_CACHE_HOME, by default ~/.cache."""
    named = os.environ.get(CACHE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scaling"


class StepBackend(Record):
    """Backend of a training step, which determines its rounding and its speed.

    Args:
        dtype: number format.
        compile: use torch.compile.
        attention: kernel of attention.
        threads: threads of the CPU; 0 keeps those of the process.
    """

    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    attention: Attention = "sdpa"
    threads: int = 0

    @property
    def name(self) -> str:
        """A name like bf16-compiled-eager-2t."""
        threads = f"-{self.threads}t" if self.threads else ""
        return f"{self.dtype}-{'compiled' if self.compile else 'plain'}-{self.attention}{threads}"


PLAIN_BACKEND = StepBackend()


class Measured(Record):
    """Time of a training step of one shape on one backend.

    Args:
        shape: as shape_key gives it.
        device: cpu or cuda.
        micro_batch: sequences.
        engine: the backend.
        seconds: of a step of one micro-batch, with the update.
        first_seconds: of the first step beyond that, for compiling.
        flops: exact training FLOPs of that step.
        memory: bytes at the peak; None where it was not measured.
        share: of the CPU's cores that the process got meanwhile; None on a GPU, and where it was not recorded.
    """

    shape: str
    device: str
    micro_batch: int = Field(ge=1)
    engine: StepBackend
    seconds: float = Field(gt=0)
    first_seconds: float = Field(ge=0)
    flops: float = Field(gt=0)
    memory: float | None = None
    share: float | None = Field(default=None, gt=0, le=1)

    @property
    def flops_per_s(self) -> float:
        """Speed of the step in exact training FLOPs."""
        return self.flops / self.seconds

    def holds_at(self, share: float | None) -> bool:
        """Return True if it tells how fast backends are where the process gets `share` of the cores (None: a GPU)."""
        return share is None or (self.share is not None and abs(self.share - share) <= LIKE)


class Tuned(Record):
    """Result of scaling tune for a shape at a global batch: seconds of a whole step, tuned and on the plain backend."""

    shape: str
    device: str
    batch_size: int = Field(ge=1)
    devices: int = Field(ge=1)
    micro_batch: int = Field(ge=1)
    checkpointing: bool = False
    engine: StepBackend
    seconds: float = Field(gt=0)
    plain_seconds: float = Field(gt=0)
    first_seconds: float = Field(ge=0)  # of the first step beyond a later one
    memory: float = Field(gt=0)  # bytes at the peak
    flops: float = Field(gt=0)  # of a step, exact

    def pays(self, steps: int) -> bool:
        """Return True if `steps` steps save more time than the first one costs."""
        return self.first_seconds + steps * self.seconds < steps * self.plain_seconds


def shape_key(spec: ModelSpec) -> str:
    """Return a key like gpt2 L4 d256 h4 i1024 t256 v8192, on which the cost of a step depends."""
    return f"{spec.architecture} {spec.shape} i{spec.n_inner} t{spec.n_positions} v{spec.vocab_size}"


def step_flops(spec: ModelSpec, micro_batch: int) -> float:
    """Count exact training FLOPs of one micro-batch."""
    return float(train_flops_per_token(spec) * spec.n_positions * micro_batch)


class MachineFile(Document):
    """machine.json: measurements by machine, a processor or GPU with its cores and version of torch."""

    KIND: ClassVar[str] = "machine"

    machines: dict[str, tuple[Measured, ...]] = Field(default_factory=dict)
    tuned: dict[str, tuple[Tuned, ...]] = Field(default_factory=dict)

    @staticmethod
    def path() -> Path:
        """Return the path in the user's cache."""
        return user_cache() / "machine.json"

    @classmethod
    def open(cls) -> Self:
        """Read the cache; empty where there is none, or one that this program cannot read."""
        try:
            return cls.read(cls.path())
        except BadInput:
            return cls()

    def of(self, machine: str, spec: ModelSpec, device: str, micro_batch: int) -> tuple[Measured, ...]:
        """Return the measurements of a shape at a micro-batch.

        Args:
            machine: its name.
            spec: the shape.
            device: cpu or cuda.
            micro_batch: sequences.
        """
        key = (shape_key(spec), device, micro_batch)
        rows = self.machines.get(machine, ())
        return tuple(row for row in rows if (row.shape, row.device, row.micro_batch) == key)

    def tuned_for(self, machine: str, spec: ModelSpec, device: str, batch_size: int) -> Tuned | None:
        """Return the newest tuning of a shape at a batch on one device; None if there is none.

        Args:
            machine: its name.
            spec: the shape.
            device: cpu or cuda.
            batch_size: sequences of the global batch.
        """
        key = (shape_key(spec), device, batch_size, 1)
        rows = self.tuned.get(machine, ())
        matches = [row for row in rows if (row.shape, row.device, row.batch_size, row.devices) == key]
        return matches[-1] if matches else None


def remember(machine: str, measurements: Iterable[Measured] = (), tuned: Iterable[Tuned] = ()) -> None:
    """Add to the cache, replacing older measurements of the same; a cache that cannot be written stays as it is."""
    file = MachineFile.open()
    measured = {
        (one.shape, one.device, one.micro_batch, one.engine): one
        for one in (*file.machines.get(machine, ()), *measurements)
    }
    settings = {
        (one.shape, one.device, one.batch_size, one.devices): one
        for one in (*file.tuned.get(machine, ()), *tuned)
    }
    new = MachineFile(
        machines={**file.machines, machine: tuple(measured.values())},
        tuned={**file.tuned, machine: tuple(settings.values())},
    )
    try:
        new.write(MachineFile.path())
    except BadInput:
        return


def fastest_backend(measured: Iterable[Measured], micro_steps: float) -> Measured:
    """Return the measurement with the least time for the start and all micro-steps: compiling must pay off."""
    return min(measured, key=lambda one: one.first_seconds + micro_steps * one.seconds)


def cpu_share(workers: int, seconds: float = 1.0) -> float:
    """Share of `workers` cores that this process gets beside what else runs here, above 0 and up to 1.

    Args:
        workers: threads that compute at once.
        seconds: for which they do.
    """
    from concurrent.futures import ThreadPoolExecutor

    block = bytes(2**20)

    def used(_: int) -> float:
        began, end = time.thread_time(), time.monotonic() + seconds
        while time.monotonic() < end:
            hashlib.sha256(block).digest()  # without the interpreter's lock
        return time.thread_time() - began

    began = time.monotonic()
    with ThreadPoolExecutor(workers) as threads:
        total = sum(threads.map(used, range(workers)))
    return max(0.01, min(1.0, total / (workers * (time.monotonic() - began))))
