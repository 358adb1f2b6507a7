"""Kills a run again and again, for test_exact.py: torch is imported once, every attempt is a fork of that.

python -m tests.killing FOLDER PROCESSES COMPILE KILLS [SEED] trains FOLDER/whole undisturbed, and FOLDER/cut under fire,
and prints what it did as JSON. Half of the kills come at a random moment, half at one of the calls that a save is made of.
Two processes divide the weights (zero=3), or copy them where the step is compiled (zero=0). Attempts inherit what is compiled;
of two processes those of the undisturbed run compile their own, and with COMPILE 2 every attempt does. Forks inherit no threads,
the compiler's among them: TORCHINDUCTOR_COMPILE_THREADS=1.
"""

import gc
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed.fsdp  # as below
from transformers import GPT2LMHeadModel

import train.checkpoint
import train.saver
from train.distributed import join
from train.ladder import RunOptions, train_ladder
from train.lease import Stop
from train.loop import start, train_step
from train.model.objective import batch_of

from . import tiny

RUNGS = (768, 1536)  # tokens; 6 and 12 steps
CALLS = [
    (train.checkpoint, "save_file"), (train.checkpoint, "sha256_file"), (train.checkpoint.CheckpointFile, "write"),
    (Path, "replace"), (os, "fsync"), (train.saver, "append_entry"), (train.saver, "prune"), (shutil, "rmtree"),
]  # fmt: skip


def die_at(call):
    """SIGKILL at the n-th of the calls that a save is made of: before it or, every other time, just after."""
    left = [call]

    def fatal(honest):
        def wrapped(*inputs, **named):
            left[0] -= 1
            if left[0] == 0 and call % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            found = honest(*inputs, **named)
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        return wrapped

    for owner, name in CALLS:
        setattr(owner, name, fatal(getattr(owner, name)))


def attempt(folder, settings, text, rank, processes, meeting, save_every, fatal_call):
    """One process of one attempt, in a fork; never returns."""
    status = 1
    try:
        if processes > 1:
            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes),
                SCALING_RENDEZVOUS=meeting.as_uri(),
            )  # fmt: skip
        if fatal_call:
            die_at(fatal_call)
        places = tiny.places(folder)
        zero = 3 if processes > 1 and not settings.compile else 0
        with join(zero, "cpu") as world:
            train_ladder(
                settings,
                RUNGS,
                text,
                places,
                RunOptions(log_every=3, save_every=save_every, world=world),
                Stop(),
            )
        status = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        if processes == 1 or "lost another" not in str(error):
            status = 3
    finally:
        os._exit(status)


def one_attempt(folder, settings, text, processes, *, save_every=1e-6, delay=None, fatal_call=0):
    """Start, kill if asked, and wait; returns the exit statuses, negative where killed."""
    meeting = folder.parent / "meeting"
    meeting.unlink(missing_ok=True)
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            attempt(folder, settings, text, rank, processes, meeting, save_every, 0 if rank else fatal_call)
        children.append(child)
    if delay is not None:
        time.sleep(delay)
        os.kill(random.choice(children), signal.SIGKILL)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main():
    """Train one run whole, and another under fire."""
    folder, (processes, compiled, kills, seed) = Path(sys.argv[1]), map(int, [*sys.argv[2:], "0"][:4])
    torch.set_num_threads(1)
    assert GPT2LMHeadModel  # else imported where it is used: once here, and not in every fork
    random.seed(seed)
    text = tiny.text_in(folder)
    settings = tiny.settings(text, **tiny.SMALLER, tokens=RUNGS[-1], warmup=2, dropout=0.1)
    settings = settings.model_copy(update={"compile": compiled > 0})

    def prepare():
        if compiled == 1:
            examples = torch.from_numpy(batch_of(settings, text.train, 0))
            session = start(settings, "cpu", by_block=processes > 1)
            train_step(session, examples[: len(examples) // processes], 1e-3)
        gc.collect()
        gc.freeze()
        gc.unfreeze = lambda: None  # else most moments of an attempt are of a pass over torch's own objects

    if processes == 1:
        prepare()
    # The first saves where it must, so that saving itself is seen to change nothing; the second is as long as an attempt.
    for name, save_every in (("whole", 1e9), ("again", 1e-6)):
        began = time.monotonic()
        assert one_attempt(folder / name, settings, text, processes, save_every=save_every) == [0] * processes
        length = time.monotonic() - began
        if processes > 1 and name == "whole":
            prepare()
    shutil.rmtree(folder / "again")
    killed, finished = [], 0
    while len(killed) < kills:
        how = (
            {"delay": random.uniform(0.1, 1.0) * length}
            if len(killed) % 2
            else {"fatal_call": random.randint(1, 60)}
        )
        codes = one_attempt(folder / "cut", settings, text, processes, **how)
        assert all(code in (0, 1, -signal.SIGKILL) for code in codes), codes
        if -signal.SIGKILL in codes:
            killed.append(how)
        if all(code == 0 for code in codes):
            finished += 1
            (folder / "cut").rename(folder / f"finished-{finished}")
    assert one_attempt(folder / "cut", settings, text, processes) == [0] * processes
    (folder / "cut").rename(folder / f"finished-{finished + 1}")
    print(json.dumps({"killed": killed, "finished": finished + 1, "length": length}))


if __name__ == "__main__":
    main()
