"""scaling ladder plan.json: train every member of a plan."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..planfile import PlanFile
from ..study import Study, open_study
from .show import JsonOption, SeedOption, StudyOption, YesOption, note, print_json, say

EPILOG = "Example: scaling ladder plan.json --data text/ --study study"
EVAL_TOKENS = 2**20  # held-out tokens scored at each rung, at most


def ladder(
    plan: Annotated[Path, typer.Argument(help="A plan.json.")],
    data: Annotated[str, typer.Option("--data", help="Text file or folder, or stdlib.")],
    tokenizer: Annotated[str | None, typer.Option("--tokenizer", help="Tokenizer folder or file.")] = None,
    jobs: Annotated[
        int,
        typer.Option("--jobs", min=1, help="Members at a time, one CPU thread each; pays for small ones."),
    ] = 1,
    study: StudyOption = Path("study"),
    seed: SeedOption = 0,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train every member of a plan to each of its rungs; what is done is not done again."""
    from train.choose import Wanted
    from train.prepare import prepare

    from .train_verb import rung_facts, rung_table

    found = PlanFile.read(plan)
    place = open_study(study)
    vocab = max((member.vocab_size for member in found.members), default=0)
    masked = any(member.architecture == "bert" for member in found.members)
    prepare(data, place.data, vocab_size=vocab, tokenizer=tokenizer, mask=masked)
    rungs = train_members(
        found, place, seed=seed, yes=yes, eval_tokens=EVAL_TOKENS, side_by_side=jobs, wanted=Wanted()
    )
    if as_json:
        print_json({"rungs": [rung_facts(rung) for rung in rungs]})
    else:
        say(rung_table(rungs))


def train_members(plan: PlanFile, study: Study, **habits: Any) -> Any:
    """Train a plan's members in a study, with progress and a stop that saves."""
    from train.launch import train_plan
    from train.loop import stop_on_signals

    from .progress import Progress

    bar = Progress()
    with stop_on_signals() as stop:
        rungs = train_plan(plan.members, study, stop=stop, tell=note, report=bar.at, **habits)
    bar.end()
    return rungs
