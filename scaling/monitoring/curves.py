"""What a run has logged so far: its training loss, its looks at held-out text, and what its rungs came to."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from families.units import BadInput

from ..files import Document, Record
from ..schedule import Kind, Schedule, Shape
from ..stats import Z_50, Array
from ..untrusted import parse_json
from .trajectory import LrProfile, Points

# MERGED DOCSTRINGS
# Where a run in progress is going: what its end can be foreseen from, beside what it has logged.
# What a run has logged as points for the law of its curve: the warm-up left out, batches' noise estimated, long logs thinned.


class PlannedRung(Record):
    """A length that a run is to reach, and how it cools down there.

    Args:
        folder: of its branch, within the run's.
        cooldown: share of its steps over which wsd decays; 0 where the rate stays constant to the end.
        shape: of that decay.
    """

    steps: int
    folder: str = Field(max_length=200)
    cooldown: float = 0.0
    shape: Shape = "linear"


class RunPlan(Document):
    """underway.json: the schedule of a run and the lengths it is to reach, written when it begins.

    Args:
        rungs: by length, ascending; a run without rungs has one.
        fresh: it begins from random weights, and so with a fall; else from a checkpoint's.
        batches: hash of what decides which tokens a step reads; runs that share it read the same batches in the same order.
    """

    KIND: ClassVar[str] = "underway"

    run: str
    rungs: tuple[PlannedRung, ...]
    batch_tokens: int
    lr: float
    warmup: int
    schedule: Kind
    params: int
    params_non_embedding: int
    group: str = ""
    fresh: bool = True
    batches: str = ""

    @property
    def steps(self) -> tuple[int, ...]:
        """Lengths of the rungs."""
        return tuple(rung.steps for rung in self.rungs)

    def rung(self, steps: int) -> PlannedRung:
        """The rung of so many steps."""
        return next(rung for rung in self.rungs if rung.steps == steps)

    def to(self, steps: int) -> Schedule:
        """The learning rate of each step of the rung of so many steps."""
        base = Schedule(peak=self.lr, warmup=self.warmup, steps=steps, kind=self.schedule)
        rung = self.rung(steps)
        if self.schedule == "cosine" or not rung.cooldown:
            return base
        return base.to(steps, rung.cooldown, rung.shape)

    def also(self, more: tuple[PlannedRung, ...]) -> "RunPlan":
        """With rungs asked for later; the newest of one length counts."""
        rungs = {rung.steps: rung for rung in (*self.rungs, *more)}
        return self.model_copy(update={"rungs": tuple(rungs[steps] for steps in sorted(rungs))})


_SAME_BATCH = 0.25  # logarithm of the ratio of tokens a step


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Losses in nats per token by step. A line's loss is the mean over the steps since the line before, up to `step`."""

    step: Array
    loss: Array
    norm: Array  # of the gradient before clipping, likewise
    eval_step: Array
    eval_loss: Array

    def until(self, step: float) -> "Curve":
        """What was logged up to a step."""
        lines, looks = self.step <= step, self.eval_step <= step
        return Curve(
            step=self.step[lines],
            loss=self.loss[lines],
            norm=self.norm[lines],
            eval_step=self.eval_step[looks],
            eval_loss=self.eval_loss[looks],
        )

    def then(self, other: "Curve") -> "Curve":
        """This one and what followed it."""
        return Curve(
            step=np.concatenate([self.step, other.step]),
            loss=np.concatenate([self.loss, other.loss]),
            norm=np.concatenate([self.norm, other.norm]),
            eval_step=np.concatenate([self.eval_step, other.eval_step]),
            eval_loss=np.concatenate([self.eval_loss, other.eval_loss]),
        )

    @property
    def middle(self) -> Array:
        """The middle of the steps that each line is a mean of."""
        before = np.concatenate([[0.0], self.step[:-1]])
        return np.asarray((before + self.step) / 2)


NOTHING = np.empty(0)

