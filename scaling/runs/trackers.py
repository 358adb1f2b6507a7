"""Rows of runs from the files of trainers: Hugging Face's trainer_state.json and TensorBoard's event files.

Both hold losses and steps but no sizes: the parameters come from a config.json beside them or in a folder above.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from families.units import BadInput, parse_size

from ..files import StrPath, hashes, read_text, sha256_file
from ..untrusted import parse_json
from .columns import folded, loss_name
from .configs import file_counts
from .events import read_scalars, require_tensorboard

STATE = "trainer_state.json"

EVENTS = "events.out.tfevents"

_NAMED = ("loss", "tokens")  # what --columns may name in these files, by key or tag

_GIVEN = ("params", "batch_tokens")  # and what it may give as a number

# The last words of tags and keys of tokens: of transformers, Megatron, torchtitan, litgpt, OLMo.
_TOKENS = (
    "tokens", "numinputtokensseen", "tokensseen", "ntokensseen", "consumedtokens", "totaltokens", "globaltraintokens",
    "traintokens", "trainedtokens", "tokensprocessed", "numtokens", "ntokens",
)  # fmt: skip

_WHOLE_TOKENS = ("time/token", "time/tokens")  # of LLM Foundry, whose last part alone says too little

_OTHER_AXIS = (
    " vs samples",
    " vs gpu-seconds",
    " vs tokens",
)  # Megatron logs each scalar over other axes too

_LISTED = 40

Row = dict[str, Any] | str


def is_tracker(path: StrPath) -> bool:
    """Return True for a trainer's own file, or a folder."""
    path = Path(path)
    return path.is_dir() or path.name == STATE or EVENTS in path.name


def input_hashes(path: StrPath) -> dict[str, str]:
    """SHA-256 of a file of runs, or of each file that a folder of runs is read from, by its path in the folder."""
    path = Path(path)
    if not path.is_dir():
        return hashes([path])
    return {str(file.relative_to(path)): sha256_file(file) for file in find_logs(path)}


def tracker_rows(path: Path, names: Mapping[str, str] | None = None) -> Iterator[tuple[int, Row]]:
    """(number, row or what is wrong with it), as the readers of tables give them; a file that is broken is one such row.

    Args:
        path: the file, or a folder of such.
        names: the key or tag of the loss and of the tokens, where it is not one that is known.

    Raises:
        BadInput: a folder without such files, a name for another field, or the tensorboard package is needed and missing.
    """
    names = names or {}
    for name, value in names.items():
        if name not in _NAMED and not (name in _GIVEN and _given(name, value)):
            raise BadInput(
                f"columns says {name}={value}; in a trainer's files it can name loss and tokens, by key or tag, and give "
                "params and batch_tokens as numbers"
            )
    files = find_logs(path) if path.is_dir() else [path]
    runs = _run_names(files, path)
    if events := [file for file in files if file.name != STATE]:
        require_tensorboard(f"{events[0]} is a TensorBoard event file")
    number = 0
    states = [file for file in files if file.name == STATE]
    folders = dict.fromkeys(file.parent for file in files if file.name != STATE)
    for file, rows in (
        *((file, _state_rows(file, names, runs[file])) for file in states),
        *(
            (folder, _event_rows([file for file in files if file.parent == folder], names, runs))
            for folder in folders
        ),
    ):
        try:
            for row in rows:
                number += 1
                yield number, row
        except BadInput as error:  # a file that cannot be read ends its own rows alone
            if len(files) == 1 and not path.is_dir():
                raise
            number += 1
            message = str(error)
            yield number, message if str(file) in message else f"{file}: {message}"


def _given(name: str, value: str) -> bool:
    try:
        return parse_size(value, name) > 0
    except BadInput:
        return False


