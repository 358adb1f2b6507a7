"""The registry: a new architecture is one file here and one line below."""

from typing import Any, Protocol

from ..errors import BadInput
from ..spec import ModelSpec
from ..units import nearest
from . import gpt2


class Architecture(Protocol):
    """What an architecture's file provides. All counts are exact and checked against transformers and
    torch.
    """

    def parameters(self, spec: ModelSpec) -> dict[str, int]:
        """Trainable parameters by part; the parts sum to transformers' own count."""

    def default_inner(self, n_embd: int) -> int:
        """The feed-forward width that goes with a width, where nothing else is said."""

    def embedding_parts(self) -> tuple[str, ...]:
        """Names of the parts that are lookups (token and position embeddings)."""

    def train_flops_per_token(self, spec: ModelSpec) -> int:
        """Forward and backward FLOPs per token."""

    def to_hugging_face(self, spec: ModelSpec) -> dict[str, Any]:
        """Keyword arguments of the Hugging Face config."""

    def from_hugging_face(self, config: dict[str, Any]) -> ModelSpec:
        """The spec of a Hugging Face config."""


REGISTRY: dict[str, Architecture] = {
    "gpt2": gpt2.GPT2(),
}


def architecture(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        BadInput: with the nearest match.
    """
    if name not in REGISTRY:
        raise BadInput(f"architecture is {name!r}; {nearest(name, REGISTRY)}")
    return REGISTRY[name]
