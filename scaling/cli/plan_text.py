"""The text of a plan, at most 100 columns wide: its budget, choices, recipes and the indifference band."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from textwrap import fill

from families.accounting import STATES
from families.units import format_bytes, format_duration, format_size

from ..budget import Budget, parse_flops
from ..hardware import accelerator
from ..planning.planfile import Band, Choice, PlanFile, PlannedMember
from ..recipe import DEFAULT_RULE, Recipe
from ..stats import format_loss, format_perplexity, perplexity
from .output import WIDTH, fitting_table, format_table

EDGE = 1 + 1e-9  # of what a law was fitted on

NEARBY = 5  # frontier rows shown; --json has them all

SHOWN = 6  # of the band, besides the best and the cheapest


def lines(made: PlanFile, advice: Mapping[str, Recipe]) -> Iterator[str]:
    """Lines of the plan, with the recipes of `advice`."""
    assert made.law is not None
    assert made.recommended is not None
    assert made.budget is not None
    several = len(made.ladder) > 1
    numbers = {budget.text: number for number, budget in enumerate(_budgets(made), 1)}
    if not several:
        yield f"budget  {_budget(made.budget)}"
    yield f"law     {made.law.name}: {made.law.source}"
    blocks = zip(made.sizes or _rungs(made), made.members, strict=True)
    for place, (choice, member) in enumerate(blocks):
        yield ""
        if several:
            yield f"budget {place + 1}: {_budget(_budgets(made)[place])}"
        yield from _chosen(choice, member, made)
    yield ""
    yield from _table(made, numbers)
    if made.band is not None:
        yield ""
        yield from _band(
            made.band, made.recommended.member, f" by budget {len(made.ladder)}" if several else ""
        )
    if advice:
        yield ""
        yield _recipes(advice)


def _table(made: PlanFile, numbers: Mapping[str, int]) -> Iterator[str]:
    """The choices, a row each, and what their columns and numbers mean."""
    assert made.recommended is not None
    assert made.budget is not None
    chosen, several = made.recommended, len(made.ladder) > 1
    # by budgets that name no accelerator there is neither time nor money
    timed = any(choice.hours is not None for choice in _rungs(made))
    lined: list[tuple[str, Choice, str | None]] = [
        (f"budget {len(made.ladder)}" if several else "recommended", chosen, None)
    ]
    lined += [(f"budget {numbers[rung.budget.text]}", rung.choice, None) for rung in made.ladder[:-1]]
    lined += [("size", choice, None) for choice in made.sizes if choice.member != chosen.member]
    lined += [(f"at MFU {case.mfu:.0%}", case.choice, None) for case in made.sensitivity]
    lined += [(f"under {other.law}", other.choice, other.law) for other in made.others]
    lined += [
        (f"frontier, {numbers[choice.budget]}" if several else "frontier", choice, None)
        for choice in _nearby(made)
    ]
    to_target = made.budget.text.startswith("target ")
    shown = _Columns(
        timed=timed,
        beyond=any(choice.extrapolation > EDGE for _, choice, _ in lined),
        serves=chosen.inference_flops > 0,
        epochs=chosen.epochs is not None,
        share="of least" if to_target else None if made.includes_serving else "of budget",
    )
    rows = [shown.row(kind, choice, law) for kind, choice, law in lined]
    table = fitting_table(
        shown.header(), rows, ("ppl", "preferred by", "beyond", shown.share or "", "train", "serve"), left=2
    )
    yield table
    if several:
        same = len({f"{budget.flops:.6g}" for budget in _budgets(made)}) == 1
        kind = "equal" if same else "unequal"
        yield f"{kind} budgets: a row's number is its budget's; choices under other laws are by budget {len(made.ladder)}"
    elif made.sizes:
        goal = "equal loss, unequal cost" if to_target else "equal budgets"
        yield (
            f"{goal}: every size has {made.budget.text}"
            if not to_target
            else f"{goal}: every size reaches the target"
        )
    if made.sensitivity:
        fixed = (
            "the same FLOPs in another time"
            if made.budget.fixes_compute
            else "what the same time or money buys"
        )
        yield f"at MFU 25, 35 and 45 %: {fixed}; this plan's is {made.budget.mfu:.0%} ({made.budget.mfu_source})"
    if " beyond" in table.partition("\n")[0]:
        yield "beyond: factor by which N, D or compute lie outside the fitted domain of the row's law"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """Columns of the table of choices.

    Args:
        timed: hours and prices are known.
        beyond: some row lies outside its law's domain.
        serves: serving was asked for.
        epochs: distinct tokens were given.
        share: name of the share's column; None without one.
    """

    timed: bool
    beyond: bool
    serves: bool
    epochs: bool
    share: str | None

    def header(self) -> list[str]:
        """Names of the columns; perplexity gives way where a line holds no more, and --json has it."""
        narrow = self.beyond and self.timed
        return [
            "",
            "member",
            "tokens",
            *(["epochs"] * self.epochs),
            "loss",
            *([] if narrow else ["ppl"]),
            *(["beyond"] * self.beyond),
            *(["train", "serve"] * self.serves),
            *([] if self.share is None else [self.share]),
            *(["hours", "USD"] * self.timed),
            *(["serve USD"] * (self.timed and self.serves)),
            *([] if self.timed and self.serves else ["preferred by"]),
        ]

    def row(self, kind: str, choice: Choice, law: str | None) -> list[str]:
        """A choice's cells."""
        laws = choice.preferred_by if law is None else (law,)
        named = [name.removesuffix(".json")[:10] for name in laws]
        return [
            kind,
            choice.member,
            format_size(choice.tokens),
            *(["–" if choice.epochs is None else f"{choice.epochs:.3g}"] if self.epochs else []),
            format_loss(choice.loss),
            *([] if self.beyond and self.timed else [format_perplexity(choice.ppl)]),
            *(
                ["" if choice.extrapolation <= EDGE else f"{choice.extrapolation:.3g}x"]
                if self.beyond
                else []
            ),
            *([format_size(choice.flops), format_size(choice.inference_flops)] if self.serves else []),
            *([] if self.share is None else ["–" if choice.share is None else f"{choice.share:.3f}"]),
            *([_hours(choice.hours), _dollars(choice.price)] if self.timed else []),
            *([_dollars(choice.inference_price)] if self.timed and self.serves else []),
            *([] if self.timed and self.serves else [_preferred(named, self.timed)]),
        ]


