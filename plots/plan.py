"""A plan as a picture: what each size reaches for the budget, and which are about as good as the best."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from families.units import format_size
from scaling.planning.planfile import Choice, PlanFile
from scaling.planning.query import IsoFlop
from scaling.published_runs import PUBLISHED_RUNS, PublishedRuns
from scaling.runs import Run
from scaling.stats import Array

from .style import (
    BLUE,
    GREEN,
    MUTED,
    ORANGE,
    PURPLE,
    legend_above,
    log_losses,
    log_sizes,
    new_figure,
    set_title,
    style_context,
    tooltips,
)

WIDE = 12.0  # sizes shown: this factor to either side of the recommended

BESIDE = 5.0  # and this beyond the smallest and the largest of several budgets

HIGH = (
    0.5  # nats above the highest loss drawn at which a published run is still shown, the axis stretched to it
)

DASHES: tuple[Literal["--", ":", "-."], ...] = ("--", ":", "-.")

SHAPES = {"composer-gpt2": "^", "gpt2": "s", "cerebras-gpt": "v"}


def planned(plan: PlanFile, curves: Sequence[IsoFlop], runs: Sequence[Run] = ()) -> Figure:
    """IsoFLOP curves of a plan's candidates, the frontier, the indifference band, own and published runs, and what
    other laws would choose.

    Losses in nats per token, by the plan's law; another law's choice is shown by its size alone, since its losses are
    of another text. Published runs are hollow, each on its own text: under published laws and with a vocabulary like
    theirs. Under a law of one dial there is the frontier alone.
    """
    best = plan.recommended
    if best is None:
        return set_title(new_figure()[0], "The plan recommends nothing")
    with style_context():
        figure, (axes,) = new_figure(height=4.1)
        low, high = _sizes(plan, best)
        losses = [best.loss, *(rung.choice.loss for rung in plan.ladder)]
        spent = best.flops + best.inference_flops
        visible = []
        for curve in curves:
            seen = (curve.params >= low) & (curve.params <= high)
            if not seen.any():
                continue
            main = abs(curve.flops / spent - 1) < 1e-6
            axes.plot(
                curve.params[seen],
                curve.loss[seen],
                color=BLUE if main else MUTED,
                linewidth=2.0 if main else 1.0,
                marker="o",
                markersize=3.0 if main else 2.0,
            )
            losses.extend((float(curve.loss[seen].min()), float(curve.loss[seen].min()) + 0.25))
            visible.append((curve.flops, curve.params[seen], curve.loss[seen], BLUE if main else MUTED))
        frontier = [choice for choice in plan.frontier if low <= choice.params <= high] if not curves else []
        if frontier:
            axes.plot(
                [c.params for c in frontier], [c.loss for c in frontier], color=BLUE, marker="o", markersize=4
            )
            losses.extend(c.loss for c in frontier)
        handles = _marks(axes, plan, best, runs, low, high)
        for found in published_near(plan, (low, high), (min(losses), max(losses))):
            handles.append(_published(axes, found, low))
            losses.extend(run.loss for run in found.runs)
        axes.set_xlim(low, high)
        pad = 0.08 * (max(losses) - min(losses)) or 0.05
        axes.set_ylim(min(losses) - pad, max(losses) + pad)
        for flops, params, loss, colour in visible:
            _budget(axes, flops, params, loss, colour, max(losses) - pad)
        log_sizes(axes, "x")
        log_losses(axes, "y")
        axes.set_xlabel("parameters, N")
        axes.set_ylabel("expected loss, nats per token")
        legend_above(axes, handles, columns=3 if len(handles) <= 3 else 2, columnspacing=1.1)
    return set_title(figure, _title(plan, best))


def _sizes(plan: PlanFile, best: Choice) -> tuple[float, float]:
    """Parameters shown: around the recommended, or around all the rungs of several budgets."""
    if not plan.ladder:
        return best.params / WIDE, best.params * WIDE
    sizes = [rung.choice.params for rung in plan.ladder]
    return min(sizes) / BESIDE, max(sizes) * BESIDE


def _budget(axes: Axes, flops: float, params: Array, loss: Array, colour: str, top: float) -> None:
    """A curve's budget, above its right end where it leaves the picture, else beside it."""
    inside = np.flatnonzero(loss <= top)
    if len(inside) == 0:
        return
    place = int(inside[-1])
    ends = place == len(params) - 1 and params[place] < axes.get_xlim()[1] / BESIDE
    axes.annotate(
        f"{format_size(flops, 2)} FLOPs",
        (float(params[place]), float(loss[place])),
        color=colour,
        fontsize=7.5,
        ha="left" if ends else "right",
        va="center" if ends else "bottom",
        xytext=(6, 0) if ends else (-3, 6),
        textcoords="offset points",
    )


