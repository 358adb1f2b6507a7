"""Epochs: what a run reached on held-out text at the end of each, and which was the best."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from scaling.files import Document

from .checkpoint import save_model
from .config import Settings
from .evaluate import EvalSet, Evaluation, evaluate
from .loop import Session
from .rung import TRUNK, Epoch

FILE = "epochs.json"


class EpochsFile(Document):
    """epochs.json in the folder of a trunk or a branch: the epochs that ended in it."""

    KIND: ClassVar[str] = "epochs"

    epochs: tuple[Epoch, ...] = ()


def epoch_ends(settings: Settings, windows: int) -> tuple[int, ...]:
    """The step at which each epoch of so many windows is through: the nearest whole step, each its own."""
    return tuple(
        max(epoch, round(epoch * windows / settings.batch_size)) for epoch in range(1, settings.epochs + 1)
    )


def read_epochs(folder: Path) -> tuple[Epoch, ...]:
    """The epochs noted in a folder, by step."""
    path = folder / FILE
    return EpochsFile.read(path).epochs if path.exists() else ()


def end_epoch(
    session: Session, number: int, part: Path, train_loss: Callable[[], float | None], held: EvalSet, tokenizer: Path,
    tell: Callable[[str], None],
) -> None:  # fmt: skip
    """Score the held-out text at the end of an epoch, once; `part`/epoch-NUMBER keeps the model of the best one there."""
    world = session.world
    if world.do(lambda: any(epoch.step == session.step for epoch in read_epochs(part))):
        return
    result = evaluate(session.model, session.settings, held, session.device, world=world)
    found = _epoch(number, session.step, world.do(train_loss), result)
    best_before = world.do(lambda: min((epoch.loss for epoch in _before(part, found)), default=math.inf))
    if found.loss < best_before:
        save_model(session.model, tokenizer, part / f".epoch-{number}", world)
    if world.first:
        if found.loss < best_before:
            _replace(part, f"epoch-{number}")
        EpochsFile(epochs=(*_before(part, found), found)).write(part / FILE)
    tell(
        f"{session.settings.run}: epoch {number} of {session.settings.epochs}, held-out loss {found.loss:.4f}"
    )


def _before(part: Path, found: Epoch) -> tuple[Epoch, ...]:
    return tuple(epoch for epoch in read_epochs(part) if epoch.step < found.step)


def _replace(part: Path, name: str) -> None:
    """Put the new best model where the one before it was."""
    for other in part.glob("epoch-*"):
        shutil.rmtree(other)
    (part / f".{name}").rename(part / name)


def epochs_until(
    settings: Settings,
    windows: int,
    result: Evaluation,
    train_loss: float | None,
    branch: Path,
    trunk_end: int,
) -> tuple[Epoch, ...]:
    """The trunk's epochs up to its end, the branch's own, and the last, which is the rung's own evaluation."""
    if not settings.epochs:
        return ()
    last = epoch_ends(settings, windows)[-1]
    noted = [epoch for epoch in read_epochs(branch.parent / TRUNK) if epoch.step <= trunk_end]
    noted += [epoch for epoch in read_epochs(branch) if trunk_end < epoch.step < last]
    return (*noted, _epoch(settings.epochs, last, train_loss, result))


def _epoch(number: int, step: int, train_loss: float | None, result: Evaluation) -> Epoch:
    return Epoch(
        epoch=number,
        step=step,
        train_loss=train_loss,
        loss=result.loss,
        loss_se=result.se,
        loss_per_word=result.loss_per_word,
    )


def best(epochs: Sequence[Epoch]) -> Epoch | None:
    """The epoch with the lowest loss on held-out text, the first of equals."""
    return min(epochs, key=lambda epoch: epoch.loss, default=None)


def best_model(branch: Path, epochs: Sequence[Epoch]) -> str:
    """Where the best epoch's model lies, in the run's folder: the rung's own, or the copy kept when the epoch ended."""
    found = best(epochs)
    if found is None or found == epochs[-1]:
        return f"{branch.name}/model"
    copies = (f"{part}/epoch-{found.epoch}" for part in (TRUNK, branch.name))
    return next((copy for copy in copies if (branch.parent / copy).is_dir()), "")


def mean_train_loss(folders: Sequence[tuple[Path, int]], after: int, until: int) -> float | None:
    """Mean training loss of the steps after + 1 … until, from the metrics of a trunk and its branch.

    Args:
        folders: each with the last step that is taken from it; a later folder's lines stand before an earlier's.
    """
    lines: dict[int, float] = {}
    for folder, last in folders:
        path = folder / "metrics.jsonl"
        if path.exists():
            rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
            lines.update({row["step"]: row["loss"] for row in rows if row["step"] <= last})
    total, before = 0.0, 0
    for step in sorted(lines):
        if after < step <= until:
            total += lines[step] * (step - max(before, after))
        before = step
    return total / (until - after) if until > after and lines and not math.isnan(total) else None
