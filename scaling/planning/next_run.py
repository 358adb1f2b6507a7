"""The next run to train: what the fit itself would promise with it, by refitting with the law's own value for its rows.

`experiment_design` proposes ladders to first order in the law's constants. Of the best proposals each is added to the runs at
the losses that the law expects, and the law is fitted again: the interval stated is then the one that a fit prints, posterior,
drift and all. `scaling next` and the report ask this one function.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from families import accounting, count
from families.units import BadInput, parse_size

from ..fitting.fit import fit
from ..fitting.predictor import Fit
from ..laws import PARAMS_FIELD
from ..runs import Run, RunTable
from ..runs.readers import read_runs
from ..stats import Array
from .candidates import Candidates, candidates, named_or_designed
from .experiment_design import Advice, LadderSpec, NextRunQuery, Offer, advise, budget_of
from .law import comparable, find_law, shape_sizes
from .query import rule_of

TRIED = 4  # proposals that are refitted: a fit takes some 50 ms

PROPOSED = 12  # of which they are spread evenly, from the most saved per FLOP to the largest

LEAST_HELP = 0.01  # of the interval: what narrows it by less does not help

DRAWS = 60  # of a refit: its width to a tenth, the same draws before and after

_told: dict[tuple[str, float, float, float, int], Advice] = {}  # a report asks twice


def advise_study(query: NextRunQuery) -> Advice:
    """Advice for a study's target, from members shaped like its runs.

    Raises:
        BadInput: the study has no runs or no law, or the query's size, tokens or budget is wrong.
    """
    law = find_law(str(query.study / "law.json"))
    if not isinstance(law, Fit):
        raise BadInput(f"{query.study / 'law.json'} is not a fitted law")
    runs = comparable(law, read_runs(Path(query.study) / "runs.jsonl").runs)
    rule = rule_of(runs)
    member = named_or_designed(query.target, rule)
    tokens = parse_size(query.tokens, "tokens")
    shapes = candidates("all", rule)
    return advise_fit(
        law,
        runs,
        shapes,
        target=(float(count(member.spec, law.convention)), tokens),
        budget=budget_of(query.budget, accounting.train_flops(member.spec, tokens)),
    )


def advise_fit(
    law: Fit, runs: Sequence[Run], shapes: Candidates, *, target: tuple[float, float], budget: float
) -> Advice:
    """The next ladders to train for a target, with the interval that a fit would give; those that do not help are left out.

    Args:
        law: fitted on the runs.
        runs: observations so far, which the law applies to.
        shapes: the candidates; those smaller than every fitted run are left out, since they may not follow the law.
        target: N and D to predict.
        budget: FLOPs that the next run may take.

    Raises:
        BadInput: no ladder fits the budget, or a law of one variable.
    """
    if law.variable:
        raise BadInput(f"{law.name} is a law of one variable; the next run is chosen under a law of N and D")
    key = (law.sha256, *target, budget, len(runs))
    if key in _told:
        return _told[key]
    sizes = shape_sizes(law, shapes)
    usable = sizes >= law.domain.N[0] * (1 - 1e-9)
    proposed = advise(
        runs,
        law.main_form.law,
        shapes.chosen(usable),
        sizes[usable],
        target=target,
        budget=budget,
        convention=law.convention,
        shown=PROPOSED,
    )
    now = _half_width(law, target)
    rows = [run for run in runs if run.annealed]
    before = _half_width(_refitted(law, rows), target)
    tried = []
    for offer in _spread(proposed.offers):
        after = _half_width(_refitted(law, [*rows, *_expected(law, rows, offer.ladder)]), target)
        share = after / before
        if share < 1 - LEAST_HELP:
            saved = (1 - share**2) / offer.ladder.flops
            tried.append(replace(offer, half_width_80=now * share, saved_per_flop=saved))
    tried.sort(key=lambda offer: -offer.saved_per_flop)
    while len(_told) >= 8:
        _told.pop(next(iter(_told)))
    _told[key] = Advice(half_width_80=now, offers=tuple(tried))
    return _told[key]


def _spread(offers: Sequence[Offer]) -> list[Offer]:
    """The first offers, and the largest member among all of them: what is far from the runs may help where near does not."""
    if len(offers) <= TRIED:
        return list(offers)
    largest = max(offers, key=lambda offer: offer.ladder.N)
    kept = list(offers[: TRIED - 1])
    return [*kept, largest if largest not in kept else offers[TRIED - 1]]


def _half_width(law: Fit, target: tuple[float, float]) -> float:
    """Half of the law's 80 % interval at the target, as a share of its loss.

    Raises:
        BadInput: the law has no intervals.
    """
    found = law.predict(*target, force=True)
    if found.interval_80 is None:
        raise BadInput(
            f"{law.name} has no intervals (fewer than 4 runs); nothing says what a run would narrow"
        )
    low, high = found.interval_80
    return float((high - low) / 2 / found.loss)


def _refitted(law: Fit, rows: Sequence[Run]) -> Fit:
    """The law fitted to other rows, with the draws that every refit shares."""
    return fit(
        RunTable(rows, law.convention),
        annealed="all",
        bootstrap=DRAWS,
        coordinates=law.coordinates,
    )


def _expected(law: Fit, rows: Sequence[Run], ladder: LadderSpec) -> list[Run]:
    """Rows of a ladder at the losses that the law expects, with the other columns of the nearest run."""
    N, D = ladder.points
    sizes: Array = np.array([run.n_params(law.convention) for run in rows])
    nearest = rows[int(np.argmin(np.abs(np.log(sizes / ladder.N))))]
    losses = np.asarray(law.loss(N, D))
    changed = {
        "run": f"next {ladder.member.name}",
        "unique_tokens": None,
        "compute": None,
        "compute_kind": None,
    }
    return [
        nearest.model_copy(
            update={
                **changed,
                PARAMS_FIELD[law.convention]: float(n),
                "tokens": float(d),
                "loss": float(loss),
            }
        )
        for n, d, loss in zip(N, D, losses, strict=True)
    ]
