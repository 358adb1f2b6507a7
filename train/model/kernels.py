"""Kernels of a training step: attention backends, GPT-2's activation, and a fused cross entropy for compiled CPU steps."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from families.units import BadInput

from ..runtime import TILE, is_plain_head, logits_of
from . import flash3

Attention = Literal["eager", "sdpa", "flash", "cudnn", "flash3"]

Kernel = Callable[..., torch.Tensor]


# In order of preference: a kernel that cannot take the shapes, the format or the GPU gives way to the next.
_REST = (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
_BACKENDS = {
    "flash": [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, *_REST],
    "cudnn": [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, *_REST],
}


def use_attention(model: Any, attention: Attention) -> None:
    """Set a transformers model's attention backend, for sequences without padding and, in decoders, a causal mask.

    eager: scores written out, which a compiler fuses around two matrix products: fastest for short contexts on a CPU.
    sdpa: torch's own choice of fused kernel. flash, cudnn: that fused kernel of a GPU, or the next that can. flash3:
    FlashAttention-3 where it is installed, else flash.

    transformers makes a mask as a tensor while it is compiled, and a mask keeps torch from its flash kernel; for an
    attention function that it does not know it makes none.
    """
    from transformers import AttentionInterface

    name = f"scaling_{attention}"
    third = attention == "flash3" and not isinstance(flash3.interface(), str)
    kernel = _written_out if attention == "eager" else _fused("flash" if attention == "flash3" else attention)
    AttentionInterface.register(name, _for_transformers(flash3.attend(kernel) if third else kernel))
    model.config._attn_implementation = name
    flash3.pack(model, third)


def _for_transformers(kernel: Kernel) -> Callable[..., tuple[torch.Tensor, None]]:
    """Attention as transformers calls it: shapes (batch, heads, time, head size) in, (batch, time, heads, head size) out."""

    def attend(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        scaling: float,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **rest: Any,
    ) -> tuple[torch.Tensor, None]:
        if rest.get("s_aux") is not None:
            raise BadInput("this model's attention has sinks; it is not trained here")
        if softcap is not None:
            kernel_here: Kernel = partial(_written_out, softcap=softcap)  # no fused kernel caps its scores
        else:
            kernel_here = kernel
        causal = attention_mask is None and getattr(module, "is_causal", False) and query.shape[2] > 1
        if causal and sliding_window is not None and sliding_window < key.shape[2]:
            attention_mask, causal = _window(query, key, sliding_window), False
        out = kernel_here(
            query,
            _all_heads(query, key),
            _all_heads(query, value),
            attn_mask=attention_mask,
            dropout_p=dropout if module.training else 0.0,
            is_causal=bool(causal),
            scale=scaling,
        )
        return out.transpose(1, 2), None

    return attend


def _window(query: torch.Tensor, key: torch.Tensor, size: int) -> torch.Tensor:
    """Return the mask of a sliding window, 0 for the last `size` keys of each query and else -inf, shape (queries, keys)."""
    ahead = torch.arange(query.shape[2], device=query.device)[:, None] + key.shape[2] - query.shape[2]
    distance = ahead - torch.arange(key.shape[2], device=query.device)
    seen = (distance >= 0) & (distance < size)
    nothing = torch.full((), float("-inf"), dtype=query.dtype, device=query.device)
    return torch.where(seen, torch.zeros_like(nothing), nothing)


def _written_out(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    attn_mask: torch.Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float,
    softcap: float | None = None,
) -> torch.Tensor:
    """Return softmax(q·k^T·scale + mask)·v, with the signature of torch's fused function.

    With `softcap` scores are first bounded as cap·tanh(score/cap) (Gemma Team 2024).
    """
    plain = attn_mask is None and not dropout_p and softcap is None
    if torch.compiler.is_compiling() and query.device.type == "cpu" and plain:
        # Rotated queries and keys are in fp32, whatever the autocast format.
        query, key = (query * scale).to(value.dtype), key.to(value.dtype)
        found: torch.Tensor = OneExponential.apply(query, key, value, is_causal)
        return found
    scores = torch.matmul(query * scale, key.transpose(2, 3)).float()
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if attn_mask is not None:
        scores = scores + attn_mask
    elif is_causal:
        seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
        seen = seen.tril(key.shape[2] - query.shape[2])
        scores = scores.masked_fill(~seen, float("-inf"))
    weights = functional.softmax(scores, dim=-1).to(value.dtype)
    return torch.matmul(functional.dropout(weights, p=dropout_p), value)


def _fused(attention: str) -> Kernel:
    backends = _BACKENDS.get(attention)
    if backends is None:
        return functional.scaled_dot_product_attention

    def preferred(*args: Any, **options: Any) -> torch.Tensor:
        with sdpa_kernel(backends, set_priority=True):
            return functional.scaled_dot_product_attention(*args, **options)

    return preferred


def _all_heads(query: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    """Repeat keys or values of grouped-query attention for each query head."""
    groups = query.shape[1] // shared.shape[1]
    return shared if groups == 1 else shared.repeat_interleave(groups, dim=1)


class OneExponential(torch.autograd.Function):
    """softmax(q·k^T)·v as a compiler makes it fast on a CPU: exp(score - top) is kept, and serves both ways.

    The division by a row's total is left to the small products, as in _LinearCrossEntropy. torch's fused attention is 27 % of
    a step of 4 layers d256 on a CPU, most of it backward; softmax written out was 16 %, and this is 6.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, is_causal: bool
    ) -> torch.Tensor:
        """Return the attention output, shape (batch, heads, queries, head size).

        Args:
            ctx: context of autograd, which keeps tensors for the backward pass.
            query: scaled queries, shape (batch, heads, queries, head size).
            key: keys, shape (batch, heads, keys, head size).
            value: values, shape (batch, heads, keys, head size).
            is_causal: True to exclude the keys after each query.
        """
        scores = torch.matmul(query, key.transpose(2, 3)).float()
        if is_causal:
            to_come = _to_come(scores.shape[2], scores.shape[3], scores.device)
            scores = scores.masked_fill(to_come, float("-inf"))
        kept = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
        total = kept.sum(dim=-1, keepdim=True)
        kept = kept.to(value.dtype)
        out = (torch.matmul(kept, value).float() / total).to(value.dtype)
        ctx.save_for_backward(query, key, value, kept, total, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of query, key and value, and None for `is_causal`."""
        query, key, value, kept, total, out = ctx.saved_tensors
        grad = grads[0].float() / total
        along = (grad * out.float()).sum(
            dim=-1, keepdim=True
        )  # a constant added to all scores of a row changes nothing
        grad = grad.to(value.dtype)
        to_value = torch.matmul(kept.transpose(2, 3), grad)
        to_weights = torch.matmul(grad, value.transpose(2, 3)).float()
        to_scores = (kept.float() * (to_weights - along)).to(value.dtype)
        return torch.matmul(to_scores, key), torch.matmul(to_scores.transpose(2, 3), query), to_value, None


def _to_come(queries: int, keys: int, device: torch.device) -> torch.Tensor:
    """Return the causal mask, True where a key is after a query, shape (queries, keys); 32-bit indices compare faster."""
    query = torch.arange(queries, dtype=torch.float32, device=device)
    key = torch.arange(keys, dtype=torch.float32, device=device)
    return key > query[:, None] + float(keys - queries)


SCALE, CUBE = 2 * math.sqrt(2 / math.pi), 0.044715


class LogisticGelu(nn.Module):
    """x·sigmoid(2·sqrt(2/pi)·(x + 0.044715·x^3)), which is gelu_new: 1 + tanh(u) = 2·sigmoid(2u).

    One exponential in the place of a hyperbolic tangent, and its slope kept for the way back: measured 1.8 + 0.7 ms in
    place of 4.2 + 4.9 ms for two million values.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the activation, same shape and dtype as `x`."""
        found: torch.Tensor = _KeptSlope.apply(x)
        return found


class _KeptSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        share = torch.sigmoid(SCALE * (wide + CUBE * wide * wide * wide))
        found = wide * share
        slope = share + found * (1 - share) * SCALE * (1 + 3 * CUBE * wide * wide)
        ctx.save_for_backward(slope.to(x.dtype))
        return found.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        slope: torch.Tensor = ctx.saved_tensors[0]
        return grads[0] * slope


def use_logistic_gelu(model: Any) -> None:
    """Replace every gelu_new of a model by LogisticGelu."""
    from transformers.activations import NewGELUActivation

    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(parent, name, LogisticGelu())


STEP = 32  # columns of bf16 in a cache line


# Attributes of a model whose blocks are compiled one by one: its compiled head for training and for evaluations.
_HEAD, _EVALUATED_HEAD = "_scaling_head", "_scaling_evaluated_head"


def compile_head(model: Any, compile_part: Callable[[Any], Any], *, evaluates: bool = False) -> None:
    """Compile a decoder's logits and cross entropy by themselves, where its blocks are compiled by themselves.

    With `evaluates`, evaluations use them too.
    """
    head = compile_part(_head_losses)
    setattr(model, _HEAD, head)
    setattr(model, _EVALUATED_HEAD, head if evaluates else None)


def balance_coefficient(model: Any) -> float:
    """Return the weight of the loss that keeps a mixture's experts equally busy; 0 for models that have none."""
    return float(getattr(model.config, "router_aux_loss_coef", 0.0) or 0.0)


def _balanced_losses(model: Any, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return each token's loss and, in equal parts, transformers' load-balancing loss of this micro-batch."""
    found = model(ids, use_cache=False, output_router_logits=True)
    losses = functional.cross_entropy(found.logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    balanced: torch.Tensor = losses.view(targets.shape) + balance_coefficient(model) * found.aux_loss
    return balanced


def next_token_losses(model: Any, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the loss of each next token in nats, shape of the targets; fused while compiling for a CPU, else torch's."""
    if model.training and balance_coefficient(model):
        return _balanced_losses(model, ids, targets)
    head = model.get_output_embeddings()
    whole = head.bias is None and not hasattr(head.weight, "device_mesh") and is_plain_head(model)
    own = getattr(model, _HEAD if torch.is_grad_enabled() else _EVALUATED_HEAD, None)
    if whole and own is not None:
        hidden = model.base_model(ids, use_cache=False).last_hidden_state
        found: torch.Tensor = own(hidden.flatten(0, 1), head.weight, targets.flatten())
        return found.view(targets.shape)
    if not (torch.compiler.is_compiling() and ids.device.type == "cpu" and whole):
        logits_BxTxV = logits_of(model, ids)
        losses = functional.cross_entropy(
            logits_BxTxV.flatten(0, 1).float(), targets.flatten(), reduction="none"
        )
        return losses.view(targets.shape)
    hidden = model.base_model(ids, use_cache=False).last_hidden_state
    return linear_cross_entropy(hidden.flatten(0, 1), head.weight, targets.flatten()).view(targets.shape)


def _head_losses(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the losses of hidden states (N, width) by the way that is fast compiled for their device, shape (N,)."""
    if hidden.device.type == "cpu":
        return linear_cross_entropy(hidden, weight, targets)
    missing = -weight.shape[0] % TILE
    wide = functional.linear(hidden, functional.pad(weight, (0, 0, 0, missing)))
    return functional.cross_entropy(wide[:, : weight.shape[0]].float(), targets, reduction="none")


def linear_cross_entropy(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log softmax(hidden·weight^T) at the targets; hidden (N, width), weight (vocabulary, width), losses (N,).

    Products in autocast's number format, everything else in 32 bits.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    losses: torch.Tensor = _LinearCrossEntropy.apply(hidden, weight.to(dtype), targets)
    return losses


def padding(vocabulary: int) -> int:
    """Return the rows of zeros that pad a vocabulary to an odd multiple of 32, 64 bytes in bf16, which is fast to write.

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
