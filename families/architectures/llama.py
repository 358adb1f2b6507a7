"""Llama: pre-norm decoder with RMSNorm, SwiGLU, rotary positions, grouped queries (Touvron et al. 2023)."""

from typing import Any

from ..spec import ModelSpec
from ..units import BadInput
from .base import ActivationBytes, Attention, score_values, train_flops


class Llama:
    """Counts of transformers' LlamaForCausalLM with an untied head and no biases."""

    config_class = "LlamaConfig"
    model_class = "LlamaForCausalLM"
    causal = True

    def parameters(self, spec: ModelSpec) -> dict[str, int]:
        """Count by part. Positions are rotations and have no parameters."""
        d, layers = spec.n_embd, spec.n_layer
        return {
            "token_embedding": spec.vocab_size * d,
            "attention": layers * (2 * d * d + 2 * d * _kv_width(spec)),
            "feed_forward": layers * 3 * d * spec.n_inner,
            "rms_norm": layers * 2 * d + d,
            "head": spec.vocab_size * d,
        }

    def counts(self, spec: ModelSpec) -> dict[str, int]:
        """Count the language model, and the trunk without its head."""
        parts = self.parameters(spec)
        total = sum(parts.values())
        return {self.model_class: total, "LlamaModel": total - parts["head"]}

    def default_inner(self, n_embd: int) -> int:
        """Return 8/3 of the width, rounded up to a multiple of 256 (Touvron et al. 2023), or of 64 below width 768.

        Three matrices of this width cost as much as GPT-2's two.
        """
        multiple = 256 if n_embd >= 768 else 64
        return -(-8 * n_embd // (3 * multiple)) * multiple

    def block_weights(self, spec: ModelSpec) -> int:
        """Count queries and output, keys and values of fewer heads, three feed-forward matrices."""
        parts = self.parameters(spec)
        return parts["attention"] + parts["feed_forward"]

    def embedding_parts(self) -> tuple[str, ...]:
        """Return the token embedding; the head is a matrix of its own."""
        return ("token_embedding",)

    def train_flops_per_token(self, spec: ModelSpec) -> int:
        """Count forward and backward. Grouped queries save weights, not scores."""
        return train_flops(self.block_weights(spec) + spec.vocab_size * spec.n_embd, spec)

    def activation_bytes(self, spec: ModelSpec, batch: int, attention: Attention) -> ActivationBytes:
        """Count bytes that autograd keeps.

        Per layer and token: three values of each norm and its statistic, q, the attention's output, k and v (copied to
        every head in eager attention), four feed-forward values.
        """
        tokens, d = batch * spec.n_positions, spec.n_embd
        keys_and_values = 2 * (d if attention == "eager" else _kv_width(spec))
        layer = 8 * d + keys_and_values + score_values(spec, attention) + 4 * spec.n_inner + 2
        rotations = 8 * spec.n_positions * (d // spec.n_head)  # cosines and sines, once for all layers
        trunk = 4 * tokens * (3 * d + 1) + 16 * tokens + rotations + 4  # 64-bit ids and labels
        wide = 4 * d + 2 + spec.n_head
        return ActivationBytes(
            layer=4 * tokens * layer, wide=4 * tokens * wide, trunk=trunk, logits=4 * tokens * spec.vocab_size
        )

    def to_hugging_face(self, spec: ModelSpec) -> dict[str, Any]:
        """Return arguments of LlamaConfig."""
        return {
            "vocab_size": spec.vocab_size,
            "hidden_size": spec.n_embd,
            "num_hidden_layers": spec.n_layer,
            "num_attention_heads": spec.n_head,
            "num_key_value_heads": spec.n_kv_head,
            "intermediate_size": spec.n_inner,
            "max_position_embeddings": spec.n_positions,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "initializer_range": 0.02,
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "tie_word_embeddings": False,
            "use_cache": True,
            "bos_token_id": spec.vocab_size - 1,
            "eos_token_id": spec.vocab_size - 1,
        }

    def library_defaults(self, spec: ModelSpec) -> dict[str, Any]:
        """Return the head size, which follows from the width, and defaults of rotary positions."""
        return {
            "head_dim": spec.n_embd // spec.n_head,
            "pad_token_id": None,
            "pretraining_tp": 1,
            "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        }

    def from_hugging_face(self, config: dict[str, Any]) -> ModelSpec:
        """Return the spec of a LlamaConfig's dictionary; missing keys take LlamaConfig's defaults."""
        for name in ("tie_word_embeddings", "attention_bias", "mlp_bias"):
            if config.get(name, False):
                raise BadInput(f"{name} is true; Llama is counted with a head of its own and without biases")
        heads, width = config.get("num_attention_heads", 32), config.get("hidden_size", 4096)
        head_dim = config.get("head_dim") or width // heads
        if head_dim * heads != width:
            raise BadInput(
                f"head_dim is {head_dim}; Llama is counted with hidden_size/heads, {width // heads}"
            )
        return ModelSpec(
            architecture="llama",
            n_layer=config.get("num_hidden_layers", 32),
            n_head=heads,
            n_embd=width,
            n_inner=config.get("intermediate_size", 11008),
            n_positions=config.get("max_position_embeddings", 2048),
            vocab_size=config.get("vocab_size", 32000),
            n_kv_head=config.get("num_key_value_heads") or 0,
        )


def _kv_width(spec: ModelSpec) -> int:
    return spec.n_kv_head * (spec.n_embd // spec.n_head)
