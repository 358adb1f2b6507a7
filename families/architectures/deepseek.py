"""DeepSeek-V3: latent attention, routed and shared experts after a few dense layers (DeepSeek-AI 2024, arXiv:2412.19437)."""

from .decoder import Decoder, Mixture
from .llama import COMMON


def _eighteen_sevenths(n_embd: int) -> int:
    """Return 18/7 of the width (18,432 at 7,168), a multiple of nine experts of a multiple of 64."""
    return max(1, round(18 * n_embd / (7 * 576))) * 576


DEEPSEEK_V3 = Decoder(
    model_type="deepseek_v3",
    class_name="DeepseekV3",
    library={
        **COMMON,
        "vocab_size": 129280,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "max_position_embeddings": 4096,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "moe_intermediate_size": 2048,
        "n_shared_experts": 1,
        "n_routed_experts": 256,
        "output_router_logits": False,
        "routed_scaling_factor": 2.5,
        "kv_lora_rank": 512,
        "q_lora_rank": 1536,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "qk_nope_head_dim": 128,
        "n_group": 8,
        "topk_group": 4,
        "num_experts_per_tok": 8,
        "first_k_dense_replace": 3,
        "norm_topk_prob": True,
        "pretraining_tp": 1,
        "rope_interleave": True,
        "attention_bias": False,
        "num_nextn_predict_layers": 1,
    },
    inner=_eighteen_sevenths,
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    latent=True,
    mixture=Mixture(
        number="n_routed_experts",
        inner="moe_intermediate_size",
        shared="n_shared_experts",
        first_dense="first_k_dense_replace",
        widths=9,
    ),
    derived=lambda spec, entries: {
        "qk_head_dim": entries["qk_nope_head_dim"] + entries["qk_rope_head_dim"],
        "head_dim": entries["qk_rope_head_dim"],
    },
)
