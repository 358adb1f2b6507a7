"""The fit of one variable: five shapes weighed by evidence and rollouts, drawn to the last value where rollouts miss.

A curve that is predicted to fall by less than rollouts inside it were wrong had better be taken to stay where it is. So the
law's change since the last row, d, counts d²/(d² + v), v the mean squared error of rollouts: the positive part of James and
Stein's estimator (1961) without its edge, and the damped trend of forecasting (Gardner & McKenzie 1985).
"""

from dataclasses import dataclass

import numpy as np

from families.units import BadInput, format_size

from ..laws import Law
from ..runs import RunTable
from ..stats import Array
from .certify import Certificate
from .curve import (
    FORMULAS,
    FREE,
    SLOTS,
    Curve,
    CurveOptimum,
    CurvePosterior,
    optimum,
    posterior,
    sharp_posterior,
)
from .ensemble import EnsembleFit
from .forms import FittedForm, LastValue, ResidualGP, Status

FEWEST_POINTS = 6  # distinct values of the variable

FEWEST_BELOW = 5  # of them below a cut of a rollout

CUTS = (1.5, 2.0, 3.0, 4.0, 8.0)  # factors of the variable below its largest

UNTESTED = 0.01  # rms error of log loss where no cut can be made

SMALLEST_ERROR = 1e-3  # rollout errors below it carry no information (as in `ensemble`)

SPENT = 3  # degrees of freedom of a curve, as for two variables

DRAWS = 200  # of which a prediction is the mean

NEARLY = 0.02  # in the logarithm; sizes, tokens or ratios closer than that do not vary (as in `selection`)

TURNED = 3.0  # standard deviations above the least loss at which the end of a curve has turned up

USED = {
    "power": "E A B alpha",
    "offset": "E A B alpha",
    "saturating": "E A B alpha",
    "broken": "E A B alpha beta gamma",
    "logarithmic": "E A B",
}

WORDS = {"N": "parameters", "D": "tokens", "C": "compute"}

FORM_OF = {"N": "L(N)", "D": "L(D)", "C": "L(C)"}  # plain power law with a floor


def variable_of(N: Array, D: Array) -> str:
    """The one variable of rows: "D" where N is the same throughout, "N" where D is, "C" where D/N is; else empty.

    Args:
        N: parameters, shape (n,).
        D: tokens, shape (n,).
    """
    if len(N) < 2:
        return ""
    spans = {"N": np.ptp(np.log(N)), "D": np.ptp(np.log(D)), "C": np.ptp(np.log(D / N))}
    same = [name for name, span in spans.items() if span <= NEARLY]
    return {"N": "D", "D": "N", "C": "C"}[same[0]] if len(same) == 1 else ""


def values_of(variable: str, N: Array, D: Array) -> Array:
    """The variable of points: N, D, or C = 6·N·D."""
    return {"N": N, "D": D}.get(variable, 6 * N * D)


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveRollout:
    """Posterior means of log loss of each shape beyond a cut, shape (shapes, n), and what came."""

    decades: Array
    predicted: Array
    actual: Array

    @property
    def squares(self) -> Array:
        """Mean squared error of each shape."""
        return np.asarray(((self.predicted - self.actual) ** 2).mean(axis=1))


def curve_rollouts(curve: Curve) -> list[CurveRollout]:
    """Fit below each cut and predict the rest of the observed part."""
    found, seen = [], set()
    for cut in CUTS:
        edge = float(curve.x[-1]) / cut * (1 + 1e-9)
        below, beyond = curve.until(edge), curve.after(edge)
        if len(below.x) < FEWEST_BELOW or len(below.x) in seen:
            continue
        seen.add(len(below.x))
        found.append(
            CurveRollout(
                decades=np.log10(beyond.x / below.x[-1]),
                predicted=np.array([sharp_posterior(name, below).log_loss(beyond.x) for name in FORMULAS]),
                actual=np.log(beyond.y),
            )
        )
    return found


def _weights(found: list[CurvePosterior], cuts: list[CurveRollout]) -> Array:
    """Geometric mean of two kinds of evidence: marginal likelihoods, and inverse squared errors of rollouts."""
    evidence = np.array([one.evidence for one in found])
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    if cuts:
        error = np.mean([cut.squares for cut in cuts], axis=0)
        weights = np.sqrt(weights / np.maximum(error, SMALLEST_ERROR**2))
    return np.asarray(weights / weights.sum())


