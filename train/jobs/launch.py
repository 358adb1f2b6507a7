"""Launch of runs: preparation of the text, resolution of defaults, and a check of the machine's memory and time."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch

from families import ModelSpec, params
from families.units import BadInput, format_duration, format_size
from scaling.files import sha256_file
from scaling.fitting.forms import Status
from scaling.fitting.predictor import Fit, load_law
from scaling.fitting.valley import settings_of as tuned_by
from scaling.paths import StudyPaths
from scaling.planning.match import differences, sealed_member
from scaling.planning.planfile import PlanFile, PlannedMember, Seal
from scaling.runs.events import require_tensorboard
from scaling.runs.store import gather_runs

from ..backend import BackendRequest, Estimate, estimate, select_backend
from ..config import Settings, TrainConfig, objective_for
from ..data import DataManifest, Need, TokenizedText, count_windows, read_prepared
from ..data.prepare import DATA, check_data, difference, inputs_of, prepare, prepare_planned
from ..distributed import ALONE, World, join
from ..ladder import Interrupted, RunOptions, RunPaths, no_op, train_ladder
from ..lease import Stop
from ..loop import Diverged, pick_device
from ..metrics import PeakFlops, peak_of
from ..model.pretrained import checkpoint_folder, has_tokenizer
from ..rung import RUN, RungFile
from ..settings import (
    TextFacts,
    base_name,
    default_run_name,
    planned_steps,
    settings_of,
    settings_of_planned,
    with_recorded_settings,
)
from ..speed import speed_of
from .ladders import Job, ProgressCallback, train_ladders

PATIENCE = 24 * 3600.0  # seconds beyond which a run asks for --yes


def tuned_law(config: TrainConfig, study: StudyPaths, log: Callable[[str], None]) -> Fit | None:
    """Return the study's own law where it has a best learning rate or batch that the run leaves open; else None.

    Its runs are of AdamW from scratch, so other optimisers and loaded weights keep their own defaults.
    """
    left = {"lr": config.lr, "batch_tokens": config.batch_size}
    if config.optimizer != "adamw" or config.init is not None or not study.law.exists():
        return None
    try:
        law = load_law(study.law)
    except BadInput as error:
        log(f"learning rate and batch by the recipe's rule: {error}")
        return None
    usable = law.status is not Status.NOT_CONVERGED
    return law if usable and any(left[name] is None for name in tuned_by(law) if name in left) else None


def check_machine(
    settings: Settings,
    rungs: tuple[int, ...],
    device: str,
    *,
    yes: bool,
    log: Callable[[str], None],
    world: World = ALONE,
    flops_per_s: float | None = None,
) -> Estimate:
    """Log the estimated memory and time of a run, and refuse one too large for this machine.

    Args:
        settings: settings of the run.
        rungs: lengths of the rungs in tokens.
        device: "cpu" or "cuda".
        yes: True to accept a run too large for this machine.
        log: called with the estimate as one line.
        world: the processes that share the run.
        flops_per_s: speed that was measured for this run; None estimates one.

    Raises:
        BadInput: more memory than there is, or more than a day, without `yes`.
    """
    steps = planned_steps(settings, rungs)
    need = estimate(settings, steps, device, world)
    if flops_per_s is not None:
        need = replace(
            need,
            seconds=need.seconds * need.flops_per_s / flops_per_s,
            flops_per_s=flops_per_s,
            source="measured now",
        )
    said = (
        f"{settings.run}: {steps:,} steps of {format_size(settings.batch_tokens)} tokens; about "
        f"{need.memory / 1e9:.2f} GB of memory of {need.available / 1e9:.1f} GB and "
        f"{format_duration(need.seconds)} on {need.machine} "
        f"({need.source}: {need.flops_per_s / 1e9:.0f} GFLOP/s)"
    )
    too_big = need.memory > need.available
    if (too_big or need.seconds > PATIENCE) and not yes:
        total = settings.batch_tokens * steps
        if too_big:
            fits = params(settings.spec()) * need.available / need.memory
            reason, way = (
                "more memory than this machine has free",
                f"a member of about {format_size(fits, 2)} parameters fits",
            )
        else:
            fits = total * PATIENCE / need.seconds
            reason, way = "more than a day", f"tokens={format_size(fits, 2)} take a day"
        raise BadInput(
            f"{said}; that is {reason}: {way}: choose a smaller member or fewer tokens=, or go ahead with --yes"
        )
    log(said)
    return need


def train(
    config: TrainConfig,
    study: Path,
    *,
    yes: bool,
    stop: Stop,
    log: Callable[[str], None],
    report: ProgressCallback,
    flops_per_s: float | None = None,
) -> tuple[RungFile, ...]:
    """Train the run of a configuration; its observations are added to the study's runs.jsonl.

    Under a launcher that has started several processes, this is one of them, and they train one run together.

    Args:
        config: configuration of the run.
        study: folder of the study.
        yes: True to accept a run too large for this machine.
        stop: stop signal, polled after every step.
        log: called with each message.
        report: called with steps done, total steps, a description, and True for work that was just trained.
        flops_per_s: speed that was measured for this run; None estimates one.

    Raises:
        BadInput: no text, too little of it, a run too big for this machine, or a folder that cannot be written.
        PeerLost: another process has ended.
    """
    device = pick_device(config.device)
    place = StudyPaths(study)
    folder = config.out or place.run_folder(default_run_name(config))
    with join(config.zero, device, config.engine) as world:
        if not world.first:
            log, report = no_op, no_op  # only process 0 reports

        data = Path(world.do(lambda: str(_data_folder(config, place, folder, log))))

        def asked() -> list[str]:
            with _unless_refused(data):
                settings, manifest, rungs = prepare_run(
                    config,
                    study,
                    folder,
                    device,
                    yes=yes,
                    log=log,
                    report=report,
                    world=world,
                    data=data,
                    flops_per_s=flops_per_s,
                )
            return [settings.dump(), manifest.dump(), *map(str, rungs)]

        texts = world.do(asked)
        settings, manifest = (
            Settings.model_validate_json(texts[0]),
            DataManifest.model_validate_json(texts[1]),
        )
        rungs = tuple(map(int, texts[2:]))
        total = planned_steps(settings, rungs)
        options = RunOptions(
            device=device,
            world=world,
            log_every=config.log_every,
            save_every=config.save_every,
            eval_tokens=config.eval_tokens,
            log=log,
            progress=lambda position, what, trained: report(position, total, what, trained),
            peak=_peak(settings, device, world.size, log) if world.first else None,
            tensorboard=config.tensorboard,
        )
        paths = RunPaths.of(place, settings.run, folder)
        text = TokenizedText.open(data, manifest, settings.n_positions, settings.data_fraction)
        try:
            with _raise_on_rank0(world):
                return train_ladder(settings, rungs, text, paths, options, stop)
        finally:
            if world.first:
                gather_runs(place.runs)


def _data_folder(config: TrainConfig, place: StudyPaths, folder: Path, log: Callable[[str], None]) -> Path:
    """Return the folder of a run's tokens: the study's, or the run's own where a trained model goes on with other text."""
    own = folder / "data"
    if config.init is None or (folder == place.folder):
        return place.data
    if (own / DATA).exists() or not (place.data / DATA).exists():
        return own if (own / DATA).exists() else place.data
    there = DataManifest.read(place.data / DATA)
    spec = config.spec()
    asked = inputs_of(
        config.data, vocab_size=spec.vocab_size, tokenizer=_tokenizer(config, place.data), held_out=config.held_out,
        validation=config.validation, mask=objective_for(spec) == "mlm", field=config.field,
        special_tokens=config.special_tokens,
    )  # fmt: skip
    other = difference(there, asked, place.data)
    if not other:
        return place.data
    log(
        f"{config.init} is trained further on other text than the study's, whose tokens were {other}; the new ones are in {own}"
    )
    return own