def find_logs(folder: Path) -> list[Path]:
    """One state file of each run: a finished trainer's own, or that of its last checkpoint, which repeats the same log.

    Event files of folders without one; a run that has both is read once.
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
    return int(tail) if tail.isdecimal() and len(tail) < 19 else 0


def run_name_of(file: Path) -> str:
    """The name of the run that a trainer's file is of: that of the nearest folder that is called after something."""
    parent = file.parent
    while (
        parent.name.startswith(("checkpoint-", "version_"))
        or parent.name in ("runs", "logs", "tensorboard", "tb", "lightning_logs", "csv", "trunk")
    ) and parent.parent != parent:
        parent = parent.parent
    return parent.name or file.stem


def _run_names(files: Sequence[Path], root: Path) -> dict[Path, str]:
    """The run of each file: its folder's name, or its path where several folders have one name."""
    names = {file: run_name_of(file) for file in files}
    owners: dict[str, set[Path]] = {}
    for file, name in names.items():
        owners.setdefault(name, set()).add(file.parent)
    return {
        file: name if len(owners[name]) == 1 or not root.is_dir() else str(file.parent.relative_to(root))
        for file, name in names.items()
    }


def number_of(value: Any) -> float | None:
    """A finite number, also as text; None for anything else."""
    if isinstance(value, str) and len(value) < 40:
        try:
            value = float(value)
        except ValueError:
            return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def counts_of(file: Path, names: Mapping[str, str] | None = None) -> dict[str, float] | str:
    """The counts of the model of a file, or why they are unknown; params where a user gave them."""
    if names and "params" in names:
        return {"params": parse_size(names["params"], "params")}
    try:
        return file_counts(file)
    except BadInput as error:
        return str(error)


def held_out_keys(keys: Sequence[str], names: Mapping[str, str], where: object) -> dict[str, str]:
    """The held-out losses among keys or tags, each with its eval set.

    Raises:
        BadInput: there is none, or not the one that is named; with those that are there.
    """
    listed = ", ".join(sorted(keys)[:_LISTED]) + (", …" if len(keys) > _LISTED else "")
    if "loss" in names:
        if names["loss"] not in keys:
            raise BadInput(f"{where}: columns says loss={names['loss']}; it has {listed or 'no numbers'}")
        return {names["loss"]: ""}
    held: dict[str, str] = {}
    for key in sorted(keys):
        loss = None if key.endswith(_OTHER_AXIS) else loss_name(key)
        if (
            loss is not None
            and loss.unit == "nats"
            and not loss.per
            and ((loss.held_out and not loss.training) or key == "loss/eval")
        ):
            held[key] = loss.eval_set
    if not held:
        raise BadInput(
            f"{where}: it has no held-out loss among {listed or 'no numbers'}; --columns loss=… names one"
        )
    plain = [key for key, eval_set in held.items() if not eval_set]
    return {plain[0]: ""} if plain else held


def tokens_key_of(keys: Sequence[str], names: Mapping[str, str], where: object) -> str | None:
    """The key or tag of the tokens seen; None where nothing is called so.

    Raises:
        BadInput: `names` names one that is not there.
    """
    if "tokens" in names:
        if names["tokens"] not in keys:
            raise BadInput(
                f"{where}: columns says tokens={names['tokens']}; it has {', '.join(sorted(keys)[:_LISTED])}"
            )
        return names["tokens"]
    found = [
        key
        for key in sorted(keys, key=len)
        if not key.endswith(_OTHER_AXIS)
        and (key in _WHOLE_TOKENS or folded(key.replace("\\", "/").split("/")[-1].split(".")[-1]) in _TOKENS)
    ]
    return found[0] if found else None


# trainer_state.json


