"""What a run has logged so far: its training loss, its looks at held-out text, and what its rungs came to."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from families.errors import BadInput

from .underway import Underway

Array = NDArray[np.float64]
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
    underway: Underway
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
    underway = Underway.read(folder / "underway.json")
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
    rows = [row for row in _rows(path) if _finite(row.get("step")) and _finite(row.get("loss"))]
    looks = [row for row in rows if _finite(row.get("eval_loss"))]
    return Curve(
        step=np.array([row["step"] for row in rows], dtype=np.float64),
        loss=np.array([row["loss"] for row in rows], dtype=np.float64),
        norm=np.array([row.get("grad_norm", math.nan) for row in rows], dtype=np.float64),
        eval_step=np.array([row["step"] for row in looks], dtype=np.float64),
        eval_loss=np.array([row["eval_loss"] for row in looks], dtype=np.float64),
    )


def _rows(path: Path, whole: bool = False) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
    for line in [text] if whole else text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _final(path: Path) -> float | None:
    """The observed loss of a finished rung; its file is written whole or not at all."""
    rows = list(_rows(path, whole=True))
    loss = rows[0].get("observation", {}).get("loss") if rows else None
    return float(loss) if loss is not None and _finite(loss) else None