def fit_curve(table: RunTable, variable: str, *, seed: int, bootstrap: int) -> EnsembleFit:
    """The fit of rows that vary in one variable.

    Args:
        table: the rows.
        variable: "N", "D" or "C".
        seed: of the draws.
        bootstrap: number of draws; 0 for a point prediction from DRAWS of them.

    Raises:
        BadInput: too few distinct values, or a loss that does not fall.
    """
    x = values_of(variable, table.N, table.D)
    curve = Curve.of(x, table.L)
    check_curve(curve, WORDS[variable])
    found = [sharp_posterior(name, curve) for name in FORMULAS]
    cuts = curve_rollouts(curve)
    weights = _weights(found, cuts)
    errors = np.sqrt(np.mean([cut.squares for cut in cuts], axis=0)) if cuts else None
    square = (
        float(np.mean([((weights @ cut.predicted - cut.actual) ** 2).mean() for cut in cuts]))
        if cuts
        else UNTESTED**2
    )
    reach = float(np.mean([(cut.decades**2).mean() for cut in cuts])) if cuts else 0.1
    forms, certificates = [], []
    for index, (one, weight) in enumerate(zip(found, weights, strict=True)):
        best = optimum(one.name, curve, posterior(one.name, curve), one.mean_noise)
        certificate = _certificate(one.name, curve, best)
        certificates.append(certificate)
        draws = one.draws(bootstrap or DRAWS, np.random.default_rng([seed, 2, index]))
        forms.append(
            FittedForm(
                name=one.name,
                law=certificate.law,
                status=certificate.status,
                objective=certificate.objective,
                weight=float(weight),
                draws=_rounded(draws),
                variable=variable,
                curve=one.name,
                rollout_error=None if errors is None else float(errors[index]),
            )
        )
    fitted = sum(form.weight * form.log_loss(table.N, table.D) for form in forms)
    last = LastValue(log_loss=float(np.log(curve.y[-1])), variance=max(square, 1e-18))
    return EnsembleFit(
        forms=tuple(forms),
        certificates=tuple(certificates),
        local=ResidualGP.nothing(),
        drift=float(np.sqrt(square / reach)),
        residuals=np.log(table.L) - np.asarray(fitted),
        last=last,
    )


def _rounded(draws: Array) -> Array:
    """Draws to the digits that law.json holds."""
    return np.array([[float(f"{value:.10g}") for value in row] for row in draws.tolist()]).reshape(-1, 6)


def curve_noise(residuals: Array) -> float:
    """Standard deviation of log loss about a curve: rms, with the degrees of freedom that it takes."""
    n = len(residuals)
    return max(float(np.sqrt((residuals**2).sum() / max(n - SPENT, 1))), 1e-6)


def _certificate(name: str, curve: Curve, best: CurveOptimum) -> Certificate:
    law = Law(**dict(zip(SLOTS, best.constants.tolist(), strict=True)))
    status, detail = Status.OK, ""
    if len(curve.x) < FREE[name]:
        status, detail = Status.TOO_FEW, f"{len(curve.x)} distinct points for {FREE[name]} constants"
    elif law.A <= 0:
        status, detail = Status.AT_BOUND, "A ran to 0: the loss does not fall"
    elif best.agreeing < min(2, best.starts):
        status, detail = (
            Status.NOT_CONVERGED,
            f"{best.agreeing} of {best.starts} starts reach the best objective",
        )
    return Certificate(
        name=name,
        law=law,
        theta=best.constants,
        objective=best.objective,
        status=status,
        detail=detail,
        starts=best.starts,
        agreeing=best.agreeing,
        gradient=best.gradient,
        condition=best.condition,
    )


def check_curve(curve: Curve, what: str) -> None:
    """Refuse a curve that no falling law describes.

    Args:
        curve: its rows.
        what: the variable in words.

    Raises:
        BadInput: too few distinct values of the variable, or losses that rise with it.
    """
    if len(curve.x) < FEWEST_POINTS:
        raise BadInput(
            f"the rows have {len(curve.x)} distinct {what if what != 'compute' else 'values of compute'}; "
            f"a law of {what} alone needs at least {FEWEST_POINTS}"
        )
    ranks = np.argsort(np.argsort(curve.y))
    if (
        float(ranks @ (np.arange(len(ranks)) - (len(ranks) - 1) / 2)) >= 0
    ):  # Spearman's correlation is not negative
        raise BadInput(
            f"the loss does not fall with {what}: {curve.y[0]:.4f} at {format_size(curve.x[0])}, {curve.y[-1]:.4f} at "
            f"{format_size(curve.x[-1])}; no law of {what} describes that"
        )


def curve_warnings(table: RunTable, variable: str, noise: float) -> list[str]:
    """What a law of one variable cannot know: other sizes, and an end that turned up.

    Args:
        table: the rows.
        variable: the one that varies.
        noise: standard deviation of log loss about the law.
    """
    curve = Curve.of(values_of(variable, table.N, table.D), table.L)
    other = {"D": "sizes", "N": "numbers of tokens", "C": "ratios of tokens to parameters"}[variable]
    fixed = {"D": f"N is {_size(table.N)}", "N": f"D is {_size(table.D)}", "C": _ratio(table)}[variable]
    lines = [
        f"{fixed} in all {len(table)} rows: this is a law of {WORDS[variable]} alone; an optimum needs runs of other {other}"
    ]
    rise = float(np.log(curve.y[-1] / curve.y.min()))
    if rise > TURNED * noise and rise > 1e-3:
        at = curve.x[int(np.argmin(curve.y))]
        lines.append(
            f"the loss turns: {curve.y.min():.4f} at {format_size(at)}, {curve.y[-1]:.4f} at the end; every shape here falls"
        )
    return lines


def _size(values: Array) -> str:
    return "the same (not stated)" if values[0] == 1 else format_size(float(values[0]))


def _ratio(table: RunTable) -> str:
    if table.N[0] == 1 and table.N[-1] == 1:
        return "neither N nor D is stated"
    return f"D/N is {table.D[0] / table.N[0]:.3g}"


def describe_shape(form: FittedForm) -> str:
    """The formula of a curve with its constants, as text."""
    constants = ", ".join(f"{name} {getattr(form.law, name):.4g}" for name in USED[form.curve].split())
    return f"{form.curve}: {FORMULAS[form.curve]}, x {WORDS[form.variable]}: {constants}"
