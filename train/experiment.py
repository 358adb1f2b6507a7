"""One experiment of the tuner: what processes of their own are asked, what they answer, and what is kept of it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from families.units import RunFailed
from scaling.machine import StepBackend

from .config import Settings
from .tune.model import Model, Pick, Trial, TrialConfig, pick

PROCESS = 0.6e9  # bytes of a process before it holds a model: Python, torch and what compiled code needs
SLACK = 1.5  # a probe may take so much more than what is free for it, before it is refused: the limit counts unused pages
PATIENCE = 900.0  # seconds for one experiment
_START = "from train.tune_probe import main; main()"  # with -P, so that a train.py of the current folder is not run


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one experiment of a way at a micro-batch saw; step: of the whole global batch, where that was timed."""

    probed: Trial
    step: float = 0.0


@dataclass(slots=True, kw_only=True)
class Tuning:
    """What was tried, and what it says. baseline, hand: of the plain engine, at its smallest probed micro-batch and at its best.

    probes: processes that ran. verified: the pick, measured over the whole batch.
    """

    settings: Settings
    device: str
    room: float
    tried: list[Trial] = field(default_factory=list)
    models: list[Model] = field(default_factory=list)
    probes: int = 0
    seconds: float = 0.0
    picked: Pick | None = None
    verified: Seen | None = None

    @property
    def batch(self) -> int:
        """Sequences of a step, whatever the way."""
        return self.settings.batch_size

    @property
    def baseline(self) -> Trial:
        """The plain engine at the smaller of its micro-batches."""
        return min(
            (one for one in self.tried if one.way == TrialConfig(engine=self.plain)),
            key=lambda one: one.micro,
        )

    @property
    def plain(self) -> StepBackend:
        """What a loop without choices does."""
        return self.tried[0].way.engine

    @property
    def hand(self) -> Pick | None:
        """The plain engine at its own best micro-batch, by its lines; None where it did not fit at all."""
        own = [model for model in self.models if model.way.engine == self.plain]
        return pick(own, self.batch, self.room)


def ask(
    tuning: Tuning, way: TrialConfig, micro: int, *, batch: int | None = None, n_layer: int | None = None
) -> dict[str, Any]:
    """What a probe is told. Without a batch only passes and updates are timed."""
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
    """What a process answered about a way at a micro-batch."""
    if not answer["fits"]:
        return Trial(way=way, micro=micro, fits=False)
    return Trial(
        way=way,
        micro=micro,
        **{key: answer[key] for key in ("seconds", "update", "memory", "first")},
    )


def experiment(tuning: Tuning, asks: Sequence[dict[str, Any]], devices: int) -> list[dict[str, Any]]:
    """The answers of one experiment; what a killed or failed process did not answer did not fit.

    Raises:
        RunFailed: it failed for another reason than memory.
    """
    tuning.probes += 1
    return run_probe(asks, devices)


def run_probe(asks: Sequence[dict[str, Any]], devices: int = 1) -> list[dict[str, Any]]:
    """Ask a process, or several that share the work; never out of memory here, whatever happens there."""
    text = "".join(json.dumps(ask) + "\n" for ask in asks)
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        errors = [(Path(folder) / f"{rank}.log").open("w+b") for rank in range(devices)]
        processes = []
        for rank in range(devices):
            joint = {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(devices), "LOCAL_WORLD_SIZE": str(devices),
                "SCALING_RENDEZVOUS": (Path(folder) / "processes").as_uri(),
            }  # fmt: skip
            processes.append(
                subprocess.Popen(  # noqa: S603 - this program itself, and no shell
                    [sys.executable, "-P", "-c", _START],
                    env={**os.environ, **(joint if devices > 1 else {}), "PYTHONSAFEPATH": "1"},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors[rank],
                )
            )
        try:
            outputs = _talk(processes, text)
            errors[0].seek(0)
            said = errors[0].read().decode(errors="replace")
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
            for file in errors:
                file.close()
    answers = [json.loads(line) for line in outputs.splitlines()]
    missing = len(asks) - len(answers)
    if missing and processes[0].returncode not in (-9, 137):
        words = said.strip().splitlines()
        raise RunFailed(f"a probe failed: {words[-1] if words else f'status {processes[0].returncode}'}")
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
