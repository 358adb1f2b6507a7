"""Scalars of TensorBoard's event files."""

import struct
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from families.units import BadInput

from ..files import StrPath, check_file

_HEADER, _FRAME = 12, 16  # bytes before a record (its length and that one's checksum), and around it


def require_tensorboard(reason: str) -> None:
    """Check that the `tensorboard` package is installed.

    Args:
        reason: the input that needs it; the message begins with it.

    Raises:
        BadInput: the package is not installed.
    """
    if find_spec("tensorboard") is None:
        raise BadInput(f"{reason}, which needs TensorBoard: pip install 'scaling-planner[tensorboard]'")


def read_scalars(path: StrPath) -> Iterator[tuple[int, str, float]]:
    """(step, tag, value) of each scalar in a TensorBoard event file.

    Stops at a half-written last record, which a running trainer leaves.

    Raises:
        BadInput: the file cannot be read, has a broken record, or the tensorboard package is missing.
    """
    for step, summary in _summaries(path):
        value = _scalar(summary)
        if value is not None:
            yield step, summary.tag, value


def read_text_entry(path: StrPath, tag: str) -> str | None:
    """The text logged under a tag, as the Trainer logs its arguments and the model's configuration; None without one.

    Raises:
        BadInput: as `read_scalars`.
    """
    for _, summary in _summaries(path):
        if summary.tag == f"{tag}/text_summary" and summary.tensor.string_val:
            return bytes(summary.tensor.string_val[0]).decode("utf-8", errors="replace")
    return None


def _summaries(path: StrPath) -> Iterator[tuple[int, Any]]:
    """(step, summary value) of each record of an event file."""
    file = Path(path)
    check_file(file)
    try:
        size = file.stat().st_size
        with file.open("rb"):
            pass
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror}") from error
    require_tensorboard(f"{file} is a TensorBoard event file")
    from google.protobuf.message import DecodeError
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    offset = 0
    for record in RawEventFileLoader(str(file)).Load():
        try:
            event = Event.FromString(record)
        except DecodeError as error:
            raise _broken(file, offset) from error
        offset += len(record) + _FRAME
        for summary in event.summary.value:
            yield event.step, summary
    if offset < size and not _half_written(file, offset):
        raise _broken(file, offset)


def _broken(file: Path, offset: int) -> BadInput:
    return BadInput(f"{file} is not a TensorBoard event file: broken record at byte {offset}")


def _half_written(file: Path, offset: int) -> bool:
    """True if the record where the loader stopped was cut short (or left as zeros by a power cut), not damaged."""
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    with file.open("rb") as opened:
        opened.seek(offset)
        rest = opened.read()
    if len(rest) < _HEADER or not rest.strip(b"\0"):
        return True
    length, checksum = struct.unpack_from("<QI", rest)
    return bool(checksum == masked_crc32c(rest[:8])) and len(rest) < length + _FRAME


def _scalar(value: Any) -> float | None:
    """A summary value as a number; None for text, images and histograms. TensorFlow 2 writes a scalar as a tensor."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return float(value.simple_value)
    if kind != "tensor" or any(axis.size != 1 for axis in value.tensor.tensor_shape.dim):
        return None
    from tensorboard.util.tensor_util import make_ndarray

    try:
        array = make_ndarray(value.tensor)
    except TypeError:  # a number type that NumPy lacks
        return None
    return float(array.item()) if array.dtype.kind in "fiu" and array.size == 1 else None
