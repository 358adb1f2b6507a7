"""Trainings that run elsewhere, recorded by RunLogger and its relatives: their rows are those that `fit` reads."""

import json
import logging
import subprocess
import sys

import pytest

from families import ModelSpec, params, params_non_embedding, train_flops_per_token
from families.units import BadInput
from scaling.cli.fit import DOUBTFUL
from scaling.integrations import finish, log, start
from scaling.monitoring import watch
from scaling.runs.readers import read_runs
from scaling.runs.store import exists

CONTEXT = 16


def rows(study):
    """Observations of a study, in the order of their runs."""
    if not exists(study / "runs.jsonl"):
        return ()
    return read_runs(study / "runs.jsonl").runs


# Three functions


def test_three_functions_write_the_row_that_fit_reads(tmp_path):
    spec = ModelSpec(n_layer=2, n_head=2, n_embd=32, n_positions=64, vocab_size=300)
    run = start(
        tmp_path,
        "a-s0",
        model=spec,
        batch_tokens=512,
        n_positions=32,
        lr=1e-3,
        seed=7,
        schedule="cosine",
        steps=40,
    )
    for step in range(10, 41, 10):
        log(run, step, loss=5 - step / 20, lr=1e-3)
        log(run, step, eval_loss=5 - step / 25)
    (written,) = finish(run)
    (row,) = rows(tmp_path)
    assert (row.params, row.params_non_embedding, row.tokens) == (
        params(spec),
        params_non_embedding(spec),
        40 * 512,
    )
    assert row.compute == 40 * 512 * train_flops_per_token(
        ModelSpec(n_layer=2, n_head=2, n_embd=32, n_positions=32, vocab_size=300)
    )
    assert (row.loss, row.eval_set, row.annealed, row.compute_kind) == (
        5 - 40 / 25,
        "held-out",
        True,
        "exact",
    )
    assert (row.lr, row.batch_tokens, row.seed, row.n_positions) == (1e-3, 512, 7, 32)
    assert written == row


def test_without_planned_steps_the_last_evaluation_is_final(tmp_path):
    run = start(tmp_path, "b", n_params=10_000, batch_tokens=100, lr=1e-3)
    for step in (10, 20):
        for name in ("c4", "wiki"):
            log(run, step, eval_loss=4 - step / 100, eval_set=name)
    assert rows(tmp_path) == ()
    finish(run)
    assert [(row.tokens, row.eval_set) for row in rows(tmp_path)] == [(2000, "c4"), (2000, "wiki")]


def test_a_resumed_run_repeats_no_line_and_no_row(tmp_path):
    def go(step, to):
        run = start(
            tmp_path, "c", n_params=10_000, batch_tokens=100, lr=1e-3, schedule="linear", steps=20, step=step
        )
        for now in range(step + 1, to + 1):
            log(run, now, loss=5 - now / 10)
        return run

    go(0, 15)
    run = go(10, 20)
    log(run, 20, eval_loss=3.0)
    log(run, 20, eval_loss=3.5)  # evaluated again: the first counts
    finish(run)
    lines = [json.loads(line) for line in (run.folder / "log" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 21))
    assert [row.loss for row in rows(tmp_path)] == [3.0]
    with pytest.raises(BadInput, match="finished run"):
        go(0, 1)
    with pytest.raises(BadInput, match=r"lr 0\.001"):
        start(tmp_path, "c", n_params=10_000, batch_tokens=100, lr=2e-3, schedule="linear", steps=20, step=10)


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    run = start(tmp_path, "d", n_params=10_000, batch_tokens=100, steps=1)
    log(run, 1, loss=3.0, eval_loss=3.0)
    assert finish(run) == ()
    assert list(tmp_path.iterdir()) == []


def test_a_recorded_run_is_watched_like_our_own(tmp_path):
    run = start(
        tmp_path, "e", n_params=10_000, batch_tokens=100, lr=1e-3, schedule="linear", warmup=10, steps=400
    )
    for step in range(5, 301, 5):
        log(run, step, loss=3 + 4 * step**-0.5, lr=1e-3)
    seen = watch(run.folder)
    assert seen.state == "no plan"
    assert seen.forecast == pytest.approx(3 + 4 * 400**-0.5, abs=0.2)
    for step in range(305, 401, 5):
        log(run, step, loss=3 + 4 * step**-0.5, lr=1e-3)
    log(run, 400, eval_loss=3.2)
    assert watch(run.folder).state == "finished"


def test_wrong_facts_are_named_before_training(tmp_path):
    with pytest.raises(BadInput, match="name is"):
        start(tmp_path, "../x", n_params=10, batch_tokens=1)
    with pytest.raises(BadInput, match="size of the model"):
        start(tmp_path, "x", batch_tokens=1)
    with pytest.raises(BadInput, match="lr"):
        start(tmp_path, "x", n_params=10, batch_tokens=1, lr=-1)
    assert list(tmp_path.iterdir()) == []


