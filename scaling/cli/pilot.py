"""scaling pilot, next and simulate: the design of pilot runs."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from families import count
from families.design import DesignRule
from families.units import BadInput, format_size, parse_size

from ..planning.candidates import named_or_designed
from ..planning.experiment_design import NextRunQuery, PilotQuery, pilot_plan
from ..planning.law import find_law, single_law
from ..planning.pilot import ladder_flops
from ..planning.planfile import PlanFile, write_plan
from ..planning.simulate import SimulatedSweep, simulate
from .output import (
    JsonOption,
    Progress,
    SeedOption,
    YesOption,
    echo,
    format_table,
    log,
    print_json,
)

PILOT_EPILOG = "Example: scaling pilot --target 125M --budget 5% --out ladder.json"


def pilot(
    target: Annotated[
        str, typer.Option("--target", help="Model to predict: name of a member, or a size like 125M.")
    ],
    budget: Annotated[
        str,
        typer.Option("--budget", help="Share of the target's training cost, or a budget like 8xA100-hours."),
    ] = "5%",
    tokens: Annotated[
        str | None,
        typer.Option("--tokens", help="Training tokens of the target (default: the law's optimum)."),
    ] = None,
    law: Annotated[str, typer.Option("--law", help="Prior law for the design.")] = "chinchilla",
    family: Annotated[
        str | None,
        typer.Option(
            "--family",
            help="Rule of the ladders' shapes: llama3, qwen3, … (default: a named target's, else gpt2).",
        ),
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option("--ratio", help="n_embd per layer of the ladders' shapes (default: the family's)."),
    ] = None,
    head_size: Annotated[
        int | None, typer.Option("--head-size", help="n_embd per attention head (default: the family's).")
    ] = None,
    vocab: Annotated[
        str | None, typer.Option("--vocab", help="Vocabulary size (default: the family's).")
    ] = None,
    context: Annotated[
        str | None,
        typer.Option("--context", help="Context length, n_positions (default: the family's)."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the plan of the ladders, for scaling ladder.")
    ] = None,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Choose the pilot ladders that narrow the prediction of a target most, at a given cost."""
    query = PilotQuery(
        target=target,
        budget=budget,
        tokens=tokens,
        law=law,
        family=family,
        ratio=ratio,
        head_size=head_size,
        vocab=vocab,
        context=context,
    )
    plan, design = pilot_plan(query)
    if out is not None:
        write_plan(plan, out, replace=yes)
    facts = design.facts()
    if as_json:
        members = [member.model_dump(mode="json") for member in plan.members]
        print_json({**facts, "members": members, "path": None if out is None else str(out)})
        return
    rows = [
        [
            member.member,
            format_size(member.params),
            format_size(member.tokens),
            " ".join(format_size(rung) for rung in member.rungs),
            f"{ladder_flops(member) / design.flops:.1%}",
        ]
        for member in plan.members
    ]
    echo(format_table(["member", "parameters", "tokens", "rungs", "share of cost"], rows))
    echo(
        f"{format_size(design.flops)} FLOPs, {facts['share_of_target']:.2%} of the cost of the target "
        f"({facts['target']}, {format_size(design.target_tokens)} tokens)"
    )
    echo(
        f"expected 80 % interval of the target's loss: ±{design.half_width_80:.2%}, from fits of outcomes simulated "
        f"under law {law}"
    )
    echo(
        f"design criterion: interval under 0.5 %/decade misspecification, ±{design.guarded_half_width_80:.2%}"
    )
    if out is not None:
        log(f"wrote {out}")


NEXT_EPILOG = "Example: scaling next --study study --target 1M --tokens 20M"


