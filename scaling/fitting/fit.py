"""fit(runs): the certified fit of one form, or of the forms that the default predictor combines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from families.units import BadInput, nearest

from ..laws import Allocation, Convention, Domain, Extrapolation, Law
from ..runs import Run, RunTable
from ..stats import Array
from .card import MANY_EPOCHS, card
from .certify import Certificate
from .ensemble import fit_ensemble, fit_single_form
from .optimise import SHAPES
from .predictor import FittedForm, Prediction, Predictor, Status
from .repetition import Repetition, fit_repetition
from .selection import Annealed, rows_of, select_runs, small_run_warning
from .uncertainty import FEWEST_RUNS, noise_of

if TYPE_CHECKING:
    from .lawfile import LawFile
REPEATED = "data-constrained"

FORMS = ("auto", *SHAPES, REPEATED)

DELTA = 1e-3  # of the log-Huber loss (Hoffmann et al. 2022, eq. 3)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
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

    def __repr__(self) -> str:
        """The fit card, as a notebook shows it."""
        return "\n".join(f"{name:<26}{text}" for name, text in self.card.items())

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
        self,
        N: Any,
        D: Any,
        *,
        unique_tokens: Any = None,
        convention: Convention | None = None,
        force: bool = False,
    ) -> Prediction:
        """The loss of a run of N parameters and D tokens, with intervals (see `Predictor.predict`)."""
        return self.predictor.predict(N, D, unique_tokens=unique_tokens, convention=convention, force=force)

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
    runs: Sequence[Run] | None = None,
    *,
    N: ArrayLike | None = None,
    D: ArrayLike | None = None,
    loss: ArrayLike | None = None,
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
        runs: what a reader returned, whose warnings stand on the fit card, or any sequence of runs.
        N: parameters in place of `runs`, shape (n,); each row is a run of its own.
        D: tokens that they were trained on, shape (n,).
        loss: nats per token, shape (n,).
        form: "auto" combines forms by their rollout error inside the data; else one of FORMS, fitted plainly.
        convention: what N counts; total parameters where every run has them.
        group: which group, where the runs have several.
        annealed: "only" leaves mid-schedule points out, "all" takes them with the rest; a mixture needs one of the two.
        bootstrap: resamples of whole runs behind the intervals; 0 for no intervals.
        delta: where log-Huber turns from squares to absolute values.
        starts: laws to start from in place of variable projection's grid, for a named form.

    Raises:
        BadInput: neither or both of runs and arrays; a mixture of annealed and mid-schedule points, of groups or of eval
            sets; an unknown form; too few rows, or fewer than 4 runs with a bootstrap.
    """
    if form not in FORMS:
        raise BadInput(f"form is {form!r}; {nearest(form, FORMS)}")
    table, excluded = select_runs(
        rows_of(runs, N=N, D=D, loss=loss, convention=convention), group=group, annealed=annealed
    )
    count = len(set(table.cluster.tolist()))
    if bootstrap and count < FEWEST_RUNS:
        raise BadInput(
            f"there {'is' if count == 1 else 'are'} {count} run{'' if count == 1 else 's'}; intervals need at least "
            f"{FEWEST_RUNS}: add runs, or ask for no intervals (bootstrap 0)"
        )
    repetition, fresh = _as_fresh(table, form, delta)
    if form == "auto":
        found = fit_ensemble(fresh, seed=seed, bootstrap=bootstrap)
    else:
        plain = "chinchilla" if form == REPEATED else form
        found = fit_single_form(fresh, plain, seed=seed, bootstrap=bootstrap, delta=delta, given=starts)
    compute = 6 * table.N * table.D
    fitted = sum(one.weight * one.log_loss(fresh.N, fresh.D) for one in found.forms)
    predictor = Predictor(
        forms=found.forms,
        domain=Domain(N=_range(table.N), D=_range(table.D), C=_range(compute)),
        convention=table.convention,
        noise=noise_of(table, np.log(table.L) - fitted),
        drift=found.drift,
        local=found.local,
        repetition=repetition,
        intervals=bootstrap > 0,
        eval_set=table[0].eval_set,
        group=table[0].group,
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
            exclusions="; ".join([*_bad_rows(table.bad), *([] if excluded == "none" else [excluded])])
            or "none",
            evidence=_lines(certificate),
            warnings=[*table.warnings, *_warnings(table, fresh, predictor)],
        ),
    )


def _bad_rows(bad: Sequence[str]) -> list[str]:
    """How many rows could not be read, and where the first ones are."""
    if not bad:
        return []
    where = ", ".join(line.partition(":")[0] for line in bad[:4]) + (", …" if len(bad) > 4 else "")
    return [f"{len(bad)} bad row{'' if len(bad) == 1 else 's'} ({where})"]


def _as_fresh(table: RunTable, form: str, delta: float) -> tuple[Repetition | None, RunTable]:
    """The rows in effective N and D where tokens repeat and the form knows it."""
    repeats = bool((table.D > table.U * (1 + 1e-9)).any())
    if not repeats or form not in ("auto", REPEATED):
        return None, table
    found = fit_repetition(
        table.N, table.D, table.U, table.L, delta=delta, form="general" if form == "auto" else "chinchilla"
    )
    N, D = found.effective(table.N, table.D, table.U)
    return found, table.with_arrays(N=N, D=D)


def _warnings(table: RunTable, fresh: RunTable, predictor: Predictor) -> list[str]:
    found = []
    epochs = float((table.D / table.U).max())
    if epochs > MANY_EPOCHS and predictor.repetition is None:
        found.append(
            f"some rows repeat their data {epochs:.3g} times; the form takes repeated tokens for fresh ones"
        )
    if predictor.repetition is not None and predictor.repetition.at_edge:
        found.append(
            f"{' and '.join(predictor.repetition.at_edge)}: at the edge of what was searched; these runs do not say when "
            "repeating stops to pay"
        )
    rung = small_run_warning(fresh.N, fresh.D, fresh.L)
    if rung:
        found.append(rung)
    doubtful = [form.name for form in predictor.forms if form.status is not Status.OK]
    if doubtful:
        found.append(f"doubtful: {', '.join(doubtful)}")
    return found


def _range(values: Array) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _lines(certificate: Certificate) -> dict[str, str]:
    return {
        "objective": f"{certificate.objective:.6g}, log-Huber summed over rows",
        "starts": f"{certificate.agreeing} of {certificate.starts} agree",
        "gradient": f"{certificate.gradient:.2g}, scaled",
        "condition": f"{certificate.condition:.2g}",
    }
