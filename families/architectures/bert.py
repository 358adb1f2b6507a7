"""BERT: post-norm encoder, learned positions, two segments, tied masked-LM head (Devlin et al. 2019)."""

from dataclasses import replace
from typing import Any

from ..spec import ModelSpec
from ..units import BadInput
from .base import TOKEN_IDS, ActivationBytes, Attention, extras_of, score_values, train_flops

SEGMENTS = 2  # type_vocab_size: first and second sentence


class Bert:
    """Counts of transformers' BertForMaskedLM, the model that is trained; `counts` has the bare encoder too."""

    model_type = "bert"
    config_class = "BertConfig"
    model_class = "BertForMaskedLM"
    causal = False

    def parameters(self, spec: ModelSpec) -> dict[str, int]:
        """Count by part. The head is a dense layer, a norm, and the tied embedding with a bias of its own."""
        d, inner, layers = spec.n_embd, spec.n_inner, spec.n_layer
        return {
            "token_embedding": spec.vocab_size * d,
            "position_embedding": spec.n_positions * d,
            "segment_embedding": SEGMENTS * d,
            "attention": layers * (4 * d * d + 4 * d),
            "feed_forward": layers * (2 * d * inner + inner + d),
            "layer_norm": layers * 4 * d + 2 * d,
            "head": d * d + 3 * d + spec.vocab_size,
        }

    def counts(self, spec: ModelSpec) -> dict[str, int]:
        """Count the masked LM, and the encoder with its pooler, which is the size usually quoted."""
        parts = self.parameters(spec)
        total = sum(parts.values())
        pooler = spec.n_embd * spec.n_embd + spec.n_embd
        return {self.model_class: total, "BertModel": total - parts["head"] + pooler}

    def idle_parameters(self, spec: ModelSpec) -> int:
        """Return 0: every token passes through all of them."""
        return 0

    def default_inner(self, n_embd: int) -> int:
        """Return 4·n_embd (Vaswani et al. 2017)."""
        return 4 * n_embd

    def block_weights(self, spec: ModelSpec) -> int:
        """Count four square matrices and two of the feed-forward layer."""
        return spec.n_layer * (4 * spec.n_embd**2 + 2 * spec.n_embd * spec.n_inner)

    def embedding_parts(self) -> tuple[str, ...]:
        """Return the three embeddings; the matmul of the head is tied to that of tokens."""
        return ("token_embedding", "position_embedding", "segment_embedding")

    def train_flops_per_token(self, spec: ModelSpec) -> int:
        """Count forward and backward; the head at every position, masked or not, as transformers computes it."""
        d = spec.n_embd
        return train_flops(self.block_weights(spec) + d * d + spec.vocab_size * d, spec)

    def activation_bytes(self, spec: ModelSpec, batch: int, attention: Attention) -> ActivationBytes:
        """Count bytes that autograd keeps.

        Per layer and token: the block's input, q, k, v, the attention's output, both norms' inputs and statistics, one
        norm's output, two feed-forward values.
        """
        tokens, d = batch * spec.n_positions, spec.n_embd
        layer = 8 * d + score_values(spec, attention) + 2 * spec.n_inner + 4
        trunk = (
            4 * tokens * (5 * d + 4) + 16 * tokens + 8 * spec.n_positions + 4
        )  # 64-bit ids, labels, positions
        wide = 2 * d + 4 + spec.n_head
        return ActivationBytes(
            layer=4 * tokens * layer, wide=4 * tokens * wide, trunk=trunk, logits=4 * tokens * spec.vocab_size
        )

    def to_hugging_face(self, spec: ModelSpec) -> dict[str, Any]:
        """Return arguments of BertConfig, dropout off."""
        return {
            "vocab_size": spec.vocab_size,
            "hidden_size": spec.n_embd,
            "num_hidden_layers": spec.n_layer,
            "num_attention_heads": spec.n_head,
            "intermediate_size": spec.n_inner,
            "max_position_embeddings": spec.n_positions,
            "type_vocab_size": SEGMENTS,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "initializer_range": 0.02,
            "layer_norm_eps": 1e-12,
            "pad_token_id": 0,
            "tie_word_embeddings": True,
            "use_cache": True,
            **spec.config,
        }

    def library_defaults(self, spec: ModelSpec) -> dict[str, Any]:
        """Return defaults of classifiers and decoders."""
        return {
            "add_cross_attention": False,
            "bos_token_id": None,
            "classifier_dropout": None,
            "eos_token_id": None,
            "is_decoder": False,
        }

    def from_hugging_face(self, config: dict[str, Any]) -> ModelSpec:
        """Return the spec of a BertConfig's dictionary; missing keys take BertConfig's defaults."""
        if not config.get("tie_word_embeddings", True):
            raise BadInput("tie_word_embeddings is false; BERT is counted with a tied head")
        if config.get("type_vocab_size", SEGMENTS) != SEGMENTS:
            raise BadInput(
                f"type_vocab_size is {config['type_vocab_size']}; BERT is counted with {SEGMENTS} segments"
            )
        spec = ModelSpec(
            architecture="bert",
            n_layer=config.get("num_hidden_layers", 12),
            n_head=config.get("num_attention_heads", 12),
            n_embd=config.get("hidden_size", 768),
            n_inner=config.get("intermediate_size", 3072),
            n_positions=config.get("max_position_embeddings", 512),
            vocab_size=config.get("vocab_size", 30522),
        )
        usual = self.to_hugging_face(spec)
        return replace(spec, config=extras_of({**usual, **config}, usual, (*SIZE_KEYS, *TOKEN_IDS)))


SIZE_KEYS = (
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "vocab_size",
)
