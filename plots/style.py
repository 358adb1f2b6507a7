"""Style of all figures: colours safe for colour-blind readers, ticks as 10M and 1B, reproducible SVG and PNG."""

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from html import escape, unescape
from math import inf, log
from typing import Any
from urllib.parse import quote, unquote

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from families.units import format_size
from scaling.files import csv_text

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


# For a printed page: serif, black, no grid; 5.4 inches are the text width of most templates.
_PAPER: dict[str, Any] = {
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
    "axes.grid": False,
    "axes.edgecolor": "#000000",
    "axes.labelcolor": "#000000",
    "text.color": "#000000",
    "xtick.color": "#000000",
    "ytick.color": "#000000",
    "xtick.labelcolor": "#000000",
    "ytick.labelcolor": "#000000",
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,  # TrueType, as publishers ask; the default Type 3 is refused by some
}
STYLES: dict[str, dict[str, Any]] = {"screen": {}, "paper": _PAPER}
FORMATS = ("png", "svg", "pdf", "csv")
_DRAWN_AS: ContextVar[str] = ContextVar("style", default="screen")


@contextmanager
def drawn_as(name: str) -> Iterator[None]:
    """Draw figures in one of STYLES."""
    token = _DRAWN_AS.set(name)
    try:
        yield
    finally:
        _DRAWN_AS.reset(token)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A figure with the values it shows, as a table: a header and its rows."""

    figure: Figure
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    @property
    def title(self) -> str:
        """The one-line conclusion."""
        return get_title(self.figure)

    def csv(self) -> str:
        """The values as CSV, a header line first."""
        return csv_text(self.header, self.rows)


@contextmanager
def style_context() -> Iterator[None]:
    """Apply the style while drawing or saving, and restore the caller's settings afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        settings: Any = mpl.rcParams  # its stubs list every key as a literal
        settings.update(_RC)
        settings.update(STYLES[_DRAWN_AS.get()])
        yield


def new_figure(
    *, height: float = 3.7, rows: int = 1, columns: int = 1, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return an empty figure and its axes, row by row.

    Args:
        height: height of the figure in inches.
        rows: number of rows of axes.
        columns: number of columns of axes.
        sharex: True to share the x axis.
        sharey: True to share the y axis.
    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False)
    return figure, list(axes.ravel())


