"""Switches of speed: weights cast once, compiled evaluations, CUDA graphs, FlashAttention-3; nothing here ran on a GPU."""

import re
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from families import ModelSpec
from families.units import BadInput
from train.backend import BackendRequest, available_attention, free_memory, random_examples
from train.config import TrainConfig
from train.evaluate import EvalSet, score
from train.graphs import MOST_PARAMS, no_graphs
from train.jobs.machine import check_shared, with_kernels
from train.keys import GPU_SHARE
from train.loop import gradients, start, train_step
from train.model import flash3
from train.model.config import build
from train.model.kernels import next_token_losses, use_attention
from train.runtime import limit_gpu_memory
from train.settings import TextFacts
from train.tune.tuner import attention_rivals

from . import flash3_stand_in, tiny
from .pretend import H200, V100, pretend

pytestmark = pytest.mark.usefixtures("one_thread")

FACTS = TextFacts(vocab_size=300, eos_token_id=299)


@pytest.fixture(autouse=True)
def process_as_it_was():
    yield
    torch.use_deterministic_algorithms(False)
    torch._dynamo.reset()


def settings(**changes):
    return tiny.settings(facts=FACTS, **{"n_layer": 2, "n_positions": 16, "batch_size": 8, **changes})


def gradients_of(session, micro_batch):
    loss = gradients(session, random_examples(session.settings, 8), micro_batch)
    return loss, [weight.grad.clone() for weight in session.model.parameters()]


# Weights cast once per step


@pytest.mark.parametrize("checkpointing", [False, True])
def test_weights_cast_once_a_step_give_the_gradients_of_weights_cast_for_each_micro_batch(checkpointing):
    asked = settings(dtype="bf16", residual="bf16", checkpointing=checkpointing)
    once, often = start(asked, "cpu"), start(asked, "cpu")
    assert once.half is not None
    often.half = None
    loss, found = gradients_of(once, 2)
    other, expected = gradients_of(often, 2)
    assert loss == other
    assert all(weight.dtype == torch.float32 for weight in found)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_copies_are_of_the_weights_of_their_own_step_and_evaluations_of_theirs():
    asked = settings(dtype="bf16", residual="bf16", micro_batch=2)
    once, often = start(asked, "cpu"), start(asked, "cpu")
    often.half = None
    examples = random_examples(asked, 8)
    for session in (once, often):
        for _ in range(3):
            train_step(session, examples, 1e-2)
    assert torch.equal(once.each(examples), often.each(examples))
    assert all(
        torch.equal(a, b) for a, b in zip(once.model.parameters(), often.model.parameters(), strict=True)
    )


# Compiled evaluations


def heldout(windows):
    examples = np.random.default_rng(1).integers(0, 300, (windows, 17))
    return EvalSet(examples, "heldout", 1.0, 1.0)


@pytest.mark.parametrize("by_block", [pytest.param(False, marks=pytest.mark.slow), True])
def test_compiled_evaluations_of_any_number_of_windows_are_one_graph_and_score_as_plain_ones(
    by_block, monkeypatch
):
    from torch._dynamo.utils import counters

    honest = torch.compile  # the compiler's last stage is not what is counted
    monkeypatch.setattr(
        "train.runtime.torch.compile",
        lambda step, mode, **how: honest(step, backend="aot_eager", **how),
    )
    torch._dynamo.reset()
    ours = start(settings(n_layer=1, compile="all"), "cpu", by_block=by_block)
    plain = start(settings(n_layer=1), "cpu")
    assert (ours.settings.compile_eval, plain.settings.compile_eval) == (True, False)
    graphs = {}
    for windows in (16, 40, 3):
        before = counters["stats"]["unique_graphs"]
        found, expected = (score(session, heldout(windows)) for session in (ours, plain))
        graphs[windows] = counters["stats"]["unique_graphs"] - before
        assert found.loss == pytest.approx(expected.loss, rel=1e-6)
        assert (found.tokens, found.se) == (expected.tokens, pytest.approx(expected.se, rel=1e-5))
    assert graphs == {16: 2 if by_block else 1, 40: 0, 3: 0}  # a block and the head, or all at once


def test_compile_all_is_compile_true_and_leaves_the_identity_of_a_run():
    assert settings(compile="all").identity() == settings(compile=True).identity()
    config = TrainConfig.model_validate(
        {"family": "tiny", "data": "x", "tokens": 4096, "compile": "all", **tiny.SHAPE}
    )
    assert BackendRequest.of(config).compile is True


# CUDA graphs


