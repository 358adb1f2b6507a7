"""Small runs packed side by side: each climbs its ladder in a process of its own, on its own share of the cores.

A model of under a million parameters keeps one core busy and two waiting for each other: on two cores, width 32 takes
9 ms a step on one thread and 18 on two (docs/log.md).
"""

import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from families import train_flops_per_token
from families.units import RunFailed
from scaling.paths import StudyPaths

from .config import Settings
from .data import DataManifest, TokenizedText
from .ladder import Interrupted, RunOptions, RunPaths, no_op, train_ladder
from .lease import Stop
from .rung import RungFile
from .settings import planned_steps

POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One ladder: what to train, to which rungs, where, and how much work that is, in any unit."""

    settings: Settings
    rungs: tuple[int, ...]
    places: RunPaths
    data: Path
    work_per_step: float
    steps: int

    @classmethod
    def of(cls, settings: Settings, rungs: tuple[int, ...], study: StudyPaths) -> Self:
        """A run of a study; its work is counted in FLOPs."""
        return cls(
            settings=settings,
            rungs=rungs,
            places=RunPaths.of(study, settings.run),
            data=study.data,
            work_per_step=float(settings.batch_tokens * train_flops_per_token(settings.spec())),
            steps=planned_steps(settings, rungs),
        )

    @property
    def work(self) -> float:
        """The whole ladder's."""
        return self.steps * self.work_per_step


Report = Callable[[float, float, str, bool], None]  # done, of how much, what, whether just now


def climb_all(
    jobs: Sequence[Job], habits: RunOptions, stop: Stop, report: Report, *, side_by_side: int
) -> tuple[RungFile, ...]:
    """Climb every ladder, `side_by_side` at a time; rungs in the order of the jobs.

    Raises:
        Interrupted: asked to stop; every run is saved at the step it was at.
    """
    if side_by_side > 1 and len(jobs) > 1:
        return _in_processes(jobs, habits, stop, report, min(side_by_side, len(jobs)))
    total = sum(job.work for job in jobs)
    done: list[RungFile] = []
    before = 0.0
    for job in jobs:

        def progress(position: int, what: str, trained: bool, job: Job = job, before: float = before) -> None:
            report(before + position * job.work_per_step, total, what, trained)

        done.extend(_climb(job, replace(habits, progress=progress), stop))
        before += job.work
    return tuple(done)


def _climb(job: Job, habits: RunOptions, stop: Stop) -> tuple[RungFile, ...]:
    manifest = DataManifest.read(job.data / "data.json")
    text = TokenizedText.open(job.data, manifest, job.settings.n_positions, job.settings.data_fraction)
    return train_ladder(job.settings, job.rungs, text, job.places, habits, stop)


@contextmanager
def _safe_path() -> Iterator[None]:
    """Processes that begin meanwhile do not find a train.py of the current folder; this one is as before afterwards."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _in_processes(
    jobs: Sequence[Job], habits: RunOptions, stop: Stop, report: Report, workers: int
) -> tuple[RungFile, ...]:
    """The longest job first, so that the workers end together."""
    context = multiprocessing.get_context("spawn")
    messages: Any = context.Queue()
    ask: Any = context.Event()
    quiet = replace(habits, tell=no_op, progress=no_op)
    total = sum(job.work for job in jobs)
    positions = [0.0] * len(jobs)
    order = sorted(range(len(jobs)), key=lambda index: -jobs[index].work)
    with (
        _safe_path(),
        ProcessPoolExecutor(workers, context, _begin_worker, (messages, ask, os.getpid())) as pool,
    ):
        futures: dict[int, Future[tuple[RungFile, ...]]] = {
            index: pool.submit(_work, index, jobs[index], quiet) for index in order
        }
        try:
            while not all(future.done() for future in futures.values()):
                if stop.asked or any(future.done() and future.exception() for future in futures.values()):
                    ask.set()
                try:
                    index, position, what, trained = messages.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    continue
                if index is None:
                    habits.tell(what)
                    continue
                positions[index] = position * jobs[index].work_per_step
                report(sum(positions), total, what, trained)
        finally:
            ask.set()  # an impatient second Ctrl-C must not wait for whole ladders
        results: list[RungFile] = []
        interrupted: Interrupted | None = None
        for index in range(len(jobs)):
            try:
                results.extend(futures[index].result())
            except Interrupted as error:
                interrupted = error
            except BrokenProcessPool as error:
                raise RunFailed(
                    f"the process that trained {jobs[index].settings.run} was killed (memory, perhaps); "
                    "the same command goes on from the last checkpoints"
                ) from error
        if interrupted is not None:
            raise Interrupted(*interrupted.args)
        report(total, total, "all ladders", False)
        return tuple(results)


class _SharedStop(Stop):
    """Set by the parent, or by its death: an orphan saves and ends."""

    def __init__(self, ask: Any, parent: int) -> None:
        super().__init__()
        self._ask, self._parent = ask, parent

    @property
    def asked(self) -> bool:
        """Looked at after every step."""
        return bool(self._ask.is_set()) or os.getppid() != self._parent


_shared: dict[str, Any] = {}


def _begin_worker(messages: Any, ask: Any, parent: int) -> None:
    import signal

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and asks
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    busy = threading.Lock()
    _shared.update(messages=messages, stop=_SharedStop(ask, parent), busy=busy)
    threading.Thread(target=_end_with_parent, args=(parent, busy), daemon=True).start()


def _end_with_parent(parent: int, busy: threading.Lock) -> None:
    """A killed parent leaves its workers waiting for work for ever: end, once the run in hand is saved."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    with busy:
        os._exit(1)


def _work(index: int, job: Job, habits: RunOptions) -> tuple[RungFile, ...]:
    messages = _shared["messages"]
    told = replace(
        habits,
        tell=lambda line: messages.put((None, 0, line, False)),
        progress=lambda position, what, trained: messages.put((index, position, what, trained)),
    )
    with _shared["busy"]:
        return _climb(job, told, _shared["stop"])
