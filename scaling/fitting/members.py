"""The forms behind a fit, with their evidence: one form fitted plainly, or the default predictor's several."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from families.errors import BadInput

from ..laws import Law
from ..predictor import FittedForm
from ..runs import Columns
from ..uncertainty import cluster_draws
from .certify import Certificate, certify
from .combine import CANDIDATES, Candidate, Table, drift_of, rollouts, weigh
from .local import Local
from .optimise import SHAPES, Problem, Shape

Array = NDArray[np.float64]
FEWEST_ROWS = 4


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


def named(
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


def combined(table: Columns, *, seed: int, bootstrap: int) -> Combination:
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
