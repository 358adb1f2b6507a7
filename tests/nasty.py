"""A harness that feeds nasty files to every reader and verb, which must refuse them in words.

`python -m tests.nasty --count 100000` tries that many and reports what left besides BadInput and RunFailed.
"""

import argparse
import contextlib
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from families.units import BadInput, RunFailed

from .nasty_inputs import PLACES, nasty, sparse_there

SECONDS = 10.0  # of a processor's time that a reader may take
HANGS = (
    90.0  # seconds by the clock, those of waiting for a processor left out, after which it counts as hanging
)
LONGEST = 2000  # characters of a line on standard error


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A reader or a verb, and the file of the bench that it reads. `ask` takes the bench's folder.

    share: of the inputs that a quick door gets; less where an answer takes long.
    words: in place of a file, what makes (what was done, a spoilt command line).
    """

    name: str
    file: str
    kind: str
    ask: Callable[[Path], object]
    share: float = 1.0
    words: Callable[[Path, random.Random], tuple[str, list[str]]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """Something other than a refusal that left a door."""

    door: str
    number: int
    done: str
    what: str
    where: str

    def __str__(self) -> str:
        return f"{self.door} [{self.number}: {self.done}] {self.what} at {self.where}"


class TooSlow(BaseException):
    """A reader that took longer than SECONDS."""


@dataclass(slots=True)
class Bench:
    """A folder of good files, in which one at a time is spoilt and put back."""

    folder: Path
    doors: tuple[Door, ...]
    seed: int = 0
    refused: int = 0
    slowest: tuple[float, str] = (0.0, "")
    refused_by: Counter[str] = field(default_factory=Counter)
    _kept: dict[str, bytes] = field(default_factory=dict)
    _copy: Path | None = None

    def whole(self, door: Door) -> bytes:
        """The good file of a door."""
        if door.file not in self._kept:
            self._kept[door.file] = (self.folder / door.file).read_bytes()
        return self._kept[door.file]

    def attempt(self, door: Door, number: int) -> Leak | None:
        """Feed the nasty file of that number to a door."""
        rng = random.Random(f"{self.seed} {door.name} {number}")
        if door.words is not None:
            return self._say(door, number, *door.words(self.folder, rng))
        whole = self.whole(door)
        if rng.random() < 0.01:
            return self.place(door, rng.choice(PLACES))
        done, data = nasty(door.kind, whole, rng)
        return self.feed(door, data, number=number, done=done)

    def feed(self, door: Door, data: bytes, *, number: int = -1, done: str = "") -> Leak | None:
        """Feed these bytes to a door."""
        self.whole(door)
        return self._ask(door, number, done, lambda path: path.write_bytes(data) and None)

    def place(self, door: Door, make: Callable[[Path], None]) -> Leak | None:
        """Put something else than a file there; texts of a terabyte are read in pieces, for hours."""
        self.whole(door)
        if make is sparse_there and (door.kind == "text" or door.name.startswith("text")):
            return None
        return self._ask(door, -1, make.__name__, make)

    def _ask(self, door: Door, number: int, done: str, make: Callable[[Path], None]) -> Leak | None:
        path = self.folder / door.file
        path.unlink(missing_ok=True)
        try:
            make(path)
            return self._within(door, number, done, lambda: door.ask(self.folder))
        finally:
            self._put_back(path, door)

    def _say(self, door: Door, number: int, done: str, words: list[str]) -> Leak | None:
        """Run a command line; what it wrote is put back."""
        from .nasty_words import tree, unchanged

        before = tree(self.folder)
        if self._copy is None:
            self._copy = self.folder.with_name(f"{self.folder.name}.copy")
            shutil.copytree(self.folder, self._copy, symlinks=True, ignore=_no_files)
        leak = self._within(door, number, done, lambda: unchanged(self.folder, *words))
        if tree(self.folder) != before:
            _mirror(self._copy, self.folder)
        return leak

    def _within(self, door: Door, number: int, done: str, ask: Callable[[], object]) -> Leak | None:
        began = time.process_time()
        try:
            with _limited(SECONDS), warnings.catch_warnings():
                warnings.simplefilter("error")
                ask()
        except (BadInput, RunFailed):
            self.refused += 1
            self.refused_by[door.name] += 1
        except (Exception, TooSlow) as error:
            return _leak(door, number, done, error)
        took = time.process_time() - began
        if took > self.slowest[0]:
            self.slowest = (took, f"{door.name} [{number}: {done}]")
        if took > SECONDS:
            return Leak(door=door.name, number=number, done=done, what=f"took {took:.1f} s", where="?")
        return None

    def _put_back(self, path: Path, door: Door) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.write_bytes(self._kept[door.file])


def _no_files(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not (Path(folder, name).is_file() or Path(folder, name).is_dir())]


def _mirror(source: Path, folder: Path) -> None:
    """Make a folder's files those of its copy again; pipes stay."""
    for path in sorted(folder.rglob("*"), reverse=True):
        whole = source / path.relative_to(folder)
        if path.is_symlink() or path.is_file():
            if not whole.is_file() or whole.read_bytes() != path.read_bytes():
                path.unlink()
        elif path.is_dir() and not whole.is_dir():
            shutil.rmtree(path)
    shutil.copytree(source, folder, dirs_exist_ok=True, symlinks=True)


