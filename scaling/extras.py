"""Packages of the extra [train]: which are missing, and how to install them. Imports none of them, and no numpy."""

from collections.abc import Iterable
from importlib.util import find_spec

from families.units import BadInput

TRAINING = ("torch", "transformers")  # imported by the verbs that train; part of the extra [train]

TRAIN_EXTRA = (*TRAINING, "tokenizers", "safetensors", "huggingface_hub")  # all packages of that extra

INSTALL_TRAINING = "pip install 'scaling-planner[train]'"


def require_training(verb: str) -> None:
    """Check that the packages of the extra [train] are installed, without importing them.

    Raises:
        BadInput: with the missing packages, and how to install them.
    """
    if missing := [name for name in TRAINING if not importable(name)]:
        raise BadInput(f"{verb} {training_needs(missing)}")


def training_needs(missing: Iterable[str]) -> str:
    """Return the message on missing packages of the extra [train]."""
    return f"needs {' and '.join(missing)}: {INSTALL_TRAINING}"


def importable(name: str) -> bool:
    """Return True if a package can be imported, without importing it."""
    try:
        return find_spec(name) is not None
    except ImportError:
        return False