def _hours(hours: float | None) -> str:
    return "–" if hours is None else f"{hours:,.2f}"


def _dollars(price: float | None) -> str:
    return "–" if price is None else _money(price)


def _budget(budget: Budget) -> str:
    flops = f"{format_size(budget.flops)} FLOPs"
    line = flops if parse_flops(budget.text) is not None else f"{budget.text} = {flops}"
    if budget.accelerator is None or budget.mfu is None:
        return line + " (no accelerator named: --on 8xA100 gives hours)"
    device = accelerator(budget.accelerator)
    seconds = (budget.device_seconds or 0) / (budget.devices or 1)
    alone = f" (no number given: --on 8x{device.name})" if budget.devices_source == "assumed" else ""
    hourly = budget.hourly
    price = "no price is known: --price gives one" if hourly is None else (
        f"at {hourly[0]:g} USD per device-hour ({hourly[1]})"
    )  # fmt: skip
    return (
        f"{line}: {format_duration(seconds)} on {budget.devices} × {device.name}{alone}\n        at MFU {budget.mfu:.4g} "
        f"({budget.mfu_source}) of {device.training_peak / 1e12:g} TFLOP/s {device.training_format} dense\n        {price}"
    )


def _budgets(made: PlanFile) -> list[Budget]:
    """Each budget, the largest last."""
    assert made.budget is not None
    return [rung.budget for rung in made.ladder] or [made.budget]


