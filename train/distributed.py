"""One run on several processes: who they are, what they agree on, and how the model is divided among them.

ZeRO by the names people know: 0 copies the model to every process (DDP), 2 divides gradients and optimiser state
(FSDP2 that keeps the gathered weights until the backward pass), 3 divides the weights too (FSDP2). DeepSpeed, the
second engine, has 1 too, which divides the optimiser state: `deepspeed.py`.
"""

import datetime
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from families.units import BadInput, RunFailed

T = TypeVar("T")


PATIENCE = datetime.timedelta(hours=2)  # for process 0 to read and tokenise the text while the others wait

_PEER_GONE = ("gloo", "NCCL", "onnection closed", "onnection reset", "Broken pipe")


class PeerLost(RunFailed):
    """Another process of the run has ended; this one cannot go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The processes that train one run together. Process 0 alone writes files and speaks."""

    rank: int = 0
    size: int = 1
    zero: int = 0
    engine: str = "torch"

    @property
    def deepspeed(self) -> bool:
        """Whether DeepSpeed divides the model, and takes the steps."""
        return self.engine == "deepspeed"

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def do(self, action: Callable[[], T]) -> T:
        """Run it on process 0; every process gets what it returns, which must be JSON, or ends as it does."""
        if self.size == 1:
            return action()
        told: list[str] = [""]
        if self.first:
            try:
                result = action()
            except BaseException as error:
                told[0] = json.dumps({"status": _status(error)})
                dist.broadcast_object_list(told)
                raise
            told[0] = json.dumps({"result": result})
        dist.broadcast_object_list(told)
        answer: dict[str, Any] = json.loads(told[0])
        if "status" in answer:
            raise SystemExit(answer["status"])  # process 0 says why
        found: T = answer["result"]
        return found

    def agree(self, value: int) -> int:
        """The largest of every process's value."""
        if self.size == 1:
            return value
        shared = torch.tensor(value)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return int(shared)

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        """Every process's tensor, stacked in the order of the processes; they must have one shape."""
        if self.size == 1:
            return own[None]
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own.contiguous())
        return torch.stack(parts)

    def local(self, count: int) -> int:
        """This process's share of a batch.

        Raises:
            BadInput: the batch cannot be divided evenly.
        """
        if count % self.size:
            raise BadInput(
                f"batch_size is {count}; it must be a multiple of the {self.size} processes that share it"
            )
        return count // self.size

    def part(self, rows: Any) -> Any:
        """This process's rows of a batch, or of whatever has the batch first."""
        count = self.local(len(rows))
        return rows[self.rank * count : (self.rank + 1) * count]

    def seed_dropout(self, seed: int) -> None:
        """Process 0 goes on as a single process would; every other draws its own dropout."""
        if self.rank:
            torch.manual_seed(int(np.random.SeedSequence([seed, self.rank]).generate_state(1, np.uint64)[0]))


ALONE = World()


def _status(error: BaseException) -> int:
    if isinstance(error, BadInput):
        return 2
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def check_installed(engine: str) -> None:
    """Refuse an engine that is not there.

    Raises:
        BadInput: saying how to get it.
    """
    if engine == "deepspeed" and find_spec("deepspeed") is None:
        raise BadInput(
            "engine is deepspeed, which is not installed: pip install 'scaling-planner[deepspeed]'"
        )


