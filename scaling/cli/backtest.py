"""scaling backtest: how well each form foretells the expensive runs from the cheap ones."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .asked_runs import (
    BadRowsOption,
    ColumnsOption,
    ConventionOption,
    LossUnitOption,
    RunsArgument,
    read_noted,
)
from .show import JsonOption, SeedOption, StudyOption, fitting_table, note, print_json, say

EPILOG = "Example: scaling backtest runs.csv --holdout top-decade"


def backtest(
    runs: RunsArgument = None,
    study: StudyOption = Path("study"),
    holdout: Annotated[
        str, typer.Option("--holdout", help="top-decade, top-20%, params>X, tokens>X or compute>X.")
    ] = "top-decade",
    convention: ConventionOption = None,
    columns: ColumnsOption = "",
    group: Annotated[str | None, typer.Option("--group", help="One group only.")] = None,
    annealed: Annotated[
        str | None,
        typer.Option("--annealed", help="only (default): leave mid-schedule points out; all: mix them in."),
    ] = None,
    bad_rows: BadRowsOption = 0.0,
    loss_unit: LossUnitOption = "nats",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Fit the cheap runs, predict the expensive ones, and score every form and the default predictor."""
    from ..backtest import backtest as score
    from ..fitting.selection import of_group, one_of_annealed, one_of_conventions
    from .progress import Progress

    source = runs or study / "runs.jsonl"
    reading = read_noted(source, columns, bad_rows, loss_unit)
    bar = Progress(elsewhere=False)
    found = score(
        of_group(reading.runs, group),
        holdout=holdout,
        convention=one_of_conventions(convention),
        annealed=one_of_annealed(annealed),
        seed=seed,
        progress=bar.at,
    )
    bar.end()
    for name, excluded in found.left_out.items():
        note(f"group {name!r}: left out {excluded}")
    for name, reason in found.skipped.items():
        note(f"skipped group {name!r}: {reason}")
    for one in found.groups:
        if one.doubt:
            note(f"group {one.group!r}: {one.doubt}")
    if as_json:
        print_json(asdict(found))
        return
    rows = [
        [
            one.group[:28] or "(none)",
            f"{one.fit_rows}/{one.held_rows}",
            f"{one.compute_ratio:.3g}x",
            *(f"{one.forms[form].mean_error:.2%}" for form in ("chinchilla", "general", "kaplan")),
            f"{one.default.mean_error:.2%}",
            f"{one.default.bias:+.2%}",
            f"{one.default.coverage_80:.0%}",
            f"{one.default.relative_width_80:.1%}",
        ]
        for one in found.groups
    ]
    header = [
        "group",
        "fit/held",
        "reach",
        "chinch.",
        "general",
        "kaplan",
        "default",
        "bias",
        "in 80 %",
        "width",
    ]
    say(f"mean |predicted/actual - 1| of the loss on held rows ({holdout})")
    say(fitting_table(header, rows, ("bias", "reach")))  # --json has them
