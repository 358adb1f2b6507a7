"""A person's question to the planner, word by word, and its answer: what the options of `scaling plan`
mean.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, mode

import numpy as np
from numpy.typing import NDArray

from families.design import DesignRule, off_size
from families.units import BadInput, parse_count, parse_size

from ..budget import Budget, MfuSource, parse_budget, parse_devices, parse_flops, parse_mfu, split_budgets
from ..files import hashes
from ..hardware import Accelerator, accelerator
from ..recipe import DEFAULT_RULE, Recipe, recipes
from ..runs import Run
from ..runs.readers import read_runs
from ..runs.store import exists
from .candidates import Candidates, candidates, designed
from .evaluate import Objective, evaluate_candidates
from .law import LossModel, find_law
from .plan import budget_for, estimate_budget, make_plan
from .planfile import PlanFile
from .throughput import fit_times, measured_mfu, parse_times, profiled_mfu


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanQuery:
    """The options of `scaling plan`, as typed."""

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
    context: str | None = None
    force: bool = False
    study: Path | None = None
    times: str | None = None
    price: float | None = None


def answer_query(question: PlanQuery) -> tuple[PlanFile, dict[str, Recipe]]:
    """The plan, not yet sealed, and what every recipe's rule says of its recommended member.

    Raises:
        BadInput: options that contradict each other, or a question without an answer.
    """
    _check(question)
    law = find_law(question.law, question.study, force=question.force)
    runs = own_runs(question.study)
    shapes = _shapes(question, runs if law.predictor is not None else ())
    asked = _objective(question)
    budgets = [_shared(budget, question.times) for budget in _budgets(question, asked, law, shapes, runs)]
    nats, share = _within(question.within)
    made = make_plan(
        budgets, law, shapes, ask=asked, nats=nats, share=share, rule=question.rule, inputs=_inputs(question)
    )
    if question.times is not None:
        made = made.model_copy(
            update={"notes": (*made.notes, _sharing(question.times, budgets[-1].devices or 1))}
        )
    member = made.members[-1]
    if question.params is not None and (off := off_size(parse_size(question.params, "params"), member.spec)):
        made = made.model_copy(update={"notes": (*made.notes, off)})
    return made, recipes(member.spec, member.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoFlop:
    """The loss that each candidate reaches for one budget: arrays of shape (n,), smallest first.

    flops: of training, and of the serving that was asked for.
    """

    flops: float
    params: NDArray[np.float64]
    loss: NDArray[np.float64]


def isoflops(question: PlanQuery, plan: PlanFile) -> tuple[IsoFlop, ...]:
    """IsoFLOP curves through each of a plan's several budgets, or a third, one and three times its only one.

    Empty under a law of one dial, which fixes each member's tokens and so has no such curve.
    """
    law = find_law(question.law, question.study, force=True)
    if law.frontier is not None or plan.recommended is None:
        return ()
    shapes = _shapes(question, own_runs(question.study) if law.predictor is not None else ())
    wanted = replace(_objective(question), target=None)
    curves = []
    spent = plan.recommended.flops + plan.recommended.inference_flops
    several = [rung.choice.flops + rung.choice.inference_flops for rung in plan.ladder]
    for flops in several or [spent / 3, spent, 3 * spent]:
        try:
            costed = evaluate_candidates(replace(wanted, flops=flops), law, shapes)
        except BadInput:
            continue  # a third of a budget may be less than anything costs
        able = costed.able
        curves.append(IsoFlop(flops=flops, params=shapes.params[able].astype(float), loss=costed.loss[able]))
    return tuple(curves)


def _check(question: PlanQuery) -> None:
    goals = {
        "--budget": question.budget,
        "--target-loss": question.target_loss,
        "--target-ppl": question.target_ppl,
    }
    named = [name for name, value in goals.items() if value is not None]
    if not named:
        raise BadInput("--budget is missing; give it, or --target-loss, or --target-ppl")
    if len(named) > 1:
        raise BadInput(f"{' and '.join(named)} are given; one of them decides the other")
    if question.params is not None and question.family is not None:
        raise BadInput(
            f"--params {question.params} and --family {question.family} are given; give one of them"
        )
    shape = {"--ratio": question.ratio, "--head-size": question.head_size, "--vocab": question.vocab}
    shape["--context"] = question.context
    set_shape = [name for name, value in shape.items() if value is not None]
    if set_shape and question.family not in (None, "all", "grid"):
        raise BadInput(
            f"{set_shape[0]} designs shapes, and --family {question.family} has its own; give one of them"
        )


def own_runs(study: Path | None) -> tuple[Run, ...]:
    """The study's observations; none without a study."""
    path = None if study is None else study / "runs.jsonl"
    return read_runs(path).runs if path is not None and exists(path) else ()


