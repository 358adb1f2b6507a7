"""A sweep on this machine, each run in a process of its own, by a queue that survives being killed.

The queue is the study's folder: a member is done when its rungs have their observations, under way while somebody's claim
on its run lives (scaling.cluster.claims), and else to be done. So the same command goes on where it was, and on several machines
that share the folder it shares the work.
"""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from families.units import BadInput

from ..files import clear_io_errors
from .launcher import Sweep, Task, torchrun_words
from .submission import Following, last_words

FOLDER = "logs"
POLL = 0.5  # seconds
ELSEWHERE = 5.0  # seconds between looks at a run that another process is training
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_CLAIMED = "is being trained by"


@dataclass(frozen=True, slots=True)
class _Child:
    task: Task
    process: "subprocess.Popen[bytes]"
    log: Path
    slot: int


def run_here(
    sweep: Sweep,
    *,
    at_once: int,
    tell: Callable[[str], None],
    progress: Callable[[float, float, str], None],
    pause: Callable[[float], None] = time.sleep,
) -> Following:
    """Train every member, `at_once` at a time, until each is done or has failed.

    Raises:
        BadInput: a member needs several nodes, or nothing can be written.
        KeyboardInterrupt: asked to stop; the runs have saved.
    """
    for task in sweep.tasks:
        if task.needs.nodes > 1:
            raise BadInput(
                f"{task.member} needs {task.needs.nodes} nodes; --launcher local has this one: take --launcher slurm"
            )
    found = Following()
    children: list[_Child] = []
    look_again: dict[str, float] = {}
    total = sum(task.flops for task in sweep.tasks)
    try:
        while True:
            for child in [one for one in children if one.process.poll() is not None]:
                children.remove(child)
                _settle(child, sweep, found, look_again, tell)
            busy = {child.task.member for child in children}
            for task in sweep.tasks:
                if len(children) >= at_once:
                    break  # a look at each of thousands of folders waits until there is room for one more
                if task.member in found.done or task.member in found.failed or task.member in busy:
                    continue
                if look_again.get(task.member, 0.0) > time.monotonic():
                    continue
                if task.done(sweep.study):
                    found.done.add(task.member)
                    continue
                who = task.trained_by(sweep.study)
                if who is None:
                    slot = next(slot for slot in range(at_once) if slot not in {one.slot for one in children})
                    children.append(_begin(task, sweep, slot, at_once))
                else:
                    if task.member not in look_again:
                        tell(f"{task.member} is being trained by {who}; waiting for it")
                    look_again[task.member] = time.monotonic() + ELSEWHERE
            if len(found.done) + len(found.failed) == len(sweep.tasks):
                return found
            done = sum(task.flops for task in sweep.tasks if task.member in found.done)
            progress(
                done,
                total,
                ", ".join(child.task.member for child in children) or "waiting for another process",
            )
            pause(POLL)
    finally:
        for child in children:
            child.process.send_signal(signal.SIGTERM)
        for child in children:
            child.process.wait()


def _settle(
    child: _Child, sweep: Sweep, found: Following, look_again: dict[str, float], tell: Callable[[str], None]
) -> None:
    member, status = child.task.member, child.process.returncode
    if child.task.done(sweep.study):
        found.done.add(member)
        tell(f"{member} is done")
        return
    said = last_words(child.log)
    if status and _CLAIMED in said:  # somebody was faster
        look_again[member] = time.monotonic() + ELSEWHERE
        return
    ending = f"signal {-status}" if status < 0 else f"status {status}"
    found.failed[member] = f"{said or f'it ended with {ending}'}; its output is {child.log}"
    tell(f"{member} failed: {said or ending}")


def _begin(task: Task, sweep: Sweep, slot: int, at_once: int) -> _Child:
    log = sweep.study.folder / FOLDER / f"{task.run}.log"
    words = [*torchrun_words(sweep.command, task.needs), *sweep.words(task)]
    with clear_io_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        out: IO[bytes]
        with log.open("ab") as out:
            out.write(f"$ {shlex.join(words)}\n".encode())
            out.flush()
            process = subprocess.Popen(  # noqa: S603 - words, no shell
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **_share(slot, at_once)},
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
    return _Child(task, process, log, slot)


def _share(slot: int, at_once: int) -> dict[str, str]:
    """A run's part of the machine: an equal share of the cores, and a GPU of its own where there are enough."""
    more: dict[str, str] = {}
    if at_once > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        more["OMP_NUM_THREADS"] = str(max(1, cores // at_once))
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        found = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
        gpus = sorted(found, key=int) if given is None else [name for name in given.split(",") if name]
        if len(gpus) >= at_once:
            more["CUDA_VISIBLE_DEVICES"] = gpus[slot]
    return more


def _end_with_parent() -> None:
    """A queue that is killed takes its runs with it: the kernel sends them SIGTERM, and they save."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
