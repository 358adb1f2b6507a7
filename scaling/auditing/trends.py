"""What rows say together: predictions that err on one side, and losses that leave a fitted surface systematically."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from families import params_kaplan
from families.units import BadInput, format_size

from ..budget import PF_DAY
from ..fitting.forms import Status
from ..laws import KaplanFrontier, Law
from ..runs import Run, by_group, columns
from ..stats import Array
from .arithmetic import LARGEST_LOSS
from .findings import Finding, Verdict
from .shapes import spec_of
from .tables import Entry

# MERGED DOCSTRINGS
# A power law of one's own through a few points of a frontier, and where it crosses the law that foretold them.


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierFit:
    """L = (scale/C)^exponent by least squares in logarithms; C and scale in PF-days, L in nats per token.

    exponent_80: Student's interval on points − 2 degrees of freedom; None for 2 points. crossing: PF-days at which the
    two laws give one loss; infinite where they never do, as scale is where the losses hardly change.
    """

    exponent: float
    exponent_80: tuple[float, float] | None
    scale: float
    crossing: float

    def loss(self, compute: float) -> float:
        """Nats per token at that many PF-days."""
        return float((self.scale / compute) ** self.exponent)


def frontier_fit(law: KaplanFrontier, compute: Array, loss: Array) -> FrontierFit:
    """Fit points (C in PF-days, L in nats per token), and cross the fit with `law`.

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


FEWEST_ROWS = 8  # for a fit of five constants with residuals to look at

_SIGNIFICANT = 3.0  # standard errors

_MATERIAL = 0.003  # relative loss: less is below what seeds do

_OUTLIER = 6.0  # robust standard deviations


def prediction_findings(rows: Sequence[Entry]) -> list[Finding]:
    """Predicted against actual perplexity, and Kaplan's frontier against the predictions and the actual losses."""
    found: list[Finding] = []
    pairs = [(entry, _loss(entry, "_predicted"), _loss(entry, "")) for entry in rows]
    both = [(entry, ours, real) for entry, ours, real in pairs if ours is not None and real is not None]
    if not both:
        return []
    errors = [math.exp(ours - real) - 1 for _, ours, real in both]
    for (entry, ours, real), error in zip(both, errors, strict=True):
        found.append(
            Finding(
                check="prediction",
                where=entry.where,
                column=entry.headers.get("ppl_predicted", entry.headers.get("loss_predicted", "")),
                stated=f"{math.exp(ours):.2f} for {math.exp(real):.2f}",
                recomputed=f"{error:+.1%}",
                verdict=Verdict.OK if abs(error) < 0.02 else Verdict.SUSPICIOUS,
                explanation=f"perplexity; {ours - real:+.3f} nats/token",
                severity=abs(error),
            )
        )
    if len(both) >= 3 and (min(errors) > 0 or max(errors) < 0):
        listed = ", ".join(f"{error:+.1%}" for error in errors)
        sizes = [abs(error) for error in errors]
        falling = sizes == sorted(sizes, reverse=True)
        found.append(
            Finding(
                check="one-sided errors",
                where=f"all {len(both)} rows",
                stated=listed,
                verdict=Verdict.SUSPICIOUS,
                explanation=f"every prediction is too {'high' if errors[0] > 0 else 'low'}"
                + (
                    ", by less the larger the model: the data fall off more slowly than the law"
                    if falling
                    else ""
                ),
                severity=max(sizes),
            )
        )
    return found + _against_frontier(both)


def _loss(entry: Entry, suffix: str) -> float | None:
    """The more precise of log perplexity and loss."""
    ppl, loss = entry.numbers.get("ppl" + suffix), entry.numbers.get("loss" + suffix)
    if ppl is not None and (loss is None or ppl.relative < loss.unit / 2):
        return math.log(ppl.value)
    return None if loss is None or loss.value > LARGEST_LOSS else loss.value


def _against_frontier(both: Sequence[tuple[Entry, float, float]]) -> list[Finding]:
    """Whether the predictions are Kaplan's L(C_min(N)), and which exponent the actual losses have on the same axis."""
    law = KaplanFrontier()
    shaped = [(entry, spec, ours, real) for entry, ours, real in both if (spec := spec_of(entry)) is not None]
    found: list[Finding] = []
    for entry, spec, ours, _ in shaped:
        N = params_kaplan(spec)
        frontier = law.loss(N)
        if abs(ours - frontier) < 0.005:
            found.append(
                Finding(
                    check="law",
                    where=entry.where,
                    stated=f"{math.exp(ours):.2f}",
                    recomputed=f"{math.exp(frontier):.5f}",
                    verdict=Verdict.OK,
                    explanation=f"Kaplan et al. 2020's frontier (3.1e8/C_min)^0.050 at C_min(N), N = {N:,} without "
                    "embeddings",
                )
            )
    compute = np.array([law.compute(params_kaplan(spec)) for _, spec, _, _ in shaped])
    if len(found) < len(shaped) or len(shaped) < 3 or len(np.unique(compute)) < 2:
        return found  # seeds of one shape have no exponent
    actual = [real for _, _, _, real in shaped]
    own = frontier_fit(law, compute, np.array(actual))
    gap = law.L_exponent - own.exponent
    differs = abs(gap) > 0.02 * law.L_exponent
    factor = own.crossing / compute.max()
    found.append(
        Finding(
            check="exponent",
            where=f"all {len(shaped)} rows",
            column=shaped[0][0].headers.get("loss", ""),
            stated=f"{law.L_exponent:.3f} (the law's)",
            recomputed=f"{own.exponent:.4f}",
            verdict=Verdict.SUSPICIOUS if differs else Verdict.OK,
            explanation=f"of the actual losses against C_min(N); the law crosses its own data at {factor:.1f}x the "
            f"budget of {shaped[int(compute.argmax())][0].name}, {format_size(own.crossing * PF_DAY)} FLOPs, and is too "
            + ("optimistic beyond" if gap > 0 else "pessimistic beyond")
            if differs
            else "of the actual losses against C_min(N)",
            severity=abs(gap),
        )
    )
    return found


