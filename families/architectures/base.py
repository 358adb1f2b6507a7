"""What an architecture's file provides, and what the files share."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ..spec import ModelSpec

Attention = Literal["sdpa", "eager"]  # a fused kernel, or scores written out


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationBytes:
    """Bytes that autograd keeps from a 32-bit forward pass with labels, dropout off, weights not counted.

    layer: of one block; `wide` of these stay in 32 bits under bf16 autocast: the residual stream and the
    norms' own. trunk: outside the blocks, embeddings to the head's input, indices among it.
    logits: the log-probabilities that the loss keeps.
    """

    layer: int
    wide: int
    trunk: int
    logits: int


class Architecture(Protocol):
    """One per file. All counts are exact and checked against transformers and torch.

    config_class, model_class: names in transformers; model_class is what is trained, and what `parameters`
    counts.
    """

    config_class: str
    model_class: str
    causal: bool  # trained on the next token

    def parameters(self, spec: ModelSpec) -> dict[str, int]:
        """Trainable parameters by part; the parts sum to transformers' own count of model_class."""

    def counts(self, spec: ModelSpec) -> dict[str, int]:
        """All parameters by transformers' class, where one spec makes several models."""

    def default_inner(self, n_embd: int) -> int:
        """The feed-forward width that goes with a width, where nothing else is said."""

    def block_weights(self, spec: ModelSpec) -> int:
        """Weights of the blocks' matmuls: no biases, norms, embeddings or head."""

    def embedding_parts(self) -> tuple[str, ...]:
        """Names of the parts that are lookups."""

    def train_flops_per_token(self, spec: ModelSpec) -> int:
        """Forward and backward FLOPs per token."""

    def saved(self, spec: ModelSpec, batch: int, attention: Attention) -> ActivationBytes:
        """What autograd keeps for a batch of whole sequences."""

    def to_hugging_face(self, spec: ModelSpec) -> dict[str, Any]:
        """Keyword arguments of the Hugging Face config."""

    def library_defaults(self, spec: ModelSpec) -> dict[str, Any]:
        """What else transformers writes into this model's config.json: its defaults of what is not trained here."""

    def from_hugging_face(self, config: dict[str, Any]) -> ModelSpec:
        """The spec of a Hugging Face config.

        Raises:
            BadInput: a config that this program would count wrongly.
        """


# What transformers writes into every config.json, whatever the architecture.
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
    """6 per matmul weight, and 12·n_layer·n_embd·n_positions for attention scores and values over the full
    context, as an eager kernel computes them (Chowdhery et al. 2022, appendix B, without the causal half).
    Lookups, norms, biases, softmax and activations are left out.
    """
    return 6 * matmul_weights + 12 * spec.n_layer * spec.n_embd * spec.n_positions


def score_values(spec: ModelSpec, attention: Attention) -> int:
    """Per token and layer: the softmax written out, or the fused kernel's one normaliser per head."""
    return spec.n_head * (spec.n_positions if attention == "eager" else 1)
