"""NeMo AutoModel's own training on a CPU: a script that takes an emitted YAML's name, for tests/test_automodel.py.

The reading of the YAML, model, datasets, optimiser, schedule, training loop, log and checkpoints are nemo-automodel's (0.7).
Two things are not: CPU tensors stand for CUDA's, and torch.cuda answers as where no device is, but to the two calls that are
made without asking. Written beside the run: `first.safetensors`, the weights under transformers' names before the first step,
and `windows.npy`, the token windows in the order in which it trained on them.
"""

import sys

import numpy as np
import torch
from on_host import OnHost, pretend_device
from safetensors.torch import save_file


def main():
    """Train as the YAML says."""
    from nemo_automodel.components.config._arg_parser import parse_args_and_load_config
    from nemo_automodel.recipes.llm.train_ft import (
        TrainFinetuneRecipeForNextTokenPrediction,
    )  # before torch.cuda's classes are replaced

    pretend_device()
    torch.cuda.is_available = lambda: False
    torch.cuda.device_count = lambda: 0
    torch.cuda.current_device = lambda: 0  # made into a torch.device before it is asked for
    torch.cuda.reset_peak_memory_stats = lambda *_: None
    OnHost().__enter__()
    recipe = TrainFinetuneRecipeForNextTokenPrediction(parse_args_and_load_config(sys.argv[1]))
    recipe.setup()
    (model,) = recipe.model_parts
    windows = []

    def seen(module, args, kwargs):
        if module.training:
            windows.append(kwargs["input_ids"].clone())

    labels = []
    honest = recipe.loss_fn.forward

    def scored(*args, **kwargs):
        labels.append(kwargs["labels"].clone())
        return honest(*args, **kwargs)

    recipe.loss_fn.forward = scored
    model.register_forward_pre_hook(seen, with_kwargs=True)
    whole = {
        name: getattr(weight, "full_tensor", lambda weight=weight: weight)().detach().clone()
        for name, weight in model.named_parameters()
    }
    save_file(whole, "first.safetensors")
    recipe.run_train_validation_loop()
    pairs = zip(windows, labels, strict=True)
    np.save(
        "windows.npy", torch.cat([torch.cat([ids, after[:, -1:]], dim=1) for ids, after in pairs]).numpy()
    )


if __name__ == "__main__":
    main()
