"""scaling report and plot: the report of a study, and single figures."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from families.units import BadInput

from ..files import atomic_write, refuse_overwrite_text
from .output import JsonOption, StudyOption, YesOption, echo, log, print_json

REPORT_EPILOG = "Example: scaling report --study demo"

DRAWN, COMPOSED = 0.3, 0.5  # shares of the time after which figures are drawn, and the page is made of them

NAMES = {"html": "report.html", "md": "report.md", "json": "report.json", "latex": "report.tex"}


def report(
    study: StudyOption = Path("study"),
    out: Annotated[Path | None, typer.Option("--out", help="File to write (default: in the study).")] = None,
    form: Annotated[str, typer.Option("--format", help="html, md, json or latex.")] = "html",
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Write report.html, and each figure as PNG, SVG and CSV, from the files that the study has."""
    if form not in NAMES:
        raise BadInput(f"format is {form!r}; it must be html, md, json or latex")
    from .output import Progress

    bar = Progress(elsewhere=False)
    path, values = _write(
        study, out or study / NAMES[form], form, replace=yes or out is None, progress=bar.at
    )
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


def write_report(folder: Path) -> Path:
    """Write report.html and figures/ of a study, and return the page's path."""
    return _write(folder, folder / NAMES["html"], "html")[0]


def _write(
    folder: Path,
    out: Path,
    form: str,
    *,
    replace: bool = False,
    progress: Callable[[float, float, str], None] = lambda done, total, what: None,
) -> tuple[Path, dict[str, Any]]:
    """(the file written, what it says); `progress` gets the share of the work done, 1, and the current step."""
    import json

    progress(0.0, 1.0, "reading the study")

    from plots import card, style
    from plots.figures import draw_figures
    from plots.report import report as page
    from plots.study_data import load_study

    seen = load_study(folder)
    drawn, lacking = draw_figures(
        seen, progress=lambda done, total, name: progress(DRAWN * done / total, 1.0, f"drawing {name}")
    )
    progress(DRAWN, 1.0, f"composing {out.name}")
    values = card.values(seen, drawn, lacking)
    text = {
        "html": lambda: page(seen, drawn, lacking),
        "md": lambda: card.markdown(seen, drawn),
        "json": lambda: json.dumps(values, indent=2, allow_nan=False) + "\n",
        "latex": lambda: card.latex(seen),
    }[form]()
    refuse_overwrite_text(out, _opening(text, form), "such a report", replace=replace)
    figures = out.parent / "figures"
    if form in ("html", "md"):
        for number, picture in enumerate(drawn):
            progress(COMPOSED + (1 - COMPOSED) * number / len(drawn), 1.0, f"writing {picture.name}")
            atomic_write(figures / f"{picture.name}.png", style.png(picture.figure))
            atomic_write(figures / f"{picture.name}.svg", style.svg(picture.figure, picture.name))
            atomic_write(figures / f"{picture.name}.csv", picture.csv())
    atomic_write(out, text)
    return out, values


def _opening(text: str, form: str) -> str:
    """What any report of this form begins with; a card begins with its study's title."""
    if form == "html":
        return text.partition(" content=")[0]
    return " ".join(text.split(maxsplit=2)[:2]) if form == "json" else text.partition("\n")[0]


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
