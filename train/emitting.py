"""Targets of `scaling emit`: what other programs read, each written by a function from a job to files.

A new target is a function `EmitJob -> Emitted` and a line in TARGETS. The module of a target is imported when it is used, so
that no other target needs its libraries.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from families import ModelSpec
from families.members import CONFIG, config_text
from families.units import BadInput, nearest
from scaling.hardware import Accelerator, accelerator
from scaling.paths import safe_name
from scaling.planning.memory import fit_memory
from scaling.planning.planfile import PlanFile, PlannedMember, refuse_model_parallel
from scaling.recipe import recipe
from scaling.schedule import whole_steps

from .config import TrainConfig

if TYPE_CHECKING:
    from .engines.shards import ShardFile


@dataclass(frozen=True, slots=True, kw_only=True)
class EmitRun:
    """One run to write files for.

    Args:
        name: name of the run or member, safe as that of a folder.
        spec: shape.
        planned: tokens, recipe, micro-batch and sharding; None where only a text could say how long the run is (epochs=).
        words: words after `scaling` that train it; the plan's path among them is that of this machine.
        config: the keys of a run that was given as key=value; None for a member of a plan.
    """

    name: str
    spec: ModelSpec
    planned: PlannedMember | None
    words: tuple[str, ...]
    config: TrainConfig | None = None

    @property
    def member(self) -> PlannedMember:
        """The run as a member of a plan.

        Raises:
            BadInput: its length is not known, since no text is read.
        """
        if self.planned is None:
            epochs = None if self.config is None else self.config.epochs
            raise BadInput(f"epochs is {epochs}; a config needs tokens= in its place, since no text is read")
        return self.planned


@dataclass(frozen=True, slots=True, kw_only=True)
class EmitJob:
    """Runs, and the devices for which their files are written: those that were asked for, not this machine's.

    Args:
        runs: the runs.
        devices: number of devices that train one run together.
        accelerator: their type; None where none was named.
        per_node: devices of one node.
        plan: file of the plan; None for a run given as key=value.
        study: folder of the study.
        seed: seed of the runs of a plan.
        data: text to train on, as `scaling ladder --data` takes it; None for that of the study.
        profile: a cluster's profile.yaml.
        image: container image, for targets that run in one.
        in_folders: files of each run go into a folder of its name.
    """

    runs: tuple[EmitRun, ...]
    devices: int = 1
    accelerator: Accelerator | None = None
    per_node: int = 8
    plan: Path | None = None
    study: Path = Path("study")
    seed: int = 0
    data: str | None = None
    profile: Path | None = None
    image: str | None = None
    in_folders: bool = False

    def place(self, run: EmitRun, file: str) -> str:
        """Return the path of a run's file, relative to the folder that is written into."""
        return f"{run.name}/{file}" if self.in_folders else file

    @property
    def dtype(self) -> str:
        """Number format of the training: the accelerator's bf16, fp16 or fp32; bf16 where none was named.

        Keys of a run that ask for a format or for the CPU come first.
        """
        asked = self.runs[0].config
        if asked is not None and asked.dtype != "auto":
            return asked.dtype
        if asked is not None and asked.device == "cpu":
            return "fp32"
        return "bf16" if self.accelerator is None else self.accelerator.training_format


@dataclass(frozen=True, slots=True, kw_only=True)
class Emitted:
    """Texts of files and token shards by their relative paths, and notes on what they omit or assume."""

    files: Mapping[str, str]
    notes: tuple[str, ...] = field(default=())
    shards: "Mapping[str, ShardFile]" = field(default_factory=dict)


class Target(NamedTuple):
    """A program or cluster that files are written for.

    Args:
        name: as `--to` takes it.
        where: "module:function" of a function from EmitJob to Emitted.
        summary: what is written, for the help.
    """

    name: str
    where: str
    summary: str

    def write(self, job: EmitJob) -> Emitted:
        """Return the target's files for a job.

        Raises:
            BadInput: the job is of a kind that the target cannot take.
        """
        module, _, function = self.where.partition(":")
        make: Callable[[EmitJob], Emitted] = getattr(import_module(module), function)
        return make(job)


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("config", "train.emitting:configs", "Hugging Face's config.json"),
        Target("deepspeed", "train.deepspeed_config:emit", "DeepSpeed's ds_config.json"),
        Target("slurm", "train.launchers:slurm", "job files for sbatch"),
        Target("torchrun", "train.launchers:torchrun", "a shell script of one torchrun command"),
        Target("skypilot", "train.launchers:skypilot", "a SkyPilot task"),
        Target("kubernetes", "train.launchers:kubernetes", "a Kubernetes JobSet"),
        Target(
            "megatron", "train.engines.megatron:emit", "Megatron-LM's arguments, token shards, contract.json"
        ),
        Target(
            "automodel", "train.engines.automodel:emit", "NeMo AutoModel's YAML, token shards, contract.json"
        ),
    )
}


_MODEL_PARALLEL = ("config", "megatron", "automodel")  # targets that take tensor and pipeline parallelism

Devices = tuple[int | None, Accelerator | None]  # how many and which, where they were said


def job_of_plan(plan: PlanFile, path: Path, on: Devices | None) -> EmitJob:
    """Return the job of a plan's members, for the devices of its budget or for others.

    Args:
        plan: the plan.
        path: its file.
        on: devices in place of the budget's.

    Raises:
        BadInput: no members, a batch that the devices do not divide, or a model that does not fit into them.
    """
    if not plan.members:
        raise BadInput(f"{path} has no members to train")
    budget = plan.budget
    device = None if budget is None or budget.accelerator is None else accelerator(budget.accelerator)
    devices = 1 if budget is None else budget.devices or 1
    if on is not None:
        devices, device = on[0] or devices, on[1] or device
    members = [_on(member, device, devices) for member in plan.members]
    runs = tuple(
        EmitRun(
            name=safe_name(member.member),
            spec=member.spec,
            planned=member,
            words=("ladder", str(path), "--member", member.member, "--yes"),
        )
        for member in members
    )
    return EmitJob(runs=runs, devices=devices, accelerator=device, plan=path, in_folders=True)


