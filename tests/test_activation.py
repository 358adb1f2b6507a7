"""The activation that a compiled step takes is the one that transformers takes."""

import pytest
import torch
from transformers.activations import NewGELUActivation

from families import ModelSpec
from train.model.config import build
from train.model.kernels import LogisticGelu, use_logistic_gelu


def test_it_is_transformers_gelu_new_and_so_is_its_slope():
    x = torch.linspace(-12, 12, 4001, dtype=torch.float32).requires_grad_()
    slopes, values = [], []
    for activation in (NewGELUActivation(), LogisticGelu()):
        y = activation(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
        slopes.append(slope)
        values.append(y.detach())
    assert torch.allclose(values[0], values[1], atol=2e-6)
    assert torch.allclose(slopes[0], slopes[1], atol=2e-6)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_model_keeps_its_weights_and_its_outputs(architecture):
    model = build(
        ModelSpec(architecture=architecture, n_layer=1, n_head=2, n_embd=32, n_positions=16, vocab_size=300),
        seed=0,
    )
    ids = torch.arange(16)[None]
    before, names = model(ids).logits, list(model.state_dict())
    use_logistic_gelu(model)
    assert list(model.state_dict()) == names
    assert torch.allclose(model(ids).logits, before, atol=1e-5)
    replaced = sum(isinstance(module, LogisticGelu) for module in model.modules())
    assert replaced == (1 if architecture == "gpt2" else 0)
