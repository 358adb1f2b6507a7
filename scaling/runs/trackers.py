"""Rows of runs from the files of trainers: Hugging Face's trainer_state.json and TensorBoard's event files.

Both hold losses and steps but no sizes: the parameters come from a config.json beside them or in a folder above.
"""

import json
import struct
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from families import accounting
from families.architectures import REGISTRY, architecture
from families.units import BadInput

from ..files import StrPath, hashes, read_text, sha256_file

STATE = "trainer_state.json"

EVENTS = "events.out.tfevents"

_LOSS_TAGS = ("eval/loss", "eval_loss", "loss/eval", "val/loss", "val_loss")

_TOKEN_TAGS = ("tokens", "train/num_input_tokens_seen", "num_input_tokens_seen", "tokens_seen")

_HEADER, _FRAME = 12, 16  # bytes before a record (its length and that one's checksum), and around it


def is_tracker(path: StrPath) -> bool:
    """Return True for a trainer's own file, or a folder."""
    path = Path(path)
    return path.is_dir() or path.name == STATE or EVENTS in path.name


def input_hashes(path: StrPath) -> dict[str, str]:
    """SHA-256 of a file of runs, or of each file that a folder of runs is read from, by its path in the folder."""
    path = Path(path)
    if not path.is_dir():
        return hashes([path])
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
    """One state file of each run: a finished trainer's own, or that of its last checkpoint, which repeats the same log.

    Without any, all event files.
    """
    states = sorted(folder.rglob(STATE), key=lambda file: (len(file.parts), str(file)))
    kept: dict[Path, Path] = {}
    for file in states:
        owner = file.parent.parent if file.parent.name.startswith("checkpoint-") else file.parent
        if owner not in kept or (kept[owner].parent != owner and _step(file) > _step(kept[owner])):
            kept[owner] = file
    files = sorted(kept.values()) or sorted(folder.rglob(f"*{EVENTS}*"))
    if not files:
        raise BadInput(f"{folder} holds no {STATE} and no {EVENTS} file")
    return files


def _step(file: Path) -> int:
    tail = file.parent.name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 0


def _run_name(file: Path) -> str:
    parent = file.parent
    while parent.name.startswith("checkpoint-") or parent.name in ("runs", "logs", "tensorboard"):
        parent = parent.parent
    return parent.name or file.stem


def _sizes(file: Path) -> dict[str, float]:
    """Parameters by the config.json beside the file, in the model/ of one of our rungs, or up to two folders above.

    Empty where there is none of a known architecture.
    """
    folders = list(file.parents)[:3]
    for config in (folders[0] / "model" / "config.json", *(folder / "config.json" for folder in folders)):
        if config.exists():
            values = json.loads(read_text(config))
            kind = values.get("model_type", "")
            if kind not in REGISTRY:
                return {}
            spec = architecture(kind).from_hugging_face(values)
            return {
                "params": accounting.params(spec),
                "params_non_embedding": accounting.params_non_embedding(spec),
            }
    return {}


def _state_rows(file: Path) -> Iterator[dict[str, Any] | str]:
    try:
        state = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise BadInput(f"{file} is not JSON: {error.msg} at line {error.lineno}") from error
    if not isinstance(state, dict) or not isinstance(state.get("log_history"), list):
        raise BadInput(f"{file} has no log_history; it is not a trainer_state.json")
    sizes = _sizes(file)
    per_step = _tokens_per_step(state, sizes)
    last = state.get("max_steps") or state.get("global_step")
    evaluations = [
        entry for entry in state["log_history"] if isinstance(entry, dict) and "eval_loss" in entry
    ]
    for entry in evaluations:
        step = entry.get("step", 0)
        tokens = entry.get("num_input_tokens_seen") or (per_step * step if per_step else None)
        if not sizes:
            yield f"{file}: no config.json of a known architecture beside it, so its parameters are unknown"
        elif not tokens:
            yield f"{file}: step {step} has no count of tokens: neither num_input_tokens_seen nor total_flos"
        else:
            yield {
                "run": state.get("trial_name") or _run_name(file),
                **sizes,
                "tokens": tokens,
                "loss": entry["eval_loss"],
                # The Trainer's schedules end at max_steps; before that the learning rate has not decayed.
                "annealed": bool(last and step >= last),
            }
    if not evaluations:
        yield f"{file}: no entry of its log has an eval_loss"


def _tokens_per_step(state: dict[str, Any], sizes: dict[str, float]) -> float | None:
    """Tokens per step, from total_flos = 6·tokens·N without embeddings (transformers' floating_point_ops)."""
    flops, steps = state.get("total_flos"), state.get("global_step")
    if not (flops and steps and sizes):
        return None
    return float(flops / (6 * sizes["params_non_embedding"] * steps))


def _event_rows(files: Sequence[Path]) -> Iterator[dict[str, Any] | str]:
    """Rows of one folder's event files, in the order of their names: a resumed run continues in another file."""
    losses: dict[int, float] = {}
    tokens: dict[int, float] = {}
    for events in files:
        for step, tag, value in read_scalars(events):
            if tag in _LOSS_TAGS:
                losses[step] = value
            elif tag in _TOKEN_TAGS:
                tokens[step] = value
    file = files[-1]
    sizes = _sizes(file)
    if not losses:
        yield f"{file}: it has none of the tags {', '.join(_LOSS_TAGS)}"
    for step, loss in sorted(losses.items()):
        if not sizes:
            yield f"{file}: no config.json of a known architecture beside it, so its parameters are unknown"
        elif step not in tokens:
            yield f"{file}: step {step} has a loss and none of the tags {', '.join(_TOKEN_TAGS)}"
        else:
            yield {
                "run": _run_name(file),
                **sizes,
                "tokens": tokens[step],
                "loss": loss,
                "annealed": step == max(losses),
            }


def require_tensorboard(reason: str) -> None:
    """Check that the `tensorboard` package is installed.

    Args:
        reason: the input that needs it; the message begins with it.

    Raises:
        BadInput: the package is not installed.
    """
    if find_spec("tensorboard") is None:
        raise BadInput(f"{reason}, which needs TensorBoard: pip install 'scaling-planner[tensorboard]'")


def read_scalars(path: StrPath) -> Iterator[tuple[int, str, float]]:
    """(step, tag, value) of each scalar in a TensorBoard event file.

    Stops at a half-written last record, which a running trainer leaves.

    Raises:
        BadInput: the file cannot be read, has a broken record, or the tensorboard package is missing.
    """
    file = Path(path)
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

    offset = 0
    for record in RawEventFileLoader(str(file)).Load():
        try:
            event = Event.FromString(record)
        except DecodeError as error:
            raise _broken(file, offset) from error
        offset += len(record) + _FRAME
        for summary in event.summary.value:
            value = _scalar(summary)
            if value is not None:
                yield event.step, summary.tag, value
    if offset < size and not _half_written(file, offset):
        raise _broken(file, offset)


def _broken(file: Path, offset: int) -> BadInput:
    return BadInput(f"{file} is not a TensorBoard event file: broken record at byte {offset}")


def _half_written(file: Path, offset: int) -> bool:
    """True if the record where the loader stopped was cut short (or left as zeros by a power cut), not damaged."""
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    with file.open("rb") as opened:
        opened.seek(offset)
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
    except TypeError:  # a number type that NumPy lacks
        return None
    return float(array.item()) if array.dtype.kind in "fiu" and array.size == 1 else None
