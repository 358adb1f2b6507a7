"""The law fitted without and with the new runs of a study, side by side."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

from families.units import BadInput, format_size

from ..files import Record, StrPath, sha256_file
from ..fitting.predictor import Fit, load_law
from ..laws import PARAMS_FIELD
from ..paths import StudyPaths
from ..planning.planfile import PlanFile
from ..runs import Run, RunTable
from ..runs.readers import read_runs
from ..stats import Interval, format_loss

AHEAD = 10.0  # the next budget, in units of the largest compute among all runs

Estimate = tuple[float, Interval | None]  # a value with its 80 % interval


class Change(Record):
    """One quantity by either law, with its 80 % interval where there is one. unit is "" for a pure number."""

    quantity: str
    unit: str = ""
    before: float
    before_80: Interval | None = None
    after: float
    after_80: Interval | None = None


class Refit(Record):
    """Both laws in numbers. Both predict the loss of the same N and D: the later law's optimum for `flops`."""

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
        return next((change for change in self.changes if change.quantity == quantity), None)


def refit_study(study: StudyPaths, plan: PlanFile, runs: Sequence[Run], new: Sequence[str]) -> Refit:
    """Compare a study's sealed law with the law fitted to the sealed runs as well.

    Where law.json was fitted again since the seal, the law before is fitted again without the new runs.

    Args:
        study: paths of the study.
        plan: its sealed plan.
        runs: all its runs.
        new: names of the runs that the sealed law was not fitted to.

    Raises:
        BadInput: the study has no law of its own, or see `refit`.
    """
    if not study.law.exists():
        raise BadInput(f"{study.law} does not exist; there is no law to refit")
    seed = study.seed()
    law = load_law(study.law)
    if plan.seal is None or sha256_file(study.law) != plan.seal.law_sha256:
        from ..fitting.fit import fit

        old = comparable_runs(law, runs).select(lambda run: run.run not in new)
        law = fit(old, convention=law.convention, seed=seed)
    return refit(law, runs, new, seed=seed)


def refit(law: Fit | StrPath, runs: Sequence[Run] | StrPath, new: Sequence[str], *, seed: int = 0) -> Refit:
    """Fit a law's own runs together with new ones, and compare the two laws.

    Args:
        law: the law fitted without the new runs, or its law.json.
        runs: all runs, or a file that `read_runs` reads; those of another group, eval set or convention than the law's
            are left out.
        new: names of the runs that the law was not fitted to.
        seed: seed of the fit.

    Raises:
        BadInput: none of the new runs is comparable with the law's, or the fit is refused.
    """
    from ..fitting.fit import fit  # scipy stays unloaded where a refit is only read

    if isinstance(law, str | PathLike):
        law = load_law(law)
    comparable = comparable_runs(law, read_runs(runs) if isinstance(runs, str | PathLike) else runs)
    if not any(run.run in new for run in comparable):
        raise BadInput(
            "no new run has the law's group, eval set and count of N; there is nothing to refit with"
        )
    fitted = fit(comparable, convention=law.convention, seed=seed)
    return Refit(
        rows_before=law.rows,
        rows_after=fitted.rows,
        form_before=_forms(law),
        form_after=_forms(fitted),
        status=fitted.status.value,
        **_changes(law, fitted),
    )


def change_name(refit: Refit, change: Change) -> str:
    """A label of the quantity, with the point it is taken at."""
    if change.quantity == "loss":
        return f"loss of N {format_size(refit.N)} on D {format_size(refit.D)}"
    if change.quantity == "N*":
        return f"best N for {format_size(refit.flops)} FLOPs"
    return change.quantity


def change_value(change: Change, value: float) -> str:
    """A size as 1.4M, a loss with four decimals, other numbers with three."""
    if change.unit == "parameters":
        return format_size(value)
    return format_loss(value) if change.quantity == "loss" else f"{value:.3f}"


def change_interval(change: Change, bounds: Interval | None) -> str:
    """The ends of an interval, or a dash."""
    return "–" if bounds is None else "–".join(change_value(change, bound) for bound in bounds)


def comparable_runs(law: Fit, runs: Sequence[Run]) -> RunTable:
    """Select the annealed runs of a law's group and eval set that state their N in its convention."""
    return RunTable.of(runs).select(
        lambda run: (
            run.annealed
            and getattr(run, PARAMS_FIELD[law.convention]) is not None
            and run.group == law.group
            and run.eval_set == law.eval_set
        )
    )


def _forms(law: Fit) -> str:
    return ", ".join(f"{form.name} {form.weight:.0%}" for form in law.forms)


def _changes(before: Fit, after: Fit) -> dict[str, Any]:
    flops = AHEAD * max(before.domain.C[1], after.domain.C[1])
    changes = [_change(name, _constant(before, name), _constant(after, name)) for name in ("alpha", "beta")]
    try:
        best = after.allocate(flops, force=True)
        N, D = best.N, best.D
        changes.append(
            _change("exponent of N*", before.optimum_exponent(flops), after.optimum_exponent(flops))
        )
        changes.append(_change("N*", _optimum(before, flops), _optimum(after, flops), "parameters"))
    except BadInput:  # no optimum: a law of one variable, or exponents that the data do not tell apart
        N = max(before.domain.N[1], after.domain.N[1])
        D = flops / (6 * N)
    changes.append(_change("loss", _loss(before, N, D), _loss(after, N, D), "nats/token"))
    return {"flops": flops, "N": N, "D": D, "changes": tuple(changes)}


def _change(quantity: str, before: Estimate, after: Estimate, unit: str = "") -> Change:
    return Change(
        quantity=quantity,
        unit=unit,
        before=before[0],
        before_80=before[1],
        after=after[0],
        after_80=after[1],
    )


def _constant(law: Fit, name: str) -> Estimate:
    """A constant of the form with the greatest weight, as on the fit card."""
    return float(getattr(law.main_form.law, name)), law.interval(name)


def _optimum(law: Fit, flops: float) -> Estimate:
    best = law.allocate(flops, force=True)
    return best.N, best.N_interval_80


def _loss(law: Fit, N: float, D: float) -> Estimate:
    prediction = law.predict(N, D, force=True)
    return float(prediction.loss), prediction.interval_80
