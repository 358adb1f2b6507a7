"""From a configuration to a run's settings, with defaults from the recipe or the plan; a ladder's steps and schedules."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from families import ModelSpec
from families.units import BadInput
from scaling.files import canonical_json, sha256_bytes
from scaling.laws import LossModel
from scaling.machine import StepBackend
from scaling.paths import safe_name, seeded_name
from scaling.planning.law import advise
from scaling.planning.planfile import PlannedMember
from scaling.recipe import Recipe, recipe
from scaling.schedule import Schedule, whole_steps

from .backend import BackendRequest, fitting_micro_batch
from .config import SHAPE_FIELDS, Settings, TrainConfig, objective_for, shown_name
from .data import DataManifest
from .data.text import dataset_name
from .model.pretrained import checkpoint_dropout, checkpoint_folder, checkpoint_name, checkpoint_sha256
from .rung import RUN


def rung_steps(settings: Settings, rungs: Sequence[int]) -> list[int]:
    """Return the lengths of a ladder's rungs in steps, from their tokens; ascending, without duplicates."""
    return sorted({whole_steps(tokens, settings.batch_tokens) for tokens in rungs})


def trunk_schedule(settings: Settings, steps: int) -> Schedule:
    """Return the schedule of a rung of `steps` steps; with wsd all rungs share the trunk."""
    base = Schedule(peak=settings.lr, warmup=settings.warmup, steps=steps, kind=settings.schedule)
    return (
        base if settings.schedule == "cosine" else base.to(steps, settings.cooldown, settings.cooldown_shape)
    )


def trunk_end(schedule: Schedule) -> int:
    """Return the last step of a rung on the trunk, where its cooldown starts."""
    return 0 if schedule.kind == "cosine" else schedule.decay_starts


def branch_name(settings: Settings, steps: int) -> str:
    """Return the name of a rung's folder: rung-TOKENS, with the cooldown if it is not the default."""
    name = f"rung-{steps * settings.batch_tokens}"
    usual = (settings.usual_cooldown, TrainConfig.model_fields["cooldown_shape"].default)
    if settings.schedule == "cosine" or (settings.cooldown, settings.cooldown_shape) == usual:
        return name
    return f"{name}-{settings.decay.replace(' ', '-')}"


def planned_steps(settings: Settings, rungs: tuple[int, ...]) -> int:
    """Return the total steps of a ladder: its longest trunk and all branches."""
    schedules = [trunk_schedule(settings, steps) for steps in rung_steps(settings, rungs)]
    if settings.schedule == "cosine":
        return sum(schedule.steps for schedule in schedules)
    return max(s.decay_starts for s in schedules) + sum(s.cooldown_steps for s in schedules)


# Recipe for trained weights: that of transformers' Trainer, with its example scripts' batch of 8, with which published results
# were obtained. Its dropout is the checkpoint's.
FINE_TUNING = {
    "lr": 5e-5,
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "beta2": 0.999,
    "cooldown_fraction": 1.0,
    "source": "fine-tuning, as transformers' Trainer does: AdamW at 5e-5 without weight decay or warm-up, linear decay to 0 from "
    "the first step, the checkpoint's dropout",
}

FINE_TUNING_BATCH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFacts:
    """The part of a run's settings that depends on the text; defaults stand for a text that is not read yet.

    Args:
        group: one law per group of corpus, tokenizer and architecture, identified by the hash of the held-out tokens.
        vocab_size: entries of the tokenizer.
        eos_token_id: token id of the end of text.
        mask_token_id: token id of the mask; None without one.
        data_sha256: hash of source files, tokens and split.
        dataset: display name of the text.
    """

    group: str = ""
    vocab_size: int = 1
    eos_token_id: int = 0
    mask_token_id: int | None = None
    data_sha256: str = ""
    dataset: str = ""

    @classmethod
    def of(cls, manifest: DataManifest, architecture: str) -> Self:
        """Return the facts of a tokenised text."""
        files = [file.model_dump(exclude={"modified_ns"}) for file in manifest.files]
        shards = [shard.model_dump(exclude={"sha256"}) for shard in (*manifest.train, manifest.heldout)]
        return cls(
            group=manifest.group(architecture),
            vocab_size=manifest.vocab_size,
            eos_token_id=manifest.eos_token_id,
            mask_token_id=manifest.mask_token_id,
            data_sha256=sha256_bytes(canonical_json([files, shards, manifest.heldout_sha256])),
            dataset=dataset_name(manifest.source),
        )


