"""The checkpoint ladder: one trunk at constant learning rate, and a cooldown branch with an observation for each rung.

A run has one writer: process 0 holds the lease of its folder, which is checked whenever the loop polls for a stop.
"""

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
from scaling.stats import format_loss

from .artifacts import (
    check_settings,
    close_ledger,
    log_final_eval,
    record,
    rung_file,
    write_artifacts,
    write_run_plan,
)
from .checkpoint import checkpoints, discard, load_newest, save_model, step_folder
from .config import Settings
from .data import Need, TokenizedText, check_enough
from .distributed import ALONE, World
from .evaluate import end_epoch, epoch_ends, eval_set, mean_train_loss, quick_eval, score
from .lease import Lease, Stop, acquire_lease
from .loop import Diverged, Session, advance, start
from .metrics import PeakFlops, throughput_text
from .model.objective import objective_of
from .rung import MODEL, RUN, RUNG, TRUNK, RungFile
from .saver import Saver, check_room, pin_checkpoint, prune_finished, recover
from .settings import branch_name, rung_steps, trunk_end, trunk_schedule


class _LeaseStop(Stop):
    """Stop signal that also fails if this process has lost the run's lease."""

    def __init__(self, stop: Stop, leases: list[Lease]) -> None:
        super().__init__()
        self._stop, self._leases = stop, leases

    @property
    def requested(self) -> bool:
        """True once a stop is requested; polled after every step, before anything is saved.

        Raises:
            RunFailed: another process has taken over the run.
        """
        for lease in self._leases:
            lease.check()
        return self._stop.requested


@contextmanager
def run_lease(folder: Path, world: World, stop: Stop) -> Iterator[Stop]:
    """Hold the lease of a run's folder; yields the stop signal to train with.

    Raises:
        LeaseHeld: another process is training the run.
    """
    leases: list[Lease] = []  # one in process 0, none in the others
    world.do(lambda: leases.append(acquire_lease(folder)))
    try:
        yield _LeaseStop(stop, leases)
    finally:
        for lease in leases:
            lease.release()


