"""Which runs one law may be fitted to: one group, one eval set, one kind of schedule point."""

from collections.abc import Sequence
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike

from families.units import BadInput, nearest

from ..laws import Convention
from ..runs import Run, RunTable
from ..stats import Z_50, Array
from .ensemble import CANDIDATES, Table, predict_log, solve

# MERGED DOCSTRINGS
# Do the smallest runs lie where the law of the others says? Untuned small rungs bend a law (Porian et al. 2024).

Annealed = Literal["only", "all"]


def one_of_conventions(value: str | None) -> Convention | None:
    """A convention's name from outside, checked.

    Raises:
        BadInput: it is not one.
    """
    if value is None or value in get_args(Convention):
        return cast(Convention | None, value)
    raise BadInput(f"convention is {value!r}; {nearest(value, get_args(Convention))}")


def one_of_annealed(value: str | None) -> Annealed | None:
    """Which rows to take, from outside, checked.

    Raises:
        BadInput: it is neither "only" nor "all".
    """
    if value is None or value in get_args(Annealed):
        return cast(Annealed | None, value)
    raise BadInput(f"annealed is {value!r}; {nearest(value, get_args(Annealed))}")


def rows_of(
    runs: Sequence[Run] | None,
    *,
    N: ArrayLike | None,
    D: ArrayLike | None,
    loss: ArrayLike | None,
    convention: Convention | None,
) -> RunTable:
    """Build the table of a fit from runs or, without those, from arrays of shape (n,).

    Raises:
        BadInput: neither or both are given, or a value that no run can have.
    """
    arrays = {"N": N, "D": D, "loss": loss}
    given = [name for name, values in arrays.items() if values is not None]
    if runs is not None:
        if given:
            raise BadInput(f"runs are given and so are the arrays {', '.join(given)}; give one of the two")
        return RunTable.of(runs, convention)
    if N is None or D is None or loss is None:
        missing = ", ".join(name for name in arrays if name not in given)
        raise BadInput(f"there are no runs and no {missing}; a fit needs runs, or all of N, D and loss")
    return RunTable.from_arrays(N=N, D=D, loss=loss, convention=convention or "total")


def of_group(runs: Sequence[Run], group: str | None) -> RunTable:
    """The runs of one group, or all of them.

    Raises:
        BadInput: no run has that group.
    """
    if group is None:
        return RunTable.of(runs)
    groups = RunTable.of(runs).by_group()
    if group not in groups:
        raise BadInput(f"group is {group!r}; {nearest(group, list(groups))}")
    return groups[group]


def select_runs(runs: Sequence[Run], *, group: str | None, annealed: Annealed | None) -> tuple[RunTable, str]:
    """The runs that one law may be fitted to, and a line on what was left out.

    Raises:
        BadInput: naming the mixture.
    """
    if not runs:
        raise BadInput("there are 0 runs; at least 1 is needed")
    groups = RunTable.of(runs).by_group()
    if group is None and len(groups) > 1:
        names = ", ".join(repr(name) for name in list(groups)[:8])
        raise BadInput(
            f"there are {len(groups)} groups ({names}); a law is fitted to one: name it with group"
        )
    chosen = of_group(runs, group)
    left_out = []
    if len(runs) > len(chosen):
        left_out.append(f"{len(runs) - len(chosen)} rows of other groups")
    middle = sum(not run.annealed for run in chosen)
    if middle and middle < len(chosen):
        if annealed is None:
            raise BadInput(
                f"{middle} of {len(chosen)} rows are not annealed (mid-schedule losses lie above final ones); fit the "
                "annealed ones only, or say that all may be mixed (annealed only | all)"
            )
        if annealed == "only":
            chosen = chosen.select(lambda run: run.annealed)
            left_out.append(f"{middle} rows not annealed")
    elif middle and annealed == "only":
        raise BadInput(f"all {middle} rows are not annealed; there is nothing to fit")
    sets = sorted({run.eval_set for run in chosen})
    if len(sets) > 1:
        raise BadInput(
            f"the rows have {len(sets)} eval sets ({', '.join(map(repr, sets[:8]))}); a law is fitted to one"
        )
    return chosen, "; ".join(left_out) or "none"


RUNG = 2.0  # rows within this factor of the smallest compute are the smallest rung

LARGEST_SHARE = 0.34  # a rung that holds more of the rows than this leaves too few to judge it by

FEWEST_OTHERS = 8

SIGNAL = 3.0  # times the spread of the others

LEAST = 0.005  # and at least half a per cent of loss


def small_run_warning(N: Array, D: Array, L: Array) -> str:
    """A warning where both forms, fitted to the other rows, agree that the smallest rung lies off, else nothing."""
    C = N * D
    low = C.min() * RUNG >= C
    if low.mean() > LARGEST_SHARE or (~low).sum() < FEWEST_OTHERS:
        return ""
    others = Table.of(N[~low], D[~low], L[~low]).thinned()
    found = []
    for candidate in (CANDIDATES[1], CANDIDATES[-1]):
        problem = others.problem(candidate)
        theta = solve(problem, candidate.shape)
        spread = (
            float(np.median(np.abs(predict_log(problem, theta, others.N, others.D) - np.log(others.L))))
            / Z_50
        )
        off = float(np.mean(np.log(L[low]) - predict_log(problem, theta, N[low], D[low])))
        if abs(off) < max(LEAST, SIGNAL * spread / np.sqrt(low.sum())):
            return ""
        found.append(off)
    if found[0] * found[1] < 0:
        return ""
    least = min(found, key=abs)
    return (
        f"the {low.sum()} smallest runs lie {least:+.1%} of loss off the law of the others: "
        "a warm-up or learning rate that does not suit them bends a law; tune them or leave them out"
    )
