"""Loss on held-out text, with its standard error, in units that compare across tokenizers."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from scaling.files import sha256_bytes

from .config import Settings
from .data import Tokens
from .loop import Glance, autocast, to_device
from .manifest import DataManifest
from .objective import EVALUATION_KEY, Causal, Objective, objective_of
from .parallel import ALONE, World

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


GLANCE_WINDOWS = 16
GLANCE_SHARE = 0.015  # of the training FLOPs, at most, go into looks at held-out text on the way


def glance_of(heldout: Tokens, manifest: DataManifest, settings: Settings, log_every: int) -> Glance:
    """Looks at 16 held-out windows, spread evenly, as often as their share of the work allows.

    A forward pass is a third of a training step's work per token.
    """
    limit = GLANCE_WINDOWS * settings.n_positions
    data = eval_set(heldout, manifest, limit, objective_of(settings))
    least = len(data.examples) / 3 / (GLANCE_SHARE * settings.batch_size)
    every = log_every * max(1, math.ceil(least / log_every))
    return Glance(
        look=lambda session: (
            evaluate(session.model, settings, data, session.device, world=session.world).loss
        ),
        every=every,
    )
