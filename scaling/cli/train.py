"""scaling train: one model, or a sweep. scaling ladder: every member of a plan, here or on a cluster."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from families.units import BadInput, RunFailed, format_size, nearest

from .keys import pairs
from .output import (
    JsonOption,
    Progress,
    StudyOption,
    YesOption,
    echo,
    export_models,
    format_table,
    log,
    loss_and_error,
    print_json,
)

if TYPE_CHECKING:
    from train.config import TrainConfig
    from train.jobs.sweep import SweepEntry
    from train.rung import RungFile
    from train.sizing import Choice
    from train.slurm import JobSweep, SlurmProfile
    from train.slurm.submit import Following

    from ..paths import StudyPaths
    from ..planning.planfile import PlanFile


TRAIN_EPILOG = "Example: scaling train family=gpt2-52m data=text/ tokens=1B n_positions=512"

LADDER_EPILOG = "Example: scaling ladder plan.json data=text/ launcher=slurm profile=cluster.yaml"

EVAL_TOKENS = 2**20  # held-out tokens evaluated at each rung, at most

LAUNCHERS = ("local", "slurm")

_KEYS = (
    "Keys: data (required); family and tokens, or time (default: what fits the text and ten minutes here); out, seed, "
    "tokenizer, rungs, lr, batch_size, schedule, n_positions, init, epochs, objective, ablate, … A list makes a sweep: "
    "lr=1e-3,2e-3 batch_size=8,16."
)


def train(
    words: Annotated[list[str], typer.Argument(metavar="KEY=VALUE…", help=_KEYS)],
    study: StudyOption = Path("study"),
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model on text, and record its loss on held-out text. The same command resumes an interrupted run."""
    from train.keys import KEYS, chooses_model

    values = pairs(words, KEYS)
    from train.config import TrainConfig
    from train.jobs.grid import expand

    from .run_options import merge

    time = values.pop("time", None)
    chosen: Choice | None = None
    alone = "RANK" not in os.environ  # processes of a launcher would choose each for itself
    if "data" in values and not chooses_model(values) and len(expand(words)) == 1 and alone:
        chosen = _choose(values, time, study)
        values |= chosen.words
    elif time is not None:
        values["tokens"] = _tokens_for(values, time, study)
    elif "init" in values and not {"tokens", "epochs"} & values.keys():
        log("note: neither tokens=, epochs= nor time= is given: one pass over the text")
        values["epochs"] = "1"
    words = [f"{key}={value}" for key, value in values.items()]
    points = [(point, merge(TrainConfig, point.words)) for point in expand(words)]
    from train.distributed import check_installed
    from train.jobs.sweep import entries

    runs = entries(points)
    config = runs[0].config
    check_installed(config.engine)
    if config.device != "auto":  # one for all: a sweep does not vary the device
        from train.loop import pick_device

        pick_device(config.device)
    if config.export is not None:
        from train.data.remote import check_export

        check_export(config.export)
    if len(runs) > 1:
        _sweep(runs, study, yes, as_json)
        return
    if config.devices > 1 and "RANK" not in os.environ:
        from train.jobs.ranks import run_distributed

        options = ["--study", str(study), *(["--yes"] if yes else []), *(["--json"] if as_json else [])]
        sys.exit(run_distributed(["train", *words, *options], config.devices, log))
    rungs = _train(config, study, yes, chosen.flops_per_s if chosen else None)
    if _first_rank():
        _show(rungs, as_json)
        if chosen is not None:
            _compare(chosen, rungs, config.out or study)
        export_models(config.out or study, rungs, config.export)


def _choose(values: dict[str, str], time: str | None, study: Path) -> "Choice":
    """Choose model, vocabulary and tokens for a text, and say what is expected of them."""
    from train.config import TrainConfig

    from .run_options import merge

    some = {"family": "chosen", "n_layer": "1", "n_head": "1", "n_embd": "32", "vocab_size": "512"}
    some |= {} if "epochs" in values else {"tokens": "1M"}
    asked = merge(TrainConfig, [f"{key}={value}" for key, value in {**some, **values}.items()])
    if "vocab_size" not in values:
        asked = asked.model_copy(update={"vocab_size": None})
    from train.sizing import choose

    chosen = choose(asked, values, time, study)
    for line in chosen.lines:
        log(line)
    return chosen


