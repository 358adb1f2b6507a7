"""Logged curves of a run: training loss, partial evaluations, final losses, and the plan of its rungs.

Also their preparation as observations for the law of the curve: the warm-up is left out, the noise of batches is
estimated, long logs are averaged.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from families.units import BadInput

from ..files import Document, Record, check_file, sha256_file
from ..runs import Run, RunTable
from ..runs.store import RUNS
from ..schedule import Kind, Schedule, Shape
from ..stats import Z_50, Array
from ..untrusted import parse_json
from . import constants as const
from .trajectory import LrProfile, Points

METRICS = "metrics.jsonl"

LOG = "log"  # subfolder of a run that a logger records (scaling.integrations), in place of trunk/ and rung-TOKENS/


ENOUGH_EVALS = 8  # for a curve, two of which a backtest may hold out


class PlannedRung(Record):
    """A planned length of a run and its cooldown.

    Args:
        steps: optimiser steps of the rung.
        folder: the branch's folder, relative to the run's.
        cooldown: share of the steps over which wsd decays; 0 if the learning rate stays constant to the end.
        shape: shape of that decay.
    """

    steps: int = Field(ge=1)
    folder: str = Field(max_length=200)
    cooldown: float = Field(default=0.0, ge=0, le=1)
    shape: Shape = "linear"


class RunPlan(Document):
    """underway.json: the schedule and planned rungs of a run, written when it starts.

    Args:
        rungs: planned rungs, ascending in steps; a run without a ladder has one.
        fresh: True if training starts from random weights, False if from a checkpoint.
        batches: hash of everything that determines the tokens of a step; runs with the same hash read the same batches
            in the same order.
    """

    KIND: ClassVar[str] = "underway"

    run: str
    rungs: tuple[PlannedRung, ...]
    batch_tokens: int = Field(ge=1)
    lr: float = Field(gt=0)
    warmup: int = Field(ge=0)
    schedule: Kind
    params: int
    params_non_embedding: int
    group: str = ""
    fresh: bool = True
    batches: str = ""

    @property
    def steps(self) -> tuple[int, ...]:
        """Lengths of the rungs, in steps, ascending."""
        return tuple(rung.steps for rung in self.rungs)

    def rung(self, steps: int) -> PlannedRung:
        """Return the planned rung of this length."""
        return next(rung for rung in self.rungs if rung.steps == steps)

    def schedule_to(self, steps: int) -> Schedule:
        """Return the learning-rate schedule of the rung of this length."""
        base = Schedule(peak=self.lr, warmup=self.warmup, steps=steps, kind=self.schedule)
        rung = self.rung(steps)
        if self.schedule == "cosine" or not rung.cooldown:
            return base
        return base.to(steps, rung.cooldown, rung.shape)

    def with_rungs(self, more: tuple[PlannedRung, ...]) -> "RunPlan":
        """Return a copy with rungs added; of two rungs of the same length the new one is kept."""
        rungs = {rung.steps: rung for rung in (*self.rungs, *more)}
        return self.model_copy(update={"rungs": tuple(rungs[steps] for steps in sorted(rungs))})


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Losses in nats per token by step, arrays of shape (lines,) and (evaluations,).

    The loss of a line is the mean over the steps after the previous line, up to and including `step`.
    """

    step: Array
    loss: Array
    norm: Array  # gradient norm before clipping, averaged likewise
    eval_step: Array
    eval_loss: Array

    def until(self, step: float) -> "Curve":
        """Return the part logged up to and including a step."""
        lines, evals = self.step <= step, self.eval_step <= step
        return Curve(
            step=self.step[lines],
            loss=self.loss[lines],
            norm=self.norm[lines],
            eval_step=self.eval_step[evals],
            eval_loss=self.eval_loss[evals],
        )

    def followed_by(self, other: "Curve") -> "Curve":
        """Return this curve with a later one appended."""
        return Curve(
            step=np.concatenate([self.step, other.step]),
            loss=np.concatenate([self.loss, other.loss]),
            norm=np.concatenate([self.norm, other.norm]),
            eval_step=np.concatenate([self.eval_step, other.eval_step]),
            eval_loss=np.concatenate([self.eval_loss, other.eval_loss]),
        )

    @property
    def midpoints(self) -> Array:
        """Middle of the steps that each line averages, shape (lines,)."""
        before = np.concatenate([[0.0], self.step[:-1]])
        return np.asarray((before + self.step) / 2)


_NONE = np.empty(0)

