"""One run on several processes: process group, collective operations, and sharding of the model.

ZeRO stages: 0 replicates the model (DDP), 2 shards gradients and optimiser state (FSDP2 that keeps the gathered weights
until the backward pass), 3 also shards the weights (FSDP2). DeepSpeed, the second engine, also has stage 1, which shards
the optimiser state: `deepspeed.py`.

A compiled step of several processes is compiled block by block, before the blocks are sharded: gathering, freeing and the
exchange of gradients happen between blocks, outside the compiled code, and so overlap with it.
"""

import datetime
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
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


TIMEOUT = datetime.timedelta(hours=2)  # of collective calls: process 0 reads and tokenises the text meanwhile

# Of calls among GPUs once a step is done, torch's own default: a peer that hangs is found in minutes. A rank waits that
# long for process 0's previous checkpoint to be written; whatever may take longer waits by gloo.
STEP_TIMEOUT = datetime.timedelta(minutes=10)

_PEER_GONE = ("gloo", "NCCL", "onnection closed", "onnection reset", "Broken pipe")


class PeerLost(RunFailed):
    """Another process of the run has ended, so this one cannot continue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The processes that train one run together; only process 0 writes files and messages."""

    rank: int = 0
    size: int = 1
    zero: int = 0
    engine: str = "torch"

    @property
    def deepspeed(self) -> bool:
        """True if DeepSpeed shards the model and takes the steps."""
        return self.engine == "deepspeed"

    @property
    def first(self) -> bool:
        """True if this process writes files and messages."""
        return self.rank == 0

    def do(self, action: Callable[[], T]) -> T:
        """Run an action on process 0; all processes return its result, which must be JSON, or end with its exit status."""
        if self.size == 1:
            return action()
        message: list[str] = [""]
        if self.first:
            try:
                result = action()
            except BaseException as error:
                message[0] = json.dumps({"status": _status(error)})
                dist.broadcast_object_list(message)
                raise
            message[0] = json.dumps({"result": result})
        dist.broadcast_object_list(message)
        answer: dict[str, Any] = json.loads(message[0])
        if "status" in answer:
            raise SystemExit(answer["status"])  # process 0 prints the reason
        shared: T = answer["result"]
        return shared

    def max(self, value: int) -> int:
        """Return the largest of all processes' values."""
        if self.size == 1:
            return value
        shared = torch.tensor(value)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return int(shared)

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        """Stack all processes' tensors by rank, shape (size, ...); they must have the same shape."""
        if self.size == 1:
            return own[None]
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own.contiguous())
        return torch.stack(parts)

    def shorten_timeout(self, device: str) -> None:
        """Let calls among GPUs fail after STEP_TIMEOUT, once a first step has compiled and connected everything."""
        if self.size > 1 and device == "cuda":
            backend = dist.distributed_c10d._get_default_group()._get_backend(torch.device(device))
            backend._set_default_timeout(STEP_TIMEOUT)

    def local(self, count: int) -> int:
        """Return the number of a batch's rows for this process.

        Raises:
            BadInput: `count` is not a multiple of the number of processes.
        """
        if count % self.size:
            raise BadInput(
                f"batch_size is {count}; it must be a multiple of the {self.size} processes that share it"
            )
        return count // self.size

    def part(self, rows: Any) -> Any:
        """Return this process's rows of a batch, shape (rows, ...)."""
        count = self.local(len(rows))
        return rows[self.rank * count : (self.rank + 1) * count]

    def seed_dropout(self, seed: int) -> None:
        """Seed dropout of all processes but the first, which continues as a single process would."""
        if self.rank:
            torch.manual_seed(int(np.random.SeedSequence([seed, self.rank]).generate_state(1, np.uint64)[0]))


ALONE = World()


def _status(error: BaseException) -> int:
    if isinstance(error, BadInput):
        return 2
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def check_installed(engine: str) -> None:
    """Check that an engine is installed.

    Raises:
        BadInput: it is not; says how to install it.
    """
    if engine == "deepspeed" and find_spec("deepspeed") is None:
        raise BadInput(
            "engine is deepspeed, which is not installed: pip install 'scaling-planner[deepspeed]'"
        )


