"""Checkpoints: Hugging Face folders that also hold what resume needs, written whole or not at all."""

import errno
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from families.units import BadInput
from scaling.files import (
    Document,
    NewerFile,
    atomic_dir,
    atomic_write,
    canonical_json,
    clear_io_errors,
    sha256_bytes,
    sha256_file,
    sync_file,
)
from scaling.runs.store import WorkEntry

from .config import Settings
from .data.text import END_OF_TEXT, MASKS
from .distributed import ALONE, World, whole
from .loop import Session, start
from .model.objective import load_optimizer_state, optimizer_state

_WEIGHTS = "model.safetensors"
_STATE = "state.safetensors"
_LOSSES = "pending.losses"  # of each process's share of the batch, since the last line of metrics
_WATCH = "watch.losses"  # of the last steps: what a spike is held against
_NOTHING = torch.empty(0)
_NAME = re.compile(r"step-(\d{8})")


class Damaged(BadInput):
    """A checkpoint is not what it was when written."""


class CheckpointFile(Document):
    """checkpoint.json, written last: the step, the settings' identity, and the SHA-256 of the files beside it."""

    KIND: ClassVar[str] = "checkpoint"

    step: int
    wall_s: float
    settings_sha256: str
    pending_losses: tuple[float, ...] = ()  # of the steps since the last line of metrics
    pending_norms: tuple[float, ...] = ()
    processes: int = 1  # that wrote it; any number can go on from it
    starts_branch: bool = False  # a rung's cooldown begins here: never pruned
    work: WorkEntry | None = None  # what the ledger is to hold for the steps since the checkpoint before
    seal: str = ""  # SHA-256 of all the rest; "" in checkpoints from before there was one

    def sealed(self) -> "CheckpointFile":
        """The same, with the seal that belongs to it."""
        return self.model_copy(update={"seal": self._digest()})

    def intact(self) -> bool:
        """Whether it says what it said when it was sealed."""
        return self.seal in ("", self._digest())

    def _digest(self) -> str:
        return sha256_bytes(canonical_json(self.model_dump(mode="json", exclude={"seal"})))

    @classmethod
    def found(cls, folder: Path) -> "CheckpointFile | None":
        """A checkpoint's file, or None where it cannot be read."""
        try:
            return cls.read(folder / "checkpoint.json")
        except BadInput:
            return None


def step_folder(parent: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return parent / f"step-{step:08d}"


def write_model(model: Any, weights: dict[str, torch.Tensor], tokenizer: Path, folder: Path) -> None:
    """Write a Hugging Face folder: AutoModelForCausalLM (AutoModelForMaskedLM) and AutoTokenizer load it."""
    from tokenizers import Tokenizer

    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    _write_tensors(weights, folder / _WEIGHTS)
    eos = model.config.eos_token_id
    atomic_write(folder / "tokenizer.json", tokenizer.read_bytes())
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
    atomic_write(folder / "tokenizer_config.json", json.dumps(facts, indent=2) + "\n")


def _write_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error), str(path)) from error


