"""Logs of a run: metrics as JSON lines and TensorBoard events, loss spikes, throughput.

The lines of metrics are the same however often the run was interrupted.
"""

import io
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
from scaling.devices import recognise
from scaling.files import check_file, clear_io_errors, open_to_append, read_text
from scaling.runs.events import require_tensorboard
from scaling.untrusted import parse_json

WINDOW = 128  # steps

# Standard deviations above the window's mean, as in OLMo-core's SkipStepOptimizer. A batch's loss is a mean over thousands
# of tokens and so nearly normal: by chance one step in 1e9.
DEVIATIONS = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spike:
    """A step's loss, with mean and standard deviation of the steps before it."""

    step: int
    loss: float
    mean: float
    sd: float


@dataclass(slots=True)
class SpikeDetector:
    """Detects loss spikes against the last WINDOW steps."""

    losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def add(self, step: int, loss: float) -> Spike | None:
        """Add a step's loss; return it as a spike if it is one, which needs at least half a window of steps."""
        spike = None
        if len(self.losses) >= WINDOW // 2:
            mean = math.fsum(self.losses) / len(self.losses)
            sd = statistics.stdev(self.losses, mean)
            if loss > mean + DEVIATIONS * sd:
                spike = Spike(step=step, loss=loss, mean=mean, sd=sd)
        self.losses.append(loss)
        return spike


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakFlops:
    """Reference of an MFU: FLOP/s of all devices together, a short name for progress lines, and its source."""

    flops_per_s: float
    word: str
    source: str

    @property
    def sentence(self) -> str:
        """Message for the start of a run."""
        scale, unit = (1e12, "TFLOP/s") if self.flops_per_s >= 1e12 else (1e9, "GFLOP/s")
        return f"MFU is relative to {self.flops_per_s / scale:.3g} {unit}: {self.source}"


def device_name(device: str, devices: int = 1) -> str:
    """Return the name of the devices in a run's record: "cpu", "NVIDIA H200", "8xNVIDIA H200"."""
    name = torch.cuda.get_device_name() if device == "cuda" else device
    return name if devices == 1 else f"{devices}x{name}"


def peak_of(device: str, matmul: float, dtype: str, devices: int = 1) -> PeakFlops:
    """Return the catalogue's dense peak of a known GPU, else the speed of a plain matmul measured here.

    Args:
        device: "cpu" or "cuda".
        matmul: measured FLOP/s of one device's matmuls in `dtype`.
        dtype: number format of the matmuls.
        devices: number of devices.
    """
    many = f"{devices} × " if devices > 1 else ""
    _, accelerator = recognise(device_name(device))
    if device == "cuda" and accelerator is not None:
        return PeakFlops(
            flops_per_s=devices * accelerator.training_peak,
            word=accelerator.name,
            source=f"{many}{accelerator.name}, dense {accelerator.training_format} ({accelerator.source})",
        )
    return PeakFlops(
        flops_per_s=devices * matmul,
        word="matmul",
        source=f"{many}a plain {dtype} matmul, measured here",
    )


def throughput_text(spec: ModelSpec, tokens_per_s: float, peak: PeakFlops | None) -> str:
    """Return e.g. `65k tokens/s, MFU 45% of H200`; exact FLOPs: 6 per matmul weight and token, plus attention."""
    rate = f"{format_size(tokens_per_s)} tokens/s"
    if peak is None:
        return rate
    share = tokens_per_s * train_flops_per_token(spec) / peak.flops_per_s
    return f"{rate}, MFU {100 * share:.2g}% of {peak.word}"


TAGS = {
    "loss": "train/loss",
    "lr": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "tokens": "train/num_input_tokens_seen",
    "tokens_per_s": "train/tokens_per_s",
    "eval_loss": "eval/glance_loss",  # partial evaluation on 16 windows; eval/loss is the rung's own
    "rung_loss": "eval/loss",
}


class Scalars:
    """A TensorBoard file of scalars; opened at a step, it makes TensorBoard discard later steps of the folder's other files.

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
        self._writer = RecordWriter(open_to_append(folder / name))
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
        """Flush to the operating system."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _record(self, **fields: object) -> None:
        self._writer.write(self._event(wall_time=time.time(), **fields).SerializeToString())


METRICS, TIMING, EVENTS = "metrics.jsonl", "timing.jsonl", "events.jsonl"


class MetricsWriter:
    """Log files of a part of a run: reproducible metrics, machine-dependent timing, and events."""

    def __init__(self, folder: Path | None, scalars: Scalars | None = None) -> None:
        self._folder = folder  # None in processes that write nothing
        self._scalars = scalars
        self._files: dict[str, IO[str]] = {}

    def write(self, name: str, **values: object) -> None:
        """Append a line to a file, which is opened at its first line."""
        if self._folder is None:
            return
        if name not in self._files:
            # line-buffered, because others read it as it grows
            self._files[name] = io.TextIOWrapper(
                open_to_append(self._folder / name), encoding="utf-8", line_buffering=True
            )
        self._files[name].write(json.dumps(values) + "\n")
        if self._scalars is not None:
            self._scalars.write(values)

    def flush(self) -> None:
        """Flush to disk, so that neither a kill nor a power cut loses lines that a checkpoint relies on."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        if self._scalars is not None:
            self._scalars.flush()

    def close(self) -> None:
        """Close the open files."""
        for file in self._files.values():
            file.close()
        if self._scalars is not None:
            self._scalars.close()


@contextmanager
def metrics_writer(
    folder: Path, step: int, *, writes: bool, tensorboard: bool = False
) -> Iterator[MetricsWriter]:
    """Open the log files of a part that resumes at a step; lines beyond it are removed, to be logged again.

    Args:
        folder: folder of the part.
        step: step at which it resumes.
        writes: False in processes that write nothing.
        tensorboard: also write TensorBoard events.

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
    """Remove the lines beyond a step and an incomplete last one, by one truncate, so that a kill cannot lose the rest."""
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
    check_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error


def _step(line: bytes) -> float:
    """Return a line's step; infinity for an incomplete line, or one that a power cut left as zeros."""
    try:
        return float(parse_json(line)["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, LookupError, TypeError):
        return math.inf
