"""Sensitivity of N* to loss function, outlier policy, parameter convention and exponents; reports of `scaling fit`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from families.units import BadInput, format_size

from ..laws import Convention, Law
from ..runs import Run, RunTable
from ..stats import Array
from .certify import certify
from .fit import DELTA, fit
from .forms import Status
from .isoflop import approach_1, approach_2, bias_of_approach_2, isoflops
from .optimise import ALPHA_, BETA_, G_, SHAPES, FormShape, Problem, log_loss, objective
from .predictor import Fit
from .uncertainty import profile

# (δ, tilt) of each loss: a δ above every log residual means squares, one far below them absolute values. A tilt of 10 is the
# asymmetric loss that kyo-takano/chinchilla fits by default, in logarithms.
LOSSES = {
    "log-Huber, 1e-3": (DELTA, 1.0),
    "log-Huber, 1e-2": (10 * DELTA, 1.0),
    "MSE": (10.0, 1.0),
    "LAD": (1e-5, 1.0),
    "lower envelope": (DELTA, 10.0),
}

TRIMMED = 0.05  # share of rows with the largest residuals that the second outlier policy leaves out

CHI_SQUARE = {80: 1.642, 95: 3.841}  # one degree of freedom

SHOWN_RISE = 12.0  # of χ²: how far a profile is followed, about three times the 95 % limit


@dataclass(frozen=True, slots=True, kw_only=True)
class FitVariant:
    """One loss function and outlier policy, and its optimum at the budget of the comparison."""

    loss: str
    rows: str
    law: Law
    status: Status
    N: float
    D: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSensitivity:
    """Optima at C FLOPs under every choice, and the 80 % interval of N* under log-Huber."""

    C: float
    choices: tuple[FitVariant, ...]
    interval: tuple[float, float]

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest N*."""
        sizes = [choice.N for choice in self.choices]
        return min(sizes), max(sizes)

    @property
    def factor(self) -> float:
        """The largest N* over the smallest: the effect of the choice alone."""
        low, high = self.spread
        return high / low

    @property
    def interval_factor(self) -> float:
        """The interval's upper end over its lower: the effect of noise."""
        return self.interval[1] / self.interval[0]

    @property
    def wider(self) -> bool:
        """True if the choice of loss function moves N* more than the noise."""
        return self.factor > self.interval_factor

    @property
    def outside(self) -> tuple[FitVariant, ...]:
        """Choices whose N* lies outside the interval, which therefore does not hold for them."""
        return tuple(
            choice for choice in self.choices if not self.interval[0] <= choice.N <= self.interval[1]
        )


def loss_sensitivity(
    runs: Sequence[Run],
    *,
    convention: Convention | None = None,
    C: float | None = None,
    form: str = "chinchilla",
) -> LossSensitivity:
    """Refit under each loss function, with all rows and without the worst twentieth: optima at C FLOPs.

    Args:
        runs: of one group.
        convention: parameters that N counts.
        C: FLOPs (default: ten times the largest run's).
        form: a named form.
    """
    table = RunTable.of(runs, convention)
    target = 60 * float((table.N * table.D).max()) if C is None else C
    shape = SHAPES[form]
    choices = []
    for name, (delta, tilt) in LOSSES.items():
        problem = replace(Problem.of(table.N, table.D, table.L, delta=delta), tilt=tilt)
        first = certify(problem, shape)
        size = np.abs(log_loss(first.theta[None], problem.x, problem.z)[0] - problem.y)
        keep = size <= np.quantile(size, 1 - TRIMMED)
        rest = Problem.of(table.N[keep], table.D[keep], table.L[keep], delta=delta)
        second = certify(replace(rest, tilt=tilt), shape)
        for rows, certificate in (("all rows", first), (f"without the worst {TRIMMED:.0%}", second)):
            best = certificate.law.allocate(target)
            choices.append(
                FitVariant(
                    loss=name,
                    rows=rows,
                    law=certificate.law,
                    status=certificate.status,
                    N=best.N,
                    D=best.D,
                )
            )
    best = fit(runs, form=form, convention=convention, annealed="all").allocate(target, force=True)
    return LossSensitivity(C=target, choices=tuple(choices), interval=best.N_interval_80 or (best.N, best.N))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConventionFit:
    """Chinchilla's form with N and C counted one way: N* grows as C^exponent."""

    counted: str
    law: Law
    status: Status
    exponent: float


