"""Which pilot runs to buy: the ladders that narrow the predicted loss of a target most, for so much compute.

Optimal design in the sense of Fedorov (1972): to first order in the law's constants the variance of a
prediction is g'·M⁻¹·g, M the information of the runs and g the prediction's gradient; ladders are added,
dropped and exchanged while that falls. What is known beforehand (an exponent is about 0.35) enters M as rows
of its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from families import Member, accounting
from families.errors import BadInput
from families.units import format_size

from ..laws import Law
from ..recipe import COOLDOWN
from ..schedule import ladder_length
from .candidates import Candidates

Array = NDArray[np.float64]
RUNGS = (0.25, 0.5, 1.0)  # of a ladder's tokens
RUN_NOISE, ROW_NOISE = 0.0025, 0.0015  # log loss: shared by a run's rungs, and each rung's own
DRIFT = 0.005  # log loss per factor of ten in compute below the target: how far a law bends from itself
MOST_SHARE = 0.25  # of the cost in one ladder: a fit needs four runs for an interval
LEAST_SHARE = 0.005  # of the cost; less is not worth a run's trouble
LEAST_RATIO = (
    1.0  # tokens per parameter at the shortest rung: before that a loss curve has not begun to obey a law
)
SIZES = (1 / 300, 1 / 2)  # of the target's, for the members to learn from
TOKENS_GRID = 14
EXCHANGES = 200
WORTH = 1e-4  # of the variance: moves that save less are not made
SPENT = 3  # degrees of freedom that a law takes from few runs: `uncertainty.SPENT`, without loading the fit
Z_80 = 1.2815515655446004


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """One ladder: rungs cooled down from a trunk of `tokens`, and what it costs in training FLOPs."""

    member: Member
    N: float
    tokens: int
    rungs: tuple[int, ...]
    flops: float

    @property
    def points(self) -> tuple[Array, Array]:
        """N and D of each rung."""
        return np.full(len(self.rungs), self.N), np.array(self.rungs, dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Basket:
    """The ladders chosen, and the standard deviation of log loss that they leave at the target.

    deviation: with rungs that lie off the law by 0.5 % per decade below the target, which the choice guards against;
    lawful_deviation: with rungs that obey the law but for their noise.
    """

    purchases: tuple[Purchase, ...]
    deviation: float
    lawful_deviation: float
    flops: float
    target: Member
    target_N: float
    target_tokens: float
    target_flops: float

    @property
    def half_width_80(self) -> float:
        """Half of the 80 % interval that `fit` would give one run at the target, as a share of its loss, to first order."""
        most = max(6 * one.N * one.tokens for one in self.purchases)
        return half_width(
            self.lawful_deviation,
            len(self.purchases),
            math.log10(6 * self.target_N * self.target_tokens / most),
        )

    @property
    def guarded_half_width_80(self) -> float:
        """The same, were every rung off the law by 0.5 % per decade below the target, each its own way."""
        return Z_80 * math.hypot(self.deviation, RUN_NOISE, ROW_NOISE)

    def facts(self) -> dict[str, Any]:
        """The numbers that go with the ladders."""
        return {
            "target": self.target.name,
            "target_tokens": self.target_tokens,
            "target_flops": self.target_flops,
            "flops": self.flops,
            "share_of_target": self.flops / self.target_flops,
            "deviation": self.deviation,
            "half_width_80": self.half_width_80,
            "guarded_half_width_80": self.guarded_half_width_80,
        }


def half_width(deviation: float, runs: int, decades: float) -> float:
    """Half of an 80 % interval for one run as a fit makes it (docs/math.md): its noise, and the larger of what resampling
    finds, widened for few runs, and the drift of so many factors of ten in compute beyond them.

    deviation: of log loss, that runs which obey the law leave at the target.
    """
    known = deviation * math.sqrt(runs / max(runs - SPENT, 1))
    return Z_80 * math.hypot(RUN_NOISE, ROW_NOISE, max(known, DRIFT * max(decades, 0.0)))


def jacobian(law: Law, N: Array, D: Array) -> Array:
    """∂ log L / ∂ (log E, log A, alpha, log B, beta, log gamma) at each point, shape (n, 6)."""
    u, v = law.A * N**-law.alpha, law.B * D**-law.beta
    reducible = (u + v) ** law.gamma
    loss = law.E + reducible
    by_u = reducible / loss * law.gamma * u / (u + v)
    by_v = reducible / loss * law.gamma * v / (u + v)
    by_gamma = reducible / loss * law.gamma * np.log(u + v)
    return np.stack([law.E / loss, by_u, -by_u * np.log(N), by_v, -by_v * np.log(D), by_gamma], axis=1)


def prior(N: float, D: float) -> Array:
    """Information before any run, centred on N and D: exponents ± 0.1, E ± 30 %, terms there ± a factor of e,
    gamma ± 40 %.
    """
    rows = np.zeros((6, 6))
    rows[0, 0] = 1 / 0.3
    rows[1, 1], rows[1, 2] = 1.0, -math.log(N)
    rows[2, 2] = rows[3, 4] = 1 / 0.1
    rows[4, 3], rows[4, 4] = 1.0, -math.log(D)
    rows[5, 5] = 1 / 0.4
    return np.asarray(rows.T @ rows)


def rows_information(law: Law, N: Array, D: Array, target_compute: float, *, drift: float = DRIFT) -> Array:
    """What the rungs of one run tell: they share the run's noise, and drift grows with the distance from the
    target.
    """
    rows = jacobian(law, N, D)
    decades = np.maximum(np.log10(target_compute / (6 * N * D)), 0)
    covariance = np.diag(ROW_NOISE**2 + (drift * decades) ** 2) + RUN_NOISE**2
    return np.asarray(rows.T @ np.linalg.solve(covariance, rows))


def variance(information: Array, gradient: Array) -> Array:
    """g'·M⁻¹·g for one information matrix or a stack of them."""
    column = np.broadcast_to(gradient[:, None], (*information.shape[:-1], 1))
    return np.asarray(np.linalg.solve(information, column)[..., 0] @ gradient)