class Interrupted(KeyboardInterrupt):
    """Stopped on request, with everything up to the last step saved; the same command resumes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPaths:
    """Paths that a run writes: its folder, its observations and its ledger."""

    folder: Path
    runs: Path
    ledger: Path

    @property
    def trunk(self) -> Path:
        """Folder of the trunk, which the rungs share."""
        return self.folder / TRUNK

    @classmethod
    def of(cls, study: StudyPaths, run: str, folder: Path | None = None) -> Self:
        """Return the paths of a run in a study; observations and ledger lie in its own folder, which has no other writer.

        A run whose `folder` is the study itself (out=) is a study of one run.
        """
        own = study.folder if folder == study.folder else study.run_folder(run)
        return cls(folder=folder or own, runs=own / RUNS, ledger=own / LEDGER)


def no_op(*values: object) -> None:
    """No-op callback; module-level, so that it can be pickled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Execution options that never change results: device, logging and checkpoint intervals, callbacks.

    Args:
        device: "cpu" or "cuda".
        world: the processes that share the run.
        log_every: steps between lines of metrics.
        save_every: seconds between checkpoints.
        eval_tokens: largest number of held-out tokens in an evaluation.
        log: called with messages.
        progress: called with a position out of `planned_steps`, a description, and True if the steps up to there were
            trained just now, False if they were done before.
        peak: FLOP/s of which the progress line gives the MFU; None for no MFU.
        tensorboard: also write TensorBoard event files.
    """

    device: str = "cpu"
    world: World = ALONE
    log_every: int = 10
    save_every: float = 300.0
    eval_tokens: int = 1_000_000
    log: Callable[[str], None] = no_op
    progress: Callable[[int, str, bool], None] = no_op
    peak: PeakFlops | None = None
    tensorboard: bool = False


def train_ladder(
    settings: Settings,
    rungs: tuple[int, ...],
    text: TokenizedText,
    paths: RunPaths,
    options: RunOptions,
    stop: Stop,
) -> tuple[RungFile, ...]:
    """Train a member to each rung, shortest first; finished rungs are not repeated, and rungs can be added later.

    A branch starts from the trunk's weights, optimiser state, random state and data position, and so equals an
    uninterrupted run of its schedule bit for bit.

    Args:
        settings: settings of the run.
        rungs: lengths of the rungs in tokens.
        text: the tokenised text.
        paths: where the run writes.
        options: execution options.
        stop: stop signal.

    Returns:
        The rungs' files, ascending in length.

    Raises:
        BadInput: the folder holds a run with other settings or one that another process is training, the text is too small,
            or nothing can be written.
        Interrupted: stopped on request; all steps are saved.
        Diverged: the loss is not finite.
    """
    with run_lease(paths.folder, options.world, stop) as lease_stop:
        return _train_rungs(settings, rungs, text, paths, options, lease_stop)


def _train_rungs(
    settings: Settings,
    rungs: tuple[int, ...],
    text: TokenizedText,
    paths: RunPaths,
    options: RunOptions,
    stop: Stop,
) -> tuple[RungFile, ...]:
    world = options.world
    world.do(lambda: check_settings(settings, paths.folder))
    settings = settings.model_copy(update={"seal": world.do(lambda: Settings.read(paths.folder / RUN).seal)})
    world.do(lambda: recover(paths.folder, paths.ledger, settings))
    world.do(lambda: write_run_plan(settings, rungs, paths.folder))
    check_enough(text.manifest, Need(n_positions=settings.n_positions, batch_size=settings.batch_size))
    heldout = eval_set(text.heldout, text.manifest, options.eval_tokens, objective_of(settings))
    done = []
    before = 0  # steps of earlier branches; the ladder's position is the step plus these
    for steps in rung_steps(settings, rungs):
        schedule = trunk_schedule(settings, steps)
        branch = paths.folder / branch_name(settings, steps)
        finished = branch / RUNG
        if not world.do(finished.exists):
            micro_batch = world.do(lambda: Settings.read(paths.folder / RUN).micro_batch)
            settings = settings.model_copy(update={"micro_batch": micro_batch})  # may have been reduced
            trainer = _RungTrainer(
                schedule=schedule,
                branch=branch,
                text=text,
                paths=paths,
                options=options,
                stop=stop,
                before=before,
            )
            session = trainer.run(settings)
            result = score(session, heldout)
            save_model(session.model, text.tokenizer, branch / MODEL, world)
            if world.first:
                rung = rung_file(session, schedule, result, heldout.name, text, paths.folder)
                rung = close_ledger(paths.ledger, settings, rung, branch.name)
                write_artifacts(branch, text.folder.parent, settings, rung, text.manifest)
                if options.tensorboard:
                    log_final_eval(branch, steps, rung)
                rung.write(finished)
                for _, folder in checkpoints(branch):
                    discard(folder)
        rung = RungFile.model_validate_json(world.do(partial(record, finished, paths.runs)))
        options.progress(before + steps, f"{settings.run} {branch.name}", False)
        before += steps if settings.schedule == "cosine" else schedule.cooldown_steps
        done.append(rung)
    if world.first and settings.schedule == "wsd":
        longest = trunk_schedule(settings, rung_steps(settings, rungs)[-1])
        prune_finished(paths.trunk, trunk_end(longest))
    return tuple(done)


@dataclass(frozen=True, slots=True, kw_only=True)
class _RungTrainer:
    """Trains one rung, resuming from the newest usable checkpoint. before: steps of earlier branches."""

    schedule: Schedule
    branch: Path
    text: TokenizedText
    paths: RunPaths
    options: RunOptions
    stop: Stop
    before: int

    def run(self, settings: Settings) -> Session:
        """Return the session at the end of the rung, saved."""
        try:
            with Saver(tokenizer=self.text.tokenizer, ledger=self.paths.ledger) as saver:
                return self._reach(settings, saver)
        except Diverged as error:
            good = checkpoints(self.branch) or checkpoints(self.paths.trunk)
            last = f"the last good checkpoint is {good[-1][1]}" if good else "no checkpoint had been written"
            raise Diverged(f"{error}; {last}") from error

    def _reach(self, settings: Settings, saver: Saver) -> Session:
        """Train from the rung's own checkpoint, else from the trunk."""
        session = self._newest(settings, self.branch, at_most=self.schedule.steps)
        if session is None:
            session = self._start_branch(settings, saver)
        if session.step < self.schedule.steps:
            self._advance(session, self.schedule.steps, self.branch, saver)
        return session

    def _start_branch(self, settings: Settings, saver: Saver) -> Session:
        """Return the session at the step where the rung's branch starts."""
        trunk, world = self.paths.trunk, self.options.world
        starts = trunk_end(self.schedule)
        session = self._newest(settings, trunk, at_most=starts) or start(settings, self.options.device, world)
        if session.step < starts and world.do(lambda: any(step > starts for step, _ in checkpoints(trunk))):
            # The trunk's metrics already continue beyond this step: steps trained again are logged in the branch.
            self.options.log(
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
        options = self.options
        return load_newest(
            settings, folder, options.device, at_most=at_most, log=options.log, world=options.world
        )

    def _advance(
        self, session: Session, until: int, folder: Path, saver: Saver, *, saved_in: Path | None = None
    ) -> None:
        """Train to a step, saving checkpoints and ledger entries; a trunk keeps the checkpoints that branches start from."""
        text, options = self.text, self.options
        parent = saved_in or folder
        name, part = session.settings.run, folder.name
        options.progress(self.before + session.step, f"{name} {part}", False)
        if session.world.first:
            check_room(session, parent)
        recorded_step, recorded_wall = session.step, session.wall_s
        forecast = ProgressForecast(self.paths.folder, self.schedule.steps, silent=not session.world.first)

        def save() -> None:
            nonlocal recorded_step, recorded_wall
            tokens = (session.step - recorded_step) * session.settings.batch_tokens
            work = WorkEntry(
                run=session.settings.run,
                part=part,
                from_step=recorded_step,
                to_step=session.step,
                tokens=tokens,
                flops=float(tokens * train_flops_per_token(session.settings.spec())),
                wall_s=round(session.wall_s - recorded_wall, 3),
                settings_sha256=session.settings.identity(),
                at=now(),
            )
            ends_trunk = parent.name == TRUNK and session.step == until
            saver.save(session, step_folder(parent, session.step), work, starts_branch=ends_trunk)
            recorded_step, recorded_wall = session.step, session.wall_s

        ends = epoch_ends(session.settings, len(text.train))
        self._score_epoch(session, folder)  # stopped between a save and its evaluation
        for end in (*(end for end in ends if session.step < end < until), until):
            reached = advance(
                session,
                self.schedule,
                end,
                text.train,
                folder=folder,
                log_every=options.log_every,
                stop=self.stop,
                save=save,
                save_every=options.save_every,
                progress=lambda step, loss, rate: options.progress(
                    self.before + step,
                    f"{name} {part} step {step}/{until} loss {format_loss(loss)}{forecast.text()}, "
                    + throughput_text(session.settings.spec(), rate, options.peak),
                    True,
                ),
                tensorboard=options.tensorboard,
                on_oom=self._on_oom,
                quick_eval=quick_eval(text.heldout, text.manifest, session.settings, options.log_every),
            )
            if not reached:
                raise Interrupted(
                    f"{session.settings.run} is saved at step {session.step} of {part}; run the same command to resume"
                )
            self._score_epoch(session, folder)

    def _score_epoch(self, session: Session, folder: Path) -> None:
        """Evaluate at the end of an epoch, except the last, which the rung's own evaluation covers."""
        text, settings, trunk = self.text, session.settings, self.paths.trunk
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
            eval_set(text.heldout, text.manifest, self.options.eval_tokens, objective_of(settings)),
            text.tokenizer,
            self.options.log,
        )

    def _on_oom(self, micro_batch: int, before: int) -> None:
        """Record the reduced micro-batch, for the rest of the run and for resuming."""
        path = self.paths.folder / RUN
        Settings.read(path).model_copy(update={"micro_batch": micro_batch}).write(path)
        self.options.log(
            f"out of memory with micro_batch={before}: reduced to {micro_batch}; the batch size stays the same"
        )
