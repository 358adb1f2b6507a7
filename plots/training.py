"""Figures of training: learning curves with cooldown branches, throughput, and FLOPs recorded against the plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from families.units import BadInput, format_duration, format_size
from scaling.devices import recognise
from scaling.fitting.predictor import Fit
from scaling.runs import Run
from scaling.runs.store import WorkEntry
from scaling.stats import MOST_BARS, MOST_LINES, format_loss, subsample_evenly

from .law import run_size, without_local_correction
from .study_data import LossCurve, run_names, smooth, smooth_with_trunk, thin
from .style import (
    BLUE,
    INK,
    MARKERS,
    MUTED,
    ORANGE,
    PALETTE,
    PAPER,
    Plot,
    label_ends,
    legend_above,
    log_losses,
    log_sizes,
    name_rows,
    new_figure,
    set_title,
    short_label,
    style_context,
    tooltips,
)

LARGEST_SHOWN = 3.0  # times the median loss shown: a diverging run leaves the axes, the others stay readable
MOST_NAMED = 14  # lines that can be named at their ends


def _style_by_size(names: Sequence[str], runs: Sequence[Run]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each run: those of its size, so that runs of one size look alike; of its own where that is unknown."""
    size_of = {run.run: run_size(run) for run in runs}
    sizes = sorted({size_of[name] for name in names if name in size_of})
    keys: list[object] = [*sizes, *(name for name in names if name not in size_of)]
    return {
        name: (PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)])
        for name in names
        for place in (keys.index(size_of.get(name, name)),)
    }


