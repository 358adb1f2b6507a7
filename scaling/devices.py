"""How many of which devices: the grammar of texts like "8xA100", "4 nodes of 8 H100" or "TPU v4-32"."""

import os
import re
from dataclasses import dataclass
from functools import lru_cache

from families.units import BadInput

from .hardware import CORES, USER_FILE, Accelerator, find_named, known, not_known


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """How many of what a text names.

    Attributes:
        count: None where the text states none.
        accelerator: None where it names none, or none that is known.
        problem: what is not understood, one line; "" where all is.
    """

    count: int | None = None
    accelerator: Accelerator | None = None
    problem: str = ""

    def __str__(self) -> str:
        """8xA100, which `read_devices` reads back."""
        name = self.accelerator.name if self.accelerator else ""
        return name if self.count is None else f"{self.count}x{name}" if name else str(self.count)


def combine(*parts: Devices | None) -> Devices:
    """Devices that several texts name together: a column of devices and one of numbers, a budget and --on.

    A problem of one text, or a contradiction between two, is a problem of the result.
    """
    count: int | None = None
    device: Accelerator | None = None
    for part in parts:
        if part is None:
            continue
        if part.problem:
            return part
        if device is not None and part.accelerator is not None and part.accelerator != device:
            return Devices(
                problem=f"{device.name} and {part.accelerator.name} are named; name one accelerator"
            )
        if count is not None and part.count is not None and part.count != count:
            return Devices(problem=f"{count} and {part.count} devices are named; name one number")
        count, device = count or part.count, device or part.accelerator
    return Devices(count=count, accelerator=device)


_NUMBER_WORDS = {
    "a": 1,
    "an": 1,
    "single": 1,
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
}
_NUMBER_WORDS |= {
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "twelve": 12,
    "sixteen": 16,
    "thirty-two": 32,
    "sixty-four": 64,
}
_COUNT = rf"(?:[1-9][0-9]{{0,2}}(?:,[0-9]{{3}})+|[0-9]+(?:\.[0-9]+)?k|[0-9]+|{'|'.join(_NUMBER_WORDS)})"
_UNIT = r"(?:gpus?|tpus?|devices?|cards?|chips?|accelerators?|cores?|gcds?)"
_NODE = r"(?:compute\s+|gpu\s+)?(?:nodes?|machines?|servers?|hosts?|instances?|box(?:es)?)"
_TIMES = r"\s*(?:x|\*|times)\s*"
_LINK = r"(?:\s*[,:=]\s*|\s+)"

