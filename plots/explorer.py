"""An explorer page of a plan: sliders for budget, MFU, distinct tokens and serving, computed in the page from the law."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from families import accounting
from families.units import BadInput
from scaling.fitting.forms import EQUAL, LENGTH, NEARBY, REACH, SAME_SIZE
from scaling.fitting.predictor import Fit
from scaling.hardware import accelerator
from scaling.laws import CONSTANTS, TOKENS_PER_PARAM, LossModel
from scaling.planning.candidates import Candidates
from scaling.planning.evaluate import SHORTEST, Objective
from scaling.planning.law import plan_params, shape_sizes
from scaling.planning.planfile import PlanFile
from scaling.published_laws import PublishedLaw

from .plan_page import plan_band, plan_headline, plan_tiles
from .report import asset, page_policy, page_style, templates

MOST_SHAPES = 5000  # in a page, which then has about 400 kB; of more the frontier is taken

_BUDGETS = np.logspace(-3, 3, 61)  # the slider's range around the plan's budget, in factors


def explorer(plan: PlanFile, law: LossModel, shapes: Candidates, ask: Objective, *, options: str = "") -> str:
    """The page: one self-contained file that asks no network and computes what `scaling plan` computes.

    Args:
        plan: the plan, whose budget the sliders start at.
        law: its law.
        shapes: the candidates it chose from.
        ask: serving and distinct tokens that the sliders start at.
        options: of the command line, for what has no slider: the law and the candidates.

    Raises:
        BadInput: a law with a frontier, which leaves nothing to trade, or a target.
    """
    from markupsafe import Markup

    script = asset("explore.js")
    values = {**data(plan, law, shapes, ask), "options": options}
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")  # a name cannot end the element that holds it
    assert plan.budget is not None
    assert plan.recommended is not None
    return templates().get_template("explore.html").render(
        title=f"Plan explorer: {plan.budget.text}",
        policy=Markup(page_policy(script)),  # noqa: S704 - from this package
        style=Markup(page_style() + asset("explore.css").replace("\n", "")),  # noqa: S704 - from this package
        script=Markup(script),  # noqa: S704 - from this package
        data=Markup(text),  # noqa: S704 - escaped above
        law=law.name,
        source=law.source,
        timed=values["device"] is not None,
        by_time=values["byTime"],
        warnings=law.warnings,
        headline=plan_headline(plan, plan.recommended),
        tiles=plan_tiles(plan.recommended),
        band=plan_band(plan),
        thinned="" if values["candidates"] == len(values["shapes"]) else f"{values['candidates']:,}",
        shown=f"{len(values['shapes']):,}",
    )  # fmt: skip


def data(plan: PlanFile, law: LossModel, shapes: Candidates, ask: Objective) -> dict[str, Any]:
    """What the page computes with: the law, the shapes and where the sliders start.

    Args:
        plan: the plan.
        law: its law.
        shapes: the candidates.
        ask: serving and distinct tokens.

    Raises:
        BadInput: as `explorer`.
    """
    budget = plan.budget
    if budget is None or ask.target is not None:
        raise BadInput("the explorer has a slider for the budget; give --budget in place of a target")
    if law.frontier is not None:
        raise BadInput(
            f"law {law.name} fixes the tokens of each size and leaves nothing to explore; use --law chinchilla"
        )
    of = len(shapes)
    if of > MOST_SHAPES:
        shapes = frontier(law, shapes, budget.flops)
    device = None if budget.accelerator is None else accelerator(budget.accelerator)
    members = [shapes.member(index) for index in range(len(shapes))]
    hourly = budget.hourly
    return {
        "law": _law(law),
        "shapes": [
            [
                one.name,
                N,
                accounting.params(one.spec),
                accounting.train_flops_per_token(one.spec),
                one.spec.n_positions,
            ]
            for one, N in ((one, float(plan_params(law, one.spec))) for one in members)
        ],
        "candidates": of,
        "shortest": SHORTEST,
        "flops": budget.flops,
        "hours": None
        if budget.device_seconds is None
        else budget.device_seconds / (budget.devices or 1) / 3600,
        "byTime": device is not None and not budget.fixes_compute,
        "mfu": budget.mfu,
        "device": None
        if device is None
        else {"name": device.name, "count": budget.devices, "peak": device.training_peak},
        "price": None if hourly is None else hourly[0],
        "priceSource": None if hourly is None else hourly[1],
        "unique": ask.tokens_available,
        "served": ask.inference_tokens,
        "includes": ask.includes_serving,
        "nats": 0.01 if plan.band is None else plan.band.within_nats or 0.01,
    }


def frontier(law: LossModel, shapes: Candidates, flops: float) -> Candidates:
    """The candidates that can be the best of some budget: no other has as many parameters at fewer FLOPs per token.

    Loss falls with N and with the tokens that a budget leaves, whatever is served or repeated, so one that is beaten in both
    is never the best. A fitted law's local correction can break that near its rows: those of a fitted size are kept, and
    so is whatever wins at one of 61 budgets over the slider's range.

    Args:
        law: counts the parameters.
        shapes: the candidates.
        flops: budget that the slider starts at.
    """
    N, per_token = shape_sizes(law, shapes), shapes.flops_per_token.astype(np.float64)
    order = np.lexsort((np.arange(len(N)), -N, per_token))
    largest = np.maximum.accumulate(N[order])
    kept = np.zeros(len(N), dtype=bool)
    kept[order] = np.concatenate([[True], N[order][1:] > largest[:-1]])
    if isinstance(law, Fit) and len(law.local.log_N):
        sizes = np.unique(law.local.log_N)
        kept |= np.abs(np.log(N)[:, None] - sizes).min(axis=1) < EQUAL
        least = SHORTEST * shapes.n_positions
        for budget in flops * _BUDGETS:
            tokens = np.round(budget / per_token)
            loss = np.where(tokens >= least, law.loss(N, np.maximum(tokens, least)), np.inf)
            kept[np.argmin(loss)] = True
    return shapes.chosen(kept)


def _law(law: LossModel) -> dict[str, Any]:
    """The law's forms with their weights, its local correction and the value it gives to repeated tokens.

    Raises:
        BadInput: a law of another kind.
    """
    common = {
        "repetition": asdict(law.repetition),
        "perParam": TOKENS_PER_PARAM,
        "domain": asdict(law.domain),
    }
    if isinstance(law, PublishedLaw):
        form = {"weight": 1.0, "variable": "ND", **{name: getattr(law.law, name) for name in CONSTANTS}}
        return {"forms": [form], "local": None, **common}
    if not isinstance(law, Fit):
        raise BadInput(f"law {law.name} has no closed form to compute with")
    forms = [
        {
            "weight": one.weight,
            "variable": one.variable,
            **{name: getattr(one.law, name) for name in CONSTANTS},
        }
        for one in law.forms
        if one.weight
    ]
    local = {
        "x": law.local.log_N.tolist(),
        "z": law.local.log_D.tolist(),
        "c": law.local.coefficient.tolist(),
        "near": NEARBY**2,
        "same": SAME_SIZE**2,
        "length": LENGTH,
        "reach": REACH * LENGTH,
        "equal": EQUAL,
    }
    return {"forms": forms, "local": local if local["x"] else None, **common}
