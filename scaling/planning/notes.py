"""Notes of a plan: the assumptions behind its numbers, and warnings about them, a sentence each."""

import math
import re
from collections.abc import Sequence

import numpy as np

from families.architectures import architecture
from families.units import BadInput, format_size

from ..budget import Budget
from ..fitting.card import ON_PRIOR
from ..fitting.predictor import Fit
from ..fitting.selection import bend_on_card
from ..laws import LossModel
from ..published_laws import PublishedLaw
from ..recipe import Recipe
from ..runs import Run
from ..stats import Interval, format_loss
from .evaluate import TOLERANCE, EvaluatedCandidates, Objective
from .law import no_intervals
from .planfile import Choice, OtherChoice, PlannedMember
from .published_mfu import generation, reached
from .seal import BENT, FORCED

FEW_EPOCHS = 4  # up to which repeated tokens are worth nearly as much as fresh ones (Muennighoff et al. 2023)

# Of the promised half width: residuals that bend by more leave too little of it for what is not known. Of 150 simulated clean
# ladders none bent at all (log e177).
BEND_SHARE = 0.3

SHOWN_SHARE = 5e-4  # beyond a budget, from where on a share does not print as 1.000

# NVIDIA/dgxc-benchmarking (Grok-1, Qwen3 235B) and NVIDIA-NeMo/Megatron-Bridge, docs/performance-summary.md (GPT-OSS 120B).
MIXTURES_REACH_LESS = (
    "published mixtures of experts reached an MFU of 0.15 to 0.43 on H100s; an estimate prices the sending of tokens to their "
    "experts, and not that products of single experts are small"
)


CLEARLY = 0.1  # beyond an interval of tokens: exact FLOPs differ from 6·N·D by as much


def batch_note(member: PlannedMember, budget: Budget, asked: Recipe) -> str:
    """What sharing a batch among the devices changed of the rule's own; empty where nothing.

    Args:
        member: the planned member.
        budget: whose devices share the batch.
        asked: the recipe for those tokens, without a sharing.
    """
    batch, devices = member.recipe.batch_sequences, budget.devices or 1
    if batch == asked.batch_sequences:
        return ""
    sharing = f"{devices} devices" if not member.model_parallel else f"{member.shards} replicas"
    share = batch // (member.shards if member.model_parallel else devices)
    return (
        f"{member.member}: batch of {batch:,} sequences = {sharing} × {share:,} "
        f"(rule {asked.rule}: {asked.batch_sequences:,}), in whole steps {format_size(member.tokens, 4)} tokens"
    )


def repeats_note(choice: Choice, runs: Sequence[Run], law: LossModel) -> str:
    """That a plan without `tokens_available` takes repeated tokens for fresh ones; empty where its text is not known to end.

    Args:
        choice: the plan's.
        runs: the study's; those that read their text more than once tell its length.
        law: the plan's.
    """
    ends = [run.unique_tokens for run in runs if run.unique_tokens and run.unique_tokens < run.tokens]
    if not isinstance(law, Fit) or not ends or choice.epochs is not None or choice.tokens <= max(ends):
        return ""
    text = format_size(max(ends))
    return (
        f"{format_size(choice.tokens)} tokens are {choice.tokens / max(ends):.3g} passes over the {text} of this study's text, "
        f"predicted as if they were fresh: --tokens-available {text} counts what repeating costs"
    )


def range_note(choice: Choice, others: Sequence[OtherChoice], law: LossModel) -> str:
    """The range of sizes and tokens over published laws, or the interval of a fitted law's own optimum; empty without either.

    Args:
        choice: the plan's.
        others: of the other published laws, for the same budget or target.
        law: the plan's.
    """
    if isinstance(law, Fit):
        return _optimum_note(choice, law)
    if choice.interval_80 is not None or not others:
        return ""
    every = [choice, *(other.choice for other in others)]
    sizes, tokens = ([getattr(one, name) for one in every] for name in ("params", "tokens"))
    names = ", ".join([law.name, *(other.law for other in others)])
    return (
        f"over published laws ({names}) {format_size(min(sizes))} to {format_size(max(sizes))} parameters, "
        f"{format_size(min(tokens))} to {format_size(max(tokens))} tokens: a range of opinions, not an interval"
    )


def _optimum_note(choice: Choice, law: Fit) -> str:
    """The law's N* and D* for what the choice spends in training, with their intervals; empty where it has none."""
    try:
        best = law.allocate(choice.flops, force=True)
    except BadInput:
        return ""
    if best.N_interval_80 is None or best.D_interval_80 is None:
        return ""
    (low, high), (least, most) = best.N_interval_80, best.D_interval_80
    outside = ""
    if choice.tokens < least * (1 - CLEARLY) or choice.tokens > most * (1 + CLEARLY):
        outside = (
            f"; the plan's {format_size(choice.tokens)} tokens lie outside: it takes the member with the least predicted loss "
            "at exact FLOPs, and predictions count the residuals of runs near a size, which the split leaves out"
        )
    return (
        f"{law.name} puts the best split of {format_size(choice.flops)} FLOPs at N* {format_size(best.N)} "
        f"(80 %: {format_size(low)} to {format_size(high)}), D* {format_size(best.D)} "
        f"({format_size(least)} to {format_size(most)}){outside}"
    )


