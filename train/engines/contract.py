"""contract.json: what an engine was asked to train, against which its logs are read."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from families import train_flops_per_token
from families.accounting import params
from families.units import BadInput
from scaling.files import Document, Record
from scaling.paths import seeded_name
from scaling.planning.planfile import PlanFile
from scaling.schedule import Kind, Schedule, Shape

from ..data import DataManifest
from ..emitting import EmitJob, EmitRun
from .shards import ShardFile

FLOPS = "6 per matmul weight and token, head included, and 12·n_layer·n_embd·n_positions for attention"


class Gap(Record):
    """A field of the plan that an engine does not express, and its effect."""

    field: str
    effect: str


class Contract(Document):
    """A member as an engine trains it.

    Args:
        member: name of the member.
        run: name of its run in the study.
        plan_seal: digest of the plan's seal; "" without one.
        engine: megatron or automodel.
        engine_version: version whose arguments were written.
        params: parameters, which the engine's own count must equal; `padded_params` too, if it pads the vocabulary.
        flops_per_token: exact training FLOPs by `flop_convention`.
        heldout_sha256: hash of the held-out tokens, which scores come from; "" where the study has no text yet.
        data: SHA-256 of the token shards by path.
        gaps: what the engine does not express.
    """

    KIND: ClassVar[str] = "contract"

    member: str
    run: str
    plan_seal: str = ""
    engine: str
    engine_version: str
    params: int = Field(gt=0)
    padded_params: int = Field(gt=0)
    params_non_embedding: int
    n_layer: int
    n_head: int
    n_embd: int
    n_positions: int
    vocab_size: int
    tokens: int
    steps: int
    batch_sequences: int
    lr: float
    warmup_steps: int
    schedule: Kind
    cooldown_steps: int
    cooldown_shape: Shape = "linear"
    seed: int
    devices: int
    nodes: int
    flops_per_token: int
    flop_convention: str = FLOPS
    group: str = ""
    heldout_sha256: str = ""
    data: dict[str, str] = Field(default_factory=dict)
    gaps: tuple[Gap, ...] = ()

    @property
    def batch_tokens(self) -> int:
        """Tokens of a step."""
        return self.batch_sequences * self.n_positions


def schedule_of(run: EmitRun) -> Schedule:
    """Return the learning rate of a run's last rung."""
    recipe = run.member.recipe
    shape = "linear" if run.config is None else run.config.cooldown_shape
    base = Schedule(peak=recipe.lr, warmup=recipe.warmup_steps, steps=recipe.steps, kind=recipe.schedule)
    return base if recipe.schedule == "cosine" else base.to(recipe.steps, recipe.cooldown_fraction, shape)


def check_run(run: EmitRun, target: str) -> None:
    """Refuse keys that no engine of others takes over.

    Raises:
        BadInput: the first of them.
    """
    if run.config is None:
        return
    for key, plain in (("optimizer", "adamw"), ("init", None), ("objective", None), ("data_fraction", 1.0)):
        value = getattr(run.config, key)
        if value not in (plain, "causal"):
            raise BadInput(f"{key} is {value}; --to {target} cannot express it")


def node_count(job: EmitJob) -> int:
    """Return the nodes of a job.

    Raises:
        BadInput: the devices do not fill them.
    """
    if job.devices <= job.per_node:
        return 1
    if job.devices % job.per_node:
        raise BadInput(f"devices is {job.devices}; nodes of {job.per_node} devices need a multiple of it")
    return job.devices // job.per_node


def contract_of(
    job: EmitJob, run: EmitRun, engine: str, version: str, gaps: tuple[Gap, ...],
    shards: dict[str, ShardFile], manifest: DataManifest | None, *, padded_params: int | None = None,
) -> Contract:  # fmt: skip
    """Return the contract of a run.

    Args:
        job: the job.
        run: one of its runs.
        engine: name of the engine.
        version: version of the engine.
        gaps: what it does not express.
        shards: its token shards by path.
        manifest: manifest of the study's text; None without one.
        padded_params: parameters with the engine's padding of the vocabulary; default: without.
    """
    member, spec = run.member, run.spec
    schedule = schedule_of(run)
    seal = PlanFile.read(job.plan).seal if job.plan is not None else None
    return Contract(
        created_at="",  # the same job gives the same bytes
        member=member.member,
        run=seeded_name(run.name, job.seed),
        plan_seal="" if seal is None else seal.digest,
        engine=engine,
        engine_version=version,
        params=params(spec),
        padded_params=padded_params or params(spec),
        params_non_embedding=member.params_non_embedding,
        n_layer=spec.n_layer,
        n_head=spec.n_head,
        n_embd=spec.n_embd,
        n_positions=spec.n_positions,
        vocab_size=spec.vocab_size,
        tokens=member.recipe.tokens,
        steps=member.recipe.steps,
        batch_sequences=member.recipe.batch_sequences,
        lr=member.recipe.lr,
        warmup_steps=member.recipe.warmup_steps,
        schedule=member.recipe.schedule,
        cooldown_steps=schedule.cooldown_steps,
        cooldown_shape=schedule.shape,
        seed=job.seed,
        devices=job.devices,
        nodes=node_count(job),
        flops_per_token=train_flops_per_token(spec),
        group="" if manifest is None else manifest.group(spec.architecture),
        heldout_sha256="" if manifest is None else manifest.heldout_sha256,
        data={path: shard.sha256 for path, shard in shards.items()},
        gaps=gaps,
    )


def common_gaps(run: EmitRun) -> list[Gap]:
    """Return what no engine of others expresses."""
    member = run.member
    rungs = member.rungs if run.config is None else run.config.rung_tokens()
    found = [
        Gap(
            field="seed", effect="initial weights and the order of batches are the engine's own of that seed"
        ),
    ]
    if len(rungs) > 1:
        found.append(
            Gap(
                field="rungs",
                effect=f"one run to {member.recipe.tokens} tokens; the {len(rungs) - 1} shorter rungs need runs of "
                "their own, or cooldown branches that this engine does not make",
            )
        )
    return found


def manifest_of(study: Path) -> DataManifest | None:
    """Return the manifest of a study's text; None where it has none yet."""
    path = study / "data" / "data.json"
    return DataManifest.read(path) if path.exists() else None
