"""Downstream scores as functions of loss: a sigmoid from chance to a ceiling, with intervals, through a law's loss.

score = chance + (ceiling − chance)/(1 + exp(steepness·(loss − middle))) + bump·exp(−½((loss − place)/width)²). It competes
with the direct form, the same in log compute, by the error on the largest runs fitted without them. The bump is 0 but for a
task that turns with scale (Wu & Lo 2024, arXiv:2410.01692), and it is taken only where the runs show the whole turn.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.optimize import least_squares

from families.units import BadInput

from ..runs import Run
from ..stats import Z_80, Array, Interval
from .downstream_scores import Scores, known_chance, unmatched
from .uncertainty import cluster_weights

FEWEST = 5  # runs with a score

ABOVE = 2.0  # standard deviations of the scores above chance that the best run must lie

LEAST_NOISE = 0.005  # of a score: few hundred questions tell no less

FEWEST_TURNING = 20  # runs from which on a turn may be fitted

FEWEST_BEYOND = 4  # runs beyond a turn, towards larger scale

TURN = 0.5  # of the squares about an isotonic fit that a parabola leaves: a task that turns

MOST_STEEP = 20.0  # per nat

RESAMPLES = 100

CEILING, CEILING_WIDTH = 0.95, 0.1  # weak prior: few tasks end at 1, and scores far below it do not say where

USUAL_NOISE = 0.02

BUMP_WIDTH = 0.2  # of the weak prior of a bump's height, about 0

NARROWEST, WIDEST = 0.04, 0.5  # of a bump, as shares of the range of the runs

GRID = 401  # points on which a curve is looked at

Form = Literal["loss", "compute"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreFit:
    """One task's curve.

    Args:
        task: its name.
        chance: score of guessing.
        ceiling: score at loss 0.
        middle: of the sigmoid, in the variable's unit.
        steepness: per unit, positive.
        bump: height, place and width of what is added to the sigmoid; empty where the task does not turn.
        form: the variable, "loss" in nats per token or "compute" (minus log FLOPs).
        noise: standard deviation of a score about the curve.
        draws: resampled (ceiling, middle, steepness) and the bump's, shape (k, 3 or 6).
        errors: error of each form on the largest runs, where there are enough.
        runs: number of them.
        metric: of the scores, as the file names it.
        added: to each score of the file; 1 for a negated Brier score.
    """

    task: str
    chance: float
    ceiling: float
    middle: float
    steepness: float
    bump: tuple[float, ...] = ()
    form: Form
    noise: float
    draws: Array
    errors: Mapping[str, float]
    runs: int
    metric: str = ""
    added: float = 0.0

    def at(self, variable: float) -> float:
        """The score at a loss, or at minus log compute: the mean of the resampled curves, or the curve without resamples.

        Beyond the runs the curve of least squares swings with their noise, and its ceiling is the prior's middle; the mean
        errs less on tasks that turn, dip or rise alone (docs/log.md#e266).
        """
        curves = (
            [np.array([self.ceiling, self.middle, self.steepness, *self.bump])]
            if not len(self.draws)
            else self.draws
        )
        at = np.array([variable])
        return float(np.clip(np.mean([_curve(q, at, self.chance)[0] for q in curves]), 0.0, 1.0))

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
        bounds = max(value - half, 0.0) - self.added, min(value + half, 1.0) - self.added
        return {
            "score": value - self.added,
            "interval_80": bounds,
            "form": self.form,
            "runs": self.runs,
            "forms": dict(self.errors),
            "metric": self.metric,
            "turns": bool(self.bump),
        }


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
    name = f"{scores.task} ({scores.metric})" if scores.metric else scores.task
    last = {run.run: run for run in runs}
    pairs = [(run, value) for run, value in scores.by_run.items() if run in last or run in scores.compute]
    if len(pairs) < FEWEST:
        raise BadInput(
            f"{name} has scores of {len(pairs)} of these runs; {FEWEST} are needed"
            + (f": {unmatched(scores, last)}" if not pairs else "")
        )
    known = known_chance(scores.task) if chance is None else chance + scores.added
    if known is None or (chance is None and scores.added):
        example = "-0.56" if scores.added else "0.25"
        raise BadInput(
            f"{name} is not a known task: its score of guessing must be given, --chance {scores.task}={example}"
        )
    if not 0 <= known < 1:
        raise BadInput(
            f"chance of {name} is {chance:g}; its scores are between {-scores.added:g} and {1 - scores.added:g}"
        )
    score = np.array([value for _, value in pairs])
    compute = np.array(
        [-math.log(scores.compute[run] if run in scores.compute else last[run].flops) for run, _ in pairs]
    )
    variables: dict[Form, Array] = {"compute": compute}
    if all(run in last for run, _ in pairs):
        variables = {"loss": np.array([last[run].loss for run, _ in pairs]), **variables}
    first = next(iter(variables.values()))
    q = _fit(first, score, known, np.ones(len(score)))
    noise = _noise(score - _curve(q, first, known))
    top = np.sort(score)[-max(1, len(score) // 5) :]
    if top.mean() < known + ABOVE * noise:
        raise BadInput(f"{name} is at chance ({known - scores.added:g}) in every run: nothing to predict")
    bump = _turn(name, first, score, known, q)
    errors = _competition(variables, score, compute, known, bump)
    form: Form = next(iter(variables))
    if len(variables) > 1 and errors and errors["compute"] < 0.8 * errors["loss"]:
        form = "compute"
    x = variables[form]
    q = _fit(x, score, known, np.ones(len(x)), bump=bump)
    weights = cluster_weights(np.arange(len(x)), RESAMPLES, np.random.default_rng([seed, 4]))
    rng = np.random.default_rng([seed, 5])
    ceilings = np.clip(rng.normal(CEILING, CEILING_WIDTH, RESAMPLES), known + 0.05, 1.0)
    noise = _noise(score - _curve(q, x, known), len(q))
    return ScoreFit(
        task=scores.task,
        chance=known,
        ceiling=float(q[0]),
        middle=float(q[1]),
        steepness=float(q[2]),
        bump=tuple(map(float, q[3:])),
        form=form,
        noise=noise,
        draws=np.array(
            [
                _fit(x, score, known, weight, start=q, prior=(float(ceiling), noise), bump=bump)
                for weight, ceiling in zip(weights, ceilings, strict=True)
            ]
        ),
        errors=errors,
        runs=len(pairs),
        metric=scores.metric,
        added=scores.added,
    )


def _curve(q: Array, x: Array, chance: float) -> Array:
    """The sigmoid at points of shape (n,), with the bump where q has six constants."""
    ceiling, middle, steepness = q[:3]
    curve = chance + (ceiling - chance) / (1 + np.exp(np.clip(steepness * (x - middle), -60, 60)))
    if len(q) > 3:
        height, place, width = q[3:]
        curve = curve + height * np.exp(-0.5 * ((x - place) / width) ** 2)
    return np.asarray(curve)


def _fit(
    x: Array,
    score: Array,
    chance: float,
    weights: Array,
    start: Array | None = None,
    prior: tuple[float, float] = (CEILING, USUAL_NOISE),
    bump: bool = False,
) -> Array:
    """Least squares of (ceiling, middle, steepness), and of the bump.

    Args:
        x: the variable, shape (n,); smaller is better.
        score: shape (n,).
        chance: score of guessing.
        weights: of the runs, shape (n,).
        start: in place of several starts, shape (3,) or (6,).
        prior: middle of the ceiling's prior, and the noise of a score.
        bump: fit one too.
    """
    root = np.sqrt(weights)
    spread = max(float(np.ptp(x)), 1e-6)
    low = [chance + 0.02, float(x.min()) - 5 * spread, 1e-3]
    high = [1.0, float(x.max()) + spread, MOST_STEEP / min(spread, 1)]
    middle, steepness = float(np.median(x)), 4 / spread
    starts = [np.array([0.95, middle, steepness])]
    if bump:
        low += [-1.0, float(x.min()), NARROWEST * spread]
        high += [1.0, float(x.max()), WIDEST * spread]
        starts = [
            np.array(
                [
                    0.95,
                    float(np.quantile(x, at)),
                    2 * steepness,
                    height,
                    float(np.quantile(x, place)),
                    0.15 * spread,
                ]
            )
            for at in (0.2, 0.5)
            for place in (0.4, 0.8)
            for height in (-0.05, 0.05)
        ]

    def residuals(q: Array) -> Array:
        misses = [prior[1] * (q[0] - prior[0]) / CEILING_WIDTH]
        if bump:
            misses.append(prior[1] * q[3] / BUMP_WIDTH)
        return np.append(root * (_curve(q, x, chance) - score), misses)

    edge = 1e-9 * np.maximum(1.0, np.abs(high))
    solved = [
        least_squares(
            residuals, np.clip(first, np.array(low) + edge, np.array(high) - edge), bounds=(low, high)
        )
        for first in (starts if start is None else [start])
    ]
    return np.asarray(min(solved, key=lambda one: float(one.cost)).x)


def _noise(residual: Array, constants: int = 3) -> float:
    freedom = max(len(residual) - constants, 1)
    return max(float(np.sqrt((residual**2).sum() / freedom)), LEAST_NOISE)


def _competition(
    variables: Mapping[Form, Array], score: Array, order: Array, chance: float, bump: bool
) -> dict[str, float]:
    """Mean error of each form on the third of the runs with most compute, fitted to the others; empty for few runs.

    Args:
        variables: by form, shape (n,) each.
        score: shape (n,).
        order: minus log compute, shape (n,).
        chance: score of guessing.
        bump: fit one too.
    """
    held = order <= np.quantile(order, 1 / 3)
    if len(variables) < 2 or (~held).sum() < FEWEST:
        return {}
    return {
        name: float(
            np.abs(
                _curve(
                    _fit(x[~held], score[~held], chance, np.ones((~held).sum()), bump=bump), x[held], chance
                )
                - score[held]
            ).mean()
        )
        for name, x in variables.items()
    }


def _turn(name: str, x: Array, score: Array, chance: float, q: Array) -> bool:
    """True where the runs show a whole turn that a bump fits and a sigmoid does not; False for a task that does not turn.

    Args:
        name: of the task.
        x: loss or minus log compute, shape (n,).
        score: shape (n,).
        chance: score of guessing.
        q: the sigmoid's constants.

    Raises:
        BadInput: it turns, and too few runs or none beyond the turn show where it goes.
    """
    turns = f"{name} turns with scale"
    if len(x) < FEWEST_TURNING:
        if _turns(x, score):
            raise BadInput(
                f"{turns}: its score first falls and then rises with loss; a sigmoid would bend it, and to fit the turn "
                f"{FEWEST_TURNING} runs are needed, not {len(x)}"
            )
        return False
    bumped = _fit(x, score, chance, np.ones(len(x)), bump=True)
    left = [float(((score - _curve(one, x, chance)) ** 2).sum()) for one in (q, bumped)]
    if left[1] > TURN * left[0] or left[0] < 4 * len(x) * LEAST_NOISE**2:
        if _turns(x, score):
            raise BadInput(
                f"{turns}: its score first falls and then rises with loss; a sigmoid would bend it"
            )
        return False
    grid = np.linspace(float(x.max()), float(x.min()), GRID)
    rise = np.diff(_curve(bumped, grid, chance))
    falls = np.flatnonzero(rise < 0)
    if not len(falls):
        return False  # a step in the climb, not a turn: the sigmoid alone
    bottom = grid[min(int(falls.max()) + 1, GRID - 1)]
    beyond = x < bottom
    recovered = (
        score[beyond].mean() - float(_curve(bumped, np.array([bottom]), chance)[0]) if beyond.any() else 0.0
    )
    if beyond.sum() < FEWEST_BEYOND or recovered < ABOVE * _noise(score - _curve(bumped, x, chance), 6):
        raise BadInput(
            f"{turns}: its score falls with scale up to the largest runs, and {int(beyond.sum())} of them lie beyond the "
            "turn; nothing says how far it rises again"
        )
    return True


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
