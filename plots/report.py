"""report.html: one file that needs nothing else. Inline SVG, light and dark, a telephone's width, paper."""

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from pathlib import Path

from . import cells, story, tables
from .figures import FIGURES, OF_OUTCOMES, Picture
from .seen import Seen
from .style import DARK, svg, variable

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


def report(seen: Seen, drawn: Sequence[Picture], lacking: dict[str, str]) -> str:
    """The page of a study, with its figures and why the others cannot be drawn."""
    script = _asset("page.js")
    bodies = {
        "asked": _facts(story.asked(seen)) + _doubts(seen),
        "planned": _planned(seen, drawn),
        "happened": _happened(seen, drawn, lacking),
        "law": _law(seen, drawn, lacking),
        "next": _next(seen),
        "runs": _table(tables.observed(seen)) or _none("No run is finished yet."),
    }
    shown = SECTIONS if seen.studies == 1 else tuple(s for s in SECTIONS if s[0] == "happened")
    links = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title in shown)
    sections = "".join(
        f'<section aria-labelledby="{key}"><h2 id="{key}">{escape(title)}</h2>{bodies[key]}</section>'
        for key, title in shown
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(seen.title)}</title><style>{_style()}</style></head><body><main>"
        f'<header><h1>{escape(seen.title)}</h1><p class="lead">{_headline(seen)}</p>'
        f'{_tiles(seen)}<nav aria-label="Sections">{links}</nav></header>'
        f"{sections}{_footer(seen) if seen.studies == 1 else ''}</main>"
        f'<div id="tip" role="tooltip" hidden></div><script>{script}</script></body></html>\n'
    )


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8").strip()


def _style() -> str:
    light = "".join(f"--{variable(colour)}:{colour};" for colour in DARK)
    dark = "".join(f"--{variable(colour)}:{other};" for colour, other in DARK.items())
    css = _asset("page.css").replace("LIGHTVARS", light).replace("DARKVARS", dark).replace("PRINTVARS", light)
    return css.replace("\n", "")


