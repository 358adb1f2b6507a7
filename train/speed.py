"""Measured rates of this machine, and the seconds of a training step that follow from them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from families import ModelSpec, train_flops_per_token
from families.accounting import params

PROBE_WIDTH = 1024  # of a matrix product on a CPU

GPU_WIDTH = 8192  # on a GPU: a narrower one is launched in less time than it is computed

STEP_EFFICIENCY = 0.5  # speed of a training step relative to a plain matmul, on a CPU

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# The step model's constants. The bytes are Inductor's own counts for this loss compiled for an H200; the shares of the
# large product's rate that a step's products and attention reach are estimates, until a suite has run (benchmarks/gpu.py).
BYTES_PER_WIDTH = 144  # of fused kernels, a token and layer, divided by n_embd: 48 forward, 96 backward
CROSS_ENTROPY_PASSES = 3  # over bf16 logits
OPTIMIZER_BYTES = 40  # a parameter: AdamW's 28, and 12 of the gradient's norm and clipping
CAST_BYTES = 20  # a parameter and micro-batch: bf16 copies and fp32 gradients
GEMM_SHARE, ATTENTION_SHARE = 0.8, 0.3
EAGER = 2.0  # time of a step that is not compiled relative to one that is
LAUNCHES = 1.01


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRates:
    """Rates of one GPU: FLOP/s of a large product in the run's format, and bytes/s of its memory."""

    flops: float
    bandwidth: float


def matmul_speed(device: str, dtype: torch.dtype = torch.float32) -> float:
    """Measure FLOP/s of square matmuls, the best of a few; takes about a third of a second."""
    width = GPU_WIDTH if device == "cuda" else PROBE_WIDTH
    a = torch.randn(width, width, device=device, dtype=dtype)
    return 8 * width**3 / _best(device, lambda: a @ a)


def copy_speed(device: str) -> float:
    """Measure bytes/s that a copy of half a GiB reads and writes, the best of a few."""
    source = torch.empty(2**29, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 8 * source.numel() / _best(device, lambda: target.copy_(source))


def _best(device: str, work: Callable[[], Any]) -> float:
    """Return the least seconds of four calls, of six tries."""
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        for _ in range(4):
            work()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return best


def speed_of(device: str, dtype: str) -> float:
    """Return FLOP/s of matmuls in a format on torch's current threads, measured once."""
    return _measured(device, dtype, torch.get_num_threads())


@lru_cache
def _measured(device: str, dtype: str, threads: int) -> float:
    return matmul_speed(device, FORMATS[dtype])


@lru_cache
def gpu_rates(dtype: str) -> GpuRates:
    """Return the rates of this machine's GPU, measured once."""
    return GpuRates(flops=speed_of("cuda", dtype), bandwidth=copy_speed("cuda"))


def gpu_step_seconds(
    spec: ModelSpec, batch: int, micro_batch: int, rates: GpuRates, *, compiled: bool = True
) -> float:
    """Model the seconds of a step on one GPU: products, attention, fused kernels, cross entropy and the optimiser.

    Args:
        spec: the model.
        batch: sequences of a step.
        micro_batch: sequences of a forward pass.
        rates: the GPU's.
        compiled: False for a step that is not compiled.
    """
    tokens = batch * spec.n_positions
    scores = 12 * spec.n_layer * spec.n_embd * spec.n_positions
    products = (train_flops_per_token(spec) - scores) / (GEMM_SHARE * rates.flops)
    attention = scores / 2 / (ATTENTION_SHARE * rates.flops)  # the causal half
    moved = BYTES_PER_WIDTH * spec.n_embd * spec.n_layer + CROSS_ENTROPY_PASSES * 2 * spec.vocab_size
    once = OPTIMIZER_BYTES + CAST_BYTES * batch / micro_batch
    seconds = tokens * (products + attention + moved / rates.bandwidth)
    seconds += once * params(spec) / rates.bandwidth
    return seconds * LAUNCHES * (1.0 if compiled else EAGER)
