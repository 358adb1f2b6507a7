"""A plan on one page, to send to whoever pays: what to train, what it costs, how sure that is, and how to start it."""

from collections.abc import Mapping, Sequence

from families.accounting import STATES
from families.units import format_bytes, format_duration, format_size
from scaling.hardware import accelerator
from scaling.planning.planfile import Choice, PlanFile, PlannedMember
from scaling.planning.query import IsoFlopCurve
from scaling.recipe import Recipe
from scaling.runs import Run
from scaling.stats import format_loss, format_perplexity

from . import tables, text
from .plan import planned
from .report import asset, page_policy, page_style, templates
from .style import svg
from .tables import Cell, ReportTable


def plan_page(
    plan: PlanFile, curves: Sequence[IsoFlopCurve], runs: Sequence[Run], advice: Mapping[str, Recipe]
) -> str:
    """The HTML page of a plan: one self-contained file.

    Args:
        plan: the plan, sealed or not, with a recommended choice.
        curves: isoFLOP curves of its candidates.
        runs: own runs, for the picture.
        advice: the recipe of every rule for the last member.
    """
    from markupsafe import Markup

    assert plan.recommended is not None
    script, chosen = asset("page.js"), plan.recommended
    picture = planned(plan, curves, runs).figure
    return templates().get_template("plan.html").render(
        title=f"Plan: {plan.budget.text if plan.budget else chosen.member}",
        policy=Markup(page_policy(script)),  # noqa: S704 - from this package
        style=Markup(page_style()),  # noqa: S704 - from this package
        script=Markup(script),  # noqa: S704 - from this package
        headline=plan_headline(plan, chosen),
        tiles=plan_tiles(chosen),
        facts=_facts(plan),
        figure=Markup(svg(picture, "planned", inline=True)),  # noqa: S704 - matplotlib escapes its texts
        tables={
            "costs": _costs(plan),
            "sensitivity": _sensitivity(plan),
            "others": _others(plan),
            "band": plan_band(plan),
            "members": _members(plan),
            "recipes": _recipes(advice),
        },
        notes=plan.notes,
        sealed="" if plan.seal is None else f"Sealed at {plan.seal.sealed_at}, digest {plan.seal.digest}.",
    )  # fmt: skip


def plan_headline(plan: PlanFile, chosen: Choice) -> str:
    """The plan in one sentence."""
    line = (
        f"Train {chosen.member}, {format_size(chosen.params)} parameters, on {format_size(chosen.tokens)} tokens: "
        f"expected loss {format_loss(chosen.loss)} nats per token, perplexity {format_perplexity(chosen.ppl)}"
    )
    if chosen.hours is not None:
        line += f"; {format_duration(3600 * chosen.hours)}"
    return line + (f", {chosen.price:,.0f} USD." if chosen.price is not None else ".")


def plan_tiles(chosen: Choice) -> text.Facts:
    """The plan's numbers, each with what it is."""
    tiles = [
        (format_size(chosen.params), "parameters"),
        (format_size(chosen.tokens), "training tokens"),
        (format_loss(chosen.loss), "expected loss, nats per token"),
    ]
    if chosen.interval_80 is not None:
        tiles.append((tables.interval_cell(chosen.interval_80).text, "80 % interval of the loss"))
    if chosen.hours is not None:
        tiles.append((format_duration(3600 * chosen.hours), "of training"))
    if chosen.price is not None:
        tiles.append((f"${chosen.price:,.0f}", "training"))
    if chosen.inference_price is not None:
        tiles.append((f"${chosen.inference_price:,.0f}", "serving, apart"))
    return tiles


def _facts(plan: PlanFile) -> text.Facts:
    """Where the numbers come from."""
    budget, law, chosen = plan.budget, plan.law, plan.recommended
    assert budget is not None
    assert law is not None
    assert chosen is not None
    facts = [("Budget", f"{budget.text}: {format_size(budget.flops)} FLOPs")]
    if budget.accelerator is not None and budget.mfu is not None:
        device = accelerator(budget.accelerator)
        facts.append(("Devices", f"{budget.devices} × {device.name}, {device.source.partition(';')[0]}"))
        between = "" if budget.mfu_interval is None else ", {:.2f} to {:.2f}".format(*budget.mfu_interval)
        peak = f"{device.training_peak / 1e12:g} TFLOP/s {device.training_format} dense"
        facts.append(("MFU", f"{budget.mfu:.3g} of {peak}, {budget.mfu_source}{between}"))
        hourly = budget.hourly
        if hourly is not None:
            facts.append(("Price", f"{hourly[0]:g} USD per device-hour ({hourly[1]})"))
    facts.append(("Law", f"{law.name}: {law.source}"))
    reach = chosen.extrapolation
    facts.append(
        (
            "Extrapolation",
            "inside the law's data" if reach <= 1 + 1e-9 else f"{reach:.3g} times beyond the law's data",
        )
    )
    if chosen.epochs is not None:
        facts.append(("Epochs", f"{chosen.epochs:.3g} over the distinct tokens"))
    return facts


