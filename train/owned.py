"""A run has one writer: its claim, made by process 0, and looked at whenever the loop asks whether to stop."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scaling.cluster.claims import Claim, claim

from .parallel import World
from .stop import Stop


class _Held(Stop):
    """Another's wish to stop; and the end of a process whose run was taken over while it slept."""

    def __init__(self, stop: Stop, claims: list[Claim]) -> None:
        super().__init__()
        self._stop, self._claims = stop, claims

    @property
    def asked(self) -> bool:
        """Looked at after every step, before anything is saved.

        Raises:
            RunFailed: the run is another's now.
        """
        for one in self._claims:
            one.check()
        return self._stop.asked


@contextmanager
def owned(folder: Path, world: World, stop: Stop) -> Iterator[Stop]:
    """A run's folder, ours within; what it yields is the stop to train by.

    Raises:
        Claimed: another process is training the run.
    """
    claims: list[Claim] = []
    world.do(lambda: claims.append(claim(folder)))
    try:
        yield _Held(stop, claims)
    finally:
        for one in claims:
            one.release()
