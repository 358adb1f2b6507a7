"""Best settings of a law at larger scales, as the fit card and the recipe state them."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp

import numpy as np

from families.units import BadInput, format_size

from ..stats import Interval
from .coordinates import Best, Coordinate, valley
from .joint import JointFit
from .predictor import Fit

RATIO = 64.0  # of width to layers in `best_vocabulary`

VOCABULARIES, SIZES, DRAWS = 97, 81, 100

LONGEST_NAME = 25  # of a line of the card

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
    return tuple(part.column for part in _parts(fit) if part.kind == "setting")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BestVocabulary:
    """The vocabulary with the least loss for a budget.

    Args:
        C: FLOPs.
        vocab_size: tokens of the vocabulary.
        N: parameters in the law's convention.
        D: training tokens.
        loss: there, nats per token.
        interval_80: of the vocabulary, from the resampled term; None without resamples.
        beyond: true where it lies outside the vocabularies of the runs.
        at_edge: true where it is the largest that was looked at, 16 times the runs': a bound, and no optimum.
    """

    C: float
    vocab_size: float
    N: float
    D: float
    loss: float
    interval_80: Interval | None
    beyond: bool
    at_edge: bool = False


def best_vocabulary(fit: Fit, C: float) -> BestVocabulary:
    """Vocabulary, size and tokens with the least loss for C FLOPs: 6·(parameters of the blocks + V·width) a token.

    A larger vocabulary lowers the loss by its term and costs a larger head. The width is that of blocks 64 times as wide as
    they are many (12·layers·width² parameters). Tokens are taken to cost the same whatever the vocabulary.

    Args:
        fit: a law with the term vocab_size.
        C: training FLOPs.

    Raises:
        BadInput: the law has no such term.
    """
    term = next((p for p in _parts(fit) if p.column == "vocab_size" and p.kind == "term"), None)
    if term is None or fit.fitted_coordinates is None:
        raise BadInput(f"{fit.name} has no term of vocab_size; scaling fit --coordinates vocab_size fits one")
    V = np.geomspace(term.span[0] / 4, term.span[1] * 16, VOCABULARIES)[:, None]
    blocks = fit.domain.N[0] * np.geomspace(0.05, 20 * max(C / fit.domain.C[1], 1.0), SIZES)[None]
    head = V * (blocks * RATIO / 12) ** (1 / 3)
    D = C / (6 * (blocks + head))
    N = np.broadcast_to(blocks if fit.convention == "non_embedding" else blocks + head, D.shape)
    everywhere = np.broadcast_to(V, D.shape)
    loss = np.asarray(fit.loss(N, D, own={"vocab_size": everywhere}))
    at = np.unravel_index(int(loss.argmin()), loss.shape)
    best = float(everywhere[at])
    law = fit.loss(N, D)
    chosen = []
    for size, exponent in term.draws[:DRAWS]:
        added = np.exp(size) * (everywhere**-exponent - term.reference**-exponent)
        chosen.append(float(everywhere[np.unravel_index(int((law + added).argmin()), loss.shape)]))
    interval = None
    if len(chosen) > 1:
        low, high = np.quantile(chosen, [0.1, 0.9])
        interval = min(float(low), best), max(float(high), best)
    return BestVocabulary(
        C=C,
        vocab_size=best,
        N=float(N[at]),
        D=float(D[at]),
        loss=float(loss[at]),
        interval_80=interval,
        beyond=not term.span[0] <= best <= term.span[1],
        at_edge=int(at[0]) == VOCABULARIES - 1,
    )


def _parts(fit: Fit) -> tuple[Coordinate, ...]:
    return () if fit.fitted_coordinates is None else fit.fitted_coordinates.parts


def describe_coordinates(fit: Fit, reasons: Mapping[str, str], joint: JointFit | None) -> dict[str, str]:
    """Lines of the fit card: which columns are used and why, their constants, and the best settings at larger scales."""
    if not reasons and joint is None:
        return {}
    lines = {"coordinates": "; ".join(f"{name} {text}" for name, text in reasons.items())}
    if fit.fitted_coordinates is None or joint is None:
        return lines
    for part in fit.fitted_coordinates.parts:
        kind = "share" if part.is_share else part.kind
        name = f"{kind} {part.key}"
        if len(name) > LONGEST_NAME and name[:LONGEST_NAME] in lines:
            name = f"{kind} …{part.key[len(kind) + 2 - LONGEST_NAME :]}"
        lines[name[:LONGEST_NAME]] = _constants(part)
    lines["coordinates' fit"] = (
        f"{joint.agreeing} of {joint.starts} starts agree, gradient {joint.gradient:.1g}, scaled"
    )
    if any(part.column == "vocab_size" for part in _parts(fit) if part.kind == "term"):
        for times in SCALES:
            found = best_vocabulary(fit, times * fit.domain.C[1])
            low, high = found.interval_80 or (found.vocab_size, found.vocab_size)
            between = f" ({format_size(low, 3)} to {format_size(high, 3)})" if low < high else ""
            size = f"{'at least ' if found.at_edge else ''}{format_size(found.vocab_size, 3)}"
            lines[f"vocabulary at {times:g}x"] = (
                f"{size}{between}, "
                f"N {format_size(found.N)}, D {format_size(found.D)}, the law's unit of tokens"
                + (" beyond the vocabularies of the runs" if found.beyond else "")
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
    if part.shape == "log":
        rate = exp(part.constant("log_rate"))
        return f"{part.on} counts 1 + {rate:.3f}·ln({part.column}/{part.reference:.4g})"
    if part.shape == "sum":
        return f"its tokens count {exp(part.constant('log_weight')):.3f} each, against the other shares"
    if part.shape == "exponential":
        return f"{part.on} counts exp({part.constant('slope'):.3f}·({part.column} − {part.reference:.3f}))"
    power = part.constant("power")
    if part.level:
        return f"{exp(power):.3f} times the compute"
    limit = ""
    if part.saturating:
        start = f" from {exp(part.constant('log_start')):.3g} on" if "log_start" in part.names else ""
        limit = f", counted{start}, saturating at {exp(part.constant('log_limit')):.3g}"
    return f"{part.on} counts ({part.column}/{part.reference:.4g})^{power:.3f}{limit}"
