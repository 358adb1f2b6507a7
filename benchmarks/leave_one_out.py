"""The default predictor's constants, chosen on every source but one and scored on that one.

The constants in use were chosen with these tables in view. What a choice made elsewhere reaches is the honest figure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scaling.fitting.ensemble import (
    CANDIDATES,
    Candidate,
    FormPrior,
    Rollout,
    Table,
    ensemble_weights,
    predict_log,
    rollouts,
    solve,
)
from scaling.fitting.forms import ResidualGP
from scaling.fitting.optimise import SHAPES
from scaling.runs import RunTable

if TYPE_CHECKING:
    from extrapolation import Case

Array = NDArray[np.float64]
KINDS = ("top decade", "top 20 % of the rows")  # the cases that constants are chosen on
PRIORS = {
    "prior in use": FormPrior(),
    "slope 0.28": FormPrior(slope=0.28),
    "slope 0.42": FormPrior(slope=0.42),
    "gamma 0.5": FormPrior(gamma=0.5),
    "gamma 1": FormPrior(gamma=1.0),
    "floor 0.5": FormPrior(floor=0.5),
    "floor 0.7": FormPrior(floor=0.7),
}
LIBRARY = (Candidate(name="general (no prior)", shape=SHAPES["general"], strength=0.0), *CANDIDATES)
SHARES = {  # of LIBRARY: no prior, weak, usual, strong, Chinchilla's form
    "members in use": (0.0, 1.0, 1.0, 1.0, 0.5),
    "no prior too": (1.0, 1.0, 1.0, 1.0, 0.5),
    "equal Chinchilla": (0.0, 1.0, 1.0, 1.0, 1.0),
    "one prior": (0.0, 0.0, 1.0, 0.0, 0.5),
    "weak priors": (1.0, 1.0, 0.0, 0.0, 0.5),
}
IN_USE = ("prior in use", "members in use", "correction")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What each candidate of LIBRARY says under one prior: logs of loss, shapes (candidates, rows)."""

    cuts: list[Rollout]
    fitted: Array
    foretold: Array

    @classmethod
    def of(cls, case: "Case", prior: FormPrior) -> "Answers":
        cheap = RunTable.of(case.cheap)
        held = RunTable.of(case.held, cheap.convention)
        rows = Table.of(cheap.N, cheap.D, cheap.L, prior)
        fitted, foretold = [], []
        for candidate in LIBRARY:
            problem = rows.problem(candidate)
            theta = solve(problem, candidate.shape)
            fitted.append(predict_log(problem, theta, cheap.N, cheap.D))
            foretold.append(predict_log(problem, theta, held.N, held.D))
        return cls(cuts=rollouts(rows, LIBRARY), fitted=np.array(fitted), foretold=np.array(foretold))

    def errors(self, case: "Case") -> dict[tuple[str, str], float]:
        """Mean |relative error| for each choice of members, with and without the local correction."""
        cheap = RunTable.of(case.cheap)
        held = RunTable.of(case.held, cheap.convention)
        _, spread = ensemble_weights(self.cuts, LIBRARY)
        found = {}
        for name, shares in SHARES.items():
            weights = np.array(shares) / (1.0 if spread is None else np.maximum(spread, 1e-3) ** 2)
            weights /= weights.sum()
            plain = weights @ self.foretold
            nearby = ResidualGP.of(cheap.N, cheap.D, np.log(cheap.L) - weights @ self.fitted)
            for way, more in (("correction", nearby.correction(held.N, held.D)), ("no correction", 0.0)):
                found[name, way] = float(np.abs(np.exp(plain + more) / held.L - 1).mean())
        return found


def chosen_elsewhere(cases: "Sequence[Case]") -> dict[str, Any]:
    """Choose a prior, members and the correction by the mean log of default over Chinchilla on all sources but one."""
    used = [case for case in cases if case.kind in KINDS]
    settings: dict[tuple[str, str, str], list[float]] = {}
    for case in used:
        for name, prior in PRIORS.items():
            for (members, way), value in Answers.of(case, prior).errors(case).items():
                settings.setdefault((name, members, way), []).append(value)
    values = {name: np.array(found) for name, found in settings.items()}
    plain = np.array([case.errors["chinchilla"] for case in used])
    origin = np.array([case.source for case in used])
    top = np.array([case.kind == KINDS[0] for case in used])
    picked = np.zeros(len(used))
    told = []
    for source in dict.fromkeys(origin.tolist()):
        here = origin == source
        best = min(values, key=lambda name: float(np.log(values[name] / plain)[~here].mean()))
        picked[here] = values[best][here]
        if (here & top).any():
            told.append(
                {
                    "source": source,
                    "default": float(values[best][here & top].mean()),
                    "chinchilla": float(plain[here & top].mean()),
                    "chosen": ", ".join(best),
                }
            )
    over = {name: float(found[top].mean() / plain[top].mean()) for name, found in values.items()}
    return {
        "sources": told,
        "settings": len(values),
        "over_chinchilla": float(picked[top].mean() / plain[top].mean()),
        "in_use": over[IN_USE],
        "hindsight": min(over.values()),
        "worst": max(over.values()),
        "every_setting": {", ".join(name): value for name, value in over.items()},
    }