def next_run(
    second: Annotated[str, typer.Argument(metavar="B", help="The second arm of --versus A B.")] = "",
    target: Annotated[
        str, typer.Option("--target", help="Model to predict: name of a member, or a size like 125M.")
    ] = "",
    tokens: Annotated[str, typer.Option("--tokens", help="Training tokens of the target.")] = "",
    versus: Annotated[
        str,
        typer.Option(
            "--versus", help="Instead: two arms, A B or A,B; the runs that would decide between them."
        ),
    ] = "",
    by: Annotated[str, typer.Option("--by", help="Column whose values the arms are (default: group).")] = "",
    runs: Annotated[
        Path | None, typer.Option("--runs", help="Table of the arms (default: runs.jsonl of the study).")
    ] = None,
    study: Annotated[Path, typer.Option("--study", help="Study with runs.jsonl and law.json.")] = Path(
        "study"
    ),
    budget: Annotated[
        str,
        typer.Option(
            "--budget", help="Largest cost of the run: a share of the target's cost, FLOPs or hours."
        ),
    ] = "5%",
    as_json: JsonOption = False,
) -> None:
    """Recommend the next run: the one that narrows the target's prediction most per FLOP, given the finished runs."""
    if versus:
        from .versus import print_deciding

        print_deciding(f"{versus},{second}" if second else versus, runs or study / "runs.jsonl", by, as_json)
        return
    if second:
        raise BadInput(f"{second!r} is no option of next; the second arm follows --versus A")
    for name, value in (("target", target), ("tokens", tokens)):
        if not value:
            raise BadInput(f"--{name} is missing; the next run serves a target, or --versus A B")
    from ..planning.next_run import advise_study

    advice = advise_study(NextRunQuery(study=study, target=target, tokens=tokens, budget=budget))
    if as_json:
        print_json(advice.facts())
        return
    rows = [
        [
            offer.ladder.member.name,
            format_size(offer.ladder.tokens),
            " ".join(format_size(rung) for rung in offer.ladder.rungs),
            format_size(offer.ladder.flops),
            f"±{offer.half_width_80:.2%}",
        ]
        for offer in advice.offers
    ]
    echo(
        f"80 % interval of the target's loss now: ±{advice.half_width_80:.2%}, as `scaling predict` gives it"
    )
    if not advice.offers:
        echo(f"none of these helps: no run within {budget} narrows it by a hundredth; a larger --budget may")
        return
    echo(format_table(["member", "tokens", "rungs", "FLOPs", "interval"], rows))


SIMULATE_EPILOG = "Example: scaling simulate ladder.json --target 125M --tokens 2.5B"


def simulate_plan(
    plan: Annotated[Path, typer.Argument(help="Plan with the members and rungs of the sweep.")],
    target: Annotated[
        str, typer.Option("--target", help="Model to predict: name of a member, or a size like 125M.")
    ],
    tokens: Annotated[str, typer.Option("--tokens", help="Training tokens of the target.")],
    law: Annotated[str, typer.Option("--law", help="Law used as the true loss surface.")] = "chinchilla",
    replicates: Annotated[int, typer.Option("--replicates", help="Number of simulated sweeps.")] = 20,
    run_noise: Annotated[
        float,
        typer.Option(
            "--run-noise", help="Standard deviation of log loss between runs, shared by a run's rungs."
        ),
    ] = 0.0025,
    row_noise: Annotated[
        float, typer.Option("--row-noise", help="Standard deviation of log loss of each rung.")
    ] = 0.0015,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Simulate a planned sweep on a known loss surface: bias, error and coverage of the prediction."""
    surface = find_law(law)
    spec = named_or_designed(target, DesignRule()).spec
    bar = Progress(elsewhere=False)
    result = simulate(
        SimulatedSweep.of(PlanFile.read(plan), surface.convention),
        single_law(surface),
        target=(float(count(spec, surface.convention)), parse_size(tokens, "tokens")),
        replicates=replicates,
        seed=seed,
        run_noise=run_noise,
        row_noise=row_noise,
        convention=surface.convention,
        progress=lambda done: bar.at(done, replicates, "sweeps"),
    )
    bar.end()
    if as_json:
        print_json(asdict(result))
        return
    low, high = result.coverage_range
    tokens_text = format_size(parse_size(tokens))
    echo(
        f"true loss {result.truth:.4f} at {target}, {tokens_text} tokens; {result.replicates} simulated sweeps"
    )
    echo(
        f"bias {result.bias:+.2%}, rms error {result.rms_error:.2%}, 80 % interval ±{result.half_width_80:.2%}"
    )
    echo(f"coverage: 80 % interval {result.coverage_80:.0%}, 95 % interval {result.coverage_95:.0%}")
    echo(
        f"true coverage of 80 % would show as {low:.0%} to {high:.0%} in {result.replicates} sweeps; "
        "--replicates 200 narrows this"
    )
    echo("runs follow the law exactly here; the interval also allows for misspecification seen in rollouts")
