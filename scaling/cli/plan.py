"""scaling plan: a budget or a target as a plan, in text of at most 100 columns."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any

import typer

from families.accounting import STATES
from families.units import BadInput, format_duration, format_size

from ..budget import Budget, parse_flops
from ..files import atomic_writes
from ..hardware import accelerator
from ..planning.planfile import Band, Choice, PlanFile, PlannedMember, seal, write_plan
from ..planning.query import PlanQuery, answer_query, isoflop_curves, own_runs
from ..recipe import DEFAULT_RULE, Recipe
from ..stats import format_loss, format_perplexity, perplexity
from .output import (
    WIDTH,
    JsonOption,
    YesOption,
    echo,
    fitting_table,
    format_table,
    log,
    print_json,
    readable_study,
)

PLAN_EPILOG = "Example: scaling plan --budget 8xA100-hours --mfu 0.35"


def plan(
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            help="64 H100 for 2 weeks, 8xA100-hours, $5000 on H100, 1.4e18, 0.02 PF-days; several with commas.",
        ),
    ] = None,
    law: Annotated[
        str | None,
        typer.Option(
            "--law",
            help="kaplan, chinchilla, hoffmann or a law.json (default: the study's, else chinchilla).",
        ),
    ] = None,
    mfu: Annotated[
        str | None,
        typer.Option(
            "--mfu",
            help="Model FLOPs utilisation: 0.4, 40%, or estimate (default: measured, else 0.4 assumed).",
        ),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option("--family", help="gpt2-kaplan, gpt2, another family, all, or grid (30,000 shapes)."),
    ] = None,
    on: Annotated[
        str | None, typer.Option("--on", help="Devices for a budget that names none, like 8xA100.")
    ] = None,
    price: Annotated[
        float | None, typer.Option("--price", help="USD per device-hour (default: the catalogue's).")
    ] = None,
    times: Annotated[
        str | None,
        typer.Option(
            "--times",
            help="Measured times by number of devices, like 1=66m40s,2=40m19s: parallel efficiency.",
        ),
    ] = None,
    target_loss: Annotated[
        float | None,
        typer.Option("--target-loss", help="Find the cheapest way to this loss, in nats per token."),
    ] = None,
    target_ppl: Annotated[
        float | None, typer.Option("--target-ppl", help="The same, as a perplexity.")
    ] = None,
    params: Annotated[
        str | None, typer.Option("--params", help="A fixed size, like 125M; the plan finds its tokens.")
    ] = None,
    tokens_available: Annotated[
        str | None,
        typer.Option("--tokens-available", help="Distinct tokens there are; beyond them data repeats."),
    ] = None,
    inference_tokens: Annotated[
        str | None, typer.Option("--inference-tokens", help="Tokens to be served, whose cost counts too.")
    ] = None,
    within: Annotated[
        str | None, typer.Option("--within", help="Indifference band: 0.01 nats, or 2% of the cost.")
    ] = None,
    rule: Annotated[
        str, typer.Option("--rule", help="Recipe: width, card, kaplan, porian, deepseek, steplaw.")
    ] = DEFAULT_RULE,
    recipes: Annotated[bool, typer.Option("--recipes", help="Show the recipe of every rule.")] = False,
    ratio: Annotated[
        float | None, typer.Option("--ratio", help="n_embd per layer of designed shapes.")
    ] = None,
    head_size: Annotated[
        int | None, typer.Option("--head-size", help="n_embd per head of designed shapes.")
    ] = None,
    vocab: Annotated[str | None, typer.Option("--vocab", help="Vocabulary of designed shapes.")] = None,
    context: Annotated[
        str | None, typer.Option("--context", help="Context length of designed shapes.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Predict past 1,000 times the fitted N, D or compute.")
    ] = False,
    study: Annotated[
        Path | None,
        typer.Option(
            "--study", callback=readable_study, help="Use the study's law.json, write its plan.json."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the sealed plan to this file.")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw isoFLOP curves and the band as FILE.png or FILE.svg.")
    ] = None,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Turn a budget into a model, its tokens and its predicted loss. Writes nothing without --study or --out."""
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise BadInput(f"plot is {str(plot)!r}; it must end in .png or .svg")
    question = PlanQuery(
        budget=budget,
        law=law,
        mfu=mfu,
        family=family,
        on=on,
        target_loss=target_loss,
        target_ppl=target_ppl,
        params=params,
        tokens_available=tokens_available,
        inference_tokens=inference_tokens,
        within=within,
        rule=rule,
        ratio=ratio,
        head_size=head_size,
        vocab=vocab,
        context=context,
        force=force,
        study=study,
        times=times,
        price=price,
    )
    made, advice = answer_query(question)
    target = out or (study / "plan.json" if study is not None else None)
    if target is not None:
        made = seal(made)
    drawn = {} if plot is None else {plot: _draw(made, question, plot)}
    if target is not None:
        write_plan(made, target, replace=yes, beside=drawn)
    else:
        atomic_writes(drawn)
    if plot is not None:
        log(f"wrote {plot}")
    if as_json:
        summary: dict[str, Any] = made.model_dump(mode="json", exclude={"budget"})
        if recipes:
            summary["recipes"] = {name: found.model_dump(mode="json") for name, found in advice.items()}
        print_json({**made.headline(), **summary, "path": None if target is None else str(target)})
        return
    for line in lines(made, advice if recipes else {}):
        echo(line)
    for line in made.notes:
        log(f"note: {line}")
    if target is not None:
        log(f"wrote {target}, sealed")


