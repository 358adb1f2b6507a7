"""Registry of architectures: a new one is a file here and a line below."""

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
    """Return the architecture of that name.

    Raises:
        BadInput: the name is unknown; with the nearest match.
    """
    if name not in REGISTRY:
        raise BadInput(f"architecture is {name!r}; {nearest(name, REGISTRY)}")
    return REGISTRY[name]


def config_json(spec: ModelSpec, version: str | None) -> dict[str, Any]:
    """Return config.json as that version of transformers writes it, without the time to import it.

    Without a version the key transformers_version is left out; the library reads such a file too.
    """
    entry = architecture(spec.architecture)
    return {
        **EVERY_CONFIG,
        "architectures": [entry.model_class],
        "model_type": spec.architecture,
        **({} if version is None else {"transformers_version": version}),
        **entry.library_defaults(spec),
        **entry.to_hugging_face(spec),
    }
