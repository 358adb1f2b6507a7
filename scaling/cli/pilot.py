"""scaling pilot."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from families import MEMBERS, count
from families.design import DesignRule
from families.units import format_size, parse_size

from ..planning.candidates import designed
from ..planning.experiment_design import NextRunQuery, PilotQuery, advise_study, pilot_plan
from ..planning.law import find_law, single_law
from ..planning.pilot import ladder_flops
from ..planning.planfile import PlanFile, write_plan
from ..planning.simulate import SimulatedSweep, simulate
from .output import (
    ContextOption,
    HeadSizeOption,
    JsonOption,
    SeedOption,
    VocabOption,
    YesOption,
    echo,
    format_table,
    log,
    print_json,
)

# MERGED DOCSTRINGS
# scaling next.
# scaling simulate.

PILOT_EPILOG = "Example: scaling pilot --target 125M --budget 5% --out ladder.json"


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
    wish = PilotQuery(
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
    echo(format_table(["member", "parameters", "tokens", "rungs", "of the cost"], rows))
    echo(
        f"{format_size(basket.flops)} FLOPs, {facts['share_of_target']:.2%} of the target's own "
        f"({facts['target']}, {format_size(basket.target_tokens)} tokens)"
    )
    echo(f"expected interval there: ±{basket.half_width_80:.2%} (80 %), to first order under law {law},")
    echo("as fit makes it of runs that obey the law: noise, what so few runs leave open, drift beyond them")
    bent = f"±{basket.guarded_half_width_80:.2%}"
    echo(f"the choice keeps small what rungs each 0.5 % per decade off the law would leave: {bent}")
    if out is not None:
        log(f"wrote {out}")


NEXT_EPILOG = "Example: scaling next --study study --target 1M --tokens 20M"


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
    found = advise_study(NextRunQuery(study=study, target=target, tokens=tokens, budget=budget))
    if as_json:
        print_json(found.facts())
        return
    rows = [
        [
            offer.ladder.member.name,
            format_size(offer.ladder.tokens),
            " ".join(format_size(rung) for rung in offer.ladder.rungs),
            format_size(offer.ladder.flops),
            f"±{offer.half_width_80:.2%}",
        ]
        for offer in found.offers
    ]
    echo(f"now ±{found.half_width_80:.2%} (80 %) at the target, to first order in the law's constants")
    echo(format_table(["member", "tokens", "rungs", "FLOPs", "then"], rows))


SIMULATE_EPILOG = "Example: scaling simulate ladder.json --target 125M --tokens 2.5B"


def simulate_plan(
    plan: Annotated[Path, typer.Argument(help="A plan with the members and rungs of the sweep.")],
    target: Annotated[str, typer.Option("--target", help="A member's name, or a size like 125M.")],
    tokens: Annotated[str, typer.Option("--tokens", help="The target's tokens.")],
    law: Annotated[str, typer.Option("--law", help="The surface that the sweep is tried on.")] = "chinchilla",
    replicates: Annotated[int, typer.Option("--replicates", help="Outcomes to draw.")] = 20,
    run_noise: Annotated[
        float, typer.Option("--run-noise", help="Log loss that a run's rungs share.")
    ] = 0.0025,
    row_noise: Annotated[float, typer.Option("--row-noise", help="Log loss of each rung alone.")] = 0.0015,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Try a planned sweep on a known surface: bias, error and coverage of the prediction, before any device
    is used.
    """
    from .output import Progress

    surface = find_law(law)
    spec = (
        MEMBERS[target].spec
        if target in MEMBERS
        else designed(parse_size(target, "target"), DesignRule()).member(0).spec
    )
    bar = Progress(elsewhere=False)
    found = simulate(
        SimulatedSweep.of(PlanFile.read(plan), surface.convention),
        single_law(surface),
        target=(float(count(spec, surface.convention)), parse_size(tokens, "tokens")),
        replicates=replicates,
        seed=seed,
        run_noise=run_noise,
        row_noise=row_noise,
        convention=surface.convention,
        progress=lambda done: bar.at(done, replicates, "outcomes"),
    )
    bar.end()
    if as_json:
        print_json(asdict(found))
        return
    echo(
        f"true loss {found.truth:.4f} at {target}, {format_size(parse_size(tokens))} tokens; {found.replicates} outcomes"
    )
    echo(f"bias {found.bias:+.2%}, rms error {found.rms_error:.2%}, 80 % interval ±{found.half_width_80:.2%}")
    doubt = 1.28 * (0.8 * 0.2 / found.replicates) ** 0.5
    echo(
        f"a run there falls into the 80 % interval {found.coverage_80:.0%} of the time, into the 95 % {found.coverage_95:.0%}"
    )
    low, high = max(0.0, 0.8 - doubt), min(1.0, 0.8 + doubt)
    echo(
        f"of {found.replicates} outcomes, 80 % may show as {low:.0%} to {high:.0%}; --replicates 200 tells it better"
    )
    echo(
        "the surface obeys its law exactly; the interval also allows for a bend, as rollouts in the runs show it"
    )
