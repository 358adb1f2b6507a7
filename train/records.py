"""What a ladder writes down: whose folder it is, where it is going, and what a finished rung gives."""

from pathlib import Path

from families import params, params_non_embedding, train_flops_per_token
from families.errors import BadInput
from scaling.runs import Run, record_run
from scaling.schedule import Schedule
from scaling.watching.underway import RungAhead, Underway

from .branches import branch_name, rung_steps, trunk_end
from .checkpoint import step_folder
from .config import NOT_IDENTITY, Settings
from .data import Text
from .epochs import best_model, epoch_ends, epochs_until, mean_train_loss
from .evaluate import Evaluation
from .loop import Session
from .pace import device_name
from .rung import RUN, TRUNK, RungFile


def record(finished: Path, runs: Path) -> str:
    """A finished rung among the study's observations; returns its text."""
    rung = RungFile.read(finished)
    record_run(runs, rung.observation)
    return rung.dump()


def claim(settings: Settings, folder: Path) -> None:
    """Write run.json, or check that the run in the folder is this one."""
    path = folder / RUN
    if path.exists():
        found = Settings.read(path)
        if found.identity() != settings.identity():
            ours, theirs = settings.model_dump(), found.model_dump()
            key = next(name for name in ours if name not in NOT_IDENTITY and ours[name] != theirs[name])
            raise BadInput(
                f"{folder} holds a run with {key} {theirs[key]}; this one has {ours[key]}: "
                "choose another name= or out=, or remove it"
            )
    else:
        settings.write(path)


def announce(settings: Settings, rungs: tuple[int, ...], folder: Path) -> None:
    """Say in underway.json where the run is going, so that its end can be foreseen; rungs asked for later are added."""
    path = folder / "underway.json"
    rungs_ahead = tuple(
        RungAhead(
            steps=steps,
            folder=branch_name(settings, steps),
            cooldown=settings.cooldown if settings.schedule == "wsd" else 0.0,
            shape=settings.cooldown_shape,
        )
        for steps in rung_steps(settings, rungs)
    )
    asked = Underway(
        run=settings.run,
        rungs=rungs_ahead,
        batch_tokens=settings.batch_tokens,
        lr=settings.lr,
        warmup=settings.warmup,
        schedule=settings.schedule,
        params=params(settings.spec()),
        params_non_embedding=params_non_embedding(settings.spec()),
        group=settings.group,
        fresh=not settings.init,
        batches=settings.order_of_batches(),
    )
    before = Underway.read(path).rungs if path.exists() else ()
    asked.model_copy(update={"rungs": before}).also(rungs_ahead).write(path)


def observe(
    session: Session, schedule: Schedule, result: Evaluation, eval_name: str, text: Text, folder: Path
) -> RungFile:
    """What a finished rung gives, and what is measured beside it."""
    settings, spec = session.settings, session.settings.spec()
    branch = folder / branch_name(settings, session.step)
    ends = (0, *epoch_ends(settings, len(text.train)))
    one_pass = round(len(text.train) / settings.batch_size)
    pass_began = ends[-2] if settings.epochs else max(0, session.step - max(1, one_pass))
    parts = [(folder / TRUNK, trunk_end(schedule)), (branch, session.step)]
    train_loss = mean_train_loss(parts, pass_began, session.step)
    epochs = epochs_until(settings, len(text.train), result, train_loss, branch, trunk_end(schedule))
    tokens = session.step * settings.batch_tokens
    run = Run(
        run=settings.run,
        group=settings.group,
        params=params(spec),
        params_non_embedding=params_non_embedding(spec),
        tokens=tokens,
        unique_tokens=min(tokens, len(text.train) * settings.n_positions),
        loss=result.loss,
        loss_se=result.se,
        compute=float(tokens * train_flops_per_token(spec)),
        compute_kind="exact",
        annealed=True,
        schedule=settings.decay,
        seed=settings.seed,
        eval_set=eval_name,
        n_positions=spec.n_positions,
        vocab_size=spec.vocab_size,
        batch_tokens=settings.batch_tokens,
        lr=settings.lr,
        n_layer=spec.n_layer,
        n_embd=spec.n_embd,
        n_head=spec.n_head,
        wall_s=round(session.wall_s, 3),
        accelerator=device_name(session.device, session.world.size),
    )
    return RungFile(
        observation=run,
        trunk_checkpoint=f"trunk/{step_folder(Path(), schedule.decay_starts).name}"
        if schedule.kind == "wsd"
        else "",
        perplexity=result.perplexity,
        bits_per_byte=result.bits_per_byte,
        loss_per_word=result.loss_per_word,
        eval_tokens=result.tokens,
        train_loss=train_loss,
        epochs=epochs,
        best_model=best_model(branch, epochs),
    )
