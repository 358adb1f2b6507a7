"""The default predictor's constants, chosen on every source but one and scored on that one.

The constants in use were chosen with these tables in view. What a choice made elsewhere reaches is the honest figure.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.fitting import ensemble, misfit
from scaling.fitting.ensemble import POSTERIOR_PRIOR, FormPrior
from scaling.fitting.fit import fit
from scaling.fitting.forms import ResidualGP
from scaling.runs import RunTable

if TYPE_CHECKING:
    from extrapolation import Case

KINDS = ("top decade", "top 20 % of the rows")  # the cases that constants are chosen on


def scaled(prior: FormPrior, factor: float) -> FormPrior:
    """The prior with every width times a factor."""
    names = ("slope_width", "gamma_width", "floor_width", "term_width")
    return replace(prior, **{name: factor * getattr(prior, name) for name in names})


PRIORS = {
    "prior in use": POSTERIOR_PRIOR,
    "half as wide": scaled(POSTERIOR_PRIOR, 0.5),
    "0.7 times as wide": scaled(POSTERIOR_PRIOR, 0.7),
    "1.5 times as wide": scaled(POSTERIOR_PRIOR, 1.5),
    "2.5 times as wide": scaled(POSTERIOR_PRIOR, 2.5),
    "slope 0.26": replace(POSTERIOR_PRIOR, slope=0.26),
    "slope 0.35": replace(POSTERIOR_PRIOR, slope=0.35),
    "gamma 0.5": replace(POSTERIOR_PRIOR, gamma=0.5),
    "gamma 0.7": replace(POSTERIOR_PRIOR, gamma=0.7),
    "floor 0.5": replace(POSTERIOR_PRIOR, floor=0.5),
    "floor 0.7": replace(POSTERIOR_PRIOR, floor=0.7),
}
IN_USE = ("prior in use", "correction")


@contextmanager
def predicting_with(prior: FormPrior, **constants: Any) -> Iterator[None]:
    """Fits made meanwhile use another prior, and other constants of `scaling.fitting.misfit`."""
    usual = ensemble.POSTERIOR_PRIOR, {name: getattr(misfit, name) for name in constants}
    ensemble.POSTERIOR_PRIOR = prior
    for name, value in constants.items():
        setattr(misfit, name, value)
    try:
        yield
    finally:
        ensemble.POSTERIOR_PRIOR = usual[0]
        for name, value in usual[1].items():
            setattr(misfit, name, value)


def errors(case: "Case", prior: FormPrior) -> dict[str, float]:
    """Mean |relative error| with and without the local correction."""
    with predicting_with(prior):
        found = fit(case.cheap, annealed="all", bootstrap=0)
    held = RunTable.of(case.held, found.convention)
    ways = {"correction": found, "no correction": replace(found, local=ResidualGP.nothing())}
    return {
        way: float(np.abs(np.asarray(one.loss(held.N, held.D)) / held.L - 1).mean())
        for way, one in ways.items()
    }


def chosen_elsewhere(cases: "Sequence[Case]") -> dict[str, Any]:
    """Choose a prior and the correction by the mean log of default over Chinchilla on all sources but one."""
    used = [case for case in cases if case.kind in KINDS]
    settings: dict[tuple[str, str], list[float]] = {}
    for case in used:
        for name, prior in PRIORS.items():
            for way, value in errors(case, prior).items():
                settings.setdefault((name, way), []).append(value)
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
