"""Options of `scaling plan`, their meaning, and the plan that answers them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from statistics import median, mode

import numpy as np
from numpy.typing import NDArray

from families.design import DesignRule, rule_for, size_note
from families.rules import is_rule
from families.units import BadInput, format_size, listed, parse_count, parse_size

from ..budget import Budget, MfuSource, parse_budget, parse_devices, parse_mfu, split_budgets
from ..files import hashes
from ..fitting.predictor import Fit
from ..hardware import Accelerator, accelerator
from ..laws import LossModel
from ..recipe import DEFAULT_RULE, Recipe, recipes
from ..runs import Run
from ..runs.readers import read_runs
from ..runs.store import exists
from .candidates import Candidates, candidates, instead_of, is_own_rule, sized
from .choices import Chosen, choose
from .evaluate import Objective, evaluate_candidates
from .law import advise, find_law
from .notes import repeats_note
from .plan import budget_for, estimate_budget, make_plan, named_apart
from .planfile import PlanFile
from .throughput import fit_times, measured_mfu, parse_times, profiled_mfu


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanQuery:
    """Options of `scaling plan`, as typed."""

    budget: str | None = None
    law: str | None = None
    mfu: str | None = None
    family: str | None = None
    on: str | None = None
    target_loss: float | None = None
    target_ppl: float | None = None
    params: str | None = None
    tokens_available: str | None = None
    inference_tokens: str | None = None
    within: str | None = None
    rule: str = DEFAULT_RULE
    ratio: float | None = None
    head_size: int | None = None
    vocab: str | None = None
    experts: str | None = None
    context: str | None = None
    force: bool = False
    study: Path | None = None
    times: str | None = None
    price: float | None = None
    budget_includes_serving: bool = False


def answer_query(
    query: PlanQuery, *, law: LossModel | None = None, budget: Budget | None = None
) -> tuple[PlanFile, dict[str, Recipe]]:
    """The plan, not yet sealed, and every recipe for its recommended member.

    Args:
        query: the options.
        law: a law in memory, in place of the one that the options name.
        budget: a budget that has been read, in place of the options' text.

    Raises:
        BadInput: options that contradict each other, or nothing answers them.
    """
    _check(query)
    inputs = _inputs(query) if law is None else _inputs_of(law)
    named = law is not None or query.law is not None
    law = law or find_law(query.law, query.study)
    runs = own_runs(query.study)
    objective = _objective(query)
    chosen = _chosen(query, law, runs, objective, budget, named=named)
    law, shapes = chosen.law, chosen.shapes
    read = _budgets(query, objective, law, shapes, runs) if budget is None else [budget]
    budgets = [_shared(each, query.times) for each in read]
    sizes = tuple(shapes.chosen(np.arange(len(shapes)) == place) for place in _places(query, shapes))
    nats, share = _within(query.within)
    made = make_plan(
        budgets,
        law,
        shapes,
        ask=objective,
        nats=nats,
        share=share,
        rule=query.rule,
        inputs=inputs,
        sizes=sizes,
        force=query.force,
    )
    repeats = repeats_note(made.recommended, runs, law) if made.recommended is not None else ""
    about_shapes = [coarse_note(shapes, law, made), _context_note(query, made)]
    if notes := [*filter(None, [*chosen.notes, *about_shapes, repeats])]:
        made = made.model_copy(update={"notes": (*made.notes, *notes)})
    if query.times is not None:
        made = made.model_copy(
            update={"notes": (*made.notes, _sharing(query.times, budgets[-1].devices or 1))}
        )
    for size in _sizes(query):
        nearest = min(made.members, key=lambda one: abs(math.log(one.params / size)))
        if note := size_note(size, nearest.spec):
            made = made.model_copy(update={"notes": (*made.notes, note)})
    made = made.model_copy(update={"members": named_apart(made.members, runs)})
    member = made.members[-1]
    own = advise(law, member.spec, member.tokens)
    return made, ({"law": own} if own.rule == "law" else {}) | recipes(member.spec, member.tokens)


def _sizes(query: PlanQuery) -> list[float]:
    """The sizes asked for; none where the plan chooses."""
    return (
        []
        if query.params is None
        else [parse_size(part, "params") for part in listed(query.params, "params")]
    )


def _places(query: PlanQuery, shapes: Candidates) -> list[int]:
    """Index of the shape of each of several sizes, in the order asked for; none for one size or without."""
    sizes = _sizes(query)
    if len(sizes) < 2:
        return []
    places = [int(np.argmin(np.abs(np.log(shapes.params / size)))) for size in sizes]
    for size, place in zip(sizes, places, strict=True):
        if places.count(place) > 1:
            raise BadInput(
                f"params has {format_size(size)} and another size that are both nearest to "
                f"{shapes.member(place).name}; leave one out"
            )
    return places


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoFlopCurve:
    """The loss that each candidate reaches for one budget: arrays of shape (n,), smallest first.

    flops: of training, and of the serving that was objective for.
    """

    flops: float
    params: NDArray[np.float64]
    loss: NDArray[np.float64]


def isoflop_curves(
    query: PlanQuery, plan: PlanFile, *, law: LossModel | None = None
) -> tuple[IsoFlopCurve, ...]:
    """IsoFLOP curves through each of a plan's several budgets, or a third, one and three times its only one.

    Empty under a law with a frontier, which fixes each member's tokens. `law` takes the place of the one that the options
    name.
    """
    law, shapes, objective = offered(query, law=law)
    if law.frontier is not None or plan.recommended is None:
        return ()
    objective = replace(objective, target=None)
    curves = []
    spent = plan.spent(plan.recommended)
    several = [plan.spent(rung.choice) for rung in plan.ladder]
    objective = replace(objective, includes_serving=plan.includes_serving)
    for flops in several or [spent / 3, spent, 3 * spent]:
        try:
            evaluated = evaluate_candidates(replace(objective, flops=flops), law, shapes)
        except BadInput:
            continue  # a third of a budget may be less than anything costs
        feasible = evaluated.feasible
        curves.append(
            IsoFlopCurve(
                flops=flops, params=shapes.params[feasible].astype(float), loss=evaluated.loss[feasible]
            )
        )
    return tuple(curves)


def offered(query: PlanQuery, *, law: LossModel | None = None) -> tuple[LossModel, Candidates, Objective]:
    """The law that answers a query, the candidates it chooses from, and what is asked of them.

    Args:
        query: the options.
        law: a law in memory, in place of the one that the options name.
    """
    named = law is not None or query.law is not None
    law, objective = law or find_law(query.law, query.study), _objective(query)
    found = _chosen(query, law, own_runs(query.study), objective, None, named=named)
    return found.law, found.shapes, objective


def fixed_options(query: PlanQuery) -> str:
    """The options of a query that choose its law, candidates and price, as a shell takes them."""
    law = query.law or (None if query.study is None else query.study / "law.json")
    values = {
        "law": law if query.law or (law is not None and Path(law).exists()) else None,
        **{
            name: getattr(query, name)
            for name in (
                "family",
                "params",
                "ratio",
                "head_size",
                "vocab",
                "experts",
                "context",
                "price",
                "within",
            )
        },
    }
    return " ".join(
        f"--{name.replace('_', '-')} {quote(str(value))}"
        for name, value in values.items()
        if value is not None
    )


def _chosen(
    query: PlanQuery,
    law: LossModel,
    runs: tuple[Run, ...],
    objective: Objective,
    budget: Budget | None,
    *,
    named: bool,
) -> Chosen:
    """The candidates, with the experts and the vocabulary that are given or left to the law, and the law at them.

    Args:
        query: the options.
        law: the plan's.
        runs: the study's.
        objective: the plan's.
        budget: a budget that has been read; None reads the options'.
        named: the law was named or given, so that no published law of experts takes its place.
    """
    own = runs if isinstance(law, Fit) else ()
    return choose(
        query.experts,
        query.vocab,
        law=law,
        named=named or isinstance(law, Fit),
        shapes=lambda experts, vocabulary: _shapes(query, own, experts, vocabulary),
        budgets=lambda law, shapes: (
            [budget] if budget is not None else _budgets(query, objective, law, shapes, runs)
        ),
        ask=objective,
        nats=_within(query.within)[0],
    )


TOO_COARSE = 0.02  # nats that a list of published members may lose to designed shapes
LONG_CONTEXT = 16_384  # tokens; above it a published context is of the last, short phase of pre-training (Llama 3, Qwen3)


def coarse_note(shapes: Candidates, law: LossModel, plan: PlanFile) -> str:
    """A note where a list of published members has none of the size that the budget asks for; else the empty string.

    Args:
        shapes: the candidates.
        law: published or fitted.
        plan: made from them.
    """
    choice = plan.recommended
    if not shapes.coarse or law.frontier is not None or choice is None:
        return ""
    offer = instead_of(shapes.coarse)
    own = offer.rpartition(" ")[2]
    first = shapes.spec(0)
    rule = replace(
        rule_for("gpt2" if own == "grid" else own), vocab_size=first.vocab_size, n_positions=first.n_positions
    )
    others = evaluate_candidates(Objective(flops=choice.flops), law, candidates("all", rule))
    best = others.best()
    lost = choice.loss - float(others.loss[best])
    if lost <= TOO_COARSE:
        return ""
    return (
        f"family {shapes.coarse} has {len(shapes)} sizes, none near the {format_size(float(others.N[best]))} parameters that "
        f"law {law.name} prefers for this budget: {lost:.3f} nats are lost; {offer} designs shapes of any size"
    )


def _context_note(query: PlanQuery, plan: PlanFile) -> str:
    """A note where a published member is planned at the long context that it was extended to; else the empty string."""
    choice = plan.recommended
    if query.context is not None or choice is None or choice.n_positions <= LONG_CONTEXT:
        return ""
    return (
        f"{choice.member} is planned at its whole context of {choice.n_positions:,} tokens; most pre-training runs use "
        f"4,096 or 8,192 and extend it at the end: --context 8192 plans that"
    )


def _check(query: PlanQuery) -> None:
    goals = {
        "--budget": query.budget,
        "--target-loss": query.target_loss,
        "--target-ppl": query.target_ppl,
    }
    named = [name for name, value in goals.items() if value is not None]
    if not named:
        raise BadInput("--budget is missing; give it, or --target-loss, or --target-ppl")
    if len(named) > 1:
        raise BadInput(f"{' and '.join(named)} are given; one of them decides the other")
    shape = {"--ratio": query.ratio, "--head-size": query.head_size, "--vocab": query.vocab}
    shape["--experts"] = query.experts
    set_shape = [name for name, value in shape.items() if value is not None]
    if set_shape and not (query.family in (None, "all", "grid") or is_own_rule(query.family)):
        raise BadInput(
            f"{set_shape[0]} designs shapes, and --family {query.family} has its own; give one of them"
        )


def own_runs(study: Path | None) -> tuple[Run, ...]:
    """The study's observations; none without a study."""
    path = None if study is None else study / "runs.jsonl"
    return read_runs(path).runs if path is not None and exists(path) else ()


