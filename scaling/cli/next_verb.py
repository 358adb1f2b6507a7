"""scaling next."""

from pathlib import Path
from typing import Annotated

import typer

from families.units import format_size

from ..planning.next_run import Request, advise_study
from .show import JsonOption, print_json, say, table

EPILOG = "Example: scaling next --study study --target 1M --tokens 20M"


def next_run(
    target: Annotated[str, typer.Option("--target", help="A member's name, or a size like 125M.")],
    tokens: Annotated[str, typer.Option("--tokens", help="The target's tokens.")],
    study: Annotated[Path, typer.Option("--study", help="The study with runs.jsonl and law.json.")] = Path(
        "study"
    ),
    budget: Annotated[
        str,
        typer.Option(
            "--budget", help="What the run may take: a share of the target's cost, or FLOPs or hours."
        ),
    ] = "5%",
    as_json: JsonOption = False,
) -> None:
    """Say which run to do next: what narrows the target's prediction most per FLOP, given the runs there are."""
    found = advise_study(Request(study=study, target=target, tokens=tokens, budget=budget))
    if as_json:
        print_json(found.facts())
        return
    rows = [
        [
            offer.purchase.member.name,
            format_size(offer.purchase.tokens),
            " ".join(format_size(rung) for rung in offer.purchase.rungs),
            format_size(offer.purchase.flops),
            f"±{offer.half_width_80:.2%}",
        ]
        for offer in found.offers
    ]
    say(f"now ±{found.half_width_80:.2%} (80 %) at the target, to first order in the law's constants")
    say(table(["member", "tokens", "rungs", "FLOPs", "then"], rows))
