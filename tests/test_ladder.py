"""Ladders: rungs in a row, cooldowns changed without the trunk, and what all that costs."""

import math
import os
import re
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from families import member
from families.units import BadInput
from scaling.files import first_problem
from scaling.runs.readers import read_runs
from scaling.schedule import Schedule
from train.checkpoint import checkpoints
from train.config import Rungs, TrainConfig
from train.ladder import RunOptions, train_ladder
from train.lease import Stop
from train.rung import RungFile
from train.settings import TextFacts, settings_of

from .tiny import SHAPE, booked, places, settings, trained, weights, write_corpus

pytestmark = pytest.mark.usefixtures("one_thread")

QUIET = RunOptions(save_every=1e9)


@pytest.mark.parametrize(
    ("words", "rungs"),
    [
        ("1k,2k", (1000, 2000, 16000)),
        ("5x2", (1000, 2000, 4000, 8000, 16000)),
        ("3x1.5", (7111, 10667, 16000)),
        ("1x2", (16000,)),
        ("16k", (16000,)),
    ],
)
def test_rungs_are_listed_or_a_row_that_ends_at_the_tokens(words, rungs):
    assert Rungs.parse(words).at(16000) == rungs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("5xx2", "token counts such as 1M,2M,4M, or a series such as 5x2"),
        ("5x1", "factor above 1"),
        ("0x2", "1 to 64 rungs"),
        ("20x2", "below one token"),
        ("1k,two", "rungs is 'two'"),
        ("1M", "none may exceed tokens"),
    ],
)
def test_bad_rungs_are_one_line(words, message):
    with pytest.raises(ValidationError) as caught:
        TrainConfig.model_validate({"family": "gpt2-52m", "data": "x", "tokens": "100k", "rungs": words})
    assert message in first_problem(caught.value)
    assert "\n" not in first_problem(caught.value)


def test_a_cooldown_of_one_minus_the_root_falls_as_its_name_says():
    schedule = Schedule(peak=2.0, warmup=0, steps=0).to(100, 0.2, "1-sqrt")
    assert {schedule.lr(step) for step in range(80)} == {2.0}
    for step in range(80, 100):
        progress = (step - 80 + 1) / 21
        assert schedule.lr(step) == pytest.approx(2.0 * (1 - math.sqrt(progress)))


@pytest.fixture(scope="module")
def ladder(text, tmp_path_factory):
    """Five rungs, each twice the one before, at a cooldown of 0.2."""
    folder = tmp_path_factory.mktemp("five")
    rungs = Rungs.parse("5x2").at(80 * 128)
    return folder, rungs, train_ladder(settings(text), rungs, text, places(folder), QUIET, Stop())


def test_five_doubling_rungs_are_booked_at_under_0_62_of_separate_runs(ladder):
    folder, rungs, _ = ladder
    share = booked(folder) / sum(rungs)
    assert share <= 0.62
    assert share == pytest.approx((rungs[-1] + 0.2 * sum(rungs[:-1])) / sum(rungs))


