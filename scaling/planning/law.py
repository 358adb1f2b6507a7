"""A law as the planner sees it, published or fitted: losses, what N counts, and where it may be trusted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from pydantic import ValidationInfo, field_validator

from families import ModelSpec, accounting, member
from families.units import BadInput, format_size, parse_size

from ..files import Record, canonical_json, sha256_bytes, sha256_file
from ..fitting.lawfile import LawFile
from ..fitting.repetition import PUBLISHED_REPETITION, Repetition
from ..laws import (
    CONSTANTS,
    PUBLISHED,
    Convention,
    Domain,
    KaplanFrontier,
    Law,
    PublishedLaw,
    published,
    spec_params,
)
from ..runs import Run
from ..stats import Array, Interval, perplexity
from .planfile import LawReference, PlannedLoss

if TYPE_CHECKING:
    from ..fitting.predictor import Predictor


# MERGED DOCSTRINGS
# A question about one run, and its answer from a law file or a published law.
BISECTIONS = 52  # of log D between 0 and log 1e40: to one part in 1e13

NEWTONS = (
    8  # the correction is a thousandth of a loss that falls by a twentieth: each step gains over a digit
)

_STEP, _FLAT = 1e-4, 1e-9  # of log D for a slope; a law flatter than that has reached its floor

_FOREVER = 1e40  # parameters or tokens that leave nothing but the irreducible loss


@dataclass(frozen=True, slots=True, kw_only=True)
class LossModel:
    """One of three: `law` (published constants), with a `frontier` (Kaplan's, of one dial) or a `predictor`
    (fitted).

    force: go on where a law refuses, past 1,000 times what it was fitted on.
    """

    name: str
    convention: Convention
    sha256: str
    source: str
    domain: Domain
    law: Law
    frontier: KaplanFrontier | None = None
    predictor: "Predictor | None" = None
    warning: str = ""
    force: bool = False

    @classmethod
    def published(cls, found: PublishedLaw) -> "LossModel":
        """From constants in a paper."""
        constants = {name: getattr(found.law, name) for name in CONSTANTS}
        warning = f"{found.name} is superseded by {found.superseded_by}" if found.superseded_by else ""
        return cls(
            name=found.name,
            law=found.law,
            convention=found.convention,
            sha256=sha256_bytes(canonical_json(constants)),
            source=found.source,
            domain=found.domain,
            frontier=found.frontier,
            warning=warning,
        )

    def count(self, spec: ModelSpec) -> Any:
        """N as a plan under this law counts it; an array for shapes in arrays."""
        return accounting.params_kaplan(spec) if self.frontier is not None else self.size(spec)

    def size(self, spec: ModelSpec) -> Any:
        """N by the law's convention, as its law of N and D takes it; a frontier counts otherwise."""
        return spec_params(spec, self.convention)

    def comparable(self, runs: Sequence[Run]) -> tuple[Run, ...]:
        """Runs of the text that a fitted law is of: others say nothing of its constants."""
        group, eval_set = (self.predictor.group, self.predictor.eval_set) if self.predictor else ("", "")
        return tuple(
            run
            for run in runs
            if run.group == (group or run.group) and run.eval_set == (eval_set or run.eval_set)
        )

    def losses(self, N: ArrayLike, D: ArrayLike) -> Array:
        """Nats per token at any N and D, elementwise; off Kaplan's frontier too."""
        n, d = np.broadcast_arrays(np.asarray(N, dtype=np.float64), np.asarray(D, dtype=np.float64))
        if self.predictor is not None:
            combined = sum(form.weight * form.log_loss(n, d) for form in self.predictor.forms)
            return np.asarray(np.exp(combined))
        return np.asarray(self.law.loss(n, d))

    def expect(self, N: float, D: float, *, unique: float | None = None) -> PlannedLoss:
        """The loss of N parameters after D tokens, with intervals where the law has them.

        unique: distinct tokens there are (default: as many as are trained on).

        Raises:
            BadInput: further beyond the fitted runs than a law reaches, without `force`.
        """
        self.domain.check(self.domain.reach(N, D), force=self.force)
        if self.frontier is not None:
            return PlannedLoss.of(self.frontier.loss(N))
        if self.predictor is not None:
            found = self.predictor.predict(
                N, D, unique_tokens=unique, convention=self.convention, force=self.force
            )
            return PlannedLoss.of(
                float(found.loss), _interval(found.interval_80), _interval(found.interval_95)
            )
        if unique is not None:
            n, d = self.repetition.effective(*(np.array([float(value)]) for value in (N, D, unique)))
            N, D = float(n[0]), float(d[0])
        return PlannedLoss.of(float(self.law.loss(N, D)))

    def converged(self, spec: ModelSpec, tokens: float) -> float | None:
        """Beside a frontier's L(C_min), Kaplan's L(N, D): the same N trained on those tokens until nothing improves."""
        return None if self.frontier is None else float(self.losses(float(self.size(spec)), tokens))

    def tokens_for(self, N: ArrayLike, loss: float, *, as_predicted: bool = False) -> Array:
        """Tokens at which models of N parameters reach that loss; infinite where none do.

        as_predicted: by what `expect` says of each, local correction included, in place of the smooth law.
        """
        n = np.asarray(N, dtype=np.float64)
        if self.predictor is None:
            law = self.law
            rest = max(loss - law.E, 0.0) ** (1 / law.gamma) - law.A * n**-law.alpha
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.where(rest > 0, (law.B / rest) ** (1 / law.beta), np.inf)
        low, high = np.zeros(n.shape), np.full(n.shape, math.log(_FOREVER))
        reachable = self.losses(n, np.exp(high)) < loss
        for _ in range(BISECTIONS):  # each is one vectorised evaluation
            middle = (low + high) / 2
            above = self.losses(n, np.exp(middle)) > loss
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        smooth = np.where(reachable, np.exp(high), np.inf)
        return self._corrected(n, smooth, math.log(loss)) if as_predicted else smooth

    def _corrected(self, N: Array, D: Array, log_loss: float) -> Array:
        """Tokens moved by Newton's steps until law and local correction together give that log loss."""
        assert self.predictor is not None
        tokens, reachable = D.copy(), np.isfinite(D)
        if not len(self.predictor.local.x) or not reachable.any():
            return tokens
        n, d = N[reachable], D[reachable]
        for _ in range(NEWTONS):
            smooth = np.log(self.losses(n, d))
            excess = smooth + self.predictor.local.correction(n, d) - log_loss
            slope = (np.log(self.losses(n, d * math.exp(_STEP))) - smooth) / _STEP
            d = d * np.exp(np.clip(-excess / np.minimum(slope, -_FLAT), -1.0, 1.0))
            if np.abs(excess).max() < 1e-13:
                break
        tokens[reachable] = d
        return tokens

    @property
    def repetition(self) -> Repetition:
        """What repeated tokens are worth: fitted where the law has it, else published."""
        return (self.predictor.repetition if self.predictor else None) or PUBLISHED_REPETITION

    @property
    def irreducible(self) -> float:
        """The loss that no size and no data go below: E."""
        return float(self.losses(_FOREVER, _FOREVER))

    def irreducible_text(self) -> str:
        """E with its 80 % interval where the law has one, for an error."""
        text = f"E = {self.irreducible:.4g} nats/token"
        draws = max(self.predictor.forms, key=lambda form: form.weight).draws if self.predictor else None
        if draws is not None and len(draws):
            low, high = np.quantile(draws[:, 0], (0.1, 0.9))
            return f"{text} (80 % interval {low:.4g} to {high:.4g})"
        return f"{text} (published without an interval)" if self.predictor is None else text

    def extrapolation(self, N: float, D: float) -> float:
        """How many times N, D or compute lie beyond the domain, whichever is furthest; 1 within."""
        return self.domain.reach(N, D).factor

    @property
    def reference(self) -> LawReference:
        """For the plan file."""
        return LawReference(
            name=self.name, sha256=self.sha256, convention=self.convention, source=self.source
        )


def _interval(pair: tuple[Any, Any] | None) -> Interval | None:
    return None if pair is None else (float(pair[0]), float(pair[1]))


def find_law(name: str | None, study: Path | None, *, force: bool = False) -> LossModel:
    """The law of that name or file; without a name the study's own where it has one, else chinchilla.

    Raises:
        BadInput: no such law or file, or a fit that is not to be used.
    """
    if name is None:
        own = study / "law.json" if study is not None else None
        found = (
            read_law(own)
            if own is not None and own.exists()
            else LossModel.published(published("chinchilla"))
        )
    elif name.endswith(".json") or "/" in name:
        found = read_law(Path(name))
    else:
        found = LossModel.published(published(name))
    return replace(found, force=force)


def read_law(path: Path) -> LossModel:
    """A fitted law from its file.

    Raises:
        BadInput: not a law file, or its fit did not converge.
    """
    from ..fitting.lawfile import LawFile

    file = LawFile.read(path)
    if file.status == "not_converged":
        raise BadInput(f"{path} holds a fit that did not converge; fit again before planning with it")
    predictor = file.predictor()
    return LossModel(
        name=path.name,
        convention=file.convention,
        sha256=sha256_file(path),
        source=f"fitted on {file.rows} observations of {file.runs} runs",
        domain=predictor.domain,
        law=file.law,
        predictor=predictor,
        warning="" if file.status == "ok" else f"{path.name} is {file.status}: {file.detail}".rstrip(": "),
    )


class PredictQuery(Record):
    """family (a published member) or params (in the law's convention), with tokens and how many of them are distinct."""

    family: str = ""
    params: float | None = None
    tokens: float
    unique_tokens: float | None = None

    @field_validator("params", "tokens", "unique_tokens", mode="before")
    @classmethod
    def _size(cls, value: str | float, info: ValidationInfo) -> float:
        return parse_size(value, info.field_name or "size")

    def count(self, convention: Convention) -> float:
        """N in that convention.

        Raises:
            BadInput: neither or both of family and params are given.
        """
        if bool(self.family) == (self.params is not None):
            raise BadInput("give one of family= and params=")
        if self.params is not None:
            return self.params
        return float(spec_params(member(self.family).spec, convention))


class PredictResult(Record):
    """Loss in nats per token, perplexity per token. Intervals are of one run; None where the law has none."""

    law: str
    source: str
    convention: Convention
    params: float
    tokens: float
    loss: float
    perplexity: float
    loss_is: str = ""  # Kaplan's L(N, D), of the two that he has
    compute_efficient_loss: float | None = None  # the other, L(C_min), which `scaling plan` goes by
    compute_efficient_perplexity: float | None = None
    compute_efficient_tokens: float | None = None  # where it holds: this N's place on the frontier
    loss_interval_80: Interval | None
    loss_interval_95: Interval | None
    perplexity_interval_80: Interval | None
    perplexity_interval_95: Interval | None
    extrapolation: float  # how many times N, D or compute lie beyond the fitted domain; 1 within
    compute_factor: float
    inside_domain: bool
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """The answer for a person."""
        kind = "parameters" if self.convention == "total" else "non-embedding parameters"
        lines = [
            f"{format_size(self.params)} {kind}, {format_size(self.tokens)} tokens, by {self.law} ({self.source})"
        ]
        for name, value, half, most in (
            ("loss", self.loss, self.loss_interval_80, self.loss_interval_95),
            ("perplexity", self.perplexity, self.perplexity_interval_80, self.perplexity_interval_95),
        ):
            text = f"{name:<11}{value:.4g}"
            if half and most:
                text += f"   80 %: {half[0]:.4g} to {half[1]:.4g}   95 %: {most[0]:.4g} to {most[1]:.4g}"
            lines.append(text)
        if (
            self.compute_efficient_loss
            and self.compute_efficient_perplexity
            and self.compute_efficient_tokens
        ):
            lines += [
                "L(N, D): trained on those tokens, over and over, until nothing improves (Kaplan et al. 2020, eq. 1.5)",
                f"L(C_min)   {self.compute_efficient_loss:.5g}, perplexity {self.compute_efficient_perplexity:.4g}: one "
                f"compute-efficient pass, stopped short of convergence,",
                f"           on the {format_size(self.compute_efficient_tokens)} tokens that are this N's own (table 6). "
                "`scaling plan --law kaplan`",
                "           goes by L(C_min), since a budget buys one pass",
            ]
        return lines


def predict(law: str, question: PredictQuery, *, force: bool = False) -> PredictResult:
    """Answer from a law.json's path or a published law's name.

    Raises:
        BadInput: no such law or file, a size that is not allowed, or a budget out of the law's reach.
    """
    if law.strip().lower() in (*PUBLISHED, "besiroglu") or not (Path(law).exists() or Path(law).suffix):
        return _predict_published(law, question, force)
    file = LawFile.read(Path(law))
    predictor = file.predictor()
    N = question.count(file.convention)
    found = predictor.predict(N, question.tokens, unique_tokens=question.unique_tokens, force=force)
    warnings = [found.extrapolation.message] if not found.extrapolation.inside else []
    if file.status != "ok":
        warnings.append(f"the law is doubtful ({file.status}): {file.detail}")
    return PredictResult(
        law=law,
        source=f"{file.rows} rows of {file.runs} runs",
        convention=file.convention,
        params=N,
        tokens=question.tokens,
        loss=found.loss,
        perplexity=perplexity(found.loss),
        loss_interval_80=found.interval_80,
        loss_interval_95=found.interval_95,
        perplexity_interval_80=_exp(found.interval_80),
        perplexity_interval_95=_exp(found.interval_95),
        extrapolation=found.extrapolation.factor,
        compute_factor=found.extrapolation.compute_factor,
        inside_domain=found.extrapolation.inside,
        warnings=tuple(warnings),
    )


def _predict_published(name: str, question: PredictQuery, force: bool) -> PredictResult:
    law = published(name)
    N = question.count(law.convention)
    reach = law.domain.reach(N, question.tokens)
    law.domain.check(reach, force=force)
    warnings = [f"{law.name} holds for {law.text}; losses on other text or tokens do not compare"]
    if law.superseded_by:
        warnings.append(f"{law.name} is superseded: use {law.superseded_by}")
    if not reach.inside:
        warnings.append(reach.message)
    unique = question.tokens if question.unique_tokens is None else question.unique_tokens
    worth = PUBLISHED_REPETITION.effective(np.array([N]), np.array([question.tokens]), np.array([unique]))
    loss = float(law.law.loss(*worth)[0])
    efficient: dict[str, str | float] = {}
    if law.frontier is not None:
        blocks = accounting.params_kaplan(member(question.family).spec) if question.family else N
        at = law.frontier.loss(blocks)
        efficient = {
            "loss_is": "L(N, D)",
            "compute_efficient_loss": at,
            "compute_efficient_perplexity": perplexity(at),
            "compute_efficient_tokens": law.frontier.tokens(blocks),
        }
    return PredictResult(
        law=law.name,
        source=law.source,
        convention=law.convention,
        params=N,
        tokens=question.tokens,
        loss=loss,
        perplexity=perplexity(loss),
        loss_interval_80=None,
        loss_interval_95=None,
        perplexity_interval_80=None,
        perplexity_interval_95=None,
        extrapolation=reach.factor,
        compute_factor=reach.compute_factor,
        inside_domain=reach.inside,
        warnings=tuple(warnings),
        **efficient,
    )


def _exp(interval: Interval | None) -> Interval | None:
    return None if interval is None else (perplexity(interval[0]), perplexity(interval[1]))
