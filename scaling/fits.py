"""fit(runs): the certified fit of one form, or of the forms that the default predictor combines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from families.errors import BadInput
from families.units import nearest

from .certify import Certificate, certify
from .combine import CANDIDATES, Candidate, Table, drift_of, rollouts, weigh
from .fitcard import MANY_EPOCHS, card
from .laws import Allocation, Law
from .local import Local
from .optimise import SHAPES, Problem, Shape
from .predictor import Domain, Extrapolation, FittedForm, Prediction, Predictor, Status
from .runs import Columns, Convention, Run, by_group, columns
from .uncertainty import FEWEST_RUNS, cluster_draws, noise_of

if TYPE_CHECKING:
    from .lawfile import LawFile

Array = NDArray[np.float64]
Annealed = Literal["only", "all"]
FORMS = ("auto", *SHAPES)
FEWEST_ROWS = 4
DELTA = 1e-3  # of the log-Huber loss (Hoffmann et al. 2022, eq. 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A law, the verdict on it, and a predictor with intervals. `card` says what was done, line by line."""

    law: Law
    status: Status
    detail: str
    forms: tuple[FittedForm, ...]
    predictor: Predictor
    runs: int
    rows: int
    card: Mapping[str, str] = field(default_factory=dict)

    @property
    def domain(self) -> Domain:
        """The fitted ranges of N, D and C = 6ND."""
        return self.predictor.domain

    @property
    def convention(self) -> Convention:
        """What N counts."""
        return self.predictor.convention

    @property
    def eval_set(self) -> str:
        """The evaluation set of the losses."""
        return self.predictor.eval_set

    @property
    def group(self) -> str:
        """The runs' group."""
        return self.predictor.group

    def predict(
        self, N: Any, D: Any, *, convention: Convention | None = None, force: bool = False
    ) -> Prediction:
        """The loss of a run of N parameters and D tokens, with intervals (see `Predictor.predict`)."""
        return self.predictor.predict(N, D, convention=convention, force=force)

    def allocate(self, C: float, *, flops_per_param_token: float = 6.0, force: bool = False) -> Allocation:
        """The compute-optimal N and D for C FLOPs (see `Predictor.allocate`)."""
        return self.predictor.allocate(C, flops_per_param_token=flops_per_param_token, force=force)

    def extrapolation(self, N: Any, D: Any) -> Extrapolation:
        """How far a point lies outside the fitted domain."""
        return self.predictor.extrapolation(N, D)

    def document(self, inputs: Mapping[str, str] | None = None) -> "LawFile":
        """The fit as law.json: everything needed to predict without refitting."""
        from .lawfile import LawFile

        return LawFile.of(self, inputs or {})


