"""The keys of `scaling train`, without what a configuration needs, so that a wrong one is refused at once."""

from collections.abc import Iterable

KEYS = (
    "family", "data", "validation", "tokens", "epochs", "time", "init", "name", "out", "export", "seed", "tokenizer", "field",
    "special_tokens", "n_layer", "n_head", "n_embd", "n_inner", "n_positions", "vocab_size", "batch_size", "micro_batch",
    "objective", "ablate", "jobs", "fractions", "data_fraction", "optimizer", "lr", "warmup", "schedule", "cooldown",
    "cooldown_shape", "rungs", "weight_decay", "beta1", "beta2", "grad_clip", "dropout", "init_std", "dtype", "compile",
    "attention", "threads", "checkpointing", "device", "devices", "zero", "engine", "held_out", "eval_tokens", "tensorboard",
    "log_every", "save_every", "deterministic", "residual", "compile_mode",
)  # fmt: skip

GPU_SHARE = (
    "SCALING_GPU_SHARE"  # variable of a process that shares its GPU: the part of the memory that it may use
)

_MODEL = ("family", "init", "n_layer", "n_head", "n_embd")  # keys that choose a model


def chooses_model(keys: Iterable[str]) -> bool:
    """Return True if one of these keys chooses a model; else text and machine do."""
    return any(key in _MODEL for key in keys)