def _marks(
    axes: Axes, plan: PlanFile, best: Choice, runs: Sequence[Run], low: float, high: float
) -> list[Line2D]:
    """The band, the recommended, other laws' choices and runs of one's own; returns the legend's lines."""
    handles = [Line2D([], [], color=ORANGE, marker="*", linestyle="", markersize=10, label=best.member)]
    if plan.band is not None:
        top = max(member.choice.loss for member in plan.band.members)
        nats = plan.band.within_nats
        width = top - best.loss if nats is None else nats
        share = 100 * (plan.band.within_share or 0.0)
        axes.axhspan(best.loss, best.loss + width, color=GREEN, alpha=0.18, linewidth=0)
        points = axes.scatter(
            [member.choice.params for member in plan.band.members],
            [member.choice.loss for member in plan.band.members],
            s=34, color=GREEN, edgecolor="none", zorder=4,
        )  # fmt: skip
        tooltips(points, [f"{member.choice.member}: +{member.nats:.4f} nats" for member in plan.band.members])
        within = f"within {share:.2g} % of the cost" if nats is None else f"within {nats:.2g} nats"
        handles.append(Line2D([], [], color=GREEN, marker="o", linestyle="", markersize=6, label=within))
    star = axes.scatter(
        [best.params], [best.loss], s=150, marker="*", color=ORANGE, edgecolor="none", zorder=6
    )
    tooltips(star, [f"{best.member}: {best.loss:.4f} nats per token on {format_size(best.tokens)} tokens"])
    if plan.ladder:
        rungs = [rung.choice for rung in plan.ladder]
        axes.plot(
            [rung.params for rung in rungs], [rung.loss for rung in rungs],
            color=ORANGE, marker="*", markersize=8, linewidth=1.0, zorder=5,
        )  # fmt: skip
    unwanted = [
        choice
        for choice in plan.frontier
        if not choice.preferred_by
        and low < choice.params < high
        and abs(choice.flops / best.flops - 1) < 1e-6
    ]
    if unwanted:
        rings = axes.scatter(
            [choice.params for choice in unwanted], [choice.loss for choice in unwanted],
            s=42, facecolor="none", edgecolor=BLUE, linewidth=1.0, zorder=3,
        )  # fmt: skip
        tooltips(rings, [f"{choice.member}: Pareto-optimal, and no law prefers it" for choice in unwanted])
        handles.append(
            Line2D([], [], color=BLUE, marker="o", linestyle="", markersize=6, markerfacecolor="none",
                   label="frontier, no law wants it")
        )  # fmt: skip
    for other, dashes in zip(plan.others, cycle(DASHES), strict=False):
        if low < other.choice.params < high:
            axes.axvline(other.choice.params, color=PURPLE, linewidth=1.2, linestyle=dashes, zorder=1)
            handles.append(Line2D([], [], color=PURPLE, linestyle=dashes, label=f"{other.law} would"))
    near = [run for run in runs if run.params is not None and low < run.params < high and run.annealed]
    if near:
        found = axes.scatter(
            [run.params or 0 for run in near], [run.loss for run in near], s=22, color=MUTED, marker="D"
        )
        tooltips(found, [f"{run.run}: {run.loss:.4f} on {format_size(run.tokens)} tokens" for run in near])
        handles.append(Line2D([], [], color=MUTED, marker="D", linestyle="", markersize=4, label="own runs"))
    return handles


def published_near(
    plan: PlanFile, sizes: tuple[float, float], losses: tuple[float, float]
) -> tuple[PublishedRuns, ...]:
    """Published sets, each cut to the runs among the sizes drawn and near the losses; empty where the plan's law is
    one's own fit of another vocabulary.
    """
    if plan.recommended is None or plan.law is None:
        return ()
    own = plan.law.name.endswith(".json")
    cut = []
    for found in PUBLISHED_RUNS.values():
        near = tuple(
            run
            for run in found.runs
            if sizes[0] < run.params < sizes[1]
            and losses[0] - HIGH < run.loss < losses[1] + HIGH
            and not (own and run.spec.vocab_size != plan.recommended.vocab_size)
        )
        if near:
            cut.append(replace(found, runs=near))
    return tuple(cut)


def _published(axes: Axes, found: PublishedRuns, low: float) -> Line2D:
    """A set's runs, hollow and named; returns its line of the legend."""
    shape = SHAPES.get(found.name, "P")
    points = axes.scatter(
        [run.params for run in found.runs],
        [run.loss for run in found.runs],
        s=34, marker=shape, facecolor="none", edgecolor=PURPLE, linewidth=1.1, zorder=5,
    )  # fmt: skip
    tokens = ["" if run.tokens is None else f" on {format_size(run.tokens)} tokens" for run in found.runs]
    tooltips(
        points,
        [
            f"{run.member}: {run.loss:.{found.digits}f} nats per token of {found.text}{on} ({found.title})"
            for run, on in zip(found.runs, tokens, strict=True)
        ],
    )
    for run in found.runs:
        axes.annotate(
            run.member.removeprefix("cerebras-").removeprefix("gpt-"),
            (run.params, run.loss),
            fontsize=6.5,
            color=PURPLE,
            ha="right" if run.params > 2 * low else "left",
            va="top",
            xytext=(-5 if run.params > 2 * low else 5, -1),
            textcoords="offset points",
        )
    return Line2D(
        [], [], color=PURPLE, marker=shape, linestyle="", markersize=5, markerfacecolor="none",
        label=f"{found.name}, {found.text}",
    )  # fmt: skip


def _title(plan: PlanFile, best: Choice) -> str:
    said = f"{format_size(best.flops, 2)} FLOPs: {best.member} on {format_size(best.tokens, 2)} tokens, loss {best.loss:.3g}"
    if plan.band is None:
        return said
    sizes = [member.choice.params for member in plan.band.members]
    return f"{said}; {format_size(min(sizes), 2)} to {format_size(max(sizes), 2)} do about as well"
