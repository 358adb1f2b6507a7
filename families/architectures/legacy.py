"""Entries of config.json by their names in transformers 5: older files name rotary positions and experts otherwise."""

from collections.abc import Mapping
from typing import Any

from ..units import BadInput

SAME = (("num_experts", "num_local_experts"), ("n_routed_experts", "num_local_experts"))
# of transformers' attribute_map: one entry under two names


def modern_names(config: Mapping[str, Any], library: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with the names that transformers 5 writes.

    Args:
        config: a Hugging Face config's dictionary, of any version.
        library: the entries of the architecture with transformers' defaults.

    Raises:
        BadInput: rotary positions of another form.
    """
    found = dict(config)
    for one, other in SAME:
        for ours, theirs in ((one, other), (other, one)):
            if ours in library and ours not in found and theirs in found:
                found[ours] = found.pop(theirs)
    if "hidden_activation" in library and found.get("hidden_activation") is None and "hidden_act" in found:
        # Gemma 2 and 3 read the one name alone; the other is in old files with a value that was never used.
        found["hidden_activation"] = library["hidden_activation"]
    if "use_sliding_window" in library and not found.get("use_sliding_window"):
        found["sliding_window"] = None
    usual = library.get("rope_parameters")
    if usual is not None:
        found["rope_parameters"] = _rope(found, usual)
    return {key: value for key, value in found.items() if key in library or key not in OLD_NAMES}


OLD_NAMES = {
    "rope_scaling",
    "rope_theta",
    "rope_local_base_freq",
    "rotary_emb_base",
    "rotary_pct",
    "partial_rotary_factor",
    "num_experts",
    "num_local_experts",
    "hidden_act",
}


def _rope(config: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Return rope_parameters: stated, or put together from rope_theta, rope_scaling and their older names."""
    stated = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(stated, dict):
        raise BadInput(f"rope_parameters is {stated!r}; it must be a table of the config")
    if any(isinstance(value, dict) for value in usual.values()):
        local = {"sliding_attention": "rope_local_base_freq", "full_attention": "rope_theta"}
        nested = {kind: stated[kind] for kind in local if isinstance(stated.get(kind), dict)}
        scaling = {} if nested or "rope_parameters" in config else dict(stated)
        return {
            kind: _named(
                {**(scaling if kind == "full_attention" else {}), **nested.get(kind, {})},
                config.get(local[kind], value["rope_theta"]),
            )
            for kind, value in usual.items()
        }
    theta = config.get("rope_theta", config.get("rotary_emb_base", usual["rope_theta"]))
    found = _named(stated, theta)
    factor = config.get("partial_rotary_factor", config.get("rotary_pct", usual.get("partial_rotary_factor")))
    if factor is not None:
        found.setdefault("partial_rotary_factor", factor)
    if found["rope_type"] in ("llama3", "yarn", "longrope"):
        length = config.get("original_max_position_embeddings")
        if length is not None:
            found["original_max_position_embeddings"] = length
        elif "max_position_embeddings" in config:
            found.setdefault("original_max_position_embeddings", config["max_position_embeddings"])
    return found


def _named(values: Mapping[str, Any], theta: Any) -> dict[str, Any]:
    found = {key: value for key, value in values.items() if key != "type"}
    found.setdefault("rope_type", values.get("type", "default"))
    found.setdefault("rope_theta", theta)
    return found
