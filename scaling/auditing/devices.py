"""The devices that a row of a table names: in a cell, in columns of numbers, or in the header of its hours."""

import re
from collections.abc import Iterator

from ..devices import Devices, combine, read_devices, recognise
from .tables import TableEntry

_DEVICE_HOURS = re.compile(r"(?<![\w-])([a-z][\w-]*?)s?[ _-]?hours?\b", re.IGNORECASE)
_DEVICE_WORDS = ("gpu", "tpu", "device", "chip", "accelerator", "card")
_IN_BRACKETS = re.compile(r"[(\[]([^()\[\]]+)[)\]]\s*$")  # Hours (8xA100)
_ON = re.compile(r"\bon\s+(.+?)\)?$", re.IGNORECASE)  # Training Hours on 8xA100s


def named_devices(entry: TableEntry) -> Devices | None:
    """Number and kind of a row's accelerators, of its cells and the header of its hours together; None without any.

    A name without a number has no count, and what is not understood, or contradicts itself, is the problem.
    """
    parts = [read_devices(text) for text in _texts(entry)]
    unit = _DEVICE_HOURS.search(entry.headers.get("hours", ""))
    if unit is not None:
        parts.append(Devices(accelerator=recognise(unit[1])[1]))  # A100-hours
    nodes, each = _number(entry, "nodes"), _number(entry, "devices_per_node")
    if nodes is not None and each is not None:
        parts.append(Devices(count=nodes * each))
    found = combine(*parts, *(Devices(count=count) for count in (_number(entry, "devices"),) if count))
    if not found.problem and found.accelerator is None:
        return None if found.count is None else Devices(problem="no accelerator is named")
    if not found.problem and found.count is None and nodes is not None and nodes > 1:
        return Devices(problem=f"{nodes} nodes are stated, and not how many devices a node has")
    return found


def of_each_device(header: str) -> bool:
    """True if hours are summed over devices: "GPU hours", "A100-hours"."""
    match = _DEVICE_HOURS.search(header)
    return match is not None and (match[1].lower() in _DEVICE_WORDS or recognise(match[1])[1] is not None)


def _texts(entry: TableEntry) -> Iterator[str]:
    """Cells that name devices in words, and what a header of hours says they were spent on."""
    for field in ("accelerator", "devices"):
        if field in entry.words:
            yield entry.words[field]
    on = _ON.search(entry.headers.get("hours", ""))
    if on is not None and not re.fullmatch(
        r"(?:the\s+)?(?:gpus?|tpus?|devices?|accelerators?)", on[1], re.IGNORECASE
    ):
        yield on[1]
    bracket = _IN_BRACKETS.search(entry.headers.get("hours", ""))
    if bracket is not None and read_devices(bracket[1]).accelerator is not None:
        yield bracket[1]


def _number(entry: TableEntry, field: str) -> int | None:
    number = entry.numbers.get(field)
    return None if number is None else round(number.value)
