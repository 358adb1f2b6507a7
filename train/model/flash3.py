"""FlashAttention-3, where it is installed, and its packed form: one buffer for the gradients of query, key and value.

The kernels are those of `flash_attn_interface` (its authors' package), else of the hub's `kernels-community/flash-attn3`
through the `kernels` package. A kernel is a binary, so nothing is downloaded here: `kernels` finds what is already on this
machine (`kernels download`).

torch's own attention allocates three gradients itself, and a layer whose query, key and value come from one product (GPT-2's
c_attn) must then join them, which moves 12 bytes per element of the width and token. These kernels write into memory that the
caller gives: the three are views of one buffer, which the products of c_attn's backward pass read as it is.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from types import MethodType, ModuleType
from typing import Any

import torch

REPOSITORY, VERSION = "kernels-community/flash-attn3", 1

HOPPER = 9  # compute capability; the kernels are written for its tensor units (Shah et al. 2024)

FORMATS = ("bf16", "fp16")


@cache
def interface() -> ModuleType | str:
    """Return the module that holds `_flash_attn_forward` and `_flash_attn_backward`, or why there is none."""
    found: ModuleType | None = None
    if find_spec("flash_attn_interface") is not None:
        found = importlib.import_module("flash_attn_interface")
    elif find_spec("kernels") is not None:
        try:
            with _offline():
                package = importlib.import_module("kernels").get_kernel(REPOSITORY, version=VERSION)
        except Exception as error:  # whatever a missing file, a wrong build or the hub's client raises
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            return f"kernels has no {REPOSITORY} on this machine ({reason})"
        found = getattr(package, "flash_attn_interface", package)
    if found is None:
        return "neither flash_attn_interface nor kernels is installed"
    missing = [name for name in ("_flash_attn_forward", "_flash_attn_backward") if not hasattr(found, name)]
    return f"{found.__name__} has no {missing[0]}" if missing else found


@contextmanager
def _offline() -> Iterator[None]:
    """Let the hub's client use what is on this machine alone."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def no_flash3(device: str, dtype: str) -> str:
    """Return why FlashAttention-3 cannot be used, "" where it can.

    Args:
        device: "cpu" or "cuda".
        dtype: number format of the products.
    """
    if device != "cuda":
        return f"device is {device}"
    if dtype not in FORMATS:
        return f"dtype is {dtype}; it takes {' and '.join(FORMATS)}"
    if torch.version.hip is not None or torch.cuda.get_device_capability()[0] != HOPPER:
        return f"{torch.cuda.get_device_name()} is no Hopper GPU (compute capability 9.x)"
    found = interface()
    return found if isinstance(found, str) else ""


def _kernels() -> Any:
    found = interface()
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


def _forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    out, sums, *_ = _kernels()._flash_attn_forward(query, key, value, softmax_scale=scale, causal=causal)
    return out, sums


