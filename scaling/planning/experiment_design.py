"""Choice of pilot runs: the ladders that narrow the predicted loss of a target most, for a given compute.

Optimal design in the sense of Fedorov (1972): to first order in the law's constants the variance of a
prediction is g'·M⁻¹·g, M the information of the runs and g the prediction's gradient; ladders are added,
dropped and exchanged while that falls. Prior knowledge (an exponent is about 0.35) enters M as rows of its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from families import FAMILIES, Member, accounting
from families.design import DesignRule, rule_for
from families.rules import MAKERS, is_rule, maker
from families.units import BadInput, format_size, nearest, parse_count, parse_size

from ..budget import parse_budget
from ..laws import Convention, Law
from ..recipe import COOLDOWN, recipe
from ..runs import Run
from ..schedule import ladder_length, whole_steps
from ..stats import Z_80, Array
from .candidates import Candidates, at_context, candidates, designed, named
from .law import find_law, plan_params, shape_sizes, single_law
from .planfile import PlanFile, PlannedMember

# Of a ladder's tokens. They share the longest one's batch: by StepLaw's rule 1.5 times that of a rung of half, which gives away
# 0.15 % of the loss on 17 public cells, and 2.2 times that of a quarter, 0.46 %: a fall with D that tuned runs do not have.
RUNGS = (0.5, 0.71, 1.0)

RUN_NOISE, ROW_NOISE = 0.0025, 0.0015  # log loss: shared by a run's rungs, and each rung's own

DRIFT = 0.005  # log loss per factor of ten in compute below the target: how far a law bends from itself

MOST_SHARE = 0.25  # of the cost in one ladder: a fit needs four runs for an interval

LEAST_SHARE = 0.005  # of the cost; less is not worth a run's trouble

LEAST_RATIO = (
    1.0  # tokens per parameter at the shortest rung: before that a loss curve has not begun to obey a law
)

# Tokens at the shortest rung, where the target reads five times as many: models of 87k to 680k parameters learn to copy from
# their context until there, and fall faster than any law (docs/log.md#e276).
LEAST_TOKENS, LEAST_OF_TARGET = 3e6, 1 / 5

LEAST_LAYERS = 2  # below, attention cannot copy (Olsson et al. 2022), and a ladder's law is another

SIZES = (1 / 300, 1 / 2)  # of the target's, for the members to learn from

TOKENS_GRID = 14

EXCHANGES = 200

OUTCOMES = 4  # simulated and fitted, for the interval that a pilot promises

WORTH = 1e-4  # of the variance: moves that save less are not made

SPENT = 3  # degrees of freedom that a law takes from few runs: `uncertainty.SPENT`, without loading the fit


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderSpec:
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
class Design:
    """The ladders chosen, and the standard deviation of log loss that they leave at the target.

    deviation: with rungs that lie off the law by 0.5 % per decade below the target, which the choice guards against;
    lawful_deviation: with rungs that obey the law but for their noise.
    """

    ladders: tuple[LadderSpec, ...]
    deviation: float
    lawful_deviation: float
    flops: float
    target: Member
    target_N: float
    target_tokens: float
    target_flops: float
    promised: float | None = None  # half width that fits of simulated outcomes have, where they were made

    @property
    def half_width_80(self) -> float:
        """Half of the 80 % interval that `fit` gives one run at the target, as a share of its loss; else to first order."""
        if self.promised is not None:
            return self.promised
        most = max(6 * ladder.N * ladder.tokens for ladder in self.ladders)
        return half_width(
            self.lawful_deviation,
            len(self.ladders),
            math.log10(6 * self.target_N * self.target_tokens / most),
        )

    @property
    def guarded_half_width_80(self) -> float:
        """The same, with rungs off the law by 0.5 % per decade below the target, independently: the design criterion."""
        return Z_80 * math.hypot(self.deviation, RUN_NOISE, ROW_NOISE)

    def facts(self) -> dict[str, Any]:
        """Numbers of the design, for --json."""
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
    """Half of an 80 % interval for one run as a fit makes it (docs/math.md), as a share of its loss.

    Args:
        deviation: of log loss at the target, left by runs that obey the law.
        runs: number of training runs; few widen the deviation.
        decades: of compute from the largest run to the target, over which the law may drift.
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
    """Prior information matrix, (6, 6): exponents ± 0.1, E ± 30 %, gamma ± 40 %, terms at N and D ± a factor of e."""
    rows = np.zeros((6, 6))
    rows[0, 0] = 1 / 0.3
    rows[1, 1], rows[1, 2] = 1.0, -math.log(N)
    rows[2, 2] = rows[3, 4] = 1 / 0.1
    rows[4, 3], rows[4, 4] = 1.0, -math.log(D)
    rows[5, 5] = 1 / 0.4
    return np.asarray(rows.T @ rows)


