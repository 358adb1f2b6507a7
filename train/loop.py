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

from families.units import BadInput, RunFailed, nearest
from scaling.schedule import Schedule

from .config import Settings
from .data import Tokens
from .distributed import ALONE, World, backward, divide, quietly, replicate
from .lease import Stop
from .metrics import EVENTS, METRICS, TIMING, MetricsWriter, SpikeDetector, metrics_writer
from .model.config import build
from .model.kernels import use_attention, use_logistic_gelu
from .model.objective import batch_of, clipped_step, make_optimizer, objective_of
from .model.pretrained import load_weights
from .runtime import OutOfMemory, compiled, frozen_collector, prepare_process, within_memory

DEVICES = ("auto", "cpu", "cuda")
_SAVE, _STOP = 1, 2  # what a process wishes after a step; the most urgent wish of all is done by all


class Diverged(RunFailed):
    """The loss is no longer a number."""


@dataclass(slots=True, kw_only=True)
class Session:
    """A run in progress: the state that a step changes, all of it and nothing else."""

    settings: Settings
    model: Any
    optimizer: Any  # torch's, or DeepSpeed in its place
    loss: Callable[[torch.Tensor], torch.Tensor]  # of examples: their mean, over this process's
    world: World = ALONE
    step: int = 0
    wall_s: float = 0.0
    device: str = "cpu"
    losses: list[torch.Tensor] = field(
        default_factory=list
    )  # of the steps since the last line of metrics, each over this process's share of the batch
    norms: list[torch.Tensor] = field(default_factory=list)
    watch: SpikeDetector = field(default_factory=SpikeDetector)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickEval:
    """A little held-out text, looked at on the way: its loss is logged as eval_loss.

    every: steps between looks, a multiple of those between lines; the end of a part is looked at too.
    """

    look: Callable[[Session], float]
    every: int


def pick_device(wanted: str) -> str:
    """cuda where there is one, unless told.

    Raises:
        BadInput: no such device, or none in this machine.
    """
    if wanted not in DEVICES:
        raise BadInput(f"device is {wanted!r}; {nearest(wanted, DEVICES)}")
    there = wanted != "cpu" and torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise BadInput("device is cuda; torch finds none on this machine: leave it out, or say cpu")
    return "cuda" if there else "cpu"


