"""Loss on held-out text, with its standard error, in units that compare across tokenizers."""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from scaling.files import Document, sha256_bytes

from .checkpoint import save_model
from .config import Settings
from .data import DataManifest, Tokens
from .distributed import ALONE, World
from .loop import QuickEval, Session, autocast, to_device
from .metrics import metric_rows
from .model.objective import EVALUATION_KEY, Causal, Objective, objective_of
from .rung import TRUNK, Epoch

# MERGED DOCSTRINGS
# Epochs: what a run reached on held-out text at the end of each, and which was the best.

MOST_WINDOWS = 32  # scored together

MOST_LOGITS = 2**27


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """loss: nats per token. se: standard error of its mean over windows. tokens: how many were scored.

    bits_per_byte and loss_per_word ("adjusted" loss) divide by the bytes and the words of the whole held-out split, at
    its own ratio of tokens to each; they compare across tokenizers, which perplexity per token does not. Masked tokens
    are told from both sides and not all of them, so that no code length follows: then both are None.
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
    """Windows of held-out text that follow one another, spread evenly over it; every token is scored at most once.

    examples: as the objective reads them; what is masked is the same for every run and at every step.
    """

    examples: NDArray[np.int64]
    name: str
    tokens_per_byte: float
    tokens_per_word: float

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
        """At most `limit` tokens; `name` is a hash of the tokens, of how they are cut and of what is masked."""
        count = len(heldout)
        taken = max(1, min(count, limit // heldout.n_positions))
        windows = heldout.windows(np.linspace(0, count - 1, taken).round().astype(np.int64))
        examples = objective.examples(windows, EVALUATION_KEY)
        digest = sha256_bytes(examples.astype("<i8").tobytes())[:12]
        return cls(examples, f"heldout-{digest}", tokens_per_byte, tokens_per_word)


def eval_set(
    heldout: Tokens, manifest: DataManifest, limit: int, objective: Objective | None = None
) -> EvalSet:
    """At most `limit` of a study's held-out tokens, the next token of each by default."""
    return EvalSet.of(
        heldout,
        limit,
        objective or Causal(),
        tokens_per_byte=manifest.heldout.tokens / manifest.heldout_bytes,
        tokens_per_word=manifest.heldout.tokens / max(1, manifest.heldout_words),
    )


def windows_at_once(n_positions: int, vocab_size: int) -> int:
    """How many windows are scored together: their logits, in 32 bits, are of half a GiB at most, or one window's."""
    return max(1, min(MOST_WINDOWS, MOST_LOGITS // (n_positions * vocab_size)))


@torch.no_grad()
def evaluate(
    model: object,
    settings: Settings,
    data: EvalSet,
    device: str,
    world: World = ALONE,
    progress: Callable[[float, float, str], None] = lambda done, total, what: None,
) -> Evaluation:
    """Score a model, dropout off; each process scores its share, and every one gets the whole result.

    Args:
        progress: told the windows scored, those in all, and that they are scored.
    """
    assert isinstance(model, torch.nn.Module)
    was_training = model.training
    model.eval()
    objective = objective_of(settings)
    batch_size = windows_at_once(settings.n_positions, settings.vocab_size)
    means: list[torch.Tensor] = []
    count = len(data.examples)
    share = -(-count // world.size)  # the last process scores some twice, so that all make the same calls
    own = data.examples[np.arange(world.rank * share, (world.rank + 1) * share) % count]
    for start in range(0, share, batch_size):
        progress(start, share, "measuring the loss")
        examples = to_device(own[start : start + batch_size], device)
        with autocast(settings, device):
            means.append(objective.losses(model, examples).mean(dim=1))
    model.train(was_training)
    per_window = world.gather(torch.cat(means)).flatten()[:count].double()
    loss = float(per_window.mean())
    se = float(per_window.std() / math.sqrt(len(per_window))) if len(per_window) > 1 else 0.0
    return Evaluation(
        loss=loss,
        se=se,
        tokens=objective.scored(data.examples),
        bits_per_byte=loss * data.tokens_per_byte / math.log(2) if settings.objective == "causal" else None,
        loss_per_word=loss * data.tokens_per_word if settings.objective == "causal" else None,
    )


QUICK_WINDOWS = 16

QUICK_SHARE = 0.015  # of the training FLOPs, at most, go into looks at held-out text on the way


def quick_eval(heldout: Tokens, manifest: DataManifest, settings: Settings, log_every: int) -> QuickEval:
    """Looks at 16 held-out windows, spread evenly, as often as their share of the work allows.

    A forward pass is a third of a training step's work per token.
    """
    limit = QUICK_WINDOWS * settings.n_positions
    data = eval_set(heldout, manifest, limit, objective_of(settings))
    least = len(data.examples) / 3 / (QUICK_SHARE * settings.batch_size)
    every = log_every * max(1, math.ceil(least / log_every))
    return QuickEval(
        look=lambda session: (
            evaluate(session.model, settings, data, session.device, world=session.world).loss
        ),
        every=every,
    )


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
        rows = (row for row, _ in metric_rows(folder / "metrics.jsonl"))
        lines.update({row["step"]: row["loss"] for row in rows if row["step"] <= last})
    total, before = 0.0, 0
    for step in sorted(lines):
        if after < step <= until:
            total += lines[step] * (step - max(before, after))
        before = step
    return total / (until - after) if until > after and lines and not math.isnan(total) else None
