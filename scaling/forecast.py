"""A question about one run, and its answer from a law file or a published law."""

from pathlib import Path

import numpy as np
from pydantic import ValidationInfo, field_validator

from families import accounting, member
from families.errors import BadInput
from families.units import format_size, parse_size

from .files import Record
from .lawfile import LawFile
from .perplexity import perplexity
from .published import PUBLISHED, published
from .repetition import PUBLISHED_REPETITION
from .runs import Convention

Interval = tuple[float, float]


class Question(Record):
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
        spec = member(self.family).spec
        return accounting.params(spec) if convention == "total" else accounting.params_non_embedding(spec)


class Answer(Record):
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


def forecast(law: str, question: Question, *, force: bool = False) -> Answer:
    """Answer from a law.json's path or a published law's name.

    Raises:
        BadInput: no such law or file, a size that is not allowed, or a budget out of the law's reach.
    """
    if law.strip().lower() in (*PUBLISHED, "besiroglu") or not (Path(law).exists() or Path(law).suffix):
        return _published(law, question, force)
    file = LawFile.read(Path(law))
    predictor = file.predictor()
    N = question.count(file.convention)
    found = predictor.predict(N, question.tokens, unique_tokens=question.unique_tokens, force=force)
    warnings = [found.extrapolation.message] if not found.extrapolation.inside else []
    if file.status != "ok":
        warnings.append(f"the law is doubtful ({file.status}): {file.detail}")
    return Answer(
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


def _published(name: str, question: Question, force: bool) -> Answer:
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
    return Answer(
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