def fit(
    runs: Sequence[Run],
    *,
    form: str = "auto",
    convention: Convention | None = None,
    group: str | None = None,
    annealed: Annealed | None = None,
    seed: int = 0,
    bootstrap: int = 200,
    delta: float = DELTA,
    starts: Sequence[Law] | None = None,
) -> Fit:
    """Fit a law to runs of one group.

    Args:
        form: "auto" combines forms by their rollout error inside the data; else one of FORMS, fitted plainly.
        convention: what N counts; total parameters where every run has them.
        group: which group, where the runs have several.
        annealed: "only" leaves mid-schedule points out, "all" takes them with the rest; a mixture needs one of the two.
        bootstrap: resamples of whole runs behind the intervals; 0 for no intervals.
        delta: where log-Huber turns from squares to absolute values.
        starts: laws to start from in place of variable projection's grid, for a named form.

    Raises:
        BadInput: a mixture of annealed and mid-schedule points, of groups or of eval sets; an unknown form; too few rows,
            or fewer than 4 runs with a bootstrap.
    """
    if form not in FORMS:
        raise BadInput(f"form is {form!r}; {nearest(form, FORMS)}")
    chosen, excluded = choose(runs, group=group, annealed=annealed)
    table = columns(chosen, convention)
    count = len(set(table.cluster.tolist()))
    if bootstrap and count < FEWEST_RUNS:
        raise BadInput(
            f"there {'is' if count == 1 else 'are'} {count} run{'' if count == 1 else 's'}; intervals need at least "
            f"{FEWEST_RUNS}: add runs, or ask for no intervals (bootstrap 0)"
        )
    if form == "auto":
        found = _auto(table, seed=seed, bootstrap=bootstrap)
    else:
        found = _named(table, form, seed=seed, bootstrap=bootstrap, delta=delta, given=starts)
    compute = 6 * table.N * table.D
    fitted = sum(one.weight * one.log_loss(table.N, table.D) for one in found.forms)
    fitted = fitted + found.local.correction(table.N, table.D)
    predictor = Predictor(
        forms=found.forms,
        domain=Domain(N=_range(table.N), D=_range(table.D), C=_range(compute)),
        convention=table.convention,
        noise=noise_of(table, np.log(table.L) - fitted),
        drift=found.drift,
        local=found.local,
        intervals=bootstrap > 0,
        eval_set=chosen[0].eval_set,
        group=chosen[0].group,
    )
    certificate = found.certificates[found.main]
    status, detail = certificate.status, certificate.detail
    return Fit(
        law=certificate.law,
        status=status,
        detail=detail,
        forms=found.forms,
        predictor=predictor,
        runs=count,
        rows=len(table),
        card=card(
            predictor,
            status=status,
            detail=detail,
            runs=count,
            rows=len(table),
            exclusions=excluded,
            evidence=_lines(certificate),
            warnings=_warnings(table, predictor),
        ),
    )


def one_of_conventions(value: str | None) -> Convention | None:
    """A convention's name from outside, checked.

    Raises:
        BadInput: it is not one.
    """
    if value is None or value in get_args(Convention):
        return cast(Convention | None, value)
    raise BadInput(f"convention is {value!r}; {nearest(value, get_args(Convention))}")


def one_of_annealed(value: str | None) -> Annealed | None:
    """Which rows to take, from outside, checked.

    Raises:
        BadInput: it is neither "only" nor "all".
    """
    if value is None or value in get_args(Annealed):
        return cast(Annealed | None, value)
    raise BadInput(f"annealed is {value!r}; {nearest(value, get_args(Annealed))}")


def choose(
    runs: Sequence[Run], *, group: str | None, annealed: Annealed | None
) -> tuple[tuple[Run, ...], str]:
    """The runs that one law may be fitted to, and a line on what was left out.

    Raises:
        BadInput: naming the mixture.
    """
    groups = by_group(runs)
    if not groups:
        raise BadInput("there are 0 runs; at least 1 is needed")
    if group is None and len(groups) > 1:
        names = ", ".join(repr(name) for name in list(groups)[:8])
        raise BadInput(
            f"there are {len(groups)} groups ({names}); a law is fitted to one: name it with group"
        )
    if group is not None and group not in groups:
        raise BadInput(f"group is {group!r}; {nearest(group, list(groups))}")
    chosen = groups[group] if group is not None else next(iter(groups.values()))
    left_out = []
    if len(runs) > len(chosen):
        left_out.append(f"{len(runs) - len(chosen)} rows of other groups")
    middle = sum(not run.annealed for run in chosen)
    if middle and middle < len(chosen):
        if annealed is None:
            raise BadInput(
                f"{middle} of {len(chosen)} rows are not annealed (mid-schedule losses lie above final ones); fit the "
                "annealed ones only, or say that all may be mixed (annealed only | all)"
            )
        if annealed == "only":
            chosen = tuple(run for run in chosen if run.annealed)
            left_out.append(f"{middle} rows not annealed")
    elif middle and annealed == "only":
        raise BadInput(f"all {middle} rows are not annealed; there is nothing to fit")
    sets = sorted({run.eval_set for run in chosen})
    if len(sets) > 1:
        raise BadInput(
            f"the rows have {len(sets)} eval sets ({', '.join(map(repr, sets[:8]))}); a law is fitted to one"
        )
    return chosen, "; ".join(left_out) or "none"


