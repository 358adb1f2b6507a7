"""The study card: the report's text and tables as Markdown, LaTeX or JSON."""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from scaling.rendering import latex_environment, markdown_environment

from . import tables, text
from .figures import StudyFigure
from .study_data import StudyData
from .tables import ReportTable

if TYPE_CHECKING:
    from jinja2 import Template


LONG_CELL = 60  # characters, from which a column of a LaTeX table breaks its lines

_JSON_KEYS = {"recorded": "booked", "status": "verdict"}  # labels of facts whose keys in --json are older


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """A section of the card."""

    title: str
    facts: text.Facts
    table: ReportTable | None
    advice: list[str]


def markdown(study: StudyData, drawn: tuple[StudyFigure, ...] = (), folder: str = "figures") -> str:
    """The card in Markdown; figures are linked as files in `folder`."""
    return _markdown_template().render(
        title=study.title,
        headline=text.headline(study),
        sections=_sections(study),
        figures=drawn,
        folder=folder,
        warnings=study.warnings,
    )


def latex(study: StudyData) -> str:
    """Tables for a paper, which need booktabs: what came, or the runs; the law's constants, its optimum and its card."""
    first = tables.outcome_table(study) or tables.observations_table(study) or tables.plan_table(study)
    headline = text.headline(study)
    shown = [
        *((headline, table) for table in (first,) if table is not None),
        *(
            (table.title, table)
            for table in (
                tables.constants_table(study),
                tables.optimum_table(study),
                tables.card_table(study),
            )
            if table is not None
        ),
    ]
    return _latex_template().render(
        headline=headline, tables=[(caption, table, _alignment(table)) for caption, table in shown]
    )


def _alignment(table: ReportTable) -> str:
    """Column types of a tabular: numbers to the right, texts to the left, long ones in a paragraph."""
    columns = [[row[i] for row in table.rows] for i in range(len(table.header))]
    return "".join(
        "r"
        if all(cell.value is not None or cell.text == "–" for cell in column)
        else r"p{0.7\linewidth}"
        if max(len(cell.text) for cell in column) > LONG_CELL
        else "l"
        for column in columns
    )


@cache
def _markdown_template() -> "Template":
    return markdown_environment("plots").get_template("report.md")


@cache
def _latex_template() -> "Template":
    return latex_environment("plots").get_template("report.tex")


def values(study: StudyData, drawn: tuple[StudyFigure, ...], not_drawn: dict[str, str]) -> dict[str, Any]:
    """The report as one JSON object."""
    return {
        "title": study.title,
        "headline": text.headline(study),
        "asked": _keyed(text.question_facts(study)),
        "sealed": dict(text.seal_facts(study)),
        "comparison": [row.model_dump(mode="json") for row in study.comparison.rows]
        if study.comparison
        else [],
        "law": _keyed(text.law_facts(study)),
        "next": text.recommendations(study),
        "figures": {p.name: p.title for p in drawn},
        "not_drawn": not_drawn,
        "missing": list(study.missing),
        "doubts": list(study.warnings),
    }


def _keyed(facts: text.Facts) -> dict[str, str]:
    return {_JSON_KEYS.get(label, label): value for label, value in facts}


def _sections(study: StudyData) -> list[_Section]:
    sections: list[tuple[str, text.Facts, ReportTable | None, list[str]]] = [
        ("Question and setup", text.question_facts(study), None, []),
        ("Plan and sealed predictions", text.seal_facts(study), tables.plan_table(study), []),
        ("Results", [], tables.outcome_table(study), []),
        ("Fitted law", text.law_facts(study), tables.forms_table(study), []),
        ("Next runs", [], tables.next_runs_table(study), text.recommendations(study)),
    ]
    return [
        _Section(title=title, facts=facts, table=table, advice=advice)
        for title, facts, table, advice in sections
    ]
