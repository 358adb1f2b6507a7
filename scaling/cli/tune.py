"""scaling tune key=value …"""

from pathlib import Path
from typing import Annotated, Any

import typer

from families.units import BadInput, format_duration, format_size, parse_count

from .output import JsonOption, YesOption, echo, format_table, log, print_json

# MERGED DOCSTRINGS
# scaling emit: what another program needs to train a member as we would.

TUNE_EPILOG = "Example: scaling tune family=gpt2-medium batch_size=16 --devices 1,2"

_KEYS = "Keys: family (needed); batch_size, n_positions, vocab_size, dtype, compile, attention, threads, tokens, …"

TOKENS_PER_PARAM = 20  # of the run whose hours are shown, where tokens= is not given


def tune(
    words: Annotated[list[str], typer.Argument(metavar="KEY=VALUE…", help=_KEYS)],
    devices: Annotated[
        str | None, typer.Option("--devices", help="Numbers of devices to measure, like 1,2.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", help="Bytes that a run may take, like 8e9 (default: what is free)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the fastest way to run a member on this machine at a fixed global batch, and remember it."""
    from train.backend import BackendRequest
    from train.config import TrainConfig
    from train.loop import pick_device
    from train.settings import TextFacts, settings_of
    from train.tune.tuner import check_counts, scaling_curve
    from train.tune.tuner import tune as search

    from .run_options import merge

    counts = _counts(devices)
    config = _config(merge, TrainConfig, words)
    device = pick_device(config.device)
    settings = settings_of(config, TextFacts(), device)
    if counts:
        check_counts(counts, settings.batch_size, device)
    room = None if memory is None else float(parse_count(memory, "memory"))
    tuning = search(settings, BackendRequest.of(config), device=device, room=room, log=log)
    curve = scaling_curve(tuning, counts, log) if counts else None
    if as_json:
        print_json({**_facts(tuning), **({} if curve is None else {"curve": _curve_facts(curve)})})
        return
    _print(tuning)
    if curve is not None:
        _print_curve(tuning, curve, config.tokens)


def _counts(text: str | None) -> list[int]:
    if text is None:
        return []
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise BadInput(f"devices is {text!r}; write numbers separated by commas, like 1,2")
    return [int(part) for part in parts]


def _config(merge: Any, kind: Any, words: list[str]) -> Any:
    """A run without text; its tokens default to so many per parameter."""
    from families import params

    if any(word.startswith("tokens=") for word in words):
        return merge(kind, words, data="none")
    first = merge(kind, words, data="none", tokens=10**9)
    return merge(kind, words, data="none", tokens=TOKENS_PER_PARAM * params(first.spec()))


def _facts(tuning: Any) -> dict[str, Any]:
    from train.tune.model import space_rows

    picked, seen, batch = tuning.picked, tuning.verified, tuning.batch
    return {
        "member": tuning.settings.member,
        "batch_size": batch,
        "best": picked.name,
        "micro_batch": picked.micro,
        "engine": picked.model.way.engine.model_dump(),
        "checkpointing": picked.model.way.checkpointing,
        "probes": tuning.probes,
        "experiments": len(tuning.tried),
        "tuning_seconds": tuning.seconds,
        "step_seconds": {"predicted": picked.step, "measured": seen.step},
        "memory": {"predicted": picked.memory, "measured": seen.probed.memory},
        "samples_per_s": {
            "baseline": tuning.baseline.samples_per_s(batch),
            "hand_tuned_predicted": None if tuning.hand is None else batch / tuning.hand.step,
            "tuned": batch / seen.step,
        },
        "spaces": [
            {"space": row.space, "experiments": row.experiments, "best": row.best, "best_name": row.best_name}
            for row in space_rows(tuning.tried, batch)
        ],
    }


def _print(tuning: Any) -> None:
    from ..machine import MachineFile

    facts = _facts(tuning)
    rows = [
        [row["space"], str(row["experiments"]), f"{row['best']:.3f}", row["best_name"]]
        for row in facts["spaces"]
    ]
    echo(f"{facts['member']}: {facts['batch_size']} sequences a step, whatever the way")
    echo(format_table(["tuning space", "experiments", "best samples/s", "best name"], rows))
    echo()
    rate, seen = facts["samples_per_s"], facts["step_seconds"]
    plain, way = tuning.baseline, tuning.picked.model.way
    settings = [
        (
            "baseline",
            rate["baseline"],
            f"{plain.way.engine.name} {plain.way.name(plain.micro, tuning.batch)}",
        ),
        ("tuned", rate["tuned"], f"{way.engine.name} {facts['best']}"),
    ]
    if tuning.hand is not None:
        hand = f"{plain.way.engine.name} {tuning.hand.name}"
        settings.insert(1, ("hand-tuned (predicted)", rate["hand_tuned_predicted"], hand))
    ratios = [value / rate["baseline"] if rate["baseline"] else float("nan") for _, value, _ in settings]
    lines = [
        [what, f"{value:.3f}", f"{ratio:.2f}", name]
        for (what, value, name), ratio in zip(settings, ratios, strict=True)
    ]
    echo(format_table(["", "samples/s", "ratio", "setting"], lines))
    echo()
    memory = facts["memory"]
    echo(
        f"step: predicted {seen['predicted']:.3f} s, measured {seen['measured']:.3f} s "
        f"({seen['predicted'] / seen['measured'] - 1:+.1%}); memory: predicted {memory['predicted'] / 1e9:.2f} GB, "
        f"measured {memory['measured'] / 1e9:.2f} GB ({memory['predicted'] / memory['measured'] - 1:+.1%})"
    )
    echo(
        f"{facts['probes']} probes in {format_duration(facts['tuning_seconds'])}; kept in {MachineFile.path()}"
    )


def _curve_facts(curve: Any) -> dict[str, Any]:
    return {
        "threads_per_device": curve.threads,
        "measured_seconds": {str(count): seconds for count, seconds in curve.measured.items()},
        "floor_s": curve.model.floor,
        "parallel_s": curve.model.parallel,
        "exponent": curve.model.exponent,
        "pays_until": curve.model.pays_until(),
    }


def _fastest(alone: float, shared: float, count: int) -> str:
    return f"devices={count} is faster" if shared < alone else "devices=1 is faster"


def _print_curve(tuning: Any, curve: Any, tokens: int) -> None:
    """Hours of a run on 1, 2, 4, 8 devices."""
    from ..schedule import whole_steps

    steps = whole_steps(tokens, tuning.settings.batch_tokens)
    rows = []
    for count in sorted({1, 2, 4, 8, *curve.measured}):
        measured = curve.measured.get(count)
        seconds = measured if measured is not None else curve.model.seconds(count)
        kind = "measured" if measured is not None else "predicted"
        efficiency = f"{curve.model.efficiency(count):.0%}"
        rows.append([str(count), f"{seconds:.3f}", f"{steps * seconds / 3600:,.2f}", efficiency, kind])
    what = "GPUs" if tuning.device == "cuda" else f"processes of {curve.threads} CPU thread(s)"
    echo()
    echo(f"{format_size(tokens)} tokens, {steps:,} steps, on {what}")
    echo(format_table(["devices", "s/step", "hours", "efficiency", "source"], rows, left=0))
    alone, best = tuning.verified.step, min(curve.measured, key=curve.measured.__getitem__)
    echo(f"a doubling stops saving 10 % beyond {curve.model.pays_until()}; the pick in one process takes {alone:.3f} s, "
        f"{best} of these {curve.measured[best]:.3f} s: {_fastest(alone, curve.measured[best], best)}")  # fmt: skip


EMIT_EPILOG = "Example: scaling emit --deepspeed family=gpt2-medium tokens=1B batch_size=512 devices=8 zero=2"


def emit(
    words: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUE…", help="As of scaling train; family and tokens are needed."),
    ],
    deepspeed: Annotated[
        bool, typer.Option("--deepspeed", help="Write DeepSpeed's config JSON, for devices= and zero=, too.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder to write into.")] = Path("emitted"),
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Write a run's Hugging Face config.json, and the config with which DeepSpeed takes the same steps."""
    from train.config import TrainConfig
    from train.model.config import check_config, write_config

    from .run_options import merge

    keys = {word.partition("=")[0] for word in words}
    usual = {
        "data": "stdlib",
        **({"engine": "deepspeed"} if deepspeed else {}),
    }  # no text is read: any will do
    config = merge(TrainConfig, [*words, *(f"{key}={usual[key]}" for key in usual if key not in keys)])
    check_config(config.spec(), out, replace=yes)
    files = {}
    if deepspeed:
        from train.deepspeed_config import write_config_of

        files["deepspeed"], said = write_config_of(config, out, replace=yes)
        log(said)
    files = {"config": write_config(config.spec(), out), **files}
    if as_json:
        print_json({name: str(path) for name, path in files.items()})
    else:
        echo("\n".join(f"wrote {path}" for path in files.values()))
