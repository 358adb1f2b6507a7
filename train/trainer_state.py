"""trainer_state.json: a run's account of itself in the shape of Hugging Face's Trainer, which existing plotters read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from families import params_non_embedding
from scaling.files import write_whole

from .config import Settings
from .rung import RungFile

STATE = "trainer_state.json"
METRICS = "metrics.jsonl"


def write_state(branch: Path, trunk: Path, settings: Settings, rung: RungFile, train_tokens: int) -> Path:
    """Write a rung's trainer_state.json beside its metrics.

    Args:
        trunk: the folder of the steps before the branch's own.
        train_tokens: those that an epoch goes through once; with data_fraction= a share of the training split.
    """
    path = branch / STATE
    state = trainer_state(history(branch, trunk), settings, rung, train_tokens)
    write_whole(path, json.dumps(state, indent=2, allow_nan=False) + "\n")
    return path


def history(branch: Path, trunk: Path) -> list[dict[str, Any]]:
    """The lines of metrics that lead to a rung: the trunk's up to where the branch's own begin, then those."""
    own = _lines(branch / METRICS)
    before = own[0]["step"] if own else float("inf")
    return [line for line in _lines(trunk / METRICS) if line["step"] < before] + own


def trainer_state(
    lines: Sequence[dict[str, Any]], settings: Settings, rung: RungFile, train_tokens: int
) -> dict[str, Any]:
    """The state of a Trainer at the rung's end (transformers.TrainerState).

    Looks at a little held-out text on the way stand under eval_glance_loss, as of another evaluation set: eval_loss is
    the rung's own. total_flos is the Trainer's count, 6 · tokens · parameters without embeddings.
    """
    run, batch = rung.observation, settings.batch_tokens
    steps = round(run.tokens / batch)

    def place(step: int) -> dict[str, Any]:
        return {"epoch": step * batch / train_tokens, "num_input_tokens_seen": step * batch, "step": step}

    log: list[dict[str, Any]] = []
    for line in lines:
        logged = {"loss": line["loss"], "learning_rate": line["lr"], "grad_norm": line["grad_norm"]}
        log.append({**logged, **place(line["step"])})
        if "eval_loss" in line:
            log.append({"eval_glance_loss": line["eval_loss"], **place(line["step"])})
    log.append({"eval_loss": run.loss, **place(steps)})
    flos = 6.0 * run.tokens * params_non_embedding(settings.spec())
    wall = run.wall_s or 0.0
    if wall:
        speed = {
            "train_steps_per_second": steps / wall,
            "train_samples_per_second": steps * settings.batch_size / wall,
        }
        summary = {"train_runtime": wall, "train_loss": _mean(lines), "total_flos": flos, **speed}
        log.append({**summary, **place(steps)})
    return {
        "best_global_step": None,
        "best_metric": None,
        "best_model_checkpoint": None,
        "epoch": steps * batch / train_tokens,
        "eval_steps": steps,
        "global_step": steps,
        "is_hyper_param_search": False,
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": log,
        "logging_steps": lines[0]["step"] if lines else steps,
        "max_steps": steps,
        "num_input_tokens_seen": steps * batch,
        "num_train_epochs": max(1, -(-steps * batch // train_tokens)),
        "save_steps": steps,
        "stateful_callbacks": {},
        "total_flos": flos,
        "train_batch_size": settings.micro_batch,
        "trial_name": settings.run,
        "trial_params": None,
    }


def _mean(lines: Sequence[dict[str, Any]]) -> float | None:
    """Mean loss over all steps: each line is the mean of the steps since the one before."""
    total, last = 0.0, 0
    for line in lines:
        total += line["loss"] * (line["step"] - last)
        last = line["step"]
    return total / last if last else None


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a metrics file; a torn last one, which a kill can leave, is not there yet."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in text if line.endswith("\n")]
