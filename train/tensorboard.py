"""TensorBoard event files of the lines that a run logs. Needs no TensorBoard: records framed by their length and its
checksum (TFRecord), each a protocol buffer Event {wall_time = 1, step = 2, file_version = 3, summary = 5, session_log = 7}.
"""

import os
import platform
import struct
import time
from functools import cache
from pathlib import Path
from typing import IO

TAGS = {
    "loss": "train/loss",
    "lr": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "tokens": "train/num_input_tokens_seen",
    "tokens_per_s": "train/tokens_per_s",
    "eval_loss": "eval/glance_loss",  # of 16 windows; eval/loss is the rung's own
    "rung_loss": "eval/loss",
}
_POLYNOMIAL = 0x82F63B78  # CRC-32C, reflected
_MASK = 0xA282EAD8


class Scalars:
    """One file of scalars. Opened at a step, it tells TensorBoard to forget what the folder's other files say beyond it."""

    def __init__(self, folder: Path, step: int) -> None:
        name = f"events.out.tfevents.{time.time():.0f}.{platform.node() or 'host'}.{os.getpid()}.{step}"
        self._file: IO[bytes] = (folder / name).open("ab")
        self._record(_field(3, b"brain.Event:2"))
        self._record(_number(2, step + 1) + _field(7, _number(1, 1)))  # SessionLog.START

    def write(self, values: dict[str, object]) -> None:
        """The scalars of a line of metrics or timing that have a tag; `step` is where they stand."""
        found = [
            _field(1, TAGS[name].encode()) + b"\x15" + struct.pack("<f", value)
            for name, value in values.items()
            if name in TAGS and isinstance(value, int | float)
        ]
        step = values["step"]
        if found and isinstance(step, int):
            summary = b"".join(_field(1, value) for value in found)
            self._record(_number(2, step) + _field(5, summary))

    def flush(self) -> None:
        """Hand everything to the system."""
        self._file.flush()

    def close(self) -> None:
        """The file is whole."""
        self._file.close()

    def _record(self, event: bytes) -> None:
        data = b"\x09" + struct.pack("<d", time.time()) + event
        length = struct.pack("<Q", len(data))
        self._file.write(length + masked(length) + data + masked(data))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def masked(data: bytes) -> bytes:
    """A checksum as TFRecord keeps it: rotated, so that a checksum of checksums means something."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF)


def crc32c(data: bytes) -> int:
    """CRC-32 by Castagnoli's polynomial (RFC 3720, appendix B.4)."""
    crc, table = 0xFFFFFFFF, _table()
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@cache
def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)
