"""scaling plan."""

from pathlib import Path
from typing import Annotated, Any

import typer

from families.units import format_duration, format_size

from ..budget import Budget, parse_budget, parse_mfu
from ..hardware import accelerator
from ..planfile import Choice, PlanFile, write_plan
from ..planner import candidates, find_law, make_plan
from ..seal import seal
from .show import JsonOption, YesOption, note, print_json, say, table

EPILOG = "Example: scaling plan --budget 8xA100-hours --mfu 0.35"


def plan(
    budget: Annotated[
        str, typer.Option("--budget", help="8xA100-hours, 24h@8xA100, 02:44@8xA100, 1.4e18, 0.02 PF-days.")
    ],
    law: Annotated[
        str | None,
        typer.Option(
            "--law",
            help="kaplan, chinchilla, hoffmann or a law.json (default: the study's, else chinchilla).",
        ),
    ] = None,
    mfu: Annotated[
        str | None, typer.Option("--mfu", help="Model FLOPs utilisation, 0.4 or 40% (default: 0.4, assumed).")
    ] = None,
    family: Annotated[
        str, typer.Option("--family", help="gpt2-kaplan, gpt2, another family, or all.")
    ] = "all",
    on: Annotated[
        str | None, typer.Option("--on", help="Devices that a budget in FLOPs runs on, like 8xA100.")
    ] = None,
    study: Annotated[
        Path | None, typer.Option("--study", help="Take the study's law.json and write its plan.json.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the sealed plan to this file.")] = None,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Turn a budget into a model, its tokens and its expected loss. Writes nothing without --study or
    --out.
    """
    share = None if mfu is None else parse_mfu(mfu)
    spending = parse_budget(budget, mfu=share, on=on)
    found = find_law(law, study)
    made = make_plan(spending, found, candidates(family))
    target = out or (study / "plan.json" if study is not None else None)
    if target is not None:
        made = seal(made)
        write_plan(made, target, replace=yes)
    if as_json:
        print_json(_summary(made, spending, target))
        return
    _show(made, spending)
    if target is not None:
        note(f"wrote {target}, sealed")


def _summary(made: PlanFile, budget: Budget, target: Path | None) -> dict[str, Any]:
    assert made.law is not None
    return {
        "budget": budget.text,
        "budget_flops": budget.flops,
        "mfu": budget.mfu,
        "mfu_source": budget.mfu_source,
        "accelerator": budget.accelerator,
        "devices": budget.devices,
        "law": made.law.model_dump(mode="json"),
        "recommended": made.recommended.model_dump(mode="json") if made.recommended else None,
        "frontier": [choice.model_dump(mode="json") for choice in made.frontier],
        "others": {other.law: other.choice.model_dump(mode="json") for other in made.others},
        "members": [member.model_dump(mode="json") for member in made.members],
        "notes": list(made.notes),
        "sealed_at": made.seal.sealed_at if made.seal else None,
        "path": str(target) if target is not None else None,
    }


def _show(made: PlanFile, budget: Budget) -> None:
    assert made.law is not None
    assert made.recommended is not None
    chosen, member = made.recommended, made.members[0]
    say(f"budget  {_budget_line(budget)}")
    say(f"law     {made.law.name}: {made.law.source}")
    say()
    say(f"{chosen.member}  L{chosen.n_layer} d{chosen.n_embd} h{chosen.n_head}, {chosen.params:,} parameters")
    advice = member.recipe
    say(
        f"tokens {format_size(chosen.tokens)} ({chosen.tokens_per_param:.3g} per parameter), "
        f"expected loss {chosen.loss:.4f} nats/token, perplexity {chosen.ppl:.2f}"
    )
    if chosen.interval_80 and chosen.interval_95:
        low80, high80 = chosen.interval_80
        low95, high95 = chosen.interval_95
        say(f"loss within {low80:.4f}–{high80:.4f} (80 %), {low95:.4f}–{high95:.4f} (95 %)")
    say(
        f"recipe {advice.rule}: {advice.steps:,} steps of {advice.batch_sequences} × {chosen.n_positions} "
        f"tokens, lr {advice.lr:g}, warm-up {advice.warmup_steps}, betas {advice.beta1:g} {advice.beta2:g}"
    )
    say()
    rows = [_row("recommended", chosen)]
    rows += [_row(f"{other.law} would", other.choice) for other in made.others]
    nearby = [choice for choice in made.frontier if choice.member != chosen.member][-6:]
    rows += [_row("frontier", choice) for choice in nearby]
    say(table(["", "member", "tokens", "loss", "ppl", "of budget", "hours", "USD"], rows, left=2))
    for line in made.notes:
        note(f"note: {line}")


def _budget_line(budget: Budget) -> str:
    line = f"{budget.text} = {format_size(budget.flops)} FLOPs"
    if budget.accelerator is None or budget.mfu is None:
        return line + " (no accelerator named: --on 8xA100 gives hours)"
    device = accelerator(budget.accelerator)
    seconds = (budget.device_seconds or 0) / (budget.devices or 1)
    return (
        f"{line}: {format_duration(seconds)} on {budget.devices} × {device.name} at MFU {budget.mfu:.4g} "
        f"({budget.mfu_source}) of {device.training_peak / 1e12:g} TFLOP/s {device.training_format} dense"
    )


def _row(kind: str, choice: Choice) -> list[str]:
    return [
        kind,
        choice.member,
        format_size(choice.tokens),
        f"{choice.loss:.4f}",
        f"{choice.ppl:.2f}",
        "—" if choice.share is None else f"{choice.share:.3f}",
        "—" if choice.hours is None else f"{choice.hours:.2f}",
        "—" if choice.price is None else f"{choice.price:,.0f}",
    ]
