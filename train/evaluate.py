"""Loss on held-out text: full, partial and at the ends of epochs, also in units that compare across tokenizers."""

import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from scaling.files import Document, sha256_bytes
from scaling.stats import format_loss

from .checkpoint import save_model
from .config import Settings
from .data import DataManifest, Tokens
from .distributed import ALONE, World
from .loop import QuickEval, Session, autocast, to_device
from .metrics import metric_rows
from .model.objective import EVALUATION_KEY, Causal, Objective, objective_of
from .rung import TRUNK, Epoch

MOST_WINDOWS = 32  # in one forward pass

MOST_LOGITS = 2**27  # in one forward pass: half a GiB in fp32


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Result of an evaluation.

    Args:
        loss: nats per token.
        se: standard error of the mean loss over windows.
        tokens: number of tokens scored.
        bits_per_byte: loss per byte of the held-out split, by its ratio of tokens to bytes; compares across tokenizers,
            which perplexity per token does not. None for masked language models, which define no code length.
        loss_per_word: "adjusted" loss in nats per word, likewise.
    """

    loss: float
    se: float
    tokens: int
    bits_per_byte: float | None
    loss_per_word: float | None

    @property
    def perplexity(self) -> float:
        """exp(loss), per token."""
        return math.exp(self.loss)


@dataclass(frozen=True, slots=True)
class EvalSet:
    """Non-overlapping windows, spread evenly over the held-out text; every token is scored at most once.

    Args:
        examples: windows as the objective reads them, shape (windows, ...); masks are the same for every run and step.
        name: hash of the tokens, of how they are cut and of the masks.
        tokens_per_byte: tokens per byte of the held-out split.
        tokens_per_word: tokens per word of the held-out split.
        rest: a last, shorter window of a short text, shape (1, n), scored too; None without one.
    """

    examples: NDArray[np.int64]
    name: str
    tokens_per_byte: float
    tokens_per_word: float
    rest: NDArray[np.int64] | None = None

    @classmethod
    def of(
        cls,
        heldout: Tokens,
        limit: int,
        objective: Objective,
        *,
        tokens_per_byte: float,
        tokens_per_word: float,
    ) -> "EvalSet":
        """Return an evaluation set of at most `limit` tokens, at least one window.

        Args:
            heldout: the held-out text.
            limit: largest number of tokens.
            objective: what the model predicts.
            tokens_per_byte: tokens per byte of the held-out split.
            tokens_per_word: tokens per word of the held-out split.
        """
        count = len(heldout)
        taken = max(1, min(count, limit // heldout.n_positions))
        windows = heldout.windows(np.linspace(0, count - 1, taken).round().astype(np.int64))
        examples = objective.examples(windows, EVALUATION_KEY)
        digest = sha256_bytes(examples.astype("<i8").tobytes())[:12]
        return cls(examples, f"heldout-{digest}", tokens_per_byte, tokens_per_word)


def eval_set(
    heldout: Tokens, manifest: DataManifest, limit: int, objective: Objective | None = None
) -> EvalSet:
    """Return an evaluation set of a study's held-out text.

    Args:
        heldout: the held-out text.
        manifest: manifest of the text.
        limit: largest number of tokens.
        objective: what the model predicts; default: the next token.
    """
    return EvalSet.of(
        heldout,
        limit,
        objective or Causal(),
        tokens_per_byte=manifest.heldout.tokens / manifest.heldout_bytes,
        tokens_per_word=manifest.heldout.tokens / max(1, manifest.heldout_words),
    )


def windows_at_once(n_positions: int, vocab_size: int) -> int:
    """Return the number of windows per forward pass: their fp32 logits take at most half a GiB, or are one window's."""
    return max(1, min(MOST_WINDOWS, MOST_LOGITS // (n_positions * vocab_size)))


@torch.no_grad()
def evaluate(
    model: object,
    settings: Settings,
    data: EvalSet,
    device: str,
    world: World = ALONE,
    progress: Callable[[float, float, str], None] = lambda done, total, text: None,
    each: Callable[[torch.Tensor], torch.Tensor] | None = None,
    objective: Objective | None = None,
    rows: int | None = None,
) -> Evaluation:
    """Evaluate a model without dropout; each process scores its share, and all return the full result.

    Args:
        model: the model.
        settings: settings of its run.
        data: the evaluation set.
        device: "cpu" or "cuda".
        world: the processes that share the evaluation.
        progress: called with the windows scored, their total, and a description.
        each: losses of the examples' tokens, as a session gives them; default: those of the model under autocast.
        objective: what is scored; default: the settings' own.
        rows: examples of every call of `each`, the last filled up with examples seen before: a compiled function then sees one
            shape; None leaves the last call shorter.
    """
    assert isinstance(model, torch.nn.Module)
    was_training = model.training
    model.eval()
    objective = objective or objective_of(settings)

    def losses(examples: torch.Tensor) -> torch.Tensor:
        if each is not None:
            return each(examples)
        with autocast(settings, device):
            return objective.losses(model, examples)

    batch_size = rows or windows_at_once(settings.n_positions, settings.vocab_size)
    means: list[torch.Tensor] = []
    count = len(data.examples)
    share = -(
        -count // world.size
    )  # the last process scores some windows twice, so that all make the same calls
    own = data.examples[np.arange(world.rank * share, (world.rank + 1) * share) % max(1, count)]
    for start in range(0, share, batch_size):
        progress(start, share, "measuring the loss")
        piece = own[start : start + batch_size]
        whole = piece if rows is None else np.resize(piece, (rows, *piece.shape[1:]))
        means.append(losses(to_device(whole, device)).mean(dim=1)[: len(piece)])
    per_window = world.gather(torch.cat(means)).flatten()[:count].double() if count else torch.zeros(0)
    loss = float(per_window.mean()) if count else 0.0
    tokens = objective.scored(data.examples)
    if data.rest is not None:
        last = float(losses(to_device(data.rest, device)).mean())
        scored = objective.scored(data.rest)
        loss = (loss * tokens + last * scored) / (tokens + scored)
        tokens += scored
        per_window = torch.cat([per_window.cpu(), torch.tensor([last], dtype=torch.float64)])
    model.train(was_training)
    se = float(per_window.std() / math.sqrt(len(per_window))) if len(per_window) > 1 else 0.0
    return Evaluation(
        loss=loss,
        se=se,
        tokens=tokens,
        bits_per_byte=loss * data.tokens_per_byte / math.log(2) if settings.objective == "causal" else None,
        loss_per_word=loss * data.tokens_per_word if settings.objective == "causal" else None,
    )


def score(session: Session, data: EvalSet) -> Evaluation:
    """Evaluate a run in progress, in the number format of its steps; a collective call.

    Compiled evaluations take as many windows at a time as a partial one has in each process, so that all have one shape.
    """
    settings, world = session.settings, session.world
    rows = None
    if settings.compile and settings.compile_eval:
        rows = min(
            windows_at_once(settings.n_positions, settings.vocab_size), -(-QUICK_WINDOWS // world.size)
        )
    with session.half.cast_once() if session.half else nullcontext():
        return evaluate(
            session.model, settings, data, session.device, world=world, each=session.each, rows=rows
        )


QUICK_WINDOWS = 16

QUICK_SHARE = 0.015  # largest share of the training FLOPs spent on partial evaluations


def quick_eval(heldout: Tokens, manifest: DataManifest, settings: Settings, log_every: int) -> QuickEval:
    """Return the partial evaluation of a run: QUICK_WINDOWS held-out windows, as often as QUICK_SHARE allows.

    A forward pass costs a third of a training step per token.

    Args:
        heldout: the held-out text.
        manifest: manifest of the text.
        settings: settings of the run.
        log_every: steps between lines of metrics.
    """
    limit = QUICK_WINDOWS * settings.n_positions
    data = eval_set(heldout, manifest, limit, objective_of(settings))
    least = len(data.examples) / 3 / (QUICK_SHARE * settings.batch_size)
    every = log_every * max(1, math.ceil(least / log_every))
    return QuickEval(
        run=lambda session: score(session, data).loss,
        every=every,
    )


EPOCHS = "epochs.json"


class EpochsFile(Document):
    """epochs.json in the folder of a trunk or branch: the epochs that ended there."""

    KIND: ClassVar[str] = "epochs"

    epochs: tuple[Epoch, ...] = ()


def epoch_ends(settings: Settings, windows: int) -> tuple[int, ...]:
    """Return the last step of each epoch over `windows` windows: the nearest step, all different."""
    return tuple(
        max(epoch, round(epoch * windows / settings.batch_size)) for epoch in range(1, settings.epochs + 1)
    )


def read_epochs(folder: Path) -> tuple[Epoch, ...]:
    """Return the epochs recorded in a folder, by step."""
    path = folder / EPOCHS
    return EpochsFile.read(path).epochs if path.exists() else ()


def end_epoch(
    session: Session, number: int, part: Path, train_loss: Callable[[], float | None], data: EvalSet, tokenizer: Path,
    log: Callable[[str], None],
) -> None:  # fmt: skip
    """Evaluate at the end of an epoch, once; part/epoch-NUMBER keeps the model of the best epoch.

    Args:
        session: the session at the end of the epoch.
        number: the epoch, from 1.
        part: folder of the trunk or branch.
        train_loss: returns the epoch's mean training loss.
        data: the evaluation set.
        tokenizer: tokenizer.json to save with the model.
        log: called with a message.
    """
    world = session.world
    if world.do(lambda: any(earlier.step == session.step for earlier in read_epochs(part))):
        return
    result = score(session, data)
    epoch = _epoch(number, session.step, world.do(train_loss), result)
    best_before = world.do(lambda: min((earlier.loss for earlier in _before(part, epoch)), default=math.inf))
    if epoch.loss < best_before:
        save_model(session.model, tokenizer, part / f".epoch-{number}", world)
    if world.first:
        if epoch.loss < best_before:
            _replace(part, f"epoch-{number}")
        EpochsFile(epochs=(*_before(part, epoch), epoch)).write(part / EPOCHS)
    log(
        f"{session.settings.run}: epoch {number} of {session.settings.epochs}, "
        f"held-out loss {format_loss(epoch.loss)}"
    )


def _before(part: Path, epoch: Epoch) -> tuple[Epoch, ...]:
    return tuple(earlier for earlier in read_epochs(part) if earlier.step < epoch.step)


def _replace(part: Path, name: str) -> None:
    """Replace the best model so far by the new one."""
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
    """Return all epochs of a rung: those of the trunk up to its end, those of the branch, and the rung's own evaluation.

    Args:
        settings: settings of the run.
        windows: windows of an epoch.
        result: the rung's evaluation, which is the last epoch's.
        train_loss: mean training loss of the last epoch.
        branch: the rung's folder.
        trunk_end: last step of the trunk in this rung.
    """
    if not settings.epochs:
        return ()
    last = epoch_ends(settings, windows)[-1]
    epochs = [epoch for epoch in read_epochs(branch.parent / TRUNK) if epoch.step <= trunk_end]
    epochs += [epoch for epoch in read_epochs(branch) if trunk_end < epoch.step < last]
    return (*epochs, _epoch(settings.epochs, last, train_loss, result))


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
    """Return the epoch with the lowest held-out loss, the first of equals."""
    return min(epochs, key=lambda epoch: epoch.loss, default=None)


def best_model(branch: Path, epochs: Sequence[Epoch]) -> str:
    """Return the path of the best epoch's model relative to the run: the rung's own, or the copy kept at that epoch."""
    best_epoch = best(epochs)
    if best_epoch is None or best_epoch == epochs[-1]:
        return f"{branch.name}/model"
    copies = (f"{part}/epoch-{best_epoch.epoch}" for part in (TRUNK, branch.name))
    return next((copy for copy in copies if (branch.parent / copy).is_dir()), "")


def mean_train_loss(folders: Sequence[tuple[Path, int]], after: int, until: int) -> float | None:
    """Return the mean training loss of the steps after + 1 … until, from the metrics of a trunk and its branch.

    Args:
        folders: folders, each with the last step used from it; lines of a later folder replace those of an earlier one.
        after: step before the first.
        until: last step.
    """
    lines: dict[int, float] = {}
    for folder, last in folders:
        rows = (row for row, _ in metric_rows(folder / "metrics.jsonl"))
        lines.update({row["step"]: row["loss"] for row in rows if row["step"] <= last})
    total, before = 0.0, 0
    for step in sorted(lines):
        if after < step <= until:
            total += lines[step] * (step - max(before, after))
        before = step
    return total / (until - after) if until > after and lines and not math.isnan(total) else None
