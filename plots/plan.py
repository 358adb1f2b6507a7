"""Figure of a plan: the loss of each size for the budget, and the sizes about as good as the best."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from families.units import format_size
from scaling.planning.planfile import Choice, PlanFile
from scaling.planning.query import IsoFlopCurve
from scaling.published_runs import PUBLISHED_RUNS, PublishedRuns
from scaling.runs import Run
from scaling.stats import Array, format_loss

from .style import (
    BLUE,
    GREEN,
    MUTED,
    ORANGE,
    PURPLE,
    Plot,
    legend_above,
    log_losses,
    log_sizes,
    new_figure,
    set_title,
    style_context,
    tooltips,
)

SIZE_FACTOR = 12.0  # sizes shown: this factor to either side of the recommended
LADDER_FACTOR = 5.0  # or this factor beyond the smallest and the largest of several budgets
MANY = 400  # shapes of a curve drawn one by one
LOSS_MARGIN = 0.5  # nats beyond the losses drawn within which a published run is still shown
DASHES: tuple[Literal["--", ":", "-."], ...] = ("--", ":", "-.")
MARKER_OF_SET = {"composer-gpt2": "^", "gpt2": "s", "cerebras-gpt": "v"}


def planned(
    plan: PlanFile, curves: Sequence[IsoFlopCurve], runs: Sequence[Run] = (), *, published: bool = False
) -> Plot:
    """Expected loss against size for a plan's budget.

    IsoFLOP curves of the candidates, the frontier, the indifference band, own and published runs, and the sizes that other
    laws prefer. Losses are in nats per token by the plan's law; another law's choice is shown by its size alone, since its
    losses are of another text. A law of one variable has the frontier alone.

    Args:
        plan: the plan.
        curves: isoFLOP curves of its candidates.
        runs: own runs, on the text of the law.
        published: show published runs too, as hollow markers, though each set is of another text; under a fitted law those
            of the same vocabulary.
    """
    best = plan.recommended
    header = ("member", "params", "tokens", "flops", "loss", "within_band")
    if best is None:
        return Plot(
            figure=set_title(new_figure()[0], "The plan recommends no member"), header=header, rows=()
        )
    with style_context():
        figure, (axes,) = new_figure(height=4.1)
        low, high = _sizes(plan, best)
        losses = [best.loss, *(rung.choice.loss for rung in plan.ladder)]
        spent = plan.spent(best)
        labelled = []
        for curve in curves:
            inside = (curve.params >= low) & (curve.params <= high)
            if not inside.any():
                continue
            main = abs(curve.flops / spent - 1) < 1e-6
            axes.plot(
                *_lowest(curve.params[inside], curve.loss[inside]),
                color=BLUE if main else MUTED,
                linewidth=2.0 if main else 1.0,
            )
            losses.extend((float(curve.loss[inside].min()), float(curve.loss[inside].min()) + 0.25))
            labelled.append((curve.flops, curve.params[inside], curve.loss[inside], BLUE if main else MUTED))
        frontier = [choice for choice in plan.frontier if low <= choice.params <= high] if not curves else []
        if frontier:
            axes.plot([c.params for c in frontier], [c.loss for c in frontier], color=BLUE, linewidth=2.0)
            losses.extend(c.loss for c in frontier)
        handles = _draw_marks(axes, plan, best, runs, low, high)
        near = published_near(plan, (low, high), (min(losses), max(losses))) if published else ()
        for elsewhere in near:
            handles.append(_draw_published(axes, elsewhere, low))
            losses.extend(run.loss for run in elsewhere.runs)
        axes.set_xlim(low, high)
        pad = 0.08 * (max(losses) - min(losses)) or 0.05
        axes.set_ylim(min(losses) - pad, max(losses) + pad)
        for flops, params, loss, colour in labelled:
            _label_budget(axes, flops, params, loss, colour, max(losses) - pad)
        log_sizes(axes, "x")
        log_losses(axes, "y")
        axes.set_xlabel("parameters, N")
        axes.set_ylabel("expected loss, nats per token")
        legend_above(axes, handles, columns=3 if len(handles) <= 3 else 2, columnspacing=1.1)
    band = {member.choice.member for member in plan.band.members} if plan.band else set()
    return Plot(
        figure=set_title(figure, _title(plan, best)),
        header=header,
        rows=tuple(
            (c.member, c.params, c.tokens, c.flops, c.loss, c.member in band)
            for c in plan.frontier or (best,)
        ),
    )


def _lowest(params: Array, loss: Array) -> tuple[Array, Array]:
    """The points of a curve; of thousands of shapes the best in each of 200 steps of size, as a line shows."""
    if len(params) <= MANY:
        return params, loss
    edges = np.linspace(float(np.log(params[0])), float(np.log(params[-1])), 200)
    steps = np.digitize(np.log(params), edges)
    best = [
        rows[np.argmin(loss[rows])] for rows in (np.flatnonzero(steps == step) for step in np.unique(steps))
    ]
    return params[best], loss[best]


def _envelope(sizes: Sequence[float], losses: Sequence[float]) -> tuple[Array, Array]:
    """Points of a band that no other between them and the best undercuts: a line without the teeth of worse shapes."""
    size, loss = np.asarray(sizes, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    best = int(np.argmin(loss))
    kept = np.concatenate(
        [
            loss[: best + 1] <= np.minimum.accumulate(loss[: best + 1]),
            loss[best + 1 :] <= np.minimum.accumulate(loss[best + 1 :][::-1])[::-1],
        ]
    )
    return size[kept], loss[kept]


def _sizes(plan: PlanFile, best: Choice) -> tuple[float, float]:
    """Range of parameters shown: around the recommended, or around the choices of several budgets."""
    if not plan.ladder:
        return best.params / SIZE_FACTOR, best.params * SIZE_FACTOR
    sizes = [rung.choice.params for rung in plan.ladder]
    return min(sizes) / LADDER_FACTOR, max(sizes) * LADDER_FACTOR


def _label_budget(axes: Axes, flops: float, params: Array, loss: Array, colour: str, top: float) -> None:
    """Write a curve's budget above the point where it leaves the axes, else at its right end."""
    inside = np.flatnonzero(loss <= top)
    if len(inside) == 0:
        return
    last = int(inside[-1])
    ends = last == len(params) - 1 and params[last] < axes.get_xlim()[1] / LADDER_FACTOR
    axes.annotate(
        f"{format_size(flops, 2)} FLOPs",
        (float(params[last]), float(loss[last])),
        color=colour,
        fontsize=7.5,
        ha="left" if ends else "right",
        va="center" if ends else "bottom",
        xytext=(6, 0) if ends else (-3, 6),
        textcoords="offset points",
    )


