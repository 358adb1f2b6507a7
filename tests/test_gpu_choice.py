"""What is chosen on a GPU, by a pretended one: format, kernels, time and peak. Nothing here has run on a real one."""

import pytest
import torch
from torch.nn.attention import SDPBackend

from families.units import BadInput
from scaling.machine import Measured, StepBackend, shape_key, step_flops
from train.backend import BackendRequest, available_dtypes, estimate, select_backend
from train.config import TrainConfig
from train.jobs.machine import PATIENCE, check_machine
from train.loop import start, train_step
from train.loss_scale import BACKOFF, INITIAL, INTERVAL, LossScale
from train.model import kernels
from train.settings import TextFacts, settings_of

from . import tiny
from .pretend import H200, P100, V100, pretend


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path))
    yield
    from train import speed

    speed._measured.cache_clear()
    speed.gpu_rates.cache_clear()


def asked(**keys):
    usual = {"family": "gpt2", "data": "x", "tokens": "2.5B", "batch_size": 480, "micro_batch": 48}
    config = TrainConfig.model_validate({**usual, **keys})
    return config, settings_of(config, TextFacts(vocab_size=50257), "cuda")


@pytest.mark.parametrize(("gpu", "dtype"), [(H200, "bf16"), (V100, "fp16"), (P100, "fp32")])
def test_a_gpu_trains_in_the_format_of_its_tensor_units(gpu, dtype, monkeypatch):
    pretend(monkeypatch, gpu)
    assert available_dtypes("cuda") == (dtype,)
    assert asked()[1].dtype == dtype


def test_bf16_is_never_emulated(monkeypatch):
    pretend(monkeypatch, V100)
    config, settings = asked(dtype="bf16")
    with pytest.raises(BadInput, match=r"bf16, which Tesla V100-SXM2-16GB only emulates .*: dtype=fp16"):
        select_backend(
            BackendRequest.of(config), settings, steps=10, expected=1e9, device="cuda", log=lambda line: None
        )


def test_a_run_of_about_an_hour_is_not_refused_as_one_of_a_day(monkeypatch):
    pretend(monkeypatch, H200)
    config, settings = asked()
    need = check_machine(settings, config.rung_tokens(), "cuda", yes=False, log=lambda line: None)
    assert 0.8 * 3600 < need.seconds < 1.6 * 3600 < PATIENCE
    assert "step model" in need.source


# Tokens a second on one H200 by the roofline of FACTS: bf16, compiled, cuDNN attention, 512 sequences a step.
@pytest.mark.parametrize(
    ("family", "rate"), [("gpt2", 510e3), ("gpt2-medium", 200e3), ("gpt2-large", 99e3), ("gpt2-xl", 52e3)]
)
def test_the_step_model_is_that_of_the_roofline(family, rate, monkeypatch):
    pretend(monkeypatch, H200)
    _, settings = asked(family=family, batch_size=512, micro_batch=64)
    found = estimate(settings, 100, "cuda")
    assert 100 * settings.batch_tokens / found.seconds == pytest.approx(rate, rel=0.12)


def measured(settings, engine, seconds):
    spec = settings.spec()
    return Measured(
        shape=shape_key(spec), device="cuda", micro_batch=settings.micro_batch, engine=engine, seconds=seconds,
        first_seconds=0.0, flops=step_flops(spec, settings.micro_batch),
    )  # fmt: skip


def test_a_candidate_that_fails_is_said_and_left_out(monkeypatch):
    pretend(monkeypatch, H200)
    config, settings = asked()
    lines = []

    def measure(settings, engine, device):
        if engine.compile or engine.attention == "flash":
            raise RuntimeError("No available kernel. Aborting execution.\n  more")
        return measured(settings, engine, 1.0)

    choice = {"steps": 1000, "expected": 1e9, "device": "cuda", "log": lines.append}
    found = select_backend(BackendRequest.of(config), settings, **choice, measure=measure)
    assert found == StepBackend(dtype="bf16", attention="cudnn")
    failures = [line for line in lines if "fails on this machine and is left out" in line]
    assert len(failures) == len(set(failures)) >= 2
    assert "bf16-plain-flash fails" in failures[0]
    assert "No available kernel" in failures[0]


def test_where_nothing_can_be_measured_the_run_starts_plainly(monkeypatch):
    pretend(monkeypatch, V100)
    config, settings = asked()
    lines = []

    def measure(settings, engine, device):
        raise RuntimeError("no kernel image is available for execution on the device")

    choice = {"steps": 1000, "expected": 1e9, "device": "cuda", "log": lines.append}
    found = select_backend(BackendRequest.of(config), settings, **choice, measure=measure)
    assert found == StepBackend(dtype="fp16")
    assert "no backend could be measured" in lines[-1]


