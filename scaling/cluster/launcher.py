"""What a plan's members are to a launcher: one task each, which the same command trains, resumes or finds done."""

import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from families.units import BadInput

from ..paths import StudyPaths, safe_name, seeded_name
from ..planning.planfile import PlanFile, PlannedMember
from ..recipe import COOLDOWN
from ..schedule import whole_steps
from .claims import holder
from .profile import Needs, Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A member to train: its run's name, the tokens of its rungs as they will be booked, and what its job asks for."""

    member: str
    run: str
    rungs: tuple[int, ...]
    flops: float
    needs: Needs
    usual_cooldown: bool = True  # another one stands in the names of the rungs' folders

    def rung_files(self, study: StudyPaths) -> list[Path | None]:
        """rung.json of each rung; None for one that is not finished."""
        folder = study.run_folder(self.run)
        names = [f"rung-{tokens}" if self.usual_cooldown else f"rung-{tokens}-*" for tokens in self.rungs]
        return [next(iter(folder.glob(f"{name}/rung.json")), None) for name in names]

    def done(self, study: StudyPaths) -> bool:
        """Whether every rung has its observation."""
        return None not in self.rung_files(study)

    def trained_by(self, study: StudyPaths) -> str | None:
        """Who is at it, if anybody is."""
        return holder(study.run_folder(self.run))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A plan's tasks, and where: absolute paths, since jobs begin in folders of their own."""

    plan: Path
    study: StudyPaths
    seed: int
    tasks: tuple[Task, ...]
    command: str = "scaling"

    def left(self) -> tuple[Task, ...]:
        """The tasks that are not done."""
        return tuple(task for task in self.tasks if not task.done(self.study))

    def words(self, task: Task | None = None) -> list[str]:
        """The command that trains one member; without a task, up to the member's name."""
        words = [self.command, "ladder", str(self.plan), "--study", str(self.study.folder)]
        words += ["--seed", str(self.seed), "--yes"]
        if task is None:
            return [*words, "--member"]
        if task.needs.zero is not None:
            words += ["--zero", str(task.needs.zero)]
        return [*words, "--member", task.member]


def sweep(
    plan: PlanFile, path: Path, study: StudyPaths, *, seed: int, profile: Profile, only: Sequence[str] = ()
) -> Sweep:
    """The tasks of a plan, cheapest first.

    Raises:
        BadInput: the plan has no members, two of one name, not the one that is asked for, or one whose batch its processes
            cannot share evenly.
    """
    chosen = [plan.member(name) for name in only] if only else list(plan.members)
    if not chosen:
        raise BadInput(f"{path} has no members to train")
    names = [seeded_name(safe_name(member.member), seed) for member in chosen]
    twice, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise BadInput(f"{path} has two members whose run is {twice}; each needs a name of its own")
    tasks = [_task(member, name, profile) for member, name in zip(chosen, names, strict=True)]
    return Sweep(
        plan=path.resolve(),
        study=StudyPaths(study.folder.resolve()),
        seed=seed,
        tasks=tuple(sorted(tasks, key=lambda task: task.flops)),
        command=profile.command or own_command(),
    )


def _task(member: PlannedMember, run: str, profile: Profile) -> Task:
    needs, sequences = profile.of(member.member), member.recipe.batch_sequences
    processes = needs.nodes * needs.devices
    if sequences % processes:
        raise BadInput(
            f"{member.member} has a batch of {sequences} sequences; it must be a multiple of its {processes} processes"
        )
    batch = sequences * member.n_positions
    steps = {whole_steps(tokens, batch) for tokens in member.ends}
    return Task(
        member=member.member,
        run=run,
        rungs=tuple(count * batch for count in sorted(steps)),
        flops=member.flops,
        needs=needs,
        usual_cooldown=member.recipe.schedule == "cosine" or member.recipe.cooldown_fraction == COOLDOWN,
    )


def own_command() -> str:
    """The scaling program of this environment.

    Raises:
        BadInput: it is not installed.
    """
    beside = Path(sys.executable).with_name("scaling")
    found = str(beside) if beside.exists() else shutil.which("scaling")
    if found is None:
        raise BadInput(
            "there is no scaling program beside this Python; say where it is with command: in the profile"
        )
    return found


def torchrun_words(command: str, needs: Needs, meet: Sequence[str] = ("--standalone",)) -> list[str]:
    """What stands before a run's own words where several processes train it: the torchrun beside the scaling program."""
    if needs.nodes == 1 and needs.devices == 1:
        return []
    folder, slash, _ = command.rpartition("/")
    counts = [f"--nnodes={needs.nodes}", f"--nproc-per-node={needs.devices}"]
    return [f"{folder}{slash}torchrun", *counts, *meet, "--no-python"]
