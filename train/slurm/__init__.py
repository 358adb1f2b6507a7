"""Slurm profiles (profile.yaml) and the tasks of a plan.

A profile holds the settings that differ between clusters. Each member of a plan is one task, which a launcher trains, resumes
or finds complete with the same command.
"""

import fnmatch
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from families.units import BadInput, nearest
from scaling.files import Record, first_problem, read_text
from scaling.paths import StudyPaths, safe_name, seeded_name
from scaling.planning.planfile import PlanFile, PlannedMember
from scaling.recipe import COOLDOWN
from scaling.schedule import whole_steps
from scaling.untrusted import YamlError, parse_yaml

from ..rung import RungFile

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,:=@/+*\[\]&|()-]*")

_TIME = re.compile(r"\d{1,9}(:\d\d){0,2}|\d{1,9}-\d{1,9}(:\d\d){0,2}")

_MEMORY = re.compile(r"(\d{1,15})([KMGT]?)B?", re.IGNORECASE)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_MEGABYTES = {"K": 2**-10, "": 1, "M": 1, "G": 2**10, "T": 2**20}


def _word(value: str) -> str:
    """Return a word that needs no quoting on an #SBATCH line."""
    if not _WORD.fullmatch(value):
        raise ValueError("it must be one word of letters, digits and _.,:=@/+*[]&|()-")
    return value


def _time(value: str) -> str:
    if not _TIME.fullmatch(value):
        raise ValueError("it must be minutes, MM:SS, HH:MM:SS or DAYS-HH:MM:SS")
    return value


def _memory(value: str) -> str:
    if not _MEMORY.fullmatch(value):
        raise ValueError("it must be like 64G or 500M")
    return value.upper().removesuffix("B")


def _one_line(value: str) -> str:
    if not value.isprintable() or not value:
        raise ValueError("it must be one line")
    return value


def _environment(value: dict[str, str]) -> dict[str, str]:
    for name, text in value.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a variable")
        _one_line(text or " ")
    return value


Word = Annotated[str, AfterValidator(_word)]

Time = Annotated[str, AfterValidator(_time)]

Memory = Annotated[str, AfterValidator(_memory)]

Line = Annotated[str, AfterValidator(_one_line)]


class Container(Record):
    """Container image of a run. pyxis: --container-image of srun; apptainer: `apptainer exec`."""

    image: Line
    tool: Literal["pyxis", "apptainer"] = "apptainer"
    mounts: tuple[Line, ...] = ()  # besides the study's folder: HOST or HOST:INSIDE


class Needs(Record):
    """Resources of one job; the cluster decides those that are not given.

    Args:
        nodes: nodes of one run.
        devices: processes on each node.
        zero: ZeRO stage, 0 to 3, by which the model is divided among the processes.
        partition: partition of the cluster.
        time: time limit: minutes, MM:SS, HH:MM:SS or DAYS-HH:MM:SS.
        memory: memory of each node, such as 64G.
        cpus: processors of each process.
        gres: generic resources, such as gpu:4; none for processes on processors alone.
    """

    nodes: int = Field(default=1, ge=1)
    devices: int = Field(default=1, ge=1)
    zero: int | None = Field(default=None, ge=0, le=3)
    partition: Word | None = None
    time: Time | None = None
    memory: Memory | None = None
    cpus: int | None = Field(default=None, ge=1)
    gres: Word | None = None

    @property
    def cpus_per_node(self) -> int | None:
        """Processors of all processes on a node, which one task of Slurm starts."""
        return None if self.cpus is None else self.cpus * self.devices

    @property
    def seconds(self) -> float | None:
        """Time limit in seconds."""
        if self.time is None:
            return None
        days, dash, rest = self.time.rpartition("-")
        parts = [int(part) for part in rest.split(":")]
        if dash:  # DAYS-HH[:MM[:SS]]
            hours, minutes, seconds = (*parts, 0, 0)[:3]
        elif len(parts) == 1:
            hours, minutes, seconds = 0, parts[0], 0
        else:  # [HH:]MM:SS
            hours, minutes, seconds = (0, *parts)[-3:]
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60.0 + seconds

    @property
    def memory_mb(self) -> float | None:
        """Memory of each node, in megabytes of 2**20 bytes as Slurm counts them."""
        if self.memory is None:
            return None
        match = _MEMORY.fullmatch(self.memory)
        assert match is not None
        return int(match[1]) * _MEGABYTES[match[2]]


