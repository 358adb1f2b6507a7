"""What this machine computes in: a matrix product timed in each number format, and the devices that torch sees."""

import time
from dataclasses import dataclass

import torch

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
