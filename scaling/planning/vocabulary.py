"""Optimal vocabulary of a model for its compute: Tao et al. 2024, and the term of a fitted law."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from families.units import BadInput

from ..fitting.coordinates import Coordinate
from ..stats import Array, Interval

MULTIPLE = 128  # of a vocabulary, so that the head's product fills the tiles of matrix units

SMALLEST = 512  # 256 bytes and as many merges

TRIED = 17  # vocabularies within those of the runs

# Tao et al. 2024, arXiv:2407.13623, as published with its code (MIT): compute at which N non-vocabulary parameters are
# optimal, N = e^a·C^½; approach 1, N_v = e^b·C^c; approach 2, N_v = v·(N/n)^γ; approach 3, the fit of
# L = A1/N^α1 + A2/N_v^α2 + B/D^β − E with N and N_v in millions and D in billions.
_LOG_N, _LOG_V, _V_EXPONENT = -2.4846510161625193, -1.589031299255507, 0.4163622634135234
_ANCHOR_V, _ANCHOR_N, _GAMMA = 3145728.0, 33e6, 0.8353974035228025
_A2, _ALPHA2, _B, _BETA = 0.19584238398665638, 0.6707374679896795, 2.1241123120064955, 0.44660634152009615

SOURCE = "Tao et al. 2024, arXiv:2407.13623"


@dataclass(frozen=True, slots=True, kw_only=True)
class ByApproach:
    """Vocabulary parameters by the paper's three approaches: (isoFLOP curves, derivatives, fit of the loss).

    The first two hold for compute-optimal models; the third takes the compute as it is.
    """

    isoflops: float
    derivative: float
    loss: float

    @property
    def span(self) -> Interval:
        """The least and the most: a range of opinions, not an interval."""
        every = self.isoflops, self.derivative, self.loss
        return min(every), max(every)


def vocabulary_parameters(non_vocabulary: float, flops: float | None = None) -> ByApproach:
    """Optimal parameters of the vocabulary, V times the width.

    Args:
        non_vocabulary: all other parameters.
        flops: training FLOPs of the third approach (default: those at which the model is compute-optimal).

    Raises:
        BadInput: a size or compute that is not positive.
    """
    for name, value in (("parameters", non_vocabulary), ("compute", 1.0 if flops is None else flops)):
        if not (math.isfinite(value) and value > 0):
            raise BadInput(f"{name} is {value:g}; it must be positive and finite")
    optimal = (non_vocabulary / math.exp(_LOG_N)) ** 2
    N, C = non_vocabulary / 1e6, (flops or optimal) / 1e15

    def gain(log_v: float) -> float:
        """Loss per parameter that the vocabulary saves, less what its share of the compute takes from the tokens."""
        v = math.exp(log_v)
        return float(_ALPHA2 * _A2 * v ** -(_ALPHA2 + 1) - _BETA * _B * (6 * (N + v) / C) ** _BETA / (N + v))

    low, high = math.log(1e-9), math.log(1e12)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if gain(middle) > 0 else (low, middle)
    return ByApproach(
        isoflops=math.exp(_LOG_V) * optimal**_V_EXPONENT,
        derivative=_ANCHOR_V * (non_vocabulary / _ANCHOR_N) ** _GAMMA,
        loss=1e6 * math.exp(low),
    )


def rounded(vocabulary: float) -> int:
    """The nearest multiple of MULTIPLE, SMALLEST at least."""
    return max(SMALLEST, MULTIPLE * round(vocabulary / MULTIPLE))


def tried(term: Coordinate) -> list[int]:
    """Vocabularies to try under a law's term: those of its runs and between them, none beyond."""
    low, high = term.span
    return sorted({round(low), round(high), *map(rounded, np.geomspace(low, high, TRIED)[1:-1])})


def interval_of(term: Coordinate, loss_without: Mapping[int, float]) -> Interval | None:
    """80 % interval of the best vocabulary, from the term's resamples; None without them.

    Args:
        term: the law's term of vocab_size.
        loss_without: the loss that each vocabulary's model has at the term's reference, nats per token.
    """
    sizes, plain = np.array(list(loss_without), dtype=np.float64), np.array(list(loss_without.values()))
    if len(term.draws) < 2:
        return None
    size, exponent = term.draws[:, :1], term.draws[:, 1:]
    added: Array = np.exp(size) * (sizes**-exponent - term.reference**-exponent)
    best = sizes[np.argmin(plain + added, axis=1)]
    low, high = np.quantile(best, [0.1, 0.9])
    return float(low), float(high)
