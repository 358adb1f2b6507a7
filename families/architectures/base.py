"""The protocol of an architecture, and parts that the architectures share."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ..spec import LARGEST_SIZE, ModelSpec
from ..units import BadInput

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

    A spec's `config` holds what differs from the usual config, and every function here heeds it.
    """

    @property
    def model_type(self) -> str:
        """Return the name in config.json."""

    @property
    def config_class(self) -> str:
        """Return the name of the config's class in transformers."""

    @property
    def model_class(self) -> str:
        """Return the name of the class that is trained, whose parameters are counted."""

    @property
    def causal(self) -> bool:
        """Return True if it is trained to predict the next token."""

    def parameters(self, spec: ModelSpec) -> dict[str, int]:
        """Count trainable parameters by part; their sum is transformers' count of model_class."""

    def counts(self, spec: ModelSpec) -> dict[str, int]:
        """Count all parameters by class of transformers, where one spec makes several models."""

    def idle_parameters(self, spec: ModelSpec) -> int:
        """Count parameters that a token does not pass through: experts that the router leaves out."""

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


def train_flops(matmul_weights: int, spec: ModelSpec, attended: int | None = None) -> int:
    """Count training FLOPs per token: 6 per matmul weight, and 12·n_layer·n_embd·n_positions for attention.

    Args:
        matmul_weights: weights of the products that a token passes through.
        spec: the shape.
        attended: widths of scores and of values in all heads of a block together, 2·n_embd by default.

    Attention scores and values are counted over the full context, as an eager kernel computes them (Chowdhery et al.
    2022, appendix B, without the causal half). Lookups, norms, biases, softmax and activations are left out.
    """
    both = 2 * spec.n_embd if attended is None else attended
    return 6 * matmul_weights + 6 * spec.n_layer * both * spec.n_positions


def score_values(spec: ModelSpec, attention: Attention) -> int:
    """Count values per token and layer: the softmax in eager attention, else one normaliser per head."""
    return spec.n_head * (spec.n_positions if attention == "eager" else 1)


# Entries of config.json that decide neither counts nor logits, or that training sets by itself.
ASIDE = frozenset(
    {
        *EVERY_CONFIG,
        "architectures",
        "auto_map",
        "classifier_dropout",
        "initializer_range",
        "is_decoder",
        "model_type",
        "output_router_logits",
        "pretraining_tp",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def extras_of(
    config: Mapping[str, Any], usual: Mapping[str, Any], aside: Collection[str] = ()
) -> dict[str, Any]:
    """Return the entries of a config in which it differs from the usual one; dropout and book-keeping left out.

    Args:
        config: a Hugging Face config's dictionary, in which every entry of `usual` is stated.
        usual: the entries that are compared.
        aside: further entries that are not compared.

    Raises:
        BadInput: a value of another kind than the usual one.
    """
    found = {}
    for key, expected in usual.items():
        if key in ASIDE or key in aside or "drop" in key:
            continue
        value = config[key]
        if value != expected or isinstance(value, bool) != isinstance(expected, bool):
            _check_kind(key, value, expected)
            found[key] = value
    return found


def _check_kind(key: str, value: Any, expected: Any) -> None:
    if key == "eos_token_id" and isinstance(value, list) and all(isinstance(part, int) for part in value):
        return  # several tokens may end a text
    kinds: tuple[type, ...] = (type(expected),)
    if expected is None or isinstance(expected, int | float):
        kinds = (bool,) if isinstance(expected, bool) else (int, float)
        if expected is None or key in NULLABLE or key in TOKEN_IDS:
            kinds = (*kinds, bool, type(None))
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise BadInput(f"{key} is {value!r}; {key} of this architecture is like {expected!r}")


NULLABLE = ("head_dim", "sliding_window", "q_lora_rank", "final_logit_softcapping", "attn_logit_softcapping")


def whole(config: Mapping[str, Any], key: str, least: int = 1) -> int:
    """Return an entry of a config that must be a whole number.

    Raises:
        BadInput: it is anything else, or out of range.
    """
    value = config[key]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LARGEST_SIZE:
        raise BadInput(
            f"{key} is {value!r}; it must be a whole number of at least {least} and at most {LARGEST_SIZE:,}"
        )
    return value
