"""Fit: the fitted `LossModel`. It predicts with intervals, allocates, and reads and writes law.json without refitting."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from families.units import BadInput, format_size, nearest

from ..files import sha256_bytes, sha256_file
from ..laws import (
    CONSTANTS,
    JUST_REPEATED,
    PUBLISHED_REPETITION,
    Allocation,
    Convention,
    Domain,
    Extrapolation,
    KaplanFrontier,
    LawReference,
    Prediction,
    Repetition,
    Settings,
    as_points,
    fresh_points,
    in_shape,
    resolve_point,
)
from ..runs import RunTable
from ..stats import HEAVY_TAILED_95, Z_80, Array, Interval
from .columns import columns_of
from .coordinates import Best, Coordinates
from .forms import EQUAL, LENGTH, FittedForm, LastValue, ResidualGP, Status
from .lawfile import CoordinatesRecord, FormRecord, LastValueRecord, LawFile, LocalRecord
from .uncertainty import SPENT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOREVER = 1e40  # parameters or tokens that leave nothing but the irreducible loss

SCAN_STEP = (
    0.5  # of log D, half the correction's length: a crossing that lies between two steps is no dip of its own
)

# Share of the draws' variance, before few runs widen them, that a size beyond the runs' adds for each span of theirs in log N,
# and the most of it: narrow windows of public tables (log e258).
BEYOND_SIZES, MOST_BEYOND_SIZES = 0.08, 0.5

WARNED_SPANS = 1.0  # of the runs' sizes in log N, beyond which a size is said to be far

UNTIED = 2.0  # decades beyond the data at which nothing holds the ridge where the slopes are the prior's (log e206)

SCAN_REACH = 4.0  # lengths around the fitted rows: beyond them the correction is below 3e-4 of itself

ROOT = 1e-14  # of log loss, or of log D in its own units: where the search for tokens ends

MOST_ROOT_STEPS = 200

HALVINGS = 100  # of log D between 1 and FOREVER tokens: to the last digit

GROWTH_STEP = 10.0  # factor of compute over which the exponent of N* is taken


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Fit:
    """Fitted law: weighted forms, a local correction, the verdict on them, and how wrong they are known to be.

    Args:
        forms: fitted forms, whose log losses are averaged by weight.
        domain: fitted ranges of N, D and C = 6·N·D.
        convention: parameters that N counts.
        noise: standard deviation of log loss between like runs.
        drift: standard deviation of log loss that one decade of compute beyond the data adds, from rollouts inside the data.
        status: verdict on the form with the greatest weight.
        runs: number of training runs behind the fit.
        rows: number of observations.
        detail: evidence behind a status other than OK.
        local: correction of log loss near the fitted rows.
        last: of a curve of one variable, the last value that predictions are drawn to.
        offset: standard deviation of log loss that the rows of one size share, which an unseen size adds.
        predicted: share of the draws' variance that predictions have; intervals of constants and optima have all of it.
        prior_share: of the slopes' prior variance, what the rows leave; its square is the share of the rest that predictions
            have far beyond the data, where nothing holds the ridge.
        nearby: `predicted` beside the data, from where it grows to all of it over a decade; None: the same at any distance.
        fitted_repetition: value of repeated tokens, where rows repeat theirs.
        fitted_coordinates: what else the loss depends on: settings, multipliers, terms.
        intervals: false where too few runs, or no resampling, leave predictions without intervals.
        eval_set: evaluation set of the losses.
        group: group of the runs.
        row_hashes: hash of each fitted observation (`Run.row_hash`); empty for more than MOST_HASHED rows.
        card: description of the fit, field to text.
        inputs: file name to SHA-256 of the files it was fitted on.
        created_at: time of the fit, as in its file.
        name: name of its file.
        file_sha256: hash of that file; empty for a fit in memory.
        data: the fitted rows; None for a law read from its file, which does not hold them.
        given: multipliers and terms that `at` has fixed, by their columns' names.
    """

    forms: tuple[FittedForm, ...]
    domain: Domain
    convention: Convention
    noise: float
    drift: float
    status: Status
    runs: int
    rows: int
    detail: str = ""
    local: ResidualGP = field(default_factory=ResidualGP.nothing)
    last: LastValue | None = None
    offset: float = 0.0
    predicted: float = 1.0
    prior_share: float = 0.0
    nearby: float | None = None
    fitted_repetition: Repetition | None = None
    fitted_coordinates: Coordinates | None = None
    intervals: bool = True
    eval_set: str = ""
    group: str = ""
    row_hashes: tuple[str, ...] = ()
    card: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    created_at: str = ""
    name: str = "law.json"
    file_sha256: str = ""
    data: RunTable | None = None
    given: Mapping[str, float | str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """The fit card, as a notebook shows it."""
        width = max(map(len, self.card), default=0) + 2
        return "\n".join(f"{name:<{width}}{text}" for name, text in self.card.items())

    @property
    def main_form(self) -> FittedForm:
        """The form with the greatest weight. Its law alone does not give the fit's prediction."""
        return max(self.forms, key=lambda form: form.weight)

    @property
    def variable(self) -> str:
        """What a law of one variable is of: "N", "D" or "C"; empty for a law of N and D."""
        return self.main_form.variable if self.main_form.curve else ""

    def point(
        self,
        N: float | None = None,
        D: float | None = None,
        *,
        compute: float | None = None,
        times: float = 1.0,
    ) -> tuple[float, float]:
        """N and D of a point of a law of one variable, where some of them are left out: those of the largest fitted row.

        Args:
            N: parameters.
            D: tokens.
            compute: FLOPs, in place of one of the two, or of both for a law of compute.
            times: a factor of the one variable, applied to its largest fitted value where nothing is given.

        Raises:
            BadInput: the law's own variable is not given and `times` is 1, or compute is given besides N and D.
        """
        top = {"N": self.domain.N[1], "D": self.domain.D[1]}
        if compute is not None:
            if N is not None and D is not None:
                raise BadInput("params, tokens and compute are given; two of them say all")
            if self.variable == "C" and N is None and D is None and self.domain.N[0] < top["N"]:
                both = math.sqrt(compute / (6 * top["N"] * top["D"]))
                return top["N"] * both, top["D"] * both
            if self.variable == "N":
                D = top["D"] if D is None else D
                return compute / (6 * D), D
            N = top["N"] if N is None else N
            return N, compute / (6 * N)
        apart = self.variable == "C" and self.domain.N[0] < top["N"]
        scale = (math.sqrt(times),) * 2 if apart else (times, 1.0) if self.variable == "N" else (1.0, times)
        return top["N"] * scale[0] if N is None else N, top["D"] * scale[1] if D is None else D

    @property
    def source(self) -> str:
        """Number of observations and runs."""
        return f"fitted on {self.rows} observations of {self.runs} runs"

    @property
    def sha256(self) -> str:
        """Hash of the law's file; of the file's text for a fit in memory."""
        return self.file_sha256 or sha256_bytes(self.document().dump().encode())

    @property
    def frontier(self) -> KaplanFrontier | None:
        """None: a fitted law is of N and D."""
        return None

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Columns besides N and D that the law depends on."""
        return () if self.fitted_coordinates is None else self.fitted_coordinates.names

    @property
    def warnings(self) -> tuple[str, ...]:
        """The verdict, where it is not OK."""
        if self.status is Status.OK:
            return ()
        return (f"{self.name} is doubtful ({self.status.value}): {self.detail or self.status.message}",)

    @property
    def repetition(self) -> Repetition:
        """Value of repeated tokens: fitted, else published."""
        return self.fitted_repetition or PUBLISHED_REPETITION

    @property
    def irreducible(self) -> float:
        """Loss that no size and no data go below."""
        return float(self.loss(FOREVER, FOREVER))

    @property
    def irreducible_interval_80(self) -> Interval | None:
        """80 % interval of `irreducible`, from the resampled forms."""
        draws = self._draw_log_losses(np.array([FOREVER]), np.array([FOREVER]))
        if not len(draws):
            return None
        return _exp(_centred(draws[:, 0], math.log(self.irreducible)))

    @property
    def reference(self) -> LawReference:
        """Identity of the law, for files that hold its predictions."""
        return LawReference(
            name=self.name,
            sha256=self.sha256,
            convention=self.convention,
            source=self.source,
            group=self.group,
            eval_set=self.eval_set,
            row_hashes=self.row_hashes,
        )

    def extrapolation(self, N: ArrayLike, D: ArrayLike) -> Extrapolation:
        """Extrapolation of the farthest of the points."""
        n, d, _ = as_points(N, D)
        return self.domain.extrapolation(n, d)

    def predict(
        self,
        N: ArrayLike | None = None,
        D: ArrayLike | None = None,
        *,
        params: ArrayLike | None = None,
        tokens: ArrayLike | None = None,
        family: str | None = None,
        unique_tokens: ArrayLike | None = None,
        convention: Convention | None = None,
        force: bool = False,
        own: Mapping[str, ArrayLike | str] | None = None,
        **settings: Unpack[Settings],
    ) -> Prediction:
        """Loss of a run with 80 % and 95 % intervals, in nats per token.

        Args:
            N: parameters in the law's convention, or `params`, or a published member's name as `family`.
            D: training tokens, or `tokens`.
            params: see N.
            tokens: see D.
            family: see N.
            unique_tokens: distinct tokens among D (default: all).
            convention: the caller's convention of N, checked against the law's.
            force: predict even more than 1,000 times outside the fitted domain.
            own: coordinates of the law by their columns' names, also the user's own columns.
            settings: the same of the columns that every law knows, such as lr=1e-3; what is left out is at its best, or at
                its reference.

        Raises:
            BadInput: another convention of N than the law's, a size that is not positive, a coordinate that the law does not
                have, or a point more than 1,000 times outside the fitted domain without `force`.
        """
        size, length = resolve_point(
            self.convention, N, D, params=params, tokens=tokens, family=family, convention=convention
        )
        n, d, shape = as_points(size, length)
        extrapolation = self.domain.extrapolation(n, d)
        extrapolation.check(force=force)
        decades = self._decades(n, d)
        fresh_n, fresh_d = fresh_points(self.repetition, n, d, unique_tokens, shape)
        log_loss, scatter, diverging = self._with_settings(
            fresh_n, fresh_d, {**(own or {}), **settings}, shape
        )
        interval_80 = interval_95 = None
        if self.intervals:
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
                deviation = np.hypot(self._deviation(fresh_n, fresh_d, decades), scatter)
                low_80, high_80, low_95, high_95 = (
                    in_shape(np.exp(self._bound(z, log_loss, deviation, diverging)), shape)
                    for z in (-Z_80, Z_80, -HEAVY_TAILED_95, HEAVY_TAILED_95)
                )
            if not all(np.isfinite(bound).all() for bound in (low_95, high_95)):
                raise BadInput("the law's draws give no finite interval here; fit it again (scaling fit)")
            interval_80, interval_95 = (low_80, high_80), (low_95, high_95)
        return Prediction(
            loss=in_shape(np.exp(self._middle(log_loss, scatter, diverging)), shape),
            interval_80=interval_80,
            interval_95=interval_95,
            extrapolation=extrapolation,
            N=in_shape(n, shape),
            D=in_shape(d, shape),
        )

    def loss(
        self,
        N: ArrayLike,
        D: ArrayLike,
        *,
        unique_tokens: ArrayLike | None = None,
        own: Mapping[str, ArrayLike | str] | None = None,
    ) -> Any:
        """Point prediction in nats per token without a check of the domain, elementwise: `predict(N, D, own=own).loss`.

        Args:
            N: parameters in the law's convention.
            D: training tokens.
            unique_tokens: distinct tokens among D (default: all).
            own: coordinates of the law by their columns' names.
        """
        n, d, shape = as_points(N, D)
        fresh = fresh_points(self.repetition, n, d, unique_tokens, shape)
        log_loss, scatter, diverging = self._with_settings(*fresh, own or {}, shape)
        return in_shape(np.exp(self._middle(log_loss, scatter, diverging)), shape)

    def at(self, **given: float | str) -> "Fit":
        """The same law where multipliers and terms have these values: what is asked of it holds there.

        Args:
            given: values by column, such as n_experts=8 or vocab_size=32768.

        Raises:
            BadInput: a column that is no multiplier or term of the law, or whose effect changes with scale.
        """
        fixed = frozenset() if self.fitted_coordinates is None else self.fitted_coordinates.scale_free
        for name in given:
            if name not in fixed:
                raise BadInput(f"{self.name} has no multiplier or term {name!r}; {nearest(name, fixed)}")
        return replace(self, given={**self.given, **given})

    def _constant_shift(self) -> tuple[float, float, float]:
        """Δ of log N and log D, and nats added, by the values that `at` has fixed."""
        if not self.given or self.fitted_coordinates is None:
            return 0.0, 0.0, 0.0
        one = np.ones(1)
        shift = self.fitted_coordinates.shift(one, one, self.fitted_coordinates.columns(self.given, one))
        return float(shift.dx[0]), float(shift.dz[0]), float(shift.add[0])

    def _with_settings(
        self, n: Array, d: Array, settings: Mapping[str, Any], shape: tuple[int, ...]
    ) -> tuple[Array, Array, Array | None]:
        """Log loss of flat points at these settings, what standard deviation they add, and the chance to diverge, if any."""
        given = {**self.given, **{name: value for name, value in settings.items() if value is not None}}
        if not given:
            return self._log_loss(n, d), np.zeros(len(n)), None
        if self.fitted_coordinates is None:
            raise BadInput(f"{next(iter(given))} is given, and {self.name} depends on N and D alone")
        flat = {name: np.broadcast_to(np.asarray(value), shape).ravel() for name, value in given.items()}
        columns = self.fitted_coordinates.columns(flat, n)
        log_loss, scatter = self.fitted_coordinates.log_loss(self._log_loss, self._smooth, n, d, columns)
        return log_loss, scatter, self.fitted_coordinates.chance(n, d, columns)

    def _middle(self, log_loss: Array, scatter: Array, diverging: Array | None) -> Array:
        """Log loss, and where a run may diverge the median of both outcomes."""
        return log_loss if diverging is None else self._bound(0.0, log_loss, scatter, diverging)

    def _bound(self, z: float, log_loss: Array, deviation: Array, diverging: Array | None) -> Array:
        """Log loss at z standard deviations, or at that quantile where a run may diverge."""
        if diverging is None or self.fitted_coordinates is None or self.fitted_coordinates.divergence is None:
            return np.asarray(log_loss + z * deviation)
        return self.fitted_coordinates.divergence.bound(z, diverging, log_loss, deviation)

    def best(self, setting: str, N: float, D: float, **given: Unpack[Settings]) -> Best:
        """The value of a setting, such as lr, at which the law's loss is least.

        Args:
            setting: its column.
            N: parameters in the law's convention.
            D: training tokens.
            given: values of the settings before it, such as batch_tokens; at their best where left out.

        Returns:
            The value with its 80 % interval, and whether it lies outside the values that were tried.

        Raises:
            BadInput: the law has no such setting, or no such coordinate is given.
        """
        n, d, _ = as_points(N, D)
        if self.fitted_coordinates is None:
            raise BadInput(f"{self.name} has no best {setting}: it depends on N and D alone")
        return self.fitted_coordinates.best(setting, n, d, given)

    def _smooth(self, n: Array, d: Array) -> Array:
        """Log loss of the forms together, without the local correction."""
        smooth = np.asarray(sum(form.weight * form.log_loss(n, d) for form in self.forms))
        return smooth if self.last is None else self.last.draw(smooth)

    def _log_loss(self, n: Array, d: Array) -> Array:
        return self._smooth(n, d) + self.local.correction(n, d)

    def _decades(self, n: Array, d: Array) -> Array:
        """Decades beyond the data: of compute, or of N and D together where that is more."""
        beyond = [
            np.maximum(np.log10(v / top), 0) for v, top in ((n, self.domain.N[1]), (d, self.domain.D[1]))
        ]
        return np.asarray(np.maximum(np.log10(6 * n * d / self.domain.C[1]), beyond[0] + beyond[1]))

    def narrow_sizes(self, N: float) -> str:
        """What widens an interval at a size that lies beyond the runs' by more than theirs span; empty at others.

        Args:
            N: parameters in the law's convention.
        """
        if self.variable or self.domain.sizes_beyond(N) <= WARNED_SPANS:
            return ""
        smallest, largest = self.domain.N
        return (
            f"N is {N / largest:.3g} times the largest of the runs, whose sizes span a factor of {largest / smallest:.2g}: "
            f"one run at N = {format_size(math.sqrt(N * largest))} would say how loss falls between"
        )

    def explain(
        self,
        N: float,
        D: float,
        *,
        unique_tokens: float | None = None,
        own: Mapping[str, ArrayLike | str] | None = None,
        **settings: Unpack[Settings],
    ) -> dict[str, float]:
        """Where the interval of one run comes from: half widths at 80 % as shares of its loss, by source.

        Each part is as wide as the interval would be if the others were none; squares of them add up to the square of the
        whole, which stands under "all" and is the half width of `predict` for the same question. "tuning" is what settings
        and other coordinates add.

        Args:
            N: parameters in the law's convention.
            D: training tokens.
            unique_tokens: distinct tokens among D (default: all).
            own: coordinates of the law by their columns' names, also the user's own columns.
            settings: the same of the columns that every law knows, as in `predict`.

        Raises:
            BadInput: a coordinate that the law does not have, or a value that it cannot take.
        """
        n, d, shape = as_points(N, D)
        fresh = fresh_points(self.repetition, n, d, unique_tokens, shape)
        log_loss, scatter, diverging = self._with_settings(*fresh, {**(own or {}), **settings}, shape)
        parts = {name: float(part[0]) for name, part in self.uncertainty(*fresh, self._decades(n, d)).items()}
        if self.fitted_coordinates is not None:
            parts["tuning"] = float(np.max(scatter) ** 2)
        if diverging is not None:
            others = sum(value for name, value in parts.items() if name != "tuning")
            whole = np.sqrt(others + scatter**2)
            low, high = (self._bound(z, log_loss, whole, diverging) for z in (-Z_80, Z_80))
            parts["tuning"] = max(float((high - low)[0] / (2 * Z_80)) ** 2 - others, 0.0)
        parts["all"] = sum(parts.values())
        return {name: Z_80 * math.sqrt(part) for name, part in parts.items()}

    @property
    def is_posterior(self) -> bool:
        """True where intervals come from a posterior of the constants, which alone knows the offset of a size."""
        return self.offset > 0

    def uncertainty(self, n: Array, d: Array, decades: Array) -> dict[str, Array]:
        """Variances of log loss of one run, by source, each of shape (n,).

        Run noise; the offset of a size that was not fitted; constants (the posterior, or resampled runs); form (spread
        between forms); drift with distance, as far as it exceeds the last two: they are two images of one error.

        Args:
            n: parameters.
            d: tokens.
            decades: of compute beyond the data.
        """
        centre = self._smooth(n, d)
        form = np.asarray(sum(part.weight * (part.log_loss(n, d) - centre) ** 2 for part in self.forms))
        draws = sum(part.weight * part.log_losses(n, d) for part in self.forms if len(part.draws))
        share = self._share(n, decades)
        constants = share * np.var(draws, axis=0) if np.ndim(draws) else np.zeros(len(n))
        seen = np.abs(np.log(n)[:, None] - self.local.log_N) < EQUAL
        return {
            "run noise": np.full(len(n), self.noise**2),
            "unseen size": np.where(seen.any(axis=1), 0.0, self.offset**2),
            "constants": np.asarray(constants),
            "form": form,
            "drift with distance": np.maximum((self.drift * decades) ** 2 - constants - form, 0.0),
        }

    def _share(self, n: Array, decades: Array) -> Array:
        """Share of the draws' variance that a prediction has, shape (n,).

        Few runs widen it with distance; the prior where nothing holds the ridge; and a size beyond runs of narrow sizes.
        """
        untied = self.prior_share**4 * np.minimum(decades / UNTIED, 1)
        if self.nearby is None:
            return np.asarray(self.predicted + (1 - self.predicted) * untied)
        along = self.nearby + (self.predicted - self.nearby) * np.minimum(decades, 1) ** 2
        unwidened = max(self.runs - SPENT, 1) / self.runs
        beyond = np.minimum(BEYOND_SIZES * unwidened * self.domain.sizes_beyond(n), MOST_BEYOND_SIZES)
        return np.asarray(np.minimum(along + (1 - along) * untied + beyond, 1))

    def _deviation(self, n: Array, d: Array, decades: Array) -> Array:
        """Standard deviation of log loss: the root of the sum of its parts."""
        return np.asarray(np.sqrt(sum(self.uncertainty(n, d, decades).values())))

    def _draw_log_losses(self, n: Array, d: Array) -> Array:
        """Log loss of the combined forms for each draw; empty without draws in every form."""
        if not all(len(form.draws) for form in self.forms):
            return np.empty((0, 1))
        return np.asarray(sum(form.weight * form.log_losses(n, d) for form in self.forms))

    def allocate(self, C: float, *, flops_per_param_token: float = 6.0, force: bool = False) -> Allocation:
        """The N and D that minimise the forms' loss at C = k·N·D, with 80 % intervals, and the loss predicted there.

        The local correction moves no optimum: residuals of single runs say nothing about the best size.

        Args:
            C: training FLOPs.
            flops_per_param_token: k, by which C counts.
            force: allocate even more than 1,000 times beyond the largest fitted compute.

        Raises:
            BadInput: C is not positive or out of reach, or a form has no optimum.
        """
        self.domain.check_compute(C, force=True)
        self.domain.check_compute(C * 6 / flops_per_param_token, force=force)
        product = C / flops_per_param_token
        dx, dz, _ = self._constant_shift()
        effective = product * math.exp(dx + dz)
        log_N = self._log_optimum(effective) - dx
        N = math.exp(log_N)
        D = product / N
        predicted = self.predict(N, D, force=True)
        sizes = _centred(self._log_optima(effective) - dx, log_N)
        N_interval = None if sizes is None else _exp(sizes)
        return Allocation(
            C=C,
            N=N,
            D=D,
            loss=predicted.loss,
            N_interval_80=N_interval,
            D_interval_80=None if N_interval is None else (product / N_interval[1], product / N_interval[0]),
            loss_interval_80=predicted.interval_80,
        )

    def optimum_exponent(self, C: float, level: float = 0.8) -> tuple[float, Interval | None]:
        """The a of N* ∝ C^a over the decade of compute up to C, and its interval at a level.

        Raises:
            BadInput: a form has no optimum.
        """
        products = (C / 6, C / 6 / GROWTH_STEP)
        scale = math.log(GROWTH_STEP)
        high, low = (self._log_optimum(product) for product in products)
        exponent = (high - low) / scale
        highs, lows = (self._log_optima(product) for product in products)
        return exponent, _centred((highs - lows) / scale, exponent, level)

    def _log_optimum(self, product: float) -> float:
        """Log N* of the smooth law at N·D = product: closed form for one form, else golden section between the forms'."""
        logs = [math.log(self._split(form, product).N) for form in self.forms]
        if len(logs) == 1:
            return logs[0]

        def log_loss(log_N: Array) -> Array:
            return self._smooth(np.exp(log_N), product / np.exp(log_N))

        return float(_golden(log_loss, np.array([min(logs)]), np.array([max(logs)]))[0])

    def _log_optima(self, product: float) -> Array:
        """Log N* of each draw of the combined forms: shape (k,); not finite where a draw has no optimum."""
        if not all(len(form.draws) for form in self.forms):
            return np.empty(0)
        logs = np.stack([form.log_optima(product) for form in self.forms])
        if len(self.forms) == 1:
            return np.asarray(logs[0])
        usable = (np.abs(logs) < 300).all(
            axis=0
        )  # none but a draw without a sensible optimum lies beyond e^300
        low, high = (np.where(usable, bound, 0.0) for bound in (logs.min(axis=0), logs.max(axis=0)))

        def log_loss(log_N: Array) -> Array:
            n = np.exp(log_N)[:, None]
            return self._draw_log_losses(n, product / n)[:, 0]

        return np.where(usable, _golden(log_loss, low, high), np.nan)

    def _split(self, form: FittedForm, product: float) -> Allocation:
        if form.variable != "ND":
            raise BadInput(
                f"the form {form.name} depends on one variable, so no split of a budget is optimal"
            )
        return form.law.allocate(product, flops_per_param_token=1.0)

    def interval(self, constant: str, level: float = 0.8) -> Interval | None:
        """Interval of a constant, or of an exponent of the compute-optimal sizes.

        The constants are those of `main_form`. The exponents a of N* ∝ C^a and b of D* ∝ C^b (Hoffmann et al. 2022, table 2)
        are those of the prediction, over the decade of compute beyond the data.

        Args:
            constant: "E", "A", "B", "alpha", "beta" or "gamma"; "a" or "b".
            level: probability that the interval covers, above 0 and below 1.

        Returns:
            The lower and the upper bound, from resamples of whole runs; None for a constant that the form fixes, and for
            a fit without resamples.

        Raises:
            BadInput: no such constant, a level out of range, or an exponent of a law without an optimum.
        """
        if not 0 < level < 1:
            raise BadInput(f"level is {level:g}; it must be above 0 and below 1, such as 0.8")
        if constant in ("a", "b"):
            exponent = self.optimum_exponent(GROWTH_STEP * self.domain.C[1], level)[1]
            return exponent if constant == "a" or exponent is None else (1 - exponent[1], 1 - exponent[0])
        if constant not in CONSTANTS:
            raise BadInput(f"constant is {constant!r}; {nearest(constant, (*CONSTANTS, 'a', 'b'))}")
        form = self.main_form
        draws = form.draws[:, CONSTANTS.index(constant)]
        value = getattr(form.law, constant)
        if constant in ("E", "A", "B") and value > 0:  # scale parameters: the interval is of the logarithm
            positive = np.log(draws[draws > 0])
            bounds = _centred(positive, math.log(value), level)
            return None if bounds is None else _exp(bounds)
        return _centred(draws, value, level)

    @property
    def residuals(self) -> Array:
        """Relative errors of the fit on its own rows, actual/predicted − 1 of the loss: shape (rows,), in their order.

        Positive where a run came out worse than predicted.

        Raises:
            BadInput: the law was read from a file, which does not hold its runs.
        """
        table = self._fitted_rows()
        unique = None if self.fitted_repetition is None else table.U
        settings = columns_of(self.fitted_coordinates, table)
        return np.asarray(table.L / self.loss(table.N, table.D, unique_tokens=unique, own=settings) - 1)

    def plot(self, kind: str = "surface") -> "Figure":
        """Draw a figure of the fit.

        Args:
            kind: "surface" (contours of loss over N and D), "curve" (a law of one variable), "isoflops",
                "frontier" (loss and size against compute),
                "residuals" (of the forms, without the local correction), "profile" (likelihood of the exponents),
                "backtest" (rollout errors by form) or "valley" (loss against lr, batch and other settings).

        Returns:
            A matplotlib figure; `savefig` writes it.

        Raises:
            BadInput: no such figure, or the law was read from a file, which does not hold its runs.
        """
        figure: Figure = import_module("plots.notebook").plot_fit(self, self._fitted_rows(), kind)
        return figure

    def _fitted_rows(self) -> RunTable:
        if self.data is None:
            raise BadInput(
                f"{self.name} does not hold the runs it was fitted on; fit them again, or open their study"
            )
        return self.data

    def tokens_for(self, N: ArrayLike, loss: float, *, unique_tokens: float | None = None) -> Array:
        """Fewest tokens at which models of N parameters are predicted to reach a loss, elementwise; infinite where none do.

        Args:
            N: parameters in the law's convention.
            loss: nats per token.
            unique_tokens: distinct tokens there are (default: as many as are needed).
        """
        n, _, shape = as_points(N, 1.0)
        if self.given:
            dx, dz, add = self._constant_shift()
            if (
                unique_tokens is not None
            ):  # what repeated tokens are worth depends on N before it is multiplied
                return self._bisected(n, loss, float(unique_tokens)).reshape(shape)
            found = replace(self, given={}).tokens_for(n * math.exp(dx), loss - add)
            return np.asarray(found * math.exp(-dz)).reshape(shape)
        if loss <= 0:
            return np.full(shape, np.inf)
        if unique_tokens is None:
            return self._first_crossing(n, math.log(loss), 1.0, FOREVER).reshape(shape)
        unique = float(unique_tokens)
        tokens = self._first_crossing(n, math.log(loss), 1.0, unique)
        left = np.flatnonzero(~np.isfinite(tokens))
        if len(left):
            U = np.full(len(left), unique)
            repeating, least = self.repetition.effective(n[left], U * JUST_REPEATED, U)
            most = unique * (1 + self.repetition.R_D)
            worth = self._first_crossing(repeating, math.log(loss), float(least[0]), most)
            tokens[left] = np.maximum(self.repetition.tokens_worth(worth, U), unique * JUST_REPEATED)
        return tokens.reshape(shape)

    def _bisected(self, n: Array, loss: float, unique: float) -> Array:
        """Tokens at which the predicted loss falls to `loss`, by halving log D: shape (k,), infinite where it never does."""
        low, high = np.zeros(len(n)), np.full(len(n), math.log(FOREVER))
        reached = self.loss(n, np.exp(high), unique_tokens=unique) <= loss
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            above = self.loss(n, np.exp(middle), unique_tokens=unique) > loss
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return np.where(reached, np.exp(high), np.inf)

    def _first_crossing(self, n: Array, log_loss: float, least: float, most: float) -> Array:
        """Fewest fresh tokens between `least` and `most` at which the predicted log loss is at most `log_loss`.

        The law falls with D, but the local correction may rise: log D is scanned where it does, and searched between two
        steps. Infinite where the loss is not reached.
        """
        sizes, at_size = np.unique(n, return_inverse=True)
        ends = np.array([math.log(least), math.log(most)])
        scanned, nodes = self._scan(np.log(sizes), *ends)
        tokens = np.full(len(sizes), np.inf)
        for rows, log_D in ((np.flatnonzero(scanned), nodes), (np.flatnonzero(~scanned), ends)):
            if not len(rows):
                continue
            excess = self._log_loss_grid(sizes[rows], np.exp(log_D)) - log_loss
            reached, at = (excess <= 0).any(axis=1), (excess <= 0).argmax(axis=1)
            tokens[rows[reached & (at == 0)]] = least
            inner = np.flatnonzero(reached & (at > 0))
            if len(inner):
                at, rows = at[inner], rows[inner]
                roots = _root(
                    lambda z, active, rows=rows: (  # type: ignore[misc]  # no type for a lambda with a default
                        self._log_loss(sizes[rows[active]], np.exp(z)) - log_loss
                    ),
                    (log_D[at - 1], log_D[at]),
                    (excess[inner, at - 1], excess[inner, at]),
                )
                tokens[rows] = np.exp(roots)
        return np.asarray(tokens[at_size.ravel()])

    def _scan(self, log_N: Array, first: float, last: float) -> tuple[NDArray[np.bool_], Array]:
        """Sizes near enough to the fitted rows for the correction to bend their loss, and the log D to scan for them."""
        x, z = self.local.log_N, self.local.log_D
        if not len(x):
            return np.zeros(len(log_N), dtype=np.bool_), np.empty(0)
        reach = SCAN_REACH * LENGTH
        low, high = (min(max(edge, first), last) for edge in (z.min() - reach, z.max() + reach))
        inner = np.linspace(low, high, max(2, math.ceil((high - low) / SCAN_STEP) + 1))
        near = (log_N > x.min() - reach) & (log_N < x.max() + reach)
        return near, np.unique([first, *inner, last])

    def _log_loss_grid(self, n: Array, d: Array) -> Array:
        """Predicted log loss at every pair of n (k,) and d (m,): shape (k, m)."""
        return self._smooth(n[:, None], d[None]) + self.local.correction_grid(n, d)

    def document(self) -> LawFile:
        """The fit as law.json."""
        shared = set(LawFile.model_fields) & set(type(self).__dataclass_fields__)
        return LawFile(
            **{name: getattr(self, name) for name in shared - {"forms", "local", "last"}},
            forms=tuple(map(FormRecord.of, self.forms)),
            local=LocalRecord.of(self.local),
            last=None
            if self.last is None
            else LastValueRecord(log_loss=self.last.log_loss, variance=self.last.variance),
            repetition=self.fitted_repetition,
            coordinates=None
            if self.fitted_coordinates is None
            else CoordinatesRecord.of(self.fitted_coordinates),
        )

    def save(self, path: str | PathLike[str]) -> None:
        """Write law.json, whole or not at all.

        Args:
            path: the file; one that is there is replaced.

        Raises:
            BadInput: the folder cannot be written.
        """
        self.document().write(Path(path))


