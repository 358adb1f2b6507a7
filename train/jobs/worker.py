"""A warm worker of the queue (train/jobs/ladders.py): trains the ladders that come through its pipe, one after another."""

import os
import pickle
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from scaling.collector import spare_imports
from scaling.files import open_to_append

PROGRESS_SECONDS = 0.1  # between messages of progress


def main() -> None:
    """Train what comes, until the pipe is closed; its descriptor is the first word of the command line."""
    spare_imports()
    pipe: Connection[Any, Any] = Connection(int(sys.argv[1]))
    import torch

    while True:
        try:
            job, options, threads, log = pipe.recv()
        except EOFError:
            break
        torch.set_num_threads(threads)
        with _output_to(log):
            _train(pipe, job, options)
    os._exit(0)  # nothing is left to do, and torch takes its time


def _train(pipe: "Connection[Any, Any]", job: Any, options: Any) -> None:
    from families.units import BadInput, RunFailed

    from ..lease import stop_on_signals

    said_at = 0.0

    def send(*message: Any) -> None:
        with suppress(OSError):  # a parent that is gone, or ends without listening
            pipe.send(message)

    def progress(position: int, what: str, trained: bool) -> None:
        nonlocal said_at
        if not trained or time.monotonic() - said_at > PROGRESS_SECONDS:
            said_at = time.monotonic()
            send("progress", position, what, trained)

    try:
        with stop_on_signals() as stop:
            rungs = job.train(replace(options, log=lambda line: send("log", line), progress=progress), stop)
            stop.polled = True  # it is done: a signal that comes now must not cut the message off
            send("done", rungs)
    except BaseException as error:
        if not isinstance(error, BadInput | RunFailed | KeyboardInterrupt):
            traceback.print_exc()
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 - our own, to see that it can travel
        except Exception:
            error = RunFailed(f"{job.settings.run}: {type(error).__name__}: {error}")
        send("failed", error)


@contextmanager
def _output_to(log: Path | None) -> Iterator[None]:
    """Append what this process and its libraries print to a file."""
    if log is None:
        yield
        return
    kept = os.dup(1), os.dup(2)
    with open_to_append(log) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)
        with suppress(OSError):
            if not log.stat().st_size:
                log.unlink()
