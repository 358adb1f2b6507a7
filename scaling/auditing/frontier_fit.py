"""A power law of one's own through a few points of a frontier, and where it crosses the law that foretold them."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from families.errors import BadInput

from ..laws import KaplanFrontier

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierFit:
    """L = (scale/C)^exponent by least squares in logarithms; C and scale in PF-days, L in nats per token.

    exponent_80: Student's interval on points − 2 degrees of freedom; None for 2 points. crossing: PF-days at which the
    two laws give one loss; infinite where they never do, as scale is where the losses hardly change.
    """

    exponent: float
    exponent_80: tuple[float, float] | None
    scale: float
    crossing: float

    def loss(self, compute: float) -> float:
        """Nats per token at that many PF-days."""
        return float((self.scale / compute) ** self.exponent)


def frontier_fit(law: KaplanFrontier, compute: Array, loss: Array) -> FrontierFit:
    """Fit points (C in PF-days, L in nats per token), and cross the fit with `law`.

    Raises:
        BadInput: fewer than 2 distinct budgets.
    """
    if len(set(compute.tolist())) < 2:
        raise BadInput(f"there are {len(set(compute.tolist()))} distinct budgets; an exponent needs 2")
    x, y = np.log(compute), np.log(loss)
    slope, level = (float(value) for value in np.polyfit(x, y, 1))
    gap = law.L_exponent + slope
    crossing = (law.L_exponent * math.log(law.C_scale) - level) / gap if gap else math.inf
    scale = -level / slope if slope else math.inf
    return FrontierFit(
        exponent=-slope,
        exponent_80=_interval(x, y - level - slope * x, -slope),
        scale=math.exp(scale) if scale < 700 else math.inf,
        crossing=math.exp(crossing) if crossing < 700 else math.inf,
    )


def _interval(x: Array, residuals: Array, exponent: float) -> tuple[float, float] | None:
    freedom = len(x) - 2
    if freedom < 1:
        return None
    from scipy.special import stdtrit

    spread = float(np.sqrt((residuals @ residuals) / freedom / ((x - x.mean()) ** 2).sum()))
    half = float(stdtrit(freedom, 0.9)) * spread
    return exponent - half, exponent + half
