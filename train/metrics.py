"""What a run says of itself while it trains: lines of JSON that are the same however often it was interrupted."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from scaling.files import writing

NAMES = ("metrics.jsonl", "timing.jsonl")


class Journal:
    """The open files of a part of a run: metrics (what the numbers decide) and timing (what the machine decides)."""

    def __init__(self, files: dict[str, IO[str]]) -> None:
        self._files = files

    def write(self, name: str, **values: object) -> None:
        """Add a line; only the process that has the files open does."""
        if name in self._files:
            self._files[name].write(json.dumps(values) + "\n")

    def flush(self) -> None:
        """Hand everything to the system: a killed process loses nothing then."""
        for file in self._files.values():
            file.flush()


@contextmanager
def journal(folder: Path, step: int, *, writes: bool) -> Iterator[Journal]:
    """The files of a part that goes on from a step; what was logged beyond it will be logged again.

    Raises:
        BadInput: a file cannot be written.
    """
    if not writes:
        yield Journal({})
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files: dict[str, IO[str]] = {}
        try:
            for name in NAMES:
                cut(folder / name, step)
                files[name] = (folder / name).open("a", buffering=1, encoding="utf-8")  # read as they grow
            yield Journal(files)
        finally:
            for file in files.values():
                file.close()


def cut(path: Path, step: int) -> None:
    """Drop the lines beyond a step, and a last one that is torn: one call of the system, so a kill cannot lose the rest."""
    if not path.exists():
        return
    end = 0
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n") or json.loads(line)["step"] > step:
            break
        end += len(line)
    if end != path.stat().st_size:
        os.truncate(path, end)
