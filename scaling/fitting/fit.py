"""fit(runs): the certified fit of one form, or the default predictor."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from families.units import BadInput, nearest

from ..files import now
from ..laws import Convention, Domain, Law, Repetition
from ..runs import Run, RunTable
from ..stats import Array
from .card import MANY_EPOCHS, ON_PRIOR, card
from .certify import Certificate
from .columns import KNOWN, REPETITION, choose
from .coordinates import Kind
from .ensemble import POSTERIOR_PRIOR, fit_ensemble, fit_single_form
from .forms import Status
from .one_variable import FEWEST_POINTS, curve_noise, curve_warnings, fit_curve, values_of, variable_of
from .optimise import SHAPES
from .predictor import Fit
from .reduction import Reduced, reduce_rows
from .repetition import fit_repetition, unidentified
from .selection import (
    Annealed,
    bend_warning,
    is_single_run,
    rows_of,
    select_runs,
    small_run_warning,
    spread_warning,
)
from .uncertainty import FEWEST_RUNS, noise_of
from .valley import describe_coordinates

REPEATED = "data-constrained"

FORMS = ("auto", *SHAPES, REPEATED)

OWN_CURVE = (
    "these rows are the curve of one run, most of them in mid-schedule: where its learning rate decays, the final loss "
    "comes out lower (scaling watch knows the schedule)"
)

MID_SCHEDULE = "no row is annealed: the law is of losses in mid-schedule, and a run whose learning rate decays ends below it"

MOSTLY_PRIOR = 0.6  # of the prior's width: the rows have taken little off it
MOST_HASHED = 10_000  # rows whose hashes a law keeps: 0.7 MB; of a larger fit the order of runs is told by the seal alone

DELTA = 1e-3  # of the log-Huber loss (Hoffmann et al. 2022, eq. 3)


def fit(
    runs: Sequence[Run] | None = None,
    *,
    N: ArrayLike | None = None,
    D: ArrayLike | None = None,
    loss: ArrayLike | None = None,
    form: str = "auto",
    convention: Convention | None = None,
    group: str | None = None,
    eval_set: str | None = None,
    annealed: Annealed | None = None,
    seed: int = 0,
    bootstrap: int = 200,
    delta: float = DELTA,
    starts: Sequence[Law] | None = None,
    coordinates: Sequence[str] | None = None,
    own: Mapping[str, Kind | None] | None = None,
) -> Fit:
    """Fit a law to runs of one group, certify it, and resample it for intervals.

    Args:
        runs: what a reader returned, whose warnings stand on the fit card, or any sequence of runs.
        N: parameters in place of `runs`, shape (n,); each row is a run of its own.
        D: tokens that they were trained on, shape (n,).
        loss: nats per token, shape (n,).
        form: "auto" is the general form's posterior under a prior from published laws, and where the rows vary in one of
            N, D and compute alone a law of that one variable; else one of FORMS, fitted plainly.
        convention: what N counts; total parameters where every run has them.
        group: which group, where the runs have several.
        eval_set: which eval set, where they have several.
        annealed: "only" leaves mid-schedule points out, "all" takes them with the rest; a mixture needs one of the two.
        seed: seed of the starts and the resamples.
        bootstrap: resamples of whole runs behind the intervals; 0 for no intervals.
        delta: where log-Huber turns from squares to absolute values.
        starts: laws to start from in place of variable projection's grid, for a named form.
        coordinates: columns besides N and D that the law depends on: lr, batch_tokens, aspect, n_experts, vocab_size,
            unique_tokens; () for none. Left out, those that the runs can carry and that lower the rollout error (form
            "auto").
        own: columns of the caller's own, in `Run.extra`, by kind: "setting", "multiplier" or "term"; None is a multiplier.

    Returns:
        The fit: it predicts, allocates and plots, and printing it shows the fit card with its status and warnings.

    Raises:
        BadInput: neither or both of runs and arrays; a mixture of annealed and mid-schedule points, of groups, of eval
            sets or of vocabularies; an unknown form; too few rows, or fewer than 4 runs with a bootstrap.

    Examples:
        >>> from scaling import Law
        >>> N, D = [1e7, 1e7, 1e8, 1e8, 1e9, 1e9], [1e9, 1e10] * 3
        >>> law = Law(E=1.8, A=480, B=2100, alpha=0.35, beta=0.37)
        >>> found = fit(N=N, D=D, loss=law.loss(N, D), form="chinchilla", bootstrap=0)
        >>> round(found.main_form.law.alpha, 3)
        0.35
    """
    if form not in FORMS:
        raise BadInput(f"form is {form!r}; {nearest(form, FORMS)}")
    rows = rows_of(runs, N=N, D=D, loss=loss, convention=convention)
    own_curve = form == "auto" and annealed is None and is_single_run(rows, group)
    table, excluded = select_runs(
        rows,
        group=group,
        annealed="all" if own_curve else annealed,
        eval_set=eval_set,
        mixed=coordinates or (),
    )
    variable = variable_of(table.N, table.D) if form == "auto" and not coordinates and not own else ""
    if variable == "D" and table.N[0] == 1 and all(run.compute is not None for run in table):
        variable = "C"  # compute is what was stated, and tokens follow from it
    count = len(set(table.cluster.tolist()))
    stated = table.N[0] != 1 and table.D[0] != 1 and count >= FEWEST_RUNS
    if variable and stated and len(np.unique(values_of(variable, table.N, table.D))) < FEWEST_POINTS:
        variable = ""  # too few for a curve: the prior from published laws carries a law of N and D
    one_direction = "" if variable else spread_warning(table, form)
    if bootstrap and count < FEWEST_RUNS and not variable:
        raise BadInput(
            f"there {'is' if count == 1 else 'are'} {count} run{'' if count == 1 else 's'}; intervals need at least "
            f"{FEWEST_RUNS}: add runs, or ask for no intervals (bootstrap 0)"
        )
    repeated = coordinates is None or REPETITION in coordinates or form == REPEATED
    repetition, fresh = _as_fresh(table, form, delta) if repeated else (None, table)
    reduced: Reduced | None = None
    reasons: Mapping[str, str] = {}
    if (form == "auto" and coordinates is None) or coordinates or own:
        reduced, reasons = reduce_rows(
            fresh, choose(fresh, coordinates, own or {}, seed), bootstrap=bootstrap, seed=seed
        )
    observed = table
    if reduced is not None:
        observed = fresh = reduced.effective
    if repetition is not None:
        variable = ""
    elif reduced is not None:
        variable = _one_multiplied(table, fresh, reduced) if form == "auto" else ""
    if variable:
        result = fit_curve(fresh, variable, seed=seed, bootstrap=bootstrap)
    elif form == "auto":
        result = fit_ensemble(fresh, seed=seed, bootstrap=bootstrap)
    else:
        plain = "chinchilla" if form == REPEATED else form
        result = fit_single_form(fresh, plain, seed=seed, bootstrap=bootstrap, delta=delta, given=starts)
    certificate = result.certificates[result.main]
    fitted = Fit(
        forms=result.forms,
        domain=Domain(N=_range(table.N), D=_range(table.D), C=_range(6 * table.N * table.D)),
        convention=table.convention,
        noise=curve_noise(result.residuals) if variable else noise_of(observed, result.residuals),
        drift=result.drift,
        offset=result.offset,
        predicted=result.predicted,
        prior_share=result.prior_share,
        nearby=result.nearby,
        status=certificate.status,
        detail=certificate.detail,
        runs=count,
        rows=len(table),
        local=result.local,
        last=result.last,
        fitted_repetition=repetition,
        fitted_coordinates=None if reduced is None else reduced.coordinates,
        intervals=bootstrap > 0,
        eval_set=table[0].eval_set,
        group=table[0].group,
        row_hashes=tuple(sorted(run.row_hash for run in table)) if len(table) <= MOST_HASHED else (),
        created_at=now(),
        data=table,
    )
    return replace(
        fitted,
        card=card(
            fitted,
            exclusions="; ".join([*_bad_rows(table.bad), *([] if excluded == "none" else [excluded])])
            or "none",
            evidence=_evidence(certificate, variable)
            | describe_coordinates(fitted, reasons, None if reduced is None else reduced.joint),
            warnings=[
                *table.warnings,
                *filter(None, [one_direction]),
                *([OWN_CURVE] if own_curve and not bool(table.annealed.all()) else []),
                *([MID_SCHEDULE] if not own_curve and not bool(table.annealed.any()) else []),
                *(
                    curve_warnings(table, variable, fitted.noise)
                    if variable
                    else _warnings(table, fresh, fitted, result.residuals)
                ),
            ],
        ),
    )


def _one_multiplied(table: RunTable, effective: RunTable, reduced: Reduced) -> str:
    """The one variable of rows with the caller's own multipliers of it alone, such as parallel streams; else empty.

    Experts stay in a law of N and D: of N alone their two larger sizes err by 0.47 % and not 0.41 % (docs/log.md#e234).
    """
    parts = reduced.coordinates.parts
    if any(part.column in KNOWN for part in parts):
        return ""
    targets = {part.on if part.kind == "multiplier" else "" for part in parts}
    one = variable_of(effective.N, effective.D)
    alone = one in ("N", "D") and targets == {one}
    one_before = variable_of(table.N, table.D) in ("", one)
    many = alone and one_before and len(np.unique(values_of(one, effective.N, effective.D))) >= FEWEST_POINTS
    constant = "D" if one == "N" else "N"
    return one if many and np.ptp(getattr(table, constant)) == 0 else ""


def _bad_rows(bad: Sequence[str]) -> list[str]:
    """Number of rows that could not be read, and the places of the first ones."""
    if not bad:
        return []
    where = ", ".join(line.partition(":")[0] for line in bad[:4]) + (", …" if len(bad) > 4 else "")
    return [f"{len(bad)} bad row{'' if len(bad) == 1 else 's'} ({where})"]


def _as_fresh(table: RunTable, form: str, delta: float) -> tuple[Repetition | None, RunTable]:
    """The fitted value of repeated tokens and the rows in effective N and D, where tokens repeat and the form has it."""
    repeats = bool((table.D > table.U * (1 + 1e-9)).any())
    if not repeats or form not in ("auto", REPEATED):
        return None, table
    posterior = form == "auto"
    shape = "general" if posterior else "chinchilla"
    repetition = fit_repetition(table.N, table.D, table.U, table.L, delta=delta, form=shape, prior=posterior)
    N, D = repetition.effective(table.N, table.D, table.U)
    return repetition, table.with_arrays(N=N, D=D)


def _warnings(table: RunTable, fresh: RunTable, fitted: Fit, residuals: Array) -> list[str]:
    warnings = []
    epochs = float((table.D / table.U).max())
    if fitted.fitted_repetition is None and epochs > MANY_EPOCHS:
        warnings.append(
            f"some rows repeat their data {epochs:.3g} times; the form takes repeated tokens for fresh ones"
        )
    if fitted.fitted_repetition is not None and (open_ := unidentified(fitted.fitted_repetition)):
        warnings.append(
            f"{' and '.join(open_)}: at the edge of the search grid; these runs do not say when repeating stops to pay"
        )
    warnings += filter(
        None,
        [
            small_run_warning(fresh.N, fresh.D, fresh.L),
            bend_warning(fresh.N, fresh.D, residuals),
            _rests_on_prior(fitted),
        ],
    )
    doubtful = [form.name for form in fitted.forms if form.status is not Status.OK]
    if doubtful:
        warnings.append(f"doubtful: {', '.join(doubtful)}")
    return warnings


def _rests_on_prior(fitted: Fit) -> str:
    """Warn where the prior, and not the rows, holds the law's slopes: what lies far beyond the data rests on it."""
    form = fitted.main_form
    if not (fitted.is_posterior and len(form.draws)):
        return ""
    alpha, beta, gamma = form.draws.T[3:]
    open_ = [
        name
        for name, slopes in (("N", gamma * alpha), ("D", gamma * beta))
        if float(np.std(slopes)) > MOSTLY_PRIOR * POSTERIOR_PRIOR.slope_width
    ]
    if not open_:
        return ""
    return f"these runs hardly say how loss falls with {' and '.join(open_)}: {ON_PRIOR} from published laws"


def _range(values: Array) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _evidence(certificate: Certificate, variable: str) -> dict[str, str]:
    return {
        "objective": f"{certificate.objective:.6g}, "
        + (
            "half the squares in units of the noise, with the prior"
            if variable
            else "log-Huber summed over rows"
        ),
        "starts": f"{certificate.agreeing} of {certificate.starts} agree",
        "gradient": f"{certificate.gradient:.2g}, scaled",
        "condition": f"{certificate.condition:.2g}",
    }