def default_run_name(config: TrainConfig) -> str:
    """Return the name of a run."""
    return seeded_name(base_name(config), config.seed)


def base_name(config: TrainConfig, *, shape_in_suffix: bool = False) -> str:
    """Return the name of a run without its seed: as given, else from its family or checkpoint and its differences.

    Args:
        config: the run.
        shape_in_suffix: True if the caller appends a suffix that describes the shape.
    """
    if config.name:
        return safe_name(config.name)
    name = config.family if shape_in_suffix else shown_name(config.family, config.spec())
    if config.init is not None:
        name = f"{config.family or checkpoint_name(config.init)}-ft"
    if config.data_fraction < 1:
        name += f"-data{config.data_fraction:g}"
    return safe_name(name)


def settings_of(config: TrainConfig, facts: TextFacts, device: str, law: LossModel | None = None) -> Settings:
    """Return a run's settings with all defaults resolved by the recipe for its member and tokens.

    Args:
        config: the run.
        facts: facts of the text.
        device: "cpu" or "cuda", whose memory determines the micro-batch.
        law: whose best learning rate and batch are taken, where it has them; None for the recipe's.
    """
    spec = config.spec()
    batch = FINE_TUNING_BATCH if config.init and config.batch_size is None else config.batch_size
    batch_tokens = None if batch is None else float(batch * spec.n_positions)
    shortest = min(config.rung_tokens())
    asked: dict[str, Any] = {"schedule": config.schedule, "batch_tokens": batch_tokens, "shortest": shortest}
    advice = (
        recipe(spec, config.tokens, **asked) if law is None else advise(law, spec, config.tokens, **asked)
    )
    init = {}
    if config.init is not None:
        weights = checkpoint_folder(config.init)
        advice = advice.model_copy(update=FINE_TUNING)
        init = {
            "init": str(weights),
            "init_sha256": checkpoint_sha256(weights),
            "usual_cooldown": FINE_TUNING["cooldown_fraction"],
        }
    return _settings(
        config.family or checkpoint_name(config.init or ""), spec, advice, facts, device, run=base_name(config),
        seed=config.seed, batch_size=batch, micro_batch=config.micro_batch, lr=config.lr, warmup=config.warmup,
        cooldown=config.cooldown, cooldown_shape=config.cooldown_shape,
        weight_decay=config.weight_decay, beta1=config.beta1, beta2=config.beta2,
        grad_clip=config.grad_clip, dropout=_dropout(config), init_std=config.init_std,
        **BackendRequest.of(config).plain(device).model_dump(),
        residual=None if config.residual == "auto" else config.residual, deterministic=config.deterministic,
        compile_mode=config.compile_mode, compile_eval=config.compile == "all",
        optimizer=config.optimizer, checkpointing=config.checkpointing,
        epochs=config.epochs, data_fraction=config.data_fraction, **init,
    )  # fmt: skip


def _dropout(config: TrainConfig) -> float:
    """Return the dropout that is asked for; else none, or that of the checkpoint."""
    if config.dropout is not None or config.init is None:
        return config.dropout or 0.0
    return checkpoint_dropout(checkpoint_folder(config.init))


