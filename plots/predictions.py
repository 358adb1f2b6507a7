"""Figures of predictions: predicted against actual loss, calibration of the intervals, backtest of the law's forms."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from families.units import BadInput, format_size
from scaling.fitting.forms import FittedForm
from scaling.scoring import ComparisonRow
from scaling.scoring.record import SealedResult
from scaling.scoring.verify import GRADES
from scaling.stats import Z_50, format_loss

from .style import (
    BLUE,
    GREEN,
    INK,
    MARKERS,
    MUTED,
    ORANGE,
    Plot,
    legend_above,
    name_rows,
    new_figure,
    set_title,
    short_label,
    style_context,
    tooltips,
)

FEWEST_TO_CALIBRATE = 3
LEVELS = (0.5, 0.8, 0.95)
_INTERVALS = ("low_80", "high_80", "low_95", "high_95")


def percent_off(error: float) -> str:
    """The size of a relative error with two digits: 0.46 %, 1.2 %, 100 %."""
    size = 100 * abs(error)
    return f"{size:.0f} %" if size >= 10 else f"{size:.2g} %"


def score_text(row: ComparisonRow) -> str:
    """One prediction in one line: predicted and actual loss, its error, and the narrowest interval of it that held."""
    interval = (
        "inside the 80 % interval"
        if row.inside_80
        else "inside the 95 % interval, outside the 80 % one"
        if row.inside_95
        else "outside the 95 % interval"
    )
    return (
        f"Predicted {format_loss(row.predicted_loss)}, actual {format_loss(row.actual_loss)} nats per token: "
        f"{percent_off(row.error)} too {'high' if row.error > 0 else 'low'}, {interval}"
    )


def scores_text(rows: Sequence[ComparisonRow]) -> str:
    """All predictions in one line."""
    if len(rows) == 1:
        return score_text(rows[0])
    mean = math.fsum(abs(row.error) for row in rows) / len(rows)
    bias = math.fsum(row.error for row in rows) / len(rows)
    return (
        f"{len(rows)} sealed predictions of the loss: {percent_off(mean)} off on average, bias {'+' if bias >= 0 else '-'}"
        f"{percent_off(bias)}; {held_text(rows)}"
    )


def by_grade(rows: Sequence[ComparisonRow]) -> dict[str, list[ComparisonRow]]:
    """The rows of each grade, in words, the strongest grade first: what a weaker one holds is counted apart."""
    graded = {words: [row for row in rows if row.grade == grade] for grade, words in GRADES.items()}
    return {words: found for words, found in graded.items() if found}


def held_text(rows: Sequence[ComparisonRow], level: int = 80) -> str:
    """How many intervals held the actual loss, each grade by itself: "80 % intervals held 2 of 3"."""
    grades = by_grade(rows)
    counts = [
        f"{sum(getattr(row, f'inside_{level}') for row in of)} of {len(of)}"
        + (f" ({words})" if len(grades) > 1 else "")
        for words, of in grades.items()
    ]
    return f"{level} % intervals held " + ", and ".join(counts)


def predicted_against_actual(rows: Sequence[ComparisonRow]) -> Plot:
    """Each sealed prediction with its 80 and 95 % intervals, and the actual loss.

    Raises:
        BadInput: no rows.
    """
    if not rows:
        raise BadInput("there are 0 sealed predictions with a finished run; the figure needs 1")
    with style_context():
        figure, (axes,) = new_figure(height=1.75 + 0.42 * (len(rows) - 1))
        for y, row in enumerate(reversed(rows)):
            _interval_bars(axes, y, row.interval_80, row.interval_95)
            axes.plot([row.predicted_loss], [y], marker="|", markersize=17, markeredgewidth=2.4, color=BLUE)
            point = axes.scatter(
                [row.actual_loss], [y], s=62, marker="D", color=ORANGE, edgecolor="none", zorder=4
            )
            tooltips(
                point,
                [
                    f"{row.member}, {format_size(row.tokens)} tokens\n{score_text(row)}\nsealed {row.sealed_at}"
                ],
            )
        name_rows(
            axes, [f"{short_label(row.member)}\n{format_size(row.tokens)} tokens" for row in reversed(rows)]
        )
        axes.set_ylim(-0.75, len(rows) - 0.25)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("held-out loss, nats per token")
        _interval_legend(axes, _predicted_mark(), _mark("D", ORANGE, "actual"))
    return Plot(
        figure=set_title(figure, scores_text(rows)),
        header=(
            "member",
            "tokens",
            "predicted_loss",
            "low_80",
            "high_80",
            "low_95",
            "high_95",
            "actual_loss",
            "error",
        ),
        rows=tuple(
            (r.member, r.tokens, r.predicted_loss, *r.interval_80, *r.interval_95, r.actual_loss, r.error)
            for r in rows
        ),
    )


def _interval_bars(axes: Axes, y: float, narrow: Sequence[float], wide: Sequence[float]) -> None:
    """Draw the 80 % interval thick and the 95 % one thin, at a height."""
    axes.plot(wide, (y, y), color=BLUE, linewidth=2.2, alpha=0.55, solid_capstyle="butt")
    axes.plot(narrow, (y, y), color=BLUE, linewidth=9, alpha=0.35, solid_capstyle="butt")


def _interval_legend(axes: Axes, *marks: Line2D) -> None:
    """Place the legend of the interval bars, and of further marks, above the axes."""
    bars = [
        Line2D([], [], color=BLUE, alpha=0.35, linewidth=8, label="80 %"),
        Line2D([], [], color=BLUE, alpha=0.55, linewidth=2.2, label="95 %"),
    ]
    legend_above(axes, [*bars, *marks], columnspacing=1.2, handlelength=1.4)


def _predicted_mark() -> Line2D:
    return Line2D(
        [], [], color=BLUE, marker="|", markersize=11, markeredgewidth=2.4, linestyle="", label="predicted"
    )


def _mark(marker: str, colour: str, label: str) -> Line2D:
    return Line2D([], [], color=colour, marker=marker, linestyle="", label=label)


def by_reach(results: Sequence[SealedResult]) -> Plot:
    """Every opened prediction, the nearest first: its 80 and 95 % intervals and the actual loss, in percent of the predicted.

    Raises:
        BadInput: none is opened.
    """
    opened = [one for one in results if one.counts]
    if not opened:
        raise BadInput("there are 0 opened predictions; the figure needs 1")
    rows = [one.row for one in opened if one.row is not None]
    with style_context():
        figure, (axes,) = new_figure(height=1.75 + 0.36 * (len(rows) - 1))
        for y, (one, row) in enumerate(zip(reversed(opened), reversed(rows), strict=True)):
            _interval_bars(
                axes,
                y,
                *([_relative(end, row) for end in pair] for pair in (row.interval_80, row.interval_95)),
            )
            point = axes.scatter(
                [_relative(row.actual_loss, row)],
                [y],
                s=54,
                marker="D" if row.inside_80 else "X",  # grey prints tell the two by their shape
                color=GREEN if row.inside_80 else ORANGE,
                edgecolor="none",
                zorder=4,
            )
            tooltips(point, [f"{one.study}: {score_text(row)}\nsealed {one.sealed_at}"])
        axes.axvline(0, color=BLUE, linewidth=1.2)
        name_rows(axes, [f"{reach_text(one.reach)}\n{short_label(one.study)}" for one in reversed(opened)])
        axes.set_ylim(-0.75, len(rows) - 0.25)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("actual loss against predicted, percent")
        _interval_legend(axes, _mark("D", GREEN, "inside 80 %"), _mark("X", ORANGE, "outside 80 %"))
    return Plot(
        figure=set_title(
            figure,
            f"Sealed predictions by reach, the target's compute over the ladder's: {held_text(rows)}",
        ),
        header=("study", "reach", "predicted_loss", *_INTERVALS, "actual_loss", "error", "z"),
        rows=tuple(
            (
                one.study,
                one.reach,
                row.predicted_loss,
                *row.interval_80,
                *row.interval_95,
                row.actual_loss,
                row.error,
                row.z,
            )
            for one, row in zip(opened, rows, strict=True)
        ),
    )


def _relative(loss: float, row: ComparisonRow) -> float:
    """A loss against the predicted one, in percent."""
    return 100 * (loss / row.predicted_loss - 1)


def reach_text(reach: float | None) -> str:
    """How far a prediction reached: "2.1 times", "100 times"; "?" where it is not known."""
    return "? times" if reach is None else f"{reach:.2g} times" if reach < 10 else f"{reach:.0f} times"


def calibration(rows: Sequence[ComparisonRow]) -> Plot:
    """Nominal against observed coverage of the 80 and 95 % intervals, and of the 50 % one that the 80 % one implies.

    Predictions of each grade have marks of their own; the bars are of the grade with most predictions.

    Raises:
        BadInput: fewer than 3 predictions.
    """
    if len(rows) < FEWEST_TO_CALIBRATE:
        available = "is 1 scored prediction" if len(rows) == 1 else f"are {len(rows)} scored predictions"
        raise BadInput(f"there {available}; calibration needs at least {FEWEST_TO_CALIBRATE}")
    grades = by_grade(rows)
    most = max(map(len, grades.values()))
    error = [math.sqrt(level * (1 - level) / most) for level in LEVELS]
    with style_context():
        figure, (axes,) = new_figure(height=3.2)
        axes.plot([0.4, 1], [0.4, 1], color=MUTED, linestyle="--", linewidth=1)
        axes.annotate("calibrated", (0.64, 0.57), color=MUTED, fontsize=8)
        axes.errorbar(LEVELS, LEVELS, yerr=error, fmt="none", ecolor=MUTED, elinewidth=6, alpha=0.25)
        for (words, of), marker, fill in zip(grades.items(), MARKERS, (BLUE, "none", "none"), strict=False):
            inside = (
                sum(abs(row.z) <= Z_50 for row in of),
                sum(row.inside_80 for row in of),
                sum(row.inside_95 for row in of),
            )
            observed = [count / len(of) for count in inside]
            point = axes.scatter(
                LEVELS, observed, s=46, facecolors=fill, edgecolors=BLUE, marker=marker, zorder=4, label=words
            )
            tooltips(
                point,
                [
                    f"{100 * level:.0f} % intervals held {100 * o:.0f} % of {len(of)}"
                    for level, o in zip(LEVELS, observed, strict=True)
                ],
            )
        if len(grades) > 1:
            legend_above(axes, axes.get_legend_handles_labels()[0], columns=1)
        axes.set_xticks(LEVELS, [f"{100 * level:.0f} %" for level in LEVELS])
        axes.set_yticks((0, 0.25, 0.5, 0.75, 1), ["0", "25 %", "50 %", "75 %", "100 %"])
        axes.set_ylim(-0.03, 1.05)
        axes.set_xlabel("nominal coverage")
        axes.set_ylabel("share of runs inside")
    set_title(
        figure,
        f"{held_text(rows)}; grey bars: one standard error of a count of {most}",
    )
    return Plot(
        figure=figure,
        header=("member", "tokens", "z", "inside_80", "inside_95"),
        rows=tuple((row.member, row.tokens, row.z, row.inside_80, row.inside_95) for row in rows),
    )


def backtest(forms: Sequence[FittedForm]) -> Plot:
    """Each form's rms error in predicting the study's costlier runs from its cheaper ones.

    Raises:
        BadInput: no form was backtested.
    """
    scored = sorted(
        (form for form in forms if form.rollout_error is not None), key=lambda f: f.rollout_error or 0
    )
    if not scored:
        raise BadInput(
            "no form of the law was backtested; more runs over more than a factor of 10 are needed"
        )
    errors = [100 * (form.rollout_error or 0) for form in scored]
    with style_context():
        figure, (axes,) = new_figure(height=1.3 + 0.42 * len(scored))
        for y, (form, error) in enumerate(zip(reversed(scored), reversed(errors), strict=True)):
            colour = BLUE if form.weight > 0 else MUTED
            axes.plot((0, error), (y, y), color=colour, linewidth=2.5)
            point = axes.scatter([error], [y], s=50, color=colour, zorder=3)
            tooltips(
                point,
                [f"{form.name}: {error:.2f} % rms, weight {100 * form.weight:.0f} %, {form.status.value}"],
            )
            axes.annotate(
                f"  {error:.2f} %",
                (error, y),
                va="center",
                fontsize=8.5,
                xytext=(6, 0),
                textcoords="offset points",
            )
        name_rows(
            axes, [f"{short_label(form.name)}\nweight {100 * form.weight:.0f} %" for form in reversed(scored)]
        )
        axes.set_ylim(-0.6, len(scored) - 0.4)
        axes.set_xlim(0, max(errors) * 1.22 or 1)
        axes.spines["left"].set_color(INK)
        axes.set_xlabel("rms error of predicted losses, percent")
    best = scored[0]
    heaviest = max(scored, key=lambda f: f.weight)
    set_title(
        figure,
        f"Predicting costlier runs from cheaper ones, {best.name} had the lowest error: {errors[0]:.2f} % rms"
        + ("" if heaviest is best else f"; {heaviest.name} has the largest weight"),
    )
    return Plot(
        figure=figure,
        header=("form", "rollout_error", "weight", "status"),
        rows=tuple((form.name, form.rollout_error, form.weight, form.status.value) for form in forms),
    )
