"""law.json: everything needed to predict without refitting (docs/formats.md)."""

from dataclasses import asdict
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveFloat, SerializerFunctionWrapHandler, model_serializer, model_validator

from ..files import Document, Record
from ..laws import CONSTANTS, Convention, Domain, Law, Repetition
from .coordinates import CONSTANT_OF, Coordinate, Coordinates, Divergence, Kind, Scatter, Shape, Target
from .forms import FittedForm, LastValue, ResidualGP, Status


class FormRecord(Record):
    """One form: constants of L = E + (A/N^alpha + B/D^beta)^gamma in nats/token, and resampled constants.

    Each of `draws` is E, A, B, alpha, beta, gamma.
    """

    name: str
    E: float = Field(ge=0)
    A: float = Field(ge=0)
    B: float = Field(ge=0)
    alpha: float = Field(ge=0)
    beta: float = Field(ge=0)
    gamma: float = Field(gt=0)
    variable: Literal["ND", "N", "D", "C"] = "ND"  # C: the law's N is 6·N·D
    curve: Literal["", "power", "offset", "saturating", "broken", "logarithmic"] = ""  # a law of one variable
    status: Status
    objective: float
    weight: float = Field(ge=0, le=1)
    rollout_error: float | None = None
    draws: tuple[tuple[float, float, float, float, float, float], ...] = ()

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the curve of a law of N and D."""
        values: dict[str, Any] = handler(self)
        if not self.curve:
            values.pop("curve", None)
        return values

    @classmethod
    def of(cls, form: FittedForm) -> "FormRecord":
        """A fitted form as a record."""
        shared = ("name", "variable", "curve", "status", "objective", "weight", "rollout_error")
        return cls(
            **{name: getattr(form, name) for name in shared},
            **{name: getattr(form.law, name) for name in CONSTANTS},
            draws=form.draws.tolist(),
        )

    def fitted(self) -> FittedForm:
        """The record as a fitted form."""
        shared = ("name", "variable", "curve", "status", "objective", "weight", "rollout_error")
        return FittedForm(
            **{name: getattr(self, name) for name in shared},
            law=Law(**{name: getattr(self, name) for name in CONSTANTS}),
            draws=np.array(self.draws, dtype=np.float64).reshape(len(self.draws), len(CONSTANTS)),
        )


class LastValueRecord(Record):
    """Last log loss of a curve of one variable, and the mean squared error of its rollouts (docs/math.md)."""

    log_loss: float
    variance: float = Field(gt=0)

    def fitted(self) -> LastValue:
        """The record as the last value."""
        return LastValue(log_loss=self.log_loss, variance=self.variance)


class LocalRecord(Record):
    """A correction of log loss near the fitted rows: log N, log D and coefficient of each (docs/math.md)."""

    log_N: tuple[float, ...] = ()
    log_D: tuple[float, ...] = ()
    coefficient: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _alike(self) -> "LocalRecord":
        self.fitted()
        return self

    @classmethod
    def of(cls, local: ResidualGP) -> "LocalRecord":
        """A correction as a record."""
        return cls(**{name: tuple(getattr(local, name).tolist()) for name in cls.model_fields})

    def fitted(self) -> ResidualGP:
        """The record as a correction."""
        return ResidualGP(**{name: np.array(getattr(self, name)) for name in type(self).model_fields})


class CoordinateRecord(Record):
    """One coordinate: constants by name, and resampled constants, each of `draws` in the order of `names`."""

    column: str = Field(min_length=1)
    kind: Kind
    names: tuple[str, ...] = Field(min_length=1)
    values: tuple[float, ...]
    on: Target = "N"
    reference: float = Field(default=1.0, gt=0)
    span: tuple[float, float] = (0.0, 0.0)
    level: str = ""
    saturating: bool = False
    shape: Shape = "power"
    draws: tuple[tuple[float, ...], ...] = ()

    @model_serializer(mode="wrap")
    def _without_usual(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the shape of a power."""
        values: dict[str, Any] = handler(self)
        if self.shape == "power":
            values.pop("shape", None)
        return values

    @model_validator(mode="after")
    def _sound(self) -> "CoordinateRecord":
        """Refuse constants that are not those of the kind."""
        power = (CONSTANT_OF.get(self.shape, "power"),)
        first = {"setting": ("at", "N", "D"), "multiplier": power, "term": ("size", "exponent")}.get(
            self.kind, ("none",)
        )
        if self.names[: len(first)] != first or (
            self.kind == "setting" and self.names[-2:] != ("skew", "log_kappa")
        ):
            raise ValueError(f"a {self.kind} has no constants {', '.join(self.names)}")
        if {len(self.names)} != {len(self.values), *map(len, self.draws)}:
            raise ValueError(
                f"{self.column} has {len(self.names)} constants; each set of values must have as many"
            )
        return self


