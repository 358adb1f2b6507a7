"""What two real processes do together, for test_parallel.py: every case in one pair, which costs one start of torch."""

import multiprocessing
import os
from contextlib import suppress
from pathlib import Path

from scaling.collector import spare_imports

from .tiny import StopAfter, places

RUNGS = (1024, 2048)  # tokens; 8 and 16 steps


def climb_in(folder, settings, text, *, zero=None, stop_after=10**9):
    """Climb alone (zero is None) or with the other process; an asked stop is no error."""
    from train.distributed import ALONE, join
    from train.ladder import Interrupted, RunOptions, train_ladder

    def go(world):
        with suppress(Interrupted):
            train_ladder(
                settings,
                RUNGS,
                text,
                places(folder),
                RunOptions(log_every=3, world=world),
                StopAfter(stop_after),
            )

    if zero is None:
        go(ALONE)
        return
    with join(zero, "cpu") as world:
        go(world)


def all_cases(folder, plain, pieces, dropout, text):
    """Every case, in the same order in both processes."""
    first = os.environ["RANK"] == "0"
    met = iter(range(100))

    def together(name, settings, zero, stop_after=10**9):
        # torch removes the file of a meeting that is over
        os.environ["SCALING_RENDEZVOUS"] = (folder / f"meeting-{next(met)}").as_uri()
        climb_in(folder / name, settings, text, zero=zero, stop_after=stop_after)

    for zero in (0, 2, 3):
        together(f"z{zero}", plain, zero)
    together("pieces", pieces, 0)
    together("pieces3", pieces, 3)
    for zero in (0, 3):
        together(f"whole{zero}", dropout, zero)
        together(f"cut{zero}", dropout, zero, stop_after=4)
        together(f"cut{zero}", dropout, zero, stop_after=5)
        together(f"cut{zero}", dropout, zero)
    together("moved", plain, 2, stop_after=4)
    if first:
        climb_in(folder / "moved", plain, text, stop_after=4)
    together("moved", plain, 3)

    from train import parts

    parts.GATHERED = 0  # as a state beyond the bound is saved: each process its part
    together("parts", plain, 3, stop_after=4)
    together("parts", plain, 2, stop_after=4)
    parts_seen = sorted(path.name for path in (folder / "parts").rglob("shard-*"))
    if first:
        (folder / "parts-seen.txt").write_text("\n".join(parts_seen))
        climb_in(folder / "parts", plain, text, stop_after=4)
    together("parts", plain, 3)


def _process(rank, folder, *inputs):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    spare_imports()
    import torch

    torch.set_num_threads(1)
    all_cases(folder, *inputs)


def run_pair(folder: Path, *inputs):
    """Run every case in two processes; both must end well."""
    context = multiprocessing.get_context("spawn")
    pair = [context.Process(target=_process, args=(rank, folder, *inputs)) for rank in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join(240)
        process.kill()
    return [process.exitcode for process in pair]
