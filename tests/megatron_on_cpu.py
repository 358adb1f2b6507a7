"""Megatron-LM's own pre-training on a CPU: a script that takes pretrain_gpt.py's arguments, for tests/test_megatron.py.

The argument parser, the datasets, GPTModel, the optimiser, the schedule, the training loop and its log are megatron-core's
(0.19, whose package holds megatron.training; pretrain_gpt.py itself is in none). Three things are not: CPU tensors stand for
CUDA's, torch.cuda answers as one device would, and the layers are its local ones, since Transformer Engine needs a GPU.
Written beside the run: `first.safetensors` and `last.safetensors`, the weights under transformers' names, and `windows.npy`,
the token windows in the order in which it trained on them.
"""

from functools import partial

import numpy as np
import torch
from on_host import OnHost, pretend_device
from safetensors.torch import save_file


def as_transformers(state, heads):
    """Megatron's weights of a GPT under the names and in the layout of transformers' GPT2LMHeadModel."""
    found = {}
    whole = {
        "embedding.word_embeddings.weight": "wte.weight",
        "embedding.position_embeddings.weight": "wpe.weight",
        "decoder.final_layernorm.": "ln_f.",
    }
    parts = {
        "input_layernorm": "ln_1",
        "self_attention.linear_qkv": "attn.c_attn",
        "self_attention.linear_proj": "attn.c_proj",
        "pre_mlp_layernorm": "ln_2",
        "mlp.linear_fc1": "mlp.c_fc",
        "mlp.linear_fc2": "mlp.c_proj",
    }
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or name.endswith("_extra_state"):
            continue
        theirs = next((name.replace(a, b) for a, b in whole.items() if name.startswith(a)), None)
        if theirs is None:
            _, _, layer, rest = name.split(".", 3)
            part, _, kind = rest.rpartition(".")
            if part.endswith("linear_qkv"):  # by head: query, key, value of the first, and so on
                value = value.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
            if ".linear" in part and kind == "weight":
                value = value.t()
            theirs = f"h.{layer}.{parts[part]}.{kind}"
        found[f"transformer.{theirs}"] = value.detach().clone().contiguous()
    return found


def main():
    """Train as the command line says."""
    pretend_device()
    OnHost().__enter__()
    torch.distributed.init_process_group("gloo")
    from megatron.core.datasets import utils as dataset_utils
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.enums import ModelType
    from megatron.core.tensor_parallel import random as generators
    from megatron.core.utils import get_attr_wrapped_model
    from megatron.training import get_args, get_tokenizer, pretrain
    from megatron.training.argument_utils import gpt_config_from_args, pretrain_cfg_container_from_args
    from megatron.training.arguments import parse_and_validate_args
    from megatron.training.utils import get_blend_and_blend_per_split

    dataset_utils.compile_helpers = lambda: None  # the package holds them compiled
    generators._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    generators._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    windows, models = [], []

    def data(samples, vp_stage=None):
        args = get_args()
        blend, per_split = get_blend_and_blend_per_split(args)
        config = GPTDatasetConfig(
            random_seed=args.seed, sequence_length=args.seq_length, blend=blend, blend_per_split=per_split,
            split=args.split, path_to_cache=args.data_cache_path, tokenizer=get_tokenizer(), reset_position_ids=False,
            reset_attention_mask=False, eod_mask_loss=False, create_attention_mask=args.create_attention_mask_in_dataloader,
        )  # fmt: skip
        return BlendedMegatronDatasetBuilder(GPTDataset, samples, lambda *_: True, config).build()

    data.is_distributed = True

    def save(model, name):
        inner = get_attr_wrapped_model(model, "decoder", return_model_obj=True)
        save_file(as_transformers(inner.state_dict(), get_args().num_attention_heads), name)

    def loss(mask, output):
        total, tokens = (output.view(-1).float() * mask.view(-1)).sum(), mask.sum().detach().to(torch.int)
        return total, tokens, {"lm loss": torch.stack([total.detach(), tokens.float()])}

    def step(batches, model):
        batch = next(batches)
        if not models:
            models.append(model)
            save(model, "first.safetensors")
        if model.training:
            windows.append(torch.cat([batch["tokens"], batch["labels"][:, -1:]], dim=1).numpy())
        output = model(batch["tokens"], batch["position_ids"], None, labels=batch["labels"])
        return output, partial(loss, batch["loss_mask"])

    args = parse_and_validate_args()
    pretrain(
        pretrain_cfg_container_from_args(args, gpt_config_from_args(args)),
        data,
        ModelType.encoder_or_decoder,
        step,
    )
    save(models[0], "last.safetensors")
    np.save("windows.npy", np.concatenate(windows))


if __name__ == "__main__":
    main()
