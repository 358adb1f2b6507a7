"""OLMo 2 and OLMoE: norms of queries and keys over all heads; in OLMo 2 norms after the layers (OLMo Team 2024)."""

from .decoder import Decoder, Mixture
from .llama import COMMON, thirds

_OLMO = {
    **COMMON,
    "vocab_size": 50304,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": None,
    "eos_token_id": 50279,
    "attention_bias": False,
}

OLMO2 = Decoder(
    model_type="olmo2",
    class_name="Olmo2",
    library=_OLMO,
    inner=thirds,
    qk_norm="width",
    qkv_bias="attention_bias",
    out_bias="attention_bias",
)

OLMOE = Decoder(
    model_type="olmoe",
    class_name="Olmoe",
    library={
        **_OLMO,
        "hidden_size": 2048,
        "intermediate_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "max_position_embeddings": 4096,
        "clip_qkv": None,
        "num_experts_per_tok": 8,
        "num_experts": 64,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.01,
        "norm_topk_prob": False,
    },
    inner=lambda n_embd: n_embd // 2,  # of one expert (Muennighoff et al. 2024, arXiv:2409.02060)
    qk_norm="width",
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    mixture=Mixture(number="num_experts"),
)
