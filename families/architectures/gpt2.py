"""GPT-2: pre-norm decoder, learned positions, tied head (Radford et al. 2019)."""

from dataclasses import replace
from typing import Any

from ..spec import ModelSpec
from ..units import BadInput
from .base import TOKEN_IDS, ActivationBytes, Attention, extras_of, score_values, train_flops


class GPT2:
    """Counts of transformers' GPT2LMHeadModel."""

    model_type = "gpt2"
    config_class = "GPT2Config"
    model_class = "GPT2LMHeadModel"
    causal = True

    def parameters(self, spec: ModelSpec) -> dict[str, int]:
        """Count by part. With n_inner = 4d the sum is n_layer·(12d² + 13d) + V·d + T·d + 2d."""
        d, inner, layers = spec.n_embd, spec.n_inner, spec.n_layer
        return {
            "token_embedding": spec.vocab_size * d,
            "position_embedding": spec.n_positions * d,
            "attention": layers * (4 * d * d + 4 * d),
            "feed_forward": layers * (2 * d * inner + inner + d),
            "layer_norm": layers * 4 * d + 2 * d,
        }

    def counts(self, spec: ModelSpec) -> dict[str, int]:
        """Count one class: the head is tied, and GPT2Model counts the same."""
        return {self.model_class: sum(self.parameters(spec).values())}

    def idle_parameters(self, spec: ModelSpec) -> int:
        """Return 0: every token passes through all of them."""
        return 0

    def default_inner(self, n_embd: int) -> int:
        """Return 4·n_embd (Radford et al. 2019)."""
        return 4 * n_embd

    def block_weights(self, spec: ModelSpec) -> int:
        """Count four square matrices and two of the feed-forward layer."""
        return spec.n_layer * (4 * spec.n_embd**2 + 2 * spec.n_embd * spec.n_inner)

    def embedding_parts(self) -> tuple[str, ...]:
        """Return the two embeddings; the head is tied to that of tokens and has no parameters of its own."""
        return ("token_embedding", "position_embedding")

    def train_flops_per_token(self, spec: ModelSpec) -> int:
        """Count forward and backward, with the matmul of the tied head."""
        return train_flops(self.block_weights(spec) + spec.vocab_size * spec.n_embd, spec)

    def activation_bytes(self, spec: ModelSpec, batch: int, attention: Attention) -> ActivationBytes:
        """Count bytes that autograd keeps.

        Per layer and token: inputs and outputs of both norms and their two statistics, q, k, v and the attention's
        output (transformers' fused path copies two of them), five feed-forward values of an unfused gelu_new.
        """
        tokens, d = batch * spec.n_positions, spec.n_embd
        attention_values = (8 if attention == "eager" else 10) * d + score_values(spec, attention)
        layer = attention_values + 5 * spec.n_inner + 4
        trunk = (
            4 * tokens * (2 * d + 2) + 16 * tokens + 8 * spec.n_positions + 4
        )  # 64-bit ids, labels, positions
        wide = 2 * d + 4 + spec.n_head
        return ActivationBytes(
            layer=4 * tokens * layer, wide=4 * tokens * wide, trunk=trunk, logits=4 * tokens * spec.vocab_size
        )

    def to_hugging_face(self, spec: ModelSpec) -> dict[str, Any]:
        """Return arguments of GPT2Config. Dropout is off: the library's default of 0.1 costs loss in a single epoch.

        n_inner is null where it is 4d, as in GPT-2's published configs. The first and last token of a text are the last
        of the vocabulary, where GPT-2 has <|endoftext|>.
        """
        return {
            "vocab_size": spec.vocab_size,
            "n_positions": spec.n_positions,
            "n_embd": spec.n_embd,
            "n_layer": spec.n_layer,
            "n_head": spec.n_head,
            "n_inner": None if spec.n_inner == 4 * spec.n_embd else spec.n_inner,
            "activation_function": "gelu_new",
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "layer_norm_epsilon": 1e-5,
            "initializer_range": 0.02,
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "reorder_and_upcast_attn": False,
            "tie_word_embeddings": True,
            "use_cache": True,
            "bos_token_id": spec.vocab_size - 1,
            "eos_token_id": spec.vocab_size - 1,
            **spec.config,
        }

    def library_defaults(self, spec: ModelSpec) -> dict[str, Any]:
        """Return defaults of cross-attention and of the summary of GPT2DoubleHeadsModel."""
        return {
            "add_cross_attention": False,
            "pad_token_id": None,
            "summary_activation": None,
            "summary_first_dropout": 0.1,
            "summary_proj_to_labels": True,
            "summary_type": "cls_index",
            "summary_use_proj": True,
        }

    def from_hugging_face(self, config: dict[str, Any]) -> ModelSpec:
        """Return the spec of a GPT2Config's dictionary; missing keys take GPT2Config's defaults."""
        if not config.get("tie_word_embeddings", True):
            raise BadInput("tie_word_embeddings is false; GPT-2 is counted with a tied head")
        if config.get("add_cross_attention"):
            raise BadInput("add_cross_attention is true; GPT-2 is counted as a decoder alone")
        spec = ModelSpec(
            architecture="gpt2",
            n_layer=config.get("n_layer", 12),
            n_head=config.get("n_head", 12),
            n_embd=config.get("n_embd", 768),
            n_inner=config.get("n_inner") or 0,
            n_positions=config.get("n_positions", 1024),
            vocab_size=config.get("vocab_size", 50257),
        )
        usual = self.to_hugging_face(spec)
        return replace(spec, config=extras_of({**usual, **config}, usual, (*SIZE_KEYS, *TOKEN_IDS)))


SIZE_KEYS = ("n_layer", "n_head", "n_embd", "n_inner", "n_positions", "vocab_size")