def _draw(plan: PlanFile, question: PlanQuery, path: Path) -> bytes | str:
    """The plan's picture, with the study's own runs."""
    from plots.plan import planned
    from plots.style import png, svg

    figure = planned(plan, isoflop_curves(question, plan), own_runs(question.study)).figure
    return png(figure) if path.suffix == ".png" else svg(figure, "plan")


EDGE = 1 + 1e-9  # of what a law was fitted on

NEARBY = 5  # frontier rows shown; --json has them all

SHOWN = 6  # of the band, besides the best and the cheapest


def lines(made: PlanFile, advice: Mapping[str, Recipe]) -> Iterator[str]:
    """Lines of the plan, with the recipes of `advice`."""
    assert made.law is not None
    assert made.recommended is not None
    assert made.budget is not None
    chosen = made.recommended
    several = len(made.ladder) > 1
    numbers = {budget.text: number for number, budget in enumerate(_budgets(made), 1)}
    if not several:
        yield f"budget  {_budget(made.budget)}"
    yield f"law     {made.law.name}: {made.law.source}"
    for budget, choice, member in zip(_budgets(made), _rungs(made), made.members, strict=True):
        yield ""
        if several:
            yield f"budget {numbers[budget.text]}: {_budget(budget)}"
        yield from _chosen(choice, member, made.law.name)
    yield ""
    # by budgets that name no accelerator there is neither time nor money
    timed = any(choice.hours is not None for choice in _rungs(made))
    serves = chosen.inference_flops > 0
    at = f" by budget {len(made.ladder)}" if several else ""
    lined: list[tuple[str, Choice, str | None]] = [
        (f"budget {len(made.ladder)}" if several else "recommended", chosen, None)
    ]
    lined += [(f"budget {numbers[rung.budget.text]}", rung.choice, None) for rung in made.ladder[:-1]]
    lined += [(f"under {other.law}", other.choice, other.law) for other in made.others]
    lined += [
        (f"frontier, {numbers[choice.budget]}" if several else "frontier", choice, None)
        for choice in _nearby(made)
    ]
    beyond = any(choice.extrapolation > EDGE for _, choice, _ in lined)
    to_target = made.budget.text.startswith("target ")
    shares = to_target or not serves  # of a budget, training and serving take all
    rows = [_row(kind, choice, timed, beyond, serves, shares, law) for kind, choice, law in lined]
    spent = "of least" if to_target else "of budget"
    header = ["", "member", "tokens", "loss"] + ["ppl"] * (not (beyond and timed))  # a line holds no more
    header += ["beyond"] * beyond + ["train", "serve"] * serves + [spent] * shares + ["hours", "USD"] * timed
    header += [] if timed and serves else ["preferred by"]
    yield fitting_table(
        header, rows, ("ppl", "preferred by"), left=2
    )  # the rest tells both, and --json has them
    if several:
        yield f"a row's number is its budget's; choices under other laws are by budget {len(made.ladder)}"
    if beyond:
        yield "beyond: factor by which N, D or compute lie outside the fitted domain of the row's law"
    if made.band is not None:
        yield ""
        yield from _band(made.band, chosen.member, at)
    if advice:
        yield ""
        yield _recipes(advice)


