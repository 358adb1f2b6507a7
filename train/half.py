"""A loss computed with copies of all weights in bf16, made for each micro-batch or once for a whole step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from .distributed import LossOf


class InHalf(torch.nn.Module):
    """The same loss, computed with bf16 copies of all weights; gradients arrive in fp32.

    Activations between blocks, the residual stream, are then in bf16 too, as with FSDP2's mixed precision.
    """

    def __init__(self, inner: LossOf) -> None:
        super().__init__()
        self.inner = inner
        self._kept: dict[str, torch.Tensor] = {}  # in use while a step casts once
        self._buffers_of_copies: dict[str, torch.Tensor] = {}

    def forward(self, piece: torch.Tensor, each: bool = False) -> torch.Tensor:
        """Return what the inner module does."""
        copies = self._kept or {
            name: weight.to(torch.bfloat16) for name, weight in self.inner.named_parameters()
        }
        found: torch.Tensor = torch.func.functional_call(self.inner, copies, (piece, each))
        return found

    @contextmanager
    def cast_once(self) -> Iterator[Callable[[], None]]:
        """Use one copy of the weights for all calls in the context, which must not change them.

        Yields a function that adds the copies' gradients to those of the weights, in fp32, to be called after each backward
        pass: gradients of several micro-batches are never summed in bf16.
        """
        weights = dict(self.inner.named_parameters())
        if not self._buffers_of_copies:
            self._buffers_of_copies = {
                name: torch.empty_like(weight, dtype=torch.bfloat16).requires_grad_()
                for name, weight in weights.items()
            }
        copies = self._buffers_of_copies
        with torch.no_grad():
            torch._foreach_copy_(list(copies.values()), list(weights.values()))
        for copy in copies.values():
            copy.grad = None  # of a micro-batch that ran out of memory

        @torch.no_grad()
        def collect() -> None:
            sums, parts = [], []
            for name, copy in copies.items():
                if copy.grad is None:
                    continue
                weight = weights[name]
                if weight.grad is None:
                    weight.grad = copy.grad.to(weight.dtype)
                else:
                    sums.append(weight.grad)
                    parts.append(copy.grad)
                copy.grad = None
            if sums:
                torch._foreach_add_(sums, parts)

        self._kept = copies
        try:
            yield collect
        finally:
            self._kept = {}
