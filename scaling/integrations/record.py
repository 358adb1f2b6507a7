"""Record of a training that runs elsewhere, written into a study as `scaling train` writes its own runs.

    run = start("mine", "small-s0", model=config, batch_tokens=65_536, lr=1e-3, steps=10_000)
    log(run, step, loss=train_loss, lr=lr)
    log(run, 10_000, eval_loss=held_out_loss)
    finish(run)

Into mine/runs/small-s0 go runs.jsonl (the observations that `fit` reads), metrics.jsonl and underway.json (the curve and
the schedule that `watch` reads). Only the losses at a schedule's end are observations: those before it lie above.
"""

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from families import ModelSpec, member, params, params_non_embedding, spec_of_config, train_flops_per_token
from families.configs import is_config_path, is_estimated, read_config
from families.rules import maker_of
from families.units import BadInput

from ..files import StrPath, atomic_write, clear_io_errors, first_problem, open_to_append
from ..monitoring.curves import LOG, METRICS, PlannedRung, RunPlan, json_rows
from ..paths import StudyPaths, open_study, safe_name
from ..runs import Run
from ..runs.store import RUNS, record_run

_SAME = ("params", "batch_tokens", "lr")  # facts of a run that a resumed training shares with its beginning

_DECAYING = {"linear": "wsd", "cosine": "cosine", "constant": "wsd", "constant_with_warmup": "wsd",
             "warmup_stable_decay": "wsd", "wsd": "wsd"}  # fmt: skip


class UnknownModel(BadInput):
    """A configuration that cannot be counted."""


@dataclass(slots=True)
class LoggedRun:
    """A training on its way into a study.

    Args:
        paths: the study.
        name: name of the run, and of its folder in the study's runs/.
        facts: fields of `Run` that all its rows share.
        steps: planned optimiser steps; None where they are not known.
        flops_per_token: exact training FLOPs; None where the model is not known exactly.
        eval_set: name of the held-out text where an evaluation gives none.
        writes: False in every process but the first, which then writes nothing.
        wall_before: seconds of training before this session.
        overhead_s: seconds spent in recording, of this session.
        runs: observations of this session.
        step: optimiser steps made so far.
        began: `time.perf_counter` at the session's start.
    """

    paths: StudyPaths
    name: str
    facts: dict[str, Any]
    steps: int | None
    flops_per_token: int | None
    eval_set: str
    writes: bool
    wall_before: float = 0.0
    overhead_s: float = 0.0
    runs: list[Run] = field(default_factory=list)
    step: int = 0
    began: float = field(default_factory=time.perf_counter)
    _tokens: float = 0.0
    _pending: dict[str, Run] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.paths.run_folder(self.name)

    @property
    def wall_s(self) -> float:
        """Seconds of training so far, those before an interruption included."""
        return self.wall_before + time.perf_counter() - self.began


@contextmanager
def _timed(run: LoggedRun) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        run.overhead_s += time.perf_counter() - began


