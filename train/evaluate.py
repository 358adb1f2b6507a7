"""Loss on held-out text, with its standard error, in units that compare across tokenizers."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from scaling.files import sha256_bytes

from .config import Settings
from .data import Tokens
from .loop import autocast, to_device, token_losses
from .prepare import DataManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """loss: nats per token. se: standard error of its mean over windows. tokens: how many were scored.

    bits_per_byte and loss_per_word ("adjusted" loss) divide by the bytes and the words of the whole held-out split, at
    its own ratio of tokens to each; they compare across tokenizers, which perplexity per token does not.
    """

    loss: float
    se: float
    tokens: int
    bits_per_byte: float
    loss_per_word: float

    @property
    def perplexity(self) -> float:
        """exp(loss), per token."""
        return math.exp(self.loss)


@dataclass(frozen=True, slots=True)
class EvalSet:
    """Windows of held-out text that follow one another, spread evenly over it; every token is scored at most once."""

    windows: NDArray[np.int64]
    name: str
    tokens_per_byte: float
    tokens_per_word: float


def eval_set(heldout: Tokens, manifest: DataManifest, limit: int) -> EvalSet:
    """At most `limit` held-out tokens; `name` is a hash of the tokens and of how they are cut."""
    count = len(heldout)
    taken = max(1, min(count, limit // heldout.n_positions))
    windows = heldout.windows(np.linspace(0, count - 1, taken).round().astype(np.int64))
    digest = sha256_bytes(windows.astype("<i8").tobytes())[:12]
    return EvalSet(
        windows=windows,
        name=f"heldout-{digest}",
        tokens_per_byte=manifest.heldout.tokens / manifest.heldout_bytes,
        tokens_per_word=manifest.heldout.tokens / max(1, manifest.heldout_words),
    )


@torch.no_grad()
def evaluate(
    model: object, settings: Settings, data: EvalSet, device: str, batch_size: int = 32
) -> Evaluation:
    """Score a model, dropout off."""
    assert isinstance(model, torch.nn.Module)
    was_training = model.training
    model.eval()
    means: list[torch.Tensor] = []
    for start in range(0, len(data.windows), batch_size):
        windows = to_device(data.windows[start : start + batch_size], device)
        with autocast(settings, device):
            means.append(token_losses(model, windows).mean(dim=1))
    model.train(was_training)
    per_window = torch.cat(means).double()
    loss = float(per_window.mean())
    se = float(per_window.std() / math.sqrt(len(per_window))) if len(per_window) > 1 else 0.0
    return Evaluation(
        loss=loss,
        se=se,
        tokens=len(data.windows) * (data.windows.shape[1] - 1),
        bits_per_byte=loss * data.tokens_per_byte / math.log(2),
        loss_per_word=loss * data.tokens_per_word,
    )