def ladders(shapes: Candidates, sizes: Array, target_N: float, budget: float) -> list[Purchase]:
    """Every ladder that may be bought: members well below the target, tokens on a grid up to a quarter of the
    cost.
    """
    found = []
    for index in np.flatnonzero((sizes >= SIZES[0] * target_N) & (sizes <= SIZES[1] * target_N)).tolist():
        member = shapes.member(index)
        per_token = float(shapes.flops_per_token[index])
        cost = ladder_length(RUNGS, COOLDOWN)
        most = MOST_SHARE * budget / (per_token * cost)
        least = max(LEAST_SHARE * budget / (per_token * cost), LEAST_RATIO * float(sizes[index]) / RUNGS[0])
        if most < least:
            continue
        for tokens in np.geomspace(least, most, TOKENS_GRID):
            rungs = tuple(round(tokens * share) for share in RUNGS)
            flops = per_token * float(tokens) * cost
            found.append(
                Purchase(member=member, N=float(sizes[index]), tokens=rungs[-1], rungs=rungs, flops=flops)
            )
    return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Offers:
    """Ladders on offer: information of each, shape (k, 6, 6), FLOPs, and the member's number, of which one is
    bought.
    """

    told: Array
    costs: Array
    owners: NDArray[np.intp]
    start: Array
    gradient: Array
    budget: float

    def total(self, chosen: Sequence[int]) -> Array:
        """Information of a choice."""
        return np.asarray(self.start + self.told[list(chosen)].sum(axis=0))

    def allowed(self, others: Sequence[int]) -> NDArray[np.intp]:
        """What may be bought beside these: within the budget, of another member."""
        left = self.budget - self.costs[list(others)].sum()
        fresh = ~np.isin(self.owners, self.owners[list(others)])
        return np.flatnonzero((self.costs <= left) & fresh)

    def add(self, chosen: list[int]) -> list[int] | None:
        """With the ladder that narrows most per FLOP, or None."""
        rows = self.allowed(chosen)
        if not len(rows):
            return None
        before = variance(self.total(chosen), self.gradient)
        gain = before - variance(self.total(chosen) + self.told[rows], self.gradient)
        if gain.max() <= WORTH * before:
            return None
        return [*chosen, int(rows[np.argmax(gain / self.costs[rows])])]

    def exchange(self, chosen: list[int]) -> list[int] | None:
        """With one ladder changed for another that narrows most, or None."""
        best, found = float(variance(self.total(chosen), self.gradient)) * (1 - WORTH), None
        for place in range(len(chosen)):
            others = chosen[:place] + chosen[place + 1 :]
            rows = self.allowed(others)
            values = variance(self.total(others) + self.told[rows], self.gradient)
            if len(rows) and values.min() < best:
                best, found = float(values.min()), [*others, int(rows[np.argmin(values)])]
        return found


def buy(
    law: Law, shapes: Candidates, sizes: Array, *, target: tuple[Member, float, float], budget: float
) -> Basket:
    """Ladders of at most one per member, within `budget` FLOPs, that leave the least variance at the target.

    Args:
        sizes: N of each shape as the law counts it. target: the member, its N and its D.

    Raises:
        BadInput: the budget buys fewer than four ladders.
    """
    member, N, D = target
    offered = ladders(shapes, sizes, N, budget)
    if not offered:
        raise BadInput(
            f"budget is {format_size(budget)} FLOPs; no ladder below {format_size(N)} parameters fits it"
        )
    names = [one.member.name for one in offered]
    offers = Offers(
        told=np.stack([rows_information(law, *one.points, 6 * N * D) for one in offered]),
        costs=np.array([one.flops for one in offered]),
        owners=np.array([names.index(name) for name in names]),
        start=prior(math.sqrt(SIZES[0] * SIZES[1]) * N, D / 10),
        gradient=jacobian(law, np.array([N]), np.array([D]))[0],
        budget=budget,
    )
    chosen: list[int] = []
    for _ in range(EXCHANGES):
        changed = offers.add(chosen) or offers.exchange(chosen)
        if changed is None:
            break
        chosen = changed
    if len(chosen) < 4:
        raise BadInput(
            f"budget is {format_size(budget)} FLOPs and buys {len(chosen)} ladders; an interval needs at least 4"
        )
    lawful = offers.start + sum(
        rows_information(law, *offered[i].points, 6 * N * D, drift=0.0) for i in chosen
    )
    bought = tuple(
        offered[index] for index in sorted(chosen, key=lambda i: (offered[i].N, offered[i].tokens))
    )
    return Basket(
        purchases=bought,
        deviation=math.sqrt(float(variance(offers.total(chosen), offers.gradient))),
        lawful_deviation=math.sqrt(float(variance(np.asarray(lawful), offers.gradient))),
        flops=math.fsum(one.flops for one in bought),
        target=member,
        target_N=N,
        target_tokens=D,
        target_flops=accounting.train_flops(member.spec, D),
    )
