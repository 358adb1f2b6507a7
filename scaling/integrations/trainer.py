"""Callback for transformers' Trainer that records a training in a study."""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from families.units import BadInput

from ..extras import importable, training_needs
from ..files import StrPath
from ..paths import StudyPaths, safe_name
from .record import LoggedRun, UnknownModel, claim, devices_name, finish, log, parameter_counts, start

if importable("transformers"):
    from transformers import TrainerCallback
else:
    TrainerCallback = object


_LOGGER = logging.getLogger(__name__)


class RunLogger(TrainerCallback):
    """Record a training of transformers' Trainer as a run of a study: `Trainer(…, callbacks=[RunLogger("mine")])`.

    N and training FLOPs are counted from the model's configuration. Tokens are those that the Trainer counts over all
    processes and micro-batches: its num_input_tokens_seen where that is switched on, else its total_flos. The loss at the
    schedule's last step becomes an observation; evaluate there, or call `trainer.evaluate()` after training. A resumed
    training continues its record. After training has begun, a file that cannot be written is a warning and no error.

    Args:
        study: folder of the study.
        name: name of the run; default: the Trainer's run_name, else the name of its output folder.
        group: name of text and tokenizer; one law per group.
        eval_set: name of the held-out text. With several evaluation sets the Trainer's own names count.
        n_positions: length of the training sequences; default: as the Trainer's counts say.
        unique_tokens: distinct tokens of the training text.
    """

    def __init__(
        self,
        study: StrPath = "study",
        name: str | None = None,
        *,
        group: str = "",
        eval_set: str = "held-out",
        n_positions: int | None = None,
        unique_tokens: float | None = None,
    ) -> None:
        if TrainerCallback is object:
            raise ImportError(f"RunLogger {training_needs(['transformers'])}")
        self.study, self.name, self.group = study, name, group
        self.eval_set, self.n_positions, self.unique_tokens = eval_set, n_positions, unique_tokens
        self.run: LoggedRun | None = None
        self._trained = Session()
        self._said: set[str] = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin, or go on with, the run's record.

        Args:
            args: the TrainingArguments.
            state: the TrainerState.
            control: not used.
            kwargs: model and optimizer are used.

        Raises:
            BadInput: the study holds a finished run of that name, or its folder cannot be made.
        """
        if not state.is_world_process_zero:
            return
        self.run = None
        self._trained = Session(
            model=kwargs.get("model"),
            optimizer=kwargs.get("optimizer"),
            began_at=state.global_step,
            began=time.perf_counter(),
            synced=(state.global_step, _seen(state, kwargs.get("model"))),
        )
        claim(StudyPaths(Path(self.study)).run_folder(self._run_name(args)), state.global_step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Record the training loss since the last logged step.

        Args:
            args: the TrainingArguments.
            state: the TrainerState.
            control: not used.
            logs: what the Trainer logs.
            kwargs: not used.
        """
        if logs and _is_finite(logs.get("loss")) and state.is_world_process_zero:
            rate, norm = logs.get("learning_rate"), logs.get("grad_norm")
            self._log(args, state, loss=logs["loss"], lr=rate, grad_norm=norm)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Record held-out losses, each under the name of its evaluation set.

        Args:
            args: the TrainingArguments.
            state: the TrainerState.
            control: not used.
            metrics: of the evaluation.
            kwargs: not used.
        """
        if not state.is_world_process_zero or not metrics or not state.global_step:
            return
        if args.load_best_model_at_end and self._trained.ended:
            self._say("an evaluation after training is of the best checkpoint, not of the last: not recorded")
            return
        for eval_set, loss in _held_out(metrics).items():
            if not (_is_finite(loss) and loss > 0):
                self._say(f"the loss on {eval_set or self.eval_set} is {loss}: not recorded")
                continue
            self._log(args, state, eval_loss=float(loss), eval_set=eval_set or None)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the record, and warn where no final loss was evaluated.

        Args:
            args: the TrainingArguments.
            state: the TrainerState.
            control: not used.
            kwargs: not used.
        """
        if not state.is_world_process_zero:
            return
        self._trained.ended = True
        if self.run is None:
            self._start(args, state)
        if self.run is None:
            return
        finish(self.run)
        if state.global_step < state.max_steps:
            self._say(
                f"training stopped at step {state.global_step} of {state.max_steps}, before its learning rate had decayed: "
                "no final loss is recorded"
            )
        elif not self.run.runs:
            self._say("no evaluation at the last step: trainer.evaluate() records the final loss")

    def _run_name(self, args: Any) -> str:
        return self.name or safe_name(args.run_name or Path(args.output_dir).resolve().name)

    def _start(self, args: Any, state: Any) -> None:
        """Open the record as soon as the tokens of a step are known: at the Trainer's first log, mostly."""
        trained = self._trained
        seen = _seen(state, trained.model)
        sequences = _sequences(args, state)
        steps = state.global_step - trained.synced[0]
        if self.n_positions:
            batch = float(self.n_positions * sequences)
        elif steps and seen > trained.synced[1]:
            batch = (seen - trained.synced[1]) / steps
        else:
            return
        context = self.n_positions or _whole(batch / sequences)
        try:
            self.run = self._opened(args, state, batch, context)
        except BadInput as error:
            self._say(f"nothing is recorded: {error}")
            trained.failed = True
            return
        self.run.began = trained.began
        if context is None:
            self._without_flops("sequences differ in length")
        early, trained.early = trained.early, []
        for step, values in early:
            self._write(step, seen + (step - state.global_step) * batch, values)

    def _opened(self, args: Any, state: Any, batch: float, context: int | None) -> LoggedRun:
        """The run's record, with sizes by the model's configuration, or as the model has them where that is unknown."""
        trained = self._trained
        groups = trained.optimizer.param_groups if trained.optimizer is not None else []
        rate = groups[0].get("initial_lr", groups[0]["lr"]) if groups else args.learning_rate
        options = args.lr_scheduler_kwargs if isinstance(args.lr_scheduler_kwargs, dict) else {}
        facts: dict[str, Any] = {
            "batch_tokens": batch, "n_positions": context, "lr": float(rate), "seed": args.seed, "group": self.group,
            "schedule": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
            "warmup": args.get_warmup_steps(state.max_steps), "decay_steps": options.get("num_decay_steps"),
            "steps": state.max_steps, "step": trained.began_at, "eval_set": self.eval_set,
            "unique_tokens": self.unique_tokens, "accelerator": devices_name(args.world_size), "rank": 0,
        }  # fmt: skip
        name, model = self._run_name(args), trained.model
        total, body = parameter_counts(model)
        own: dict[str, Any] = {"n_params": total, "n_params_non_embedding": body}
        try:
            run = start(self.study, name, model=getattr(model, "config", None), **facts)
        except UnknownModel as error:
            run = start(self.study, name, **own, **facts)
            self.run = run
            self._without_flops(str(error))
        if total and run.facts.get("params") != total:
            self.run = run
            self._without_flops(
                f"the configuration has {run.facts['params']:,} parameters and the model {total:,}"
            )
            run.facts.update(params=total, params_non_embedding=body)
        elif any(not parameter.requires_grad for parameter in model.parameters()):
            self.run = run
            self._without_flops("some parameters are frozen")
        return run

    def _without_flops(self, reason: str) -> None:
        if self.run is not None and self.run.flops_per_token is not None:
            self.run.flops_per_token = None
            self._say(f"{reason}, so exact FLOPs are not recorded")

    def _log(self, args: Any, state: Any, **values: Any) -> None:
        trained = self._trained
        if self.run is None and not trained.failed:
            self._start(args, state)
        if self.run is None:
            trained.early.append((state.global_step, values))
            return
        seen = _seen(state, trained.model)
        if seen > trained.synced[1]:
            trained.synced = state.global_step, seen
        step, tokens = trained.synced  # total_flos is brought up to date when the Trainer logs
        lag = (state.global_step - step) * self.run.facts["batch_tokens"]
        self._write(state.global_step, tokens + lag, values)

    def _write(self, step: int, tokens: float, values: Mapping[str, Any]) -> None:
        if self.run is not None:
            try:
                log(self.run, step, tokens=round(tokens), **values)
            except BadInput as error:  # a full disk must not end a training
                self._say(str(error))

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            _LOGGER.warning("RunLogger: %s", text)


