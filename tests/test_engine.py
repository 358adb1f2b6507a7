"""The step: compiled, padded and of any attention it computes the same loss; what auto means is probed and remembered."""

import json

import numpy as np
import pytest
import torch

from families import ModelSpec
from families.units import BadInput
from scaling.machine import (
    PLAIN_BACKEND,
    MachineFile,
    Measured,
    StepBackend,
    fastest_backend,
    remember,
    shape_key,
    step_flops,
)
from train.backend import BackendRequest, random_examples, select_backend, time_step
from train.config import Settings, TrainConfig
from train.loop import start, train_step
from train.model.config import build
from train.model.kernels import use_attention
from train.runtime import logits_of, machine_id, padded_logits
from train.settings import TextFacts, with_recorded_settings

from . import tiny

SPEC = ModelSpec(n_layer=1, n_head=2, n_embd=32, n_positions=16, vocab_size=300)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path_factory):
    """A cache of the test's own, and the process as it was afterwards."""
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr("train.backend.cpu_share", lambda workers, seconds: 1.0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def settings(**changes):
    facts = TextFacts(vocab_size=300, eos_token_id=299)
    return tiny.settings(facts=facts, **{"n_layer": 1, "n_positions": 16, **changes})


def measured(engine, seconds, first=0.0):
    return Measured(
        shape=shape_key(SPEC), device="cpu", micro_batch=4, engine=engine, seconds=seconds,
        first_seconds=first, flops=step_flops(SPEC, 4),
    )  # fmt: skip


# The step


def steps_of(chosen, count=3):
    session = start(chosen, "cpu")
    examples = random_examples(chosen, chosen.batch_size)
    losses = [train_step(session, examples, 1e-3)[0].item() for _ in range(count)]
    return losses, session


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_attention_computes_the_loss_that_transformers_computes(attention):
    model = build(SPEC, seed=0)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 300, (3, 16)))
    theirs = model(ids, labels=ids).loss
    use_attention(model, attention)
    assert model(ids, labels=ids).loss.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_attention_by_our_names_still_generates_as_transformers_does():
    model = build(SPEC, seed=0).eval()
    ids = torch.arange(5)[None]
    theirs = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
    for attention in ("eager", "sdpa"):
        use_attention(model, attention)
        ours = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
        assert torch.equal(ours, theirs)


def test_attention_shares_keys_among_query_heads():
    spec = ModelSpec(
        architecture="llama", n_layer=1, n_head=4, n_kv_head=2, n_embd=32, n_positions=16, vocab_size=300
    )
    model = build(spec, seed=0)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 300, (2, 16)))
    theirs = model(ids).logits
    for attention in ("eager", "sdpa"):
        use_attention(model, attention)
        assert torch.allclose(model(ids).logits, theirs, atol=1e-5)


def test_a_padded_vocabulary_changes_neither_loss_nor_gradient_nor_weights():
    model = build(SPEC, seed=0)
    names = [(name, weight.shape) for name, weight in model.named_parameters()]
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 300, (3, 16)))
    results = []
    for logits in (logits_of, padded_logits):
        model.zero_grad()
        found = logits(model, ids)
        assert found.shape == (3, 16, 300)
        loss = torch.nn.functional.cross_entropy(found.flatten(0, 1), ids.flatten())
        loss.backward()
        results.append((loss.item(), model.lm_head.weight.grad.clone()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-7)
    assert [(name, weight.shape) for name, weight in model.named_parameters()] == names


def test_a_compiled_step_is_the_plain_one_to_rounding_and_exports_the_same_names():
    plain, session = steps_of(settings())
    ours, other = steps_of(settings(compile=True, attention="eager"))
    assert ours == pytest.approx(plain, rel=1e-5)
    assert session.model.state_dict().keys() == other.model.state_dict().keys()
    again, third = steps_of(settings(compile=True, attention="eager"))
    assert again == ours
    assert all(
        torch.equal(a, b) for a, b in zip(other.model.parameters(), third.model.parameters(), strict=True)
    )
    assert "attn_implementation" not in json.dumps(other.model.config.to_dict())


def test_a_model_beyond_the_compilers_limit_is_compiled_like_the_first(monkeypatch):
    from torch._dynamo.utils import counters

    honest = torch.compile  # the compiler's last stage is not what is counted
    monkeypatch.setattr(
        "train.runtime.torch.compile", lambda step, **how: honest(step, backend="eager", **how)
    )
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 2  # 8 where nobody says otherwise
    before = counters["stats"]["unique_graphs"]
    for number in range(4):
        steps_of(settings(compile=True, attention="eager", n_embd=8 + 2 * number), count=1)
    assert counters["stats"]["unique_graphs"] - before == 4
    torch._dynamo.reset()


# What auto means


class Bench:
    """A machine that takes so many seconds for each engine, and counts how often it was asked."""

    def __init__(self, seconds, compiling=20.0):
        self.seconds, self.compiling, self.asked = seconds, compiling, []

    def __call__(self, settings, engine, device):
        self.asked.append(engine)
        return measured(engine, self.seconds(engine), self.compiling if engine.compile else 0.0)


def amx(engine):
    seconds = 1.0
    seconds /= 2.0 if engine.dtype == "bf16" else 1.0
    seconds /= 1.4 if engine.compile and engine.attention == "eager" else 1.2 if engine.compile else 1.0
    return seconds * (1.1 if engine.attention == "eager" and not engine.compile else 1.0)


def no_amx(engine):
    return amx(engine) * (500.0 if engine.dtype == "bf16" else 1.0)


def picked(bench, gain=2.4, wanted=None, **asks):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "train.backend.available_dtypes", lambda device: ("fp32", "bf16") if gain > 1.2 else ("fp32",)
        )
        given = {"steps": 1000, "expected": 1000.0, **asks}
        return select_backend(
            wanted or BackendRequest(),
            settings(),
            device="cpu",
            log=lambda line: None,
            measure=bench,
            **given,
        )


