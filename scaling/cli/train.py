"""scaling train key=value …"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from families.units import BadInput, RunFailed, nearest

from ..paths import StudyPaths, open_study
from ..planning.planfile import PlanFile, read_verified_plan
from .output import (
    JsonOption,
    SeedOption,
    StudyOption,
    YesOption,
    echo,
    export_models,
    format_table,
    log,
    print_json,
)

if TYPE_CHECKING:
    from train.slurm import JobSweep, SlurmProfile
    from train.slurm.submit import Following


# MERGED DOCSTRINGS
# scaling ladder plan.json: train every member of a plan, here or on a cluster.

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
    from train.jobs.sweep import entries, expand

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
        from train.jobs.ranks import run_distributed

        sys.exit(run_distributed(sys.argv[1:], config.devices, log))
    rungs = _train(config, study, yes)
    if int(os.environ.get("RANK", "0")):
        return  # process 0 speaks for all
    if as_json:
        print_json({"rungs": [rung_facts(rung) for rung in rungs]})
    else:
        echo(rung_table(rungs))
    export_models(config.out or study, rungs, url)


def _sweep(asked: Any, study: Path, yes: bool, as_json: bool) -> None:
    from train.jobs.sweep import train_many, winners
    from train.lease import stop_on_signals

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
    from train.jobs.launch import train as launch
    from train.jobs.ranks import as_rank
    from train.lease import stop_on_signals

    from .output import Progress

    if config.out is not None and study == Path("study"):
        study = config.out  # a run with a folder of its own is a study of its own
    open_study(study)
    bar = Progress()
    with as_rank(log), stop_on_signals() as stop:
        rungs = launch(config, study, yes=yes, stop=stop, tell=log, report=bar.at)
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


LADDER_EPILOG = "Example: scaling ladder plan.json --data text/ --launcher slurm --profile cluster.yaml"

EVAL_TOKENS = 2**20  # held-out tokens scored at each rung, at most

LAUNCHERS = ("local", "slurm")


def ladder(
    plan: Annotated[Path, typer.Argument(help="A plan.json.")],
    data: Annotated[
        str | None,
        typer.Option("--data", help="Text file or folder, or stdlib; not needed where it is in the study."),
    ] = None,
    tokenizer: Annotated[str | None, typer.Option("--tokenizer", help="Tokenizer folder or file.")] = None,
    member: Annotated[
        list[str] | None, typer.Option("--member", help="Only this member (again for more).")
    ] = None,
    launcher: Annotated[
        str | None,
        typer.Option(
            "--launcher",
            help="local: processes here, --jobs at a time; slurm: jobs. Default: local with --jobs, else in this process.",
        ),
    ] = None,
    profile: Annotated[Path | None, typer.Option("--profile", help="The cluster's profile.yaml.")] = None,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            min=1,
            help="Members to train in parallel on this machine, in processes that share its cores and GPUs.",
        ),
    ] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be sent, and send nothing.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Send the jobs and leave; do not follow them.")
    ] = False,
    zero: Annotated[
        int,
        typer.Option(
            "--zero", min=0, max=3, help="Under torchrun: how a member is divided among its processes."
        ),
    ] = 0,
    export: Annotated[
        str | None,
        typer.Option("--export", help="Copy finished models to this URL, such as s3://bucket/models."),
    ] = None,
    study: StudyOption = Path("study"),
    seed: SeedOption = 0,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train every member of a plan to each of its rungs; what is done is not done again. A sealed plan that was edited
    is refused.
    """
    found = read_verified_plan(plan)
    place = open_study(study)
    if export is not None and detach:
        raise BadInput(
            "--export copies models once they are trained; leave out --detach, or follow later with --export"
        )
    if export is not None and not dry_run:
        from train.data.remote import check_export

        check_export(export)
    if launcher is None:
        for option, given in (("--dry-run", dry_run), ("--detach", detach), ("--profile", profile)):
            if given:
                raise BadInput(f"{option} needs a launcher; give --launcher {' or '.join(LAUNCHERS)}")
        from train.backend import BackendRequest
        from train.data.prepare import prepare_planned
        from train.jobs.launch import check_members

        only = [found.member(name) for name in member or ()]
        chosen = found.model_copy(update={"members": tuple(only)}) if only else found
        if data is not None and not yes:
            check_members(chosen.members, place, seed=seed)
        if jobs == 1 or len(chosen.members) < 2 or "RANK" in os.environ:
            prepare_planned(found, place.data, data, tokenizer)
            habits = {"eval_tokens": EVAL_TOKENS, "gathers": not only, "zero": zero}
            rungs = train_members(chosen, place, seed=seed, yes=yes, wanted=BackendRequest(), **habits)
            if not int(os.environ.get("RANK", "0")):  # process 0 speaks for all
                _show(rungs, as_json)
                export_models(place.folder, rungs, export)
            return
    elif launcher not in LAUNCHERS:
        raise BadInput(f"launcher is {launcher!r}; {nearest(launcher, LAUNCHERS)}")
    from train.slurm import SlurmProfile, read_profile, sweep

    cluster = read_profile(profile) if profile else SlurmProfile()
    wanted = sweep(found, plan, place, seed=seed, profile=cluster, only=member or ())
    if idle := cluster.unused(one.member for one in found.members):
        log(f"{profile} says what {', '.join(idle)} needs; {plan} has no such member")
    if launcher == "slurm":
        _slurm(
            wanted,
            cluster,
            found,
            (data, tokenizer),
            dry_run=dry_run,
            detach=detach,
            yes=yes,
            as_json=as_json,
            export=export,
        )
        return
    if detach:
        raise BadInput("--detach needs --launcher slurm; a local queue ends with this command")
    if dry_run:
        import shlex

        for task in wanted.left():
            echo(shlex.join(wanted.words(task)))
        return
    from train.data.prepare import prepare_planned
    from train.jobs.plan import train_sweep
    from train.lease import stop_on_signals

    from .output import Progress

    prepare_planned(found, place.data, data, tokenizer)
    bar = Progress()
    with stop_on_signals() as stop:
        outcome = train_sweep(
            wanted,
            found,
            stop,
            jobs=jobs,
            yes=yes or launcher == "local",
            eval_tokens=EVAL_TOKENS,
            tell=log,
            report=bar.at,
        )
    bar.end()
    _end(wanted, outcome, as_json, export)


