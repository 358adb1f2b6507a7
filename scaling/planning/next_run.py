"""Which run to do next: of all ladders on offer, those that narrow a target's prediction most per FLOP, given
the runs there are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from families import MEMBERS, accounting
from families.errors import BadInput
from families.units import parse_size

from ..laws import Law
from ..runs import Convention, Run, read_runs
from .asking import rule_of
from .buying import (
    SIZES,
    Array,
    Purchase,
    half_width,
    jacobian,
    ladders,
    prior,
    rows_information,
    variance,
)
from .candidates import Candidates, candidates, designed
from .pilot_plan import budget_of
from .planlaw import read_law


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One ladder, and the half width of the target's 80 % interval, as a share of its loss, once it is
    done.
    """

    purchase: Purchase
    half_width_80: float
    saved_per_flop: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What is known now, and the offers, the best first."""

    half_width_80: float
    offers: tuple[Offer, ...]

    def facts(self) -> dict[str, Any]:
        """For --json."""
        return {
            "half_width_80": self.half_width_80,
            "offers": [
                {
                    "member": offer.purchase.member.name,
                    "tokens": offer.purchase.tokens,
                    "rungs": list(offer.purchase.rungs),
                    "flops": offer.purchase.flops,
                    "half_width_80": offer.half_width_80,
                }
                for offer in self.offers
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The options of `scaling next`, as typed."""

    study: Path
    target: str
    tokens: str
    budget: str = "5%"


def advise_study(request: Request) -> Advice:
    """Advice for a study's target, from members shaped as its runs are.

    Raises:
        BadInput: the study has no runs or no law, or the request names no size, tokens or budget.
    """
    law = read_law(request.study / "law.json")
    runs = law.comparable(read_runs(request.study / "runs.jsonl").runs)
    rule = rule_of(runs)
    named = MEMBERS.get(request.target.strip().lower())
    member = named or designed(parse_size(request.target, "target"), rule).member(0)
    tokens = parse_size(request.tokens, "tokens")
    shapes = candidates("all", rule)
    return advise(
        runs,
        law.law,
        shapes,
        np.asarray(law.size(shapes.as_spec), dtype=np.float64),
        target=(float(law.size(member.spec)), tokens),
        budget=budget_of(request.budget, accounting.train_flops(member.spec, tokens)),
        convention=law.convention,
    )


def advise(
    runs: Sequence[Run],
    law: Law,
    shapes: Candidates,
    sizes: Array,
    *,
    target: tuple[float, float],
    budget: float,
    convention: Convention,
    shown: int = 5,
) -> Advice:
    """To first order in the law's constants, as in `buying`; each member is offered at its best tokens only.

    Args:
        sizes: N of each shape as the law counts it. target: N and D. budget: FLOPs that the next run may
        take.

    Raises:
        BadInput: no ladder fits the budget.
    """
    N, D = target
    compute = 6 * N * D
    known = lawful = prior(math.sqrt(SIZES[0] * SIZES[1]) * N, D / 10)
    count, most = 0, 0.0
    for _, rows in groupby(sorted(_annealed(runs), key=lambda run: run.run), key=lambda run: run.run):
        group = list(rows)
        sizes_of = np.array([_size(run, convention) for run in group])
        tokens_of = np.array([run.tokens for run in group])
        known = known + rows_information(law, sizes_of, tokens_of, compute)
        lawful = lawful + rows_information(law, sizes_of, tokens_of, compute, drift=0.0)
        count, most = count + 1, max(most, float((6 * sizes_of * tokens_of).max()))
    g = jacobian(law, np.array([N]), np.array([D]))[0]
    before = float(variance(known, g))
    offered = ladders(shapes, sizes, N, 4 * budget)  # one ladder takes a quarter of a basket's cost
    if not offered:
        raise BadInput(f"budget is {budget:g} FLOPs; no ladder fits it")
    after = variance(known + np.stack([rows_information(law, *one.points, compute) for one in offered]), g)
    saved = (before - after) / np.array([one.flops for one in offered])
    best: dict[str, Offer] = {}
    for index in np.argsort(-saved).tolist():
        one = offered[index]
        if one.member.name in best:
            continue
        at_N, at_D = one.points
        then = lawful + rows_information(law, at_N, at_D, compute, drift=0.0)
        reach = math.log10(compute / max(most, 6 * one.N * one.tokens))
        best[one.member.name] = Offer(
            purchase=one,
            half_width_80=half_width(math.sqrt(float(variance(then, g))), count + 1, reach),
            saved_per_flop=float(saved[index]),
        )
    reach = math.log10(compute / most) if most else 0.0
    now = half_width(math.sqrt(float(variance(lawful, g))), count, reach)
    return Advice(half_width_80=now, offers=tuple(best.values())[:shown])


def _annealed(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.annealed]


def _size(run: Run, convention: Convention) -> float:
    found = run.params if convention == "total" else run.params_non_embedding
    if found is None:
        raise BadInput(f"run {run.run!r} does not say its N in the law's convention, {convention}")
    return found
