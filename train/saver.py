"""Checkpoints written beside the training, booked once they are whole, and pruned by a rule."""

import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from families.units import RunFailed
from scaling.runs.store import WorkEntry, append_entry, read_ledger

from .checkpoint import CheckpointFile, checkpoints, discard, snapshot
from .loop import Session
from .rung import RUNG

KEPT = 2  # the newest, and one to go back to should it be damaged; those that a branch starts from are kept besides
ROOM = 1.05  # of a checkpoint's bytes, free before one is begun
BESIDE = 16 * 2**20  # bytes for tokenizer, logs, and the files of others
_PART = re.compile(r"trunk|rung-.+")
# A file or folder in the making (scaling.files: a dot, its name, eight letters), a checkpoint half removed, an epoch's model
# half written. Beside the parts only the run's own documents: a folder given by out= is a study too.
_LEFT = re.compile(r"\..+\.[a-z0-9_]{8}|\.step-.*|\.epoch-\d+")
_LEFT_OF_RUN = re.compile(r"\.(run|underway)\.json\.[a-z0-9_]{8}")


@dataclass(slots=True, kw_only=True)
class Saver:
    """Writes one checkpoint at a time; leaving it waits for the last.

    aside: in a thread of its own, while training goes on; a save waits for the one before it.
    """

    tokenizer: Path
    ledger: Path
    aside: bool = True
    _thread: threading.Thread | None = None
    _errors: list[BaseException] = field(default_factory=list)

    def save(self, session: Session, folder: Path, work: WorkEntry, *, starts_branch: bool) -> None:
        """Copy a session at its step, and write the copy; every process must ask, process 0 writes.

        Args:
            work: what is booked once the checkpoint is whole, and not before.

        Raises:
            RunFailed: the disk is nearly full.
            BadInput: this checkpoint, or the one before it, cannot be written.
        """
        self.wait()
        if session.world.first:
            check_room(session, folder.parent)
        found = snapshot(session, work=work, starts_branch=starts_branch)
        if found is None:
            return

        def write() -> None:
            found.write(folder, self.tokenizer)
            append_entry(self.ledger, work)
            prune(folder.parent, session_step)

        session_step = session.step
        if not self.aside:
            write()
            return
        self._thread = threading.Thread(target=self._run, args=(write,), name=f"save {folder.name}")
        self._thread.start()

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:
            self._errors.append(error)

    def wait(self) -> None:
        """Until the checkpoint in hand is whole.

        Raises:
            BadInput: it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._errors:
            raise self._errors.pop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, KeyboardInterrupt):  # which says that all is saved
            self.wait()
        elif self._thread is not None:
            self._thread.join()  # the first error is the one to tell


def prune(parent: Path, at: int) -> None:
    """Of the checkpoints up to a step keep the newest KEPT and those that a rung's branch starts from."""
    _discard_but(parent, at, KEPT)


def prune_finished(trunk: Path, at: int) -> None:
    """Of a trunk whose rungs up to a step are all done keep the checkpoints that branches start from."""
    _discard_but(trunk, at, 0)


def _discard_but(parent: Path, at: int, newest: int) -> None:
    until_now = [folder for step, folder in checkpoints(parent) if step <= at]
    for folder in until_now[: len(until_now) - newest]:
        facts = CheckpointFile.found(folder)
        if facts is None or not facts.starts_branch:
            discard(folder)


def pin_checkpoint(folder: Path) -> None:
    """Mark a checkpoint that is there as one that a branch starts from."""
    facts = CheckpointFile.found(folder)
    if facts is not None and not facts.starts_branch:
        facts.model_copy(update={"starts_branch": True}).sealed().write(folder / "checkpoint.json")


def check_room(session: Session, folder: Path) -> None:
    """Stop before a checkpoint is begun that the disk cannot hold.

    Raises:
        RunFailed: naming the folder, what is free and what is needed.
    """
    needed = ROOM * checkpoint_bytes(session) + BESIDE
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise RunFailed(
            f"{place} has {free / 1e9:.2f} GB left and a checkpoint needs {needed / 1e9:.2f} GB; free some, and the "
            f"same command goes on from the last checkpoint (step {session.step} is not saved)"
        )


def checkpoint_bytes(session: Session) -> float:
    """Weights, and AdamW's two moments of each."""
    return 3 * float(sum(weight.numel() * weight.element_size() for weight in session.model.parameters()))


def recover(run: Path, ledger: Path) -> None:
    """After a kill: throw away what was half written or half removed, and book what was saved and not yet booked.

    The run must be claimed: what looks like the left-overs of a write is then nobody's.
    """
    if not run.is_dir():
        return
    for left in run.iterdir():
        if _LEFT_OF_RUN.fullmatch(left.name):
            left.unlink(missing_ok=True)
    for part in run.iterdir():
        if not part.is_dir() or not _PART.fullmatch(part.name):
            continue
        for left in [path for path in part.rglob(".*") if _LEFT.fullmatch(path.name)]:
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        for _, folder in checkpoints(part):
            facts = CheckpointFile.found(folder)
            if facts is not None and facts.work is not None:
                booked = read_ledger(ledger) if ledger.exists() else ()
                if facts.work not in booked:
                    append_entry(ledger, facts.work)
            if (part / RUNG).exists():  # killed between the last word on a rung and this
                discard(folder)