@contextmanager
def _unless_refused(data: Path) -> Iterator[None]:
    """Remove text that was prepared for a run which is refused after all: a refusal leaves no file."""
    made = [] if data.exists() else [data, *(parent for parent in data.parents if not parent.exists())]
    try:
        yield
    except BadInput:
        if made:
            shutil.rmtree(data, ignore_errors=True)
        for folder in made[1:]:
            with suppress(OSError):
                folder.rmdir()
        raise


def prepare_run(
    config: TrainConfig, study: Path, folder: Path, device: str, *, yes: bool, log: Callable[[str], None],
    report: ProgressCallback, world: World = ALONE, data: Path | None = None, flops_per_s: float | None = None,
) -> tuple[Settings, DataManifest, tuple[int, ...]]:  # fmt: skip
    """Check the machine, prepare the text, and resolve every default.

    Args:
        config: configuration of the run.
        study: folder of the study.
        folder: folder of the run; the recorded settings of a run begun there are kept.
        device: "cpu" or "cuda".
        yes: True to accept a run too large for this machine.
        log: called with each message.
        report: called with the completed share, 1.0, a description, and True.
        world: the processes that share the run.
        data: folder of the tokens; None for the study's.
        flops_per_s: speed that was measured for this run; None estimates one.

    Returns:
        The settings, the manifest of the text, and the lengths of the rungs in tokens.

    Raises:
        BadInput: as `train`.
    """
    if config.tensorboard:
        require_tensorboard("tensorboard is true")
    data = data or StudyPaths(study).data
    spec = config.spec()
    begun = (folder / RUN).exists()
    if begun:
        Settings.read(folder / RUN)
    need, batch = None, config.batch_size or 1
    law = None if begun else tuned_law(config, StudyPaths(study), log)
    for source in filter(None, (config.data, config.validation)):
        check_data(source, data)
    if config.epochs is None:  # else the text says how long the run is
        _check_length(config, spec)
        unread = settings_of(config, TextFacts(), device, law)
        batch = unread.batch_size
        need = check_machine(
            unread,
            config.rung_tokens(),
            device,
            yes=yes or begun,
            log=log,
            world=world,
            flops_per_s=flops_per_s,
        )
    manifest = prepare(
        config.data,
        data,
        vocab_size=spec.vocab_size,
        tokenizer=_tokenizer(config, data),
        held_out=config.held_out,
        validation=config.validation,
        mask=objective_for(spec) == "mlm",
        field=config.field,
        special_tokens=config.special_tokens,
        need=Need(n_positions=spec.n_positions, batch_size=batch),
        progress=lambda what, share: report(share, 1.0, what, True),
        log=log,
    )
    if config.ablate == "data" and config.data_fraction < 1 and config.epochs is None:
        # of what the run would read, which may be less than there is: its steps are to repeat it
        there = count_windows(manifest, spec.n_positions) * spec.n_positions
        part = config.data_fraction * min(1.0, config.tokens / there)
        config = config.model_copy(update={"name": base_name(config), "data_fraction": part})
    windows = count_windows(manifest, spec.n_positions, config.data_fraction)
    if config.epochs is not None:
        config = config.model_copy(update={"tokens": config.epochs * windows * spec.n_positions})
    facts = TextFacts.of(manifest, spec.architecture)
    if law is not None and law.group != facts.group:
        log(
            f"{law.name} is of {law.group or 'no named text'} and this run of {facts.group}: the recipe's rule it is"
        )
        law = None
    settings = settings_of(config, facts, device, law)
    if law is not None:
        found = settings.recipe.partition("; else ")[0]
        log(f"{settings.run}: {found} ({law.name}); lr= and batch_size= choose others")
    if config.data_fraction < 1 and windows < settings.batch_size:
        raise BadInput(
            f"data_fraction is {config.data_fraction:g}, which leaves {windows} windows of {spec.n_positions} tokens; "
            f"one batch needs {settings.batch_size}: give more text, or a smaller batch_size= or n_positions="
        )
    need = need or check_machine(
        settings,
        config.rung_tokens(),
        device,
        yes=yes or begun,
        log=log,
        world=world,
        flops_per_s=flops_per_s,
    )
    settings = with_study_seal(settings, config.rung_tokens()[-1], StudyPaths(study), folder, log)
    if begun:
        settings = with_recorded_settings(settings, folder, config)
        if config.micro_batch not in (None, settings.micro_batch):
            log(
                f"{settings.run}: micro_batch stays {settings.micro_batch}, with which the run goes on: {config.micro_batch} "
                "would round otherwise"
            )
        return settings, manifest, config.rung_tokens()
    wanted = BackendRequest.of(config)
    if config.engine == "deepspeed" and wanted.compile == "auto":
        # Its hooks gather divided weights, and break the graph at each block.
        wanted = replace(wanted, compile=False)
    settings = _with_engine(settings, config.rung_tokens(), wanted, need, device, log)
    if config.residual == "auto" and config.engine == "torch":
        settings = with_residual(settings, world.zero)
    return settings, manifest, config.rung_tokens()


