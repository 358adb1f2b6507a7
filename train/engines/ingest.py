"""Runs from the logs of another engine, checked against the contract it was given."""

import csv
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from families.units import BadInput, format_size
from scaling.files import read_text
from scaling.runs.events import read_scalars
from scaling.runs.run import Run
from scaling.schedule import Schedule
from scaling.untrusted import parse_json

from .contract import Contract

RATE_TOLERANCE = 0.01  # of the peak: a log prints the rate of the step, or of the next

CURVE = 48  # points of a curve that are kept, evenly by step

_MEGATRON = re.compile(r"iteration\s+(\d+)/\s*(\d+)\s*\|(.*)")
_PARAMETERS = re.compile(r"number of parameters on \([a-z_, ]+\) model parallel rank .*?:\s*(\d+)")

# Names of a loss, a rate and a batch in tags and columns: Megatron's, AutoModel's, and what W&B exports add.
_NAMES = {
    "loss": ("lm loss", "loss", "train/loss", "train_loss"),
    "lr": ("learning-rate", "learning rate", "lr", "train/lr", "train/learning_rate"),
    "batch": ("batch-size", "global batch size"),
    "tokens": ("num_label_tokens",),
}
_STEPS = ("step", "_step", "iteration", "global_step", "trainer/global_step")


@dataclass(frozen=True, slots=True)
class Point:
    """A logged step: number of updates taken, loss in nats, learning rate and sequences of the step if they are logged."""

    step: int
    loss: float
    lr: float | None = None
    batch: float | None = None


@dataclass(slots=True)
class Log:
    """What the files of a run say. total: steps that it was to take; params: its number of parameters."""

    points: dict[int, Point]
    total: int | None = None
    params: int | None = None

    @property
    def curve(self) -> list[Point]:
        """The points by step; what was logged again replaces what was logged first."""
        return [self.points[step] for step in sorted(self.points)]


def read_log(path: Path, contract: Contract) -> Log:
    """Read a log, or every log in a folder.

    Args:
        path: Megatron's output, AutoModel's training.jsonl, a W&B export as CSV, a TensorBoard file, or a folder of them.
        contract: the contract, for the unit of a batch.

    Raises:
        BadInput: no such file, or none that holds steps and losses.
    """
    if not path.exists():
        raise BadInput(f"{path} does not exist")
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    log = Log({})
    for file in files:
        if "tfevents" in file.name:
            _add(log, _events(file))
        elif file.suffix == ".jsonl" and not file.name.startswith("validation"):
            _add(log, _json_lines(file, contract))
        elif file.suffix == ".csv":
            _add(log, _table(file))
        elif file.suffix in (".log", ".txt", ".out") or file == path:
            _megatron(log, file)
    if not log.points:
        raise BadInput(
            f"{path} holds no steps with losses; it must be Megatron's output, AutoModel's training.jsonl, a W&B export "
            "(CSV) or TensorBoard event files"
        )
    return log


def _add(log: Log, points: Iterator[Point]) -> None:
    for point in points:
        before = log.points.get(point.step, point)
        log.points[point.step] = replace(point, lr=point.lr or before.lr, batch=point.batch or before.batch)


def _megatron(log: Log, file: Path) -> None:
    ranks = []
    for line in read_text(file).splitlines():
        if found := _PARAMETERS.search(line):
            ranks.append(int(found[1]))
        elif found := _MEGATRON.search(line):
            facts = dict(part.split(":", 1) for part in found[3].split("|") if part.count(":") == 1)
            values = {key.strip(): _float(value) for key, value in facts.items()}
            log.total = int(found[2])
            loss = _first(values, "loss")
            if loss is not None:
                point = Point(int(found[1]), loss, _first(values, "lr"), _first(values, "batch"))
                _add(log, iter([point]))
    if ranks:
        log.params = sum(ranks)


def _json_lines(file: Path, contract: Contract) -> Iterator[Point]:
    first: int | None = None
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        try:
            row = parse_json(line)
        except ValueError as error:
            raise BadInput(f"{file} line {number} is not JSON") from error
        values = {key: _float(value) for key, value in row.items()} if isinstance(row, dict) else {}
        loss, step = _first(values, "loss"), _whole(values.get("step"))
        if loss is None or step is None:
            continue
        first = step if first is None else first
        tokens = _first(values, "tokens")
        batch = None if tokens is None else tokens / contract.n_positions
        yield Point(step + (1 if first == 0 else 0), loss, _first(values, "lr"), batch)


def _table(file: Path) -> Iterator[Point]:
    try:
        rows = list(csv.DictReader(read_text(file).splitlines()))
    except csv.Error as error:
        raise BadInput(f"{file} is not CSV: {error}") from error
    for row in rows:
        values = {
            (key or "").rpartition(" - ")[2].strip().lower(): _float(value) for key, value in row.items()
        }
        step = next((step for name in _STEPS if (step := _whole(values.get(name))) is not None), None)
        loss = _first(values, "loss")
        if step is not None and loss is not None:
            yield Point(step, loss, _first(values, "lr"), _first(values, "batch"))


def _events(file: Path) -> Iterator[Point]:
    steps: dict[int, dict[str, float | None]] = {}
    for step, tag, value in read_scalars(file):
        steps.setdefault(step, {})[tag.lower()] = value
    for step, values in steps.items():
        loss = _first(values, "loss")
        if loss is not None:
            yield Point(step, loss, _first(values, "lr"), _first(values, "batch"))