def _budget(budget: Budget) -> str:
    flops = f"{format_size(budget.flops)} FLOPs"
    line = flops if parse_flops(budget.text) is not None else f"{budget.text} = {flops}"
    if budget.accelerator is None or budget.mfu is None:
        return line + " (no accelerator named: --on 8xA100 gives hours)"
    device = accelerator(budget.accelerator)
    seconds = (budget.device_seconds or 0) / (budget.devices or 1)
    alone = f" (no number given: --on 8x{device.name})" if budget.devices_source == "assumed" else ""
    price = ""
    if budget.hourly_price is not None:
        price = f"\n        at {budget.hourly_price:g} USD per device-hour ({budget.price_source})"
    return (
        f"{line}: {format_duration(seconds)} on {budget.devices} × {device.name}{alone}\n        at MFU {budget.mfu:.4g} "
        f"({budget.mfu_source}) of {device.training_peak / 1e12:g} TFLOP/s {device.training_format} dense{price}"
    )


def _budgets(made: PlanFile) -> list[Budget]:
    """Each budget, the largest last."""
    assert made.budget is not None
    return [rung.budget for rung in made.ladder] or [made.budget]


def _rungs(made: PlanFile) -> list[Choice]:
    """Choice of each budget, the largest last."""
    assert made.recommended is not None
    return [rung.choice for rung in made.ladder] or [made.recommended]


def _chosen(chosen: Choice, member: PlannedMember, law: str) -> Iterator[str]:
    yield f"{chosen.member}  L{chosen.n_layer} d{chosen.n_embd} h{chosen.n_head}, {chosen.params:,} parameters"
    epochs = "" if chosen.epochs is None else f", {chosen.epochs:.3g} epochs"
    yield (
        f"tokens {format_size(chosen.tokens)} ({chosen.tokens_per_param:.3g} per parameter{epochs}), "
        f"expected loss {format_loss(chosen.loss)} nats/token, perplexity {format_perplexity(chosen.ppl)}"
    )
    if chosen.converged_loss is not None:
        yield "that is L(C_min) of one compute-efficient pass, which is what a budget buys; trained to convergence"
        yield f"on those tokens, the same N reaches L(N, D) {format_loss(chosen.converged_loss)} (see `scaling predict`)"
    if chosen.inference_flops:
        total = chosen.flops + chosen.inference_flops
        yield (
            f"training {format_size(chosen.flops)} FLOPs and serving {format_size(chosen.inference_flops)}, "
            f"together {format_size(total)}"
        )
    if chosen.interval_80 and chosen.interval_95:
        ranges = [
            f"{format_loss(low)} to {format_loss(high)}, perplexity {_ppl(low)} to {_ppl(high)} ({level} %)"
            for level, (low, high) in ((80, chosen.interval_80), (95, chosen.interval_95))
        ]
        yield f"loss within {ranges[0]}"
        yield f"            {ranges[1]}"
    reach = chosen.extrapolation
    where = "inside" if reach <= EDGE else f"{reach:.3g} times beyond"
    yield f"extrapolation: {where} what law {law} was fitted on"
    recipe = member.recipe
    yield (
        f"recipe {recipe.rule}: {recipe.steps:,} steps of {recipe.batch_sequences} × {chosen.n_positions} tokens, "
        f"lr {recipe.lr:g}, warm-up {recipe.warmup_steps}, betas {recipe.beta1:g} {recipe.beta2:g}"
    )
    if member.micro_batch is not None and member.memory:
        checkpointing = ", activations checkpointed" if member.checkpointing else ""
        states = sum(member.memory[part] for part in STATES)
        fixed = states + member.memory.get("gathered", 0)
        rest = sum(member.memory.values()) - fixed
        shared = "" if member.shards == 1 else f", sharded by FSDP (ZeRO 3) over {member.shards} devices"
        least = "" if member.micro_batch == 1 else f"; {(fixed + rest / member.micro_batch) / 1e9:.3g} at 1"
        yield (
            f"memory {sum(member.memory.values()) / 1e9:.3g} GB per device at micro-batch {member.micro_batch}"
            f"{least}{checkpointing}, estimated"
        )
        yield f"        of it states {states / 1e9:.3g} GB{shared}"


