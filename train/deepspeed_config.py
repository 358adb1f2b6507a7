"""DeepSpeed's config JSON of a run, for use elsewhere; DeepSpeed need not be installed."""

import json
from pathlib import Path
from typing import Any

from families.units import BadInput
from scaling.files import atomic_write, refuse_overwrite_text

from .config import Settings, TrainConfig
from .distributed import World
from .loop import pick_device
from .model.objective import ADAM_EPS
from .settings import TextFacts, planned_steps, settings_of

FILE = "ds_config.json"


def config_of(settings: Settings, devices: int, stage: int, steps: int | None = None) -> dict[str, Any]:
    """Return the ds_config.json of DeepSpeed's launcher and transformers' Trainer.

    The scheduler is cosine's where the schedule is; a WSD run gets its warm-up and constant trunk, since DeepSpeed has no
    cooldown. Weight decay is of every parameter there: groups are made in code, not in a config.

    Args:
        settings: settings of the run.
        devices: number of processes that share the batch.
        stage: ZeRO stage, 0 to 3.
        steps: steps of the whole run; without it the config names no scheduler.

    Raises:
        BadInput: the batch cannot be divided, or an optimiser that DeepSpeed does not have.
    """
    if settings.optimizer != "adamw":
        raise BadInput(f"optimizer is {settings.optimizer}; a DeepSpeed config is written for adamw")
    share = World(size=devices).local(settings.batch_size)
    micro = next(size for size in range(min(settings.micro_batch, share), 0, -1) if share % size == 0)
    found: dict[str, Any] = {
        "train_batch_size": settings.batch_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": share // micro,
        "gradient_clipping": settings.grad_clip,
        "zero_optimization": {"stage": stage},
        "bf16": {"enabled": settings.dtype == "bf16"},
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


def write_config_of(config: TrainConfig, folder: Path, *, replace: bool = False) -> tuple[Path, str]:
    """Write ds_config.json of a run with defaults from the recipe; returns notes on what it omits.

    Raises:
        BadInput: as `config_of`; the run is as long as its text, which is not read; or another ds_config.json is there.
    """
    if config.epochs is not None:
        raise BadInput(
            f"epochs is {config.epochs}; a config needs tokens= in its place, since no text is read"
        )
    # The config is for another machine: the GPU need not be in this one.
    device = pick_device("auto" if config.device == "cuda" else config.device)
    settings = settings_of(config, TextFacts(), device)
    steps = planned_steps(settings, (config.tokens,))
    path = folder / FILE
    found = config_of(settings, config.devices, config.zero, steps)
    text = json.dumps(found, indent=2) + "\n"
    refuse_overwrite_text(path, text, "this run's", replace=replace)
    atomic_write(path, text)
    said = f"{steps:,} steps; weight decay is of every parameter in a config, of matrices alone with engine=deepspeed"
    if settings.schedule == "wsd":
        said += (
            f"; DeepSpeed has no cooldown: bring lr to 0 over the last {settings.cooldown:.0%} of the steps"
        )
    return path, said


def _scheduler(settings: Settings, steps: int) -> dict[str, Any]:
    warmup = {"warmup_num_steps": settings.warmup, "warmup_type": "linear"}
    if settings.schedule == "cosine":
        ratios = {"warmup_min_ratio": 0.0, "cos_min_ratio": 0.0}
        return {"type": "WarmupCosineLR", "params": {"total_num_steps": steps, **warmup, **ratios}}
    return {"type": "WarmupLR", "params": {"warmup_min_lr": 0.0, "warmup_max_lr": settings.lr, **warmup}}
