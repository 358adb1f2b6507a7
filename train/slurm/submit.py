"""Submission of a sweep to Slurm, complete or not at all and without duplicates, and tracking of its jobs."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from families.units import BadInput
from scaling.files import Document, Record, atomic_write, clear_io_errors, now
from scaling.paths import StudyPaths
from scaling.runs.store import gather_runs

from ..lease import LeaseHeld, leased
from . import JobSweep, MemberTask, SlurmProfile, client
from .sbatch import MISSING, JobFile, job_files

FOLDER = "slurm"

_GRACE = 30.0  # seconds until what a node wrote must be seen here

_GATHER_EVERY = 60.0  # seconds

_UNHEARD = 900.0  # seconds for which Slurm may be away while jobs are followed: a controller is restarted now and then

_NO_OUTPUT = "0:53"  # ExitCode of a job whose output file could not be opened on its node


class SlurmJob(Record):
    """One job: its number, its file, and the members that its tasks train, in order."""

    job: str
    file: str
    members: tuple[str, ...]
    array: bool

    def task(self, member: str) -> str:
        """Return the number of a member's task."""
        return f"{self.job}_{self.members.index(member)}" if self.array else self.job


class Submission(Document):
    """Record of a submission (submission.json); `released` is False until all jobs are in the queue."""

    KIND: ClassVar[str] = "submission"

    plan: str
    seed: int
    jobs: tuple[SlurmJob, ...] = ()
    released: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The task of Slurm that trains a member, and the file of its output."""

    task: MemberTask
    number: str
    log: Path
    at: float = field(default_factory=time.monotonic)


def render(sweep: JobSweep, profile: SlurmProfile, number: int) -> tuple[JobFile, ...]:
    """Return the job files of a submission."""
    return job_files(sweep, profile, str(_folder(sweep.study, number)))


def next_number(study: StudyPaths) -> int:
    """Return the number of the next submission."""
    return 1 + max((int(path.parent.name) for path in _submissions(study)), default=0)


def _folder(study: StudyPaths, number: int) -> Path:
    return study.folder / FOLDER / f"{number:04}"


def _submissions(study: StudyPaths) -> list[Path]:
    return sorted((study.folder / FOLDER).glob("[0-9][0-9][0-9][0-9]/submission.json"))


def under_way(sweep: JobSweep) -> dict[str, Sent]:
    """Return the submitted members whose jobs are still live; jobs that an earlier call left held are released."""
    records = [(path, Submission.read(path)) for path in _submissions(sweep.study)]
    records = [(path, one) for path, one in records if one.seed == sweep.seed and one.jobs]
    if not records:
        return {}
    states = client.job_states([job.job for _, one in records for job in one.jobs])
    tasks = {task.member: task for task in sweep.tasks}
    found: dict[str, Sent] = {}
    for path, one in records:
        live = {
            member: job.task(member)
            for job in one.jobs
            for member in job.members
            if (state := states.get(job.task(member))) is not None and state.live
        }
        if live and not one.released:
            client.release([job.job for job in one.jobs])
            one.model_copy(update={"released": True}).write(path)
        for member, number in live.items():
            if member in tasks:
                found[member] = Sent(task=tasks[member], number=number, log=_log(path.parent, number))
    return found


def _log(folder: Path, number: str) -> Path:
    return folder / f"{number}.log"


def send_rest(
    sweep: JobSweep, profile: SlurmProfile, *, anyway: bool, ready: Callable[[], None] = lambda: None
) -> dict[str, Sent]:
    """Submit the unfinished members that have no live job; return the tasks of all unfinished members.

    Args:
        sweep: the tasks and their study.
        profile: the cluster and the resources of its jobs.
        anyway: True to accept jobs that wait for nodes which are unavailable now.
        ready: called before anything is submitted.

    Raises:
        BadInput: as `submit`, or another process is submitting members of this study.
    """
    place = sweep.study.folder / FOLDER
    try:
        with leased(place) as ours:
            sent = under_way(sweep)
            left = tasks_left(sweep, sent)
            if left:
                ready()
                ours.check()
                sent |= submit(replace(sweep, tasks=tuple(left)), profile, anyway=anyway)
            return sent
    except LeaseHeld as error:
        who = str(error).partition("trained by ")[2]
        raise BadInput(
            f"{who} is sending members of {sweep.study.folder} to Slurm; when it has, this command follows its jobs"
        ) from error


def check_cluster(sweep: JobSweep, *, anyway: bool) -> None:
    """Refuse a sweep that the cluster cannot run.

    Raises:
        BadInput: Slurm does not answer, or as `client.check`.
    """
    cluster = client.nodes()
    for needs in dict.fromkeys(task.needs for task in sweep.tasks):
        client.check(needs, cluster, anyway=anyway)


def submit(sweep: JobSweep, profile: SlurmProfile, *, anyway: bool) -> dict[str, Sent]:
    """Submit every task of a sweep, or none: all jobs enter the queue on hold and are released together.

    Raises:
        BadInput: the cluster cannot run the sweep, or refuses a file; nothing is left in the queue then.
    """
    check_cluster(sweep, anyway=anyway)
    number, folder = _new_folder(sweep.study)
    record = Submission(plan=str(sweep.plan), seed=sweep.seed)
    sent: dict[str, Sent] = {}
    try:
        for file in render(sweep, profile, number):
            atomic_write(folder / file.name, file.text)
            job = SlurmJob(
                job=client.submit_held(folder / file.name),
                file=file.name,
                members=tuple(task.member for task in file.tasks),
                array=file.array,
            )
            record = record.model_copy(update={"jobs": (*record.jobs, job)})
            record.write(folder / "submission.json")
            for task in file.tasks:
                own = job.task(task.member)
                sent[task.member] = Sent(task=task, number=own, log=_log(folder, own))
    except BaseException:
        if record.jobs:
            client.cancel([job.job for job in record.jobs])
        raise
    client.release([job.job for job in record.jobs])
    record.model_copy(update={"released": True, "created_at": now()}).write(folder / "submission.json")
    return sent


def _new_folder(study: StudyPaths) -> tuple[int, Path]:
    """Create the folder of the first free number, so that an incomplete submission is not overwritten."""
    number = next_number(study)
    with clear_io_errors(study.folder / FOLDER):
        while True:
            folder = _folder(study, number)
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                number += 1
            else:
                return number, folder


@dataclass(slots=True, kw_only=True)
class Following:
    """Outcome of each member: done, or failed with the reason."""

    done: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)


def follow(
    sweep: JobSweep,
    sent: dict[str, Sent],
    profile: SlurmProfile,
    *,
    log: Callable[[str], None],
    progress: Callable[[float, float, str], None],
    pause: Callable[[float], None] = time.sleep,
) -> Following:
    """Follow the jobs until every member is done or has failed; the study's runs.jsonl is updated meanwhile.

    Args:
        sweep: the tasks and their study.
        sent: the task of Slurm of each member that is not done.
        profile: the profile, for the time within which a job must start.
        log: called with each message.
        progress: called with FLOPs done, total FLOPs, and a description.
        pause: called with the seconds to wait between queries of Slurm.
    """
    found = Following(done={task.member for task in sweep.tasks if task.member not in sent})
    began = gathered = time.monotonic()
    said: dict[str, str] = {}
    ended: dict[str, float] = {}
    jobs = sorted({one.number.split("_")[0] for one in sent.values()})
    total = sum(task.flops for task in sweep.tasks)
    heard = began
    while True:
        try:
            states = client.job_states(jobs)
            heard = time.monotonic()
        except BadInput as error:
            if time.monotonic() - heard > _UNHEARD:
                raise
            log(f"{error}; asking again")
            pause(15.0)
            continue
        for member, one in sent.items():
            if member in found.done or member in found.failed:
                continue
            state = states.get(one.number)
            # A member is done when its process has ended: while Slurm has the job its folders are not read.
            if (state is None or not state.live) and one.task.done(sweep.study):
                found.done.add(member)
            elif state is not None and state.live:
                ended.pop(member, None)
                reason = _waits(state)
                if reason != said.get(member, ""):
                    log(f"{member} (job {one.number}) {reason or f'runs on {state.nodes}'}")
                    said[member] = reason
                if gave_up := _too_late(state, one, profile):
                    client.cancel([one.number])
                    found.failed[member] = gave_up
            elif time.monotonic() - ended.setdefault(member, time.monotonic()) > _grace(state):
                found.failed[member] = why(one, state)
        over = found.done | found.failed.keys()
        if over >= {task.member for task in sweep.tasks}:
            break
        if time.monotonic() - gathered > _GATHER_EVERY:
            gather_runs(sweep.study.runs)
            gathered = time.monotonic()
        progress(
            sum(task.flops for task in sweep.tasks if task.member in found.done),
            total,
            _tally(sent, states, over),
        )
        pause(
            min(15.0, 1.0 + (time.monotonic() - began) / 20)
        )  # often at first; a long wait is kind to slurmctld
    gather_runs(sweep.study.runs)
    return found


def _grace(state: client.JobState | None) -> float:
    """Return the seconds to wait for files: none after a failure, some after success, as file systems may lag."""
    return _GRACE if state is None or state.state == "COMPLETED" else 0.0


def _waits(state: client.JobState) -> str:
    """Return the reason for which a job waits; "" for a job that runs or waits for its turn."""
    if state.state not in client.WAITING or state.reason == "None":
        return ""
    return f"waits: {state.reason}"


def _too_late(state: client.JobState, one: Sent, profile: SlurmProfile) -> str:
    limit = profile.start_within
    if limit is None or state.state not in client.WAITING or time.monotonic() - one.at <= limit:
        return ""
    return f"no node has started it within {limit} s ({state.reason}), and it is cancelled"


def _tally(sent: dict[str, Sent], states: dict[str, client.JobState], over: Iterable[str]) -> str:
    left = [states[one.number] for member, one in sent.items() if member not in over and one.number in states]
    waiting = sum(state.state in client.WAITING for state in left)
    return f"{len(left) - waiting} jobs run, {waiting} wait"


def why(one: Sent, state: client.JobState | None) -> str:
    """Return the reason for which a job ended without completing its member."""
    code = client.exit_code(one.number)
    where = f" on {state.nodes}" if state is not None and state.nodes else ""
    said = last_words(one.log)
    if code == _NO_OUTPUT or (code == f"{MISSING}:0" and not said):
        return f"the node{where} does not see {one.log.parent}: a study must lie where every node can read and write it"
    if code.startswith("127:") and not said:
        return f"the node{where} has no program of the name that its job starts: say with command: in the profile where it is"
    if said:
        return f"{said}{where and f' ({where.strip()})'}; its output is {one.log}"
    verdict = "Slurm has forgotten it" if state is None else f"it ended as {state.state}{where}"
    return f"{verdict}{f', exit code {code}' if code else ''}; its output is {one.log}"


def last_words(log: Path) -> str:
    """Return the last line that the scaling program wrote to a log, or else that of Slurm; "" without one."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines()]
    ours = [line.removeprefix("scaling: ") for line in lines if line.startswith("scaling: ")]
    ours = ours or [line for line in lines if line.startswith(("slurmstepd", "srun: error"))]
    return ours[-1] if ours else ""


def tasks_left(sweep: JobSweep, sent: dict[str, Sent]) -> Sequence[MemberTask]:
    """Return the tasks that are neither done nor submitted."""
    return [task for task in sweep.left() if task.member not in sent]


def refuse_failures(found: Following) -> str:
    """Return one line about the members that failed; "" if none did."""
    if not found.failed:
        return ""
    first, reason = next(iter(found.failed.items()))
    more = (
        f" (and {len(found.failed) - 1} more: {', '.join(list(found.failed)[1:6])})"
        if len(found.failed) > 1
        else ""
    )
    total = len(found.done) + len(found.failed)
    return f"{len(found.failed)} of {total} members are not done: {first}: {reason}{more}"
