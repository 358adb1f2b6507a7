"""Real Hugging Face models, and the step that trains them: gradients of pieces add up, the loss is transformers' own."""

import math

import numpy as np
import pytest
import torch

from families import ModelSpec, member, params
from train.loop import gradients, start, train_step
from train.model.config import build, hugging_face_config
from train.model.objective import Causal

from .tiny import SHAPE, settings

pytestmark = pytest.mark.usefixtures("one_thread")


def test_residual_projections_start_narrower_by_the_root_of_twice_the_depth():
    model = build(ModelSpec(n_layer=8, n_head=4, n_embd=128, vocab_size=500, n_positions=64), seed=0)
    for name, weight in model.named_parameters():
        if name.endswith("c_proj.weight"):
            assert weight.std().item() == pytest.approx(0.02 / math.sqrt(2 * 8), rel=0.05), name
        elif name.endswith(("c_attn.weight", "c_fc.weight", "wte.weight")):
            assert weight.std().item() == pytest.approx(0.02, rel=0.05), name


@pytest.mark.parametrize("std", [0.02, 0.08])
def test_a_run_starts_with_the_weights_and_the_dropout_that_its_settings_say(std, text):
    model = start(settings(text, init_std=std, dropout=0.25), "cpu").model
    assert model.transformer.wte.weight.std().item() == pytest.approx(std, rel=0.05)
    assert model.transformer.h[0].mlp.c_proj.weight.std().item() == pytest.approx(std / 2, rel=0.05)
    assert {part.p for part in model.modules() if isinstance(part, torch.nn.Dropout)} == {0.25}
    assert model.config.initializer_range == std


def test_the_same_seed_draws_the_same_weights():
    spec = ModelSpec(**SHAPE)
    first, again, other = build(spec, seed=1), build(spec, seed=1), build(spec, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_every_preset_has_the_config_that_transformers_counts_alike():
    from transformers import AutoModelForCausalLM

    for name in ("gpt2-52m", "gpt2-83m", "gpt2-125m"):
        spec = member(name).spec
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(hugging_face_config(spec))
        assert sum(weight.numel() for weight in model.parameters()) == params(spec)


def test_micro_batches_add_up_to_the_batch(text):
    whole, pieces = settings(text, batch_size=8), settings(text, batch_size=8, micro_batch=2)
    windows = torch.from_numpy(text.train.windows(np.arange(8)))
    results = []
    for chosen in (whole, pieces):
        session = start(chosen, "cpu")
        loss, norm = train_step(session, windows, 1e-3)
        results.append((loss.item(), norm.item(), next(session.model.parameters()).detach().clone()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4)
    assert torch.allclose(results[0][2], results[1][2], atol=1e-5)


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 5])
def test_a_share_that_the_micro_batch_does_not_divide_has_the_same_gradient(micro_batch, text):
    windows = torch.from_numpy(text.train.windows(np.arange(6)))
    session = start(settings(text), "cpu")
    found = []
    for size in (6, micro_batch):
        loss = gradients(session, windows, size)
        found.append((loss, [weight.grad.clone() for weight in session.model.parameters()]))
    (loss, ours), (other, theirs) = found
    assert torch.isclose(loss, other, rtol=1e-6)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(ours, theirs, strict=True))


def test_the_loss_is_transformers_own(text):
    session = start(settings(text), "cpu")
    windows = torch.from_numpy(text.train.windows(np.arange(4)))[:, :-1]
    with torch.no_grad():
        theirs = session.model(windows, labels=windows).loss.item()
        assert Causal().losses(session.model, windows).mean().item() == pytest.approx(theirs, rel=1e-6)