# N nodes of 8 A100; 8 A100 per node, N nodes: a product.
_NODES = (
    rf"(?P<nodes>{_COUNT})\s*{_NODE}(?:{_TIMES}|\s*[,:]?\s*(?:each\s+)?(?:of|with|having|containing|at)\s+)(?P<rest>.+?)(?:\s+each)?",
    rf"(?P<nodes>{_COUNT})\s*{_NODE}\s*[,:(]?\s*(?P<rest>.+?)\s*(?:each|per\s*{_NODE}|/\s*{_NODE})\s*\)?",
    rf"(?P<rest>.+?)\s*(?:per\s*{_NODE}|/\s*{_NODE}|each)(?:\s*[,:]\s*|{_TIMES}|\s+(?:on|across|over|in)\s+|\s+)(?P<nodes>{_COUNT})\s*{_NODE}",
    rf"(?P<rest>.+?){_TIMES}(?P<nodes>{_COUNT})\s*{_NODE}",
)
# 32 A100 on 4 nodes: the number is of all.
_TOTAL = rf"(?P<rest>.+?)\s*(?:\(\s*|\s(?:on|across|over|in)\s+)(?P<nodes>{_COUNT})\s*{_NODE}\s*\)?"
_PER_OR_ALL = (
    rf"(?P<nodes>{_COUNT})\s*{_NODE}\s*[,;:]?\s*(?P<rest>.+)",
    rf"(?P<rest>.+?)\s*[,;]?\s*(?P<nodes>{_COUNT})\s*{_NODE}",
)
_FORMS = (
    rf"(?P<count>{_COUNT}){_TIMES}(?P<each>{_COUNT}){_TIMES}(?P<name>.+)",
    rf"(?P<count>{_COUNT}){_TIMES}(?P<each>{_COUNT})\s+(?P<name>.+)",
    rf"(?:x\s*)?(?P<count>{_COUNT}){_TIMES}[,\s]*(?P<name>.+)",
    rf"(?P<count>{_COUNT}){_LINK}(?P<unit>{_UNIT})(?:{_LINK}(?:of\s+(?:type\s+)?)?(?P<name>.+))?",
    rf"(?P<count>{_COUNT}){_LINK}(?P<name>.+?){_LINK}(?P<unit>cores?)",
    rf"(?:an?\s+|x\s*)?(?P<count>{_COUNT}){_LINK}(?:of\s+)?(?P<name>.+)",
    rf"(?P<name>.+?)(?P<glue>\s*)(?:x|\*)\s*(?P<count>{_COUNT})(?:\s+(?P<unit>{_UNIT}))?",
    rf"(?P<name>.+?)\s*[,:=]\s*(?:x\s*)?(?P<count>{_COUNT})(?:{_TIMES}|\s+)?(?P<unit>{_UNIT})?",
    rf"(?P<name>.+?)\s+(?P<count>{_COUNT})\s+(?P<unit>{_UNIT})",
)
_BARE = rf"x?\s*(?P<count>{_COUNT})\s*x?"
_SLICE = re.compile(
    r"(?:google\s+)?(?:cloud\s+)?(?:tpu[\s-]*)?v(2|3|4|5p|5e|5[\s-]*lite(?:[\s-]*pod)?|6e)\s*(?:[\s-]*pods?)?\s*-\s*([0-9]+)"
    r"(?:\s+(?:tpu\s*)?(?:pods?\s*)?(?:slices?)?)?",
    re.IGNORECASE,
)
_MOST_LETTERS = 200  # of a text that names devices
_MOST_DEVICES = 10_000_000


def read_devices(text: str) -> Devices:
    """How many of what: "8xA100", "8 A100s", "A100 x 8", "A100 (8)", "1 node of 8 A100", "TPU v4-32", "8 GPUs", "8".

    Never guesses: what is not understood is in `problem`, and a name without a number has no count.
    """
    words = " ".join(re.sub("[×✕✖·]", "x", text).split())
    return _read(words, os.environ.get(USER_FILE), os.environ.get("XDG_CONFIG_HOME"))


@lru_cache(maxsize=4096)  # a table says the same in thousands of rows
def _read(words: str, *_own_file: str | None) -> Devices:
    if not words:
        return Devices(problem="no devices are named")
    if len(words) > _MOST_LETTERS:
        return Devices(problem=f"devices is {words[:40]!r}…, a text of {len(words)} letters and no device")
    try:
        found = _read_nodes(words) or _read_flat(words)
    except BadInput as error:
        return Devices(problem=str(error))
    if found.problem or found.count is None:
        return found
    if found.count < 1:
        return Devices(problem=f"devices is {words!r}; at least 1 is needed")
    if found.count > _MOST_DEVICES:
        return Devices(problem=f"devices is {words!r}; at most {_MOST_DEVICES:,} are allowed")
    return found


def _match(pattern: str, words: str) -> re.Match[str] | None:
    return re.fullmatch(pattern, words, re.IGNORECASE)


def _counted(text: str) -> int:
    bare = text.lower().replace(",", "")
    if bare in _NUMBER_WORDS:
        return _NUMBER_WORDS[bare]
    if not bare.endswith("k"):
        return int(bare) if len(bare) < 16 else _MOST_DEVICES + 1
    value = float(bare[:-1]) * 1000
    if abs(value - round(value)) > 1e-6:
        raise BadInput(f"devices is {text!r}; it must be a whole number")
    return round(value)


