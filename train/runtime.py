"""Out of memory: the micro-batch is halved and the batch kept, which changes rounding and nothing else."""

import ctypes
import gc
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.utils.deterministic
from torch.nn import functional

from families.units import RunFailed
from scaling.machine import user_cache

# MERGED DOCSTRINGS
# How a step is computed: number format, compiler, attention backend, threads, and a process prepared for all of them.
# This machine's name, under which measurements are remembered.
# What this machine computes in: a matrix product timed in each number format, and the devices that torch sees.

T = TypeVar("T")


_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


class OutOfMemory(RunFailed):
    """There is not enough memory. `lowered`: a smaller micro-batch is on record, and the same command tries it."""

    def __init__(self, message: str, *, lowered: bool = False) -> None:
        super().__init__(message)
        self.lowered = lowered


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is the allocator's: of a GPU, of torch on a CPU, or Python's own."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def smaller(micro_batch: int, share: int) -> int | None:
    """The largest divisor of a process's share of the batch that is at most half the micro-batch; None below 1."""
    half = min(micro_batch, share) // 2
    return next((size for size in range(half, 0, -1) if share % size == 0), None)


def within_memory(
    compute: Callable[[int], T], micro_batch: int, share: int, lowered: Callable[[int, int], None]
) -> T:
    """compute(micro_batch), tried again with less where there is not enough memory.

    Args:
        lowered: hears of each new micro-batch, and the one before it.

    Raises:
        OutOfMemory: one sequence at a time is too much.
    """
    while True:
        try:
            return compute(micro_batch)
        except Exception as error:
            if not out_of_memory(error):
                raise
            found = smaller(micro_batch, share)
            reason = " ".join(str(error).split())[:120]
        if found is None:
            raise OutOfMemory(
                f"out of memory with one sequence at a time ({reason}); choose a smaller member or a shorter n_positions="
            )
        gc.collect()  # outside the handler: the error's frames hold the tensors
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        lowered(found, micro_batch)
        micro_batch = found


MANY_SHAPES = 100_000  # that one process may compile: no limit

TILE = 64  # columns of the logits in a compiled step are a multiple of this


Losses = Callable[[torch.Tensor], torch.Tensor]


def prepare_process(is_compiled: bool, threads: int = 0) -> None:
    """Settings of the whole process: threads, memory kept between steps, and repeatable kernels where compiled.

    On a GPU kernels are left to be the fastest, which adds gradients of embeddings in no fixed order.
    """
    if threads and threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    keep_pages()
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(compile_cache()))
    torch.use_deterministic_algorithms(is_compiled and not torch.cuda.is_available())
    # Filling memory that was not written yet is a check for bugs, not a need. The attribute is a property of the module.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 - mypy knows no such attribute


@cache
def keep_pages() -> None:
    """Keep freed memory in the process, so that logits of 32 MiB and more are not mapped and zeroed anew at each step.

    Measured: at 8,192 tokens of vocabulary the product that makes the logits takes 7 ms and not 23. glibc only
    (mallopt: M_MMAP_MAX = -4, M_TRIM_THRESHOLD = -1, M_ARENA_MAX = -8).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(-8, 1)
    mallopt(-4, 0)
    mallopt(-1, 2**31 - 1)


def compile_cache() -> Path:
    """One folder for every run of this user: a shape is compiled once, a sweep's processes share it."""
    return user_cache() / "inductor"


@contextmanager
def frozen_collector() -> Iterator[None]:
    """No garbage collection inside: a step makes no cycles, and a pass over a model's objects takes as long as a step."""
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """A decoder's logits, shape (batch, time, vocabulary): by the wider product where a compiler makes that free."""
    if torch.compiler.is_compiling():
        return padded_logits(model, ids)
    logits: torch.Tensor = model(ids, use_cache=False).logits
    return logits


def padded_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The same logits and gradients, computed at a width that is a multiple of 64 and cut to the vocabulary.

    Odd widths are slow on tensor units. The weights stay as the spec has them: what is padded is the copy in the step's
    number format that is made anyhow. Weights that are divided among processes are left alone.
    """
    head = model.get_output_embeddings()
    missing = -head.weight.shape[0] % TILE
    if not missing or head.bias is not None or hasattr(head.weight, "device_mesh"):
        plain: torch.Tensor = model(ids, use_cache=False).logits
        return plain
    hidden = model.base_model(ids, use_cache=False).last_hidden_state
    wide = functional.linear(hidden, functional.pad(head.weight, (0, 0, 0, missing)))
    return wide[..., : head.weight.shape[0]]


def compiled(losses: Losses) -> Losses:
    """Trunk and loss compiled together, for one shape; as many models and shapes in one process as there are."""
    from torch._dynamo import config
    from torch._functorch import config as functorch

    # The default gives up after 8 in one process, and a sweep's ninth member would be trained by other arithmetic than
    # the same member alone.
    config.recompile_limit = config.accumulated_recompile_limit = MANY_SHAPES
    config.fail_on_recompile_limit_hit = True
    if not torch.cuda.is_available():
        # What is needed again is kept: computing it twice saves memory's bandwidth, which a GPU lacks and a CPU has.
        functorch.max_dist_from_bw = 1
    found: Losses = torch.compile(losses, dynamic=False)
    return found


def machine_id(device: str) -> str:
    """The name under which measurements are remembered: processor or GPU, cores, torch."""
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    return f"{name}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}"


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in file)}
    except OSError:
        return platform.processor() or platform.machine()
    flags = found.get("flags", "").split()
    units = " ".join(unit for unit in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if unit in flags)
    return f"{found.get('model name', platform.machine())} {found.get('model', '')} {units}".strip()


_WIDTH = 512

_SECONDS = 0.1  # per format, after one product that warms up

_SLOW = 0.2  # seconds: a single product that takes longer says enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """FLOP/s of a square matrix product on the CPU in 32 bits and in bf16, and the GPUs' names.

    amx: whether the processor has tile units for bf16, as torch sees it; None where this torch cannot say.
    """

    fp32: float
    bf16: float
    amx: bool | None
    threads: int
    gpus: tuple[str, ...]

    @property
    def bf16_gain(self) -> float:
        """bf16 over fp32: about 2 and more with AMX, far below 1 where bf16 is emulated."""
        return self.bf16 / self.fp32


def probe() -> Probe:
    """Time both formats, a few tenths of a second in all."""
    ask = getattr(torch.cpu, "_is_amx_tile_supported", None)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Probe(
        fp32=_speed(torch.float32),
        bf16=_speed(torch.bfloat16),
        amx=None if ask is None else bool(ask()),
        threads=torch.get_num_threads(),
        gpus=tuple(torch.cuda.get_device_name(index) for index in range(count)),
    )


def _speed(dtype: torch.dtype) -> float:
    """The best of many products: a rival process only slows."""
    left, right = (torch.ones(_WIDTH, _WIDTH, dtype=dtype) for _ in range(2))
    best, spent, product = float("inf"), 0.0, 0
    while spent < _SECONDS or product < 2:
        began = time.perf_counter()
        left @ right
        taken = time.perf_counter() - began
        best, spent, product = min(best, taken), spent + taken, product + 1
        if taken > _SLOW:
            break
    return 2 * _WIDTH**3 / best
