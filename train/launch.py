"""From what was asked to a run under way: text prepared, defaults resolved, the machine asked whether it can."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch

from families import ModelSpec, train_flops_per_token
from families.errors import BadInput
from families.units import format_duration, format_size
from scaling.files import canonical_json, sha256_bytes, sha256_file
from scaling.gather import LEDGER, RUNS
from scaling.machine import Engine
from scaling.planfile import PlannedMember
from scaling.recipe import Recipe, recipe
from scaling.runs import gather_runs
from scaling.study import Study, safe_name

from .autotune import Estimate, estimate, fitting_micro_batch, speed_of
from .choose import Wanted, choose
from .config import SHAPE_FIELDS, Settings, TrainConfig, objective_for
from .data import count_windows
from .init import checkpoint_folder, checkpoint_name, checkpoint_sha256, has_tokenizer
from .ladder import Habits, Interrupted, Places, Text, climb, planned_steps
from .loop import Diverged, Stop, pick_device
from .pace import Peak, peak_of
from .pack import Job, Report, climb_all
from .parallel import join
from .prepare import DataManifest, Need, prepare
from .rung import RungFile
from .text import dataset_name

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
PATIENCE = 24 * 3600.0  # seconds beyond which a run asks for --yes


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


def run_name(config: TrainConfig) -> str:
    """What a run is called, but for its seed: as asked, else by its family or checkpoint and how it differs."""
    if config.name:
        return safe_name(config.name)
    name = config.family
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
        config.family or checkpoint_name(config.init or ""), spec, advice, facts, device, run=run_name(config),
        seed=config.seed, batch_size=batch, micro_batch=config.micro_batch, lr=config.lr, warmup=config.warmup,
        cooldown=config.cooldown, cooldown_shape=config.cooldown_shape,
        weight_decay=config.weight_decay, beta1=config.beta1, beta2=config.beta2,
        grad_clip=config.grad_clip, dropout=config.dropout, init_std=config.init_std,
        **Wanted.of(config).plain().model_dump(),
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
            "run": f"{run or member_name}-s{seed}",
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


def as_begun(settings: Settings, folder: Path, config: TrainConfig | None = None) -> Settings:
    """The settings of a run that goes on, with the micro-batch and the engine that it began with: others would round otherwise.

    What `config` leaves to the recipe stays as it began too: the recipe looks at the tokens, and a rung added later
    must not move the trunk.
    """
    path = folder / "run.json"
    if not path.exists():
        return settings
    begun = Settings.read(path)
    keys = ["micro_batch", *(key for key in Engine.model_fields if getattr(config, key, "auto") == "auto")]
    if config is not None:
        keys += [key for key in _ADVISED if getattr(config, key, None) is None]
    return settings.model_copy(update={key: getattr(begun, key) for key in keys})


def check_machine(
    settings: Settings, rungs: tuple[int, ...], device: str, *, yes: bool, tell: Callable[[str], None]
) -> Estimate:
    """Say what the run will need, and refuse one too big for this machine unless told to go ahead.

    Raises:
        BadInput: more memory than there is, or more than a day, without `yes`.
    """
    steps = planned_steps(settings, rungs)
    need = estimate(settings, steps, device)
    said = (
        f"{settings.run}: {steps:,} steps of {format_size(settings.batch_tokens)} tokens; about "
        f"{need.memory / 1e9:.2f} GB of memory of {need.available / 1e9:.1f} GB and "
        f"{format_duration(need.seconds)} on {need.machine} "
        f"({need.source}: {need.flops_per_s / 1e9:.0f} GFLOP/s)"
    )
    too_big = need.memory > need.available
    if (too_big or need.seconds > PATIENCE) and not yes:
        reason = "more memory than this machine has free" if too_big else "more than a day"
        raise BadInput(
            f"{said}; that is {reason}: choose a smaller member or fewer tokens=, or go ahead with --yes"
        )
    tell(said)
    return need


def train(
    config: TrainConfig, study: Path, *, yes: bool, stop: Stop, tell: Callable[[str], None], report: Report
) -> tuple[RungFile, ...]:
    """Train what `scaling train` was asked for; its observations go to the study's runs.jsonl.

    Where a launcher has started several processes, this is one of them, and they train one run together.

    Raises:
        BadInput: no text, too little of it, a run too big for this machine, or a folder that cannot be written.
        PeerLost: another process has ended.
    """
    device = pick_device(config.device)
    folder = config.out or study / "runs" / f"{run_name(config)}-s{config.seed}"
    with join(config.zero, device, config.engine) as world:
        if not world.first:
            tell, report = _say_nothing, _report_nothing

        def asked() -> list[str]:
            settings, manifest, rungs = begin(
                config, study, folder, device, yes=yes, tell=tell, report=report
            )
            return [settings.dump(), manifest.dump(), *map(str, rungs)]

        texts = world.do(asked)
        settings, manifest = (
            Settings.model_validate_json(texts[0]),
            DataManifest.model_validate_json(texts[1]),
        )
        rungs = tuple(map(int, texts[2:]))
        total = planned_steps(settings, rungs)
        habits = Habits(
            device=device,
            world=world,
            log_every=config.log_every,
            save_every=config.save_every,
            eval_tokens=config.eval_tokens,
            tell=tell,
            progress=lambda position, what, trained: report(position, total, what, trained),
            peak=_peak(settings, device, world.size, tell) if world.first else None,
            tensorboard=config.tensorboard,
        )
        places = places_of(Study(study), settings.run, folder)
        text = Text.open(study / "data", manifest, settings.n_positions, settings.data_fraction)
        try:
            return climb(settings, rungs, text, places, habits, stop)
        except (Diverged, Interrupted) as error:
            if world.first:
                raise
            raise SystemExit(1) from error  # every process meets these at the same step, and one says so
        finally:
            if world.first:
                gather_runs(study / "runs.jsonl")


def begin(
    config: TrainConfig, study: Path, folder: Path, device: str, *, yes: bool, tell: Callable[[str], None],
    report: Report,
) -> tuple[Settings, DataManifest, tuple[int, ...]]:  # fmt: skip
    """Ask whether the machine can, read the text, and resolve every default; the rungs' tokens come last.

    Raises:
        BadInput: as `train`.
    """
    spec = config.spec()
    begun = (folder / "run.json").exists()
    need, batch = None, config.batch_size or 1
    if config.epochs is None:  # else the text says how long the run is
        _check_length(config, spec)
        unread = settings_of(config, TextFacts(), device)
        batch = unread.batch_size
        need = check_machine(unread, config.rung_tokens(), device, yes=yes or begun, tell=tell)
    manifest = prepare(
        config.data,
        study / "data",
        vocab_size=spec.vocab_size,
        tokenizer=_tokenizer(config, study / "data"),
        held_out=config.held_out,
        validation=config.validation,
        mask=objective_for(spec) == "mlm",
        need=Need(n_positions=spec.n_positions, batch_size=batch),
        progress=lambda what, share: report(share, 1.0, what, True),
    )
    if config.ablate == "data" and config.data_fraction < 1 and config.epochs is None:
        # of what the run would read, which may be less than there is: its steps are to repeat it
        there = count_windows(manifest, spec.n_positions) * spec.n_positions
        part = config.data_fraction * min(1.0, config.tokens / there)
        config = config.model_copy(update={"name": run_name(config), "data_fraction": part})
    windows = count_windows(manifest, spec.n_positions, config.data_fraction)
    if config.epochs is not None:
        config = config.model_copy(update={"tokens": config.epochs * windows * spec.n_positions})
    settings = settings_of(config, TextFacts.of(manifest, spec.architecture), device)
    if config.data_fraction < 1 and windows < settings.batch_size:
        raise BadInput(
            f"data_fraction is {config.data_fraction:g}, which leaves {windows} windows of {spec.n_positions} tokens; "
            f"one batch needs {settings.batch_size}: give more text, or a smaller batch_size= or n_positions="
        )
    need = need or check_machine(settings, config.rung_tokens(), device, yes=yes or begun, tell=tell)
    if begun:
        settings = as_begun(settings, folder, config)
        if config.micro_batch not in (None, settings.micro_batch):
            tell(
                f"{settings.run}: micro_batch stays {settings.micro_batch}, with which the run goes on: {config.micro_batch} "
                "would round otherwise"
            )
        return settings, manifest, config.rung_tokens()
    wanted = Wanted.of(config)
    if (config.zero or config.engine == "deepspeed") and wanted.compile == "auto":
        # Hooks gather divided weights, and break the graph at each block.
        wanted = replace(wanted, compile=False)
    steps = planned_steps(settings, config.rung_tokens())
    engine = choose(wanted, settings, steps=steps, expected=need.plain_seconds, device=device, tell=tell)
    return settings.model_copy(update=engine.model_dump()), manifest, config.rung_tokens()


def _check_length(config: TrainConfig, spec: ModelSpec) -> None:
    if config.tokens < spec.n_positions:
        raise BadInput(f"tokens is {config.tokens}; it must be at least one context of {spec.n_positions}")


def _tokenizer(config: TrainConfig, data: Path) -> str | None:
    """The tokenizer that was asked for; with init= the checkpoint's own, or the study's where it is the same one.

    Raises:
        BadInput: a checkpoint without a tokenizer, and none was asked for.
    """
    if config.tokenizer is not None or config.init is None:
        return config.tokenizer
    folder = checkpoint_folder(config.init)
    if not has_tokenizer(folder):
        raise BadInput(f"init is {config.init!r}, which brings no tokenizer: give tokenizer=")
    ours, theirs = data / "tokenizer.json", folder / "tokenizer.json"
    if ours.is_file() and theirs.is_file() and sha256_file(ours) == sha256_file(theirs):
        return DataManifest.read(data / "data.json").inputs.get("tokenizer") or None
    return str(folder)


def _peak(settings: Settings, device: str, devices: int, tell: Callable[[str], None]) -> Peak:
    """What the run's MFU is of, said once."""
    found = peak_of(device, speed_of(device, settings.dtype), settings.dtype, devices)
    tell(found.sentence)
    return found


