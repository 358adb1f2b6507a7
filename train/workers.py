"""Several processes on this machine for one run: started, watched, and ended together (torchrun does it on several machines)."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from families.units import RunFailed

POLL_SECONDS = 0.1
GRACE_SECONDS = 20.0  # for the others to notice that one has ended
PARENT = "SCALING_PARENT"  # the process that started this one; workers end with it
LOST = 75  # status of a process that cannot go on because another has ended (EX_TEMPFAIL)
AGAIN = 76  # status of one that ran out of memory, and has lowered the micro-batch
# `-P` and PYTHONSAFEPATH: a train.py of the current folder must not be run in place of ours.
_START = "from scaling.cli import main; main()"


@dataclass(slots=True)
class _Worker:
    rank: int
    process: subprocess.Popen[bytes]
    errors: IO[bytes] | None  # what it says; process 0 speaks for itself

    def last_words(self) -> str:
        """The last line it left."""
        if self.errors is None:
            return ""
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


def run_together(words: Sequence[str], devices: int, tell: Callable[[str], None]) -> int:
    """Run the same command in so many processes; returns its exit status.

    Process 0 has this one's standard output and error. Signals that ask it to stop are passed on: the run saves and stops.
    Where one ran out of memory and has lowered the micro-batch, all begin again from the last checkpoint.

    Raises:
        RunFailed: a process was killed, or ended without saying why.
    """
    while True:
        status, words_left = _together(words, devices)
        if status != AGAIN:
            return status
        if words_left:
            tell(words_left)


def _together(words: Sequence[str], devices: int) -> tuple[int, str]:
    with tempfile.TemporaryDirectory(prefix="scaling-") as meeting:
        workers: list[_Worker] = []
        passed_on: set[int] = set()

        def pass_on(number: int, frame: FrameType | None) -> None:
            passed_on.add(number)
            for worker in workers:
                if worker.process.poll() is None:
                    worker.process.send_signal(number)

        passed = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        previous = {number: signal.signal(number, pass_on) for number in passed}
        try:
            for rank in range(devices):
                workers.append(_start(words, rank, devices, Path(meeting)))
            _wait(workers)
            again = [worker for worker in workers if worker.process.poll() == AGAIN]
            return (AGAIN, again[0].last_words()) if again else (_status(workers, devices, passed_on), "")
        finally:
            _end(workers)
            for number, old in previous.items():
                signal.signal(number, old)


def _start(words: Sequence[str], rank: int, devices: int, meeting: Path) -> _Worker:
    threads = max(1, len(os.sched_getaffinity(0)) // devices)
    environment = {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(devices),
        "LOCAL_WORLD_SIZE": str(devices),
        "SCALING_RENDEZVOUS": (meeting / "processes").as_uri(),
        "PYTHONSAFEPATH": "1",
        PARENT: str(os.getpid()),
    }
    errors: IO[bytes] | None = None if rank == 0 else (meeting / f"{rank}.log").open("w+b")
    process = subprocess.Popen(  # noqa: S603 - this program itself, with the words a person typed, and no shell
        [sys.executable, "-P", "-c", _START, *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=None if rank == 0 else subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,  # a Ctrl-C reaches this process alone, which passes it on once
    )
    return _Worker(rank, process, errors)


def _wait(workers: Sequence[_Worker]) -> None:
    """Until all have ended, or one has failed and the others have had their grace."""
    failed_at: float | None = None
    while any(worker.process.poll() is None for worker in workers):
        if failed_at is None and any(worker.process.poll() for worker in workers):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > GRACE_SECONDS:
            return
        time.sleep(POLL_SECONDS)


def _end(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.kill()
        worker.process.wait()
        if worker.errors is not None:
            worker.errors.close()


def _status(workers: Sequence[_Worker], devices: int, passed_on: AbstractSet[int]) -> int:
    codes = {worker.rank: worker.process.poll() for worker in workers}
    if any(code is not None and -code in passed_on for code in codes.values()):
        # it came before a process could hear it, or after there was anything to save
        raise KeyboardInterrupt("the same command goes on from the last checkpoint, where there is one")
    for rank, code in codes.items():
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            raise RunFailed(
                f"process {rank} of {devices} was killed by {name} (memory, perhaps); "
                "the same command goes on from the last checkpoint"
            )
    if codes[0] not in (0, LOST):
        return codes[0] or 1  # process 0 has said why
    for worker in workers[1:]:
        if codes[worker.rank] not in (0, LOST):
            words = worker.last_words().removeprefix("scaling: ") or f"status {codes[worker.rank]}"
            raise RunFailed(f"process {worker.rank} of {devices}: {words}")
    if any(code == LOST for code in codes.values()):
        raise RunFailed("the processes lost each other; the same command goes on from the last checkpoint")
    return 0


def started_here() -> bool:
    """Whether `run_together` started this process."""
    return PARENT in os.environ


def end_with_parent() -> None:
    """End when the process that started this one does: checkpoints are whole at every moment."""
    parent = int(os.environ[PARENT])

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
