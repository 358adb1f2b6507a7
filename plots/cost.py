"""The work that was booked, beside what was planned."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from families.errors import BadInput
from families.units import format_duration, format_size
from scaling.ledger import Work
from scaling.thin import MOST_BARS

from .style import (
    BLUE,
    INK,
    ORANGE,
    conclude,
    house,
    legend_above,
    name_rows,
    new_figure,
    plain,
)


def _spent(work: Sequence[Work]) -> dict[str, tuple[float, float]]:
    """Run to the FLOPs of its trunk and of its cooldowns."""
    spent: dict[str, tuple[float, float]] = {}
    for w in work:
        trunk, cool = spent.get(w.run, (0.0, 0.0))
        rung = w.part.startswith("rung")
        spent[w.run] = (trunk, cool + w.flops) if rung else (trunk + w.flops, cool)
    return spent


def cost(work: Sequence[Work], planned: Mapping[str, float] | None = None) -> Figure:
    """Training FLOPs booked in the ledger by run, trunk and cooldowns apart; a tick where a plan says what was meant.

    Of very many runs the costliest have a bar each, and the others one together.

    Raises:
        BadInput: the ledger is empty.
    """
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
    with house():
        figure, (axes,) = new_figure(height=1.5 + 0.34 * len(names))
        axes.barh(range(len(names)), trunk, height=0.55, color=BLUE, label="trunk")
        axes.barh(range(len(names)), cool, left=trunk, height=0.55, color=ORANGE, label="cooldowns")
        labels, told = [], False
        for y, name in enumerate(names):
            both = trunk[y] + cool[y]
            share = f"{100 * both / total:.0f} %"
            axes.annotate(
                f"{format_size(both)}, {share}",
                (both, y),
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
                    label="planned" if not told else None,
                )
                told = True
        name_rows(axes, labels)
        axes.set_xlim(0, max(t + c for t, c in zip(trunk, cool, strict=True)) * 1.3)
        axes.xaxis.set_major_formatter(lambda value, _: format_size(value))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("training FLOPs, exact")
        handles, said = axes.get_legend_handles_labels()
        order = sorted(range(len(said)), key=lambda i: ("trunk", "cooldowns", "planned").index(said[i]))
        legend_above(axes, [handles[i] for i in order], columns=3, handlelength=1.3)
    cooling = sum(cool) / total
    wanted = [planned[name] for name in names if planned and name in planned]
    against = f" of {format_size(sum(wanted))} planned" if len(wanted) == len(names) else ""
    return conclude(
        figure,
        f"Booked {format_size(total)} FLOPs{against} in {format_duration(seconds)} of training; "
        f"cooldowns took {100 * cooling:.0f} %",
    )
