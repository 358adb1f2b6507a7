"""Training: ladders whose branches are exact, whose rungs are observations, and what a run refuses."""

import math
import os

import pytest
import torch

from families.units import BadInput
from scaling.paths import StudyPaths
from scaling.runs.readers import read_runs
from scaling.runs.store import read_ledger
from scaling.schedule import Schedule
from train.config import TrainConfig
from train.data import batch
from train.evaluate import eval_set, evaluate
from train.jobs.ladders import Job, train_ladders
from train.ladder import RunOptions, RunPaths, train_ladder
from train.lease import Stop
from train.loop import start, train_step
from train.settings import planned_steps

from .tiny import booked, places, settings, weights

pytestmark = pytest.mark.usefixtures("one_thread")


def test_each_rung_is_an_annealed_observation_of_one_run(ladder):
    folder, rungs = ladder
    runs = read_runs(folder / "runs.jsonl").runs
    assert [run.tokens for run in runs] == [1024, 2048, 4096]
    assert {run.run for run in runs} == {"tiny-s0"}
    assert all(run.annealed and run.loss_se and run.loss_se > 0 for run in runs)
    assert [rung.observation for rung in rungs] == list(runs)


def test_a_branch_equals_an_uninterrupted_run_of_its_schedule_bit_for_bit(ladder, text, tmp_path):
    folder, _ = ladder
    alone = train_ladder(settings(text), (2048,), text, places(tmp_path), RunOptions(save_every=1e9), Stop())[
        0
    ]
    ours = weights(folder / "run" / "rung-2048")
    theirs = weights(tmp_path / "run" / "rung-2048")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert alone.observation.loss == read_runs(folder / "runs.jsonl").runs[1].loss


def test_a_branch_equals_a_plain_loop_written_out(ladder, text):
    chosen = settings(text)
    session = start(chosen, "cpu")
    schedule = Schedule(peak=chosen.lr, warmup=chosen.warmup, steps=0).to(16, chosen.cooldown)
    for step in range(16):
        windows = torch.from_numpy(batch(text.train, chosen.batch_size, chosen.seed, step))
        train_step(session, windows, schedule.lr(step))
    ours = weights(ladder[0] / "run" / "rung-2048")
    assert all(torch.equal(value, ours[name]) for name, value in session.model.named_parameters())


def test_what_is_done_is_not_done_again_and_a_rung_can_be_added(ladder, text):
    folder, _ = ladder
    before = read_ledger(folder / "ledger.jsonl")
    train_ladder(settings(text), (1024, 2048, 4096), text, places(folder), RunOptions(), Stop())
    assert read_ledger(folder / "ledger.jsonl") == before
    train_ladder(settings(text), (3072,), text, places(folder), RunOptions(save_every=1e9), Stop())
    added = read_ledger(folder / "ledger.jsonl")[len(before) :]
    assert sum(work.tokens for work in added) < 3072
    assert len(read_runs(folder / "runs.jsonl").runs) == 4


def test_the_ledger_books_what_the_formula_says(text, tmp_path):
    chosen = settings(text)
    train_ladder(chosen, (1280, 2560), text, places(tmp_path), RunOptions(save_every=1e9), Stop())
    assert booked(tmp_path) == planned_steps(chosen, (1280, 2560)) * chosen.batch_tokens == 2560 + 0.2 * 1280


def test_a_finished_rung_loads_and_generates_with_transformers(ladder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(ladder[0] / "run" / "rung-4096" / "model")
    tokenizer = AutoTokenizer.from_pretrained(ladder[0] / "run" / "rung-4096" / "model")
    inputs = tokenizer("model scale", return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=5, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    assert tokenizer.decode(out[0]).startswith("model scale")


def test_evaluation_is_the_mean_over_tokens_with_its_standard_error(ladder, text):
    from transformers import AutoModelForCausalLM

    chosen = settings(text)
    held = eval_set(text.heldout, text.manifest, 10**6)
    model = AutoModelForCausalLM.from_pretrained(ladder[0] / "run" / "rung-4096" / "model")
    found = evaluate(model, chosen, held, "cpu")
    losses = []
    for window in torch.from_numpy(held.examples):
        logits = model(window[None, :-1]).logits
        losses.append(torch.nn.functional.cross_entropy(logits[0], window[1:]).item())
    assert found.loss == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert found.se == pytest.approx(torch.tensor(losses).std().item() / math.sqrt(len(losses)), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(
        found.loss / math.log(2) * text.manifest.heldout.tokens / text.manifest.heldout_bytes
    )


@pytest.mark.slow
def test_ladders_side_by_side_give_what_they_give_in_turn(text, tmp_path):
    folders, before = {}, os.environ.get("PYTHONSAFEPATH")
    for side_by_side in (1, 2):
        root = tmp_path / str(side_by_side)
        jobs = [
            Job(
                settings=chosen,
                rungs=(1024, 2048),
                paths=RunPaths.of(StudyPaths(root), chosen.run),
                data=text.folder,
                work_per_step=1.0,
                steps=planned_steps(chosen, (1024, 2048)),
            )
            for chosen in (settings(text), settings(text, family="other", seed=1))
        ]
        heard = []
        rungs = train_ladders(
            jobs,
            RunOptions(),
            Stop(),
            lambda *said, heard=heard: heard.append(said),
            side_by_side=side_by_side,
        )
        folders[side_by_side] = [
            (rung.observation.run, rung.observation.tokens, rung.observation.loss) for rung in rungs
        ]
        assert {run.run for run in read_runs(root / "runs.jsonl").runs} == {"tiny-s0", "other-s1"}
        assert heard[-1][0] == heard[-1][1]
    assert folders[1] == folders[2]
    assert os.environ.get("PYTHONSAFEPATH") == before, "its workers alone were told"


def test_rungs_that_round_to_one_step_are_one_rung(text, tmp_path):
    rungs = train_ladder(settings(text), (1024, 1030), text, places(tmp_path), RunOptions(), Stop())
    assert [rung.observation.tokens for rung in rungs] == [1024]


# Configuration


def test_a_batch_that_the_text_cannot_fill_is_refused(text, tmp_path):
    with pytest.raises(BadInput, match="one batch needs"):
        train_ladder(
            settings(text, batch_size=100_000, micro_batch=1),
            (4096,),
            text,
            places(tmp_path),
            RunOptions(),
            Stop(),
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": "many"}, "tokens is 'many'"),
        ({"n_embd": 33, "n_head": 2}, "multiple of n_head"),
        ({"family": "gpt2-83"}, "did you mean gpt2-83m"),
        ({"batch_size": 6, "micro_batch": 4}, "must divide"),
        ({"rungs": "1M"}, "none may exceed"),
    ],
)
def test_a_wrong_key_is_one_clear_line(change, message):
    from pydantic import ValidationError

    from scaling.files import first_problem

    with pytest.raises(ValidationError) as caught:
        TrainConfig.model_validate({"family": "gpt2-52m", "data": "x", "tokens": "100k", **change})
    assert message in first_problem(caught.value)
    assert "\n" not in first_problem(caught.value)