def residual_findings(runs: Sequence[Run]) -> list[Finding]:
    """A plain fit of each group with 8 rows or more: its status, trends and outliers, and the smallest rung by itself."""
    found: list[Finding] = []
    for group, members in by_group(runs).items():
        annealed = [run for run in members if run.annealed]
        if len(annealed) >= FEWEST_ROWS:
            found += _residuals(group or "all rows", annealed)
    return found


def _residuals(where: str, runs: Sequence[Run]) -> list[Finding]:
    from ..fitting.fit import REPEATED, fit  # scipy stays unloaded until it is needed

    try:
        table = columns(runs)
        repeats = bool((table.D > table.U * (1 + 1e-9)).any())
        if min(_distinct(table.N), _distinct(table.D)) < 3:
            why = "not fitted: a law of N and D needs three sizes and three numbers of tokens"
            return [Finding(check="residuals", where=where, verdict=Verdict.OK, explanation=why)]
        fitted = fit(runs, form=REPEATED if repeats else "chinchilla", bootstrap=0)
    except BadInput as error:
        return [Finding(check="fit", where=where, verdict=Verdict.SUSPICIOUS, explanation=str(error))]
    if fitted.status is not Status.OK:
        why = "no residuals: the rows do not follow a Chinchilla law, or do not tell its constants apart: "
        why += f"{fitted.status.value}, {fitted.detail or fitted.status.message}"
        silent = fitted.status in (Status.ILL_CONDITIONED, Status.TOO_FEW)
        verdict = Verdict.OK if silent else Verdict.SUSPICIOUS
        return [Finding(check="fit", where=where, verdict=verdict, explanation=why)]
    expected = fitted.predict(table.N, table.D, unique_tokens=table.U, force=True).loss
    residual = np.log(table.L) - np.log(expected)
    scatter = float(1.4826 * np.median(np.abs(residual - np.median(residual))))
    found: list[Finding] = []
    limit = max(_OUTLIER * scatter, _MATERIAL)
    for index in np.flatnonzero(np.abs(residual) > limit):
        found.append(
            Finding(
                check="outlier",
                where=f"{where}: {runs[int(index)].run}",
                column="loss",
                stated=f"{table.L[index]:.4g}",
                recomputed=f"{table.L[index] / math.exp(residual[index]):.4g}",
                verdict=Verdict.SUSPICIOUS,
                explanation=f"{math.expm1(residual[index]):+.1%} off a Chinchilla fit of the group, whose scatter is "
                f"{scatter:.2%}",
                severity=abs(float(residual[index])),
            )
        )
    found += _trend(where, table.N, table.D, residual)
    if not repeats:
        found += _smallest(where, runs, table.N, table.D, table.L)
    if not found:
        found.append(
            Finding(
                check="residuals",
                where=where,
                recomputed=f"{scatter:.2%}",
                verdict=Verdict.OK,
                explanation=f"scatter about a Chinchilla fit of {len(runs)} rows; no trend, no outlier",
            )
        )
    return found


def _distinct(values: Array) -> int:
    """How many values, those within 1 % of each other taken for one."""
    return 1 + int((np.diff(np.sort(np.log(values))) > 0.01).sum())


def _trend(where: str, N: Array, D: Array, residual: Array) -> list[Finding]:
    """Curvature that the fit leaves: residuals against the squares of centred log N, log D and log C."""
    found = []
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
            found.append(
                Finding(
                    check="residual trend",
                    where=where,
                    column=name,
                    recomputed=f"{swing:+.1%}",
                    verdict=Verdict.SUSPICIOUS,
                    explanation=f"residuals curve against log {name}, {abs(solution[2]) / error:.1f} standard errors: "
                    f"the ends lie {'above' if swing > 0 else 'below'} the fit; untuned small rungs do this (Porian "
                    "et al. 2024), or the form is wrong",
                    severity=abs(swing),
                )
            )
    return found


def _smallest(where: str, runs: Sequence[Run], N: Array, D: Array, L: Array) -> list[Finding]:
    """The rows of the smallest size against a fit of the others, in units of that prediction's own error."""
    from ..fitting.fit import fit

    small = N.min() * 1.001 >= N
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
            explanation=f"of what the larger sizes foretell for its {int(small.sum())} rows, "
            f"{abs(off) / error if error else math.inf:.1f} standard errors: its learning rate, batch or warm-up may be "
            "untuned, and would bend the law",
            severity=abs(off),
        )
    ]


def _slopes(law: Law, N: Array, D: Array) -> Array:
    """Derivatives of log L by log E, log A, log B, alpha and beta, shape (n, 5)."""
    a, b, loss = law.A * N**-law.alpha, law.B * D**-law.beta, law.loss(N, D)
    return np.asarray(
        np.stack([law.E / loss, a / loss, b / loss, -a * np.log(N) / loss, -b * np.log(D) / loss], axis=1)
    )
