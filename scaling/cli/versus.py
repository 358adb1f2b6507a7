"""scaling versus: does a change pay, and still when larger? The sealed verdict is opened by scaling compare --versus."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from families.units import BadInput, format_size

from .output import JsonOption, SeedOption, StudyOption, YesOption, echo, format_table, log, print_json

if TYPE_CHECKING:
    from ..fitting.versus import Versus

VERSUS_EPILOG = "Example: scaling versus adamw muon --runs arms.csv --by optimizer"

RunsOption = Annotated[
    Path | None, typer.Option("--runs", help="Table that holds both arms (default: runs.jsonl of the study).")
]
ByOption = Annotated[
    str, typer.Option("--by", help="Column whose values are the arms, such as optimizer (default: group).")
]


def versus(
    a: Annotated[str, typer.Argument(help="Arm without the change: a group or value, a table, or a study.")],
    b: Annotated[str, typer.Argument(help="Arm with it.")],
    runs: RunsOption = None,
    by: ByOption = "",
    seal: Annotated[
        Path | None,
        typer.Option("--seal", help="Write the verdict here, for scaling compare --versus to open."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Draw the multiplier against compute into this .svg or .png."),
    ] = None,
    study: StudyOption = Path("study"),
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Estimate the compute multiplier of one arm over another as a function of scale."""
    from ..files import atomic_writes, check_writable, refuse_overwrite
    from ..scoring.versus import VersusFile, seal_verdict

    files: dict[Path, str | bytes] = {}
    if seal is not None:
        refuse_overwrite(seal, VersusFile, replace=yes)
        if seal.is_file() and not yes:
            raise BadInput(f"{seal} holds a sealed verdict; give another --seal, or --yes to replace it")
        check_writable(seal)
    if plot is not None:
        if plot.suffix not in (".svg", ".png"):
            raise BadInput(f"plot is {str(plot)!r}; it must end in .svg or .png")
        check_writable(plot)
    result, arms = compare_arms(a, b, runs or study / "runs.jsonl", by, seed)
    if seal is not None:
        files[seal] = seal_verdict(result, arms, by=by).dump()
    if plot is not None:
        from plots.style import png, svg
        from plots.versus import multiplier_figure

        figure = multiplier_figure(result).figure
        files[plot] = svg(figure, "versus") if plot.suffix == ".svg" else png(figure)
    atomic_writes(files)
    if as_json:
        print_json(facts(result))
    else:
        for line in result.lines():
            echo(line)
    for path in files:
        log(f"wrote {path}")


def compare_arms(a: str, b: str, runs: Path, by: str, seed: int) -> "tuple[Versus, Any]":
    """Read and compare two arms."""
    from ..fitting.versus import versus as compare
    from ..scoring.versus import find_arms

    arms = find_arms(a, b, runs=runs, by=by)
    return compare(*arms, names=(a, b), seed=seed), arms


def facts(result: "Versus") -> dict[str, Any]:
    """The comparison as JSON."""
    from dataclasses import asdict

    from ..fitting.versus import SCALES

    return {
        "a": result.names[0],
        "b": result.names[1],
        "runs": result.runs,
        "verdict": result.verdict,
        "scaling": result.scaling,
        "trend_per_decade": result.trend * 2.302585092994046,
        "compute": result.C,
        "at": [asdict(at) | {"verdict": at.verdict} for at in (result.at(t * result.C[1]) for t in SCALES)],
        "pays_from": result.pays_from,
        "crossing": result.crossing,
        "cost": result.cost,
        "noise": result.noise,
        "freedom": result.freedom,
        "settings": result.settings,
    }


def print_deciding(text: str, runs: Path, by: str, as_json: bool) -> None:
    """Print which runs would decide a comparison, for `scaling next --versus A B`."""
    from dataclasses import asdict

    from ..fitting.versus import decide, open_question

    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(names):
        raise BadInput(f"versus is {text!r}; it must be two arms, like adamw muon or adamw,muon")
    result, _ = compare_arms(names[0], names[1], runs, by, 0)
    options = decide(result)
    if as_json:
        print_json({**facts(result), "runs_that_decide": [asdict(option) for option in options]})
        return
    echo(result.lines()[0])
    target = open_question(result)
    if target is None:
        echo(f"decided up to {format_size(100 * result.C[1])} FLOPs, 100 times the data: no run is needed")
        return
    rows = [
        [
            format_size(option.C),
            str(option.pairs),
            format_size(option.flops),
            f"±{option.half_width:.1%}",
            "yes" if option.decides else "no",
        ]
        for option in options[:8]
    ]
    echo(
        f"to decide at {format_size(target)} FLOPs, {target / result.C[1]:.3g} times the data, if the estimate stays:"
    )
    echo(format_table(["FLOPs of a run", "pairs", "FLOPs in all", "80 % interval", "decides"], rows))


def print_opened(file: Path, runs: Path, as_json: bool) -> None:
    """Open a sealed verdict, for `scaling compare --versus`."""
    from ..scoring.versus import VersusFile, find_arms, open_verdict

    sealed = VersusFile.read(file)
    opened = open_verdict(sealed, find_arms(*sealed.names, runs=runs, by=sealed.by))
    if as_json:
        print_json(opened.model_dump(mode="json"))
        return
    low, high = opened.sealed_interval_80
    least, most = opened.actual_interval_80
    echo(
        f"{sealed.names[1]} over {sealed.names[0]} at {format_size(opened.C)} FLOPs, {opened.times:.3g} times the sealed "
        f"compute, with {opened.new_runs} new runs"
    )
    echo(
        f"sealed {opened.sealed:.3f} ({low:.3f} to {high:.3f}), came {opened.actual:.3f} ({least:.3f} to {most:.3f})"
    )
    echo(f"{opened.verdict.value}: {opened.verdict.message}")
