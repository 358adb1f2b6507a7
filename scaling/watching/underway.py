"""Where a run in progress is going: what its end can be foreseen from, beside what it has logged."""

from typing import ClassVar

from ..files import Document, Record
from ..schedule import Kind, Schedule, Shape


class RungAhead(Record):
    """A length that a run is to reach, and how it cools down there.

    Args:
        folder: of its branch, within the run's.
        cooldown: share of its steps over which wsd decays; 0 where the rate stays constant to the end.
        shape: of that decay.
    """

    steps: int
    folder: str
    cooldown: float = 0.0
    shape: Shape = "linear"


class Underway(Document):
    """underway.json: the schedule of a run and the lengths it is to reach, written when it begins.

    Args:
        rungs: by length, ascending; a run without rungs has one.
        fresh: it begins from random weights, and so with a fall; else from a checkpoint's.
        batches: hash of what decides which tokens a step reads; runs that share it read the same batches in the same order.
    """

    KIND: ClassVar[str] = "underway"

    run: str
    rungs: tuple[RungAhead, ...]
    batch_tokens: int
    lr: float
    warmup: int
    schedule: Kind
    params: int
    params_non_embedding: int
    group: str = ""
    fresh: bool = True
    batches: str = ""

    @property
    def steps(self) -> tuple[int, ...]:
        """Lengths of the rungs."""
        return tuple(rung.steps for rung in self.rungs)

    def rung(self, steps: int) -> RungAhead:
        """The rung of so many steps."""
        return next(rung for rung in self.rungs if rung.steps == steps)

    def to(self, steps: int) -> Schedule:
        """The learning rate of each step of the rung of so many steps."""
        base = Schedule(peak=self.lr, warmup=self.warmup, steps=steps, kind=self.schedule)
        rung = self.rung(steps)
        if self.schedule == "cosine" or not rung.cooldown:
            return base
        return base.to(steps, rung.cooldown, rung.shape)

    def also(self, more: tuple[RungAhead, ...]) -> "Underway":
        """With rungs asked for later; the newest of one length counts."""
        rungs = {rung.steps: rung for rung in (*self.rungs, *more)}
        return self.model_copy(update={"rungs": tuple(rungs[steps] for steps in sorted(rungs))})
