"""A pretended GPU: torch.cuda answers as one would, and nothing is computed on it."""

from types import SimpleNamespace

import torch

GIB = 2**30

H200 = ("NVIDIA H200", (9, 0), 139)
V100 = ("Tesla V100-SXM2-16GB", (7, 0), 15)
P100 = ("Tesla P100-PCIE-16GB", (6, 0), 15)


def pretend(patch, gpu, *, flops=790e12, bandwidth=4.2e12):
    """Let torch.cuda, and this program's own measurements, answer for a GPU."""
    name, capability, gib = gpu
    answers = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_name": lambda *which: name,
        "get_device_capability": lambda *which: capability,
        "get_device_properties": lambda *which: SimpleNamespace(name=name, total_memory=gib * GIB),
        "mem_get_info": lambda *which: (gib * GIB, gib * GIB),
    }
    for what, answer in answers.items():
        patch.setattr(torch.cuda, what, answer)
    from train import speed

    patch.setattr(speed, "matmul_speed", lambda device, dtype=torch.float32: flops)
    patch.setattr(speed, "copy_speed", lambda device: bandwidth)
    speed._measured.cache_clear()
    speed.gpu_rates.cache_clear()