def _warnings(table: Columns, predictor: Predictor) -> list[str]:
    found = []
    epochs = float((table.D / table.U).max())
    if epochs > MANY_EPOCHS:
        found.append(
            f"some rows repeat their data {epochs:.3g} times; the form takes repeated tokens for fresh ones"
        )
    doubtful = [form.name for form in predictor.forms if form.status is not Status.OK]
    if doubtful:
        found.append(f"doubtful: {', '.join(doubtful)}")
    return found


def _range(values: Array) -> tuple[float, float]:
    return float(values.min()), float(values.max())


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """Forms with their evidence, a local correction, and the drift beyond the data."""

    forms: tuple[FittedForm, ...]
    certificates: tuple[Certificate, ...]
    local: Local
    drift: float

    @property
    def main(self) -> int:
        """Which form has the greatest weight."""
        return int(np.argmax([form.weight for form in self.forms]))


def _member(
    name: str, certificate: Certificate, shape: Shape, weight: float, draws: Array, error: float | None
) -> FittedForm:
    return FittedForm(
        name=name,
        law=certificate.law,
        status=certificate.status,
        objective=certificate.objective,
        weight=weight,
        draws=draws,
        variable="C" if shape.variable == "C" else "ND",
        rollout_error=error,
    )


def _named(
    table: Columns, form: str, *, seed: int, bootstrap: int, delta: float, given: Sequence[Law] | None
) -> Combination:
    """One form, fitted plainly: no prior, every row the same weight."""
    shape = SHAPES[form]
    if len(table) < len(shape.free):
        raise BadInput(f"there are {len(table)} rows; the form {form!r} has {len(shape.free)} constants")
    N = 6 * table.N * table.D if shape.variable == "C" else table.N
    problem = Problem.of(N, table.D, table.L, delta=delta)
    first = None if given is None else np.stack([problem.theta(law) for law in given])
    certificate = certify(problem, shape, first, seed)
    draws = cluster_draws(problem, shape, certificate.theta, table.cluster, bootstrap, seed)
    plain = [Candidate(name=form, shape=shape, strength=0.0)]
    cuts = rollouts(Table(N=N, D=table.D, L=table.L, noise=0.0), plain)
    weights, errors = weigh(cuts, plain)
    member = _member(form, certificate, shape, 1.0, draws, None if errors is None else float(errors[0]))
    return Combination(
        forms=(member,),
        certificates=(certificate,),
        local=Local.nothing(),
        drift=drift_of(cuts, weights, local=False),
    )


def _auto(table: Columns, *, seed: int, bootstrap: int) -> Combination:
    """The candidates, weighted by their rollout error inside these rows, and a local correction."""
    if len(table) < FEWEST_ROWS:
        raise BadInput(f"there are {len(table)} rows; at least {FEWEST_ROWS} are needed")
    rows = Table.of(table.N, table.D, table.L)
    cuts = rollouts(rows)
    weights, errors = weigh(cuts)
    members, certificates = [], []
    for index, candidate in enumerate(CANDIDATES):
        problem = rows.problem(candidate)
        certificate = certify(problem, candidate.shape, None, seed)
        draws = cluster_draws(problem, candidate.shape, certificate.theta, table.cluster, bootstrap, seed)
        error = None if errors is None else float(errors[index])
        weight = float(weights[index])
        members.append(_member(candidate.name, certificate, candidate.shape, weight, draws, error))
        certificates.append(certificate)
    fitted = sum(form.weight * form.log_loss(table.N, table.D) for form in members)
    return Combination(
        forms=tuple(members),
        certificates=tuple(certificates),
        local=Local.of(table.N, table.D, np.log(table.L) - fitted),
        drift=drift_of(cuts, weights),
    )


def _lines(certificate: Certificate) -> dict[str, str]:
    return {
        "objective": f"{certificate.objective:.6g}, log-Huber summed over rows",
        "starts": f"{certificate.agreeing} of {certificate.starts} agree",
        "gradient": f"{certificate.gradient:.2g}, scaled",
        "condition": f"{certificate.condition:.2g}",
    }
