"""law.json: everything needed to predict without refitting, and without scipy."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from ..files import Document, Record
from ..laws import CONSTANTS, Convention, Domain, Law
from .predictor import FittedForm, Predictor, ResidualGP, Status
from .repetition import Repetition

if TYPE_CHECKING:
    from .fit import Fit

Range = tuple[float, float]


class DomainRecord(Record):
    """The fitted rows' (smallest, largest) N, D and C = 6·N·D."""

    N: Range
    D: Range
    C: Range


class FormRecord(Record):
    """One form: constants of L = E + (A/N^alpha + B/D^beta)^gamma in nats/token, and resampled constants in
    that order.
    """

    name: str
    E: float = Field(ge=0)
    A: float = Field(ge=0)
    B: float = Field(ge=0)
    alpha: float = Field(ge=0)
    beta: float = Field(ge=0)
    gamma: float = Field(gt=0)
    variable: Literal["ND", "C"] = "ND"  # C: the law's N is 6·N·D
    status: Status
    objective: float
    weight: float = Field(ge=0, le=1)
    rollout_error: float | None = None
    draws: tuple[tuple[float, float, float, float, float, float], ...] = ()

    @property
    def law(self) -> Law:
        """The constants as a law."""
        return Law(E=self.E, A=self.A, B=self.B, alpha=self.alpha, beta=self.beta, gamma=self.gamma)

    def fitted(self) -> FittedForm:
        """The form as arrays."""
        return FittedForm(
            name=self.name,
            law=self.law,
            status=self.status,
            objective=self.objective,
            weight=self.weight,
            draws=np.array(self.draws, dtype=np.float64).reshape(len(self.draws), len(CONSTANTS)),
            variable=self.variable,
            rollout_error=self.rollout_error,
        )


class LocalRecord(Record):
    """A correction of log loss near the fitted rows: log N, log D and coefficient of each (docs/math.md)."""

    log_N: tuple[float, ...] = ()
    log_D: tuple[float, ...] = ()
    coefficient: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _alike(self) -> "LocalRecord":
        if not len(self.log_N) == len(self.log_D) == len(self.coefficient):
            raise ValueError("log_N, log_D and coefficient must have one length")
        return self


class RepetitionRecord(Record):
    """R_N and R_D of the data-constrained form (Muennighoff et al. 2023)."""

    R_N: float = Field(gt=0)
    R_D: float = Field(gt=0)

    def fitted(self) -> Repetition:
        """As what computes effective sizes."""
        return Repetition(R_N=self.R_N, R_D=self.R_D)


class LawFile(Document):
    """law.json (docs/formats.md)."""

    KIND: ClassVar[str] = "law"
    MADE_BY: ClassVar[str] = "scaling fit runs.csv --out law.json"

    convention: Convention
    loss_unit: Literal["nats/token"] = "nats/token"
    eval_set: str = ""
    group: str = ""
    domain: DomainRecord
    runs: int = Field(ge=1)
    rows: int = Field(ge=1)
    status: Status
    detail: str = ""
    noise: float = Field(ge=0)  # standard deviation of log loss between like runs
    drift: float = Field(
        ge=0
    )  # standard deviation of log loss added per factor of ten in compute beyond the data
    intervals: bool
    forms: tuple[FormRecord, ...] = Field(min_length=1)
    local: LocalRecord
    repetition: RepetitionRecord | None = None
    card: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _sound(self) -> "LawFile":
        """Refuse what no fit writes and no prediction can be made of."""
        for name in ("N", "D", "C"):
            low, high = getattr(self.domain, name)
            if not 0 < low <= high:
                raise ValueError(
                    f"domain.{name} is {low:g} to {high:g}; both must be positive, the smaller one first"
                )
        counts = {len(form.draws) for form in self.forms if form.draws}
        if len(counts) > 1:
            raise ValueError(f"forms have {min(counts)} and {max(counts)} draws; all must have as many")
        for E, A, B, _, _, gamma in (draw for form in self.forms for draw in form.draws):
            if min(E, A, B) < 0 or gamma <= 0:  # an exponent may be: the data did not decide its sign
                raise ValueError(
                    f"forms has a draw with E {E:g}, A {A:g}, B {B:g}, gamma {gamma:g}: none may be negative"
                )
        return self

    @classmethod
    def of(cls, fit: "Fit", inputs: Mapping[str, str]) -> "LawFile":
        """A fit as a document."""
        return cls(
            inputs=dict(inputs),
            convention=fit.convention,
            eval_set=fit.eval_set,
            group=fit.group,
            domain=DomainRecord(N=fit.domain.N, D=fit.domain.D, C=fit.domain.C),
            runs=fit.runs,
            rows=fit.rows,
            status=fit.status,
            detail=fit.detail,
            noise=fit.predictor.noise,
            drift=fit.predictor.drift,
            intervals=fit.predictor.intervals,
            forms=tuple(_record(form) for form in fit.forms),
            repetition=_repetition_record(fit.predictor.repetition),
            local=LocalRecord(
                log_N=tuple(fit.predictor.local.x.tolist()),
                log_D=tuple(fit.predictor.local.z.tolist()),
                coefficient=tuple(fit.predictor.local.coefficient.tolist()),
            ),
            card=dict(fit.card),
        )

    @property
    def domain_N(self) -> Range:
        """(smallest, largest) fitted N, named as a published law names it."""
        return self.domain.N

    @property
    def domain_D(self) -> Range:
        """(smallest, largest) fitted D."""
        return self.domain.D

    @property
    def law(self) -> Law:
        """The law of the form with the greatest weight."""
        return self.predictor().law

    def predictor(self) -> Predictor:
        """What answers `.predict`, `.allocate` and `.law` as the fit did."""
        return Predictor(
            forms=tuple(form.fitted() for form in self.forms),
            domain=Domain(N=self.domain.N, D=self.domain.D, C=self.domain.C),
            convention=self.convention,
            noise=self.noise,
            drift=self.drift,
            repetition=None if self.repetition is None else self.repetition.fitted(),
            local=ResidualGP(
                x=np.array(self.local.log_N),
                z=np.array(self.local.log_D),
                coefficient=np.array(self.local.coefficient),
            ),
            intervals=self.intervals,
            eval_set=self.eval_set,
            group=self.group,
        )


def _repetition_record(found: Repetition | None) -> RepetitionRecord | None:
    return None if found is None else RepetitionRecord(R_N=found.R_N, R_D=found.R_D)


def _record(form: FittedForm) -> FormRecord:
    law = form.law
    return FormRecord(
        name=form.name,
        E=law.E,
        A=law.A,
        B=law.B,
        alpha=law.alpha,
        beta=law.beta,
        gamma=law.gamma,
        variable="C" if form.variable == "C" else "ND",
        status=form.status,
        objective=form.objective,
        weight=form.weight,
        rollout_error=form.rollout_error,
        draws=tuple(_six(row) for row in form.draws.tolist()),
    )


def _six(row: list[float]) -> tuple[float, float, float, float, float, float]:
    E, A, B, alpha, beta, gamma = (float(f"{value:.10g}") for value in row)
    return E, A, B, alpha, beta, gamma