class ScatterRecord(Record):
    """Standard deviation of log loss, size·s^power, on one side of a valley's bottom."""

    size: float = Field(ge=0)
    power: float = Field(gt=0, le=1)


class DivergenceRecord(Record):
    """Runs whose learning rate is above a threshold: log lr = at + N·x + D·z, and how wide; they end near a level of log loss."""

    at: float
    N: float
    D: float
    width: PositiveFloat
    level: float
    spread: float = Field(ge=0)


class CoordinatesRecord(Record):
    """What the loss depends on besides N and D (docs/math.md)."""

    log_N: float
    log_D: float
    misfit: float = Field(default=0.0, ge=0)  # of files before `below` and `above`: both, of power 1
    below: ScatterRecord | None = None
    above: ScatterRecord | None = None
    divergence: DivergenceRecord | None = None
    batch_tokens: tuple[PositiveFloat, PositiveFloat] | None = None  # of the rows, where it is no coordinate
    parts: tuple[CoordinateRecord, ...] = Field(min_length=1)

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a batch that is not stated, and what only older files have."""
        values: dict[str, Any] = handler(self)
        for name in ("batch_tokens", "below", "above", "divergence"):
            if getattr(self, name) is None:
                values.pop(name, None)
        if self.below is not None:
            values.pop("misfit", None)
        return values

    @classmethod
    def of(cls, coordinates: Coordinates) -> "CoordinatesRecord":
        """Fitted coordinates as a record."""
        parts = tuple(
            CoordinateRecord(
                **{name: getattr(part, name) for name in CoordinateRecord.model_fields if name != "draws"},
                draws=part.draws.tolist(),
            )
            for part in coordinates.parts
        )
        shared = {name: getattr(coordinates, name) for name in ("log_N", "log_D", "batch_tokens")}
        sides = {
            name: ScatterRecord(size=side.size, power=side.power)
            for name, side in (("below", coordinates.below), ("above", coordinates.above))
        }
        known = coordinates.divergence
        divergence = None if known is None else DivergenceRecord(**asdict(known))
        return cls(**shared, **sides, divergence=divergence, parts=parts)

    def fitted(self) -> Coordinates:
        """The record as coordinates."""
        parts = tuple(
            Coordinate(
                **{name: getattr(part, name) for name in CoordinateRecord.model_fields if name != "draws"},
                draws=np.array(part.draws, dtype=np.float64).reshape(len(part.draws), len(part.names)),
            )
            for part in self.parts
        )
        shared = {name: getattr(self, name) for name in ("log_N", "log_D", "batch_tokens")}
        below, above = (
            Scatter(size=self.misfit) if side is None else Scatter(size=side.size, power=side.power)
            for side in (self.below, self.above)
        )
        divergence = None if self.divergence is None else Divergence(**dict(self.divergence))
        return Coordinates(**shared, below=below, above=above, divergence=divergence, parts=parts)


class LawFile(Document):
    """law.json (docs/formats.md). `predictor.load_law` reads one as a `Fit`."""

    KIND: ClassVar[str] = "law"
    MADE_BY: ClassVar[str] = "scaling fit runs.csv --out law.json"

    convention: Convention
    loss_unit: Literal["nats/token"] = "nats/token"
    eval_set: str = ""
    group: str = ""
    domain: Domain
    runs: int = Field(ge=1)
    rows: int = Field(ge=1)
    status: Status
    detail: str = ""
    noise: float = Field(ge=0)  # standard deviation of log loss between like runs
    drift: float = Field(ge=0)  # standard deviation of log loss added per decade of compute beyond the data
    offset: float = Field(default=0.0, ge=0)  # standard deviation of log loss that the rows of one size share
    predicted: float = Field(default=1.0, ge=0, le=1)  # share of the draws' variance that predictions have
    prior_share: float = Field(default=0.0, ge=0, le=1)  # of the slopes' prior variance, what the rows leave
    nearby: float | None = Field(
        default=None, ge=0, le=1
    )  # `predicted` beside the data; None: the same there
    intervals: bool
    forms: tuple[FormRecord, ...] = Field(min_length=1)
    local: LocalRecord
    last: LastValueRecord | None = None
    repetition: Repetition | None = None
    row_hashes: tuple[
        str, ...
    ] = ()  # of each fitted observation: a seal tells them from those that came after
    coordinates: CoordinatesRecord | None = None
    card: dict[str, str] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what a law does not have: coordinates, a last value, or the hashes of rows that an older program fitted."""
        values: dict[str, Any] = handler(self)
        for name in ("coordinates", "last"):
            if getattr(self, name) is None:
                values.pop(name, None)
        if not self.row_hashes:
            values.pop("row_hashes", None)
        return values

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
