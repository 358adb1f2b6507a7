"""Planning with data that runs out: repeated tokens are worth less, and so are parameters beyond what they
feed.
"""

import bisect
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from families import accounting
from families.units import BadInput, format_size

from ..budget import Budget
from ..fitting.repetition import PUBLISHED_REPETITION, Repetition
from ..stats import Array
from .candidates import Candidates
from .law import LossModel
from .planfile import Choice

# MERGED DOCSTRINGS
# Every candidate at its exact FLOPs: the tokens an ask leaves it, the loss a law expects, what it costs.


@dataclass(frozen=True, slots=True, kw_only=True)
class DataLimit:
    """`unique` distinct tokens there are, and what repeating them is worth (Muennighoff et al. 2023)."""

    unique: float
    repetition: Repetition = PUBLISHED_REPETITION

    def worth(self, N: Array, D: Array) -> tuple[Array, Array]:
        """Parameters and tokens as a law of fresh data sees them."""
        return self.repetition.effective(N, D, np.full(np.shape(D), self.unique))

    def tokens_for(self, law: LossModel, N: Array, loss: float, *, as_predicted: bool = False) -> Array:
        """Tokens to draw, repeats among them, until models of N parameters reach that loss; infinite where
        none do.
        """
        fresh = law.tokens_for(N, loss, as_predicted=as_predicted)
        worth, _ = self.worth(N, np.full(N.shape, 2 * self.unique))
        needed = np.maximum(law.tokens_for(worth, loss, as_predicted=as_predicted), self.unique)
        return np.where(fresh <= self.unique, fresh, self.draws_for(needed))

    def draws_for(self, worth: Array) -> Array:
        """The inverse of D': tokens to draw so that they are worth so many; infinite beyond U·(1 + R_D)."""
        R = self.repetition.R_D
        excess = np.maximum(worth / self.unique - 1, 0.0)
        with np.errstate(divide="ignore"):
            repeats = np.where(excess < R, -R * np.log1p(-np.minimum(excess, R) / R), np.inf)
        return np.minimum(worth, self.unique) + self.unique * repeats


TOLERANCE = 0.05  # a member within 5 % of the budget counts as affordable, and the plan says so

SHORTEST = 20  # sequences; fewer tokens than this train nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What is wanted: the least loss for `flops`, or the least cost of `target` nats per token.

    inference_tokens: tokens to be served afterwards, whose cost counts too (Sardana et al. 2023,
    arXiv:2401.00448).
    tokens_available: distinct tokens there are; beyond them data repeats.
    """

    flops: float | None = None
    target: float | None = None
    inference_tokens: float = 0.0
    tokens_available: float | None = None

    def limit(self, law: LossModel) -> DataLimit | None:
        """The data limit, if one is set: with the law's own worth of repeated tokens, where it has one."""
        if self.tokens_available is None:
            return None
        return DataLimit(unique=self.tokens_available, repetition=law.repetition)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluatedCandidates:
    """The candidates answered: tokens, loss and cost of each, arrays of shape (n,). `able` is false where
    none exist.

    N, D: what the law sees: its own count, and after repetition what parameters and tokens are worth.
    flops: training; total: with the inference asked for.
    """

    shapes: Candidates
    ask: Objective
    N: Array
    D: Array
    tokens: Array
    loss: Array
    flops: Array
    total: Array
    able: NDArray[np.bool_]

    def best(self) -> int:
        """Index of the recommended: least loss for a budget, least total cost for a target."""
        value = np.where(self.able, self.loss if self.ask.target is None else self.total, np.inf)
        return int(np.argmin(value))

    def whole(self, budget: Budget) -> float:
        """FLOPs of which shares are told, inference included: the budget, or the least total that reaches a target."""
        return budget.flops if self.ask.target is None else float(self.total[self.best()])


def evaluate_candidates(ask: Objective, law: LossModel, shapes: Candidates) -> EvaluatedCandidates:
    """Every candidate at the tokens that the ask leaves it.

    Raises:
        BadInput: an ask that this law cannot answer, a target below the irreducible loss, or nothing
        affordable.
    """
    if law.frontier is not None:
        return _along_frontier(ask, law, shapes)
    N = np.asarray(law.count(shapes.as_spec), dtype=np.float64)
    per_token = shapes.flops_per_token.astype(np.float64)
    serving = per_token / 3 * ask.inference_tokens
    limit = ask.limit(law)
    context = int(shapes.n_positions.min())
    if limit and limit.unique < context:
        raise BadInput(
            f"tokens available is {format_size(limit.unique)}; they do not fill one context of {context:,} tokens, "
            "so there is nothing to train on"
        )
    if ask.target is not None:
        if ask.target <= law.irreducible:
            raise BadInput(
                f"target loss is {ask.target:.4g}; law {law.name} never goes below {law.irreducible_text()}"
            )
        tokens = np.maximum(tokens_for(ask, law, N, ask.target), SHORTEST * shapes.n_positions)
    else:
        assert ask.flops is not None
        tokens = (ask.flops - serving) / per_token
    able = np.isfinite(tokens) & (tokens >= SHORTEST * shapes.n_positions)
    if not able.any():
        raise _no_candidate(ask, law, shapes, per_token * SHORTEST * shapes.n_positions + serving)
    safe = np.where(able, tokens, SHORTEST * shapes.n_positions)
    worth_N, worth_D = limit.worth(N, safe) if limit else (N, safe)
    loss = law.losses(worth_N, worth_D)
    if ask.target is not None:  # what is not held at the shortest run meets the target by its prediction
        loss = np.where(tokens > SHORTEST * shapes.n_positions, ask.target, loss)
    return EvaluatedCandidates(
        shapes=shapes,
        ask=ask,
        N=worth_N,
        D=worth_D,
        tokens=safe,
        loss=loss,
        flops=per_token * safe,
        total=per_token * safe + serving,
        able=able,
    )


