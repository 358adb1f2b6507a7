"""Counts of a model from its configuration: a config.json, or the columns of an export that hold one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from families import params, params_active, params_non_embedding, spec_of_config, train_flops_per_token
from families.accounting import experts
from families.configs import is_estimated
from families.units import BadInput

from ..files import read_text
from ..untrusted import parse_json

EXACT_RATE = "flops_per_token"  # exact training FLOPs, from which a row's compute follows

_CONFIG = "model_type"  # the key by which a configuration of transformers is known


def model_counts(config: Mapping[str, Any]) -> dict[str, float]:
    """Parameters and shape of the model of a config.json as fields of `Run`, and its training FLOPs per token.

    Raises:
        BadInput: no model_type, an architecture that is not known, or a shape that is none.
    """
    try:
        spec = spec_of_config(config)
        counts: dict[str, float] = {
            "params": params(spec),
            "params_non_embedding": params_non_embedding(spec),
            "vocab_size": spec.vocab_size,
            "n_layer": spec.n_layer,
            "n_embd": spec.n_embd,
        }
        if (active := params_active(spec)) < counts["params"]:
            counts |= {"params_active": active, "n_experts": experts(spec)[0]}
        return counts if is_estimated(spec) else {**counts, EXACT_RATE: train_flops_per_token(spec)}
    except BadInput:
        raise
    except (TypeError, ValueError, ArithmeticError, KeyError, AttributeError) as error:
        raise BadInput(f"a value of its shape is not as it should be: {error}") from error


def file_counts(file: Path) -> dict[str, float]:
    """The counts of the config.json beside a trainer's file, in the model/ of one of our rungs, or up to two folders above.

    Raises:
        BadInput: there is none, or it is not understood; naming the file.
    """
    folders = list(file.parents)[:3]
    for path in (folders[0] / "model" / "config.json", *(folder / "config.json" for folder in folders)):
        if not path.exists():
            continue
        try:
            values = parse_json(read_text(path))
        except json.JSONDecodeError as error:
            raise BadInput(f"{path} is not JSON: {error.msg} at line {error.lineno}") from error
        if not isinstance(values, dict):
            raise BadInput(f"{path} is not a JSON object but {type(values).__name__}")
        try:
            return model_counts(values)
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from error
    raise BadInput(
        "no config.json of a known architecture beside it, so its parameters are unknown: copy the model's there, or give "
        "--columns params=124M where all runs have one size"
    )


def config_counts(row: Mapping[str, Any]) -> dict[str, float]:
    """The counts of the model whose configuration an export holds in columns beside "model_type"; none without that.

    Raises:
        BadInput: the configuration is not understood.
    """
    marks = [name for name in row if name == _CONFIG or name.endswith((f".{_CONFIG}", f"/{_CONFIG}"))]
    mark = next((name for name in marks if row[name] not in (None, "")), None)
    if mark is None:
        return {}
    prefix = mark.removesuffix(_CONFIG)
    return model_counts(
        {
            name.removeprefix(prefix): _typed(value)
            for name, value in row.items()
            if name.startswith(prefix) and value != ""
        }
    )


def _typed(value: Any) -> Any:
    """A cell of text as the JSON value that it prints; None, True and False as Python prints them."""
    if not isinstance(value, str):
        return value
    words = {"None": None, "True": True, "False": False}
    if value in words:
        return words[value]
    try:
        return parse_json(value)
    except ValueError:
        return value
