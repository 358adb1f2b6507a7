"""scaling hardware."""

from typing import Annotated

import typer

from families.errors import BadInput
from families.units import format_duration

from ..hardware import Accelerator, accelerator, known, user_file
from ..planning.devices import TimeModel, fit_times, parse_times
from .show import JsonOption, print_json, say, table

EPILOG = "Example: scaling hardware --times 1=66m40s,2=40m19s,4=32m44s --at 8"


def hardware(
    name: Annotated[str | None, typer.Argument(help="An accelerator's name (default: all).")] = None,
    times: Annotated[
        str | None,
        typer.Option("--times", help="Measured times by number of devices, like 1=66m40s,2=40m19s."),
    ] = None,
    at: Annotated[int, typer.Option("--at", help="With --times: the number of devices to predict.")] = 8,
    as_json: JsonOption = False,
) -> None:
    """Show the accelerators and their dense peaks, or predict a run's time on more devices from measured times."""
    if times is not None:
        model = fit_times(parse_times(times))
        if at < 1:
            raise BadInput(f"at is {at}; it must be at least 1")
        _predict(model, at, as_json)
        return
    shown = [accelerator(name)] if name is not None else list(known().values())
    if as_json:
        print_json({"accelerators": [_facts(entry) for entry in shown], "own": str(user_file())})
        return
    rows = [
        [
            entry.name,
            entry.training_format,
            f"{entry.training_peak / 1e12:g}",
            f"{entry.memory / 1e9:g}",
            f"{entry.bandwidth / 1e9:,.0f}",
            "—" if entry.price is None else f"{entry.price:.2f}",
        ]
        for entry in shown
    ]
    say(table(["accelerator", "format", "TFLOP/s dense", "GB", "GB/s", "USD/hour"], rows, left=2))
    if name is not None:
        say(f"source: {shown[0].source}")
    else:
        say("prices are typical on-demand ones of 2025; `scaling hardware NAME` gives an entry's source")
        say(f"your own: {user_file()}, or the file that $SCALING_HARDWARE names")


def _predict(model: TimeModel, at: int, as_json: bool) -> None:
    enough = model.pays_until()
    if as_json:
        print_json(
            {
                "devices": at,
                "seconds": model.seconds(at),
                "efficiency": model.efficiency(at),
                "pays_until": enough,
                "floor_s": model.floor,
                "parallel_s": model.parallel,
                "exponent": model.exponent,
                "fit_error": model.error,
            }
        )
        return
    say(f"{at} devices: {format_duration(model.seconds(at))}, efficiency {model.efficiency(at):.0%}")
    say(
        f"T(n) = {format_duration(model.floor)} + {format_duration(model.parallel)} · n^-{model.exponent:.2f}, "
        f"within {model.error:.2%} of the measured times"
    )
    say(f"beyond {enough} devices a doubling saves less than 10 % of the time")


def _facts(entry: Accelerator) -> dict[str, object]:
    return {
        "name": entry.name,
        "training_format": entry.training_format,
        "training_peak": entry.training_peak,
        "peak": entry.peak,
        "memory": entry.memory,
        "bandwidth": entry.bandwidth,
        "price": entry.price,
        "source": entry.source,
    }