def with_study_seal(
    settings: Settings, tokens: int, study: StudyPaths, folder: Path, log: Callable[[str], None]
) -> Settings:
    """Return the settings with the digest of the study's sealed plan, if this is a run that it predicts.

    A run of the predicted size that is not the sealed one is trained without a seal, and says so.

    Args:
        settings: settings of the run.
        tokens: tokens of its last rung.
        study: the study whose plan may predict it.
        folder: the run's folder; a run that has begun there keeps what it recorded.
        log: called with the reason why it is not the sealed run.

    Raises:
        BadInput: the study's plan was edited after it was sealed.
    """
    found = sealed_member(study, params(settings.spec()), tokens)
    if found is None:
        return settings
    seal, member = found
    others = list(differences(member, settings.model_dump(), settings.decay))
    if seal.data_sha256 not in ("", settings.data_sha256):
        others.insert(0, "the text is another than that of the runs behind the sealed law")
    if not others and (folder / RUN).exists() and Settings.read(folder / RUN).seal != seal.digest:
        others.append("it began without this seal")
    if others:
        log(
            f"{settings.run} is not the sealed run of {member.member}: {others[0]}; "
            "scaling compare will list it under 'not predictions'"
        )
        return settings
    _say_seed(settings, seal, log)
    return settings.model_copy(update={"seal": seal.digest})


