"""One run on several processes of this machine, `devices=N`, or of each node of a Slurm job.

Processes that torchrun has started join each other as well; a run that was out of memory then begins again only under
`torchrun --max-restarts`, and torchrun passes no SIGUSR1 on.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path

from families.units import RunFailed

from .pool import (
    AGAIN,
    GRACE_SECONDS,
    LOST,
    Pool,
    Process,
    cores,
    forward_signals,
    meeting_in,
    python,
    rank_variables,
)

PARENT = "SCALING_PARENT"  # the process that started this one as a rank
_START = "from scaling.cli import main; main()"
NODES = "SCALING_NODES"  # nodes of a job file's run, each of which runs this launcher once
MEET = "SCALING_MEET"  # URL at which the processes of its nodes find each other
RETRY = "SCALING_RETRY"  # file that asks the job file to start all nodes again


def run_distributed(words: Sequence[str], devices: int, log: Callable[[str], None]) -> int:
    """Run the same command in so many processes; returns its exit status.

    Process 0 has this one's standard output and error. Signals that ask it to stop are passed on: the run saves and stops.
    Where one ran out of memory and has lowered the micro-batch, all begin again from the last checkpoint.

    Raises:
        RunFailed: a process was killed, or ended without saying why.
    """
    while True:
        status, message = _run_once(words, devices)
        if status != AGAIN:
            return status
        if message:
            log(message)
        if nodes() > 1:
            return AGAIN  # the job file starts all nodes again


def nodes() -> int:
    """Number of nodes that run this launcher for one run."""
    return int(os.environ.get(NODES, "1"))


def _run_once(words: Sequence[str], devices: int) -> tuple[int, str]:
    with (
        tempfile.TemporaryDirectory(prefix="scaling-") as folder,
        Pool() as pool,
        forward_signals(pool) as passed_on,
    ):
        place = Path(folder)
        node, size = (int(os.environ["SLURM_NODEID"]) if nodes() > 1 else 0), nodes() * devices
        meeting = os.environ[MEET] if nodes() > 1 else meeting_in(place)
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // devices))
        ranks = []
        for local in range(devices):
            rank = node * devices + local
            variables = {"OMP_NUM_THREADS": threads, PARENT: str(os.getpid())}
            ranks.append(
                pool.start(
                    python(_START, *words),
                    environment={
                        **variables,
                        **rank_variables(rank, size, meeting, local=local, here=devices),
                    },
                    stdout=subprocess.DEVNULL if rank else None,
                    log=place / f"{rank}.log" if rank else None,  # process 0 speaks for itself
                )
            )
        pool.wait(GRACE_SECONDS)
        again = [one for one in ranks if one.poll() == AGAIN]
        if again:
            return AGAIN, again[0].last_words()
        return _status(ranks, passed_on), ""


def _status(ranks: Sequence[Process], passed_on: AbstractSet[int]) -> int:
    """The status of the whole: how its processes ended is how the command ends."""
    codes = [one.poll() for one in ranks]
    if any(code is not None and -code in passed_on for code in codes):
        # it came before a process could hear it, or after there was anything to save
        raise KeyboardInterrupt("run the same command to resume from the last checkpoint, where there is one")
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            raise RunFailed(
                f"process {rank} of {len(codes)} was killed by {signal.Signals(-code).name} (memory, perhaps); "
                "run the same command to resume from the last checkpoint"
            )
    if codes[0] not in (0, LOST):
        return codes[0] or 1  # process 0 has said why
    for rank, (one, code) in enumerate(zip(ranks, codes, strict=True)):
        if code not in (0, LOST):
            raise RunFailed(f"process {rank} of {len(codes)}: {one.last_words() or f'status {code}'}")
    if LOST in codes:
        raise RunFailed(
            "the processes lost each other; run the same command to resume from the last checkpoint"
        )
    return 0


@contextmanager
def as_rank(log: Callable[[str], None]) -> Iterator[None]:
    """Tell the process that started this one as a rank, by the exit status, that a peer is lost or memory ran out."""
    from ..distributed import PeerLost
    from ..runtime import OutOfMemory

    try:
        yield
    except PeerLost:
        if PARENT in os.environ:
            sys.exit(LOST)  # the process that started this one says what happened
        raise
    except OutOfMemory as error:
        if PARENT in os.environ and error.lowered:
            log(str(error))
            if RETRY in os.environ:
                Path(os.environ[RETRY]).touch()
            sys.exit(AGAIN)
        raise
