"""The fit card: what was fitted, to what, how, and how far to trust it. Filled by code, no field left empty."""

from collections.abc import Sequence

import numpy as np

from families.units import BadInput, format_size

from .predictor import Predictor, Status

BUDGETS = (1.0, 10.0, 100.0)  # times the largest fitted compute

MANY_EPOCHS = (
    4.0  # past about four epochs repeated tokens are worth less than fresh ones (Muennighoff et al. 2023)
)


def card(
    predictor: Predictor,
    *,
    status: Status,
    detail: str,
    runs: int,
    rows: int,
    exclusions: str,
    evidence: dict[str, str],
    warnings: Sequence[str],
) -> dict[str, str]:
    """Field to text, in the order of reading."""
    forms = predictor.forms
    main = max(forms, key=lambda form: form.weight)
    domain = predictor.domain
    return {
        "form": main.name
        if len(forms) == 1
        else "combined: " + ", ".join(f"{f.name} {f.weight:.0%}" for f in forms),
        "status": f"{status.value}: {detail or status.message}",
        "forms tried": "; ".join(
            f"{f.name} ({f.status.value}, objective {f.objective:.4g}"
            + (f", rollout error {f.rollout_error:.2%})" if f.rollout_error is not None else ")")
            for f in forms
        ),
        "data": (
            f"{rows} rows of {runs} runs, group {predictor.group or '(none)'}, "
            f"eval set {predictor.eval_set or '(not named)'}"
        ),
        "exclusions": exclusions,
        "convention": f"N counts {'all parameters' if predictor.convention == 'total' else 'parameters without embeddings'}",
        "loss": "nats per token",
        **evidence,
        "law": f"E {main.law.E:.4g}, A {main.law.A:.4g}, B {main.law.B:.4g}",
        "exponents": _exponents(predictor),
        **_repetition(predictor),
        **{f"optimum at {times:g}x the data": _optimum(predictor, times * domain.C[1]) for times in BUDGETS},
        "domain": f"N {_span(domain.N)}, D {_span(domain.D)}, C {_span(domain.C)} FLOPs",
        "intervals": _intervals(predictor),
        "warnings": "; ".join(warnings) or "none",
    }


def _repetition(predictor: Predictor) -> dict[str, str]:
    """What repeated tokens, and parameters too many for them, were found to be worth."""
    found = predictor.repetition
    if found is None:
        return {}
    return {
        "repetition": f"R_D {found.R_D:.3g}, R_N {found.R_N:.3g}: the first {found.R_D:.3g} repeats of a token are worth 63 % of "
        "as many fresh ones, and further ones less"
    }


def _exponents(predictor: Predictor) -> str:
    main = max(predictor.forms, key=lambda form: form.weight)
    parts = []
    for name, index in (("alpha", 3), ("beta", 4), ("gamma", 5)):
        text = f"{name} {getattr(main.law, name):.3f}"
        spread = main.draws[:, index] if len(main.draws) else np.empty(0)
        if len(spread) and np.ptp(spread) > 0:
            low, high = np.quantile(spread, [0.1, 0.9])
            text += f" ({low:.3f} to {high:.3f})"
        parts.append(text)
    return ", ".join(parts) + (", 80 % intervals" if len(main.draws) else "")


def _optimum(predictor: Predictor, compute: float) -> str:
    try:
        best = predictor.allocate(compute)
        draws = predictor.optimum_draws(compute)
    except BadInput as error:
        return str(error)
    text = f"{format_size(compute)} FLOPs: N* {format_size(best.N)}, D* {format_size(best.D)}, D/N {best.tokens_per_param:.3g}"
    if len(draws):
        low, high = np.exp(np.quantile(draws, [0.1, 0.9]))
        product = best.N * best.D
        text += f" (80 %: N* {format_size(low)} to {format_size(high)}, D/N {product / high**2:.3g} to {product / low**2:.3g})"
    return text


def _intervals(predictor: Predictor) -> str:
    if not predictor.intervals:
        return "none asked for"
    return (
        f"resampled by run; run noise {predictor.noise:.2%}, drift {predictor.drift:.2%} of loss per decade of "
        "compute beyond the data"
    )


def _span(bounds: tuple[float, float]) -> str:
    return f"{format_size(bounds[0])} to {format_size(bounds[1])}"
