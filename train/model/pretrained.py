"""Initial weights from a checkpoint: a local Hugging Face folder, or a name on the hub."""

import json
import math
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from families import ModelSpec
from families.architectures import REGISTRY, architecture
from families.architectures.base import ASIDE
from families.units import BadInput
from scaling.files import canonical_json, check_fetched, read_text, sha256_bytes, sha256_file
from scaling.untrusted import parse_json

from ..data.remote import NETWORK_SECONDS, hub_answers
from ..rung import MODEL, TRUNK
from .config import hugging_face_config
from .kernels import use_attention

_WANTED = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "vocab*", "merges.txt"]

_ADAPTER = ("adapter_model.safetensors", "adapter_model.bin", "adapter_config.json")  # PEFT's

_TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")

_LAYER = re.compile(r"\.\d+\.")  # layer number in the name of a weight

_TABLES = (
    ".attn.bias",
    ".masked_bias",
    ".inv_freq",
)  # buffers of masks and angles in files of older libraries

_FREE = {"initializer_range", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id"}


@lru_cache(maxsize=8)
def checkpoint_folder(name: str) -> Path:
    """Return the folder of a checkpoint: a path, a cached copy, or a download from the hub.

    A rung's folder stands for the model in it, and a run's for its longest rung's.

    Raises:
        BadInput: no such folder, no weights in a form that is safe to read, or a hub that does not answer.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        longest = sorted(path.glob("rung-*/model"), key=lambda model: int(model.parent.name.split("-")[1]))
        for folder in (path, path / "model", *longest[-1:]):
            if (folder / "config.json").is_file():
                return _with_weights(name, folder.resolve())
        if _adapter(path) is not None:
            raise BadInput(f"init is {name!r}, which holds {_in_place_of_weights(path)}")
        raise BadInput(f"init is {name!r}, a folder without a config.json; it must be a Hugging Face model's")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise BadInput(f"init is {name!r}, which does not exist")
    return _with_weights(name, _from_hub(name))


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED, local_files_only=True))
    except HFValidationError as error:
        raise BadInput(f"init is {name!r}; it must be a folder or a name on the hub") from error
    except LocalEntryNotFoundError:
        pass
    if not hub_answers():
        raise BadInput(
            f"init is {name!r}: there is no such folder, it was not downloaded to this machine before, and the hub "
            "cannot be reached; a model that lies here is given by its folder, like init=study/runs/my-s0"
        )
    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED, etag_timeout=NETWORK_SECONDS))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise BadInput(
            f"init is {name!r}, which the hub does not give: {str(error).splitlines()[0]}"
        ) from error


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors"))


def _with_weights(name: str, folder: Path) -> Path:
    if not _weight_files(folder):
        raise BadInput(f"init is {name!r}, which holds {_in_place_of_weights(folder)}")
    check_weight_files(folder)
    return folder


def check_weight_files(folder: Path) -> None:
    """Refuse weights that are not there whole: pointers of Git LFS, shards without their index, an adapter beside them.

    Raises:
        BadInput: naming the file.
    """
    files = _weight_files(folder)
    for path in files:
        check_fetched(path)
    names = {path.name for path in files}
    if "model.safetensors" not in names and not (folder / "model.safetensors.index.json").is_file():
        raise BadInput(
            f"{folder} holds {files[0].name} without model.safetensors.index.json, which says what is in it"
        )
    if (adapter := _adapter(folder)) is not None:
        raise BadInput(f"{folder} holds {adapter} beside its weights: merge it into them, or move it away")


def _adapter(folder: Path) -> str | None:
    return next((name for name in _ADAPTER if (folder / name).is_file()), None)


def _in_place_of_weights(folder: Path) -> str:
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    if (adapter := _adapter(folder)) is not None:
        return f"{adapter}, a change to another model's weights: merge it into them, as PEFT's merge_and_unload does"
    found = f"{pickled[0]}, a pickle that can run code" if pickled else "no weights"
    return f"{found}; only model.safetensors is read"


def checkpoint_spec(folder: Path) -> ModelSpec:
    """Return the shape in a checkpoint's config.json.

    Raises:
        BadInput: an architecture that is not known here.
    """
    path = folder / "config.json"
    try:
        config = parse_json(read_text(path))
    except json.JSONDecodeError as error:
        raise BadInput(f"{path} is not JSON: {error.msg}") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str) or kind not in REGISTRY:
        raise BadInput(f"{path} has model_type {kind!r}; known: {', '.join(REGISTRY)}")
    try:
        return REGISTRY[kind].from_hugging_face(config)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error


def checkpoint_dropout(folder: Path) -> float:
    """Return the dropout with which a checkpoint was trained, which transformers' Trainer goes on with.

    Raises:
        BadInput: its parts have several.
    """
    import transformers

    found = architecture(checkpoint_spec(folder).architecture)
    try:
        config_class = getattr(transformers, found.config_class)
        config = config_class.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise BadInput(f"{folder} cannot be loaded: {first_message_line(error)}") from error
    usual = found.to_hugging_face(checkpoint_spec(folder))
    parts = {key: getattr(config, key, None) for key in usual if "drop" in key and key not in ASIDE}
    rates = {key: float(rate) for key, rate in parts.items() if isinstance(rate, int | float)}
    if len(set(rates.values())) > 1:
        said = ", ".join(f"{key} {rate:g}" for key, rate in sorted(rates.items()))
        raise BadInput(
            f"init is {folder}, whose parts have several rates of dropout ({said}); give one by dropout="
        )
    return next(iter(rates.values()), 0.0)


def checkpoint_sha256(folder: Path) -> str:
    """Return the SHA-256 of the weights, independent of the folder's name."""
    return sha256_bytes(
        canonical_json([sha256_file(path, largest=math.inf) for path in _weight_files(folder)])
    )


def has_tokenizer(folder: Path) -> bool:
    """Return True if the checkpoint has its own tokenizer."""
    return any((folder / name).is_file() for name in _TOKENIZERS)


def checkpoint_name(name: str) -> str:
    """Return a name for the model: its name on the hub without owner, or the run of a rung."""
    parts = Path(name).expanduser().resolve().parts if Path(name).expanduser().is_dir() else Path(name).parts
    while len(parts) > 1 and (parts[-1] in (MODEL, TRUNK) or parts[-1].startswith(("rung-", "step-"))):
        parts = parts[:-1]
    return parts[-1]


def read_model(kind: Any, folder: Path) -> Any:
    """Load a model of a transformers class from a folder's safetensors in fp32; no code of the folder is run.

    Weights beside the layers that a class has no place for (a pooler) are left out.

    Raises:
        BadInput: no weights, or other ones than the config says; a library that reads what strangers wrote fails in many ways.
    """
    if not _weight_files(folder):
        raise BadInput(f"{folder} holds {_in_place_of_weights(folder)}")
    check_weight_files(folder)
    try:
        with torch.random.fork_rng(devices=[]):  # the library's random draws must not affect the run's
            loaded, info = kind.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False,
                ignore_mismatched_sizes=True, output_loading_info=True,
            )  # fmt: skip
    except Exception as error:
        raise BadInput(f"{folder} cannot be loaded: {first_message_line(error)}") from error
    for name, there, wanted in sorted(info["mismatched_keys"]):
        raise BadInput(
            f"{folder} has {name} of shape {tuple(there)}; its config.json asks for {tuple(wanted)}"
        )
    missing = sorted(set(info["missing_keys"]) - set(loaded.all_tied_weights_keys))
    if missing:
        there = f"; it has {min(info['unexpected_keys'])}" if info["unexpected_keys"] else ""
        raise BadInput(f"{folder} has no {missing[0]}: {len(missing)} weights are missing{there}")
    _check_tied(loaded, folder)
    spare = sorted(
        name for name in info["unexpected_keys"] if _LAYER.search(name) and not name.endswith(_TABLES)
    )
    if spare:
        raise BadInput(f"{folder} has {spare[0]}, a layer that its config.json does not have")
    for name, weight in loaded.named_parameters():
        if not torch.isfinite(weight).all():
            raise BadInput(f"{folder} has {name}, of which some are not finite numbers")
    return loaded


