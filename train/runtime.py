"""The process and machine that a step runs on: memory, compiler, a probe of its speed, and its name.

When memory runs out, the micro-batch is halved and the batch kept, which only changes rounding.
"""

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
from scaling.collector import end_sparing
from scaling.machine import user_cache

from .keys import GPU_SHARE

T = TypeVar("T")


_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


class OutOfMemory(RunFailed):
    """There is not enough memory. `lowered`: a smaller micro-batch is recorded, with which the same command resumes."""

    def __init__(self, message: str, *, lowered: bool = False) -> None:
        super().__init__(message)
        self.lowered = lowered


def out_of_memory(error: BaseException) -> bool:
    """Return True if an error is an allocation failure: of a GPU, of torch on a CPU, or Python's own."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def smaller(micro_batch: int, share: int) -> int | None:
    """Return the largest divisor of `share` that is at most half the micro-batch; None if there is none."""
    half = min(micro_batch, share) // 2
    return next((size for size in range(half, 0, -1) if share % size == 0), None)


def within_memory(
    compute: Callable[[int], T], micro_batch: int, share: int, on_oom: Callable[[int, int], None]
) -> T:
    """Return compute(micro_batch), retried with smaller micro-batches when memory runs out.

    Args:
        compute: the computation.
        micro_batch: sequences per forward pass.
        share: sequences of this process, which the micro-batch must divide.
        on_oom: on_oom(new, old): called after the micro-batch is reduced.

    Raises:
        OutOfMemory: a single sequence does not fit.
    """
    while True:
        try:
            return compute(micro_batch)
        except Exception as error:
            if not out_of_memory(error):
                raise
            reduced = smaller(micro_batch, share)
            reason = " ".join(str(error).split())[:120]
        if reduced is None:
            raise OutOfMemory(
                f"out of memory with a single sequence ({reason}); choose a smaller member or a shorter n_positions="
            )
        gc.collect()  # outside the handler: the error's frames hold the tensors
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        on_oom(reduced, micro_batch)
        micro_batch = reduced


MANY_SHAPES = 100_000  # largest number of compiled shapes in a process: no limit

TILE = 64  # the logits of a compiled step are padded to a multiple of this

Losses = Callable[[torch.Tensor], torch.Tensor]


def prepare_process(
    is_compiled: bool, threads: int = 0, *, deterministic: bool = False, tf32: bool = False
) -> None:
    """Set up the process: threads, memory kept between steps, and deterministic kernels if compiled on a CPU.

    On a GPU the fastest kernels are used, which add gradients of embeddings in no fixed order.

    Args:
        is_compiled: True if the step is compiled.
        threads: threads of the CPU; 0 keeps those of the process.
        deterministic: True for deterministic kernels on a GPU too.
        tf32: True for fp32 products of 10 bits of mantissa on a GPU's tensor units.
    """
    if threads and threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    keep_pages()
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(compile_cache()))
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch's documentation: cuBLAS needs it
    wanted = deterministic or (is_compiled and not torch.cuda.is_available())
    # Only where it changes something: the call imports the compiler, a second of CPU.
    if wanted != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(wanted)
    if tf32:
        torch.set_float32_matmul_precision("high")
    # Filling uninitialised memory is a check for bugs and not needed. The attribute is a property of the module.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 - mypy knows no such attribute


def gpu_share() -> float:
    """Return the part of its GPU's memory that this process may use: 1, or less where it shares the GPU with others."""
    return float(os.environ.get(GPU_SHARE, "1"))


def limit_gpu_memory() -> None:
    """Hold this process to its share of the GPU's memory, so that it runs out of it alone and not another run."""
    if (share := gpu_share()) < 1:
        torch.cuda.set_per_process_memory_fraction(share)


@cache
def keep_pages() -> None:
    """Keep freed memory in the process, so that logits of 32 MiB and more are not mapped and zeroed at each step.

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
    """Return the compiler's cache folder, shared by all runs of this user, so that a shape is compiled once."""
    return user_cache() / "inductor"


