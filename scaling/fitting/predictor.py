"""What a fit answers without refitting: a loss with intervals, an allocation, how far it reaches. Numpy only."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from families.units import BadInput

from ..laws import Allocation, Convention, Domain, Extrapolation, Law
from ..stats import HEAVY_TAILED_95, Z_80, Array, StatusEnum
from .repetition import PUBLISHED_REPETITION, Repetition

# MERGED DOCSTRINGS
# What the rows near a point know beyond the law: smoothed residuals, which fade with distance.
LENGTH = 1.0  # in log N and log D: the correction fades over a factor of e

NEARBY = 1.5  # standard deviation of the smooth part, in units of the residuals' own

SAME_SIZE = 0.7  # and of what rows of one N share: width, depth, learning rate

EQUAL = 5e-3  # log N within which two rows have the same size

MOST_CELLS = 250  # rows beyond this number are averaged in cells first

CELL = 0.4  # width of such a cell in log N and log D

ROBUST_STEPS = 3

OUTLIER = 2.0  # residuals past twice the noise count less (Student's t)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualGP:
    """A correction of log loss: kriging of the law's residuals, shape (m,) each. Empty arrays correct nothing."""

    x: Array
    z: Array
    coefficient: Array

    @classmethod
    def nothing(cls) -> "ResidualGP":
        """No correction."""
        return cls(x=np.empty(0), z=np.empty(0), coefficient=np.empty(0))

    @classmethod
    def of(cls, N: Array, D: Array, residuals: Array) -> "ResidualGP":
        """Smooth the residuals (log actual − log fitted) over log N and log D.

        The mean of a Gaussian process with unit noise, a squared-exponential part and an offset for each N, rows that
        lie far off weighed down as by Student's t.
        """
        scale = float(np.median(np.abs(residuals)) / 0.6745)
        if scale < 1e-7:
            return cls.nothing()
        x, z, scaled, count = _cells(np.log(N), np.log(D), residuals / scale)
        kernel = _kernel(x, z, x, z)
        weight: Array = np.ones(len(x))
        coefficient: Array = np.zeros(len(x))
        for _ in range(ROBUST_STEPS):
            coefficient = np.asarray(
                np.linalg.solve(kernel + np.diag(1 / (weight * count)), scaled), dtype=np.float64
            )
            off = (scaled - kernel @ coefficient) / OUTLIER
            weight = np.asarray(1 / (1 + off**2), dtype=np.float64)
        return cls(x=x, z=z, coefficient=scale * coefficient)

    def correction(self, N: Array, D: Array) -> Array:
        """What to add to log loss at each point, shape (n,)."""
        if not len(self.x):
            return np.zeros(len(N))
        return np.asarray(_kernel(np.log(N), np.log(D), self.x, self.z) @ self.coefficient)


def _kernel(x: Array, z: Array, x0: Array, z0: Array) -> Array:
    dx = x[:, None] - x0[None]
    near = np.exp(-0.5 * (dx**2 + (z[:, None] - z0[None]) ** 2) / LENGTH**2)
    return np.asarray(NEARBY**2 * near + SAME_SIZE**2 * (np.abs(dx) < EQUAL))


def _cells(x: Array, z: Array, r: Array) -> tuple[Array, Array, Array, Array]:
    """Rows averaged in cells where they are many, with how many rows each holds."""
    if len(x) <= MOST_CELLS:
        return x, z, r, np.ones(len(x))
    keys = np.column_stack([np.round(x / CELL), np.round(z / CELL)])
    _, inverse, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.ravel()
    mean = [np.bincount(inverse, values) / count for values in (x, z, r)]
    return mean[0], mean[1], mean[2], count.astype(np.float64)


SHOWN = 12  # points of a prediction that a notebook shows


