"""Muon on the matrices of the blocks and AdamW on everything else, as one optimiser."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch

IN_BLOCK = re.compile(
    r"\.\d+\."
)  # of a parameter's name: a numbered layer; embeddings and the head have no number

RATE_AS_ADAMW = "match_rms_adamw"  # updates of AdamW's size, so that one lr serves both (Liu et al. 2025, arXiv:2502.16982)


class MuonAdamW:
    """torch.optim.Muon (Jordan et al. 2024) for the blocks' matrices, torch.optim.AdamW for the rest.

    Embeddings, the head, norms and biases are AdamW's: Muon orthogonalises updates of matrices between hidden layers.
    """

    def __init__(
        self, model: Any, *, lr: float, weight_decay: float, betas: tuple[float, float], eps: float
    ) -> None:
        """Divide the model's parameters.

        Args:
            model: the model.
            lr: learning rate of both, by AdamW's size of updates.
            weight_decay: decoupled, on matrices only.
            betas: of AdamW.
            eps: of AdamW.
        """
        named = list(model.named_parameters())
        blocks = [w for name, w in named if w.ndim == 2 and IN_BLOCK.search(name)]
        taken = set(map(id, blocks))
        rest = [w for _, w in named if id(w) not in taken]
        groups = [
            {"params": [w for w in rest if w.ndim >= 2], "weight_decay": weight_decay},
            {"params": [w for w in rest if w.ndim < 2], "weight_decay": 0.0},
        ]
        self.muon = torch.optim.Muon(blocks, lr=lr, weight_decay=weight_decay, adjust_lr_fn=RATE_AS_ADAMW)
        self.adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=lr, betas=betas, eps=eps, fused=True
        )
        self.state = _States(self.muon, self.adamw)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of both; their lr may be set."""
        return [*self.muon.param_groups, *self.adamw.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Take a step of both."""
        self.muon.step()
        self.adamw.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all parameters."""
        self.muon.zero_grad(set_to_none)
        self.adamw.zero_grad(set_to_none)


class _States:
    """State of both optimisers by parameter."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers
        self.owner = {
            weight: optimizer
            for optimizer in optimizers
            for group in optimizer.param_groups
            for weight in group["params"]
        }

    def __getitem__(self, weight: Any) -> dict[str, Any]:
        state: dict[str, Any] = self.owner[weight].state[weight]
        return state

    def items(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Pairs of a parameter and its state."""
        for optimizer in self.optimizers:
            yield from optimizer.state.items()
