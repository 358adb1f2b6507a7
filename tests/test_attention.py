"""The attention that a compiled step takes on a CPU is softmax attention, forward and back."""

from functools import partial

import pytest
import torch
from torch.nn import functional

from families import ModelSpec
from train.model.config import build
from train.model.kernels import OneExponential, use_attention
from train.runtime import compiled

from .test_engine import SPEC


def tensors(queries, keys, seed=0):
    """Query, key, value and the gradient of the result; (batch, heads, time, head size)."""
    torch.manual_seed(seed)
    lengths = (queries, keys, keys, queries)
    return [torch.randn(2, 3, length, 8).requires_grad_(number < 3) for number, length in enumerate(lengths)]


@pytest.mark.parametrize(("queries", "keys", "is_causal"), [(17, 17, True), (17, 17, False), (5, 9, False)])
def test_it_is_torchs_attention_and_so_are_its_gradients(queries, keys, is_causal):
    *inputs, grad = tensors(queries, keys)
    found = []
    for attend in (
        lambda q, k, v: OneExponential.apply(q * 8**-0.5, k, v, is_causal),
        lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=is_causal),
    ):
        out = attend(*inputs)
        found.append([out.detach(), *torch.autograd.grad(out, inputs, grad)])
    for ours, torchs in zip(*found, strict=True):
        torch.testing.assert_close(ours, torchs, atol=2e-6, rtol=2e-6)


def test_large_scores_do_not_overflow():
    query, key, value, grad = tensors(6, 6)
    out = OneExponential.apply(query * 1e4, key, value, True)
    slopes = torch.autograd.grad(out, (query, key, value), grad)
    assert all(torch.isfinite(one).all() for one in (out, *slopes))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_with_it_a_model_has_the_loss_and_the_gradients_of_the_plain_one(checkpointing):
    ids = torch.arange(32).reshape(2, 16) % 300

    def gradients(attention, wrap):
        model = build(SPEC, seed=0)
        if attention:
            use_attention(model, attention)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        loss = wrap(lambda x: model(x, labels=x, use_cache=False).loss)(ids)
        loss.backward()
        return loss.detach(), [weight.grad for weight in model.parameters()]

    theirs, ours = gradients(None, lambda losses: losses), gradients("eager", compiled)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_compiled_in_bf16_a_model_that_rotates_queries_and_keys_in_32_bits_has_the_gradients_of_the_plain_one():
    spec = ModelSpec(
        architecture="llama", n_layer=1, n_head=4, n_kv_head=2, n_embd=32, n_positions=16, vocab_size=300
    )
    ids = torch.arange(32).reshape(2, 16)

    def gradients(attention, wrap):
        model = build(spec, seed=0)
        use_attention(model, attention)

        def losses(x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return model(x, labels=x, use_cache=False).loss

        wrap(losses)(ids).backward()
        return torch.cat([weight.grad.flatten() for weight in model.parameters()])

    theirs = gradients("sdpa", lambda losses: losses)
    ours = gradients("eager", partial(torch.compile, backend="aot_eager", dynamic=False))
    assert (ours - theirs).norm() < 0.02 * theirs.norm()
