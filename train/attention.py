"""Attention for training windows: every backend by name, and no mask made where causality says enough."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

Attention = Literal["eager", "sdpa", "flash", "cudnn"]
Kernel = Callable[..., torch.Tensor]

_BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def use_attention(model: Any, attention: Attention) -> None:
    """Let a transformers model compute attention our way: sequences without padding, causal where the model is.

    eager: scores written out, which a compiler fuses around two matrix products: fastest for short contexts on a CPU.
    sdpa: torch's own choice of fused kernel. flash, cudnn: that fused kernel of a GPU and no other.

    transformers makes a mask as a tensor while it is compiled, and a mask keeps torch from its flash kernel; for an
    attention function that it does not know it makes none.
    """
    from transformers import AttentionInterface

    name = f"scaling_{attention}"
    AttentionInterface.register(
        name, _for_transformers(_written_out if attention == "eager" else _fused(attention))
    )
    model.config._attn_implementation = name


def _for_transformers(kernel: Kernel) -> Callable[..., tuple[torch.Tensor, None]]:
    """A kernel as transformers calls it: shapes (batch, heads, time, head size) in, (batch, time, heads, head size) out."""

    def attend(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        scaling: float,
        dropout: float = 0.0,
        **rest: Any,
    ) -> tuple[torch.Tensor, None]:
        causal = attention_mask is None and getattr(module, "is_causal", False) and query.shape[2] > 1
        out = kernel(
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


def _written_out(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    attn_mask: torch.Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float,
) -> torch.Tensor:
    """softmax(q·k^T·scale + mask)·v, called as torch's fused function is."""
    if torch.compiler.is_compiling() and query.device.type == "cpu" and attn_mask is None and not dropout_p:
        # Rotated queries and keys come in 32 bits, whatever autocast's format: the way back has products of its own.
        query, key = (query * scale).to(value.dtype), key.to(value.dtype)
        found: torch.Tensor = OneExponential.apply(query, key, value, is_causal)
        return found
    scores = torch.matmul(query * scale, key.transpose(2, 3)).float()
    if attn_mask is not None:
        scores = scores + attn_mask
    elif is_causal:
        seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
        seen = seen.tril(key.shape[2] - query.shape[2])
        scores = scores.masked_fill(~seen, float("-inf"))
    weights = functional.softmax(scores, dim=-1).to(value.dtype)
    return torch.matmul(functional.dropout(weights, p=dropout_p), value)


def _fused(attention: str) -> Kernel:
    backend = _BACKENDS.get(attention)
    if backend is None:
        return functional.scaled_dot_product_attention

    def one_backend(*args: Any, **options: Any) -> torch.Tensor:
        with sdpa_kernel(backend):
            return functional.scaled_dot_product_attention(*args, **options)

    return one_backend


def _all_heads(query: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    """Keys or values of grouped-query attention, repeated for each query head."""
    groups = query.shape[1] // shared.shape[1]
    return shared if groups == 1 else shared.repeat_interleave(groups, dim=1)


class OneExponential(torch.autograd.Function):
    """softmax(q·k^T)·v as a compiler makes it fast on a CPU: exp(score - top) is kept, and serves both ways.

    The division by a row's total is left to the small products, as in train.crossentropy. torch's fused attention is 27 % of
    a step of 4 layers d256 on a CPU, most of it backward; softmax written out was 16 %, and this is 6.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, is_causal: bool
    ) -> torch.Tensor:
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
        query, key, value, kept, total, out = ctx.saved_tensors
        grad = grads[0].float() / total
        along = (grad * out.float()).sum(
            dim=-1, keepdim=True
        )  # what moves every score of a row alike changes nothing
        grad = grad.to(value.dtype)
        to_value = torch.matmul(kept.transpose(2, 3), grad)
        to_weights = torch.matmul(grad, value.transpose(2, 3)).float()
        to_scores = (kept.float() * (to_weights - along)).to(value.dtype)
        return torch.matmul(to_scores, key), torch.matmul(to_scores.transpose(2, 3), query), to_value, None


def _to_come(queries: int, keys: int, device: torch.device) -> torch.Tensor:
    """True where a key comes after a query, shape (queries, keys); in 32 bits, since 64-bit integers are compared slowly."""
    query = torch.arange(queries, dtype=torch.float32, device=device)
    key = torch.arange(keys, dtype=torch.float32, device=device)
    return key > query[:, None] + float(keys - queries)