def with_residual(settings: Settings, zero: int) -> Settings:
    """Return the settings with activations between blocks in bf16 where weights are sharded and gathered in bf16."""
    half = settings.dtype == "bf16" and zero >= 2
    return settings.model_copy(update={"residual": "bf16" if half else "fp32"})


def _check_length(config: TrainConfig, spec: ModelSpec) -> None:
    if config.tokens < spec.n_positions:
        raise BadInput(f"tokens is {config.tokens}; it must be at least one context of {spec.n_positions}")


def _tokenizer(config: TrainConfig, data: Path) -> str | None:
    """Return the requested tokenizer; with init= that of the checkpoint, or of the study if it is the same.

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


def _peak(settings: Settings, device: str, devices: int, log: Callable[[str], None]) -> PeakFlops:
    """Return the peak rate to which the run's MFU refers, and log it once."""
    found = peak_of(device, speed_of(device, settings.dtype), settings.dtype, devices)
    log(found.sentence)
    return found


@contextmanager
def _raise_on_rank0(world: World) -> Iterator[None]:
    """Report a stop or a divergence, which all processes reach at the same step, in process 0 only."""
    try:
        yield
    except (Diverged, Interrupted) as error:
        if world.first:
            raise
        raise SystemExit(1) from error


def _with_engine(
    settings: Settings,
    rungs: tuple[int, ...],
    wanted: BackendRequest,
    need: Estimate,
    device: str,
    log: Callable[[str], None],
) -> Settings:
    """Return the settings with the fastest engine for a run of this length."""
    steps = planned_steps(settings, rungs)
    engine = select_backend(
        wanted, settings, steps=steps, expected=need.plain_seconds, device=device, log=log
    )
    return settings.model_copy(update=engine.model_dump())


