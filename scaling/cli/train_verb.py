"""scaling train key=value …"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..paths import open_study
from .output import JsonOption, StudyOption, YesOption, echo, export_models, format_table, log, print_json

TRAIN_EPILOG = "Example: scaling train family=gpt2-52m data=text/ tokens=1B n_positions=512"
_KEYS = (
    "Keys: family, data, tokens (needed); out, seed, tokenizer, rungs, lr, batch_size, schedule, n_positions, init, "
    "epochs, objective, ablate, … A list makes a sweep: lr=1e-3,2e-3 batch_size=8,16."
)


def train(
    words: Annotated[list[str], typer.Argument(metavar="KEY=VALUE…", help=_KEYS)],
    study: StudyOption = Path("study"),
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a member on real text, resumable, and record what it reaches on held-out text."""
    from train.config import TrainConfig
    from train.distributed import check_installed
    from train.sweep import entries, expand

    from .run_options import merge

    asked = entries([(point, merge(TrainConfig, point.words)) for point in expand(words)])
    check_installed(asked[0].config.engine)
    if asked[0].config.device != "auto":  # of all: a sweep is not over devices
        from train.loop import pick_device

        pick_device(asked[0].config.device)
    url = asked[0].config.export
    if url is not None:
        from train.data.remote import check_export

        check_export(url)
    if len(asked) > 1:
        _sweep(asked, study, yes, as_json)
        return
    config = asked[0].config
    if config.devices > 1 and "RANK" not in os.environ:
        from train.workers import run_together

        sys.exit(run_together(sys.argv[1:], config.devices, log))
    rungs = _train(config, study, yes)
    if int(os.environ.get("RANK", "0")):
        return  # process 0 speaks for all
    if as_json:
        print_json({"rungs": [rung_facts(rung) for rung in rungs]})
    else:
        echo(rung_table(rungs))
    export_models(config.out or study, rungs, url)


def _sweep(asked: Any, study: Path, yes: bool, as_json: bool) -> None:
    from train.lease import stop_on_signals
    from train.sweep import train_many, winners

    from .output import Progress

    open_study(study)
    bar = Progress()
    with stop_on_signals() as stop:
        rungs = train_many(asked, study, yes=yes, stop=stop, tell=log, report=bar.at)
    bar.end()
    best = winners(asked, rungs)
    rows = [(rung, (i, j) in best) for i, found in enumerate(rungs) for j, rung in enumerate(found)]
    if as_json:
        print_json({"rungs": [{**rung_facts(rung), "best": mark} for rung, mark in rows]})
    else:
        echo(rung_table([rung for rung, _ in rows], [mark for _, mark in rows] if best else None))
    if best and not as_json:
        echo("* the best of its cell: the lowest loss of one model at one length")
    export_models(study, [rung for rung, _ in rows], asked[0].config.export)


def _train(config: Any, study: Path, yes: bool) -> Any:
    from train.distributed import PeerLost
    from train.launch import train as launch
    from train.lease import stop_on_signals
    from train.runtime import OutOfMemory
    from train.workers import AGAIN, LOST, end_with_parent, started_here

    from .output import Progress

    if started_here():
        end_with_parent()
    if config.out is not None and study == Path("study"):
        study = config.out  # a run with a folder of its own is a study of its own
    open_study(study)
    bar = Progress()
    try:
        with stop_on_signals() as stop:
            rungs = launch(config, study, yes=yes, stop=stop, tell=log, report=bar.at)
    except PeerLost:
        if started_here():
            sys.exit(LOST)  # the process that started this one says what happened
        raise
    except OutOfMemory as error:
        if started_here() and error.lowered:
            log(str(error))
            sys.exit(AGAIN)
        raise
    bar.end()
    return rungs


def rung_facts(rung: Any) -> dict[str, Any]:
    """A finished rung as one JSON object."""
    facts: dict[str, Any] = rung.model_dump(
        mode="json", exclude={"kind", "version", "tool", "created_at", "inputs"}
    )
    return {**facts.pop("observation"), **facts}


def rung_table(rungs: Any, best: Any = None) -> str:
    """What the rungs reached; the best of a sweep are marked."""
    from families.units import format_size

    marks = [" *" if mark else "" for mark in best] if best else [""] * len(rungs)
    rows = [
        [
            rung.observation.run + mark,
            format_size(rung.observation.tokens),
            f"{rung.observation.loss:.4f} ± {rung.observation.loss_se:.4f}",
            f"{rung.perplexity:.2f}",
            "-" if rung.bits_per_byte is None else f"{rung.bits_per_byte:.3f}",
            "-" if rung.loss_per_word is None else f"{rung.loss_per_word:.2f}",
        ]
        for rung, mark in zip(rungs, marks, strict=True)
    ]
    return format_table(["run", "tokens", "loss ± se", "perplexity", "bits/byte", "loss/word"], rows)
