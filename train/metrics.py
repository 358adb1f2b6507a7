"""What a run says of itself while it trains: lines of JSON that are the same however often it was interrupted."""

import json
import math
import os
import platform
import statistics
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from families import ModelSpec, train_flops_per_token
from families.units import BadInput, format_size
from scaling.files import clear_io_errors, read_text
from scaling.hardware import recognise
from scaling.runs.trackers import require_tensorboard
from scaling.untrusted import parse_json

# MERGED DOCSTRINGS
# An eye on the loss: what is far above the last steps is a spike, and is written down.
# How fast a run goes: tokens per second, and the share of a named peak that they are.
# TensorBoard event files of the lines that a run logs, through the `tensorboard` package.

WINDOW = 128  # steps

DEVIATIONS = 6.0  # above the mean of the window, as OLMo 2's optimiser skips such steps (OLMo-core, SkipStepOptimizer);

# a batch's loss is a mean over thousands of tokens and so near to normal: by chance one in 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Spike:
    """A step's loss, and the mean and standard deviation of the steps before it."""

    step: int
    loss: float
    mean: float
    sd: float


@dataclass(slots=True)
class SpikeDetector:
    """The losses of the last WINDOW steps."""

    losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def look(self, step: int, loss: float) -> Spike | None:
        """Add a step's loss; half a window must have been seen before one is called a spike."""
        found = None
        if len(self.losses) >= WINDOW // 2:
            mean = math.fsum(self.losses) / len(self.losses)
            sd = statistics.stdev(self.losses, mean)
            if loss > mean + DEVIATIONS * sd:
                found = Spike(step=step, loss=loss, mean=mean, sd=sd)
        self.losses.append(loss)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakFlops:
    """What an MFU is a share of: FLOP/s of all devices together, where from, and the word for it in a short line."""

    flops_per_s: float
    word: str
    source: str

    @property
    def sentence(self) -> str:
        """For the beginning of a run."""
        scale, unit = (1e12, "TFLOP/s") if self.flops_per_s >= 1e12 else (1e9, "GFLOP/s")
        return f"MFU is of {self.flops_per_s / scale:.3g} {unit}: {self.source}"


def device_name(device: str, devices: int = 1) -> str:
    """What a run's record calls its devices: "cpu", "NVIDIA H200", "8xNVIDIA H200"."""
    name = torch.cuda.get_device_name() if device == "cuda" else device
    return name if devices == 1 else f"{devices}x{name}"


def peak_of(device: str, matmul: float, dtype: str, devices: int = 1) -> PeakFlops:
    """The catalogue's dense peak of a GPU that it knows, else the speed of a plain matmul measured here.

    Args:
        matmul: FLOP/s of one device's matmuls in `dtype`.
    """
    many = f"{devices} × " if devices > 1 else ""
    _, found = recognise(device_name(device))
    if device == "cuda" and found is not None:
        return PeakFlops(
            flops_per_s=devices * found.training_peak,
            word=found.name,
            source=f"{many}{found.name}, dense {found.training_format} ({found.source})",
        )
    return PeakFlops(
        flops_per_s=devices * matmul,
        word="matmul",
        source=f"{many}a plain {dtype} matmul, measured here",
    )


def throughput_text(spec: ModelSpec, tokens_per_s: float, peak: PeakFlops | None) -> str:
    """65k tokens/s, MFU 45% of H200. The FLOPs are exact: 6 per matmul weight and attention."""
    said = f"{format_size(tokens_per_s)} tokens/s"
    if peak is None:
        return said
    share = tokens_per_s * train_flops_per_token(spec) / peak.flops_per_s
    return f"{said}, MFU {100 * share:.2g}% of {peak.word}"


TAGS = {
    "loss": "train/loss",
    "lr": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "tokens": "train/num_input_tokens_seen",
    "tokens_per_s": "train/tokens_per_s",
    "eval_loss": "eval/glance_loss",  # of 16 windows; eval/loss is the rung's own
    "rung_loss": "eval/loss",
}


