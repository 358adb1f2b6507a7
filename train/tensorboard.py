"""TensorBoard event files of the lines that a run logs, through the `tensorboard` package."""

import os
import platform
import time
from pathlib import Path

from scaling.trackers import require_tensorboard

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
