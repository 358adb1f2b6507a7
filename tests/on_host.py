"""CUDA on a CPU, for other engines' training loops: what they ask of a device is answered by the host."""

from contextlib import nullcontext
from types import SimpleNamespace

import torch
from torch.overrides import TorchFunctionMode

HOST = torch.device("cpu")


def _is_cuda(value):
    """Whether an argument of a move names a GPU, by its device or its number."""
    return type(value) is int or (isinstance(value, torch.device) and value.type == "cuda")


class OnHost(TorchFunctionMode):
    """CPU tensors where CUDA's are asked for."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.Tensor.cuda:
            return args[0]
        if function is torch.Tensor.to or getattr(function, "__name__", "") == "_parse_to":
            args = tuple(HOST if _is_cuda(value) else value for value in args)
            kwargs = {name: HOST if _is_cuda(value) else value for name, value in kwargs.items()}
        if function is torch.Tensor.type and len(args) == 1 and not kwargs:
            return function(*args).replace("torch.", "torch.cuda.")
        if "cuda" in str(kwargs.get("device", "")):
            kwargs["device"] = "cpu"
        return function(*args, **kwargs)


class Nothing(nullcontext):
    """A stream or an event that does nothing."""

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def pretend_device():
    """Let torch.cuda answer as with one device, whose generator of random numbers is the CPU's."""
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: "cpu",
        "set_device": lambda *_: None,
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
        "memory_stats": lambda *_: {},
        **dict.fromkeys(
            (
                "memory_allocated",
                "max_memory_allocated",
                "memory_reserved",
                "max_memory_reserved",
                "device_memory_used",
            ),
            lambda *_: 0,
        ),
        **dict.fromkeys(("current_stream", "Stream", "Event"), lambda *_, **__: Nothing()),
        "stream": lambda *_: nullcontext(),
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "manual_seed": torch.manual_seed,
        "get_device_properties": lambda *_: SimpleNamespace(major=9, minor=0, name="cpu"),
    }.items():
        setattr(torch.cuda, name, value)
    torch.accelerator.is_available = lambda *_: False  # or the loader of batches pins memory
    torch.accelerator.current_device_index = lambda: 0
