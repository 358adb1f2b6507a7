"""The checkpoint ladder: one trunk at constant learning rate, a cooldown branch for each rung, many observations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from families import train_flops_per_token
from scaling.files import now
from scaling.monitoring import ProgressForecast
from scaling.paths import StudyPaths
from scaling.runs.store import LEDGER, RUNS, WorkEntry
from scaling.schedule import Schedule

from .artifacts import check_settings, log_final_eval, observe, record, write_artifacts, write_run_plan
from .checkpoint import checkpoints, discard, load_newest, save_model, step_folder
from .config import Settings
from .data import Need, TokenizedText, check_enough
from .distributed import ALONE, World
from .evaluate import end_epoch, epoch_ends, eval_set, evaluate, mean_train_loss, quick_eval
from .lease import Lease, Stop, acquire_lease
from .loop import Diverged, Session, advance, start
from .metrics import PeakFlops, throughput_text
from .model.objective import objective_of
from .rung import MODEL, RUN, RUNG, TRUNK, RungFile
from .saver import Saver, check_room, pin_checkpoint, prune_finished, recover
from .settings import branch_name, rung_steps, trunk_end, trunk_schedule

# MERGED DOCSTRINGS
# A run has one writer: its claim, made by process 0, and looked at whenever the loop asks whether to stop.


class _LeaseStop(Stop):
    """Another's wish to stop; and the end of a process whose run was taken over while it slept."""

    def __init__(self, stop: Stop, claims: list[Lease]) -> None:
        super().__init__()
        self._stop, self._claims = stop, claims

    @property
    def asked(self) -> bool:
        """Looked at after every step, before anything is saved.

        Raises:
            RunFailed: the run is another's now.
        """
        for one in self._claims:
            one.check()
        return self._stop.asked


@contextmanager
def run_lease(folder: Path, world: World, stop: Stop) -> Iterator[Stop]:
    """A run's folder, ours within; what it yields is the stop to train by.

    Raises:
        Claimed: another process is training the run.
    """
    claims: list[Lease] = []
    world.do(lambda: claims.append(acquire_lease(folder)))
    try:
        yield _LeaseStop(stop, claims)
    finally:
        for one in claims:
            one.release()


class Interrupted(KeyboardInterrupt):
    """Asked to stop; everything up to the last step is saved, and the same command goes on from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPaths:
    """Where a run writes: its own folder, the study's observations and its ledger."""

    folder: Path
    runs: Path
    ledger: Path

    @property
    def trunk(self) -> Path:
        """What the run's rungs share."""
        return self.folder / TRUNK

    @classmethod
    def of(cls, study: StudyPaths, run: str, folder: Path | None = None) -> Self:
        """A run of a study: observations and ledger lie in its own folder, which has no other writer.

        A run whose `folder` is the study itself (out=) is a study of one run.
        """
        own = study.folder if folder == study.folder else study.run_folder(run)
        return cls(folder=folder or own, runs=own / RUNS, ledger=own / LEDGER)


def no_op(*said: object) -> None:
    """Nobody listens. It has a name, and so reaches other processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What changes no number: where to run, how often to log and save, whom to tell.

    `progress` hears a position out of `planned_steps`, what is going on, and whether the steps up to there were trained
    just now (else they had been done before).
    """

    device: str = "cpu"
    world: World = ALONE
    log_every: int = 10
    save_every: float = 300.0
    eval_tokens: int = 1_000_000
    tell: Callable[[str], None] = no_op
    progress: Callable[[int, str, bool], None] = no_op
    peak: PeakFlops | None = None  # what the progress line's MFU is of
    tensorboard: bool = False


