"""Stopped or killed anywhere, a run goes on as if nothing had been: the same numbers, the same books, no litter."""

import json
import math
import os
import signal

import numpy as np
import pytest
import torch

from families.units import BadInput
from scaling.runs.store import read_ledger
from train.checkpoint import checkpoints, load, save
from train.ladder import Interrupted, RunOptions, train_ladder
from train.lease import Stop, stop_on_signals
from train.loop import Diverged, start, train_step
from train.model.objective import Causal
from train.settings import planned_steps

from .tiny import StopAfter, booked, places, settings, weights

pytestmark = pytest.mark.usefixtures("one_thread")


# Stopped


@pytest.mark.parametrize("after", [1, 7, 11, 13])
def test_stopping_anywhere_and_going_on_changes_nothing(after, ladder, text, tmp_path):
    rungs = (1024, 2048, 4096)
    with pytest.raises(Interrupted, match="run the same command to resume"):
        train_ladder(settings(text), rungs, text, places(tmp_path), RunOptions(log_every=4), StopAfter(after))
    again = train_ladder(settings(text), rungs, text, places(tmp_path), RunOptions(log_every=4), Stop())
    for mine, whole in zip(again, ladder[1], strict=True):
        assert mine.observation.loss == whole.observation.loss
    assert booked(tmp_path) == planned_steps(settings(text), rungs) * settings(text).batch_tokens


def test_a_run_stopped_at_a_third_books_a_third(text, tmp_path):
    with pytest.raises(Interrupted):
        train_ladder(settings(text), (4096,), text, places(tmp_path), RunOptions(), StopAfter(11))
    assert booked(tmp_path) == 12 * 128


def test_a_checkpoint_gives_back_weights_moments_and_random_state(text, tmp_path):
    session = start(settings(text, dropout=0.1), "cpu")
    windows = torch.from_numpy(text.train.windows(np.arange(4)))
    for _ in range(3):
        train_step(session, windows, 1e-3)
    save(session, tmp_path / "step-00000003", text.folder / "tokenizer.json")
    losses = [train_step(session, windows, 1e-3)[0].item() for _ in range(3)]
    resumed = load(session.settings, tmp_path / "step-00000003", "cpu")
    assert [train_step(resumed, windows, 1e-3)[0].item() for _ in range(3)] == losses


def flip(name, place=-1):
    def damage(folder):
        payload = bytearray((folder / name).read_bytes())
        payload[place] ^= 1
        (folder / name).write_bytes(payload)

    return damage


def alter_wall_time(folder):
    path = folder / "checkpoint.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "wall_s": facts["wall_s"] + 1}))


