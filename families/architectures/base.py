"""The protocol of an architecture, and parts that the architectures share."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ..spec import ModelSpec

Attention = Literal["sdpa", "eager"]  # a fused kernel, or scores written out


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationBytes:
    """Bytes that autograd keeps from a 32-bit forward pass with labels, dropout off, weights not counted.

    Args:
        layer: bytes of one block.
        wide: bytes of one block that stay in 32 bits under bf16 autocast: the residual stream and the norms' own.
        trunk: bytes outside the blocks, from the embeddings to the head's input, with indices.
        logits: bytes of the log-probabilities that the loss keeps.
    """

    layer: int
    wide: int
    trunk: int
    logits: int


class Architecture(Protocol):
    """An architecture of transformers. All counts are exact, and tested against transformers and torch.

    Args:
        config_class: name of the config's class in transformers.
        model_class: name of the class that is trained, whose parameters are counted.
        causal: trained to predict the next token.
    """

    config_class: str
    model_class: str
    causal: bool

    def parameters(self, spec: ModelSpec) -> dict[str, int]:
        """Count trainable parameters by part; their sum is transformers' count of model_class."""

    def counts(self, spec: ModelSpec) -> dict[str, int]:
        """Count all parameters by class of transformers, where one spec makes several models."""

    def default_inner(self, n_embd: int) -> int:
        """Return the usual width of the feed-forward layer for n_embd."""

    def block_weights(self, spec: ModelSpec) -> int:
        """Count weights of the blocks' matmuls, without biases, norms, embeddings and head."""

    def embedding_parts(self) -> tuple[str, ...]:
        """Return the names of the parts that are lookups."""

    def train_flops_per_token(self, spec: ModelSpec) -> int:
        """Count forward and backward FLOPs per token."""

    def activation_bytes(self, spec: ModelSpec, batch: int, attention: Attention) -> ActivationBytes:
        """Count bytes that autograd keeps for a batch of sequences of n_positions tokens."""

    def to_hugging_face(self, spec: ModelSpec) -> dict[str, Any]:
        """Return keyword arguments of the Hugging Face config."""

    def library_defaults(self, spec: ModelSpec) -> dict[str, Any]:
        """Return further entries of config.json: transformers' defaults of features that are not trained here."""

    def from_hugging_face(self, config: dict[str, Any]) -> ModelSpec:
        """Return the spec of a Hugging Face config, given as a dictionary.

        Raises:
            BadInput: the config has a feature that the counts do not cover.
        """


# Entries that transformers writes into the config.json of every architecture.
EVERY_CONFIG: dict[str, Any] = {
    "_name_or_path": "",
    "chunk_size_feed_forward": 0,
    "dtype": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "is_encoder_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "output_attentions": False,
    "output_hidden_states": False,
    "problem_type": None,
    "return_dict": True,
}


def train_flops(matmul_weights: int, spec: ModelSpec) -> int:
    """Count training FLOPs per token: 6 per matmul weight, and 12·n_layer·n_embd·n_positions for attention.

    Attention scores and values are counted over the full context, as an eager kernel computes them (Chowdhery et al.
    2022, appendix B, without the causal half). Lookups, norms, biases, softmax and activations are left out.
    """
    return 6 * matmul_weights + 12 * spec.n_layer * spec.n_embd * spec.n_positions


def score_values(spec: ModelSpec, attention: Attention) -> int:
    """Count values per token and layer: the softmax in eager attention, else one normaliser per head."""
    return spec.n_head * (spec.n_positions if attention == "eager" else 1)
