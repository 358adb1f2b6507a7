"""Training state in parts: each process writes its own shards, as torch's distributed checkpoint in safetensors.

Any number of processes reads them again, each the slices that it keeps. For states that one process should not gather.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from families.units import RunFailed
from scaling.files import sha256_file, sync_file

from .distributed import World
from .model.objective import OptimizerState, local_optimizer_state

GATHERED = (
    100e9  # bytes of training state above which it is written in parts: 8 billion parameters with AdamW
)

_WEIGHT = "weight."  # before a parameter's name; optimiser states begin with their own name


def in_parts(model: Any, world: World) -> bool:
    """Return True if each process writes its own part of a model's training state."""
    if world.size == 1 or world.zero == 0 or world.deepspeed:
        return False
    return bool(12 * sum(weight.numel() for weight in model.parameters()) > GATHERED)


def write_parts(
    model: Any, optimizer: Any, folder: Path, world: World
) -> tuple[dict[str, str], OptimizerState]:
    """Write this process's shards of weights and optimiser state; a collective call.

    Args:
        model: the sharded model.
        optimizer: its optimiser.
        folder: an existing folder that all processes see.
        world: the processes that share the model.

    Returns:
        SHA-256 of every process's files by name, and what of the optimiser's state is not sharded.

    Raises:
        RunFailed: a process cannot write.
    """
    model.state_dict()  # after an evaluation, stage 2 holds whole weights until this puts the shards back
    moments, rest = local_optimizer_state(optimizer, model)
    state = {f"{_WEIGHT}{name}": weight.detach() for name, weight in model.named_parameters()} | moments
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    writer = HuggingFaceStorageWriter(path=str(folder), save_distributed=True)
    with _clear_errors(folder):
        save(state, storage_writer=writer)
    own = {}
    for path in sorted(folder.glob(f"shard-{world.rank + 1:05d}-*.safetensors")):
        sync_file(path)
        own[path.name] = sha256_file(path, largest=math.inf)
    every: list[dict[str, str]] = [{} for _ in range(world.size)]
    dist.all_gather_object(every, own)
    return {name: digest for files in every for name, digest in files.items()}, rest


def read_weights(folder: Path, model: Any) -> None:
    """Read weights that were written in parts into a model, sharded or whole; no collective call."""
    state = {f"{_WEIGHT}{name}": weight.detach() for name, weight in model.named_parameters()}
    _read(folder, state)


def read_moments(folder: Path, model: Any, optimizer: Any, names: tuple[str, ...]) -> None:
    """Read optimiser states that were written in parts into an optimiser; no collective call.

    Args:
        folder: the checkpoint.
        model: the model, sharded or whole.
        optimizer: its optimiser, which has no state yet.
        names: of the states of a weight, such as exp_avg.
    """
    weights = dict(model.named_parameters())
    state = {f"{kind}.{name}": torch.zeros_like(weight) for kind in names for name, weight in weights.items()}
    _read(folder, state)
    for key, value in state.items():
        kind, _, name = key.partition(".")
        optimizer.state[weights[name]][kind] = value


def _read(folder: Path, state: OptimizerState) -> None:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    with _clear_errors(folder):
        load(state, storage_reader=HuggingFaceStorageReader(path=str(folder)), no_dist=True)


@contextmanager
def _clear_errors(folder: Path) -> Iterator[None]:
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        with warnings.catch_warnings():
            # It takes a process that reads for itself for one that has forgotten the others.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            yield
    except (CheckpointException, OSError) as error:
        reason = " ".join(str(error).split())[-200:]
        raise RunFailed(
            f"{folder}: the training state in parts cannot be written or read: {reason}"
        ) from error
