"""An eye on the loss: what is far above the last steps is a spike, and is written down."""

import math
import statistics
from collections import deque
from dataclasses import dataclass, field

WINDOW = 128  # steps
DEVIATIONS = 6.0  # above the mean of the window, as OLMo 2's optimiser skips such steps (OLMo-core, SkipStepOptimizer);
# a batch's loss is a mean over thousands of tokens and so near to normal: by chance one in 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Spike:
    """A step's loss, and the mean and standard deviation of the steps before it."""

    step: int
    loss: float
    mean: float
    sd: float


@dataclass(slots=True)
class Watch:
    """The losses of the last WINDOW steps."""

    losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def look(self, step: int, loss: float) -> Spike | None:
        """Add a step's loss; half a window must have been seen before one is called a spike."""
        found = None
        if len(self.losses) >= WINDOW // 2:
            mean = math.fsum(self.losses) / len(self.losses)
            sd = statistics.stdev(self.losses, mean)
            if loss > mean + DEVIATIONS * sd:
                found = Spike(step=step, loss=loss, mean=mean, sd=sd)
        self.losses.append(loss)
        return found