def test_importing_the_loggers_imports_no_trainer():
    code = "import scaling.integrations as i, sys; i.start; assert not {'torch', 'transformers', 'lightning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# transformers' Trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Five trainings of tiny GPT-2s by the Trainer, one of them interrupted and resumed; the study that they wrote."""
    folder = tmp_path_factory.mktemp("trainer")
    study = folder / "study"
    for width, steps in ((8, 8), (16, 8), (8, 16), (16, 16)):
        train(folder / f"w{width}-{steps}", study, width, steps)
    train(folder / "resumed", study, 8, 12, stop=6)
    train(folder / "resumed", study, 8, 12, resume=True)
    return folder


def gpt2(width):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=1, n_head=2, n_embd=width, n_positions=CONTEXT, vocab_size=64, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config)


def train(out, study, width, steps, *, stop=None, resume=False, sets=False, callback=None, **more):
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

    from scaling.integrations import RunLogger

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == stop:
                control.should_training_stop = control.should_save = True

    set_seed(0)
    draws = torch.Generator().manual_seed(1)
    text = [{"input_ids": ids, "labels": ids} for ids in torch.randint(0, 64, (96, CONTEXT), generator=draws)]
    held = {"c4": text[:8], "wiki_text": text[8:16]} if sets else text[:8]
    given = {
        "output_dir": str(out), "max_steps": steps, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "logging_steps": 2, "eval_strategy": "steps", "eval_steps": 4, "save_strategy": "no", "learning_rate": 1e-2,
        "report_to": "none", "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False, "seed": 3, **more,
    }  # fmt: skip
    logger = callback or RunLogger(study, group="noise")
    trainer = Trainer(
        model=gpt2(width), args=TrainingArguments(**given), train_dataset=text, eval_dataset=held,
        callbacks=[logger, Stop()],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_state()
    trainer.save_model()
    return logger


def test_the_trainers_runs_are_read_as_its_own_state_is(trained):
    """The authority is the Trainer's own trainer_state.json, read by the reader of foreign folders."""
    for run in rows(trained / "study"):
        (state,) = [row for row in read_runs(trained / run.run / "trainer_state.json") if row.annealed]
        for name in (
            "params",
            "params_non_embedding",
            "tokens",
            "loss",
            "compute",
            "vocab_size",
            "n_layer",
            "n_embd",
        ):
            assert getattr(run, name) == getattr(state, name), name
        assert run.batch_tokens == 2 * 2 * CONTEXT
        assert (run.lr, run.seed, run.schedule, run.eval_set, run.group) == (
            1e-2,
            3,
            "linear",
            "held-out",
            "noise",
        )
        assert run.compute_kind == "exact"


def test_a_resumed_training_is_one_run_with_all_its_tokens(trained):
    (run,) = [row for row in rows(trained / "study") if row.run == "resumed"]
    assert run.tokens == 12 * 4 * CONTEXT
    lines = [
        json.loads(line)
        for line in (trained / "study/runs/resumed/log/metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8, 10, 12]


def test_fit_reads_a_study_that_the_trainer_wrote(trained, cli):
    result = cli("fit", "--study", trained / "study", "--json")
    assert result.returncode in (0, DOUBTFUL), result.stderr  # noise has no law
    assert len(json.loads(result.stdout)["row_hashes"]) == 5
    assert (trained / "study" / "law.json").exists()


def test_several_eval_sets_are_several_rows(tmp_path):
    train(tmp_path / "sets", tmp_path / "study", 8, 8, sets=True, logging_strategy="no")
    assert sorted(row.eval_set for row in rows(tmp_path / "study")) == ["c4", "wiki_text"]
    assert {row.tokens for row in rows(tmp_path / "study")} == {8 * 4 * CONTEXT}


def test_a_training_that_stops_early_records_no_final_loss(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        train(tmp_path / "early", tmp_path / "study", 8, 8, stop=4)
    assert "before its learning rate had decayed" in caplog.text
    assert rows(tmp_path / "study") == ()


def test_a_full_disk_ends_no_training(tmp_path, monkeypatch, caplog):
    from scaling.integrations import trainer as module

    def full(*_args, **_values):
        raise BadInput("cannot write runs.jsonl: No space left on device")

    monkeypatch.setattr(module, "log", full)
    with caplog.at_level(logging.WARNING):
        logger = train(tmp_path / "full", tmp_path / "study", 8, 4)
    assert logger.run is not None
    assert caplog.text.count("No space left") == 1