class SlurmProfile(Needs):
    """A cluster and the resources of its jobs; `members` holds differences for some of them (docs/slurm.md)."""

    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    reservation: Word | None = None
    at_once: int | None = Field(default=None, ge=1)  # jobs of the array that run at a time
    save_before: int = Field(
        default=120, ge=10
    )  # seconds before the time is up at which a run saves and requeues
    start_within: int | None = Field(
        default=None, ge=1
    )  # seconds after which a job that has not started is given up
    container: Container | None = None
    environment: Annotated[dict[str, str], AfterValidator(_environment)] = Field(default_factory=dict)
    prologue: tuple[Line, ...] = ()  # lines of shell, as they are: module load …, source …/activate
    command: Line | None = None  # the scaling program on the nodes (default: this one)
    members: dict[str, dict[str, Any]] = Field(
        default_factory=dict
    )  # a name, or a pattern of names, to what differs

    def of(self, member: str) -> Needs:
        """Return the resources of a member's job: those of the profile, updated by the first matching pattern."""
        base = {name: getattr(self, name) for name in Needs.model_fields}
        special = next((more for name, more in self.members.items() if fnmatch.fnmatchcase(member, name)), {})
        return Needs.model_validate({**base, **special})

    def unused(self, members: Iterable[str]) -> tuple[str, ...]:
        """Return the names and patterns of the profile that match none of these members."""
        names = list(members)
        return tuple(
            pattern
            for pattern in self.members
            if not any(fnmatch.fnmatchcase(name, pattern) for name in names)
        )


def read_profile(path: Path) -> SlurmProfile:
    """Read a profile.

    Raises:
        BadInput: no such file, not YAML, an unknown key or a value that is not allowed.
    """
    try:
        value = parse_yaml(read_text(path))
    except YamlError as error:
        where = "" if error.line is None else f" line {error.line}"
        raise BadInput(f"{path}{where} is not YAML: {error}") from error
    if not isinstance(value, Mapping):
        raise BadInput(f"{path} is not a profile: it must hold keys such as partition: and time:")
    _known(value, SlurmProfile.model_fields, str(path))
    try:
        profile = SlurmProfile.model_validate(value)
        for name, more in profile.members.items():
            _known(more, Needs.model_fields, f"{path} members {name}")
            _check_needs(profile.of(name), profile.save_before, f"{path} members {name}")
        _check_needs(profile, profile.save_before, str(path))
    except ValidationError as error:
        raise BadInput(f"{path}: {first_problem(error)}") from error
    return profile


def _check_needs(needs: Needs, save_before: int, where: str) -> None:
    """Refuse several processes without gres, and a time limit that leaves no time to train.

    A job of such a time limit would save and requeue for ever.
    """
    if needs.devices > 1 and needs.gres is None:
        raise BadInput(
            f"{where}: devices is {needs.devices} and gres is missing; give gres: gpu:{needs.devices}, or gres: none for "
            "processes on processors"
        )
    if needs.seconds is not None and 0 < needs.seconds < 2 * save_before:
        raise BadInput(
            f"{where}: time is {needs.time}, {needs.seconds:.0f} s, and save_before {save_before} s; "
            "time must be at least twice save_before"
        )