def _first(values: Mapping[str, float | None], what: str) -> float | None:
    return next((value for name in _NAMES[what] if (value := values.get(name)) is not None), None)


def _float(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):  # the last of an integer of 400 digits
        return None


def _whole(value: float | None) -> int | None:
    """Return a step, or None for what is none: a NaN, or more than a count can be."""
    return int(value) if value is not None and abs(value) < 2**53 else None


def check(log: Log, contract: Contract) -> tuple[str, ...]:
    """Check that a log is of the run in a contract; returns what it does not say.

    Raises:
        BadInput: another number of steps, parameters or sequences, another learning rate, or a loss that is not finite.
    """
    curve, notes = log.curve, []
    run, last = contract.run, curve[-1].step
    if log.total is not None and log.total != contract.steps:
        raise BadInput(f"{run}: the log is of {log.total} steps; the contract says {contract.steps}")
    if last > contract.steps:
        raise BadInput(f"{run}: the log goes to step {last}; the contract says {contract.steps}")
    if log.params is None:
        notes.append(f"{run}: the log does not say the number of parameters")
    elif log.params not in (contract.params, contract.padded_params):
        raise BadInput(
            f"{run}: the log is of a model of {format_size(log.params)} parameters ({log.params}); the contract says "
            f"{contract.params}"
        )
    batches = {point.batch for point in curve if point.batch is not None}
    if not batches:
        notes.append(f"{run}: the log does not say the batch")
    for batch in batches:
        if batch != contract.batch_sequences:
            raise BadInput(
                f"{run}: the log is of batches of {batch:g} sequences; the contract says {contract.batch_sequences}"
            )
    for point in curve:
        if not math.isfinite(point.loss):
            raise BadInput(f"{run}: the loss is {point.loss} at step {point.step}")
    schedule = Schedule(
        peak=contract.lr,
        warmup=contract.warmup_steps,
        steps=contract.steps,
        kind=contract.schedule,
        cooldown_steps=contract.cooldown_steps,
        shape=contract.cooldown_shape,
    )
    for point in curve:
        rates = [schedule.lr(step) for step in (point.step - 1, min(point.step, contract.steps - 1))]
        slack = RATE_TOLERANCE * contract.lr
        if point.step == contract.steps:
            rates.append(0.0)
        if point.lr is not None and min(abs(point.lr - rate) for rate in rates) > slack:
            raise BadInput(
                f"{run}: the learning rate is {point.lr:g} at step {point.step}; the contract's schedule says {rates[0]:g}"
            )
    if last < contract.steps:
        notes.append(
            f"{run}: the log ends at step {last} of {contract.steps}: none of its losses is of an annealed model"
        )
    return tuple(notes)


def runs_of(log: Log, contract: Contract, score: Mapping[str, Any] | None) -> list[Run]:
    """Return the rows of a run: its score on held-out text, or its training losses where there is none.

    Training losses are marked by their eval_set; those before the end as not annealed.

    Args:
        log: the log.
        contract: what it was checked against.
        score: what `scaling validate --json` said of the exported weights; None without.

    Raises:
        BadInput: the score is of another model.
    """
    curve = log.curve
    last = curve[-1].step
    if score is not None:
        if score.get("parameters") != contract.params:
            raise BadInput(
                f"{contract.run}: the score is of a model of {score.get('parameters')} parameters; the contract says "
                f"{contract.params}"
            )
        return [_row(contract, last, float(score["loss"]), str(score["eval_set"]), float(score["loss_se"]))]
    kept = sorted({round(index * (len(curve) - 1) / max(1, CURVE - 1)) for index in range(CURVE)})
    return [
        _row(contract, curve[i].step, curve[i].loss, f"training loss of {contract.engine}")
        for i in kept
        if i < len(curve)
    ]


def _row(contract: Contract, step: int, loss: float, eval_set: str, se: float | None = None) -> Run:
    tokens = step * contract.batch_tokens
    return Run(
        run=contract.run,
        group=contract.group,
        params=contract.params,
        params_non_embedding=contract.params_non_embedding,
        tokens=tokens,
        loss=loss,
        loss_se=se,
        compute=float(tokens * contract.flops_per_token),
        compute_kind="exact",
        annealed=step == contract.steps,
        schedule=contract.schedule,
        seed=contract.seed,
        eval_set=eval_set,
        n_positions=contract.n_positions,
        vocab_size=contract.vocab_size,
        batch_tokens=contract.batch_tokens,
        lr=contract.lr,
        n_layer=contract.n_layer,
        n_embd=contract.n_embd,
        n_head=contract.n_head,
        extra={"engine": contract.engine},
    )


def read_score(path: Path) -> dict[str, Any]:
    """Read what `scaling validate --json` printed.

    Raises:
        BadInput: it is something else.
    """
    try:
        value = parse_json(read_text(path))
    except ValueError as error:
        raise BadInput(f"{path} is not JSON") from error
    needed = ("parameters", "loss", "loss_se", "eval_set")
    if not isinstance(value, dict) or any(key not in value for key in needed):
        raise BadInput(f"{path} is no score; it must be what `scaling validate FOLDER --json` prints")
    return value
