"""Coordinates of a law besides N and D: settings with an optimum, multipliers of N or D, and terms of their own.

With x = log N and z = log D about the middle of the rows,

    log L = log( exp(f(x + Δx, z + Δz)) + t ) + s

where f is the law of N and D (log loss), Δx and Δz come from multipliers, t from terms and s from settings:

    setting      s = κ (exp(skew·d) − 1 − skew·d)/skew², ½ κ d² where skew is 0, with d = ln h − ln h*
                 ln h* = at + N·x + D·z + Σ (coefficient of an earlier setting)·(its own d)
    multiplier   Δ = (power + trend·scale)·g(v), with g(v) = ln(v/reference), 1 for an arm, or of a saturating count
                 g(v) = ln Ê(v) − ln Ê(reference), 1/Ê = 1/(v − reference + start) + 1/limit (Clark et al. 2022, eq. 7);
                 of a logarithm Δx = ln(1 + rate·ln(v/reference)) (Chen et al. 2025, arXiv:2505.10475, for parallel streams);
                 of shares r of domains Δz = Σ slope·(r − reference), which makes B/D̃^beta the exponential of Ye et al. 2024
                 (arXiv:2403.16952), or Δz = ln Σ w·r − ln Σ w·reference, tokens of a domain counting w each
    term         t = exp(size)·(v^-exponent − reference^-exponent)

A setting that is left out is at its best, and anything else at its reference, so that f alone is the law at its best. A
setting's loss is a share of L: on a public grid of 1,730 runs that predicts the rows held out better than a share of the
reducible loss, and as well as nats do (docs/log.md#e145).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from families.units import BadInput, nearest

from ..stats import Array, Interval

Kind = Literal["setting", "multiplier", "term", "share"]  # a share is a multiplier of D, by its shape

Shape = Literal["power", "log", "exponential", "sum"]  # of a multiplier; the last two are of shares

Target = Literal["N", "D", "C"]

LogLoss = Callable[[Array, Array], Array]

KINDS: tuple[Kind, ...] = ("setting", "multiplier", "term", "share")

CONSTANT_OF: dict[Shape, str] = {"log": "log_rate", "exponential": "slope", "sum": "log_weight"}

MOST_SKEW, LEAST_SKEW = (
    2.0,
    1e-3,
)  # beyond the first a valley is a wall; below the second its series is exact to 1e-6

MOST_TOGETHER = 1.01  # that shares of the training data may sum to, rounded as they are printed

LEAST_COUNT = 1e-3  # of a multiplier, far below every run's

HALVINGS = 50  # of the interval that holds a quantile

STEEPEST = 30.0  # of exp(size)'s logarithm and of a setting's share of log loss: keeps trial steps finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinate:
    """One coordinate: its column, its kind, and its constants.

    Args:
        column: name of the column, a field of `Run` or the user's own.
        kind: how it enters.
        names: names of the constants, in their order.
        values: constants, in the order of `names`.
        on: what a multiplier multiplies; "C" multiplies N and D by the square root each.
        reference: value at which a multiplier or a term does nothing.
        span: least and largest value in the rows.
        level: text that an arm's indicator stands for; empty for a number.
        saturating: the multiplier's count saturates towards a limit, and counts little near the reference.
        shape: of a multiplier that does not saturate.
        draws: resampled constants, shape (k, constants).
    """

    column: str
    kind: Kind
    names: tuple[str, ...]
    values: tuple[float, ...]
    on: Target = "N"
    reference: float = 1.0
    span: Interval = (0.0, 0.0)
    level: str = ""
    saturating: bool = False
    shape: Shape = "power"
    draws: Array = field(default_factory=lambda: np.empty((0, 0)))

    @property
    def key(self) -> str:
        """The column, and the level of an arm."""
        return f"{self.column}={self.level}" if self.level else self.column

    @property
    def is_share(self) -> bool:
        """True for the share of a domain, which may be 0."""
        return self.shape in ("exponential", "sum")

    def shaped(self, shape: Shape, reference: float) -> "Coordinate":
        """The same multiplier in another shape, without constants yet."""
        names = (CONSTANT_OF.get(shape, "power"),)
        return replace(self, shape=shape, reference=reference, names=names, values=(0.0,))

    def constant(self, name: str) -> float:
        """A constant by its name."""
        return self.values[self.names.index(name)]


def setting(column: str, others: Sequence[str] = ()) -> Coordinate:
    """A setting without constants yet; `others` are the settings before it, whose deviations move its best value."""
    names = ("at", "N", "D", *others, "skew", "log_kappa")
    return Coordinate(column=column, kind="setting", names=names, values=(0.0,) * len(names))


def multiplier(
    column: str,
    on: Target = "N",
    *,
    reference: float = 1.0,
    saturating: bool = False,
    trend: bool = True,
    level: str = "",
) -> Coordinate:
    """A multiplier of N, D or both without constants yet.

    Args:
        column: its column.
        on: what it multiplies.
        reference: value at which it is 1.
        saturating: the count saturates, and its first units count little.
        trend: its power may change with scale.
        level: text of an arm, whose indicator is 1 where the column has it.
    """
    names = ("power", *(("trend",) if trend else ()), *(("log_limit", "log_start") if saturating else ()))
    return Coordinate(
        column=column, kind="multiplier", names=names, values=(0.0,) * len(names), on=on, reference=reference,
        saturating=saturating, level=level,
    )  # fmt: skip


def term(column: str, *, reference: float) -> Coordinate:
    """A term without constants yet."""
    names = ("size", "exponent")
    return Coordinate(column=column, kind="term", names=names, values=(0.0, 0.0), reference=reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """Δx, Δz, s and t at n points, shape (n,), and their derivatives in every constant, shape (constants, n).

    `above` is the part of s that settings above their best have.
    """

    dx: Array
    dz: Array
    share: Array
    above: Array
    add: Array
    by_dx: Array
    by_dz: Array
    by_share: Array
    by_add: Array


def shift_of(
    parts: Sequence[Coordinate], constants: Array, x: Array, z: Array, columns: Mapping[str, Array]
) -> Shift:
    """Evaluate coordinates and their derivatives.

    Args:
        parts: the coordinates, in their order.
        constants: their constants one after another, shape (constants,).
        x: log N about the middle of the rows, shape (n,).
        z: log D likewise.
        columns: values by `Coordinate.key`: of settings d itself is ln h, shape (n,); a setting that is not there is at its
            best, and anything else at its reference.
    """
    n, count = len(x), len(constants)
    kinds = {part.kind for part in parts}
    nothing = np.broadcast_to(0.0, (count, n))
    shift = Shift(
        **{name: np.zeros(n) for name in ("dx", "dz", "share", "above", "add")},
        by_dx=np.zeros((count, n)) if "multiplier" in kinds else nothing,
        by_dz=np.zeros((count, n)) if "multiplier" in kinds else nothing,
        by_share=np.zeros((count, n)) if "setting" in kinds else nothing,
        by_add=np.zeros((count, n)) if "term" in kinds else nothing,
    )
    deviations: dict[str, tuple[Array, Array]] = {}
    at = 0
    for part in parts:
        here = slice(at, at + len(part.names))
        own = constants[here]
        if part.key in columns:
            values = columns[part.key]
            if part.kind == "setting":
                _add_setting(shift, part, own, at, (x, z, values), deviations)
            elif part.kind == "multiplier" and part.shape != "sum":
                _add_multiplier(shift, part, own, at, (x, z, values))
            elif part.kind == "term":
                _add_term(shift, part, own, at, values)
        at = here.stop
    _add_sum(shift, parts, constants, columns)
    return shift


def valley(d: Array, skew: float) -> tuple[Array, Array, Array]:
    """(exp(a·d) − 1 − a·d)/a² for the skew a, and its derivatives in d and a, elementwise: ½ d² at a = 0.

    Too high a learning rate costs more than one as much too low: the loss rises faster on that side (Zellner's linex).
    """
    a = float(np.clip(skew, -MOST_SKEW, MOST_SKEW))
    if abs(a) < LEAST_SKEW:
        return 0.5 * d**2 + a * d**3 / 6, d + a * d**2 / 2, d**3 / 6 + a * d**4 / 12
    w = np.clip(a * d, -40.0, 40.0)
    rise = np.expm1(w)
    height = (rise - w) / a**2
    return height, rise / a, d * rise / a**2 - 2 * height / a


def _add_setting(
    shift: Shift,
    part: Coordinate,
    own: Array,
    at: int,
    points: tuple[Array, Array, Array],
    deviations: dict[str, tuple[Array, Array]],
) -> None:
    x, z, log_h = points
    by = np.zeros_like(shift.by_share)
    d = log_h - (own[0] + own[1] * x + own[2] * z)
    by[at], by[at + 1], by[at + 2] = -1.0, -x, -z
    for index, other in enumerate(part.names[3:-2], start=3):
        if other in deviations:
            theirs, by_theirs = deviations[other]
            d = d - own[index] * theirs
            by -= own[index] * by_theirs
            by[at + index] -= theirs
    deviations[part.column] = d, by
    kappa = np.exp(np.minimum(own[-1], STEEPEST))
    height, slope, by_skew = valley(d, float(own[-2]))
    share = np.minimum(kappa * height, STEEPEST)
    inside = share < STEEPEST
    shift.share[:] += share
    shift.above[:] += np.where(d > 0, share, 0.0)
    shift.by_share[:] += kappa * slope * by * inside
    shift.by_share[at + len(part.names) - 2] += kappa * by_skew * inside
    shift.by_share[at + len(part.names) - 1] += share


def _add_multiplier(
    shift: Shift, part: Coordinate, own: Array, at: int, points: tuple[Array, Array, Array]
) -> None:
    x, z, values = points
    if part.shape != "power":
        rise, by_rise = _shaped(part, float(own[0]), values)
        weight = 0.5 if part.on == "C" else 1.0
        for name, target in (("dx", "NC"), ("dz", "DC")):
            if part.on in target:
                getattr(shift, name)[:] += weight * rise
                getattr(shift, f"by_{name}")[at] += weight * by_rise
        return
    by_own: dict[str, Array] = {}
    if part.level:
        g = values
    elif part.saturating:
        g, by_own = _saturating(part, own, values)
    else:
        g = np.log(values / part.reference)
    scale = {"N": x, "D": z, "C": x + z}[part.on]
    trend = "trend" in part.names
    power = own[0] + (own[1] * scale if trend else 0.0)
    weight = 0.5 if part.on == "C" else 1.0
    for name, target in (("dx", "NC"), ("dz", "DC")):
        if part.on in target:
            value, by = getattr(shift, name), getattr(shift, f"by_{name}")
            value += weight * power * g
            by[at] += weight * g
            if trend:
                by[at + 1] += weight * scale * g
            for constant, derivative in by_own.items():
                by[at + part.names.index(constant)] += weight * power * derivative


def _shaped(part: Coordinate, own: float, values: Array) -> tuple[Array, Array]:
    """Log of a multiplier with one constant at values of shape (n,), and its derivative by that constant."""
    if part.shape == "exponential":
        return own * (values - part.reference), values - part.reference
    rate = np.exp(np.clip(own, -STEEPEST, STEEPEST))
    inner = 1 + rate * np.log(values / part.reference)
    kept = inner > LEAST_COUNT
    inner = np.where(kept, inner, LEAST_COUNT)
    return np.log(inner), np.where(kept, (inner - 1) / inner, 0.0)


def _add_sum(
    shift: Shift, parts: Sequence[Coordinate], constants: Array, columns: Mapping[str, Array]
) -> None:
    """Add ln Σ w·r − ln Σ w·reference of the shares whose tokens count w each; those left out are at their reference."""
    starts = np.cumsum([0, *(len(part.names) for part in parts)])
    shares = [(at, part) for at, part in zip(starts, parts, strict=False) if part.shape == "sum"]
    if not any(part.key in columns for _, part in shares):
        return
    weights = np.exp([np.clip(constants[at], -STEEPEST, STEEPEST) for at, _ in shares])
    here = np.stack(
        [np.broadcast_to(columns.get(part.key, part.reference), shift.dz.shape) for _, part in shares]
    )
    there = np.array([part.reference for _, part in shares])
    total, standard = np.maximum(weights @ here, LEAST_COUNT * weights.min()), float(weights @ there)
    shift.dz[:] += np.log(total / standard)
    for (at, _), weight, value, middle in zip(shares, weights, here, there, strict=True):
        shift.by_dz[at] += weight * (value / total - middle / standard)


def _saturating(part: Coordinate, own: Array, values: Array) -> tuple[Array, dict[str, Array]]:
    """Evaluate ln Ê(v) − ln Ê(reference) of a saturating count at values of shape (n,), and its derivatives by constant.

    A law without `log_start` counts from the first unit on: start is the reference.
    """
    limit = float(np.exp(np.clip(own[part.names.index("log_limit")], -STEEPEST, STEEPEST)))
    counts_late = "log_start" in part.names
    start = part.reference
    if counts_late:
        start = float(np.exp(np.clip(own[part.names.index("log_start")], -STEEPEST, STEEPEST)))
    shifted = np.maximum(values - part.reference, 0.0) + start
    g = np.log(shifted / start) - np.log1p(shifted / limit) + np.log1p(start / limit)
    by = {"log_limit": shifted / (limit + shifted) - start / (limit + start)}
    if counts_late:
        by["log_start"] = start * (limit / (shifted * (limit + shifted)) - limit / (start * (limit + start)))
    return g, by


def _add_term(shift: Shift, part: Coordinate, own: Array, at: int, values: Array) -> None:
    size, exponent = np.exp(np.minimum(own[0], STEEPEST)), np.clip(own[1], -5.0, 5.0)
    here, there = values**-exponent, part.reference**-exponent
    shift.add[:] += size * (here - there)
    shift.by_add[at] += size * (here - there)
    shift.by_add[at + 1] += size * (there * np.log(part.reference) - here * np.log(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter:
    """Standard deviation of log loss about a valley, size·s^power of its own share s, on one side of its bottom."""

    size: float = 0.0
    power: float = 1.0

    def at(self, share: Array) -> Array:
        """The standard deviation at shares of shape (n,)."""
        return np.asarray(self.size * share**self.power)


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Runs that diverge: with chance 1/(1 + exp(−(ln lr − threshold)/width)), threshold at + N·x + D·z.

    Args:
        at: the threshold in the middle of the rows.
        N: its slope in log N.
        D: its slope in log D.
        width: of the logistic in log lr.
        level: log loss of diverged runs, whatever their N and D.
        spread: its standard deviation.
    """

    at: float
    N: float
    D: float
    width: float
    level: float
    spread: float

    def chance(self, x: Array, z: Array, log_lr: Array) -> Array:
        """The chance to diverge at points of shape (n,)."""
        from scipy.special import expit  # 0.1 s to import; most predictions need none of it

        return expit((log_lr - self.at - self.N * x - self.D * z) / self.width)

    def bound(self, z: float, chance: Array, valley: Array, deviation: Array) -> Array:
        """A quantile of log loss, shape (n,): the valley's normal distribution, and that of diverged runs.

        Args:
            z: standard deviations that the normal distribution's quantile is from its middle.
            chance: to diverge, shape (n,).
            valley: log loss of runs that do not, shape (n,).
            deviation: its standard deviation, shape (n,).
        """
        from scipy.special import ndtr  # 0.1 s to import; most predictions need none of it

        top = np.maximum(self.level, valley)
        ends = np.stack([valley + z * deviation, top + z * self.spread])
        low, high = ends.min(axis=0), ends.max(axis=0)  # each part alone: the mixture's lies between them
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            below = (1 - chance) * ndtr((middle - valley) / np.maximum(deviation, 1e-12))
            short = below + chance * ndtr((middle - top) / max(self.spread, 1e-12)) < ndtr(z)
            low, high = np.where(short, middle, low), np.where(short, high, middle)
        return np.asarray(0.5 * (low + high))


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinates:
    """The fitted coordinates of a law.

    Args:
        log_N: middle of the rows' log N, from which x counts.
        log_D: middle of the rows' log D, from which z counts.
        parts: the coordinates, in the order of their constants.
        below: scatter of log loss where settings are below their best: runs differ the more, the farther from a bottom.
        above: the same above it, where some runs diverge.
        divergence: of runs with too high a learning rate; None where no rows show any.
        batch_tokens: least and largest batch of the rows, where they state one that is no coordinate: lr* is for those.
    """

    log_N: float
    log_D: float
    parts: tuple[Coordinate, ...]
    below: Scatter = Scatter()
    above: Scatter = Scatter()
    divergence: Divergence | None = None
    batch_tokens: Interval | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Columns, each once."""
        return tuple(dict.fromkeys(part.column for part in self.parts))

    @property
    def scale_free(self) -> frozenset[str]:
        """Columns of multipliers and terms whose effect does not change with N and D."""
        return frozenset(p.column for p in self.parts if p.kind != "setting" and "trend" not in p.names)

    @property
    def counts_one_token(self) -> bool:
        """True where N counts the experts that one token passes through: of one N, more experts are better.

        Were N all parameters, more experts of one N would leave each token fewer, and the loss would be higher.
        """
        experts = [p for p in self.parts if p.column == "n_experts" and p.kind == "multiplier"]
        return any(part.constant("power") > 0 for part in experts)

    @property
    def constants(self) -> Array:
        """All constants one after another."""
        return np.array([value for part in self.parts for value in part.values])

    @property
    def draws(self) -> Array:
        """Resampled constants one after another, shape (k, constants)."""
        return np.concatenate([part.draws for part in self.parts], axis=1)

    def columns(self, given: Mapping[str, object], n: Array) -> dict[str, Array]:
        """Values by `Coordinate.key`, as `shift_of` takes them, from values by column.

        Raises:
            BadInput: a column that the law does not depend on, a value that is not positive, or an unknown arm.
        """
        for name in given:
            if name not in self.names:
                raise BadInput(f"the law has no coordinate {name!r}; {nearest(name, self.names)}")
        found = {}
        for part in self.parts:
            if given.get(part.column) is None:
                continue
            if part.level:
                known = [other.level for other in self.parts if other.column == part.column]
                texts = np.broadcast_to(np.asarray(given[part.column], dtype=str), n.shape)
                found[part.key] = (texts == part.level).astype(np.float64)
                if len(known) == 1 and not np.isin(texts, known).any():
                    found[part.key] = np.zeros(n.shape)
                continue
            try:
                values = np.broadcast_to(np.asarray(given[part.column], dtype=np.float64), n.shape)
            except ValueError as error:
                text = str(np.asarray(given[part.column]).ravel()[0])
                raise BadInput(f"{part.column} is {text!r}; it must be a number") from error
            if part.is_share and not ((values >= 0) & (values <= 1)).all():
                raise BadInput(f"{part.column} is {values.max():g}; a share must be between 0 and 1")
            if not (np.isfinite(values) & ((values > 0) | part.is_share)).all():
                raise BadInput(f"{part.column} is {values.min():g}; it must be positive and finite")
            if part.saturating and values.min() < part.reference:
                raise BadInput(f"{part.column} is {values.min():g}; it must be at least {part.reference:g}")
            found[part.key] = np.log(values) if part.kind == "setting" else values
        self._check_shares(found)
        return found

    def _check_shares(self, found: Mapping[str, Array]) -> None:
        """Refuse shares that sum to more than 1, those that are left out at their reference.

        Raises:
            BadInput: naming the sum, and the shares that were left out.
        """
        shares = [part for part in self.parts if part.is_share]
        left = [part.column for part in shares if part.key not in found]
        if len(left) == len(shares):
            return
        total = np.max(sum(np.asarray(found.get(part.key, part.reference)) for part in shares))
        if total > MOST_TOGETHER:
            out = f", with {', '.join(left)} at the mean of the runs" if left else ""
            raise BadInput(f"the shares sum to {total:.3g}{out}; they must sum to at most 1")

    def shift(
        self, N: Array, D: Array, columns: Mapping[str, Array], constants: Array | None = None
    ) -> Shift:
        """Δx, Δz, s and t at points of shape (n,).

        Args:
            N: parameters, shape (n,).
            D: tokens, shape (n,).
            columns: values by `Coordinate.key`, from `columns`.
            constants: in place of the estimate, such as a resample, shape (constants,).
        """
        values = self.constants if constants is None else constants
        return shift_of(self.parts, values, np.log(N) - self.log_N, np.log(D) - self.log_D, columns)

    def best_log(
        self, column: str, N: Array, D: Array, columns: Mapping[str, Array], constants: Array | None = None
    ) -> Array:
        """Log of a setting's best value at points of shape (n,).

        Args:
            column: the setting.
            N: parameters, shape (n,).
            D: tokens, shape (n,).
            columns: values of the settings before it by `Coordinate.key`; what is left out is at its best.
            constants: in place of the estimate, such as a resample, shape (constants,).

        Raises:
            BadInput: no such setting.
        """
        settings = [part.column for part in self.parts if part.kind == "setting"]
        if column not in settings:
            raise BadInput(f"the law has no best {column!r}; {nearest(column, settings)}")
        values = self.constants if constants is None else constants
        x, z = np.log(N) - self.log_N, np.log(D) - self.log_D
        at = 0
        deviations: dict[str, Array] = {}
        for part in self.parts:
            own = values[at : at + len(part.names)]
            at += len(part.names)
            if part.kind != "setting":
                continue
            best = own[0] + own[1] * x + own[2] * z
            for index, other in enumerate(part.names[3:-2], start=3):
                best = best + own[index] * deviations.get(other, 0.0)
            if part.column == column:
                break
            if part.column in columns:
                deviations[part.column] = columns[part.column] - best
        return np.asarray(best)

    def log_loss(
        self,
        law: LogLoss,
        smooth: LogLoss,
        N: Array,
        D: Array,
        columns: Mapping[str, Array],
    ) -> tuple[Array, Array]:
        """Log loss at points of shape (n,), and the standard deviation that the constants and the scatter add to it.

        Args:
            law: log loss of N and D at the best settings.
            smooth: the same without a local correction, for the spread of the resamples.
            N: parameters, shape (n,).
            D: tokens, shape (n,).
            columns: values by `Coordinate.key`, from `columns`.
        """
        shift = self.shift(N, D, columns)
        found = _joined(law, N, D, shift)
        variance = self.below.at(shift.share - shift.above) ** 2 + self.above.at(shift.above) ** 2
        if len(self.draws):
            each = [_joined(smooth, N, D, self.shift(N, D, columns, row)) for row in self.draws]
            variance = variance + np.var(each, axis=0)
        return found, np.sqrt(variance)

    def chance(self, N: Array, D: Array, columns: Mapping[str, Array]) -> Array | None:
        """The chance to diverge at points of shape (n,); None where no learning rate is given, or no rows show it."""
        if self.divergence is None or "lr" not in columns:
            return None
        return self.divergence.chance(np.log(N) - self.log_N, np.log(D) - self.log_D, columns["lr"])

    def best(self, column: str, N: Array, D: Array, given: Mapping[str, object]) -> "Best":
        """The best value of a setting at a point, with its interval.

        Args:
            column: the setting.
            N: parameters, shape (1,).
            D: tokens, shape (1,).
            given: values of the settings before it by column.

        Raises:
            BadInput: no such setting or column.
        """
        columns = self.columns(given, N)
        at = float(self.best_log(column, N, D, columns)[0])
        draws = np.array([self.best_log(column, N, D, columns, row)[0] for row in self.draws])
        interval = None
        if len(draws) > 1:
            low, middle, high = np.quantile(draws, [0.1, 0.5, 0.9])
            interval = float(np.exp(at + low - middle)), float(np.exp(at + high - middle))
        low, high = next(part.span for part in self.parts if part.column == column)
        value = float(np.exp(at))
        return Best(value=value, interval_80=interval, beyond=not low <= value <= high)

    def with_values(self, constants: Array, draws: Array) -> "Coordinates":
        """The same coordinates with these constants and resamples."""
        parts, at = [], 0
        for part in self.parts:
            here = slice(at, at + len(part.names))
            parts.append(replace(part, values=tuple(map(float, constants[here])), draws=draws[:, here]))
            at = here.stop
        return replace(self, parts=tuple(parts))


def _joined(law: LogLoss, N: Array, D: Array, shift: Shift) -> Array:
    inner = np.exp(law(N * np.exp(shift.dx), D * np.exp(shift.dz))) + shift.add
    return np.asarray(np.log(np.maximum(inner, 1e-9)) + shift.share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best value of a setting and its 80 % interval; `beyond` where it lies outside the values that were tried."""

    value: float
    interval_80: Interval | None
    beyond: bool = False
