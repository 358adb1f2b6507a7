"""Client of Slurm: output of its commands as values, and checks of a job before it is submitted."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from families.units import BadInput, nearest

from . import Needs

PATIENCE = 60.0  # seconds for a command of Slurm to answer

COMMANDS = ("sbatch", "squeue", "scontrol", "scancel", "sinfo")

# man squeue, JOB STATE CODES: in each of these the job is still Slurm's to run.
WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"})

LIVE = WAITING | {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"}

_AWAY = ("down", "drain", "drng", "fail", "err", "unk", "inval", "no_respond", "boot^")

_NOISE = re.compile(r"^(sbatch|scontrol|scancel|squeue|sinfo|sacct|slurmctld):\s*(error|fatal)?:?\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node as a partition sees it: its short state, processors and megabytes."""

    name: str
    partition: str
    is_default: bool
    state: str
    cpus: int
    memory_mb: int

    @property
    def away(self) -> bool:
        """True if the node is down, draining or not responding, so that no job can start on it."""
        return self.state.startswith(_AWAY) or self.state.endswith("*")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """One job, or one task of an array."""

    job: str  # 12, or 12_3
    state: str
    reason: str = ""
    nodes: str = ""

    @property
    def live(self) -> bool:
        """True if the job waits or runs."""
        return self.state in LIVE


def need_slurm() -> None:
    """Check that this machine has the commands of Slurm.

    Raises:
        BadInput: a command of Slurm is not there.
    """
    gone = [name for name in COMMANDS if shutil.which(name) is None]
    if gone:
        raise BadInput(
            f"{gone[0]} is not on the PATH: this machine has no Slurm; run this on the cluster's login node, "
            "or give launcher=local"
        )


def ask(*command: str) -> str:
    """Run a command and return its standard output.

    Raises:
        BadInput: the command failed; contains its error message.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)  # noqa: S603 - words, no shell
    except FileNotFoundError as error:
        raise BadInput(f"{command[0]} is not on the PATH: this machine has no Slurm") from error
    except subprocess.TimeoutExpired as error:
        raise BadInput(f"{command[0]} has not answered for {PATIENCE:.0f} s: is slurmctld up?") from error
    if done.returncode:
        raise BadInput(
            f"{command[0]}: {first_line(done.stderr or done.stdout) or f'status {done.returncode}'}"
        )
    return done.stdout


def first_line(text: str) -> str:
    """Return the first line of an error message, without the name of the command."""
    lines = [_NOISE.sub("", line).strip() for line in text.splitlines()]
    return next((line for line in lines if line), "")


def nodes() -> tuple[Node, ...]:
    """Return every node of every partition."""
    found = []
    for line in ask("sinfo", "--noheader", "--Node", "--format=%P|%N|%t|%c|%m").splitlines():
        partition, name, state, cpus, memory = line.split("|")
        found.append(
            Node(
                name=name,
                partition=partition.removesuffix("*"),
                is_default=partition.endswith("*"),
                state=state.strip(),
                cpus=int(cpus.rstrip("+")),
                memory_mb=int(memory.rstrip("+")),
            )
        )
    return tuple(found)


def check(needs: Needs, cluster: Sequence[Node], *, anyway: bool) -> None:
    """Check that a cluster can run a job.

    Args:
        needs: resources of the job.
        cluster: nodes of the cluster.
        anyway: True to accept a job that waits for nodes which are unavailable now.

    Raises:
        BadInput: no such partition, too few nodes, or nodes that are too small or all away.
    """
    partitions = list(dict.fromkeys(node.partition for node in cluster))
    default = next((node.partition for node in cluster if node.is_default), None)
    wanted = (needs.partition or default or "").split(",")
    for name in wanted:
        if name not in partitions:
            given = (
                f"partition is {name!r}"
                if needs.partition
                else "no partition is given and the cluster has no default"
            )
            raise BadInput(f"{given}; {nearest(name, partitions)}; nothing was submitted")
    inside = [node for node in cluster if node.partition in wanted]
    where = f"partition {','.join(wanted)}"
    if len(inside) < needs.nodes:
        raise BadInput(f"nodes is {needs.nodes}; {where} has {len(inside)}; nothing was submitted")
    _fits("memory", needs.memory_mb, [(node.memory_mb, node.name) for node in inside], needs, where)
    _fits("cpus", needs.cpus_per_node, [(node.cpus, node.name) for node in inside], needs, where)
    up = [node for node in inside if not node.away]
    if len(up) < needs.nodes and not anyway:
        gone = ", ".join(f"{node.name} is {node.state}" for node in inside if node.away)
        raise BadInput(
            f"{where} has {len(up)} of {len(inside)} nodes up and {needs.nodes} are needed ({gone}); "
            "nothing was submitted: choose another, or wait for it with --yes"
        )


def _fits(what: str, wanted: float | None, sizes: list[tuple[int, str]], needs: Needs, where: str) -> None:
    if wanted is None or sum(size >= wanted for size, _ in sizes) >= needs.nodes:
        return
    size, name = max(sizes)
    given = needs.memory if what == "memory" else str(needs.cpus)
    if what == "cpus" and needs.devices > 1:
        given = f"{needs.cpus} for each of {needs.devices} devices"
    has = f"{size / 1024:.3g}G" if what == "memory" else str(size)
    raise BadInput(
        f"{what} is {given}; the largest node of {where}, {name}, has {has}; nothing was submitted"
    )


def submit_held(file: Path) -> str:
    """Put a file into the queue, held; its job's number.

    Raises:
        BadInput: Slurm refuses it; with its reason.
    """
    try:
        return ask("sbatch", "--hold", "--parsable", str(file)).strip().split(";")[0]
    except BadInput as error:
        reason = str(error).removeprefix("sbatch: ").removeprefix("Batch job submission failed: ")
        raise BadInput(f"Slurm refuses {file.name}: {reason}; nothing was submitted") from error


def release(jobs: Sequence[str]) -> None:
    """Let held jobs run."""
    ask("scontrol", "release", *jobs)


def cancel(jobs: Sequence[str]) -> None:
    """Take jobs out of the queue."""
    ask("scancel", *jobs)


def job_states(jobs: Sequence[str]) -> dict[str, JobState]:
    """Return the states of jobs and of the tasks of their arrays, by number; jobs unknown to Slurm are omitted."""
    wanted = set(jobs)
    found = {
        job: JobState(job=job, state=state, reason=reason, nodes=where)
        for line in ask(
            "squeue", "--me", "--array", "--noheader", "--states=all", "--format=%i|%T|%r|%N"
        ).splitlines()
        for job, state, reason, where in [line.split("|")]
        if job.split("_")[0] in wanted
    }
    forgotten = [job for job in jobs if not any(known.split("_")[0] == job for known in found)]
    return {**found, **_accounted(forgotten)} if forgotten else found


def _accounted(jobs: Sequence[str]) -> dict[str, JobState]:
    """Return the states of jobs from the accounting; empty on clusters without one."""
    columns = "--format=JobID,State,ExitCode,NodeList"
    try:
        said = ask("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(jobs)}", columns)
    except BadInput:
        return {}
    found = {}
    for line in said.splitlines():
        job, state, code, where = line.split("|")
        found[job] = JobState(job=job, state=state.split()[0], reason=f"exit code {code}", nodes=where)
    return found


def exit_code(job: str) -> str:
    """Return status and signal with which a job ended, such as 1:0; "" for a job unknown to Slurm."""
    try:
        said = ask("scontrol", "--oneliner", "show", "job", job)
    except BadInput:
        return ""
    match = re.search(r"\bExitCode=(\S+)", said)
    return match[1] if match else ""