def start(
    settings: Settings,
    device: str,
    world: World = ALONE,
    *,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> Session:
    """A session at step 0: a function of the settings, or with a checkpoint's `weights`, all of them.

    Raises:
        BadInput: the processes cannot share the batch, or the optimiser cannot be divided.
    """
    world.local(settings.batch_size)
    if world.zero and settings.optimizer != "adamw":
        raise BadInput(
            f"optimizer is {settings.optimizer}; zero={world.zero} divides adamw only: take zero=0"
        )
    prepare_process(settings.compile, settings.threads)
    model = build(
        settings.spec(),
        seed=settings.seed,
        dropout=settings.dropout,
        init_std=settings.init_std,
        eos_token_id=settings.eos_token_id,
    )
    if weights is not None:
        _fill(model, weights)
    elif settings.init:
        load_weights(model, settings.spec(), Path(settings.init))
    world.seed_dropout(settings.seed)
    use_attention(model, settings.attention)
    if settings.compile and device == "cpu":
        use_logistic_gelu(model)
    if settings.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    divide(model.to(device).train(), world, device)
    loss = loss_of(settings, model, device)
    optimizer: Any = make_optimizer(settings, model)
    if world.deepspeed:
        from .deepspeed import DeepSpeed

        loss = optimizer = DeepSpeed(model, loss, optimizer, settings, world, device)
    else:
        loss = replicate(model, loss, world)
    return Session(
        settings=settings,
        model=model,
        optimizer=optimizer,
        loss=loss,
        world=world,
        device=device,
    )


@torch.no_grad()
def _fill(model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    ours = dict(model.named_parameters())
    if weights.keys() != ours.keys():
        odd = sorted(weights.keys() ^ ours.keys())
        raise BadInput(f"the checkpoint holds another model: {odd[:3]}")
    for name, weight in ours.items():
        weight.copy_(weights[name])


def loss_of(settings: Settings, model: Any, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """What a step computes of examples: their mean loss, in nats per predicted token; trunk and loss compiled together."""
    objective = objective_of(settings)

    def loss(examples: torch.Tensor) -> torch.Tensor:
        with autocast(settings, device):
            return objective.losses(model, examples).mean()

    return compiled(loss) if settings.compile else loss


def autocast(settings: Settings, device: str) -> Any:
    """bf16 for the matmuls where the settings say so."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=settings.dtype == "bf16")


def train_step(session: Session, examples: torch.Tensor, lr: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One optimiser step on this process's share of a batch.

    Returns the share's mean loss and the norm of the whole batch's gradient before clipping, both still on the device.
    """
    total = gradients(session, examples, session.settings.micro_batch)
    return total, update(session, lr)


def gradients(session: Session, examples: torch.Tensor, micro_batch: int) -> torch.Tensor:
    """Leave the batch's mean gradient on the weights; returns the mean loss of this process's share."""
    session.optimizer.zero_grad(set_to_none=True)
    pieces = examples.split(micro_batch)
    total = torch.zeros((), device=session.device)
    for number, piece in enumerate(pieces, start=1):
        share = piece.shape[0] / examples.shape[0]
        with quietly(session.loss) if number < len(pieces) else nullcontext():
            loss = session.loss(piece)
            backward(session.loss, loss * share)
        total += loss.detach() * share
    return total


def update(session: Session, lr: float) -> torch.Tensor:
    """Clip the gradient and take the step; returns the gradient's norm before."""
    for group in session.optimizer.param_groups:
        group["lr"] = lr
    norm = clipped_step(session.optimizer, session.model, session.settings.grad_clip)
    session.optimizer.zero_grad(set_to_none=True)
    session.step += 1
    return norm


def to_device(array: np.ndarray[Any, np.dtype[np.int64]], device: str) -> torch.Tensor:
    """Token windows on the device; pinned on the way to a GPU, so that the copy does not wait."""
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
    glance: QuickEval | None = None,
    tensorboard: bool = False,
    lower: Callable[[int, int], None] = lambda micro_batch, before: None,
) -> bool:
    """Train to step `until`; True when it is reached, False when asked to stop before. Saves on the way and at the end.

    Args:
        progress: hears the step, the mean loss and the tokens per second since the line before.
        tensorboard: write TensorBoard's event files of the logged lines too.
        lower: hears of a micro-batch that was lowered for want of memory, and of the one before it.

    Raises:
        OutOfMemory: one sequence at a time is too much, or there are other processes, which cannot follow at once.
        Diverged: the loss is not finite; nothing is saved then, so the last checkpoint is good.
    """
    settings, world = session.settings, session.world
    began = last_saved = time.monotonic()
    wall_before = session.wall_s
    with (
        frozen_collector(),
        metrics_writer(folder, session.step, writes=world.first, tensorboard=tensorboard) as log,
    ):
        logged_at, logged_step = began, session.step
        while session.step < until:
            examples = to_device(world.part(batch_of(settings, tokens, session.step)), session.device)
            lr = schedule.lr(session.step)
            loss = within_memory(
                partial(gradients, session, examples),
                session.settings.micro_batch,
                len(examples),
                partial(_lower, session, log, lower),
            )
            norm = update(session, lr)
            session.losses.append(loss)
            session.norms.append(norm)
            at_end = session.step >= until
            if at_end or session.step % log_every == 0:
                losses, norms = _finite(session, lr)
                _note_spikes(session, losses.tolist(), log)
                looks = glance is not None and (at_end or session.step % glance.every == 0)
                seen = {"eval_loss": glance.look(session)} if glance is not None and looks else {}
                mean = float(losses.mean())
                log.write(METRICS, step=session.step, tokens=session.step * settings.batch_tokens, loss=mean, lr=lr,
                          grad_norm=float(norms.mean()), **seen)  # fmt: skip
                session.losses, session.norms = [], []
                moment = time.monotonic()
                session.wall_s = wall_before + moment - began
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
            wish = world.agree(_STOP if stop.asked else _SAVE if due else 0)
            if wish or at_end:
                if session.losses:
                    _finite(session, lr)
                session.wall_s = wall_before + time.monotonic() - began
                log.flush()
                save()
                last_saved = time.monotonic()
                if wish == _STOP and not at_end:
                    return False
    return True


def _finite(session: Session, lr: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses (of the whole batch) and gradient norms of the steps since the last line; looked at before anything is saved.

    Raises:
        Diverged: one is not a number, which the weights then are not either.
    """
    losses = session.world.gather(torch.stack(session.losses)).mean(dim=0)
    norms = torch.stack(session.norms)
    good = (torch.isfinite(losses) & torch.isfinite(norms)).tolist()
    if all(good):
        return losses, norms
    first = good.index(False)
    step = session.step - len(good) + first + 1
    what = f"loss is {float(losses[first])}" if not math.isfinite(losses[first]) else "gradient is not finite"
    raise Diverged(
        f"{session.settings.run}: the {what} at step {step} (learning rate {lr:g}); lower lr=, or lengthen warmup="
    )


def _note_spikes(session: Session, losses: list[float], log: MetricsWriter) -> None:
    for step, loss in enumerate(losses, start=session.step - len(losses) + 1):
        if spike := session.watch.look(step, loss):
            log.write(EVENTS, **asdict(spike), event="spike")


def _lower(
    session: Session, log: MetricsWriter, hear: Callable[[int, int], None], micro_batch: int, before: int
) -> None:
    """Keep the lower micro-batch for the rest of the run, and write it down."""
    session.settings = session.settings.model_copy(update={"micro_batch": micro_batch})
    log.write(EVENTS, step=session.step, event="out of memory", micro_batch=micro_batch, before=before)
    hear(micro_batch, before)
    if session.world.size > 1:
        raise OutOfMemory(
            f"out of memory with micro_batch={before}; it is {micro_batch} from now on, "
            "and the same command goes on from the last checkpoint",
            lowered=True,
        )