def train_ladder(
    settings: Settings,
    rungs: tuple[int, ...],
    text: TokenizedText,
    places: RunPaths,
    habits: RunOptions,
    stop: Stop,
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
    with run_lease(places.folder, habits.world, stop) as held:
        return _train_rungs(settings, rungs, text, places, habits, held)


def _train_rungs(
    settings: Settings,
    rungs: tuple[int, ...],
    text: TokenizedText,
    places: RunPaths,
    habits: RunOptions,
    stop: Stop,
) -> tuple[RungFile, ...]:
    world = habits.world
    world.do(lambda: check_settings(settings, places.folder))
    world.do(lambda: recover(places.folder, places.ledger))
    world.do(lambda: write_run_plan(settings, rungs, places.folder))
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
            leg = _RungTrainer(
                schedule=schedule,
                branch=branch,
                text=text,
                places=places,
                habits=habits,
                stop=stop,
                before=before,
            )
            session = leg.walk(settings)
            result = evaluate(session.model, settings, held, habits.device, world=world)
            save_model(session.model, text.tokenizer, branch / MODEL, world)
            if world.first:
                rung = observe(session, schedule, result, held.name, text, places.folder)
                write_artifacts(branch, text.folder.parent, settings, rung, text.manifest)
                if habits.tensorboard:
                    log_final_eval(branch, steps, rung)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _RungTrainer:
    """The way to one rung, from wherever the run has come to. before: steps of the branches so far, see `climb`."""

    schedule: Schedule
    branch: Path
    text: TokenizedText
    places: RunPaths
    habits: RunOptions
    stop: Stop
    before: int

    def walk(self, settings: Settings) -> Session:
        """The session at the end of the rung, and everything of it saved."""
        try:
            with Saver(tokenizer=self.text.tokenizer, ledger=self.places.ledger) as saver:
                return self._reach(settings, saver)
        except Diverged as error:
            good = checkpoints(self.branch) or checkpoints(self.places.trunk)
            said = f"the last good checkpoint is {good[-1][1]}" if good else "no checkpoint had been written"
            raise Diverged(f"{error}; {said}") from error

    def _reach(self, settings: Settings, saver: Saver) -> Session:
        """From the rung's own checkpoint, else from the trunk, trained as far as it takes."""
        session = self._newest(settings, self.branch, at_most=self.schedule.steps)
        if session is None:
            session = self._leave_trunk(settings, saver)
        if session.step < self.schedule.steps:
            self._advance(session, self.schedule.steps, self.branch, saver)
        return session

    def _leave_trunk(self, settings: Settings, saver: Saver) -> Session:
        """The session where the rung's branch begins."""
        trunk, world = self.places.trunk, self.habits.world
        starts = trunk_end(self.schedule)
        session = self._newest(settings, trunk, at_most=starts) or start(settings, self.habits.device, world)
        if session.step < starts and world.do(lambda: any(step > starts for step, _ in checkpoints(trunk))):
            # The trunk's own record goes on beyond this point: what is trained again is the branch's.
            self.habits.tell(
                f"{settings.run}: the cooldown of {self.branch.name} starts at step {starts} and the nearest checkpoint "
                f"before is at step {session.step}; the steps between are trained again"
            )
            self._advance(session, starts, self.branch, saver, saved_in=trunk)
        elif session.step < starts:
            self._advance(session, starts, trunk, saver)
        elif world.first:
            pin_checkpoint(step_folder(trunk, starts))
        return session

    def _newest(self, settings: Settings, folder: Path, *, at_most: int) -> Session | None:
        habits = self.habits
        return load_newest(
            settings, folder, habits.device, at_most=at_most, tell=habits.tell, world=habits.world
        )

    def _advance(
        self, session: Session, until: int, folder: Path, saver: Saver, *, saved_in: Path | None = None
    ) -> None:
        """Train to a step, booking and saving what is done; a trunk keeps the checkpoints that branches start from."""
        text, habits = self.text, self.habits
        parent = saved_in or folder
        name, part = session.settings.run, folder.name
        habits.progress(self.before + session.step, f"{name} {part}", False)
        if session.world.first:
            check_room(session, parent)
        booked_step, booked_wall = session.step, session.wall_s
        outlook = ProgressForecast(self.places.folder, self.schedule.steps, silent=not session.world.first)

        def keep() -> None:
            nonlocal booked_step, booked_wall
            tokens = (session.step - booked_step) * session.settings.batch_tokens
            work = WorkEntry(
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
        self._score_epoch(session, folder)  # stopped between a save and its evaluation
        for end in (*(end for end in ends if session.step < end < until), until):
            reached = advance(
                session,
                self.schedule,
                end,
                text.train,
                folder=folder,
                log_every=habits.log_every,
                stop=self.stop,
                save=keep,
                save_every=habits.save_every,
                progress=lambda step, loss, rate: habits.progress(
                    self.before + step,
                    f"{name} {part} step {step}/{until} loss {loss:.3f}{outlook.words()}, "
                    + throughput_text(session.settings.spec(), rate, habits.peak),
                    True,
                ),
                tensorboard=habits.tensorboard,
                lower=self._lower,
                glance=quick_eval(text.heldout, text.manifest, session.settings, habits.log_every),
            )
            if not reached:
                raise Interrupted(
                    f"{session.settings.run} is saved at step {session.step} of {part}; the same command goes on from there"
                )
            self._score_epoch(session, folder)

    def _score_epoch(self, session: Session, folder: Path) -> None:
        """Where an epoch ends, what it reached; of the last, the rung's own evaluation says it."""
        text, settings, trunk = self.text, session.settings, self.places.trunk
        ends = epoch_ends(settings, len(text.train))
        if session.step not in ends or session.step >= self.schedule.steps:
            return
        began = max((end for end in ends if end < session.step), default=0)
        left = trunk_end(self.schedule)
        lines = [(trunk, left), (folder, session.step)]
        end_epoch(
            session,
            ends.index(session.step) + 1,
            trunk if session.step <= left else folder,
            lambda: mean_train_loss(lines, began, session.step),
            eval_set(text.heldout, text.manifest, self.habits.eval_tokens, objective_of(settings)),
            text.tokenizer,
            self.habits.tell,
        )

    def _lower(self, micro_batch: int, before: int) -> None:
        """What goes on from here, and what resumes, takes the micro-batch that fits."""
        path = self.places.folder / RUN
        Settings.read(path).model_copy(update={"micro_batch": micro_batch}).write(path)
        self.habits.tell(
            f"out of memory with micro_batch={before}: it is {micro_batch} from now on; the batch stays what it is"
        )
