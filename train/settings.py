"""A ladder in steps: the trunk that its rungs share, and the branch of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from families import ModelSpec
from families.units import BadInput
from scaling.files import canonical_json, sha256_bytes
from scaling.machine import StepBackend
from scaling.paths import safe_name, seeded_name
from scaling.planning.planfile import PlannedMember
from scaling.recipe import Recipe, recipe
from scaling.schedule import Schedule, whole_steps

from .backend import BackendRequest, fitting_micro_batch
from .config import SHAPE_FIELDS, Settings, TrainConfig, objective_for, shown_name
from .data import DataManifest
from .data.text import dataset_name
from .model.pretrained import checkpoint_folder, checkpoint_name, checkpoint_sha256
from .rung import RUN

# MERGED DOCSTRINGS
# From what was asked to a run's settings: every default resolved, by the recipe, the plan or how the run began.


def rung_steps(settings: Settings, rungs: Sequence[int]) -> list[int]:
    """The lengths of a ladder's rungs in steps, from their tokens: ascending, each once."""
    return sorted({whole_steps(tokens, settings.batch_tokens) for tokens in rungs})


def trunk_schedule(settings: Settings, steps: int) -> Schedule:
    """The schedule of a rung of so many steps: its trunk is the same for every rung of wsd."""
    base = Schedule(peak=settings.lr, warmup=settings.warmup, steps=steps, kind=settings.schedule)
    return (
        base if settings.schedule == "cosine" else base.to(steps, settings.cooldown, settings.cooldown_shape)
    )


def trunk_end(schedule: Schedule) -> int:
    """The last step of a rung that is the trunk's: where its cooldown begins."""
    return 0 if schedule.kind == "cosine" else schedule.decay_starts


def branch_name(settings: Settings, steps: int) -> str:
    """A rung's folder: rung-TOKENS, and what its cooldown is where that is not the default."""
    name = f"rung-{steps * settings.batch_tokens}"
    usual = TrainConfig.model_fields
    if settings.schedule == "cosine" or (settings.cooldown, settings.cooldown_shape) == (
        usual["cooldown"].default,
        usual["cooldown_shape"].default,
    ):
        return name
    return f"{name}-{settings.decay.replace(' ', '-')}"


def planned_steps(settings: Settings, rungs: tuple[int, ...]) -> int:
    """Steps that a ladder trains in all: its longest trunk and every branch."""
    schedules = [trunk_schedule(settings, steps) for steps in rung_steps(settings, rungs)]
    if settings.schedule == "cosine":
        return sum(schedule.steps for schedule in schedules)
    return max(s.decay_starts for s in schedules) + sum(s.cooldown_steps for s in schedules)


# Of weights that are trained already: transformers' Trainer's own rate, decay and warm-up, and the batch of 8 of the
# tables people compare with.
FINE_TUNING = {
    "lr": 5e-5,
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "beta2": 0.999,
    "source": "fine-tuning: AdamW at 5e-5 without weight decay or warm-up, as transformers' Trainer has it",
}

FINE_TUNING_BATCH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFacts:
    """What a run's settings take from the text: nothing yet, while it is unread.

    group: one law per group of corpus, tokenizer and architecture, told apart by the hash of the held-out tokens.
    data_sha256: of the source files, the tokens and how they are split.
    """

    group: str = ""
    vocab_size: int = 1
    eos_token_id: int = 0
    mask_token_id: int | None = None
    data_sha256: str = ""
    dataset: str = ""

    @classmethod
    def of(cls, manifest: DataManifest, architecture: str) -> Self:
        """The facts of a text that has been read."""
        files = [file.model_dump() for file in manifest.files]
        shards = [shard.model_dump() for shard in (*manifest.train, manifest.heldout)]
        return cls(
            group=f"{safe_name(Path(manifest.source).name)}-{manifest.heldout_sha256[:8]}-{architecture}",
            vocab_size=manifest.vocab_size,
            eos_token_id=manifest.eos_token_id,
            mask_token_id=manifest.mask_token_id,
            data_sha256=sha256_bytes(canonical_json([files, shards, manifest.heldout_sha256])),
            dataset=dataset_name(manifest.source),
        )


