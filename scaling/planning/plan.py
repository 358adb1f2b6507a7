"""Plan of a budget: the member that a law prefers, its recipe and memory, the frontier, and the alternatives."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from families import Member, accounting
from families.units import BadInput, format_size

from ..budget import Budget, MfuSource, parse_budget
from ..hardware import accelerator
from ..laws import LossModel
from ..published_laws import PUBLISHED
from ..recipe import DEFAULT_RULE
from ..runs import Run
from ..stats import format_loss
from .band import band, preferences
from .candidates import Candidates
from .evaluate import EvaluatedCandidates, Objective, evaluate_candidates, pareto, to_choice
from .law import advise, planned_loss
from .memory import fit_memory
from .notes import batch_note, bend_note, notes, range_note, unspent_budget_notes
from .planfile import Choice, LadderRung, OtherChoice, PlanFile, PlannedMember
from .sensitivity import mfu_cases
from .throughput import estimated_mfu

WIDEST_FRONTIER = 64  # choices shown; a grid's frontier has hundreds

FEWEST_STEPS = 20  # of a run on several devices, as the recipe's largest batch leaves

ROUNDS = 8  # of choosing and estimating until both agree


def budget_for(
    ask: Objective,
    law: LossModel,
    shapes: Candidates,
    *,
    text: str,
    on: str | None,
    mfu: float | None = None,
    mfu_source: MfuSource = "assumed",
    price: float | None = None,
) -> Budget:
    """The least training FLOPs with which a target is reached, as a budget.

    Args:
        ask: an objective with a target.
        law: published or fitted.
        shapes: the candidates.
        text: the budget's name.
        on: devices, like "8xA100", for hours and price.
        mfu: share of their peak, 0 to 1 (default: the assumed one).
        mfu_source: origin of `mfu`.
        price: USD per device-hour, in place of the catalogue's.

    Raises:
        BadInput: the target is out of reach.
    """
    evaluated = evaluate_candidates(ask, law, shapes)
    flops = float(evaluated.flops[evaluated.best()])
    budget = parse_budget(repr(flops), mfu=mfu, mfu_source=mfu_source, on=on, price=price)
    return budget.model_copy(update={"text": text})


def estimate_budget(
    text: str,
    law: LossModel,
    shapes: Candidates,
    ask: Objective,
    *,
    on: str | None,
    price: float | None = None,
    one_device: bool = False,
) -> Budget:
    """A budget whose MFU is estimated for the very member that it buys: choose, estimate, choose again.

    Args:
        text: the budget as typed.
        law: published or fitted.
        shapes: the candidates.
        ask: the objective; its FLOPs are those of the budget.
        on: devices, where the budget names none.
        price: USD per device-hour, in place of the catalogue's.
        one_device: estimate what one device reaches alone, where measured times say what several lose.

    Raises:
        BadInput: the budget names no accelerator.
    """
    budget = parse_budget(text, on=on, mfu_source="estimated", price=price)
    if budget.accelerator is None:
        raise BadInput(f"budget is {text}; an MFU is estimated for a device, and --on 8xA100 names one")
    device = accelerator(budget.accelerator)
    for _ in range(ROUNDS):
        evaluated = evaluate_candidates(replace(ask, flops=budget.flops), law, shapes)
        best = evaluated.best()
        member = evaluated.shapes.member(best)
        advice = advise(law, member.spec, float(evaluated.tokens[best]))
        fit = fit_memory(member.spec, device, budget.devices or 1, advice.batch_sequences, name=member.name)
        estimate = estimated_mfu(
            member.spec,
            device,
            micro_batch=fit.micro_batch,
            batch_sequences=fit.batch_sequences,
            devices=1 if one_device else budget.devices or 1,
            layout=fit.layout,
        )
        again = parse_budget(text, mfu=estimate.mfu, on=on, mfu_source="estimated", price=price)
        again = again.model_copy(update={"mfu_interval": (estimate.low, estimate.high)})
        if abs(again.flops / budget.flops - 1) < 1e-6:
            break
        budget = again
    return again


def make_plan(
    budgets: Budget | Iterable[Budget],
    law: LossModel,
    shapes: Candidates,
    *,
    ask: Objective | None = None,
    nats: float | None = None,
    share: float | None = None,
    rule: str = DEFAULT_RULE,
    inputs: dict[str, str] | None = None,
    sizes: Sequence[Candidates] = (),
    force: bool = False,
) -> PlanFile:
    """The plan, not yet sealed: choice, frontier, members with recipes, and the choices of other laws.

    Of several budgets each gives a rung, and the frontier is of all of them together; the plan's own choice, band and
    others are of the largest. Of several sizes each is a member: at the one budget or target, or each at its own of as many
    budgets.

    Args:
        budgets: one or several.
        law: published or fitted.
        shapes: the candidates.
        ask: target, serving and data limit; its FLOPs are those of each budget.
        nats: width of the indifference band in nats per token (default 0.01).
        share: the same as a share of the best's cost.
        rule: of the recipe.
        inputs: file name to SHA-256 of the files behind the law.
        sizes: the shapes asked for, one in each, all of them among `shapes`.
        force: predict even more than 1,000 times outside the law's domain.

    Raises:
        BadInput: no budget, nothing affordable, sizes and budgets in different numbers, or a choice too far outside the
            law's domain without `force`.
    """
    given = [budgets] if isinstance(budgets, Budget) else list(budgets)
    if not given:
        raise BadInput("there are 0 budgets; at least 1 is needed")
    if sizes and len(given) not in (1, len(sizes)):
        raise BadInput(
            f"there are {len(sizes)} sizes and {len(given)} budgets; give one budget for all sizes, or one for each"
        )
    paired = zip(given, sizes if len(given) == len(sizes) else [shapes] * len(given), strict=True)
    steps = sorted(paired, key=lambda pair: pair[0].flops)
    ordered = [budget for budget, _ in steps]
    ask = ask or Objective()
    rungs, members, batches, evaluations, preferred = [], [], [], [], []
    asked: list[Choice] = []
    for budget, offered in steps:
        goal = replace(ask, flops=None if ask.target is not None else budget.flops)
        evaluated = evaluate_candidates(goal, law, offered)
        best, names = evaluated.best(), preferences(evaluated, law)
        choice = to_choice(evaluated, best, law, budget, names.get(best, ()), force=force)
        rungs.append(LadderRung(budget=budget, choice=choice))
        chosen = [choice]
        if len(sizes) > len(given):
            chosen = [_sized(evaluated, index, law, budget, names, force) for index in range(len(offered))]
            asked.extend(chosen)
        for one in chosen:
            index = best if one is choice else chosen.index(one)
            member = planned_member(evaluated, index, law, budget, rule=rule, force=force)
            members.append(member)
            batches.append(batch_note(member, budget, advise(law, member.spec, float(one.tokens), rule=rule)))
        evaluations.append(evaluated)
        preferred.append(names)
    optimal = pareto(*evaluations)
    shown = sorted({*optimal[:: -(-len(optimal) // WIDEST_FRONTIER)], optimal[-1]}, key=optimal.index)
    frontier = tuple(
        to_choice(evaluations[which], index, law, ordered[which], preferred[which].get(index, ()), force=True)
        for which, index in shown
    )
    others = other_choices(goal, budget, law, offered, evaluated.total_flops(budget))
    has_band = law.frontier is None or nats is not None or share is not None
    return PlanFile(
        budget=budget,
        law=law.reference,
        recommended=choice,
        frontier=frontier,
        ladder=tuple(rungs) if len(rungs) > 1 else (),
        sizes=tuple(asked),
        sensitivity=mfu_cases(goal, budget, law, offered),
        includes_serving=goal.inference_tokens > 0 and (goal.includes_serving or goal.target is not None),
        band=band(evaluated, law, budget, nats=nats, share=share) if has_band else None,
        others=others,
        members=uniquely_named(members),
        notes=(
            *notes(goal, budget, law, choice),
            *filter(None, [bend_note(law, choice.loss, choice.interval_80, force=force)]),
            *filter(None, [range_note(choice, others, law), *batches]),
            *unspent_budget_notes(evaluated, budget, law, choice),
        ),
        inputs=inputs or {},
    )


def _sized(
    evaluated: EvaluatedCandidates, index: int, law: LossModel, budget: Budget, names: dict[int, tuple[str, ...]],
    force: bool,
) -> Choice:  # fmt: skip
    """One of the sizes asked for, at the budget or target of all.

    Raises:
        BadInput: the budget or the target leaves it no tokens.
    """
    if not evaluated.feasible[index]:
        name = evaluated.shapes.member(index).name
        goal = evaluated.ask.target
        what = (
            f"budget {budget.text} leaves it no tokens"
            if goal is None
            else f"it never reaches {format_loss(goal)}"
        )
        raise BadInput(f"size {name}: {what}; leave it out of --params")
    return to_choice(evaluated, index, law, budget, names.get(index, ()), force=force)


def planned_member(
    evaluated: EvaluatedCandidates,
    index: int,
    law: LossModel,
    budget: Budget,
    *,
    rule: str = DEFAULT_RULE,
    force: bool = False,
) -> PlannedMember:
    """A member to train: the recipe's whole steps, the loss predicted after exactly those, and the memory it takes.

    Args:
        evaluated: the candidates under the law.
        index: of the member among them.
        law: published or fitted.
        budget: whose devices train it.
        rule: of the recipe.
        force: predict even more than 1,000 times outside the law's domain.

    Raises:
        BadInput: it does not fit into the budget's devices even sharded over all of them.
    """
    member = evaluated.shapes.member(index)
    length = float(evaluated.tokens[index])
    advice = advise(law, member.spec, length, rule=rule)
    device = None if budget.accelerator is None else accelerator(budget.accelerator)
    fit = fit_memory(member.spec, device, budget.devices or 1, advice.batch_sequences, name=member.name)
    if fit.batch_sequences != advice.batch_sequences:
        advice = advise(law, member.spec, length, rule=rule, batch_sequences=fit.batch_sequences)
    if budget.devices is not None and budget.devices > 1 and advice.steps < FEWEST_STEPS:
        most = int(length / (FEWEST_STEPS * member.spec.n_positions))
        raise BadInput(
            f"budget is {budget.text}: {member.name} on {format_size(length)} tokens has only {advice.steps} steps of "
            f"{advice.batch_sequences} sequences, one at least to a device; take at most {max(1, most)} devices, or a "
            "shorter --context"
        )
    available = evaluated.ask.tokens_available
    expected, _ = planned_loss(law, member.spec, advice.tokens, unique_tokens=available, force=force)
    return PlannedMember.of(
        member.name,
        member.spec,
        tokens=advice.tokens,
        recipe=advice,
        prediction=expected,
        hours=budget.hours(accounting.train_flops(member.spec, advice.tokens)),
        micro_batch=fit.micro_batch,
        checkpointing=fit.checkpointing,
        shards=fit.shards,
        degrees=(fit.tensor, fit.pipeline, fit.expert, fit.context),
        memory=fit.memory,
    )


def uniquely_named(members: Sequence[PlannedMember]) -> tuple[PlannedMember, ...]:
    """The members, those that share a name told apart by their tokens, as a run needs a name of its own."""
    names = [member.member for member in members]
    found: list[str] = []
    for name, member in zip(names, members, strict=True):
        own = name if names.count(name) == 1 else f"{name}-{format_size(member.tokens).lower()}"
        same = sum(other == own or other.startswith(f"{own}-run") for other in found)
        found.append(own if not same else f"{own}-run{same + 1}")
    return tuple(
        member.model_copy(update={"member": name}) for name, member in zip(found, members, strict=True)
    )


def named_apart(members: Sequence[PlannedMember], runs: Sequence[Run]) -> tuple[PlannedMember, ...]:
    """The members; one whose name runs on other tokens have already is named by its tokens too.

    Args:
        members: the planned members.
        runs: the study's, each named after its member and seed.
    """
    taken = {(run.run.rpartition("-s")[0], run.tokens) for run in runs}
    return tuple(
        member.model_copy(update={"member": f"{member.member}-{format_size(member.tokens).lower()}"})
        if any(name == member.member and tokens != member.tokens for name, tokens in taken)
        else member
        for member in members
    )


def compute_optimal(flops: float, law: LossModel, shapes: Candidates) -> Member:
    """The member that a law prefers for so much compute.

    Raises:
        BadInput: nothing is affordable.
    """
    return shapes.member(evaluate_candidates(Objective(flops=flops), law, shapes).best())


def other_choices(
    ask: Objective, budget: Budget, law: LossModel, shapes: Candidates, total_flops: float | None = None
) -> tuple[OtherChoice, ...]:
    """The choice of each current published law other than this one, from the same candidates.

    Args:
        ask: the objective.
        budget: that hours and price are of.
        law: the plan's own, left out.
        shapes: the candidates.
        total_flops: FLOPs that shares refer to (default: the budget, or the least that reaches a target).
    """
    choices = []
    for other in PUBLISHED.values():
        if other.name == law.name or other.superseded_by:
            continue
        try:
            evaluated = evaluate_candidates(ask, other, shapes)
            choice = to_choice(evaluated, evaluated.best(), other, budget, total_flops=total_flops)
        except BadInput:
            continue  # that law has no answer to this objective, or none within its domain
        choices.append(OtherChoice(law=other.name, source=other.source, choice=choice))
    return tuple(choices)
