"""What two real processes do together, for test_parallel.py: every case in one pair, which costs one start of torch."""

import os
from dataclasses import replace

RUNGS = (1024, 2048)


class StopAfter:
    """Asks the loop to stop after some steps, as a signal would."""

    def __init__(self, steps):
        self.left = steps

    @property
    def asked(self):
        self.left -= 1
        return self.left < 0


def places(folder):
    from train.ladder import Places

    return Places(folder=folder / "run", runs=folder / "runs.jsonl", ledger=folder / "ledger.jsonl")


def climb_in(folder, settings, text, *, zero=None, stop_after=10**9):
    """Climb alone (zero None) or with the other process; an asked stop is not an error."""
    from train.ladder import Habits, Interrupted, climb
    from train.parallel import ALONE, join

    habits = Habits(log_every=3)
    try:
        if zero is None:
            climb(settings, RUNGS, text, places(folder), replace(habits, world=ALONE), StopAfter(stop_after))
            return
        number = len(list(folder.parent.glob("meeting-*")))
        os.environ["SCALING_RENDEZVOUS"] = (folder.parent / f"meeting-{number}").as_uri()
        with join(zero, "cpu") as world:
            climb(settings, RUNGS, text, places(folder), replace(habits, world=world), StopAfter(stop_after))
    except Interrupted:
        pass