def memory_of_a_graph(function, mode, **how):
    """A compiled function whose results lie, like those of a captured graph, where its next call puts its own."""
    from torch._dynamo.backends.common import aot_autograd

    def capture(graph, _inputs):
        places = {}

        def replay(*args):
            found = graph(*args)
            for number, value in enumerate(found):
                if isinstance(value, torch.Tensor):
                    places.setdefault(number, torch.empty_like(value)).copy_(value)
            # Tensors of its own each time, in the same memory: autograd may keep them as gradients.
            return tuple(
                places[number].detach() if number in places else value for number, value in enumerate(found)
            )

        return replay

    from functorch.compile import make_boxed_func

    compiler = lambda graph, inputs: make_boxed_func(capture(graph, inputs))  # noqa: E731 - a pair of them
    assert mode == "reduce-overhead"
    return torch._dynamo.optimize(aot_autograd(fw_compiler=compiler, bw_compiler=compiler), dynamic=False)(
        function
    )


@pytest.mark.parametrize("residual", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_gradients_of_micro_batches_survive_the_memory_of_a_graph(residual, monkeypatch):
    monkeypatch.setattr("train.loop.no_graphs", lambda *_, **__: "")
    monkeypatch.setattr("train.runtime.torch.compile", memory_of_a_graph)
    kept = {"n_layer": 1, "dtype": "bf16", "residual": residual, "micro_batch": 2}
    graphed, plain = (
        start(settings(compile=True, compile_mode="reduce-overhead", **kept), "cpu"),
        start(settings(**kept), "cpu"),
    )
    assert (graphed.graphs, plain.graphs) == (True, False)
    examples = random_examples(plain.settings, 8)
    for _ in range(3):
        ours, theirs = (train_step(session, examples, 1e-2) for session in (graphed, plain))
        assert ours[0].item() == pytest.approx(theirs[0].item(), rel=1e-3)
        assert ours[1].item() == pytest.approx(theirs[1].item(), rel=2e-2)


def test_graphs_are_left_out_with_a_reason(monkeypatch):
    asked = partial(settings, compile=True, compile_mode="reduce-overhead")
    assert no_graphs(asked(), "cuda") == ""
    reasons = [
        no_graphs(asked(), "cpu"),
        no_graphs(asked(), "cuda", 2),
        no_graphs(asked(dropout=0.1), "cuda"),
        no_graphs(asked(checkpointing=True, dtype="bf16", residual="bf16"), "cuda"),
        no_graphs(asked(n_embd=512, n_head=8, n_layer=4), "cuda"),
    ]
    for reason, word in zip(
        reasons, ("cpu", "2 processes", "dropout", "one by one", f"{MOST_PARAMS:,}"), strict=True
    ):
        assert word in reason
    said = []
    assert with_kernels(asked(), "cpu", 1, said.append).compile_mode == "default"
    assert "without CUDA graphs: device is cpu" in said[0]
    assert with_kernels(asked(), "cuda", 1, said.append).compile_mode == "reduce-overhead"


# FlashAttention-3 and the packed gradient


@pytest.fixture
def third(monkeypatch):
    module = flash3_stand_in.install(monkeypatch)
    yield module
    flash3.interface.cache_clear()


SPECS = {
    "gpt2": ModelSpec(n_layer=1, n_head=2, n_embd=32, n_positions=16, vocab_size=300),
    "llama": ModelSpec(
        architecture="llama", n_layer=1, n_head=4, n_kv_head=2, n_embd=32, n_positions=16, vocab_size=300
    ),
}


def loss_and_gradients(spec, attention, step=lambda function: function):
    torch.manual_seed(0)
    model = build(spec, seed=0)
    use_attention(model, attention)
    windows = torch.randint(300, (3, 17), generator=torch.Generator().manual_seed(0))
    loss = step(lambda: next_token_losses(model, windows[:, :-1], windows[:, 1:]).mean())()
    loss.backward()
    return loss.item(), [weight.grad for weight in model.parameters()]


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_flash3_computes_the_loss_and_the_gradients_of_torchs_attention(name, compiled, third):
    fast = partial(torch.compile, backend="aot_eager") if compiled else lambda function: function
    loss, found = loss_and_gradients(SPECS[name], "flash3", fast)
    expected, theirs = loss_and_gradients(SPECS[name], "sdpa")
    assert loss == pytest.approx(expected, rel=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, theirs, strict=True))


