"""What a run has logged as points for the law of its curve: the warm-up left out, batches' noise estimated, long logs thinned."""

import math

import numpy as np
from numpy.typing import NDArray

from .curves import Curve, RunCurves
from .trajectory import Points, Profile

Array = NDArray[np.float64]
FEWEST_POINTS = 4  # with less nothing is foreseen
_MOST_LINES = 200  # of training loss; more are averaged, for speed
_LOOK_NOISE = 0.006  # of the loss: what a look wanders at constant rate, beyond any trend
_TOGETHER = 2.0  # how much more the mean of neighbouring points errs than if each erred alone
_BORROWED = 0.3  # of a sibling's residual that may be its own


def reference_of(run: RunCurves, steps: int) -> float:
    """x_end of a rung, in steps at the peak rate."""
    return float(Profile.of(run.underway.to(steps)).area[-1])


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
        profile=Profile.of(run.underway.to(steps)),
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
    noise = np.where(known, spread(clean[known]), spread(loss))
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


def spread(values: Array) -> float:
    """Standard deviation of single lines around any smooth curve, from differences between neighbours; outliers count little."""
    if len(values) < 5:
        return 0.1
    differences = np.abs(np.diff(values, n=2)) / math.sqrt(6)
    return max(float(np.median(differences)) / 0.6744897501960817, 1e-3 * abs(float(np.mean(values))))
