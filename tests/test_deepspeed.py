"""DeepSpeed as the second engine: the same losses, the same checkpoints, and a config for others."""

import importlib.util
import json
import multiprocessing
import os
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from families.units import BadInput
from scaling.cli import main
from train.config import TrainConfig
from train.data import DataManifest, TokenizedText
from train.deepspeed_config import config_of
from train.distributed import ALONE, check_installed, join
from train.ladder import Interrupted, RunOptions, train_ladder
from train.settings import TextFacts

from . import tiny
from .tiny import StopAfter, json_lines, places

# Odd widths: stage 3 pads what two processes cannot share evenly.
SHAPE = {"n_layer": 2, "n_head": 3, "n_embd": 15, "n_positions": 32, "vocab_size": 301}
RUNG = 1024  # tokens; 8 steps


def settings(facts=None, **changes):
    return tiny.settings(facts=facts, **{"tokens": RUNG, **SHAPE, **changes})


def test_the_config_holds_the_batch_of_the_plan_on_any_number_of_devices():
    for devices, micro in ((1, 8), (2, 3), (4, 1), (8, 8)):
        found = config_of(settings(batch_size=24, micro_batch=micro), devices, 2)
        sizes = found["train_micro_batch_size_per_gpu"], found["gradient_accumulation_steps"]
        assert sizes[0] * sizes[1] * devices == found["train_batch_size"] == 24
        assert sizes[0] <= micro
    with pytest.raises(BadInput, match="batch_size is 24; it must be a multiple of the 5 processes"):
        config_of(settings(batch_size=24), 5, 0)


def test_the_config_says_what_the_settings_say():
    found = config_of(settings(dtype="bf16", weight_decay=0.05, grad_clip=0.5, beta2=0.95), 2, 3, 800)
    assert found["zero_optimization"] == {"stage": 3}
    assert found["bf16"] == {"enabled": True}
    assert found["gradient_clipping"] == 0.5
    params = found["optimizer"]["params"]
    assert (params["lr"], params["weight_decay"], params["betas"]) == (3e-3, 0.05, [0.9, 0.95])
    assert found["scheduler"]["type"] == "WarmupLR"
    assert found["scheduler"]["params"]["warmup_num_steps"] == 4
    cosine = config_of(settings(schedule="cosine"), 2, 3, 800)["scheduler"]
    assert (cosine["type"], cosine["params"]["total_num_steps"]) == ("WarmupCosineLR", 801)
    with pytest.raises(BadInput, match="optimizer is adafactor"):
        config_of(settings(optimizer="adafactor"), 2, 0)


@pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="the optional extra is not installed"
)
def test_deepspeed_reads_the_config_as_it_is_meant(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.config import DeepSpeedConfig

    found = DeepSpeedConfig(config_of(settings(batch_size=24, micro_batch=3, schedule="cosine"), 1, 2, 800))
    assert (found.train_batch_size, found.train_micro_batch_size_per_gpu) == (24, 3)
    assert (found.gradient_accumulation_steps, found.zero_config.stage) == (8, 2)
    assert (found.optimizer_name, found.scheduler_name) == ("adamw", "WarmupCosineLR")


def test_emit_writes_both_configs_for_a_stage_that_only_deepspeed_has(tmp_path, monkeypatch, capsys):
    words = tiny.words(**SHAPE)
    common = ["family=tiny", "tokens=1M", "batch_size=8", "devices=2", *words, "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["scaling", "emit", "--deepspeed", "zero=1", "--json", *common])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert json.loads(capsys.readouterr().out).keys() == {"config", "deepspeed"}
    assert json.loads((tmp_path / "ds_config.json").read_text())["zero_optimization"] == {"stage": 1}
    assert json.loads((tmp_path / "config.json").read_text())["n_embd"] == 15


def test_without_the_extra_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("train.distributed.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"not installed: pip install 'scaling-planner\[deepspeed\]'"):
        check_installed("deepspeed")
    with pytest.raises(BadInput, match="not installed"), join(1, "cpu", "deepspeed"):
        pass


def test_stage_1_and_compiled_steps_are_refused_where_they_are_not():
    for change, message in (
        ({"zero": "1"}, "zero is 1, which only engine=deepspeed has"),
        ({"engine": "deepspeed", "compile": "true"}, "engine=deepspeed does not compile the step"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainConfig.model_validate({"family": "gpt2-52m", "data": "x", "tokens": "100k", **change})
    with pytest.raises(BadInput, match="zero is 1, which only engine=deepspeed has"), join(1, "cpu"):
        pass


def climb_in(folder, chosen, text, world, stop_after=10**9):
    with suppress(Interrupted):
        train_ladder(
            chosen, (RUNG,), text, places(folder), RunOptions(log_every=2, world=world), StopAfter(stop_after)
        )


def all_cases(rank, folder):
    """What two processes do; every stage on one start of the library."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ["SCALING_RENDEZVOUS"] = (folder / "meeting").as_uri()
    torch.set_num_threads(1)
    text = TokenizedText.open(folder / "data", DataManifest.read(folder / "data" / "data.json"), 32)
    facts = TextFacts.of(text.manifest, "gpt2")
    pieces, dropout = settings(facts, micro_batch=1), settings(facts, dropout=0.1)
    with join(0, "cpu", "deepspeed") as world:
        for stage in range(4):
            climb_in(folder / f"z{stage}", pieces, text, replace(world, zero=stage))
        for stage in (1, 3):
            there = replace(world, zero=stage)
            climb_in(folder / f"whole{stage}", dropout, text, there)
            climb_in(folder / f"cut{stage}", dropout, text, there, stop_after=3)
            climb_in(folder / f"cut{stage}", dropout, text, there)
        for there in (replace(world, zero=2), replace(world, zero=3), replace(world, engine="torch", zero=2)):
            climb_in(folder / "moved", pieces, text, there, stop_after=2)
        climb_in(folder / "moved", pieces, text, replace(world, zero=1))


def metrics(folder):
    paths = sorted((folder / "run").glob("*/metrics.jsonl"))
    return [line for path in paths for line in json_lines(path)]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="the optional extra is not installed"
)
def test_every_stage_on_two_processes_logs_what_one_process_of_torch_does_and_resumes_to_the_bit(tmp_path):
    text = tiny.text_in(tmp_path, vocab_size=301)
    context = multiprocessing.get_context("spawn")
    pair = [context.Process(target=all_cases, args=(rank, tmp_path)) for rank in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join(240)
        process.kill()
    assert [process.exitcode for process in pair] == [0, 0]
    climb_in(tmp_path / "one", settings(TextFacts.of(text.manifest, "gpt2"), micro_batch=1), text, ALONE)
    expected = metrics(tmp_path / "one")
    for name in ("z0", "z1", "z2", "z3", "moved"):
        found = metrics(tmp_path / name)
        assert [line["step"] for line in found] == [line["step"] for line in expected]
        for ours, theirs in zip(found, expected, strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
            assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    for stage in (1, 3):
        assert metrics(tmp_path / f"cut{stage}") == metrics(tmp_path / f"whole{stage}")
