"""Plans that can be launched: for 8 to 256 devices and six budgets each, from plan to the job files of a cluster."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import yaml

import scaling as sc
from families import accounting, member
from families.memory import Layout, device_memory
from families.units import BadInput
from scaling.cli.app import build
from scaling.hardware import accelerator
from scaling.paths import safe_name
from scaling.planning.memory import USABLE, fit_memory
from scaling.planning.planfile import PlanFile

TIMES = ("1 hour", "9 hours", "1 day", "3 days", "1 week", "4 weeks")
DEVICES = {8: "A100-40GB", 16: "V100-32GB", 64: "H100", 256: "H200"}


def planned(count, time):
    return sc.plan(f"{count} {DEVICES[count]} for {time}", law="chinchilla", force=True)


@pytest.fixture(scope="module", params=DEVICES)
def plans(request):
    """(Number of devices, one plan for each of six budgets)."""
    return request.param, [planned(request.param, time) for time in TIMES]


def test_every_device_gets_whole_micro_batches_of_a_batch_and_tokens_are_whole_steps(plans):
    count, made = plans
    for plan in made:
        for one in plan.members:
            assert one.recipe.batch_sequences % (count * one.micro_batch) == 0
            assert one.tokens == one.recipe.steps * one.recipe.batch_sequences * one.n_positions
            assert abs(one.tokens / plan.recommended.tokens - 1) < 0.5 / one.recipe.steps + 1e-9
            said = [
                note for note in plan.notes if f"batch of {one.recipe.batch_sequences:,} sequences" in note
            ]
            rule = sc.plan(repr(plan.budget.flops).replace("e+", "e"), law="chinchilla", force=True)
            assert bool(said) == (rule.members[0].recipe.batch_sequences != one.recipe.batch_sequences)


def test_every_plan_fits_its_devices_and_suits_tensor_cores(plans):
    count, made = plans
    for plan in made:
        for one in plan.members:
            assert sum(one.memory.values()) <= USABLE * accelerator(DEVICES[count]).memory
            assert one.shards in (1, count)
            for width in (one.n_embd, one.n_inner, one.n_embd // one.n_head):
                assert width % 64 == 0


def test_every_plan_is_launched_by_the_ladder(plans, tmp_path, capsys, monkeypatch):
    count, made = plans
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text(f"nodes: {count // 8}\ndevices: 8\ngres: gpu:8\nzero: 3\n")
    for number, plan in enumerate(made):
        plan.seal().save(tmp_path / f"{number}.json")
        words = ("ladder", f"{number}.json", "launcher=slurm", "profile=cluster.yaml", "dry_run=true")
        build()([*words, "--study", f"study-{number}"], standalone_mode=False)
        assert plan.members[0].member in capsys.readouterr().out


def test_all_budgets_of_a_plan_have_runs_of_their_own_names():
    for budgets in (
        ",".join(f"8 H100 for {time}" for time in TIMES),
        "1e18, 1.01e18, 10^18, 1000000000000000000",
    ):
        names = [one.member for one in sc.plan(budgets, law="chinchilla", on="8xH100").members]
        assert Counter(map(safe_name, names)).most_common(1)[0][1] == 1


def test_a_batch_near_the_rules_own_is_kept_where_the_devices_share_it():
    spec, device = member("gpt2").spec, accelerator("H100")
    for devices, asked, whole in ((8, 512, 512), (64, 500, 512), (256, 8, 256), (6, 100, 102)):
        assert fit_memory(spec, device, devices, asked).batch_sequences == whole


@pytest.mark.parametrize(("size", "name"), [(6e9, "A100"), (70e9, "H100"), (3e9, "RTX-4090")])
def test_the_smallest_number_of_devices_that_holds_a_model_is_said_and_is_the_smallest(size, name):
    spec, device = sc.design(params=size).spec, accelerator(name)
    with pytest.raises(BadInput, match=rf"--on [0-9]+x{name}, the smallest number that holds it") as said:
        fit_memory(spec, device, 1, 512)
    least = int(str(said.value).partition("--on ")[2].partition("x")[0])
    fit = fit_memory(spec, device, least, 512)
    assert fit.tensor * fit.pipeline * fit.shards == least
    with pytest.raises(BadInput):
        fit_memory(spec, device, least - 1, 512)


def test_a_model_whose_activations_fill_a_device_fits_into_no_number_of_them():
    small = replace(accelerator("H100"), memory=2e7)  # not even a 32nd of a sequence beside its blocks
    with pytest.raises(BadInput, match="no number of them holds it; take devices with more memory"):
        fit_memory(sc.design(params=6e9).spec, small, 8, 512)


MODEL_405B = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 126, "hidden_size": 16384,
    "intermediate_size": 53248, "num_attention_heads": 128, "num_key_value_heads": 8, "max_position_embeddings": 8192,
    "vocab_size": 128256, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA_405B = replace(member("llama-3.1-405b").spec, n_positions=8192)


@pytest.mark.parametrize(
    ("spec", "name", "devices"),
    [(LLAMA_405B, "H100", 512), (LLAMA_405B, "H100", 1024), (member("mixtral-8x7b").spec, "A100", 16)],
)
def test_what_sharding_alone_cannot_hold_is_laid_out_by_tensor_pipeline_and_expert_parallelism(
    spec, name, devices
):
    device = accelerator(name)
    alone = accounting.training_memory(spec, 1, bf16=True, checkpointing=True, shards=devices)
    assert sum(alone.values()) > USABLE * device.memory
    fit = fit_memory(spec, device, devices, 2048)
    layout = Layout(
        tensor=fit.tensor, pipeline=fit.pipeline, expert=fit.expert, shards=fit.shards,
        stage=3 if fit.pipeline == 1 else 1, checkpointing=fit.checkpointing,
    )  # fmt: skip
    assert fit.tensor * fit.pipeline * fit.shards == devices
    assert fit.shards % fit.expert == 0
    assert fit.memory == device_memory(spec, fit.micro_batch, layout)
    assert sum(fit.memory.values()) <= USABLE * device.memory
    assert fit.batch_sequences % (fit.shards * fit.micro_batch) == 0
    assert fit.batch_sequences // (fit.shards * fit.micro_batch) >= fit.pipeline  # no stage is ever idle


def test_the_smallest_number_that_holds_a_model_by_model_parallelism_is_said_and_is_the_smallest():
    with pytest.raises(BadInput, match=r"such as --on [0-9]+xH100.* parallelism") as said:
        fit_memory(LLAMA_405B, accelerator("H100"), 64, 2048)
    least = int(str(said.value).partition("--on ")[2].partition("x")[0])
    assert fit_memory(LLAMA_405B, accelerator("H100"), least, 2048).tensor > 1
    for fewer in range(least - 8, least):
        with pytest.raises(BadInput):
            fit_memory(LLAMA_405B, accelerator("H100"), fewer, 2048)


def test_a_member_that_needs_model_parallelism_goes_to_engines_that_have_it_and_nowhere_else(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(dict(MODEL_405B)))
    plan = sc.plan("1024xH100-weeks", family="config.json", mfu=0.4, law="chinchilla", force=True)
    (one,) = plan.members
    assert one.tensor > 1
    plan.seal().save("plan.json")
    for words in (("ladder", "plan.json"), ("emit", "plan.json", "--to", "torchrun")):
        with pytest.raises(
            BadInput, match=r"-way tensor .*parallelism, which .* does not have: scaling emit --to meg"
        ):
            build()([*words], standalone_mode=False)
    for target in ("megatron", "automodel"):
        build()(["emit", "plan.json", "--to", target, "--out", target], standalone_mode=False)
    script = next(tmp_path.rglob("megatron.sh")).read_text()
    assert f"--tensor-model-parallel-size {one.tensor} " in script
    assert f"--pipeline-model-parallel-size {one.pipeline} " in script
    assert ("--use-megatron-fsdp" in script) == (
        one.pipeline == 1
    )  # else memory holds the optimiser's states alone divided
    assert "--sequence-parallel" in script
    layout = yaml.safe_load(next(tmp_path.rglob("automodel.yaml")).read_text())["distributed"]
    assert (layout["tp_size"], layout.get("pp_size", 1)) == (one.tensor, one.pipeline)


def test_too_many_devices_for_a_short_run_are_refused_with_the_most_that_are_of_use():
    with pytest.raises(BadInput, match=r"take at most \d+ devices") as said:
        sc.plan("1e14 on 256xH100", law="chinchilla", force=True)
    most = int(str(said.value).partition("at most ")[2].partition(" ")[0])
    assert sc.plan(f"1e14 on {most}xH100", law="chinchilla", force=True).members[0].recipe.steps >= 20


def test_emit_writes_for_the_devices_that_were_asked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planned(64, "1 day").seal().save("plan.json")
    plan = PlanFile.read(tmp_path / "plan.json").members[0]

    def emitted(*words):
        build()(["emit", *words, "--to", "deepspeed", "--json", "--yes"], standalone_mode=False)
        paths = json.loads(capsys.readouterr().out)["deepspeed"]
        return json.loads((tmp_path / (paths if isinstance(paths, str) else paths[0])).read_text())

    found = emitted("plan.json")
    assert found["bf16"] == {"enabled": True}
    assert found["zero_optimization"] == {"stage": 3}
    assert found["train_batch_size"] == plan.recipe.batch_sequences
    assert found["train_batch_size"] == (
        64 * found["train_micro_batch_size_per_gpu"] * found["gradient_accumulation_steps"]
    )
    of_keys = emitted("family=gpt2", "tokens=1B", "batch_size=64", "--on", "8xV100")
    assert (of_keys["bf16"], of_keys["fp16"]) == ({"enabled": False}, {"enabled": True})
    with pytest.raises(BadInput, match="which 7 devices cannot share evenly"):
        emitted("plan.json", "--on", "7xH100")


def test_the_memory_of_a_plan_is_that_of_its_own_arithmetic(plans):
    _, made = plans
    for one in made[0].members:
        bf16 = accelerator(made[0].budget.accelerator).training_format != "fp32"
        again = accounting.training_memory(
            one.spec, one.micro_batch, checkpointing=one.checkpointing, bf16=bf16, shards=one.shards
        )
        assert again == one.memory


def test_a_published_member_is_planned_at_the_shorter_context_asked_for():
    whole = sc.plan("1e22", law="chinchilla", family="llama-3.1-8b")
    assert any("--context 8192" in note for note in whole.notes)
    short = sc.plan("1e22", law="chinchilla", family="llama-3.1-8b", n_positions=8192)
    assert not any("--context" in note for note in short.notes)
    spec = replace(member("llama-3.1-8b").spec, n_positions=8192)
    chosen = short.recommended
    assert (chosen.member, chosen.n_positions) == ("llama-3.1-8b-ctx8192", 8192)
    assert chosen.params == accounting.params(spec)
    assert chosen.flops == pytest.approx(accounting.train_flops(spec, chosen.tokens))
    assert chosen.flops == pytest.approx(1e22, rel=0.01)
    with pytest.raises(BadInput, match="gpt2 reaches 1,024 tokens"):
        sc.plan("1e20", law="chinchilla", family="gpt2", n_positions=4096)
