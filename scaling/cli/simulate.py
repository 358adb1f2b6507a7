"""scaling simulate."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from families import MEMBERS
from families.design import DesignRule
from families.units import format_size, parse_size

from ..planfile import PlanFile
from ..planning.candidates import designed
from ..planning.planlaw import find_law
from ..planning.simulate import Sweep, simulate
from .show import JsonOption, SeedOption, print_json, say

EPILOG = "Example: scaling simulate ladder.json --target 125M --tokens 2.5B"


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
    from .progress import Progress

    surface = find_law(law, None)
    spec = (
        MEMBERS[target].spec
        if target in MEMBERS
        else designed(parse_size(target, "target"), DesignRule()).member(0).spec
    )
    bar = Progress(elsewhere=False)
    found = simulate(
        Sweep.of(PlanFile.read(plan), surface.convention),
        surface.law,
        target=(float(surface.size(spec)), parse_size(tokens, "tokens")),
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
    say(
        f"true loss {found.truth:.4f} at {target}, {format_size(parse_size(tokens))} tokens; {found.replicates} outcomes"
    )
    say(f"bias {found.bias:+.2%}, rms error {found.rms_error:.2%}, 80 % interval ±{found.half_width_80:.2%}")
    doubt = 1.28 * (0.8 * 0.2 / found.replicates) ** 0.5
    say(
        f"a run there falls into the 80 % interval {found.coverage_80:.0%} of the time, into the 95 % {found.coverage_95:.0%}"
    )
    low, high = max(0.0, 0.8 - doubt), min(1.0, 0.8 + doubt)
    say(
        f"of {found.replicates} outcomes, 80 % may show as {low:.0%} to {high:.0%}; --replicates 200 tells it better"
    )
    say(
        "the surface obeys its law exactly; the interval also allows for a bend, as rollouts in the runs show it"
    )