def load_law(path: str | PathLike[str]) -> Fit:
    """Read a fitted law from its file.

    Args:
        path: law.json, as `Fit.save` and `scaling fit` write it.

    Returns:
        The fit, which predicts as it did before; it lacks the runs behind it.

    Raises:
        BadInput: no such file, not a law file, or one of a newer version.
    """
    file = Path(path)
    document = LawFile.read(file)
    shared = set(LawFile.model_fields) & set(Fit.__dataclass_fields__)
    values = {name: getattr(document, name) for name in shared}
    values |= {
        "forms": tuple(form.fitted() for form in document.forms),
        "local": document.local.fitted(),
        "last": None if document.last is None else document.last.fitted(),
        "fitted_repetition": document.repetition,
        "fitted_coordinates": None if document.coordinates is None else document.coordinates.fitted(),
        "name": file.name,
        "file_sha256": sha256_file(file),
    }
    return Fit(**values)


def _centred(draws: Array, value: float, level: float = 0.8) -> Interval | None:
    """Interval at a level: the draws' quantiles, moved so that their median is the estimate; None without draws that vary.

    Resampled laws bend towards few runs, so their median may lie off the estimate by more than their spread.
    """
    draws = draws[np.isfinite(draws)]
    if len(draws) < 2 or np.ptp(draws) == 0:
        return None
    low, middle, high = np.quantile(draws, [(1 - level) / 2, 0.5, (1 + level) / 2])
    return float(value + low - middle), float(value + high - middle)


