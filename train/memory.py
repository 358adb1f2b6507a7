"""Out of memory: the micro-batch is halved and the batch kept, which changes rounding and nothing else."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from families.errors import RunFailed

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
