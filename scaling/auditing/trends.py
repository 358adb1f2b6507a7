"""Checks across rows: one-sided predictions, exponents against a quoted law, residuals of a fit to a table of runs."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from families import ModelSpec, params_kaplan
from families.units import BadInput, format_size

from ..budget import PF_DAY
from ..fitting.forms import Status
from ..laws import KaplanFrontier, Law
from ..runs import Run, RunTable
from ..runs.columns import folded
from ..stats import Array, format_loss
from .arithmetic import LARGEST_LOSS, SIZE_FIELDS, columns_swapped, tokens_of
from .findings import Finding, Verdict
from .specs import spec_of
from .tables import TableEntry

FEWEST_ROWS = 8  # for a fit of five constants with residuals to examine
_SIGNIFICANT = 3.0  # standard errors
_MATERIAL = 0.003  # relative loss: less is below the noise of seeds
_OUTLIER = 6.0  # robust standard deviations
_SAME = 1.01  # ratio up to which values count as one
_SMALLEST_BAND = 1.25  # ratio that continuous sizes of the smallest rung span
_FALSE = ("false", "0", "0.0", "no", "n", "f")
_LAW_TOLERANCE = 0.005  # nats within which a prediction is that of a law: rounding of printed losses


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierFit:
    """L = (scale/C)^exponent by least squares in logarithms; C in PF-days, L in nats per token.

    Attributes:
        exponent: positive where losses fall with compute.
        exponent_80: Student's interval on points − 2 degrees of freedom; None for 2 points.
        scale: PF-days; infinite where the losses hardly change.
        crossing: compute at which the fit and the law give the same loss, PF-days; infinite where they never do.
    """

    exponent: float
    exponent_80: tuple[float, float] | None
    scale: float
    crossing: float

    def loss(self, compute: float) -> float:
        """Loss in nats per token at `compute` PF-days."""
        return float((self.scale / compute) ** self.exponent)


def frontier_fit(law: KaplanFrontier, compute: Array, loss: Array) -> FrontierFit:
    """Fit points (C in PF-days, L in nats per token), and find where the fit crosses `law`.

    Raises:
        BadInput: fewer than 2 distinct budgets.
    """
    if len(set(compute.tolist())) < 2:
        raise BadInput(f"there are {len(set(compute.tolist()))} distinct budgets; an exponent needs 2")
    x, y = np.log(compute), np.log(loss)
    slope, level = (float(value) for value in np.polyfit(x, y, 1))
    gap = law.L_exponent + slope
    crossing = (law.L_exponent * math.log(law.C_scale) - level) / gap if gap else math.inf
    scale = -level / slope if slope else math.inf
    return FrontierFit(
        exponent=-slope,
        exponent_80=_interval(x, y - level - slope * x, -slope),
        scale=math.exp(scale) if scale < 700 else math.inf,
        crossing=math.exp(crossing) if crossing < 700 else math.inf,
    )


def _interval(x: Array, residuals: Array, exponent: float) -> tuple[float, float] | None:
    freedom = len(x) - 2
    if freedom < 1:
        return None
    from scipy.special import stdtrit

    spread = float(np.sqrt((residuals @ residuals) / freedom / ((x - x.mean()) ** 2).sum()))
    half = float(stdtrit(freedom, 0.9)) * spread
    return exponent - half, exponent + half


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A row's predicted and actual loss, nats per token; spec: its shape, None where it states none."""

    entry: TableEntry
    spec: ModelSpec | None
    predicted: float
    actual: float


def outcomes(rows: Sequence[TableEntry]) -> list[Outcome]:
    """The rows with a predicted and an actual loss or perplexity."""
    return [
        Outcome(entry=entry, spec=spec_of(entry), predicted=predicted, actual=actual)
        for entry in rows
        if (predicted := _loss(entry, "_predicted")) is not None and (actual := _loss(entry, "")) is not None
    ]


def fit_outcomes(scored: Sequence[Outcome], law: KaplanFrontier) -> tuple[FrontierFit, Array]:
    """Power law through the actual losses of rows with a shape.

    Returns:
        The fit, and the rows' compute by the law at their shapes, shape (rows,), PF-days.

    Raises:
        BadInput: fewer than 2 distinct budgets.
    """
    shaped = [(outcome.spec, outcome.actual) for outcome in scored if outcome.spec is not None]
    compute = np.array([law.compute(params_kaplan(spec)) for spec, _ in shaped])
    return frontier_fit(law, compute, np.array([actual for _, actual in shaped])), compute


