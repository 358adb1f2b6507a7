"""What the new runs teach: the law fitted without them and with them, side by side."""

from collections.abc import Sequence

from families.units import BadInput, format_size

from ..files import Record, sha256_file
from ..fitting.predictor import Fit, load_law
from ..planning.planfile import PlanFile
from ..runs import Run
from ..stats import Interval
from ..study import Study, StudyFile

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


def refit_study(place: Study, plan: PlanFile, runs: Sequence[Run], new: Sequence[str]) -> Refit:
    """A study's sealed law against the law that has seen the sealed runs as well.

    Where law.json was fitted anew since the seal, the law before is fitted again without them.

    Raises:
        BadInput: the study has no law of its own, or see `refit`.
    """
    if not place.law.exists():
        raise BadInput(f"{place.law} does not exist; there is no law to refit")
    seed = StudyFile.read(place.file).seed if place.file.exists() else 0
    law = load_law(place.law)
    if plan.seal is None or sha256_file(place.law) != plan.seal.law_sha256:
        from ..fitting.fit import fit

        old = [run for run in _comparable(law, runs) if run.run not in new]
        law = fit(old, convention=law.convention, seed=seed)
    return refit(law, runs, new, seed=seed)


def refit(law: Fit, runs: Sequence[Run], new: Sequence[str], *, seed: int = 0) -> Refit:
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
    return Refit(
        rows_before=law.rows,
        rows_after=found.rows,
        form_before=_forms(law),
        form_after=_forms(found),
        status=found.status.value,
        **_changes(law, found),
    )


def _comparable(law: Fit, runs: Sequence[Run]) -> list[Run]:
    field = "params" if law.convention == "total" else "params_non_embedding"
    return [
        run
        for run in runs
        if run.annealed
        and getattr(run, field) is not None
        and run.group == law.group
        and run.eval_set == law.eval_set
    ]


def _forms(law: Fit) -> str:
    return ", ".join(f"{form.name} {form.weight:.0%}" for form in law.forms)


def _changes(before: Fit, after: Fit) -> dict[str, object]:
    flops = AHEAD * max(before.domain.C[1], after.domain.C[1])
    changes = []
    for name in ("alpha", "beta"):
        changes.append(Change(quantity=name, **_both(_constant(before, name), _constant(after, name))))
    try:
        best = after.allocate(flops, force=True)
        N, D = best.N, best.D
        changes.append(
            Change(
                quantity="exponent of N*",
                **_both(before.optimum_exponent(flops), after.optimum_exponent(flops)),
            )
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


def _constant(law: Fit, name: str) -> Value:
    """A constant of the form with the greatest weight, as on the fit card."""
    return float(getattr(law.main_form.law, name)), law.interval(name)


def _size(law: Fit, flops: float) -> Value:
    best = law.allocate(flops, force=True)
    return best.N, best.N_interval_80


def _loss(law: Fit, N: float, D: float) -> Value:
    predicted = law.predict(N, D, force=True)
    return float(predicted.loss), predicted.interval_80
