"""scaling pilot."""

from pathlib import Path
from typing import Annotated

import typer

from families.units import format_size

from ..planfile import write_plan
from ..planning.pilot import ladder_flops
from ..planning.pilot_plan import Wish, pilot_plan
from .show import (
    ContextOption,
    HeadSizeOption,
    JsonOption,
    VocabOption,
    YesOption,
    note,
    print_json,
    say,
    table,
)

EPILOG = "Example: scaling pilot --target 125M --budget 5% --out ladder.json"


def pilot(
    target: Annotated[str, typer.Option("--target", help="A member's name, or a size like 125M.")],
    budget: Annotated[
        str, typer.Option("--budget", help="A share of the target's own cost, or a budget like 8xA100-hours.")
    ] = "5%",
    tokens: Annotated[
        str | None,
        typer.Option("--tokens", help="The target's tokens (default: the law's optimum for its size)."),
    ] = None,
    law: Annotated[str, typer.Option("--law", help="What is believed before any run.")] = "chinchilla",
    ratio: Annotated[float, typer.Option("--ratio", help="n_embd per layer of the members on offer.")] = 40.0,
    head_size: HeadSizeOption = 32,
    vocab: VocabOption = "50257",
    context: ContextOption = "1024",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the ladders' plan, for `scaling ladder`.")
    ] = None,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Choose the pilot ladders that narrow the prediction of a target most for a given cost."""
    wish = Wish(
        target=target,
        budget=budget,
        tokens=tokens,
        law=law,
        ratio=ratio,
        head_size=head_size,
        vocab=vocab,
        context=context,
    )
    plan, basket = pilot_plan(wish)
    if out is not None:
        write_plan(plan, out, replace=yes)
    facts = basket.facts()
    if as_json:
        members = [member.model_dump(mode="json") for member in plan.members]
        print_json({**facts, "members": members, "path": None if out is None else str(out)})
        return
    rows = [
        [
            one.member,
            format_size(one.params),
            format_size(one.tokens),
            " ".join(format_size(rung) for rung in one.rungs),
            f"{ladder_flops(one) / basket.flops:.1%}",
        ]
        for one in plan.members
    ]
    say(table(["member", "parameters", "tokens", "rungs", "of the cost"], rows))
    say(
        f"{format_size(basket.flops)} FLOPs, {facts['share_of_target']:.2%} of the target's own "
        f"({facts['target']}, {format_size(basket.target_tokens)} tokens)"
    )
    say(f"expected interval there: ±{basket.half_width_80:.2%} (80 %), to first order under law {law},")
    say("as fit makes it of runs that obey the law: noise, what so few runs leave open, drift beyond them")
    bent = f"±{basket.guarded_half_width_80:.2%}"
    say(f"the choice keeps small what rungs each 0.5 % per decade off the law would leave: {bent}")
    if out is not None:
        note(f"wrote {out}")