def train_plan(
    members: Sequence[PlannedMember], study: StudyPaths, *, seed: int, yes: bool, stop: Stop, log: Callable[[str], None],
    report: ProgressCallback, eval_tokens: int, save_every: float = 300.0, device: str = "auto", side_by_side: int = 1,
    threads: int | None = None, gathers: bool = True, zero: int = 0, wanted: BackendRequest | None = None,
    sealed: PlanFile | None = None,
) -> tuple[RungFile, ...]:  # fmt: skip
    """Train the ladder of each planned member, cheapest first; work is counted in FLOPs over all members.

    Args:
        members: the planned members.
        study: the study that holds the text and the runs.
        seed: seed of every run.
        yes: True to accept members too large for this machine.
        stop: stop signal, polled after every step.
        log: called with each message.
        report: called with FLOPs done, total FLOPs, a description, and True for work that was just trained.
        eval_tokens: largest number of held-out tokens in an evaluation.
        save_every: seconds between checkpoints.
        device: "cpu", "cuda" or "auto".
        side_by_side: number of members that train at a time on a CPU, one thread each; 1 gives each all `threads` in turn.
        threads: threads of torch; None keeps its default.
        gathers: True to update the study's runs.jsonl at the end; False for one of many jobs.
        zero: ZeRO stage, 0 to 3, by which a member is divided among the processes that a launcher has started.
        wanted: requested step backend, measured where "auto"; None selects the plain engine without a measurement.
        sealed: the plan of the members, if it is sealed; their runs carry its digest.

    Raises:
        BadInput: the study has no text yet, or as `train`.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    manifest = read_prepared(study.data)
    device = pick_device(device)
    with join(zero, device) as world:
        if not world.first:
            log, report = no_op, no_op  # only process 0 reports
        if device == "cuda" or world.size > 1:
            side_by_side = 1
        if wanted is not None and side_by_side > 1:
            wanted = replace(wanted, threads=1)

        cheapest_first = sorted(members, key=lambda planned: planned.flops)
        texts = world.do(
            lambda: [
                settings.model_dump_json()
                for settings in planned_settings(
                    cheapest_first,
                    manifest,
                    study,
                    device=device,
                    seed=seed,
                    yes=yes,
                    wanted=wanted,
                    log=log,
                    sealed=sealed,
                    world=world,
                )
            ]
        )
        jobs = [
            Job.of(Settings.model_validate_json(text), planned.ends, study, shared=side_by_side > 1)
            for planned, text in zip(cheapest_first, texts, strict=True)
        ]
        options = RunOptions(
            device=device, world=world, save_every=save_every, eval_tokens=eval_tokens, log=log
        )
        try:
            with _raise_on_rank0(world):
                return train_ladders(jobs, options, stop, report, side_by_side=side_by_side)
        finally:
            if gathers and world.first:
                gather_runs(study.runs)


def _with_seal(settings: Settings, plan: PlanFile, folder: Path, log: Callable[[str], None]) -> Settings:
    """Return the settings with the digest of their sealed plan.

    Raises:
        BadInput: the study holds another text than the one that the plan was sealed for.
    """
    seal = plan.seal
    assert seal is not None
    _check_text(settings.member, settings.group, settings.data_sha256, plan)
    _say_seed(settings, seal, log)
    if (folder / RUN).exists() and Settings.read(folder / RUN).seal != seal.digest:
        log(
            f"{settings.run} is not the sealed run: it began without this seal; "
            "scaling compare will list it under 'not predictions'"
        )
    return settings.model_copy(update={"seal": seal.digest})


def _say_seed(settings: Settings, seal: Seal, log: Callable[[str], None]) -> None:
    """Say what a run's seed is to a plan that names others, or more."""
    if seal.named and settings.seed not in seal.named:
        log(
            f"{settings.run} has seed {settings.seed}; the plan named {seal.named_text}, and only that is scored"
        )
    elif len(seal.named) > 1:
        log(f"{settings.run} is scored together with the plan's other seeds: it names {seal.named_text}")


