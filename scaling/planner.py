"""A budget becomes real models: every candidate at its exact FLOPs, and the one a law prefers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from families import FAMILIES, Member, ModelSpec, accounting, family
from families.design import DesignRule, name_of
from families.errors import BadInput
from families.units import format_size

from .budget import Budget
from .files import canonical_json, sha256_bytes, sha256_file
from .laws import KaplanFrontier, Law
from .planfile import Choice, Interval, LawReference, OtherChoice, PlanFile, PlannedLoss, PlannedMember
from .published import PUBLISHED, PublishedLaw, published
from .recipe import DEFAULT_RULE, recipe
from .runs import Convention

if TYPE_CHECKING:
    from .predictor import Predictor

TOLERANCE = 0.05  # a member within 5 % of the budget counts as affordable, and the plan says so
SHORTEST = 20  # sequences; fewer tokens than this train nothing
WIDEST = 16384  # of designed candidates; GPT-3 has 12288
_GPT2_FAMILIES = ("gpt2-kaplan", "gpt2")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLaw:
    """What the planner needs of a law, published or fitted: losses, what N counts, where it may be trusted.

    One of three: `law` (published constants), `frontier` besides it (Kaplan's, a law of one dial), or
    `predictor` (fitted).
    force: go on where the predictor refuses, past 1,000 times the fitted compute.
    """

    name: str
    convention: Convention
    sha256: str
    source: str
    domain_N: tuple[float, float]
    domain_D: tuple[float, float]
    law: Law
    frontier: KaplanFrontier | None = None
    predictor: "Predictor | None" = None
    warning: str = ""
    force: bool = False

    @classmethod
    def published(cls, found: PublishedLaw) -> "PlanLaw":
        """From constants in a paper."""
        constants = {name: getattr(found.law, name) for name in ("E", "A", "B", "alpha", "beta", "gamma")}
        warning = f"{found.name} is superseded by {found.superseded_by}" if found.superseded_by else ""
        return cls(
            name=found.name,
            law=found.law,
            convention=found.convention,
            sha256=sha256_bytes(canonical_json(constants)),
            source=found.source,
            domain_N=found.domain_N,
            domain_D=found.domain_D,
            frontier=found.frontier,
            warning=warning,
        )

    def count(self, spec: ModelSpec) -> float:
        """N as this law counts it."""
        if self.frontier is not None:
            return accounting.params_kaplan(spec)
        return (
            accounting.params(spec) if self.convention == "total" else accounting.params_non_embedding(spec)
        )

    def losses(self, N: ArrayLike, D: ArrayLike) -> Any:
        """Nats per token, elementwise; not along Kaplan's frontier but at any N and D."""
        if self.predictor is not None:
            return self.predictor.predict(N, D, force=True).loss
        return self.law.loss(N, D)

    def expect(self, spec: ModelSpec, tokens: float) -> PlannedLoss:
        """The loss of that model after that many tokens, with intervals where the law has them.

        Raises:
            BadInput: further beyond the fitted runs than a law reaches, without `force`.
        """
        N = self.count(spec)
        if self.frontier is not None:
            return PlannedLoss.of(self.frontier.loss(N))
        if self.predictor is not None:
            found = self.predictor.predict(N, tokens, convention=self.convention, force=self.force)
            return PlannedLoss.of(
                float(found.loss), _interval(found.interval_80), _interval(found.interval_95)
            )
        return PlannedLoss.of(float(self.law.loss(N, tokens)))

    def extrapolation(self, N: float, D: float) -> float:
        """How many times N, D or compute lie beyond the domain, whichever is furthest; 1 within."""
        if self.predictor is not None:
            reach = self.predictor.extrapolation(N, D)
            return max(1.0, reach.compute_factor, reach.N_factor, reach.D_factor)
        (least_N, most_N), (least_D, most_D) = self.domain_N, self.domain_D
        return max(1.0, N / most_N, least_N / N, D / most_D, least_D / D)

    @property
    def reference(self) -> LawReference:
        """For the plan file."""
        return LawReference(
            name=self.name, sha256=self.sha256, convention=self.convention, source=self.source
        )


def _interval(pair: tuple[Any, Any] | None) -> Interval | None:
    return None if pair is None else (float(pair[0]), float(pair[1]))


def find_law(name: str | None, study: Path | None, *, force: bool = False) -> PlanLaw:
    """The law of that name or file; without a name the study's own where it has one, else chinchilla.

    Raises:
        BadInput: no such law or file, or a fit that is not to be used.
    """
    if name is None:
        own = study / "law.json" if study is not None else None
        found = (
            read_law(own) if own is not None and own.exists() else PlanLaw.published(published("chinchilla"))
        )
    elif name.endswith(".json") or "/" in name:
        found = read_law(Path(name))
    else:
        found = PlanLaw.published(published(name))
    return replace(found, force=force)


def read_law(path: Path) -> PlanLaw:
    """A fitted law from its file.

    Raises:
        BadInput: not a law file, or its fit did not converge.
    """
    from .lawfile import LawFile

    file = LawFile.read(path)
    if file.status == "not_converged":
        raise BadInput(f"{path} holds a fit that did not converge; fit again before planning with it")
    return PlanLaw(
        name=path.name,
        convention=file.convention,
        sha256=sha256_file(path),
        source=f"fitted on {file.rows} observations of {file.runs} runs",
        domain_N=file.domain.N,
        domain_D=file.domain.D,
        law=file.law,
        predictor=file.predictor(),
        warning="" if file.status == "ok" else f"{path.name} is {file.status}: {file.detail}".rstrip(": "),
    )


def candidates(name: str = "all", rule: DesignRule | None = None) -> tuple[Member, ...]:
    """Members to choose from, smallest first: a published family, or all of GPT-2 and the design rule's
    shapes.

    Raises:
        BadInput: no such family.
    """
    if name != "all":
        return tuple(sorted(family(name).members, key=lambda member: accounting.params(member.spec)))
    rule = rule or DesignRule()
    found: dict[ModelSpec, Member] = {}
    if rule == DesignRule():
        for published_family in _GPT2_FAMILIES:
            for member in FAMILIES[published_family].members:
                found.setdefault(member.spec, member)
    for width in range(rule.head_size, WIDEST + 1, rule.head_size):
        spec = rule.at_width(width)
        found.setdefault(
            spec, Member(name=name_of(spec), spec=spec, source=f"design rule, ratio {rule.ratio:g}")
        )
    return tuple(sorted(found.values(), key=lambda member: accounting.params(member.spec)))


def family_names() -> tuple[str, ...]:
    """What `candidates` takes."""
    return ("all", *FAMILIES)


def cost(member: Member, tokens: float, law: PlanLaw, budget: Budget) -> Choice:
    """One member at that many tokens: exact FLOPs, expected loss, hours and price."""
    spec = member.spec
    N = law.count(spec)
    flops = accounting.train_flops(spec, tokens)
    expected = law.expect(spec, tokens)
    size = accounting.params(spec)
    return Choice(
        member=member.name,
        architecture=spec.architecture,
        n_layer=spec.n_layer,
        n_head=spec.n_head,
        n_embd=spec.n_embd,
        n_positions=spec.n_positions,
        vocab_size=spec.vocab_size,
        params=size,
        params_non_embedding=accounting.params_non_embedding(spec),
        N=N,
        tokens=round(tokens),
        tokens_per_param=tokens / size,
        flops=flops,
        share=flops / budget.flops,
        loss=expected.loss,
        ppl=expected.ppl,
        interval_80=expected.interval_80,
        interval_95=expected.interval_95,
        hours=budget.hours(flops),
        price=budget.price(flops),
        inference_flops_per_token=accounting.train_flops_per_token(spec) / 3,
        extrapolation=law.extrapolation(N, tokens),
    )


def choose(budget: Budget, law: PlanLaw, members: Sequence[Member]) -> tuple[Choice, tuple[Choice, ...]]:
    """The recommended choice, and the Pareto-optimal ones over (training cost, loss, inference cost),
    smallest first.

    Under Kaplan's frontier each member has its own tokens and cost, and the largest affordable one wins.
    Under a law of N and D each member takes the whole budget, and the least loss wins.

    Raises:
        BadInput: nothing is affordable; it says what the cheapest costs.
    """
    if not members:
        raise BadInput("there are 0 candidates; at least 1 is needed")
    if law.frontier is not None:
        return _along_frontier(budget, law, law.frontier, members)
    sizes = [(member, budget.flops / accounting.train_flops_per_token(member.spec)) for member in members]
    able = [(member, tokens) for member, tokens in sizes if tokens >= SHORTEST * member.spec.n_positions]
    if not able:
        cheapest = min(members, key=_least_flops)
        raise _nothing(budget, cheapest.name, _least_flops(cheapest))
    losses = law.losses(
        [law.count(member.spec) for member, _ in able], [tokens for _, tokens in able]
    ).tolist()
    best = min(range(len(able)), key=losses.__getitem__)
    # All cost the same to train, so the frontier trades loss against inference.
    serving = [accounting.train_flops_per_token(member.spec) for member, _ in able]
    by_inference = sorted(range(len(able)), key=lambda index: (serving[index], losses[index]))
    lowest, kept = math.inf, []
    for index in by_inference:
        if losses[index] < lowest:
            lowest = losses[index]
            kept.append(index)
    return cost(*able[best], law, budget), tuple(cost(*able[i], law, budget) for i in kept)


def _along_frontier(
    budget: Budget, law: PlanLaw, frontier: KaplanFrontier, members: Sequence[Member]
) -> tuple[Choice, tuple[Choice, ...]]:
    tokens = {member.name: frontier.tokens(law.count(member.spec)) for member in members}
    flops = {member.name: accounting.train_flops(member.spec, tokens[member.name]) for member in members}
    able = [member for member in members if flops[member.name] <= budget.flops * (1 + TOLERANCE)]
    if not able:
        cheapest = min(members, key=lambda member: flops[member.name])
        raise _nothing(budget, cheapest.name, flops[cheapest.name])
    choices = [cost(member, tokens[member.name], law, budget) for member in able]
    ordered = sorted(choices, key=lambda choice: (choice.flops, choice.loss))
    kept: list[Choice] = []
    for choice in ordered:
        if not kept or choice.loss < kept[-1].loss:
            kept.append(choice)
    return max(choices, key=lambda choice: choice.N), tuple(kept)


def _least_flops(member: Member) -> float:
    return accounting.train_flops(member.spec, SHORTEST * member.spec.n_positions)


def _nothing(budget: Budget, name: str, flops: float) -> BadInput:
    return BadInput(
        f"budget is {budget.text} ({format_size(budget.flops)} FLOPs) and nothing is affordable: "
        f"the cheapest is {name} at {format_size(flops)} FLOPs"
    )


def make_plan(
    budget: Budget,
    law: PlanLaw,
    members: Sequence[Member],
    *,
    rule: str = DEFAULT_RULE,
    inputs: dict[str, str] | None = None,
) -> PlanFile:
    """The whole plan, not yet sealed: the choice, the frontier, the recipe, and what other laws would
    choose.
    """
    recommended, frontier = choose(budget, law, members)
    chosen = next(member for member in members if member.name == recommended.member)
    return PlanFile(
        budget=budget,
        law=law.reference,
        recommended=recommended,
        frontier=frontier,
        others=other_choices(budget, law, members),
        members=(planned(chosen, recommended.tokens, law, budget, rule=rule),),
        notes=notes(budget, law, recommended),
        inputs=inputs or {},
    )


def planned(
    member: Member, tokens: float, law: PlanLaw, budget: Budget, *, rule: str = DEFAULT_RULE
) -> PlannedMember:
    """A member to train: the recipe's whole steps, and the loss expected after exactly those."""
    advice = recipe(member.spec, tokens, rule=rule)
    return PlannedMember.of(
        member.name,
        member.spec,
        tokens=advice.tokens,
        recipe=advice,
        prediction=law.expect(member.spec, advice.tokens),
        hours=budget.hours(accounting.train_flops(member.spec, advice.tokens)),
    )


def other_choices(budget: Budget, law: PlanLaw, members: Sequence[Member]) -> tuple[OtherChoice, ...]:
    """What each current published law other than this one would choose from the same members."""
    found = []
    for other in PUBLISHED.values():
        if other.name == law.name or other.superseded_by:
            continue
        try:
            choice, _ = choose(budget, PlanLaw.published(other), members)
        except BadInput:
            continue  # that law affords none of these members: it has no choice to show
        found.append(OtherChoice(law=other.name, source=other.source, choice=choice))
    return tuple(found)


def notes(budget: Budget, law: PlanLaw, choice: Choice) -> tuple[str, ...]:
    """What a reader must know besides the numbers."""
    said = []
    if law.warning:
        said.append(f"law {law.warning}")
    if choice.share is not None and choice.share > 1:
        said.append(
            f"{choice.member} costs {choice.share:.3f} of the budget; "
            f"within {TOLERANCE:.0%} counts as affordable"
        )
    if budget.mfu is not None:
        said.append(f"MFU {budget.mfu:.4g} is {budget.mfu_source}: hours and prices are as true as it is")
    if choice.interval_80 is None:
        why = "is published constants" if law.predictor is None else "was fitted on fewer than 4 runs"
        said.append(f"law {law.name} {why}: its predictions have no interval")
    said.append(
        "losses of different laws are of different texts: compare their sizes and tokens, not their losses"
    )
    if choice.extrapolation > 1:
        said.append(f"N or D lie {choice.extrapolation:.3g} times beyond what law {law.name} was fitted on")
    return tuple(said)