def default_run_name(config: TrainConfig) -> str:
    """What a run is called."""
    return seeded_name(base_name(config), config.seed)


def base_name(config: TrainConfig, *, shape_told: bool = False) -> str:
    """What a run is called, but for its seed: as asked, else by its family or checkpoint and how it differs.

    shape_told: what is put behind the name says how the shape differs from the family's.
    """
    if config.name:
        return safe_name(config.name)
    name = config.family if shape_told else shown_name(config.family, config.spec())
    if config.init is not None:
        name = f"{config.family or checkpoint_name(config.init)}-ft"
    if config.data_fraction < 1:
        name += f"-data{config.data_fraction:g}"
    return safe_name(name)


def settings_of(config: TrainConfig, facts: TextFacts, device: str) -> Settings:
    """Every default resolved: what is not given comes from the recipe for this member and its tokens."""
    spec = config.spec()
    batch = FINE_TUNING_BATCH if config.init and config.batch_size is None else config.batch_size
    wanted = None if batch is None else float(batch * spec.n_positions)
    shortest = min(config.rung_tokens())
    advice = recipe(spec, config.tokens, schedule=config.schedule, batch_tokens=wanted, shortest=shortest)
    init = {}
    if config.init is not None:
        weights = checkpoint_folder(config.init)
        advice = advice.model_copy(update=FINE_TUNING)
        init = {"init": str(weights), "init_sha256": checkpoint_sha256(weights)}
    return _settings(
        config.family or checkpoint_name(config.init or ""), spec, advice, facts, device, run=base_name(config),
        seed=config.seed, batch_size=batch, micro_batch=config.micro_batch, lr=config.lr, warmup=config.warmup,
        cooldown=config.cooldown, cooldown_shape=config.cooldown_shape,
        weight_decay=config.weight_decay, beta1=config.beta1, beta2=config.beta2,
        grad_clip=config.grad_clip, dropout=config.dropout, init_std=config.init_std,
        **BackendRequest.of(config).plain().model_dump(),
        optimizer=config.optimizer, checkpointing=config.checkpointing,
        epochs=config.epochs, data_fraction=config.data_fraction, **init,
    )  # fmt: skip


def settings_of_planned(planned: PlannedMember, facts: TextFacts, device: str, *, seed: int) -> Settings:
    """What a plan says about a member, for this text."""
    advice = planned.recipe
    return _settings(
        planned.member, planned.spec, advice, facts, device, seed=seed, cooldown=advice.cooldown_fraction
    )


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
            f"the tokenizer has {facts.vocab_size} entries; vocab_size is {spec.vocab_size}, which must hold them"
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
            "dtype": "fp32",
            "objective": objective,
            "mask_token_id": facts.mask_token_id if objective == "mlm" else None,
            "tokenizer_size": facts.vocab_size if objective == "mlm" else None,
            "data_sha256": facts.data_sha256,
            "dataset": facts.dataset,
            "recipe": advice.source,
            **chosen,
        }
    )


_ADVISED = ("batch_size", "lr", "warmup", "weight_decay", "beta1", "beta2", "init_std", "recipe")


def with_recorded_settings(settings: Settings, folder: Path, config: TrainConfig | None = None) -> Settings:
    """The settings of a run that goes on, with the micro-batch and the engine that it began with: others would round otherwise.

    What `config` leaves to the recipe stays as it began too: the recipe looks at the tokens, and a rung added later
    must not move the trunk.
    """
    path = folder / RUN
    if not path.exists():
        return settings
    begun = Settings.read(path)
    keys = [
        "micro_batch",
        *(key for key in StepBackend.model_fields if getattr(config, key, "auto") == "auto"),
    ]
    if config is not None:
        keys += [key for key in _ADVISED if getattr(config, key, None) is None]
    return settings.model_copy(update={key: getattr(begun, key) for key in keys})
