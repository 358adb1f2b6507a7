"""scaling report and plot: the report of a study, and single figures."""

from pathlib import Path
from typing import Annotated

import typer

from families.units import BadInput

from ..files import atomic_write, refuse_overwrite_text
from .output import JsonOption, StudyOption, YesOption, echo, log, print_json

REPORT_EPILOG = "Example: scaling report --study demo"


def report(
    study: StudyOption = Path("study"),
    out: Annotated[Path | None, typer.Option("--out", help="File to write (default: in the study).")] = None,
    form: Annotated[str, typer.Option("--format", help="html, md, json or latex.")] = "html",
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Write report.html, and each figure as PNG, SVG and CSV, from the files that the study has."""
    from plots.output import write_report

    from .output import Progress

    bar = Progress(elsewhere=False)
    path, values = write_report(study, out, form, replace=yes or out is None, progress=bar.at)
    bar.end()
    if as_json:
        print_json({**values, "report": str(path)})
        return
    echo(str(values["headline"]))
    for line in values["doubts"]:
        log(line)
    reasons: dict[str, list[str]] = {}
    for name, why in values["not_drawn"].items():
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        log(f"no figure {', '.join(names)}: {why}")
    echo(f"report: {path}")


PLOT_EPILOG = "Example: scaling plot surface --study demo --out surface.png"


def plot(
    name: Annotated[
        str, typer.Argument(help="Figure: predicted, learning, surface, isoflops, frontier, residuals, …")
    ],
    study: StudyOption = Path("study"),
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write, .png, .svg or .csv (default: NAME.png).")
    ] = None,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Draw one figure of a study as PNG or SVG, or write its data as CSV."""
    path = out or Path(f"{name}.png")
    if path.suffix.lower() not in (".png", ".svg", ".csv"):
        raise BadInput(f"out is {path}; it must end in .png, .svg or .csv")
    from plots import style
    from plots.figures import draw_figure
    from plots.study_data import load_study

    drawn = draw_figure(name, load_study(study))
    suffix = path.suffix.lower()
    made: bytes | str = (
        style.png(drawn.figure)
        if suffix == ".png"
        else style.svg(drawn.figure, name)
        if suffix == ".svg"
        else drawn.csv()
    )
    refuse_overwrite_text(
        path, made[:8] if isinstance(made, bytes) else made.split("\n")[0], "such a figure", replace=yes
    )
    atomic_write(path, made)
    if as_json:
        print_json({"name": name, "title": drawn.title, "about": drawn.about, "out": str(path)})
        return
    echo(drawn.title)
    echo(f"figure: {path}")
