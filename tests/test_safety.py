"""What can go wrong in a run: no number, a spike, no memory, no room on the disk. Each is one line, and loses little."""

import math
import os
import random
import re
import stat
import sys
from collections import namedtuple

import pytest
import torch
from safetensors import SafetensorError

from families.units import BadInput, RunFailed
from scaling.runs.store import read_ledger
from train import checkpoint, saver
from train.checkpoint import Snapshot, checkpoints, save_model
from train.config import Settings
from train.ladder import Interrupted, RunOptions, train_ladder
from train.lease import Stop
from train.loop import Diverged
from train.metrics import WINDOW, SpikeDetector
from train.model.config import build
from train.model.objective import Causal
from train.runtime import OutOfMemory, smaller

from .test_cli import TRAIN
from .tiny import StopAfter, json_lines, places, settings, write_corpus

pytestmark = pytest.mark.usefixtures("one_thread")

RUNGS = (2048,)  # tokens; 16 steps, of which 13 are the trunk's


def events(folder, part="trunk"):
    return json_lines(folder / "run" / part / "events.jsonl")


def metrics(folder):
    return json_lines(folder / "run" / "trunk" / "metrics.jsonl")


def while_training(monkeypatch, change):
    """Let the n-th forward pass of the training return change(n, losses, examples)."""
    honest, count = Causal.losses, [0]

    def losses(self, model, examples):
        found = honest(self, model, examples)
        if not model.training:
            return found
        count[0] += 1
        return change(count[0], found, examples)

    monkeypatch.setattr(Causal, "losses", losses)


# No number


@pytest.mark.parametrize("save_every", [1e9, 1e-6])
def test_a_loss_that_is_no_number_names_its_step_and_the_last_good_checkpoint(
    save_every, text, tmp_path, monkeypatch
):
    with pytest.raises(Interrupted):
        train_ladder(settings(text), RUNGS, text, places(tmp_path), RunOptions(), StopAfter(5))
    while_training(monkeypatch, lambda n, losses, examples: losses * (math.nan if n == 3 else 1))
    last = 8 if save_every < 1 else 6  # saved after every step, or where it was stopped
    with pytest.raises(Diverged, match=rf"nan at step 9 .* checkpoint is \S*trunk/step-0000000{last}$"):
        train_ladder(settings(text), RUNGS, text, places(tmp_path), RunOptions(save_every=save_every), Stop())
    monkeypatch.undo()
    train_ladder(settings(text), RUNGS, text, places(tmp_path), RunOptions(), Stop())
    assert all(math.isfinite(line["loss"]) for line in metrics(tmp_path))


def test_a_gradient_that_is_no_number_is_seen_before_a_checkpoint_is_written(text, tmp_path, monkeypatch):
    def poison(n, losses, examples):
        return losses + (losses - losses.detach()) * (math.inf if n == 4 else 0)

    while_training(monkeypatch, poison)
    with pytest.raises(Diverged, match=r"step 4 .*step-00000003$"):
        train_ladder(settings(text), RUNGS, text, places(tmp_path), RunOptions(save_every=1e-6), Stop())


# Spikes


def test_a_steady_noise_has_no_spike_and_six_deviations_are_one():
    detector, rng = SpikeDetector(), random.Random(0)
    quiet = [detector.add(step, rng.gauss(3, 0.1)) for step in range(20_000)]
    assert not any(quiet)
    spike = detector.add(20_000, 3.75)
    assert spike.loss == 3.75
    assert spike.mean == pytest.approx(3, abs=0.04)
    assert spike.sd == pytest.approx(0.1, rel=0.25)
    assert SpikeDetector().add(0, 100.0) is None


def test_a_spike_is_written_down_once_however_often_the_run_was_stopped(text, tmp_path, monkeypatch):
    steps = WINDOW
    rungs = (steps * 128,)

    def change(n, losses, examples):
        return losses + (50.0 if torch.equal(examples, wanted) else 0.0)

    from train.model.objective import batch_of

    chosen = settings(text, tokens=rungs[0])
    wanted = torch.from_numpy(batch_of(chosen, text.train, 90))
    while_training(monkeypatch, change)
    train_ladder(chosen, rungs, text, places(tmp_path / "whole"), RunOptions(), Stop())
    for after in (60, 33):
        with pytest.raises(Interrupted):
            train_ladder(chosen, rungs, text, places(tmp_path / "cut"), RunOptions(), StopAfter(after))
    train_ladder(chosen, rungs, text, places(tmp_path / "cut"), RunOptions(), Stop())
    (spike,) = events(tmp_path / "whole")
    assert (spike["step"], spike["event"]) == (91, "spike")
    assert spike["loss"] > spike["mean"] + 6 * spike["sd"]
    assert events(tmp_path / "cut") == [spike]


# Memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried …"
        ),
        MemoryError(),
    ],
)
def test_out_of_memory_lowers_the_micro_batch_keeps_the_batch_and_says_so(error, text, tmp_path, monkeypatch):
    train_ladder(settings(text), RUNGS, text, places(tmp_path / "whole"), RunOptions(), Stop())

    def change(n, losses, examples):
        if len(examples) > 2:
            raise error
        return losses

    while_training(monkeypatch, change)
    heard = []
    train_ladder(settings(text), RUNGS, text, places(tmp_path / "less"), RunOptions(log=heard.append), Stop())
    (said,) = heard
    assert re.findall(r"\d+", said) == ["4", "2"]  # the micro-batch before, and from now on
    assert events(tmp_path / "less") == [{"step": 0, "event": "out of memory", "micro_batch": 2, "before": 4}]
    assert Settings.read(tmp_path / "less" / "run" / "run.json").micro_batch == 2
    for found, expected in zip(metrics(tmp_path / "less"), metrics(tmp_path / "whole"), strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_one_sequence_that_does_not_fit_is_one_line(text, tmp_path, monkeypatch):
    def change(n, losses, examples):
        raise torch.OutOfMemoryError("CUDA out of memory")

    while_training(monkeypatch, change)
    with pytest.raises(OutOfMemory, match="out of memory with a single sequence"):
        train_ladder(settings(text), RUNGS, text, places(tmp_path), RunOptions(), Stop())


def test_another_error_is_not_taken_for_memory(text, tmp_path, monkeypatch):
    def change(n, losses, examples):
        raise RuntimeError("a bug")

    while_training(monkeypatch, change)
    with pytest.raises(RuntimeError, match="a bug"):
        train_ladder(settings(text), RUNGS, text, places(tmp_path), RunOptions(), Stop())


def test_the_smaller_micro_batch_divides_the_share():
    assert [smaller(micro, 12) for micro in (12, 6, 4, 3, 2, 1)] == [6, 3, 2, 1, 1, None]


# The disk


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_all_files_of_a_model_follow_the_users_umask(umask, text, tmp_path):
    before = os.umask(umask)
    try:
        save_model(build(settings(text).spec(), seed=0), text.tokenizer, tmp_path / "model")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").iterdir()}
    finally:
        os.umask(before)
    assert "model.safetensors" in modes
    assert set(modes.values()) == {0o666 & ~umask}, modes


Usage = namedtuple("Usage", "total used free")


def test_a_disk_that_is_nearly_full_stops_the_run_before_a_save(text, tmp_path, monkeypatch):
    left = iter([10**9] * 4)
    monkeypatch.setattr(saver.shutil, "disk_usage", lambda path: Usage(10**9, 0, next(left, 10**6)))
    with pytest.raises(RunFailed, match=r"1 MB left and a checkpoint needs [\d.]+ MB.*step 4 is not saved"):
        train_ladder(settings(text), RUNGS, text, places(tmp_path), RunOptions(save_every=1e-6), Stop())
    assert [step for step, _ in checkpoints(tmp_path / "run" / "trunk")] == [2, 3]
    assert sum(work.tokens for work in read_ledger(tmp_path / "ledger.jsonl")) == 3 * 128
    monkeypatch.undo()
    train_ladder(settings(text), RUNGS, text, places(tmp_path), RunOptions(), Stop())


def test_a_full_disk_is_one_line_with_status_1_for_a_person(tmp_path, monkeypatch, capsys):
    from scaling.cli import main

    write_corpus(tmp_path / "corpus", files=20)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["scaling", *TRAIN, "data=corpus", "out=run"])
    monkeypatch.setattr(saver.shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("scaling: ")
    assert "free some space and run the same command to resume" in lines[-1]
    assert not list(tmp_path.rglob("step-*"))


@pytest.mark.parametrize("aside", [True, False])
def test_a_write_that_fails_is_one_line_and_leaves_nothing_of_the_checkpoint(
    aside, text, tmp_path, monkeypatch
):
    monkeypatch.setattr(saver.Saver, "__init__", _with(saver.Saver.__init__, background=aside))
    honest, count = Snapshot.write, [0]

    def write(self, folder, tokenizer):
        count[0] += 1
        if count[0] == 3:
            monkeypatch.setattr("train.checkpoint.save_file", _full)
        honest(self, folder, tokenizer)

    monkeypatch.setattr(Snapshot, "write", write)
    with pytest.raises(BadInput, match=r"cannot write .*No space left"):
        train_ladder(settings(text), RUNGS, text, places(tmp_path), RunOptions(save_every=1e-6), Stop())
    trunk = tmp_path / "run" / "trunk"
    assert [path.name for path in sorted(trunk.glob("*step*"))] == ["step-00000001", "step-00000002"]
    assert sum(work.tokens for work in read_ledger(tmp_path / "ledger.jsonl")) == 2 * 128


def test_a_finished_model_that_cannot_be_written_is_one_line_and_is_written_next_time(
    text, tmp_path, monkeypatch
):
    honest = checkpoint.save_file
    monkeypatch.setattr(
        checkpoint,
        "save_file",
        lambda tensors, path, **how: (_full if path.parent.name == "model" else honest)(tensors, path, **how),
    )
    with pytest.raises(BadInput, match=r"cannot write .*model.safetensors: .*No space left"):
        train_ladder(settings(text), RUNGS, text, places(tmp_path), RunOptions(), Stop())
    assert not list(tmp_path.rglob("rung.json"))
    monkeypatch.undo()
    before = read_ledger(tmp_path / "ledger.jsonl")
    train_ladder(settings(text), RUNGS, text, places(tmp_path), RunOptions(), Stop())
    assert len(list(tmp_path.rglob("model/model.safetensors"))) == 1
    after = read_ledger(tmp_path / "ledger.jsonl")
    assert after[: len(before)] == before
    assert not any(work.tokens for work in after[len(before) :])  # a closing entry, and no step again


def _with(honest, **changes):
    return lambda self, **named: honest(self, **{**named, **changes})


def _full(*inputs, **named):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
