"""The files that sbatch reads: an array for the members that need one node, a file each for those that need several.

Every value that comes from a plan, a profile or a path is one quoted word to the shell. The only lines of a profile that
a shell reads as they are written are its prologue's.
"""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from families.units import BadInput
from scaling.paths import safe_name
from scaling.version import __version__

from . import JobSweep, MemberTask, Needs, SlurmProfile

ARRAY = 1000  # tasks in one array: Slurm's MaxArraySize is 1001 unless the cluster says otherwise

MISSING = 72  # exit status of a job that does not see the study: EX_OSFILE

_FIRST_PORT, _PORTS = 20000, 20000  # for the processes of one run to meet


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    """One file for sbatch, and the members it trains: the tasks of its array, or the one of several nodes."""

    name: str
    text: str
    tasks: tuple[MemberTask, ...]
    array: bool


def job_files(sweep: JobSweep, profile: SlurmProfile, logs: str) -> tuple[JobFile, ...]:
    """The files for the tasks of a sweep; `logs` is the folder that their output goes to.

    Raises:
        BadInput: a path that Slurm cannot write its output to.
    """
    if bad := set(logs) & set('"\\%\n\r'):
        raise BadInput(
            f"{logs} has {min(bad)!r} in its name; Slurm cannot write its logs there: choose another --study"
        )
    alike: dict[Needs, list[MemberTask]] = {}
    for task in sweep.tasks:
        alike.setdefault(task.needs, []).append(task)
    files: list[JobFile] = []
    for needs, tasks in alike.items():
        if needs.nodes > 1:
            files += [
                _file(
                    safe_name(f"{task.member}-on-{needs.nodes}-nodes"),
                    (task,),
                    sweep,
                    profile,
                    logs,
                    array=False,
                )
                for task in tasks
            ]
            continue
        for part in _parts(tasks):
            number = 1 + sum(file.array for file in files)
            name = "sweep" if number == 1 else f"sweep-{number}"
            files.append(_file(name, part, sweep, profile, logs, array=True))
    return tuple(files)


def _parts(tasks: Sequence[MemberTask]) -> Iterable[tuple[MemberTask, ...]]:
    return (tuple(tasks[start : start + ARRAY]) for start in range(0, len(tasks), ARRAY))


def _file(
    name: str,
    tasks: tuple[MemberTask, ...],
    sweep: JobSweep,
    profile: SlurmProfile,
    logs: str,
    *,
    array: bool,
) -> JobFile:
    needs = tasks[0].needs
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH --{option}" for option in _options(name, tasks, sweep, profile, logs, array)),
    ]
    lines += [
        f"# Written by scaling {__version__}: {'each task trains one member' if array else 'one member on several nodes'}.",
        "# What is done is not done again, and what was stopped goes on from its last checkpoint.",
        "set -u",
        "",
        f"plan={shlex.quote(str(sweep.plan))}",
        f"study={shlex.quote(str(sweep.study.folder))}",
    ]
    if array:
        for what, words in (
            ("members", [task.member for task in tasks]),
            ("runs", [task.run for task in tasks]),
        ):
            lines += [f"{what}=(", *(f"  {shlex.quote(word)}" for word in words), ")"]
        lines += [f'{what}="${{{what}s[$SLURM_ARRAY_TASK_ID]}}"' for what in ("member", "run")]
    else:
        lines += [f"member={shlex.quote(tasks[0].member)}", f"run={shlex.quote(tasks[0].run)}"]
    lines += [
        "",
        'if [ ! -f "$plan" ]; then',
        '  echo "scaling: $SLURMD_NODENAME does not see $plan: a study must lie where every node can read it" >&2',
        f"  exit {MISSING}",
        "fi",
        "# Ahead of the time limit Slurm sends SIGUSR1 to this shell; before a preemption SIGTERM to every process.",
        "# The run saves and ends, and the job goes back into the queue; one that was cancelled does not.",
        "asked=",
        'trap \'asked=USR1; [ -z "${child:-}" ] || kill -USR1 "$child"\' USR1',
        "trap 'asked=TERM' TERM",
        'saved() { ls -d "$study/runs/$run"/*/step-* "$study/runs/$run"/*/rung.json 2>/dev/null; }',
        'before="$(saved)"',
        "",
        *(f"export {key}={shlex.quote(value)}" for key, value in profile.environment.items()),
        *profile.prologue,
        *_run(sweep, tasks[0], needs, profile),
        'if [ -n "$asked" ] && [ "$status" -ne 0 ] &&',
        '  scontrol show job "$SLURM_JOB_ID" | grep -q "JobState=RUNNING"; then',
        '  if [ "$asked" = USR1 ] && [ "$(saved)" = "$before" ]; then',
        '    echo "scaling: the time limit came before $member had saved anything new; give it more time" >&2',
        '    exit "$status"',
        "  fi",
        '  echo "scaling: $member goes back into the queue" >&2',
        '  scontrol requeue "$SLURM_JOB_ID"',
        "fi",
        'exit "$status"',
    ]
    return JobFile(name=f"{name}.sbatch", text="\n".join(lines) + "\n", tasks=tasks, array=array)