def prediction_findings(rows: Sequence[TableEntry]) -> list[Finding]:
    """Predicted against actual perplexity, and both against Kaplan's frontier."""
    scored = outcomes(rows)
    if not scored:
        return []
    findings: list[Finding] = []
    errors = [math.exp(outcome.predicted - outcome.actual) - 1 for outcome in scored]
    for outcome, error in zip(scored, errors, strict=True):
        headers = outcome.entry.headers
        findings.append(
            Finding(
                check="prediction",
                where=outcome.entry.where,
                column=headers.get("ppl_predicted", headers.get("loss_predicted", "")),
                stated=f"{math.exp(outcome.predicted):.2f} for {math.exp(outcome.actual):.2f}",
                recomputed=f"{error:+.1%}",
                verdict=Verdict.OK if abs(error) < 0.02 else Verdict.SUSPICIOUS,
                explanation=f"perplexity; {outcome.predicted - outcome.actual:+.4f} nats per token",
                severity=abs(error),
            )
        )
    if len(scored) >= 3 and (min(errors) > 0 or max(errors) < 0):
        sizes = [abs(error) for error in errors]
        falling = sizes == sorted(sizes, reverse=True)
        trend = ", by less the larger the model: the losses fall more slowly than the law" if falling else ""
        findings.append(
            Finding(
                check="one-sided errors",
                where=f"all {len(scored)} rows",
                stated=", ".join(f"{error:+.1%}" for error in errors),
                verdict=Verdict.SUSPICIOUS,
                explanation=f"every prediction is too {'high' if errors[0] > 0 else 'low'}{trend}",
                severity=max(sizes),
            )
        )
    return findings + _frontier_findings(scored)


def _loss(entry: TableEntry, suffix: str) -> float | None:
    """The more precise of log perplexity and loss, nats per token; None without either."""
    ppl, loss = entry.numbers.get("ppl" + suffix), entry.numbers.get("loss" + suffix)
    if ppl is not None and (loss is None or ppl.relative < loss.unit / 2):
        return math.log(ppl.value)
    return None if loss is None or loss.value > LARGEST_LOSS else loss.value


def _frontier_findings(scored: Sequence[Outcome]) -> list[Finding]:
    """Predictions that are Kaplan's L(C_min(N)), and the exponent of the actual losses on the same axis."""
    law = KaplanFrontier()
    shaped = [(outcome, outcome.spec) for outcome in scored if outcome.spec is not None]
    findings: list[Finding] = []
    for outcome, spec in shaped:
        N = params_kaplan(spec)
        frontier = law.loss(N)
        if abs(outcome.predicted - frontier) < _LAW_TOLERANCE:
            findings.append(
                Finding(
                    check="law",
                    where=outcome.entry.where,
                    stated=f"{math.exp(outcome.predicted):.2f}",
                    recomputed=f"{math.exp(frontier):.5f}",
                    verdict=Verdict.OK,
                    explanation=f"Kaplan et al. 2020's frontier (3.1e8/C_min)^0.050 at C_min(N), N = {N:,} without "
                    "embeddings",
                )
            )
    budgets = {law.compute(params_kaplan(spec)) for _, spec in shaped}
    if len(findings) < len(shaped) or len(shaped) < 3 or len(budgets) < 2:
        return findings  # seeds of one shape have no exponent
    own, compute = fit_outcomes(scored, law)
    gap = law.L_exponent - own.exponent
    differs = abs(gap) > 0.02 * law.L_exponent
    largest = shaped[int(compute.argmax())][0].entry.name
    crossing = (
        f"; the fit crosses the law at {own.crossing / compute.max():.1f}x the budget of {largest}, "
        f"{format_size(own.crossing * PF_DAY)} FLOPs, beyond which the law is too "
        + ("optimistic" if gap > 0 else "pessimistic")
    )
    findings.append(
        Finding(
            check="exponent",
            where=f"all {len(shaped)} rows",
            column=shaped[0][0].entry.headers.get("loss", ""),
            stated=f"{law.L_exponent:.3f} (the law's)",
            recomputed=f"{own.exponent:.4f}",
            verdict=Verdict.SUSPICIOUS if differs else Verdict.OK,
            explanation="of the actual losses against C_min(N)" + (crossing if differs else ""),
            severity=abs(gap),
        )
    )
    return findings


