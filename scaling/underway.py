"""Where a run in progress is going: what its end can be foreseen from, beside what it has logged."""

from typing import ClassVar

from .files import Document
from .schedule import Kind, Schedule, Shape


class Underway(Document):
    """underway.json: the schedule of a run and the lengths it is to reach, written when it begins.

    Args:
        steps: lengths of its rungs, ascending; a run without rungs has one.
        cooldown: share of a rung's steps over which wsd decays.
        batches: hash of what decides which tokens a step reads; runs that share it read the same batches in the same order.
    """

    KIND: ClassVar[str] = "underway"

    run: str
    steps: tuple[int, ...]
    batch_tokens: int
    lr: float
    warmup: int
    schedule: Kind
    cooldown: float
    shape: Shape = "linear"
    params: int
    params_non_embedding: int
    group: str = ""
    batches: str = ""

    def to(self, steps: int) -> Schedule:
        """The learning rate of each step of the rung of so many steps."""
        base = Schedule(peak=self.lr, warmup=self.warmup, steps=steps, kind=self.schedule)
        return base if self.schedule == "cosine" else base.to(steps, self.cooldown, self.shape)