def tokens_for(ask: Objective, law: LossModel, N: Array, loss: float) -> Array:
    """Tokens at which models of N parameters reach a loss, under the ask's data limit.

    A target is met by what is predicted of each member; a budget is spent by the smooth law, whose optimum the
    residuals of single runs must not move.
    """
    limit, as_predicted = ask.limit(law), ask.target is not None
    if limit:
        return limit.tokens_for(law, N, loss, as_predicted=as_predicted)
    return law.tokens_for(N, loss, as_predicted=as_predicted)


def _along_frontier(ask: Objective, law: LossModel, shapes: Candidates) -> EvaluatedCandidates:
    """Kaplan's frontier: each member has its own tokens, cost and loss, and the largest affordable one is the
    best.
    """
    assert law.frontier is not None
    if ask.inference_tokens or ask.tokens_available is not None:
        raise BadInput(
            f"law {law.name} is a frontier of one dial and cannot trade tokens for size; use --law chinchilla"
        )
    N = np.asarray(law.count(shapes.as_spec), dtype=np.float64)
    compute = (N / law.frontier.N_scale) ** (1 / law.frontier.N_exponent)
    tokens = law.frontier.D_scale * compute**law.frontier.D_exponent
    loss = (law.frontier.C_scale / compute) ** law.frontier.L_exponent
    flops = shapes.flops_per_token * tokens
    if ask.target is not None:
        able = loss <= ask.target
    else:
        assert ask.flops is not None
        able = flops <= ask.flops * (1 + TOLERANCE)
    if not able.any():
        raise _no_candidate(ask, law, shapes, flops)
    return EvaluatedCandidates(
        shapes=shapes, ask=ask, N=N, D=tokens, tokens=tokens, loss=loss, flops=flops, total=flops, able=able
    )


def _no_candidate(ask: Objective, law: LossModel, shapes: Candidates, least: Array) -> BadInput:
    if ask.target is not None:
        return BadInput(f"target loss is {ask.target:.4g}; no candidate reaches it under law {law.name}")
    cheapest = int(np.argmin(least))
    return BadInput(
        f"budget is {format_size(ask.flops or 0)} FLOPs and nothing is affordable: "
        f"the cheapest is {shapes.member(cheapest).name} at {format_size(float(least[cheapest]))} FLOPs"
    )


def pareto(*costed: EvaluatedCandidates) -> tuple[tuple[int, int], ...]:
    """(which answer, index in it) of what no other able candidate of any answer beats at once in training
    FLOPs, loss and inference FLOPs; cheapest to serve first.
    """
    flops, loss = (np.concatenate([getattr(one, name) for one in costed]) for name in ("flops", "loss"))
    serving = np.concatenate([one.shapes.flops_per_token for one in costed])
    able = np.concatenate([one.able for one in costed])
    places = [(which, index) for which, one in enumerate(costed) for index in range(len(one.shapes))]
    staircase: list[tuple[float, float]] = []  # (training FLOPs, loss) of what is cheaper to serve, falling
    kept = []
    for row in np.lexsort((flops, loss, serving)).tolist():
        if not able[row]:
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
    costed: EvaluatedCandidates,
    index: int,
    law: LossModel,
    budget: Budget,
    preferred_by: tuple[str, ...] = (),
    *,
    whole: float | None = None,
) -> Choice:
    """One candidate in full: exact FLOPs, expected loss with intervals, hours and price.

    whole: FLOPs, inference included, of which its share is told (default: the budget, or the least that reaches a target).
    """
    member = costed.shapes.member(index)
    spec, ask = member.spec, costed.ask
    tokens, flops = float(costed.tokens[index]), float(costed.flops[index])
    N = float(law.count(spec))
    expected = law.expect(N, tokens, unique=ask.tokens_available)
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
        epochs=tokens / ask.tokens_available if ask.tokens_available is not None else None,
        flops=flops,
        budget=budget.text,
        share=float(costed.total[index]) / (whole or costed.whole(budget)),
        loss=expected.loss,
        ppl=expected.ppl,
        converged_loss=law.converged(spec, tokens),
        interval_80=expected.interval_80,
        interval_95=expected.interval_95,
        hours=budget.hours(flops),
        price=budget.price(flops),
        inference_flops_per_token=accounting.inference_flops_per_token(spec),
        inference_flops=float(costed.total[index]) - flops,
        extrapolation=law.extrapolation(N, tokens),
        preferred_by=preferred_by,
    )
