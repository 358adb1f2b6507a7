"""The price of being wrong: which members are about as good as the best, and what each costs instead."""

import numpy as np
from numpy.typing import NDArray

from families.units import BadInput

from ..budget import Budget
from ..laws import PUBLISHED
from ..stats import Array
from .evaluate import EvaluatedCandidates, evaluate_candidates, to_choice, tokens_for
from .law import LossModel
from .planfile import Band, BandMember

WITHIN_NATS = 0.01  # about what two seeds of one small run differ by
WITHIN_SHARE = 0.02  # of the cost, for a target
NEAR = 0.2  # nats beyond which no member is within a few per cent of the cost
WIDEST = 64  # members listed; a grid's band has hundreds


def band(
    costed: EvaluatedCandidates,
    law: LossModel,
    budget: Budget,
    *,
    nats: float | None = None,
    share: float | None = None,
) -> Band:
    """Every member within `nats` of the best loss, or that reaches it with `share` more compute than the best
    takes.

    Args:
        nats: loss in nats per token; 0.01 where neither is given and a budget was asked.
        share: of the best's cost; 0.02 where neither is given and a target was asked.

    Raises:
        BadInput: both widths, a width that is not positive, nats around a target, or a law of one dial, under
            which cost fixes the loss.
    """
    if law.frontier is not None:
        raise BadInput(
            f"law {law.name} fixes each member's loss by its cost; a band needs a law like chinchilla"
        )
    if nats is not None and share is not None:
        raise BadInput("the band is given in nats and as a share; give one of them")
    if costed.ask.target is not None and nats is not None:
        raise BadInput(f"a target fixes the loss, so a band of {nats:g} nats has no meaning; give it as 2%")
    if nats is None and share is None:
        nats, share = (WITHIN_NATS, None) if costed.ask.target is None else (None, WITHIN_SHARE)
    for name, width in (("nats", nats), ("share", share)):
        if width is not None and not (np.isfinite(width) and width > 0):
            raise BadInput(f"the band's {name} is {width:g}; it must be positive")
    best = costed.best()
    above = costed.loss - costed.loss[best]
    near = costed.able & (above <= (NEAR if nats is None else nats))
    near[best] = True
    extra = _total_for(costed, law, float(costed.loss[best]), near) - costed.total[best]
    extra = np.where(
        extra < 1e-9 * costed.total[best], 0.0, extra
    )  # rounding, or repeats that are worth nothing
    inside = near & (np.isfinite(extra) if share is None else extra <= share * costed.total[best])
    inside[best] = True
    reach = float(costed.loss[best] + (nats if nats is not None else above[inside].max()))
    rows = np.flatnonzero(inside)
    to_edge = _total_for(costed, law, reach, inside)
    # where repeated tokens are worth nothing more, no number of them may reach the edge
    train = int(np.argmin(to_edge)) if np.isfinite(to_edge).any() else best
    serve = int(rows[np.argmin(costed.shapes.flops_per_token[rows])])
    listed = sorted({*rows[:: -(-len(rows) // WIDEST)].tolist(), best, train, serve})
    return Band(
        within_nats=nats,
        within_share=share,
        members=tuple(
            _member(costed, index, law, budget, float(max(above[index], 0)), float(extra[index]))
            for index in listed
        ),
        cheapest_to_train=costed.shapes.member(train).name,
        cheapest_to_serve=costed.shapes.member(serve).name,
    )


def _total_for(costed: EvaluatedCandidates, law: LossModel, loss: float, rows: NDArray[np.bool_]) -> Array:
    """FLOPs, inference included, with which each of the rows reaches that loss; infinite where it does not,
    and elsewhere.
    """
    N = np.asarray(law.count(costed.shapes.as_spec), dtype=np.float64)[rows]
    tokens = tokens_for(costed.ask, law, N, loss)
    found = np.full(len(rows), np.inf)
    found[rows] = costed.shapes.flops_per_token[rows] * tokens + (costed.total - costed.flops)[rows]
    return found


def _member(
    costed: EvaluatedCandidates, index: int, law: LossModel, budget: Budget, nats: float, extra: float
) -> BandMember:
    never = not np.isfinite(extra)
    return BandMember(
        choice=to_choice(costed, index, law, budget),
        nats=nats,
        extra_flops=None if never else extra,
        extra_hours=None if never else budget.hours(extra),
        extra_price=None if never else budget.price(extra),
    )


def preferences(costed: EvaluatedCandidates, law: LossModel) -> dict[int, tuple[str, ...]]:
    """For each index the laws that want it: within 0.01 nats of their choice for the same ask, or Kaplan's
    very choice.

    A Pareto-optimal member that is not here is one that no law in use prefers.
    """
    wanted: dict[int, list[str]] = {}
    others = [LossModel.published(other) for other in PUBLISHED.values() if not other.superseded_by]
    for other in [law, *(one for one in others if one.name != law.name)]:
        try:
            theirs = costed if other is law else evaluate_candidates(costed.ask, other, costed.shapes)
        except BadInput:
            continue  # that law has no answer to this ask, so it prefers nothing
        best = theirs.best()
        if other.frontier is not None or costed.ask.target is not None:
            near = np.array([best])
        else:
            near = np.flatnonzero(theirs.able & (theirs.loss <= theirs.loss[best] + WITHIN_NATS))
        for index in near.tolist():
            wanted.setdefault(index, []).append(other.name)
    return {index: tuple(names) for index, names in wanted.items()}
