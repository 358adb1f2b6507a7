"""Indifference band: the members about as good as the best, and the cost of choosing each instead."""

import numpy as np
from numpy.typing import NDArray

from families.units import BadInput

from ..budget import Budget
from ..laws import LossModel
from ..published_laws import PUBLISHED
from ..stats import Array
from .evaluate import EvaluatedCandidates, evaluate_candidates, to_choice
from .planfile import Band, BandMember

WITHIN_NATS = 0.01  # about what two seeds of one small run differ by

WITHIN_SHARE = 0.02  # of the cost, for a target

NEAR = 0.2  # nats beyond which no member is within a few per cent of the cost

WIDEST = 64  # members listed; a grid's band has hundreds


def band(
    evaluated: EvaluatedCandidates,
    law: LossModel,
    budget: Budget,
    *,
    nats: float | None = None,
    share: float | None = None,
) -> Band:
    """Every member within `nats` of the best loss, or that reaches it with `share` more compute than the best takes.

    Args:
        evaluated: the candidates under the law.
        law: published or fitted.
        budget: that hours and prices are of.
        nats: loss in nats per token; 0.01 where neither is given and the objective is a budget.
        share: of the best's cost; 0.02 where neither is given and the objective is a target.

    Raises:
        BadInput: both widths, a width that is not positive, nats around a target, or a law with a frontier, under
            which cost fixes the loss.
    """
    if law.frontier is not None:
        raise BadInput(
            f"law {law.name} fixes each member's loss by its cost; a band needs a law like chinchilla"
        )
    if nats is not None and share is not None:
        raise BadInput("the band is given in nats and as a share; give one of them")
    if evaluated.ask.target is not None and nats is not None:
        raise BadInput(f"a target fixes the loss, so a band of {nats:g} nats has no meaning; give it as 2%")
    if nats is None and share is None:
        nats, share = (WITHIN_NATS, None) if evaluated.ask.target is None else (None, WITHIN_SHARE)
    for name, width in (("nats", nats), ("share", share)):
        if width is not None and not (np.isfinite(width) and width > 0):
            raise BadInput(f"the band's {name} is {width:g}; it must be positive")
    best = evaluated.best()
    above = evaluated.loss - evaluated.loss[best]
    near = evaluated.feasible & (above <= (NEAR if nats is None else nats))
    near[best] = True
    extra = _total_for(evaluated, law, float(evaluated.loss[best]), near) - evaluated.total[best]
    # rounding, repeats that are worth nothing, or a loss that rises before it falls again
    extra = np.where(extra < 1e-9 * evaluated.total[best], 0.0, extra)
    inside = near & (np.isfinite(extra) if share is None else extra <= share * evaluated.total[best])
    inside[best] = True
    edge = float(evaluated.loss[best] + (nats if nats is not None else above[inside].max()))
    rows = np.flatnonzero(inside)
    to_edge = _total_for(evaluated, law, edge, inside)
    # where repeated tokens are worth nothing more, no number of them may reach the edge
    train = int(np.argmin(to_edge)) if np.isfinite(to_edge).any() else best
    serve = int(rows[np.argmin(evaluated.shapes.flops_per_token[rows])])
    listed = sorted({*rows[:: -(-len(rows) // WIDEST)].tolist(), best, train, serve})
    return Band(
        within_nats=nats,
        within_share=share,
        members=tuple(
            _member(evaluated, index, law, budget, float(max(above[index], 0)), float(extra[index]))
            for index in listed
        ),
        cheapest_to_train=evaluated.shapes.member(train).name,
        cheapest_to_serve=evaluated.shapes.member(serve).name,
    )


def _total_for(evaluated: EvaluatedCandidates, law: LossModel, loss: float, rows: NDArray[np.bool_]) -> Array:
    """FLOPs, inference included, with which each of the rows reaches a loss; infinite where it does not, and elsewhere."""
    tokens = law.tokens_for(evaluated.N[rows], loss, unique_tokens=evaluated.ask.tokens_available)
    total = np.full(len(rows), np.inf)
    total[rows] = evaluated.shapes.flops_per_token[rows] * tokens + (evaluated.total - evaluated.flops)[rows]
    return total


def _member(
    evaluated: EvaluatedCandidates, index: int, law: LossModel, budget: Budget, nats: float, extra: float
) -> BandMember:
    never = not np.isfinite(extra)
    return BandMember(
        choice=to_choice(evaluated, index, law, budget, force=True),
        nats=nats,
        extra_flops=None if never else extra,
        extra_hours=None if never else budget.hours(extra),
        extra_price=None if never else budget.price(extra),
    )


def preferences(evaluated: EvaluatedCandidates, law: LossModel) -> dict[int, tuple[str, ...]]:
    """Names of the laws that prefer each candidate, by its index.

    A law prefers what lies within 0.01 nats of its choice for the same objective, or that choice alone for a target or on
    Kaplan's frontier. A Pareto-optimal member that is not here is one that no law in use prefers.
    """
    preferred: dict[int, list[str]] = {}
    others = [other for other in PUBLISHED.values() if not other.superseded_by and other.name != law.name]
    for model in (law, *others):
        try:
            own = evaluated if model is law else evaluate_candidates(evaluated.ask, model, evaluated.shapes)
        except BadInput:
            continue  # that law has no answer to this objective, so it prefers nothing
        best = own.best()
        if model.frontier is not None or evaluated.ask.target is not None:
            near = np.array([best])
        else:
            near = np.flatnonzero(own.feasible & (own.loss <= own.loss[best] + WITHIN_NATS))
        for index in near.tolist():
            preferred.setdefault(index, []).append(model.name)
    return {index: tuple(names) for index, names in preferred.items()}
