"""Phi-3: Llama-like, with one matrix for queries, keys and values and one for both halves of SwiGLU (Abdin et al. 2024)."""

from .decoder import Decoder
from .llama import COMMON, thirds

PHI3 = Decoder(
    model_type="phi3",
    class_name="Phi3",
    library={
        **COMMON,
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 1.0, "rope_type": "default"},
        "eos_token_id": 32000,
        "pad_token_id": 32000,
        "sliding_window": None,
    },
    inner=thirds,
)