def _nearby(made: PlanFile) -> list[Choice]:
    """The frontier around the recommended member."""
    assert made.recommended is not None
    chosen = made.recommended
    others = [choice for choice in made.frontier if choice.member != chosen.member]
    near = sorted(
        others,
        key=lambda choice: (round(abs(choice.loss - chosen.loss), 6), abs(choice.flops - chosen.flops)),
    )[:NEARBY]
    return sorted(near, key=lambda choice: choice.params)


def _row(
    kind: str, choice: Choice, timed: bool, beyond: bool, serves: bool, shares: bool, law: str | None
) -> list[str]:
    laws = choice.preferred_by if law is None else (law,)
    named = [name.removesuffix(".json")[:10] for name in laws]
    money = [
        "—" if choice.hours is None else f"{choice.hours:,.2f}",
        "—" if choice.price is None else _money(choice.price),
    ]
    return [
        kind,
        choice.member,
        format_size(choice.tokens),
        format_loss(choice.loss),
        *(() if beyond and timed else [format_perplexity(choice.ppl)]),
        *(["" if choice.extrapolation <= EDGE else f"{choice.extrapolation:.3g}x"] if beyond else ()),
        *([format_size(choice.flops), format_size(choice.inference_flops)] if serves else ()),
        *(["—" if choice.share is None else f"{choice.share:.3f}"] if shares else ()),
        *(money if timed else ()),
        *([] if timed and serves else [_preferred(named, timed)]),
    ]


def _preferred(named: list[str], timed: bool) -> str:
    return f"{len(named)} laws" if timed and len(named) > 1 else "+".join(named) or "–"


def _ppl(loss: float) -> str:
    return format_perplexity(perplexity(loss))


def _money(price: float) -> str:
    """USD: cents where a few dollars are meant."""
    return f"{price:,.2f}" if price < 10 else f"{price:,.0f}"


def _band(band: Band, best: str, at: str = "") -> Iterator[str]:
    """Table of the indifference band: extra cost of each member against the best."""
    width = (
        f"{band.within_nats:g} nats"
        if band.within_nats is not None
        else f"{100 * (band.within_share or 0):.3g} % of the cost"
    )
    others = [member for member in band.members if member.choice.member != best]
    if not others:
        yield f"within {width} of the best{at} there is no other"
        return
    yield f"within {width} of the best{at}, {len(others) + 1} members; the extra cost of each to match it:"
    roles: dict[str, list[str]] = {}
    for role, name in (("train", band.cheapest_to_train), ("serve", band.cheapest_to_serve)):
        roles.setdefault(name, []).append(role)
    names = {band.cheapest_to_train, band.cheapest_to_serve, best}
    by_size = sorted(band.members, key=lambda member: member.choice.params)
    step = -(-len(by_size) // SHOWN)
    rows = [
        [
            member.choice.member,
            "the best" if member.choice.member == best else f"+{member.nats:.4f}",
            "—" if member.choice.member == best
            else "never" if member.extra_flops is None else format_size(member.extra_flops),
            "—" if member.extra_hours is None or member.choice.member == best
            else format_duration(3600 * member.extra_hours),
            "—" if member.extra_price is None or member.choice.member == best else _money(member.extra_price),
            format_size(member.choice.inference_flops_per_token),
            " and ".join(roles.get(member.choice.member, [])) or "",
        ]
        for place, member in enumerate(by_size)
        if place % step == 0 or member.choice.member in names
    ]  # fmt: skip
    header = ["member", "nats", "FLOPs more", "time", "USD", "FLOPs/token", "cheapest to"]
    yield format_table(header, rows)


def _recipes(advice: Mapping[str, Recipe]) -> str:
    rows = [
        [
            name,
            f"{found.lr:.3g}",
            format_size(found.batch_tokens),
            f"{found.steps:,}",
            f"{found.warmup_steps:,}",
            f"{found.weight_decay:g}",
            f"{found.beta2:g}",
        ]
        for name, found in advice.items()
    ]
    sources = [
        fill(f"{name}: {found.source}", WIDTH, subsequent_indent="  ") for name, found in advice.items()
    ]
    return "\n".join(
        [format_table(["rule", "lr", "batch", "steps", "warm-up", "decay", "beta2"], rows), *sources]
    )
