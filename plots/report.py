"""report.html: one self-contained file with inline SVG, for light and dark screens, narrow ones, and print."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.fitting.lawfile import LawFile
from scaling.paths import StudyPaths
from scaling.rendering import environment

from . import tables, text
from .figures import FIGURES, OUTCOME_FIGURES, StudyFigure
from .study_data import StudyData
from .style import DARK, css_variable, svg

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_RESULT_FIGURES = ("forecast", "learning", "cost", "throughput", "calibration")
_LAW_FIGURES = ("surface", "frontier", "isoflops", "residuals", "backtest")
SECTIONS = (
    ("asked", "Question and setup"),
    ("planned", "Plan and sealed predictions"),
    ("happened", "Results"),
    ("law", "Fitted law"),
    ("next", "Next runs"),
    ("runs", "All runs"),
)


_NAME = 28  # characters of a cell that never wraps: a member's name
_SENTENCE = (
    48  # characters of a line of a table's sentences, so that a narrow page scrolls and does not squeeze them
)


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of a table: its header, CSS class, and minimum width in characters (0: none)."""

    name: str
    kind: str
    width: int = 0


@dataclass(frozen=True, slots=True)
class _Figure:
    """A figure on the page: inline SVG, and its data as a data: URL."""

    name: str
    title: str
    about: str
    svg: "Markup"
    data: str


@dataclass(frozen=True, slots=True)
class _Figures:
    """The figures of a section, and (name, reason) of those that could not be drawn."""

    shown: tuple[_Figure, ...]
    missing: tuple[tuple[str, str], ...]


def report(study: StudyData, drawn: Sequence[StudyFigure], not_drawn: dict[str, str]) -> str:
    """The HTML page of a study.

    Args:
        study: as read from its folder.
        drawn: its figures.
        not_drawn: reasons why the others cannot be drawn, by name.
    """
    from markupsafe import Markup

    script, seal_warning = asset("page.js"), text.seal_warning(study)
    shown = {
        "outcome": tables.outcome_table(study),
        "costs": tables.cost_table(study),
        "planned": tables.plan_table(study),
        "indifferent": tables.band_table(study),
        "forms": tables.forms_table(study),
        "refitted": tables.refit_table(study),
        "informative": tables.informative_ladders_table(study),
        "next_runs": tables.next_runs_table(study),
        "observed": tables.observations_table(study),
    }
    pending = OUTCOME_FIGURES if shown["outcome"] is None else ()
    return templates().get_template("report.html").render(
        title=study.title,
        policy=Markup(page_policy(script)),  # noqa: S704 - from this package
        style=Markup(page_style()),  # noqa: S704 - from this package
        script=Markup(script),  # noqa: S704 - from this package
        seal_warning=seal_warning,
        headline=text.headline(study).removeprefix(seal_warning),
        tiles=_tiles(study),
        sections=_sections(study),
        warnings=study.warnings,
        has_plan=study.plan is not None or study.ladder is not None,
        has_law=study.law is not None,
        facts_asked=text.question_facts(study),
        facts_sealed=text.seal_facts(study),
        facts_law=text.law_facts(study),
        figures_planned=_figures(drawn, ("planned",), {}),
        figures_happened=_figures(
            drawn,
            ("predicted", *_RESULT_FIGURES),
            {} if text.is_fit_only(study) else {n: why for n, why in not_drawn.items() if n not in pending},
        ),
        figures_law=_figures(drawn, _LAW_FIGURES, not_drawn),
        fit_only=text.is_fit_only(study),
        tables=shown,
        advice=text.recommendations(study),
        documents=_documents(study) if study.n_studies == 1 else None,
    )  # fmt: skip


def _sections(study: StudyData) -> tuple[tuple[str, str], ...]:
    """(key, heading) of the sections of a page: of a law and runs alone those that have contents, the optimum first."""
    if study.n_studies != 1:
        return tuple(section for section in SECTIONS if section[0] == "happened")
    if not text.is_fit_only(study):
        return SECTIONS
    headings = dict(SECTIONS) | {
        "next": "Optimum and next runs",
        "asked": "Runs and files",
        "happened": "Training",
    }
    shown = ["next", "law", *(["happened"] if study.curves else []), "runs", "asked"]
    return tuple((key, headings[key]) for key in shown)


@cache
def templates() -> "Environment":
    """The templates of pages, with the filters of their tables."""
    jinja = environment("plots")
    jinja.filters["columns"] = _columns
    jinja.filters["exact"] = lambda value: repr(float(value))
    return jinja


def asset(name: str) -> str:
    """The text of a file among the templates."""
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8").strip()


def page_style() -> str:
    """The style of every page, for light and dark screens and for print."""
    light = "".join(f"--{css_variable(colour)}:{colour};" for colour in DARK)
    dark = "".join(f"--{css_variable(colour)}:{other};" for colour, other in DARK.items())
    css = asset("page.css").replace("LIGHTVARS", light).replace("DARKVARS", dark).replace("PRINTVARS", light)
    return css.replace("\n", "")


def page_policy(script: str) -> str:
    """A content security policy that fetches nothing and runs only this script, whatever names the data hold."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"


def _tiles(study: StudyData) -> text.Facts:
    if study.comparison is None or len(study.comparison.rows) != 1:
        return []
    row = study.comparison.rows[0]
    return [
        (tables.loss_cell(row.predicted_loss).text, "loss predicted, nats per token"),
        (tables.loss_cell(row.actual_loss).text, "loss measured, nats per token"),
        (tables.percent_cell(row.error).text, "error of the predicted loss"),
        (tables.interval_cell(row.interval_80).text, "80 % interval of the loss, nats per token"),
    ]


def _columns(table: tables.ReportTable) -> list[_Column]:
    """Columns of numbers are right-aligned and never wrap; names are left-aligned and wrap only where very long."""
    columns = []
    for i, name in enumerate(table.header):
        column = [row[i] for row in table.rows]
        if all(cell.value is not None or cell.text == "–" for cell in column):
            columns.append(_Column(name, "n"))
        elif i:
            longest = max(len(cell.text) for cell in column)
            kind = "l n" if longest <= _NAME else "l"
            columns.append(_Column(name, kind, _SENTENCE if longest > _SENTENCE else 0))
        else:
            columns.append(_Column(name, "t", min(max(len(cell.text) for cell in column), 24) + 2))
    return columns


def _figures(drawn: Sequence[StudyFigure], names: Sequence[str], not_drawn: dict[str, str]) -> _Figures:
    return _Figures(
        shown=tuple(_figure(figure) for name in names for figure in drawn if figure.name == name),
        missing=tuple((name, not_drawn[name]) for name in names if name in not_drawn),
    )


def _figure(drawn: StudyFigure) -> _Figure:
    from markupsafe import Markup

    return _Figure(
        name=drawn.name,
        title=drawn.title,
        about=drawn.about,
        svg=Markup(svg(drawn.figure, drawn.name, inline=True)),  # noqa: S704 - matplotlib escapes its texts
        data="data:text/csv;base64," + base64.b64encode(drawn.csv().encode()).decode(),
    )


def _documents(study: StudyData) -> list[tuple[str, object]]:
    """(name, contents) of the study's files."""
    named = (
        ("study", study.study_file),
        ("ladder", study.ladder),
        ("law", LawFile.read(StudyPaths(study.folder).law) if study.law else None),
        ("plan", study.plan),
        ("comparison", study.comparison),
    )
    return [(name, document) for name, document in named if document is not None]


assert {*_RESULT_FIGURES, *_LAW_FIGURES, "predicted", "planned"} == set(FIGURES)
