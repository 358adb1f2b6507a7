"""The study card: the report's words and tables as Markdown, LaTeX or JSON."""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from scaling.rendering import latex_environment, markdown_environment

from . import story, tables
from .cells import Table
from .figures import Picture
from .seen import Seen

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """A section of the card."""

    title: str
    facts: story.Facts
    table: Table | None
    advice: list[str]


def markdown(seen: Seen, drawn: tuple[Picture, ...] = (), folder: str = "figures") -> str:
    """A card to keep beside the model: what was promised, what came, and how far the law reaches."""
    return _markdown_template().render(
        title=seen.title,
        headline=story.headline(seen),
        sections=_sections(seen),
        figures=drawn,
        folder=folder,
        warnings=seen.doubts,
    )


def latex(seen: Seen) -> str:
    """The table of a paper: predicted against actual where there is one, else the runs. Needs booktabs."""
    table = tables.outcome(seen) or tables.observed(seen) or tables.planned(seen)
    alignment = ""
    if table is not None:
        columns = [[row[i] for row in table.rows] for i in range(len(table.header))]
        numeric = [all(cell.value is not None or cell.text == "–" for cell in column) for column in columns]
        alignment = "".join("r" if n else "l" for n in numeric)
    return _latex_template().render(headline=story.headline(seen), table=table, alignment=alignment)


@cache
def _markdown_template() -> "Template":
    return markdown_environment("plots").get_template("report.md")


@cache
def _latex_template() -> "Template":
    return latex_environment("plots").get_template("report.tex")


def values(seen: Seen, drawn: tuple[Picture, ...], lacking: dict[str, str]) -> dict[str, Any]:
    """The report as one JSON object."""
    return {
        "title": seen.title,
        "headline": story.headline(seen),
        "asked": dict(story.asked(seen)),
        "sealed": dict(story.sealed(seen)),
        "comparison": [row.model_dump(mode="json") for row in seen.comparison.rows]
        if seen.comparison
        else [],
        "law": dict(story.law_facts(seen)),
        "next": story.advice(seen),
        "figures": {p.name: p.title for p in drawn},
        "not_drawn": lacking,
        "missing": list(seen.missing),
        "doubts": list(seen.doubts),
    }


def _sections(seen: Seen) -> list[_Section]:
    found: list[tuple[str, story.Facts, Table | None, list[str]]] = [
        ("What was asked", story.asked(seen), None, []),
        ("What was planned and sealed", story.sealed(seen), tables.planned(seen), []),
        ("What happened", [], tables.outcome(seen), []),
        ("How good the law is", story.law_facts(seen), tables.forms(seen), []),
        ("What to run next", [], tables.next_runs(seen), story.advice(seen)),
    ]
    return [
        _Section(title=title, facts=facts, table=table, advice=advice)
        for title, facts, table, advice in found
    ]
