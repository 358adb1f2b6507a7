"""Optimisers, and their state as named tensors that a checkpoint can hold."""

from collections.abc import Iterator
from typing import Any

import torch

from .config import Settings
from .parallel import like, whole

ADAM_EPS = 1e-8  # torch's default


def make_optimizer(settings: Settings, model: Any) -> torch.optim.Optimizer:
    """Weight decay on matrices only, as GPT-2 and Chinchilla train.

    AdamW fused. Adafactor (Shazeer and Stern 2018) as transformers' Trainer sets it up: no first moment, the learning
    rate as given, neither relative to the step nor scaled by the weights.
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
    return torch.optim.AdamW(
        groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=ADAM_EPS, fused=True
    )


def clipped_step(optimizer: Any, model: Any, most: float) -> torch.Tensor:
    """Clip the gradient to a norm of at most `most` and take the step; returns its norm before."""
    if hasattr(optimizer, "clipped_step"):
        norm: torch.Tensor = optimizer.clipped_step()
        return norm
    norm = whole(torch.nn.utils.clip_grad_norm_(model.parameters(), most))
    optimizer.step()
    return norm


def optimizer_state(optimizer: Any, model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every value that the optimiser keeps for each weight, as "value.weight"; numbers as tensors of 64 bits.

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


def load_optimizer_state(optimizer: Any, model: Any, state: dict[str, torch.Tensor], device: str) -> None:
    """Put back what `optimizer_state` gave, bit for bit; other entries of `state` are passed over."""
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
        return whole(kept.detach())
    return torch.tensor(kept, dtype=torch.int64 if isinstance(kept, int) else torch.float64)


def _restored(kept: torch.Tensor, weight: torch.Tensor, device: str) -> Any:
    if kept.ndim == 0 and kept.dtype in (torch.int64, torch.float64):
        return kept.item()
    return like(weight, kept) if kept.shape == weight.shape else kept.to(device)
