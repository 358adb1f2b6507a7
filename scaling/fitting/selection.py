"""Selection of the runs that one law is fitted to: one group, one eval set, one kind of schedule point.

Untuned small runs bend a law (Porian et al. 2024); `small_run_warning` checks for them.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike

from families.units import BadInput, format_size, nearest

from ..laws import Convention
from ..runs import Run, RunTable
from ..runs.identity import vocabularies
from ..stats import Z_50, Array
from .ensemble import CANDIDATES, Table, predict_log, solve

Annealed = Literal["only", "all"]  # leave mid-schedule points out, or mix them in

RUNG = 2.0  # rows within this factor of the smallest compute are the smallest rung

LARGEST_SHARE = 0.34  # of the rows; a larger rung leaves too few others to judge it by

FEWEST_OTHERS = 8

FEWEST_OTHER_SIZES = 3  # fewer sizes do not tell how loss falls with N, so nothing lies off their law

SIGNAL = 3.0  # standard errors of the rung's mean that it must lie off

_SAME = 1e-6  # relative; losses closer than that are one
_NEARLY = 0.02  # in the logarithm; sizes, tokens or ratios closer than that do not vary

LEAST = 0.005  # and at least this share of the loss

FEWEST_FREE_OF_BEND = 4  # degrees of freedom left beside a quadratic in log N and log D

BENDING = "residuals still bend"  # so begins the warning, which a sealed plan repeats

_STATED = re.compile(r"\(([0-9.]+)% of loss, rms\)")

BEND_F = 4.0  # ratio of mean squares: about the 1 % point of F with 6 and 10 to 20 degrees of freedom


def one_of_conventions(value: str | None) -> Convention | None:
    """Check the name of a convention that a user typed.

    Raises:
        BadInput: it is not one of `Convention`.
    """
    if value is None or value in get_args(Convention):
        return cast(Convention | None, value)
    raise BadInput(f"convention is {value!r}; {nearest(value, get_args(Convention))}")


def one_of_annealed(value: str | None) -> Annealed | None:
    """Check the choice of rows that a user typed.

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

    Args:
        runs: runs, in place of the three arrays.
        N: parameters.
        D: tokens.
        loss: losses in nats per token.
        convention: parameters that N counts (default: those of the runs; for arrays, all parameters).

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
    """The runs of one group, or all where it is None.

    Raises:
        BadInput: no run has that group.
    """
    table = RunTable.of(runs)
    if group is None:
        return table
    groups = table.by_group()
    if group not in groups:
        raise BadInput(f"group is {group!r}; {nearest(group, list(groups))}")
    return groups[group]


def is_single_run(runs: RunTable, group: str | None) -> bool:
    """True where all rows of the group are of one run, with points in mid-schedule: the curve of that run."""
    names = {run.run for run in runs if group is None or run.group == group}
    return len(names) == 1 and len(runs) > 1 and not all(run.annealed for run in runs)


def default_annealed(runs: RunTable, group: str | None) -> Annealed | None:
    """Default of --annealed: the annealed rows of a mixture, and every row of the curve of one run."""
    stated = [run.annealed for run in runs if group is None or run.group == group]
    mixed = any(stated) and not all(stated)
    return "only" if mixed and not is_single_run(runs, group) else None