def _options(
    name: str, tasks: tuple[MemberTask, ...], sweep: JobSweep, profile: SlurmProfile, logs: str, array: bool
) -> Iterable[str]:
    needs = tasks[0].needs
    yield f"job-name={safe_name(f'scaling-{sweep.study.folder.name}-{name}')}"
    if array:
        limit = f"%{profile.at_once}" if profile.at_once else ""
        yield f"array=0-{len(tasks) - 1}{limit}"
    yield f'output="{logs}/%A_%a.log"' if array else f'output="{logs}/%j.log"'
    yield "open-mode=append"
    yield "requeue"
    yield f"signal=B:USR1@{profile.save_before}"
    yield f"nodes={needs.nodes}"
    yield "ntasks-per-node=1"
    for option, value in (
        ("partition", needs.partition),
        ("time", needs.time),
        ("mem", needs.memory),
        ("cpus-per-task", needs.cpus_per_node),
        ("gres", None if needs.gres == "none" else needs.gres),
        ("account", profile.account),
        ("qos", profile.qos),
        ("constraint", profile.constraint),
        ("reservation", profile.reservation),
    ):
        if value is not None:
            yield f"{option}={value}"


def _run(sweep: JobSweep, task: MemberTask, needs: Needs, profile: SlurmProfile) -> list[str]:
    """The lines that start the run, wait for it and leave its exit status in `status`."""
    words = sweep.words(task)
    known = {str(sweep.plan): '"$plan"', str(sweep.study.folder): '"$study"'}
    given = [known.get(word, shlex.quote(word)) for word in words[:-1]]
    train = " ".join([*given, '"$member"'])
    lines: list[str] = []
    if needs.nodes > 1:
        lines += [
            'first="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"',
            'address="$(scontrol show node "$first" | sed -n "s/.*NodeAddr=\\([^ ]*\\).*/\\1/p")"',
            f"export SCALING_NODES={needs.nodes}",
            f'export SCALING_MEET="tcp://${{address:-$first}}:$(({_FIRST_PORT} + SLURM_JOB_ID % {_PORTS}))"',
            'export SCALING_RETRY="$study/runs/.again-$SLURM_JOB_ID"',
        ]
    if profile.container is not None and profile.container.tool == "apptainer":
        train = f"{shlex.join(_apptainer(sweep, profile))} {train}"
    if needs.nodes > 1 or (profile.container is not None and profile.container.tool == "pyxis"):
        # srun does not take the number of cpus over from sbatch since Slurm 22.05.
        cpus = [f"--cpus-per-task={needs.cpus_per_node}"] if needs.cpus else []
        train = f"{shlex.join(['srun', '--kill-on-bad-exit=1', *cpus, *_pyxis(sweep, profile)])} {train}"
    started = [
        f"{train} &",
        "child=$!",
        'while kill -0 "$child" 2>/dev/null; do wait "$child"; done',
        'wait "$child"',
        "status=$?",
    ]
    if needs.nodes == 1:  # the command itself starts its processes again
        return [*lines, *started]
    again = [
        '  [ -e "$SCALING_RETRY" ] || break  # out of memory: all nodes begin again with the smaller micro-batch',
        '  rm -f "$SCALING_RETRY"',
    ]
    return [*lines, "while :; do", *(f"  {line}" for line in started), *again, "done"]


def _mounts(sweep: JobSweep, profile: SlurmProfile) -> list[str]:
    """Return the mounts of the container: HOST or HOST:INSIDE.

    Raises:
        BadInput: a folder whose name would be read as several.
    """
    assert profile.container is not None
    own = [str(sweep.study.folder), str(sweep.plan.parent)]
    for place in own:
        if bad := set(place) & set(",:"):
            raise BadInput(
                f"{place} has {min(bad)!r} in its name, at which a container's list of mounts is cut: choose another folder"
            )
    return list(dict.fromkeys([*own, *profile.container.mounts]))


def _apptainer(sweep: JobSweep, profile: SlurmProfile) -> list[str]:
    assert profile.container is not None
    binds = [word for mount in _mounts(sweep, profile) for word in ("--bind", mount)]
    return ["apptainer", "exec", "--nv", *binds, profile.container.image]


def _pyxis(sweep: JobSweep, profile: SlurmProfile) -> list[str]:
    if profile.container is None or profile.container.tool != "pyxis":
        return []
    mounts = ",".join(mount if ":" in mount else f"{mount}:{mount}" for mount in _mounts(sweep, profile))
    return [f"--container-image={profile.container.image}", f"--container-mounts={mounts}"]
