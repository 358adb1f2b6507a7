"""Asked to stop: by a person, a scheduler or a parent process, and heeded after the step in hand."""

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

# MERGED DOCSTRINGS
# Who trains a run: a claim in its folder, which a dead machine cannot hold.
#
# A claim is a numbered file, made by an exclusive create and kept alive by touching it. The greatest number owns the run.
# Whoever finds the newest claim released or without a sign of life creates the next number: of two who try, one succeeds.
# There is no lock to be left behind, and an owner that was only asleep sees the greater number and ends without writing.


class Stop:
    """Whether a person, a scheduler or a parent process has asked the loop to stop."""

    def __init__(self) -> None:
        self._asked = False
        self.heeded = False  # somebody has looked: a loop is under way, and there is something to save

    @property
    def asked(self) -> bool:
        """Looked at after every step."""
        self.heeded = True
        return self._asked

    def ask(self) -> None:
        """Stop after the step in hand."""
        self._asked = True


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """SIGINT, SIGTERM and a scheduler's SIGUSR1 let the step in hand finish and be saved; a second SIGINT stops at once.

    Before the first step is through (text is read, a step compiled) there is nothing to save, and the first stops at once.
    """
    stop = Stop()

    def handler(number: int, frame: FrameType | None) -> None:
        if not stop.heeded:
            raise KeyboardInterrupt("before a step was trained; the same command begins again")
        if stop.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.ask()

    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    previous = {number: signal.signal(number, handler) for number in asked}
    try:
        yield stop
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


HEARTBEAT = 10.0  # seconds between signs of life

STALE = 60.0  # seconds without one, by the file server's clock, after which a claim may be taken over

_NAME = re.compile(r"claim-(\d{6})\.json")


class LeaseHeld(BadInput):
    """Somebody else is training the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process, told apart from one that has the same number after a restart, or in another container."""

    host: str
    space: str  # the boot and the space of process numbers: within one, a process can be looked up
    pid: int
    began: str  # when the process began, in the kernel's ticks
    job: str = ""
    at: str = ""

    @classmethod
    def me(cls) -> "Owner":
        """This process."""
        job = os.environ.get("SLURM_JOB_ID", "")
        pid = os.getpid()
        return cls(
            host=socket.gethostname(), space=_space(), pid=pid, began=_began(pid), job=job and f"Slurm job {job}", at=now()
        )  # fmt: skip

    def dead(self) -> bool | None:
        """Whether the process is gone; None where that cannot be seen from here."""
        if not self.space or (self.host, self.space) != (socket.gethostname(), _space()):
            return None
        return _began(self.pid) != self.began

    def said(self) -> str:
        """For people."""
        return f"process {self.pid} on {self.host}" + (f" ({self.job})" if self.job else "")


def _space() -> str:
    """Where process numbers mean the same; "" where that cannot be told."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _began(pid: int) -> str:
    """When a process began; "" if it is no more."""
    try:
        after_name = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return ""
    return "" if after_name[0] in "ZX" else after_name[19]


def _newest(folder: Path) -> tuple[int, Path] | None:
    found = [
        (int(match[1]), path) for path in folder.glob("claim-*.json") if (match := _NAME.fullmatch(path.name))
    ]
    return max(found, default=None)


def _read(path: Path) -> Owner | None:
    """A claim's owner; None for one that is just being written, or is gone."""
    try:
        return Owner(**parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _silence(path: Path) -> float:
    """Seconds since the last sign of life, both by the clock of whoever keeps the files; infinite if it is gone."""
    probe = path.with_name(f".clock-{os.getpid()}-{threading.get_ident()}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    finally:
        probe.unlink(missing_ok=True)


def lease_holder(folder: Path) -> str | None:
    """Who is training the run of a folder, for people; None if nobody is."""
    newest = _newest(folder)
    if newest is None:
        return None
    path = newest[1]
    owner = _read(path)
    dead = None if owner is None else owner.dead()
    if dead or (dead is None and _silence(path) > STALE):
        return None
    return "another process" if owner is None else owner.said()


class Lease:
    """A run that this process owns, until it says otherwise or somebody has reason to take it over."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number
        self.lost = False
        self._ended = threading.Event()
        self._beaten = _awake()
        threading.Thread(target=self._beat, daemon=True).start()

    @property
    def path(self) -> Path:
        """The claim's file."""
        return self.folder / f"claim-{self.number:06}.json"

    def check(self) -> None:
        """Nothing, while the run is still ours. After a sleep it looks before it says so: the beat may wake later.

        Raises:
            RunFailed: another process has taken it over.
        """
        if not self.lost and _awake() - self._beaten > STALE / 2:
            with suppress(OSError):
                self._look()
        if self.lost:
            raise RunFailed(
                f"{self.folder.name} is now trained by {lease_holder(self.folder) or 'another process'}: this one "
                f"gave no sign of life for {STALE:.0f} s; nothing more is written here"
            )

    def release(self) -> None:
        """Let others have it, at once."""
        self._ended.set()
        for number in range(self.number, 0, -1):  # the older ones too: nobody looks at them any more
            path = self.folder / f"claim-{number:06}.json"
            if not path.exists():
                break
            with suppress(OSError):
                path.unlink()

    def _beat(self) -> None:
        while not self.lost and not self._ended.wait(HEARTBEAT):
            with suppress(OSError):  # a file server that is away for a moment
                self._look()

    def _look(self) -> None:
        """Give a sign of life, or see that the run is another's."""
        if _awake() - self._beaten > STALE / 2:
            _silence(self.path)  # makes and removes a file: a network file system then lists the folder anew
        newest = _newest(self.folder)
        if newest is None or newest[0] != self.number:
            self.lost = True
            return
        os.utime(self.path)
        self._beaten = _awake()


def _awake() -> float:
    """Seconds by a clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def acquire_lease(folder: Path) -> Lease:
    """Make a run's folder ours.

    Raises:
        Claimed: it is somebody else's.
        BadInput: the folder cannot be written.
    """
    with clear_io_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        newest = _newest(folder)
        if newest is not None and (who := lease_holder(folder)) is not None:
            raise LeaseHeld(f"{folder.name} is being trained by {who}")
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
    """The run of a folder, ours within."""
    ours = acquire_lease(folder)
    try:
        yield ours
    finally:
        ours.release()