def _draw_marks(
    axes: Axes, plan: PlanFile, best: Choice, runs: Sequence[Run], low: float, high: float
) -> list[Line2D]:
    """Draw the band, the recommended choice, other laws' choices and own runs; return the legend's handles."""
    handles = [Line2D([], [], color=ORANGE, marker="*", linestyle="", markersize=10, label=best.member)]
    if plan.band is not None:
        top = max(member.choice.loss for member in plan.band.members)
        nats = plan.band.within_nats
        width = top - best.loss if nats is None else nats
        share = 100 * (plan.band.within_share or 0.0)
        axes.axhspan(best.loss, best.loss + width, color=GREEN, alpha=0.18, linewidth=0)
        members = sorted(plan.band.members, key=lambda member: member.choice.params)
        sizes, reached = [one.choice.params for one in members], [one.choice.loss for one in members]
        axes.plot(*_envelope(sizes, reached), color=GREEN, linewidth=5, solid_capstyle="round", zorder=4)
        points = axes.scatter(sizes, reached, s=34, color=GREEN, alpha=0.0, zorder=4)  # for the hover alone
        tooltips(points, [f"{member.choice.member}: +{member.nats:.4f} nats" for member in members])
        within = f"within {share:.2g} % of the cost" if nats is None else f"within {nats:.2g} nats"
        handles.append(Line2D([], [], color=GREEN, linewidth=5, solid_capstyle="round", label=within))
    star = axes.scatter(
        [best.params], [best.loss], s=150, marker="*", color=ORANGE, edgecolor="none", zorder=6
    )
    tooltips(
        star, [f"{best.member}: {format_loss(best.loss)} nats per token on {format_size(best.tokens)} tokens"]
    )
    if plan.ladder:
        rungs = [rung.choice for rung in plan.ladder]
        axes.plot(
            [rung.params for rung in rungs], [rung.loss for rung in rungs],
            color=ORANGE, marker="*", markersize=8, linewidth=1.0, zorder=5,
        )  # fmt: skip
    unpreferred = [
        choice
        for choice in plan.frontier
        if not choice.preferred_by
        and low < choice.params < high
        and abs(choice.flops / best.flops - 1) < 1e-6
    ]
    if unpreferred:
        points = axes.scatter(  # on the curve, for the hover alone
            [choice.params for choice in unpreferred], [choice.loss for choice in unpreferred],
            s=42, color=BLUE, alpha=0.0, zorder=3,
        )  # fmt: skip
        tooltips(points, [f"{choice.member}: Pareto-optimal, preferred by no law" for choice in unpreferred])
    for other, dashes in zip(plan.others, cycle(DASHES), strict=False):
        if low < other.choice.params < high:
            axes.axvline(other.choice.params, color=PURPLE, linewidth=1.2, linestyle=dashes, zorder=1)
            handles.append(Line2D([], [], color=PURPLE, linestyle=dashes, label=f"under {other.law}"))
    near = [run for run in runs if run.params is not None and low < run.params < high and run.annealed]
    if near:
        points = axes.scatter(
            [run.params or 0 for run in near], [run.loss for run in near], s=22, color=MUTED, marker="D"
        )
        tooltips(
            points,
            [f"{run.run}: {format_loss(run.loss)} on {format_size(run.tokens)} tokens" for run in near],
        )
        handles.append(Line2D([], [], color=MUTED, marker="D", linestyle="", markersize=4, label="own runs"))
    return handles


