"""CUDA graphs: which runs take their steps as graphs, and what their memory asks of the gradients."""

from typing import Any

import torch

from families import params

from .config import GRAPHS, Settings

# Parameters above which a step's kernels take longer than their launches on the host, so that a graph saves nothing and its
# memory comes on top: an estimate from the step model (docs/scale.md), not a measurement.
MOST_PARAMS = 10_000_000


def no_graphs(settings: Settings, device: str, processes: int = 1, *, by_block: bool = False) -> str:
    """Return why a run that asks for CUDA graphs does without; "" where it has them, or does not ask.

    Args:
        settings: settings of the run.
        device: "cpu" or "cuda".
        processes: processes that share the run.
        by_block: True if its blocks are compiled one by one.
    """
    if settings.compile_mode != GRAPHS:
        return ""
    if device != "cuda":
        return f"device is {device}"
    if processes > 1:
        return f"{processes} processes exchange gradients between their kernels"
    if by_block or (settings.checkpointing and settings.residual == "bf16"):
        return "its blocks are compiled one by one"
    if settings.dropout:
        return f"dropout is {settings.dropout:g}, whose random state a resumed run must find again"
    if (size := params(settings.spec())) >= MOST_PARAMS:
        return (
            f"it has {size:,} parameters, and from {MOST_PARAMS:,} on kernels take longer than their launches"
        )
    return ""


@torch.no_grad()
def prepare_gradients(model: Any) -> None:
    """Give every weight a gradient of its own, which backward passes add to.

    A gradient that is taken over from a graph's output lies in the graph's memory, and the next micro-batch writes over it.
    """
    for weight in model.parameters():
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
