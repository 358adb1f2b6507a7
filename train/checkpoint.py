"""Checkpoints: Hugging Face folders that also hold the state to resume from, written atomically."""

import errno
import json
import math
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
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
from scaling.untrusted import parse_json

from .config import Settings
from .data.tokenizer import CONFIG, END_OF_TEXT, MASKS, companions, write_companions
from .distributed import ALONE, World, unshard
from .loop import Session, start
from .model.objective import load_optimizer_state, optimizer_state
from .parts import read_moments, read_weights, write_parts

_WEIGHTS = "model.safetensors"
_STATE = "state.safetensors"
_LOSSES = "pending.losses"  # of each process's share of the batch, since the last line of metrics; (processes, steps)
_SPIKES = "watch.losses"  # of the last steps, against which spikes are detected
MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW, the optimiser of sharded runs
_SCALE = "loss.scale"  # of fp16, and the steps since it last changed
_EMPTY = torch.empty(0)
_NAME = re.compile(r"step-(\d{8})")


class Damaged(BadInput):
    """A checkpoint differs from what was written."""


class CheckpointFile(Document):
    """checkpoint.json, written last: step, identity of the settings, and SHA-256 of the files beside it."""

    KIND: ClassVar[str] = "checkpoint"

    step: int
    wall_s: float
    settings_sha256: str
    pending_losses: tuple[float, ...] = ()  # of the steps since the last line of metrics
    pending_norms: tuple[float, ...] = ()
    processes: int = 1  # number that wrote it; any number can resume from it
    parts: tuple[
        str, ...
    ] = ()  # states of a weight that each process wrote for itself, with the weights (parts.py)
    starts_branch: bool = False  # a rung's cooldown starts here: never pruned
    work: WorkEntry | None = None  # ledger entry of the steps since the checkpoint before
    seal: str = ""  # SHA-256 of all other fields; "" in checkpoints of older versions

    def sealed(self) -> "CheckpointFile":
        """Return a copy with its seal."""
        return self.model_copy(update={"seal": self._digest()})

    def intact(self) -> bool:
        """Return True if the seal matches the other fields."""
        return self.seal in ("", self._digest())

    def _digest(self) -> str:
        return sha256_bytes(canonical_json(self.model_dump(mode="json", exclude={"seal"})))

    @classmethod
    def try_read(cls, folder: Path) -> "CheckpointFile | None":
        """Read the file of a checkpoint; None if it cannot be read."""
        try:
            return cls.read(folder / "checkpoint.json")
        except BadInput:
            return None


