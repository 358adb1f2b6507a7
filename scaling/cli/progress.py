"""Progress with time left, on standard error: a line that rewrites itself on a terminal, a line now and then elsewhere."""

import shutil
import sys
import time

from families.units import format_duration

QUIET_SECONDS = 10.0  # between lines where standard error is no terminal
TICK_SECONDS = 0.2
WIDTH = 140


def fitted(what: str, tail: str, room: int) -> str:
    """One line: what goes on, cut off where the time left would not fit behind it."""
    if not tail:
        return what[:room]
    return f"{what[: max(0, room - len(tail) - 2)]}  {tail}"[:room]


class Progress:
    """Work done of work in all, in any unit; the time left assumes the speed so far.

    Args:
        elsewhere: whether a line is written now and then where standard error is no terminal, as long training needs.
    """

    def __init__(self, elsewhere: bool = True) -> None:
        self.total = 1.0
        self.done = 0.0
        self._began = time.monotonic()
        self._from = 0.0
        self._shown = 0.0
        self._live = sys.stderr.isatty()
        self._silent = not (self._live or elsewhere)
        self._width = 0

    def at(self, done: float, total: float, what: str, fresh: bool = True) -> None:
        """Say where the work is; work that an earlier call had done is not `fresh` and does not count into the speed."""
        if total != self.total or done < self.done:  # another piece of work begins
            # How long it took to get here is not known: the speed is that from here on.
            self.total, self.done, self._from, self._began = total, done, done, time.monotonic()
        if not fresh:
            self._from += max(0.0, done - self.done)
        self.done = done
        if self._silent:
            return
        now = time.monotonic()
        if now - self._shown < (TICK_SECONDS if self._live else QUIET_SECONDS):
            return
        self._shown = now
        self._write(what, now)

    def end(self) -> None:
        """Leave the line."""
        if self._live and self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()

    def _write(self, what: str, now: float) -> None:
        fresh = self.done - self._from
        left = (self.total - self.done) * (now - self._began) / fresh if fresh > 0 else None
        share = min(1.0, self.done / self.total) if self.total else 1.0
        tail = f"about {format_duration(max(0.0, left))} left" if left is not None else ""
        room = min(WIDTH, shutil.get_terminal_size().columns - 1) if self._live else WIDTH
        line = fitted(f"{share:4.0%}  {what}", tail, room)
        if self._live:
            sys.stderr.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()
