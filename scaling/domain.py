"""Where a law was fitted, how far a point lies outside, and how far outside is too far."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from families.errors import BadInput

REACH = 1e3  # times beyond the fitted N, D or compute, from where on a prediction is refused
_EDGE = 1 + 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Extrapolation:
    """How far a point lies outside the fitted domain: 1 is on its edge or inside, 10 is ten times beyond."""

    compute_factor: float  # C over the largest fitted C; below 1 inside
    N_factor: float
    D_factor: float

    @property
    def factor(self) -> float:
        """Of N, D and compute the one that lies furthest outside; 1 where none does."""
        return max(1.0, self.compute_factor, self.N_factor, self.D_factor)

    @property
    def inside(self) -> bool:
        """Within the fitted ranges of N, D and C."""
        return self.factor <= _EDGE

    @property
    def message(self) -> str:
        """Empty inside the domain, else what lies outside and by how much."""
        parts = []
        if self.compute_factor > _EDGE:
            parts.append(f"compute is {self.compute_factor:.3g}x the largest fitted")
        for name, factor in (("N", self.N_factor), ("D", self.D_factor)):
            if factor > _EDGE:
                parts.append(f"{name} is {factor:.3g}x outside the fitted range")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """The fitted rows' (smallest, largest) N, D and C, in the law's convention of N; C = 6·N·D where they say no other."""

    N: tuple[float, float]
    D: tuple[float, float]
    C: tuple[float, float]

    @classmethod
    def of_ranges(cls, N: tuple[float, float], D: tuple[float, float]) -> "Domain":
        """From the ranges that a paper states, its largest model on its most tokens taken to be its largest run."""
        return cls(N=N, D=D, C=(0.0, 6 * N[1] * D[1]))

    def reach(self, N: ArrayLike, D: ArrayLike) -> Extrapolation:
        """How far the farthest of the points lies outside."""
        n, d = np.asarray(N, dtype=np.float64), np.asarray(D, dtype=np.float64)
        return Extrapolation(
            compute_factor=float((6 * n * d).max() / self.C[1]),
            N_factor=float(max(n.max() / self.N[1], self.N[0] / n.min(), 1.0)),
            D_factor=float(max(d.max() / self.D[1], self.D[0] / d.min(), 1.0)),
        )

    def check(self, reach: Extrapolation, *, force: bool) -> None:
        """Refuse what lies too far outside.

        Raises:
            BadInput: N, D or compute more than 1,000 times outside, without `force`.
        """
        if reach.factor > REACH and not force:
            raise BadInput(
                f"{reach.message}; a law reaches {REACH:,.0f} times at most, unless forced (--force)"
            )
