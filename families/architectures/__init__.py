"""Registry of architectures: a new one is a file here and a line below."""

from typing import Any

from ..spec import ModelSpec
from ..units import BadInput, nearest
from .base import ASIDE, EVERY_CONFIG, ActivationBytes, Architecture, Attention
from .bert import Bert
from .deepseek import DEEPSEEK_V3
from .foreign import Foreign
from .gemma import GEMMA, GEMMA2, GEMMA3
from .gpt2 import GPT2
from .llama import LLAMA, MISTRAL, MIXTRAL
from .neox import NEOX
from .olmo import OLMO2, OLMOE
from .phi import PHI3
from .qwen import QWEN2, QWEN3, QWEN3_MOE

__all__ = [
    "ASIDE",
    "EVERY_CONFIG",
    "FOREIGN",
    "REGISTRY",
    "ActivationBytes",
    "Architecture",
    "Attention",
    "architecture",
    "config_json",
]

_ALL: tuple[Architecture, ...] = (
    GPT2(),
    Bert(),
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
    GEMMA,
    GEMMA2,
    GEMMA3,
    OLMO2,
    NEOX,
    PHI3,
    MIXTRAL,
    QWEN3_MOE,
    OLMOE,
    DEEPSEEK_V3,
)
FOREIGN = Foreign()
REGISTRY: dict[str, Architecture] = {
    entry.model_type: entry for entry in _ALL
}  # by model_type of config.json


def architecture(name: str) -> Architecture:
    """Return the architecture of that name.

    Raises:
        BadInput: the name is unknown; with the nearest match.
    """
    if name == FOREIGN.model_type:
        return FOREIGN
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
        "model_type": entry.model_type,
        **({} if version is None else {"transformers_version": version}),
        **entry.library_defaults(spec),
        **entry.to_hugging_face(spec),
    }
