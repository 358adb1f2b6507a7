"""Rows of runs from what trainers leave behind: Hugging Face's trainer_state.json and TensorBoard's event files.

Both tell losses and steps, not sizes: a config.json beside them (or in the folder above) tells the parameters.
"""

import json
import math
import struct
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from families import accounting
from families.architectures import REGISTRY, architecture
from families.units import BadInput

from ..files import read_text, sha256_file
from ..untrusted import parse_json

STATE = "trainer_state.json"

EVENTS = "events.out.tfevents"

_LOSS_TAGS = ("eval/loss", "eval_loss", "loss/eval", "val/loss", "val_loss")

_TOKEN_TAGS = ("tokens", "train/num_input_tokens_seen", "num_input_tokens_seen", "tokens_seen")

_HEADER, _FRAME = 12, 16  # bytes before a record (its length and that one's checksum), and around it


def is_tracker(path: Path) -> bool:
    """A trainer's own file, or a folder of them."""
    return path.is_dir() or path.name == STATE or EVENTS in path.name


def input_hashes(path: Path) -> dict[str, str]:
    """SHA-256 of a file of runs, or of each file that a folder of runs is read from, by its place in the folder."""
    if not path.is_dir():
        return {path.name: sha256_file(path)}
    return {str(file.relative_to(path)): sha256_file(file) for file in _find(path)}


def tracker_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """(number, row or what is wrong with it), as the readers of tables give them.

    Raises:
        BadInput: a folder without such files, or a file that cannot be read.
    """
    files = _find(path) if path.is_dir() else [path]
    number = 0
    states = [file for file in files if file.name == STATE]
    folders = dict.fromkeys(file.parent for file in files if file.name != STATE)
    for rows in (
        *(_state_rows(file) for file in states),
        *(_event_rows([file for file in files if file.parent == folder]) for folder in folders),
    ):
        for row in rows:
            number += 1
            yield number, row


def _find(folder: Path) -> list[Path]:
    """One file of each run: a finished trainer's state stands in its folder, its checkpoints repeat the same log."""
    states = sorted(folder.rglob(STATE), key=lambda file: (len(file.parts), str(file)))
    kept: dict[Path, Path] = {}
    for file in states:
        owner = file.parent.parent if file.parent.name.startswith("checkpoint-") else file.parent
        if owner not in kept or (kept[owner].parent != owner and _step(file) > _step(kept[owner])):
            kept[owner] = file
    found = sorted(kept.values()) or sorted(folder.rglob(f"*{EVENTS}*"))
    if not found:
        raise BadInput(f"{folder} holds no {STATE} and no {EVENTS} file")
    return found


def _step(file: Path) -> int:
    tail = file.parent.name.rpartition("-")[2]
    return int(tail) if tail.isdecimal() else 0


def _run_name(file: Path) -> str:
    parent = file.parent
    while parent.name.startswith("checkpoint-") or parent.name in ("runs", "logs", "tensorboard"):
        parent = parent.parent
    return parent.name or file.stem


def _sizes(file: Path) -> dict[str, float]:
    """Parameters by the config.json beside the file, in the model/ of one of our rungs, or up to two folders above; empty
    where there is none we know.
    """
    near = list(file.parents)[:3]
    for config in (near[0] / "model" / "config.json", *(folder / "config.json" for folder in near)):
        if config.exists():
            values = _parsed(config)
            kind = values.get("model_type") if isinstance(values, dict) else None
            if not isinstance(kind, str) or kind not in REGISTRY:
                return {}
            spec = architecture(kind).from_hugging_face(values)
            return {
                "params": accounting.params(spec),
                "params_non_embedding": accounting.params_non_embedding(spec),
            }
    return {}


def _parsed(file: Path) -> Any:
    try:
        return parse_json(read_text(file))
    except json.JSONDecodeError as error:
        raise BadInput(f"{file} is not JSON: {error.msg} at line {error.lineno}") from error


def _number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def _state_rows(file: Path) -> Iterator[dict[str, Any] | str]:
    state = _parsed(file)
    if not isinstance(state, dict) or not isinstance(state.get("log_history"), list):
        raise BadInput(f"{file} has no log_history; it is not a trainer_state.json")
    sizes = _sizes(file)
    per_step = _tokens_per_step(state, sizes)
    last = _number(state.get("max_steps")) or _number(state.get("global_step"))
    found = False
    for entry in state["log_history"]:
        if not isinstance(entry, dict) or "eval_loss" not in entry:
            continue
        found = True
        step = _number(entry.get("step", 0))
        if step is None:
            yield f"{file}: an entry of its log has step {entry['step']!r}; it must be a number"
            continue
        tokens = entry.get("num_input_tokens_seen") or (per_step * step if per_step else None)
        if not sizes:
            yield f"{file}: no config.json of a known architecture beside it tells the parameters"
        elif not tokens:
            yield f"{file}: step {step:g} tells no tokens: neither num_input_tokens_seen nor total_flos is there"
        else:
            yield {
                "run": state.get("trial_name") or _run_name(file),
                **sizes,
                "tokens": tokens,
                "loss": entry["eval_loss"],
                # A schedule of the Trainer ends at max_steps; before that the learning rate is still up.
                "annealed": bool(last and step >= last),
            }
    if not found:
        yield f"{file}: no entry of its log has an eval_loss"