def select_runs(
    runs: Sequence[Run],
    *,
    group: str | None,
    annealed: Annealed | None,
    eval_set: str | None = None,
    mixed: Collection[str] = (),
) -> tuple[RunTable, str]:
    """Select the runs that one law may be fitted to.

    Args:
        runs: the runs.
        group: the group to select, where the runs have several.
        annealed: "only" leaves mid-schedule points out, "all" mixes them in; a mixture needs one of the two.
        eval_set: the eval set to select, where the runs have several.
        mixed: columns that the law depends on, which hence may differ: with "vocab_size" several vocabularies are no mixture.

    Returns:
        the selected runs, and a text on the rows that were left out ("none" where there are none).

    Raises:
        BadInput: there are no runs, or a mixture of groups, of eval sets, of vocabularies or of schedule points, which is
            named.
    """
    if not runs:
        raise BadInput("there are 0 runs; at least 1 is needed")
    groups = RunTable.of(runs).by_group()
    if group is None and len(groups) > 1:
        names = ", ".join(repr(name) for name in list(groups)[:8])
        raise BadInput(
            f"there are {len(groups)} groups ({names}); a law is fitted to one: --group {quote(next(iter(groups)))}"
        )
    chosen = of_group(runs, group)
    left_out = []
    if len(runs) > len(chosen):
        left_out.append(f"{len(runs) - len(chosen)} rows of other groups")
    if eval_set is not None:
        sets = sorted({run.eval_set for run in chosen})
        if eval_set not in sets:
            raise BadInput(f"eval set is {eval_set!r}; {nearest(eval_set, sets)}")
        if len(sets) > 1:
            others = sum(run.eval_set != eval_set for run in chosen)
            left_out.append(f"{others} rows of other eval sets")
            chosen = chosen.select(lambda run: run.eval_set == eval_set)
    middle = sum(not run.annealed for run in chosen)
    if middle and middle < len(chosen):
        if annealed is None:
            raise BadInput(
                f"{middle} of {len(chosen)} rows are not annealed (mid-schedule losses lie above final ones); "
                "--annealed only leaves them out, --annealed all mixes them in"
            )
        if annealed == "only":
            chosen = chosen.select(lambda run: run.annealed)
            left_out.append(f"{middle} rows not annealed")
    elif middle and annealed == "only":
        raise BadInput(f"all {middle} rows are not annealed; there is nothing to fit")
    sets = sorted({run.eval_set for run in chosen})
    if len(sets) > 1:
        raise BadInput(
            f"the rows have {len(sets)} eval sets ({', '.join(map(repr, sets[:8]))}); a law is fitted to one: "
            f"--eval-set {quote(sets[0])}, or in a trainer's files --columns loss=… by key"
        )
    sizes = [] if "vocab_size" in mixed else vocabularies(chosen)
    if len(sizes) > 1:
        raise BadInput(
            f"the rows have {len(sizes)} vocabularies ({', '.join(map(str, sizes[:8]))}), and neither tokens nor losses per "
            f"token compare between tokenizers; a law is fitted to one: --columns group=vocab_size --group {sizes[-1]}"
        )
    return chosen, "; ".join(left_out) or "none"


def bend_warning(N: Array, D: Array, residuals: Array) -> str:
    """Warn of residuals that still bend with size or tokens: the law does not describe these rows yet.

    A quadratic in log N and log D is taken off the residuals; what it holds is tested against what is left (F, 1 %), and
    must be more than half a per cent of loss to matter.

    Args:
        N: parameters, shape (n,).
        D: tokens, shape (n,).
        residuals: of log loss about the law, shape (n,).

    Returns:
        the warning, or an empty text.
    """
    x, z = np.log(N), np.log(D)
    x, z = x - x.mean(), z - z.mean()
    basis = np.column_stack([np.ones(len(x)), x, z, x * x, x * z, z * z])
    terms = int(np.linalg.matrix_rank(basis))
    freedom = len(x) - terms
    if freedom < FEWEST_FREE_OF_BEND or terms < 2:
        return ""
    bend = basis @ np.linalg.lstsq(basis, residuals, rcond=None)[0]
    rest = float(((residuals - bend) ** 2).sum()) / freedom
    held = float((bend**2).sum()) / terms
    size = float(np.sqrt((bend**2).mean()))
    if size < LEAST or held < BEND_F * rest:
        return ""
    by_size = np.abs(bend[np.argmin(x)] - bend[np.argmax(x)])
    by_tokens = np.abs(bend[np.argmin(z)] - bend[np.argmax(z)])
    cause = "size" if by_size > by_tokens else "tokens"
    need = (
        "sizes nearer the target, each at a learning rate tuned for it"
        if cause == "size"
        else "longer rungs: the shortest still lie on the first bend of their loss curves"
    )
    return f"the {BENDING} by {cause} ({size:.1%} of loss, rms): a law does not describe these runs yet; it would need {need}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bend:
    """What a fit card says of residuals that bend: rms as a share of the loss, and what the runs would need."""

    size: float
    text: str


