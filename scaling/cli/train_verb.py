"""scaling train key=value …"""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..study import open_study
from .show import JsonOption, StudyOption, YesOption, note, print_json, say, table

EPILOG = "Example: scaling train family=gpt2-52m data=text/ tokens=1B n_positions=512"
_KEYS = "Keys: family, data, tokens (needed); out, seed, tokenizer, rungs, lr, batch_size, schedule, n_positions, …"


def train(
    words: Annotated[list[str], typer.Argument(metavar="KEY=VALUE…", help=_KEYS)],
    study: StudyOption = Path("study"),
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a member on real text, resumable, and record what it reaches on held-out text."""
    from train.config import TrainConfig
    from train.launch import train as launch
    from train.loop import stop_on_signals

    from .keyvalue import merge
    from .progress import Progress

    config = merge(TrainConfig, words)
    if config.out is not None and study == Path("study"):
        study = config.out  # a run with a folder of its own is a study of its own
    open_study(study)
    bar = Progress()
    with stop_on_signals() as stop:
        rungs = launch(config, study, yes=yes, stop=stop, tell=note, report=bar.at)
    bar.end()
    if as_json:
        print_json({"rungs": [rung_facts(rung) for rung in rungs]})
        return
    say(rung_table(rungs))


def rung_facts(rung: Any) -> dict[str, Any]:
    """A finished rung as one JSON object."""
    facts: dict[str, Any] = rung.model_dump(
        mode="json", exclude={"kind", "version", "tool", "created_at", "inputs"}
    )
    return {**facts.pop("observation"), **facts}


def rung_table(rungs: Any) -> str:
    """What the rungs reached."""
    from families.units import format_size

    rows = [
        [
            rung.observation.run,
            format_size(rung.observation.tokens),
            f"{rung.observation.loss:.4f} ± {rung.observation.loss_se:.4f}",
            f"{rung.perplexity:.2f}",
            "-" if rung.bits_per_byte is None else f"{rung.bits_per_byte:.3f}",
            "-" if rung.loss_per_word is None else f"{rung.loss_per_word:.2f}",
        ]
        for rung in rungs
    ]
    return table(["run", "tokens", "loss ± se", "perplexity", "bits/byte", "loss/word"], rows)
