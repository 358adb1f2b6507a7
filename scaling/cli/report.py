"""scaling report: the page, the figures and the card of a study."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from families.errors import BadInput

from ..files import write_whole
from ..overwriting import check_opening
from .show import JsonOption, StudyOption, YesOption, note, print_json, say

EPILOG = "Example: scaling report --study demo"
DRAWN, COMPOSED = 0.3, 0.5  # shares of the time after which figures are drawn, and the page is made of them
NAMES = {"html": "report.html", "md": "report.md", "json": "report.json", "latex": "report.tex"}


def report(
    study: StudyOption = Path("study"),
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write (default: in the study).")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="html, md, json or latex.")] = "html",
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Write report.html, and each figure as PNG, SVG and CSV, from whatever files the study holds."""
    if form not in NAMES:
        raise BadInput(f"format is {form!r}; it must be html, md, json or latex")
    from .progress import Progress

    bar = Progress(elsewhere=False)
    path, values = _write(
        study, out or study / NAMES[form], form, replace=yes or out is None, progress=bar.at
    )
    bar.end()
    if as_json:
        print_json({**values, "report": str(path)})
        return
    say(str(values["headline"]))
    for line in values["doubts"]:
        note(line)
    reasons: dict[str, list[str]] = {}
    for name, why in values["not_drawn"].items():
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        note(f"no figure {', '.join(names)}: {why}")
    say(f"report: {path}")


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
    """(the file written, what it says); `progress` is told the share of the work done, 1, and what goes on."""
    import json

    progress(0.0, 1.0, "reading the study")

    from plots import card, style
    from plots.figures import pictures
    from plots.report import report as page
    from plots.seen import see

    seen = see(folder)
    drawn, lacking = pictures(
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
    check_opening(out, _opening(text, form), "such a report", replace=replace)
    figures = out.parent / "figures"
    if form in ("html", "md"):
        for number, picture in enumerate(drawn):
            progress(COMPOSED + (1 - COMPOSED) * number / len(drawn), 1.0, f"writing {picture.name}")
            write_whole(figures / f"{picture.name}.png", style.png(picture.figure))
            write_whole(figures / f"{picture.name}.svg", style.svg(picture.figure, picture.name))
            write_whole(figures / f"{picture.name}.csv", picture.csv())
    write_whole(out, text)
    return out, values


def _opening(text: str, form: str) -> str:
    """What any report of this form begins with; a card begins with its study's title."""
    if form == "html":
        return text.partition(" content=")[0]
    return " ".join(text.split(maxsplit=2)[:2]) if form == "json" else text.partition("\n")[0]
