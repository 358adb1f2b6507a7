"""Lookup of a law by name or file, and the answer of `scaling predict` about one run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationInfo, field_validator

from families import ModelSpec, count, member, params_kaplan
from families.units import BadInput, format_size, parse_size

from ..files import Record
from ..fitting.card import explained
from ..fitting.forms import Status
from ..fitting.predictor import Fit, load_law
from ..laws import (
    ALIASES,
    PUBLISHED,
    Allocation,
    Convention,
    Law,
    LossModel,
    Prediction,
    PublishedLaw,
    published_law,
)
from ..runs import Run
from ..stats import Interval, format_loss, format_perplexity, perplexity
from .planfile import PlannedLoss


def find_law(name: str | None = None, study: Path | None = None) -> LossModel:
    """The law to plan with: by name or file; without either the study's own where it has one, else chinchilla.

    Raises:
        BadInput: no such law or file, or a fit that did not converge.
    """
    if name is None:
        own = study / "law.json" if study is not None else None
        return _usable(own) if own is not None and own.exists() else published_law("chinchilla")
    return _usable(Path(name)) if name.endswith(".json") or "/" in name else published_law(name)


def _usable(path: Path) -> Fit:
    law = load_law(path)
    if law.status is Status.NOT_CONVERGED:
        raise BadInput(f"{path} holds a fit that did not converge; fit again before planning with it")
    return law


def single_law(model: LossModel) -> Law:
    """One closed-form law of a model: published constants, or the form of a fit with the greatest weight.

    For derivatives and simulated surfaces only: a fit's predictions combine all of its forms.
    """
    if isinstance(model, PublishedLaw):
        return model.law
    if isinstance(model, Fit):
        return model.main_form.law
    raise BadInput(f"law {model.name} has no closed form")


def plan_params(law: LossModel, spec: ModelSpec) -> Any:
    """N as a plan under this law counts it, for a shape or for shapes in arrays: Kaplan's frontier counts 12·n_layer·n_embd²."""
    return params_kaplan(spec) if law.frontier is not None else count(spec, law.convention)


def planned_loss(
    law: LossModel, spec: ModelSpec, tokens: float, *, unique_tokens: float | None = None, force: bool = False
) -> tuple[PlannedLoss, Prediction]:
    """The loss that a plan states for a shape, and the law's prediction: they differ under Kaplan's frontier alone.

    Args:
        law: published or fitted.
        spec: the shape.
        tokens: training tokens.
        unique_tokens: distinct tokens among them (default: all).
        force: predict even more than 1,000 times outside the law's domain.

    Raises:
        BadInput: the point lies too far outside the domain, without `force`.
    """
    N = float(plan_params(law, spec))
    law.domain.extrapolation(N, tokens).check(force=force)
    found = law.predict(count(spec, law.convention), tokens, unique_tokens=unique_tokens, force=True)
    if law.frontier is None:
        return PlannedLoss.of(found), found
    loss = float(law.frontier.loss(N))
    return PlannedLoss(loss=loss, ppl=perplexity(loss)), found


def comparable(law: LossModel, runs: Sequence[Run]) -> tuple[Run, ...]:
    """The runs of the group and the evaluation set that a law was fitted on; a law that names none takes all."""
    return tuple(
        run
        for run in runs
        if run.group == (law.group or run.group) and run.eval_set == (law.eval_set or run.eval_set)
    )


class PredictQuery(Record):
    """family (a published member) or params (in the law's convention), with tokens and how many of them are distinct.

    Or compute, FLOPs, for the compute-optimal split of it.
    """

    family: str = ""
    params: float | None = None
    tokens: float | None = None
    unique_tokens: float | None = None
    compute: float | None = None

    @field_validator("params", "tokens", "unique_tokens", "compute", mode="before")
    @classmethod
    def _size(cls, value: str | float, info: ValidationInfo) -> float:
        return parse_size(value, info.field_name or "size")


