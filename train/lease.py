"""Asked to stop: by a person, a scheduler or a parent process, and heeded after the step in hand."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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
