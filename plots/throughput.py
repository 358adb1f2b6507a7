"""How fast runs trained, and the share of the device's peak that this is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from families.errors import BadInput
from families.units import format_size
from scaling.hardware import recognise
from scaling.runs import Run

from .curves import ordered
from .seen import Curve
from .style import BLUE, MUTED, conclude, house, log_sizes, name_rows, new_figure, plain, tips


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Tokens per second of a run: median, and the ends of the middle 80 %. flops_per_token: exact, training; None where
    no observation says. mfu: of the median, as a share of `peak`, a device's dense peak named so; None without one.
    """

    run: str
    low: float
    median: float
    high: float
    flops_per_token: float | None = None
    mfu: float | None = None
    peak: str = ""

    @property
    def said(self) -> str:
        """The model's FLOP/s, or its MFU where the peak is known."""
        if self.mfu is not None:
            return f"{100 * self.mfu:.0f} % MFU" if self.mfu >= 0.1 else f"{100 * self.mfu:.1f} % MFU"
        if self.flops_per_token is None:
            return ""
        return f"{flops_per_second(self.median * self.flops_per_token)}"


def flops_per_second(value: float) -> str:
    """As 5.6 GFLOP/s."""
    for unit, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G")):
        if value >= unit:
            return f"{value / unit:.3g} {prefix}FLOP/s"
    return f"{value / 1e6:.3g} MFLOP/s"


def speeds(curves: Sequence[Curve], runs: Sequence[Run]) -> list[Speed]:
    """Of every timed run, smallest first."""
    found = []
    for name in ordered(curves, runs):
        timed = [c.tokens_per_s for c in curves if c.run == name and len(c.tokens_per_s)]
        if not timed:
            continue
        low, middle, high = (float(v) for v in np.quantile(np.concatenate(timed), [0.1, 0.5, 0.9]))
        run = next((r for r in runs if r.run == name and r.compute and r.compute_kind == "exact"), None)
        each = run.compute / run.tokens if run is not None and run.compute else None
        count, device = recognise(run.accelerator) if run is not None and run.accelerator else (1, None)
        mfu, peak = None, ""
        if device is not None and each is not None:
            mfu = middle * each / (count * device.training_peak)
            several = f"{count} × " if count > 1 else ""
            peak = f"{several}{device.name}'s {flops_per_second(device.training_peak)} {device.training_format} dense"
        found.append(
            Speed(run=name, low=low, median=middle, high=high, flops_per_token=each, mfu=mfu, peak=peak)
        )
    return found


def throughput(curves: Sequence[Curve], runs: Sequence[Run]) -> Figure:
    """Tokens per second of each run: median, and the range of the middle 80 %; beside it the MFU, or the model's FLOP/s
    where the device's peak is not known.

    Raises:
        BadInput: no curve was timed.
    """
    timed = speeds(curves, runs)
    if not timed:
        raise BadInput("no run was timed; metrics.jsonl or timing.jsonl holds tokens_per_s")
    with house():
        figure, (axes,) = new_figure(height=1.2 + 0.36 * len(timed))
        for y, speed in enumerate(reversed(timed)):
            axes.plot(
                (speed.low, speed.high), (y, y), color=BLUE, linewidth=6, alpha=0.3, solid_capstyle="butt"
            )
            point = axes.scatter([speed.median], [y], s=44, color=BLUE, zorder=3)
            tips(
                point,
                [
                    f"{speed.run}\nmedian {format_size(speed.median)} tokens/s; "
                    f"middle 80 % {format_size(speed.low)} to {format_size(speed.high)}"
                    + (f"\n{speed.said}" if speed.said else "")
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
                speed.said,
                (1.015, y),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8,
                annotation_clip=False,
            )
        name_rows(axes, [plain(speed.run, 26) for speed in reversed(timed)])
        axes.set_ylim(-0.6, len(timed) - 0.3)
        log_sizes(axes, "x")
        axes.spines["left"].set_edgecolor(MUTED)
        axes.set_xlabel("tokens per second; bar: middle 80 %")
    return conclude(figure, _speed_title(timed))


def _speed_title(timed: Sequence[Speed]) -> str:
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