def _tokens_for(values: dict[str, str], time: str, study: Path) -> str:
    """Return the tokens that the model asked for trains on in a time.

    Raises:
        BadInput: tokens= or epochs= is given too.
    """
    from train.config import TrainConfig

    from .run_options import merge

    for key in ("tokens", "epochs"):
        if key in values:
            raise BadInput(f"time and {key} are both given; choose one")
    asked = merge(TrainConfig, [*(f"{key}={value}" for key, value in values.items()), "tokens=1M"])
    from train.sizing import tokens_for

    tokens, line = tokens_for(time, asked, study)
    log(line)
    return str(tokens)


def _compare(chosen: "Choice", rungs: "Sequence[RungFile]", study: Path) -> None:
    """Log what was expected beside what came out, and what to do with the model."""
    from train.sizing import outcome

    longest = max(rungs, key=lambda rung: rung.observation.tokens)
    if chosen.seconds is not None:
        log(outcome(chosen, longest))
    if longest.bits_per_byte is not None:  # it is no encoder
        log(
            f'try it: scaling generate {shlex.quote(str(study / "runs" / longest.observation.run))} --prompt "…"'
        )


def _first_rank() -> bool:
    """True in the one process that prints, of all that train a model."""
    return os.environ.get("RANK", "0") == "0"


def _train(
    config: "TrainConfig", study: Path, yes: bool, flops_per_s: float | None = None
) -> "Sequence[RungFile]":
    from train.jobs.launch import train as launch
    from train.jobs.ranks import as_rank
    from train.lease import stop_on_signals

    from ..paths import open_study

    if config.out is not None and study == Path("study"):
        study = config.out  # a run with a folder of its own is a study of its own
    open_study(study)
    bar = Progress()
    with as_rank(log), stop_on_signals() as stop:
        rungs = launch(config, study, yes=yes, stop=stop, log=log, report=bar.at, flops_per_s=flops_per_s)
    bar.end()
    return rungs


def _sweep(runs: "Sequence[SweepEntry]", study: Path, yes: bool, as_json: bool) -> None:
    from train.jobs.sweep import train_many, winners
    from train.lease import stop_on_signals

    from ..paths import open_study

    open_study(study)
    bar = Progress()
    with stop_on_signals() as stop:
        results = train_many(runs, study, yes=yes, stop=stop, log=log, report=bar.at)
    bar.end()
    best = winners(runs, results)
    rows = [(rung, (i, j) in best) for i, rungs in enumerate(results) for j, rung in enumerate(rungs)]
    if as_json:
        print_json({"rungs": [{**rung.facts(), "best": mark} for rung, mark in rows]})
    else:
        echo(rung_table([rung for rung, _ in rows], [mark for _, mark in rows] if best else None))
        if best:
            echo("* lowest loss of its model and number of tokens")
    export_models(study, [rung for rung, _ in rows], runs[0].config.export)


def rung_table(rungs: "Sequence[RungFile]", best: "Sequence[bool] | None" = None) -> str:
    """Format the losses of rungs as a table; * marks the best of a sweep."""
    marks = [" *" if mark else "" for mark in best] if best else [""] * len(rungs)
    rows = [
        [
            rung.observation.run + mark,
            format_size(rung.observation.tokens),
            loss_and_error(rung.observation.loss, rung.observation.loss_se),
            f"{rung.perplexity:.2f}",
            "–" if rung.bits_per_byte is None else f"{rung.bits_per_byte:.3f}",
            "–" if rung.loss_per_word is None else f"{rung.loss_per_word:.2f}",
        ]
        for rung, mark in zip(rungs, marks, strict=True)
    ]
    return format_table(["run", "tokens", "loss ± se", "perplexity", "bits/byte", "loss/word"], rows)


