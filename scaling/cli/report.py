"""scaling report and plot: the report of a study, and single figures."""

from pathlib import Path
from typing import Annotated

import typer

from families.units import BadInput, nearest

from ..files import atomic_write, refuse_overwrite_text
from .output import JsonOption, StudyOption, YesOption, echo, log, print_json

REPORT_EPILOG = "Example: scaling report --study demo"


def report(
    study: StudyOption = Path("study"),
    out: Annotated[Path | None, typer.Option("--out", help="File to write (default: in the study).")] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="html, md, json or latex (default: html).")
    ] = None,
    latex: Annotated[
        bool,
        typer.Option(
            "--latex",
            help="Tables for a paper: outcome, constants with intervals, optimum, fit card (report.tex).",
        ),
    ] = False,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Write report.html, and each figure as PNG, SVG and CSV, from the files that the study has."""
    if latex and form not in (None, "latex"):
        raise BadInput(f"format is {form!r} and --latex is given; one of the two is enough")
    form = "latex" if latex else form or "html"
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


_FORMATS, _STYLES = ("png", "svg", "pdf", "csv"), ("screen", "paper")

PLOT_EPILOG = "Example: scaling plot surface --study demo --out surface.png"


def plot(
    name: Annotated[
        str, typer.Argument(help="Figure: predicted, learning, surface, isoflops, frontier, residuals, …")
    ],
    study: StudyOption = Path("study"),
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write (default: NAME.png, or by --format).")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="png, svg, pdf or csv (default: as --out ends, else png).")
    ] = None,
    no_title: Annotated[
        bool, typer.Option("--no-title", help="Leave the title out, as a paper's caption states it.")
    ] = False,
    look: Annotated[str, typer.Option("--style", help="screen, or paper: serif, black, no grid.")] = "screen",
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Draw one figure of a study as PNG, SVG or PDF, or write its data as CSV."""
    suffix = out.suffix.lower().lstrip(".") if out is not None else ""
    kind = (form or suffix or "png").lower()
    path = Path(f"{name}.{kind}") if out is None else out if suffix else out.with_name(f"{out.name}.{kind}")
    if kind not in _FORMATS:
        if form:
            raise BadInput(f"format is {form!r}; {nearest(form, _FORMATS)}")
        raise BadInput(f"out is {out}; it must end in .pdf, .png, .svg or .csv")
    if suffix and suffix != kind:
        raise BadInput(f"out is {out} and format is {kind}; a file's ending must be its format")
    if look not in _STYLES:
        raise BadInput(f"style is {look!r}; {nearest(look, _STYLES)}")
    from plots import style
    from plots.figures import draw_figure
    from plots.study_data import load_study

    with style.drawn_as(look):
        drawn = draw_figure(name, load_study(study))
        made = style.image(drawn, name, kind, title=not no_title)
    refuse_overwrite_text(
        path, made[:8] if isinstance(made, bytes) else made.split("\n")[0], "such a figure", replace=yes
    )
    atomic_write(path, made)
    if as_json:
        print_json({"name": name, "title": drawn.title, "about": drawn.about, "out": str(path)})
        return
    echo(drawn.title)
    echo(f"figure: {path}")
