"""Approaches 1 and 2 of Hoffmann et al. 2022, and their bias on a fitted surface."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from families.units import BadInput, format_size

from ..laws import Law
from ..runs import RunTable
from ..stats import Array, StatusEnum

SAME_BUDGET = 0.05  # runs whose log10 compute differs by less belong to one isoFLOP

FEWEST_POINTS = 5

FEWEST_PER_SIDE = 2


class ParabolaStatus(StatusEnum):
    """Status of a parabola's vertex. Only OK is an optimum."""

    OK = "ok", "the vertex lies among the points"
    CONCAVE = "concave", "the parabola opens downwards: it has no minimum"
    EDGE_LOW = "edge_low", "the minimum lies at or below the smallest N: an upper bound on N*"
    EDGE_HIGH = "edge_high", "the minimum lies at or beyond the largest N: a lower bound on N*"
    TOO_FEW = "too_few", "fewer than 5 points, or fewer than 2 on a side of the vertex"


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoFLOP:
    """One budget's parabola of loss in log N. N is the vertex, or the bound that an edge verdict makes it.

    N is None where the parabola gives no bound (CONCAVE, TOO_FEW).
    """

    C: float
    points: int
    verdict: ParabolaStatus
    N: float | None
    loss: float | None

    def optimum(self) -> float:
        """N* at this budget.

        Raises:
            BadInput: the vertex is not an optimum.
        """
        if self.verdict is not ParabolaStatus.OK or self.N is None:
            raise BadInput(
                f"isoFLOP {format_size(self.C)} FLOPs is {self.verdict.value}: {self.verdict.message}"
            )
        return self.N


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerFit:
    """N* = coefficient·C^exponent, by least squares in logarithms over the budgets with an optimum."""

    coefficient: float
    exponent: float
    budgets: int

    def N(self, C: float) -> float:
        """N* at C FLOPs."""
        return float(self.coefficient * C**self.exponent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bias:
    """Approach 2 on a noise-free surface sampled as the runs are: ratio of its N* to the true one at C, and exponents."""

    C: float
    ratio: float
    exponent: float
    true_exponent: float


def isoflops(table: RunTable) -> tuple[IsoFLOP, ...]:
    """One parabola for each budget at which several sizes were trained, cheapest first."""
    C = 6 * table.N * table.D
    order = np.argsort(C, kind="stable")
    gaps = np.flatnonzero(np.diff(np.log10(C[order])) > SAME_BUDGET) + 1
    slices = [part for part in np.split(order, gaps) if len(part) > 1]
    return tuple(
        parabola(table.N[part], table.L[part], float(np.exp(np.log(C[part]).mean()))) for part in slices
    )


def parabola(N: Array, L: Array, C: float) -> IsoFLOP:
    """Least squares of loss on 1, log N, log² N, and the status of its vertex."""
    points = len(np.unique(N))
    if points < FEWEST_POINTS:
        return IsoFLOP(C=C, points=points, verdict=ParabolaStatus.TOO_FEW, N=None, loss=None)
    x = np.log(N)
    centre = x.mean()
    bend, slope, level = np.polyfit(x - centre, L, 2)
    if bend <= 0:
        return IsoFLOP(C=C, points=points, verdict=ParabolaStatus.CONCAVE, N=None, loss=None)
    vertex = centre - slope / (2 * bend)
    if vertex <= x.min():
        return IsoFLOP(C=C, points=points, verdict=ParabolaStatus.EDGE_LOW, N=float(N.min()), loss=None)
    if vertex >= x.max():
        return IsoFLOP(C=C, points=points, verdict=ParabolaStatus.EDGE_HIGH, N=float(N.max()), loss=None)
    if min((x < vertex).sum(), (x > vertex).sum()) < FEWEST_PER_SIDE:
        return IsoFLOP(C=C, points=points, verdict=ParabolaStatus.TOO_FEW, N=None, loss=None)
    return IsoFLOP(
        C=C,
        points=points,
        verdict=ParabolaStatus.OK,
        N=float(np.exp(vertex)),
        loss=float(level - slope**2 / (4 * bend)),
    )


def approach_2(parabolas: Sequence[IsoFLOP]) -> PowerFit:
    """N*(C) through the vertices.

    Raises:
        BadInput: fewer than two budgets have an optimum.
    """
    good = [curve for curve in parabolas if curve.verdict is ParabolaStatus.OK]
    return _power(
        [curve.C for curve in good], [curve.optimum() for curve in good], "isoFLOPs with an optimum"
    )


def approach_1(table: RunTable, budgets: int = 24) -> PowerFit:
    """N*(C) along the lower envelope of training curves: of all points that cost at most C, the size with least loss.

    Budgets at which the smallest or the largest size is best are left out: the envelope is cut off there. Between
    curves the envelope is a staircase, whose steps a coarse grid of sizes turns into error: shown, never preferred.

    Raises:
        BadInput: fewer than two budgets are left.
    """
    C = 6 * table.N * table.D
    grid = np.geomspace(C.min(), C.max(), budgets)
    sizes, kept = [], []
    for budget in grid:
        within = np.flatnonzero(budget * (1 + 1e-9) >= C)
        best = within[np.argmin(table.L[within])]
        if table.N.min() < table.N[best] < table.N.max():
            sizes.append(float(table.N[best]))
            kept.append(float(C[best]))
    return _power(kept, sizes, "budgets inside the envelope")


def bias_of_approach_2(law: Law, table: RunTable, C: float | None = None) -> Bias:
    """Approach 2 on the law's own noise-free losses at the runs' N and D, at C (default: ten times the largest budget)."""
    clean = table.with_arrays(L=np.asarray(law.loss(table.N, table.D)))
    fitted = approach_2(isoflops(clean))
    target = 10 * float((6 * table.N * table.D).max()) if C is None else C
    return Bias(
        C=target,
        ratio=fitted.N(target) / law.allocate(target).N,
        exponent=fitted.exponent,
        true_exponent=law.beta / (law.alpha + law.beta),
    )


def _power(C: Sequence[float], N: Sequence[float], what: str) -> PowerFit:
    if len(set(C)) < 2:
        raise BadInput(
            f"there {'is' if len(C) == 1 else 'are'} {len(C)} {what}; a power law needs at least 2"
        )
    exponent, level = np.polyfit(np.log(C), np.log(N), 1)
    return PowerFit(coefficient=float(np.exp(level)), exponent=float(exponent), budgets=len(C))
