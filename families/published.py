"""Families of decoders as their makers publish them on the Hugging Face hub: sizes of config.json, and what differs.

Every row was compared with a second public source, Lightning-AI/litgpt's config.py, which links each config.json; DeepSeek-V3
with transformers' defaults. Not found there, and so from memory: OLMo 2 1B and 32B, Phi-3 medium, and OLMoE's width of an
expert.
"""

from collections.abc import Iterator
from typing import Any

from .architectures.llama import rope
from .spec import Extras, ModelSpec

Row = tuple[str, int, int, int, int, int, dict[str, Any]]
# name, n_layer, n_embd, n_head, n_kv_head, n_inner, and what the member alone has

TIED = {"tie_word_embeddings": True}


def llama3_rope(factor: float) -> dict[str, Any]:
    """Return Llama 3.1's rotary positions, stretched by a factor from a context of 8,192."""
    return {
        "rope_parameters": {
            "rope_theta": 500000.0,
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    }


def _specs(
    architecture: str, vocab_size: int, n_positions: int, common: dict[str, Any], rows: tuple[Row, ...]
) -> Iterator[tuple[str, ModelSpec]]:
    for name, layers, width, heads, kv_heads, inner, own in rows:
        config = {**common, **own}
        yield (
            name,
            ModelSpec(
                architecture=architecture,
                n_layer=layers,
                n_embd=width,
                n_head=heads,
                n_kv_head=kv_heads,
                n_inner=inner,
                n_positions=config.pop("n_positions", n_positions),
                vocab_size=config.pop("vocab_size", vocab_size),
                config=Extras(config),
            ),
        )


LLAMA3_ENDS = {"bos_token_id": 128000, "eos_token_id": 128001}
QWEN_ENDS = {"bos_token_id": 151643, "eos_token_id": 151643}
GEMMA_ENDS = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
_ONE_TWO = {"bos_token_id": 1, "eos_token_id": 2}
_H256 = {"head_dim": 256}
_QWEN25 = {**QWEN_ENDS, "rope_parameters": rope(1e6)}
_QWEN3 = {**QWEN_ENDS, "rope_parameters": rope(1e6)}
_H128 = {"head_dim": 128}
_SMOLLM = {**TIED, "bos_token_id": 0, "eos_token_id": 0, "rope_parameters": rope(100000.0)}
_OLMO2 = {
    "bos_token_id": 100257,
    "eos_token_id": 100257,
    "pad_token_id": 100277,
    "rms_norm_eps": 1e-6,
    "rope_parameters": rope(500000.0),
}
_LONG = {"n_positions": 131072}


# fmt: off
PUBLISHED: dict[str, tuple[str, tuple[tuple[str, ModelSpec], ...]]] = {
    "llama-2": (
        "Touvron et al. 2023, arXiv:2307.09288",
        tuple(
            _specs("llama", 32000, 4096, _ONE_TWO, (
                ("llama-2-13b", 40, 5120, 40, 40, 13824, {}),
                ("llama-2-70b", 80, 8192, 64, 8, 28672, {}),
            ))
        ),
    ),
    "llama-3": (
        "Grattafiori et al. 2024, arXiv:2407.21783, table 3; Llama 3.2 as published in September 2024",
        tuple(
            _specs("llama", 128256, 8192, {**LLAMA3_ENDS, "rope_parameters": rope(500000.0)}, (
                ("llama-3.2-1b", 16, 2048, 32, 8, 8192, {**TIED, **llama3_rope(32.0), **_LONG}),
                ("llama-3.2-3b", 28, 3072, 24, 8, 8192, {**TIED, **llama3_rope(32.0), **_LONG}),
                ("llama-3-8b", 32, 4096, 32, 8, 14336, {}),
                ("llama-3.1-8b", 32, 4096, 32, 8, 14336, {**llama3_rope(8.0), **_LONG}),
                ("llama-3-70b", 80, 8192, 64, 8, 28672, {}),
                ("llama-3.1-70b", 80, 8192, 64, 8, 28672, {**llama3_rope(8.0), **_LONG}),
                ("llama-3.1-405b", 126, 16384, 128, 8, 53248, {**llama3_rope(8.0), **_LONG}),
            ))
        ),
    ),
    "mistral": (
        "Jiang et al. 2023, arXiv:2310.06825",
        tuple(
            _specs("mistral", 32000, 32768, _ONE_TWO, (
                ("mistral-7b", 32, 4096, 32, 8, 14336, {"sliding_window": 4096}),
                ("mistral-7b-v0.3", 32, 4096, 32, 8, 14336, {"vocab_size": 32768, "rope_parameters": rope(1e6)}),
            ))
        ),
    ),
    "qwen2.5": (
        "Qwen Team 2024, arXiv:2412.15115",
        tuple(
            _specs("qwen2", 151936, 32768, _QWEN25, (
                ("qwen2.5-0.5b", 24, 896, 14, 2, 4864, TIED),
                ("qwen2.5-1.5b", 28, 1536, 12, 2, 8960, {**TIED, **_LONG}),
                ("qwen2.5-3b", 36, 2048, 16, 2, 11008, TIED),
                ("qwen2.5-7b", 28, 3584, 28, 4, 18944, {"vocab_size": 152064, **_LONG}),
                ("qwen2.5-14b", 48, 5120, 40, 8, 13824, {"vocab_size": 152064, "rms_norm_eps": 1e-5, **_LONG}),
                ("qwen2.5-32b", 64, 5120, 40, 8, 27648, {"vocab_size": 152064, "rms_norm_eps": 1e-5, **_LONG}),
                ("qwen2.5-72b", 80, 8192, 64, 8, 29568, {"vocab_size": 152064, "rms_norm_eps": 1e-5, **_LONG}),
            ))
        ),
    ),
    "qwen3": (
        "Qwen Team 2025, arXiv:2505.09388, table 1",
        tuple(
            _specs("qwen3", 151936, 32768, _QWEN3, (
                ("qwen3-0.6b", 28, 1024, 16, 8, 3072, {**TIED, **_H128}),
                ("qwen3-1.7b", 28, 2048, 16, 8, 6144, TIED),
                ("qwen3-4b", 36, 2560, 32, 8, 9728, {**TIED, **_H128}),
                ("qwen3-8b", 36, 4096, 32, 8, 12288, {}),
                ("qwen3-14b", 40, 5120, 40, 8, 17408, {}),
                ("qwen3-32b", 64, 5120, 64, 8, 25600, _H128),
            ))
        ),
    ),
    "qwen3-moe": (
        "Qwen Team 2025, arXiv:2505.09388, table 2",
        tuple(
            _specs("qwen3_moe", 151936, 32768, {**_QWEN3, "norm_topk_prob": True}, (
                ("qwen3-30b-a3b", 48, 2048, 32, 4, 6144, _H128),
                ("qwen3-235b-a22b", 94, 4096, 64, 4, 12288, _H128),
            ))
        ),
    ),
    "gemma-2": (
        "Gemma Team 2024, arXiv:2408.00118, table 1",
        tuple(
            _specs("gemma2", 256000, 8192, GEMMA_ENDS, (
                ("gemma-2-2b", 26, 2304, 8, 4, 9216, _H256),
                ("gemma-2-9b", 42, 3584, 16, 8, 14336, _H256),
                ("gemma-2-27b", 46, 4608, 32, 16, 36864, {**_H128, "query_pre_attn_scalar": 144}),
            ))
        ),
    ),
    "gemma-3": (
        "Gemma Team 2025, arXiv:2503.19786; the larger members, which see images too, are not listed",
        tuple(
            _specs("gemma3_text", 262144, 32768, GEMMA_ENDS, (
                ("gemma-3-1b", 26, 1152, 4, 1, 6912, {**_H256, "sliding_window": 512}),
            ))
        ),
    ),
    "olmo-2": (
        "OLMo Team 2024, arXiv:2501.00656, table 3",
        tuple(
            _specs("olmo2", 100352, 4096, _OLMO2, (
                ("olmo-2-1b", 16, 2048, 16, 16, 8192, {}),
                ("olmo-2-7b", 32, 4096, 32, 32, 11008, {}),
                ("olmo-2-13b", 40, 5120, 40, 40, 13824, {}),
                ("olmo-2-32b", 64, 5120, 40, 8, 27648, {}),
            ))
        ),
    ),
    "pythia": (
        "Biderman et al. 2023, arXiv:2304.01373, table 1",
        tuple(
            _specs("gpt_neox", 50304, 2048, {"bos_token_id": 0, "eos_token_id": 0}, (
                ("pythia-70m", 6, 512, 8, 0, 2048, {}),
                ("pythia-160m", 12, 768, 12, 0, 3072, {}),
                ("pythia-410m", 24, 1024, 16, 0, 4096, {}),
                ("pythia-1b", 16, 2048, 8, 0, 8192, {}),
                ("pythia-1.4b", 24, 2048, 16, 0, 8192, {}),
                ("pythia-2.8b", 32, 2560, 32, 0, 10240, {}),
                ("pythia-6.9b", 32, 4096, 32, 0, 16384, {"vocab_size": 50432}),
                ("pythia-12b", 36, 5120, 40, 0, 20480, {"vocab_size": 50688}),
            ))
        ),
    ),
    "smollm2": (
        "Ben Allal et al. 2025, arXiv:2502.02737",
        tuple(
            _specs("llama", 49152, 8192, _SMOLLM, (
                ("smollm2-135m", 30, 576, 9, 3, 1536, {}),
                ("smollm2-360m", 32, 960, 15, 5, 2560, {}),
                ("smollm2-1.7b", 24, 2048, 32, 32, 8192, {"rope_parameters": rope(130000.0)}),
            ))
        ),
    ),
    "phi-3": (
        "Abdin et al. 2024, arXiv:2404.14219",
        tuple(
            _specs("phi3", 32064, 4096, {"bos_token_id": 1, "eos_token_id": 32000, "pad_token_id": 32000}, (
                ("phi-3-mini", 32, 3072, 32, 32, 8192, {"sliding_window": 2047}),
                ("phi-3-medium", 40, 5120, 40, 10, 17920, {"sliding_window": 2047}),
            ))
        ),
    ),
    "mixtral": (
        "Jiang et al. 2024, arXiv:2401.04088",
        tuple(
            _specs("mixtral", 32000, 32768, _ONE_TWO, (
                ("mixtral-8x7b", 32, 4096, 32, 8, 14336, {}),
                ("mixtral-8x22b", 56, 6144, 48, 8, 16384, {"vocab_size": 32768, "n_positions": 65536}),
            ))
        ),
    ),
    "olmoe": (
        "Muennighoff et al. 2024, arXiv:2409.02060, table 1",
        tuple(
            _specs("olmoe", 50304, 4096, {"bos_token_id": None, "eos_token_id": 50279, "pad_token_id": 1}, (
                ("olmoe-1b-7b", 16, 2048, 16, 16, 1024, {}),
            ))
        ),
    ),
    "deepseek-v3": (
        "DeepSeek-AI 2024, arXiv:2412.19437; without its module for multi-token prediction, as transformers counts it",
        tuple(
            _specs("deepseek_v3", 129280, 4096, {"bos_token_id": 0, "eos_token_id": 1}, (
                ("deepseek-v3", 61, 7168, 128, 128, 18432, {}),
            ))
        ),
    ),
}
