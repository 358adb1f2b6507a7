"""The loss in one pass over the logits: torch's own, and its gradients, at any vocabulary and logits far from 0."""

import pytest
import torch
from torch.nn import functional

from families import ModelSpec
from train.model.config import build
from train.model.kernels import STEP, linear_cross_entropy, next_token_losses, padding
from train.runtime import compiled


def case(vocabulary, scale=1.0, shift=0.0, rows=24, width=16):
    rng = torch.Generator().manual_seed(vocabulary)
    hidden = torch.randn(rows, width, generator=rng, dtype=torch.float64)
    hidden[:, 0] = 1.0
    weight = scale * torch.randn(vocabulary, width, generator=rng, dtype=torch.float64)
    weight[:, 0] += shift
    targets = torch.randint(vocabulary, (rows,), generator=rng)
    return hidden, weight, targets


def losses_and_gradients(losses, hidden, weight, targets):
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    found = losses(hidden, weight, targets)
    (found * torch.linspace(0.5, 2.0, len(found))).sum().backward()
    return found.detach(), hidden.grad, weight.grad


def torchs(hidden, weight, targets):
    return functional.cross_entropy(hidden @ weight.t(), targets, reduction="none")


@pytest.mark.parametrize("vocabulary", [2, 31, 32, 33, 64, 300])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (20.0, 0.0), (1.0, -500.0), (1.0, 500.0)])
def test_loss_and_gradients_are_torchs_wherever_the_logits_lie(vocabulary, scale, shift):
    hidden, weight, targets = (
        one.float() if one.is_floating_point() else one for one in case(vocabulary, scale, shift)
    )
    exact = losses_and_gradients(torchs, hidden.double(), weight.double(), targets)
    for ours, true in zip(
        losses_and_gradients(linear_cross_entropy, hidden, weight, targets), exact, strict=True
    ):
        assert (ours.double() - true).norm() <= (1e-4 if shift else 2e-6) * (1e-3 + true.norm())


def test_in_sixteen_bits_it_errs_no_more_than_torch_does():
    hidden, weight, targets = case(500, rows=200)
    exact = losses_and_gradients(torchs, hidden, weight, targets)
    errors = {}
    for name, losses in (("ours", linear_cross_entropy), ("torch", torchs)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = losses_and_gradients(losses, hidden.float(), weight.float(), targets)
        errors[name] = [
            ((one.double() - true).norm() / true.norm()).item()
            for one, true in zip(found, exact, strict=True)
        ]
    assert all(ours < 1.3 * theirs for ours, theirs in zip(errors["ours"], errors["torch"], strict=True)), (
        errors
    )


@pytest.mark.parametrize("vocabulary", [1, 31, 32, 300, 8192, 50257, 50304])
def test_rows_are_padded_to_an_odd_number_of_cache_lines_or_not_at_all(vocabulary):
    wide = vocabulary + padding(vocabulary)
    assert wide == vocabulary if vocabulary % STEP == 0 else (wide // STEP) % 2 == 1
    assert 0 <= padding(vocabulary) < 2 * STEP
    assert wide % STEP == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_the_losses_of_a_decoder_are_those_of_the_plain_step(dtype):
    spec = ModelSpec(n_layer=1, n_head=2, n_embd=32, n_positions=16, vocab_size=301)
    model = build(spec, seed=0)
    windows = torch.randint(301, (3, 17), generator=torch.Generator().manual_seed(0))

    def losses(windows):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            return next_token_losses(model, windows[:, :-1], windows[:, 1:])

    results = []
    for way in (losses, compiled(losses)):
        model.zero_grad()
        found = way(windows)
        assert found.shape == (3, 16)
        found.mean().backward()
        results.append((found.detach(), model.lm_head.weight.grad.clone()))
    exact = dtype == torch.float32
    (plain, gradient), (ours, own) = results
    assert torch.allclose(ours, plain, atol=1e-5 if exact else 0.03)
    assert (own - gradient).norm() <= (1e-5 if exact else 0.02) * gradient.norm()
