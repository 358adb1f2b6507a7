"""The state of the installation: versions, cores, memory, disk, and what is known to go wrong with them."""

import os
import platform
import re
import shutil
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from families.errors import BadInput
from families.units import format_size

from .files import Record

NEEDED = {  # as in pyproject.toml
    "numpy": (1, 26),
    "scipy": (1, 11),
    "pydantic": (2, 7),
    "torch": (2, 6),
    "transformers": (5, 15),
}
TRAINING = ("torch", "transformers")  # imported by what trains; the extra [train] brings them
TRAIN_EXTRA = (*TRAINING, "tokenizers", "safetensors", "huggingface_hub")  # all that it names
INSTALL_TRAINING = "pip install 'scaling-planner[train]'"
MENDED = (5, 15)  # transformers from which GPT-2's residual projections start at 0.02/sqrt(2·n_layer) again
TRAP = (
    "initialises GPT-2's residual projections at 0.02 where 0.02/sqrt(2·n_layer) is right: losses of deep models are not "
    "comparable; install transformers>=5.15"
)
LITTLE_DISK, LITTLE_MEMORY = 5e9, 4e9  # bytes; torch alone takes 1.4 GB, a demo's study under 0.1


def require_training(verb: str) -> None:
    """Refuse a verb that trains where the packages of the extra [train] are missing; imports none of them.

    Raises:
        BadInput: with what is missing, and how to install it.
    """
    if missing := [name for name in TRAINING if not importable(name)]:
        raise BadInput(f"{verb} {training_needs(missing)}")


def training_needs(missing: Iterable[str]) -> str:
    """The sentence on missing packages of the extra [train]."""
    return f"needs {' and '.join(missing)}: {INSTALL_TRAINING}"


def importable(name: str) -> bool:
    """Tell whether a package can be imported, without importing it."""
    try:
        return find_spec(name) is not None
    except ImportError:
        return False


class Part(Record):
    """One part: its name, its state, and a warning where something about it will go wrong."""

    name: str
    state: str
    warning: str = ""


def installation() -> tuple[Part, ...]:
    """Python, packages (without importing them), cores, memory, disk."""
    return (
        Part(name="python", state=f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *(package(name, _installed(name)) for name in NEEDED),
        Part(name="cores", state=f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}"),
        _memory(),
        _disk(Path.cwd()),
    )


def package(name: str, found: str | None) -> Part:
    """A package of that version, with what is known to be wrong with it."""
    if found is None:
        if name in TRAINING:
            return Part(name=name, state="missing", warning=f"training needs it: {INSTALL_TRAINING}")
        return Part(name=name, state="missing", warning=f"pip install {name}")
    numbers = release(found)
    if name == "transformers" and (5, 0) <= numbers < MENDED:
        return Part(name=name, state=found, warning=TRAP)
    least = NEEDED[name]
    if numbers < least:
        return Part(name=name, state=found, warning=f"{'.'.join(map(str, least))} or later is needed")
    return Part(name=name, state=found)


def release(text: str) -> tuple[int, int]:
    """Major and minor number of a version."""
    major, minor = [*re.findall(r"[0-9]+", text.split("+")[0]), "0", "0"][:2]
    return int(major), int(minor)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _memory() -> Part:
    pages = os.sysconf("SC_PAGE_SIZE")
    total, free = (os.sysconf(key) * pages for key in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    warning = "little for training" if total < LITTLE_MEMORY else ""
    return Part(
        name="memory", state=f"{format_size(total)} bytes, {format_size(free)} unused", warning=warning
    )


def _disk(folder: Path) -> Part:
    free = shutil.disk_usage(folder).free
    warning = "little for checkpoints" if free < LITTLE_DISK else ""
    return Part(name="disk", state=f"{format_size(free)} bytes free here", warning=warning)


def formats(
    fp32: float, bf16: float, amx: bool | None, threads: int, gpus: tuple[str, ...]
) -> tuple[Part, ...]:
    """What a probe of the CPU's matrix products says about training here.

    Args:
        fp32, bf16: FLOP/s of a matrix product.
        amx: whether the processor has tile units, None where unknown.
    """
    gain = bf16 / fp32
    units = {True: "AMX", False: "no AMX", None: "AMX unknown"}[amx]
    state = f"{bf16 / 1e9:.0f} GFLOP/s in bf16, {fp32 / 1e9:.0f} in fp32 on {threads} threads, {units}"
    warning = "" if gain >= 1 else f"bf16 is {1 / gain:.1f} times slower than fp32 on this CPU: train in fp32"
    cpu = Part(name="CPU bf16", state=state, warning=warning)
    return cpu, Part(name="GPUs", state=", ".join(gpus) or "none: training runs on the CPU")