@pytest.mark.parametrize(
    "damage",
    [
        flip("model.safetensors"),
        flip("state.safetensors"),
        flip("state.safetensors", 3),
        flip("checkpoint.json", 0),
        alter_wall_time,
        lambda folder: (folder / "state.safetensors").unlink(),
        lambda folder: (folder / "checkpoint.json").unlink(),
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
    ],
    ids=["weights", "moments", "header", "no JSON", "another number", "no state", "no file", "empty"],
)
def test_a_damaged_checkpoint_is_passed_over_and_said_so(damage, text, tmp_path):
    with pytest.raises(Interrupted):
        train_ladder(
            settings(text), (4096,), text, places(tmp_path), RunOptions(save_every=0.0), StopAfter(4)
        )
    trunk = tmp_path / "run" / "trunk"
    (before, _), (last, newest) = checkpoints(trunk)
    damage(newest)
    heard = []
    train_ladder(settings(text), (4096,), text, places(tmp_path), RunOptions(log=heard.append), Stop())
    assert len(heard) == 1
    assert f"checkpoint {newest} is damaged: " in heard[0]
    assert "and the run resumes from the checkpoint before" in heard[0]
    first_booked_again = [work.from_step for work in read_ledger(tmp_path / "ledger.jsonl")][last]
    assert (before, first_booked_again) == (last - 1, before)
    assert not list(trunk.glob(".*"))
    assert (trunk / f"damaged-{newest.name}").is_dir()  # where no rule counts it as one to go back to
    train_ladder(settings(text), (4096,), text, places(tmp_path / "whole"), RunOptions(), Stop())
    ours, theirs = (weights(root / "run" / "rung-4096") for root in (tmp_path, tmp_path / "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_newer_programs_checkpoint_is_refused_and_left_alone(text, tmp_path):
    with pytest.raises(Interrupted):
        train_ladder(settings(text), (4096,), text, places(tmp_path), RunOptions(), StopAfter(4))
    ((_, newest),) = checkpoints(tmp_path / "run" / "trunk")
    path = newest / "checkpoint.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 99'))
    with pytest.raises(BadInput, match="newer program"):
        train_ladder(settings(text), (4096,), text, places(tmp_path), RunOptions(), Stop())
    assert newest.is_dir()


def test_a_folder_of_another_run_is_refused_and_the_difference_named(ladder, text):
    with pytest.raises(BadInput, match=r"lr 0\.003; this one has 0\.001"):
        train_ladder(settings(text, lr=1e-3), (1024,), text, places(ladder[0]), RunOptions(), Stop())


def test_a_loss_that_is_no_number_raises_with_the_step_and_saves_nothing(text, tmp_path, monkeypatch):
    honest = Causal.losses
    monkeypatch.setattr(Causal, "losses", lambda *inputs: honest(*inputs) * math.nan)
    with pytest.raises(Diverged, match=r"nan at step 1 .*no checkpoint had been written"):
        train_ladder(settings(text), (4096,), text, places(tmp_path), RunOptions(log_every=4), Stop())
    assert not (tmp_path / "runs.jsonl").exists()
    assert checkpoints(tmp_path / "run" / "trunk") == []


def test_metrics_of_a_resumed_run_are_those_of_the_whole_run_byte_for_byte(text, tmp_path):
    habits = RunOptions(log_every=4, save_every=1e9)
    with pytest.raises(Interrupted):
        train_ladder(settings(text), (4096,), text, places(tmp_path / "cut"), habits, StopAfter(9))
    for folder in ("cut", "whole"):
        train_ladder(settings(text), (4096,), text, places(tmp_path / folder), habits, Stop())
    for part in ("trunk", "rung-4096"):
        cut, whole = (tmp_path / folder / "run" / part / "metrics.jsonl" for folder in ("cut", "whole"))
        assert cut.read_bytes() == whole.read_bytes()


# A kill


class KilledAfter(StopAfter):
    """A kill in place of a wish, once so many steps are saved."""

    @property
    def requested(self):
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return False


def test_a_run_killed_at_37_percent_books_37_percent_and_the_rest_when_it_goes_on(text, tmp_path):
    chosen, rungs = settings(text), (100 * 128,)
    killed = os.fork()
    if not killed:
        try:
            train_ladder(chosen, rungs, text, places(tmp_path), RunOptions(save_every=1e-6), KilledAfter(37))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1]) == -signal.SIGKILL
    planned = planned_steps(chosen, rungs) * chosen.batch_tokens

    assert planned == 100 * 128
    assert booked(tmp_path) == pytest.approx(0.37 * planned, abs=128)
    train_ladder(chosen, rungs, text, places(tmp_path), RunOptions(), Stop())
    assert booked(tmp_path) == planned


def test_before_a_step_is_trained_a_signal_stops_at_once_and_afterwards_it_waits_for_the_save():
    with stop_on_signals() as stop:
        with pytest.raises(KeyboardInterrupt, match="before the first step was trained"):
            signal.raise_signal(signal.SIGTERM)
        assert not stop.requested
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_closed_terminal_asks_for_a_save_too_unless_hangups_are_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores them for the tests too
    try:
        for way, asked in ((signal.SIG_DFL, True), (signal.SIG_IGN, False)):
            signal.signal(signal.SIGHUP, way)
            with stop_on_signals() as stop:
                assert not stop.requested
                signal.raise_signal(signal.SIGHUP)
                assert stop.requested is asked
    finally:
        signal.signal(signal.SIGHUP, before)