def learning_curves(curves: Sequence[LossCurve], runs: Sequence[Run], predictor: Fit | None = None) -> Plot:
    """Loss against tokens: a line for each trunk, thin lines for cooldowns, points for annealed rungs, dashes for the law.

    Of very many runs, MOST_LINES are drawn.

    Raises:
        BadInput: neither curves nor runs.
    """
    if len({run.run for run in runs}) > MOST_LINES:
        available = dict.fromkeys(curve.run for curve in curves) or dict.fromkeys(run.run for run in runs)
        drawn = set(subsample_evenly(list(available), MOST_LINES))
        runs = [run for run in runs if run.run in drawn]
    names = run_names(curves, runs)
    if not names:
        raise BadInput("there are 0 learning curves and 0 runs; the figure needs 1")
    rungs = {
        name: sorted((r for r in runs if r.run == name and r.annealed), key=lambda r: r.tokens)
        for name in names
    }
    style = _style_by_size(names, runs)
    ends: dict[object, tuple[float, float, str, str]] = {}  # of each size the curve that reaches furthest
    with style_context():
        figure, (axes,) = new_figure(height=4.2)
        for curve in curves:
            colour = style[curve.run][0]
            cooldown = curve.part.startswith("rung")
            axes.plot(
                *(thin(values) for values in smooth_with_trunk(curve, curves)),
                color=colour,
                linewidth=0.9 if cooldown else 1.5,
                alpha=0.55 if cooldown else 0.9,
                marker=None if cooldown else style[curve.run][1],  # its size, where colours are not seen
                markevery=(0.35, 0.5),
                markersize=5,
                markerfacecolor=PAPER,
            )
        for name in names:
            colour, marker = style[name]
            points = rungs[name]
            if points:
                scatter = axes.scatter(
                    [r.tokens for r in points],
                    [r.loss for r in points],
                    s=30,
                    marker=marker,
                    color=colour,
                    edgecolor="none",
                    zorder=4,
                )
                tooltips(
                    scatter,
                    [f"{name}\n{format_size(r.tokens)} tokens: loss {format_loss(r.loss)}" for r in points],
                )
            tails = [
                (curve.tokens[-1], float(smooth(curve.loss)[-1])) for curve in curves if curve.run == name
            ]
            annealed = (
                [(points[-1].tokens * 1.01, points[-1].loss)] if points else []
            )  # before a tail as long
            last = max(annealed + tails)
            size = next((run_size(r) for r in points), 0.0)
            label = format_size(size) if size else short_label(name, 14)
            end = float(last[0]), float(last[1]), label, colour
            ends[label] = max(ends.get(label, end), end)
        shown = [r.tokens for points in rungs.values() for r in points] or [c.tokens[-1] for c in curves]
        left = min([*shown, *(float(c.tokens[min(len(c.tokens) - 1, 8)]) for c in curves)])
        last_step = max([*shown, *(float(c.tokens[-1]) for c in curves)])
        axes.set_xlim(left / 1.1, last_step * 1.25)
        lines = list(axes.get_lines())
        visible = np.concatenate(
            [
                np.asarray(line.get_ydata(), dtype=float)[np.asarray(line.get_xdata(), dtype=float) >= left]
                for line in lines
            ]
            + [np.array([r.loss for points in rungs.values() for r in points])]
        )
        low = float(visible.min())
        high = min(float(np.quantile(visible, 0.995)), LARGEST_SHOWN * float(np.median(visible)))
        axes.set_ylim(low / 1.04, high * 1.04)
        if predictor is not None:
            for name in names:
                if rungs[name]:
                    _law_line(axes, predictor, rungs[name], style[name][0], max(shown))
        log_sizes(axes, "x")
        log_losses(axes)
        axes.set_xlabel("tokens trained on, D")
        axes.set_ylabel("loss, nats per token")
        by_loss = sorted(ends.values(), key=lambda end: end[1])
        named = np.linspace(0, len(by_loss) - 1, min(MOST_NAMED, len(by_loss))).round().astype(int)
        label_ends(axes, [by_loss[i] for i in named])
        parts = {curve.part.startswith("rung") for curve in curves}
        handles = [
            *([Line2D([], [], color=INK, linewidth=1.5, label="training")] if False in parts else []),
            *(
                [Line2D([], [], color=INK, linewidth=0.9, alpha=0.55, label="cooldown")]
                if True in parts
                else []
            ),
            *(
                [
                    Line2D(
                        [], [], color=INK, marker="o", markersize=5, linestyle="", label="held-out, annealed"
                    )
                ]
                if any(rungs.values())
                else []
            ),
        ]
        if predictor is not None:
            handles.append(Line2D([], [], color=INK, linewidth=1, linestyle=(0, (4, 2)), label="law"))
        legend_above(axes, handles, columnspacing=1.1, handlelength=1.5)
    annealed_runs = [r for points in rungs.values() for r in points]
    if annealed_runs:
        best = min(annealed_runs, key=lambda r: r.loss)
        title = (
            f"{_count(len(names), 'run')}, {_count(len(annealed_runs), 'annealed point')}; "
            f"the best is {format_size(run_size(best))} parameters "
            f"on {format_size(best.tokens)} tokens: loss {format_loss(best.loss)}"
        )
    else:
        title = f"{_count(len(names), 'run')}, none annealed yet: lines are training loss"
    values: list[tuple[Any, ...]] = [
        (curve.run, curve.part or "run", float(tokens), float(loss))
        for curve in curves
        for tokens, loss in zip(thin(curve.tokens), thin(smooth(curve.loss)), strict=True)
    ]
    values += [(run.run, "annealed", run.tokens, run.loss) for run in runs]
    return Plot(figure=set_title(figure, title), header=("run", "part", "tokens", "loss"), rows=tuple(values))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _law_line(axes: Axes, predictor: Fit, points: Sequence[Run], colour: str, last: float) -> None:
    """Draw the law at a run's N, over the tokens of its rungs, up to `last` tokens."""
    size = run_size(points[0], predictor.convention)
    grid = np.geomspace(
        points[0].tokens / 1.3, max(points[-1].tokens * 1.15, min(last, points[-1].tokens)), 60
    )
    loss = np.asarray(
        without_local_correction(predictor).predict(np.full_like(grid, size), grid, force=True).loss
    )
    axes.plot(grid, loss, color=colour, linewidth=1.0, linestyle=(0, (4, 2)), zorder=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Tokens per second of a training run.

    Attributes:
        run: its name.
        low: 10th percentile.
        median: of all timed steps.
        high: 90th percentile.
        flops_per_token: exact training FLOPs; None where no observation states them.
        mfu: of the median, in [0, 1]; None where the device's peak is unknown.
        peak: the dense peak that mfu is a share of, in words; "" without one.
    """

    run: str
    low: float
    median: float
    high: float
    flops_per_token: float | None = None
    mfu: float | None = None
    peak: str = ""

    @property
    def utilisation(self) -> str:
        """MFU as text, or the model's FLOP/s where the peak is unknown, or "" where neither is known."""
        if self.mfu is not None:
            return f"{100 * self.mfu:.0f} % MFU" if self.mfu >= 0.1 else f"{100 * self.mfu:.1f} % MFU"
        if self.flops_per_token is None:
            return ""
        return flops_per_second(self.median * self.flops_per_token)


def flops_per_second(value: float) -> str:
    """FLOP/s with three digits and a unit: 5.6 GFLOP/s."""
    for unit, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G")):
        if value >= unit:
            return f"{value / unit:.3g} {prefix}FLOP/s"
    return f"{value / 1e6:.3g} MFLOP/s"


def measure_throughput(curves: Sequence[LossCurve], runs: Sequence[Run]) -> list[Throughput]:
    """Throughput of every timed run, smallest first."""
    measured = []
    for name in run_names(curves, runs):
        timed = [c.tokens_per_s for c in curves if c.run == name and len(c.tokens_per_s)]
        if not timed:
            continue
        low, middle, high = (float(v) for v in np.quantile(np.concatenate(timed), [0.1, 0.5, 0.9]))
        run = next((r for r in runs if r.run == name and r.compute and r.compute_kind == "exact"), None)
        per_token = run.compute / run.tokens if run is not None and run.compute else None
        count, device = recognise(run.accelerator) if run is not None and run.accelerator else (1, None)
        mfu, peak = None, ""
        if device is not None and per_token is not None:
            mfu = middle * per_token / (count * device.training_peak)
            several = f"{count} × " if count > 1 else ""
            peak = f"{several}{device.name}'s {flops_per_second(device.training_peak)} {device.training_format} dense"
        measured.append(
            Throughput(
                run=name, low=low, median=middle, high=high, flops_per_token=per_token, mfu=mfu, peak=peak
            )
        )
    return measured


def throughput(curves: Sequence[LossCurve], runs: Sequence[Run]) -> Plot:
    """Tokens per second of each run, median and middle 80 %, with its MFU.

    The model's FLOP/s are shown where the device's peak is unknown.

    Raises:
        BadInput: no curve was timed.
    """
    timed = measure_throughput(curves, runs)
    if not timed:
        raise BadInput("no run was timed: neither metrics.jsonl nor timing.jsonl holds tokens_per_s")
    with style_context():
        figure, (axes,) = new_figure(height=1.2 + 0.36 * len(timed))
        for y, speed in enumerate(reversed(timed)):
            axes.plot(
                (speed.low, speed.high), (y, y), color=BLUE, linewidth=6, alpha=0.3, solid_capstyle="butt"
            )
            point = axes.scatter([speed.median], [y], s=44, color=BLUE, zorder=3)
            tooltips(
                point,
                [
                    f"{speed.run}\nmedian {format_size(speed.median)} tokens/s; "
                    f"middle 80 % {format_size(speed.low)} to {format_size(speed.high)}"
                    + (f"\n{speed.utilisation}" if speed.utilisation else "")
                    + (f" of {speed.peak}" if speed.peak else "")
                ],
            )
            axes.annotate(
                format_size(speed.median),
                (speed.median, y),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
            axes.annotate(
                speed.utilisation,
                (1.015, y),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8,
                annotation_clip=False,
            )
        name_rows(axes, [short_label(speed.run, 26) for speed in reversed(timed)])
        axes.set_ylim(-0.6, len(timed) - 0.3)
        log_sizes(axes, "x")
        axes.spines["left"].set_edgecolor(MUTED)
        axes.set_xlabel("tokens per second; bar: middle 80 %")
    return Plot(
        figure=set_title(figure, _throughput_title(timed)),
        header=(
            "run",
            "low_10_tokens_per_s",
            "median_tokens_per_s",
            "high_90_tokens_per_s",
            "flops_per_token",
            "mfu",
            "peak",
        ),
        rows=tuple((s.run, s.low, s.median, s.high, s.flops_per_token, s.mfu, s.peak) for s in timed),
    )


def _throughput_title(timed: Sequence[Throughput]) -> str:
    first, last = timed[0], timed[-1]
    known = [speed.mfu for speed in timed if speed.mfu is not None]
    peaks = {speed.peak for speed in timed if speed.mfu is not None}
    tail = ""
    if known and len(peaks) == 1:
        ends = sorted({f"{100 * mfu:.2g}" for mfu in (min(known), max(known))}, key=float)
        tail = f": {' to '.join(ends)} % of {peaks.pop()}"
    if len(timed) == 1:
        return f"Trained at {format_size(first.median)} tokens per second" + tail
    return (
        f"From the smallest to the largest member, speed went from {format_size(first.median, 2)} "
        f"to {format_size(last.median, 2)} tokens per second" + tail
    )


def _spent(work: Sequence[WorkEntry]) -> dict[str, tuple[float, float]]:
    """FLOPs of trunk and of cooldowns, by run."""
    spent: dict[str, tuple[float, float]] = {}
    for w in work:
        trunk, cool = spent.get(w.run, (0.0, 0.0))
        rung = w.part.startswith("rung")
        spent[w.run] = (trunk, cool + w.flops) if rung else (trunk + w.flops, cool)
    return spent


def cost(work: Sequence[WorkEntry], planned: Mapping[str, float] | None = None) -> Plot:
    """Recorded training FLOPs by run, trunk and cooldowns apart, with a tick at the planned FLOPs.

    Of very many runs the costliest have a bar each, and the others share one.

    Args:
        work: the ledger's entries.
        planned: planned training FLOPs by run.

    Raises:
        BadInput: the ledger is empty.
    """
    planned = planned or {}
    if not work:
        raise BadInput("the ledger has 0 entries; the figure needs 1")
    spent = _spent(work)
    names = sorted(spent, key=lambda name: (sum(spent[name]), name))
    total, seconds = sum(map(sum, spent.values())), sum(w.wall_s for w in work)
    if len(names) > MOST_BARS:
        rest, names = names[: 1 - MOST_BARS], names[1 - MOST_BARS :]
        others = f"{len(rest):,} others"
        spent[others] = (sum(spent[name][0] for name in rest), sum(spent[name][1] for name in rest))
        names = [others, *names]
    trunk, cool = ([spent[name][part] for name in names] for part in (0, 1))
    with style_context():
        figure, (axes,) = new_figure(height=1.5 + 0.34 * len(names))
        axes.barh(range(len(names)), trunk, height=0.55, color=BLUE, label="trunk")
        axes.barh(
            range(len(names)),
            cool,
            left=trunk,
            height=0.55,
            color=ORANGE,
            hatch="////",
            edgecolor=PAPER,
            linewidth=0,
            label="cooldowns",
        )
        labels, labelled = [], False
        for y, name in enumerate(names):
            both = trunk[y] + cool[y]
            share = f"{100 * both / total:.0f} %"
            axes.annotate(
                f"{format_size(both)}, {share}",
                (max(both, planned.get(name, 0.0)), y),  # right of the planned tick
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
            labels.append(short_label(name, 26))
            if flops := planned.get(name):
                axes.plot(
                    [flops, flops],
                    [y - 0.42, y + 0.42],
                    color=INK,
                    linewidth=2,
                    label=None if labelled else "planned",
                )
                labelled = True
        name_rows(axes, labels)
        axes.set_xlim(
            0,
            1.3 * max(*map(sum, zip(trunk, cool, strict=True)), *(planned.get(name, 0.0) for name in names)),
        )
        axes.xaxis.set_major_formatter(lambda value, _: format_size(value))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("training FLOPs, exact")
        handles, names_shown = axes.get_legend_handles_labels()
        order = sorted(
            range(len(handles)), key=lambda i: ("trunk", "cooldowns", "planned").index(names_shown[i])
        )
        legend_above(axes, [handles[i] for i in order], columns=3, handlelength=1.3)
    cooling = sum(cool) / total
    known = [planned[name] for name in names if name in planned]
    against = f" of {format_size(sum(known))} planned" if len(known) == len(names) else ""
    set_title(
        figure,
        f"Recorded {format_size(total)} FLOPs{against} in {format_duration(seconds)} of training; "
        f"cooldowns took {100 * cooling:.0f} %",
    )
    return Plot(
        figure=figure,
        header=("run", "part", "from_step", "to_step", "tokens", "flops", "wall_s", "planned_flops"),
        rows=tuple(
            (w.run, w.part, w.from_step, w.to_step, w.tokens, w.flops, w.wall_s, planned.get(w.run))
            for w in work
        ),
    )