def bend_on_card(warnings: str) -> Bend | None:
    """The bend that a card's warnings state; None without one."""
    found = next((text.strip() for text in warnings.split("; the ") if BENDING in text), "")
    stated = _STATED.search(found)
    return (
        None
        if stated is None
        else Bend(size=float(stated[1]) / 100, text=f"the {found.removeprefix('the ')}")
    )


def spread_warning(table: RunTable, form: str) -> str:
    """Warn of rows that vary in one direction only, and name the form that fits them.

    Args:
        table: the rows to be fitted.
        form: the form asked for; the one-variable forms need no more.

    Returns:
        the warning, or an empty text.

    Raises:
        BadInput: all losses are equal, so that no form fits.
    """
    N, D, L = table.N, table.D, table.L
    if len(L) > 1 and float(np.ptp(L)) <= _SAME * float(L[0]):
        others = ", ".join(table.ignored_columns[:8])
        hint = f" (not read: {others})" if others else ""
        raise BadInput(
            f"all {len(L)} losses are {L[0]:.6g}; a law needs losses that differ: is another column the loss? "
            f"--columns loss=NAME{hint}"
        )
    if form.startswith("L(") or len(L) < 2:
        return ""
    for values, what, alone, other in (
        (N, f"N is {format_size(N[0])}", "L(D)", "sizes"),
        (D, f"D is {format_size(D[0])}", "L(N)", "numbers of tokens"),
        (D / N, f"D/N is {D[0] / N[0]:.3g}", "L(C)", "ratios of tokens to parameters"),
    ):
        if float(np.ptp(np.log(values))) <= _NEARLY:
            return (
                f"{what} in all {len(L)} rows, so they do not tell the exponents of N and D apart: --form '{alone}' fits the "
                f"one variable they have; an optimum needs runs of other {other}"
            )
    return ""


def small_run_warning(N: Array, D: Array, L: Array) -> str:
    """Warn of a smallest rung that lies off the law of the other rows, by both of two forms.

    Args:
        N: parameters, shape (n,).
        D: tokens, shape (n,).
        L: losses in nats per token, shape (n,).

    Returns:
        the warning, or an empty text.
    """
    C = N * D
    low = C.min() * RUNG >= C
    if low.mean() > LARGEST_SHARE or (~low).sum() < FEWEST_OTHERS:
        return ""
    if len(np.unique(np.log(N[~low]).round(2))) < FEWEST_OTHER_SIZES:
        return ""
    others = Table.of(N[~low], D[~low], L[~low]).thinned()
    offsets = []
    for candidate in (CANDIDATES[1], CANDIDATES[-1]):
        problem = others.problem(candidate)
        theta = solve(problem, candidate.shape)
        spread = (
            float(np.median(np.abs(predict_log(problem, theta, others.N, others.D) - np.log(others.L))))
            / Z_50
        )
        offset = float(np.mean(np.log(L[low]) - predict_log(problem, theta, N[low], D[low])))
        if abs(offset) < max(LEAST, SIGNAL * spread / np.sqrt(low.sum())):
            return ""
        offsets.append(offset)
    if offsets[0] * offsets[1] < 0:
        return ""
    least = min(offsets, key=abs)
    return (
        f"the {low.sum()} smallest runs lie {least:+.1%} of loss off the law of the others: "
        "an untuned warm-up or learning rate bends a law; tune them or leave them out"
    )
