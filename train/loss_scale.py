"""The loss scale of fp16, whose gradients would underflow without one."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

# Defaults of torch.amp.GradScaler.
INITIAL, GROWTH, BACKOFF, INTERVAL = 2.0**16, 2.0, 0.5, 2000

LEAST = 1.0  # a scale below it means that the gradients themselves overflow


@dataclass(slots=True)
class LossScale:
    """torch.amp.GradScaler's rule, decided by the norm of the whole gradient.

    The norm is the same in every process, so that sharded gradients need no exchange of their own.

    Args:
        value: factor of the loss.
        good: steps taken since it last changed.
    """

    value: float = INITIAL
    good: int = 0

    @property
    def exhausted(self) -> bool:
        """True if gradients overflow however small the scale."""
        return self.value < LEAST

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """Return the loss to differentiate."""
        return loss * self.value

    def unscale(self, weights: Iterable[torch.nn.Parameter]) -> None:
        """Divide the gradients by the scale, in place."""
        for weight in weights:
            if weight.grad is not None:
                weight.grad.mul_(1.0 / self.value)

    def takes(self, norm: torch.Tensor) -> bool:
        """Return True if the step is to be taken, and update the scale; waits for the device."""
        if not bool(torch.isfinite(norm)):
            self.value, self.good = self.value * BACKOFF, 0
            return False
        self.good += 1
        if self.good == INTERVAL:
            self.value, self.good = self.value * GROWTH, 0
        return True
