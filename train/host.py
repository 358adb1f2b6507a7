"""This machine's name, under which measurements are remembered."""

import os
import platform
from pathlib import Path

import torch


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