def test_each_rung_keeps_its_state_before_the_decay_and_its_model_after_it(ladder):
    folder, rungs, found = ladder
    for tokens, rung in zip(rungs, found, strict=True):
        before = folder / "run" / rung.trunk_checkpoint
        assert (before / "state.safetensors").is_file()
        assert before.name == f"step-{round(tokens / 128 * 0.8):08d}"
        assert (folder / "run" / f"rung-{tokens}" / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("change", [{"cooldown": 0.1}, {"cooldown_shape": "1-sqrt"}, {"cooldown": 0.4}])
def test_another_cooldown_repeats_no_trunk_that_is_kept_and_equals_a_run_of_its_own(
    change, ladder, text, tmp_path
):
    folder = ladder[0]
    other = settings(text, **change)
    before = booked(folder)
    said = []
    found = train_ladder(
        other, (40 * 128,), text, places(folder), RunOptions(save_every=1e9, log=said.append), Stop()
    )[0]
    name = {0.1: "-wsd-0.1-linear", 0.4: "-wsd-0.4-linear"}.get(other.cooldown, "-wsd-0.2-1-sqrt")
    alone = train_ladder(other, (40 * 128,), text, places(tmp_path), QUIET, Stop())[0]
    ours, theirs = (weights(root / "run" / f"rung-{40 * 128}{name}") for root in (folder, tmp_path))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert found.observation.loss == alone.observation.loss
    starts = round(40 * (1 - other.cooldown))
    nearest = max(step for step in (4, 8, 16, 32, 64) if step <= starts)
    assert booked(folder) - before == (40 - nearest) * 128
    assert len(said) == (nearest != starts)
    if said:
        assert f"starts at step {starts} and the nearest checkpoint before is at step {nearest}" in said[0]


def test_observations_of_different_cooldowns_are_told_apart(text, tmp_path):
    for change in ({}, {"cooldown_shape": "1-sqrt"}, {"cooldown": 0.5}):
        train_ladder(settings(text, **change), (2048,), text, places(tmp_path), QUIET, Stop())
    runs = read_runs(tmp_path / "runs.jsonl").runs
    assert [run.schedule for run in runs] == ["wsd 0.2 linear", "wsd 0.2 1-sqrt", "wsd 0.5 linear"]
    assert {(run.run, run.tokens) for run in runs} == {("tiny-s0", 2048)}
    assert len({run.loss for run in runs}) == 3
    assert len(list((tmp_path / "run").glob("rung-*/rung.json"))) == 3


def test_training_again_from_an_earlier_trunk_leaves_the_trunks_own_record_alone(text, tmp_path):
    habits = RunOptions(save_every=1e9, log_every=2)
    train_ladder(settings(text), (2048, 4096), text, places(tmp_path), habits, Stop())
    trunk = tmp_path / "run" / "trunk" / "metrics.jsonl"
    before = trunk.read_bytes()
    rung = train_ladder(settings(text), (3072,), text, places(tmp_path), habits, Stop())[0]
    assert trunk.read_bytes() == before
    assert rung.trunk_checkpoint == "trunk/step-00000019"
    assert [step for step, _ in checkpoints(tmp_path / "run" / "trunk")] == [13, 19, 26]
    assert RungFile.read(tmp_path / "run" / "rung-3072" / "rung.json") == rung


def test_a_trunk_under_another_rate_is_still_refused(ladder, text):
    with pytest.raises(BadInput, match=r"lr 0\.003; this one has 0\.001"):
        train_ladder(settings(text, lr=1e-3, cooldown=0.1), (1024,), text, places(ladder[0]), QUIET, Stop())


def test_a_rung_added_from_the_command_line_keeps_what_the_recipe_said_at_first(tmp_path):
    """The recipe looks at the tokens: a longer run alone would have another batch, rate and warm-up."""
    corpus = write_corpus(tmp_path / "corpus")

    plain = {"data": str(corpus), "dtype": "fp32", "compile": False, "attention": "sdpa"}
    first = trained(tmp_path / "study", **plain, tokens=4096)[0].observation
    alone = settings_of(
        TrainConfig.model_validate({"family": "tiny", "data": "x", "tokens": 65536, **SHAPE}),
        TextFacts(),
        "cpu",
    )
    assert alone.batch_tokens != first.batch_tokens
    before = booked(tmp_path / "study" / "runs" / "tiny-s0")
    _, second = trained(tmp_path / "study", **plain, tokens=65536, rungs="4096")
    assert (second.observation.batch_tokens, second.observation.lr) == (first.batch_tokens, first.lr)
    ours = booked(tmp_path / "study" / "runs" / "tiny-s0") - before
    assert ours == pytest.approx(second.observation.tokens - 0.8 * first.tokens, abs=2 * first.batch_tokens)


def test_a_micro_batch_that_a_begun_run_cannot_take_is_said(tmp_path):
    corpus = write_corpus(tmp_path / "corpus")
    said = []
    for micro_batch in (2, 4):
        asked = {"data": str(corpus), "tokens": 1024, "batch_size": 4, "micro_batch": micro_batch}
        trained(tmp_path / "study", said, **asked)
    (line,) = [line for line in said if "micro_batch" in line]
    assert line.startswith("tiny-s0: micro_batch stays 2, with which the run goes on")


def test_grouped_heads_reach_the_run_and_its_card_can_ask_for_them_again():
    tiny = {"family": "tinyllama-1.1b", "data": "x", "tokens": "1M"}
    spec = TrainConfig.model_validate(tiny).spec()
    assert spec == member("tinyllama-1.1b").spec
    chosen = settings_of(TrainConfig.model_validate(tiny), TextFacts(), "cpu")
    assert chosen.spec() == spec
    every = {
        name: getattr(spec, name)
        for name in ("n_layer", "n_head", "n_embd", "n_inner", "n_positions", "vocab_size")
    }
    assert TrainConfig.model_validate({**tiny, **every}).spec() == spec


def test_a_finished_model_is_on_the_disk_before_its_rung_says_so(text, tmp_path, monkeypatch):
    synced, before = set(), {}
    fsync, write = os.fsync, RungFile.write

    def recorded(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        # a temporary name stands for its own
        synced.add(path.with_name(re.sub(r"^\.(.+)\.(?:\w{8}|[0-9a-f]{12})$", r"\1", path.name)))
        fsync(descriptor)

    def say(rung, path):
        before.setdefault(path.resolve(), set(synced))
        write(rung, path)

    monkeypatch.setattr(os, "fsync", recorded)
    monkeypatch.setattr(RungFile, "write", say)
    train_ladder(settings(text, tokens=256), (256,), text, places(tmp_path / "run"), QUIET, Stop())
    (finished,) = tmp_path.resolve().glob("**/rung-*/rung.json")
    model = finished.parent / "model"
    assert [path.name for path in model.iterdir() if path not in before[finished]] == []
