"""Writing a study's report, with its figures beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from families.units import BadInput
from scaling.files import atomic_write, refuse_overwrite_text

from . import card, style
from .figures import draw_figures
from .report import report
from .study_data import load_study

REPORTS = {"html": "report.html", "md": "report.md", "json": "report.json", "latex": "report.tex"}

DRAWN, COMPOSED = 0.3, 0.5  # shares of the time after which figures are drawn, and the page is composed


def write_report(
    folder: Path,
    out: Path | None = None,
    form: str = "html",
    *,
    replace: bool = False,
    progress: Callable[[float, float, str], None] = lambda done, total, what: None,
) -> tuple[Path, dict[str, Any]]:
    """Write the report of a study and, beside an HTML or Markdown one, its figures as PNG, SVG and CSV.

    Args:
        folder: the study, or a folder of studies.
        out: the file to write; the study's own report by default.
        form: "html", "md", "json" or "latex".
        replace: overwrite a file that is not such a report.
        progress: called with the work done, 1.0 and the current step.

    Returns:
        The file's path, and the values that the report states.

    Raises:
        BadInput: an unknown form, a folder without anything to report, or another file at `out`.
    """
    if form not in REPORTS:
        raise BadInput(f"format is {form!r}; it must be html, md, json or latex")
    out = folder / REPORTS[form] if out is None else out
    progress(0.0, 1.0, "reading the study")
    study = load_study(folder)
    drawn, not_drawn = draw_figures(
        study, progress=lambda done, total, name: progress(DRAWN * done / total, 1.0, f"drawing {name}")
    )
    progress(DRAWN, 1.0, f"composing {out.name}")
    values = card.values(study, drawn, not_drawn)
    text = {
        "html": lambda: report(study, drawn, not_drawn),
        "md": lambda: card.markdown(study, drawn),
        "json": lambda: json.dumps(values, indent=2, allow_nan=False) + "\n",
        "latex": lambda: card.latex(study),
    }[form]()
    refuse_overwrite_text(out, _opening(text, form), "such a report", replace=replace)
    if form in ("html", "md"):
        figures = out.parent / "figures"
        for number, picture in enumerate(drawn):
            progress(COMPOSED + (1 - COMPOSED) * number / len(drawn), 1.0, f"writing {picture.name}")
            atomic_write(figures / f"{picture.name}.png", style.png(picture.figure))
            atomic_write(figures / f"{picture.name}.svg", style.svg(picture.figure, picture.name))
            atomic_write(figures / f"{picture.name}.csv", picture.csv())
    atomic_write(out, text)
    return out, values


def _opening(text: str, form: str) -> str:
    """Beginning of every report of this form; a card begins with its study's title."""
    if form == "html":
        return text.partition(" content=")[0]
    return " ".join(text.split(maxsplit=2)[:2]) if form == "json" else text.partition("\n")[0]
