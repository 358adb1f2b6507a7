"""From a ModelSpec to a Hugging Face model and its config.json."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from families import ModelSpec, params
from families.architectures import architecture
from families.members import CONFIG, config_text
from scaling.files import atomic_write, refuse_overwrite_text


def hugging_face_config(spec: ModelSpec, **changes: Any) -> Any:
    """Return the Hugging Face config; no relevant argument is left to the library's default."""
    import transformers

    found = architecture(spec.architecture)
    arguments = {**found.to_hugging_face(spec), **changes}
    return getattr(transformers, found.config_class)(architectures=[found.model_class], **arguments)


def check_config(spec: ModelSpec, folder: Path, *, replace: bool) -> None:
    """Refuse to overwrite another model's config.json, unless told to replace it.

    Raises:
        BadInput: there is one.
    """
    refuse_overwrite_text(folder / CONFIG, config_text(spec), "this model's", replace=replace)


def write_config(spec: ModelSpec, folder: Path) -> Path:
    """Write config.json, equal to the config's to_dict() but without loading transformers; returns its path."""
    atomic_write(folder / CONFIG, config_text(spec))
    return folder / CONFIG


def build(
    spec: ModelSpec,
    *,
    seed: int,
    dropout: float = 0.0,
    init_std: float = 0.02,
    eos_token_id: int | None = None,
    meta: bool = False,
    initialised: bool = True,
) -> Any:
    """Return a freshly initialised model, a function of (spec, seed).

    Args:
        spec: shape and architecture of the model.
        seed: seed of the initial weights.
        dropout: probability of every dropout in the architecture.
        init_std: standard deviation of the initial weights.
        eos_token_id: token id of the beginning and the end of text; by default the last of the vocabulary.
        meta: True for the shapes alone, without memory for weights.
        initialised: False to leave weights unset, for a checkpoint's.

    Raises:
        RuntimeError: transformers counts other parameters than the spec.
    """
    import torch
    import transformers
    from transformers.initialization import no_init_weights

    transformers.utils.logging.disable_progress_bar()
    eos = spec.vocab_size - 1 if eos_token_id is None else eos_token_id
    found = architecture(spec.architecture)
    usual = found.to_hugging_face(spec)
    config = hugging_face_config(
        spec,
        **{key: dropout for key in usual if "drop" in key},
        **{
            key: None for key in usual if key == "pad_token_id"
        },  # windows are full, so there is no padding token
        initializer_range=init_std,
        bos_token_id=eos,
        eos_token_id=eos,
    )
    if getattr(found, "mixture", None) is not None and not torch.cuda.is_available():
        config._experts_implementation = "eager"  # one expert at a time: exact, and the same in every run
    torch.manual_seed(seed)
    with torch.device("meta") if meta else nullcontext(), nullcontext() if initialised else no_init_weights():
        model = getattr(transformers, found.model_class)(config)
    if not initialised:
        model.tie_weights()  # else its initialisation does
    count = sum(weight.numel() for weight in model.parameters())
    if count != params(spec):
        raise RuntimeError(
            f"{spec.shape} has {count:,} parameters in transformers; {params(spec):,} by the spec"
        )
    return model