def job_of_config(config: TrainConfig, words: tuple[str, ...], on: Devices | None) -> EmitJob:
    """Return the job of one run given as key=value.

    Args:
        config: the run.
        words: the same as typed.
        on: devices in place of devices=.

    Raises:
        BadInput: --on and devices= disagree, the devices do not divide the batch, or the model does not fit into them.
    """
    device = None if on is None else on[1]
    devices = config.devices if on is None or on[0] is None else on[0]
    if config.devices not in (1, devices):
        raise BadInput(f"devices is {config.devices} and --on names {devices}; give one of them")
    spec, name = config.spec(), safe_name(config.name or config.family or "run")
    planned = None if config.epochs is not None else _planned(config, spec, name, device, devices)
    run = EmitRun(name=name, spec=spec, planned=planned, words=("train", *words), config=config)
    return EmitJob(runs=(run,), devices=devices, accelerator=device)


def _planned(
    config: TrainConfig, spec: ModelSpec, name: str, device: Accelerator | None, devices: int
) -> PlannedMember:
    """The run as a member of a plan: the recipe's values, but for those that its keys give."""
    batch = None if config.batch_size is None else float(config.batch_size * spec.n_positions)
    shortest = min(config.rung_tokens())
    advice = recipe(spec, config.tokens, schedule=config.schedule, batch_tokens=batch, shortest=shortest)
    if config.init is not None:
        from .settings import FINE_TUNING, FINE_TUNING_BATCH

        batch = batch or FINE_TUNING_BATCH * spec.n_positions
        advice = advice.model_copy(update=FINE_TUNING)
    sequences = config.batch_size or max(1, round(advice.batch_sequences / devices)) * devices
    given = {
        "lr": config.lr,
        "warmup_steps": config.warmup,
        "weight_decay": config.weight_decay,
        "beta1": config.beta1,
        "beta2": config.beta2,
        "grad_clip": config.grad_clip,
        "init_std": config.init_std,
        "cooldown_fraction": config.cooldown,
    }
    batch_tokens = sequences * spec.n_positions
    advice = advice.model_copy(
        update={
            "batch_sequences": sequences,
            "batch_tokens": batch_tokens,
            "steps": whole_steps(config.tokens, batch_tokens),
            **{key: value for key, value in given.items() if value is not None},
        }
    )
    member = PlannedMember.of(
        name,
        spec,
        tokens=advice.tokens,
        recipe=advice,
        rungs=(),
        micro_batch=config.micro_batch,
        checkpointing=config.checkpointing,
        shards=devices if config.zero == 3 else 1,
    )
    return member if config.micro_batch is not None else _on(member, device, devices)


def _on(member: PlannedMember, device: Accelerator | None, devices: int) -> PlannedMember:
    """A member with the memory settings for these devices.

    Raises:
        BadInput: the devices do not divide its batch, or it does not fit into them.
    """
    sequences = member.recipe.batch_sequences
    fit = None if device is None else fit_memory(member.spec, device, devices, sequences, name=member.member)
    replicas = devices if fit is None else devices // (fit.tensor * fit.pipeline * fit.context)
    if sequences % replicas:
        below = sequences - sequences % replicas
        nearest_two = f"{below} or {below + replicas}" if below else f"{replicas}"
        who = f"{replicas} devices" if replicas == devices else f"{replicas} replicas on {devices} devices"
        raise BadInput(
            f"{member.member} has a batch of {sequences} sequences, which {who} cannot share evenly: plan for "
            f"those devices, or give batch_size={nearest_two}"
        )
    if fit is None:
        return member
    micro = next(
        size
        for size in range(min(fit.micro_batch, sequences // replicas), 0, -1)
        if (sequences // replicas) % size == 0
    )
    names = ("checkpointing", "shards", "tensor", "pipeline", "expert")
    settings = {name: getattr(fit, name) for name in names}
    return member.model_copy(update={"micro_batch": micro, "context_parallel": fit.context, **settings})


def parse_targets(text: str) -> tuple[Target, ...]:
    """Read the names of targets, separated by commas.

    Raises:
        BadInput: a name is unknown; with the nearest match.
    """
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in TARGETS:
            raise BadInput(f"to is {name!r}; {nearest(name, TARGETS)}")
    if not names:
        raise BadInput(f"to is {text!r}; it must name one of {', '.join(TARGETS)}")
    return tuple(TARGETS[name] for name in dict.fromkeys(names))


def emit_files(job: EmitJob, targets: Sequence[Target]) -> dict[str, Emitted]:
    """Return the files of each target by its name.

    Raises:
        BadInput: a target cannot take the job, or two targets would write one file.
    """
    for target in targets:
        if target.name not in _MODEL_PARALLEL:
            members = [run.planned for run in job.runs if run.planned is not None]
            refuse_model_parallel(members, f"--to {target.name}")
    found = {target.name: target.write(job) for target in targets}
    owner: dict[str, str] = {}
    for name, emitted in found.items():
        for path in (*emitted.files, *emitted.shards):
            if path in owner:
                raise BadInput(f"{owner[path]} and {name} both write {path}; give one of them to --to")
            owner[path] = name
    return found


def configs(job: EmitJob) -> Emitted:
    """Write each run's config.json."""
    return Emitted(files={job.place(run, CONFIG): config_text(run.spec) for run in job.runs})
