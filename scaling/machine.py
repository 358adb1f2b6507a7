"""What was measured of this machine, kept in the user's cache: how fast each way of computing a shape's step is."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field

from families import ModelSpec, train_flops_per_token
from families.units import BadInput

from .files import Document, Record

CACHE = "SCALING_CACHE"  # environment variable that names a folder of one's own

Attention = Literal["eager", "sdpa", "flash", "cudnn"]


def user_cache() -> Path:
    """$SCALING_CACHE, else scaling/ in $XDG_CACHE_HOME, by default ~/.cache."""
    named = os.environ.get(CACHE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scaling"


class StepBackend(Record):
    """How a step is computed: what decides its rounding and its speed.

    threads: of the CPU; 0 leaves them as the process has them.
    """

    dtype: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    attention: Attention = "sdpa"
    threads: int = 0

    @property
    def name(self) -> str:
        """bf16-compiled-eager-2t."""
        threads = f"-{self.threads}t" if self.threads else ""
        return f"{self.dtype}-{'compiled' if self.compile else 'plain'}-{self.attention}{threads}"


PLAIN_BACKEND = StepBackend()


class Measured(Record):
    """One way of computing one shape's step, timed. seconds: of a step of one micro-batch, the update included.

    first_seconds: what the first step took beyond that: compiling, or reading what was compiled before.
    """

    shape: str
    device: str  # cpu or cuda
    micro_batch: int = Field(ge=1)
    engine: StepBackend
    seconds: float = Field(gt=0)
    first_seconds: float = Field(ge=0)
    flops: float = Field(gt=0)  # of that step, exact
    memory: float | None = None  # bytes at the peak, where it was measured

    @property
    def flops_per_s(self) -> float:
        """Speed of the step in exact training FLOPs."""
        return self.flops / self.seconds


class Tuned(Record):
    """What `scaling tune` found for a shape at a global batch: seconds of a whole step, and of one of the plain engine."""

    shape: str
    device: str
    batch_size: int = Field(ge=1)
    devices: int = Field(ge=1)
    micro_batch: int = Field(ge=1)
    checkpointing: bool = False
    engine: StepBackend
    seconds: float = Field(gt=0)
    plain_seconds: float = Field(gt=0)
    first_seconds: float = Field(ge=0)  # of the first step beyond a usual one
    memory: float = Field(gt=0)  # bytes at the peak
    flops: float = Field(gt=0)  # of a step, exact

    def pays(self, steps: int) -> bool:
        """Whether so many steps win back the start."""
        return self.first_seconds + steps * self.seconds < steps * self.plain_seconds


def shape_key(spec: ModelSpec) -> str:
    """gpt2 L4 d256 h4 i1024 t256 v8192: what a step's cost depends on."""
    return f"{spec.architecture} {spec.shape} i{spec.n_inner} t{spec.n_positions} v{spec.vocab_size}"


def step_flops(spec: ModelSpec, micro_batch: int) -> float:
    """Exact training FLOPs of one micro-batch."""
    return float(train_flops_per_token(spec) * spec.n_positions * micro_batch)


class MachineFile(Document):
    """machine.json: what was measured, by machine. A machine is its processor or GPU, its cores and its torch."""

    KIND: ClassVar[str] = "machine"

    machines: dict[str, tuple[Measured, ...]] = Field(default_factory=dict)
    tuned: dict[str, tuple[Tuned, ...]] = Field(default_factory=dict)

    @staticmethod
    def path() -> Path:
        """In the user's cache."""
        return user_cache() / "machine.json"

    @classmethod
    def open(cls) -> Self:
        """What the cache holds; nothing where there is none, or one that this program cannot read."""
        try:
            return cls.read(cls.path())
        except BadInput:
            return cls()

    def of(self, machine: str, spec: ModelSpec, device: str, micro_batch: int) -> tuple[Measured, ...]:
        """What was measured of that shape at that micro-batch."""
        wanted = (shape_key(spec), device, micro_batch)
        return tuple(
            one
            for one in self.machines.get(machine, ())
            if (one.shape, one.device, one.micro_batch) == wanted
        )

    def tuned_for(self, machine: str, spec: ModelSpec, device: str, batch_size: int) -> Tuned | None:
        """What was tuned for that shape at that batch on one device."""
        wanted = (shape_key(spec), device, batch_size, 1)
        found = [
            one
            for one in self.tuned.get(machine, ())
            if (one.shape, one.device, one.batch_size, one.devices) == wanted
        ]
        return found[-1] if found else None


def remember(machine: str, found: Iterable[Measured] = (), tuned: Iterable[Tuned] = ()) -> None:
    """Add to the cache, in the place of older measurements of the same; a cache that cannot be written is left."""
    file = MachineFile.open()
    measured = {
        (one.shape, one.device, one.micro_batch, one.engine): one
        for one in (*file.machines.get(machine, ()), *found)
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
    """The one whose start and steps take least in all: compiling must pay for itself."""
    return min(measured, key=lambda one: one.first_seconds + micro_steps * one.seconds)