def ladder(
    plan: Annotated[Path, typer.Argument(help="Plan with the members to train.")],
    data: Annotated[
        str | None,
        typer.Option("--data", help="Text file or folder, or stdlib (default: the data of the study)."),
    ] = None,
    tokenizer: Annotated[str | None, typer.Option("--tokenizer", help="Tokenizer folder or file.")] = None,
    member: Annotated[
        list[str] | None,
        typer.Option("--member", help="Members to train (default: all), a list with commas."),
    ] = None,
    launcher: Annotated[
        str | None,
        typer.Option(
            "--launcher",
            help="local: processes here, jobs= at a time; slurm: Slurm jobs (default: local with jobs=, else this process).",
        ),
    ] = None,
    profile: Annotated[
        Path | None, typer.Option("--profile", help="Profile of the cluster, a YAML file.")
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            min=1,
            help="Number of members to train in parallel on this machine, sharing its cores and GPUs.",
        ),
    ] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the job files or commands; submit nothing.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Submit and exit; do not wait.")] = False,
    zero: Annotated[
        int,
        typer.Option("--zero", min=0, max=3, help="ZeRO stage that shards a member among its processes."),
    ] = 0,
    devices: Annotated[
        int,
        typer.Option("--devices", min=1, help="Processes on this node that share a member, each with a GPU."),
    ] = 1,
    export: Annotated[
        str | None,
        typer.Option("--export", help="Copy finished models to this URL, such as s3://bucket/models."),
    ] = None,
    study: StudyOption = Path("study"),
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", min=0, help="Random seed (default: the first that the sealed plan names, else 0)."
        ),
    ] = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train every member of a plan to each of its rungs, skipping finished ones. Refuses a sealed plan that was edited."""
    from ..paths import open_study
    from ..planning.planfile import refuse_model_parallel
    from ..planning.seal import read_verified_plan

    contents, paths = read_verified_plan(plan), open_study(study)
    if devices > 1 and (launcher is not None or jobs > 1):
        raise BadInput(
            f"devices is {devices}; with a launcher or jobs= a profile gives the devices of each member"
        )
    if seed is None:
        seed = next(iter(contents.seal.named if contents.seal else ()), 0)
    if export is not None and detach:
        raise BadInput(
            "export= copies models once they are trained; leave out detach=true, or follow the jobs later with export="
        )
    if export is not None and not dry_run:
        from train.data.remote import check_export

        check_export(export)
    refuse_model_parallel(contents.only(member or ()).members, "scaling ladder")
    if launcher is not None and launcher not in LAUNCHERS:
        raise BadInput(f"launcher is {launcher!r}; {nearest(launcher, LAUNCHERS)}")
    if launcher is None and dry_run:
        launcher = LAUNCHERS[0]  # its commands are what this one would run
    if launcher is None:
        for key, given in (("detach", detach), ("profile", profile)):
            if given:
                raise BadInput(f"{key}= needs a launcher; give launcher={' or launcher='.join(LAUNCHERS)}")
        from train.backend import BackendRequest
        from train.jobs.members import check_members, prepare_members

        chosen = contents.only(member or ())
        from train.jobs.ranks import nodes, run_distributed

        if (devices > 1 or nodes() > 1) and "RANK" not in os.environ:
            prepare_members(contents, paths, data, tokenizer, member or (), log)
            sys.exit(run_distributed(sys.argv[1:], devices, log))
        if data is not None and not yes:
            check_members(chosen.members, paths, seed=seed)
        if jobs == 1 or len(chosen.members) < 2 or "RANK" in os.environ:
            prepare_members(contents, paths, data, tokenizer, member or (), log)
            options = {"eval_tokens": EVAL_TOKENS, "gathers": not member, "zero": zero}
            rungs = train_members(chosen, paths, seed=seed, yes=yes, wanted=BackendRequest(), **options)
            if _first_rank():
                _show(rungs, as_json)
                export_models(paths.folder, rungs, export)
            return
    from train.slurm import SlurmProfile, read_profile, sweep

    cluster = read_profile(profile) if profile else SlurmProfile()
    tasks = sweep(contents, plan, paths, seed=seed, profile=cluster, only=member or ())
    if unused := cluster.unused(one.member for one in contents.members):
        log(f"{profile} has settings for {', '.join(unused)}, which {plan} does not contain")
    run = _LadderRun(tasks, contents, data, tokenizer, yes, as_json, export)
    if launcher == "slurm":
        _slurm(run, cluster, dry_run=dry_run, detach=detach)
        return
    if detach:
        raise BadInput("detach=true needs launcher=slurm; a local queue ends with this command")
    _local(run, dry_run=dry_run, jobs=jobs, chosen=launcher == "local")


@dataclass(frozen=True, slots=True)
class _LadderRun:
    """Tasks of a ladder, and the options that both launchers share."""

    tasks: "JobSweep"
    plan: "PlanFile"
    data: str | None
    tokenizer: str | None
    yes: bool
    as_json: bool
    export: str | None

    def prepare(self) -> None:
        """Tokenise the text into the study, unless it is there."""
        from train.jobs.members import prepare_members

        members = [task.member for task in self.tasks.tasks]
        prepare_members(self.plan, self.tasks.study, self.data, self.tokenizer, members, log)

    def end(self, outcome: "Following") -> None:
        """Print and export the finished rungs.

        Raises:
            RunFailed: a member is not finished.
        """
        from train.slurm.submit import refuse_failures

        rungs = self.tasks.rungs()
        _show(rungs, self.as_json, outcome.failed)
        export_models(self.tasks.study.folder, rungs, self.export)
        if failure := refuse_failures(outcome):
            raise RunFailed(failure)


def train_members(plan: "PlanFile", study: "StudyPaths", **options: Any) -> Any:
    """Train a plan's members in a study, with progress; a signal saves and stops."""
    from train.jobs.members import train_plan
    from train.lease import stop_on_signals

    bar = Progress()
    with stop_on_signals() as stop:
        rungs = train_plan(plan.members, study, stop=stop, log=log, report=bar.at, sealed=plan, **options)
    bar.end()
    return rungs


