"""The checkpoint ladder: one trunk at constant learning rate, a cooldown branch for each rung, many observations."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from families import params, params_non_embedding, train_flops_per_token
from families.errors import BadInput
from scaling.files import now
from scaling.ledger import Work
from scaling.runs import Run, record_run
from scaling.schedule import Schedule
from scaling.watch import Outlook
from scaling.watching.underway import RungAhead, Underway

from .checkpoint import checkpoints, discard, load_newest, save_model, step_folder
from .config import NOT_IDENTITY, Settings, TrainConfig
from .data import Tokens
from .epochs import best_model, end_epoch, epoch_ends, epochs_until, mean_train_loss
from .evaluate import Evaluation, eval_set, evaluate, glance_of
from .loop import Diverged, Session, advance, start
from .manifest import DataManifest, Need, check_enough
from .objective import objective_of
from .owned import owned
from .pace import Peak, device_name, pace
from .parallel import ALONE, World
from .product import leave, mark_end
from .rung import RungFile
from .saver import Saver, check_room, keep_for_branch, prune_finished, recover
from .stop import Stop


class Interrupted(KeyboardInterrupt):
    """Asked to stop; everything up to the last step is saved, and the same command goes on from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """The tokens a run reads: training windows, held-out windows, and the manifest of both."""

    folder: Path
    manifest: DataManifest
    train: Tokens
    heldout: Tokens

    @staticmethod
    def open(folder: Path, manifest: DataManifest, n_positions: int, fraction: float = 1.0) -> "Text":
        """Map both splits; of the training windows a fraction."""
        return Text(
            folder=folder,
            manifest=manifest,
            train=Tokens.open(folder, manifest.train, manifest.dtype, n_positions, fraction),
            heldout=Tokens.open(folder, (manifest.heldout,), manifest.dtype, n_positions),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a run writes: its own folder, the study's observations and its ledger."""

    folder: Path
    runs: Path
    ledger: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """What changes no number: where to run, how often to log and save, whom to tell.

    `progress` hears a position out of `planned_steps`, what is going on, and whether the steps up to there were trained
    just now (else they had been done before).
    """

    device: str = "cpu"
    world: World = ALONE
    log_every: int = 10
    save_every: float = 300.0
    eval_tokens: int = 1_000_000
    tell: Callable[[str], None] = lambda line: None
    progress: Callable[[int, str, bool], None] = lambda position, what, trained: None
    peak: Peak | None = None  # what the progress line's MFU is of
    tensorboard: bool = False


def rung_steps(settings: Settings, tokens: int) -> int:
    """Whole steps nearest to that many tokens; at least 1."""
    return max(1, round(tokens / settings.batch_tokens))


def trunk_schedule(settings: Settings, steps: int) -> Schedule:
    """The schedule of a rung of so many steps: its trunk is the same for every rung of wsd."""
    base = Schedule(peak=settings.lr, warmup=settings.warmup, steps=steps, kind=settings.schedule)
    return (
        base if settings.schedule == "cosine" else base.to(steps, settings.cooldown, settings.cooldown_shape)
    )


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
    schedules = [
        trunk_schedule(settings, steps) for steps in {rung_steps(settings, tokens) for tokens in rungs}
    ]
    if settings.schedule == "cosine":
        return sum(schedule.steps for schedule in schedules)
    return max(s.decay_starts for s in schedules) + sum(s.cooldown_steps for s in schedules)


def climb(
    settings: Settings, rungs: tuple[int, ...], text: Text, places: Places, habits: Habits, stop: Stop
) -> tuple[RungFile, ...]:
    """Train a member to each rung, cheapest first. What is done is not done again; a rung or a cooldown can be added later.

    A branch starts from the trunk's own weights, optimiser state, random state and place in the data, and so equals an
    uninterrupted run of its schedule.

    Raises:
        BadInput: the folder holds a run with other settings or one that another process is training, the text is too small,
            or nothing can be written.
        Interrupted: asked to stop; saved.
        Diverged: the loss is no longer finite.
    """
    with owned(places.folder, habits.world, stop) as held:
        return _climb(settings, rungs, text, places, habits, held)


def _climb(
    settings: Settings, rungs: tuple[int, ...], text: Text, places: Places, habits: Habits, stop: Stop
) -> tuple[RungFile, ...]:
    world = habits.world
    world.do(lambda: _claim(settings, places.folder))
    world.do(lambda: recover(places.folder, places.ledger))
    world.do(lambda: _announce(settings, rungs, places.folder))
    check_enough(text.manifest, Need(n_positions=settings.n_positions, batch_size=settings.batch_size))
    held = eval_set(text.heldout, text.manifest, habits.eval_tokens, objective_of(settings))
    done = []
    before = 0  # steps of the branches so far: the ladder's position is the step plus these
    for steps in sorted({rung_steps(settings, tokens) for tokens in rungs}):
        schedule = trunk_schedule(settings, steps)
        branch = places.folder / branch_name(settings, steps)
        finished = branch / "rung.json"
        if not world.do(finished.exists):
            micro_batch = world.do(lambda: Settings.read(places.folder / "run.json").micro_batch)
            settings = settings.model_copy(update={"micro_batch": micro_batch})  # it may have been lowered
            session = _to_end(settings, schedule, branch, text, places, habits, stop, before)
            result = evaluate(session.model, settings, held, habits.device, world=world)
            save_model(session.model, text.folder / "tokenizer.json", branch / "model", world)
            if world.first:
                rung = _observe(session, schedule, result, held.name, text, places.folder)
                leave(branch, text.folder.parent, settings, rung, text.manifest)
                if habits.tensorboard:
                    mark_end(branch, steps, rung)
                rung.write(finished)
                for _, folder in checkpoints(branch):
                    discard(folder)
        rung = RungFile.model_validate_json(world.do(partial(_record, finished, places.runs)))
        habits.progress(before + steps, f"{settings.run} {branch.name}", False)
        before += steps if settings.schedule == "cosine" else schedule.cooldown_steps
        done.append(rung)
    if world.first and settings.schedule == "wsd":
        longest = trunk_schedule(settings, max(rung_steps(settings, tokens) for tokens in rungs))
        prune_finished(places.folder / "trunk", trunk_end(longest))
    return tuple(done)


def _record(finished: Path, runs: Path) -> str:
    """A finished rung among the study's observations; returns its text."""
    rung = RungFile.read(finished)
    record_run(runs, rung.observation)
    return rung.dump()


def _claim(settings: Settings, folder: Path) -> None:
    """Write run.json, or check that the run in the folder is this one."""
    path = folder / "run.json"
    if path.exists():
        found = Settings.read(path)
        if found.identity() != settings.identity():
            ours, theirs = settings.model_dump(), found.model_dump()
            key = next(name for name in ours if name not in NOT_IDENTITY and ours[name] != theirs[name])
            raise BadInput(
                f"{folder} holds a run with {key} {theirs[key]}; this one has {ours[key]}: choose another out=, or remove it"
            )
    else:
        settings.write(path)


def _announce(settings: Settings, rungs: tuple[int, ...], folder: Path) -> None:
    """Say in underway.json where the run is going, so that its end can be foreseen; rungs asked for later are added."""
    path = folder / "underway.json"
    rungs_ahead = tuple(
        RungAhead(
            steps=steps,
            folder=branch_name(settings, steps),
            cooldown=settings.cooldown if settings.schedule == "wsd" else 0.0,
            shape=settings.cooldown_shape,
        )
        for steps in sorted({rung_steps(settings, tokens) for tokens in rungs})
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


def _to_end(
    settings: Settings, schedule: Schedule, branch: Path, text: Text, places: Places, habits: Habits, stop: Stop,
    before: int,
) -> Session:  # fmt: skip
    """The session at the end of a rung, and everything of it saved."""
    try:
        with Saver(tokenizer=text.folder / "tokenizer.json", ledger=places.ledger) as saver:
            return _reach(settings, schedule, branch, text, places, habits, stop, before, saver)
    except Diverged as error:
        good = checkpoints(branch) or checkpoints(places.folder / "trunk")
        said = f"the last good checkpoint is {good[-1][1]}" if good else "no checkpoint had been written"
        raise Diverged(f"{error}; {said}") from error


def _reach(
    settings: Settings, schedule: Schedule, branch: Path, text: Text, places: Places, habits: Habits, stop: Stop,
    before: int, saver: Saver,
) -> Session:  # fmt: skip
    """The session at the end of a rung: from its own checkpoint, else from the trunk, trained as far as it takes."""
    steps = schedule.steps
    world = habits.world
    session = load_newest(settings, branch, habits.device, at_most=steps, tell=habits.tell, world=world)
    if session is None:
        trunk = places.folder / "trunk"
        starts = trunk_end(schedule)
        session = load_newest(settings, trunk, habits.device, at_most=starts, tell=habits.tell, world=world)
        if session is None:
            session = start(settings, habits.device, world)
        if session.step < starts and world.do(lambda: any(step > starts for step, _ in checkpoints(trunk))):
            # The trunk's own record goes on beyond this point: what is trained again is the branch's.
            habits.tell(
                f"{settings.run}: the cooldown of {branch.name} starts at step {starts} and the nearest checkpoint before is "
                f"at step {session.step}; the steps between are trained again"
            )
            _advance(
                session, schedule, starts, branch, text, places, habits, stop, before, saver, saved_in=trunk
            )
        elif session.step < starts:
            _advance(session, schedule, starts, trunk, text, places, habits, stop, before, saver)
        elif world.first:
            keep_for_branch(step_folder(trunk, starts))
    if session.step < steps:
        _advance(session, schedule, steps, branch, text, places, habits, stop, before, saver)
    return session


def _advance(
    session: Session, schedule: Schedule, until: int, folder: Path, text: Text, places: Places, habits: Habits,
    stop: Stop, before: int, saver: Saver, saved_in: Path | None = None,
) -> None:  # fmt: skip
    """Train to a step, booking and saving what is done; a trunk keeps the checkpoints that branches start from."""
    parent = saved_in or folder
    name, part = session.settings.run, folder.name
    habits.progress(before + session.step, f"{name} {part}", False)
    if session.world.first:
        check_room(session, parent)
    booked_step, booked_wall = session.step, session.wall_s
    outlook = Outlook(places.folder, schedule.steps, silent=not session.world.first)

    def keep() -> None:
        nonlocal booked_step, booked_wall
        tokens = (session.step - booked_step) * session.settings.batch_tokens
        work = Work(
            run=session.settings.run,
            part=part,
            from_step=booked_step,
            to_step=session.step,
            tokens=tokens,
            flops=float(tokens * train_flops_per_token(session.settings.spec())),
            wall_s=round(session.wall_s - booked_wall, 3),
            settings_sha256=session.settings.identity(),
            at=now(),
        )
        ends_trunk = parent.name == "trunk" and session.step == until
        saver.save(session, step_folder(parent, session.step), work, starts_branch=ends_trunk)
        booked_step, booked_wall = session.step, session.wall_s

    ends = epoch_ends(session.settings, len(text.train))

    def note() -> None:
        if session.step in ends and session.step < schedule.steps:  # the last is the rung's own evaluation
            trunk, began = (
                places.folder / "trunk",
                max((end for end in ends if end < session.step), default=0),
            )
            place = trunk if session.step <= trunk_end(schedule) else folder
            lines = [(trunk, trunk_end(schedule)), (folder, session.step)]
            held = eval_set(text.heldout, text.manifest, habits.eval_tokens, objective_of(session.settings))
            end_epoch(
                session, ends.index(session.step) + 1, place, lambda: mean_train_loss(lines, began, session.step), held,
                text.folder / "tokenizer.json", habits.tell,
            )  # fmt: skip

    note()  # stopped between a save and its evaluation
    for end in (*(end for end in ends if session.step < end < until), until):
        reached = advance(
            session,
            schedule,
            end,
            text.train,
            folder=folder,
            log_every=habits.log_every,
            stop=stop,
            save=keep,
            save_every=habits.save_every,
            progress=lambda step, loss, rate: habits.progress(
                before + step,
                f"{name} {part} step {step}/{until} loss {loss:.3f}{outlook.words()}, "
                + pace(session.settings.spec(), rate, habits.peak),
                True,
            ),
            tensorboard=habits.tensorboard,
            lower=lambda micro_batch, before: _lower(micro_batch, before, places.folder, habits.tell),
            glance=glance_of(text.heldout, text.manifest, session.settings, habits.log_every),
        )
        if not reached:
            raise Interrupted(
                f"{session.settings.run} is saved at step {session.step} of {part}; the same command goes on from there"
            )
        note()


def trunk_end(schedule: Schedule) -> int:
    """The last step of a rung that is the trunk's: where its cooldown begins."""
    return 0 if schedule.kind == "cosine" else schedule.decay_starts


def _lower(micro_batch: int, before: int, folder: Path, tell: Callable[[str], None]) -> None:
    """What goes on from here, and what resumes, takes the micro-batch that fits."""
    path = folder / "run.json"
    Settings.read(path).model_copy(update={"micro_batch": micro_batch}).write(path)
    tell(
        f"out of memory with micro_batch={before}: it is {micro_batch} from now on; the batch stays what it is"
    )


def _observe(
    session: Session, schedule: Schedule, result: Evaluation, eval_name: str, text: Text, folder: Path
) -> RungFile:
    settings, spec = session.settings, session.settings.spec()
    branch = folder / branch_name(settings, session.step)
    ends = (0, *epoch_ends(settings, len(text.train)))
    one_pass = round(len(text.train) / settings.batch_size)
    pass_began = ends[-2] if settings.epochs else max(0, session.step - max(1, one_pass))
    parts = [(folder / "trunk", trunk_end(schedule)), (branch, session.step)]
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
