"""One experiment of the tuner, in a process of its own that may run out of memory and harms nobody.

Reads asks as JSON lines, answers each with a JSON line; see train/experiment.py, which starts it.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

OOM_SCORE = "1000"  # the kernel's first victim, should memory run out all the same
LR = 1e-5
SECONDS = 2.0  # of passes, at least: the fastest of many counts, as a rival only slows
PASSES, MOST = 3, 40


def main() -> None:
    """Answer the asks of standard input."""
    out = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    _be_the_first_to_go()
    from .distributed import join

    asks = [json.loads(line) for line in sys.stdin if line.strip()]
    for ask in asks:
        _limit(ask["limit"])
        with join(ask["zero"], ask["device"]) as world:
            try:
                answer = measure(ask, world)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                answer = {"fits": False}
            if world.first:
                os.write(out, (json.dumps(answer) + "\n").encode())


def measure(ask: dict[str, Any], world: Any) -> dict[str, Any]:
    """Seconds of a pass, of an update and of a whole step, and the peak of memory once the step is what it usually is."""
    from .backend import random_examples
    from .config import Settings
    from .loop import gradients, start, train_step, update

    settings, device = Settings.model_validate_json(ask["settings"]), ask["device"]
    session = start(settings, device, world)
    examples = random_examples(settings, settings.batch_size // world.size).to(device)
    piece = examples[: settings.micro_batch]
    first = _seconds(device, lambda: train_step(session, piece, LR))
    _seconds(device, lambda: train_step(session, piece, LR))
    gc.collect()
    _reset_peak(device)
    steps: list[float] = []
    passes: list[float] = []
    updates: list[float] = []
    alone = world.size == 1  # several processes must do as many passes as each other

    def more(times: list[float]) -> bool:
        return len(times) < PASSES or (alone and sum(times) < SECONDS and len(times) < MOST)

    while ask["whole"] and more(steps):
        steps.append(_seconds(device, lambda: train_step(session, examples, LR)))
    while more(passes):
        passes.append(_seconds(device, lambda: gradients(session, piece, settings.micro_batch)))
        updates.append(_seconds(device, lambda: update(session, LR)))
    return {
        "fits": True,
        "seconds": min(passes),
        "update": min(updates),
        "step": min(steps, default=0.0),
        "first": max(0.0, first - min(passes) - min(updates)),
        "memory": _peak(device),
    }


def _seconds(device: str, work: Callable[[], Any]) -> float:
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def _be_the_first_to_go() -> None:
    try:
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")
    except OSError:
        return


def _limit(limit: float | None) -> None:
    """Refuse memory beyond so many bytes with an error that can be caught, where the system can."""
    if limit is None:
        return
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))


def _out_of_memory(error: BaseException) -> bool:
    words = str(error).lower()
    return isinstance(error, MemoryError) or any(
        part in words
        for part in ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
    )


def _reset_peak(device: str) -> None:
    """Forget what building and compiling took."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return
    import ctypes

    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM
    except (OSError, AttributeError):
        return


def _peak(device: str) -> float:
    """Bytes: the allocator's peak on a GPU, the process's resident peak on a CPU."""
    if device == "cuda":
        import torch

        return float(torch.cuda.max_memory_allocated())
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return 1024.0 * float(line.split()[1])
    import resource

    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
