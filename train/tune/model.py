"""Throughput at a fixed global batch: memory and time as lines in the micro-batch, and the setting they pick.

bytes(m) = fixed + slope·m        seconds(m) = overhead + slope·m of one forward and backward pass of m sequences
step(m)  = batch / (devices·m) · seconds(m) + update        all of one device; two probes draw both lines
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scaling.machine import StepBackend


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialConfig:
    """One way to run a member: its engine, the devices that share a batch, what they divide, and what is computed twice.

    zero: DeepSpeed's stages: 0 divides nothing but the batch. checkpointing: activations are computed again.
    """

    engine: StepBackend
    devices: int = 1
    zero: int = 0
    checkpointing: bool = False

    @property
    def space(self) -> str:
        """The tuning space: z0 bf16-compiled-eager-2t."""
        again = "-checkpointing" if self.checkpointing else ""
        count = f" x{self.devices}" if self.devices > 1 else ""
        return f"z{self.zero} {self.engine.name}{again}{count}"

    def name(self, micro: int, batch: int) -> str:
        """z0_gas4_tmbspg2: ZeRO stage, gradient accumulation steps, train micro-batch size per device."""
        return f"z{self.zero}_gas{accumulation(batch, self.devices, micro)}_tmbspg{micro}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one experiment saw: seconds of a pass and of an update, peak bytes; or that memory ran out.

    seconds: forward and backward of `micro` sequences on each device. update: clipping and the optimiser.
    first: the first step beyond a usual one, where the compiler works.
    """

    way: TrialConfig
    micro: int
    seconds: float = 0.0
    update: float = 0.0
    memory: float = 0.0
    first: float = 0.0
    fits: bool = True

    def step(self, batch: int) -> float:
        """Seconds of a step of the whole batch."""
        return accumulation(batch, self.way.devices, self.micro) * self.seconds + self.update

    def samples_per_s(self, batch: int) -> float:
        """Sequences per second, 0 where memory ran out."""
        return batch / self.step(batch) if self.fits else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """fixed + slope·m, neither below 0."""

    fixed: float
    slope: float

    @classmethod
    def through(cls, first: tuple[int, float], second: tuple[int, float]) -> "Line":
        """Of two points; of one, or two that would give a negative part, the proportional or the flat one."""
        (a, low), (b, high) = sorted((first, second))
        if a == b:
            return cls(fixed=0.0, slope=high / b)
        slope = (high - low) / (b - a)
        if slope < 0:
            return cls(fixed=max(low, high), slope=0.0)
        fixed = low - slope * a
        return cls(fixed=fixed, slope=slope) if fixed >= 0 else cls(fixed=0.0, slope=high / b)

    def at(self, m: float) -> float:
        """The value at m sequences."""
        return self.fixed + self.slope * m


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Memory and time of one way, as functions of the micro-batch."""

    way: TrialConfig
    memory: Line
    seconds: Line
    update: float

    @classmethod
    def of(cls, first: Trial, second: Trial) -> "Model":
        """From two probes of the way."""
        return cls(
            way=first.way,
            memory=Line.through((first.micro, first.memory), (second.micro, second.memory)),
            seconds=Line.through((first.micro, first.seconds), (second.micro, second.seconds)),
            update=min(first.update, second.update),
        )

    def step(self, micro: int, batch: int) -> float:
        """Seconds of a step of the whole batch."""
        return accumulation(batch, self.way.devices, micro) * self.seconds.at(micro) + self.update


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """A way and its micro-batch, with what the lines say of it."""

    model: Model
    micro: int
    batch: int

    @property
    def step(self) -> float:
        """Predicted seconds of a step."""
        return self.model.step(self.micro, self.batch)

    @property
    def memory(self) -> float:
        """Predicted peak bytes of each device's process."""
        return self.model.memory.at(self.micro)

    @property
    def name(self) -> str:
        """Like z0_gas4_tmbspg2."""
        return self.model.way.name(self.micro, self.batch)


def accumulation(batch: int, devices: int, micro: int) -> int:
    """Passes that make up a step: the global batch stays what it is."""
    return batch // (devices * micro)


def micro_batches(batch: int, devices: int = 1) -> tuple[int, ...]:
    """Every micro-batch that makes up the batch exactly, smallest first."""
    share, rest = divmod(batch, devices)
    return () if rest else tuple(m for m in range(1, share + 1) if share % m == 0)


def pick(models: Iterable[Model], batch: int, room: float) -> Pick | None:
    """The fastest way and micro-batch whose predicted memory fits; None where none does. Of equals the smaller."""
    fitting = [
        Pick(model=model, micro=micro, batch=batch)
        for model in models
        for micro in micro_batches(batch, model.way.devices)
        if model.memory.at(micro) <= room
    ]
    return min(fitting, key=lambda one: (round(one.step, 9), one.micro), default=None)


def two_micro_batches(allowed: Sequence[int]) -> tuple[int, int]:
    """Where to probe: an eighth and a half of the largest allowed, so that the lines reach little beyond their points."""
    largest = allowed[-1]
    half = max(m for m in allowed if m <= max(1, largest // 2))
    smaller = [m for m in allowed if m < half]
    low = max((m for m in smaller if m <= max(1, largest // 8)), default=smaller[0] if smaller else half)
    return (low, half) if low != half else (half, largest)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceRow:
    """A row of the table that autotuners print: a space, its experiments, the best of them in samples per second."""

    space: str
    experiments: int
    best: float
    best_name: str


def space_rows(probed: Sequence[Trial], batch: int) -> tuple[SpaceRow, ...]:
    """By space, in the order they were tried, and `global` over all."""
    spaces: dict[str, list[Trial]] = {}
    for one in probed:
        spaces.setdefault(one.way.space, []).append(one)
    return tuple(_row(space, tried, batch) for space, tried in (*spaces.items(), ("global", list(probed))))


def _row(space: str, tried: Sequence[Trial], batch: int) -> SpaceRow:
    best = max(tried, key=lambda one: one.samples_per_s(batch))
    return SpaceRow(
        space=space,
        experiments=len(tried),
        best=best.samples_per_s(batch),
        best_name=best.way.name(best.micro, batch),
    )