def rule_of(runs: Sequence[Run]) -> DesignRule:
    """The design rule that the runs' members seem to follow; GPT-2's where they do not say."""
    usual = DesignRule()
    shaped = [
        (run.n_layer, run.n_embd, run.n_head) for run in runs if run.n_layer and run.n_embd and run.n_head
    ]
    vocabularies, contexts = {run.vocab_size for run in runs}, {run.n_positions for run in runs}
    return DesignRule(
        ratio=median(width / layers for layers, width, _ in shaped) if shaped else usual.ratio,
        head_size=mode(width // heads for _, width, heads in shaped) if shaped else usual.head_size,
        vocab_size=(vocabularies.pop() if len(vocabularies) == 1 else None) or usual.vocab_size,
        n_positions=(contexts.pop() if len(contexts) == 1 else None) or usual.n_positions,
    )


def _shapes(question: PlanQuery, runs: tuple[Run, ...]) -> Candidates:
    """Candidates by the options; what they leave out is as in the runs that the law was fitted on."""
    usual = rule_of(runs)
    rule = DesignRule(
        ratio=usual.ratio if question.ratio is None else question.ratio,
        head_size=usual.head_size if question.head_size is None else question.head_size,
        vocab_size=parse_count(question.vocab, "vocab") if question.vocab else usual.vocab_size,
        n_positions=parse_count(question.context, "context") if question.context else usual.n_positions,
    )
    if question.params is not None:
        return designed(parse_size(question.params, "params"), rule)
    return candidates(question.family or "all", rule)


def _objective(question: PlanQuery) -> Objective:
    target = question.target_loss
    if question.target_ppl is not None:
        if not (math.isfinite(question.target_ppl) and question.target_ppl > 1):
            raise BadInput(f"target perplexity is {question.target_ppl:g}; it must be above 1 and finite")
        target = math.log(question.target_ppl)
    if target is not None and not (math.isfinite(target) and target > 0):
        raise BadInput(f"target loss is {target:g}; it must be positive and finite, in nats per token")
    available, served = question.tokens_available, question.inference_tokens
    return Objective(
        target=target,
        tokens_available=None if available is None else parse_size(available, "tokens available"),
        inference_tokens=0.0 if served is None else parse_size(served, "inference tokens"),
    )


def _budgets(
    question: PlanQuery, asked: Objective, law: LossModel, shapes: Candidates, runs: tuple[Run, ...]
) -> list[Budget]:
    """One budget or several; the MFU is given, estimated, measured on the study's runs, in probes
    of this user's machines, or assumed, in that order.
    """
    texts = split_budgets(question.budget) if question.budget is not None else []
    if question.mfu == "estimate":
        if asked.target is not None:
            raise BadInput(
                "--mfu estimate needs a --budget; of a target the cost in FLOPs is known without it"
            )
        return [
            estimate_budget(text, law, shapes, asked, on=question.on, price=question.price) for text in texts
        ]
    mfu = None if question.mfu is None else parse_mfu(question.mfu)
    if asked.target is not None:
        goal = "loss" if question.target_ppl is None else "perplexity"
        value = question.target_loss if question.target_ppl is None else question.target_ppl
        name = parse_devices(question.on)[1].name if question.on else None
        measured = _measured(runs, accelerator(name)) if name and mfu is None else None
        text = f"target {goal} {value:g}"
        source: MfuSource = "measured" if measured else "assumed"
        return [
            budget_for(
                asked,
                law,
                shapes,
                text=text,
                on=question.on,
                mfu=measured or mfu,
                mfu_source=source,
                price=question.price,
            )
        ]
    budgets = []
    for text in texts:
        budget = parse_budget(text, mfu=mfu, on=question.on, price=question.price)
        if mfu is None and budget.accelerator is not None:
            measured = _measured(runs, accelerator(budget.accelerator))
            if measured is not None:
                budget = parse_budget(
                    text, mfu=measured, mfu_source="measured", on=question.on, price=question.price
                )
        budgets.append(budget)
    return budgets


def _measured(runs: tuple[Run, ...], device: Accelerator) -> float | None:
    """On the study's own runs, else in probes of this user's machines."""
    found = measured_mfu(runs, device)
    return profiled_mfu(device) if found is None else found


def _sharing(times: str, devices: int) -> str:
    """How much of a device is left when so many share the work."""
    share = min(1.0, fit_times(parse_times(times)).efficiency(devices))
    return f"the MFU is that of one device times {share:.3g}, what is left of each of {devices} by the measured --times"


def _shared(budget: Budget, times: str | None) -> Budget:
    """The budget at the MFU that is left of one device's when the work is shared among all, by measured times.

    A budget in FLOPs takes longer; one in hours buys less.
    """
    if times is None:
        return budget
    if budget.accelerator is None or budget.devices is None or budget.mfu is None:
        raise BadInput(f"budget is {budget.text}; --times are of devices, and --on 8xA100 names them")
    share = min(1.0, fit_times(parse_times(times)).efficiency(budget.devices))
    changes: dict[str, float | None] = {"mfu": budget.mfu * share}
    if parse_flops(budget.text) is None and not budget.text.startswith("target "):
        changes["flops"] = budget.flops * share
    else:
        changes["device_seconds"] = (budget.device_seconds or 0) / share
    return budget.model_copy(update=changes)


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


def _inputs(question: PlanQuery) -> dict[str, str]:
    """The law's file, where the law is one."""
    if question.law is not None:
        own = Path(question.law) if question.law.endswith(".json") else None
    else:
        own = None if question.study is None else question.study / "law.json"
    return hashes([own]) if own is not None and own.exists() else {}