EMPTY = Curve(step=NOTHING, loss=NOTHING, norm=NOTHING, eval_step=NOTHING, eval_loss=NOTHING)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCurves:
    """One run: a trunk that its rungs branch from, or rungs that each begin at step 0 (cosine).

    branches, finals: by the rung's length in steps; a final loss is of the annealed model on the whole eval set.
    """

    name: str
    underway: RunPlan
    trunk: Curve
    branches: dict[int, Curve]
    finals: dict[int, float]

    def rung(self, steps: int) -> Curve:
        """All that the rung of so many steps has seen so far, from step 0 on."""
        branch = self.branches.get(steps, EMPTY)
        if self.underway.schedule == "cosine":
            return branch
        leaves = self.underway.to(steps).decay_starts
        if len(branch.step):  # one that left between two checkpoints repeats steps of its trunk
            leaves = min(leaves, int(branch.step[0]) - 1)
        return self.trunk.until(leaves).then(branch)

    @property
    def last_step(self) -> int:
        """The furthest step that anything was logged at; 0 where nothing was."""
        ends = [c.step[-1] for c in (self.trunk, *self.branches.values()) if len(c.step)]
        return int(max(ends, default=0))

    @property
    def ahead(self) -> int | None:
        """The rung in hand: the shortest without a final loss; None where all are done."""
        return next((steps for steps in self.underway.steps if steps not in self.finals), None)


def read_run(folder: Path) -> RunCurves:
    """The curves of a run's folder as they are now; a line that is being written is passed over.

    Raises:
        BadInput: no such folder, or no run in it that says where it is going.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder; a run's folder holds underway.json")
    if not (folder / "underway.json").exists():
        raise BadInput(f"{folder} holds no underway.json; it is no run, or one that an older version began")
    underway = RunPlan.read(folder / "underway.json")
    branches, finals = {}, {}
    for rung in underway.rungs:
        branch = folder / rung.folder
        if (branch / "metrics.jsonl").exists():
            branches[rung.steps] = read_curve(branch / "metrics.jsonl")
        final = _final(branch / "rung.json")
        if final is not None:
            finals[rung.steps] = final
    trunk = read_curve(folder / "trunk" / "metrics.jsonl")
    return RunCurves(name=underway.run, underway=underway, trunk=trunk, branches=branches, finals=finals)


def read_siblings(runs: Path, run: RunCurves) -> tuple[RunCurves, ...]:
    """The other runs under a folder that read the same text, begin alike, take batches of much the same size, and have
    finished a rung. A run of larger batches has made fewer updates on as many tokens, and lies above for no fault of its own.
    """
    found = []
    for path in sorted(runs.glob("*/underway.json")):
        try:
            other = read_run(path.parent)
        except BadInput:
            continue  # a neighbour's broken file says nothing about this run
        same = (other.underway.group, other.underway.fresh) == (run.underway.group, run.underway.fresh)
        batches = abs(math.log(other.underway.batch_tokens / run.underway.batch_tokens)) < _SAME_BATCH
        if other.name != run.name and same and batches and other.finals:
            found.append(other)
    return tuple(found)


def read_curve(path: Path) -> Curve:
    """One metrics.jsonl; nothing where there is none yet. Lines that are torn or hold no finite loss are passed over."""
    rows = [row for row in _metric_rows(path) if _finite(row.get("step")) and _finite(row.get("loss"))]
    looks = [row for row in rows if _finite(row.get("eval_loss"))]
    return Curve(
        step=np.array([row["step"] for row in rows], dtype=np.float64),
        loss=np.array([row["loss"] for row in rows], dtype=np.float64),
        norm=np.array([_number_or_nan(row.get("grad_norm")) for row in rows], dtype=np.float64),
        eval_step=np.array([row["step"] for row in looks], dtype=np.float64),
        eval_loss=np.array([row["eval_loss"] for row in looks], dtype=np.float64),
    )


def _metric_rows(path: Path, whole: bool = False) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    for line in [text] if whole else text.splitlines():
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
    """The observed loss of a finished rung; its file is written whole or not at all."""
    rows = list(_metric_rows(path, whole=True))
    observation = rows[0].get("observation") if rows else None
    loss = observation.get("loss") if isinstance(observation, dict) else None
    return float(loss) if loss is not None and _finite(loss) else None


FEWEST_POINTS = 4  # with less nothing is foreseen

_MOST_LINES = 200  # of training loss; more are averaged, for speed

_LOOK_NOISE = 0.006  # of the loss: what a look wanders at constant rate, beyond any trend

_TOGETHER = 2.0  # how much more the mean of neighbouring points errs than if each erred alone

_BORROWED = 0.3  # of a sibling's residual that may be its own


def reference_of(run: RunCurves, steps: int) -> float:
    """x_end of a rung, in steps at the peak rate."""
    return float(LrProfile.of(run.underway.to(steps)).area[-1])


def scale_of(curve: Curve) -> float:
    """The loss so far: the scale of the prior."""
    values = curve.eval_loss if len(curve.eval_loss) else curve.loss
    return float(np.mean(values[-3:])) if len(values) else 1.0


def end_of(run: RunCurves, steps: int) -> tuple[float, float]:
    """The last loss of a finished rung's curve, and its loss on the whole eval set."""
    curve = run.rung(steps)
    return (
        float(curve.eval_loss[-1]) if len(curve.eval_step) else float(curve.loss[-3:].mean())
    ), run.finals[steps]


