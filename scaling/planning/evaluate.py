"""Every candidate at its exact FLOPs: the tokens an objective leaves it, the loss a law predicts, and its cost."""

import bisect
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from families import accounting
from families.units import BadInput, format_size

from ..budget import Budget
from ..laws import LossModel
from ..stats import Array, format_loss
from .candidates import Candidates
from .law import planned_loss, shape_sizes
from .planfile import Choice

TOLERANCE = 0.05  # a member within 5 % of the budget counts as affordable, and the plan says so

SHORTEST = 20  # sequences; fewer tokens than this train nothing

MET = 1e-6  # of a target: as near as whole tokens come to it, from below or above


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The least loss for a budget of `flops`, or the least cost of `target` nats per token.

    Args:
        flops: training FLOPs, or those of training and serving with `includes_serving`.
        target: loss to reach, in nats per token, at the least cost of training and serving together.
        inference_tokens: tokens to be served afterwards.
        includes_serving: the budget pays for serving too (Sardana et al. 2023, arXiv:2401.00448).
        tokens_available: distinct tokens there are; beyond them data repeats.
    """

    flops: float | None = None
    target: float | None = None
    inference_tokens: float = 0.0
    includes_serving: bool = False
    tokens_available: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluatedCandidates:
    """Tokens, predicted loss and cost of each candidate, arrays of shape (n,).

    Args:
        shapes: the candidates.
        ask: the objective.
        N: parameters as the law counts them.
        tokens: training tokens, whole, at which the loss is predicted.
        loss: predicted, in nats per token; the target itself where whole tokens meet it.
        flops: of training, before tokens are made whole: exactly what the objective leaves.
        serving: FLOPs of the inference asked for.
        total: FLOPs that the objective counts: of training, and of serving where the budget includes it or for a target.
        feasible: false where no number of tokens answers the objective.
    """

    shapes: Candidates
    ask: Objective
    N: Array
    tokens: Array
    loss: Array
    flops: Array
    serving: Array
    total: Array
    feasible: NDArray[np.bool_]

    def best(self) -> int:
        """Index of the recommended candidate: least loss for a budget, least total cost for a target."""
        value = np.where(self.feasible, self.loss if self.ask.target is None else self.total, np.inf)
        return int(np.argmin(value))

    def total_flops(self, budget: Budget) -> float:
        """FLOPs that shares refer to: the budget, or the least total that reaches a target."""
        return budget.flops if self.ask.target is None else float(self.total[self.best()])


def evaluate_candidates(ask: Objective, law: LossModel, shapes: Candidates) -> EvaluatedCandidates:
    """Every candidate at the tokens that the objective leaves it.

    Raises:
        BadInput: an objective that this law cannot answer, a target below the irreducible loss, or nothing affordable.
    """
    if law.frontier is not None:
        return _along_frontier(ask, law, shapes)
    N = shape_sizes(law, shapes)
    per_token = shapes.flops_per_token.astype(np.float64)
    serving = per_token / 3 * ask.inference_tokens
    counted = serving if ask.includes_serving or ask.target is not None else 0.0 * serving
    context = int(shapes.n_positions.min())
    if ask.tokens_available is not None and ask.tokens_available < context:
        raise BadInput(
            f"tokens available is {format_size(ask.tokens_available)}; they do not fill one context of {context:,} tokens, "
            "so there is nothing to train on"
        )
    least = SHORTEST * shapes.n_positions.astype(np.float64)
    if ask.target is not None:
        if ask.target <= law.irreducible:
            raise BadInput(
                f"target loss is {format_loss(ask.target)}; law {law.name} never goes below {_irreducible(law)}"
            )
        tokens = np.maximum(law.tokens_for(N, ask.target, unique_tokens=ask.tokens_available), least)
    else:
        assert ask.flops is not None
        tokens = (ask.flops - counted) / per_token
    feasible = np.isfinite(tokens) & (tokens >= least)
    spent = np.where(feasible, tokens, least)
    tokens = np.asarray(np.round(spent), dtype=np.float64)
    loss = np.asarray(law.loss(N, tokens, unique_tokens=ask.tokens_available))
    if ask.target is not None:
        met = np.abs(loss / ask.target - 1) < MET
        feasible &= met | (loss < ask.target)
        loss = np.where(met, ask.target, loss)
    if not feasible.any():
        raise _no_candidate(ask, law, shapes, per_token * least + counted)
    return EvaluatedCandidates(
        shapes=shapes,
        ask=ask,
        N=N,
        tokens=tokens,
        loss=loss,
        flops=per_token * spent,
        serving=serving,
        total=per_token * spent + counted,
        feasible=feasible,
    )


def _irreducible(law: LossModel) -> str:
    """E with its 80 % interval where the law has one, for an error."""
    text, interval = f"E = {format_loss(law.irreducible)} nats/token", law.irreducible_interval_80
    if interval is None:
        return text
    return f"{text} (80 % interval {format_loss(interval[0])} to {format_loss(interval[1])})"


def _along_frontier(ask: Objective, law: LossModel, shapes: Candidates) -> EvaluatedCandidates:
    """Kaplan's frontier: each member has its own tokens, cost and loss, and the largest affordable one is best."""
    assert law.frontier is not None
    if ask.inference_tokens or ask.tokens_available is not None:
        raise BadInput(
            f"law {law.name} fixes the tokens of each size and cannot trade tokens for size; use --law chinchilla"
        )
    N = shape_sizes(law, shapes)
    tokens, loss = law.frontier.tokens(N), law.frontier.loss(N)
    flops = shapes.flops_per_token * tokens
    if ask.target is not None:
        feasible = loss <= ask.target
    else:
        assert ask.flops is not None
        feasible = flops <= ask.flops * (1 + TOLERANCE)
    if not feasible.any():
        raise _no_candidate(ask, law, shapes, flops)
    return EvaluatedCandidates(
        shapes=shapes,
        ask=ask,
        N=N,
        tokens=np.round(tokens),
        loss=loss,
        flops=flops,
        serving=np.zeros_like(flops),
        total=flops,
        feasible=feasible,
    )


