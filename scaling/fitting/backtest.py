"""Backtest: fit the cheap part of the runs, predict the rest, and score every form and the default predictor."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from families.units import BadInput, parse_size

from ..laws import Convention, Prediction
from ..runs import Run, RunTable
from ..stats import Array
from .columns import columns_of
from .fit import REPEATED, fit
from .one_variable import FEWEST_POINTS, FORM_OF, WORDS, variable_of
from .predictor import Fit
from .selection import Annealed, is_single_run, select_runs

FORMS = ("chinchilla", "general", "kaplan")

LAST = "last value"  # beside a curve's power law with a floor

_DEFAULT_WORK = 4  # plain fits that the default predictor takes the time of

FEWEST_FIT_ROWS = 7  # one more than the general form has constants

FEWEST_JUDGED = 5  # held rows: fewer lie outside an interval, or on one side, by chance

_RULE = re.compile(r"(params|tokens|compute)\s*>\s*(.+)")

_SHARE = re.compile(r"top-([0-9.]+)%")


@dataclass(frozen=True, slots=True, kw_only=True)
class FormScore:
    """Errors of one form on the held-out rows, as fractions of the actual loss."""

    mean_error: float
    max_error: float
    bias: float

    @classmethod
    def of(cls, predicted: Array, actual: Array) -> "FormScore":
        """Mean and largest |predicted/actual − 1|, and the mean with its sign."""
        error = predicted / actual - 1
        size = np.abs(error)
        return cls(mean_error=float(size.mean()), max_error=float(size.max()), bias=float(error.mean()))


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultScore(FormScore):
    """The default predictor's errors, the share of held-out rows inside its intervals, and their mean width over loss."""

    coverage_80: float
    coverage_95: float
    relative_width_80: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScore:
    """One group's backtest. compute_ratio is the largest held compute over the largest fitted one."""

    group: str
    fit_rows: int
    held_rows: int
    compute_ratio: float
    forms: dict[str, FormScore]
    default: DefaultScore

    @property
    def doubt(self) -> str:
        """Evidence that the default predictor's intervals do not hold here; empty without."""
        if self.held_rows < FEWEST_JUDGED:
            return ""
        reasons = []
        if self.default.coverage_80 < 0.5:
            inside = round(self.default.coverage_80 * self.held_rows)
            reasons.append(f"{inside} of {self.held_rows} held-out rows lie in the 80 % interval")
        if abs(self.default.bias) > self.default.mean_error * (1 - 1e-9):  # so only where no sign differs
            side = "high" if self.default.bias > 0 else "low"
            reasons.append(
                f"all {self.held_rows} predictions are too {side}, by {abs(self.default.bias):.2%} in the mean"
            )
        return "; ".join(reasons)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtest:
    """Scores by group; `skipped` gives the reason for groups without a score, `left_out` the rows left out of a group."""

    holdout: str
    groups: tuple[GroupScore, ...]
    skipped: dict[str, str]
    left_out: dict[str, str]


def split(runs: Sequence[Run], holdout: str) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
    """(Cheap runs to fit, expensive runs to predict).

    Args:
        runs: of one group.
        holdout: top-decade (more than a tenth of the largest compute), top-20% (the most expensive fifth of the rows), or
            params>X, tokens>X, compute>X.

    Raises:
        BadInput: another rule.
    """
    compute = np.array([run.flops for run in runs])
    rule, share = _RULE.fullmatch(holdout.strip()), _SHARE.fullmatch(holdout.strip())
    if holdout.strip() == "top-decade":
        held = compute > compute.max() / 10 * (1 + 1e-9)
    elif share and 0 < float(share[1]) < 100:
        held = compute > np.quantile(compute, 1 - float(share[1]) / 100)
    elif rule:
        limit = parse_size(rule[2].strip(), f"holdout {rule[1]}")
        held = np.array([_measure(run, rule[1]) > limit for run in runs])
    else:
        raise BadInput(
            f"holdout is {holdout!r}; known: top-decade, top-20%, params>1B, tokens>20B, compute>1e20"
        )
    return (
        tuple(run for run, out in zip(runs, held, strict=True) if not out),
        tuple(run for run, out in zip(runs, held, strict=True) if out),
    )


def _variable(runs: Sequence[Run]) -> str:
    """The one variable of rows, as `variable_of`; empty where they state their N in different conventions."""
    try:
        table = RunTable.of(runs)
        return variable_of(table.N, table.D)
    except BadInput:
        return ""


def _measure(run: Run, name: str) -> float:
    if name == "compute":
        return run.flops
    if name == "tokens":
        return run.tokens
    return run.n_params()


