"""Trainings of Lightning recorded by LightningRunLogger: the real Lightning where it is installed, a stand-in of its hooks."""

import json
from types import SimpleNamespace

import pytest

from families import ModelSpec, params, train_flops_per_token
from scaling.extras import importable
from scaling.runs.readers import read_runs

SPEC = ModelSpec(n_layer=1, n_head=2, n_embd=8, n_positions=16, vocab_size=64)

REAL = importable("lightning.pytorch") or importable("pytorch_lightning")


@pytest.fixture
def logger_class(monkeypatch):
    """LightningRunLogger, over a class of no hooks where Lightning is not installed."""
    from scaling.integrations import lightning

    if not REAL:
        monkeypatch.setattr(lightning, "Callback", type("Callback", (), {}))
    return lightning.LightningRunLogger


@pytest.mark.skipif(REAL, reason="Lightning is installed")
def test_without_lightning_the_logger_names_what_it_needs(tmp_path):
    from scaling.integrations import LightningRunLogger

    with pytest.raises(ImportError, match="pip install lightning"):
        LightningRunLogger(tmp_path, "a")


class Loss(float):
    """A float with what the logger asks of a tensor."""

    def detach(self):
        return self


def drive(logger, steps, *, start=0, checkpoint=None, micro=2, world=2, rank=0):
    """Call the hooks in the order and with the values that Lightning's loop calls them."""
    optimizer = SimpleNamespace(param_groups=[{"lr": 1e-3, "initial_lr": 2e-3}])
    trainer = SimpleNamespace(
        global_step=start, is_global_zero=rank == 0, world_size=world, log_every_n_steps=2, sanity_checking=True,
        estimated_stepping_batches=8, optimizers=[optimizer], callback_metrics={"val_loss": 9.0, "train_loss": 1.0},
    )  # fmt: skip
    module = SimpleNamespace(config=None)
    if checkpoint is not None:
        logger.load_state_dict(checkpoint)
    logger.on_validation_end(trainer, module)  # Lightning's check before training
    trainer.sanity_checking = False
    logger.on_train_start(trainer, module)
    batch = {"attention_mask": SimpleNamespace(shape=(4, 16)), "input_ids": SimpleNamespace(shape=(4, 16))}
    for step in range(start + 1, start + steps + 1):
        for part in range(micro):
            trainer.global_step = step if part == micro - 1 else step - 1
            logger.on_train_batch_end(trainer, module, {"loss": Loss(4.0 / micro)}, batch, part)
        trainer.callback_metrics = {"val_loss": 5 - step / 10, "train_loss": 1.0}
        if step % 4 == 0:
            logger.on_validation_end(trainer, module)
    logger.on_train_end(trainer, module)
    return logger.state_dict()


def test_the_hooks_leave_one_row_with_tokens_of_all_micro_batches_and_processes(logger_class, tmp_path):
    kept = drive(logger_class(tmp_path, "a-s0", model=SPEC, seed=1), 4)
    drive(logger_class(tmp_path, "a-s0", model=SPEC, seed=1), 4, start=4, checkpoint=kept)
    (row,) = read_runs(tmp_path / "runs.jsonl")
    tokens = 8 * 2 * 2 * 4 * 16
    assert (row.tokens, row.batch_tokens, row.n_positions) == (tokens, tokens / 8, 16)
    assert (row.params, row.compute) == (params(SPEC), tokens * train_flops_per_token(SPEC))
    assert (row.loss, row.lr, row.eval_set, row.seed, row.annealed) == (4.2, 2e-3, "held-out", 1, True)
    lines = [json.loads(line) for line in (tmp_path / "runs/a-s0/log/metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines if "loss" in line] == [
        (step, 4.0) for step in (2, 4, 6, 8)
    ]


def test_other_processes_write_nothing(logger_class, tmp_path):
    drive(logger_class(tmp_path, "a-s0", model=SPEC), 8, rank=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not REAL, reason="Lightning is not installed")
def test_a_real_lightning_training_is_recorded(logger_class, tmp_path):
    import torch

    try:
        import lightning.pytorch as pl
    except ImportError:
        import pytorch_lightning as pl

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(64, 64)

        def training_step(self, batch, index):
            return torch.nn.functional.cross_entropy(
                self.table(batch["input_ids"]).flatten(0, 1), batch["input_ids"].flatten()
            )

        def validation_step(self, batch, index):
            self.log("val_loss", self.training_step(batch, index))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = torch.utils.data.DataLoader([{"input_ids": torch.arange(16)} for _ in range(64)], batch_size=4)
    logger = logger_class(tmp_path / "study", "a-s0", model=SPEC)
    trainer = pl.Trainer(
        max_steps=8, accumulate_grad_batches=2, callbacks=[logger], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, accelerator="cpu", log_every_n_steps=2, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Module(), data, data)
    (row,) = read_runs(tmp_path / "study" / "runs.jsonl")
    assert (row.tokens, row.batch_tokens, row.lr, row.eval_set) == (8 * 2 * 4 * 16, 128, 0.1, "held-out")
    assert row.loss == pytest.approx(float(trainer.callback_metrics["val_loss"]))
    lines = [
        json.loads(line) for line in (tmp_path / "study/runs/a-s0/log/metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8]
    assert all(row.loss < line["loss"] < 6 for line in lines if "loss" in line)
