"""Processes on this machine: started in sessions of their own, signalled and ended together, never outliving this one.

One guard for each pool watches for the death of this process: it holds the reading end of a pipe, which the kernel closes on
Linux and macOS alike, however this process ends. Then it sends SIGTERM to every process (a run saves), and after a grace
SIGKILL to its whole group. So any program can be in a pool, and needs no code of its own for it.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Self

from scaling.files import clear_io_errors, open_to_append

from ..keys import GPU_SHARE
from ..lease import stop_signals

POLL_SECONDS = 0.1
GRACE_SECONDS = 20.0  # for the others to notice that one has failed
ORPHAN_GRACE = (
    60.0  # between SIGTERM and SIGKILL once this process is dead: a save, and torchrun's own grace of 30 s
)
LOST = 75  # status of a process that cannot go on because another has ended (EX_TEMPFAIL)
AGAIN = 76  # status of one that ran out of memory and has lowered the micro-batch: start all of them again
_GUARD = """
import os, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
def send(to, number):
    for group in list(groups):
        try:
            to(group, number)
        except OSError:
            groups.discard(group)
send(os.kill, signal.SIGTERM)
until = time.monotonic() + float(sys.argv[1])
while groups and time.monotonic() < until:
    time.sleep(0.1)
    send(os.killpg, 0)
send(os.killpg, signal.SIGKILL)
"""


@dataclass(slots=True)
class Process:
    """A started process. log: where its standard error goes, with the bytes that were there before it."""

    popen: "subprocess.Popen[bytes]"
    log: Path | None = None
    log_start: int = 0

    def poll(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self.popen.poll()

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            self.popen.send_signal(number)

    def last_words(self) -> str:
        """Last line of its log that this program wrote as its reason, else the last line."""
        if self.log is None:
            return ""
        try:
            with self.log.open("rb") as file:
                file.seek(self.log_start)
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        ours = [line for line in lines if line.startswith("scaling: ")]
        return (ours or lines or [""])[-1].removeprefix("scaling: ")


@dataclass(slots=True)
class Pool:
    """Context manager of processes: what still runs when it is left is killed, and what it starts ends with this process."""

    processes: list[Process] = field(default_factory=list)
    _guard: "subprocess.Popen[bytes] | None" = None

    def __enter__(self) -> Self:
        """Start the guard."""
        self._guard = subprocess.Popen(  # noqa: S603 - this Python, and no shell
            [sys.executable, "-I", "-S", "-c", _GUARD, str(ORPHAN_GRACE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(self, *error: object) -> None:
        """Kill what still runs."""
        for process in self.processes:
            process.send(signal.SIGKILL)
        for process in list(self.processes):
            process.popen.wait()
            self.forget(process)
        if self._guard is not None and self._guard.stdin is not None:
            with suppress(OSError):
                self._guard.stdin.close()
            self._guard.wait()

    def start(
        self,
        words: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
        log: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Process:
        """Start a program in a session of its own: a Ctrl-C reaches this process alone, which passes it on once.

        Args:
            words: the program and its arguments.
            environment: variables in addition to those of this process.
            stdin: as for subprocess.
            stdout: as for subprocess; None with a log appends standard output to the log.
            log: file to which standard error is appended; by default standard error of this process.
            pass_fds: file descriptors that the program inherits.

        Raises:
            BadInput: the log cannot be written.
        """
        variables = {**os.environ, "PYTHONSAFEPATH": "1", **(environment or {})}
        errors: IO[bytes] | None = None
        began = 0
        if log is not None:
            with clear_io_errors(log):
                log.parent.mkdir(parents=True, exist_ok=True)
                errors = open_to_append(log)
            began = errors.tell()
        try:
            popen = subprocess.Popen(  # noqa: S603 - words, no shell
                list(words),
                env=variables,
                stdin=stdin,
                stdout=errors if stdout is None and errors is not None else stdout,
                stderr=errors,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        finally:
            if errors is not None:
                errors.close()
        process = Process(popen, log, began)
        self.processes.append(process)
        self._tell("+", popen.pid)
        return process

    def forget(self, process: Process) -> None:
        """Drop a process that has ended."""
        self._tell("-", process.popen.pid)
        self.processes.remove(process)

    def send(self, number: int) -> None:
        """Send a signal to every process that runs."""
        for process in self.processes:
            process.send(number)

    def wait(self, grace: float) -> None:
        """Return once all have ended, or one has failed and the others have had their grace."""
        failed_at: float | None = None
        while any(process.poll() is None for process in self.processes):
            if failed_at is None and any(process.poll() for process in self.processes):
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() - failed_at > grace:
                return
            time.sleep(POLL_SECONDS)

    def _tell(self, sign: str, pid: int) -> None:
        if self._guard is None or self._guard.stdin is None:
            return
        with suppress(OSError):  # the guard may have been killed
            self._guard.stdin.write(f"{sign}{pid}\n".encode())
            self._guard.stdin.flush()


def python(code: str, *words: str) -> list[str]:
    """Words that run code in this Python. -P: a train.py of the current folder must not be run in place of ours."""
    return [sys.executable, "-P", "-c", code, *words]


def write_command(log: Path, words: Sequence[str]) -> None:
    """Open a log, or a further part of it, with the command that writes it.

    Raises:
        BadInput: it cannot be written.
    """
    with clear_io_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        with open_to_append(log) as file:
            file.write(f"$ {shlex.join(words)}\n".encode())


@contextmanager
def forward_signals(pool: Pool) -> Iterator[set[int]]:
    """Pass the signals that ask for a stop on to the processes of a pool; yields the numbers passed on so far."""
    passed_on: set[int] = set()

    def pass_on(number: int, frame: FrameType | None) -> None:
        passed_on.add(number)
        pool.send(number)

    previous: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {
        number: signal.signal(number, pass_on) for number in stop_signals()
    }
    try:
        yield passed_on
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_of_machine(slot: int, at_once: int, *, of_gpus: bool = False) -> dict[str, str]:
    """Variables of one of several runs side by side: its share of the cores, and a GPU of its own where there are enough.

    Args:
        slot: number of the run, from 0.
        at_once: runs side by side.
        of_gpus: True for runs of one process each to divide fewer GPUs, and the memory of each, among them.
    """
    if at_once < 2:
        return {}
    found = {"OMP_NUM_THREADS": str(max(1, cores() // at_once))}
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    gpus = sorted(there, key=int) if given is None else [name for name in given.split(",") if name]
    if len(gpus) >= at_once:
        found["CUDA_VISIBLE_DEVICES"] = gpus[slot]
    elif of_gpus and gpus:
        found["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
        found[GPU_SHARE] = f"{1 / runs_of_a_gpu(at_once, len(gpus)):.4g}"
    return found


def runs_of_a_gpu(at_once: int, gpus: int) -> int:
    """Return the largest number of runs on one GPU, where so many share so many."""
    return -(-at_once // max(1, gpus))


def rank_variables(
    rank: int, size: int, meeting: str, *, local: int | None = None, here: int | None = None
) -> dict[str, str]:
    """Variables of one of several processes that train one run, as torchrun names them.

    Args:
        rank: number of the process, from 0.
        size: number of processes.
        meeting: URL at which the processes find each other.
        local: number of the process on its node, from 0; by default `rank`.
        here: number of processes on its node; by default `size`.
    """
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank if local is None else local),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size if here is None else here),
        "SCALING_RENDEZVOUS": meeting,
    }


def meeting_in(folder: Path) -> str:
    """URL of a file in a folder, at which processes of one machine find each other."""
    return (folder / "processes").as_uri()
