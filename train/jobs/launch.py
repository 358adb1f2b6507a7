"""Launch of a run given as key=value: preparation of its text, resolution of defaults, and its training."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from families import ModelSpec
from families.units import BadInput
from scaling.files import sha256_file
from scaling.fitting.forms import Status
from scaling.fitting.predictor import Fit, load_law
from scaling.fitting.valley import settings_of as tuned_by
from scaling.paths import StudyPaths
from scaling.runs.events import require_tensorboard
from scaling.runs.store import gather_runs

from ..backend import BackendRequest
from ..config import Settings, TrainConfig, objective_for
from ..data import DataManifest, Need, TokenizedText, count_windows
from ..data.prepare import DATA, check_data, difference, inputs_of, prepare
from ..distributed import ALONE, World, join
from ..ladder import Interrupted, RunOptions, RunPaths, no_op, train_ladder
from ..lease import Stop
from ..loop import Diverged, pick_device
from ..model.pretrained import checkpoint_folder, has_tokenizer
from ..rung import RUN, RungFile
from ..settings import (
    TextFacts,
    base_name,
    default_run_name,
    planned_steps,
    settings_of,
    with_recorded_settings,
)
from .ladders import ProgressCallback
from .machine import check_machine, peak_said, with_engine, with_kernels, with_residual
from .sealing import with_study_seal


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
            with unless_refused(data):
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
            peak=peak_said(settings, device, world.size, log) if world.first else None,
            tensorboard=config.tensorboard,
        )
        paths = RunPaths.of(place, settings.run, folder)
        text = TokenizedText.open(data, manifest, settings.n_positions, settings.data_fraction)
        try:
            with raise_on_rank0(world):
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
def unless_refused(data: Path) -> Iterator[None]:
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
        with_kernels(settings, device, world.size, log)  # what the run began with stays recorded
        return settings, manifest, config.rung_tokens()
    wanted = BackendRequest.of(config)
    if config.engine == "deepspeed" and wanted.compile == "auto":
        # Its hooks gather divided weights, and break the graph at each block.
        wanted = replace(wanted, compile=False)
    settings = with_engine(settings, config.rung_tokens(), wanted, need, device, log)
    if config.residual == "auto" and config.engine == "torch":
        settings = with_residual(settings, world.zero)
    return with_kernels(settings, device, world.size, log), manifest, config.rung_tokens()


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


@contextmanager
def raise_on_rank0(world: World) -> Iterator[None]:
    """Report a stop or a divergence, which all processes reach at the same step, in process 0 only."""
    try:
        yield
    except (Diverged, Interrupted) as error:
        if world.first:
            raise
        raise SystemExit(1) from error