class Status(StatusEnum):
    """The verdict on a fit. Each member carries its message; only OK is free of doubt."""

    OK = "ok", "several starts agree and the gradient is zero"
    NOT_CONVERGED = (
        "not_converged",
        "the starts do not agree on one optimum, or the gradient is not zero: do not use it",
    )
    AT_BOUND = "at_bound", "a constant ran to the edge of what has meaning; another form may fit these data"
    ILL_CONDITIONED = (
        "ill_conditioned",
        "the data do not tell the constants apart: predictions only, no allocation",
    )
    TOO_FEW = "too_few", "fewer distinct points than constants; the prior carries the fit"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Prediction:
    """Loss in nats per token with intervals for one run's loss: floats for one point, arrays for many.

    An interval is None where the data allow none (fewer than 4 runs). `extrapolation` is of the farthest point.
    """

    loss: Any
    interval_80: tuple[Any, Any] | None
    interval_95: tuple[Any, Any] | None
    extrapolation: Extrapolation

    def __repr__(self) -> str:
        """Losses with their intervals, a line each, as a notebook shows them."""
        losses, lines = np.ravel(self.loss), []
        for i, loss in enumerate(losses[:SHOWN].tolist()):
            text = f"loss {loss:.4f}, perplexity {math.exp(loss):.4g}"
            for level, interval in ((80, self.interval_80), (95, self.interval_95)):
                if interval is not None:
                    low, high = (float(np.ravel(edge)[i]) for edge in interval)
                    text += f", {level} % {low:.4f} to {high:.4f}"
            lines.append(text)
        if len(losses) > SHOWN:
            lines.append(f"… {len(losses)} losses in all")
        return "\n".join([*lines, *filter(None, [self.extrapolation.message])])

    @property
    def perplexity(self) -> Any:
        """exp(loss), per token."""
        value = np.exp(self.loss)
        return value if np.ndim(value) else float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedForm:
    """One form's fit: its law, its verdict and its place in the combined prediction.

    variable "C" means that the law's N is 6·N·D. draws are resampled constants, shape (k, 6), in the order of CONSTANTS;
    rollout_error is the rms log error of predictions ten
    times beyond what they were fitted on, inside these data; None where there were too few rows to tell.
    """

    name: str
    law: Law
    status: Status
    objective: float
    weight: float
    draws: Array
    variable: str = "ND"
    rollout_error: float | None = None

    def log_loss(self, N: Array, D: Array) -> Array:
        """log L at each point, shape (n,)."""
        return np.asarray(np.log(self.law.loss(6 * N * D if self.variable == "C" else N, D)))

    def log_losses(self, N: Array, D: Array) -> Array:
        """log L of each draw at each point, shape (k, n)."""
        E, A, B, alpha, beta, gamma = (self.draws[:, i, None] for i in range(6))
        n = 6 * N * D if self.variable == "C" else N
        with np.errstate(over="ignore", under="ignore"):
            inner = np.exp(_log(A) - alpha * np.log(n)) + np.exp(_log(B) - beta * np.log(D))
            return np.asarray(np.log(E + inner**gamma))


