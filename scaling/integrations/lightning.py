"""Callback for Lightning that records a training in a study; of `lightning` or `pytorch_lightning`, whichever is installed."""

import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from families.units import BadInput

from ..extras import importable
from ..files import StrPath
from ..paths import StudyPaths
from ..runs.columns import loss_name
from .record import LoggedRun, UnknownModel, claim, devices_name, finish, log, parameter_counts, start

if importable("lightning.pytorch"):
    from lightning.pytorch import Callback
elif importable("pytorch_lightning"):
    from pytorch_lightning import Callback
else:
    Callback = object

_LOGGER = logging.getLogger(__name__)


class LightningRunLogger(Callback):
    """Record a training of Lightning's Trainer as a run of a study: `Trainer(callbacks=[LightningRunLogger("mine", "a-s0")])`.

    Tokens are those of the batches (`input_ids`, or the first matrix of a batch), times the processes. Held-out losses are
    the logged metrics whose names say so (val_loss, eval/c4/loss). The loss at the last step becomes an observation. A
    resumed training continues its record. After training has begun, a file that cannot be written is a warning.

    Args:
        study: folder of the study.
        name: name of the run.
        model: what N and FLOPs are counted from, as in `start`; default: the module's `config`, or that of its `model`.
        group: name of text and tokenizer; one law per group.
        eval_set: name of the held-out text where the metric names none.
        schedule: of the learning rate: linear, cosine, constant; with another name the run cannot be watched.
        warmup: its steps of warm-up.
        seed: of the run; default: that of seed_everything.
        unique_tokens: distinct tokens of the training text.
    """

    def __init__(
        self,
        study: StrPath,
        name: str,
        *,
        model: Any = None,
        group: str = "",
        eval_set: str = "held-out",
        schedule: str = "",
        warmup: int = 0,
        seed: int | None = None,
        unique_tokens: float | None = None,
    ) -> None:
        if Callback is object:
            raise ImportError("LightningRunLogger needs lightning: pip install lightning")
        self.study, self.name, self.model = study, name, model
        self.eval_set, self.seed = eval_set, seed
        self._facts: dict[str, Any] = {
            "group": group,
            "schedule": schedule,
            "warmup": warmup,
            "unique_tokens": unique_tokens,
        }
        self.run: LoggedRun | None = None
        self._tokens = 0.0  # of all processes, by their batches
        self._lengths: set[int] = set()
        self._began: tuple[int, float, float] = (0, 0.0, 0.0)  # step, tokens and time at the session's start
        self._last = 0  # step of the last line
        self._loss: Any = 0.0  # sum of the losses of the steps since
        self._said: set[str] = set()

    def state_dict(self) -> dict[str, Any]:
        """Tokens so far, kept in Lightning's checkpoints."""
        return {"tokens": self._tokens}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the count of a checkpoint."""
        self._tokens = float(state_dict.get("tokens", 0.0))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin, or go on with, the run's record.

        Raises:
            BadInput: the study holds a finished run of that name, or its folder cannot be made.
        """
        self.run = None
        step = int(trainer.global_step)
        self._began, self._last = (step, self._tokens if step else 0.0, time.perf_counter()), step
        self._tokens, self._loss = self._began[1], 0.0
        if trainer.is_global_zero:
            claim(StudyPaths(Path(self.study)).run_folder(self.name), step)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch's tokens, and record the training loss as often as Lightning logs.

        Args:
            trainer: Lightning's Trainer.
            pl_module: the module in training.
            outputs: of its training_step; a mapping with the loss, or the loss.
            batch: of its data loader; a mapping with input_ids, or a matrix of tokens, alone or the first of several.
            batch_idx: not used.
        """
        if not trainer.is_global_zero:
            return
        shape = _shape(batch)
        if shape is None:
            self._say("a batch has no input_ids and no matrix of tokens: nothing is recorded")
            return
        self._tokens += shape[0] * shape[1] * trainer.world_size
        self._lengths.add(shape[1])
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is not None:
            self._loss = self._loss + loss.detach()  # Lightning has divided it by the micro-batches of a step
        step = int(trainer.global_step)
        if step <= self._began[0] or step == self._last:
            return
        if self.run is None:
            self._start(trainer, pl_module)
        if step - self._last >= trainer.log_every_n_steps:
            mean = float(self._loss) / (step - self._last)
            self._last, self._loss = step, 0.0
            if math.isfinite(mean):
                self._write(step, loss=mean, lr=_rate(trainer, "lr"))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Record held-out losses, each under the name of its evaluation set."""
        if not trainer.is_global_zero or trainer.sanity_checking or self.run is None:
            return
        for key, value in trainer.callback_metrics.items():
            read = loss_name(key)
            if read is None or read.unit != "nats" or read.per or not read.held_out or read.training:
                continue
            loss = float(value)
            if math.isfinite(loss) and loss > 0:
                self._write(int(trainer.global_step), eval_loss=loss, eval_set=read.eval_set or None)
            else:
                self._say(f"{key} is {loss}: not recorded")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Close the record."""
        if trainer.is_global_zero and self.run is not None:
            finish(self.run)
            if not self.run.runs:
                self._say("no validation at the last step: trainer.validate(…) records the final loss")

    def _start(self, trainer: Any, module: Any) -> None:
        steps = trainer.estimated_stepping_batches
        began, tokens, clock = self._began
        length = next(iter(self._lengths)) if len(self._lengths) == 1 else None
        text = os.environ.get("PL_GLOBAL_SEED", "")
        facts: dict[str, Any] = {
            **self._facts, "batch_tokens": (self._tokens - tokens) / (int(trainer.global_step) - began),
            "n_positions": length, "lr": _rate(trainer, "initial_lr"),
            "seed": self.seed if self.seed is not None else int(text) if text.isdecimal() else None,
            "steps": int(steps) if math.isfinite(steps) and steps > 0 else None, "step": began,
            "eval_set": self.eval_set, "accelerator": devices_name(trainer.world_size), "rank": 0,
        }  # fmt: skip
        model = self.model if self.model is not None else _config(module)
        try:
            try:
                self.run = start(self.study, self.name, model=model, **facts)
            except UnknownModel as error:
                total, body = parameter_counts(module)
                self.run = start(self.study, self.name, n_params=total, n_params_non_embedding=body, **facts)
                self._say(f"{error}: the module's own parameters are recorded, without exact FLOPs")
        except BadInput as error:
            self._say(f"nothing is recorded: {error}")
            return
        self.run.began = clock

    def _write(self, step: int, **values: Any) -> None:
        if self.run is None:
            return
        if len(self._lengths) > 1:
            self.run.flops_per_token = None
        try:
            log(self.run, step, tokens=self._tokens, **values)
        except BadInput as error:  # a full disk must not end a training
            self._say(str(error))

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            _LOGGER.warning("LightningRunLogger: %s", text)


def _config(module: Any) -> Any:
    """The configuration of a Lightning module, or of the model in it."""
    for owner in (module, getattr(module, "model", None)):
        config = getattr(owner, "config", None)
        if config is not None:
            return config
    return None


def _rate(trainer: Any, key: str) -> float | None:
    """Learning rate of the first parameter group: "lr" now, "initial_lr" the largest of a schedule."""
    for optimizer in trainer.optimizers or ():
        group = optimizer.param_groups[0]
        return float(group.get(key, group["lr"]))
    return None


def _shape(batch: Any) -> tuple[int, int] | None:
    """(sequences, tokens of each) of a batch; None where nothing in it is a matrix."""
    if isinstance(batch, Mapping):
        batch = batch["input_ids"] if "input_ids" in batch else list(batch.values())
    if isinstance(batch, Sequence):
        return next(filter(None, (_shape(part) for part in batch)), None)
    shape: Sequence[int] = getattr(batch, "shape", ())
    return (int(shape[0]), int(shape[1])) if len(shape) == 2 else None