def conventions(runs: Sequence[Run]) -> tuple[ConventionFit, ...]:
    """The exponent of N* under each way to count that every run allows, C = 6·N·D in the same count or in the other.

    The mixed count, N without embeddings against compute with them, is the optimum of the first count with its N
    translated by the runs' own sizes.
    """
    results = []
    ways: dict[Convention, str] = {
        "total": "N and C with embeddings",
        "non_embedding": "N and C without embeddings",
    }
    for name, counted in ways.items():
        try:
            fitted = fit(runs, form="chinchilla", convention=name, annealed="all", bootstrap=0)
        except BadInput:
            continue
        law = fitted.main_form.law
        exponent = law.beta / (law.alpha + law.beta)
        results.append(ConventionFit(counted=counted, law=law, status=fitted.status, exponent=exponent))
    if len(results) == 2:
        total, body = (np.log(RunTable.of(runs, name).N) for name in ways)
        slope = float(np.polyfit(total, body, 1)[0])
        results.append(
            ConventionFit(
                counted="N without, C with embeddings",
                law=results[0].law,
                status=results[0].status,
                exponent=results[0].exponent * slope,
            )
        )
    return tuple(results)


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodProfile:
    """One exponent's profile: the least objective with it held at each value, and where it rises past χ² limits.

    rises is how far the objective lies above its least, in units of χ². A bound of None lies beyond the values tried: the
    data do not set it.
    """

    name: str
    best: float
    values: tuple[float, ...]
    objectives: tuple[float, ...]
    rises: tuple[float, ...]
    interval_80: tuple[float | None, float | None]
    interval_95: tuple[float | None, float | None]


