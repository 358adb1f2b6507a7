"""Gemma 1, 2 and 3: tied heads, heads wider than the width gives, gated GELU, in 2 and 3 four norms and windows."""

from collections.abc import Mapping
from typing import Any

from .decoder import Decoder
from .llama import COMMON, rope


def _every_second(n_layer: int, entries: Mapping[str, Any]) -> list[str]:
    return ["full_attention" if layer % 2 else "sliding_attention" for layer in range(n_layer)]


def _five_to_one(n_layer: int, entries: Mapping[str, Any]) -> list[str]:
    every = entries.get("sliding_window_pattern", entries.get("_sliding_window_pattern", 6))
    every = every if isinstance(every, int) and every > 0 else 6
    return ["sliding_attention" if (layer + 1) % every else "full_attention" for layer in range(n_layer)]


def quadruple(n_embd: int) -> int:
    """Return four times the width, as Gemma 2's 2B and 9B have (Gemma Team 2024, arXiv:2408.00118)."""
    return 4 * n_embd


_GEMMA: dict[str, Any] = {
    **{key: value for key, value in COMMON.items() if key != "hidden_act"},
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "tie_word_embeddings": True,
    "attention_bias": False,
}

GEMMA = Decoder(
    model_type="gemma",
    class_name="Gemma",
    library={
        **_GEMMA,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "use_bidirectional_attention": None,
    },
    inner=lambda n_embd: 8 * n_embd,  # Gemma Team 2024, arXiv:2403.08295, table 1
    qkv_bias="attention_bias",
    out_bias="attention_bias",
)

_LATER: dict[str, Any] = {
    **_GEMMA,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "layer_types": None,
}

GEMMA2 = Decoder(
    model_type="gemma2",
    class_name="Gemma2",
    library={
        **_LATER,
        "final_logit_softcapping": 30.0,
        "attn_logit_softcapping": 50.0,
        "use_bidirectional_attention": None,
    },
    inner=quadruple,
    norms=4,
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    layer_types=_every_second,
)

GEMMA3 = Decoder(
    model_type="gemma3_text",
    class_name="Gemma3",
    config_name="Gemma3TextConfig",
    library={
        **_LATER,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "rope_parameters": {"sliding_attention": rope(10000.0), "full_attention": rope(1e6)},
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
        "use_bidirectional_attention": False,
    },
    inner=quadruple,
    norms=4,
    qk_norm="head",
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    layer_types=_five_to_one,
    derived=lambda spec, entries: {"_sliding_window_pattern": 6},
)
