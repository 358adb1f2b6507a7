"""scaling fit: a law from runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .asked_runs import (
    BadRowsOption,
    ColumnsOption,
    ConventionOption,
    LossUnitOption,
    RunsArgument,
    read_noted,
)
from .show import JsonOption, SeedOption, StudyOption, YesOption, note, print_json, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..fits import Fit
    from ..runs import Run

EPILOG = "Example: scaling fit runs.csv --columns params=N,tokens=D --out law.json"
DOUBTFUL = 1


def fit(
    runs: RunsArgument = None,
    study: StudyOption = Path("study"),
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the law here (law.json of the study without RUNS).")
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--form", help="auto, chinchilla, general, kaplan, L(N), L(D), L(C) or data-constrained."
        ),
    ] = "auto",
    convention: ConventionOption = None,
    columns: ColumnsOption = "",
    group: Annotated[
        str | None, typer.Option("--group", help="The group to fit, where there are several.")
    ] = None,
    annealed: Annotated[
        str | None, typer.Option("--annealed", help="only: leave mid-schedule points out; all: mix them in.")
    ] = None,
    bootstrap: Annotated[int, typer.Option("--bootstrap", min=0, help="Resamples of whole runs.")] = 200,
    bad_rows: BadRowsOption = 0.0,
    loss_unit: LossUnitOption = "nats",
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Refit under other loss functions and outlier policies.")
    ] = False,
    conventions: Annotated[
        bool, typer.Option("--conventions", help="Show the exponents under each count of N.")
    ] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Profile likelihood of the exponents.")] = False,
    isoflop: Annotated[
        bool, typer.Option("--isoflop", help="Show approaches 1 and 2 and their bias beside the fit.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", help="Write surface, isoflops, residuals and profile as .svg into this folder."
        ),
    ] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> int:
    """Fit a scaling law to runs, certify it, and print its card."""
    from textwrap import fill

    from ..fits import fit as fit_runs
    from ..fitting import fitextras
    from ..fitting.selection import choose, one_of_annealed, one_of_conventions
    from ..lawfile import LawFile
    from ..overwriting import check_document
    from ..predictor import Status
    from ..runs import gather_runs
    from ..trackers import input_hashes

    source = runs or study / "runs.jsonl"
    if runs is None:
        out, annealed = out or study / "law.json", annealed or "only"
        gather_runs(source)
    if out is not None:
        check_document(out, LawFile, replace=yes)
    reading = read_noted(source, columns, bad_rows, loss_unit)
    found = fit_runs(
        reading.runs,
        form=form,
        convention=one_of_conventions(convention),
        group=group,
        annealed=one_of_annealed(annealed),
        seed=seed,
        bootstrap=bootstrap,
        bad=reading.bad,
        doubts=reading.doubts,
    )
    chosen, _ = choose(reading.runs, group=group, annealed=one_of_annealed(annealed))
    extras: dict[str, Any] = {}
    lines: list[str] = []
    for name, wanted, report in (
        ("sensitivity", sensitivity, lambda: fitextras.sensitivity_report(found, chosen)),
        ("conventions", conventions, lambda: fitextras.conventions_report(chosen)),
        ("profile", profile, lambda: fitextras.profile_report(found, chosen)),
        ("isoflop", isoflop, lambda: fitextras.isoflop_report(found, chosen)),
    ):
        if wanted:
            extras[name], more = report()
            lines += more
    document = found.document(input_hashes(source))
    if out is not None:
        document.write(out)
    if plot is not None:
        _draw(found, chosen, plot)
    if as_json:
        print_json({**document.model_dump(mode="json"), **extras})
    else:
        for name, text in found.card.items():
            say(fill(f"{name:<26}{text}", width=100, subsequent_indent=" " * 26))
        for line in lines:
            say(line)
        if out is not None:
            say(f"wrote {out}")
        else:
            note("the law is not kept: --out law.json writes it, for scaling predict and scaling plan --law")
    if found.status is not Status.OK:
        note(f"scaling: the fit is doubtful ({found.status.value}): {found.detail or found.status.message}")
        return DOUBTFUL
    return 0


def _draw(found: "Fit", runs: "Sequence[Run]", folder: Path) -> None:
    from plots.isoflops import isoflops
    from plots.profile import profile
    from plots.residuals import residuals
    from plots.style import house, svg
    from plots.surface import surface

    from ..files import write_whole
    from ..fitting.fitextras import profiles_of

    for name, picture in (("surface", surface), ("isoflops", isoflops), ("residuals", residuals)):
        with house():
            figure = picture(found.predictor, runs)
        write_whole(folder / f"{name}.svg", svg(figure, name))
        note(f"wrote {folder / name}.svg")
    write_whole(folder / "profile.svg", svg(profile(profiles_of(found, runs)[1]), "profile"))
    note(f"wrote {folder / 'profile'}.svg")
