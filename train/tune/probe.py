"""One experiment of the tuner, in separate processes that may run out of memory without harm to the tuner.

A process reads requests as JSON lines from standard input and answers each with a JSON line; `run_probe` starts it.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from families.units import RunFailed
from scaling.machine import StepBackend

from ..config import Settings
from ..jobs.pool import Pool, meeting_in, python, rank_variables
from .model import Model, Pick, Trial, TrialConfig, pick

PROCESS = 0.6e9  # bytes of a process before it holds a model: Python, torch and what compiled code needs

SLACK = 1.5  # a probe may take so much more than what is free for it, before it is refused: the limit counts unused pages

PATIENCE = 900.0  # seconds for one experiment

_START = "from train.tune.probe import main; main()"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """Result of one experiment.

    Args:
        probed: the trial.
        step: seconds of a step over the whole global batch; 0 if not measured.
    """

    probed: Trial
    step: float = 0.0


@dataclass(slots=True, kw_only=True)
class Tuning:
    """Trials of a tuning and their result.

    Args:
        settings: settings of the member.
        device: "cpu" or "cuda".
        room: memory in bytes that a trial may take.
        tried: the trials so far.
        models: memory and time models fitted to the trials.
        probes: number of experiments.
        seconds: duration of the tuning.
        picked: the chosen configuration and micro-batch.
        verified: the choice, measured over the whole batch.
    """

    settings: Settings
    device: str
    room: float
    tried: list[Trial] = field(default_factory=list)
    models: list[Model] = field(default_factory=list)
    probes: int = 0
    seconds: float = 0.0
    picked: Pick | None = None
    verified: TrialResult | None = None

    @property
    def batch(self) -> int:
        """Sequences of a step, equal for all configurations."""
        return self.settings.batch_size

    @property
    def baseline(self) -> Trial:
        """The plain engine at the smaller of its micro-batches."""
        return min(
            (one for one in self.tried if one.way == TrialConfig(engine=self.plain)),
            key=lambda one: one.micro,
        )

    @property
    def step_seconds(self) -> float:
        """Measured seconds of a step of the pick, over the whole batch."""
        assert self.verified is not None
        return self.verified.step

    @property
    def plain(self) -> StepBackend:
        """The plain engine, which a run without tuning uses."""
        return self.tried[0].way.engine

    @property
    def hand(self) -> Pick | None:
        """The plain engine at its best micro-batch by its model; None if it did not fit into memory."""
        own = [model for model in self.models if model.way.engine == self.plain]
        return pick(own, self.batch, self.room)


def probe_request(
    tuning: Tuning, way: TrialConfig, micro: int, *, batch: int | None = None, n_layer: int | None = None
) -> dict[str, Any]:
    """Return the request of a probe.

    Args:
        tuning: the tuning, for settings, device and memory.
        way: configuration to measure.
        micro: sequences per pass on each device.
        batch: sequences of a whole step; None measures passes and updates only.
        n_layer: number of layers; by default that of the member.
    """
    changes = {
        **way.engine.model_dump(),
        "run": "probe",
        "micro_batch": micro,
        "batch_size": batch or micro * way.devices,
        "checkpointing": way.checkpointing,
        "n_layer": n_layer or tuning.settings.n_layer,
    }
    return {
        "settings": tuning.settings.model_copy(update=changes).dump().replace("\n", " "),
        "device": tuning.device,
        "zero": way.zero,
        "limit": None if tuning.device == "cuda" else SLACK * tuning.room + PROCESS,
        "whole": batch is not None,
    }


def probed(way: TrialConfig, micro: int, answer: dict[str, Any]) -> Trial:
    """Return the trial of a configuration at a micro-batch from the answer of a process."""
    if not answer["fits"]:
        return Trial(way=way, micro=micro, fits=False)
    return Trial(
        way=way,
        micro=micro,
        **{key: answer[key] for key in ("seconds", "update", "memory", "first")},
    )


def experiment(tuning: Tuning, asks: Sequence[dict[str, Any]], devices: int) -> list[dict[str, Any]]:
    """Run one experiment and return its answers; requests without an answer from a killed process did not fit.

    Raises:
        RunFailed: the process failed for another reason than memory.
    """
    tuning.probes += 1
    return run_probe(asks, devices)


def run_probe(asks: Sequence[dict[str, Any]], devices: int = 1) -> list[dict[str, Any]]:
    """Run requests in one process, or in several that share the work.

    Raises:
        RunFailed: a process failed for another reason than memory, or took more than PATIENCE seconds.
    """
    text = "".join(json.dumps(ask) + "\n" for ask in asks)
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder, Pool() as pool:
        ranks = [
            pool.start(
                python(_START),
                environment=rank_variables(rank, devices, meeting_in(Path(folder))) if devices > 1 else {},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                log=Path(folder) / f"{rank}.log",
            )
            for rank in range(devices)
        ]
        output = _talk([one.popen for one in ranks], text)
        status, last_words = ranks[0].poll(), ranks[0].last_words()
    answers = [json.loads(line) for line in output.splitlines()]
    missing = len(asks) - len(answers)
    if missing and status not in (-9, 137):
        raise RunFailed(f"a probe failed: {last_words or f'status {status}'}")
    return answers + [{"fits": False}] * missing


def _talk(processes: Sequence["subprocess.Popen[bytes]"], text: str) -> str:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(text.encode())
        process.stdin.close()
        process.stdin = None
    try:
        output, _ = processes[0].communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise RunFailed(f"a probe took more than {PATIENCE:.0f} s") from error
    return output.decode()


OOM_SCORE = "1000"  # the kernel's first victim, should memory run out all the same

LR = 1e-5

SECONDS = 2.0  # of passes, at least: the fastest of many counts, as a rival only slows

PASSES, MOST = 3, 40


def main() -> None:
    """Answer the requests of standard input."""
    out = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    _be_the_first_to_go()
    from ..distributed import join

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
    """Return the seconds of a pass, of an update and of a whole step, and the peak of memory in bytes after warm-up."""
    from ..backend import random_examples
    from ..config import Settings
    from ..loop import gradients, start, train_step, update

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
    """Reset the peak of memory, which includes building and compiling the model."""
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