def _read_nodes(words: str) -> Devices | None:
    """A text that counts nodes; None of any other."""
    for pattern in _NODES:
        if (match := _match(pattern, words)) is None:
            continue
        each = _read_flat(match["rest"])
        if each.problem:
            return each
        if each.count is None:
            return Devices(
                problem=f"devices is {words!r}; how many does a node have? write 4 nodes of 8 A100"
            )
        return Devices(count=_counted(match["nodes"]) * each.count, accelerator=each.accelerator)
    if (match := _match(_TOTAL, words)) is not None:
        return _read_flat(match["rest"])
    for pattern in _PER_OR_ALL:
        if (match := _match(pattern, words)) is not None:
            if _counted(match["nodes"]) == 1:
                return _read_flat(match["rest"])
            return Devices(
                problem=f"devices is {words!r}; is the number of each node, or of all? write 4 nodes of 8 A100"
            )
    return None


def _read_flat(text: str) -> Devices:
    """A text that counts devices, in one of the orders of words that people use."""
    words = re.sub(r"\s*,\s*(?:,\s*)+", ", ", re.sub(r"\s*[()\[\]]\s*", " , ", text)).strip(" ,")
    words = re.sub(r"([0-9]) , (?=x)", r"\1 ", words)
    alone = _named(words)
    if alone is not None:
        return alone
    if (bare := _match(_BARE, words)) is not None:
        return Devices(count=_counted(bare["count"]))
    unknown: tuple[int | None, str] | None = None
    for pattern in _FORMS:
        match = _match(pattern, words)
        if match is None:
            continue
        groups = match.groupdict()
        count = _counted(groups["count"]) * _counted(groups.get("each") or "1")
        if not groups["name"]:
            return Devices(count=count)
        found = _named(groups["name"])
        if found is None:
            if groups.get("glue") != "":  # the x of RTX 6000 is no sign
                unknown = unknown or (count, groups["name"])
            continue
        if groups.get("glue") == "" and _named(groups["name"] + "x") is not None:
            return Devices(
                problem=f"devices is {text!r}; write {count}x{groups['name']} or {count}x{groups['name']}X"
            )
        return _times(found, count, groups.get("unit") or "", text)
    stated, name = unknown or (None, words)
    return Devices(count=stated, problem=not_known(name))


def _named(text: str) -> Devices | None:
    """A device without a number before or behind it, or a TPU slice, whose name has one; None of anything else."""
    match = _SLICE.fullmatch(text.strip(" ,"))
    if match is not None:
        kind = re.sub(r"[\s-]*lite.*", "e", match[1].lower())
        device = known()[f"TPU-v{kind}"]
        cores = CORES.get(device.name, 1)
        chips, rest = divmod(_counted(match[2]), cores)
        if rest or not chips:
            raise BadInput(
                f"{text!r} is no slice: a {device.name} chip has {cores} cores, and slices are named by cores"
            )
        return Devices(count=chips, accelerator=device)
    found, plural = find_named(text)
    if found is None:
        return None
    if plural:
        return Devices(accelerator=found, problem=f"devices is {text!r}; how many? write 8x{found.name}")
    return Devices(accelerator=found)


def _times(found: Devices, count: int, unit: str, text: str) -> Devices:
    """So many of a device, or of a slice."""
    device, slice_chips = found.accelerator, found.count
    assert device is not None
    if unit.lower().startswith("core"):
        cores = CORES.get(device.name)
        if cores is None or count % cores:
            return Devices(problem=f"devices is {text!r}; {device.name} is counted by devices, not by cores")
        count //= cores
    if slice_chips is None:
        return Devices(count=count, accelerator=device)
    if unit.lower() in ("", "tpu"):  # 2 x v4-32, 2 TPU v4-32
        return Devices(count=count * slice_chips, accelerator=device)
    if count != slice_chips:
        return Devices(problem=f"devices is {text!r}; that slice has {slice_chips} chips, not {count}")
    return found


def recognise(name: str) -> tuple[int, Accelerator | None]:
    """How many, and which, of what a run's record or a driver says: "NVIDIA A100-SXM4-40GB", "8xNVIDIA H200".

    Such a record names one device without a number. No device where the text is not understood.
    """
    found = read_devices(name)
    return found.count or 1, None if found.problem else found.accelerator