def test_the_gradients_of_query_key_and_value_are_views_of_one_buffer(third, monkeypatch):
    places = []

    def seen(*args, **rest):
        places.extend(args[12:15])
        return flash3_stand_in.backward(*args, **rest)

    monkeypatch.setattr(third, "_flash_attn_backward", seen)
    loss_and_gradients(SPECS["gpt2"], "flash3")
    dq, dk, dv = places
    assert dq.untyped_storage().data_ptr() == dk.untyped_storage().data_ptr()
    assert [part.storage_offset() for part in (dq, dk, dv)] == [0, 32, 64]
    assert dq.untyped_storage().nbytes() == 3 * dq.numel() * 4


def test_without_the_package_flash3_is_flash_and_says_why(monkeypatch):
    flash3.interface.cache_clear()
    loss, _ = loss_and_gradients(SPECS["gpt2"], "flash3")
    assert loss == loss_and_gradients(SPECS["gpt2"], "flash")[0]
    pretend(monkeypatch, H200)
    said = []
    asked = settings(attention="flash3", dtype="bf16")
    assert with_kernels(asked, "cuda", 1, said.append).attention == "flash"
    assert "neither flash_attn_interface nor kernels is installed" in said[0]
    assert "flash3" not in available_attention("cuda", "bf16")
    flash3.interface.cache_clear()


def test_flash3_is_offered_on_hopper_in_16_bits(third, monkeypatch):
    pretend(monkeypatch, H200)
    assert available_attention("cuda", "bf16")[-1] == "flash3"
    assert attention_rivals("auto", "cuda", "bf16") == ("flash", "cudnn", "flash3")
    assert attention_rivals("auto", "cuda", "fp32") == ("flash", "cudnn")
    assert attention_rivals("cudnn", "cuda", "bf16") == ("cudnn",)
    assert "fp32" in flash3.no_flash3("cuda", "fp32")
    assert "device is cpu" in flash3.no_flash3("cpu", "bf16")
    pretend(monkeypatch, V100)
    assert "V100" in flash3.no_flash3("cuda", "fp16")


def test_kernels_are_asked_for_what_is_on_this_machine_and_nothing_is_downloaded(monkeypatch):
    from huggingface_hub import constants

    asked = []

    def get_kernel(repository, *, version):
        asked.append((repository, version, constants.HF_HUB_OFFLINE))
        if len(asked) > 1:
            raise FileNotFoundError("not in the cache")
        return SimpleNamespace(flash_attn_interface=third_module)

    third_module = ModuleType("third")
    third_module._flash_attn_forward = flash3_stand_in.forward
    third_module._flash_attn_backward = flash3_stand_in.backward
    package = ModuleType("kernels")
    package.get_kernel = get_kernel
    package.__spec__ = SimpleNamespace(name="kernels")
    monkeypatch.setitem(sys.modules, "kernels", package)
    before = constants.HF_HUB_OFFLINE
    flash3.interface.cache_clear()
    assert flash3.interface() is third_module
    flash3.interface.cache_clear()
    assert "not in the cache" in flash3.interface()
    assert asked == [(flash3.REPOSITORY, 1, True)] * 2
    assert before == constants.HF_HUB_OFFLINE
    flash3.interface.cache_clear()


# Bias gradients


def test_torch_has_no_product_on_a_gpu_that_returns_the_sum_over_its_rows():
    """What keeps bias gradients in kernels of their own (docs/log.md#e271); a later torch that has one fails here."""
    header = Path(torch.__file__).parent / "include/ATen/cuda/CUDABlas.h"
    names = re.search(r"enum GEMMAndBiasActivationEpilogue \{([^}]*)\}", header.read_text())[1]
    assert re.findall(r"\w+", names) == ["None", "RELU", "GELU"]
    kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    assert not any(kernel("aten::linear_backward", key) for key in ("CPU", "CUDA"))


# Runs that share a GPU


def test_runs_share_a_gpu_as_far_as_its_memory_goes_each_held_to_its_part(monkeypatch):
    pretend(monkeypatch, V100)
    said, held = [], []
    asked = settings(n_embd=512, n_head=8, n_positions=512, n_layer=8, batch_size=32, micro_batch=16)
    check_shared([settings(), settings()], 2, said.append)
    assert "2 runs share a GPU, each with 6.4" in said[0]
    with pytest.raises(BadInput, match=r"3 runs to a GPU; .* needs 5\.30 GB and a part is 4\.29 GB: jobs=2"):
        check_shared([settings(), asked], 3, said.append)
    check_shared([asked, asked], 2, said.append)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", held.append)
    whole = free_memory("cuda")
    monkeypatch.setenv(GPU_SHARE, "0.25")
    limit_gpu_memory()
    assert held == [0.25]
    assert free_memory("cuda") == whole / 4
    monkeypatch.setenv(GPU_SHARE, "1")
    limit_gpu_memory()
    assert held == [0.25]