def test_auto_takes_the_fastest_engine_and_records_it():
    engine = picked(Bench(amx))
    assert (engine.dtype, engine.compile, engine.attention) == ("bf16", True, "eager")
    assert engine.threads == 1
    chosen = settings().model_copy(update=engine.model_dump())
    assert Settings.parse(chosen.dump(), "run.json").dtype == "bf16"
    assert chosen.identity() != settings().identity()


def test_a_processor_that_is_slow_in_bf16_trains_in_32_bits():
    assert picked(Bench(no_amx), gain=2.4).dtype == "fp32"
    bench = Bench(no_amx)
    assert picked(bench, gain=0.01).dtype == "fp32"
    assert not any(engine.dtype == "bf16" for engine in bench.asked), "a product already said so"


def test_a_short_run_is_neither_probed_nor_compiled():
    bench = Bench(amx)
    assert picked(bench, expected=60.0) == PLAIN_BACKEND
    assert bench.asked == []
    assert not picked(Bench(amx), steps=60, expected=100.0).compile


def test_compiling_must_pay_for_itself():
    slow = Bench(amx, compiling=1e4)
    assert picked(slow).compile is False
    assert picked(slow, steps=10**6, expected=10**6).compile is True


def test_what_was_probed_is_remembered_by_machine_and_shape():
    first, second = Bench(amx), Bench(amx)
    assert picked(first) == picked(second)
    assert first.asked
    assert second.asked == []
    held = json.loads(MachineFile.path().read_text())
    assert held["kind"] == "machine"
    assert list(held["machines"]) == [machine_id("cpu")]
    assert torch.__version__ in machine_id("cpu")


def test_what_was_probed_beside_other_work_holds_under_like_load_alone(monkeypatch):
    def crowded(engine):  # two threads wait for each other where another process has a core
        return amx(engine) * (3.0 if engine.threads != 1 else 1.0)

    def asked(bench, share):
        monkeypatch.setattr("train.backend.cpu_share", lambda workers, seconds: share)
        return picked(bench), len(bench.asked) > 0

    assert asked(Bench(crowded), 0.5)[1]
    assert not asked(Bench(crowded), 0.6)[1]
    assert asked(Bench(amx), 1.0)[1], "what a busy machine took says nothing of a quiet one"
    assert not asked(Bench(amx), 0.9)[1]
    assert {one.share for one in MachineFile.open().machines[machine_id("cpu")]} == {1.0}


def test_a_measurement_of_an_earlier_version_is_made_again_for_it_does_not_know_its_load():
    remember(machine_id("cpu"), [measured(PLAIN_BACKEND, 1e-6)])
    bench = Bench(amx)
    assert picked(bench).dtype == "bf16"
    assert bench.asked


def test_a_cache_that_cannot_be_read_is_as_none(tmp_path):
    MachineFile.path().parent.mkdir(parents=True, exist_ok=True)
    MachineFile.path().write_text("{")
    assert MachineFile.open().machines == {}
    remember("m", [measured(PLAIN_BACKEND, 1.0)])
    assert len(MachineFile.open().machines["m"]) == 1
    remember("m", [measured(PLAIN_BACKEND, 2.0)])
    assert [one.seconds for one in MachineFile.open().machines["m"]] == [2.0]


