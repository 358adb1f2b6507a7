"""Figures of training: learning curves with cooldown branches, work booked, speed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from families.errors import BadInput
from families.units import format_duration, format_size
from scaling.ledger import Work
from scaling.local import Local
from scaling.predictor import Predictor
from scaling.runs import Run

from .seen import Curve
from .style import (
    BLUE,
    INK,
    MARKERS,
    MUTED,
    ORANGE,
    PALETTE,
    conclude,
    house,
    label_ends,
    log_losses,
    log_sizes,
    new_figure,
    plain,
    tips,
)

Array = NDArray[np.float64]
MOST_POINTS = 400  # of one curve; more cannot be seen
MOST_NAMED = 14  # lines that can be named at their ends


def bare(predictor: Predictor) -> Predictor:
    """The law's forms alone: the correction that a prediction adds close to single runs would draw kinks."""
    return replace(predictor, local=Local.nothing())


def size_of(run: Run, convention: str = "total") -> float:
    """N of a run by the law's convention, else by what it has."""
    first, second = run.params, run.params_non_embedding
    if convention != "total":
        first, second = second, first
    return float(first if first is not None else second or 0)


def smooth(loss: Array, share: float = 0.06) -> Array:
    """Mean over a window of that share of the curve, cut off at its ends: the loss of single batches is noisy."""
    half = max(3, round(len(loss) * share / 2))
    sums = np.concatenate([[0.0], np.cumsum(loss)])
    index = np.arange(len(loss))
    first, last = np.maximum(index - half, 0), np.minimum(index + half, len(loss) - 1)
    return np.asarray((sums[last + 1] - sums[first]) / (last - first + 1))


def joined(curve: Curve, curves: Sequence[Curve]) -> tuple[Array, Array]:
    """A curve's tokens and smoothed loss; a cooldown is smoothed together with the trunk it left, and starts on it."""
    trunk = next((c for c in curves if c.run == curve.run and c.part == "trunk"), None)
    if trunk is None or not curve.part.startswith("rung"):
        return curve.tokens, smooth(curve.loss)
    before = trunk.tokens < curve.tokens[0]
    start = max(int(before.sum()) - 1, 0)
    loss = smooth(np.concatenate([trunk.loss[before], curve.loss]))
    return np.concatenate([trunk.tokens[before], curve.tokens])[start:], loss[start:]


def thin(values: Array, most: int = MOST_POINTS) -> Array:
    """At most that many, evenly, first and last among them."""
    if len(values) <= most:
        return values
    return np.asarray(values[np.unique(np.linspace(0, len(values) - 1, most).round().astype(int))])


def ordered(curves: Sequence[Curve], runs: Sequence[Run]) -> list[str]:
    """Names of training runs, smallest first."""
    sizes = {run.run: size_of(run) for run in runs}
    names = dict.fromkeys([*(curve.run for curve in curves), *(run.run for run in runs)])
    return sorted(names, key=lambda name: (sizes.get(name, 0.0), name))


def learning_curves(
    curves: Sequence[Curve], runs: Sequence[Run], predictor: Predictor | None = None
) -> Figure:
    """Loss against tokens: a line for each trunk, thin lines for cooldowns, points for annealed rungs, dashes for the law.

    Raises:
        BadInput: neither curves nor runs.
    """
    names = ordered(curves, runs)
    if not names:
        raise BadInput("there are 0 learning curves and 0 runs; the figure needs 1")
    style = {name: (PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)}
    rungs = {
        name: sorted((r for r in runs if r.run == name and r.annealed), key=lambda r: r.tokens)
        for name in names
    }
    ends = []
    with house():
        figure, (axes,) = new_figure(height=4.2)
        for curve in curves:
            colour = style[curve.run][0]
            cooldown = curve.part.startswith("rung")
            axes.plot(
                *(thin(values) for values in joined(curve, curves)),
                color=colour,
                linewidth=0.9 if cooldown else 1.5,
                alpha=0.55 if cooldown else 0.9,
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
                tips(scatter, [f"{name}\n{format_size(r.tokens)} tokens: loss {r.loss:.4g}" for r in points])
            tails = [
                (curve.tokens[-1], float(smooth(curve.loss)[-1])) for curve in curves if curve.run == name
            ]
            last = (points[-1].tokens, points[-1].loss) if points else max(tails)
            size = next((size_of(r) for r in points), 0.0)
            ends.append(
                (float(last[0]), float(last[1]), format_size(size) if size else plain(name, 14), colour)
            )
        shown = [r.tokens for points in rungs.values() for r in points] or [c.tokens[-1] for c in curves]
        left = min([*shown, *(float(c.tokens[min(len(c.tokens) - 1, 8)]) for c in curves)])
        axes.set_xlim(left / 1.1, max(shown) * 1.25)
        lines = list(axes.get_lines())
        visible = np.concatenate(
            [
                np.asarray(line.get_ydata(), dtype=float)[np.asarray(line.get_xdata(), dtype=float) >= left]
                for line in lines
            ]
            + [np.array([r.loss for points in rungs.values() for r in points])]
        )
        low, high = float(visible.min()), float(np.quantile(visible, 0.995))
        axes.set_ylim(low / 1.04, high * 1.04)
        if predictor is not None:
            for name in names:
                if rungs[name]:
                    _law_line(axes, predictor, rungs[name], style[name][0], max(shown))
        log_sizes(axes, "x")
        log_losses(axes)
        axes.set_xlabel("tokens trained on, D")
        axes.set_ylabel("loss, nats per token")
        label_ends(axes, ends[:MOST_NAMED])
        handles = [
            Line2D([], [], color=INK, linewidth=1.5, label="training"),
            Line2D([], [], color=INK, linewidth=0.9, alpha=0.55, label="cooldown"),
            Line2D([], [], color=INK, marker="o", markersize=5, linestyle="", label="held-out, annealed"),
        ]
        if predictor is not None:
            handles.append(Line2D([], [], color=INK, linewidth=1, linestyle=(0, (4, 2)), label="law"))
        axes.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=4,
            columnspacing=1.1,
            handlelength=1.5,
            borderaxespad=0.1,
        )
    every = [r for points in rungs.values() for r in points]
    if every:
        best = min(every, key=lambda r: r.loss)
        title = (
            f"{_count(len(names), 'run')}, {_count(len(every), 'annealed point')}; "
            f"the best is {format_size(size_of(best))} parameters "
            f"on {format_size(best.tokens)} tokens: loss {best.loss:.3g}"
        )
    else:
        title = f"{_count(len(names), 'run')}, none annealed yet: lines are training loss"
    return conclude(figure, title)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _law_line(axes: Axes, predictor: Predictor, points: Sequence[Run], colour: str, last: float) -> None:
    """The law at that run's N, over the tokens of its rungs."""
    size = size_of(points[0], predictor.convention)
    grid = np.geomspace(
        points[0].tokens / 1.3, max(points[-1].tokens * 1.15, min(last, points[-1].tokens)), 60
    )
    loss = np.asarray(bare(predictor).predict(np.full_like(grid, size), grid, force=True).loss)
    axes.plot(grid, loss, color=colour, linewidth=1.0, linestyle=(0, (4, 2)), zorder=3)


