"""Fit card: data, method, constants, optima, domain and warnings of a fit. Filled by code, no field left empty."""

from collections.abc import Sequence

from families.units import BadInput, format_size

from ..laws import CONSTANTS, Convention
from ..stats import format_loss
from .ensemble import drift_of_small
from .one_variable import WORDS, describe_shape
from .predictor import Fit
from .repetition import left_open

BUDGETS = (1.0, 10.0, 100.0)  # times the largest fitted compute

REACHES = (2.0, 10.0)  # times the largest fitted value of the one variable

ON_PRIOR = "far predictions rest on the prior"  # in the warning that a plan beyond the rows repeats

SHOWN = 0.03  # of the whole interval: narrower parts are not named

MANY_EPOCHS = 4.0  # beyond them repeated tokens are worth less than fresh ones (Muennighoff et al. 2023)


_COUNTED: dict[Convention, str] = {
    "total": "all parameters",
    "non_embedding": "parameters without embeddings",
    "active": "the parameters that one token passes through",
}


def card(fit: Fit, *, exclusions: str, evidence: dict[str, str], warnings: Sequence[str]) -> dict[str, str]:
    """Field to text, in the order of reading.

    Args:
        fit: the fit, whose own card is not read.
        exclusions: rows left out, and why.
        evidence: the certificate of the form with the greatest weight, field to text.
        warnings: reasons for doubt, one a line.
    """
    forms, main, domain = fit.forms, fit.main_form, fit.domain
    several = f"{main.name}: " if len(forms) > 1 else ""
    return {
        "form": main.name
        if len(forms) == 1
        else "combined: " + ", ".join(f"{f.name} {f.weight:.0%}" for f in forms),
        "status": f"{fit.status.value}: {fit.detail or fit.status.message}",
        "forms tried": "; ".join(
            f"{f.name} ({f.status.value}, objective {f.objective:.4g}"
            + (f", rollout error {f.rollout_error:.2%})" if f.rollout_error is not None else ")")
            for f in forms
        ),
        "data": (
            f"{fit.rows} rows of {fit.runs} runs, group {fit.group or '(none)'}, "
            f"eval set {fit.eval_set or '(not named)'}"
        ),
        "exclusions": exclusions,
        "convention": f"N counts {_COUNTED[fit.convention]}",
        "loss": "nats per token",
        **evidence,
        **(_curve(fit) if fit.variable else _surface(fit, several)),
        "domain": f"N {_span(domain.N)}, D {_span(domain.D)}, C {_span(domain.C)} FLOPs",
        "intervals": _intervals(fit),
        **_uncertainty(fit),
        "warnings": "; ".join(warnings) or "none",
    }


def _surface(fit: Fit, several: str) -> dict[str, str]:
    """Constants of a law of N and D, and its optima."""
    constants = ", ".join(f"{name} {getattr(fit.main_form.law, name):.4g}" for name in CONSTANTS[:3])
    return {
        "law": several + constants,
        "exponents": several + _exponents(fit),
        **_repetition(fit),
        **{f"optimum at {times:g}x the data": _optimum(fit, times * fit.domain.C[1]) for times in BUDGETS},
    }


def _curve(fit: Fit) -> dict[str, str]:
    """The likeliest shape of a law of one variable, and what it predicts further on."""
    ahead = []
    for times in REACHES:
        found = fit.predict(*fit.point(times=times), force=True)
        text = f"{format_loss(float(found.loss))} at {times:g}x"
        if found.interval_80 is not None:
            low, high = (format_loss(float(edge)) for edge in found.interval_80)
            text += f" (80 %: {low} to {high})"
        ahead.append(text)
    return {
        "law": describe_shape(fit.main_form),
        "prediction": f"{', '.join(ahead)} the largest {WORDS[fit.variable]}",
    }


def _repetition(fit: Fit) -> dict[str, str]:
    """Fitted values of repeated tokens, and of parameters too many for them."""
    if fit.fitted_repetition is None:
        return {}
    R_N, R_D = fit.fitted_repetition.R_N, fit.fitted_repetition.R_D
    open_ = " and ".join(left_open(fit.fitted_repetition))
    return {
        "repetition": f"R_D {R_D:.3g}, R_N {R_N:.3g}: the first {R_D:.3g} repeats of a token are worth 63 % of "
        "as many fresh ones, and further ones less"
        + (f"; {open_}: the published value, which these runs leave as it is" if open_ else "")
    }


def _exponents(fit: Fit) -> str:
    parts = []
    for name in CONSTANTS[3:]:
        text, interval = f"{name} {getattr(fit.main_form.law, name):.3f}", fit.interval(name)
        parts.append(text if interval is None else f"{text} ({interval[0]:.3f} to {interval[1]:.3f})")
    return ", ".join(parts) + (", 80 % intervals" if len(fit.main_form.draws) else "")


def _optimum(fit: Fit, compute: float) -> str:
    try:
        best = fit.allocate(compute)
    except BadInput as error:
        return str(error)
    text = f"{format_size(compute)} FLOPs: N* {format_size(best.N)}, D* {format_size(best.D)}, D/N {best.tokens_per_param:.3g}"
    if best.N_interval_80 and best.D_interval_80:
        (low, high), (least, most) = best.N_interval_80, best.D_interval_80
        text += f" (80 %: N* {format_size(low)} to {format_size(high)}, D/N {least / high:.3g} to {most / low:.3g})"
    return text


def _intervals(fit: Fit) -> str:
    if not fit.intervals:
        return "none requested"
    if fit.variable:
        return (
            f"posterior of the constants and shapes; noise of a row {fit.noise:.2%}, rollouts wrong by {fit.drift:.2%} of "
            f"loss per decade of {WORDS[fit.variable]}"
        )
    return (
        f"posterior of the constants; run noise {fit.noise:.2%}, offset of an unseen size {fit.offset:.2%}, "
        f"drift {fit.drift:.2%} of loss per decade of compute beyond the data{_of_small(fit)}"
        if fit.is_posterior
        else f"resampled by run; run noise {fit.noise:.2%}, drift {fit.drift:.2%} of loss per decade of "
        "compute beyond the data"
    )


def _of_small(fit: Fit) -> str:
    small = drift_of_small(fit.domain.C[1])
    return (
        f" (in it {small:.2%}, since no published law is of runs this small)"
        if small and fit.drift >= small
        else ""
    )


def _uncertainty(fit: Fit) -> dict[str, str]:
    """Parts of the interval at ten times the data, at the best size there."""
    if not fit.intervals:
        return {}
    if fit.variable:
        return {"uncertainty at 10x the data": explained(fit.explain(*fit.point(times=10.0)))}
    try:
        best = fit.allocate(10 * fit.domain.C[1])
    except BadInput:
        return {}
    return {"uncertainty at 10x the data": explained(fit.explain(best.N, best.D))}


def explained(parts: dict[str, float]) -> str:
    """The parts of an interval as text, those below 3 % of the whole left out."""
    shown = [
        f"{name} {value:.2%}"
        for name, value in parts.items()
        if name != "all" and value > SHOWN * parts["all"]
    ]
    return f"±{parts['all']:.2%} of loss at 80 %: " + ", ".join(shown)


def _span(bounds: tuple[float, float]) -> str:
    return f"{format_size(bounds[0])} to {format_size(bounds[1])}"