def _no_candidate(ask: Objective, law: LossModel, shapes: Candidates, least: Array) -> BadInput:
    if ask.target is not None:
        return BadInput(
            f"target loss is {format_loss(ask.target)}; no candidate reaches it under law {law.name}"
        )
    cheapest = int(np.argmin(least))
    return BadInput(
        f"budget is {format_size(ask.flops or 0)} FLOPs and nothing is affordable: "
        f"the cheapest is {shapes.member(cheapest).name} at {format_size(float(least[cheapest]))} FLOPs"
    )


def pareto(*evaluated: EvaluatedCandidates) -> tuple[tuple[int, int], ...]:
    """(Evaluation, index in it) of each Pareto-optimal candidate; cheapest to serve first.

    No other feasible candidate of any evaluation beats it at once in training FLOPs, loss and inference FLOPs.
    """
    flops, loss = (np.concatenate([getattr(each, name) for each in evaluated]) for name in ("flops", "loss"))
    serving = np.concatenate([each.shapes.flops_per_token for each in evaluated])
    feasible = np.concatenate([each.feasible for each in evaluated])
    places = [(which, index) for which, each in enumerate(evaluated) for index in range(len(each.shapes))]
    staircase: list[tuple[float, float]] = []  # (training FLOPs, loss) of what is cheaper to serve, falling
    kept = []
    for row in np.lexsort((flops, loss, serving)).tolist():
        if not feasible[row]:
            continue
        cheap, good = float(flops[row]) * (1 - 1e-12), float(loss[row])
        place = bisect.bisect_right(staircase, (cheap * (1 + 2e-12), np.inf))
        if place and staircase[place - 1][1] <= good:
            continue
        kept.append(places[row])
        end = place
        while end < len(staircase) and staircase[end][1] >= good:
            end += 1
        staircase[place:end] = [(cheap, good)]
    return tuple(kept)


def to_choice(
    evaluated: EvaluatedCandidates,
    index: int,
    law: LossModel,
    budget: Budget,
    preferred_by: tuple[str, ...] = (),
    *,
    total_flops: float | None = None,
    force: bool = False,
) -> Choice:
    """One candidate in full: exact FLOPs, predicted loss with intervals, hours and price.

    Args:
        evaluated: the candidates under the law.
        index: of the candidate.
        law: published or fitted.
        budget: that hours and price are of.
        preferred_by: names of laws within whose indifference band it lies.
        total_flops: FLOPs that its share refers to (default: the budget, or the least that reaches a target).
        force: predict even more than 1,000 times outside the law's domain.

    Raises:
        BadInput: it lies too far outside the domain, without `force`.
    """
    member = evaluated.shapes.member(index)
    spec, ask = member.spec, evaluated.ask
    tokens, flops = float(evaluated.tokens[index]), float(evaluated.flops[index])
    expected, converged = planned_loss(law, spec, tokens, unique_tokens=ask.tokens_available, force=force)
    N, size = float(evaluated.N[index]), accounting.params(spec)
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
        epochs=tokens / ask.tokens_available if ask.tokens_available is not None else None,
        flops=flops,
        budget=budget.text,
        share=float(evaluated.total[index]) / (total_flops or evaluated.total_flops(budget)),
        loss=expected.loss,
        ppl=expected.ppl,
        converged_loss=None if law.frontier is None else converged.loss,
        interval_80=expected.interval_80,
        interval_95=expected.interval_95,
        hours=budget.hours(flops),
        price=budget.price(flops),
        inference_flops_per_token=accounting.inference_flops_per_token(spec),
        inference_flops=float(evaluated.serving[index]),
        inference_hours=budget.hours(float(evaluated.serving[index])) if evaluated.serving[index] else None,
        inference_price=budget.price(float(evaluated.serving[index])) if evaluated.serving[index] else None,
        extrapolation=law.domain.extrapolation(N, tokens).factor,
        preferred_by=preferred_by,
    )
