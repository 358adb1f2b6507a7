"""Model of throughput at a fixed global batch: memory and time linear in the micro-batch, and the optimal setting.

bytes(m) = fixed + slope·m        seconds(m) = overhead + slope·m of one forward and backward pass of m sequences
step(m)  = batch / (devices·m) · seconds(m) + update        all of one device; two probes draw both lines
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scaling.machine import StepBackend


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialConfig:
    """Configuration of a trial: step backend, number of devices, ZeRO stage, and activation checkpointing."""

    engine: StepBackend
    devices: int = 1
    zero: int = 0
    checkpointing: bool = False

    @property
    def space(self) -> str:
        """Name of the tuning space, e.g. "z0 bf16-compiled-eager-2t"."""
        suffix = "-checkpointing" if self.checkpointing else ""
        count = f" x{self.devices}" if self.devices > 1 else ""
        return f"z{self.zero} {self.engine.name}{suffix}{count}"

    def name(self, micro: int, batch: int) -> str:
        """Return e.g. "z0_gas4_tmbspg2": ZeRO stage, gradient accumulation steps, train micro-batch size per device."""
        return f"z{self.zero}_gas{accumulation(batch, self.devices, micro)}_tmbspg{micro}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Result of one trial.

    Args:
        way: the configuration.
        micro: sequences per pass on each device.
        seconds: seconds of a forward and backward pass.
        update: seconds of clipping and the optimiser.
        memory: peak bytes.
        first: extra seconds of the first step, mostly compiling.
        fits: False if memory ran out.
    """

    way: TrialConfig
    micro: int
    seconds: float = 0.0
    update: float = 0.0
    memory: float = 0.0
    first: float = 0.0
    fits: bool = True

    def step(self, batch: int) -> float:
        """Return seconds per step of the full batch."""
        return accumulation(batch, self.way.devices, self.micro) * self.seconds + self.update

    def samples_per_s(self, batch: int) -> float:
        """Return sequences per second, 0 if memory ran out."""
        return batch / self.step(batch) if self.fits else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The line fixed + slope·m with non-negative coefficients."""

    fixed: float
    slope: float

    @classmethod
    def through(cls, first: tuple[int, float], second: tuple[int, float]) -> "Line":
        """Return the line through two points; proportional or flat for equal points or a negative coefficient."""
        (a, low), (b, high) = sorted((first, second))
        if a == b:
            return cls(fixed=0.0, slope=high / b)
        slope = (high - low) / (b - a)
        if slope < 0:
            return cls(fixed=max(low, high), slope=0.0)
        fixed = low - slope * a
        return cls(fixed=fixed, slope=slope) if fixed >= 0 else cls(fixed=0.0, slope=high / b)

    def at(self, m: float) -> float:
        """Return the value at m sequences."""
        return self.fixed + self.slope * m


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Memory and time of a configuration as functions of the micro-batch."""

    way: TrialConfig
    memory: Line
    seconds: Line
    update: float

    @classmethod
    def of(cls, first: Trial, second: Trial) -> "Model":
        """Return the model through two trials of a configuration."""
        return cls(
            way=first.way,
            memory=Line.through((first.micro, first.memory), (second.micro, second.memory)),
            seconds=Line.through((first.micro, first.seconds), (second.micro, second.seconds)),
            update=min(first.update, second.update),
        )

    def step(self, micro: int, batch: int) -> float:
        """Return seconds per step of the full batch."""
        return accumulation(batch, self.way.devices, micro) * self.seconds.at(micro) + self.update


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """A configuration and its micro-batch, with their predicted time and memory."""

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
        """Name, e.g. "z0_gas4_tmbspg2"."""
        return self.model.way.name(self.micro, self.batch)


def accumulation(batch: int, devices: int, micro: int) -> int:
    """Return the number of passes per step at a fixed global batch."""
    return batch // (devices * micro)


def micro_batches(batch: int, devices: int = 1) -> tuple[int, ...]:
    """Return all micro-batches that divide the batch evenly, ascending."""
    share, rest = divmod(batch, devices)
    return () if rest else tuple(m for m in range(1, share + 1) if share % m == 0)


def pick(models: Iterable[Model], batch: int, room: float) -> Pick | None:
    """Return the fastest configuration and micro-batch that fit in memory, the smaller of equals; None if none fits."""
    fitting = [
        Pick(model=model, micro=micro, batch=batch)
        for model in models
        for micro in micro_batches(batch, model.way.devices)
        if model.memory.at(micro) <= room
    ]
    return min(fitting, key=lambda choice: (round(choice.step, 9), choice.micro), default=None)


def two_micro_batches(allowed: Sequence[int]) -> tuple[int, int]:
    """Return the micro-batches to measure: about 1/8 and 1/2 of the largest, which keeps extrapolation small."""
    largest = allowed[-1]
    half = max(m for m in allowed if m <= max(1, largest // 2))
    smaller = [m for m in allowed if m < half]
    low = max((m for m in smaller if m <= max(1, largest // 8)), default=smaller[0] if smaller else half)
    return (low, half) if low != half else (half, largest)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceRow:
    """A row of an autotuner's table: a tuning space, its number of trials, and the best of them in samples per second."""

    space: str
    experiments: int
    best: float
    best_name: str


def space_rows(probed: Sequence[Trial], batch: int) -> tuple[SpaceRow, ...]:
    """Return the rows by space in the order of trials, and `global` over all."""
    spaces: dict[str, list[Trial]] = {}
    for trial in probed:
        spaces.setdefault(trial.way.space, []).append(trial)
    return tuple(_row(space, tried, batch) for space, tried in (*spaces.items(), ("global", list(probed))))


def _row(space: str, tried: Sequence[Trial], batch: int) -> SpaceRow:
    best = max(tried, key=lambda trial: trial.samples_per_s(batch))
    return SpaceRow(
        space=space,
        experiments=len(tried),
        best=best.samples_per_s(batch),
        best_name=best.way.name(best.micro, batch),
    )
