"""Downstream scores as functions of loss: a sigmoid from chance to a ceiling, with intervals, through a law's loss.

score = chance + (ceiling − chance)/(1 + exp(steepness·(loss − middle))). It competes with the direct form, the same sigmoid
in log compute, by the error on the largest runs fitted without them.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.optimize import least_squares

from families.units import BadInput

from ..files import read_text
from ..runs import Run
from ..stats import Z_80, Array, Interval
from ..untrusted import parse_csv, parse_json
from .uncertainty import cluster_weights

# One over the number of choices (lm-evaluation-harness task definitions); accuracy of exact answers starts at 0.
CHANCE = {
    "arc_challenge": 0.25, "arc_easy": 0.25, "boolq": 0.5, "commonsense_qa": 0.2, "copa": 0.5, "hellaswag": 0.25,
    "lambada_openai": 0.0, "mmlu": 0.25, "openbookqa": 0.25, "piqa": 0.5, "race": 0.25, "sciq": 0.25,
    "social_iqa": 1 / 3, "triviaqa": 0.0, "gsm8k": 0.0, "winogrande": 0.5, "wsc": 0.5, "xwinograd": 0.5,
}  # fmt: skip

METRICS = ("acc_norm,none", "acc,none", "acc_norm", "acc", "exact_match,none", "exact_match")

FEWEST = 5  # runs with a score

ABOVE = 2.0  # standard deviations of the scores above chance that the best run must lie

LEAST_NOISE = 0.005  # of a score: few hundred questions tell no less

TURN = 0.5  # of the squares about an isotonic fit that a parabola leaves: a task that turns

MOST_STEEP = 20.0  # per nat

RESAMPLES = 100

CEILING, CEILING_WIDTH = 0.95, 0.1  # weak prior: few tasks end at 1, and scores far below it do not say where

USUAL_NOISE = 0.02

Form = Literal["loss", "compute"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of one task, by run name, between 0 and 1."""

    task: str
    by_run: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreFit:
    """One task's curve.

    Args:
        task: its name.
        chance: score of guessing.
        ceiling: score at loss 0.
        middle: of the sigmoid, in the variable's unit.
        steepness: per unit, positive.
        form: the variable, "loss" in nats per token or "compute" (minus log FLOPs).
        noise: standard deviation of a score about the curve.
        draws: resampled (ceiling, middle, steepness), shape (k, 3).
        errors: error of each form on the largest runs, where there are enough.
        runs: number of them.
    """

    task: str
    chance: float
    ceiling: float
    middle: float
    steepness: float
    form: Form
    noise: float
    draws: Array
    errors: Mapping[str, float]
    runs: int

    def at(self, variable: float) -> float:
        """The score at a loss, or at minus log compute."""
        return float(
            _curve(np.array([self.ceiling, self.middle, self.steepness]), np.array([variable]), self.chance)[
                0
            ]
        )

    def predict_loss(self, loss: float, interval_80: Interval | None, compute: float) -> dict[str, Any]:
        """The score of a run and its 80 % interval: of the curve, of the loss, and of a score's own noise.

        Args:
            loss: of the run, in nats per token, as a law predicts it.
            interval_80: of that loss.
            compute: FLOPs of the run.

        Returns:
            score, interval_80, form and runs.
        """
        at = loss if self.form == "loss" else -math.log(compute)
        value = self.at(at)
        spread = np.array([_curve(draw, np.array([at]), self.chance)[0] for draw in self.draws])
        variance = self.noise**2 + float(np.var(spread))
        if self.form == "loss" and interval_80 is not None:
            low, high = (self.at(float(bound)) for bound in interval_80)
            variance += ((low - high) / (2 * Z_80)) ** 2
        half = Z_80 * math.sqrt(variance)
        bounds = max(value - half, 0.0), min(value + half, 1.0)
        return {
            "score": value,
            "interval_80": bounds,
            "form": self.form,
            "runs": self.runs,
            "forms": dict(self.errors),
        }