def start(
    study: StrPath,
    name: str,
    *,
    model: Any = None,
    n_params: int | None = None,
    n_params_non_embedding: int | None = None,
    batch_tokens: float | None = None,
    n_positions: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    group: str = "",
    schedule: str = "",
    warmup: int = 0,
    decay_steps: int | None = None,
    steps: int | None = None,
    step: int = 0,
    eval_set: str = "held-out",
    unique_tokens: float | None = None,
    accelerator: str = "",
    rank: int | None = None,
) -> LoggedRun:
    """Begin to record a training, or go on with one that was interrupted.

    Args:
        study: folder of the study; made where it is missing.
        name: name of the run.
        model: what N and FLOPs are counted from: a `ModelSpec`, a Hugging Face configuration (object, dictionary or path),
            the name of a published member, or a module of torch, which counts parameters only.
        n_params: all parameters, where there is no model.
        n_params_non_embedding: parameters without embeddings, where there is no model.
        batch_tokens: tokens of one optimiser step over all devices, gradient accumulation included.
        n_positions: length of the training sequences; default: the model's context.
        lr: largest learning rate.
        seed: seed of the run.
        group: name of text and tokenizer; one law per group.
        schedule: linear, cosine, constant or wsd; other names are recorded, and such a run cannot be watched.
        warmup: steps of warm-up.
        decay_steps: steps of the decay at the end, with schedule="wsd".
        steps: planned optimiser steps. Without them the last evaluation before `finish` counts as the final loss.
        step: steps already trained: 0, or those of the checkpoint that a training resumes from.
        eval_set: name of the held-out text.
        unique_tokens: distinct tokens of the training text; default: all tokens are.
        accelerator: devices, like "8xNVIDIA H200".
        rank: of this process; default: as torch.distributed, RANK or SLURM_PROCID say. Only rank 0 writes.

    Raises:
        BadInput: a value that no run can have, a model that cannot be counted, a finished run of that name, or a run of that
            name with another size, batch or learning rate.
    """
    if safe_name(name) != name:
        raise BadInput(
            f"name is {name!r}; a run's name is a folder, with letters, digits and ._=-: {safe_name(name)!r}"
        )
    paths = open_study(study)
    counts, rate = _counted(model, n_params, n_params_non_embedding, n_positions)
    facts = {
        "run": name, "group": group, **counts, "batch_tokens": batch_tokens, "lr": lr, "seed": seed,
        "schedule": schedule, "accelerator": accelerator, "unique_tokens": unique_tokens,
    }  # fmt: skip
    facts = {key: value for key, value in facts.items() if value is not None}
    _run({**facts, "tokens": batch_tokens or 1.0, "loss": 1.0})  # a wrong fact is named before training
    writes = (process_rank() if rank is None else rank) == 0
    run = LoggedRun(
        paths=paths, name=name, facts=facts, steps=steps, flops_per_token=rate, eval_set=eval_set, writes=writes,
        step=step,
    )  # fmt: skip
    if writes:
        _open(run, _plan(facts, steps, schedule, warmup, decay_steps))
    return run


def log(
    run: LoggedRun,
    step: int,
    *,
    tokens: float | None = None,
    loss: float | None = None,
    lr: float | None = None,
    grad_norm: float | None = None,
    eval_loss: float | None = None,
    eval_set: str | None = None,
    loss_se: float | None = None,
) -> None:
    """Record a step's losses, in nats per token.

    Args:
        run: the run, from `start`.
        step: optimiser steps made so far.
        tokens: tokens trained on so far; default: step × batch_tokens.
        loss: training loss, the mean over the steps since the line before.
        lr: learning rate of the step.
        grad_norm: gradient norm before clipping.
        eval_loss: loss on held-out text. At the last step of the schedule it becomes an observation.
        eval_set: name of that text; default: as `start` was told.
        loss_se: standard error of `eval_loss`.

    Raises:
        BadInput: a loss that is none, tokens that are unknown, or a file that cannot be written.
    """
    if not run.writes:
        return
    with _timed(run):
        run.step = max(run.step, step)
        batch = run.facts.get("batch_tokens")
        seen = tokens if tokens is not None else step * batch if batch else None
        if seen:
            run._tokens = max(run._tokens, seen)
        own = eval_set is None or eval_set == run.eval_set
        line = {"step": step, "loss": loss, "lr": lr, "grad_norm": grad_norm, "eval_loss": eval_loss if own else None,
                "tokens": seen, "wall_s": round(run.wall_s, 3)}  # fmt: skip
        if loss is not None or line["eval_loss"] is not None:
            _append_metrics(run, line)
        if eval_loss is None:
            return
        if not seen:
            raise BadInput(
                f"{run.name}: the tokens of step {step} are unknown; state batch_tokens, or tokens with each evaluation"
            )
        name = eval_set or run.eval_set
        observed = _observation(run, seen, eval_loss, name, loss_se)
        if run.steps is None:
            run._pending = {key: kept for key, kept in run._pending.items() if kept.tokens == seen}
            run._pending[name] = observed
        elif step >= run.steps:
            _record(run, observed)


