"""What `scaling fit` shows on request: the fan of loss functions, conventions, profiles, isoFLOP approaches."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from families.errors import BadInput
from families.units import format_size

from ..fits import Fit
from ..isoflop import approach_1, approach_2, bias_of_approach_2, isoflops
from ..predictor import Status
from ..runs import Run, columns
from .optimise import SHAPES
from .sensitivity import Profile, conventions, fan, profiles


def sensitivity_report(found: Fit, runs: Sequence[Run]) -> tuple[dict[str, Any], list[str]]:
    """The fan, as JSON and as lines."""
    one = fan(runs, convention=found.convention)
    (low, high), (least, most) = one.interval, one.spread
    lines = [f"N* at {format_size(one.C)} FLOPs under other choices, chinchilla form:"]
    lines += [
        f"  {c.loss:<17}{c.rows:<24}N* {format_size(c.N):>7}  D* {format_size(c.D):>7}  D/N {c.D / c.N:.3g}"
        + ("" if c.status is Status.OK else f"  ({c.status.value})")
        for c in one.choices
    ]
    lines += [
        f"  the choice of loss and outliers moves N* by a factor of {one.factor:.2f} "
        f"({format_size(least)} to {format_size(most)})",
        f"  the noise moves it by a factor of {one.interval_factor:.2f} "
        f"(80 % interval {format_size(low)} to {format_size(high)})",
    ]
    if one.wider:
        lines.append(
            "  warning: that is wider than the interval: the choice of loss function decides N*, not the data"
        )
    if one.outside:
        names = ", ".join(dict.fromkeys(c.loss for c in one.outside))
        lines.append(f"  warning: the interval does not hold for {names}")
    value = {
        "C": one.C,
        "interval_80": one.interval,
        "factor": one.factor,
        "interval_factor": one.interval_factor,
        "wider": one.wider,
        "choices": [
            {"loss": c.loss, "rows": c.rows, "status": c.status.value, "N": c.N, "D": c.D}
            for c in one.choices
        ],
    }
    return value, lines


def conventions_report(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], list[str]]:
    """Exponents by convention, as JSON and as lines."""
    found = conventions(runs)
    lines = ["N* grows as C^a, chinchilla form:"]
    lines += [
        f"  {c.counted:<30}a {c.exponent:.3f}  alpha {c.law.alpha:.3f}  beta {c.law.beta:.3f}" for c in found
    ]
    return [{"counted": c.counted, "exponent": c.exponent, **asdict(c.law)} for c in found], lines


def profiles_of(found: Fit, runs: Sequence[Run]) -> tuple[str, tuple[Profile, ...]]:
    """(form, its exponents' profiles): the form that was fitted, or the general one behind a combination."""
    name = found.forms[0].name if len(found.forms) == 1 else "general"
    table = columns(runs, found.convention)
    if found.predictor.repetition is not None:
        N, D = found.predictor.repetition.effective(table.N, table.D, table.U)
        table = replace(table, N=N, D=D)
    if SHAPES[name].variable == "C":
        table = replace(table, N=6 * table.N * table.D)
    return name, profiles(table, name)


def profile_report(found: Fit, runs: Sequence[Run]) -> tuple[list[dict[str, Any]], list[str]]:
    """Profile likelihood of the exponents, as JSON and as lines."""
    form, shown = profiles_of(found, runs)
    lines = [
        f"profile likelihood, {form} form (alpha and beta times gamma; rows taken as independent):",
        *(
            f"  {p.name:<8}{p.best:.3f}  80 %: {_span(p.interval_80)}  95 %: {_span(p.interval_95)}"
            for p in shown
        ),
    ]
    return [asdict(p) for p in shown], lines


def isoflop_report(found: Fit, runs: Sequence[Run]) -> tuple[dict[str, Any], list[str]]:
    """Approaches 1 and 2 and the bias that approach 2 has on the fitted surface, as JSON and as lines."""
    table = columns(runs, found.convention)
    budgets = isoflops(table)
    lines = [
        f"  {format_size(one.C):>8} FLOPs  {one.points:>3} points  {one.verdict.value:<10}"
        + (f"N* {format_size(one.N)}" if one.N is not None else one.verdict.message)
        for one in budgets
    ]
    value: dict[str, Any] = {
        "isoflops": [
            {"C": one.C, "points": one.points, "verdict": one.verdict.value, "N": one.N} for one in budgets
        ]
    }
    for name in ("approach_1", "approach_2"):
        try:
            power = approach_1(table) if name == "approach_1" else approach_2(budgets)
            value[name] = asdict(power)
            lines.append(f"{name}: N* grows as C^{power.exponent:.3f} ({power.budgets} budgets)")
        except BadInput as error:
            value[name] = None
            lines.append(f"{name}: {error}")
    try:
        bias = bias_of_approach_2(found.law, table)
        value["bias_of_approach_2"] = asdict(bias)
        lines.append(
            f"on the fitted surface approach 2 would say {bias.ratio - 1:+.1%} of N* at {format_size(bias.C)} FLOPs, "
            f"exponent {bias.exponent:.3f} for {bias.true_exponent:.3f}"
        )
    except BadInput as error:
        value["bias_of_approach_2"] = None
        lines.append(f"bias of approach 2: {error}")
    return value, ["isoFLOPs (the parametric fit goes first; these are shown beside it):", *lines]


def _span(bounds: tuple[float | None, float | None]) -> str:
    low, high = (("open" if bound is None else f"{bound:.3f}") for bound in bounds)
    return f"{low} to {high}"
