"""How a step is computed: number format, compiler, attention backend, threads, and a process prepared for all of them."""

import ctypes
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.utils.deterministic
from torch.nn import functional

from scaling.machine import user_cache

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
