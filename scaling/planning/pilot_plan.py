"""What `scaling pilot` is asked, and the ladders it answers with, as a plan to train."""

import math
from dataclasses import dataclass, replace

import numpy as np

from families import MEMBERS, accounting
from families.design import DesignRule
from families.errors import BadInput
from families.units import format_size, parse_count, parse_size

from ..budget import parse_budget
from ..laws import Law
from ..planfile import PlanFile, PlannedMember
from ..recipe import recipe
from ..schedule import whole_steps
from .buying import Basket, Purchase, buy
from .candidates import candidates, designed
from .planlaw import find_law


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The options of `scaling pilot`, as typed."""

    target: str
    budget: str = "5%"
    tokens: str | None = None
    law: str = "chinchilla"
    ratio: float = 40.0
    head_size: int = 32
    vocab: str = "50257"
    context: str = "1024"


def pilot_plan(wish: Wish) -> tuple[PlanFile, Basket]:
    """The ladders to train, as a plan without predictions, and what they are expected to tell.

    Raises:
        BadInput: no such member, size or law, or a budget that buys too little.
    """
    law = find_law(wish.law, None)
    rule = DesignRule(
        ratio=wish.ratio,
        head_size=wish.head_size,
        vocab_size=parse_count(wish.vocab, "vocab"),
        n_positions=parse_count(wish.context, "context"),
    )
    named = MEMBERS.get(wish.target.strip().lower())
    target = named or designed(parse_size(wish.target, "target"), rule).member(0)
    # Kaplan's frontier counts the blocks' matrices; its law of N and D, which this needs, counts all but embeddings.
    law = replace(law, frontier=None)
    N = float(law.count(target.spec))
    D = optimal_tokens(law.law, N) if wish.tokens is None else parse_size(wish.tokens, "tokens")
    compute = accounting.train_flops(target.spec, D)
    shapes = candidates("all", rule)
    basket = buy(
        law.law,
        shapes,
        np.asarray(law.count(shapes.as_spec), dtype=np.float64),
        target=(target, N, D),
        budget=budget_of(wish.budget, compute),
    )
    members = tuple(_planned(one) for one in basket.purchases)
    note = f"ladders chosen for {target.name} at {format_size(D)} tokens, under law {law.name}"
    return PlanFile(law=law.reference, members=members, notes=(note,)), basket


def budget_of(text: str, compute: float) -> float:
    """A share of the target's cost, or a budget of its own."""
    if not text.strip().endswith("%"):
        return parse_budget(text).flops
    try:
        share = float(text.strip().removesuffix("%")) / 100
    except ValueError:
        share = math.nan
    if not (math.isfinite(share) and share > 0):
        raise BadInput(
            f"budget is {text}; a share of the target's cost is above 0 % and below 100 %, like 5%"
        )
    if share >= 1:
        raise BadInput(
            f"budget is {text} of the target's cost; pilots that cost as much as the target tell too late"
        )
    return share * compute


def _planned(one: Purchase) -> PlannedMember:
    advice = recipe(one.member.spec, one.tokens, shortest=one.rungs[0])
    step = advice.batch_tokens
    rungs = tuple(sorted({whole_steps(rung, step) * step for rung in (*one.rungs[:-1], advice.tokens)}))
    return PlannedMember.of(
        one.member.name, one.member.spec, tokens=advice.tokens, recipe=advice, rungs=rungs
    )


def optimal_tokens(law: Law, N: float) -> float:
    """The D for which N is compute-optimal: alpha·A/N^alpha = beta·B/D^beta.

    Raises:
        BadInput: the law lacks one of its terms.
    """
    if min(law.A, law.B, law.alpha, law.beta) <= 0:
        raise BadInput("the law depends on only one of N and D; say how many --tokens the target takes")
    return float((law.beta * law.B * N**law.alpha / (law.alpha * law.A)) ** (1 / law.beta))
