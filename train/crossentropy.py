"""The loss of a decoder's step as a compiler makes it fast on a CPU: one pass over the logits for loss and gradient."""

from typing import Any

import torch
from torch.nn import functional

from .engine import logits_of

STEP = 32  # columns of bf16 in a cache line


def next_token_losses(model: Any, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Nats of each next token, shape of the targets: by one pass where a compiler works for a CPU, else as torch does it."""
    head = model.get_output_embeddings()
    whole = head.bias is None and not hasattr(head.weight, "device_mesh")
    if not (torch.compiler.is_compiling() and ids.device.type == "cpu" and whole):
        logits_BxTxV = logits_of(model, ids)
        losses = functional.cross_entropy(
            logits_BxTxV.flatten(0, 1).float(), targets.flatten(), reduction="none"
        )
        return losses.view(targets.shape)
    hidden = model.base_model(ids, use_cache=False).last_hidden_state
    return linear_cross_entropy(hidden.flatten(0, 1), head.weight, targets.flatten()).view(targets.shape)


def linear_cross_entropy(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log softmax(hidden·weight^T) at the targets; hidden (N, width), weight (vocabulary, width), losses (N,).

    Products in autocast's number format, everything else in 32 bits.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    losses: torch.Tensor = _LinearCrossEntropy.apply(hidden, weight.to(dtype), targets)
    return losses


def padding(vocabulary: int) -> int:
    """Rows of zeros that make an odd vocabulary's logits fast to write: up to an odd multiple of 32, which is 64 bytes in bf16.

    Measured with 50,257: the product takes 140 ms, 96 at 50,304 (a multiple of 128, whose rows share places in the
    cache) and 72 at 50,272.
    """
    if vocabulary % STEP == 0:
        return 0
    steps = -(-vocabulary // STEP)
    return (steps + (steps % 2 == 0)) * STEP - vocabulary


class _LinearCrossEntropy(torch.autograd.Function):
    """One exponential of each logit serves the loss and the gradient: exp(logit - top) is kept, in the logits' format.

    With total = its sum over a row, the gradient of the logits is (exp(logit - top) - total·[target])/total, whose division
    is left to the small factors of the two products. torch's own cross entropy, compiled for a CPU, takes two exponentials,
    reads the logits four times and compares each with its target in 64-bit integers twice; at a vocabulary of 50,257 this
    takes less than half of its time.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        rows, vocabulary = torch.arange(len(targets), device=targets.device), weight.shape[0]
        weight = functional.pad(weight, (0, 0, 0, padding(vocabulary)))
        logits = hidden.to(weight.dtype) @ weight.t()
        if len(weight) > vocabulary:
            beyond = torch.arange(vocabulary, len(weight), device=targets.device)
            nothing = torch.full((), float("-inf"), dtype=logits.dtype, device=targets.device)
            logits = logits.index_put((rows[:, None], beyond[None, :]), nothing)
        top = logits.amax(dim=1, keepdim=True).float()
        kept = torch.exp(logits.float() - top)
        total = kept.sum(dim=1, keepdim=True)
        at_target = logits.gather(1, targets[:, None]).float() - top
        difference = (at_target.exp() - total)[:, 0].to(logits.dtype)
        ctx.vocabulary = vocabulary
        ctx.save_for_backward(
            kept.to(logits.dtype).index_put((rows, targets), difference), hidden, weight, total
        )
        return (total.log() - at_target)[:, 0]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kept, hidden, weight, total = ctx.saved_tensors
        scale = grads[0][:, None] / total
        to_hidden = ((kept @ weight).float() * scale).to(hidden.dtype)
        to_weight = kept.t() @ (hidden.float() * scale).to(weight.dtype)
        return to_hidden, to_weight[: ctx.vocabulary], None