@dataclass(slots=True)
class Session:
    """One call of Trainer.train.

    Args:
        model: the model in training.
        optimizer: its optimiser, which holds the largest learning rate.
        began_at: step at which it began; above 0 where it resumed.
        began: `time.perf_counter` then.
        synced: a step, and the tokens that the Trainer had counted up to it.
        early: losses logged before the tokens of a step were known.
        ended: True after training.
        failed: True where the record could not be opened.
    """

    model: Any = None
    optimizer: Any = None
    began_at: int = 0
    began: float = 0.0
    synced: tuple[int, float] = (0, 0.0)
    early: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    ended: bool = False
    failed: bool = False


def _seen(state: Any, model: Any) -> float:
    """Tokens so far by the Trainer's counts, over all processes; 0 where it has none.

    Without num_input_tokens_seen they follow from total_flos, 6 · tokens · parameters outside of embeddings.
    """
    if state.num_input_tokens_seen:
        return float(state.num_input_tokens_seen)
    count = getattr(model, "num_parameters", None)
    return state.total_flos / (6 * int(count(exclude_embeddings=True))) if callable(count) else 0.0


def _sequences(args: Any, state: Any) -> int:
    """Sequences of one optimiser step, over all processes and micro-batches."""
    here = state.train_batch_size or args.train_batch_size
    return int(here * max(1, args.world_size) * args.gradient_accumulation_steps)


def _whole(value: float) -> int | None:
    return round(value) if value >= 1 and math.isclose(value, round(value), rel_tol=1e-9) else None


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _held_out(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Losses of an evaluation by the name of its set, "" for the plain one.

    Each evaluation has PREFIX_loss and PREFIX_runtime, with the prefix eval or eval_NAME; losses that a
    compute_metrics function adds have no run time.
    """
    found = {}
    for key, value in metrics.items():
        prefix = key.removesuffix("_loss")
        if prefix != key and f"{prefix}_runtime" in metrics:
            found["" if prefix == "eval" else prefix.removeprefix("eval_")] = value
    return found