def test_what_is_asked_for_is_what_is_taken():
    bench = Bench(amx)
    engine = picked(bench, wanted=BackendRequest(dtype="fp32", compile=False))
    assert (engine.dtype, engine.compile) == ("fp32", False)
    assert {(one.dtype, one.compile) for one in bench.asked} == {("fp32", False)}
    whole = BackendRequest(dtype="bf16", compile=True, attention="sdpa", threads=1)
    assert picked(bench, wanted=whole) == StepBackend(dtype="bf16", compile=True, attention="sdpa", threads=1)


def test_a_backend_that_the_device_lacks_is_one_line():
    with pytest.raises(BadInput, match="attention is cudnn, which needs a GPU"):
        picked(Bench(amx), wanted=BackendRequest(attention="cudnn"))


def test_a_run_goes_on_with_the_engine_it_began_with(tmp_path):
    begun = settings(dtype="bf16", attention="eager", threads=2)
    begun.write(tmp_path / "run.json")
    config = TrainConfig.model_validate({"family": "gpt2-52m", "data": "x", "tokens": "1M", "dtype": "fp32"})
    found = with_recorded_settings(settings(), tmp_path, config)
    assert (found.dtype, found.attention, found.threads) == ("fp32", "eager", 2)
    assert with_recorded_settings(settings(), tmp_path).dtype == "bf16"


def test_a_real_probe_times_a_real_step_and_leaves_the_process_as_it_was():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = time_step(settings(), StepBackend(threads=1), "cpu")
    assert 0 < found.seconds < 10
    assert found.flops == step_flops(SPEC, 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_quickest_counts_the_start():
    slow_start = measured(PLAIN_BACKEND, 1.0, first=100.0)
    other = measured(StepBackend(threads=1), 2.0)
    assert fastest_backend([slow_start, other], 50) is other
    assert fastest_backend([slow_start, other], 200) is slow_start


def test_a_plan_reads_the_mfu_that_was_probed_on_the_device():
    from scaling.hardware import accelerator
    from scaling.planning.throughput import profiled_mfu

    assert profiled_mfu(accelerator("H200")) is None
    peak = accelerator("H200").training_peak
    for share, engine in (
        (0.4, PLAIN_BACKEND),
        (0.5, StepBackend(dtype="bf16", compile=True, attention="flash")),
    ):
        seconds = step_flops(SPEC, 4) / (share * peak)
        remember(
            "NVIDIA H200, 16 cores, torch 2.13.0",
            [measured(engine, seconds).model_copy(update={"device": "cuda"})],
        )
    assert profiled_mfu(accelerator("H200")) == pytest.approx(0.5)
    assert profiled_mfu(accelerator("A100")) is None


def test_a_plan_reads_what_was_tuned_on_a_cpu_that_the_user_has_described(cli, tmp_path, monkeypatch):
    own = {"name": "Old Faithful 9", "teraflops": {"bf16": 1.0}, "memory_gb": 23, "bandwidth_gb_s": 40}
    file = tmp_path / "hardware.json"
    file.write_text(json.dumps({"kind": "hardware", "version": 1, "accelerators": [own]}))
    monkeypatch.setenv("SCALING_HARDWARE", str(file))
    remember(
        "Old Faithful 9 amx_bf16, 2 cores, torch 2.13.0",
        [measured(PLAIN_BACKEND, step_flops(SPEC, 4) / 0.3e12)],
    )
    said = cli("plan", "--budget", "100xOldFaithful9-hours").stdout
    assert "MFU 0.3 (measured" in " ".join(said.split())


def test_the_time_said_beforehand_is_the_one_measured_at_this_shape():
    from train.backend import estimate

    chosen = settings()
    assert estimate(chosen, 100, "cpu").source == "estimated from a probe"
    remember(machine_id("cpu"), [measured(PLAIN_BACKEND, 0.25)])
    found = estimate(chosen, 100, "cpu")
    assert (found.source, found.seconds) == ("measured here at this shape", pytest.approx(25.0))
    assert found.plain_seconds < 25.0
    for threads, seconds, share in ((2, 0.1, 0.4), (1, 0.2, 1.0)):
        engine = StepBackend(threads=threads)
        remember(machine_id("cpu"), [measured(engine, seconds).model_copy(update={"share": share})])
    assert estimate(chosen, 100, "cpu").seconds == pytest.approx(20.0), (
        "of an undisturbed machine, where it is known"
    )
