"""GPT-NeoX, the architecture of Pythia: LayerNorm, biases, GELU, rotary positions (Black et al. 2022)."""

from .decoder import Decoder

NEOX = Decoder(
    model_type="gpt_neox",
    class_name="GPTNeoX",
    library={
        "vocab_size": 50432,
        "hidden_size": 6144,
        "num_hidden_layers": 44,
        "num_attention_heads": 64,
        "intermediate_size": 24576,
        "max_position_embeddings": 2048,
        "hidden_act": "gelu",
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "classifier_dropout": 0.1,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
        "use_cache": True,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": None,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
        "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.25, "rope_type": "default"},
        "attention_bias": True,
        "is_decoder": False,
    },
    inner=lambda n_embd: 4 * n_embd,
    layer_norm=True,
    gated=False,
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    mlp_bias=True,
)
