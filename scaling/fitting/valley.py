"""Best settings of a law at larger scales, as the fit card and the recipe state them."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp

import numpy as np

from families.units import BadInput, format_size

from .coordinates import Best, Coordinate, valley
from .joint import JointFit
from .predictor import Fit

SCALES = (1.0, 10.0, 100.0)  # times the largest fitted compute


@dataclass(frozen=True, slots=True, kw_only=True)
class BestAt:
    """The best settings at the optimum of a budget.

    Args:
        C: FLOPs.
        N: parameters there.
        D: tokens there.
        best: setting to its best value.
    """

    C: float
    N: float
    D: float
    best: Mapping[str, Best]


def settings_of(fit: Fit) -> tuple[str, ...]:
    """Columns of a fit's settings, such as lr and batch_tokens."""
    parts = () if fit.fitted_coordinates is None else fit.fitted_coordinates.parts
    return tuple(part.column for part in parts if part.kind == "setting")


def best_settings(fit: Fit) -> list[BestAt]:
    """The best settings at 1, 10 and 100 times the largest fitted compute; empty without settings or an optimum."""
    names = settings_of(fit)
    found: list[BestAt] = []
    for times in SCALES if names else ():
        try:
            at = fit.allocate(times * fit.domain.C[1])
        except BadInput:
            continue
        best = {name: fit.best(name, at.N, at.D) for name in names}
        found.append(BestAt(C=at.C, N=at.N, D=at.D, best=best))
    return found


def describe_coordinates(fit: Fit, reasons: Mapping[str, str], joint: JointFit | None) -> dict[str, str]:
    """Lines of the fit card: which columns are used and why, their constants, and the best settings at larger scales."""
    if not reasons and joint is None:
        return {}
    lines = {"coordinates": "; ".join(f"{name} {text}" for name, text in reasons.items())}
    if fit.fitted_coordinates is None or joint is None:
        return lines
    for part in fit.fitted_coordinates.parts:
        lines[f"{part.kind} {part.key}"[:25]] = _constants(part)
    lines["coordinates' fit"] = (
        f"{joint.agreeing} of {joint.starts} starts agree, gradient {joint.gradient:.1g}, scaled"
    )
    for at in best_settings(fit):
        lines[f"best at {at.C / fit.domain.C[1]:g}x the data"] = (
            f"N {format_size(at.N)}, D {format_size(at.D)}: "
            + ", ".join(f"{name}* {_best(best)}" for name, best in at.best.items())
        )
    return lines


def _best(best: Best) -> str:
    text = f"{format_size(best.value) if best.value >= 1 else f'{best.value:.3g}'}"
    if best.interval_80 is not None:
        low, high = (format_size(v) if v >= 1 else f"{v:.3g}" for v in best.interval_80)
        text += f" ({low} to {high})"
    return text + (" beyond the values tried" if best.beyond else "")


def _constants(part: Coordinate) -> str:
    if part.kind == "setting":
        lower, higher = (float(valley(np.array([d]), part.constant("skew"))[0][0]) for d in (-1.0, 1.0))
        slopes = [f"N^{part.constant('N'):.3f}", f"D^{part.constant('D'):.3f}"]
        slopes += [f"({name}/{name}*)^{part.constant(name):.3f}" for name in part.names[3:-2]]
        kappa = exp(part.constant("log_kappa"))
        return (
            f"{part.column}* ~ {' '.join(slopes)}; a factor e too low costs {kappa * lower:.2%} of loss, too high "
            f"{kappa * higher:.2%}"
        )
    if part.kind == "term":
        exponent = part.constant("exponent")
        return f"{exp(part.constant('size')):.4g}·{part.column}^-{exponent:.3f}, against {part.reference:g}"
    power = part.constant("power")
    if part.level:
        return f"{exp(power):.3f} times the compute"
    limit = f", saturating at {exp(part.constant('log_limit')):.3g}" if part.saturating else ""
    return f"{part.on} counts ({part.column}/{part.reference:.4g})^{power:.3f}{limit}"