class PredictResult(Record):
    """Loss in nats per token, perplexity per token. Intervals are of one run; None where the law has none.

    Args:
        loss_is: "L(N, D)" under Kaplan's laws, which have two losses.
        compute_efficient_loss: the other one, L(C_min), which `scaling plan` uses.
        compute_efficient_tokens: this N's tokens on the compute-efficient frontier.
        extrapolation: factor by which N, D or compute lie outside the fitted domain; 1 within.
        params_interval_80: of N*, where compute was asked for and the law has intervals.
        tokens_interval_80: of D*, likewise.
        uncertainty: half widths of the 80 % interval as shares of the loss, by source, where they were asked for.
    """

    law: str
    source: str
    convention: Convention
    params: float
    tokens: float
    loss: float
    perplexity: float
    loss_is: str = ""
    compute_efficient_loss: float | None = None
    compute_efficient_perplexity: float | None = None
    compute_efficient_tokens: float | None = None
    loss_interval_80: Interval | None
    loss_interval_95: Interval | None
    perplexity_interval_80: Interval | None
    perplexity_interval_95: Interval | None
    extrapolation: float
    compute_factor: float
    inside_domain: bool
    params_interval_80: Interval | None = None
    tokens_interval_80: Interval | None = None
    uncertainty: dict[str, float] | None = None
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """The answer as text."""
        kind = "parameters" if self.convention == "total" else "non-embedding parameters"
        lines = [
            f"{format_size(self.params)} {kind}, {format_size(self.tokens)} tokens, by {self.law} ({self.source})"
        ]
        for name, show, value, half, most in (
            ("loss", format_loss, self.loss, self.loss_interval_80, self.loss_interval_95),
            ("perplexity", format_perplexity, self.perplexity, self.perplexity_interval_80, self.perplexity_interval_95),
        ):  # fmt: skip
            text = f"{name:<11}{show(value)}"
            if half and most:
                ranges = (" to ".join(map(show, bounds)) for bounds in (half, most))
                text += "   80 %: {}   95 %: {}".format(*ranges)
            lines.append(text)
        for name, size, bounds in (
            ("N*", self.params, self.params_interval_80),
            ("D*", self.tokens, self.tokens_interval_80),
        ):
            if bounds is not None:
                low, high = map(format_size, bounds)
                lines.append(f"{name:<11}{format_size(size)}   80 %: {low} to {high}")
        if self.uncertainty is not None:
            lines.append(explained(self.uncertainty))
        if (
            self.compute_efficient_loss
            and self.compute_efficient_perplexity
            and self.compute_efficient_tokens
        ):
            lines += [
                "L(N, D): trained to convergence on those tokens, repeated (Kaplan et al. 2020, eq. 1.5)",
                f"L(C_min)   {format_loss(self.compute_efficient_loss)}, perplexity "
                f"{format_perplexity(self.compute_efficient_perplexity)}: one compute-efficient pass, stopped short of",
                f"           convergence, on the {format_size(self.compute_efficient_tokens)} tokens that the frontier "
                "gives this N (table 6).",
                "           `scaling plan --law kaplan` uses L(C_min), since a budget buys one pass",
            ]
        return lines


def predict(law: str, query: PredictQuery, *, force: bool = False, explain: bool = False) -> PredictResult:
    """Answer from a law.json's path or a published law's name.

    Args:
        law: a path or a name.
        query: a run, or compute to split.
        force: predict even more than 1,000 times outside the law's domain.
        explain: say where the interval comes from.

    Raises:
        BadInput: no such law or file, not one of family and params with tokens, or of compute alone, a size that is not
            allowed, a point too far outside the law's domain, or a published law asked to explain itself.
    """
    known = law.strip().lower() in (*PUBLISHED, *ALIASES)
    model: LossModel = (
        load_law(law) if not known and (Path(law).exists() or Path(law).suffix) else published_law(law)
    )
    if explain and not isinstance(model, Fit):
        raise BadInput(f"law {model.name} has no intervals to explain; a fitted law.json has")
    best: Allocation | None = None
    if query.compute is not None:
        given = [name for name in ("family", "params", "tokens", "unique_tokens") if getattr(query, name)]
        if given:
            raise BadInput(f"compute= is given and so is {given[0]}=; compute alone is split into N* and D*")
        best = model.allocate(query.compute, force=force)
        found = model.predict(best.N, best.D, force=True)
    else:
        if bool(query.family) == (query.params is not None):
            raise BadInput("give one of family= and params=, with tokens=, or compute= alone")
        if query.tokens is None:
            raise BadInput("tokens= is missing; give it, like tokens=5.5B, or compute= alone")
        found = model.predict(
            params=query.params,
            family=query.family or None,
            tokens=query.tokens,
            unique_tokens=query.unique_tokens,
            force=force,
        )
    efficient: dict[str, Any] = {}
    if model.frontier is not None and best is None:
        blocks = params_kaplan(member(query.family).spec) if query.family else found.N
        loss = float(model.frontier.loss(blocks))
        efficient = {
            "loss_is": "L(N, D)",
            "compute_efficient_loss": loss,
            "compute_efficient_perplexity": perplexity(loss),
            "compute_efficient_tokens": float(model.frontier.tokens(blocks)),
        }
    outside = () if found.extrapolation.inside else (found.extrapolation.message,)
    return PredictResult(
        law=model.name if known else law,
        source=model.source,
        convention=model.convention,
        params=found.N,
        tokens=found.D,
        loss=found.loss,
        perplexity=perplexity(found.loss),
        loss_interval_80=found.interval_80,
        loss_interval_95=found.interval_95,
        perplexity_interval_80=_perplexities(found.interval_80),
        perplexity_interval_95=_perplexities(found.interval_95),
        extrapolation=found.extrapolation.factor,
        compute_factor=found.extrapolation.compute_factor,
        inside_domain=found.extrapolation.inside,
        params_interval_80=None if best is None else best.N_interval_80,
        tokens_interval_80=None if best is None else best.D_interval_80,
        uncertainty=model.explain(found.N, found.D, unique_tokens=query.unique_tokens)
        if explain and isinstance(model, Fit)
        else None,
        warnings=(*model.warnings, *outside),
        **efficient,
    )


def _perplexities(interval: Interval | None) -> Interval | None:
    return None if interval is None else (perplexity(interval[0]), perplexity(interval[1]))
