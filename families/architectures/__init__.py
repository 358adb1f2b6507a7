"""The registry: a new architecture is one file here and one line below."""

from ..errors import BadInput
from ..units import nearest
from .base import Architecture, Attention, Saved
from .bert import Bert
from .gpt2 import GPT2
from .llama import Llama

__all__ = ["REGISTRY", "Architecture", "Attention", "Saved", "architecture"]

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