def profiles(table: RunTable, form: str = "chinchilla", points: int = 21) -> tuple[LikelihoodProfile, ...]:
    """Profile likelihood of alpha, beta and, where it is free, gamma.

    The objective's rise is read as half a χ² in units of the residuals' variance, 2·objective/(rows − constants).
    alpha and beta are those of the terms raised to gamma: the slopes of log reducible loss.
    """
    shape = SHAPES[form]
    problem = Problem.of(table.N, table.D, table.L, delta=DELTA)
    certificate = certify(problem, shape)
    floor = float(objective(problem, certificate.theta[None])[0])
    unit = 2 * floor / max(len(table) - len(shape.free), 1)
    results = []
    for name, at in (("alpha", ALPHA_), ("beta", BETA_), ("gamma", G_)):
        if at not in shape.free:
            continue
        centre = float(certificate.theta[at])
        reach = 1.2 if at == G_ else 0.6 * abs(centre)
        low, high = centre - reach, centre + reach
        for _ in range(2):  # a coarse look, then the points where the rise is of interest
            grid = np.concatenate(
                [np.linspace(low, centre, points // 2 + 1), np.linspace(centre, high, points // 2 + 1)[1:]]
            )
            values = _both_ways(problem, shape, certificate.theta, at, grid)
            rises = (values - floor) * 2 / unit
            left, right = _bounds(grid, rises, SHOWN_RISE)
            low, high = low if left is None else left, high if right is None else right
        shown = np.exp(grid) if at == G_ else grid
        bounds = {level: _bounds(shown, rises, limit) for level, limit in CHI_SQUARE.items()}
        results.append(
            LikelihoodProfile(
                name=name,
                best=float(np.exp(centre)) if at == G_ else centre,
                values=tuple(shown.tolist()),
                objectives=tuple(values.tolist()),
                rises=tuple(rises.tolist()),
                interval_80=bounds[80],
                interval_95=bounds[95],
            )
        )
    return tuple(results)


def _both_ways(problem: Problem, shape: FormShape, theta: Array, at: int, grid: Array) -> Array:
    """The least objective along an ascending grid whose middle is the optimum, each point started from its neighbour."""
    half = len(grid) // 2
    down, _ = profile(problem, shape, theta, at, grid[half::-1])
    up, _ = profile(problem, shape, theta, at, grid[half:])
    return np.concatenate([down[:0:-1], up])


def _bounds(values: Array, rise: Array, limit: float) -> tuple[float | None, float | None]:
    """Crossings of the limit below and above the least point, by linear interpolation; None where there is none."""
    low = int(np.argmin(rise))
    left, right = None, None
    for i in range(low, 0, -1):
        if rise[i - 1] >= limit > rise[i]:
            left = float(np.interp(limit, [rise[i], rise[i - 1]], [values[i], values[i - 1]]))
            break
    for i in range(low, len(values) - 1):
        if rise[i + 1] >= limit > rise[i]:
            right = float(np.interp(limit, [rise[i], rise[i + 1]], [values[i], values[i + 1]]))
            break
    return left, right


def sensitivity_report(fitted: Fit, runs: Sequence[Run]) -> tuple[dict[str, Any], list[str]]:
    """Loss sensitivity, as JSON and as lines."""
    result = loss_sensitivity(runs, convention=fitted.convention)
    (low, high), (least, most) = result.interval, result.spread
    lines = [f"N* at {format_size(result.C)} FLOPs under other choices, chinchilla form:"]
    lines += [
        f"  {c.loss:<17}{c.rows:<24}N* {format_size(c.N):>7}  D* {format_size(c.D):>7}  D/N {c.D / c.N:.3g}"
        + ("" if c.status is Status.OK else f"  ({c.status.value})")
        for c in result.choices
    ]
    lines += [
        f"  the choice of loss and outliers moves N* by a factor of {result.factor:.2f} "
        f"({format_size(least)} to {format_size(most)})",
        f"  the noise moves it by a factor of {result.interval_factor:.2f} "
        f"(80 % interval {format_size(low)} to {format_size(high)})",
    ]
    if result.wider:
        lines.append(
            "  warning: that is wider than the interval: the choice of loss function decides N*, not the data"
        )
    if result.outside:
        names = ", ".join(dict.fromkeys(c.loss for c in result.outside))
        lines.append(f"  warning: the interval does not hold for {names}")
    value = {
        "C": result.C,
        "interval_80": result.interval,
        "factor": result.factor,
        "interval_factor": result.interval_factor,
        "wider": result.wider,
        "choices": [
            {"loss": c.loss, "rows": c.rows, "status": c.status.value, "N": c.N, "D": c.D}
            for c in result.choices
        ],
    }
    return value, lines


def conventions_report(runs: Sequence[Run]) -> tuple[list[dict[str, Any]], list[str]]:
    """Exponents by convention, as JSON and as lines."""
    fits = conventions(runs)
    lines = ["N* grows as C^a, chinchilla form:"]
    lines += [
        f"  {c.counted:<30}a {c.exponent:.3f}  alpha {c.law.alpha:.3f}  beta {c.law.beta:.3f}" for c in fits
    ]
    return [{"counted": c.counted, "exponent": c.exponent, **asdict(c.law)} for c in fits], lines


def profiles_of(fitted: Fit, runs: Sequence[Run]) -> tuple[str, tuple[LikelihoodProfile, ...]]:
    """(form, its exponents' profiles): the form that was fitted, or the general one behind a combination."""
    name = fitted.forms[0].name if len(fitted.forms) == 1 else "general"
    table = RunTable.of(runs, fitted.convention)
    if fitted.fitted_repetition is not None:
        N, D = fitted.fitted_repetition.effective(table.N, table.D, table.U)
        table = table.with_arrays(N=N, D=D)
    if SHAPES[name].variable == "C":
        table = table.with_arrays(N=6 * table.N * table.D)
    return name, profiles(table, name)


def profile_report(fitted: Fit, runs: Sequence[Run]) -> tuple[list[dict[str, Any]], list[str]]:
    """Profile likelihood of the exponents, as JSON and as lines."""
    form, shown = profiles_of(fitted, runs)
    lines = [
        f"profile likelihood, {form} form (alpha and beta times gamma; rows taken as independent):",
        *(
            f"  {p.name:<8}{p.best:.3f}  80 %: {_span(p.interval_80)}  95 %: {_span(p.interval_95)}"
            for p in shown
        ),
    ]
    return [asdict(p) for p in shown], lines


def isoflop_report(fitted: Fit, runs: Sequence[Run]) -> tuple[dict[str, Any], list[str]]:
    """Approaches 1 and 2 and the bias that approach 2 has on the fitted surface, as JSON and as lines."""
    table = RunTable.of(runs, fitted.convention)
    budgets = isoflops(table)
    lines = [
        f"  {format_size(curve.C):>8} FLOPs  {curve.points:>3} points  {curve.verdict.value:<10}"
        + (f"N* {format_size(curve.N)}" if curve.N is not None else curve.verdict.message)
        for curve in budgets
    ]
    value: dict[str, Any] = {
        "isoflops": [
            {"C": curve.C, "points": curve.points, "verdict": curve.verdict.value, "N": curve.N}
            for curve in budgets
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
        bias = bias_of_approach_2(fitted.main_form.law, table)
        value["bias_of_approach_2"] = asdict(bias)
        lines.append(
            f"on the fitted surface approach 2 would say {bias.ratio - 1:+.1%} of N* at {format_size(bias.C)} FLOPs, "
            f"exponent {bias.exponent:.3f} for {bias.true_exponent:.3f}"
        )
    except BadInput as error:
        value["bias_of_approach_2"] = None
        lines.append(f"bias of approach 2: {error}")
    return value, ["isoFLOPs, for comparison (the parametric fit is preferred):", *lines]


def _span(bounds: tuple[float | None, float | None]) -> str:
    low, high = (("open" if bound is None else f"{bound:.3f}") for bound in bounds)
    return f"{low} to {high}"
