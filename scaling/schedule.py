"""The learning rate as a function of the step: warm-up, then cosine, or constant with a cooldown (WSD)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["wsd", "cosine"]  # wsd: warm-up, constant, cooldown; what a ladder's trunk needs
Shape = Literal["linear", "1-sqrt"]


def whole_steps(tokens: float, batch_tokens: float) -> int:
    """Steps of `batch_tokens` nearest to that many tokens; at least 1. What is planned is so what is trained."""
    return max(1, round(tokens / batch_tokens))


def ladder_length(rungs: Sequence[float], cooldown: float) -> float:
    """What a ladder trains, in the unit of its rungs: the trunk to where the last cooldown begins, and each rung's cooldown."""
    return (1 - cooldown) * max(rungs) + cooldown * sum(rungs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Learning rate of step 0 … steps − 1.

    Linear warm-up over `warmup` steps (Kaplan et al. 2020). Then "cosine" to 0, or "wsd": constant, and over the last
    `cooldown_steps` to 0: linear, or "1-sqrt", which falls faster at first (Hägele et al. 2024, arXiv:2405.18392, who find
    either over 20 % of the steps as good as a tuned cosine). A trunk is a WSD schedule before its cooldown begins.
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
        """The learning rate at which that step's update is made."""
        scale = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.kind == "cosine":
            span = max(1, self.steps - self.warmup)
            progress = max(0, step + 1 - self.warmup) / span
            return self.peak * scale * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        left = self.steps - step
        decay = left / (self.cooldown_steps + 1) if left <= self.cooldown_steps else 1.0
        if self.shape == "1-sqrt":
            decay = 1 - math.sqrt(1 - decay)
        return self.peak * scale * decay

    def to(self, steps: int, cooldown: float, shape: Shape = "linear") -> "Schedule":
        """The same trunk, cooled down over the last share `cooldown` of `steps`."""
        cooldown_steps = max(1, round(cooldown * steps))
        return replace(self, steps=steps, kind="wsd", cooldown_steps=cooldown_steps, shape=shape)
