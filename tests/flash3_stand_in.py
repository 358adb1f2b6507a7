"""flash_attn_interface's two functions as their authors declare them, computed in plain torch."""

import sys
from types import ModuleType

import torch


def _weights(query, key, scale, causal):
    scores = torch.einsum("bqhd,bkhd->bhqk", query.float(), key.float()) * scale
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
    return scores


def forward(q, k, v, softmax_scale=None, causal=False):
    """Output (batch, time, heads, head size), the logarithms of the rows' sums, and two unused results."""
    scores = _weights(q, k, softmax_scale, causal)
    out = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v.float()).to(q.dtype)
    return out.contiguous(), scores.logsumexp(-1), torch.tensor([]), torch.tensor([])


def backward(
    dout, q, k, v, out, softmax_lse, cu_seqlens_q=None, cu_seqlens_k=None, sequed_q=None, sequed_k=None, max_seqlen_q=None,
    max_seqlen_k=None, dq=None, dk=None, dv=None, softmax_scale=None, is_causal=False, deterministic=False,
):  # fmt: skip
    """Write the gradients into dq, dk and dv, whatever their strides."""
    weights = (_weights(q, k, softmax_scale, is_causal) - softmax_lse[..., None]).exp()
    grad, value = dout.float(), v.float()
    along = (grad * out.float()).sum(-1).transpose(1, 2)[..., None]
    scores = weights * (torch.einsum("bqhd,bkhd->bhqk", grad, value) - along) * softmax_scale
    dv.copy_(torch.einsum("bhqk,bqhd->bkhd", weights, grad))
    dq.copy_(torch.einsum("bhqk,bkhd->bqhd", scores, k.float()))
    dk.copy_(torch.einsum("bhqk,bqhd->bkhd", scores, q.float()))


def install(patch):
    """Let `import flash_attn_interface` find it."""
    from importlib.machinery import ModuleSpec

    from train.model import flash3

    module = ModuleType("flash_attn_interface")
    module.__spec__ = ModuleSpec("flash_attn_interface", None)
    module._flash_attn_forward, module._flash_attn_backward = forward, backward
    patch.setitem(sys.modules, "flash_attn_interface", module)
    flash3.interface.cache_clear()
    return module