def _policy(script: str) -> str:
    """Nothing is fetched, and no script runs but ours, whatever a name in the data holds."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"


def _headline(seen: Seen) -> str:
    line, alarm = escape(story.headline(seen)), escape(story.alarm(seen))
    return f'<strong class="bad-t">{alarm}</strong>{line.removeprefix(alarm)}' if alarm else line


def _tiles(seen: Seen) -> str:
    if seen.comparison is None or len(seen.comparison.rows) != 1:
        return ""
    row = seen.comparison.rows[0]
    tiles = (
        (cells.short(row.predicted_ppl, 2), "perplexity predicted"),
        (cells.short(row.actual_ppl, 2), "perplexity measured"),
        (cells.percent(row.error).text, "error of the predicted loss"),
        (f"{row.interval_80[0]:.2f}–{row.interval_80[1]:.2f}", "80 % interval of the loss"),
    )
    return (
        '<div class="tiles">'
        + "".join(f"<div><b>{escape(a)}</b><span>{escape(b)}</span></div>" for a, b in tiles)
        + "</div>"
    )


def _facts(facts: story.Facts) -> str:
    if not facts:
        return ""
    return "<dl>" + "".join(f"<dt>{escape(key)}</dt><dd>{escape(text)}</dd>" for key, text in facts) + "</dl>"


def _none(line: str) -> str:
    return f'<p class="note">{escape(line)}</p>'


def _doubts(seen: Seen) -> str:
    return "".join(f'<p class="note bad">{escape(line)}</p>' for line in seen.doubts)


def _table(table: cells.Table | None) -> str:
    if table is None:
        return ""
    kinds = [_kind(table, column) for column in range(len(table.header))]
    head = "".join(
        f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(table.header, kinds, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{kind}{_sorted_by(cell)}>{escape(cell.text)}</td>"
            for cell, kind in zip(row, kinds, strict=True)
        )
        + "</tr>"
        for row in table.rows
    )
    return (
        f"<h3>{escape(table.title)}</h3>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}">'
        f'<table class="sort"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _sorted_by(cell: cells.Cell) -> str:
    return "" if cell.value is None else f' data-v="{float(cell.value)!r}"'


def _kind(table: cells.Table, column: int) -> str:
    """Numbers stay whole and to the right; names to the left, broken only where they are very long."""
    cells = [row[column] for row in table.rows]
    if all(cell.value is not None or cell.text == "–" for cell in cells):
        return ' class="n"'
    if column:
        return ' class="l"'
    longest = max(len(cell.text) for cell in cells)
    return f' class="t" style="min-width:min({min(longest, 24) + 2}ch,40vw)"'


def _figures(drawn: Sequence[Picture], names: Sequence[str], lacking: dict[str, str]) -> str:
    shown = [p for name in names for p in drawn if p.name == name]
    missing = "".join(
        f'<p class="about">No figure “{escape(name)}”: {escape(lacking[name])}.</p>'
        for name in names
        if name in lacking
    )
    return (
        '<div class="figures">' + "".join(_figure(p) for p in shown) + "</div>" if shown else ""
    ) + missing


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.csv().encode()).decode()
    return (
        f'<figure id="figure-{picture.name}"><figcaption><b>{escape(picture.title)}</b></figcaption>'
        f"{svg(picture.figure, picture.name, inline=True)}"
        f'<p class="about">{escape(picture.about)} '
        f'<a class="csv" download="{picture.name}.csv" href="data:text/csv;base64,{data}">CSV</a></p></figure>'
    )


def _planned(seen: Seen, drawn: Sequence[Picture]) -> str:
    if seen.plan is None and seen.ladder is None:
        return _none("Nothing is planned yet: run scaling plan.")
    facts = story.sealed(seen)
    note = "" if facts else _none("The plan is not sealed: what it says was not promised before the run.")
    return (
        _facts(facts)
        + note
        + _figures(drawn, ("planned",), {})
        + _table(tables.planned(seen))
        + _table(tables.indifferent(seen))
    )


def _happened(seen: Seen, drawn: Sequence[Picture], lacking: dict[str, str]) -> str:
    found = tables.outcome(seen)
    if found is None:
        lacking = {name: why for name, why in lacking.items() if name not in OF_OUTCOMES}
        head = _none("No sealed prediction has met its run yet: train it, then run scaling compare.")
    else:
        head = _table(found) + _table(tables.costs(seen))
    return head + _figures(drawn, ("predicted", *_OF_RESULT), lacking)


def _law(seen: Seen, drawn: Sequence[Picture], lacking: dict[str, str]) -> str:
    if seen.law is None:
        return _none("No law is fitted yet: run scaling fit on runs.jsonl.")
    return (
        _figures(drawn, _OF_LAW, lacking)
        + _table(tables.forms(seen))
        + "<h3>The fit card</h3>"
        + _facts(story.law_facts(seen))
    )


def _next(seen: Seen) -> str:
    said = "".join(f"<li>{escape(line)}</li>" for line in story.advice(seen))
    return (
        (f"<ul>{said}</ul>" if said else "")
        + _table(tables.refitted(seen))
        + _table(tables.telling(seen))
        + _table(tables.next_runs(seen))
    )


def _footer(seen: Seen) -> str:
    named = (
        ("study", seen.study),
        ("ladder", seen.ladder),
        ("law", seen.law),
        ("plan", seen.plan),
        ("comparison", seen.comparison),
    )
    lines = "".join(
        f"<li>{name}.json, {escape(document.created_at)}, {escape(document.tool)}"
        + "".join(
            f"<br>from {escape(source)} <code>{escape(digest)}</code>"
            for source, digest in document.inputs.items()
        )
        + "</li>"
        for name, document in named
        if document is not None
    )
    return f"<footer><details><summary>Files this page was made from</summary><ul>{lines}</ul></details></footer>"


assert {*_OF_RESULT, *_OF_LAW, "predicted", "planned"} == set(FIGURES)