def finish(run: LoggedRun) -> tuple[Run, ...]:
    """Close the record; returns the run's observations of this session.

    Where `start` was not told the planned steps, the evaluations at the last step become observations now. A training that
    stopped before its planned steps has none: its learning rate had not decayed.

    Raises:
        BadInput: a file cannot be written.
    """
    with _timed(run):
        for observed in run._pending.values():
            if observed.tokens >= run._tokens:
                _record(run, observed)
        run._pending = {}
    return tuple(run.runs)


def process_rank() -> int:
    """Rank of this process among those of the training; 0 where there is one."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    variable = "RANK" if "RANK" in os.environ else "SLURM_PROCID"
    text = os.environ.get(variable, "0")
    return int(text) if text.isdecimal() else 0


def devices_name(devices: int) -> str:
    """Name of the devices in a run's record: "cpu", "NVIDIA H200", "8xNVIDIA H200"; "" where torch is not loaded."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return ""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return name if devices == 1 else f"{devices}x{name}"


def parameter_counts(module: Any) -> tuple[int, int]:
    """(all parameters, those outside of embeddings) of a module of torch; shared ones count once."""
    sizes = {id(parameter): parameter.numel() for parameter in module.parameters()}
    embedded = {
        id(parameter)
        for part in module.modules()
        if type(part).__name__ == "Embedding"
        for parameter in part.parameters(recurse=False)
    }
    total = sum(sizes.values())
    return total, total - sum(size for key, size in sizes.items() if key in embedded)


def _counted(
    model: Any, total: int | None, body: int | None, context: int | None
) -> tuple[dict[str, Any], int | None]:
    """The counts of a model as fields of `Run`, and its exact training FLOPs per token where they are known."""
    if model is None and (total or body):
        return {"params": total, "params_non_embedding": body, "n_positions": context}, None
    if model is None:
        raise UnknownModel(
            "the size of the model is not stated; model, n_params or n_params_non_embedding states it"
        )
    if callable(getattr(model, "parameters", None)) and not hasattr(model, "config"):
        total, body = parameter_counts(model)
        return {"params": total, "params_non_embedding": body, "n_positions": context}, None
    try:
        spec = _spec(model)
    except BadInput as error:
        raise UnknownModel(str(error)) from error
    length = context or spec.n_positions
    counts: dict[str, Any] = {
        "params": params(spec) if total is None else total,
        "params_non_embedding": params_non_embedding(spec) if body is None else body,
        "n_positions": length,
        "vocab_size": spec.vocab_size,
        "architecture": "" if spec.architecture == "gpt2" else maker_of(spec),
        "n_layer": spec.n_layer,
        "n_embd": spec.n_embd,
        "n_head": spec.n_head,
    }
    rate = None if is_estimated(spec) else train_flops_per_token(replace(spec, n_positions=length))
    return counts, rate


def _spec(model: Any) -> ModelSpec:
    """The shape of a model.

    Raises:
        BadInput: it is of another type, or of an architecture that is not known.
    """
    if isinstance(model, ModelSpec):
        return model
    if isinstance(model, str | os.PathLike):
        text = os.fspath(model)
        return read_config(text).spec if is_config_path(text) else member(text).spec
    config = getattr(model, "config", model)
    if callable(getattr(config, "to_dict", None)):
        config = config.to_dict()
    if not isinstance(config, Mapping):
        raise BadInput(
            f"model is a {type(model).__name__}; it must be a ModelSpec, a configuration of transformers, its path, the "
            "name of a published member, or a module of torch"
        )
    return spec_of_config(config)


