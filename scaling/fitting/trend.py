"""Do the smallest runs lie where the law of the others says? Untuned small rungs bend a law (Porian et al. 2024)."""

import numpy as np
from numpy.typing import NDArray

from .combine import CANDIDATES, Table, predict_log, solve

Array = NDArray[np.float64]
RUNG = 2.0  # rows within this factor of the smallest compute are the smallest rung
LARGEST_SHARE = 0.34  # a rung that holds more of the rows than this leaves too few to judge it by
FEWEST_OTHERS = 8
SIGNAL = 3.0  # times the spread of the others
LEAST = 0.005  # and at least half a per cent of loss


def smallest_rung(N: Array, D: Array, L: Array) -> str:
    """A warning where both forms, fitted to the other rows, agree that the smallest rung lies off, else nothing."""
    C = N * D
    low = C.min() * RUNG >= C
    if low.mean() > LARGEST_SHARE or (~low).sum() < FEWEST_OTHERS:
        return ""
    others = Table.of(N[~low], D[~low], L[~low]).thinned()
    found = []
    for candidate in (CANDIDATES[1], CANDIDATES[-1]):
        problem = others.problem(candidate)
        theta = solve(problem, candidate.shape)
        spread = (
            float(np.median(np.abs(predict_log(problem, theta, others.N, others.D) - np.log(others.L))))
            / 0.6745
        )
        off = float(np.mean(np.log(L[low]) - predict_log(problem, theta, N[low], D[low])))
        if abs(off) < max(LEAST, SIGNAL * spread / np.sqrt(low.sum())):
            return ""
        found.append(off)
    if found[0] * found[1] < 0:
        return ""
    least = min(found, key=abs)
    return (
        f"the {low.sum()} smallest runs lie {least:+.1%} of loss off the law of the others: "
        "a warm-up or learning rate that does not suit them bends a law; tune them or leave them out"
    )
