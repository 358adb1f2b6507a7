"""Where siblings of a run's own length and schedule ended, and how far it stands from them at the same step.

    ln L_end(sibling) − ln L_end(run) = k·gap + c·(K(N_sibling) − K(N_run)),     K(N) = ln(1 + D/(r·N))

gap is ln L(sibling) − ln L(run) where the run is now. Most of it is gone by the end: who learns fast early is caught up with. A
difference of size comes in its place, in the form of Kaplan et al. 2020 (arXiv:2001.08361, eq. 1.5): large where parameters are
short, small where tokens D are. 1 − k and c are in proportion to how far the learning rate will still carry the run (the share of
x of `trajectory`), and what several siblings show of them corrects what is believed beforehand.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .curves import RunCurves
from .lessons import SAME_LENGTH, at_own_size
from .trajectory import Profile

Array = NDArray[np.float64]
# Chosen by likelihood of what was foreseen at a third of all 147 full-length runs with siblings of two sizes in the 24 studies
# code-a to docs-x of benchmarks/forecast.py (docs/log.md). Per share of x that is still to come: how much of a gap is lost by
# the end, and what a unit of K brings; each with its standard deviation between studies.
_LOST, _SIZE = (0.81, 0.37), (0.058, 0.01)
# Deviations of ln L: along K, of single runs, and with what is to come.
_WANDER, _SCATTER, _SCATTER_LEFT = 0.0055, 0.0017, 0.004
_TOKENS_A_PARAMETER = 2.0  # r
_SINCE = 0.5  # of the steps so far: where a gap is measured
_FEWEST_LINES, _FEWEST_LOOKS = 4, 3  # that a gap is measured on
_FEWEST_TO_JUDGE = 3  # siblings, for one to be out of line with the others
DISAGREE = 2.0  # deviations beyond which two forecasts are held to disagree


def beside(
    run: RunCurves, siblings: Sequence[RunCurves], steps: int, until: int | None = None
) -> tuple[float, float] | None:
    """The final loss that siblings of the same length and schedule lead one to expect, and its standard deviation.

    None where none is finished, or the run has not logged enough to be held beside them.
    """
    asked, tokens = run.underway.rung(steps), steps * run.underway.batch_tokens
    rows = []
    for one in siblings:
        if one.underway.schedule != run.underway.schedule:
            continue
        for length, final in one.finals.items():
            rung = one.underway.rung(length)
            alike = (rung.cooldown, rung.shape) == (asked.cooldown, asked.shape)
            if alike and abs(math.log(length * one.underway.batch_tokens / tokens)) < SAME_LENGTH:
                found = gap(run, steps, one, length, until)
                if found is not None:
                    rows.append((_size(one, tokens) - _size(run, tokens), math.log(final), *found))
    if not rows:
        return None
    size, ends, gaps, doubt = np.array(rows).T
    left = to_come(run, steps, until)
    kept = 1 - _LOST[0] * left
    values = ends - kept * gaps
    shared = (_LOST[1] * left) ** 2 * np.outer(gaps, gaps)

    def expected(at: float, given: NDArray[np.bool_], doubts: Array) -> tuple[float, float]:
        return at_own_size(
            size[given] - at, values[given], doubts[given], before=(float(values[given].mean()), 1.0),
            trend=(_SIZE[0] * left, _SIZE[1] * left), wander=_WANDER * math.sqrt(left),
            scatter=math.hypot(_SCATTER, _SCATTER_LEFT * math.sqrt(left)), shared=shared[np.ix_(given, given)],
        )  # fmt: skip

    everyone, doubts = np.ones(len(values), dtype=bool), kept * doubt
    if len(values) >= _FEWEST_TO_JUDGE:  # the sibling furthest out of line with the others counts for less
        others = ~np.eye(len(values), dtype=bool)
        beyond = np.zeros(len(values))
        for i, given in enumerate(others):
            mean, sd = expected(size[i], given, doubts)
            sd = math.hypot(sd, doubts[i], math.sqrt(shared[i, i]))
            beyond[i] = max(0.0, abs(values[i] - mean) - DISAGREE * sd)
        worst = int(beyond.argmax())
        doubts[worst] = math.hypot(doubts[worst], 2 * beyond[worst])
    mean, sd = expected(0.0, everyone, doubts)
    return math.exp(mean), sd * math.exp(mean)


def to_come(run: RunCurves, steps: int, until: int | None = None) -> float:
    """How much of what the learning rate does for a run of so many steps it still has to do, as a share."""
    curve = run.rung(steps) if until is None else run.rung(steps).until(until)
    now, end = Profile.of(run.underway.to(steps)).area_at(np.array([float(curve.step[-1]), float(steps)]))
    return 1 - min(float(now / end), 1.0)


def gap(
    run: RunCurves, steps: int, sibling: RunCurves, length: int, until: int | None = None
) -> tuple[float, float] | None:
    """How far a sibling's logarithm of the loss lay above the run's own after as many tokens, and its standard error.

    Of training loss where both read the same batches, whose noise then falls out; else of looks at the same held-out windows,
    where both have enough. A line in the logarithm of the step, taken at the last one. None where too little is logged.
    """
    mine = run.rung(steps) if until is None else run.rung(steps).until(until)
    theirs = sibling.rung(length)
    if not len(mine.step):
        return None
    now = float(mine.step[-1])
    ratio = sibling.underway.batch_tokens / run.underway.batch_tokens
    begin = max(1.5 * run.underway.warmup, _SINCE * now)
    lines, looks = mine.step > begin, mine.eval_step > begin
    of_lines = _line(mine.step[lines], mine.loss[lines], theirs.step * ratio, theirs.loss, now, _FEWEST_LINES)
    of_looks = _line(
        mine.eval_step[looks],
        mine.eval_loss[looks],
        theirs.eval_step * ratio,
        theirs.eval_loss,
        now,
        _FEWEST_LOOKS,
    )
    same = sibling.underway.batches == run.underway.batches
    return (of_lines or of_looks) if same else (of_looks or of_lines)


def _line(
    step: Array, loss: Array, other_step: Array, other: Array, now: float, fewest: int
) -> tuple[float, float] | None:
    """ln(other/loss) at `now`, and its standard error, by least squares over ln(step)."""
    if not len(other_step):
        return None
    inside = (step >= other_step[0]) & (step <= other_step[-1])
    if inside.sum() < fewest:
        return None
    values = np.interp(step[inside], other_step, np.log(other)) - np.log(loss[inside])
    design = np.column_stack([np.ones(len(values)), np.log(step[inside] / now)])
    inverse = np.linalg.inv(design.T @ design)
    found = inverse @ design.T @ values
    rest = values - design @ found
    return float(found[0]), math.sqrt(float(rest @ rest) / (len(values) - 2) * inverse[0, 0])


def _size(run: RunCurves, tokens: int) -> float:
    """K(N)."""
    return math.log1p(tokens / (_TOKENS_A_PARAMETER * run.underway.params))