def parse_chance(words: Sequence[str]) -> dict[str, float]:
    """Parse "task=0.25" words.

    Raises:
        BadInput: another form, or a chance level that is not at least 0 and below 1.
    """
    found = {}
    for word in words:
        task, _, value = word.partition("=")
        try:
            level = float(value)
        except ValueError:
            level = math.nan
        if not (task and 0 <= level < 1):
            raise BadInput(f"chance is {word!r}; it must be like my_task=0.25")
        found[task] = level
    return found


def read_scores(path: Path) -> list[Scores]:
    """Scores from a CSV of columns run, task, score, or from lm-evaluation-harness's results*.json in a folder.

    In a folder each result belongs to the run that its sub-folder, or its `model_name`, is called after.

    Raises:
        BadInput: no such file, no result in the folder, or a score that is not between 0 and 1.
    """
    found: dict[str, dict[str, float]] = {}

    def add(run: str, task: str, score: float, where: str) -> None:
        if not 0 <= score <= 1:
            raise BadInput(f"{where}: score of {task} is {score:g}; it must be between 0 and 1")
        found.setdefault(task, {})[run] = score

    if path.is_dir():
        for file in sorted(path.rglob("results*.json")):
            try:
                value = parse_json(read_text(file))
            except json.JSONDecodeError as error:
                raise BadInput(f"{file} is not JSON: {error.msg} at line {error.lineno}") from error
            results = value.get("results") if isinstance(value, dict) else None
            if not isinstance(results, dict):
                raise BadInput(f"{file} has no results of lm-evaluation-harness")
            run = (
                file.parent.name
                if file.parent != path
                else str(value.get("model_name", file.stem)).rsplit("/", 1)[-1]
            )
            for task, metrics in results.items():
                score = next(
                    (metrics[m] for m in METRICS if isinstance(metrics, dict) and m in metrics), None
                )
                if isinstance(score, int | float):
                    add(run, str(task), float(score), str(file))
    else:
        header: list[str] = []
        for line, cells in parse_csv(read_text(path), ","):
            if isinstance(cells, str):
                raise BadInput(f"{path} line {line}: {cells}")
            if not cells or not header:
                header = header or cells
                continue
            row = dict(zip(header, cells, strict=False))
            try:
                add(str(row["run"]), str(row["task"]), float(row["score"] or "nan"), f"{path} line {line}")
            except (KeyError, TypeError, ValueError) as error:
                if isinstance(error, BadInput):
                    raise
                raise BadInput(f"{path} line {line} is not run, task, score: {error}") from error
    if not found:
        raise BadInput(
            f"{path} has no scores: results*.json of lm-evaluation-harness, or a CSV of run, task, score"
        )
    return [Scores(task=task, by_run=scores) for task, scores in found.items()]


