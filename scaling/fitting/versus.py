"""Compute multiplier of one arm over another, as a function of scale: does a change pay, and still when larger?

Both arms share one general form. Arm B's N and D count √m times each, so that m is the factor by which B uses compute as
if there were more of it, at any ratio of D to N: log m = power + trend·(log C − middle). Intervals are Student's t with
the residuals' degrees of freedom.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np
from scipy.stats import t as student

from families.units import BadInput, format_size

from ..runs import RunTable
from ..stats import Array, Interval
from .columns import choose
from .coordinates import Coordinate, multiplier
from .ensemble import PRIOR, USUAL_NOISE
from .joint import LAW, Rows, model
from .reduction import reduce_rows

FEWEST_RUNS, FEWEST_SCALES = 2, 2  # of each arm

FEWEST_TOGETHER = 6  # runs

PAYS = (
    0.9  # central level whose lower bound must lie above 1: at most 5 % of changes without effect seem to pay
)

CONSTANT = (
    1.25  # factor within which m must stay over the fitted range, at the same level, to count as constant
)

SCALES = (1.0, 10.0, 100.0)  # times the largest compute that both arms have

POWER_WIDTH, TREND_WIDTH = 1.0, 0.1  # of the weak prior, the second per factor e of compute

STRENGTH = 0.1  # of the law's prior: at 1 it bends laws with a low floor, and intervals cover too much

STEPS, ROUNDS = 40, 3

SAME_SCALE = 0.1  # of log C within which runs are of one scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiplier:
    """m at a compute: B reaches with C FLOPs what A reaches with m·C.

    Args:
        C: FLOPs, 6·N·D.
        value: the estimate.
        interval_80: central 80 % interval.
        interval_90: central 90 % interval; B pays where its lower bound is above 1.
    """

    C: float
    value: float
    interval_80: Interval
    interval_90: Interval

    @property
    def verdict(self) -> str:
        """Pays, costs, or undecided, at this compute."""
        return "pays" if self.interval_90[0] > 1 else "costs" if self.interval_90[1] < 1 else "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Versus:
    """The comparison of two arms.

    Args:
        names: of A and B.
        runs: of A and B.
        power: log m at the middle of the rows.
        trend: of log m per factor e of compute.
        covariance: of the two, shape (2, 2).
        freedom: degrees of freedom of the residuals.
        noise: standard deviation of log loss.
        middle: log C from which the trend counts.
        C: least and largest compute that both arms have.
        cost: FLOPs of a token and parameter of B over A's, by `compute`; 1 where it is not stated.
        settings: what was retuned for each arm, as text.
        information: J'J/noise² of all constants, with the prior, shape (p, p), for `decide`.
        q: all constants, shape (p,).
        log_N: middle of log N.
        log_D: middle of log D.
    """

    names: tuple[str, str]
    runs: tuple[int, int]
    power: float
    trend: float
    covariance: Array
    freedom: float
    noise: float
    middle: float
    C: Interval
    cost: float
    settings: str
    information: Array
    q: Array
    log_N: float
    log_D: float

    def at(self, C: float) -> Multiplier:
        """The multiplier at a compute, less what B costs more for a token."""
        offset = np.array([1.0, log(C) - self.middle])
        value = self.power + self.trend * offset[1] - log(self.cost)
        error = float(np.sqrt(offset @ self.covariance @ offset))
        bounds = [
            tuple(exp(value + sign * student.ppf((1 + level) / 2, self.freedom) * error) for sign in (-1, 1))
            for level in (0.8, PAYS)
        ]
        return Multiplier(C=C, value=exp(value), interval_80=_two(bounds[0]), interval_90=_two(bounds[1]))

    @property
    def scaling(self) -> str:
        """Growing, shrinking, constant or undecided: how m moves with compute."""
        half = float(student.ppf((1 + PAYS) / 2, self.freedom) * np.sqrt(self.covariance[1, 1]))
        low, high = self.trend - half, self.trend + half
        if low > 0 or high < 0:
            return "growing" if low > 0 else "shrinking"
        span = max(log(self.C[1] / self.C[0]), 1.0)
        return "constant" if max(-low, high) * span < log(CONSTANT) else "undecided"

    @property
    def scaling_text(self) -> str:
        """How m moves with compute, as a clause."""
        if self.scaling == "undecided":
            return "whether the multiplier changes with compute is undecided"
        return f"the compute multiplier is {self.scaling} with compute".replace(
            "constant with compute", "constant"
        )

    @property
    def verdict(self) -> str:
        """Pays, costs or undecided, at the largest compute that both arms have."""
        return self.at(self.C[1]).verdict

    @property
    def pays_from(self) -> float | None:
        """Least compute from which on B pays, up to 100 times the data; None where it does not pay there."""
        grid = np.geomspace(self.C[0], SCALES[-1] * self.C[1], 121)
        pays = [self.at(float(C)).verdict == "pays" for C in grid]
        if not pays[-1]:
            return None
        first = len(pays) - next((i for i, ok in enumerate(reversed(pays)) if not ok), len(pays))
        return float(grid[first])

    @property
    def crossing(self) -> float | None:
        """Compute at which the estimate of m is 1; None outside the data and 100 times beyond."""
        if not self.trend:
            return None
        C = (
            exp(self.middle + (log(self.cost) - self.power) / self.trend)
            if abs(self.power / self.trend) < 300
            else 0.0
        )
        return C if self.C[0] <= C <= SCALES[-1] * self.C[1] else None

    def lines(self) -> list[str]:
        """The comparison as text, the conclusion first."""
        a, b = self.names
        words = {"pays": f"{b} pays over {a}", "costs": f"{b} costs more than {a}", "undecided": "undecided"}
        lines = [f"{words[self.verdict]} at {format_size(self.C[1])} FLOPs; {self.scaling_text}"]
        for times in SCALES:
            found = self.at(times * self.C[1])
            low, high = found.interval_80
            lines.append(
                f"at {times:g}x the data, {format_size(found.C)} FLOPs: {found.value:.3f} times the compute "
                f"(80 %: {low:.3f} to {high:.3f}): {found.verdict}"
            )
        if (C := self.pays_from) is not None:
            lines.append(f"pays from {format_size(C)} FLOPs on, up to 100 times the data")
        if (C := self.crossing) is not None:
            lines.append(f"the estimate crosses 1 at {format_size(C)} FLOPs")
        if self.cost != 1:
            lines.append(f"{b} costs {self.cost:.3f} times the FLOPs for a token, which is taken off")
        lines.append(
            f"{self.runs[0]} runs of {a}, {self.runs[1]} of {b}; run noise {self.noise:.2%}, "
            f"{self.freedom:.3g} degrees of freedom; {self.settings}"
        )
        return lines


def _two(bounds: Sequence[float]) -> Interval:
    return float(bounds[0]), float(bounds[1])


def versus(A: RunTable, B: RunTable, *, names: tuple[str, str] = ("A", "B"), seed: int = 0) -> Versus:
    """Compare two arms: tables of runs that differ in one change.

    Args:
        A: runs without the change.
        B: runs with it.
        names: of the two.
        seed: of the fits of their settings.

    Raises:
        BadInput: an arm has too few runs or scales, the two count N differently, or were evaluated on different sets.
    """
    tables = [_checked(table, name) for table, name in zip((A, B), names, strict=True)]
    if tables[0].convention != tables[1].convention:
        raise BadInput(
            f"{names[0]} counts {tables[0].convention} parameters and {names[1]} {tables[1].convention}"
        )
    sets = {run.eval_set for table in tables for run in table}
    if len(sets) > 1:
        raise BadInput(
            f"the arms have {len(sets)} eval sets ({', '.join(map(repr, sorted(sets)))}); they do not compare"
        )
    if sum(_runs(table) for table in tables) < FEWEST_TOGETHER:
        raise BadInput(
            f"{names[0]} and {names[1]} have {' and '.join(str(_runs(t)) for t in tables)} runs; "
            f"{FEWEST_TOGETHER} are needed together"
        )
    reduced, told = [], []
    for table, name in zip(tables, names, strict=True):
        found, _ = reduce_rows(table, choose(table, None, {}, seed), bootstrap=0, seed=seed)
        at_best = found is not None and all(part.kind == "setting" for part in found.coordinates.parts)
        reduced.append(found.effective if found is not None and at_best else table)
        told.append(
            f"{name} at its best {', '.join(found.coordinates.names)}"
            if found is not None and at_best
            else ""
        )
    both = RunTable([*reduced[0], *reduced[1]], tables[0].convention).with_arrays(
        **{key: np.concatenate([getattr(table, key) for table in reduced]) for key in ("N", "D", "L")}
    )
    arm = np.repeat([0.0, 1.0], [len(table) for table in reduced])
    clusters = np.concatenate([reduced[0].cluster, reduced[1].cluster + 1 + reduced[0].cluster.max()])
    part = multiplier("arm", "C", level="B")
    rows = Rows.of(both.N, both.D, both.L, {part.key: arm}, clusters)
    weights = 1 / np.bincount(clusters)[clusters]
    q, noise, information, freedom = _fit(rows, weights)
    covariance = np.asarray(np.linalg.inv(information)[LAW:, LAW:], dtype=np.float64)
    shared = [np.log(6 * t.N * t.D) for t in tables]
    low, high = max(float(c.min()) for c in shared), min(float(c.max()) for c in shared)
    if low > high:
        raise BadInput(f"{names[0]} and {names[1]} share no compute: they do not compare")
    return Versus(
        names=names,
        runs=(_runs(tables[0]), _runs(tables[1])),
        power=float(q[LAW]),
        trend=float(q[LAW + 1]),
        covariance=covariance,
        freedom=freedom,
        noise=noise,
        middle=rows.log_N + rows.log_D + log(6),
        C=(exp(low), exp(high)),
        cost=_cost(*tables),
        settings="; ".join(filter(None, told)) or "settings as they were trained",
        information=information,
        q=q,
        log_N=rows.log_N,
        log_D=rows.log_D,
    )


def _runs(table: RunTable) -> int:
    return int(table.cluster.max()) + 1


def _checked(table: RunTable, name: str) -> RunTable:
    table = table.select(lambda run: run.annealed)
    if not table:
        raise BadInput(f"{name} has no annealed runs")
    scales = len(np.unique((np.log(table.N * table.D) / SAME_SCALE).round()))
    if _runs(table) < FEWEST_RUNS or scales < FEWEST_SCALES:
        count = _runs(table)
        raise BadInput(
            f"{name} has {count} run{'s' * (count != 1)} at {scales} scale{'s' * (scales != 1)}; a comparison needs at "
            f"least {FEWEST_RUNS} runs at {FEWEST_SCALES} scales of each arm"
        )
    return table


def _cost(A: RunTable, B: RunTable) -> float:
    """FLOPs for a token and parameter of B over A's, where both state their compute as counted exactly."""
    ratios = []
    for table in (A, B):
        if not all(run.compute is not None and run.compute_kind == "exact" for run in table):
            return 1.0
        ratios.append(float(np.median(table.C / (table.N * table.D))))
    return ratios[1] / ratios[0]