def _local(run: _LadderRun, *, dry_run: bool, jobs: int, chosen: bool) -> None:
    """Train in processes on this machine; `chosen` is True where launcher=local was given."""
    if dry_run:
        for task in run.tasks.left():
            echo(shlex.join(run.tasks.words(task)))
        return
    from train.jobs.plan import train_sweep
    from train.lease import stop_on_signals

    run.prepare()
    bar = Progress()
    with stop_on_signals() as stop:
        outcome = train_sweep(
            run.tasks,
            run.plan,
            stop,
            jobs=jobs,
            yes=run.yes or chosen,
            eval_tokens=EVAL_TOKENS,
            log=log,
            report=bar.at,
        )
    bar.end()
    run.end(outcome)


def _slurm(run: _LadderRun, profile: "SlurmProfile", *, dry_run: bool, detach: bool) -> None:
    """Submit Slurm jobs, and follow them."""
    from train.slurm import client
    from train.slurm.submit import check_cluster, follow, next_number, render, send_rest

    if dry_run:
        left = replace(run.tasks, tasks=run.tasks.left())
        for file in render(left, profile, next_number(run.tasks.study)):
            echo(f"# {file.name}")
            echo(file.text)
        return
    client.need_slurm()
    check_cluster(replace(run.tasks, tasks=run.tasks.left()), anyway=run.yes)  # before text is prepared
    sent = send_rest(run.tasks, profile, anyway=run.yes, ready=run.prepare)
    jobs = sorted({job.number.split("_")[0] for job in sent.values()}, key=int)
    if jobs:
        log(f"{len(sent)} of {len(run.tasks.tasks)} members in Slurm as job {', '.join(jobs)}")
    if detach:
        if run.as_json:
            print_json({"jobs": {member: job.number for member, job in sent.items()}})
        return
    bar = Progress()
    try:
        outcome = follow(run.tasks, sent, profile, log=log, progress=bar.at)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"the jobs go on; the same command follows them again, scancel {' '.join(jobs)} cancels them"
        ) from error
    bar.end()
    run.end(outcome)


def _show(rungs: "Sequence[RungFile]", as_json: bool, failed: dict[str, str] | None = None) -> None:
    """Print finished rungs, and the members that failed."""
    if as_json:
        print_json({"rungs": [rung.facts() for rung in rungs], **({"failed": failed} if failed else {})})
    elif rungs:
        echo(rung_table(rungs))