def _log(value: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.log(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """Weighted forms, a local correction, and how wrong they are known to be.

    noise: standard deviation of log loss between like runs. drift: standard deviation of log loss that one factor of ten
    in compute beyond the data adds, from rollouts inside the data. intervals is false under 4 runs.
    """

    forms: tuple[FittedForm, ...]
    domain: Domain
    convention: Convention
    noise: float
    drift: float
    local: ResidualGP = field(default_factory=ResidualGP.nothing)
    repetition: Repetition | None = None  # fitted where rows repeat their tokens
    intervals: bool = True
    eval_set: str = ""
    group: str = ""

    @property
    def law(self) -> Law:
        """The law of the form with the greatest weight."""
        return self._main.law

    @property
    def _main(self) -> FittedForm:
        return max(self.forms, key=lambda form: form.weight)

    def extrapolation(self, N: ArrayLike, D: ArrayLike) -> Extrapolation:
        """How far the farthest of the points lies outside the fitted domain."""
        return self.domain.reach(*_points(N, D))

    def predict(
        self,
        N: ArrayLike,
        D: ArrayLike,
        *,
        unique_tokens: ArrayLike | None = None,
        convention: Convention | None = None,
        force: bool = False,
    ) -> Prediction:
        """The loss of a run of N parameters and D tokens, of which `unique_tokens` are distinct (default: all).

        Raises:
            BadInput: another convention of N than the law's, a size that is not positive, or a point more
                than 1,000 times beyond the fitted data without `force`.
        """
        if convention is not None and convention != self.convention:
            raise BadInput(
                f"convention is {convention!r}; this law was fitted on {self.convention!r} parameters"
            )
        n, d = _points(N, D)
        reach = self.extrapolation(n, d)
        self.domain.check(reach, force=force)
        decades = self._decades(n, d)
        shape = np.broadcast_shapes(np.shape(N), np.shape(D))
        if unique_tokens is not None:
            repetition = self.repetition or PUBLISHED_REPETITION
            n, d = repetition.effective(n, d, _points(unique_tokens, n)[0])
        log_loss = self._log_loss(n, d) + self.local.correction(n, d)
        loss = _like(np.exp(log_loss), shape)
        if not self.intervals:
            return Prediction(loss=loss, interval_80=None, interval_95=None, extrapolation=reach)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
            deviation = self._deviation(n, d, decades)
            low_80, high_80, low_95, high_95 = (
                _like(np.exp(log_loss + z * deviation), shape)
                for z in (-Z_80, Z_80, -HEAVY_TAILED_95, HEAVY_TAILED_95)
            )
        if not all(np.isfinite(bound).all() for bound in (low_95, high_95)):
            raise BadInput("the law's draws give no finite interval here; fit it again (scaling fit)")
        return Prediction(
            loss=loss, interval_80=(low_80, high_80), interval_95=(low_95, high_95), extrapolation=reach
        )

    def _decades(self, n: Array, d: Array) -> Array:
        """How far beyond the data, in factors of ten: of compute, or of N and D together where that is more."""
        beyond = [
            np.maximum(np.log10(v / top), 0) for v, top in ((n, self.domain.N[1]), (d, self.domain.D[1]))
        ]
        return np.asarray(np.maximum(np.log10(6 * n * d / self.domain.C[1]), beyond[0] + beyond[1]))

    def _deviation(self, n: Array, d: Array, decades: Array) -> Array:
        """Standard deviation of log loss: noise of one run, and the larger of resampling with the spread of forms
        and the drift of that many decades.
        """
        centre = self._log_loss(n, d)
        spread = sum(form.weight * (form.log_loss(n, d) - centre) ** 2 for form in self.forms)
        draws = sum(form.weight * form.log_losses(n, d) for form in self.forms if len(form.draws))
        resampled = np.var(draws, axis=0) if np.ndim(draws) else 0.0
        return np.asarray(
            np.sqrt(self.noise**2 + np.maximum(resampled + spread, (self.drift * decades) ** 2))
        )

    def _log_loss(self, n: Array, d: Array) -> Array:
        return np.asarray(sum(form.weight * form.log_loss(n, d) for form in self.forms))

    def allocate(self, C: float, *, flops_per_param_token: float = 6.0, force: bool = False) -> Allocation:
        """The N and D that minimise the forms' loss at C = k·N·D: closed form for one form, else golden section.

        The local correction stays out: residuals of single runs must not move an optimum.

        Raises:
            BadInput: C is not positive or out of reach, or a form has no optimum.
        """
        if not C > 0 or not math.isfinite(C):
            raise BadInput(f"compute must be positive, got {C:g} FLOPs")
        factor = C * 6 / flops_per_param_token / self.domain.C[1]
        self.domain.check(Extrapolation(compute_factor=factor, N_factor=1.0, D_factor=1.0), force=force)
        optima = [
            form.law.allocate(C, flops_per_param_token=flops_per_param_token) for form in self._two_sided()
        ]
        if len(optima) == 1:
            return optima[0]
        product = C / flops_per_param_token
        low, high = (f(math.log(optimum.N) for optimum in optima) for f in (min, max))
        log_N = _golden(lambda x: float(self._log_loss(np.exp([x]), product / np.exp([x]))[0]), low, high)
        N = math.exp(log_N)
        return Allocation(
            C=C,
            N=N,
            D=product / N,
            loss=float(np.exp(self._log_loss(np.array([N]), np.array([product / N]))[0])),
        )

    def _two_sided(self) -> tuple[FittedForm, ...]:
        for form in self.forms:
            if form.variable != "ND":
                raise BadInput(
                    f"the form {form.name} depends on one variable, so no split of a budget is optimal"
                )
        return self.forms

    def optimum_draws(self, C: float, *, flops_per_param_token: float = 6.0) -> Array:
        """log N* of each draw at C, forms combined by weight: shape (k,). Empty without draws."""
        total = np.zeros(max(len(form.draws) for form in self.forms))
        for form in self._two_sided():
            if not len(form.draws):
                return np.empty(0)
            _, A, B, alpha, beta, _ = form.draws.T
            with np.errstate(divide="ignore", invalid="ignore"):
                log_g = np.log(alpha * A / (beta * B)) / (alpha + beta)
                total = total + form.weight * (
                    log_g + beta / (alpha + beta) * math.log(C / flops_per_param_token)
                )
        return np.asarray(total[np.isfinite(total)])


def _golden(f: Any, low: float, high: float) -> float:
    """The minimum of a unimodal f between low and high, to 1e-9."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = f(left), f(right)
    while high - low > 1e-9:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = f(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = f(right)
    return (low + high) / 2


def _points(N: ArrayLike, D: ArrayLike) -> tuple[Array, Array]:
    n, d = np.broadcast_arrays(np.asarray(N, dtype=np.float64), np.asarray(D, dtype=np.float64))
    for name, values in (("N", n), ("D", d)):
        if not (np.isfinite(values) & (values > 0)).all():
            raise BadInput(
                f"{name} is {float(values[~(values > 0)].flat[0]) if (~(values > 0)).any() else math.inf:g}; "
                "it must be positive and finite"
            )
    return n.ravel(), d.ravel()


def _like(values: Array, shape: tuple[int, ...]) -> Any:
    return values.reshape(shape) if shape else float(values[0])