def launched() -> bool:
    """Return True if a launcher (torchrun, srun with torchrun, our own) started this process as one of several."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def join(zero: int, device: str, engine: str = "torch") -> Iterator[World]:
    """Join the process group of a launcher; without one, yield a world of one process.

    Args:
        zero: ZeRO stage.
        device: "cpu" or "cuda".
        engine: "torch" or "deepspeed".

    Raises:
        BadInput: fewer GPUs than processes on this machine, or a stage that the engine does not have.
        PeerLost: another process has ended.
    """
    if zero == 1 and engine == "torch":
        raise BadInput("zero is 1, which only engine=deepspeed has; torch has 0 (DDP), 2 and 3 (FSDP2)")
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
    options: dict[str, Any] = {}
    if device == "cuda":
        if torch.cuda.device_count() < here:
            raise BadInput(
                f"devices is {here}; this machine has {torch.cuda.device_count()} GPUs: lower it, or device=cpu"
            )
        torch.cuda.set_device(local)
        options["device_id"] = torch.device("cuda", local)  # NCCL connects at once, and to this device
    if here == size and (name := _loopback()):
        # The host's own name need not resolve, because no message leaves the machine.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    dist.init_process_group(
        _backend(device),
        init_method=os.environ.get("SCALING_RENDEZVOUS", "env://"),
        rank=int(os.environ["RANK"]),
        world_size=size,
        timeout=TIMEOUT,
        **options,
    )
    world = World(rank=dist.get_rank(), size=size, zero=zero, engine=engine)
    try:
        yield world
    except (RuntimeError, ValueError) as error:
        if isinstance(error, PeerLost) or not _peer_is_gone(error):
            raise
        raise PeerLost(
            f"process {world.rank} of {size} lost another process of the run; "
            "run the same command to resume from the last checkpoint"
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


def divide(root: "LossOf", model: Any, world: World, device: str, *, half: bool) -> Any:
    """Shard the model in place if the stage requires it; the optimiser is made afterwards, of the shards.

    Args:
        root: the module whose forward pass gathers what no block owns: embeddings, last norm and head.
        model: the model in it.
        world: the processes that share it.
        device: "cpu" or "cuda".
        half: True to gather weights and compute in bf16; gradients are reduced in fp32 and weights kept in fp32.
    """
    if world.size == 1 or world.zero == 0 or world.deepspeed:
        return root
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if half else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    options = {
        "mesh": _mesh(device, world.size),
        "reshard_after_forward": world.zero == 3,
        "mp_policy": policy,
    }
    for block in blocks(model):
        fully_shard(block, **options)
    return fully_shard(root, **options)


def materialise(
    model: Any,
    source: Any,
    weights: Mapping[str, torch.Tensor] | Callable[[Any], None] | None,
    device: str,
) -> None:
    """Give a sharded model that was built without memory its weights, each process the part that it keeps.

    Args:
        model: the model, sharded, on the meta device.
        source: the whole model on process 0, from which the others get buffers and their parts of weights; None elsewhere.
        weights: a checkpoint's weights by name, or a function that reads them into the model, each process its part; None takes
            those of the source.
        device: "cpu" or "cuda".
    """
    tied = model.all_tied_weights_keys
    model.to_empty(device=device)
    if tied:
        model.tie_weights()
    theirs = {} if source is None else dict(source.named_parameters())
    if callable(weights):
        weights(model)
    else:
        for name, weight in model.named_parameters():
            if weights is not None:
                part = like(weight, weights[name])
            else:
                part = _scattered(weight, theirs[name].detach() if theirs else None)
            with torch.no_grad():
                weight.copy_(part)
    buffers = {} if source is None else dict(source.named_buffers())
    for name, buffer in model.named_buffers():
        if source is not None:
            buffer.copy_(buffers[name])
        dist.broadcast(buffer, 0)


def _scattered(weight: torch.Tensor, value: torch.Tensor | None) -> torch.Tensor:
    """Return this process's part of a value that process 0 has, sharded like a weight; a collective call."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(weight, DTensor)
    local = weight.to_local()
    whole = torch.empty(weight.shape, device=local.device) if value is None else value.to(local.device)
    return distribute_tensor(whole, weight.device_mesh, weight.placements, src_data_rank=0)


