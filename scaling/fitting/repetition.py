"""The data-constrained form: what tokens seen again, and parameters too many for their data, are worth."""

from dataclasses import dataclass
from itertools import product

import numpy as np

from ..stats import Array
from .optimise import SHAPES, FormShape, Problem, minimise, starts

TOKENS_PER_PARAM = (
    20.0  # U tokens are enough for U/20 parameters (Hoffmann et al. 2022, approach 3 at their scale)
)

GRID_N, GRID_D = np.geomspace(0.5, 100, 5), np.geomspace(1, 150, 6)

REFINEMENTS = 4  # halvings of the grid's step in log R

MOST_ROWS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Repetition:
    """Effective N and D of a run that saw U distinct tokens (Muennighoff et al. 2023, eq. 5 and 11).

    D' = U + U·R_D·(1 − exp(−(D/U − 1)/R_D));   N' = U_N + U_N·R_N·(1 − exp(−(N/U_N − 1)/R_N)) with U_N = min(N, U/20).
    R_D and R_N are the repetitions after which a further one is worth 1/e of a fresh one.
    """

    R_N: float
    R_D: float

    @property
    def at_edge(self) -> tuple[str, ...]:
        """Those of R_N and R_D that fitted best at the edge of what was searched: the data do not say how large they are."""
        pairs = (("R_N", self.R_N, GRID_N), ("R_D", self.R_D, GRID_D))
        return tuple(
            f"{name} {value:.3g}"
            for name, value, grid in pairs
            if not 1.001 * grid[0] < value < 0.999 * grid[-1]
        )

    def effective(self, N: Array, D: Array, U: Array) -> tuple[Array, Array]:
        """(N', D'); both unchanged where nothing is repeated."""
        repeated = D > U * (1 + 1e-9)
        base = np.where(repeated, np.minimum(N, U / TOKENS_PER_PARAM), N)
        fresh = np.where(repeated, U, D)
        tokens = fresh * (1 - self.R_D * np.expm1(-(D / fresh - 1) / self.R_D))
        params = base * (1 - self.R_N * np.expm1(-(N / base - 1) / self.R_N))
        return params, tokens


PUBLISHED_REPETITION = Repetition(R_N=5.309743, R_D=15.387756)  # Muennighoff et al. 2023, appendix A


def fit_repetition(
    N: Array, D: Array, U: Array, L: Array, *, delta: float, form: str = "chinchilla"
) -> Repetition:
    """R_N and R_D that let the form fit best: a grid in their logarithms, refined by halving its step."""
    if len(N) > MOST_ROWS:
        keep = np.argsort(N * D, kind="stable")[np.linspace(0, len(N) - 1, MOST_ROWS).round().astype(int)]
        N, D, U, L = N[keep], D[keep], U[keep], L[keep]
    shape = SHAPES[form]
    seen: dict[tuple[float, float], float] = {}

    def cost(log_R: tuple[float, float]) -> float:
        if log_R not in seen:
            seen[log_R] = _misfit(log_R, N, D, U, L, delta, shape)
        return seen[log_R]

    grid = [(float(a), float(b)) for a, b in product(np.log(GRID_N), np.log(GRID_D))]
    best = min(grid, key=cost)
    step = float(np.log(GRID_D[1] / GRID_D[0])) / 2
    for _ in range(REFINEMENTS):
        best = min(
            ((best[0] + a * step, best[1] + b * step) for a, b in product((-1, 0, 1), repeat=2)), key=cost
        )
        step /= 2
    return Repetition(R_N=float(np.exp(best[0])), R_D=float(np.exp(best[1])))


def _misfit(
    log_R: tuple[float, float], N: Array, D: Array, U: Array, L: Array, delta: float, shape: FormShape
) -> float:
    params, tokens = Repetition(R_N=float(np.exp(log_R[0])), R_D=float(np.exp(log_R[1]))).effective(N, D, U)
    problem = Problem.of(params, tokens, L, delta=delta)
    return float(np.nanmin(minimise(problem, shape, starts(problem, shape, 2), steps=60).objective))