def step_folder(parent: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint."""
    return parent / f"step-{step:08d}"


def write_model(model: Any, weights: dict[str, torch.Tensor] | None, tokenizer: Path, folder: Path) -> None:
    """Write a Hugging Face folder, which AutoModelForCausalLM (AutoModelForMaskedLM) and AutoTokenizer load.

    Args:
        model: the model, for its config.
        weights: its weights by name; None leaves them out.
        tokenizer: tokenizer.json.
        folder: an existing folder.
    """
    from tokenizers import Tokenizer

    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    if weights is not None:
        _write_tensors(weights, folder / _WEIGHTS)
    eos = model.config.eos_token_id
    atomic_write(folder / "tokenizer.json", tokenizer.read_bytes())
    vocabulary = Tokenizer.from_file(str(tokenizer))
    special = vocabulary.id_to_token(eos) or END_OF_TEXT
    mask = next((name for name in MASKS if vocabulary.token_to_id(name) is not None), None)
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": special,
        "eos_token": special,
        "unk_token": None,
        **({"mask_token": mask} if mask else {}),
    }
    theirs = companions(tokenizer.parent)
    if CONFIG in theirs:
        facts = parse_json(theirs.pop(CONFIG))
        if model.can_generate():
            facts.setdefault("eos_token", special)
    for key in _NAMES:  # the library would add what the vocabulary lacks, with an id beyond the model's rows
        name = facts.get(key)
        name = name.get("content") if isinstance(name, dict) else name
        if isinstance(name, str) and vocabulary.token_to_id(name) is None:
            facts[key] = special if key == "eos_token" else None
    facts["model_max_length"] = model.config.max_position_embeddings
    write_companions(theirs, folder)
    atomic_write(folder / CONFIG, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


_NAMES = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "pad", "sep", "cls", "mask"))


def _write_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    path.touch()  # with the user's umask: the library replaces it by a file that only the user can read
    mode = stat.S_IMODE(path.stat().st_mode)
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error), str(path)) from error
    path.chmod(mode)


def weights_of(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Iterate over all weights, unsharded, with their names; a collective call."""
    tied = set(model.all_tied_weights_keys)
    # parameters keep how they are sharded, their copies in state_dict may not
    state: dict[str, torch.Tensor] = {**model.state_dict(), **dict(model.named_parameters())}
    return ((name, unshard(weight)) for name, weight in state.items() if name not in tied)


def save_model(model: Any, tokenizer: Path, folder: Path, world: World = ALONE) -> None:
    """Write a finished model's folder: a collective call, in which process 0 writes.

    Args:
        model: the model.
        tokenizer: tokenizer.json.
        folder: the folder, made if it does not exist.
        world: the processes that share the model.

    Raises:
        BadInput: the disk is full or the folder cannot be written.
    """
    weights = {name: _copy(weight, world) for name, weight in weights_of(model)}
    if world.first:
        with clear_io_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_model(model, weights, tokenizer, folder)
            for path in (*sorted(folder.rglob("*")), folder):
                sync_file(path)  # before rung.json refers to it and its checkpoints are removed


def _files_of(folder: Path) -> list[Path]:
    return [
        path for path in sorted(folder.iterdir()) if path.is_file()
    ]  # not the chat templates, which tell no numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Copy of a session at a step; training may continue while it is written."""

    model: Any  # for its config
    weights: dict[str, torch.Tensor]
    state: dict[str, torch.Tensor]
    facts: dict[str, Any]

    def write(self, folder: Path, tokenizer: Path) -> None:
        """Write a checkpoint folder atomically.

        Raises:
            BadInput: the disk is full or the folder cannot be written.
        """
        with atomic_dir(folder) as place:
            write_model(self.model, self.weights, tokenizer, place)
            _write_tensors(self.state, place / _STATE)
            hashes = {}
            for path in _files_of(place):
                sync_file(path)  # a power cut must not leave an incomplete folder under this name
                hashes[path.name] = sha256_file(path, largest=math.inf)
            CheckpointFile(inputs=hashes, **self.facts).sealed().write(place / "checkpoint.json")


def snapshot(
    session: Session, *, work: WorkEntry | None = None, starts_branch: bool = False
) -> Snapshot | None:
    """Copy the state to resume from: a collective call. Process 0 gets the snapshot, the others None.

    Args:
        session: the session.
        work: ledger entry of the steps since the checkpoint before.
        starts_branch: True if a rung's cooldown starts here.
    """
    world = session.world
    # One tensor at a time, so that sharded state is never gathered as a whole.
    weights = {name: _copy(weight, world) for name, weight in weights_of(session.model)}
    moments = optimizer_state(session.optimizer, session.model)
    state = {name: _copy(value, world) for name, value in moments}
    small, facts = _small_state(session, work=work, starts_branch=starts_branch)
    if not world.first:
        return None
    return Snapshot(model=session.model, weights=weights, state=state | small, facts=facts)


def _small_state(
    session: Session, *, work: WorkEntry | None, starts_branch: bool
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the state besides weights and optimiser, and the fields of checkpoint.json; a collective call."""
    world = session.world
    state = _random_state(session)
    losses = world.gather(torch.stack(session.losses)) if session.losses else torch.zeros(world.size, 0)
    state[_LOSSES] = losses.cpu()
    if session.scale is not None:
        state[_SCALE] = torch.tensor([session.scale.value, session.scale.good], dtype=torch.float64)
    state[_SPIKES] = torch.tensor(list(session.spikes.losses), dtype=torch.float64)
    return state, {
        "step": session.step,
        "wall_s": session.wall_s,
        "settings_sha256": session.settings.identity(),
        "pending_losses": tuple(losses.mean(dim=0).tolist()),
        "pending_norms": tuple(float(norm) for norm in session.norms),
        "processes": world.size,
        "starts_branch": starts_branch,
        "work": work,
    }


def save_in_parts(
    session: Session,
    folder: Path,
    tokenizer: Path,
    *,
    work: WorkEntry | None = None,
    starts_branch: bool = False,
) -> None:
    """Write a checkpoint in which each process writes its own shards; a collective call, during which training waits.

    Args:
        session: the session, sharded.
        folder: the checkpoint, which all processes see.
        tokenizer: tokenizer.json to save with it.
        work: ledger entry of the steps since the checkpoint before.
        starts_branch: True if a rung's cooldown starts here.

    Raises:
        RunFailed: a process cannot write.
        BadInput: the disk is full or the folder cannot be written.
    """
    world = session.world
    small, facts = _small_state(session, work=work, starts_branch=starts_branch)
    with atomic_dir(folder) if world.first else nullcontext(folder) as own:
        place = Path(world.do(lambda: str(own)))
        hashes, rest = write_parts(session.model, session.optimizer, place, world)
        if world.first:
            write_model(session.model, None, tokenizer, place)
            _write_tensors({name: value.cpu() for name, value in (small | rest).items()}, place / _STATE)
            for path in _files_of(place):
                if path.name not in hashes:
                    sync_file(path)
                    hashes[path.name] = sha256_file(path, largest=math.inf)
            CheckpointFile(inputs=hashes, parts=MOMENTS, **facts).sealed().write(place / "checkpoint.json")
    world.do(lambda: None)  # none goes on before the folder has its name


def _copy(tensor: torch.Tensor, world: World) -> torch.Tensor:
    if not world.first:
        return _EMPTY
    if tensor.is_cuda:  # page-locked memory takes a GPU's copies at the full speed of its bus
        return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor).contiguous()
    return tensor.to("cpu", copy=True).contiguous()


def save(session: Session, folder: Path, tokenizer: Path) -> None:
    """Copy a session and write the copy at once; a collective call."""
    if copy := snapshot(session):
        copy.write(folder, tokenizer)


def _random_state(session: Session) -> dict[str, torch.Tensor]:
    """Return the random states of all processes, one row each."""
    state = {"rng.cpu": session.world.gather(torch.get_rng_state())}
    if session.device == "cuda":
        state["rng.cuda"] = session.world.gather(torch.cuda.get_rng_state())
    return state


def _restore_random_state(session: Session, state: dict[str, torch.Tensor], seed: int) -> None:
    """Restore this process's random state; a process beyond those that wrote the checkpoint is seeded anew."""
    rank = session.world.rank
    for name, restore in (("rng.cpu", torch.set_rng_state), ("rng.cuda", torch.cuda.set_rng_state)):
        if name not in state or (name == "rng.cuda" and session.device != "cuda"):
            continue
        rows = state[name].reshape(-1, state[name].shape[-1])
        if rank < len(rows):
            restore(rows[rank].clone())
        else:
            session.world.seed_dropout(seed)


def checkpoints(parent: Path) -> list[tuple[int, Path]]:
    """Return (step, folder) of the checkpoints under a folder, oldest first."""
    paths = ((_NAME.fullmatch(path.name), path) for path in parent.glob("step-*"))
    return sorted((int(match[1]), path) for match, path in paths if match)


def discard(folder: Path) -> None:
    """Remove a checkpoint; it is renamed first, so that a kill leaves no incomplete one under its name."""
    gone = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    folder.replace(gone)
    shutil.rmtree(gone)


def check(settings: Settings, folder: Path) -> CheckpointFile:
    """Verify the files of a checkpoint, and return its checkpoint.json.

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
        raise Damaged(f"checkpoint {folder} is damaged: checkpoint.json differs from what was written")
    for name, digest in facts.inputs.items():
        if _digest(folder / name) != digest:
            raise Damaged(f"checkpoint {folder} is damaged: {name} differs from what was written")
    if facts.settings_sha256 != settings.identity():
        raise BadInput(
            f"checkpoint {folder} belongs to a run with other settings; choose another out= or remove it"
        )
    return facts


def _digest(path: Path) -> str | None:
    """Return a file's SHA-256; None if it is missing or unreadable."""
    try:
        return sha256_file(path, largest=math.inf)
    except OSError:
        return None


def load(settings: Settings, folder: Path, device: str, world: World = ALONE) -> Session:
    """Load a checkpoint, whatever the number of processes that wrote it; a collective call.

    Args:
        settings: settings of the run.
        folder: the checkpoint.
        device: "cpu" or "cuda".
        world: the processes that share the run.

    Raises:
        BadInput: a file is damaged or missing, or the checkpoint belongs to other settings.
    """
    facts = CheckpointFile.model_validate(world.do(lambda: check(settings, folder).model_dump(mode="json")))
    weights = partial(read_weights, folder) if facts.parts else load_file(folder / _WEIGHTS)
    session = start(settings, device, world, weights=weights)
    state = load_file(folder / _STATE)
    load_optimizer_state(session.optimizer, session.model, state, device)
    if facts.parts:
        read_moments(folder, session.model, session.optimizer, facts.parts)
    session.step, session.wall_s = facts.step, facts.wall_s
    _restore_random_state(session, state, settings.seed + facts.step)
    rows = state.get(_LOSSES, torch.zeros(0))
    losses = rows[world.rank].tolist() if len(rows) == world.size else facts.pending_losses
    session.losses = [torch.tensor(loss, device=device) for loss in losses]
    session.norms = [torch.tensor(norm, device=device) for norm in facts.pending_norms]
    if session.scale is not None and _SCALE in state:
        value, good = state[_SCALE].tolist()
        session.scale.value, session.scale.good = value, int(good)
    session.spikes.losses.extend(state.get(_SPIKES, torch.zeros(0)).tolist())
    return session


def newest(settings: Settings, parent: Path, *, at_most: int, log: Callable[[str], None]) -> Path | None:
    """Return the newest good checkpoint up to a step; a damaged one is reported and renamed, so that it no longer counts.

    Args:
        settings: settings of the run.
        parent: folder of the checkpoints.
        at_most: largest step.
        log: called with a message about each damaged checkpoint.
    """
    for step, folder in reversed(checkpoints(parent)):
        if step > at_most:
            continue
        try:
            check(settings, folder)
        except Damaged as error:
            aside = _put_aside(folder)
            log(f"{error}; renamed to {aside.name}, and the run resumes from the checkpoint before")
        else:
            return folder
    return None


def _put_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint, for a person to inspect or remove; an earlier one of that name is removed."""
    aside = folder.with_name(f"damaged-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return folder.replace(aside)


def load_newest(
    settings: Settings,
    parent: Path,
    device: str,
    *,
    at_most: int,
    log: Callable[[str], None],
    world: World = ALONE,
) -> Session | None:
    """Load the newest good checkpoint up to a step; None if there is none.

    Args:
        settings: settings of the run.
        parent: folder of the checkpoints.
        device: "cpu" or "cuda".
        at_most: largest step.
        log: called with a message about each damaged checkpoint.
        world: the processes that share the run.
    """

    def name() -> str | None:
        path = newest(settings, parent, at_most=at_most, log=log)
        return path.name if path else None

    folder = world.do(name)
    return load(settings, parent / folder, device, world) if folder else None
