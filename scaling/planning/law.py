"""Lookup of a law by name or file, and the answer of `scaling predict` about one run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from families import ModelSpec, count, member, params, params_active, params_kaplan
from families.accounting import experts
from families.units import BadInput, format_size, parse_size

from ..files import Record
from ..fitting.card import explained
from ..fitting.forms import Status
from ..fitting.one_variable import WORDS
from ..fitting.predictor import Fit, load_law
from ..fitting.valley import settings_of
from ..laws import COUNTED, Allocation, Convention, Law, LossModel, Prediction
from ..published_laws import ALIASES, PUBLISHED, PublishedLaw, published_law
from ..recipe import DEFAULT_RULE, LR_BY_BATCH, Recipe, recipe
from ..runs import Run
from ..schedule import Kind
from ..stats import Array, Interval, format_loss, format_perplexity, perplexity
from .planfile import PlannedLoss

if TYPE_CHECKING:
    from .candidates import Candidates

MOST_BEYOND = (
    10.0  # times the values of the runs that a setting may lie beyond them: farther, a valley is no guide
)

SAME_BATCH = 1.02  # ratio up to which two batches are one


def find_law(name: str | None = None, study: Path | None = None) -> LossModel:
    """The law to plan with: by name or file; without either the study's own where it has one, else chinchilla.

    Raises:
        BadInput: no such law or file, a fit that did not converge, or a law of one variable.
    """
    if name is None:
        own = study / "law.json" if study is not None else None
        return _usable(own) if own is not None and own.exists() else published_law("chinchilla")
    return _usable(Path(name)) if name.endswith(".json") or "/" in name else published_law(name)


def _usable(path: Path) -> Fit:
    law = load_law(path)
    if law.status is Status.NOT_CONVERGED:
        raise BadInput(f"{path} holds a fit that did not converge; fit again before planning with it")
    if law.variable:
        raise BadInput(
            f"{path} is a law of {WORDS[law.variable]} alone; a plan needs one of N and D, from runs that vary in both"
        )
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
    found = params_kaplan(spec) if law.frontier is not None else count(spec, law.convention)
    return found - idle_params(law, spec)


def idle_params(law: LossModel, spec: ModelSpec) -> int:
    """Parameters that a law does not count in its N: of a mixture under a published law, which is of dense models.

    With N the active parameters C = 6·N·D holds, as it did where the law was fitted, and the loss is that of a dense model
    of as much compute; the joint law of `mixtures` counts them too, and says what experts add (docs/log.md#e186). A law
    fitted on one's own mixtures counts what its runs counted: what a token passes through, where more experts of one N
    lower the loss.
    """
    if isinstance(law, Fit):
        own = law.fitted_coordinates
        if law.convention == "active" or own is None or not own.counts_one_token:
            return 0
    return params(spec) - params_active(spec)


def shape_sizes(law: LossModel, shapes: "Candidates") -> Array:
    """N of each candidate as a plan under this law counts it, shape (n,)."""
    return np.asarray(shapes.count(lambda spec: plan_params(law, spec)), dtype=np.float64)


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
    found = law.predict(
        count(spec, law.convention) - idle_params(law, spec), tokens, unique_tokens=unique_tokens, force=True
    )
    if law.frontier is None:
        return PlannedLoss.of(found), found
    loss = float(law.frontier.loss(N))
    return PlannedLoss(loss=loss, ppl=perplexity(loss)), found


def advise(
    law: LossModel,
    spec: ModelSpec,
    tokens: float,
    *,
    rule: str = DEFAULT_RULE,
    schedule: Kind = "wsd",
    batch_tokens: float | None = None,
    batch_sequences: int | None = None,
    shortest: float | None = None,
) -> Recipe:
    """The recipe of a shape: learning rate and batch from the law where it has them and the rule is the default one.

    Args:
        law: published or fitted.
        spec: the shape.
        tokens: training tokens.
        rule: of `recipe`; another than the default counts before the law.
        schedule: wsd or cosine.
        batch_tokens: tokens of a step, about, in place of the law's.
        batch_sequences: sequences of a step, exactly.
        shortest: tokens of the shortest run with the same warm-up.

    Raises:
        BadInput: an unknown rule, or tokens that are not positive.
    """
    own = settings_of(law) if isinstance(law, Fit) and rule == DEFAULT_RULE else ()
    N = float(count(spec, law.convention))
    batch = (
        law.best("batch_tokens", N, tokens).value
        if isinstance(law, Fit) and "batch_tokens" in own and batch_tokens is None
        else None
    )
    advice = recipe(
        spec, tokens, rule=rule, schedule=schedule, batch_tokens=batch_tokens or batch,
        batch_sequences=batch_sequences, shortest=shortest,
    )  # fmt: skip
    if not isinstance(law, Fit) or not {"lr", "batch_tokens"} & set(own):
        return advice
    said = [] if batch is None else [f"batch* {format_size(batch)} tokens"]
    lr = advice.lr
    if "lr" in own:
        best = (
            law.best("lr", N, tokens)
            if "batch_tokens" not in own
            else law.best("lr", N, tokens, batch_tokens=advice.batch_tokens)
        )
        factor, why = _for_batch(law, advice.batch_tokens)
        lr = float(f"{best.value * factor:.3g}")
        low, high = (bound * factor for bound in best.interval_80 or (best.value, best.value))
        said.append(f"lr* {lr:g} (80 %: {low:.3g} to {high:.3g}){why}")
        if best.beyond:
            said.append("outside the values that were tried")
    return advice.model_copy(
        update={
            "rule": "law",
            "lr": lr,
            "source": f"the law's own best settings: {', '.join(said)}; else {advice.source}",
        }
    )


def _for_batch(law: Fit, batch_tokens: int) -> tuple[float, str]:
    """The factor that moves the law's lr* from its runs' batch to another, by the default rule's power, and a clause.

    A law with the batch among its coordinates moves lr* itself; of runs that state no batch nothing is known.
    """
    stated = None if law.fitted_coordinates is None else law.fitted_coordinates.batch_tokens
    if stated is None:
        return 1.0, ""
    low, high = stated
    if high > low * SAME_BATCH:
        return 1.0, f", for the runs' own batches of {format_size(low)} to {format_size(high)} tokens"
    if max(batch_tokens, high) <= SAME_BATCH * min(batch_tokens, low):
        return 1.0, ""
    moved = f", moved from the runs' batch of {format_size(high)} tokens by (batch ratio)^{LR_BY_BATCH:g}"
    return (batch_tokens / high) ** LR_BY_BATCH, moved


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
        settings: values of the law's coordinates that were given.
        best_settings: the values at which the law's loss is least, the learning rate's at the batch where one is given.
        scores: downstream scores by task, or why there is none; empty where none are asked for.
        variable: "N", "D" or "C" for a law of that alone; empty for a law of N and D.
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
    settings: dict[str, str] = Field(default_factory=dict)
    best_settings: dict[str, float] = Field(default_factory=dict)
    scores: dict[str, dict[str, Any] | str] = Field(default_factory=dict)
    variable: str = ""

    def lines(self) -> list[str]:
        """The answer as text."""
        kind = COUNTED[self.convention]
        sizes = [(self.params, kind), (self.tokens, "tokens")]
        stated = [(size, what) for size, what in sizes if not (self.variable and size == 1)]
        if self.variable == "C":
            stated = [(6 * self.params * self.tokens, "FLOPs")]
        asked = ", ".join(f"{format_size(size)} {what}" for size, what in stated)
        lines = [f"{asked}, by {self.law} ({self.source})"]
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
        if self.settings or self.best_settings:
            given = ", ".join(f"{name} {value}" for name, value in self.settings.items())
            moved = " at that batch" if "batch_tokens" in self.settings else ""
            best = ", ".join(
                f"{name} {format_size(value, 3) if value >= 1 else f'{value:.3g}'}{moved if name == 'lr' else ''}"
                for name, value in self.best_settings.items()
            )
            at = "at the best settings" if not given else f"at {given}; what is left out is at its best"
            lines.append(f"{at}{f' (best: {best})' if best else ''}")
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


def _law_of(name: str) -> tuple[LossModel, bool]:
    """The law at a path or of a published name, and whether it is published."""
    known = name.strip().lower() in (*PUBLISHED, *ALIASES)
    file = not known and (Path(name).exists() or Path(name).suffix)
    return load_law(name) if file else published_law(name), known


def coordinates_of(law: str) -> tuple[str, ...]:
    """Columns besides N and D that a law.json, or a published law, depends on."""
    return _law_of(law)[0].coordinates


def predict(
    law: str,
    query: PredictQuery,
    *,
    settings: Mapping[str, str] | None = None,
    force: bool = False,
    explain: bool = False,
) -> PredictResult:
    """Answer from a law.json's path or a published law's name.

    Args:
        law: the path or the name.
        query: the run, or compute to split.
        settings: texts of the law's coordinates by column; what is left out is at its best or its reference.
        force: predict even more than 1,000 times outside the law's domain.
        explain: say where the interval comes from.

    Raises:
        BadInput: no such law or file, not one of family and params with tokens, or of compute alone, a size that is not
            allowed, a point or a setting too far outside the law's domain, or a published law asked to explain itself.
    """
    model, known = _law_of(law)
    if explain and not isinstance(model, Fit):
        raise BadInput(f"law {model.name} has no intervals to explain; a fitted law.json has")
    own: dict[str, Any] = {name: _setting(name, text) for name, text in (settings or {}).items()}
    if not force:
        _check_near(model, own)
    split: Allocation | None = None
    if isinstance(model, Fit) and model.variable and not query.family:
        n, d = _on_curve(model, query)
        found = model.predict(n, d, force=force, own=own)
    elif query.compute is not None:
        given = [name for name in ("family", "params", "tokens", "unique_tokens") if getattr(query, name)]
        if given:
            raise BadInput(f"compute= is given and so is {given[0]}=; compute alone is split into N* and D*")
        split = _at_fixed(model, own).allocate(query.compute, force=force)
        found = model.predict(split.N, split.D, force=True, own=own)
    else:
        if bool(query.family) == (query.params is not None):
            raise BadInput("give one of family= and params=, with tokens=, or compute= alone")
        if query.tokens is None:
            raise BadInput("tokens= is missing; give it, like tokens=5.5B, or compute= alone")
        size = query.params
        if query.family and isinstance(model, Fit):
            spec = member(query.family).spec
            size = float(count(spec, model.convention) - idle_params(model, spec))
            own = _of_family(model, spec) | own
        found = model.predict(
            params=size,
            family=None if size is not None else query.family or None,
            tokens=query.tokens,
            unique_tokens=query.unique_tokens,
            force=force,
            own=own,
        )
    best = _best(model, found.N, found.D, own)
    efficient: dict[str, Any] = {}
    if model.frontier is not None and split is None:
        blocks = params_kaplan(member(query.family).spec) if query.family else found.N
        loss = float(model.frontier.loss(blocks))
        efficient = {
            "loss_is": "L(N, D)",
            "compute_efficient_loss": loss,
            "compute_efficient_perplexity": perplexity(loss),
            "compute_efficient_tokens": float(model.frontier.tokens(blocks)),
        }
    outside = () if found.extrapolation.inside else (found.extrapolation.message,)
    if isinstance(model, Fit) and (narrow := model.narrow_sizes(float(found.N))):
        outside = (*outside, narrow)
    if isinstance(model, PublishedLaw) and found.interval_80 is None:
        outside = (*outside, no_intervals(model.name))
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
        params_interval_80=None if split is None else split.N_interval_80,
        tokens_interval_80=None if split is None else split.D_interval_80,
        uncertainty=model.explain(found.N, found.D, unique_tokens=query.unique_tokens, own=own)
        if explain and isinstance(model, Fit)
        else None,
        warnings=(*model.warnings, *outside, *_untried(model, own)),
        settings=_shown(own) | dict(settings or {}),
        best_settings=best,
        variable=model.variable if isinstance(model, Fit) else "",
        **efficient,
    )


def _check_near(model: LossModel, own: Mapping[str, Any]) -> None:
    """Refuse a setting far beyond those of the runs, where the loss of a valley is no prediction.

    Raises:
        BadInput: naming the setting and the values of the runs.
    """
    coordinates = model.fitted_coordinates if isinstance(model, Fit) else None
    for part in () if coordinates is None else coordinates.parts:
        value, (low, high) = own.get(part.column), part.span
        if part.kind != "setting" or not isinstance(value, int | float) or not (high and value > 0):
            continue
        beyond = max(low / value, value / high)
        if beyond > MOST_BEYOND:
            raise BadInput(
                f"{part.column} {value:.4g} lies {beyond:.3g} times beyond the values of the runs, {low:.3g} to {high:.3g}; "
                f"at most {MOST_BEYOND:g} times (--force predicts farther)"
            )


def _untried(model: LossModel, own: Mapping[str, Any]) -> list[str]:
    """A warning for each coordinate whose value lies outside those of the runs."""
    coordinates = model.fitted_coordinates if isinstance(model, Fit) else None
    found = []
    for part in () if coordinates is None else coordinates.parts:
        value, (low, high) = own.get(part.column), part.span
        if part.level or not isinstance(value, int | float) or low <= value <= high or not high:
            continue
        tried = f"{format_size(low) if low >= 1 else f'{low:.3g}'} to {format_size(high) if high >= 1 else f'{high:.3g}'}"
        found.append(f"{part.column} {value:.4g} lies outside the values of the runs, {tried}")
    return found


def _on_curve(model: Fit, query: PredictQuery) -> tuple[float, float]:
    """N and D of a question to a law of one variable; what it does not depend on may be left out.

    Raises:
        BadInput: the variable is not given.
    """
    own = {"N": query.params, "D": query.tokens, "C": query.compute}[model.variable]
    both = query.params is not None and query.tokens is not None
    if own is None and query.compute is None and not both:
        name, example = {"N": ("params", "1B"), "D": ("tokens", "5.5B"), "C": ("compute", "1e21")}[
            model.variable
        ]
        raise BadInput(
            f"{name}= is missing; {model.name} is a law of it alone: give it, like {name}={example}"
        )
    return model.point(query.params, query.tokens, compute=query.compute)


def _of_family(model: Fit, spec: ModelSpec) -> dict[str, Any]:
    """A published member's own experts and vocabulary, where the law depends on them."""
    own = {"n_experts": experts(spec)[0], "vocab_size": spec.vocab_size}
    fixed = frozenset() if model.fitted_coordinates is None else model.fitted_coordinates.scale_free
    return {name: float(value) for name, value in own.items() if name in fixed}


def _shown(own: Mapping[str, Any]) -> dict[str, str]:
    return {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in own.items()}


def _setting(name: str, text: str) -> float | str:
    """A coordinate's value: a number or a size like 512k, else the text of an arm."""
    try:
        return float(text)
    except ValueError:
        try:
            return parse_size(text, name)
        except BadInput:
            return text


def _best(model: LossModel, N: float, D: float, own: Mapping[str, Any]) -> dict[str, float]:
    """The best value of each of a fitted law's settings, beside the others that are given."""
    if not isinstance(model, Fit):
        return {}
    names = settings_of(model)
    given = {name: own[name] for name in names if name in own}
    return {name: model.best(name, N, D, **given).value for name in names}


def _at_fixed(model: LossModel, own: Mapping[str, Any]) -> LossModel:
    """The law at the multipliers and terms that are given, whose optimum is the one asked for."""
    coordinates = model.fitted_coordinates if isinstance(model, Fit) else None
    if coordinates is None or not isinstance(model, Fit):
        return model
    return model.at(**{name: value for name, value in own.items() if name in coordinates.scale_free})


def no_intervals(name: str) -> str:
    """One line on a published law whose paper allows no interval.

    Args:
        name: of the law.
    """
    return f"law {name} has no prediction intervals: its paper's data do not allow them"


def _perplexities(interval: Interval | None) -> Interval | None:
    return None if interval is None else (perplexity(interval[0]), perplexity(interval[1]))
