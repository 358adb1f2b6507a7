"""Learning-rate schedules: warm-up, then cosine, or constant with a cooldown (WSD)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["wsd", "cosine"]  # wsd: warm-up, constant, cooldown; a ladder's trunk is one
Shape = Literal["linear", "1-sqrt"]


def whole_steps(tokens: float, batch_tokens: float) -> int:
    """Return the number of steps of `batch_tokens` nearest to `tokens`, at least 1, for planning and training alike."""
    return max(1, round(tokens / batch_tokens))


def ladder_length(rungs: Sequence[float], cooldown: float) -> float:
    """Return the length of a ladder in the unit of its rungs: the trunk until the last cooldown, and each rung's cooldown."""
    return (1 - cooldown) * max(rungs) + cooldown * sum(rungs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Learning rate of steps 0 to steps − 1.

    Linear warm-up over `warmup` steps (Kaplan et al. 2020). Then "cosine" decays to 0; "wsd" stays constant and
    decays to 0 over the last `cooldown_steps`, linearly or as "1-sqrt", which falls faster at first (Hägele et al. 2024,
    arXiv:2405.18392: either over 20 % of the steps is as good as a tuned cosine). Either is at 0 one step after the last:
    a step at rate 0 would learn nothing of its tokens. A trunk is a WSD schedule before its cooldown.

    Args:
        peak: largest learning rate.
        warmup: steps of warm-up.
        steps: all steps.
        kind: wsd or cosine.
        cooldown_steps: steps of the cooldown of wsd.
        shape: linear or 1-sqrt.
    """

    peak: float
    warmup: int
    steps: int
    kind: Kind = "wsd"
    cooldown_steps: int = 0
    shape: Shape = "linear"

    @property
    def decay_starts(self) -> int:
        """First step of the cooldown."""
        return self.steps - self.cooldown_steps if self.kind == "wsd" else self.warmup

    def lr(self, step: int) -> float:
        """Return the learning rate of the update of a step."""
        scale = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.kind == "cosine":
            span = max(1, self.steps - self.warmup) + 1
            progress = max(0, step + 1 - self.warmup) / span
            return self.peak * scale * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        left = self.steps - step
        decay = left / (self.cooldown_steps + 1) if left <= self.cooldown_steps else 1.0
        if self.shape == "1-sqrt":
            decay = 1 - math.sqrt(1 - decay)
        return self.peak * scale * decay

    def to(self, steps: int, cooldown: float, shape: Shape = "linear") -> "Schedule":
        """Return the schedule of a rung of this trunk: a cooldown over the last share `cooldown` of `steps`."""
        cooldown_steps = max(1, round(cooldown * steps))
        return replace(self, steps=steps, kind="wsd", cooldown_steps=cooldown_steps, shape=shape)
