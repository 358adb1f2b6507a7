"""Planning with data that runs out: repeated tokens are worth less, and so are parameters beyond what they
feed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..repetition import PUBLISHED_REPETITION, Repetition
from .planlaw import PlanLaw

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataLimit:
    """`unique` distinct tokens there are, and what repeating them is worth (Muennighoff et al. 2023)."""

    unique: float
    repetition: Repetition = PUBLISHED_REPETITION

    def worth(self, N: Array, D: Array) -> tuple[Array, Array]:
        """Parameters and tokens as a law of fresh data sees them."""
        return self.repetition.effective(N, D, np.full(np.shape(D), self.unique))

    def tokens_for(self, law: PlanLaw, N: Array, loss: float, *, as_predicted: bool = False) -> Array:
        """Tokens to draw, repeats among them, until models of N parameters reach that loss; infinite where
        none do.
        """
        fresh = law.tokens_for(N, loss, as_predicted=as_predicted)
        worth, _ = self.worth(N, np.full(N.shape, 2 * self.unique))
        needed = np.maximum(law.tokens_for(worth, loss, as_predicted=as_predicted), self.unique)
        return np.where(fresh <= self.unique, fresh, self.draws_for(needed))

    def draws_for(self, worth: Array) -> Array:
        """The inverse of D': tokens to draw so that they are worth so many; infinite beyond U·(1 + R_D)."""
        R = self.repetition.R_D
        excess = np.maximum(worth / self.unique - 1, 0.0)
        with np.errstate(divide="ignore"):
            repeats = np.where(excess < R, -R * np.log1p(-np.minimum(excess, R) / R), np.inf)
        return np.minimum(worth, self.unique) + self.unique * repeats