def weights_of(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every weight in full, once, with its name; every process must ask."""
    tied = set(model.all_tied_weights_keys)
    # a parameter knows how it is divided, what state_dict makes of it may not
    state: dict[str, torch.Tensor] = {**model.state_dict(), **dict(model.named_parameters())}
    return ((name, whole(weight)) for name, weight in state.items() if name not in tied)


def save_model(model: Any, tokenizer: Path, folder: Path, world: World = ALONE) -> None:
    """Write a finished model's folder; every process must ask, process 0 writes.

    Raises:
        BadInput: the disk is full or the folder cannot be written.
    """
    weights = {name: _copy(weight, world) for name, weight in weights_of(model)}
    if world.first:
        with clear_io_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_model(model, weights, tokenizer, folder)
            for path in (*sorted(folder.iterdir()), folder):
                sync_file(path)  # rung.json says that it is there, and the checkpoints it came from go


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A session at a step, copied: training may go on while it is written."""

    model: Any  # for its config
    weights: dict[str, torch.Tensor]
    state: dict[str, torch.Tensor]
    facts: dict[str, Any]

    def write(self, folder: Path, tokenizer: Path) -> None:
        """Write a checkpoint folder; it is there whole or not at all.

        Raises:
            BadInput: the disk is full or the folder cannot be written.
        """
        with atomic_dir(folder) as place:
            write_model(self.model, self.weights, tokenizer, place)
            _write_tensors(self.state, place / _STATE)
            hashes = {}
            for path in sorted(place.iterdir()):
                sync_file(path)  # a power cut must not leave less than the name promises
                hashes[path.name] = sha256_file(path)
            CheckpointFile(inputs=hashes, **self.facts).sealed().write(place / "checkpoint.json")


def snapshot(
    session: Session, *, work: WorkEntry | None = None, starts_branch: bool = False
) -> Snapshot | None:
    """Copy what resume needs. Every process must ask; process 0 gets it all, the others None."""
    world = session.world
    # One tensor at a time: what is divided among processes is never whole in all of them at once.
    weights = {name: _copy(weight, world) for name, weight in weights_of(session.model)}
    moments = optimizer_state(session.optimizer, session.model)
    state = {name: _copy(value, world) for name, value in moments}
    state.update(_random_state(session))
    losses = world.gather(torch.stack(session.losses)) if session.losses else torch.zeros(world.size, 0)
    if not world.first:
        return None
    state[_LOSSES] = losses.cpu()
    state[_WATCH] = torch.tensor(list(session.watch.losses), dtype=torch.float64)
    return Snapshot(
        model=session.model,
        weights=weights,
        state=state,
        facts={
            "step": session.step,
            "wall_s": session.wall_s,
            "settings_sha256": session.settings.identity(),
            "pending_losses": tuple(losses.mean(dim=0).tolist()),
            "pending_norms": tuple(float(norm) for norm in session.norms),
            "processes": world.size,
            "starts_branch": starts_branch,
            "work": work,
        },
    )


def _copy(tensor: torch.Tensor, world: World) -> torch.Tensor:
    return tensor.to("cpu", copy=True).contiguous() if world.first else _NOTHING


def save(session: Session, folder: Path, tokenizer: Path) -> None:
    """Copy a session and write the copy at once; every process must ask."""
    if found := snapshot(session):
        found.write(folder, tokenizer)


def _random_state(session: Session) -> dict[str, torch.Tensor]:
    """The generators' states of every process, one row each."""
    state = {"rng.cpu": session.world.gather(torch.get_rng_state())}
    if session.device == "cuda":
        state["rng.cuda"] = session.world.gather(torch.cuda.get_rng_state())
    return state


def _restore_random_state(session: Session, state: dict[str, torch.Tensor], part: int) -> None:
    """What this process draws next is what it would have drawn; one that was not there begins a sequence of its own."""
    rank = session.world.rank
    for name, restore in (("rng.cpu", torch.set_rng_state), ("rng.cuda", torch.cuda.set_rng_state)):
        if name not in state or (name == "rng.cuda" and session.device != "cuda"):
            continue
        rows = state[name].reshape(-1, state[name].shape[-1])
        if rank < len(rows):
            restore(rows[rank].clone())
        else:
            session.world.seed_dropout(part)


def checkpoints(parent: Path) -> list[tuple[int, Path]]:
    """(step, folder) of the checkpoints under a folder, oldest first."""
    found = [(int(match[1]), path) for path in parent.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return sorted(found)


def discard(folder: Path) -> None:
    """Remove a checkpoint: by one rename, so that a kill leaves no half of it under its name."""
    gone = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    folder.replace(gone)
    shutil.rmtree(gone)


def check(settings: Settings, folder: Path) -> CheckpointFile:
    """What a checkpoint says of itself, once its files are found to be what was written.

    Raises:
        Damaged: a file is damaged or missing.
        BadInput: the checkpoint belongs to other settings, or was written by a newer program.
    """
    try:
        facts = CheckpointFile.read(folder / "checkpoint.json")
    except NewerFile:
        raise
    except BadInput as error:
        raise Damaged(f"checkpoint {folder} is damaged: {error}") from error
    if not facts.intact() or step_folder(folder.parent, facts.step) != folder:
        raise Damaged(f"checkpoint {folder} is damaged: checkpoint.json is not what it was when written")
    for name, digest in facts.inputs.items():
        if _digest(folder / name) != digest:
            raise Damaged(f"checkpoint {folder} is damaged: {name} is not what it was when written")
    if facts.settings_sha256 != settings.identity():
        raise BadInput(
            f"checkpoint {folder} belongs to a run with other settings; choose another out= or remove it"
        )
    return facts


def _digest(path: Path) -> str | None:
    """A file's SHA-256; None for one that is not there, or that the disk cannot read."""
    try:
        return sha256_file(path)
    except OSError:
        return None


def load(settings: Settings, folder: Path, device: str, world: World = ALONE) -> Session:
    """The session that a checkpoint holds, whatever number of processes wrote it.

    Raises:
        BadInput: a file is damaged or missing, or the checkpoint belongs to other settings.
    """
    facts = CheckpointFile.model_validate(world.do(lambda: check(settings, folder).model_dump(mode="json")))
    session = start(settings, device, world, weights=load_file(folder / _WEIGHTS))
    state = load_file(folder / _STATE)
    load_optimizer_state(session.optimizer, session.model, state, device)
    session.step, session.wall_s = facts.step, facts.wall_s
    _restore_random_state(session, state, settings.seed + facts.step)
    rows = state.get(_LOSSES, torch.zeros(0))
    losses = rows[world.rank].tolist() if len(rows) == world.size else facts.pending_losses
    session.losses = [torch.tensor(loss, device=device) for loss in losses]
    session.norms = [torch.tensor(norm, device=device) for norm in facts.pending_norms]
    session.watch.losses.extend(state.get(_WATCH, torch.zeros(0)).tolist())
    return session


def newest(settings: Settings, parent: Path, *, at_most: int, tell: Callable[[str], None]) -> Path | None:
    """The newest good checkpoint of at most that step; a damaged one is said so and put aside, where no rule counts it."""
    for step, folder in reversed(checkpoints(parent)):
        if step > at_most:
            continue
        try:
            check(settings, folder)
        except Damaged as error:
            aside = _put_aside(folder)
            tell(f"{error}; it is {aside.name} now, and the run goes back to the one before it")
        else:
            return folder
    return None


def _put_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint, for a person to look at or remove; one of that name makes room."""
    aside = folder.with_name(f"damaged-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return folder.replace(aside)


def load_newest(
    settings: Settings,
    parent: Path,
    device: str,
    *,
    at_most: int,
    tell: Callable[[str], None],
    world: World = ALONE,
) -> Session | None:
    """The session that the newest good checkpoint of at most that step holds."""

    def name() -> str | None:
        found = newest(settings, parent, at_most=at_most, tell=tell)
        return found.name if found else None

    found = world.do(name)
    return load(settings, parent / found, device, world) if found else None
