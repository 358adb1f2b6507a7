"""The study card: the report's words and tables as Markdown, LaTeX or JSON."""

import re
from typing import Any

from . import story, tables
from .cells import Table
from .figures import Picture
from .seen import Seen

_LATEX = {
    **{mark: f"\\{mark}" for mark in "&%#_${}"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "…": r"\ldots{}",
}


def markdown(seen: Seen, drawn: tuple[Picture, ...] = (), folder: str = "figures") -> str:
    """A card to keep beside the model: what was promised, what came, and how far the law reaches."""
    parts = [f"# {_md(seen.title)}", _md(story.headline(seen))]
    for title, facts, table in _sections(seen):
        parts.append(f"## {title}")
        if facts:
            parts.append("\n".join(f"- **{_md(key)}**: {_md(text)}" for key, text in facts))
        if table is not None:
            parts.append(_md_table(table))
        if title == "What to run next":
            parts.append("\n".join(f"- {_md(line)}" for line in story.advice(seen)))
    parts += [f"![{_md(p.title)}]({folder}/{p.name}.png)" for p in drawn]
    parts += ["\n".join(f"> {_md(line)}" for line in seen.doubts)] if seen.doubts else []
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(seen: Seen) -> str:
    """The table of a paper: predicted against actual where there is one, else the runs. Needs booktabs."""
    table = tables.outcome(seen) or tables.observed(seen) or tables.planned(seen)
    if table is None:
        return f"% {_tex(story.headline(seen))}\n"
    numeric = [
        all(row[i].value is not None or row[i].text == "–" for row in table.rows)
        for i in range(len(table.header))
    ]
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        rf"\caption{{{_tex(story.headline(seen))}}}",
        rf"\begin{{tabular}}{{{''.join('r' if n else 'l' for n in numeric)}}}",
        r"\toprule",
        " & ".join(_tex(h) for h in table.header) + r" \\",
        r"\midrule",
        *(" & ".join(_tex(cell.text) for cell in row) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


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


def _sections(seen: Seen) -> list[tuple[str, story.Facts, Table | None]]:
    return [
        ("What was asked", story.asked(seen), None),
        ("What was planned and sealed", story.sealed(seen), tables.planned(seen)),
        ("What happened", [], tables.outcome(seen)),
        ("How good the law is", story.law_facts(seen), tables.forms(seen)),
        ("What to run next", [], tables.next_runs(seen)),
    ]


def _md(text: str) -> str:
    """Text that stays text: no mark-up, no HTML, one line."""
    line = " ".join(text.split())
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", line).replace("&", "&amp;").replace("<", "&lt;")


def _md_table(table: Table) -> str:
    rows = [table.header, *([cell.text for cell in row] for row in table.rows)]
    lines = ["| " + " | ".join(_md(text) for text in row) + " |" for row in rows]
    rule = "|" + "|".join(" --: " if i else " :-- " for i in range(len(table.header))) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _tex(text: str) -> str:
    return "".join(_LATEX.get(mark, mark) for mark in " ".join(text.split()))
