"""One house style: colours that colour-blind readers tell apart, ticks as 10M and 1B, SVG that is the same every time."""

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape, unescape
from typing import Any
from urllib.parse import quote, unquote

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from families.units import format_size

WIDTH = 5.4  # inches: at 350 px of a telephone the text is still about 9 px high
INK, MUTED, GRID, PAPER = "#1a1c20", "#666b74", "#e2e4e8", "#ffffff"
# Okabe & Ito 2008, without black and yellow; the second of each pair is the same hue on a dark page.
COLOURS = {
    "#0072b2": "#57b1ef",
    "#d55e00": "#ff8f50",
    "#009e73": "#35cda2",
    "#b0568b": "#e79ac8",
    "#c98500": "#ffc14d",
    "#5b7fa6": "#a9c7e8",
    "#86643a": "#cda878",
}
PALETTE = tuple(COLOURS)
BLUE, ORANGE, GREEN, PURPLE = PALETTE[:4]
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DARK = {INK: "#e8e9ec", MUTED: "#a3a8b2", GRID: "#33373f", PAPER: "#16181d", **COLOURS}
_TIP = "tip:"
_RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": PAPER,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "scaling",
    "path.simplify": True,
}


@contextmanager
def style_context() -> Iterator[None]:
    """The style, for the time of drawing or saving; nobody else's settings change."""
    with mpl.rc_context():
        mpl.rcdefaults()
        settings: Any = mpl.rcParams  # its stubs list every key as a literal
        settings.update(_RC)
        yield


def new_figure(
    *, height: float = 3.7, rows: int = 1, columns: int = 1, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """An empty figure and its axes, row by row."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False)
    return figure, list(axes.ravel())


def set_title(figure: Figure, title: str) -> Figure:
    """Set the one-line conclusion. The page shows it as text; files carry it in the picture."""
    wrapped = "\n".join(textwrap.wrap(title, 60)) or title
    figure.suptitle(_plain(wrapped), x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def conclusion(figure: Figure) -> str:
    """The one-line conclusion of a figure."""
    return " ".join(figure.get_suptitle().replace(r"\$", "$").split())


def _plain(text: str) -> str:
    """A dollar sign in a name opens no formula."""
    return text.replace("$", r"\$")


def plain(text: str, width: int = 28) -> str:
    """A name as a label: nothing in it is mark-up, and a very long one is cut in the middle."""
    short = text if len(text) <= width else text[: width - 9] + "…" + text[-8:]
    return _plain("".join(c if c.isprintable() else "?" for c in short))


def log_sizes(axes: Axes, which: str) -> None:
    """A logarithmic axis with ticks as 300k, 10M, 1B; 1–3 or decades by how much it spans."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    low, high = axis.get_view_interval()
    span = high / low if low > 0 else 1.0
    subs: tuple[float, ...] = (1.0,) if span > 3000 else (1.0, 3.0) if span > 12 else (1.0, 2.0, 3.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def log_losses(axes: Axes, which: str = "y") -> None:
    """A logarithmic axis of losses, with plain round ticks."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    low, high = axis.get_view_interval()
    for step in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0):
        first, last = int(low / step) + 1, int(high / step)
        if last - first < 7:
            axis.set_major_locator(FixedLocator([i * step for i in range(first, last + 1)]))
            break
    else:  # a loss that ran away: decades, not a tick for every five nats up to a million
        axis.set_major_locator(LogLocator(numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _tick(value: float) -> str:
    if value < 1e15:
        return format_size(value)
    return f"{value:.0e}".replace("e+", "e")


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """A name for each row of bars or intervals, from below, without ticks or lines across."""
    axes.set_yticks(range(len(names)), names)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def legend_above(axes: Axes, handles: Sequence[Any], *, columns: int = 4, **spacing: float) -> None:
    """A legend above the axes, from their left edge."""
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        borderaxespad=0.1,
        **spacing,
    )


def tooltips(collection: Any, texts: Sequence[str]) -> None:
    """Give each point of a scatter a text that the page shows on hover or click."""
    collection.set_urls([_TIP + quote(text) for text in texts])


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]], *, gap: float = 0.055) -> None:
    """Write names at the right ends of lines: (x, y, text, colour), pushed apart until none overlap."""
    if not ends:
        return
    to_axes = axes.transData + axes.transAxes.inverted()
    placed = sorted((float(to_axes.transform((x, y))[1]), text, colour) for x, y, text, colour in ends)
    heights = [max(0.0, height) for height, _, _ in placed]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    ceiling = 1.0
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], ceiling)
        ceiling = heights[i] - gap
    for height, (_, text, colour) in zip(heights, placed, strict=True):
        axes.annotate(
            text,
            (1.015, height),
            xycoords="axes fraction",
            color=colour,
            fontsize=8,
            va="center",
            annotation_clip=False,
        )


def _lay_out_afresh(figure: Figure) -> None:
    """Undo the last layout: a second one starts from the first one's and would differ in the fifth digit."""
    for axes in figure.axes:
        place = axes.get_subplotspec()
        if place is not None:
            axes.set_subplotspec(place)


def png(figure: Figure, *, dpi: int = 200) -> bytes:
    """The picture as PNG, with its conclusion."""
    buffer = io.BytesIO()
    with style_context():
        _lay_out_afresh(figure)
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure, name: str, *, inline: bool = False) -> str:
    """The picture as SVG: the same bytes for the same values; a title for those who hear it; points carry tips.

    Args:
        inline: for a page: without the conclusion, without a background, colours as variables of the page.
    """
    buffer = io.StringIO()
    title = conclusion(figure)
    heading = figure._suptitle  # type: ignore[attr-defined]  # there is no public handle to hide it by
    if heading is not None:
        heading.set_visible(not inline)
        heading.set_in_layout(not inline)
    with style_context():
        _lay_out_afresh(figure)
        figure.savefig(buffer, format="svg", transparent=inline, metadata={"Date": None, "Creator": None})
    if heading is not None:
        heading.set_visible(True)
        heading.set_in_layout(True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r'<a xlink:href="tip:([^"]*)"[^>]*>(.*?)</a>', _point, text, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    if inline:
        head = re.sub(r'\s(width|height)="[^"]*"', "", head, count=2)
        for colour in DARK:
            rest = rest.replace(colour, f"var(--{variable(colour)})")
    return f'{head} role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>{rest}'


def variable(colour: str) -> str:
    """The page's name for one of our colours."""
    return "c" + colour.lstrip("#")


def _point(match: re.Match[str]) -> str:
    text = unquote(unescape(match[1]))
    return f'<g class="pt"><title>{escape(text)}</title>{match[2]}</g>'