def _rungs(made: PlanFile) -> list[Choice]:
    """Choice of each budget, the largest last."""
    assert made.recommended is not None
    return [rung.choice for rung in made.ladder] or [made.recommended]


def _chosen(chosen: Choice, member: PlannedMember, made: PlanFile) -> Iterator[str]:
    law = "" if made.law is None else made.law.name
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
        paid = "the budget pays for both" if made.includes_serving else "the budget pays for training alone"
        paid = (
            "both are minimised together" if made.budget and made.budget.text.startswith("target ") else paid
        )
        yield (
            f"training {format_size(chosen.flops)} FLOPs and serving {format_size(chosen.inference_flops)}, "
            f"together {format_size(total)}: {paid}"
        )
    if chosen.interval_80 and chosen.interval_95:
        ranges = [
            f"{format_loss(low)} to {format_loss(high)}, perplexity {_ppl(low)} to {_ppl(high)} ({level} %)"
            for level, (low, high) in ((80, chosen.interval_80), (95, chosen.interval_95))
        ]
        yield f"loss within {ranges[0]}"
        yield f"            {ranges[1]}"
    reach = chosen.extrapolation
    where = "none, within" if reach <= EDGE else f"{reach:.3g} times beyond"
    yield f"extrapolation: {where} the fitted range of {law}"
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
        if member.model_parallel:
            what = "all" if member.pipeline == 1 else "the optimiser's"
            who = "devices" if member.context_parallel > 1 else "replicas"
            replicas = "" if member.shards == 1 else f", {what} over {member.shards} {who}"
            shared = f", {member.degrees_text}{replicas}"
        least = "" if member.micro_batch == 1 else f"; {format_bytes(fixed + rest / member.micro_batch)} at 1"
        yield (
            f"memory {format_bytes(sum(member.memory.values()))} per device at micro-batch {member.micro_batch}"
            f"{least}{checkpointing}, estimated"
        )
        yield f"        of it states {format_bytes(states)}{shared}"
        if member.model_parallel:
            yield "        which scaling train has not: scaling emit --to megatron or automodel"


def _nearby(made: PlanFile) -> list[Choice]:
    """The frontier around the recommended member."""
    assert made.recommended is not None
    chosen = made.recommended
    above = {chosen.member, *(choice.member for choice in made.sizes)}
    others = [choice for choice in made.frontier if choice.member not in above]
    near = sorted(
        others,
        key=lambda choice: (round(abs(choice.loss - chosen.loss), 6), abs(choice.flops - chosen.flops)),
    )[:NEARBY]
    return sorted(near, key=lambda choice: choice.params)


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
            "–" if member.choice.member == best
            else "never" if member.extra_flops is None else format_size(member.extra_flops),
            "–" if member.extra_hours is None or member.choice.member == best
            else format_duration(3600 * member.extra_hours),
            "–" if member.extra_price is None or member.choice.member == best else _money(member.extra_price),
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
    rates = [found.lr for found in advice.values()]
    taken = "law" if "law" in advice else DEFAULT_RULE
    told = (
        f"take {taken}{'' if taken == 'law' else ', the default, until your own runs vary lr and scaling fit has a law of it'}; "
        f"the rules' learning rates differ by a factor of {max(rates) / min(rates):.3g}. On 17 public cells of 0.2 to 1.1B "
        "parameters they give away, in the mean and at worst: capped 0.14 and 0.31 %, steplaw 0.10 and 0.31 %, porian 0.74 "
        "and 2.02 %, deepseek 0.76 and 1.13 %, width 1.45 and 2.08 % of loss"
    )
    table = format_table(["rule", "lr", "batch", "steps", "warm-up", "decay", "beta2"], rows)
    return "\n".join([table, fill(told, WIDTH), *sources])
