"""scaling plot: one figure of a study."""

from pathlib import Path
from typing import Annotated

import typer

from families.errors import BadInput

from ..files import write_whole
from ..overwriting import check_opening
from .show import JsonOption, StudyOption, YesOption, print_json, say

EPILOG = "Example: scaling plot surface --study demo --out surface.png"


def plot(
    name: Annotated[
        str, typer.Argument(help="predicted, learning, surface, isoflops, frontier, residuals, …")
    ],
    study: StudyOption = Path("study"),
    out: Annotated[
        Path | None, typer.Option("--out", help="A .png, .svg or .csv file (default: NAME.png).")
    ] = None,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Draw one figure of a study as PNG or SVG, or write the data it shows as CSV."""
    path = out or Path(f"{name}.png")
    if path.suffix.lower() not in (".png", ".svg", ".csv"):
        raise BadInput(f"out is {path}; it must end in .png, .svg or .csv")
    from plots import style
    from plots.figures import picture
    from plots.seen import see

    drawn = picture(name, see(study))
    suffix = path.suffix.lower()
    made: bytes | str = (
        style.png(drawn.figure)
        if suffix == ".png"
        else style.svg(drawn.figure, name)
        if suffix == ".svg"
        else drawn.csv()
    )
    check_opening(
        path, made[:8] if isinstance(made, bytes) else made.split("\n")[0], "such a figure", replace=yes
    )
    write_whole(path, made)
    if as_json:
        print_json({"name": name, "title": drawn.title, "about": drawn.about, "out": str(path)})
        return
    say(drawn.title)
    say(f"figure: {path}")