def _fit(rows: Rows, weights: Array) -> tuple[Array, float, Array, float]:
    """Weighted least squares with weak priors: q (p,), noise, information (p, p), degrees of freedom.

    Every training run counts once: `weights` are one over the rows of a run.
    """
    part = [multiplier("arm", "C", level="B")]
    middle = np.r_[PRIOR.centre(float(rows.y.min())), 0.0, 0.0]
    width = np.r_[PRIOR.widths / np.sqrt(STRENGTH), POWER_WIDTH, TREND_WIDTH]
    q, noise = middle.copy(), 3 * USUAL_NOISE
    runs = int(rows.cluster.max()) + 1
    freedom, information = 1.0, np.eye(len(q))
    for _ in range(ROUNDS):
        prior = noise**2 / width**2
        q = _descend(part, rows, q, weights, prior, middle)
        predicted, by, _ = model(part, q, rows)
        data = (by * weights) @ by.T
        spent = float(np.trace(np.linalg.solve(data + np.diag(prior), data)))
        freedom = max(runs - spent, 1.0)
        residual = predicted - rows.y
        noise = float(np.sqrt((weights * residual**2).sum() / freedom))
        noise = max(noise, 1e-6)
        information = data / noise**2 + np.diag(1 / width**2)
    return q, noise, information, freedom