def _tokens_per_step(state: dict[str, Any], sizes: dict[str, float]) -> float | None:
    """From total_flos = 6 · tokens · parameters without embeddings (transformers' floating_point_ops)."""
    flops, steps = _number(state.get("total_flos")), _number(state.get("global_step"))
    if not (flops and steps and sizes):
        return None
    return float(flops / (6 * sizes["params_non_embedding"] * steps))


def _event_rows(files: Sequence[Path]) -> Iterator[dict[str, Any] | str]:
    """One folder's event files, in the order of their names: a run that was stopped goes on in another file."""
    losses: dict[int, float] = {}
    tokens: dict[int, float] = {}
    for one in files:
        for step, tag, value in read_scalars(one):
            if tag in _LOSS_TAGS:
                losses[step] = value
            elif tag in _TOKEN_TAGS:
                tokens[step] = value
    file = files[-1]
    sizes = _sizes(file)
    if not losses:
        yield f"{file}: none of the tags {', '.join(_LOSS_TAGS)} is in it"
    for step, loss in sorted(losses.items()):
        if not sizes:
            yield f"{file}: no config.json of a known architecture beside it tells the parameters"
        elif step not in tokens:
            yield f"{file}: step {step} has a loss and no tokens ({', '.join(_TOKEN_TAGS)})"
        else:
            yield {
                "run": _run_name(file),
                **sizes,
                "tokens": tokens[step],
                "loss": loss,
                "annealed": step == max(losses),
            }


def require_tensorboard(asked: str) -> None:
    """Refuse what needs the `tensorboard` package where it is missing.

    Args:
        asked: the input that needs it, as the message begins.

    Raises:
        BadInput: the package is not installed.
    """
    if find_spec("tensorboard") is None:
        raise BadInput(f"{asked}, which needs TensorBoard: pip install 'scaling-planner[tensorboard]'")


def read_scalars(file: Path) -> Iterator[tuple[int, str, float]]:
    """(step, tag, value) of each scalar in a TensorBoard event file.

    A half-written last record, which a running trainer leaves, ends the reading.

    Raises:
        BadInput: the file cannot be read, has a broken record, or the tensorboard package is missing.
    """
    try:
        size = file.stat().st_size
        with file.open("rb"):
            pass
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror}") from error
    require_tensorboard(f"{file} is a TensorBoard event file")
    from google.protobuf.message import DecodeError
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    at = 0
    for record in RawEventFileLoader(str(file)).Load():
        try:
            event = Event.FromString(record)
        except DecodeError as error:
            raise _broken(file, at) from error
        at += len(record) + _FRAME
        for one in event.summary.value:
            value = _scalar(one)
            if value is not None:
                yield event.step, one.tag, value
    if at < size and not _half_written(file, at):
        raise _broken(file, at)


def _broken(file: Path, at: int) -> BadInput:
    return BadInput(f"{file} is not a TensorBoard event file: broken record at byte {at}")


def _half_written(file: Path, at: int) -> bool:
    """Whether the record where the loader stopped was cut short (or left as zeros by a power cut), not damaged."""
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    with file.open("rb") as opened:
        opened.seek(at)
        rest = opened.read()
    if len(rest) < _HEADER or not rest.strip(b"\0"):
        return True
    length, checksum = struct.unpack_from("<QI", rest)
    return bool(checksum == masked_crc32c(rest[:8])) and len(rest) < length + _FRAME


def _scalar(value: Any) -> float | None:
    """A summary value as a number; None for text, images and histograms. TensorFlow 2 writes a scalar as a tensor."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return float(value.simple_value)
    if kind != "tensor" or any(axis.size != 1 for axis in value.tensor.tensor_shape.dim):
        return None
    from tensorboard.util.tensor_util import make_ndarray

    try:
        array = make_ndarray(value.tensor)
    except TypeError:  # a kind of number that NumPy lacks
        return None
    return float(array.item()) if array.dtype.kind in "fiu" and array.size == 1 else None