def prepare_blocks(
    model: Any, compile_block: Callable[[Any], Any] | None, *, recompute: bool, evaluates: bool = False
) -> None:
    """Replace the forward pass of each block by one that is compiled, recomputed in the backward pass, or both.

    Parameter names stay, and hooks of the block run outside.

    Args:
        model: the model.
        compile_block: compiles a function; None leaves it as it is.
        recompute: True for activation checkpointing.
        evaluates: True for evaluations, without gradients, to use the compiled pass too; else they use the plain one.
    """
    from torch.utils.checkpoint import checkpoint

    for block in blocks(model):
        plain = block.forward
        fast = compile_block(plain) if compile_block else plain
        holder = _Holder(block, fast)

        def forward(
            *args: Any, _plain: Any = plain, _fast: Any = fast, _holder: Any = holder, **options: Any
        ) -> Any:
            if not torch.is_grad_enabled():
                return (_fast if evaluates else _plain)(*args, **options)
            if not recompute:
                return _fast(*args, **options)
            # Weights that `InHalf` has put in place are gone when the backward pass recomputes.
            weights = {
                name: w for name, w in _holder.named_parameters() if not isinstance(w, torch.nn.Parameter)
            }

            def again(*args: Any, **options: Any) -> Any:
                return torch.func.functional_call(_holder, weights, args, options)

            return checkpoint(again if weights else _fast, *args, use_reentrant=False, **options)

        block.forward = forward


class _Holder(torch.nn.Module):
    """A block and its forward pass of before it was replaced."""

    def __init__(self, block: Any, run: Callable[..., Any]) -> None:
        super().__init__()
        self.block = block
        self.run = run

    def forward(self, *args: Any, **options: Any) -> Any:
        """Return what the block returns."""
        return self.run(*args, **options)


def blocks(model: Any) -> list[Any]:
    """Return the repeated layers of a model: its longest ModuleList."""
    lists = [part for part in model.modules() if isinstance(part, torch.nn.ModuleList)]
    return list(max(lists, key=len, default=()))


class LossOf(torch.nn.Module):
    """A model and its loss as one module, which DDP, FSDP2 or DeepSpeed wraps.

    Args:
        model: the model.
        loss: mean loss of a micro-batch, a scalar.
        each: losses of a micro-batch's tokens, shape (examples, n).
    """

    def __init__(
        self,
        model: Any,
        loss: Callable[[torch.Tensor], torch.Tensor],
        each: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.each = each or loss

    def forward(self, piece: torch.Tensor, each: bool = False) -> torch.Tensor:
        """Return the mean loss of a micro-batch, or with `each` the losses of its tokens."""
        return self.each(piece) if each else self.loss(piece)


def replicate(root: torch.nn.Module, world: World) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the loss of a micro-batch such that its backward pass averages gradients over the processes."""
    if world.size == 1 or world.zero:
        return root
    from torch.nn.parallel import DistributedDataParallel

    wrapped: Callable[[torch.Tensor], torch.Tensor] = DistributedDataParallel(
        root, gradient_as_bucket_view=True
    )
    return wrapped


def without_sync(loss: Any) -> AbstractContextManager[Any]:
    """Return a context without gradient exchange, for all micro-batches but the last; sharded gradients are always exchanged."""
    no_sync = getattr(loss, "no_sync", None)
    return no_sync() if no_sync else nullcontext()


def backward(loss: Any, value: torch.Tensor) -> None:
    """Run the backward pass of a value returned by `loss`."""
    own: Callable[[torch.Tensor], None] | None = getattr(loss, "backward", None)
    if own:
        own(value)
    else:
        value.backward()


@torch.no_grad()
def unshard(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor's full value; a collective call."""
    if hasattr(tensor, "ds_id"):
        return gathered(tensor)
    gather: Callable[[], torch.Tensor] | None = getattr(tensor, "full_tensor", None)
    return (gather() if gather else tensor).detach()


def like(target: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Shard a full value like the target, on the target's device."""
    if value.ndim == 0 or not hasattr(target, "device_mesh"):
        return value.to(target.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(target, DTensor)

    # src_data_rank None: every process has read the full value, so nothing is sent
    shard: torch.Tensor = distribute_tensor(
        value.to(target.device), target.device_mesh, target.placements, src_data_rank=None
    )
    return shard


def gathered(weight: torch.Tensor) -> torch.Tensor:
    """Return the full value of a weight that stage 3 has sharded; a collective call."""
    from deepspeed.utils import safe_get_full_fp32_param

    full: torch.Tensor = safe_get_full_fp32_param(weight)
    return full.detach()