def _say_nothing(line: str) -> None:
    """Process 0 speaks for all."""


def _report_nothing(done: float, total: float, what: str, fresh: bool) -> None:
    """Likewise."""


def places_of(study: Study, run: str, folder: Path | None = None) -> Places:
    """Where a run of a study writes: observations and ledger in its own folder, which has no other writer.

    A run whose `folder` is the study itself (out=) is a study of one run.
    """
    own = study.folder if folder == study.folder else study.run_folder(run)
    return Places(folder=folder or own, runs=own / RUNS, ledger=own / LEDGER)


def train_plan(
    members: Sequence[PlannedMember], study: Study, *, seed: int, yes: bool, stop: Stop, tell: Callable[[str], None],
    report: Report, eval_tokens: int, save_every: float = 300.0, device: str = "auto", side_by_side: int = 1,
    threads: int | None = None, gathers: bool = True, zero: int = 0, wanted: Wanted | None = None,
) -> tuple[RungFile, ...]:  # fmt: skip
    """Climb the ladder of each planned member, cheapest first; work is counted in FLOPs over all of them.

    Args:
        side_by_side: how many members train at a time on a CPU, one thread each; 1 gives each all of `threads` in turn.
        zero: 0 to 3, how a member is divided among the processes that a launcher has started.
        gathers: bring the study's runs.jsonl up to date at the end; one of many jobs leaves that to who collects.
        wanted: how steps are computed, auto where a probe shall say; by default the plain engine, unprobed.

    Raises:
        BadInput: the study has no text yet, or as `train`.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    manifest = DataManifest.read(study.data / "data.json")
    device = pick_device(device)
    with join(zero, device) as world:
        if not world.first:
            tell, report = _say_nothing, _report_nothing
        if device == "cuda" or world.size > 1:
            side_by_side = 1
        if world.size > 1:
            wanted = None  # a probe would measure one process
        if wanted is not None and side_by_side > 1:
            wanted = replace(wanted, threads=1)

        def asked() -> list[str]:
            return [
                _to_go_on(planned, manifest, study, device, seed, yes, wanted, tell).model_dump_json()
                for planned in sorted(members, key=lambda planned: planned.flops)
            ]

        jobs = []
        for planned, said in zip(sorted(members, key=lambda one: one.flops), world.do(asked), strict=True):
            settings, rungs = Settings.model_validate_json(said), planned.rungs or (planned.tokens,)
            jobs.append(
                Job(
                    settings=settings,
                    rungs=rungs,
                    places=places_of(study, settings.run),
                    data=study.data,
                    work_per_step=float(settings.batch_tokens * train_flops_per_token(settings.spec())),
                    steps=planned_steps(settings, rungs),
                )
            )
        habits = Habits(device=device, world=world, save_every=save_every, eval_tokens=eval_tokens, tell=tell)
        try:
            return climb_all(jobs, habits, stop, report, side_by_side=side_by_side)
        except (Diverged, Interrupted) as error:
            if world.first:
                raise
            raise SystemExit(1) from error  # every process meets these at the same step, and one says so
        finally:
            if gathers and world.first:
                gather_runs(study.runs)


def _to_go_on(
    planned: PlannedMember, manifest: DataManifest, study: Study, device: str, seed: int, yes: bool, wanted: Wanted | None,
    tell: Callable[[str], None],
) -> Settings:  # fmt: skip
    """A planned member's settings for this text, once the machine has been asked whether it can, and how best."""
    settings = settings_of_planned(planned, TextFacts.of(manifest, planned.architecture), device, seed=seed)
    folder = study.run_folder(settings.run)
    settings = as_begun(settings, folder)
    rungs = planned.rungs or (planned.tokens,)
    need = check_machine(settings, rungs, device, yes=yes, tell=lambda line: None)
    if wanted is None or (folder / "run.json").exists():
        return settings
    steps = planned_steps(settings, rungs)
    engine = choose(wanted, settings, steps=steps, expected=need.plain_seconds, device=device, tell=tell)
    return settings.model_copy(update=engine.model_dump())
