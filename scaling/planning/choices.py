"""What a plan may leave to the law besides size and tokens: the number of experts, and the vocabulary."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from families import accounting
from families.rules import MIXTURES
from families.units import BadInput, format_size, listed, parse_count

from ..budget import Budget
from ..fitting.coordinates import Coordinate
from ..fitting.predictor import Fit
from ..hardware import accelerator
from ..laws import LossModel
from ..mixtures import MOST_EXPERTS, NAME, joint_law
from ..stats import format_loss
from .band import WITHIN_NATS
from .candidates import Candidates
from .evaluate import EvaluatedCandidates, Objective, evaluate_candidates
from .law import advise, idle_params
from .memory import fit_memory
from .vocabulary import SOURCE, ByApproach, interval_of, rounded, tried, vocabulary_parameters

AUTO = "auto"

ROUNDS = 8  # of choosing a vocabulary for the member that the last one gave

Shapes = Callable[[int, int], Candidates]  # of a number of experts and of a vocabulary; 0 for the rule's own

Budgets = Callable[[LossModel, Candidates], Sequence[Budget]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The candidates of the choices that were made, the law at them, and a note on each."""

    shapes: Candidates
    law: LossModel
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """The best member at one value of a choice; `problem` says why it cannot be had."""

    value: int
    shapes: Candidates
    law: LossModel
    evaluated: EvaluatedCandidates
    problem: str = ""

    @property
    def index(self) -> int:
        return self.evaluated.best()

    @property
    def merit(self) -> float:
        """What is to be least: the loss for a budget, the cost of a target."""
        found = self.evaluated
        return float((found.loss if found.ask.target is None else found.total)[self.index])

    @property
    def said(self) -> str:
        if self.evaluated.ask.target is not None:
            return f"{format_size(self.merit)} FLOPs"
        return format_loss(self.merit)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """A vocabulary tried: its best member, and the vocabulary that this member would have.

    Args:
        found: the best member.
        others: its active parameters besides the vocabulary's.
        flops: of its training.
        advice: vocabulary parameters by three approaches.
        again: the vocabulary that they make at its width.
    """

    found: _Tried
    others: int
    flops: float
    advice: ByApproach
    again: int


def choose(
    experts: str | None,
    vocabulary: str | None,
    *,
    law: LossModel,
    named: bool,
    shapes: Shapes,
    budgets: Budgets,
    ask: Objective,
    nats: float | None,
) -> Chosen:
    """Candidates with the experts and the vocabulary that are given, or those that the law prefers.

    Args:
        experts: a number, several with commas, or auto; None for the family's own.
        vocabulary: a number or auto; None for the rule's own.
        law: the plan's.
        named: the law was named, or is the study's own; else the published joint law answers for experts.
        shapes: candidates of a number of experts and of a vocabulary.
        budgets: the budgets under a law for candidates.
        ask: the objective; its FLOPs are those of the largest budget.
        nats: width of the indifference band, in nats per token.

    Raises:
        BadInput: a choice that the law or the family cannot make, or none that the devices hold.
    """
    own = 0 if vocabulary in (None, AUTO) else parse_count(vocabulary or "", "vocab")
    notes: tuple[str, ...] = ()
    number = 0
    if experts is not None:
        found, note = _experts(experts, own, law, named, shapes, budgets, ask, nats)
        number, notes = found.value, (note,)
        law = found.law
    if vocabulary == AUTO:
        best, note = _vocabulary(number, law, shapes, budgets, ask)
        return Chosen(shapes=best.shapes, law=best.law, notes=(*notes, note))
    offered = shapes(number, own)
    return Chosen(shapes=offered, law=at_shapes(law, offered), notes=notes)


def at_shapes(law: LossModel, shapes: Candidates) -> LossModel:
    """The law where its count of experts and its vocabulary are those that all candidates share."""
    if not isinstance(law, Fit):
        return law
    fixed: dict[str, float | str] = {}
    if "vocab_size" in _columns(law) and len(set(shapes.vocab_size.tolist())) == 1:
        fixed["vocab_size"] = float(shapes.vocab_size[0])
    if "n_experts" in _columns(law):
        counts = {accounting.experts(shapes.spec(int(at)))[0] for at in _of_each_config(shapes)}
        if len(counts) == 1:
            fixed["n_experts"] = float(counts.pop())
    return law.at(**fixed) if fixed else law


def _of_each_config(shapes: Candidates) -> Sequence[int]:
    """Index of the first candidate of each config."""
    return [int(at) for at in np.unique(shapes.kind, return_index=True)[1]]