def launched() -> bool:
    """Whether a launcher (torchrun, srun with torchrun, or our own) has started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def join(zero: int, device: str, engine: str = "torch") -> Iterator[World]:
    """Meet the other processes that a launcher has started; alone where there is none.

    Raises:
        BadInput: fewer GPUs than processes on this machine, or a stage that the engine does not have.
        PeerLost: another process has ended.
    """
    if zero == 1 and engine == "torch":
        raise BadInput("zero is 1, which DeepSpeed alone has; torch has 0 (DDP), 2 and 3 (FSDP2)")
    check_installed(engine)
    if not launched():
        if engine != "deepspeed":
            yield ALONE
            return
        dist.init_process_group(_backend(device), init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
        yield World(zero=zero, engine=engine)
        dist.destroy_process_group()
        return
    local, here = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    size = int(os.environ["WORLD_SIZE"])
    if device == "cuda":
        if torch.cuda.device_count() < here:
            raise BadInput(
                f"devices is {here}; this machine has {torch.cuda.device_count()} GPUs: lower it, or device=cpu"
            )
        torch.cuda.set_device(local)
    if here == size and (name := _loopback()):
        # The host's own name need not resolve where no message leaves the machine.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    dist.init_process_group(
        _backend(device),
        init_method=os.environ.get("SCALING_RENDEZVOUS", "env://"),
        rank=int(os.environ["RANK"]),
        world_size=size,
        timeout=PATIENCE,
    )
    world = World(rank=dist.get_rank(), size=size, zero=zero, engine=engine)
    try:
        yield world
    except (RuntimeError, ValueError) as error:
        if isinstance(error, PeerLost) or not _peer_is_gone(error):
            raise
        raise PeerLost(
            f"process {world.rank} of {size} lost another one, and cannot go on without it; "
            "the same command goes on from the last checkpoint"
        ) from error
    dist.destroy_process_group()


def _backend(device: str) -> str:
    return "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"


def _loopback() -> str | None:
    return next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)


def _peer_is_gone(error: BaseException) -> bool:
    if isinstance(error, BadInput | RunFailed):
        return False
    return isinstance(error, dist.DistError) or any(word in str(error) for word in _PEER_GONE)


@lru_cache(maxsize=2)
def _mesh(device: str, size: int) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device, (size,))


def divide(model: Any, world: World, device: str) -> Any:
    """Shard the model in place where the stage asks for it; the optimiser is made afterwards, of the shards."""
    if world.size == 1 or world.zero == 0 or world.deepspeed:
        return model
    from torch.distributed.fsdp import fully_shard

    mesh, reshard = _mesh(device, world.size), world.zero == 3
    for block in blocks(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard)
    return fully_shard(model, mesh=mesh, reshard_after_forward=reshard)


def blocks(model: Any) -> list[Any]:
    """The repeated layers of a model: the longest list of modules in it."""
    lists = [part for part in model.modules() if isinstance(part, torch.nn.ModuleList)]
    return list(max(lists, key=len, default=()))


class LossOf(torch.nn.Module):
    """A model and what is computed with it, as the one module that DDP or DeepSpeed watches."""

    def __init__(self, model: Any, loss: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, piece: torch.Tensor) -> torch.Tensor:
        return self.loss(piece)


def replicate(
    model: Any, loss: Callable[[torch.Tensor], torch.Tensor], world: World
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The loss of a piece of the batch, whose backward pass leaves the mean gradient over the processes."""
    if world.size == 1 or world.zero:
        return loss
    from torch.nn.parallel import DistributedDataParallel

    wrapped: Callable[[torch.Tensor], torch.Tensor] = DistributedDataParallel(
        LossOf(model, loss), gradient_as_bucket_view=True
    )
    return wrapped


def quietly(loss: Any) -> AbstractContextManager[Any]:
    """No exchange of gradients for a micro-batch that is not the last; sharded gradients are always exchanged, to stay small."""
    no_sync = getattr(loss, "no_sync", None)
    return no_sync() if no_sync else nullcontext()


def backward(loss: Any, value: torch.Tensor) -> None:
    """The backward pass of a value that `loss` gave."""
    own: Callable[[torch.Tensor], None] | None = getattr(loss, "backward", None)
    if own:
        own(value)
    else:
        value.backward()


@torch.no_grad()
def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's full value; every process must ask."""
    if hasattr(tensor, "ds_id"):
        return gathered(tensor)
    gather: Callable[[], torch.Tensor] | None = getattr(tensor, "full_tensor", None)
    return (gather() if gather else tensor).detach()


def like(target: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """A full value, divided as the target is; on the target's device."""
    if value.ndim == 0 or not hasattr(target, "device_mesh"):
        return value.to(target.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(target, DTensor)

    # src_data_rank None: every process has read the whole value, so nothing is sent
    found: torch.Tensor = distribute_tensor(
        value.to(target.device), target.device_mesh, target.placements, src_data_rank=None
    )
    return found


def gathered(weight: torch.Tensor) -> torch.Tensor:
    """The full value of a weight that stage 3 has divided; every process must ask."""
    from deepspeed.utils import safe_get_full_fp32_param

    found: torch.Tensor = safe_get_full_fp32_param(weight)
    return found.detach()
