"""Ladders side by side on this machine, by a queue that survives being killed.

The queue is the study's folder: a ladder is done when its rungs have their observations, in progress while a process holds
the lease of its run (train.lease), and pending otherwise. The same command therefore resumes an interrupted queue, and
several machines that share the folder share the work.

A model of under a million parameters keeps one core busy and two waiting for each other: on two cores, width 32 takes 9 ms a
step on one thread and 18 on two (docs/log.md). Warm workers train such ladders, one after another in each: torch is imported
once a worker. What needs several processes or another program is a command of its own.
"""

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, Self

from families import train_flops_per_token
from families.units import RunFailed
from scaling.files import clear_io_errors
from scaling.paths import StudyPaths

from ..config import Settings
from ..data import DataManifest, TokenizedText
from ..ladder import Interrupted, RunOptions, RunPaths, no_op, train_ladder
from ..lease import LeaseHeld, Stop, lease_holder
from ..rung import RUNG, RungFile
from ..settings import branch_name, planned_steps, rung_steps, with_recorded_settings
from .pool import Pool, Process, python, share_of_machine, write_command

LOGS = "logs"  # the folder in a study of what its processes write
POLL_SECONDS = 0.2
ELSEWHERE_SECONDS = 5.0  # between looks at a run that another process is training
_CLAIMED = "is being trained by"
_WORKER = "from train.jobs.worker import main; main()"