def observations(rows: Sequence[TableEntry]) -> tuple[list[Run], tuple[str, ...]]:
    """The rows with a size, tokens and a loss as runs, and notes on what was left out or read otherwise.

    N is counted by the convention that most rows state. Where no column says which rows are annealed and one run has
    several, the last of each run counts.
    """
    stated = Counter(field for entry in rows for field in SIZE_FIELDS if field in entry.numbers)
    if not stated:
        return [], ()
    size_field = max(SIZE_FIELDS, key=lambda field: stated[field])
    swapped = columns_swapped(rows)
    runs: list[Run] = []
    for entry in rows:
        tokens, loss, size = tokens_of(entry), _loss(entry, ""), entry.numbers.get(size_field)
        if tokens is None or loss is None or size is None or loss <= 0:
            continue
        unique = entry.numbers.get("unique_tokens")
        if unique is not None and swapped and "tokens" in entry.numbers:
            tokens, unique = unique.value, entry.numbers["tokens"]
        values = {
            "run": entry.name or entry.where,
            "group": entry.words.get("group", ""),
            size_field: size.value,
            "tokens": tokens,
            "loss": loss,
            "unique_tokens": tokens if unique is None else min(unique.value, tokens),
            "annealed": entry.words.get("annealed", "").lower() not in _FALSE,
        }
        runs.append(Run.model_validate(values))
    notes = ["unique_tokens and tokens are read the other way round for the fit"] if swapped and runs else []
    by_run = {entry.name for entry in rows if folded(entry.headers.get("name", "")).startswith("run")}
    if by_run and not any("annealed" in entry.words for entry in rows):
        last: dict[tuple[str, str, float], Run] = {}
        for run in runs:
            key = (run.run, run.group, run.params or run.params_non_embedding or 0)
            if key not in last or run.tokens >= last[key].tokens:
                last[key] = run
        if len(last) < len(runs) and any(run.run in by_run for run in runs):
            notes.append(
                f"{len(runs)} rows are of {len(last)} runs and no column annealed says which are final: the last row of "
                "each run is fitted"
            )
            runs = list(last.values())
    return runs, tuple(notes)


def residual_findings(runs: Sequence[Run]) -> list[Finding]:
    """A Chinchilla fit of each group with 8 rows or more: its status, trends, outliers, and its smallest size."""
    findings: list[Finding] = []
    left: list[str] = []
    for group, members in RunTable.of(runs).by_group().items():
        annealed = members.select(lambda run: run.annealed)
        if len(annealed) >= FEWEST_ROWS:
            findings += _residuals(group or "all rows", annealed)
        else:
            left.append(f"{group or 'all rows'} {len(annealed)}")
    if left and not findings and len(runs) >= FEWEST_ROWS:
        shown = ", ".join(left[:4]) + (", …" if len(left) > 4 else "")
        cause = f"{FEWEST_ROWS} annealed rows of one group are needed; there are: {shown}"
        findings.append(_not_fitted(f"{len(runs)} rows", cause))
    return findings


def _not_fitted(where: str, cause: str, verdict: Verdict = Verdict.OK) -> Finding:
    return Finding(check="residuals", where=where, verdict=verdict, explanation=f"not fitted: {cause}")


def _residuals(where: str, runs: Sequence[Run]) -> list[Finding]:
    from ..fitting.fit import REPEATED, fit  # scipy stays unloaded until it is needed

    try:
        table = RunTable.of(runs)
        repeats = bool((table.D > table.U * (1 + 1e-9)).any())
        sizes, budgets = _distinct(table.N), _distinct(table.D)
        if min(sizes, budgets) < 3:
            return [
                _not_fitted(
                    where,
                    f"a law of N and D needs three sizes and three token counts; there are {sizes} and {budgets}",
                )
            ]
        fitted = fit(runs, form=REPEATED if repeats else "chinchilla", bootstrap=0)
    except BadInput as error:
        return [_not_fitted(where, str(error), Verdict.SUSPICIOUS)]
    if fitted.status is not Status.OK:
        cause = "the rows do not follow a Chinchilla law, or do not identify its constants: "
        cause += f"{fitted.status.value}, {fitted.detail or fitted.status.message}"
        unidentified = fitted.status in (Status.ILL_CONDITIONED, Status.TOO_FEW)
        verdict = Verdict.OK if unidentified else Verdict.SUSPICIOUS
        return [_not_fitted(where, cause, verdict)]
    expected = fitted.predict(table.N, table.D, unique_tokens=table.U, force=True).loss
    residual = np.log(table.L) - np.log(expected)
    scatter = float(1.4826 * np.median(np.abs(residual - np.median(residual))))
    findings: list[Finding] = []
    limit = max(_OUTLIER * scatter, _MATERIAL)
    for index in np.flatnonzero(np.abs(residual) > limit):
        findings.append(
            Finding(
                check="outlier",
                where=f"{where}: {runs[int(index)].run}",
                column="loss",
                stated=format_loss(float(table.L[index])),
                recomputed=format_loss(float(table.L[index] / math.exp(residual[index]))),
                verdict=Verdict.SUSPICIOUS,
                explanation=f"{math.expm1(residual[index]):+.1%} against a Chinchilla fit of the group, whose scatter is "
                f"{scatter:.2%}",
                severity=abs(float(residual[index])),
            )
        )
    findings += _trend(where, table.N, table.D, residual)
    if not repeats:
        findings += _smallest_size(where, runs, table.N, table.D, table.L)
    off = (
        f"{len(findings)} findings"
        if len(findings) > 1
        else "1 finding"
        if findings
        else "no trend, no outlier"
    )
    findings.append(
        Finding(
            check="residuals",
            where=where,
            recomputed=f"{scatter:.2%}",
            verdict=Verdict.OK,
            explanation=f"scatter about a Chinchilla fit of {len(runs)} rows; {off}",
        )
    )
    return findings


