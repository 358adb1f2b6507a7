"""What a run says of itself while it trains: lines of JSON that are the same however often it was interrupted."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from scaling.files import writing

from .tensorboard import Scalars

METRICS, TIMING, EVENTS = "metrics.jsonl", "timing.jsonl", "events.jsonl"


class Journal:
    """The files of a part of a run: metrics (what the numbers decide), timing (what the machine decides), and events."""

    def __init__(self, folder: Path | None, scalars: Scalars | None = None) -> None:
        self._folder = folder  # None: this process writes nothing
        self._scalars = scalars
        self._files: dict[str, IO[str]] = {}

    def write(self, name: str, **values: object) -> None:
        """Add a line; an event opens its file when it happens."""
        if self._folder is None:
            return
        if name not in self._files:
            # line by line: others read it as it grows
            self._files[name] = (self._folder / name).open("a", buffering=1, encoding="utf-8")
        self._files[name].write(json.dumps(values) + "\n")
        if self._scalars is not None:
            self._scalars.write(values)

    def flush(self) -> None:
        """Hand everything to the disk: neither a killed process nor a power cut loses what a checkpoint counts on."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        if self._scalars is not None:
            self._scalars.flush()

    def close(self) -> None:
        """Close what is open."""
        for file in self._files.values():
            file.close()
        if self._scalars is not None:
            self._scalars.close()


@contextmanager
def journal(folder: Path, step: int, *, writes: bool, tensorboard: bool = False) -> Iterator[Journal]:
    """The files of a part that goes on from a step; what was logged beyond it will be logged again.

    Args:
        tensorboard: write the same lines as TensorBoard's events too.

    Raises:
        BadInput: a file cannot be written.
    """
    if not writes:
        yield Journal(None)
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in (METRICS, TIMING, EVENTS):
            cut(folder / name, step)
        log = Journal(folder, Scalars(folder, step) if tensorboard else None)
        try:
            yield log
        finally:
            log.close()


def cut(path: Path, step: int) -> None:
    """Drop the lines beyond a step, and a last one that is torn: one call of the system, so a kill cannot lose the rest."""
    if not path.exists():
        return
    end = 0
    for line in path.read_bytes().splitlines(keepends=True):
        if _step(line) > step:
            break
        end += len(line)
    if end != path.stat().st_size:
        os.truncate(path, end)


def _step(line: bytes) -> float:
    """A line's step; of one that is torn, or that a power cut left as zeros, beyond all others."""
    try:
        return float(json.loads(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, LookupError, TypeError):
        return math.inf
