"""Qwen 2, 2.5 and 3: Llama-like, with biases of queries, keys and values, or with norms of queries and keys per head."""

from collections.abc import Mapping
from typing import Any

from .decoder import Decoder, Mixture
from .llama import COMMON


def _windows(n_layer: int, entries: Mapping[str, Any]) -> list[str]:
    first = n_layer if entries["sliding_window"] is None else entries["max_window_layers"]
    return ["full_attention" if layer < first else "sliding_attention" for layer in range(n_layer)]


def _sixteen_thirds(n_embd: int) -> int:
    """Return 16/3 of the width in multiples of 128; Qwen2.5 has 5.3 to 5.8 (Qwen Team 2024)."""
    return max(1, round(16 * n_embd / (3 * 128))) * 128


def triple(n_embd: int) -> int:
    """Return three times the width, as most of Qwen 3 has (Qwen Team 2025, arXiv:2505.09388)."""
    return 3 * n_embd


_QWEN: dict[str, Any] = {
    **COMMON,
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "bos_token_id": None,
    "eos_token_id": None,
    "use_sliding_window": False,
    "sliding_window": None,
}

QWEN2 = Decoder(
    model_type="qwen2",
    class_name="Qwen2",
    library={**_QWEN, "max_window_layers": 28, "layer_types": None},
    inner=_sixteen_thirds,
    qkv_bias=True,
    layer_types=_windows,
)

QWEN3 = Decoder(
    model_type="qwen3",
    class_name="Qwen3",
    library={**_QWEN, "head_dim": 128, "attention_bias": False, "max_window_layers": 28, "layer_types": None},
    inner=triple,
    qk_norm="head",
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    layer_types=_windows,
)

QWEN3_MOE = Decoder(
    model_type="qwen3_moe",
    class_name="Qwen3Moe",
    library={
        **_QWEN,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "num_key_value_heads": 4,
        "head_dim": None,
        "attention_bias": False,
        "decoder_sparse_step": 1,
        "moe_intermediate_size": 768,
        "num_experts_per_tok": 8,
        "num_local_experts": 128,
        "norm_topk_prob": False,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
        "mlp_only_layers": [],
    },
    inner=triple,
    qk_norm="head",
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    mixture=Mixture(number="num_local_experts", inner="moe_intermediate_size", widths=8),
)