def _descend(
    part: Sequence[Coordinate], rows: Rows, q: Array, weights: Array, prior: Array, middle: Array
) -> Array:
    """Levenberg-Marquardt on the weighted squares with a normal prior."""
    damping = 1e-3

    def cost(q: Array) -> tuple[float, Array, Array]:
        predicted, by, _ = model(part, q, rows)
        r, off = predicted - rows.y, q - middle
        value = float((weights * r * r).sum() + (prior * off * off).sum())
        return value, by @ (weights * r) + prior * off, (by * weights) @ by.T + np.diag(prior)

    value, slope, hessian = cost(q)
    for _ in range(STEPS):
        step = np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)), slope)
        trial = q - step * min(1.0, 2 / max(float(np.abs(step).max()), 1e-300))
        new = cost(trial)
        if new[0] < value:
            gain = value - new[0]
            q, (value, slope, hessian) = trial, new
            damping = max(damping * 0.2, 1e-9)
            if gain <= 1e-10 * value:
                break
        else:
            damping *= 8
            if damping > 1e8:
                break
    return q


@dataclass(frozen=True, slots=True, kw_only=True)
class Deciding:
    """A pair of runs, one of each arm, or several, that would narrow m at a target compute.

    Args:
        C: compute of each run.
        pairs: of runs.
        flops: of all of them.
        half_width: of the 80 % interval of log m at the target, afterwards.
        decides: true where m at the target would then be told from 1, if the estimate stays.
    """

    C: float
    pairs: int
    flops: float
    half_width: float
    decides: bool