def cost(work: Sequence[Work], planned: Mapping[str, float] | None = None) -> Figure:
    """Training FLOPs booked in the ledger by run, trunk and cooldowns apart; a tick where a plan says what was meant.

    Raises:
        BadInput: the ledger is empty.
    """
    if not work:
        raise BadInput("the ledger has 0 entries; the figure needs 1")
    names = sorted({w.run for w in work}, key=lambda n: (sum(w.flops for w in work if w.run == n), n))
    trunk = [sum(w.flops for w in work if w.run == n and not w.part.startswith("rung")) for n in names]
    cool = [sum(w.flops for w in work if w.run == n and w.part.startswith("rung")) for n in names]
    total, seconds = sum(trunk) + sum(cool), sum(w.wall_s for w in work)
    with house():
        figure, (axes,) = new_figure(height=1.5 + 0.34 * len(names))
        axes.barh(range(len(names)), trunk, height=0.55, color=BLUE, label="trunk")
        axes.barh(range(len(names)), cool, left=trunk, height=0.55, color=ORANGE, label="cooldowns")
        labels = []
        for y, name in enumerate(names):
            spent = trunk[y] + cool[y]
            share = f"{100 * spent / total:.0f} %"
            axes.annotate(
                f"{format_size(spent)}, {share}",
                (spent, y),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
            labels.append(plain(name, 26))
            meant = (planned or {}).get(name)
            if meant:
                axes.plot(
                    [meant, meant],
                    [y - 0.42, y + 0.42],
                    color=INK,
                    linewidth=2,
                    label="planned"
                    if not any(line.get_label() == "planned" for line in axes.get_lines())
                    else None,
                )
        axes.set_yticks(range(len(names)), labels)
        axes.set_xlim(0, max(t + c for t, c in zip(trunk, cool, strict=True)) * 1.3)
        axes.xaxis.set_major_formatter(lambda value, _: format_size(value))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("training FLOPs, exact")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.1, handlelength=1.3)
    cooling = sum(cool) / total
    return conclude(
        figure,
        f"Booked {format_size(total)} FLOPs in {format_duration(seconds)} of training; "
        f"cooldowns took {100 * cooling:.0f} %",
    )


def throughput(curves: Sequence[Curve], runs: Sequence[Run]) -> Figure:
    """Tokens per second of each run: median, and the range of the middle 80 %.

    Raises:
        BadInput: no curve was timed.
    """
    timed = {
        name: np.concatenate([c.tokens_per_s for c in curves if c.run == name])
        for name in {c.run for c in curves}
    }
    timed = {name: speeds for name, speeds in timed.items() if len(speeds)}
    if not timed:
        raise BadInput("no run was timed; metrics.jsonl or timing.jsonl holds tokens_per_s")
    names = [name for name in ordered(curves, runs) if name in timed]
    with house():
        figure, (axes,) = new_figure(height=1.2 + 0.36 * len(names))
        for y, name in enumerate(reversed(names)):
            low, middle, high = np.quantile(timed[name], [0.1, 0.5, 0.9])
            axes.plot((low, high), (y, y), color=BLUE, linewidth=6, alpha=0.3, solid_capstyle="butt")
            point = axes.scatter([middle], [y], s=44, color=BLUE, zorder=3)
            tips(
                point,
                [
                    f"{name}\nmedian {format_size(middle)} tokens/s; middle 80 % {format_size(low)} to {format_size(high)}"
                ],
            )
            axes.annotate(
                format_size(middle),
                (middle, y),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axes.set_yticks(range(len(names)), [plain(name, 26) for name in reversed(names)])
        axes.set_ylim(-0.6, len(names) - 0.3)
        log_sizes(axes, "x")
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_edgecolor(MUTED)
        axes.set_xlabel("tokens per second; bar: middle 80 %")
    fast, slow = (float(np.median(timed[name])) for name in (names[0], names[-1]))
    if len(names) == 1:
        return conclude(figure, f"Trained at {format_size(fast)} tokens per second")
    return conclude(
        figure,
        f"From the smallest to the largest member, speed went from {format_size(fast, 2)} "
        f"to {format_size(slow, 2)} tokens per second",
    )