def rule_of(runs: Sequence[Run]) -> DesignRule:
    """The design rule that fits the runs' shapes; their family's, or GPT-2's, for values that the runs do not state."""
    families = {run.architecture for run in runs if is_rule(run.architecture)}
    usual = rule_for(families.pop() if len(families) == 1 else "gpt2")
    shaped = [
        (run.n_layer, run.n_embd, run.n_head) for run in runs if run.n_layer and run.n_embd and run.n_head
    ]
    heads = [(width, width // heads) for _, width, heads in shaped]
    as_usual = not shaped or all(usual.maker.head(width) == size for width, size in heads)
    vocabularies, contexts = {run.vocab_size for run in runs}, {run.n_positions for run in runs}
    return replace(
        usual,
        ratio=median(width / layers for layers, width, _ in shaped) if shaped else usual.ratio,
        head_size=usual.head_size if as_usual else mode(size for _, size in heads),
        vocab_size=(vocabularies.pop() if len(vocabularies) == 1 else None) or usual.vocab_size,
        n_positions=(contexts.pop() if len(contexts) == 1 else None) or usual.n_positions,
    )


def _shapes(query: PlanQuery, runs: tuple[Run, ...], experts: int = 0, vocabulary: int = 0) -> Candidates:
    """Candidates by the options; what they leave out is as in the runs that the law was fitted on.

    Args:
        query: the options.
        runs: of the law.
        experts: routed experts of a layer; 0 for the family's own.
        vocabulary: 0 for that of the runs, or the family's own.
    """
    usual = rule_of(runs)
    if query.family is not None and is_own_rule(query.family):
        other = rule_for(query.family)
        text = usual if runs else other  # a study's text decides them
        usual = replace(other, vocab_size=text.vocab_size, n_positions=text.n_positions)
    rule = replace(
        usual,
        ratio=usual.ratio if query.ratio is None else query.ratio,
        head_size=usual.head_size if query.head_size is None else query.head_size,
        vocab_size=vocabulary or usual.vocab_size,
        experts=experts,
        n_positions=parse_count(query.context, "context") if query.context else usual.n_positions,
    )
    sizes = _sizes(query)
    context = None if query.context is None else rule.n_positions
    if sizes:
        return sized(sizes, query.family, rule, context)
    return candidates(query.family or "all", rule, context)


def _objective(query: PlanQuery) -> Objective:
    target = query.target_loss
    if query.target_ppl is not None:
        if not (math.isfinite(query.target_ppl) and query.target_ppl > 1):
            raise BadInput(f"target perplexity is {query.target_ppl:g}; it must be above 1 and finite")
        target = math.log(query.target_ppl)
    if target is not None and not (math.isfinite(target) and target > 0):
        raise BadInput(f"target loss is {target:g}; it must be positive and finite, in nats per token")
    available, served = query.tokens_available, query.inference_tokens
    return Objective(
        target=target,
        tokens_available=None if available is None else parse_size(available, "tokens available"),
        inference_tokens=0.0 if served is None else parse_size(served, "inference tokens"),
        includes_serving=query.budget_includes_serving,
    )


def _budgets(
    query: PlanQuery, objective: Objective, law: LossModel, shapes: Candidates, runs: tuple[Run, ...]
) -> list[Budget]:
    """One budget or several, with an MFU.

    In order of precedence it is given, estimated, measured on the study's runs or in probes of this user's machines, or
    assumed.
    """
    texts = split_budgets(query.budget) if query.budget is not None else []
    if query.mfu == "estimate":
        if objective.target is not None:
            raise BadInput(
                "--mfu estimate needs a --budget; the cost of a target in FLOPs does not depend on it"
            )
        return [
            estimate_budget(
                text,
                law,
                shapes,
                objective,
                on=query.on,
                price=query.price,
                one_device=query.times is not None,
            )
            for text in texts
        ]
    mfu = None if query.mfu is None else parse_mfu(query.mfu)
    if objective.target is not None:
        goal = "loss" if query.target_ppl is None else "perplexity"
        value = query.target_loss if query.target_ppl is None else query.target_ppl
        name = parse_devices(query.on)[1].name if query.on else None
        measured = _measured(runs, accelerator(name)) if name and mfu is None else None
        text = f"target {goal} {value:g}"
        source: MfuSource = "measured" if measured else "assumed"
        return [
            budget_for(
                objective,
                law,
                shapes,
                text=text,
                on=query.on,
                mfu=measured or mfu,
                mfu_source=source,
                price=query.price,
            )
        ]
    budgets = []
    for text in texts:
        budget = parse_budget(text, mfu=mfu, on=query.on, price=query.price)
        if mfu is None and budget.accelerator is not None:
            measured = _measured(runs, accelerator(budget.accelerator))
            if measured is not None:
                budget = parse_budget(
                    text, mfu=measured, mfu_source="measured", on=query.on, price=query.price
                )
        budgets.append(budget)
    return budgets


def _measured(runs: tuple[Run, ...], device: Accelerator) -> float | None:
    """On the study's own runs, else in probes of this user's machines."""
    measured = measured_mfu(runs, device)
    return profiled_mfu(device) if measured is None else measured


def _sharing(times: str, devices: int) -> str:
    """A note on the parallel efficiency from measured times."""
    share = min(1.0, fit_times(parse_times(times)).efficiency(devices))
    return f"MFU = one-device MFU × {share:.3g} (parallel efficiency on {devices} devices, from --times)"


def _shared(budget: Budget, times: str | None) -> Budget:
    """The budget at the MFU that is left of one device's when the work is shared among all, by measured times.

    A budget in FLOPs takes longer; one in hours buys less.
    """
    if times is None:
        return budget
    if budget.accelerator is None or budget.devices is None or budget.mfu is None:
        raise BadInput(f"budget is {budget.text}; --times are of devices, and --on 8xA100 names them")
    share = min(1.0, fit_times(parse_times(times)).efficiency(budget.devices))
    low, high = budget.mfu_interval or (None, None)
    interval = None if low is None or high is None else (low * share, high * share)
    return budget.at_mfu(budget.mfu * share).model_copy(update={"mfu_interval": interval})


def _within(text: str | None) -> tuple[float | None, float | None]:
    """The band's width in nats, or as a share of the cost."""
    if text is None:
        return None, None
    words = text.strip().removesuffix("nats").strip()
    try:
        value = float(words.removesuffix("%"))
    except ValueError as error:
        raise BadInput(f"within is {text!r}; it must be like 0.01 (nats) or 2%") from error
    return (None, value / 100) if words.endswith("%") else (value, None)


def _inputs(query: PlanQuery) -> dict[str, str]:
    """The law's file, where the law is one."""
    if query.law is not None:
        own = Path(query.law) if query.law.endswith(".json") else None
    else:
        own = None if query.study is None else query.study / "law.json"
    return hashes([own]) if own is not None and own.exists() else {}


def _inputs_of(law: LossModel) -> dict[str, str]:
    """The file that a law in memory was read from, if any."""
    return {law.name: law.file_sha256} if isinstance(law, Fit) and law.file_sha256 else {}