def points_of(
    run: RunCurves, steps: int, curve: Curve, begin: float,
    lines: dict[float, float] | None = None, looks: dict[float, float] | None = None,
) -> Points | None:  # fmt: skip
    """A rung's lines and looks after step `begin`; None where there are too few.

    Args:
        lines, looks: by step, how much harder than expected siblings found the same batches and windows.
    """
    middle = curve.middle
    kept = middle > begin
    looked = curve.eval_step > begin
    if kept.sum() + looked.sum() < FEWEST_POINTS:
        return None
    harder = _given(curve.step[kept], lines or {})
    step, loss, noise = _thinned(middle[kept], curve.loss[kept], harder)
    wander = _given(curve.eval_step[looked], looks or {})
    values = curve.eval_loss[looked] - np.nan_to_num(wander)
    look_noise = np.hypot(_LOOK_NOISE * values, _BORROWED * np.nan_to_num(wander))
    any_looks = bool(len(curve.eval_step))
    return Points(
        profile=LrProfile.of(run.underway.to(steps)),
        step=np.concatenate([step, curve.eval_step[looked]]),
        loss=np.concatenate([loss, values]),
        noise=_TOGETHER * np.concatenate([noise, look_noise]),
        train=np.concatenate([np.full(len(step), float(any_looks)), np.zeros(len(values))]),
    )


def _given(step: Array, residuals: dict[float, float]) -> Array:
    return np.array([residuals.get(float(one), math.nan) for one in step])


def _thinned(step: Array, loss: Array, harder: Array) -> tuple[Array, Array, Array]:
    """Lines less what siblings met on the same batches, with their noise, averaged to at most _MOST_LINES."""
    known = np.isfinite(harder)
    clean = loss - np.nan_to_num(harder)
    noise = np.where(known, robust_std(clean[known]), robust_std(loss))
    noise = np.hypot(noise, _BORROWED * np.abs(np.nan_to_num(smooth(np.nan_to_num(harder)))))
    if len(step) <= _MOST_LINES:
        return step, clean, noise
    parts = np.array_split(np.arange(len(step)), _MOST_LINES)
    count = np.array([len(part) for part in parts])
    return (
        np.array([step[part].mean() for part in parts]),
        np.array([clean[part].mean() for part in parts]),
        np.array([noise[part].mean() for part in parts]) / np.sqrt(count),
    )


def smooth(values: Array) -> Array:
    """A running mean over nine lines: what of a residual is shape and not batches."""
    if len(values) < 9:
        return np.full(len(values), float(np.mean(values)) if len(values) else 0.0)
    padded = np.pad(values, 4, mode="edge")
    return np.convolve(padded, np.full(9, 1 / 9), mode="valid")


def robust_std(values: Array) -> float:
    """Standard deviation of single lines around any smooth curve, from differences between neighbours; outliers count little."""
    if len(values) < 5:
        return 0.1
    differences = np.abs(np.diff(values, n=2)) / math.sqrt(6)
    return max(float(np.median(differences)) / Z_50, 1e-3 * abs(float(np.mean(values))))
