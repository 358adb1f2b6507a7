"""Every causal language model of the installed transformers, as a stranger's config.json: counted alike, or refused in a line.

Run: python benchmarks/configs.py [--only llama,mamba] [--json] [--check]. Each model type of AutoModelForCausalLM gets its
configuration class's defaults with four layers, written as config.json. What `families show` makes of the file is compared
with the library's own count of the same configuration on the meta device. One process, no weights, about three minutes.
"""

import argparse
import json
import os
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from families import BadInput, accounting
from families.configs import is_estimated, read_config

LAYERS = 4
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one model type.

    Args:
        kind: the model type.
        outcome: exact or estimated, where the counts agree; refused, or unbuilt where the library cannot build its own
            defaults either; wrong, or fails where anything else than one line came of it.
        ours: parameters as counted here.
        theirs: parameters as the library counts them.
        said: the line of a refusal.
    """

    kind: str
    outcome: str
    ours: int | None = None
    theirs: int | None = None
    said: str = ""


def _count(config: Any) -> int:
    """Count the library's model of a configuration, each shared weight once."""
    import torch
    import transformers

    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return sum(weight.numel() for weight in model.parameters())


def configuration(kind: str) -> tuple[Any, int | None]:
    """Return the defaults of a model type with four layers, or as they are where those cannot be built, and their count.

    Args:
        kind: a key of the library's mapping.

    Returns:
        The library's configuration, and None as the count where the library cannot build its own defaults.
    """
    import transformers

    made = transformers.CONFIG_MAPPING[kind]
    default = made()
    entries = default.to_dict()
    for key in (key for key in _LAYER_KEYS if isinstance(entries.get(key), int)):
        try:
            config = made(**{key: LAYERS})
            return config, _count(config)
        except Exception:  # lists of layers and the like, which the library checks in many ways
            continue
    try:
        return default, _count(default)
    except Exception:
        return default, None


def outcome(kind: str) -> Outcome:
    """What `read_config` makes of a model type, beside the library's count."""
    try:
        config, theirs = configuration(kind)
    except Exception as error:
        return Outcome(kind=kind, outcome="unbuilt", said=str(error).strip().partition("\n")[0])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config.to_dict(), default=str))
        try:
            found = read_config(folder)
            accounting.describe(found.spec)
        except BadInput as error:
            said = str(error).partition("config.json: ")[2]
            return Outcome(kind=kind, outcome="refused" if theirs else "unbuilt", theirs=theirs, said=said)
        except Exception as error:
            return Outcome(kind=kind, outcome="fails", theirs=theirs, said=f"{type(error).__name__}: {error}")
    same = found.n_params == theirs
    word = ("estimated" if is_estimated(found.spec) else "exact") if same else "wrong"
    return Outcome(kind=kind, outcome=word, ours=found.n_params, theirs=theirs)


def main() -> int:
    """Print an outcome for each model type; exit status 1 under --check where one is wrong or fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="taken for the benchmarks' common form; nothing is read")
    parser.add_argument("--only", default="")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    kinds = options.only.split(",") if options.only else list(NAMES)
    outcomes = [outcome(kind) for kind in kinds]
    if options.json:
        print(json.dumps([asdict(one) for one in outcomes], indent=2))
    else:
        for one in outcomes:
            if one.outcome not in ("exact", "estimated"):
                print(f"{one.kind}: {one.outcome} {one.ours or ''} {one.said}")
        print(
            ", ".join(f"{count} {word}" for word, count in Counter(one.outcome for one in outcomes).items())
        )
    return int(options.check and any(one.outcome in ("wrong", "fails") for one in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