def train_members(plan: PlanFile, study: StudyPaths, **habits: Any) -> Any:
    """Train a plan's members in a study, with progress and a stop that saves."""
    from train.jobs.launch import train_plan
    from train.lease import stop_on_signals

    from .output import Progress

    bar = Progress()
    with stop_on_signals() as stop:
        rungs = train_plan(plan.members, study, stop=stop, tell=log, report=bar.at, **habits)
    bar.end()
    return rungs


def _slurm(
    wanted: "JobSweep", profile: "SlurmProfile", plan: PlanFile, text: tuple[str | None, str | None], *,
    dry_run: bool, detach: bool, yes: bool, as_json: bool, export: str | None,
) -> None:  # fmt: skip
    from dataclasses import replace

    from train.data.prepare import prepare_planned
    from train.slurm import client
    from train.slurm.submit import follow, next_number, render, send_rest

    from .output import Progress

    if dry_run:
        for file in render(replace(wanted, tasks=wanted.left()), profile, next_number(wanted.study)):
            echo(f"# {file.name}")
            echo(file.text)
        return
    client.need_slurm()
    sent = send_rest(
        wanted, profile, anyway=yes, ready=lambda: prepare_planned(plan, wanted.study.data, *text)
    )
    jobs = sorted({one.number.split("_")[0] for one in sent.values()}, key=int)
    if jobs:
        log(f"{len(sent)} of {len(wanted.tasks)} members in Slurm as job {', '.join(jobs)}")
    if detach:
        if as_json:
            print_json({"jobs": {member: one.number for member, one in sent.items()}})
        return
    bar = Progress()
    try:
        outcome = follow(wanted, sent, profile, tell=log, progress=bar.at)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"the jobs go on; the same command follows them again, scancel {' '.join(jobs)} ends them"
        ) from error
    bar.end()
    _end(wanted, outcome, as_json, export)


def _end(wanted: "JobSweep", outcome: "Following", as_json: bool, export: str | None) -> None:
    """Show what is there, and say what is not.

    Raises:
        RunFailed: a member is not done.
    """
    from train.rung import RungFile
    from train.slurm.submit import refuse_failures

    files = [path for task in wanted.tasks for path in task.rung_files(wanted.study) if path is not None]
    rungs = [RungFile.read(path) for path in files]
    _show(rungs, as_json, outcome.failed)
    export_models(wanted.study.folder, rungs, export)
    if failure := refuse_failures(outcome):
        raise RunFailed(failure)


def _show(rungs: Any, as_json: bool, failed: dict[str, str] | None = None) -> None:

    if as_json:
        print_json({"rungs": [rung_facts(rung) for rung in rungs], **({"failed": failed} if failed else {})})
    elif rungs:
        echo(rung_table(rungs))
