"""scaling tune: the fastest settings for this machine."""

from typing import TYPE_CHECKING, Annotated

import typer

from families.units import BadInput, format_duration, format_size, parse_count

from .output import JsonOption, echo, format_table, log, print_json

if TYPE_CHECKING:
    from train.tune.probe import Tuning
    from train.tune.tuner import ScalingCurve

TUNE_EPILOG = "Example: scaling tune family=gpt2-medium batch_size=16 devices=1,2"

_KEYS = "Keys of scaling train: family (required); batch_size, n_positions, vocab_size, dtype, compile, attention, tokens, …"


def tune(
    words: Annotated[list[str], typer.Argument(metavar="KEY=VALUE…", help=_KEYS)],
    devices: Annotated[
        str | None,
        typer.Option("--devices", help="Numbers of devices to measure, like 1,2 (default: one process)."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", help="Memory limit of a run in bytes, like 8e9 (default: free memory)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the fastest settings for training a model here at a fixed global batch; train uses them from then on."""
    from train.backend import BackendRequest
    from train.loop import pick_device
    from train.settings import TextFacts, settings_of
    from train.tune.summary import curve_facts, tuning_config, tuning_facts
    from train.tune.tuner import check_counts, scaling_curve
    from train.tune.tuner import tune as search

    from .run_options import merge

    counts = _counts(devices)
    config = tuning_config(merge, words)
    device = pick_device(config.device)
    settings = settings_of(config, TextFacts(), device)
    if counts:
        check_counts(counts, settings.batch_size, device)
    room = None if memory is None else float(parse_count(memory, "memory"))
    tuning = search(settings, BackendRequest.of(config), device=device, room=room, log=log)
    curve = scaling_curve(tuning, counts, log) if counts else None
    if as_json:
        print_json({**tuning_facts(tuning), **({} if curve is None else {"curve": curve_facts(curve)})})
        return
    _print(tuning)
    if curve is not None:
        _print_curve(tuning, curve, config.tokens)


_DIGITS = 9  # of a number of devices


def _counts(text: str | None) -> list[int]:
    if text is None:
        return []
    parts = text.split(",")
    if not all(part.strip().isdecimal() and len(part) <= _DIGITS for part in parts):
        raise BadInput(f"devices is {text!r}; write numbers separated by commas, like 1,2")
    return [int(part) for part in parts]


def _print(tuning: "Tuning") -> None:
    from train.tune.summary import setting_rows, tuning_facts

    from ..machine import MachineFile

    facts = tuning_facts(tuning)
    spaces = [
        [row["space"], str(row["experiments"]), f"{row['best']:.3f}", row["best_name"]]
        for row in facts["spaces"]
    ]
    echo(f"{facts['member']}: global batch of {facts['batch_size']} sequences")
    echo(format_table(["tuning space", "experiments", "best samples/s", "best name"], spaces))
    echo()
    settings = [
        [row.name, f"{row.samples_per_s:.3f}", f"{row.ratio:.2f}", row.setting]
        for row in setting_rows(tuning)
    ]
    echo(format_table(["", "samples/s", "ratio", "setting"], settings))
    echo()
    step, memory = facts["step_seconds"], facts["memory"]
    echo(
        f"step: predicted {step['predicted']:.3f} s, measured {step['measured']:.3f} s "
        f"({step['predicted'] / step['measured'] - 1:+.1%}); memory: predicted {memory['predicted'] / 1e9:.2f} GB, "
        f"measured {memory['measured'] / 1e9:.2f} GB ({memory['predicted'] / memory['measured'] - 1:+.1%})"
    )
    seconds = format_duration(facts["tuning_seconds"])
    echo(f"{facts['probes']} probes in {seconds}; saved in {MachineFile.path()}")


def _print_curve(tuning: "Tuning", curve: "ScalingCurve", tokens: int) -> None:
    """Print the hours of a run on 1, 2, 4 and 8 devices."""
    from train.tune.summary import device_rows

    rows, steps = device_rows(tuning, curve, tokens)
    cells = [
        [str(row.devices), f"{row.seconds:.3f}", f"{row.hours:,.2f}", f"{row.efficiency:.0%}", row.source]
        for row in rows
    ]
    kind = "GPUs" if tuning.device == "cuda" else f"processes of {curve.threads} CPU thread(s)"
    echo()
    echo(f"{format_size(tokens)} tokens, {steps:,} steps, on {kind}")
    echo(format_table(["devices", "s/step", "hours", "efficiency", "source"], cells, left=0))
    best, alone = curve.fastest, tuning.step_seconds
    faster = best if curve.measured[best] < alone else 1
    echo(
        f"doubling saves less than 10 % beyond {curve.model.pays_until()} devices; one process takes {alone:.3f} s, "
        f"{best} of these {curve.measured[best]:.3f} s: devices={faster} is faster"
    )