def _state_rows(file: Path, names: Mapping[str, str], run: str) -> Iterator[Row]:
    try:
        state = parse_json(read_text(file))
    except json.JSONDecodeError as error:
        raise BadInput(f"{file} is not JSON: {error.msg} at line {error.lineno}") from error
    log = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(log, list):
        raise BadInput(f"{file} has no log_history; it is not a trainer_state.json")
    entries = [entry for entry in log if isinstance(entry, dict)]
    keys = list(
        dict.fromkeys(key for entry in entries for key in entry if isinstance(entry[key], int | float | str))
    )
    losses = held_out_keys(keys, names, file)
    tokens_key = tokens_key_of(keys, names, file)
    sizes = counts_of(file, names)
    per_step = _given_per_step(names) or (None if isinstance(sizes, str) else tokens_per_step(state, sizes))
    last = number_of(state.get("max_steps")) or number_of(state.get("global_step"))
    seen: dict[float, float] = {}
    for entry in entries:
        step, tokens = number_of(entry.get("step")), number_of(entry.get(tokens_key)) if tokens_key else None
        if step is not None and tokens:
            seen[step] = tokens
    for entry in entries:
        for key, eval_set in losses.items():
            if key not in entry:
                continue
            step = number_of(entry.get("step", 0))
            if step is None:
                yield f"{file}: an entry of its log has step {entry['step']!r}; it must be a number"
                continue
            tokens = seen.get(step) or (per_step * step if per_step else None)
            if isinstance(sizes, str):
                yield f"{file}: {sizes}"
            elif not tokens:
                yield f"{file}: step {step:g} has no count of tokens: neither num_input_tokens_seen nor total_flos"
            else:
                yield {
                    "run": state.get("trial_name") or run,
                    **sizes,
                    "tokens": tokens,
                    "loss": entry[key],
                    **({"eval_set": eval_set} if eval_set else {}),
                    # The Trainer's schedules end at max_steps; before that the learning rate has not decayed.
                    "annealed": bool(last and step >= last),
                }


def _given_per_step(names: Mapping[str, str]) -> float | None:
    """A user's tokens per step."""
    return parse_size(names["batch_tokens"], "batch_tokens") if "batch_tokens" in names else None


def tokens_per_step(state: Mapping[str, Any], sizes: Mapping[str, float]) -> float | None:
    """Tokens per step, from total_flos = 6·tokens·N without embeddings (transformers' floating_point_ops)."""
    if "params_non_embedding" not in sizes:  # params alone, as a user gave them
        return None
    flops, steps = number_of(state.get("total_flos")), number_of(state.get("global_step"))
    if not (flops and steps and flops > 0 and steps > 0):
        return None
    return float(flops / (6 * sizes["params_non_embedding"] * steps))


# Event files


def _event_rows(files: Sequence[Path], names: Mapping[str, str], runs: Mapping[Path, str]) -> Iterator[Row]:
    """Rows of one folder's event files, in the order of their names: a resumed run continues in another file."""
    scalars: dict[str, dict[int, float]] = {}
    for events in files:
        for step, tag, value in read_scalars(events):
            scalars.setdefault(tag, {})[step] = value
    file = files[-1]
    losses = held_out_keys(list(scalars), names, file)
    tokens_tag = tokens_key_of(list(scalars), names, file)
    tokens = scalars[tokens_tag] if tokens_tag else {}
    sizes = counts_of(file, names)
    per_step = _given_per_step(names)
    if not tokens and per_step is None:
        listed = ", ".join(sorted(scalars)[:_LISTED])
        yield (
            f"{file}: it has no count of tokens among {listed}; --columns tokens=… names one, or batch_tokens=524288 makes "
            "them steps × that"
        )
        return
    for tag, eval_set in losses.items():
        end = max(scalars[tag])
        for step, loss in sorted(scalars[tag].items()):
            if step == 0 and per_step is not None:  # the loss before the first step
                continue
            if isinstance(sizes, str):
                yield f"{file}: {sizes}"
            elif (seen := per_step * step if per_step is not None else _at(tokens, step)) is None:
                yield f"{file}: step {step:g} has a loss and no count of tokens in {tokens_tag}"
            else:
                yield {
                    "run": runs[file],
                    **sizes,
                    "tokens": seen,
                    "loss": loss,
                    **({"eval_set": eval_set} if eval_set else {}),
                    "annealed": step == end,
                }


def _at(tokens: Mapping[int, float], step: int) -> float | None:
    """Tokens at a step: as logged, or by tokens per step where that is one number throughout; None elsewhere."""
    if step in tokens:
        return tokens[step]
    rates = {f"{seen / at:.9g}" for at, seen in tokens.items() if at > 0}
    return step * float(rates.pop()) if len(rates) == 1 and len(tokens) > 1 and step > 0 else None