def fit_scores(
    scores: Scores, runs: Sequence[Run], *, chance: float | None = None, seed: int = 0
) -> ScoreFit:
    """Fit a task's score as a function of loss, or of compute where that predicts the largest runs better.

    Args:
        scores: of the task.
        runs: with their losses; those without a score are left out.
        chance: score of guessing (default: of the known task).
        seed: of the resampling.

    Raises:
        BadInput: too few runs, an unknown chance level, scores at chance, or scores that turn.
    """
    last = {run.run: run for run in runs}
    pairs = [(last[name], score) for name, score in scores.by_run.items() if name in last]
    if len(pairs) < FEWEST:
        raise BadInput(f"{scores.task} has scores of {len(pairs)} of these runs; {FEWEST} are needed")
    known = chance if chance is not None else CHANCE.get(scores.task.split(",")[0])
    if known is None:
        raise BadInput(
            f"{scores.task} is not a known task: its score of guessing must be given, --chance {scores.task}=0.25"
        )
    score = np.array([value for _, value in pairs])
    loss = np.array([run.loss for run, _ in pairs])
    compute = np.array([-math.log(run.flops) for run, _ in pairs])
    q = _fit(loss, score, known, np.ones(len(score)))
    noise = _noise(score - _curve(q, loss, known))
    top = np.sort(score)[-max(1, len(score) // 5) :]
    if top.mean() < known + ABOVE * noise:
        raise BadInput(f"{scores.task} is at chance ({known:g}) in every run: nothing to predict")
    if _turns(loss, score):
        raise BadInput(
            f"{scores.task} turns: its score first falls and then rises with loss; a sigmoid would bend it"
        )
    errors = _competition({"loss": loss, "compute": compute}, score, compute, known)
    form: Form = "compute" if errors and errors["compute"] < 0.8 * errors["loss"] else "loss"
    x = loss if form == "loss" else compute
    q = _fit(x, score, known, np.ones(len(x)))
    weights = cluster_weights(np.arange(len(x)), RESAMPLES, np.random.default_rng([seed, 4]))
    rng = np.random.default_rng([seed, 5])
    ceilings = np.clip(rng.normal(CEILING, CEILING_WIDTH, RESAMPLES), known + 0.05, 1.0)
    noise = _noise(score - _curve(q, x, known))
    return ScoreFit(
        task=scores.task,
        chance=known,
        ceiling=float(q[0]),
        middle=float(q[1]),
        steepness=float(q[2]),
        form=form,
        noise=noise,
        draws=np.array(
            [
                _fit(x, score, known, weight, start=q, prior=(float(ceiling), noise))
                for weight, ceiling in zip(weights, ceilings, strict=True)
            ]
        ),
        errors=errors,
        runs=len(pairs),
    )


def _curve(q: Array, x: Array, chance: float) -> Array:
    ceiling, middle, steepness = q
    return np.asarray(chance + (ceiling - chance) / (1 + np.exp(np.clip(steepness * (x - middle), -60, 60))))


def _fit(
    x: Array,
    score: Array,
    chance: float,
    weights: Array,
    start: Array | None = None,
    prior: tuple[float, float] = (CEILING, USUAL_NOISE),
) -> Array:
    """Least squares of (ceiling, middle, steepness); `prior` is the ceiling's middle and the noise of a score."""
    root = np.sqrt(weights)
    spread = max(float(np.ptp(x)), 1e-6)
    first = np.array([0.95, float(np.median(x)), 4 / spread]) if start is None else start

    def residuals(q: Array) -> Array:
        return np.append(root * (_curve(q, x, chance) - score), prior[1] * (q[0] - prior[0]) / CEILING_WIDTH)

    low, high = (
        [chance + 0.02, float(x.min()) - 5 * spread, 1e-3],
        [1.0, float(x.max()) + spread, MOST_STEEP / min(spread, 1)],
    )
    solved = least_squares(
        residuals, np.clip(first, np.array(low) + 1e-9, np.array(high) - 1e-9), bounds=(low, high)
    )
    return np.asarray(solved.x)


def _noise(residual: Array) -> float:
    freedom = max(len(residual) - 3, 1)
    return max(float(np.sqrt((residual**2).sum() / freedom)), LEAST_NOISE)


def _competition(
    variables: Mapping[str, Array], score: Array, order: Array, chance: float
) -> dict[str, float]:
    """Mean error of each form on the third of the runs with most compute, fitted to the others; empty for few runs."""
    held = order <= np.quantile(order, 1 / 3)
    if (~held).sum() < FEWEST:
        return {}
    return {
        name: float(
            np.abs(
                _curve(_fit(x[~held], score[~held], chance, np.ones((~held).sum())), x[held], chance)
                - score[held]
            ).mean()
        )
        for name, x in variables.items()
    }


def _turns(loss: Array, score: Array) -> bool:
    """True where a parabola with its bottom inside the data leaves half of what any falling curve leaves."""
    order = np.argsort(loss)
    x, y = loss[order], score[order]
    blocks: list[list[float]] = []
    for value in y:  # pool adjacent violators: the best curve that falls with loss
        blocks.append([value, 1.0])
        while len(blocks) > 1 and blocks[-1][0] > blocks[-2][0]:
            (a, n), (b, m) = blocks[-2], blocks[-1]
            blocks[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    falling = np.repeat([value for value, _ in blocks], [int(count) for _, count in blocks])
    c = np.polyfit(x, y, 2)
    inside = c[0] > 0 and x[1] < -c[1] / (2 * c[0]) < x[-2]
    rest = float(((y - falling) ** 2).sum())
    return bool(
        inside and rest > 4 * len(y) * LEAST_NOISE**2 and ((y - np.polyval(c, x)) ** 2).sum() < TURN * rest
    )