def backtest(
    runs: Sequence[Run],
    *,
    holdout: str = "top-decade",
    convention: Convention | None = None,
    annealed: Annealed | None = None,
    eval_set: str | None = None,
    seed: int = 0,
    bootstrap: int = 200,
    progress: Callable[[float, float, str], None] = lambda done, total, what: None,
) -> Backtest:
    """Backtest each group. The held-out rows enter no fit and no choice of form.

    A group that mixes annealed and mid-schedule rows is scored on the annealed ones, unless `annealed` is "all" or the rows
    are the curve of a single run. Rows of one variable are scored against their plain power law and the last value.

    Args:
        runs: observations, of one group or several.
        holdout: rule of `split`.
        convention: parameters that N counts (default: total where every run has them).
        annealed: "only" or "all" rows of a group that mixes annealed and mid-schedule ones (default: "only").
        eval_set: the eval set to score, where the rows of a group have several.
        seed: of the starts and the resamples.
        bootstrap: resamples of whole runs behind the default predictor's intervals.
        progress: called with the work done, the work in total, and the form being fitted.

    Raises:
        BadInput: an unknown hold-out rule, or no group that can be scored.
    """
    ready: dict[str, tuple[tuple[Run, ...], tuple[Run, ...]]] = {}
    skipped, left_out = {}, {}
    for name, members in RunTable.of(runs).by_group().items():
        mixed = len({run.annealed for run in members}) > 1
        try:
            chosen, excluded = select_runs(
                members,
                group=None,
                annealed=annealed or (("all" if is_single_run(members, None) else "only") if mixed else None),
                eval_set=eval_set,
            )
        except BadInput as error:
            skipped[name] = str(error)
            continue
        if excluded != "none":
            left_out[name] = excluded
        cheap, held = split(chosen, holdout)
        clusters = {run.run for run in cheap}
        variable = _variable(chosen)
        if variable and held and len({_measure(run, WORDS[variable]) for run in cheap}) >= FEWEST_POINTS:
            ready[name] = cheap, held
            continue
        if len(cheap) < FEWEST_FIT_ROWS or len(clusters) < 4 or not held:
            skipped[name] = (
                f"{len(cheap)} training rows from {len(clusters)} runs and {len(held)} held out; need at least "
                f"{FEWEST_FIT_ROWS} training rows from 4 runs, and 1 held-out row"
                + (f", or {FEWEST_POINTS} distinct {WORDS[variable]} (--holdout top-20%)" if variable else "")
            )
            continue
        ready[name] = cheap, held
    if not ready:
        reasons = "; ".join(f"group {name!r}: {reason}" for name, reason in list(skipped.items())[:3])
        raise BadInput(f"holdout {holdout} leaves no group to score: {reasons}")
    each = _DEFAULT_WORK + len(FORMS)
    scores: list[GroupScore] = []
    for name, (cheap, held) in ready.items():
        before, total = each * len(scores), each * len(ready)

        def at(done: int, form: str, name: str = name, before: int = before, total: int = total) -> None:
            progress(before + min(done, each), total, f"{name or 'runs'}: {form}")

        scores.append(_score(name, cheap, held, convention, seed, bootstrap, at))
    return Backtest(holdout=holdout, groups=tuple(scores), skipped=skipped, left_out=left_out)


def _score(
    name: str,
    cheap: Sequence[Run],
    held: Sequence[Run],
    convention: Convention | None,
    seed: int,
    bootstrap: int,
    at: Callable[[int, str], None],
) -> GroupScore:
    at(0, "the default predictor")
    default = fit(cheap, convention=convention, annealed="all", seed=seed, bootstrap=bootstrap)
    chosen = default.convention
    actual = np.array([run.loss for run in held])
    names: tuple[str, ...] = FORMS if default.fitted_repetition is None else (*FORMS, REPEATED)
    forms = {}
    if default.last is not None:
        names = (FORM_OF[default.variable],)
        forms[LAST] = FormScore.of(np.full(len(held), np.exp(default.last.log_loss)), actual)
    for number, form in enumerate(names):
        at(_DEFAULT_WORK + number, form)
        fitted = fit(cheap, form=form, convention=chosen, annealed="all", seed=seed, bootstrap=0)
        forms[form] = FormScore.of(np.asarray(_predict(fitted, held, chosen).loss), actual)
    at(_DEFAULT_WORK + len(names), "scored")
    answer = _predict(default, held, chosen)
    predicted = np.asarray(answer.loss)
    plain = FormScore.of(predicted, actual)
    assert answer.interval_80 is not None  # backtest always resamples
    assert answer.interval_95 is not None
    return GroupScore(
        group=name,
        fit_rows=len(cheap),
        held_rows=len(held),
        compute_ratio=max(run.flops for run in held) / max(run.flops for run in cheap),
        forms=forms,
        default=DefaultScore(
            mean_error=plain.mean_error,
            max_error=plain.max_error,
            bias=plain.bias,
            coverage_80=_inside(actual, answer.interval_80),
            coverage_95=_inside(actual, answer.interval_95),
            relative_width_80=float(np.mean((answer.interval_80[1] - answer.interval_80[0]) / predicted)),
        ),
    )


def _predict(law: Fit, held: Sequence[Run], convention: Convention) -> Prediction:
    table = RunTable.of(held, convention)
    known = table.U if law.fitted_repetition is not None else None
    settings = columns_of(law.fitted_coordinates, table)
    return law.predict(table.N, table.D, unique_tokens=known, force=True, own=settings)


def _inside(actual: Array, interval: tuple[Array, Array]) -> float:
    return float(((interval[0] <= actual) & (actual <= interval[1])).mean())
