"""Ownership of a run: stop requests, and a lease in the run's folder that a dead machine cannot hold.

A lease is a numbered file, made by an exclusive create and kept alive by touching it. The greatest number owns the run. A
process that finds the newest lease released or stale creates the next number: of two that try, one succeeds. No lock can
be left behind, and an owner that was only suspended sees the greater number and ends without writing.
"""

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from families.units import BadInput, RunFailed
from scaling.files import clear_io_errors, now
from scaling.untrusted import parse_json


class Stop:
    """Stop request from a person, a scheduler or a parent process, honoured after the current step."""

    def __init__(self) -> None:
        self._requested = False
        self.polled = False  # a training loop has started to poll, so there is something to save

    @property
    def requested(self) -> bool:
        """True once a stop is requested; the loop polls it after every step."""
        self.polled = True
        return self._requested

    def request(self) -> None:
        """Request a stop after the current step."""
        self._requested = True


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask a run to save and end; SIGHUP only where it is not ignored."""
    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    return asked if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (*asked, signal.SIGHUP)


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn SIGINT, SIGTERM, SIGHUP and a scheduler's SIGUSR1 into stop requests; a second SIGINT stops at once.

    SIGHUP (the terminal closed) stays ignored where it was ignored, as under nohup. Before the first step is done (while text
    is read or a step compiled) there is nothing to save: the first stops at once.
    """
    stop = Stop()

    def handler(number: int, frame: FrameType | None) -> None:
        if not stop.polled:
            raise KeyboardInterrupt("before the first step was trained; run the same command to start again")
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.request()

    previous = {number: signal.signal(number, handler) for number in stop_signals()}
    try:
        yield stop
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


HEARTBEAT = 10.0  # seconds between touches of the lease file

STALE = 60.0  # seconds without a heartbeat, by the file server's clock, after which a lease may be taken over

_NAME = re.compile(r"claim-(\d{6})\.json")


class LeaseHeld(BadInput):
    """Another process is training the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process, identified so that the same pid after a reboot or in another container is another owner."""

    host: str
    space: str  # boot id and pid namespace, within which a process can be looked up
    pid: int
    began: str  # start time of the process, in kernel ticks
    job: str = ""
    at: str = ""

    @classmethod
    def me(cls) -> "Owner":
        """Return the owner that this process is."""
        job = os.environ.get("SLURM_JOB_ID", "")
        pid = os.getpid()
        return cls(
            host=socket.gethostname(), space=_space(), pid=pid, began=_began(pid), job=job and f"Slurm job {job}", at=now()
        )  # fmt: skip

    def dead(self) -> bool | None:
        """Return True if the process has ended, None if that cannot be determined from here."""
        if not self.space or (self.host, self.space) != (socket.gethostname(), _space()):
            return None
        return _began(self.pid) != self.began

    def describe(self) -> str:
        """Return a description for messages."""
        return f"process {self.pid} on {self.host}" + (f" ({self.job})" if self.job else "")


def _space() -> str:
    """Return boot id and pid namespace; "" if unknown."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _began(pid: int) -> str:
    """Return the start time of a process; "" if it has ended."""
    try:
        after_name = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return ""
    return "" if after_name[0] in "ZX" else after_name[19]


def _newest(folder: Path) -> tuple[int, Path] | None:
    leases = [
        (int(match[1]), path) for path in folder.glob("claim-*.json") if (match := _NAME.fullmatch(path.name))
    ]
    return max(leases, default=None)


def _read(path: Path) -> Owner | None:
    """Return the owner in a lease file; None if it is being written or is gone."""
    try:
        return Owner(**parse_json(path.read_text(encoding="utf-8"))) if path.is_file() else None
    except (OSError, ValueError, TypeError):
        return None


def _silence(path: Path) -> float:
    """Return seconds since the last heartbeat, both times by the file server's clock; infinite if the file is gone."""
    probe = path.with_name(f".clock-{os.getpid()}-{threading.get_ident()}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    finally:
        probe.unlink(missing_ok=True)


def lease_holder(folder: Path) -> str | None:
    """Describe the process that trains the run of a folder; None if there is none."""
    newest = _newest(folder)
    if newest is None:
        return None
    path = newest[1]
    owner = _read(path)
    dead = None if owner is None else owner.dead()
    if dead or (dead is None and _silence(path) > STALE):
        return None
    return "another process" if owner is None else owner.describe()


class Lease:
    """This process's lease of a run, until it is released or, being stale, taken over."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number
        self.lost = False
        self._ended = threading.Event()
        self._last_beat = _clock()
        threading.Thread(target=self._beat, daemon=True).start()

    @property
    def path(self) -> Path:
        """The lease file."""
        return self.folder / f"claim-{self.number:06}.json"

    def check(self) -> None:
        """Raise if the lease was lost; re-reads it when the heartbeat is overdue, e.g. after a suspend.

        Raises:
            RunFailed: another process has taken the run over.
        """
        if not self.lost and _clock() - self._last_beat > STALE / 2:
            with suppress(OSError):
                self._renew()
        if self.lost:
            raise RunFailed(
                f"{self.folder.name} is now trained by {lease_holder(self.folder) or 'another process'}: this one "
                f"had no heartbeat for {STALE:.0f} s, and writes nothing more"
            )

    def release(self) -> None:
        """Release the lease at once."""
        self._ended.set()
        for number in range(self.number, 0, -1):  # older ones too, which nobody reads any more
            path = self.folder / f"claim-{number:06}.json"
            if not path.exists():
                break
            with suppress(OSError):
                path.unlink()

    def _beat(self) -> None:
        while not self.lost and not self._ended.wait(HEARTBEAT):
            with suppress(OSError):  # a file server that is away for a moment
                self._renew()

    def _renew(self) -> None:
        """Touch the lease file, or find that another process owns the run."""
        if _clock() - self._last_beat > STALE / 2:
            _silence(self.path)  # makes and removes a file: a network file system then lists the folder anew
        newest = _newest(self.folder)
        if newest is None or newest[0] != self.number:
            self.lost = True
            return
        os.utime(self.path)
        self._last_beat = _clock()


def _clock() -> float:
    """Return seconds by a clock that includes suspends, if the system has one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def acquire_lease(folder: Path) -> Lease:
    """Acquire the lease of a run's folder.

    Raises:
        LeaseHeld: another process has it.
        BadInput: the folder cannot be written.
    """
    with clear_io_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        newest = _newest(folder)
        if newest is not None and (holder := lease_holder(folder)) is not None:
            raise LeaseHeld(f"{folder.name} is being trained by {holder}")
        number = 1 if newest is None else newest[0] + 1
        try:
            descriptor = os.open(
                folder / f"claim-{number:06}.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644
            )
        except FileExistsError as error:
            raise LeaseHeld(
                f"{folder.name} is being trained by {lease_holder(folder) or 'another process'}"
            ) from error
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(Owner.me())) + "\n")
            file.flush()
            os.fsync(file.fileno())
    return Lease(folder, number)


@contextmanager
def leased(folder: Path) -> Iterator[Lease]:
    """Hold the lease of a run's folder within the context."""
    lease = acquire_lease(folder)
    try:
        yield lease
    finally:
        lease.release()
