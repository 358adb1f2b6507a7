"""report.html: one file that needs nothing else. Inline SVG, light and dark, a telephone's width, paper."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.fitting.lawfile import LawFile
from scaling.rendering import environment
from scaling.study import Study

from . import tables, text
from .figures import FIGURES, OF_OUTCOMES, Picture
from .study_data import StudyData
from .style import DARK, svg, variable

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_OF_RESULT = ("forecast", "learning", "cost", "throughput", "calibration")
_OF_LAW = ("surface", "frontier", "isoflops", "residuals", "backtest")
SECTIONS = (
    ("asked", "What was asked"),
    ("planned", "What was planned and sealed"),
    ("happened", "What happened"),
    ("law", "How good the law is"),
    ("next", "What to run next"),
    ("runs", "Every run"),
)


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of a table as the page sets it: its class, and its least width in characters (0: none)."""

    name: str
    kind: str
    width: int = 0


@dataclass(frozen=True, slots=True)
class _Figure:
    """A drawn picture as the page shows it: inline SVG, and its data as an address."""

    name: str
    title: str
    about: str
    svg: "Markup"
    data: str


@dataclass(frozen=True, slots=True)
class _Figures:
    """The figures of a section, and why others are missing from it."""

    shown: tuple[_Figure, ...]
    missing: tuple[tuple[str, str], ...]


def report(seen: StudyData, drawn: Sequence[Picture], lacking: dict[str, str]) -> str:
    """The page of a study, with its figures and why the others cannot be drawn."""
    from markupsafe import Markup

    script, alarm = _asset("page.js"), text.seal_warning(seen)
    found = {
        "outcome": tables.outcome_table(seen),
        "costs": tables.cost_table(seen),
        "planned": tables.plan_table(seen),
        "indifferent": tables.band_table(seen),
        "forms": tables.forms_table(seen),
        "refitted": tables.refit_table(seen),
        "telling": tables.forms_table_aside(seen),
        "next_runs": tables.next_runs_table(seen),
        "observed": tables.observations_table(seen),
    }
    to_come = OF_OUTCOMES if found["outcome"] is None else ()
    return _environment().get_template("report.html").render(
        title=seen.title,
        policy=Markup(_policy(script)),  # noqa: S704 - ours
        style=Markup(_style()),  # noqa: S704 - ours
        script=Markup(script),  # noqa: S704 - ours
        alarm=alarm,
        headline=text.headline(seen).removeprefix(alarm),
        tiles=_tiles(seen),
        sections=SECTIONS if seen.studies == 1 else tuple(s for s in SECTIONS if s[0] == "happened"),
        warnings=seen.doubts,
        has_plan=seen.plan is not None or seen.ladder is not None,
        has_law=seen.law is not None,
        facts_asked=text.question_facts(seen),
        facts_sealed=text.sealed(seen),
        facts_law=text.law_facts(seen),
        figures_planned=_figures(drawn, ("planned",), {}),
        figures_happened=_figures(
            drawn, ("predicted", *_OF_RESULT), {n: why for n, why in lacking.items() if n not in to_come}
        ),
        figures_law=_figures(drawn, _OF_LAW, lacking),
        tables=found,
        advice=text.recommendations(seen),
        documents=_documents(seen) if seen.studies == 1 else None,
    )  # fmt: skip


@cache
def _environment() -> "Environment":
    made = environment("plots")
    made.filters["columns"] = _columns
    made.filters["exact"] = lambda value: repr(float(value))
    return made


def _asset(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8").strip()


def _style() -> str:
    light = "".join(f"--{variable(colour)}:{colour};" for colour in DARK)
    dark = "".join(f"--{variable(colour)}:{other};" for colour, other in DARK.items())
    css = _asset("page.css").replace("LIGHTVARS", light).replace("DARKVARS", dark).replace("PRINTVARS", light)
    return css.replace("\n", "")


def _policy(script: str) -> str:
    """Nothing is fetched, and no script runs but ours, whatever a name in the data holds."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"


def _tiles(seen: StudyData) -> text.Facts:
    if seen.comparison is None or len(seen.comparison.rows) != 1:
        return []
    row = seen.comparison.rows[0]
    return [
        (tables.short_cell(row.predicted_ppl, 2), "perplexity predicted"),
        (tables.short_cell(row.actual_ppl, 2), "perplexity measured"),
        (tables.percent_cell(row.error).text, "error of the predicted loss"),
        (f"{row.interval_80[0]:.2f}–{row.interval_80[1]:.2f}", "80 % interval of the loss"),
    ]


def _columns(table: tables.Table) -> list[_Column]:
    """Numbers stay whole and to the right; names to the left, broken only where they are very long."""
    found = []
    for i, name in enumerate(table.header):
        column = [row[i] for row in table.rows]
        if all(cell.value is not None or cell.text == "–" for cell in column):
            found.append(_Column(name, "n"))
        elif i:
            found.append(_Column(name, "l"))
        else:
            found.append(_Column(name, "t", min(max(len(cell.text) for cell in column), 24) + 2))
    return found


def _figures(drawn: Sequence[Picture], names: Sequence[str], lacking: dict[str, str]) -> _Figures:
    return _Figures(
        shown=tuple(_figure(picture) for name in names for picture in drawn if picture.name == name),
        missing=tuple((name, lacking[name]) for name in names if name in lacking),
    )


def _figure(picture: Picture) -> _Figure:
    from markupsafe import Markup

    return _Figure(
        name=picture.name,
        title=picture.title,
        about=picture.about,
        svg=Markup(svg(picture.figure, picture.name, inline=True)),  # noqa: S704 - matplotlib escapes its texts
        data="data:text/csv;base64," + base64.b64encode(picture.csv().encode()).decode(),
    )


def _documents(seen: StudyData) -> list[tuple[str, object]]:
    """The files that the page was made from, by their names."""
    named = (
        ("study", seen.study),
        ("ladder", seen.ladder),
        ("law", None if seen.law is None else LawFile.read(Study(seen.folder).law)),
        ("plan", seen.plan),
        ("comparison", seen.comparison),
    )
    return [(name, document) for name, document in named if document is not None]


assert {*_OF_RESULT, *_OF_LAW, "predicted", "planned"} == set(FIGURES)
