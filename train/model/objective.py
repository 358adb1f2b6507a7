"""Training objectives (next token, masked tokens) and optimisers, with their state as named tensors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from families.units import BadInput

from ..config import Settings, predicted_tokens
from ..data import Tokens, batch
from ..distributed import ALONE, World, like, unshard
from ..loss_scale import LossScale
from .kernels import next_token_losses
from .muon import MuonAdamW

MASK_SHARE = (
    0.8  # of the predicted tokens become [MASK], and so many a random token (Devlin et al. 2019, 3.1)
)

RANDOM_SHARE = 0.1

UNSCORED = -100  # label of a token that is not predicted, ignored by torch's cross_entropy

EVALUATION_KEY = (2**31 - 1,)  # the same masks in every evaluation


Windows = NDArray[np.int64]


class Objective(Protocol):
    """Conversion of windows of n_positions + 1 tokens to examples, and the loss of examples.

    The first dimension is always the sequences, so that a batch can be split anywhere: every sequence has equally many
    scored tokens, and the mean over sequences is the mean over tokens.
    """

    def examples(self, windows: Windows, key: Sequence[int]) -> Windows:
        """Return the examples of windows; random choices are a function of the key."""

    def losses(self, model: Any, examples: torch.Tensor) -> torch.Tensor:
        """Return losses in nats, shape (batch, n); a row's mean is the loss of its sequence."""

    def scored(self, examples: Windows) -> int:
        """Return the number of predicted tokens in the examples."""