class Scalars:
    """One file of scalars. Opened at a step, it tells TensorBoard to discard later steps of the folder's other files.

    `RecordWriter` and not `EventFileWriter`, whose queue and thread would report a full disk in a later call than the
    one that wrote.

    Raises:
        BadInput: the package is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        require_tensorboard("tensorboard is true")
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        name = f"events.out.tfevents.{time.time():.0f}.{platform.node() or 'host'}.{os.getpid()}.{step}"
        self._writer = RecordWriter((folder / name).open("ab"))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._record(file_version="brain.Event:2")
        self._record(step=step + 1, session_log=start)

    def write(self, values: dict[str, object]) -> None:
        """Add the scalars of a line of metrics or timing that have a tag; `step` is their position."""
        scalars = [
            self._summary.Value(tag=TAGS[name], simple_value=value)
            for name, value in values.items()
            if name in TAGS and isinstance(value, int | float)
        ]
        step = values["step"]
        if scalars and isinstance(step, int):
            self._record(step=step, summary=self._summary(value=scalars))

    def flush(self) -> None:
        """Hand everything to the system."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _record(self, **fields: object) -> None:
        self._writer.write(self._event(wall_time=time.time(), **fields).SerializeToString())


METRICS, TIMING, EVENTS = "metrics.jsonl", "timing.jsonl", "events.jsonl"


class MetricsWriter:
    """The files of a part of a run: metrics (what the numbers decide), timing (what the machine decides), and events."""

    def __init__(self, folder: Path | None, scalars: Scalars | None = None) -> None:
        self._folder = folder  # None: this process writes nothing
        self._scalars = scalars
        self._files: dict[str, IO[str]] = {}

    def write(self, name: str, **values: object) -> None:
        """Add a line; an event opens its file when it happens."""
        if self._folder is None:
            return
        if name not in self._files:
            # line by line: others read it as it grows
            self._files[name] = (self._folder / name).open("a", buffering=1, encoding="utf-8")
        self._files[name].write(json.dumps(values) + "\n")
        if self._scalars is not None:
            self._scalars.write(values)

    def flush(self) -> None:
        """Hand everything to the disk: neither a killed process nor a power cut loses what a checkpoint counts on."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        if self._scalars is not None:
            self._scalars.flush()

    def close(self) -> None:
        """Close what is open."""
        for file in self._files.values():
            file.close()
        if self._scalars is not None:
            self._scalars.close()


@contextmanager
def metrics_writer(
    folder: Path, step: int, *, writes: bool, tensorboard: bool = False
) -> Iterator[MetricsWriter]:
    """The files of a part that goes on from a step; what was logged beyond it will be logged again.

    Args:
        tensorboard: write the same lines as TensorBoard's events too.

    Raises:
        BadInput: a file cannot be written.
    """
    if not writes:
        yield MetricsWriter(None)
        return
    with clear_io_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in (METRICS, TIMING, EVENTS):
            truncate_after(folder / name, step)
        log = MetricsWriter(folder, Scalars(folder, step) if tensorboard else None)
        try:
            yield log
        finally:
            log.close()


def metric_rows(path: Path) -> Iterator[tuple[dict[str, Any], bool]]:
    """(row, whether its line has its end) of each line of a metrics.jsonl; nothing where there is no file.

    Raises:
        BadInput: the file cannot be read, or a line is no row of metrics with a step and a loss.
    """
    if not path.exists():
        return
    for number, line in enumerate(read_text(path).splitlines(keepends=True), start=1):
        try:
            row = parse_json(line)
            known = isinstance(row["step"], int | float) and isinstance(row["loss"], int | float)
        except (ValueError, LookupError, TypeError):
            known = False
        if known:
            yield row, line.endswith("\n")
        elif line.endswith("\n"):
            raise BadInput(f"{path} line {number}: it is no row of metrics with a step and a loss")


def truncate_after(path: Path, step: int) -> None:
    """Drop the lines beyond a step, and a last one that is torn: one call of the system, so a kill cannot lose the rest."""
    if not path.exists():
        return
    end = 0
    for line in _bytes_of(path).splitlines(keepends=True):
        if _step(line) > step:
            break
        end += len(line)
    if end != path.stat().st_size:
        os.truncate(path, end)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error


def _step(line: bytes) -> float:
    """A line's step; of one that is torn, or that a power cut left as zeros, beyond all others."""
    try:
        return float(parse_json(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, LookupError, TypeError):
        return math.inf
