"""Many runs from one command: lists of values, ablations of the text, and selection of the best run."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from families import params
from families.units import BadInput
from scaling.paths import StudyPaths, safe_name
from scaling.runs.store import gather_runs

from ..config import SHAPE_KEYS, TrainConfig
from ..ladder import RunOptions
from ..lease import Stop
from ..loop import pick_device
from ..rung import RungFile
from ..settings import base_name, default_run_name, rung_steps
from .grid import CELLS, TUNED, Point
from .ladders import Job, ProgressCallback, train_ladders
from .launch import prepare_run
from .machine import check_shared
from .pool import cores

SMALL = 10**6  # parameters below which a model keeps one core busy and two waiting (docs/log.md)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepEntry:
    """A run to train, its cell of the sweep, and its values that are compared within the cell."""

    config: TrainConfig
    cell: tuple[object, ...] = ()
    tuned: tuple[object, ...] = ()


def entries(points: Sequence[tuple[Point, TrainConfig]]) -> tuple[SweepEntry, ...]:
    """Return the requested runs, each with a unique name; ablate=data adds one for each fraction.

    Raises:
        BadInput: two runs would have one name, or many runs one folder.
    """
    found = []
    for point, config in points:
        if point.label:
            told = any(key in SHAPE_KEYS for key, _ in point.chosen)
            stem = base_name(config, shape_in_suffix=told)
            config = config.model_copy(update={"name": safe_name(f"{stem}-{point.label}")})
        cell = tuple(pair for pair in point.chosen if pair[0] in CELLS)
        tuned = tuple(pair for pair in point.chosen if pair[0] in TUNED)
        for fraction in config.fractions if config.ablate == "data" else (config.data_fraction,):
            one = config.model_copy(update={"data_fraction": fraction})
            if config.ablate == "data" and config.name and fraction < 1:
                one = one.model_copy(update={"name": safe_name(f"{config.name}-data{fraction:g}")})
            found.append(SweepEntry(config=one, cell=(*cell, fraction), tuned=tuned))
    if len(found) > 1:
        named: dict[str, int] = {}
        for entry in found:
            if entry.config.out is not None:
                raise BadInput(f"out is {entry.config.out}, one folder; {len(found)} runs need --study")
            if entry.config.engine != "torch":
                raise BadInput(f"engine is {entry.config.engine}; a sweep trains its runs with torch")
            if entry.config.devices > 1:
                raise BadInput(f"devices is {entry.config.devices}; a sweep trains each run on one")
            name = default_run_name(entry.config)
            named[name] = named.get(name, 0) + 1
            if named[name] > 1:
                raise BadInput(
                    f"two of the {len(found)} runs would be called {name}; give shorter values or names"
                )
    return tuple(found)


def side_by_side(asked: int | None, configs: Sequence[TrainConfig], device: str) -> int:
    """Return the number of runs that train at a time: as requested, else one per core for small models on a CPU."""
    if asked is not None:
        return asked
    if device != "cpu":
        return 1
    small = all(params(config.spec()) < SMALL for config in configs)
    return cores() if small else 1


def train_many(
    asked: Sequence[SweepEntry],
    study: Path,
    *,
    yes: bool,
    stop: Stop,
    log: Callable[[str], None],
    report: ProgressCallback,
) -> tuple[tuple[RungFile, ...], ...]:
    """Train every run, small ones side by side; return the rungs of each, in the order of the runs.

    Args:
        asked: the runs.
        study: folder of the study.
        yes: True to accept runs too large for this machine.
        stop: stop signal, polled after every step.
        log: called with each message.
        report: called with FLOPs done, total FLOPs, a description, and True for work that was just trained.

    Raises:
        BadInput: as `launch.train`, before anything is trained.
        Interrupted: asked to stop; every run is saved at the step it was at.
    """
    first = asked[0].config
    device = pick_device(first.device)
    at_once = side_by_side(first.jobs, [entry.config for entry in asked], device)
    place = StudyPaths(study)
    jobs, lengths = [], []
    for entry in asked:
        config = entry.config
        if at_once > 1 and config.threads == "auto":
            config = config.model_copy(update={"threads": 1})
        folder = place.run_folder(default_run_name(config))
        settings, _, rungs = prepare_run(config, study, folder, device, yes=yes, log=log, report=report)
        jobs.append(Job.of(settings, rungs, place))
        lengths.append(len(rung_steps(settings, rungs)))
    if device == "cuda":
        check_shared([job.settings for job in jobs], min(at_once, len(jobs)), log)
    options = RunOptions(
        device=device,
        log_every=first.log_every,
        save_every=first.save_every,
        eval_tokens=first.eval_tokens,
        log=log,
        tensorboard=first.tensorboard,
    )
    try:
        done = iter(train_ladders(jobs, options, stop, report, side_by_side=at_once))
    finally:
        gather_runs(place.runs)
    return tuple(tuple(itertools.islice(done, length)) for length in lengths)


def winners(asked: Sequence[SweepEntry], rungs: Sequence[Sequence[RungFile]]) -> set[tuple[int, int]]:
    """Return (run, rung) of the lowest loss, averaged over seeds, in each cell with several candidates.

    A cell is one model, context and fraction of the text at one rung; its runs differ in the tuned values.
    """
    losses: dict[tuple[object, ...], dict[tuple[object, ...], list[tuple[int, int]]]] = {}
    for run, (entry, found) in enumerate(zip(asked, rungs, strict=True)):
        for rung in range(len(found)):
            place = (
                len(found) - rung
            )  # counted from the longest: rungs of a large batch may fall together at the short end
            losses.setdefault((entry.cell, place), {}).setdefault(entry.tuned, []).append((run, rung))

    def mean(paths: list[tuple[int, int]]) -> float:
        return math.fsum(rungs[run][rung].observation.loss for run, rung in paths) / len(paths)

    best: set[tuple[int, int]] = set()
    for cell in losses.values():
        if len(cell) > 1:
            lowest = min(cell.values(), key=mean)
            best.update(lowest)
    return best
