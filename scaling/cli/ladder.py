"""scaling ladder plan.json: train every member of a plan, here or on a cluster."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from families.units import BadInput, RunFailed, nearest

from ..paths import StudyPaths, open_study
from ..planning.planfile import PlanFile, read_verified_plan
from .output import JsonOption, SeedOption, StudyOption, YesOption, echo, export_models, log, print_json

if TYPE_CHECKING:
    from ..cluster.launcher import Sweep
    from ..cluster.profile import Profile
    from ..cluster.submission import Following

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
            help="local: a process for each run; slurm: jobs. Default: one after the other, here.",
        ),
    ] = None,
    profile: Annotated[Path | None, typer.Option("--profile", help="The cluster's profile.yaml.")] = None,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs", min=1, help="Members at a time here, one CPU thread each; pays for small ones."
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
        only = [found.member(name) for name in member or ()]
        chosen = found.model_copy(update={"members": tuple(only)}) if only else found
        from train.backend import BackendRequest
        from train.launch import check_members

        if data is not None and not yes:
            check_members(chosen.members, place, seed=seed)
        _text(found, place, data, tokenizer)
        habits = {"eval_tokens": EVAL_TOKENS, "side_by_side": jobs, "gathers": not only, "zero": zero}
        rungs = train_members(chosen, place, seed=seed, yes=yes, wanted=BackendRequest(), **habits)
        if not int(os.environ.get("RANK", "0")):  # process 0 speaks for all
            _show(rungs, as_json)
            export_models(place.folder, rungs, export)
        return
    if launcher not in LAUNCHERS:
        raise BadInput(f"launcher is {launcher!r}; {nearest(launcher, LAUNCHERS)}")
    from ..cluster.launcher import sweep
    from ..cluster.profile import Profile, read_profile

    cluster = read_profile(profile) if profile else Profile()
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
    from ..cluster.localqueue import run_here
    from ..runs.store import gather_runs
    from .output import Progress

    _text(found, place, data, tokenizer)
    bar = Progress()
    try:
        outcome = run_here(wanted, at_once=jobs, tell=log, progress=bar.at)
    finally:
        gather_runs(place.runs)
    bar.end()
    _end(wanted, outcome, as_json, export)


def train_members(plan: PlanFile, study: StudyPaths, **habits: Any) -> Any:
    """Train a plan's members in a study, with progress and a stop that saves."""
    from train.launch import train_plan
    from train.lease import stop_on_signals

    from .output import Progress

    bar = Progress()
    with stop_on_signals() as stop:
        rungs = train_plan(plan.members, study, stop=stop, tell=log, report=bar.at, **habits)
    bar.end()
    return rungs


def _text(plan: PlanFile, study: StudyPaths, data: str | None, tokenizer: str | None) -> None:
    """Tokenise the text into the study, or take what is there."""
    if data is None:
        if not (study.data / "data.json").exists():
            raise BadInput(f"{study.folder} has no text yet; say which with --data")
        return
    from train.data.prepare import prepare

    vocab = max((member.vocab_size for member in plan.members), default=0)
    masked = any(member.architecture == "bert" for member in plan.members)
    prepare(data, study.data, vocab_size=vocab, tokenizer=tokenizer, mask=masked)


def _slurm(
    wanted: "Sweep", profile: "Profile", plan: PlanFile, text: tuple[str | None, str | None], *,
    dry_run: bool, detach: bool, yes: bool, as_json: bool, export: str | None,
) -> None:  # fmt: skip
    from dataclasses import replace

    from ..cluster import slurm
    from ..cluster.submission import follow, next_number, render, send_rest
    from .output import Progress

    if dry_run:
        for file in render(replace(wanted, tasks=wanted.left()), profile, next_number(wanted.study)):
            echo(f"# {file.name}")
            echo(file.text)
        return
    slurm.need_slurm()
    sent = send_rest(wanted, profile, anyway=yes, ready=lambda: _text(plan, wanted.study, *text))
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


def _end(wanted: "Sweep", outcome: "Following", as_json: bool, export: str | None) -> None:
    """Show what is there, and say what is not.

    Raises:
        RunFailed: a member is not done.
    """
    from train.rung import RungFile

    from ..cluster.submission import refuse_failures

    files = [path for task in wanted.tasks for path in task.rung_files(wanted.study) if path is not None]
    rungs = [RungFile.read(path) for path in files]
    _show(rungs, as_json, outcome.failed)
    export_models(wanted.study.folder, rungs, export)
    if failure := refuse_failures(outcome):
        raise RunFailed(failure)


def _show(rungs: Any, as_json: bool, failed: dict[str, str] | None = None) -> None:
    from .train_verb import rung_facts, rung_table

    if as_json:
        print_json({"rungs": [rung_facts(rung) for rung in rungs], **({"failed": failed} if failed else {})})
    elif rungs:
        echo(rung_table(rungs))