def rows_information(
    law: Law, N: Array, D: Array, target_compute: float, *, drift: float = DRIFT, one_run: bool = True
) -> Array:
    """Information of annealed points, (6, 6); drift grows towards smaller compute.

    Args:
        law: the closed form whose constants are to be learned.
        N: parameters of each point, shape (n,).
        D: tokens of each point, shape (n,).
        target_compute: FLOPs of the target, 6·N·D.
        drift: log loss per decade below the target by which points may lie off the law.
        one_run: the points are rungs of one run and share its noise; else each is a run of its own, the sum over which
            is taken at once.
    """
    rows = jacobian(law, N, D)
    decades = np.maximum(np.log10(target_compute / (6 * N * D)), 0)
    own = ROW_NOISE**2 + (drift * decades) ** 2
    if not one_run:
        return np.asarray(rows.T @ (rows / (own + RUN_NOISE**2)[:, None]))
    return np.asarray(rows.T @ np.linalg.solve(np.diag(own) + RUN_NOISE**2, rows))


def variance(information: Array, gradient: Array) -> Array:
    """g'·M⁻¹·g for one information matrix or a stack of them."""
    column = np.broadcast_to(gradient[:, None], (*information.shape[:-1], 1))
    return np.asarray(np.linalg.solve(information, column)[..., 0] @ gradient)


def candidate_ladders(
    shapes: Candidates, sizes: Array, target: tuple[float, float], budget: float
) -> list[LadderSpec]:
    """All candidate ladders: members well below the target, tokens on a grid up to a quarter of the budget.

    Args:
        shapes: the candidates.
        sizes: N of each shape as the law counts it.
        target: its N and D.
        budget: FLOPs for all ladders together.
    """
    target_N, target_D = target
    shortest = min(LEAST_TOKENS, LEAST_OF_TARGET * target_D)
    ladders = []
    for index in np.flatnonzero((sizes >= SIZES[0] * target_N) & (sizes <= SIZES[1] * target_N)).tolist():
        member = shapes.member(index)
        per_token = float(shapes.flops_per_token[index])
        cost = ladder_length(RUNGS, COOLDOWN)
        most = MOST_SHARE * budget / (per_token * cost)
        least = max(shortest, LEAST_RATIO * float(sizes[index])) / RUNGS[0]
        least = max(LEAST_SHARE * budget / (per_token * cost), least)
        if most < least:
            continue
        for tokens in np.geomspace(least, most, TOKENS_GRID):
            rungs = tuple(round(tokens * share) for share in RUNGS)
            flops = per_token * float(tokens) * cost
            ladders.append(
                LadderSpec(member=member, N=float(sizes[index]), tokens=rungs[-1], rungs=rungs, flops=flops)
            )
    return ladders


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExchangeState:
    """Candidate ladders, of which at most one for each member is chosen.

    Args:
        information: of each ladder, shape (k, 6, 6).
        costs: FLOPs of each, shape (k,).
        member_index: number of each ladder's member, shape (k,).
        start: prior information, (6, 6).
        gradient: of the target's log loss, (6,).
        budget: FLOPs for all ladders together.
    """

    information: Array
    costs: Array
    member_index: NDArray[np.intp]
    start: Array
    gradient: Array
    budget: float

    def total(self, chosen: Sequence[int]) -> Array:
        """Information of a choice."""
        return np.asarray(self.start + self.information[list(chosen)].sum(axis=0))

    def allowed(self, others: Sequence[int]) -> NDArray[np.intp]:
        """Indices of ladders that may join these: within the budget, of another member."""
        left = self.budget - self.costs[list(others)].sum()
        fresh = ~np.isin(self.member_index, self.member_index[list(others)])
        return np.flatnonzero((self.costs <= left) & fresh)

    def add(self, chosen: list[int]) -> list[int] | None:
        """The choice with the ladder added that narrows the interval most per FLOP, or None."""
        rows = self.allowed(chosen)
        if not len(rows):
            return None
        before = variance(self.total(chosen), self.gradient)
        gain = before - variance(self.total(chosen) + self.information[rows], self.gradient)
        if gain.max() <= WORTH * before:
            return None
        return [*chosen, int(rows[np.argmax(gain / self.costs[rows])])]

    def exchange(self, chosen: list[int]) -> list[int] | None:
        """The choice with one ladder exchanged for another that narrows the interval most, or None."""
        best, changed = float(variance(self.total(chosen), self.gradient)) * (1 - WORTH), None
        for place in range(len(chosen)):
            others = chosen[:place] + chosen[place + 1 :]
            rows = self.allowed(others)
            values = variance(self.total(others) + self.information[rows], self.gradient)
            if len(rows) and values.min() < best:
                best, changed = float(values.min()), [*others, int(rows[np.argmin(values)])]
        return changed