class Causal:
    """Next-token prediction; the examples are the windows themselves."""

    def examples(self, windows: Windows, key: Sequence[int]) -> Windows:
        """Return the windows; the key is not used."""
        return windows

    def losses(self, model: Any, examples: torch.Tensor) -> torch.Tensor:
        """Return the loss of each next token in nats, shape (batch, n_positions)."""
        return next_token_losses(model, examples[:, :-1], examples[:, 1:])

    def scored(self, examples: Windows) -> int:
        """Return the number of tokens but the first of each window."""
        return int(examples[:, 1:].size)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedLM:
    """BERT's objective: 15 % of a window's tokens are predicted; 80 % of them are masked, 10 % random, 10 % unchanged.

    Examples are (batch, 2, n_positions): inputs and labels. The number of predicted tokens is the same in every window,
    as in BERT's own code, so that a batch's loss does not depend on how it is split; the end of the text is not among
    them while other tokens are left.
    """

    mask_token_id: int
    eos_token_id: int
    vocab_size: int  # of the tokenizer, from which random tokens are drawn

    def examples(self, windows: Windows, key: Sequence[int]) -> Windows:
        """Return inputs and labels, masked by the key."""
        rng = np.random.default_rng(list(key))
        tokens = windows[:, :-1]
        order = rng.random(tokens.shape)
        order[np.isin(tokens, (self.eos_token_id, self.mask_token_id))] += 1  # after all others
        count = predicted_tokens("mlm", tokens.shape[1])
        chosen = np.zeros(tokens.shape, dtype=bool)
        np.put_along_axis(chosen, np.argpartition(order, count - 1, axis=1)[:, :count], True, axis=1)
        fate = rng.random(tokens.shape)
        other = rng.integers(0, self.vocab_size, tokens.shape)
        inputs = np.where(chosen & (fate < MASK_SHARE), self.mask_token_id, tokens)
        replaced = chosen & (fate >= MASK_SHARE) & (fate < MASK_SHARE + RANDOM_SHARE)
        inputs = np.where(replaced, other, inputs)
        return np.stack([inputs, np.where(chosen, tokens, UNSCORED)], axis=1)

    def losses(self, model: Any, examples: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of each window's predicted tokens in nats, shape (batch, 1)."""
        inputs, labels = examples[:, 0], examples[:, 1]
        logits_BxTxV = model(inputs).logits
        losses = functional.cross_entropy(
            logits_BxTxV.flatten(0, 1).float(), labels.flatten(), reduction="none", ignore_index=UNSCORED
        )
        scored = (labels != UNSCORED).sum(dim=1, keepdim=True)
        return losses.view(labels.shape).sum(dim=1, keepdim=True) / scored

    def scored(self, examples: Windows) -> int:
        """Return the number of labels that are not UNSCORED."""
        return int((examples[:, 1] != UNSCORED).sum())


def objective_of(settings: Settings) -> Objective:
    """Return the objective of a run."""
    if settings.objective == "causal":
        return Causal()
    assert settings.mask_token_id is not None
    return MaskedLM(
        mask_token_id=settings.mask_token_id,
        eos_token_id=settings.eos_token_id,
        vocab_size=settings.tokenizer_size or settings.vocab_size,
    )


def batch_of(settings: Settings, tokens: Tokens, step: int, world: World = ALONE) -> Windows:
    """Return this process's examples of a step's batch, a function of (seed, step), so resuming is a seek.

    Of next tokens a process reads its own rows only; masks are drawn for the whole batch.

    Args:
        settings: settings of the run.
        tokens: the training windows.
        step: the step, from 0.
        world: the processes that share the batch.
    """
    if settings.objective == "causal":
        rows = range(settings.batch_size)
        return batch(tokens, settings.batch_size, settings.seed, step, world.part(rows))
    windows = batch(tokens, settings.batch_size, settings.seed, step)
    own: Windows = world.part(objective_of(settings).examples(windows, (settings.seed, step)))
    return own


ADAM_EPS = 1e-8  # torch's default


def make_optimizer(settings: Settings, model: Any) -> "torch.optim.Optimizer | MuonAdamW":
    """Weight decay on matrices only, as GPT-2 and Chinchilla train.

    AdamW fused. Muon on the blocks' matrices with AdamW on the rest. Adafactor (Shazeer and Stern 2018) as transformers'
    Trainer sets it up: no first moment, the learning rate as given, neither relative to the step nor scaled by the weights.

    Raises:
        BadInput: this torch has no Muon.
    """
    weights = list(model.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [w for w in weights if w.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    if settings.optimizer == "adafactor":
        from transformers.optimization import Adafactor

        found: torch.optim.Optimizer = Adafactor(
            groups, lr=settings.lr, scale_parameter=False, relative_step=False, warmup_init=False
        )
        return found
    if settings.optimizer == "muon":
        if not hasattr(torch.optim, "Muon"):
            raise BadInput(f"optimizer is muon; torch {torch.__version__} has none: it comes with torch 2.9")
        return MuonAdamW(
            model,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            betas=(settings.beta1, settings.beta2),
            eps=ADAM_EPS,
        )
    return torch.optim.AdamW(
        groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=ADAM_EPS, fused=True
    )


def clipped_step(optimizer: Any, model: Any, most: float, scale: LossScale | None = None) -> torch.Tensor:
    """Clip the gradient and take the step; returns the norm before clipping.

    Args:
        optimizer: the optimiser.
        model: the model whose gradients are clipped.
        most: largest norm.
        scale: loss scale of fp16, by which a step of a gradient that is not finite is skipped.
    """
    if hasattr(optimizer, "clipped_step"):
        norm: torch.Tensor = optimizer.clipped_step()
        return norm
    if scale is not None:
        scale.unscale(model.parameters())
    norm = unshard(torch.nn.utils.clip_grad_norm_(model.parameters(), most))
    if scale is None or scale.takes(norm):
        optimizer.step()
    return norm


def optimizer_state(optimizer: Any, model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Iterate over the optimiser state as ("value.weight", tensor); numbers as 64-bit tensors.

    Every process must ask: what is divided among them is gathered.
    """
    if hasattr(optimizer, "named_state"):
        own: Iterator[tuple[str, torch.Tensor]] = optimizer.named_state(model)
        return own
    names = {weight: name for name, weight in model.named_parameters()}
    return (
        (f"{value}.{names[weight]}", _tensor(kept))
        for weight, values in optimizer.state.items()
        for value, kept in values.items()
    )


OptimizerState = dict[str, torch.Tensor]


def local_optimizer_state(optimizer: Any, model: Any) -> tuple[OptimizerState, OptimizerState]:
    """Return this process's part of the state, sharded like the weights, and what is the same in every process, by name."""
    names = {weight: name for name, weight in model.named_parameters()}
    sharded: OptimizerState = {}
    rest: OptimizerState = {}
    for weight, values in optimizer.state.items():
        for value, kept in values.items():
            key = f"{value}.{names[weight]}"
            if hasattr(kept, "device_mesh"):
                sharded[key] = kept.detach()
            else:
                rest[key] = _tensor(kept)
    return sharded, rest


def load_optimizer_state(optimizer: Any, model: Any, state: dict[str, torch.Tensor], device: str) -> None:
    """Restore the state from `optimizer_state` bit for bit.

    Args:
        optimizer: the optimiser to restore.
        model: the model whose parameters it updates.
        state: tensors by name, as from `optimizer_state`; entries of other names are ignored.
        device: device of the restored tensors.
    """
    if hasattr(optimizer, "load_named_state"):
        optimizer.load_named_state(model, state)
        return
    weights = dict(model.named_parameters())
    for key, kept in state.items():
        value, _, name = key.partition(".")
        if name in weights:
            optimizer.state[weights[name]][value] = _restored(kept, weights[name], device)


def _tensor(kept: Any) -> torch.Tensor:
    if isinstance(kept, torch.Tensor):
        return unshard(kept.detach())
    return torch.tensor(kept, dtype=torch.int64 if isinstance(kept, int) else torch.float64)


def _restored(kept: torch.Tensor, weight: torch.Tensor, device: str) -> Any:
    if kept.ndim == 0 and kept.dtype in (torch.int64, torch.float64):
        return kept.item()
    return like(weight, kept) if kept.shape == weight.shape else kept.to(device)
