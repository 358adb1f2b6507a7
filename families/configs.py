"""Any config.json as a member: counted here where its architecture is known, else by transformers on the meta device."""

import json
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .architectures import ASIDE, EVERY_CONFIG, FOREIGN, REGISTRY
from .architectures.legacy import OLD_NAMES
from .design import name_of
from .members import CONFIG, Member
from .spec import ModelSpec
from .units import BadInput

LARGEST_FILE = 10**7  # bytes; a config has a few thousand
_PLAIN = re.compile(r"[a-z0-9][a-z0-9._-]{0,80}")
_NO_NAME = {"", "model", "hf", "final", "output", "config"}  # folders that are not called after a model


def spec_of_config(config: Mapping[str, Any]) -> ModelSpec:
    """Return the shape of a Hugging Face config.

    An architecture that is not counted here is counted by transformers, and its spec has the architecture "other":
    `is_estimated` tells it.

    Args:
        config: the dictionary of a config.json.

    Raises:
        BadInput: no model_type, a value that no model can have, or an architecture that neither knows.
    """
    kind = config.get("model_type") if isinstance(config, Mapping) else None
    if not isinstance(kind, str) or not kind:
        raise BadInput("it has no model_type, so it is not a Hugging Face config.json")
    known = REGISTRY.get(kind)
    return (known or FOREIGN).from_hugging_face(dict(config))


def is_estimated(spec: ModelSpec) -> bool:
    """Return True for an architecture that is not counted here: transformers' count, and 6·N_active as FLOPs."""
    return spec.architecture == FOREIGN.model_type


def unread_entries(config: Mapping[str, Any]) -> list[str]:
    """Return entries of a config that nothing here knows; they decide neither counts nor FLOPs as far as is known.

    Args:
        config: the dictionary of a config.json.
    """
    found = REGISTRY.get(str(config.get("model_type")))
    if found is None:
        return []
    spec = found.from_hugging_face(dict(config))
    known = {*found.to_hugging_face(spec), *found.library_defaults(spec), *EVERY_CONFIG, *ASIDE, *OLD_NAMES}
    return sorted(key for key in config if key not in known and not key.startswith("_"))


def is_config_path(text: str) -> bool:
    """Return True for text that is a path to a config.json or to a folder with one, rather than a name."""
    return text.endswith(".json") or "/" in text or (Path(text) / CONFIG).is_file()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadInput("a key stands twice in an object, and readers differ in which of the two they take")
    return found


def read_config(path: str | Path) -> Member:
    """Read a config.json, or a folder that holds one, as a member named after its folder.

    Args:
        path: the file or the folder.

    Raises:
        BadInput: naming the file, where it cannot be read or counted.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        file = file / CONFIG
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):  # a named pipe would never end
            raise BadInput(f"{file} is no file")
        if found.st_size > LARGEST_FILE:
            raise BadInput(f"{file} has {found.st_size:,} bytes; a config.json has at most {LARGEST_FILE:,}")
        config = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadInput):
            raise BadInput(str(error) if str(file) in str(error) else f"{file}: {error}") from error
        raise BadInput(f"{file} is not JSON that can be read") from error
    if not isinstance(config, dict):
        raise BadInput(f"{file} is not a Hugging Face config.json")
    try:
        spec = spec_of_config(config)
    except BadInput as error:
        raise BadInput(f"{file}: {error}") from error
    folder = file.resolve().parent.name.lower()
    name = folder if _PLAIN.fullmatch(folder) and folder not in _NO_NAME else name_of(spec)
    source = str(file)
    if is_estimated(spec):
        source += "; counted by transformers, FLOPs estimated as 6·N_active + attention"
        if spec.config.get("experts_unknown"):
            source += "; how many experts a token passes through is not stated: all are counted as active"
    return Member(name=name, spec=spec, source=source)
