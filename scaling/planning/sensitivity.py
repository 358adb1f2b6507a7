"""What another MFU would change of a plan."""

from dataclasses import replace

from families.units import BadInput

from ..budget import Budget
from ..laws import LossModel
from .candidates import Candidates
from .evaluate import Objective, evaluate_candidates, to_choice
from .planfile import MfuCase

MFUS = (0.25, 0.35, 0.45)  # what training on many devices usually reaches (see published_mfu)


def mfu_cases(ask: Objective, budget: Budget, law: LossModel, shapes: Candidates) -> tuple[MfuCase, ...]:
    """The best choice at 25, 35 and 45 % MFU: of what the time or money then buys, or the same in another time.

    Args:
        ask: the objective, its FLOPs those of the budget, or a target.
        budget: the budget; without an accelerator there is no MFU and the result is empty.
        law: published or fitted.
        shapes: the candidates.
    """
    if budget.mfu is None:
        return ()
    cases = []
    for mfu in MFUS:
        other = budget.at_mfu(mfu)
        goal = ask if ask.target is not None else replace(ask, flops=other.flops)
        try:
            evaluated = evaluate_candidates(goal, law, shapes)
        except BadInput:
            continue  # so little compute affords nothing
        choice = to_choice(evaluated, evaluated.best(), law, other, force=True)
        cases.append(MfuCase(mfu=mfu, flops=other.flops, choice=choice))
    return tuple(cases)
