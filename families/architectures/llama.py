"""Llama and those built like it: pre-norm, RMSNorm, SwiGLU, rotary positions, grouped queries (Touvron et al. 2023)."""

from typing import Any

from .decoder import Decoder, Mixture


def thirds(n_embd: int) -> int:
    """Return 8/3 of the width, rounded up to a multiple of 256 (Touvron et al. 2023), or of 64 below width 768.

    Three matrices of this width cost as much as GPT-2's two.
    """
    multiple = 256 if n_embd >= 768 else 64
    return -(-8 * n_embd // (3 * multiple)) * multiple


def rope(theta: float) -> dict[str, Any]:
    """Return the entry rope_parameters for a base of the rotations."""
    return {"rope_theta": theta, "rope_type": "default"}


# transformers' defaults of a Llama-like config, which the makers' own change.
COMMON: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "max_position_embeddings": 2048,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "use_cache": True,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "rope_parameters": rope(10000.0),
    "attention_dropout": 0.0,
}

LLAMA = Decoder(
    model_type="llama",
    class_name="Llama",
    library={**COMMON, "head_dim": None, "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1},
    usual={"rms_norm_eps": 1e-5},
    inner=thirds,
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    mlp_bias="mlp_bias",
)


def _half_again(n_embd: int) -> int:
    """Return 3.5 times the width, as in Mistral 7B (Jiang et al. 2023)."""
    return 7 * n_embd // 2


_MISTRAL = {
    **COMMON,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "head_dim": None,
}

MISTRAL = Decoder(
    model_type="mistral",
    class_name="Mistral",
    library={**_MISTRAL, "sliding_window": 4096},
    usual={"rms_norm_eps": 1e-5, "sliding_window": None},
    inner=_half_again,
)

MIXTRAL = Decoder(
    model_type="mixtral",
    class_name="Mixtral",
    library={
        **_MISTRAL,
        "rms_norm_eps": 1e-5,
        "rope_parameters": rope(1e6),
        "sliding_window": None,
        "num_experts_per_tok": 2,
        "num_local_experts": 8,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
        "router_jitter_noise": 0.0,
    },
    inner=_half_again,
    mixture=Mixture(number="num_local_experts"),
)
