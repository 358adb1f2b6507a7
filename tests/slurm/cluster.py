"""A real Slurm of two nodes on one machine, for tests and for a person: python tests/slurm/cluster.py FOLDER.

munged, slurmctld and two slurmd run in the foreground as children of this process, with a key, sockets, ports and state of
their own in one folder, so that several can run side by side and nothing is left behind. Debian's packages are enough:
apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
"""

import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "srun", "scancel", "sinfo")
INSTALL = "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"
NODES = ("n1", "n2")
MEMORY_MB = 4000  # that each node says it has
REQUEUE_SECONDS = 5  # a requeued job waits until its credential has expired: 120 s by default

CONFIG = """\
ClusterName=proof
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={requeue}
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
JobRequeue=1
MinJobAge=300
KillWait=20
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
NodeName=n9 NodeHostname={host} NodeAddr=127.0.0.1 Port={absent} CPUs=4 RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=second Nodes=n2 MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=asleep Nodes=n9 MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory={memory} State=UNKNOWN"


def missing() -> list[str]:
    """The programs of Slurm and munge that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]


@functools.cache
def can_hide() -> bool:
    """Whether a process may have mounts of its own here: not without root, nor in most containers."""
    words = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/tmp"]
    return shutil.which("unshare") is not None and subprocess.run(words, capture_output=True).returncode == 0


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running Slurm; `environment` makes the clients talk to it."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """For sbatch and its kin, and for whatever calls them."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _path()}

    def run(self, *command: str) -> str:
        """A client's standard output; a failure raises with what it said."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr or done.stdout}")
        return done.stdout

    def wait_for(self, command: Sequence[str], wanted: str, seconds: float) -> str:
        """The output of a client, once it holds `wanted`."""
        deadline = time.monotonic() + seconds
        found = ""
        while time.monotonic() < deadline:
            with suppress(RuntimeError):
                found = self.run(*command)
                if wanted in found:
                    return found
            time.sleep(0.2)
        raise TimeoutError(f"{' '.join(command)} did not say {wanted!r} within {seconds:g} s but {found!r}")


@contextmanager
def cluster(hidden_from_n2: Path | None = None) -> Iterator[Cluster]:
    """A Slurm that is up. `hidden_from_n2` is a folder that the second node does not have."""
    # A short path: the sockets' names may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    children: list[subprocess.Popen[bytes]] = []
    try:
        _configure(folder)
        found = Cluster(folder)
        _start(folder, children, "munged", "--foreground", "--force", f"--socket={folder}/munge.socket",
               f"--key-file={folder}/munge.key", f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munged.seed",
               f"--log-file={folder}/munged.log")  # fmt: skip
        _wait(folder / "munge.socket", 10)
        _start(folder, children, "slurmctld", "-D", "-i", "-f", f"{folder}/slurm.conf")
        for name in NODES:
            daemon = ("slurmd", "-D", "-N", name, "-f", f"{folder}/slurm.conf")
            if name == "n2" and hidden_from_n2 is not None:
                hide = 'mount -t tmpfs none "$1" && shift && exec "$@"'
                daemon = ("unshare", "--mount", "sh", "-c", hide, "sh", str(hidden_from_n2), *daemon)
            _start(folder, children, *daemon)
        for name in NODES:
            found.wait_for(("sinfo", "-h", "-n", name, "-o", "%t"), "idle", 30)
        yield found
    finally:
        for child in reversed(children):
            child.send_signal(signal.SIGTERM)
        for child in reversed(children):
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path) -> None:
    host = socket.gethostname()
    ports = iter(_free_ports(len(NODES) + 2))
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    nodes = "\n".join(NODE.format(name=name, host=host, port=next(ports), memory=MEMORY_MB) for name in NODES)
    (folder / "slurm.conf").write_text(
        CONFIG.format(
            host=host,
            folder=folder,
            controller=next(ports),
            absent=next(ports),
            nodes=nodes,
            memory=MEMORY_MB,
            user=pwd.getpwuid(os.getuid()).pw_name,
            requeue=REQUEUE_SECONDS,
        )
    )


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _start(folder: Path, children: list[subprocess.Popen[bytes]], *command: str) -> None:
    name = next(Path(word).name for word in command if word in PROGRAMS)
    with (folder / f"{name}-{len(children)}.out").open("wb") as said:
        children.append(
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env={**os.environ, **Cluster(folder).environment},
            )
        )


def _wait(path: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} did not appear within {seconds:g} s")
        time.sleep(0.05)


def main() -> None:
    """Run one until Ctrl-C."""
    if gone := missing():
        sys.exit(f"not installed: {', '.join(gone)}; {INSTALL}")
    with cluster() as found:
        print(f"export SLURM_CONF={found.folder}/slurm.conf", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