def _known(value: Mapping[str, Any], allowed: Mapping[str, Any], where: str) -> None:
    for name in value:
        if name not in allowed:
            raise BadInput(f"{where}: unknown key {name!r}; {nearest(str(name), list(allowed), 30)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberTask:
    """A member to train.

    Args:
        member: name of the member.
        run: name of its run.
        rungs: lengths of the rungs in tokens, as they are recorded.
        flops: training FLOPs.
        needs: resources of its job.
        usual_cooldown: False if the names of the rungs' folders contain the cooldown.
    """

    member: str
    run: str
    rungs: tuple[int, ...]
    flops: float
    needs: Needs
    usual_cooldown: bool = True

    def rung_files(self, study: StudyPaths) -> list[Path | None]:
        """Return the path of rung.json of each rung; None for an unfinished rung."""
        folder = study.run_folder(self.run)
        names = [f"rung-{tokens}" if self.usual_cooldown else f"rung-{tokens}-*" for tokens in self.rungs]
        return [next(iter(folder.glob(f"{name}/rung.json")), None) for name in names]

    def done(self, study: StudyPaths) -> bool:
        """Return True if every rung has its observation."""
        return None not in self.rung_files(study)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSweep:
    """Tasks of a plan and their study; paths are absolute, since jobs start in other folders."""

    plan: Path
    study: StudyPaths
    seed: int
    tasks: tuple[MemberTask, ...]
    command: str = "scaling"

    def left(self) -> tuple[MemberTask, ...]:
        """Return the tasks that are not done."""
        return tuple(task for task in self.tasks if not task.done(self.study))

    def rungs(self) -> list[RungFile]:
        """Read the finished rungs of all tasks."""
        paths = (path for task in self.tasks for path in task.rung_files(self.study))
        return [RungFile.read(path) for path in paths if path is not None]

    def words(self, task: MemberTask | None = None) -> list[str]:
        """Return the command that trains one member; without a task, up to the member's name."""
        words = [self.command, "ladder", str(self.plan), "--study", str(self.study.folder)]
        words += ["--seed", str(self.seed), "--yes"]
        if task is None:
            return [*words, "--member"]
        if task.needs.nodes * task.needs.devices > 1:
            words += ["--devices", str(task.needs.devices)]
        if task.needs.zero is not None:
            words += ["--zero", str(task.needs.zero)]
        return [*words, "--member", task.member]


def sweep(
    plan: PlanFile,
    path: Path,
    study: StudyPaths,
    *,
    seed: int,
    profile: SlurmProfile,
    only: Sequence[str] = (),
) -> JobSweep:
    """Return the tasks of a plan, cheapest first.

    Args:
        plan: the plan.
        path: file of the plan, which the command of each task reads.
        study: the study that holds the runs.
        seed: seed of every run.
        profile: resources of the jobs, and the command on the nodes.
        only: names of the members to train; empty for all.

    Raises:
        BadInput: the plan has no members, two of one name or none of a requested name, or a batch that the processes of its
            member cannot share evenly.
    """
    chosen = [plan.member(name) for name in only] if only else list(plan.members)
    if not chosen:
        raise BadInput(f"{path} has no members to train")
    names = [seeded_name(safe_name(member.member), seed) for member in chosen]
    twice, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise BadInput(f"{path} has two members whose run is {twice}; each needs a name of its own")
    tasks = [_task(member, name, profile) for member, name in zip(chosen, names, strict=True)]
    return JobSweep(
        plan=path.resolve(),
        study=StudyPaths(study.folder.resolve()),
        seed=seed,
        tasks=tuple(sorted(tasks, key=lambda task: task.flops)),
        command=profile.command or own_command(),
    )


def _task(member: PlannedMember, run: str, profile: SlurmProfile) -> MemberTask:
    needs, sequences = profile.of(member.member), member.recipe.batch_sequences
    processes = needs.nodes * needs.devices
    if sequences % processes:
        raise BadInput(
            f"{member.member} has a batch of {sequences} sequences; it must be a multiple of its {processes} processes"
        )
    batch = sequences * member.n_positions
    steps = {whole_steps(tokens, batch) for tokens in member.ends}
    return MemberTask(
        member=member.member,
        run=run,
        rungs=tuple(count * batch for count in sorted(steps)),
        flops=member.flops,
        needs=needs,
        usual_cooldown=member.recipe.schedule == "cosine" or member.recipe.cooldown_fraction == COOLDOWN,
    )


def own_command() -> str:
    """Return the path of the scaling program of this environment.

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
