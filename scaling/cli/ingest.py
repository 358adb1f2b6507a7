"""scaling ingest: runs from the logs of another engine."""

from pathlib import Path
from typing import Annotated

import typer

from ..paths import open_study
from ..runs.store import RUNS, gather_runs, record_run
from .output import JsonOption, StudyOption, echo, log, print_json

INGEST_EPILOG = "Example: scaling ingest chart.csv --contract megatron/contract.json --study study"


def ingest(
    logs: Annotated[
        Path,
        typer.Argument(
            help="Megatron's output, AutoModel's training.jsonl, a W&B export (CSV), TensorBoard files, or a folder."
        ),
    ],
    contract: Annotated[Path, typer.Option("--contract", help="The contract.json that emit wrote.")],
    score: Annotated[
        Path | None,
        typer.Option(
            "--score", help="What `scaling validate FOLDER --json` printed of the exported weights."
        ),
    ] = None,
    study: StudyOption = Path("study"),
    as_json: JsonOption = False,
) -> None:
    """Add the run of another engine to a study. Refuses logs of another batch, number of steps or of parameters."""
    from train.engines import ingest as engine
    from train.engines.contract import Contract

    agreed = Contract.read(contract)
    found = engine.read_log(logs, agreed)
    notes = engine.check(found, agreed)
    runs = engine.runs_of(found, agreed, None if score is None else engine.read_score(score))
    paths = open_study(study)
    place = paths.run_folder(agreed.run) / RUNS
    for run in runs:
        record_run(place, run)
    gather_runs(paths.runs)
    for note in notes:
        log(note)
    if score is None:
        log(
            f"{agreed.run}: these are training losses; score the exported weights: scaling validate FOLDER --json"
        )
    if as_json:
        print_json({"runs": [run.model_dump(mode="json", exclude_none=True) for run in runs]})
    else:
        echo(f"{agreed.run}: {len(runs)} rows, to {runs[-1].tokens:,.0f} tokens, loss {runs[-1].loss:.4f}")