# What is kept


def test_the_newest_two_checkpoints_and_those_that_branches_start_from_are_kept(text, tmp_path):
    for after in (2, 3):
        with pytest.raises(Interrupted):
            train_ladder(settings(text), (1024, 4096), text, places(tmp_path), RunOptions(), StopAfter(after))
    with pytest.raises(Interrupted):
        train_ladder(
            settings(text), (1024, 4096), text, places(tmp_path), RunOptions(save_every=1e-6), StopAfter(15)
        )
    trunk = tmp_path / "run" / "trunk"
    assert [step for step, _ in checkpoints(trunk)] == [6, 20, 21]  # rungs of 8 and 32 steps, cooldown 0.2
    train_ladder(settings(text), (1024, 4096), text, places(tmp_path), RunOptions(save_every=1e-6), Stop())
    assert [step for step, _ in checkpoints(trunk)] == [6, 26]
    assert not list((tmp_path / "run").glob("rung-*/step-*"))
    assert len(list((tmp_path / "run").glob("rung-*/model/model.safetensors"))) == 2


def test_a_run_that_went_further_than_it_is_now_asked_keeps_how_far_it_came(text, tmp_path):
    with pytest.raises(Interrupted):
        train_ladder(settings(text), (4096,), text, places(tmp_path), RunOptions(), StopAfter(20))
    train_ladder(settings(text), (1024,), text, places(tmp_path), RunOptions(save_every=1e-6), Stop())
    assert [step for step, _ in checkpoints(tmp_path / "run" / "trunk")] == [6, 21]


def test_what_a_killed_write_leaves_behind_is_gone_after_the_next_start(text, tmp_path):
    with pytest.raises(Interrupted):
        train_ladder(settings(text), (1024,), text, places(tmp_path), RunOptions(), StopAfter(3))
    run = tmp_path / "run"
    step = checkpoints(run / "trunk")[-1][1]
    left = [
        run / "trunk" / ".step-00000007.a1b2c3_4",
        run / "trunk" / ".step-00000002.gone",
        run / "trunk" / ".epoch-1",
    ]
    for folder in left:
        (folder / "deeper").mkdir(parents=True)
    left += [step / ".checkpoint.json.abcdefgh", run / ".run.json.0123abcd", run / ".underway.json.0123abcd"]
    others = [run / ".plan.json.0123abcd", run / ".clock-17-42", run / "trunk" / ".keep"]
    for file in (*left[3:], *others):
        file.touch()
    train_ladder(settings(text), (1024,), text, places(tmp_path), RunOptions(), Stop())
    assert not [path for path in left if path.exists()]
    assert all(path.exists() for path in others)


def test_a_rung_that_was_killed_before_its_checkpoints_were_gone_loses_them_and_nothing_else(
    text, tmp_path, monkeypatch
):
    monkeypatch.setattr("train.ladder.discard", lambda folder: None)
    found = train_ladder(settings(text), (1024,), text, places(tmp_path), RunOptions(), Stop())
    monkeypatch.undo()
    assert list((tmp_path / "run").glob("rung-1024/step-*"))
    before = read_ledger(tmp_path / "ledger.jsonl")
    assert train_ladder(settings(text), (1024,), text, places(tmp_path), RunOptions(), Stop()) == found
    assert not list((tmp_path / "run").glob("rung-1024/step-*"))
    assert read_ledger(tmp_path / "ledger.jsonl") == before


def test_a_checkpoint_where_a_later_rung_begins_is_kept_from_then_on(text, tmp_path):
    with pytest.raises(Interrupted):
        train_ladder(settings(text), (4096,), text, places(tmp_path), RunOptions(), StopAfter(5))
    train_ladder(
        settings(text), (1024,), text, places(tmp_path), RunOptions(), Stop()
    )  # its branch starts at step 6, too
    train_ladder(settings(text), (4096,), text, places(tmp_path), RunOptions(save_every=1e-6), Stop())
    assert 6 in [step for step, _ in checkpoints(tmp_path / "run" / "trunk")]
