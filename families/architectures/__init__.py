"""The registry: a new architecture is one file here and one line below."""

from typing import Any

from ..spec import ModelSpec
from ..units import BadInput, nearest
from .base import EVERY_CONFIG, ActivationBytes, Architecture, Attention
from .bert import Bert
from .gpt2 import GPT2
from .llama import Llama

__all__ = ["REGISTRY", "ActivationBytes", "Architecture", "Attention", "architecture", "config_json"]

REGISTRY: dict[str, Architecture] = {
    "gpt2": GPT2(),
    "bert": Bert(),
    "llama": Llama(),
}


def architecture(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        BadInput: with the nearest match.
    """
    if name not in REGISTRY:
        raise BadInput(f"architecture is {name!r}; {nearest(name, REGISTRY)}")
    return REGISTRY[name]


def config_json(spec: ModelSpec, version: str | None) -> dict[str, Any]:
    """What that version of transformers writes as config.json, without the seconds that importing it takes; without
    a version the key transformers_version is left out, which the library reads as well.
    """
    found = architecture(spec.architecture)
    return {
        **EVERY_CONFIG,
        "architectures": [found.model_class],
        "model_type": spec.architecture,
        **({} if version is None else {"transformers_version": version}),
        **found.library_defaults(spec),
        **found.to_hugging_face(spec),
    }
