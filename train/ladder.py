"""The checkpoint ladder: one trunk at constant learning rate, a cooldown branch for each rung, many observations."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from families import train_flops_per_token
from scaling.files import now
from scaling.gather import LEDGER, RUNS
from scaling.ledger import Work
from scaling.schedule import Schedule
from scaling.study import Study
from scaling.watch import Outlook

from .branches import branch_name, rung_steps, trunk_end, trunk_schedule
from .checkpoint import checkpoints, discard, load_newest, save_model, step_folder
from .config import Settings
from .data import Text
from .epochs import end_epoch, epoch_ends, mean_train_loss
from .evaluate import eval_set, evaluate, glance_of
from .loop import Diverged, Session, advance, start
from .manifest import Need, check_enough
from .objective import objective_of
from .owned import owned
from .pace import Peak, pace
from .parallel import ALONE, World
from .product import leave, mark_end
from .records import announce, claim, observe, record
from .rung import MODEL, RUN, RUNG, TRUNK, RungFile
from .saver import Saver, check_room, keep_for_branch, prune_finished, recover
from .stop import Stop


class Interrupted(KeyboardInterrupt):
    """Asked to stop; everything up to the last step is saved, and the same command goes on from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a run writes: its own folder, the study's observations and its ledger."""

    folder: Path
    runs: Path
    ledger: Path

    @property
    def trunk(self) -> Path:
        """What the run's rungs share."""
        return self.folder / TRUNK

    @classmethod
    def of(cls, study: Study, run: str, folder: Path | None = None) -> Self:
        """A run of a study: observations and ledger lie in its own folder, which has no other writer.

        A run whose `folder` is the study itself (out=) is a study of one run.
        """
        own = study.folder if folder == study.folder else study.run_folder(run)
        return cls(folder=folder or own, runs=own / RUNS, ledger=own / LEDGER)


def unheard(*said: object) -> None:
    """Nobody listens. It has a name, and so reaches other processes."""


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
    tell: Callable[[str], None] = unheard
    progress: Callable[[int, str, bool], None] = unheard
    peak: Peak | None = None  # what the progress line's MFU is of
    tensorboard: bool = False


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
    world.do(lambda: claim(settings, places.folder))
    world.do(lambda: recover(places.folder, places.ledger))
    world.do(lambda: announce(settings, rungs, places.folder))
    check_enough(text.manifest, Need(n_positions=settings.n_positions, batch_size=settings.batch_size))
    held = eval_set(text.heldout, text.manifest, habits.eval_tokens, objective_of(settings))
    done = []
    before = 0  # steps of the branches so far: the ladder's position is the step plus these
    for steps in rung_steps(settings, rungs):
        schedule = trunk_schedule(settings, steps)
        branch = places.folder / branch_name(settings, steps)
        finished = branch / RUNG
        if not world.do(finished.exists):
            micro_batch = world.do(lambda: Settings.read(places.folder / RUN).micro_batch)
            settings = settings.model_copy(update={"micro_batch": micro_batch})  # it may have been lowered
            session = _to_end(settings, schedule, branch, text, places, habits, stop, before)
            result = evaluate(session.model, settings, held, habits.device, world=world)
            save_model(session.model, text.tokenizer, branch / MODEL, world)
            if world.first:
                rung = observe(session, schedule, result, held.name, text, places.folder)
                leave(branch, text.folder.parent, settings, rung, text.manifest)
                if habits.tensorboard:
                    mark_end(branch, steps, rung)
                rung.write(finished)
                for _, folder in checkpoints(branch):
                    discard(folder)
        rung = RungFile.model_validate_json(world.do(partial(record, finished, places.runs)))
        habits.progress(before + steps, f"{settings.run} {branch.name}", False)
        before += steps if settings.schedule == "cosine" else schedule.cooldown_steps
        done.append(rung)
    if world.first and settings.schedule == "wsd":
        longest = trunk_schedule(settings, rung_steps(settings, rungs)[-1])
        prune_finished(places.trunk, trunk_end(longest))
    return tuple(done)


def _to_end(
    settings: Settings, schedule: Schedule, branch: Path, text: Text, places: Places, habits: Habits, stop: Stop,
    before: int,
) -> Session:  # fmt: skip
    """The session at the end of a rung, and everything of it saved."""
    try:
        with Saver(tokenizer=text.tokenizer, ledger=places.ledger) as saver:
            return _reach(settings, schedule, branch, text, places, habits, stop, before, saver)
    except Diverged as error:
        good = checkpoints(branch) or checkpoints(places.trunk)
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
        trunk = places.trunk
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
        ends_trunk = parent.name == TRUNK and session.step == until
        saver.save(session, step_folder(parent, session.step), work, starts_branch=ends_trunk)
        booked_step, booked_wall = session.step, session.wall_s

    ends = epoch_ends(session.settings, len(text.train))

    def note() -> None:
        if session.step in ends and session.step < schedule.steps:  # the last is the rung's own evaluation
            trunk, began = (
                places.trunk,
                max((end for end in ends if end < session.step), default=0),
            )
            place = trunk if session.step <= trunk_end(schedule) else folder
            lines = [(trunk, trunk_end(schedule)), (folder, session.step)]
            held = eval_set(text.heldout, text.manifest, habits.eval_tokens, objective_of(session.settings))
            end_epoch(
                session, ends.index(session.step) + 1, place, lambda: mean_train_loss(lines, began, session.step), held,
                text.tokenizer, habits.tell,
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


def _lower(micro_batch: int, before: int, folder: Path, tell: Callable[[str], None]) -> None:
    """What goes on from here, and what resumes, takes the micro-batch that fits."""
    path = folder / RUN
    Settings.read(path).model_copy(update={"micro_batch": micro_batch}).write(path)
    tell(
        f"out of memory with micro_batch={before}: it is {micro_batch} from now on; the batch stays what it is"
    )