def _check_tied(loaded: Any, folder: Path) -> None:
    """Refuse a head of its own where config.json says that it is the embedding: which of them is meant is not known.

    Raises:
        BadInput: naming the key.
    """
    embedding, head = loaded.get_input_embeddings(), loaded.get_output_embeddings()
    if embedding is None or head is None or not getattr(loaded.config, "tie_word_embeddings", False):
        return
    if head.weight.shape != embedding.weight.shape or not torch.equal(head.weight, embedding.weight):
        raise BadInput(
            f"{folder} has a head other than its embedding; its config.json says tie_word_embeddings true, by the library's "
            "default where it says nothing: set it to false"
        )


def first_message_line(error: Exception) -> str:
    """Return an error's message in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def load_weights(model: Any, spec: ModelSpec, folder: Path) -> None:
    """Copy a checkpoint's weights into a model of the same shape, in fp32.

    Of a checkpoint with a longer context the first n_positions rows of the position table are taken: the others would
    see no token. Parts that `model` does not have (a pooler) are left out.

    Raises:
        BadInput: another shape or another arithmetic, or weights that are missing.
    """
    import transformers

    theirs = checkpoint_spec(folder)
    check_same_shape(spec, theirs, str(folder))
    found = architecture(spec.architecture)
    loaded = read_model(getattr(transformers, found.model_class), folder)
    _check_arithmetic(loaded.config, spec, folder)
    ours = model.state_dict()
    taken = {
        name: weight[: spec.n_positions] if weight.shape != ours[name].shape else weight
        for name, weight in loaded.state_dict().items()
        if name in ours
    }
    model.load_state_dict(taken)
    _check_logits(model, loaded, folder)


LOGITS = 1e-4  # largest difference of logits in 32 bits
CHECKED = 64  # tokens of the window


@torch.no_grad()
def _check_logits(model: Any, loaded: Any, folder: Path) -> None:
    """Check on one window that a model with a checkpoint's weights computes what transformers computes with them.

    By the same operations, transformers' own, the difference is at most LOGITS. By our attention, which adds in another
    order, it is that share of the largest logit where that is above 1: rounding grows with what is rounded.

    Raises:
        BadInput: it does not; with the entries of the configs that differ.
    """
    length = min(CHECKED, model.config.max_position_embeddings)
    ids = torch.arange(7, 7 + 101 * length, 101)[None, :] % model.config.vocab_size
    loaded.config._experts_implementation = "eager"  # the fast one needs sizes that memory likes
    theirs, ours = _logits(loaded, ids, "eager"), _logits(model, ids, "eager")
    use_attention(model, "eager")
    own = _logits(model, ids, model.config._attn_implementation)
    off = float((ours - theirs).abs().max())
    rounded = float((own - theirs).abs().max() / theirs.abs().max().clamp(min=1))
    if not (off <= LOGITS and rounded <= LOGITS):
        configs = [one.config.to_dict() for one in (model, loaded)]
        odd = [key for key, value in configs[1].items() if configs[0].get(key) != value and key[:1] != "_"]
        raise BadInput(
            f"init is {folder}, whose logits differ by {off:.2g} from transformers' own ({rounded:.2g} of the largest by our "
            f"attention); entries of its config.json that differ: {', '.join(key for key in odd if key not in _FREE) or 'none'}"
        )


def _logits(model: Any, ids: torch.Tensor, attention: str) -> torch.Tensor:
    """Logits in 32 bits, by an attention of transformers'; the model is left as it was."""
    was, before = model.training, model.config._attn_implementation
    model.eval()
    model.config._attn_implementation = attention
    try:
        logits: torch.Tensor = model(ids).logits.float()
    finally:
        model.config._attn_implementation = before
        model.train(was)
    return logits