def _backward(
    grad: torch.Tensor, kept: tuple[torch.Tensor, ...], into: Any, scale: float, causal: bool
) -> None:
    """Write the gradients into three tensors of any strides but the last, which is 1."""
    nothing = (None,) * 6  # sequences of unequal length
    # By position: the packages differ in the name of the last one.
    _kernels()._flash_attn_backward(
        grad,
        *kept,
        *nothing,
        *into,
        scale,
        causal,
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


@torch.library.custom_op("scaling::flash3", mutates_args=())
def flash3(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return attention (batch, time, heads, head size) and the logarithm of each row's sum (batch, heads, time).

    Args:
        query: queries, shape (batch, time, heads, head size).
        key: keys, the same shape.
        value: values, as the keys.
        scale: factor of the scores.
        causal: True to exclude the keys after each query.
    """
    return _forward(query, key, value, scale, causal)


@flash3.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, causal: bool) -> Any:
    batch, time, heads, _size = query.shape
    return query.new_empty(query.shape), query.new_empty((batch, heads, time), dtype=torch.float32)


@torch.library.custom_op("scaling::flash3_backward", mutates_args=())
def flash3_backward(
    grad: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, out: torch.Tensor, sums: torch.Tensor,
    scale: float, causal: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return the gradients of query, key and value.

    Args:
        grad: gradient of the output.
        query: queries, as in the forward pass.
        key: keys, likewise.
        value: values, likewise.
        out: the forward pass's output.
        sums: its logarithms of sums.
        scale: factor of the scores.
        causal: True to exclude the keys after each query.
    """
    into = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    _backward(grad, (query, key, value, out, sums), into, scale, causal)
    return into


@flash3_backward.register_fake
def _(grad: Any, query: Any, key: Any, value: Any, out: Any, sums: Any, scale: float, causal: bool) -> Any:
    return tuple(torch.empty_like(part) for part in (query, key, value))


@torch.library.custom_op("scaling::flash3_packed", mutates_args=())
def flash3_packed(packed: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return causal attention of query, key and value in one tensor, shape (batch, time, 3, heads, head size)."""
    query, key, value = packed.unbind(2)
    return _forward(query, key, value, scale, True)


@flash3_packed.register_fake
def _(packed: torch.Tensor, scale: float) -> Any:
    batch, time, _three, heads, size = packed.shape
    sums = packed.new_empty((batch, heads, time), dtype=torch.float32)
    return packed.new_empty((batch, time, heads, size)), sums


@torch.library.custom_op("scaling::flash3_packed_backward", mutates_args=())
def flash3_packed_backward(
    grad: torch.Tensor, packed: torch.Tensor, out: torch.Tensor, sums: torch.Tensor, scale: float
) -> torch.Tensor:
    """Return the gradient of the packed tensor, which the kernel writes as a whole; its shape is that of `packed`.

    Args:
        grad: gradient of the output.
        packed: query, key and value.
        out: the forward pass's output.
        sums: its logarithms of sums.
        scale: factor of the scores.
    """
    whole = torch.empty(packed.shape, dtype=packed.dtype, device=packed.device)
    _backward(grad, (*packed.unbind(2), out, sums), whole.unbind(2), scale, True)
    return whole


@flash3_packed_backward.register_fake
def _(grad: Any, packed: torch.Tensor, out: Any, sums: Any, scale: float) -> Any:
    return packed.new_empty(packed.shape)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    query, key, value, ctx.scale, ctx.causal = inputs
    ctx.save_for_backward(query, key, value, *output)


def _gradients(ctx: Any, grad: torch.Tensor, _sums: Any) -> Any:
    found = flash3_backward(grad.contiguous(), *ctx.saved_tensors, ctx.scale, ctx.causal)
    return *found, None, None


def _keep_packed(ctx: Any, inputs: Any, output: Any) -> None:
    packed, ctx.scale = inputs
    ctx.save_for_backward(packed, *output)


def _gradient_of_packed(ctx: Any, grad: torch.Tensor, _sums: Any) -> Any:
    return flash3_packed_backward(grad.contiguous(), *ctx.saved_tensors, ctx.scale), None


flash3.register_autograd(_gradients, setup_context=_keep)
flash3_packed.register_autograd(_gradient_of_packed, setup_context=_keep_packed)


def attend(otherwise: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return attention with the signature of torch's fused function; `otherwise` takes masks and dropout."""

    def found(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, attn_mask: torch.Tensor | None, dropout_p: float,
        is_causal: bool, scale: float,
    ) -> torch.Tensor:  # fmt: skip
        if attn_mask is not None or dropout_p or query.shape[2] != key.shape[2]:
            return otherwise(
                query, key, value, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale
            )
        # Rotated queries and keys are in fp32, whatever the autocast format.
        parts = (part.to(value.dtype).transpose(1, 2) for part in (query, key, value))
        attended: torch.Tensor = flash3(*parts, scale, is_causal)[0]
        return attended.transpose(1, 2)

    return found


def pack(model: Any, packed: bool) -> None:
    """Let a GPT-2's attention read query, key and value from c_attn's product as it is, and return their gradient as one.

    With `packed` False it is as transformers wrote it.
    """
    from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

    for part in model.modules():
        if isinstance(part, GPT2Attention) and not part.is_cross_attention:
            vars(part).pop("forward", None)
            if packed:
                part.forward = MethodType(_packed, part)


def _packed(
    self: Any, hidden_states: torch.Tensor, cache: Any = None, attention_mask: Any = None, **rest: Any
) -> Any:
    """GPT2Attention's forward pass in training; whatever else it does is left to it."""
    dropped = self.attn_dropout.p if self.training else 0.0
    if cache is not None or attention_mask is not None or dropped or hidden_states.shape[1] == 1:
        return type(self).forward(self, hidden_states, cache, attention_mask, **rest)
    batch, time, width = hidden_states.shape
    packed = self.c_attn(hidden_states).view(batch, time, 3, self.num_heads, self.head_dim)
    found = flash3_packed(packed, self.scaling)[0].reshape(batch, time, width)
    return self.resid_dropout(self.c_proj(found)), None
