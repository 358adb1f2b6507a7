"""DeepSpeed as the second engine: ZeRO stages 0 to 3 behind the interface of `distributed.py`.

Model, loss, batches, learning rate and torch's AdamW are the same, in fp32; DeepSpeed shards, exchanges gradients and takes
the step. Checkpoints are the same, so a run can change engine, stage and number of processes.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from .config import Settings
from .distributed import LossOf, World, check_installed
from .model.objective import objective_of

_MOMENTS = ("exp_avg", "exp_avg_sq")

_NO_STEP = 0.0  # learning rate that changes no weight


class DeepSpeed:
    """DeepSpeed's engine as a session's loss and as its optimiser."""

    def __init__(
        self,
        model: Any,
        loss: Callable[[torch.Tensor], torch.Tensor],
        optimizer: torch.optim.Optimizer,
        settings: Settings,
        world: World,
        device: str,
    ) -> None:
        deepspeed = _library(device)
        self._settings, self._model, self._device = settings, model, device
        self._clips = world.zero == 0  # stage 0 does not report the norm it clips
        config = {
            "train_micro_batch_size_per_gpu": 1,  # micro-batches have any size: the end of a batch is set explicitly
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 0.0 if self._clips else settings.grad_clip,
            "zero_optimization": {"stage": world.zero},
            "zero_allow_untested_optimizer": True,
        }
        self._engine, *_ = deepspeed.initialize(
            model=LossOf(model, loss), optimizer=optimizer, config=config, dist_init_required=False
        )
        self._engine.set_gradient_accumulation_boundary(True)

    def __call__(self, piece: torch.Tensor) -> torch.Tensor:
        """Return the loss of a micro-batch, a scalar."""
        loss: torch.Tensor = self._engine(piece)
        return loss

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate the gradient; it is exchanged with the last micro-batch."""
        self._engine.backward(loss, scale_wrt_gas=False)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Suspend gradient exchange, for all micro-batches of a batch but the last."""
        self._engine.set_gradient_accumulation_boundary(False)
        try:
            yield
        finally:
            self._engine.set_gradient_accumulation_boundary(True)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups, whose learning rate the loop sets."""
        groups: list[dict[str, Any]] = self._engine.optimizer.param_groups
        return groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients that an abandoned backward pass leaves; a step leaves none."""
        self._engine.optimizer.zero_grad(set_to_none)

    def clipped_step(self) -> torch.Tensor:
        """Clip the gradient and take the step; returns the gradient norm before clipping."""
        if not self._clips:
            self._engine.step()
            return torch.as_tensor(self._engine.get_global_grad_norm(), dtype=torch.float32)
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._settings.grad_clip)
        self._engine.step()
        return norm

    def named_state(self, model: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """Iterate over AdamW's state in the format of `optimizer_state`; a collective call."""
        from deepspeed.utils import safe_get_full_optimizer_state

        if not self._state():
            return
        self._link()
        step = next(iter(self._state().values()))["step"]
        for name, weight in model.named_parameters():
            yield f"step.{name}", step.detach().clone()
            for key in _MOMENTS:
                if self._clips:
                    yield f"{key}.{name}", self._state()[weight][key]
                else:
                    yield f"{key}.{name}", safe_get_full_optimizer_state(weight, key)

    def load_named_state(self, model: Any, state: dict[str, torch.Tensor]) -> None:
        """Restore the state from `named_state` or another engine; a collective call."""
        weights = dict(model.named_parameters())
        if f"step.{next(iter(weights))}" not in state:
            return  # no step was taken
        self._make_state()
        for name, weight in weights.items():
            for key in _MOMENTS:
                self._put(weight, key, state[f"{key}.{name}"].to(self._device))
        for values in self._state().values():
            values["step"].copy_(state[f"step.{next(iter(weights))}"])

    def _make_state(self) -> None:
        """Take a step at learning rate 0, at which DeepSpeed allocates its state."""
        settings = self._settings
        window = np.zeros((1, settings.n_positions + 1), dtype=np.int64)
        examples = torch.from_numpy(objective_of(settings).examples(window, (0,))).to(self._device)
        for group in self.param_groups:
            group["lr"] = _NO_STEP
        self.backward(self(examples))
        self._engine.step()
        self._link()

    def _link(self) -> None:
        """Link all weights to their moments in stages 1 and 2.

        DeepSpeed 0.19 does so once, after its first group of weights has stepped, when the others have none yet.
        """
        optimizer = self._engine.optimizer
        if hasattr(optimizer, "single_partition_of_fp32_groups"):
            from deepspeed.utils import lazy_init_hp_params_optimizer_state as link

            groups = zip(optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups, strict=True)
            for weights, laid_out in groups:
                link(weights, laid_out, optimizer.optimizer.state)

    def _state(self) -> dict[Any, Any]:
        """Of torch's AdamW: by weight in stage 0, else by this process's part of each group's weights laid end to end."""
        optimizer = self._engine.optimizer
        found: dict[Any, Any] = (optimizer if self._clips else optimizer.optimizer).state
        return found

    def _put(self, weight: torch.Tensor, key: str, value: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self._clips:
            self._state()[weight][key].copy_(value)
        elif hasattr(weight, "ds_id"):
            # Stage 3 pads a weight that its processes cannot share evenly, which the setter of whole values forgets.
            size, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
            count = -(-value.numel() // size)
            padded = torch.nn.functional.pad(value.flatten(), (0, count * size - value.numel()))
            safe_set_local_optimizer_state(weight, padded[rank * count : (rank + 1) * count], key)
        else:
            safe_set_full_optimizer_state(weight, value, key)


def _library(device: str) -> Any:
    """DeepSpeed, told which device it is for, and to speak on standard error and only of what is wrong."""
    check_installed("deepspeed")
    os.environ.setdefault("DS_ACCELERATOR", device)
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed
    from deepspeed.utils import logger

    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)  # of calls that DeepSpeed makes
    logger.setLevel(logging.WARNING)
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)
    # Its all-reduce in shared memory is compiled at the first start, and runs on one machine would share the memory.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