def check_same_shape(spec: ModelSpec, theirs: ModelSpec, name: str) -> None:
    """Check that a checkpoint has the model's shape, with the same or a longer context.

    Raises:
        BadInput: naming the first difference.
    """
    for field in ("architecture", "n_layer", "n_head", "n_kv_head", "n_embd", "n_inner", "vocab_size"):
        ours, its = getattr(spec, field), getattr(theirs, field)
        if ours != its:
            raise BadInput(f"init is {name}, a model with {field} {its}; this one has {field} {ours}")
    if spec.n_positions > theirs.n_positions:
        raise BadInput(
            f"n_positions is {spec.n_positions}; init {name} has {theirs.n_positions} positions, which is the most"
        )


def _check_arithmetic(config: Any, spec: ModelSpec, folder: Path) -> None:
    """Check that config values outside the shape, such as the activation, are those of our models."""
    usual = hugging_face_config(spec)
    for key in architecture(spec.architecture).to_hugging_face(spec):
        if key in _FREE or "drop" in key or "position" in key or key == "n_inner":
            continue
        ours, theirs = getattr(usual, key), getattr(config, key, None)
        if key == "head_dim" and theirs is None:  # as in Mixtral's own files
            theirs = config.hidden_size // config.num_attention_heads
        if isinstance(theirs, dict) and theirs.get("type") == theirs.get("rope_type"):
            theirs = {name: value for name, value in theirs.items() if name != "type"}  # its older name
        if ours != theirs:
            raise BadInput(
                f"init is {folder}, a model with {key} {theirs}; {spec.architecture} is trained with {ours}"
            )