def _plan(
    facts: Mapping[str, Any], steps: int | None, schedule: str, warmup: int, decay_steps: int | None
) -> RunPlan | None:
    """The run's schedule as `watch` reads it; None where it is not known in full, or of a kind that is not understood."""
    kind = _DECAYING.get(schedule)
    batch, lr, size = (facts.get(name) for name in ("batch_tokens", "lr", "params"))
    if steps is None or kind is None or not (batch and lr and size):
        return None
    decay = {"linear": steps - warmup, "warmup_stable_decay": decay_steps, "wsd": decay_steps}.get(
        schedule, 0
    )
    return RunPlan(
        run=facts["run"],
        rungs=(PlannedRung(steps=steps, folder=LOG, cooldown=min(1.0, (decay or 0) / steps)),),
        batch_tokens=round(batch),
        lr=lr,
        warmup=warmup,
        schedule="cosine" if kind == "cosine" else "wsd",
        params=round(size),
        params_non_embedding=round(facts.get("params_non_embedding") or 0),
        group=facts["group"],
    )


def _open(run: LoggedRun, plan: RunPlan | None) -> None:
    """Check what the run's folder holds of it, and cut off the lines of steps that are trained again.

    Raises:
        BadInput: the folder holds a finished run and this one begins anew, or a run of another size, batch or rate.
    """
    folder = run.folder
    claim(folder, run.step)
    recorded = _rows(folder)
    underway = folder / "underway.json"
    if run.step:
        before = RunPlan.read(underway).model_dump() if underway.exists() else recorded[0] if recorded else {}
        for key in _SAME:
            now, then = run.facts.get(key), before.get(key)
            if now is not None and then is not None and not math.isclose(now, then, rel_tol=1e-6):
                raise BadInput(
                    f"{folder} holds a run with {key} {then:g}, and this one has {now:g}; choose another name"
                )
    metrics = folder / LOG / METRICS
    lines = [row for row in json_rows(metrics) if row.get("step", math.inf) <= run.step] if run.step else []
    run.wall_before = max((row.get("wall_s", 0.0) for row in lines), default=0.0)
    atomic_write(metrics, "".join(f"{json.dumps(row)}\n" for row in lines))
    if plan is not None:
        plan.write(underway)
    else:
        underway.unlink(missing_ok=True)


def claim(folder: Path, step: int) -> None:
    """Make the folder of a run, before its training begins.

    Args:
        folder: the folder.
        step: steps already trained; a run that begins anew must not have finished there.

    Raises:
        BadInput: the folder holds a finished run, or cannot be made.
    """
    if not step and (_rows(folder) or any(folder.glob("*/rung.json"))):
        raise BadInput(f"{folder} holds a finished run; choose another name, or remove the folder")
    with clear_io_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [row for row in json_rows(folder / RUNS) if "kind" not in row]


def _append_metrics(run: LoggedRun, line: Mapping[str, Any]) -> None:
    """Append a line of the curve. It is not synchronised: losing the last lines to a power cut loses no observation."""
    stated = {
        key: value
        for key, value in line.items()
        if value is not None and (not isinstance(value, float) or math.isfinite(value))
    }
    path = run.folder / LOG / METRICS
    with clear_io_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_to_append(path) as file:
            file.write(json.dumps(stated).encode() + b"\n")


def _observation(run: LoggedRun, tokens: float, loss: float, eval_set: str, se: float | None) -> Run:
    exact = run.flops_per_token
    return _run(
        {
            **run.facts,
            "tokens": tokens,
            "loss": loss,
            "loss_se": se,
            "eval_set": eval_set,
            "wall_s": round(run.wall_s, 3),
            **({"compute": float(exact * tokens), "compute_kind": "exact"} if exact else {}),
        }
    )


def _run(values: Mapping[str, Any]) -> Run:
    try:
        return Run.model_validate(values)
    except ValidationError as error:
        raise BadInput(f"{values['run']}: {first_problem(error)}") from error


def _record(run: LoggedRun, observed: Run) -> None:
    record_run(run.folder / RUNS, observed)
    run.runs.append(observed)
