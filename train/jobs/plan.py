"""A plan's members on this machine, `launcher=local` and `jobs=N`: each a task of the queue."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from families.units import BadInput
from scaling.planning.planfile import PlanFile
from scaling.runs.store import gather_runs

from ..backend import BackendRequest
from ..data import DataManifest
from ..ladder import RunOptions
from ..lease import Stop
from ..loop import pick_device
from ..slurm import JobSweep, MemberTask
from ..slurm.submit import Following
from . import ladders
from .ladders import LOGS, Job, ProgressCallback, run_queue
from .machine import check_shared
from .members import planned_settings
from .pool import cores
from .sweep import SMALL


def train_sweep(
    sweep: JobSweep, plan: PlanFile, stop: Stop, *, jobs: int, yes: bool, eval_tokens: int, log: Callable[[str], None],
    report: ProgressCallback, poll: float = ladders.POLL_SECONDS,
) -> Following:  # fmt: skip
    """Train every member, `jobs` at a time, until each is done, here or elsewhere, or has failed.

    Members that one process trains on the CPU go to warm workers. What needs several processes, a GPU or a program of the
    profile's own is a command of its own, as a cluster would run it. Members of one process share GPUs where there are fewer
    of them than `jobs`, each held to its part of the memory.

    Args:
        sweep: the tasks and their study.
        plan: the plan that describes their members.
        stop: stop signal; every run saves and ends once it is requested.
        jobs: number of members that train at a time.
        yes: True to accept members too large for this machine.
        eval_tokens: largest number of held-out tokens in an evaluation.
        log: called with each message.
        report: called with FLOPs done, total FLOPs, a description, and True for work that was just trained.
        poll: seconds between checks of the processes.

    Raises:
        BadInput: a member needs several nodes or more memory than its part of a GPU, or nothing can be written.
        Interrupted: asked to stop; every run is saved at the step it was at.
    """
    for task in sweep.tasks:
        if task.needs.nodes > 1:
            raise BadInput(
                f"{task.member} needs {task.needs.nodes} nodes; launcher=local has this one: give launcher=slurm"
            )
    threads = max(1, cores() // jobs)
    options = RunOptions(eval_tokens=eval_tokens, log=log)
    ours = Path(sys.executable).with_name("scaling")
    single = [task for task in sweep.tasks if task.needs.devices == 1 and task.needs.zero is None]
    plain = single if sweep.command == str(ours) else []
    device = pick_device("auto") if plain else "cpu"
    warm = plain if device == "cpu" else []
    if device == "cuda" and min(jobs, len(plain)) > 1:
        manifest = DataManifest.read(sweep.study.data / "data.json")
        asked = planned_settings(
            [plan.member(task.member) for task in plain], manifest, sweep.study, device=device, seed=sweep.seed, yes=yes,
            wanted=None, log=log, sealed=plan,
        )  # fmt: skip
        check_shared(asked, min(jobs, len(plain)), log)
    own = dict(zip(warm, _jobs(sweep, plan, warm, threads, yes, log), strict=True))
    try:
        found = run_queue(
            [_queued(task, sweep, own.get(task), one_device=task in single) for task in sweep.tasks],
            options,
            stop,
            report,
            at_once=jobs,
            threads=threads,
            poll=poll,
        )
    finally:
        gather_runs(sweep.study.runs)
    logs = {task.member: _log(sweep, task) for task in sweep.tasks}
    return Following(
        done=set(found.done),
        failed={member: f"{error}; its output is {logs[member]}" for member, error in found.failed.items()},
    )


def _jobs(
    sweep: JobSweep,
    plan: PlanFile,
    tasks: Sequence[MemberTask],
    threads: int,
    yes: bool,
    log: Callable[[str], None],
) -> list[Job]:
    """Jobs of the members that warm workers train; small models on one thread each."""
    if not tasks:
        return []
    manifest = DataManifest.read(sweep.study.data / "data.json")
    found = []
    for task in tasks:
        member = plan.member(task.member)
        small = member.params < SMALL
        (settings,) = planned_settings(
            [member], manifest, sweep.study, device="cpu", seed=sweep.seed, yes=yes,
            wanted=BackendRequest(threads=1 if small else threads), log=log, sealed=plan,
        )  # fmt: skip
        found.append(Job.of(settings, member.ends, sweep.study, shared=True))
    return found


def _queued(task: MemberTask, sweep: JobSweep, job: Job | None, *, one_device: bool) -> ladders.Task:
    if job is not None:
        return ladders.Task.of(task.member, job, announced=True)
    return ladders.Task(
        name=task.member,
        folder=sweep.study.run_folder(task.run),
        work=task.flops,
        done=lambda: task.done(sweep.study),
        log=_log(sweep, task),
        announced=True,
        words=tuple(sweep.words(task)),
        one_device=one_device,
    )


def _log(sweep: JobSweep, task: MemberTask) -> Path:
    return sweep.study.folder / LOGS / f"{task.run}.log"
