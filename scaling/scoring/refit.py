"""What the new runs teach: the law fitted without them and with them, side by side."""

import math
from collections.abc import Sequence

import numpy as np

from families.units import BadInput, format_size

from ..files import Record, sha256_file
from ..fitting.lawfile import LawFile
from ..fitting.predictor import Predictor
from ..laws import PARAMS_FIELD
from ..paths import StudyFile, StudyPaths
from ..planning.planfile import PlanFile
from ..runs import Run
from ..stats import Array, Interval

AHEAD = 10.0  # the next budget, in units of the largest compute among all runs


class Change(Record):
    """One quantity by either law, with its 80 % interval where there is one. unit is "" for a pure number."""

    quantity: str
    unit: str = ""
    before: float
    before_80: Interval | None = None
    after: float
    after_80: Interval | None = None


class Refit(Record):
    """Both laws in numbers. The next prediction is of one point, N and D, for both: the later law's best use of `flops`."""

    rows_before: int
    rows_after: int
    form_before: str
    form_after: str
    status: str
    flops: float
    N: float
    D: float
    changes: tuple[Change, ...]

    def change(self, quantity: str) -> Change | None:
        """The change of that quantity; None where one of the laws does not have it."""
        return next((one for one in self.changes if one.quantity == quantity), None)


def refit_study(place: StudyPaths, plan: PlanFile, runs: Sequence[Run], new: Sequence[str]) -> Refit:
    """A study's sealed law against the law that has seen the sealed runs as well.

    Where law.json was fitted anew since the seal, the law before is fitted again without them.

    Raises:
        BadInput: the study has no law of its own, or see `refit`.
    """
    if not place.law.exists():
        raise BadInput(f"{place.law} does not exist; there is no law to refit")
    seed = StudyFile.read(place.file).seed if place.file.exists() else 0
    law = LawFile.read(place.law)
    if plan.seal is None or sha256_file(place.law) != plan.seal.law_sha256:
        from ..fitting.fit import fit

        old = [run for run in _comparable(law, runs) if run.run not in new]
        law = fit(old, convention=law.convention, seed=seed).document()
    return refit(law, runs, new, seed=seed)


def refit(law: LawFile, runs: Sequence[Run], new: Sequence[str], *, seed: int = 0) -> Refit:
    """Fit the law's own runs together with the new ones, and say what changed.

    Args:
        law: fitted before, without the new runs.
        runs: all runs; those of another group, eval set or convention than the law's are left out.
        new: names of the runs that the law has not seen.

    Raises:
        BadInput: none of the new runs is comparable with the law's, or the fit is refused.
    """
    from ..fitting.fit import fit  # scipy stays unloaded where a refit is only read

    able = _comparable(law, runs)
    if not any(run.run in new for run in able):
        raise BadInput(
            "no new run has the law's group, eval set and count of N; there is nothing to refit with"
        )
    found = fit(able, convention=law.convention, seed=seed)
    before, after = law.predictor(), found.predictor
    return Refit(
        rows_before=law.rows,
        rows_after=found.rows,
        form_before=_form(before),
        form_after=_form(after),
        status=found.status.value,
        **_changes(before, after),
    )


def _comparable(law: LawFile, runs: Sequence[Run]) -> list[Run]:
    field = PARAMS_FIELD[law.convention]
    return [
        run
        for run in runs
        if run.annealed
        and getattr(run, field) is not None
        and run.group == law.group
        and run.eval_set == law.eval_set
    ]


def _form(predictor: Predictor) -> str:
    return ", ".join(f"{form.name} {form.weight:.0%}" for form in predictor.forms)


def _changes(before: Predictor, after: Predictor) -> dict[str, object]:
    flops = AHEAD * max(before.domain.C[1], after.domain.C[1])
    changes = []
    for name in ("alpha", "beta"):
        changes.append(Change(quantity=name, **_both(_constant(before, name), _constant(after, name))))
    try:
        best = after.allocate(flops, force=True)
        N, D = best.N, best.D
        changes.append(
            Change(quantity="exponent of N*", **_both(_growth(before, flops), _growth(after, flops)))
        )
        changes.append(
            Change(quantity="N*", unit="parameters", **_both(_size(before, flops), _size(after, flops)))
        )
    except (
        BadInput
    ):  # a law of one variable, or exponents that the data do not tell apart: no optimum to compare
        N = max(before.domain.N[1], after.domain.N[1])
        D = flops / (6 * N)
    changes.append(
        Change(quantity="loss", unit="nats/token", **_both(_loss(before, N, D), _loss(after, N, D)))
    )
    return {"flops": flops, "N": N, "D": D, "changes": tuple(changes)}


def change_name(found: Refit, one: Change) -> str:
    """What changed, with the point it is of."""
    if one.quantity == "loss":
        return f"loss of N {format_size(found.N)} on D {format_size(found.D)}"
    if one.quantity == "N*":
        return f"best N for {format_size(found.flops)} FLOPs"
    return one.quantity


def change_value(one: Change, value: float) -> str:
    """A size as 1.4M, other numbers with three decimals."""
    return format_size(value) if one.unit == "parameters" else f"{value:.3f}"


def change_interval(one: Change, bounds: Interval | None) -> str:
    """Its ends, or a dash."""
    return "–" if bounds is None else "–".join(change_value(one, bound) for bound in bounds)


Value = tuple[float, Interval | None]


def _both(before: Value, after: Value) -> dict[str, float | Interval | None]:
    return {"before": before[0], "before_80": before[1], "after": after[0], "after_80": after[1]}


def _middle(draws: Array) -> Interval | None:
    if not len(draws) or not np.isfinite(draws).all() or np.ptp(draws) == 0:
        return None
    low, high = np.quantile(draws, [0.1, 0.9])
    return float(low), float(high)


def _constant(predictor: Predictor, name: str) -> Value:
    """Of the form with the greatest weight, as on the fit card."""
    main = max(predictor.forms, key=lambda form: form.weight)
    index = {"alpha": 3, "beta": 4}[name]
    return float(getattr(main.law, name)), _middle(main.draws[:, index] if len(main.draws) else np.empty(0))


def _growth(predictor: Predictor, flops: float) -> Value:
    """d log N* / d log C over the factor of ten up to `flops`."""
    ratio = predictor.allocate(flops, force=True).N / predictor.allocate(flops / 10, force=True).N
    high, low = predictor.optimum_draws(flops), predictor.optimum_draws(flops / 10)
    draws = (high - low) / math.log(10) if len(high) == len(low) else np.empty(0)
    return math.log(ratio) / math.log(10), _middle(draws)


def _size(predictor: Predictor, flops: float) -> Value:
    draws = predictor.optimum_draws(flops)
    return predictor.allocate(flops, force=True).N, _middle(np.exp(draws))


def _loss(predictor: Predictor, N: float, D: float) -> Value:
    found = predictor.predict(N, D, force=True)
    return float(found.loss), found.interval_80