def _waited() -> float:
    """Seconds that this process was ready to run and had no processor; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Stop what takes that many seconds of a processor, or waits for HANGS."""

    waited = _waited()

    def ring(number: int, *_: object) -> None:
        starved = _waited() - waited
        if number == signal.SIGALRM and time.monotonic() - began - starved < HANGS:
            signal.setitimer(signal.ITIMER_REAL, HANGS)
            return
        raise TooSlow(
            f"took longer than {seconds:g} s" if number == signal.SIGPROF else f"hung for {HANGS:g} s"
        )

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, seconds), (signal.SIGALRM, signal.ITIMER_REAL, HANGS))
    before = [signal.signal(number, ring) for number, _, _ in timers]
    began = time.monotonic()
    for _, timer, limit in timers:
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for (number, timer, _), earlier in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, earlier)


def _leak(door: Door, number: int, done: str, error: BaseException) -> Leak:
    root = str(Path(__file__).parents[1])
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(root)]
    product = [f for f in frames if "/tests/" not in f.filename and "/.venv/" not in f.filename] or frames
    last = product[-1] if product else None
    where = f"{Path(last.filename).relative_to(root)}:{last.lineno}" if last else "?"
    return Leak(
        door=door.name,
        number=number,
        done=done,
        what=f"{type(error).__name__}: {str(error)[:160]!r}",
        where=where,
    )


class Untidy(AssertionError):
    """A command that ended in another way than with a result or one line."""


def ended(*words: object) -> tuple[int, str, str]:
    """(exit status, standard output, standard error) of a command, in this process; a traceback leaves as its exception."""
    from scaling.cli import main

    out, err = io.StringIO(), io.StringIO()
    before, argv = signal.getsignal(signal.SIGINT), sys.argv
    status = 0
    sys.argv = ["scaling", *map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    finally:
        sys.argv = argv
        signal.signal(signal.SIGINT, before)
    return status, out.getvalue(), err.getvalue()


def command(*words: object) -> None:
    """Run a command; a refusal leaves as BadInput, an untidy one as Untidy."""
    status, _, said = ended(*words)
    lines = said.splitlines()
    if status not in (0, 1, 2):
        raise Untidy(f"exit status {status}")
    if any(len(line) > LONGEST for line in lines):
        raise Untidy(f"a line of {max(map(len, lines))} characters")
    if any(ord(letter) < 32 and letter != "\n" for letter in said):
        raise Untidy(f"control characters in {said[:100]!r}")
    if status == 2:
        if said.startswith("Usage: "):  # a group of verbs without one prints its help
            raise BadInput("help")
        if any(not line.startswith(("left out ", "note: ")) for line in lines[:-1]):
            raise Untidy(f"{len(lines)} lines: {said[:200]!r}")
        raise BadInput(lines[-1])


def write_bench(folder: Path, *, training: bool = True) -> Bench:
    """The good files, and every door to them."""
    from . import nasty_bench

    bench = Bench(folder, nasty_bench.build(folder, training=training))
    for door in bench.doors:  # before any reader changes one
        bench.whole(door)
    return bench


def main() -> int:
    """Try many, and say what left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--door", default="", help="only doors whose name holds this")
    parser.add_argument("--shown", type=int, default=3, help="examples of each kind of leak")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["SCALING_CACHE"] = str(Path(place) / "cache")
        bench = write_bench(Path(place) / "bench")
        bench.seed = asked.seed
        doors = [door for door in bench.doors if asked.door in door.name]
        rng = random.Random(asked.seed)
        leaks: list[Leak] = []
        tried: Counter[str] = Counter()
        weights = [door.share for door in doors]
        began = time.monotonic()
        for number in range(asked.count):
            door = rng.choices(doors, weights)[0]
            tried[door.name] += 1
            leak = bench.attempt(door, number)
            if leak is not None:
                leaks.append(leak)
                print(f"  left: {leak}", flush=True)
            if number % 5000 == 4999:
                print(
                    f"{number + 1:,} tried, {len(leaks)} left, {time.monotonic() - began:.0f} s", flush=True
                )
        kinds: dict[tuple[str, str], list[Leak]] = {}
        for leak in leaks:
            kinds.setdefault((leak.what.partition(":")[0], leak.where), []).append(leak)
        print(
            f"{asked.count:,} inputs, {len(doors)} doors, seed {asked.seed}: {bench.refused:,} refused, {len(leaks)} left"
        )
        print(f"slowest {bench.slowest[0]:.1f} s: {bench.slowest[1]}")
        for name, many in sorted(tried.items()):
            print(f"  {name}: {many}, {bench.refused_by[name]} refused")
        for (what, where), same in sorted(kinds.items(), key=lambda item: -len(item[1])):
            print(f"{len(same)} x {what} at {where}, doors {sorted({leak.door for leak in same})[:6]}")
            for leak in same[: asked.shown]:
                print(f"    {leak}")
    return 1 if leaks else 0


if __name__ == "__main__":
    sys.exit(main())