def _distinct(values: Array) -> int:
    """Number of distinct values, where each starts a group of those up to 1 % above it.

    Groups are of bounded width: neighbours 1 % apart would chain thousands of continuous sizes into one.
    """
    ordered = np.unique(values)
    count, place = 0, 0
    while place < len(ordered):
        count += 1
        place = int(np.searchsorted(ordered, ordered[place] * _SAME, side="right"))
    return count


def _trend(where: str, N: Array, D: Array, residual: Array) -> list[Finding]:
    """Curvature left by the fit: residuals against the squares of centred log N, log D and log C."""
    findings = []
    for name, values in (("N", N), ("D", D), ("C", N * D)):
        axis = np.log(values)
        axis = axis - axis.mean()
        if len(np.unique(axis.round(3))) < 4:
            continue
        basis = np.stack([np.ones_like(axis), axis, axis**2], axis=1)
        solution, *_ = np.linalg.lstsq(basis, residual, rcond=None)
        rest = residual - basis @ solution
        variance = float(rest @ rest) / max(1, len(axis) - 3)
        error = math.sqrt(variance * np.linalg.pinv(basis.T @ basis)[2, 2])
        swing = float(solution[2] * np.max(axis**2))
        if error > 0 and abs(solution[2]) > _SIGNIFICANT * error and abs(swing) > _MATERIAL:
            findings.append(
                Finding(
                    check="residual trend",
                    where=where,
                    column=name,
                    recomputed=f"{swing:+.1%}",
                    verdict=Verdict.SUSPICIOUS,
                    explanation=f"residuals are curved in log {name} by {abs(solution[2]) / error:.1f} standard errors, "
                    f"with both ends {'above' if swing > 0 else 'below'} the fit; causes are untuned small runs (Porian "
                    "et al. 2024) or a wrong form",
                    severity=abs(swing),
                )
            )
    return findings


def _smallest_size(where: str, runs: Sequence[Run], N: Array, D: Array, L: Array) -> list[Finding]:
    """The rows of the smallest size against a fit to the others, in standard errors of that prediction.

    Where nearly every row has a size of its own, those up to _SMALLEST_BAND times the smallest count as one.
    """
    from ..fitting.fit import fit

    small = N.min() * (1.001 if _distinct(N) < len(N) / 2 else _SMALLEST_BAND) >= N
    rest = [run for run, out in zip(runs, small, strict=True) if not out]
    if len(rest) < FEWEST_ROWS or len(np.unique(N[~small])) < 3:
        return []
    try:
        law = fit(rest, form="chinchilla", bootstrap=0).main_form.law
    except BadInput:
        return []
    residual = np.log(L) - np.log(law.loss(N, D))
    slopes = _slopes(law, N, D)
    freedom = max(1, int((~small).sum()) - slopes.shape[1])
    variance = float(residual[~small] @ residual[~small]) / freedom
    covariance = np.linalg.pinv(slopes[~small].T @ slopes[~small])
    mean = slopes[small].mean(axis=0)
    error = math.sqrt(variance * (1 / small.sum() + float(mean @ covariance @ mean)))
    off = float(residual[small].mean())
    if abs(off) < max(_SIGNIFICANT * error, _MATERIAL):
        return []
    return [
        Finding(
            check="smallest rung",
            where=f"{where}: N = {format_size(float(N.min()))}",
            column="loss",
            recomputed=f"{math.expm1(off):+.1%}",
            verdict=Verdict.SUSPICIOUS,
            explanation=f"against the larger sizes' prediction for its {int(small.sum())} rows, "
            f"{abs(off) / error if error else math.inf:.1f} standard errors: its learning rate, batch or warm-up may be "
            "untuned, which would bias the law",
            severity=abs(off),
        )
    ]


def _slopes(law: Law, N: Array, D: Array) -> Array:
    """Derivatives of log L by log E, log A, log B, alpha and beta, shape (n, 5)."""
    a, b, loss = law.A * N**-law.alpha, law.B * D**-law.beta, law.loss(N, D)
    return np.asarray(
        np.stack([law.E / loss, a / loss, b / loss, -a * np.log(N) / loss, -b * np.log(D) / loss], axis=1)
    )