def select_ladders(
    law: Law, shapes: Candidates, sizes: Array, *, target: tuple[Member, float, float], budget: float
) -> Design:
    """Ladders of at most one per member, within `budget` FLOPs, that leave the least variance at the target.

    Args:
        law: closed form of the law.
        shapes: the candidates.
        sizes: N of each shape as the law counts it.
        target: the member, its N and its D.
        budget: FLOPs for all ladders together.

    Raises:
        BadInput: the budget buys fewer than four ladders.
    """
    member, N, D = target
    offered = candidate_ladders(shapes, sizes, (N, D), budget)
    if not offered:
        raise BadInput(
            f"budget is {format_size(budget)} FLOPs; no ladder below {format_size(N)} parameters fits it"
        )
    names = [ladder.member.name for ladder in offered]
    offers = ExchangeState(
        information=np.stack([rows_information(law, *ladder.points, 6 * N * D) for ladder in offered]),
        costs=np.array([ladder.flops for ladder in offered]),
        member_index=np.array([names.index(name) for name in names]),
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
            f"budget is {format_size(budget)} FLOPs and buys {len(chosen)} ladders; an interval needs at least 4: "
            "a larger --budget buys more"
        )
    lawful = offers.start + sum(
        rows_information(law, *offered[i].points, 6 * N * D, drift=0.0) for i in chosen
    )
    bought = tuple(
        offered[index] for index in sorted(chosen, key=lambda i: (offered[i].N, offered[i].tokens))
    )
    return Design(
        ladders=bought,
        deviation=math.sqrt(float(variance(offers.total(chosen), offers.gradient))),
        lawful_deviation=math.sqrt(float(variance(np.asarray(lawful), offers.gradient))),
        flops=math.fsum(ladder.flops for ladder in bought),
        target=member,
        target_N=N,
        target_tokens=D,
        target_flops=accounting.train_flops(member.spec, D),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PilotQuery:
    """Options of `scaling pilot`, as typed."""

    target: str
    budget: str = "5%"
    tokens: str | None = None
    law: str = "chinchilla"
    family: str | None = None
    ratio: float | None = None
    head_size: int | None = None
    vocab: str | None = None
    context: str | None = None


# Of GPT-2's pilots: widths in small steps, so that sizes span a decade below a target of a few million parameters; below
# SMALL_TARGET in steps half as wide.
GPT2_RATIO, GPT2_HEAD = 40.0, 32

SMALL_TARGET = 2e6


def _rule(query: PilotQuery, target: Member | None) -> DesignRule:
    """The rule of the ladders' shapes: the family asked for, or that of a named target; else GPT-2's with small heads.

    Raises:
        BadInput: no such family, a value out of range, or a target of a family without a rule.
    """
    family = query.family
    if family is None and target is not None:
        family = family_of(target)
    if family is not None and not is_rule(family):
        raise BadInput(f"family is {family!r}; {nearest(family, MAKERS, shown=len(MAKERS))}")
    own = family is not None and maker(family).name != "gpt2"
    size = parse_size(query.target, "target") if target is None else accounting.params(target.spec)
    head = GPT2_HEAD if size >= SMALL_TARGET else GPT2_HEAD // 2
    return rule_for(
        family or "gpt2",
        ratio=query.ratio if query.ratio is not None or own else GPT2_RATIO,
        head_size=query.head_size if query.head_size is not None or own else head,
        vocab_size=None if query.vocab is None else parse_count(query.vocab, "vocab"),
        n_positions=None if query.context is None else parse_count(query.context, "context"),
    )


def family_of(member: Member) -> str:
    """The family rule that designs shapes like a member: that which its makers published it in, or of its architecture.

    Raises:
        BadInput: no rule has its architecture.
    """
    for name, rule in MAKERS.items():
        if rule.published and member in FAMILIES[rule.published].members:
            return name
    for name, rule in MAKERS.items():
        if rule.architecture == member.spec.architecture:
            return name
    raise BadInput(
        f"target is {member.name}, of architecture {member.spec.architecture}, which no rule designs smaller shapes of; "
        f"--family names one of {', '.join(MAKERS)}"
    )


def pilot_plan(query: PilotQuery) -> tuple[PlanFile, Design]:
    """The ladders to train, as a plan without predictions, and their design.

    Raises:
        BadInput: no such member, size or law, or a budget that buys too little.
    """
    law = find_law(query.law)
    surface = single_law(law)
    target = named(query.target)
    rule = _rule(query, target)
    target = target or designed(parse_size(query.target, "target"), rule).member(0)
    if rule.architecture != "gpt2" and target.spec.n_positions > rule.n_positions:
        target = at_context(target, rule.n_positions)  # ladders and target train at one context
    N = float(plan_params(law, target.spec))
    D = optimal_tokens(surface, N) if query.tokens is None else parse_size(query.tokens, "tokens")
    compute = accounting.train_flops(target.spec, D)
    shapes = candidates("all", rule)
    shapes = replace(shapes, n_layer=np.maximum(shapes.n_layer, LEAST_LAYERS))
    design = select_ladders(
        surface,
        shapes,
        shape_sizes(law, shapes),
        target=(target, N, D),
        budget=budget_of(query.budget, compute),
    )
    from .simulate import SimulatedSweep, simulate  # it needs this module's noise

    outcome = simulate(
        SimulatedSweep(members=tuple((one.member.name, one.N, one.rungs) for one in design.ladders)),
        surface,
        target=(N, D),
        replicates=OUTCOMES,
        convention=law.convention,
    )
    design = replace(design, promised=outcome.half_width_80)
    members = tuple(_planned(ladder) for ladder in design.ladders)
    note = f"{rule.architecture} ladders chosen for {target.name} at {format_size(D)} tokens, under law {law.name}"
    return PlanFile(law=law.reference, members=members, notes=(note,)), design


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
        raise BadInput(f"budget is {text} of the target's cost; pilots must cost less than the target")
    return share * compute


def _planned(ladder: LadderSpec) -> PlannedMember:
    advice = recipe(ladder.member.spec, ladder.tokens, shortest=ladder.rungs[0])
    step = advice.batch_tokens
    rungs = tuple(sorted({whole_steps(rung, step) * step for rung in (*ladder.rungs[:-1], advice.tokens)}))
    return PlannedMember.of(
        ladder.member.name, ladder.member.spec, tokens=advice.tokens, recipe=advice, rungs=rungs
    )


def optimal_tokens(law: Law, N: float) -> float:
    """The D for which N is compute-optimal: alpha·A/N^alpha = beta·B/D^beta.

    Raises:
        BadInput: the law lacks one of its terms.
    """
    if min(law.A, law.B, law.alpha, law.beta) <= 0:
        raise BadInput("the law depends on only one of N and D; say how many --tokens the target takes")
    return float((law.beta * law.B * N**law.alpha / (law.alpha * law.A)) ** (1 / law.beta))


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One ladder, and the half width of the target's 80 % interval with it, as a share of its loss."""

    ladder: LadderSpec
    half_width_80: float
    saved_per_flop: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Half width of the target's 80 % interval now, and the offers, best first."""

    half_width_80: float
    offers: tuple[Offer, ...]

    def facts(self) -> dict[str, Any]:
        """For --json."""
        return {
            "half_width_80": self.half_width_80,
            "offers": [
                {
                    "member": offer.ladder.member.name,
                    "tokens": offer.ladder.tokens,
                    "rungs": list(offer.ladder.rungs),
                    "flops": offer.ladder.flops,
                    "half_width_80": offer.half_width_80,
                }
                for offer in self.offers
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class NextRunQuery:
    """Options of `scaling next`, as typed."""

    study: Path
    target: str
    tokens: str
    budget: str = "5%"


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
    """The next ladders to train, to first order in the law's constants; each member is offered at its best tokens only.

    Args:
        runs: observations so far.
        law: closed form of the law.
        shapes: the candidates.
        sizes: N of each shape as the law counts it.
        target: N and D to predict.
        budget: FLOPs that the next run may take.
        convention: parameters that N counts.
        shown: number of offers.

    Raises:
        BadInput: no ladder fits the budget.
    """
    N, D = target
    compute = 6 * N * D
    known = lawful = prior(math.sqrt(SIZES[0] * SIZES[1]) * N, D / 10)
    done, most = 0, 0.0
    alone: list[tuple[float, float]] = []
    for _, rows in groupby(sorted(_annealed(runs), key=lambda run: run.run), key=lambda run: run.run):
        rungs = [(float(run.n_params(convention)), run.tokens) for run in rows]
        done, most = done + 1, max(most, *(6 * size * length for size, length in rungs))
        if len(rungs) == 1:
            alone += rungs
            continue
        at_N, at_D = np.array(rungs).T
        known = known + rows_information(law, at_N, at_D, compute)
        lawful = lawful + rows_information(law, at_N, at_D, compute, drift=0.0)
    if alone:
        at_N, at_D = np.array(alone).T
        known = known + rows_information(law, at_N, at_D, compute, one_run=False)
        lawful = lawful + rows_information(law, at_N, at_D, compute, drift=0.0, one_run=False)
    g = jacobian(law, np.array([N]), np.array([D]))[0]
    before = float(variance(known, g))
    offered = candidate_ladders(
        shapes, sizes, (N, D), 4 * budget
    )  # one ladder takes a quarter of a design's cost
    if not offered:
        raise BadInput(f"budget is {budget:g} FLOPs; no ladder fits it")
    after = variance(
        known + np.stack([rows_information(law, *ladder.points, compute) for ladder in offered]), g
    )
    saved = (before - after) / np.array([ladder.flops for ladder in offered])
    best: dict[str, Offer] = {}
    for index in np.argsort(-saved).tolist():
        ladder = offered[index]
        if ladder.member.name in best:
            continue
        at_N, at_D = ladder.points
        then = lawful + rows_information(law, at_N, at_D, compute, drift=0.0)
        reach = math.log10(compute / max(most, 6 * ladder.N * ladder.tokens))
        best[ladder.member.name] = Offer(
            ladder=ladder,
            half_width_80=half_width(math.sqrt(float(variance(then, g))), done + 1, reach),
            saved_per_flop=float(saved[index]),
        )
    reach = math.log10(compute / most) if most else 0.0
    now = half_width(math.sqrt(float(variance(lawful, g))), done, reach)
    return Advice(half_width_80=now, offers=tuple(best.values())[:shown])


def _annealed(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.annealed]
