"""Checkpoints: Hugging Face folders that also hold what resume needs, written whole or not at all."""

import json
import re
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file

from families.errors import BadInput
from scaling.files import Document, sha256_file, whole_folder, write_whole

from .config import Settings
from .loop import Session, start
from .optimizer import load_optimizer_state, make_optimizer, optimizer_state
from .tokenizer import END_OF_TEXT, MASKS

_STATE = "state.safetensors"
_NAME = re.compile(r"step-(\d{8})")


class CheckpointFile(Document):
    """checkpoint.json, written last: the step, the settings' identity, and the SHA-256 of the files beside it."""

    KIND: ClassVar[str] = "checkpoint"

    step: int
    wall_s: float
    settings_sha256: str
    pending_losses: tuple[float, ...] = ()  # of the steps since the last line of metrics
    pending_norms: tuple[float, ...] = ()


def step_folder(parent: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return parent / f"step-{step:08d}"


def save_model(model: Any, tokenizer: Path, folder: Path) -> None:
    """Write a Hugging Face folder: AutoModelForCausalLM (AutoModelForMaskedLM) and AutoTokenizer load it."""
    from tokenizers import Tokenizer

    model.save_pretrained(folder)
    eos = model.config.eos_token_id
    write_whole(folder / "tokenizer.json", tokenizer.read_bytes())
    coder = Tokenizer.from_file(str(tokenizer))
    special = coder.id_to_token(eos) or END_OF_TEXT
    mask = next((name for name in MASKS if coder.token_to_id(name) is not None), None)
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.config.max_position_embeddings,
        "bos_token": special,
        "eos_token": special,
        "unk_token": None,
        **({"mask_token": mask} if mask else {}),
    }
    write_whole(folder / "tokenizer_config.json", json.dumps(facts, indent=2) + "\n")


def save(session: Session, folder: Path, tokenizer: Path) -> None:
    """Write a checkpoint folder; it is there whole or not at all.

    Raises:
        BadInput: the disk is full or the folder cannot be written.
    """
    with whole_folder(folder) as place:
        save_model(session.model, tokenizer, place)
        save_file(_state(session), place / _STATE)
        CheckpointFile(
            step=session.step,
            wall_s=session.wall_s,
            settings_sha256=session.settings.identity(),
            pending_losses=tuple(float(loss) for loss in session.losses),
            pending_norms=tuple(float(norm) for norm in session.norms),
            inputs={path.name: sha256_file(path) for path in sorted(place.iterdir())},
        ).write(place / "checkpoint.json")


def _state(session: Session) -> dict[str, torch.Tensor]:
    state = optimizer_state(session.optimizer, session.model)
    state["rng.cpu"] = torch.get_rng_state()
    if session.device == "cuda":
        state["rng.cuda"] = torch.cuda.get_rng_state()
    return state


def checkpoints(parent: Path) -> list[tuple[int, Path]]:
    """(step, folder) of the checkpoints under a folder, oldest first."""
    found = [(int(match[1]), path) for path in parent.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return sorted(found)


def load(settings: Settings, folder: Path, device: str) -> Session:
    """The session that a checkpoint holds.

    Raises:
        BadInput: a file is damaged or missing, or the checkpoint belongs to other settings.
    """
    facts = CheckpointFile.read(folder / "checkpoint.json")
    for name, digest in facts.inputs.items():
        path = folder / name
        if not path.is_file() or sha256_file(path) != digest:
            raise BadInput(f"checkpoint {folder} is damaged: {name} is not what it was when written")
    if facts.settings_sha256 != settings.identity():
        raise BadInput(
            f"checkpoint {folder} belongs to a run with other settings; choose another out= or remove it"
        )
    session = start(settings, device)
    weights = load_file(folder / "model.safetensors")
    missing, unexpected = session.model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - set(session.model.all_tied_weights_keys):
        raise BadInput(f"checkpoint {folder} holds another model: {[*missing, *unexpected][:3]}")
    session.model.tie_weights()
    session.optimizer = make_optimizer(settings, session.model)
    state = load_file(folder / _STATE)
    load_optimizer_state(session.optimizer, session.model, state, device)
    torch.set_rng_state(state["rng.cpu"])
    if device == "cuda" and "rng.cuda" in state:
        torch.cuda.set_rng_state(state["rng.cuda"])
    session.step, session.wall_s = facts.step, facts.wall_s
    session.losses = [torch.tensor(loss, device=device) for loss in facts.pending_losses]
    session.norms = [torch.tensor(norm, device=device) for norm in facts.pending_norms]
    return session


def load_newest(settings: Settings, parent: Path, device: str, *, at_most: int, tell: Any) -> Session | None:
    """The newest good checkpoint of at most that step; a damaged one is said so and passed over."""
    for step, folder in reversed(checkpoints(parent)):
        if step > at_most:
            continue
        try:
            return load(settings, folder, device)
        except BadInput as error:
            if (
                "damaged" not in str(error)
                and "not JSON" not in str(error)
                and "does not exist" not in str(error)
            ):
                raise
            tell(f"{error}; going back to the one before it")
    return None