def _columns(law: Fit) -> set[str]:
    """Columns of multipliers and terms that are the same at every scale."""
    return {part.column for part in _parts(law) if part.kind != "setting" and "trend" not in part.names}


def _parts(law: LossModel) -> tuple[Coordinate, ...]:
    return law.fitted_coordinates.parts if isinstance(law, Fit) and law.fitted_coordinates is not None else ()


def _try(value: int, law: LossModel, shapes: Candidates, budgets: Budgets, ask: Objective) -> _Tried:
    """The best member among candidates, and whether the budget's devices hold it."""
    law = at_shapes(law, shapes)
    budget = max(budgets(law, shapes), key=lambda one: one.flops)
    goal = replace(ask, flops=None if ask.target is not None else budget.flops)
    found = _Tried(value=value, shapes=shapes, law=law, evaluated=evaluate_candidates(goal, law, shapes))
    if budget.accelerator is None:
        return found
    spec, tokens = shapes.spec(found.index), float(found.evaluated.tokens[found.index])
    try:
        batch = advise(law, spec, tokens).batch_sequences
        fit_memory(spec, accelerator(budget.accelerator), budget.devices or 1, batch)
    except BadInput as error:
        return replace(found, problem=str(error))
    return found


def _experts(
    text: str,
    vocabulary: int,
    law: LossModel,
    named: bool,
    shapes: Shapes,
    budgets: Budgets,
    ask: Objective,
    nats: float | None,
) -> tuple[_Tried, str]:
    """The number of experts that is given, or the fewest within the band of the best, and a note on the others.

    Args:
        text: a number, several with commas, or auto.
        vocabulary: of the candidates; 0 for the rule's own.
        law: the plan's.
        named: the law was named.
        shapes: candidates of a number of experts and of a vocabulary.
        budgets: the budgets under a law for candidates.
        ask: the objective.
        nats: width of the indifference band, in nats per token.
    """
    first = shapes(0, vocabulary)
    routed, per_token = accounting.experts(first.spec(0))
    if routed == 1:
        raise BadInput(f"experts is {text}; --family names a family that has them: {', '.join(MIXTURES)}")
    part = next((one for one in _parts(law) if one.column == "n_experts"), None)
    joint = part is None and not isinstance(law, Fit) and (not named or law.name == NAME)
    if text.strip().lower() == AUTO:
        if part is not None:
            low, high = max(per_token, part.span[0]), part.span[1]
        else:
            low, high = per_token, per_token * MOST_EXPERTS
        numbers = [per_token * 2**power for power in range(20) if low <= per_token * 2**power <= high]
        if not numbers:
            raise BadInput(
                f"experts is auto; {law.name} knows {part.span[0] if part else 1:g} to {high:g}, and a token passes through "
                f"{per_token}"
            )
    else:
        numbers = [parse_count(one, "experts") for one in listed(text, "experts")]
    if len(numbers) > 1 and not joint and part is None:
        raise BadInput(
            f"experts is {text}; law {law.name} does not depend on them, so it prefers none: leave --law out for {NAME}, "
            "or fit your runs with --coordinates n_experts"
        )
    tries: list[_Tried] = []
    refused: list[str] = []
    for number in numbers:
        try:
            offered = shapes(number, vocabulary)
            routed, in_use = accounting.experts(offered.spec(0))
            at = joint_law(routed / in_use) if joint else law
            tries.append(_try(number, at, offered, budgets, ask))
        except BadInput as error:
            if len(numbers) == 1 or text.strip().lower() != AUTO:
                raise
            refused.append(str(error))
    held = [one for one in tries if not one.problem] or (tries if len(numbers) == 1 else [])
    if not held:
        raise BadInput(
            next((one.problem for one in tries if one.problem), refused[0] if refused else "no experts")
        )
    least = min(one.merit for one in held)
    within = (WITHIN_NATS if nats is None else nats) if ask.target is None else 0.0
    chosen = min((one for one in held if one.merit <= least + within), key=lambda one: one.value)
    return chosen, _experts_note(chosen, tries, len(numbers) > 1, within, joint, part)