def set_title(figure: Figure, title: str) -> Figure:
    """Set the one-line conclusion. The report shows it as text; image files carry it in the image."""
    wrapped = "\n".join(textwrap.wrap(title, 60)) or title
    figure.suptitle(_escape_dollars(wrapped), x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def get_title(figure: Figure) -> str:
    """The one-line conclusion of a figure."""
    return " ".join(figure.get_suptitle().replace(r"\$", "$").split())


def _escape_dollars(text: str) -> str:
    """Escape dollar signs, which would open a formula."""
    return text.replace("$", r"\$")


def short_label(text: str, width: int = 28) -> str:
    """A name as a label: mark-up escaped, shortened in the middle to at most `width` characters."""
    short = text if len(text) <= width else text[: width - 9] + "…" + text[-8:]
    return _escape_dollars("".join(c if c.isprintable() else "?" for c in short))


def log_sizes(axes: Axes, which: str) -> None:
    """Make axis `which` ("x" or "y") logarithmic, with ticks as 300k, 10M, 1B; their density follows its span."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    low, high = axis.get_view_interval()
    span = high / low if low > 0 else 1.0
    subs: tuple[float, ...] = (1.0,) if span > 3000 else (1.0, 3.0) if span > 12 else (1.0, 2.0, 3.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _format_tick(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def log_losses(axes: Axes, which: str = "y") -> None:
    """Make axis `which` ("x" or "y") of losses logarithmic, with round decimal ticks."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    low, high = axis.get_view_interval()
    for step in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0):
        first, last = int(low / step) + 1, int(high / step)
        if last - first < 7:
            ticks = [i * step for i in range(first, last + 1)]
            axis.set_major_locator(FixedLocator(_with_ends(ticks, low, high, step)))
            break
    else:  # a diverged loss: decades, not a tick for every five nats up to a million
        axis.set_major_locator(LogLocator(numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


_BARE = 0.12  # of a logarithmic axis: an end further from the nearest tick gets one of its own


def _with_ends(ticks: Sequence[float], low: float, high: float, step: float) -> list[float]:
    """Round ticks of a logarithmic axis from `low` to `high`, with finer ones at its ends where those would be bare."""
    ends: list[float] = []
    for fine in (step / 2, step / 5) if step >= 0.5 else (step / 2,):
        for value in ((int(low / fine) + 1) * fine, int(high / fine) * fine):
            known = [*ticks, *ends]
            distance = min((abs(log(value / tick)) for tick in known), default=inf)
            beyond = not ticks or not ticks[0] <= value <= ticks[-1]
            if low <= value <= high and beyond and distance > _BARE * log(high / low):
                ends.append(value)
    return sorted([*ticks, *ends])


def _format_tick(value: float) -> str:
    if value < 1e15:
        return format_size(value)
    return f"{value:.0e}".replace("e+", "e")


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Label each row of bars or intervals, from the bottom up, without ticks or grid lines across."""
    axes.set_yticks(range(len(names)), names)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def legend_above(axes: Axes, handles: Sequence[Any], *, columns: int = 4, **spacing: float) -> None:
    """Draw a legend above the axes, from their left edge.

    Args:
        axes: the axes.
        handles: artists to list.
        columns: number of columns.
        **spacing: spacing of the legend, as for matplotlib, in units of the font size.
    """
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        borderaxespad=0.1,
        **spacing,
    )


def tooltips(collection: Any, texts: Sequence[str]) -> None:
    """Attach to each point of a scatter a text that the report shows on hover or click."""
    collection.set_urls([_TIP + quote(text) for text in texts])


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]], *, gap: float = 0.055) -> None:
    """Label lines at their right ends, `ends` = (x, y, text, colour); labels are pushed apart until none overlap."""
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


def _reset_layout(figure: Figure) -> None:
    """Undo the last layout: a second one would start from it and differ in the fifth digit."""
    for axes in figure.axes:
        position = axes.get_subplotspec()
        if position is not None:
            axes.set_subplotspec(position)


@contextmanager
def _titled(figure: Figure, shown: bool) -> Iterator[None]:
    """Show or hide a figure's title while it is saved."""
    heading = figure._suptitle  # type: ignore[attr-defined]  # no public way to hide it
    if heading is not None:
        heading.set_visible(shown)
        heading.set_in_layout(shown)
    try:
        yield
    finally:
        if heading is not None:
            heading.set_visible(True)
            heading.set_in_layout(True)


def png(figure: Figure, *, dpi: int = 200, title: bool = True) -> bytes:
    """The figure as PNG, with its title unless `title` is False."""
    buffer = io.BytesIO()
    with style_context(), _titled(figure, title):
        _reset_layout(figure)
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def pdf(figure: Figure, *, title: bool = True) -> bytes:
    """The figure as PDF: the same bytes for the same values, with its title unless `title` is False."""
    buffer = io.BytesIO()
    with style_context(), _titled(figure, title):
        _reset_layout(figure)
        figure.savefig(
            buffer, format="pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None}
        )
    return buffer.getvalue()


def svg(figure: Figure, name: str, *, inline: bool = False, title: bool = True) -> str:
    """The figure as SVG: the same bytes for the same values, a title for screen readers, tooltips at points.

    Args:
        figure: to be saved.
        name: prefix of all ids, so that several figures fit on one page.
        inline: for the report: without title and background, colours as the page's CSS variables.
        title: whether the image shows its title.
    """
    buffer = io.StringIO()
    heading = get_title(figure)
    with style_context(), _titled(figure, title and not inline):
        _reset_layout(figure)
        figure.savefig(buffer, format="svg", transparent=inline, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r'<a xlink:href="tip:([^"]*)"[^>]*>(.*?)</a>', _tooltip_group, text, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    if inline:
        head = re.sub(r'\s(width|height)="[^"]*"', "", head, count=2)
        for colour in DARK:
            rest = rest.replace(colour, f"var(--{css_variable(colour)})")
    return f'{head} role="img" aria-label="{escape(heading)}"><title>{escape(heading)}</title>{rest}'


def image(plot: Plot, name: str, form: str, *, title: bool = True) -> bytes | str:
    """A figure, or its values, in one of FORMATS.

    Args:
        plot: the figure with its values.
        name: prefix of the ids of an SVG.
        form: "png", "svg", "pdf" or "csv".
        title: whether the image shows its title.
    """
    if form == "csv":
        return plot.csv()
    if form == "svg":
        return svg(plot.figure, name, title=title)
    return pdf(plot.figure, title=title) if form == "pdf" else png(plot.figure, title=title)


def css_variable(colour: str) -> str:
    """Name of the report's CSS variable for a colour."""
    return "c" + colour.lstrip("#")


def _tooltip_group(match: re.Match[str]) -> str:
    text = unquote(unescape(match[1]))
    return f'<g class="pt"><title>{escape(text)}</title>{match[2]}</g>'