def test_an_attention_kernel_that_cannot_gives_way_to_the_next(monkeypatch):
    asked_for = []
    honest = kernels.sdpa_kernel

    def spy(backends, *, set_priority=False):
        asked_for.append((list(backends), set_priority))
        return honest(backends, set_priority=set_priority)

    monkeypatch.setattr(kernels, "sdpa_kernel", spy)
    q, k, v = (torch.randn(1, 2, 4, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    for kind, first in (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)):
        found = kernels._fused(kind)(q, k, v, is_causal=True)  # a CPU has no cuDNN
        backends, by_priority = asked_for.pop()
        assert torch.allclose(found, expected, atol=1e-6)
        assert backends[0] == first
        assert backends[-1] == SDPBackend.MATH
        assert by_priority


# fp16


def fp16(**changes):
    facts = TextFacts(vocab_size=300, eos_token_id=299)
    return tiny.settings(facts=facts, n_layer=1, n_positions=16, dtype="fp16", **changes)


def test_the_loss_scale_is_that_of_torchs_grad_scaler():
    weight = torch.nn.Parameter(torch.ones(1))
    theirs = torch.amp.GradScaler("cpu")
    optimizer = torch.optim.SGD([weight], lr=0.0)
    ours = LossScale()
    grads = [1.0, float("inf"), float("nan"), *([1.0] * (INTERVAL + 1)), float("inf")]
    for grad in grads:
        theirs.scale((weight * 0).sum())
        weight.grad = torch.tensor([grad])
        theirs.unscale_(optimizer)
        theirs.step(optimizer)
        theirs.update()
        taken = ours.takes(torch.tensor(grad))
        assert taken == bool(torch.isfinite(torch.tensor(grad)))
        assert ours.value == theirs.get_scale()


def test_a_step_whose_gradient_overflows_is_not_taken_and_the_scale_is_halved(one_thread):
    from train.backend import random_examples

    settings = fp16()
    session = start(settings, "cpu")
    session.scale.value = 2.0**40  # beyond fp16's 65504
    before = [weight.clone() for weight in session.model.parameters()]
    _, norm = train_step(session, random_examples(settings, 4), 1e-2)
    assert not torch.isfinite(norm)
    assert session.scale.value == 2.0**40 * BACKOFF
    assert all(torch.equal(a, b) for a, b in zip(before, session.model.parameters(), strict=True))


def test_fp16_trains_like_fp32_and_resumes_with_its_scale(one_thread, tmp_path):
    from train.backend import random_examples
    from train.checkpoint import load, save, step_folder

    settings = fp16()
    examples = random_examples(settings, 4)
    sessions = {dtype: start(fp16().model_copy(update={"dtype": dtype}), "cpu") for dtype in ("fp16", "fp32")}
    losses = {
        name: [float(train_step(s, examples, 1e-2)[0]) for _ in range(4)] for name, s in sessions.items()
    }
    assert losses["fp16"] == pytest.approx(losses["fp32"], rel=1e-3)
    ours = sessions["fp16"]
    ours.scale.value, ours.scale.good = INITIAL / 4, 17
    (tmp_path / "tokenizer.json").write_bytes(tiny.text_in(tmp_path).tokenizer.read_bytes())
    save(ours, step_folder(tmp_path, 4), tmp_path / "tokenizer.json")
    again = load(settings, step_folder(tmp_path, 4), "cpu")
    assert again.scale == LossScale(INITIAL / 4, 17)
    assert torch.equal(*(train_step(session, examples, 1e-2)[0] for session in (ours, again)))


# Keys added later


def test_runs_of_before_keep_their_identity_and_the_new_keys_count_where_they_are_used():
    facts = TextFacts(vocab_size=300, eos_token_id=299)
    before = tiny.settings(facts=facts)
    # the digest at commit 8151268, which had neither residual= nor deterministic=
    assert before.identity() == "26087b0d5bc1a60ca1acec35ea2103075280c1d9454f10f7d28ca690801a1c1c"
    kept = [before.identity()]
    kept += [tiny.settings(facts=facts, deterministic=True).identity()]
    kept += [tiny.settings(facts=facts, dtype="bf16", residual=kind).identity() for kind in ("fp32", "bf16")]
    assert len(set(kept)) == len(kept)


def test_a_deterministic_run_uses_deterministic_kernels_alone(one_thread):
    facts = TextFacts(vocab_size=300, eos_token_id=299)
    start(tiny.settings(facts=facts, n_layer=1, n_positions=16, deterministic=True), "cpu")
    assert torch.are_deterministic_algorithms_enabled()
    start(tiny.settings(facts=facts, n_layer=1, n_positions=16), "cpu")
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("by_block", [False, True])
@pytest.mark.parametrize("mode", ["default", "max-autotune-no-cudagraphs"])
def test_the_compilers_search_is_handed_to_it_and_leaves_the_identity_of_a_run(
    mode, by_block, monkeypatch, one_thread
):
    modes = []
    monkeypatch.setattr(torch, "compile", lambda function, **given: modes.append(given["mode"]) or function)
    facts = TextFacts(vocab_size=300, eos_token_id=299)
    settings = tiny.settings(facts=facts, n_layer=2, n_positions=16, compile=True, compile_mode=mode)
    start(settings, "cpu", by_block=by_block)
    assert modes == [mode] * (3 if by_block else 1)  # two blocks and the head, or all at once
    assert (
        settings.identity() == tiny.settings(facts=facts, n_layer=2, n_positions=16, compile=True).identity()
    )
    torch.use_deterministic_algorithms(False)