def bend_note(law: LossModel, loss: float, interval_80: Interval | None, *, force: bool = False) -> str:
    """What a law's runs would need before its prediction is sealed; empty where their residuals allow the interval.

    Args:
        law: the plan's.
        loss: predicted, nats per token.
        interval_80: of it.
        force: seal it all the same.
    """
    bend = bend_on_card(law.card.get("warnings", "")) if isinstance(law, Fit) else None
    if bend is None or interval_80 is None:
        return ""
    half = (interval_80[1] - interval_80[0]) / 2 / loss
    if bend.size < BEND_SHARE * half:
        return ""
    return f"{BENT}: {bend.text}; it would promise ±{half:.1%}{FORCED if force else ''}"


def doubts(law: LossModel, N: float) -> tuple[str, ...]:
    """Warnings of a fitted law about a size beyond its rows: slopes that are the prior's, and sizes of a narrow range."""
    if not isinstance(law, Fit):
        return ()
    said = re.split(r"; (?=the |these runs )", law.card.get("warnings", ""))
    narrow = law.narrow_sizes(N)
    return (*(text for text in said if ON_PRIOR in text), *([narrow] if narrow else []))


def mfu_note(budget: Budget) -> str:
    """Where the MFU is from, how far off it may be, and what published runs on such devices reached.

    Args:
        budget: a budget with an accelerator.
    """
    detail = ""
    if budget.mfu_source == "assumed":
        detail = ", not measured"
    elif budget.mfu_interval is not None:
        detail = ", {:.2g} to {:.2g}".format(*budget.mfu_interval)
    note = f"MFU {budget.mfu:.4g} is {budget.mfu_source}{detail}; hours and price scale with 1/MFU"
    known = reached(budget.accelerator or "")
    if known is None or budget.mfu_source == "measured" or (budget.devices or 1) == 1:
        return note
    return f"{note}. {known.counted.capitalize()} on {generation(budget.accelerator or '')}s reached {known}"


def unspent_budget_notes(
    evaluated: EvaluatedCandidates, budget: Budget, law: LossModel, choice: Choice
) -> tuple[str, ...]:
    """The reason why a law that fixes each size's tokens leaves part of a budget; empty for other laws and full budgets.

    Args:
        evaluated: the candidates, with the objective.
        budget: the budget.
        law: published or fitted.
        choice: the member chosen within the budget.
    """
    share = choice.share or 0.0
    if law.frontier is None or evaluated.ask.target is not None or share >= 1 - TOLERANCE:
        return ()
    dearer = np.where(evaluated.total > (1 + TOLERANCE) * budget.flops, evaluated.total, np.inf)
    index = int(np.argmin(dearer))
    following = "there is no larger candidate"
    if np.isfinite(dearer[index]):
        following = f"the next larger, {evaluated.shapes.member(index).name}, takes {dearer[index] / budget.flops:.3g} budgets"
    return (
        f"{1 - share:.0%} of the budget is left: law {law.name} fixes each member's tokens (one pass at the critical "
        f"batch, stopped short of convergence), and {following}; --family grid has more sizes, --law chinchilla "
        "trains longer",
    )


def notes(ask: Objective, budget: Budget, law: LossModel, choice: Choice) -> tuple[str, ...]:
    """Assumptions behind the numbers of a choice, and warnings about them.

    Args:
        ask: the objective.
        budget: that hours and price are of.
        law: published or fitted.
        choice: the member chosen.
    """
    lines = list(law.warnings)
    fitted = isinstance(law, Fit)
    if choice.architecture == "bert" and not fitted:
        lines.append(f"law {law.name} is of decoders: a masked language model's loss is another quantity")
    if choice.share is not None and choice.share > 1 + SHOWN_SHARE:
        lines.append(
            f"{choice.member} costs {choice.share:.3f} of the budget; "
            f"within {TOLERANCE:.0%} counts as affordable"
        )
    if budget.mfu is not None:
        lines.append(mfu_note(budget))
        mixture = getattr(architecture(choice.architecture), "mixture", None) is not None
        if mixture and budget.mfu_source == "estimated" and (budget.devices or 1) > 1:
            lines.append(MIXTURES_REACH_LESS)
    if choice.inference_flops and budget.mfu is not None:
        lines.append(
            f"serving is costed at the same MFU {budget.mfu:.4g}, a forward pass per token; decoding a token at a time "
            "reaches less, often a tenth of it"
        )
    if choice.interval_80 is None:
        why = f"law {law.name} has no prediction intervals: fewer than 4 runs, or no resampling"
        lines.append(why if fitted else no_intervals(law.name))
    elif isinstance(law, PublishedLaw) and law.uncertainty is not None:
        lines.append(f"intervals are of one run on {law.text}: {law.uncertainty.source}")
    if choice.epochs is not None and choice.epochs > FEW_EPOCHS:
        lines.append(
            f"{choice.epochs:.3g} epochs over {format_size(ask.tokens_available or 0)} tokens: past about "
            f"{FEW_EPOCHS} repeated data is worth less and less (Muennighoff et al. 2023)"
        )
    if ask.tokens_available is not None and ask.tokens_available < law.domain.D[0]:
        lines.append(
            f"{format_size(ask.tokens_available)} tokens of text are {law.domain.D[0] / ask.tokens_available:.3g} "
            f"times fewer than any that law {law.name} was fitted on"
        )
    guessing = math.log(choice.vocab_size)
    if choice.loss > guessing:
        lines.append(
            f"a loss of {format_loss(choice.loss)} is worse than guessing among {choice.vocab_size:,} tokens "
            f"({format_loss(guessing)}): law {law.name} does not hold for so little training"
        )
    lines.append("losses of different laws are of different texts: compare sizes and tokens, not losses")
    if choice.extrapolation > 1 + 1e-9:
        lines.append(
            f"N, D or compute lie {choice.extrapolation:.3g} times beyond the fitted range of {law.name}"
        )
        lines += doubts(law, choice.N)
    return tuple(lines)