EMPTY = Curve(step=_NONE, loss=_NONE, norm=_NONE, eval_step=_NONE, eval_loss=_NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCurves:
    """Curves of one run: a trunk with a branch for each rung (wsd), or a branch from step 0 for each rung (cosine).

    Args:
        name: name of the run.
        plan: its planned rungs and schedule.
        trunk: curve shared by the rungs.
        branches: curve of each rung after it left the trunk, by length in steps.
        finals: loss of the annealed model on the whole eval set, nats per token, by length in steps.
        whole_evals: True if the curve's evaluations are of the whole eval set, not of a part of it.
    """

    name: str
    plan: RunPlan
    trunk: Curve
    branches: dict[int, Curve]
    finals: dict[int, float]
    whole_evals: bool = False

    def rung(self, steps: int) -> Curve:
        """Return the curve of a rung from step 0, trunk included, as far as it is logged."""
        branch = self.branches.get(steps, EMPTY)
        if self.plan.schedule == "cosine":
            return branch
        branch_step = self.plan.schedule_to(steps).decay_starts
        if len(branch.step):  # a branch that started between two checkpoints repeats steps of the trunk
            branch_step = min(branch_step, int(branch.step[0]) - 1)
        return self.trunk.until(branch_step).followed_by(branch)

    @property
    def last_step(self) -> int:
        """Last logged step of trunk and branches; 0 if nothing is logged."""
        ends = [c.step[-1] for c in (self.trunk, *self.branches.values()) if len(c.step)]
        return int(max(ends, default=0))

    @property
    def next_rung(self) -> int | None:
        """Length of the shortest unfinished rung, in steps; None if all are finished."""
        return next((steps for steps in self.plan.steps if steps not in self.finals), None)


def read_run(folder: Path) -> RunCurves:
    """Read the curves of a run's folder; incomplete lines are skipped.

    Raises:
        BadInput: the folder does not exist or holds no readable underway.json.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder; expected the folder of a run, which holds underway.json")
    if not (folder / "underway.json").exists():
        raise BadInput(
            f"{folder} holds no underway.json; it is not a run, or was started by an older version"
        )
    plan = RunPlan.read(folder / "underway.json")
    branches, finals = {}, {}
    for rung in plan.rungs:
        branch = folder / rung.folder
        if (branch / METRICS).exists():
            branches[rung.steps] = read_curve(branch / METRICS)
        final = _final(branch / "rung.json")
        if final is None and rung.folder == LOG:
            final = _recorded(folder / RUNS, rung.steps * plan.batch_tokens)
        if final is not None:
            finals[rung.steps] = final
    trunk = read_curve(folder / "trunk" / METRICS)
    recorded = all(rung.folder == LOG for rung in plan.rungs)
    return RunCurves(
        name=plan.run, plan=plan, trunk=trunk, branches=branches, finals=finals, whole_evals=recorded
    )


def is_run(folder: Path) -> bool:
    """True for the folder of a run of `scaling train`, finished or not."""
    return folder.is_dir() and (folder / "underway.json").exists()


def curve_hashes(folder: Path) -> dict[str, str]:
    """Hashes of the files that hold a run's plan and its curve; empty where the path is no run."""
    if not is_run(folder):
        return {}
    files = [folder / "underway.json", *sorted(folder.rglob(METRICS))]
    return {str(file.relative_to(folder)): sha256_file(file) for file in files}


def curve_table(folder: Path) -> RunTable:
    """The logged curve of a run's trunk, or of its longest branch, as observations of one run after its warm-up.

    Partial evaluations where there are enough, else training losses, each a mean over the steps since the line before.

    Raises:
        BadInput: no such run, or nothing is logged.
    """
    run = read_run(folder)
    curve = max((run.trunk, *run.branches.values()), key=lambda one: len(one.step))
    held = int((curve.eval_step > run.plan.warmup).sum()) >= ENOUGH_EVALS
    step, loss = (curve.eval_step, curve.eval_loss) if held else (curve.midpoints, curve.loss)
    kept = step > run.plan.warmup
    if not kept.any():
        raise BadInput(f"{folder} has no losses logged after its warm-up of {run.plan.warmup} steps")
    shared = {
        "run": run.name,
        "group": run.plan.group,
        "params": run.plan.params,
        "params_non_embedding": run.plan.params_non_embedding,
        "batch_tokens": run.plan.batch_tokens,
        "lr": run.plan.lr,
        "annealed": False,
    }
    rows = [
        Run.model_validate({**shared, "tokens": at * run.plan.batch_tokens, "loss": value})
        for at, value in zip(step[kept].tolist(), loss[kept].tolist(), strict=True)
    ]
    kind = "partial evaluations" if held else "training losses"
    return RunTable(
        rows, warnings=[f"{len(rows)} {kind} of {run.name} after its warm-up: the curve of one run"]
    )


def read_siblings(runs: Path, run: RunCurves) -> tuple[RunCurves, ...]:
    """Read the siblings of a run: comparable runs in the same folder that have finished a rung.

    Comparable means the same text, the same kind of start and batches of similar size: with larger batches a run has made
    fewer updates on the same tokens, and its loss is higher without any fault. Of more than MOST_SIBLINGS those of the
    nearest sizes are read.
    """
    comparable: list[tuple[Path, RunPlan]] = []
    for path in sorted(runs.glob("*/underway.json")):
        try:
            plan = RunPlan.read(path)
        except BadInput:
            continue  # another run's broken file is no reason to fail here
        same_text = (plan.group, plan.fresh) == (run.plan.group, run.plan.fresh)
        similar_batch = abs(math.log(plan.batch_tokens / run.plan.batch_tokens)) < const.SAME_BATCH
        finished = (path.parent / rung.folder / "rung.json" for rung in plan.rungs)
        if plan.run != run.name and same_text and similar_batch and any(rung.exists() for rung in finished):
            comparable.append((path.parent, plan))
    siblings = []
    for folder in _most_telling(run.plan, comparable):
        try:
            other = read_run(folder)
        except BadInput:
            continue
        if other.finals:
            siblings.append(other)
    return tuple(siblings)


def _most_telling(run: RunPlan, others: Sequence[tuple[Path, RunPlan]]) -> list[Path]:
    """Return the folders of at most MOST_SIBLINGS runs: one of each size, the nearest sizes first, then another of each.

    Of one size those of the nearest length come first. The forecast fits each curve and inverts a matrix of all of them.
    """
    if len(others) <= const.MOST_SIBLINGS:
        return [folder for folder, _ in others]

    def apart(plan: RunPlan) -> float:
        return abs(math.log(max(plan.steps, default=1) / max(run.steps, default=1)))

    taken: Counter[int] = Counter()
    ranked = []
    for folder, plan in sorted(others, key=lambda one: (apart(one[1]), one[0].name)):
        ranked.append((taken[plan.params], abs(math.log(plan.params / run.params)), folder))
        taken[plan.params] += 1
    return sorted(folder for _, _, folder in sorted(ranked)[: const.MOST_SIBLINGS])


def read_curve(path: Path) -> Curve:
    """Read a metrics.jsonl, which may not exist yet; incomplete lines and those without a finite loss are skipped."""
    lines = [row for row in json_rows(path) if _finite(row.get("step"))]
    rows = [row for row in lines if _finite(row.get("loss"))]
    evals = [row for row in lines if _finite(row.get("eval_loss"))]
    return Curve(
        step=np.array([row["step"] for row in rows], dtype=np.float64),
        loss=np.array([row["loss"] for row in rows], dtype=np.float64),
        norm=np.array([_number_or_nan(row.get("grad_norm")) for row in rows], dtype=np.float64),
        eval_step=np.array([row["step"] for row in evals], dtype=np.float64),
        eval_loss=np.array([row["eval_loss"] for row in evals], dtype=np.float64),
    )


def json_rows(path: Path, *, single: bool = False) -> Iterator[dict[str, Any]]:
    """Objects of a file of JSON lines, or of one document; what is none is skipped, and so is a file that does not exist.

    Raises:
        BadInput: the file cannot be read.
    """
    check_file(path)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    for line in [text] if single else text.splitlines():
        try:
            row = parse_json(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number_or_nan(value: Any) -> float:
    return float(value) if _finite(value) else math.nan


def _final(path: Path) -> float | None:
    """Return the loss in a finished rung's rung.json; None if there is no such file."""
    rows = list(json_rows(path, single=True))
    observation = rows[0].get("observation") if rows else None
    loss = observation.get("loss") if isinstance(observation, dict) else None
    return float(loss) if loss is not None and _finite(loss) else None


def _recorded(path: Path, tokens: float) -> float | None:
    """Return the first loss that a run's own runs.jsonl holds for so many tokens (to 1 %); None without one."""
    for row in json_rows(path):
        seen, loss = row.get("tokens"), row.get("loss")
        if seen and loss and _finite(seen) and _finite(loss) and abs(seen / tokens - 1) < 0.01:
            return float(loss)
    return None


def reference_progress(run: RunCurves, steps: int) -> float:
    """Return x_end of a rung, in steps at the peak learning rate."""
    return float(LrProfile.of(run.plan.schedule_to(steps)).area[-1])


def loss_scale(curve: Curve) -> float:
    """Return the current loss, the scale of the prior; 1 if nothing is logged."""
    values = curve.eval_loss if len(curve.eval_loss) else curve.loss
    return float(np.mean(values[-3:])) if len(values) else 1.0


def end_losses(run: RunCurves, steps: int) -> tuple[float, float]:
    """Return the last loss of a finished rung's curve, and its loss on the whole eval set."""
    curve = run.rung(steps)
    last = float(curve.eval_loss[-1]) if len(curve.eval_step) else float(curve.loss[-3:].mean())
    return last, run.finals[steps]


def curve_points(
    run: RunCurves, steps: int, curve: Curve, begin: float,
    line_residuals: dict[float, float] | None = None, eval_residuals: dict[float, float] | None = None,
) -> Points | None:  # fmt: skip
    """Return the observations of a rung after a step; None if there are fewer than MIN_POINTS.

    Args:
        run: the run.
        steps: length of the rung, which determines the schedule.
        curve: its curve, or a part of it.
        begin: step after which observations count.
        line_residuals: by step, mean residual (nats) of siblings on the same batches; default: none.
        eval_residuals: likewise of partial evaluations.
    """
    middle = curve.midpoints
    kept = middle > begin
    kept_evals = curve.eval_step > begin
    if kept.sum() + kept_evals.sum() < const.MIN_POINTS:
        return None
    residuals = _lookup(curve.step[kept], line_residuals or {})
    step, loss, noise = _subtract_and_thin(middle[kept], curve.loss[kept], residuals)
    eval_offset = np.nan_to_num(_lookup(curve.eval_step[kept_evals], eval_residuals or {}))
    values = curve.eval_loss[kept_evals] - eval_offset
    eval_noise = np.hypot(const.EVAL_NOISE * values, const.RESIDUAL_UNCERTAINTY * eval_offset)
    has_evals = bool(len(curve.eval_step))
    return Points(
        profile=LrProfile.of(run.plan.schedule_to(steps)),
        step=np.concatenate([step, curve.eval_step[kept_evals]]),
        loss=np.concatenate([loss, values]),
        noise=const.NOISE_INFLATION * np.concatenate([noise, eval_noise]),
        train=np.concatenate([np.full(len(step), float(has_evals)), np.zeros(len(values))]),
    )


def _lookup(step: Array, residuals: dict[float, float]) -> Array:
    return np.array([residuals.get(float(value), math.nan) for value in step])


def _subtract_and_thin(step: Array, loss: Array, residuals: Array) -> tuple[Array, Array, Array]:
    """Subtract the siblings' residuals on the same batches; step, loss and noise, averaged to at most MAX_LINES."""
    known = np.isfinite(residuals)
    offset = np.nan_to_num(residuals)
    clean = loss - offset
    noise = np.where(known, robust_std(clean[known]), robust_std(loss))
    noise = np.hypot(noise, const.RESIDUAL_UNCERTAINTY * np.abs(np.nan_to_num(smooth(offset))))
    if len(step) <= const.MAX_LINES:
        return step, clean, noise
    parts = np.array_split(np.arange(len(step)), const.MAX_LINES)
    count = np.array([len(part) for part in parts])
    return (
        np.array([step[part].mean() for part in parts]),
        np.array([clean[part].mean() for part in parts]),
        np.array([noise[part].mean() for part in parts]) / np.sqrt(count),
    )


def smooth(values: Array) -> Array:
    """Return the running mean over nine lines: the part of a residual that is shape and not batches."""
    if len(values) < 9:
        return np.full(len(values), float(np.mean(values)) if len(values) else 0.0)
    padded = np.pad(values, 4, mode="edge")
    return np.convolve(padded, np.full(9, 1 / 9), mode="valid")


def robust_std(values: Array) -> float:
    """Return the standard deviation of single lines around a smooth curve: median absolute second difference, rescaled."""
    if len(values) < 5:
        return 0.1
    differences = np.abs(np.diff(values, n=2)) / math.sqrt(6)
    return max(float(np.median(differences)) / Z_50, 1e-3 * abs(float(np.mean(values))))
