"""The study card: the report's words and tables as Markdown, LaTeX or JSON."""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from scaling.rendering import latex_environment, markdown_environment

from . import tables, text
from .figures import Picture
from .study_data import StudyData
from .tables import Table

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """A section of the card."""

    title: str
    facts: text.Facts
    table: Table | None
    advice: list[str]


def markdown(seen: StudyData, drawn: tuple[Picture, ...] = (), folder: str = "figures") -> str:
    """A card to keep beside the model: what was promised, what came, and how far the law reaches."""
    return _markdown_template().render(
        title=seen.title,
        headline=text.headline(seen),
        sections=_sections(seen),
        figures=drawn,
        folder=folder,
        warnings=seen.doubts,
    )


def latex(seen: StudyData) -> str:
    """The table of a paper: predicted against actual where there is one, else the runs. Needs booktabs."""
    table = tables.outcome_table(seen) or tables.observations_table(seen) or tables.plan_table(seen)
    alignment = ""
    if table is not None:
        columns = [[row[i] for row in table.rows] for i in range(len(table.header))]
        numeric = [all(cell.value is not None or cell.text == "–" for cell in column) for column in columns]
        alignment = "".join("r" if n else "l" for n in numeric)
    return _latex_template().render(headline=text.headline(seen), table=table, alignment=alignment)


@cache
def _markdown_template() -> "Template":
    return markdown_environment("plots").get_template("report.md")


@cache
def _latex_template() -> "Template":
    return latex_environment("plots").get_template("report.tex")


def values(seen: StudyData, drawn: tuple[Picture, ...], lacking: dict[str, str]) -> dict[str, Any]:
    """The report as one JSON object."""
    return {
        "title": seen.title,
        "headline": text.headline(seen),
        "asked": dict(text.question_facts(seen)),
        "sealed": dict(text.sealed(seen)),
        "comparison": [row.model_dump(mode="json") for row in seen.comparison.rows]
        if seen.comparison
        else [],
        "law": dict(text.law_facts(seen)),
        "next": text.recommendations(seen),
        "figures": {p.name: p.title for p in drawn},
        "not_drawn": lacking,
        "missing": list(seen.missing),
        "doubts": list(seen.doubts),
    }


def _sections(seen: StudyData) -> list[_Section]:
    found: list[tuple[str, text.Facts, Table | None, list[str]]] = [
        ("What was asked", text.question_facts(seen), None, []),
        ("What was planned and sealed", text.sealed(seen), tables.plan_table(seen), []),
        ("What happened", [], tables.outcome_table(seen), []),
        ("How good the law is", text.law_facts(seen), tables.forms_table(seen), []),
        ("What to run next", [], tables.next_runs_table(seen), text.recommendations(seen)),
    ]
    return [
        _Section(title=title, facts=facts, table=table, advice=advice)
        for title, facts, table, advice in found
    ]