def _check_text(member: str, group: str, data_sha256: str, plan: PlanFile) -> None:
    """Refuse a text other than that of the runs behind a sealed law; where the seal does not know it, another group."""
    sealed = plan.law.group if plan.law is not None else ""
    bound = plan.seal.data_sha256 if plan.seal is not None else ""
    if bound not in ("", data_sha256) or (not bound and sealed not in ("", group)):
        raise BadInput(
            f"{member} was sealed for another text than the study holds: its group is {group}, sealed "
            f"{sealed or bound[:12]}; train it in the study of the sealed text, or make a new plan"
        )


def prepare_members(
    plan: PlanFile, study: StudyPaths, data: str | None, tokenizer: str | None, trained: Sequence[str] = (),
    log: Callable[[str], None] = no_op,
) -> None:  # fmt: skip
    """Tokenise the text of a plan's members into a study, unless it is there; a sealed member takes the sealed text alone.

    Args:
        plan: the plan.
        study: the study.
        data: the text; None takes what is there.
        tokenizer: a folder or file; None trains one.
        trained: names of the members to be trained; empty means all.
        log: called with each message.

    Raises:
        BadInput: as `prepare_planned`, or the text is not the sealed one; a text prepared for nothing is removed.
    """
    with _unless_refused(study.data):
        prepare_planned(plan, study.data, data, tokenizer, trained, log)
        if plan.seal is not None:
            manifest = DataManifest.read(study.data / "data.json")
            for member in plan.only(trained).members:
                if member.prediction is not None:
                    facts = TextFacts.of(manifest, member.architecture)
                    _check_text(member.member, facts.group, facts.data_sha256, plan)


def check_members(
    members: Sequence[PlannedMember], study: StudyPaths, *, seed: int, device: str = "auto"
) -> None:
    """Refuse members too large for this machine before their text is read; members already begun are accepted.

    Args:
        members: the planned members.
        study: the study that holds the runs.
        seed: seed of every run.
        device: "cpu", "cuda" or "auto".

    Raises:
        BadInput: as `check_machine`.
    """
    device = pick_device(device)
    for planned in members:
        settings = settings_of_planned(planned, TextFacts(), device, seed=seed)
        if not (study.run_folder(settings.run) / RUN).exists():
            check_machine(settings, planned.ends, device, yes=False, log=no_op)


def planned_settings(
    members: Sequence[PlannedMember], manifest: DataManifest, study: StudyPaths, *, device: str, seed: int, yes: bool,
    wanted: BackendRequest | None, log: Callable[[str], None], sealed: PlanFile | None = None, world: World = ALONE,
) -> list[Settings]:  # fmt: skip
    """Return the settings of planned members for this text, after a check of the machine and a choice of the engine.

    Args:
        members: the planned members.
        manifest: manifest of the tokenised text.
        study: the study that holds the runs; recorded settings of runs already begun are kept.
        device: "cpu" or "cuda".
        seed: seed of every run.
        yes: True to accept members too large for this machine.
        wanted: requested step backend, measured where "auto"; None selects the plain engine without a measurement.
        log: called with each message of a measurement.
        sealed: the plan of the members, if it is sealed.
        world: the processes that share each run.

    Raises:
        BadInput: as `check_machine`, or the text is not the sealed one.
    """
    found = []
    for planned in members:
        facts = TextFacts.of(manifest, planned.architecture)
        settings = settings_of_planned(planned, facts, device, seed=seed)
        folder = study.run_folder(settings.run)
        if sealed is not None and sealed.seal is not None and planned.prediction is not None:
            settings = _with_seal(settings, sealed, folder, log)
        settings = with_recorded_settings(settings, folder)
        need = check_machine(settings, planned.ends, device, yes=yes, log=no_op, world=world)
        if wanted is not None and not (folder / RUN).exists():
            settings = _with_engine(settings, planned.ends, wanted, need, device, log)
        if not (folder / RUN).exists():
            settings = with_residual(settings, world.zero)
        found.append(settings)
    return found
