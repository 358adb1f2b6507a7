"""DeepSpeed's config JSON of a run, for use elsewhere; DeepSpeed need not be installed."""

import json
from typing import Any

from families.units import BadInput

from .config import Settings
from .distributed import World
from .emitting import EmitJob, Emitted
from .model.objective import ADAM_EPS
from .settings import TextFacts, planned_steps, settings_of, settings_of_planned

FILE = "ds_config.json"


def config_of(
    settings: Settings, devices: int, stage: int, steps: int | None = None, *, dtype: str | None = None
) -> dict[str, Any]:
    """Return the ds_config.json of DeepSpeed's launcher and transformers' Trainer.

    The scheduler is cosine's where the schedule is; a WSD run gets its warm-up and constant trunk, since DeepSpeed has no
    cooldown. Weight decay is of every parameter there: groups are made in code, not in a config.

    Args:
        settings: settings of the run.
        devices: number of processes that share the batch.
        stage: ZeRO stage, 0 to 3.
        steps: steps of the whole run; without it the config names no scheduler.
        dtype: number format, bf16, fp16 or fp32 (default: the settings').

    Raises:
        BadInput: the batch cannot be divided, or an optimiser that DeepSpeed does not have.
    """
    if settings.optimizer != "adamw":
        raise BadInput(f"optimizer is {settings.optimizer}; a DeepSpeed config is written for adamw")
    dtype = dtype or settings.dtype
    share = World(size=devices).local(settings.batch_size)
    micro = next(size for size in range(min(settings.micro_batch, share), 0, -1) if share % size == 0)
    found: dict[str, Any] = {
        "train_batch_size": settings.batch_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": share // micro,
        "gradient_clipping": settings.grad_clip,
        "zero_optimization": {"stage": stage},
        "bf16": {"enabled": dtype == "bf16"},
        **({"fp16": {"enabled": True}} if dtype == "fp16" else {}),
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": settings.lr,
                "betas": [settings.beta1, settings.beta2],
                "eps": ADAM_EPS,
                "weight_decay": settings.weight_decay,
                "torch_adam": True,
            },
        },
    }
    if steps is not None:
        found["scheduler"] = _scheduler(settings, steps)
    return found


def emit(job: EmitJob) -> Emitted:
    """Return ds_config.json of each run, for the devices of the job.

    Raises:
        BadInput: as `config_of`, or a run is as long as its text, which is not read.
    """
    files, notes = {}, []
    for run in job.runs:
        member = run.member
        device = "cpu"  # the config is for another machine, whatever this one has
        settings = (
            settings_of_planned(member, TextFacts(), device, seed=0)
            if run.config is None
            else settings_of(run.config, TextFacts(), device)
        )
        steps = member.recipe.steps if run.config is None else planned_steps(settings, (run.config.tokens,))
        micro = member.micro_batch or settings.micro_batch
        settings = settings.model_copy(update={"micro_batch": micro})
        stage = run.config.zero if run.config is not None else 3 if member.shards > 1 else 0
        found = config_of(settings, job.devices, stage, steps, dtype=job.dtype)
        files[job.place(run, FILE)] = json.dumps(found, indent=2) + "\n"
        notes.append(_note(settings, steps))
    if job.accelerator is None and job.dtype == "bf16":
        notes.append("bf16: no device is named; --on 64xH100 names them")
    return Emitted(files=files, notes=tuple(notes))


def _note(settings: Settings, steps: int) -> str:
    """What a config leaves out."""
    said = f"{steps:,} steps; weight decay is of every parameter in a config, of matrices alone with engine=deepspeed"
    if settings.schedule == "wsd":
        said += (
            f"; DeepSpeed has no cooldown: bring lr to 0 over the last {settings.cooldown:.0%} of the steps"
        )
    return said


def _scheduler(settings: Settings, steps: int) -> dict[str, Any]:
    warmup = {"warmup_num_steps": settings.warmup, "warmup_type": "linear"}
    if settings.schedule == "cosine":
        # Its rate of the last step would be 0.
        ratios = {"warmup_min_ratio": 0.0, "cos_min_ratio": 0.0}
        return {"type": "WarmupCosineLR", "params": {"total_num_steps": steps + 1, **warmup, **ratios}}
    return {"type": "WarmupLR", "params": {"warmup_min_lr": 0.0, "warmup_max_lr": settings.lr, **warmup}}