def open_question(found: Versus) -> float | None:
    """The least of 1, 10 and 100 times the data at which it is undecided whether B pays; None where none is."""
    places = (times * found.C[1] for times in SCALES)
    return next((C for C in places if found.at(C).verdict == "undecided"), None)


def decide(found: Versus, *, target: float | None = None) -> list[Deciding]:
    """Pairs of runs that would decide whether B pays at a compute, the cheapest that decides first.

    Args:
        found: the comparison so far.
        target: compute at which to decide (default: `open_question`).
    """
    C = target or open_question(found) or SCALES[-1] * found.C[1]
    part = [multiplier("arm", "C", level="B")]
    ratio = found.log_D - found.log_N
    offset = np.r_[np.zeros(LAW), 1.0, log(C) - found.middle]
    options = []
    places = [*np.geomspace(found.C[0], found.C[1], 3), *(found.C[1] * np.array([3.0, 10.0])), C]
    for place in sorted({float(f"{p:.3g}") for p in places if p <= C * 1.001}):
        log_N = (log(place / 6) - ratio) / 2
        points = Rows(
            x=np.full(2, log_N - found.log_N), z=np.full(2, log_N + ratio - found.log_D), y=np.zeros(2),
            columns={part[0].key: np.array([0.0, 1.0])}, cluster=np.arange(2), log_N=found.log_N, log_D=found.log_D,
        )  # fmt: skip
        by = model(part, found.q, points)[1]
        for pairs in (1, 2, 4, 8):
            more = found.information + pairs * by @ by.T / found.noise**2
            error = float(np.sqrt(offset @ np.linalg.solve(more, offset)))
            freedom = found.freedom + 2 * pairs
            value = found.power + found.trend * offset[-1] - log(found.cost)
            options.append(
                Deciding(
                    C=place,
                    pairs=pairs,
                    flops=2 * pairs * place,
                    half_width=float(student.ppf(0.9, freedom)) * error,
                    decides=abs(value) > float(student.ppf((1 + PAYS) / 2, freedom)) * error,
                )
            )
    return sorted(
        options,
        key=lambda option: (not option.decides, option.flops if option.decides else option.half_width),
    )