def _costs(plan: PlanFile) -> ReportTable | None:
    """Training and serving apart; None without serving."""
    chosen = plan.recommended
    if chosen is None or not chosen.inference_flops:
        return None
    rows = [
        ("training", chosen.flops, chosen.hours, chosen.price),
        ("serving", chosen.inference_flops, chosen.inference_hours, chosen.inference_price),
    ]
    return ReportTable.of(
        "The budget pays for both"
        if plan.includes_serving
        else "The budget pays for training; serving is apart",
        rows,
        {
            "": lambda row: Cell(row[0]),
            "FLOPs": lambda row: tables.size_cell(row[1]),
            "time": lambda row: tables.duration_cell(row[2]),
            "USD": lambda row: _usd(row[3]),
        },
    )


def _usd(price: float | None) -> Cell:
    return tables.text_cell(price, lambda value: f"{value:,.2f}" if value < 10 else f"{value:,.0f}")


def _choices(title: str, rows: Sequence[tuple[str, Choice]]) -> ReportTable | None:
    """Choices, a row each; None without any."""
    if not rows:
        return None
    columns = {
        "": lambda row: Cell(row[0]),
        "member": lambda row: Cell(row[1].member),
        "parameters": lambda row: tables.size_cell(row[1].params),
        "tokens": lambda row: tables.size_cell(row[1].tokens),
        "loss": lambda row: tables.loss_cell(row[1].loss),
        "FLOPs": lambda row: tables.size_cell(row[1].flops),
        "time": lambda row: tables.duration_cell(row[1].hours),
        "USD": lambda row: _usd(row[1].price),
    }
    if any(choice.epochs is not None for _, choice in rows):
        columns["epochs"] = lambda row: tables.number_cell(row[1].epochs, 2)
    if all(choice.hours is None for _, choice in rows):
        del columns["time"], columns["USD"]
    return ReportTable.of(title, rows, columns)


def _sensitivity(plan: PlanFile) -> ReportTable | None:
    fixed = plan.budget is not None and plan.budget.fixes_compute
    title = (
        "If the MFU is another: the same FLOPs take"
        if fixed
        else "If the MFU is another: the same time or money buys"
    )
    return _choices(title, [(f"MFU {case.mfu:.0%}", case.choice) for case in plan.sensitivity])


def _others(plan: PlanFile) -> ReportTable | None:
    rows = [(rung.budget.text, rung.choice) for rung in plan.ladder]
    rows += [("size", choice) for choice in plan.sizes]
    rows += [(f"under law {other.law}", other.choice) for other in plan.others]
    return _choices("Other budgets, sizes and laws (losses of different laws do not compare)", rows)


def plan_band(plan: PlanFile) -> ReportTable | None:
    """Members of the indifference band, at most nine; None where it has only one."""
    if plan.band is None or len(plan.band.members) < 2:
        return None
    every = -(-len(plan.band.members) // 8)
    best = "" if plan.recommended is None else plan.recommended.member
    names = {best, plan.band.cheapest_to_serve, plan.band.cheapest_to_train}
    rows = [
        ("planned" if one.choice.member == best else f"+{one.nats:.4f} nats", one.choice)
        for place, one in enumerate(plan.band.members)
        if place % every == 0 or one.choice.member in names
    ]
    return _choices("About as good: smaller ones are cheaper to serve", rows)


def _members(plan: PlanFile) -> ReportTable:
    """What is launched: recipe, sharding and memory of each member."""

    def sharding(member: PlannedMember) -> Cell:
        return Cell("one device" if member.shards == 1 else f"FSDP (ZeRO 3) over {member.shards}")

    def memory(member: PlannedMember) -> Cell:
        states = sum(member.memory.get(part, 0) for part in STATES)
        return Cell(f"{format_bytes(sum(member.memory.values()))} ({format_bytes(states)})")

    return ReportTable.of(
        "To be launched",
        plan.members,
        {
            "member": lambda one: Cell(one.member),
            "steps": lambda one: tables.int_cell(one.recipe.steps),
            "batch": lambda one: tables.int_cell(one.recipe.batch_sequences),
            "micro-batch": lambda one: tables.int_cell(one.micro_batch or 1),
            "lr": lambda one: Cell(f"{one.recipe.lr:.3g}", one.recipe.lr),
            "warm-up": lambda one: tables.int_cell(one.recipe.warmup_steps),
            "states on": sharding,
            "memory (states)": memory,
        },
    )


def _recipes(advice: Mapping[str, Recipe]) -> ReportTable | None:
    if not advice:
        return None
    return ReportTable.of(
        "Recipes of other rules for this model",
        list(advice.items()),
        {
            "rule": lambda row: Cell(row[0]),
            "lr": lambda row: Cell(f"{row[1].lr:.3g}", row[1].lr),
            "batch, tokens": lambda row: tables.size_cell(row[1].batch_tokens),
            "steps": lambda row: tables.int_cell(row[1].steps),
            "warm-up": lambda row: tables.int_cell(row[1].warmup_steps),
            "source": lambda row: Cell(row[1].source),
        },
    )