def published_near(
    plan: PlanFile, sizes: tuple[float, float], losses: tuple[float, float]
) -> tuple[PublishedRuns, ...]:
    """Published sets, each restricted to the runs near the plan.

    Args:
        plan: with its law and recommended choice; without either the result is empty. Under a fitted law, runs of another
            vocabulary are left out.
        sizes: smallest and largest number of parameters.
        losses: lowest and highest loss drawn, nats per token; runs within LOSS_MARGIN of them are kept.
    """
    if plan.recommended is None or plan.law is None:
        return ()
    fitted = plan.law.name.endswith(".json")
    nearby = []
    for published in PUBLISHED_RUNS.values():
        near = tuple(
            run
            for run in published.runs
            if sizes[0] < run.params < sizes[1]
            and losses[0] - LOSS_MARGIN < run.loss < losses[1] + LOSS_MARGIN
            and not (fitted and run.spec.vocab_size != plan.recommended.vocab_size)
        )
        if near:
            nearby.append(replace(published, runs=near))
    return tuple(nearby)


def _draw_published(axes: Axes, published: PublishedRuns, low: float) -> Line2D:
    """Draw a set's runs as hollow markers with their names; return its handle for the legend."""
    marker = MARKER_OF_SET.get(published.name, "P")
    points = axes.scatter(
        [run.params for run in published.runs],
        [run.loss for run in published.runs],
        s=34, marker=marker, facecolor="none", edgecolor=PURPLE, linewidth=1.1, zorder=5,
    )  # fmt: skip
    tokens = ["" if run.tokens is None else f" on {format_size(run.tokens)} tokens" for run in published.runs]
    tooltips(
        points,
        [
            f"{run.member}: {run.loss:.{published.digits}f} nats per token of {published.text}{on} ({published.title})"
            for run, on in zip(published.runs, tokens, strict=True)
        ],
    )
    for run in published.runs:
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
        [], [], color=PURPLE, marker=marker, linestyle="", markersize=5, markerfacecolor="none",
        label=f"{published.name}, {published.text}",
    )  # fmt: skip


def _title(plan: PlanFile, best: Choice) -> str:
    title = (
        f"{format_size(best.flops, 2)} FLOPs: {best.member} on {format_size(best.tokens, 2)} tokens, "
        f"loss {format_loss(best.loss)}"
    )
    if plan.band is None:
        return title
    sizes = [member.choice.params for member in plan.band.members]
    return f"{title}; {format_size(min(sizes), 2)} to {format_size(max(sizes), 2)} do about as well"