def settings_of_planned(planned: PlannedMember, facts: TextFacts, device: str, *, seed: int) -> Settings:
    """Return the settings of a planned member on this text.

    Args:
        planned: the member, with its recipe.
        facts: facts of the text.
        device: "cpu" or "cuda", whose memory determines the micro-batch.
        seed: seed of the run.

    Raises:
        BadInput: the tokenizer is larger than the vocabulary of the member.
    """
    advice = planned.recipe
    # What a plan for named accelerators found to fit; a plan without a device leaves it to this machine.
    fits = device == "cuda" and (
        planned.shards > 1 or planned.checkpointing or (planned.micro_batch or 1) > 1
    )
    return _settings(
        planned.member, planned.spec, advice, facts, device, seed=seed, cooldown=advice.cooldown_fraction,
        checkpointing=planned.checkpointing if fits else None, micro_batch=planned.micro_batch if fits else None,
    )  # fmt: skip


def _settings(
    name: str,
    spec: ModelSpec,
    advice: Recipe,
    facts: TextFacts,
    device: str,
    *,
    seed: int,
    run: str = "",
    **given: object,
) -> Settings:
    if facts.vocab_size > spec.vocab_size:
        raise BadInput(
            f"the tokenizer has {facts.vocab_size} entries; vocab_size is {spec.vocab_size}, and must be at least that"
        )
    chosen = {key: value for key, value in given.items() if value is not None}
    objective = objective_for(spec)
    batch_size = int(str(chosen.pop("batch_size", advice.batch_sequences)))
    micro = chosen.pop("micro_batch", None)
    member_name = safe_name(name)
    return Settings.model_validate(
        {
            "run": seeded_name(run or member_name, seed),
            "member": member_name,
            "group": facts.group,
            **{field: getattr(spec, field) for field in SHAPE_FIELDS},
            "n_kv_head": 0 if spec.n_kv_head == spec.n_head else spec.n_kv_head,
            "config": dict(spec.config),
            "eos_token_id": facts.eos_token_id,
            "seed": seed,
            "batch_size": batch_size,
            "micro_batch": micro
            or fitting_micro_batch(spec, batch_size, device, checkpointing=bool(chosen.get("checkpointing"))),
            "lr": advice.lr,
            "warmup": advice.warmup_steps,
            "schedule": advice.schedule,
            "cooldown": advice.cooldown_fraction,
            "weight_decay": advice.weight_decay,
            "beta1": advice.beta1,
            "beta2": advice.beta2,
            "grad_clip": advice.grad_clip,
            "dropout": 0.0,
            "init_std": advice.init_std,
            "dtype": BackendRequest().plain(device).dtype,
            "objective": objective,
            "mask_token_id": facts.mask_token_id if objective == "mlm" else None,
            "tokenizer_size": facts.vocab_size if objective == "mlm" else None,
            "data_sha256": facts.data_sha256,
            "dataset": facts.dataset,
            "recipe": advice.source,
            **chosen,
        }
    )


_FROM_RECIPE = ("batch_size", "lr", "warmup", "weight_decay", "beta1", "beta2", "init_std", "recipe")

_FROM_CHECKPOINT = ("cooldown", "dropout")  # which an older version set otherwise for trained weights


def with_recorded_settings(settings: Settings, folder: Path, config: TrainConfig | None = None) -> Settings:
    """Return the settings of a resumed run with its recorded micro-batch and step backend, which determine rounding.

    Values that `config` leaves to the recipe are taken from the record too: the recipe depends on the tokens, and a rung
    added later must not change the trunk.
    """
    path = folder / RUN
    if not path.exists():
        return settings
    recorded = Settings.read(path)
    keys = [
        "micro_batch",
        "compile_mode",
        "compile_eval",
        "usual_cooldown",
        "seal",  # a run that began without one is not sealed afterwards
        *(["residual"] if getattr(config, "residual", "auto") == "auto" else []),
        *(key for key in StepBackend.model_fields if getattr(config, key, "auto") == "auto"),
    ]
    if config is not None:
        from_recipe = (*_FROM_RECIPE, *(_FROM_CHECKPOINT if config.init is not None else ()))
        keys += [key for key in from_recipe if getattr(config, key, None) is None]
    return settings.model_copy(update={key: getattr(recorded, key) for key in keys})
