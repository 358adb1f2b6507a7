"""How fast a run goes: tokens per second, and the share of a named peak that they are."""

from dataclasses import dataclass

import torch

from families import ModelSpec, train_flops_per_token
from families.units import format_size
from scaling.hardware import recognise


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """What an MFU is a share of: FLOP/s of all devices together, where from, and the word for it in a short line."""

    flops_per_s: float
    word: str
    source: str

    @property
    def sentence(self) -> str:
        """For the beginning of a run."""
        scale, unit = (1e12, "TFLOP/s") if self.flops_per_s >= 1e12 else (1e9, "GFLOP/s")
        return f"MFU is of {self.flops_per_s / scale:.3g} {unit}: {self.source}"


def device_name(device: str, devices: int = 1) -> str:
    """What a run's record calls its devices: "cpu", "NVIDIA H200", "8xNVIDIA H200"."""
    name = torch.cuda.get_device_name() if device == "cuda" else device
    return name if devices == 1 else f"{devices}x{name}"


def peak_of(device: str, matmul: float, dtype: str, devices: int = 1) -> Peak:
    """The catalogue's dense peak of a GPU that it knows, else the speed of a plain matmul measured here.

    Args:
        matmul: FLOP/s of one device's matmuls in `dtype`.
    """
    many = f"{devices} × " if devices > 1 else ""
    _, found = recognise(device_name(device))
    if device == "cuda" and found is not None:
        return Peak(
            flops_per_s=devices * found.training_peak,
            word=found.name,
            source=f"{many}{found.name}, dense {found.training_format} ({found.source})",
        )
    return Peak(
        flops_per_s=devices * matmul,
        word="matmul",
        source=f"{many}a plain {dtype} matmul, measured here",
    )


def pace(spec: ModelSpec, tokens_per_s: float, peak: Peak | None) -> str:
    """65k tokens/s, MFU 45% of H200. The FLOPs are exact: 6 per matmul weight and attention."""
    said = f"{format_size(tokens_per_s)} tokens/s"
    if peak is None:
        return said
    share = tokens_per_s * train_flops_per_token(spec) / peak.flops_per_s
    return f"{said}, MFU {100 * share:.2g}% of {peak.word}"