def _experts_note(
    chosen: _Tried,
    tries: Sequence[_Tried],
    several: bool,
    within: float,
    joint: bool,
    part: Coordinate | None,
) -> str:
    """What was chosen, what the others would give, and what the law knows of experts."""
    spec = chosen.shapes.spec(chosen.index)
    routed, per_token = accounting.experts(spec)
    size, active = accounting.params(spec), accounting.params_active(spec)
    said = f"{routed} experts, {per_token} in use by a token: {format_size(size)} parameters, {format_size(active)} active"
    if several:
        each = ", ".join(f"{one.value} {one.said}" + (" (too large)" if one.problem else "") for one in tries)
        reason = f"the fewest within {within:g} nats of the best" if within else "the least"
        said += f"; {reason} of {each}"
    if joint:
        return (
            f"{said}. Law {NAME} has experts as wide as a dense layer, {MOST_EXPERTS} at most for each one in use, and states "
            "no interval"
        )
    if part is None:
        if isinstance(chosen.law, Fit):
            counted = "the active" if chosen.law.convention == "active" else "all"
            return f"{said}. Law {chosen.law.name} does not depend on experts: its N counts {counted} parameters of a mixture"
        return f"{said}. Law {chosen.law.name} is of dense models: it takes the active parameters and sees no experts"
    outside = "" if part.span[0] <= routed <= part.span[1] else ", outside those of the runs"
    counted = ""
    if idle_params(chosen.law, spec):
        counted = "; its N counts what a token passes through, since more experts of one N lower the loss of its runs"
    return (
        f"{said}. Law {chosen.law.name} knows {part.span[0]:g} to {part.span[1]:g} experts{outside}{counted}"
    )


def _vocabulary(
    number: int, law: LossModel, shapes: Shapes, budgets: Budgets, ask: Objective
) -> tuple[_Tried, str]:
    """The candidates with the best vocabulary, and a note on where it comes from.

    Args:
        number: experts of the candidates; 0 for the family's own.
        law: the plan's.
        shapes: candidates of a number of experts and of a vocabulary.
        budgets: the budgets under a law for candidates.
        ask: the objective.
    """
    term = next((one for one in _parts(law) if one.column == "vocab_size" and one.kind == "term"), None)
    if term is not None:
        return _by_term(term, number, law, shapes, budgets, ask)
    rounds: dict[int, _Round] = {}
    size = 0
    while size not in rounds and len(rounds) < ROUNDS:
        offered = shapes(number, size)
        found = _try(size, law, offered, budgets, ask)
        spec = offered.spec(found.index)
        idle = accounting.params(spec) - accounting.params_active(spec)  # the paper's models are dense
        others = accounting.params_non_embedding(spec) - idle
        flops = float(found.evaluated.flops[found.index])
        advice = vocabulary_parameters(float(others), flops)
        again = rounded(advice.loss / spec.n_embd)
        rounds[size] = _Round(found=found, others=others, flops=flops, advice=advice, again=again)
        size = again
    asked = {size: one for size, one in rounds.items() if size} or rounds
    size, best = min(asked.items(), key=lambda pair: abs(math.log(pair[1].again / (pair[0] or 1))))
    unsettled = ""
    if best.again != size:
        cycle = ", ".join(f"{other:,} for {one.again:,}" for other, one in asked.items())
        unsettled = f". None is best for the member that it gives (the member of {cycle}); this one is the nearest to its own"
    spec = best.found.shapes.spec(best.found.index)
    low, high = (rounded(value / spec.n_embd) for value in best.advice.span)
    return best.found, (
        f"vocabulary {size:,} for {format_size(best.others)} other parameters and {format_size(best.flops)} FLOPs by {SOURCE}, "
        f"approach 3; its three approaches give "
        f"{low:,} to {high:,}: a range of opinions, not an interval{unsettled}"
    )


def _by_term(
    term: Coordinate, number: int, law: LossModel, shapes: Shapes, budgets: Budgets, ask: Objective
) -> tuple[_Tried, str]:
    """The vocabulary with the least loss under a law's own term.

    Args:
        term: of vocab_size.
        number: experts of the candidates.
        law: that has it.
        shapes: candidates of a number of experts and of a vocabulary.
        budgets: the budgets under a law for candidates.
        ask: the objective.
    """
    tries = [_try(size, law, shapes(number, size), budgets, ask) for size in tried(term)]
    best = min(tries, key=lambda one: one.merit)
    assert isinstance(law, Fit)
    plain = {
        one.value: float(law.loss(one.evaluated.N[one.index], one.evaluated.tokens[one.index]))
        for one in tries
    }
    interval = interval_of(term, plain)
    said = "no interval: the law has no resamples"
    if interval is not None:
        low, high = min(interval[0], best.value), max(interval[1], best.value)
        said = f"80 %: {low:,.0f} to {high:,.0f}"
    edge = " at the edge of those of the runs: a bound, not an optimum" if best.value in term.span else ""
    return best, (
        f"vocabulary {best.value:,} ({said}){edge}, by the term of {law.name}; tokens are taken to cost the same whatever the "
        "vocabulary"
    )