def _exp(bounds: Interval | None) -> Interval | None:
    return None if bounds is None else (math.exp(bounds[0]), math.exp(bounds[1]))


def _golden(f: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """The minimum of each unimodal f between low and high, to 1e-9: shape (k,)."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = f(left), f(right)
    while (high - low).max() > 1e-9:
        lower = at_left < at_right
        low, high = np.where(lower, low, left), np.where(lower, right, high)
        kept, at_kept = np.where(lower, left, right), np.where(lower, at_left, at_right)
        new = np.where(lower, high - ratio * (high - low), low + ratio * (high - low))
        at_new = f(new)
        left, right = np.where(lower, new, kept), np.where(lower, kept, new)
        at_left, at_right = np.where(lower, at_new, at_kept), np.where(lower, at_kept, at_new)
    return np.asarray((low + high) / 2)


def _root(
    f: Callable[[Array, NDArray[np.intp]], Array], bracket: tuple[Array, Array], values: tuple[Array, Array]
) -> Array:
    """Roots between bracket[0], where f > 0, and bracket[1], where f <= 0: regula falsi with Illinois weights, shape (k,).

    f takes points and the indices of the problems they belong to; `values` are f's at the bracket's ends.
    """
    low, high, at_low, at_high = (np.array(part) for part in (*bracket, *values))
    side = np.zeros(len(low))
    active = np.arange(len(low))
    for step in range(MOST_ROOT_STEPS):
        lo, hi, f_lo, f_hi = low[active], high[active], at_low[active], at_high[active]
        middle = (lo * f_hi - hi * f_lo) / (f_hi - f_lo)
        if step % 8 == 7:  # against a crawl along a flat law
            middle = (lo + hi) / 2
        value = f(middle, active)
        above = value > 0
        moved = np.where(above, 1.0, -1.0)
        again = side[active] == moved  # the end that stays twice loses half its weight
        low[active] = np.where(above, middle, lo)
        at_low[active] = np.where(above, value, np.where(again, f_lo / 2, f_lo))
        high[active] = np.where(above, hi, middle)
        at_high[active] = np.where(above, np.where(again, f_hi / 2, f_hi), value)
        side[active] = moved
        done = np.abs(value) <= ROOT
        high[active[done]] = middle[done]
        active = active[~done & (high[active] - low[active] > ROOT * np.abs(high[active]))]
        if not len(active):
            break
    return high
