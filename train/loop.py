"""The training loop: from one step to another, at a schedule, exact on resume."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from families.architectures import architecture
from families.units import BadInput, RunFailed, nearest
from scaling.schedule import Schedule

from .config import GRAPHS, CompileMode, Settings
from .data import Tokens
from .distributed import (
    ALONE,
    LossOf,
    World,
    backward,
    divide,
    materialise,
    prepare_blocks,
    replicate,
    without_sync,
)
from .graphs import no_graphs, prepare_gradients
from .half import InHalf
from .lease import Stop
from .loss_scale import LossScale
from .metrics import EVENTS, METRICS, TIMING, MetricsWriter, SpikeDetector, metrics_writer
from .model.config import build
from .model.kernels import compile_head, use_attention, use_logistic_gelu
from .model.objective import batch_of, clipped_step, make_optimizer, objective_of
from .model.pretrained import load_weights
from .runtime import (
    OutOfMemory,
    compiled,
    freeze_imports,
    frozen_collector,
    limit_gpu_memory,
    prepare_process,
    within_memory,
)

DEVICES = ("auto", "cpu", "cuda")
_SAVE, _STOP = 1, 2  # requests of a process after a step; all processes follow the most urgent


class Diverged(RunFailed):
    """The loss or the gradient is not finite."""


@dataclass(slots=True, kw_only=True)
class Session:
    """A run in progress: exactly the state that a step changes."""

    settings: Settings
    model: Any
    optimizer: Any  # torch's, or DeepSpeed in its place
    loss: Callable[[torch.Tensor], torch.Tensor]  # mean loss of this process's examples
    each: Callable[
        [torch.Tensor], torch.Tensor
    ]  # losses of their tokens, shape (examples, n), without gradients
    half: InHalf | None = (
        None  # of residual=bf16 in one process: its copies of the weights are cast once per step
    )
    graphs: bool = False  # the steps run as CUDA graphs
    scale: LossScale | None = None  # of fp16
    world: World = ALONE
    step: int = 0
    wall_s: float = 0.0
    device: str = "cpu"
    # Of the steps since the last line of metrics; losses over this process's share of the batch.
    losses: list[torch.Tensor] = field(default_factory=list)
    norms: list[torch.Tensor] = field(default_factory=list)
    spikes: SpikeDetector = field(default_factory=SpikeDetector)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickEval:
    """Partial evaluation during training, logged as eval_loss.

    Args:
        run: returns the held-out loss of a session, nats per token.
        every: steps between evaluations, a multiple of log_every; the end of a part is evaluated too.
    """

    run: Callable[[Session], float]
    every: int


def pick_device(requested: str) -> str:
    """Return the device to use: for "auto", cuda if available, else cpu.

    Raises:
        BadInput: no such device, or none in this machine.
    """
    if requested not in DEVICES:
        raise BadInput(f"device is {requested!r}; {nearest(requested, DEVICES)}")
    available = requested != "cpu" and torch.cuda.is_available()
    if requested == "cuda" and not available:
        raise BadInput("device is cuda; torch finds no GPU on this machine: leave it out, or use device=cpu")
    return "cuda" if available else "cpu"


def start(
    settings: Settings,
    device: str,
    world: World = ALONE,
    *,
    weights: Mapping[str, torch.Tensor] | Callable[[Any], None] | None = None,
    by_block: bool = False,
) -> Session:
    """Return a session at step 0, determined by the settings.

    Args:
        settings: settings of the run.
        device: "cpu" or "cuda".
        world: the processes that share the run.
        weights: a checkpoint's weights by name, all of them, or a function that reads them into a model, sharded or whole;
            default: initialised.
        by_block: True to compile block by block in one process too, as several processes do; in bf16 a whole compiled step
            rounds otherwise, because it fuses across blocks.

    Raises:
        BadInput: the batch or the optimiser state cannot be divided among the processes.
    """
    world.local(settings.batch_size)
    if world.zero and settings.optimizer != "adamw":
        raise BadInput(f"optimizer is {settings.optimizer}; zero={world.zero} shards adamw only: use zero=0")
    if world.deepspeed and (settings.dtype == "fp16" or settings.residual == "bf16"):
        raise BadInput(
            f"dtype is {settings.dtype} and residual {settings.residual}; engine=deepspeed has neither fp16 nor residual=bf16"
        )
    prepare_process(
        settings.compile,
        settings.threads,
        deterministic=settings.deterministic,
        tf32=device == "cuda" and settings.dtype == "fp32",
    )
    if device == "cuda":
        limit_gpu_memory()
    freeze_imports(architecture(settings.spec().architecture).model_class)
    many = world.size > 1 and not world.deepspeed
    # Sharded weights are never whole in a process, but for process 0's initial ones in the host's memory.
    meta = many and world.zero > 0
    build_model = partial(
        build,
        settings.spec(),
        seed=settings.seed,
        dropout=settings.dropout,
        init_std=settings.init_std,
        eos_token_id=settings.eos_token_id,
    )
    shapes = build_model(meta=True) if meta else None
    source = build_model(initialised=weights is None) if world.first or not meta else None
    if weights is None and settings.init and source is not None:
        load_weights(source, settings.spec(), Path(settings.init))
    model: Any = source if shapes is None else shapes
    if isinstance(weights, Mapping):
        _check_names(model, weights)
    if weights is not None and not meta:
        _fill(model, weights)
    world.seed_dropout(settings.seed)
    use_attention(model, settings.attention)
    if settings.compile and device == "cpu":
        use_logistic_gelu(model)
    mode = "default" if no_graphs(settings, device, world.size, by_block=by_block) else settings.compile_mode
    evaluates = settings.compile and settings.compile_eval
    in_blocks = many or by_block or (settings.checkpointing and settings.residual == "bf16")
    if settings.checkpointing and not in_blocks:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    (model if meta else model.to(device)).train()
    if in_blocks:
        compiler = partial(compiled, mode=mode)
        prepare_blocks(
            model,
            compiler if settings.compile else None,
            recompute=settings.checkpointing,
            evaluates=evaluates,
        )
        if settings.compile:
            compile_head(model, compiler, evaluates=evaluates)
    loss, root = _loss_and_root(settings, model, device, world, mode=None if in_blocks else mode)
    each: Callable[[torch.Tensor], torch.Tensor] = partial(root, each=True)
    if evaluates and not in_blocks:
        # A graph of its own, of the whole model: without gradients, dropout and CUDA graphs.
        each = compiled(_each_of(root), "default" if mode == GRAPHS else mode)
    if meta:
        materialise(model, source, weights, device)
    optimizer: Any = make_optimizer(settings, model)
    if world.deepspeed:
        from .deepspeed import DeepSpeed

        loss = optimizer = DeepSpeed(model, loss, optimizer, settings, world, device)
    elif many:
        loss = replicate(root, world)
    return Session(
        settings=settings,
        model=model,
        optimizer=optimizer,
        loss=loss,
        each=each,
        half=root if isinstance(root, InHalf) and not many else None,
        graphs=settings.compile and mode == GRAPHS,
        scale=LossScale() if settings.dtype == "fp16" else None,
        world=world,
        device=device,
    )


def _check_names(model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    if odd := sorted(weights.keys() ^ dict(model.named_parameters()).keys()):
        raise BadInput(f"the checkpoint is of another model; parameters that differ: {odd[:3]}")


@torch.no_grad()
def _fill(model: Any, weights: Mapping[str, torch.Tensor] | Callable[[Any], None]) -> None:
    if callable(weights):
        weights(model)
        return
    for name, weight in model.named_parameters():
        weight.copy_(weights[name])


def _each_of(root: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def each(examples: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = root(examples, each=True)
        return found

    return each


def _loss_and_root(
    settings: Settings, model: Any, device: str, world: World, *, mode: CompileMode | None
) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.nn.Module]:
    """Return the mean loss of examples, and the module that computes it and the losses of their tokens.

    Shards the model if the stage requires it. mode: the compiler's search for model and loss together; None leaves that to
    the blocks.
    """
    objective = objective_of(settings)

    def each(examples: torch.Tensor) -> torch.Tensor:
        with autocast(settings, device):
            return objective.losses(model, examples)

    def mean(examples: torch.Tensor) -> torch.Tensor:
        with autocast(settings, device):
            return objective.losses(model, examples).mean()

    root = LossOf(model, mean, each)
    half = settings.residual == "bf16"
    shared = divide(root, model, world, device, half=half)
    if half and not (world.size > 1 and world.zero):
        shared = InHalf(root)
    loss = shared if half else mean
    return (compiled(loss, mode) if settings.compile and mode is not None else loss), shared


def loss_of(settings: Settings, model: Any, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function from examples, shape (examples, ...), to their mean loss in nats per predicted token.

    With settings.compile, model and loss are compiled together.
    """
    return _loss_and_root(settings, model, device, ALONE, mode=settings.compile_mode)[0]


_FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(settings: Settings, device: str) -> Any:
    """Return the autocast context: matmuls in bf16 or fp16, or none where the dtype is fp32 or all weights are in bf16."""
    enabled = settings.dtype in _FORMATS and settings.residual == "fp32"
    return torch.autocast(device, dtype=_FORMATS.get(settings.dtype, torch.bfloat16), enabled=enabled)


def train_step(session: Session, examples: torch.Tensor, lr: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Take one optimiser step on this process's share of a batch, shape (examples, ...).

    Returns:
        Mean loss of the share, and gradient norm of the whole batch before clipping; scalars on the device.
    """
    loss = gradients(session, examples, session.settings.micro_batch)
    return loss, update(session, lr)


def gradients(session: Session, examples: torch.Tensor, micro_batch: int) -> torch.Tensor:
    """Accumulate the batch's mean gradient on the weights; returns the mean loss of this process's share, a scalar."""
    session.optimizer.zero_grad(set_to_none=not session.graphs)
    if session.graphs:
        prepare_gradients(session.model)
    pieces = examples.split(micro_batch)
    total = torch.zeros((), device=session.device)
    with session.half.cast_once() if session.half else nullcontext(_nothing) as collect:
        for number, piece in enumerate(pieces, start=1):
            share = piece.shape[0] / examples.shape[0]
            if session.graphs:
                torch.compiler.cudagraph_mark_step_begin()
            with without_sync(session.loss) if number < len(pieces) else nullcontext():
                loss = session.loss(piece)
                weighted = loss * share
                backward(session.loss, session.scale.scaled(weighted) if session.scale else weighted)
            collect()
            total += loss.detach() * share
    return total


def _nothing() -> None:
    """Gradients that arrive on the weights themselves need no collecting."""


def update(session: Session, lr: float) -> torch.Tensor:
    """Clip the gradient and take the step; returns the gradient norm before clipping, a scalar."""
    for group in session.optimizer.param_groups:
        group["lr"] = lr
    norm = clipped_step(session.optimizer, session.model, session.settings.grad_clip, session.scale)
    session.optimizer.zero_grad(set_to_none=not session.graphs)
    session.step += 1
    return norm


def to_device(array: np.ndarray[Any, np.dtype[np.int64]], device: str) -> torch.Tensor:
    """Copy token windows, shape (windows, tokens), to the device; pinned for a GPU, so that the copy is asynchronous."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device == "cuda" else tensor


def advance(
    session: Session,
    schedule: Schedule,
    until: int,
    tokens: Tokens,
    *,
    folder: Path,
    log_every: int,
    stop: Stop,
    save: Callable[[], None],
    save_every: float,
    progress: Callable[[int, float, float], None] | None = None,
    quick_eval: QuickEval | None = None,
    tensorboard: bool = False,
    on_oom: Callable[[int, int], None] = lambda new, old: None,
) -> bool:
    """Train to step `until`, saving on the way and at the end.

    Args:
        session: the session, changed in place.
        schedule: learning rate of each step.
        until: last step.
        tokens: the training text.
        folder: where metrics are written.
        log_every: steps between lines of metrics.
        stop: stop signal, polled after every step.
        save: called to save a checkpoint.
        save_every: seconds between checkpoints.
        progress: called with the step, the mean loss and the tokens per second since the previous line.
        quick_eval: partial evaluation; default: none.
        tensorboard: also write TensorBoard event files.
        on_oom: on_oom(new, old): called after the micro-batch is reduced.

    Returns:
        True if `until` is reached, False if stopped before.

    Raises:
        OutOfMemory: a single sequence does not fit, or other processes share the run, which cannot change their micro-batch
            at once.
        Diverged: the loss is not finite; nothing is saved, so the last checkpoint is good.
    """
    settings, world = session.settings, session.world
    started = last_saved = time.monotonic()
    wall_before = session.wall_s
    with (
        frozen_collector(),
        metrics_writer(folder, session.step, writes=world.first, tensorboard=tensorboard) as log,
    ):
        first = session.step
        logged_at, logged_step = started, session.step
        while session.step < until:
            examples = to_device(batch_of(settings, tokens, session.step, world), session.device)
            lr = schedule.lr(session.step)
            loss = within_memory(
                partial(gradients, session, examples),
                session.settings.micro_batch,
                len(examples),
                partial(_reduce_micro_batch, session, log, on_oom),
            )
            norm = update(session, lr)
            if session.step == first + 1:
                world.shorten_timeout(session.device)
            session.losses.append(loss)
            session.norms.append(norm)
            at_end = session.step >= until
            if at_end or session.step % log_every == 0:
                losses, norms = _finite(session, lr)
                _note_spikes(session, losses.tolist(), log)
                evaluation = {}
                if quick_eval is not None and (at_end or session.step % quick_eval.every == 0):
                    evaluation = {"eval_loss": quick_eval.run(session)}
                mean = float(losses.mean())
                log.write(METRICS, step=session.step, tokens=session.step * settings.batch_tokens, loss=mean, lr=lr,
                          grad_norm=_mean_norm(session, norms), **evaluation)  # fmt: skip
                session.losses, session.norms = [], []
                moment = time.monotonic()
                session.wall_s = wall_before + moment - started
                rate = (session.step - logged_step) * settings.batch_tokens / max(moment - logged_at, 1e-9)
                log.write(
                    TIMING,
                    step=session.step,
                    wall_s=round(session.wall_s, 3),
                    tokens_per_s=round(rate, 1),
                )
                logged_at, logged_step = moment, session.step
                if progress:
                    progress(session.step, mean, rate)
            due = world.first and time.monotonic() - last_saved > save_every
            request = world.max(_STOP if stop.requested else _SAVE if due else 0)
            if request or at_end:
                if session.losses:
                    _finite(session, lr)
                session.wall_s = wall_before + time.monotonic() - started
                log.flush()
                save()
                last_saved = time.monotonic()
                if request == _STOP and not at_end:
                    return False
    return True


def _finite(session: Session, lr: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return losses (of the whole batch) and gradient norms since the last line, each (steps,); called before any save.

    Raises:
        Diverged: one of them is not finite; then the weights are not either.
    """
    losses = session.world.gather(torch.stack(session.losses)).mean(dim=0)
    norms = torch.stack(session.norms)
    good = torch.isfinite(losses)
    if session.scale is None:  # else a step without a finite gradient is not taken, and the scale is lowered
        good &= torch.isfinite(norms)
    elif session.scale.exhausted:
        good[-1] = False
    finite = good.tolist()
    if all(finite):
        return losses, norms
    first = finite.index(False)
    step = session.step - len(finite) + first + 1
    problem = (
        f"loss is {float(losses[first])}" if not math.isfinite(losses[first]) else "gradient is not finite"
    )
    raise Diverged(
        f"{session.settings.run}: the {problem} at step {step} (learning rate {lr:g}); lower lr=, or lengthen warmup="
    )


def _mean_norm(session: Session, norms: torch.Tensor) -> float:
    """Return the mean gradient norm, in fp16 of the steps that were taken."""
    taken = norms if session.scale is None else norms[torch.isfinite(norms)]
    return float(taken.mean()) if len(taken) else 0.0


def _note_spikes(session: Session, losses: list[float], log: MetricsWriter) -> None:
    for step, loss in enumerate(losses, start=session.step - len(losses) + 1):
        if spike := session.spikes.add(step, loss):
            log.write(EVENTS, **asdict(spike), event="spike")


def _reduce_micro_batch(
    session: Session, log: MetricsWriter, on_oom: Callable[[int, int], None], micro_batch: int, before: int
) -> None:
    """Use the smaller micro-batch for the rest of the run, and log it."""
    session.settings = session.settings.model_copy(update={"micro_batch": micro_batch})
    log.write(EVENTS, step=session.step, event="out of memory", micro_batch=micro_batch, before=before)
    on_oom(micro_batch, before)
    if session.world.size > 1:
        raise OutOfMemory(
            f"out of memory with micro_batch={before}; reduced to {micro_batch}: "
            "run the same command to resume from the last checkpoint",
            lowered=True,
        )
