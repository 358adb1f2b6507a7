"""A budget becomes a plan: the member a law prefers, its recipe and memory, the frontier, and what else one
could choose.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from families import Member, accounting
from families.units import BadInput, format_bytes, format_size

from ..budget import Budget, MfuSource, parse_budget
from ..hardware import accelerator
from ..laws import PUBLISHED
from ..recipe import DEFAULT_RULE, recipe
from .band import band, preferences
from .candidates import Candidates
from .evaluate import TOLERANCE, EvaluatedCandidates, Objective, evaluate_candidates, pareto, to_choice
from .law import LossModel
from .planfile import Choice, LadderRung, OtherChoice, PlanFile, PlannedMember
from .throughput import ERROR, estimated_mfu

WIDEST_FRONTIER = 64  # choices shown; a grid's frontier has hundreds

FEW_EPOCHS = 4  # up to which repeated tokens are worth nearly as much as fresh ones (Muennighoff et al. 2023)

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

    Raises:
        BadInput: the target is out of reach.
    """
    costed = evaluate_candidates(ask, law, shapes)
    flops = float(costed.flops[costed.best()])
    found = parse_budget(repr(flops), mfu=mfu, mfu_source=mfu_source, on=on, price=price)
    return found.model_copy(update={"text": text})


def estimate_budget(
    text: str,
    law: LossModel,
    shapes: Candidates,
    ask: Objective,
    *,
    on: str | None,
    price: float | None = None,
) -> Budget:
    """A budget whose MFU is estimated for the very member that it buys: choose, estimate, choose again.

    Raises:
        BadInput: the budget names no accelerator.
    """
    budget = parse_budget(text, on=on, mfu_source="estimated", price=price)
    if budget.accelerator is None:
        raise BadInput(f"budget is {text}; an MFU is estimated for a device, and --on 8xA100 names one")
    device = accelerator(budget.accelerator)
    for _ in range(ROUNDS):
        costed = evaluate_candidates(replace(ask, flops=budget.flops), law, shapes)
        best = costed.best()
        member = costed.shapes.member(best)
        advice = recipe(member.spec, float(costed.tokens[best]))
        fit = fit_memory(member, budget, advice.batch_sequences)
        estimate = estimated_mfu(
            member.spec, device, micro_batch=fit.micro_batch, batch_sequences=advice.batch_sequences
        )
        again = parse_budget(text, mfu=estimate.mfu, on=on, mfu_source="estimated", price=price)
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
) -> PlanFile:
    """The whole plan, not yet sealed: choice, frontier, members with recipes, and what other laws would
    choose.

    Of several budgets each gives a rung, and the frontier is of all of them together; the plan's own choice,
    band and others are of the largest.

    Args:
        nats, share: the width of the indifference band (default 0.01 nats).
    """
    spendings = sorted([budgets] if isinstance(budgets, Budget) else budgets, key=lambda budget: budget.flops)
    if not spendings:
        raise BadInput("there are 0 budgets; at least 1 is needed")
    rungs, members, answers, wants = [], [], [], []
    for budget in spendings:
        asked = replace(ask or Objective(), flops=None if ask and ask.target is not None else budget.flops)
        costed = evaluate_candidates(asked, law, shapes)
        best = costed.best()
        wanted = preferences(costed, law)
        choice = to_choice(costed, best, law, budget, wanted.get(best, ()))
        rungs.append(LadderRung(budget=budget, choice=choice))
        members.append(planned_member(costed, best, law, budget, rule=rule))
        answers.append(costed)
        wants.append(wanted)
    found = pareto(*answers)
    shown = sorted({*found[:: -(-len(found) // WIDEST_FRONTIER)], found[-1]}, key=found.index)
    anyhow = replace(law, force=True)
    frontier = tuple(
        to_choice(answers[which], index, anyhow, spendings[which], wants[which].get(index, ()))
        for which, index in shown
    )
    wants_band = law.frontier is None or nats is not None or share is not None
    return PlanFile(
        budget=budget,
        law=law.reference,
        recommended=choice,
        frontier=frontier,
        ladder=tuple(rungs) if len(rungs) > 1 else (),
        band=band(costed, anyhow, budget, nats=nats, share=share) if wants_band else None,
        others=other_choices(asked, budget, law, shapes, costed.whole(budget)),
        members=tuple(members),
        notes=(*notes(asked, budget, law, choice), *unspent_budget_notes(costed, budget, law, choice)),
        inputs=inputs or {},
    )


def planned_member(
    costed: EvaluatedCandidates, index: int, law: LossModel, budget: Budget, *, rule: str = DEFAULT_RULE
) -> PlannedMember:
    """A member to train: the recipe's whole steps, the loss expected after exactly those, and the memory it
    takes.

    Raises:
        BadInput: it does not fit into the budget's devices even sharded over all of them.
    """
    member = costed.shapes.member(index)
    advice = recipe(member.spec, float(costed.tokens[index]), rule=rule)
    fit = fit_memory(member, budget, advice.batch_sequences)
    return PlannedMember.of(
        member.name,
        member.spec,
        tokens=advice.tokens,
        recipe=advice,
        prediction=law.expect(
            float(law.count(member.spec)), float(advice.tokens), unique=costed.ask.tokens_available
        ),
        hours=budget.hours(accounting.train_flops(member.spec, advice.tokens)),
        micro_batch=fit.micro_batch,
        checkpointing=fit.checkpointing,
        shards=fit.shards,
        memory=fit.memory,
    )


def compute_optimal(flops: float, law: LossModel, shapes: Candidates) -> Member:
    """The member that a law prefers for so much compute.

    Raises:
        BadInput: nothing is affordable.
    """
    costed = evaluate_candidates(Objective(flops=flops), law, shapes)
    return shapes.member(costed.best())


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFit:
    """How a member is trained within a device's memory: bytes by part on each device.

    micro_batch: sequences in one forward pass on one device; shards: devices that share the states.
    """

    micro_batch: int
    checkpointing: bool
    shards: int
    memory: dict[str, int]


def fit_memory(member: Member, budget: Budget, batch_sequences: int) -> MemoryFit:
    """The largest micro-batch that fits one device, with activation checkpointing where it must be, and where the
    states alone are too much for one, with them sharded over all; micro-batch 1 where no device is named.

    Raises:
        BadInput: not even one sequence fits; it says how much is needed and there is.
    """
    bf16 = _in_bf16(budget)
    devices = budget.devices or 1
    if budget.accelerator is None:
        memory = accounting.training_memory(member.spec, 1, bf16=bf16)
        return MemoryFit(micro_batch=1, checkpointing=False, shards=1, memory=memory)
    device = accelerator(budget.accelerator)
    usable = 0.92 * device.memory  # the rest is the context's, the libraries' and the allocator's
    most = max(1, batch_sequences // devices)
    for shards, checkpointing in ((1, False), (1, True), (devices, False), (devices, True)):
        how: dict[str, Any] = {"checkpointing": checkpointing, "bf16": bf16, "shards": shards}
        fits = accounting.largest_micro_batch(member.spec, usable, most=most, **how)
        if fits:
            memory = accounting.training_memory(member.spec, fits, **how)
            return MemoryFit(micro_batch=fits, checkpointing=checkpointing, shards=shards, memory=memory)

    def needed_on(count: int) -> int:
        return sum(accounting.training_memory(member.spec, 1, **{**how, "shards": count}).values())

    needed = needed_on(devices)
    sharing = "" if devices == 1 else f", states sharded over {devices}"
    enough = next((n for n in (2**k for k in range(1, 17)) if n > devices and needed_on(n) <= usable), None)
    which = "" if enough is None else f", such as --on {enough}x{device.name}"
    raise BadInput(
        f"{member.name} needs {format_bytes(needed)} of a device's memory, one sequence at a time{sharing}; "
        f"{device.name} has {format_bytes(device.memory)}: take more or larger devices{which}"
    )


def _in_bf16(budget: Budget) -> bool:
    """Whether the device trains in 16 bits."""
    return budget.accelerator is not None and accelerator(budget.accelerator).training_format != "fp32"


def other_choices(
    ask: Objective, budget: Budget, law: LossModel, shapes: Candidates, whole: float | None = None
) -> tuple[OtherChoice, ...]:
    """What each current published law other than this one would choose from the same candidates."""
    found = []
    for other in PUBLISHED.values():
        if other.name == law.name or other.superseded_by:
            continue
        theirs = LossModel.published(other)
        try:
            costed = evaluate_candidates(ask, theirs, shapes)
            choice = to_choice(costed, costed.best(), theirs, budget, whole=whole)
        except BadInput:
            continue  # that law has no answer to this ask, or none within its reach: nothing to show beside ours
        found.append(OtherChoice(law=other.name, source=other.source, choice=choice))
    return tuple(found)


def unspent_budget_notes(
    costed: EvaluatedCandidates, budget: Budget, law: LossModel, choice: Choice
) -> tuple[str, ...]:
    """Why a frontier of one dial leaves much of a budget."""
    share = choice.share or 0.0
    if law.frontier is None or costed.ask.target is not None or share >= 1 - TOLERANCE:
        return ()
    dearer = np.where(costed.total > (1 + TOLERANCE) * budget.flops, costed.total, np.inf)
    index = int(np.argmin(dearer))
    following = "there is no larger candidate"
    if np.isfinite(dearer[index]):
        following = f"the next larger, {costed.shapes.member(index).name}, takes {dearer[index] / budget.flops:.3g} budgets"
    return (
        f"{1 - share:.0%} of the budget is left: law {law.name} fixes each member's tokens (one pass at the critical "
        f"batch, stopped short of convergence), and {following}; --family grid has more sizes, --law chinchilla "
        "trains longer",
    )


def notes(ask: Objective, budget: Budget, law: LossModel, choice: Choice) -> tuple[str, ...]:
    """What a reader must know besides the numbers."""
    said = []
    if law.warning:
        said.append(f"law {law.warning}")
    if choice.architecture == "bert" and law.predictor is None:
        said.append(f"law {law.name} is of decoders: a masked language model's loss is another quantity")
    if choice.share is not None and choice.share > 1 + 1e-9:
        said.append(
            f"{choice.member} costs {choice.share:.3f} of the budget; "
            f"within {TOLERANCE:.0%} counts as affordable"
        )
    if budget.mfu is not None:
        band = ""
        if budget.mfu_source == "estimated":
            band = f", {budget.mfu / ERROR:.2g} to {min(1.0, budget.mfu * ERROR):.2g}"
        said.append(
            f"MFU {budget.mfu:.4g} is {budget.mfu_source}{band}: hours and prices are as true as it is"
        )
    if choice.interval_80 is None:
        why = "is published constants" if law.predictor is None else "was fitted on fewer than 4 runs"
        said.append(f"law {law.name} {why}: its predictions have no interval")
    if choice.epochs is not None and choice.epochs > FEW_EPOCHS:
        said.append(
            f"{choice.epochs:.3g} epochs over {format_size(ask.tokens_available or 0)} tokens: past about "
            f"{FEW_EPOCHS} repeated data is worth less and less (Muennighoff et al. 2023)"
        )
    if ask.tokens_available is not None and ask.tokens_available < law.domain.D[0]:
        said.append(
            f"{format_size(ask.tokens_available)} tokens of text are {law.domain.D[0] / ask.tokens_available:.3g} "
            f"times fewer than any that law {law.name} was fitted on"
        )
    guessing = math.log(choice.vocab_size)
    if choice.loss > guessing:
        said.append(
            f"a loss of {choice.loss:.4g} is worse than guessing among {choice.vocab_size:,} tokens "
            f"({guessing:.4g}): law {law.name} says nothing of so little training"
        )
    said.append("losses of different laws are of different texts: compare sizes and tokens, not losses")
    if choice.extrapolation > 1 + 1e-9:
        said.append(
            f"N, D or compute lie {choice.extrapolation:.3g} times beyond what law {law.name} was fitted on"
        )
    return tuple(said)
