"""Checkpoints written in the background, recorded in the ledger once complete, and pruned."""

import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from families.units import RunFailed, format_bytes
from scaling.runs.store import WorkEntry, append_entry, read_ledger

from .checkpoint import CheckpointFile, checkpoints, discard, save_in_parts, snapshot
from .config import Settings
from .loop import Session
from .parts import in_parts
from .rung import RUNG

KEPT = 2  # newest checkpoints, one to fall back to if the other is damaged; besides those that branches start from
ROOM = 1.05  # free disk space needed before a checkpoint, relative to its size
RESERVE = 16 * 2**20  # bytes for tokenizer, logs and other files
_PART = re.compile(r"trunk|rung-.+")
# Leftovers of a kill: temporary files and folders (scaling.files: a dot, the name, random letters), a checkpoint that was
# being removed, an epoch's model that was being written. Outside the parts only the run's own documents, because a folder
# given by out= is a study too.
_RANDOM = r"(?:[a-z0-9_]{8}|[0-9a-f]{12})"  # the end of a temporary name: a folder's, or a file's
_LEFTOVER = re.compile(rf"\..+\.{_RANDOM}|\.step-.*|\.epoch-\d+")
_RUN_LEFTOVER = re.compile(rf"\.(run|underway)\.json\.{_RANDOM}")


@dataclass(slots=True, kw_only=True)
class Saver:
    """Writes one checkpoint at a time; leaving the context waits for the last.

    Args:
        tokenizer: tokenizer.json to save with the weights.
        ledger: the run's ledger.
        background: write in a thread while training continues; a save waits for the one before it.
    """

    tokenizer: Path
    ledger: Path
    background: bool = True
    _thread: threading.Thread | None = None
    _errors: list[BaseException] = field(default_factory=list)

    def save(self, session: Session, folder: Path, work: WorkEntry, *, starts_branch: bool) -> None:
        """Copy a session and write the copy: a collective call, in which process 0 writes.

        Args:
            session: the session.
            folder: the checkpoint.
            work: ledger entry, recorded once the checkpoint is complete.
            starts_branch: True if a rung's cooldown starts here.

        Raises:
            RunFailed: the disk is nearly full.
            BadInput: this checkpoint, or the one before it, cannot be written.
        """
        self.wait()
        if session.world.first:
            check_room(session, folder.parent)
        session_step, opening = session.step, session.settings.ledger_opening()
        if in_parts(session.model, session.world):
            save_in_parts(session, folder, self.tokenizer, work=work, starts_branch=starts_branch)
            if session.world.first:
                append_entry(self.ledger, work, opening=opening)
                prune(folder.parent, session_step)
            return
        copy = snapshot(session, work=work, starts_branch=starts_branch)
        if copy is None:
            return

        def write() -> None:
            copy.write(folder, self.tokenizer)
            append_entry(self.ledger, work, opening=opening)
            prune(folder.parent, session_step)

        if not self.background:
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
        """Wait until the current checkpoint is complete.

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
        if error is None or isinstance(error, KeyboardInterrupt):  # whose message says that all is saved
            self.wait()
        elif self._thread is not None:
            self._thread.join()  # the first error is the one to raise


def prune(parent: Path, at: int) -> None:
    """Remove checkpoints up to a step, except the newest KEPT and those that branches start from."""
    _discard_but(parent, at, KEPT)


def prune_finished(trunk: Path, at: int) -> None:
    """Remove checkpoints up to a step, except those that branches start from; for a trunk with all rungs finished."""
    _discard_but(trunk, at, 0)


def _discard_but(parent: Path, at: int, newest: int) -> None:
    until_now = [folder for step, folder in checkpoints(parent) if step <= at]
    for folder in until_now[: len(until_now) - newest]:
        facts = CheckpointFile.try_read(folder)
        if facts is None or not facts.starts_branch:
            discard(folder)


def pin_checkpoint(folder: Path) -> None:
    """Mark an existing checkpoint as one that a branch starts from, which keeps it from being pruned."""
    facts = CheckpointFile.try_read(folder)
    if facts is not None and not facts.starts_branch:
        facts.model_copy(update={"starts_branch": True}).sealed().write(folder / "checkpoint.json")


def check_room(session: Session, folder: Path) -> None:
    """Check that the disk has room for a checkpoint.

    Raises:
        RunFailed: it has not; names the folder, the free and the needed space.
    """
    needed = ROOM * checkpoint_bytes(session) + RESERVE
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise RunFailed(
            f"{existing} has {format_bytes(free)} left and a checkpoint needs {format_bytes(needed)}; free some space and run "
            f"the same command to resume from the last checkpoint (step {session.step} is not saved)"
        )


def checkpoint_bytes(session: Session) -> float:
    """Return the size of a checkpoint: the weights, and AdamW's two moments of each."""
    return 3 * float(sum(weight.numel() * weight.element_size() for weight in session.model.parameters()))


def recover(run: Path, ledger: Path, settings: Settings) -> None:
    """Clean up after a kill: remove incomplete files, and record saved work that is missing in the ledger.

    The caller must hold the run's lease, so that no temporary file belongs to another writer.

    Args:
        run: the run's folder.
        ledger: the run's ledger.
        settings: settings of the run, with which a ledger that is not there yet opens.
    """
    if not run.is_dir():
        return
    for left in run.iterdir():
        if _RUN_LEFTOVER.fullmatch(left.name):
            left.unlink(missing_ok=True)
    for part in run.iterdir():
        if not part.is_dir() or not _PART.fullmatch(part.name):
            continue
        for left in [path for path in part.rglob(".*") if _LEFTOVER.fullmatch(path.name)]:
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        for _, folder in checkpoints(part):
            facts = CheckpointFile.try_read(folder)
            if facts is not None and facts.work is not None:
                recorded = read_ledger(ledger) if ledger.exists() else ()
                if facts.work not in (entry.model_copy(update={"previous": ""}) for entry in recorded):
                    append_entry(ledger, facts.work, opening=settings.ledger_opening())
            if (part / RUNG).exists():  # killed between writing rung.json and removing its checkpoints
                discard(folder)