@contextmanager
def frozen_collector() -> Iterator[None]:
    """Suspend garbage collection: a step makes no cycles, and a pass over a model's objects takes as long as a step."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@cache
def freeze_imports(class_name: str) -> None:
    """Import a model's class, and leave what is imported by then out of all later passes of the collector.

    Called before a process builds its first model, which is not to be kept. Measured: a pass over the objects of torch and
    transformers takes 0.12 s, and there is one for each part of a run.
    """
    import transformers

    getattr(transformers, class_name)
    gc.collect()
    gc.freeze()
    end_sparing()  # what is frozen costs nothing


def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return a decoder's logits, shape (batch, time, vocabulary); padded while compiling, where that is free."""
    if torch.compiler.is_compiling():
        return padded_logits(model, ids)
    logits: torch.Tensor = model(ids, use_cache=False).logits
    return logits


def is_plain_head(model: Any) -> bool:
    """Return True where the logits are the head's product alone, not scaled or capped afterwards."""
    entries = ("final_logit_softcapping", "logit_scale", "logits_scaling")
    return not any(getattr(model.config, name, None) for name in entries)


def padded_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return the same logits (batch, time, vocabulary), computed at a multiple of TILE columns and cut to the vocabulary.

    Odd widths are slow on tensor units. Only the copy of the weights in the step's number format is padded, not the weights
    themselves. Sharded weights are left as they are.
    """
    head = model.get_output_embeddings()
    missing = -head.weight.shape[0] % TILE
    if (
        not missing
        or head.bias is not None
        or hasattr(head.weight, "device_mesh")
        or not is_plain_head(model)
    ):
        plain: torch.Tensor = model(ids, use_cache=False).logits
        return plain
    hidden = model.base_model(ids, use_cache=False).last_hidden_state
    wide = functional.linear(hidden, functional.pad(head.weight, (0, 0, 0, missing)))
    return wide[..., : head.weight.shape[0]]


def compiled(losses: Losses, mode: str = "default") -> Losses:
    """Compile a function for static shapes; any number of models and shapes in one process.

    Args:
        losses: the function.
        mode: torch.compile's, "default" or "max-autotune-no-cudagraphs".
    """
    from torch._dynamo import config
    from torch._functorch import config as functorch

    # By default the compiler gives up after 8 shapes in a process; a sweep's ninth member would be rounded otherwise than
    # the same member alone.
    config.recompile_limit = config.accumulated_recompile_limit = MANY_SHAPES
    config.fail_on_recompile_limit_hit = True
    if not torch.cuda.is_available():
        # Recomputing saves memory bandwidth, which is the bottleneck of a GPU and not of a CPU.
        functorch.max_dist_from_bw = 1
    fast: Losses = torch.compile(losses, dynamic=False, mode=mode)
    return fast


def machine_id(device: str) -> str:
    """Return the name under which this machine's measurements are stored: processor or GPU, cores, torch version."""
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    return f"{name}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}"


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            info = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in file)}
    except OSError:
        return platform.processor() or platform.machine()
    flags = info.get("flags", "").split()
    units = " ".join(unit for unit in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if unit in flags)
    return f"{info.get('model name', platform.machine())} {info.get('model', '')} {units}".strip()


_WIDTH = 512

_SECONDS = 0.1  # per number format, after one warm-up product

_SLOW = 0.2  # seconds of a single product beyond which it is not repeated


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """FLOP/s of a square matrix product on the CPU in fp32 and bf16, and the names of the GPUs.

    amx: True if torch finds tile units for bf16; None if this torch version cannot tell.
    """

    fp32: float
    bf16: float
    amx: bool | None
    threads: int
    gpus: tuple[str, ...]

    @property
    def bf16_gain(self) -> float:
        """Speed of bf16 relative to fp32: 2 or more with AMX, far below 1 where bf16 is emulated."""
        return self.bf16 / self.fp32


def probe() -> Probe:
    """Measure both number formats, a few tenths of a second in total."""
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Probe(
        fp32=_speed(torch.float32),
        bf16=_speed(torch.bfloat16),
        amx=None if has_amx is None else bool(has_amx()),
        threads=torch.get_num_threads(),
        gpus=tuple(torch.cuda.get_device_name(index) for index in range(count)),
    )


def _speed(dtype: torch.dtype) -> float:
    """Return the speed of the fastest of many products, as other processes only slow it down."""
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