ProgressCallback = Callable[[float, float, str, bool], None]  # done, total, what, whether trained just now


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A ladder to train in this process or a worker.

    Args:
        settings: settings of the run.
        rungs: lengths of the rungs in tokens.
        paths: paths that the run writes.
        data: folder of the tokenised text.
        work_per_step: work of a step, in any unit that all jobs share.
        steps: steps of the whole ladder, trunk and branches.
        log: file of the output of the run; None for standard error.
        shared: True if another process may begin the run first; its recorded micro-batch and engine are used then.
    """

    settings: Settings
    rungs: tuple[int, ...]
    paths: RunPaths
    data: Path
    work_per_step: float
    steps: int
    log: Path | None = None
    shared: bool = False

    @classmethod
    def of(
        cls, settings: Settings, rungs: tuple[int, ...], study: StudyPaths, *, shared: bool = False
    ) -> Self:
        """Return the job of a run in a study; its work is counted in FLOPs.

        Args:
            settings: settings of the run.
            rungs: lengths of the rungs in tokens.
            study: the study that holds the text and the run.
            shared: True if another process may begin the run first.
        """
        return cls(
            settings=settings,
            rungs=rungs,
            paths=RunPaths.of(study, settings.run),
            data=study.data,
            work_per_step=float(settings.batch_tokens * train_flops_per_token(settings.spec())),
            steps=planned_steps(settings, rungs),
            log=study.folder / LOGS / f"{settings.run}.log",
            shared=shared,
        )

    @property
    def work(self) -> float:
        """Work of the whole ladder."""
        return self.steps * self.work_per_step

    def done(self) -> bool:
        """Return True if every rung has its observation."""
        names = (branch_name(self.settings, steps) for steps in rung_steps(self.settings, self.rungs))
        return all((self.paths.folder / name / RUNG).exists() for name in names)

    def train(self, options: RunOptions, stop: Stop) -> tuple[RungFile, ...]:
        """Train the ladder in this process; finished rungs are not trained again.

        Raises:
            Interrupted: asked to stop; saved.
        """
        settings = with_recorded_settings(self.settings, self.paths.folder) if self.shared else self.settings
        manifest = DataManifest.read(self.data / "data.json")
        text = TokenizedText.open(self.data, manifest, settings.n_positions, settings.data_fraction)
        return train_ladder(settings, self.rungs, text, self.paths, options, stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """An entry of the queue: a job for a warm worker, or else a command.

    Args:
        name: name of the task, unique in the queue.
        folder: folder of the run, which holds the lease.
        work: work of the task, in any unit that all tasks share.
        done: returns True once the task is complete.
        log: file of the output of the task; by default standard error of this process.
        job: the job of a warm worker; None for a command.
        words: the command, without a job.
        announced: True to log when the task is done or has failed.
        one_device: True for a command of one process, which may share a GPU where there are fewer of them than tasks.
    """

    name: str
    folder: Path
    work: float
    done: Callable[[], bool]
    log: Path | None = None
    job: Job | None = None
    words: tuple[str, ...] = ()
    announced: bool = False
    one_device: bool = False

    @classmethod
    def of(cls, name: str, job: Job, *, announced: bool = False) -> Self:
        """Return the task of a job."""
        return cls(
            name=name,
            folder=job.paths.folder,
            work=job.work,
            done=job.done,
            log=job.log,
            job=job,
            announced=announced,
        )


@dataclass(slots=True, kw_only=True)
class Outcome:
    """Rungs of the tasks that are done (none of a command), and the errors of those that failed, by name."""

    done: dict[str, tuple[RungFile, ...]] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)


def train_ladders(
    jobs: Sequence[Job], options: RunOptions, stop: Stop, report: ProgressCallback, *, side_by_side: int
) -> tuple[RungFile, ...]:
    """Train every ladder, `side_by_side` at a time, one thread each; rungs in the order of the jobs.

    In turn, in this process, the first failure ends the queue. Side by side, the other ladders are trained nevertheless, and
    the first error is raised at the end.

    Args:
        jobs: the ladders.
        options: options of all runs.
        stop: stop signal, polled after every step.
        report: called with work done, total work, a description, and True for work that was just trained.
        side_by_side: number of ladders that train at a time.

    Raises:
        Interrupted: asked to stop; every run is saved at the step it was at.
    """
    if side_by_side > 1 and len(jobs) > 1:
        tasks = [Task.of(job.settings.run, job) for job in jobs]
        found = run_queue(tasks, options, stop, report, at_once=min(side_by_side, len(jobs)))
        for error in (found.failed[task.name] for task in tasks if task.name in found.failed):
            raise error
        return tuple(rung for task in tasks for rung in found.done[task.name])
    total = sum(job.work for job in jobs)
    done: list[RungFile] = []
    before = 0.0
    for job in jobs:

        def progress(position: int, what: str, trained: bool, job: Job = job, before: float = before) -> None:
            report(before + position * job.work_per_step, total, what, trained)

        done.extend(job.train(replace(options, progress=progress), stop))
        before += job.work
    return tuple(done)


def run_queue(
    tasks: Sequence[Task], options: RunOptions, stop: Stop, report: ProgressCallback, *, at_once: int, threads: int = 1,
    poll: float = POLL_SECONDS,
) -> Outcome:  # fmt: skip
    """Run every task, `at_once` at a time, until each is done, here or elsewhere, or has failed.

    Args:
        tasks: the tasks, in the order in which they are reported.
        options: options of all runs.
        stop: stop signal; every process saves and ends once it is requested.
        report: called with work done, total work, a description, and True for work that was just trained.
        at_once: number of tasks that run at a time.
        threads: threads of each worker; a command takes its share of the cores.
        poll: seconds between checks of the processes.

    Raises:
        BadInput: a log cannot be written.
        Interrupted: asked to stop; every run is saved at the step it was at.
    """
    with Pool() as pool:
        queue = _Queue(tasks, options, stop, report, pool=pool, at_once=at_once, threads=threads)
        try:
            queue.run(poll)
        finally:
            queue.close()
        if not queue.found.failed:
            report(queue.total, queue.total, "all ladders", False)
        return queue.found


@dataclass(slots=True)
class _Child:
    """A process of the pool in its slot: a warm worker with the end of its pipe, or a command."""

    process: Process
    pipe: "Connection[Any, Any] | None" = None
    task: Task | None = None


class _Queue:
    """State of `run_queue`: the process in each slot, and the outcome of each task."""

    def __init__(
        self, tasks: Sequence[Task], options: RunOptions, stop: Stop, report: ProgressCallback, *, pool: Pool, at_once: int,
        threads: int,
    ) -> None:  # fmt: skip
        # Side by side the longest comes first, so that the workers end together.
        self.tasks = sorted(tasks, key=lambda task: -task.work) if at_once > 1 else list(tasks)
        self.order = [task.name for task in tasks]
        self.options, self.stop, self.report, self.pool = options, stop, report, pool
        self.at_once, self.threads = at_once, threads
        self.total = sum(task.work for task in tasks)
        self.found = Outcome()
        self.slots: dict[int, _Child] = {}
        self.positions: dict[str, float] = {}
        self.look_again: dict[str, float] = {}
        self.interrupted: dict[str, KeyboardInterrupt] = {}
        self.began: set[str] = set()
        self.stopping = False

    @property
    def busy(self) -> dict[str, _Child]:
        """Children at work, by the names of their tasks."""
        return {child.task.name: child for child in self.slots.values() if child.task is not None}

    def run(self, poll: float) -> None:
        """Start tasks and handle their messages, until nothing is left to do or a stop is requested."""
        while True:
            if not self.stop.requested:
                self._fill()
            if not self._left():
                return
            if self.stop.requested and not self.stopping:
                self.stopping = True
                self.pool.send(signal.SIGTERM)
            if self.stop.requested and not self.busy:
                raise self._interruption()
            pipes = [child.pipe for child in self.slots.values() if child.pipe is not None and child.task]
            if not pipes or not wait(pipes, timeout=poll):
                self._say()
                if not pipes:
                    time.sleep(poll)
            for slot, child in list(self.slots.items()):
                self._look(slot, child)

    def close(self) -> None:
        """End every process; one that trains saves first, however long that takes."""
        self.pool.send(signal.SIGTERM)
        for child in self.slots.values():
            if child.pipe is not None:
                child.pipe.close()
        for child in self.slots.values():
            child.process.popen.wait()

    def _left(self) -> bool:
        return any(name not in self.found.done and name not in self.found.failed for name in self.order)

    def _interruption(self) -> KeyboardInterrupt:
        """Say what was saved, rather than what had not begun."""
        errors = [self.interrupted[name] for name in self.order if name in self.interrupted]
        errors.sort(key=lambda error: isinstance(error, Interrupted))
        return errors[-1] if errors else Interrupted("the same command goes on with the rest")

    def _say(self) -> None:
        """Progress of commands, which say nothing themselves, and of work elsewhere."""
        busy = self.busy
        if all(child.pipe is not None for child in busy.values()) and busy:
            return
        self.report(
            sum(self.positions.values()), self.total, ", ".join(busy) or "waiting for another process", True
        )

    # Starting

    def _fill(self) -> None:
        busy = self.busy
        for task in self.tasks:
            if len(busy) >= self.at_once:
                return  # a look at each of thousands of folders waits until there is room for one more
            if task.name in self.found.done or task.name in self.found.failed or task.name in busy:
                continue
            if self.look_again.get(task.name, 0.0) > time.monotonic():
                continue
            who = lease_holder(task.folder)
            if who is not None:
                if task.name not in self.look_again:
                    self.options.log(f"{task.name} is being trained by {who}; waiting for it")
                self._later(task)
            elif task.done():
                self._take(task)
            else:
                self._begin(task)
                busy = self.busy

    def _later(self, task: Task) -> None:
        self.look_again[task.name] = time.monotonic() + ELSEWHERE_SECONDS

    def _take(self, task: Task) -> None:
        """Take the rungs of a finished ladder; a process that was killed may have left the last of its books to do."""
        try:
            rungs = task.job.train(replace(self.options, progress=no_op), self.stop) if task.job else ()
        except Exception as error:
            self._fail(task, error)
        else:
            self._done(task, rungs)

    def _begin(self, task: Task) -> None:
        self.began.add(task.name)
        free = [
            slot for slot in range(self.at_once) if slot not in self.slots or self.slots[slot].task is None
        ]
        warm = [slot for slot in free if slot in self.slots]
        slot = (warm or free)[0] if task.job else next(iter([*(s for s in free if s not in warm), *free]))
        child = self.slots.get(slot)
        if task.job is None:
            if child is not None:
                self._drop(slot, child)
            if task.log is not None:
                write_command(task.log, task.words)
            variables = share_of_machine(slot, self.at_once, of_gpus=task.one_device)
            process = self.pool.start(task.words, environment=variables, log=task.log)
            self.slots[slot] = _Child(process, task=task)
            return
        if child is None:
            child = self.slots[slot] = self._start_worker(slot)
        if task.log is not None:
            with clear_io_errors(task.log):
                task.log.parent.mkdir(parents=True, exist_ok=True)
                task.log.touch()
        child.task = task
        assert child.pipe is not None
        quiet = replace(self.options, log=no_op, progress=no_op)
        child.pipe.send((task.job, quiet, self.threads, task.log))

    def _start_worker(self, slot: int) -> _Child:
        ours, theirs = Pipe()
        try:
            process = self.pool.start(
                python(_WORKER, str(theirs.fileno())),
                environment=share_of_machine(slot, self.at_once, of_gpus=self.options.device == "cuda"),
                pass_fds=(theirs.fileno(),),
            )
        finally:
            theirs.close()
        return _Child(process, ours)

    # Handling messages and exits

    def _look(self, slot: int, child: _Child) -> None:
        ended = child.process.poll() is not None  # before the pipe is read: what it said last is in there
        while child.pipe is not None and child.task is not None:
            try:
                if not child.pipe.poll():
                    break
                kind, *message = child.pipe.recv()
            except (EOFError, OSError):
                ended = True
                break
            self._hear(child, child.task, kind, message)
        if not ended:
            return
        task = child.task
        status = child.process.popen.wait()
        self._drop(slot, child)
        if task is not None:
            self._ended(task, child, status)

    def _hear(self, child: _Child, task: Task, kind: str, message: list[Any]) -> None:
        if kind == "log":
            self.options.log(*message)
        elif kind == "progress":
            position, what, trained = message
            if task.job is not None:
                self.positions[task.name] = position * task.job.work_per_step
            self.report(sum(self.positions.values()), self.total, what, trained)
        else:
            child.task = None
            if kind == "done":
                self._done(task, *message)
            else:
                self._fail(task, *message)

    def _done(self, task: Task, rungs: tuple[RungFile, ...]) -> None:
        self.found.done[task.name] = rungs
        self.positions[task.name] = task.work
        # What a worker trained it has reported; a command has trained it all, and what was done is not this one's speed.
        self.report(
            sum(self.positions.values()), self.total, task.name, task.job is None and task.name in self.began
        )
        if task.announced and task.name in self.began:
            self.options.log(f"{task.name} is done")

    def _fail(self, task: Task, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            self.interrupted[task.name] = error
        elif isinstance(error, LeaseHeld):  # another process was faster
            self._later(task)
        else:
            self.found.failed[task.name] = error if isinstance(error, Exception) else RunFailed(str(error))
            if task.announced:
                self.options.log(f"{task.name} failed: {error}")

    def _ended(self, task: Task, child: _Child, status: int) -> None:
        """The process of a task has ended: a command, or a worker that was killed."""
        if child.pipe is not None:
            early = KeyboardInterrupt("before a step was trained; the same command begins again")
            stopped = self.stopping and status == -signal.SIGTERM
            self._fail(task, early if stopped else RunFailed(self._killed(task)))
            return
        if task.done():
            self._done(task, ())
            return
        words = child.process.last_words() if status >= 0 else ""
        if status and _CLAIMED in words:
            self._later(task)
        elif self.stopping and status:
            self._fail(task, Interrupted(words.removeprefix("interrupted: ")))
        else:
            ending = f"signal {-status}" if status < 0 else f"status {status}"
            self._fail(task, RunFailed(words or f"it ended with {ending}"))

    def _killed(self, task: Task) -> str:
        return (
            f"the process that trained {task.name} was killed (memory, perhaps); "
            "run the same command to resume from the last checkpoints"
        )

    def _drop(self, slot: int, child: _Child) -> None:
        if child.pipe is not None:
            child.pipe.close()
        if child.process.poll() is None:
            child.process.popen.wait()
        self.pool.forget(child.process)
        del self.slots[slot]
