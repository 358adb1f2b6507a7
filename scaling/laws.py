"""Scaling laws: the general form, and the `LossModel` protocol that every law answers.

Chinchilla's and Kaplan's forms are restrictions of one general `Law`. A law fitted on own runs is `fitting.predictor.Fit`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict, Unpack, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from families import accounting, member
from families.accounting import Convention as Convention  # re-exported: laws state their convention
from families.units import BadInput, format_size

from .files import Record
from .stats import Array, format_loss, perplexity

PARAMS_FIELD: dict[Convention, str] = {
    "total": "params",
    "non_embedding": "params_non_embedding",
    "active": "params_active",
}

COUNTED: dict[Convention, str] = {
    "total": "parameters",
    "non_embedding": "non-embedding parameters",
    "active": "active parameters",
}


CONSTANTS = ("E", "A", "B", "alpha", "beta", "gamma")

LEAST_SPAN = 0.3  # of log N: sizes nearer to each other than a third are as good as one

LARGEST_LOG = 300.0  # of N and D: far beyond any size, and within what a float holds
LARGEST = 1e100  # N and D of a question: 6·N·D and its powers stay within what a float holds

MAX_EXTRAPOLATION = 1e3  # times beyond the fitted N, D or compute, from where on a prediction is refused

TOKENS_PER_PARAM = 20.0  # U tokens suffice for U/20 parameters (Hoffmann et al. 2022, approach 3)

SHOWN = 12  # points of a prediction that a notebook shows

_EDGE = 1 + 1e-9

_OUTSIDE = 1.005  # a smaller factor is 1 in the three digits that are printed

JUST_REPEATED = 1 + 2e-9  # of the distinct tokens: from where on tokens count as repeated


class Sized(Protocol):
    """A record with both counts of its parameters, such as a run or a planned member."""

    @property
    def params(self) -> float | None:
        """All parameters."""

    @property
    def params_non_embedding(self) -> float | None:
        """Parameters without token and position embeddings."""


def n_params(sized: Sized, convention: Convention, name: str = "the record") -> float:
    """N of a record in a convention.

    Raises:
        BadInput: the record does not state it; `name` stands in the message.
    """
    field = PARAMS_FIELD[convention]
    size = getattr(sized, field, None)
    if size is None:
        raise BadInput(f"{name} has no {field}, which the convention {convention!r} counts")
    return float(size)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Allocation:
    """Compute-optimal split of C FLOPs into N parameters and D tokens, and the loss it reaches, in nats per token.

    Intervals are 80 %, None where the law has none; that of `loss` is for one run.
    """

    C: float
    N: float
    D: float
    loss: float
    N_interval_80: tuple[float, float] | None = None
    D_interval_80: tuple[float, float] | None = None
    loss_interval_80: tuple[float, float] | None = None

    def __repr__(self) -> str:
        """The allocation as a notebook shows it."""
        sizes = f"N {format_size(self.N)}, D {format_size(self.D)}"
        text = f"{format_size(self.C)} FLOPs: {sizes}, D/N {self.tokens_per_param:.3g}, loss {format_loss(self.loss)}"
        if self.N_interval_80 and self.D_interval_80 and self.loss_interval_80:
            N, D = (" to ".join(map(format_size, pair)) for pair in (self.N_interval_80, self.D_interval_80))
            loss = " to ".join(map(format_loss, self.loss_interval_80))
            text += f" (80 %: N {N}, D {D}, loss {loss})"
        return text

    @property
    def tokens_per_param(self) -> float:
        """D/N, in the law's convention of N."""
        return self.D / self.N


@dataclass(frozen=True, slots=True, kw_only=True)
class Extrapolation:
    """Distance of a point from the fitted domain: 1 on its edge or inside, 10 where it lies ten times beyond."""

    compute_factor: float  # C over the largest fitted C; below 1 inside
    N_factor: float
    D_factor: float

    @property
    def factor(self) -> float:
        """The largest factor among N, D and compute; 1 inside the domain."""
        return max(1.0, self.compute_factor, self.N_factor, self.D_factor)

    @property
    def inside(self) -> bool:
        """True within the fitted ranges of N, D and C."""
        return self.factor < _OUTSIDE

    @property
    def message(self) -> str:
        """Each quantity outside the domain with its factor; empty inside."""
        parts = []
        if self.compute_factor >= _OUTSIDE:
            parts.append(f"compute is {self.compute_factor:.3g}x the largest fitted")
        for name, factor in (("N", self.N_factor), ("D", self.D_factor)):
            if factor >= _OUTSIDE:
                parts.append(f"{name} is {factor:.3g}x outside the fitted range")
        return "; ".join(parts)

    def check(self, *, force: bool = False) -> None:
        """Refuse a point too far outside the domain.

        Raises:
            BadInput: N, D or compute lies more than 1,000 times outside, without `force`.
        """
        if self.factor > MAX_EXTRAPOLATION and not force:
            raise BadInput(
                f"{self.message}; a law reaches {MAX_EXTRAPOLATION:,.0f} times at most, unless forced (--force)"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """(Smallest, largest) fitted N, D and C = 6·N·D, with N in the law's convention."""

    N: tuple[float, float]
    D: tuple[float, float]
    C: tuple[float, float]

    def extrapolation(self, N: ArrayLike, D: ArrayLike) -> Extrapolation:
        """Extrapolation of the farthest of the points."""
        n, d = np.asarray(N, dtype=np.float64), np.asarray(D, dtype=np.float64)
        return Extrapolation(
            compute_factor=float((6 * n * d).max() / self.C[1]),
            N_factor=float(max(n.max() / self.N[1], self.N[0] / n.min(), 1.0)),
            D_factor=float(max(d.max() / self.D[1], self.D[0] / d.min(), 1.0)),
        )

    def sizes_beyond(self, N: ArrayLike) -> Array:
        """Distance of sizes beyond the largest fitted one, in spans of the fitted sizes in log N, elementwise; 0 within."""
        span = max(math.log(self.N[1] / self.N[0]), LEAST_SPAN)
        return np.asarray(np.maximum(np.log(np.asarray(N, dtype=np.float64) / self.N[1]), 0) / span)

    def check_compute(self, C: float, *, force: bool = False) -> None:
        """Refuse a budget that is not positive, or lies too far beyond the largest fitted compute.

        Raises:
            BadInput: C (FLOPs) is not positive and finite, or more than 1,000 times the largest, without `force`.
        """
        if not C > 0 or not math.isfinite(C):
            raise BadInput(f"compute must be positive, got {C:g} FLOPs")
        Extrapolation(compute_factor=C / self.C[1], N_factor=1.0, D_factor=1.0).check(force=force)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Prediction:
    """Predicted loss in nats per token with intervals for one run: floats for one point, arrays for many.

    Intervals are None where the law has none. `extrapolation` is that of the farthest point. `N` is in the law's convention.
    """

    loss: Any
    interval_80: tuple[Any, Any] | None
    interval_95: tuple[Any, Any] | None
    extrapolation: Extrapolation
    N: Any
    D: Any

    def __repr__(self) -> str:
        """Losses with their intervals, one per line, as a notebook shows them."""
        losses, lines = np.ravel(self.loss), []
        for i, loss in enumerate(losses[:SHOWN].tolist()):
            text = f"loss {format_loss(loss)}, perplexity {perplexity(loss):.4g}"
            for level, interval in ((80, self.interval_80), (95, self.interval_95)):
                if interval is not None:
                    low, high = (format_loss(float(np.ravel(edge)[i])) for edge in interval)
                    text += f", {level} % {low} to {high}"
            lines.append(text)
        if len(losses) > SHOWN:
            lines.append(f"… {len(losses)} losses in all")
        return "\n".join([*lines, *filter(None, [self.extrapolation.message])])

    @property
    def perplexity(self) -> Any:
        """Perplexity exp(loss), per token."""
        value = np.exp(self.loss)
        return value if np.ndim(value) else float(value)


class LawReference(Record):
    """Identity of the law behind a prediction: its name or file, and the hash of its constants or of the file.

    Args:
        group: group of the runs that it was fitted on; eval_set: of their losses.
        row_hashes: the observations that it was fitted on (`Run.row_hash`); empty where they are not known.
    """

    name: str
    sha256: str
    convention: Convention
    source: str = ""
    group: str = ""
    eval_set: str = ""
    row_hashes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """L(N, D) = E + (A/N^alpha + B/D^beta)^gamma, in nats/token.

    gamma = 1 is Chinchilla's form (Hoffmann et al. 2022, eq. 2). E = 0, beta = 1, gamma = aD, alpha = aN/aD is Kaplan's
    (Kaplan et al. 2020, eq. 1.5). A = 0 leaves L(D), B = 0 leaves L(N). N and D are plain counts, no thousands.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    gamma: float = 1.0

    def __post_init__(self) -> None:
        for name in CONSTANTS:
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise BadInput(f"{name} is {value:g}; a law's constants are finite and not negative")

    def loss(self, N: ArrayLike, D: ArrayLike) -> Any:
        """L(N, D) in nats/token, elementwise; a float for two floats."""
        n, d = np.asarray(N, dtype=np.float64), np.asarray(D, dtype=np.float64)
        value = self.E + (self.A * n**-self.alpha + self.B * d**-self.beta) ** self.gamma
        return value if value.ndim else float(value)

    def perplexity(self, N: ArrayLike, D: ArrayLike) -> Any:
        """Perplexity exp L(N, D), per token."""
        value = np.exp(self.loss(N, D))
        return value if np.ndim(value) else float(value)

    def allocate(self, C: float, *, flops_per_param_token: float = 6.0) -> Allocation:
        """The N and D that minimise loss at C = k·N·D, in closed form (Hoffmann et al. 2022, eq. 4): gamma drops out.

        Raises:
            BadInput: C is not positive, or the law lacks one of its two terms, or nearly so, and no optimum exists.
        """
        if not C > 0 or not math.isfinite(C):
            raise BadInput(f"compute must be positive, got {C:g} FLOPs")
        if min(self.A, self.B, self.alpha, self.beta, self.gamma) <= 0:
            raise BadInput(
                "the law depends on only one of N and D, so no split of a budget between them is optimal"
            )
        product = C / flops_per_param_token
        log_g = math.log(self.alpha * self.A / (self.beta * self.B)) / (self.alpha + self.beta)
        log_N = log_g + self.beta / (self.alpha + self.beta) * math.log(product)
        if max(abs(log_N), abs(math.log(product) - log_N)) > LARGEST_LOG:
            raise BadInput("the law hardly depends on N or on D; its optimum lies beyond every size")
        N = math.exp(log_N)
        D = product / N
        return Allocation(C=C, N=N, D=D, loss=self.loss(N, D))

    def tokens_for(self, N: ArrayLike, loss: float) -> Array:
        """Tokens at which models of N parameters reach that loss, elementwise; infinite where none do."""
        n = np.asarray(N, dtype=np.float64)
        rest = max(loss - self.E, 0.0) ** (1 / self.gamma) - self.A * n**-self.alpha
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(rest > 0, (self.B / rest) ** (1 / self.beta), np.inf))


def kaplan_law(*, Nc: float, Dc: float, aN: float, aD: float) -> Law:
    """Kaplan's L(N, D) = [(Nc/N)^(aN/aD) + Dc/D]^aD as the general law.

    Args:
        Nc: scale of N, in parameters without embeddings.
        Dc: scale of D, in tokens.
        aN: exponent of N with unlimited data.
        aD: exponent of D with unlimited parameters.
    """
    alpha = aN / aD
    return Law(E=0.0, A=Nc**alpha, alpha=alpha, B=Dc, beta=1.0, gamma=aD)


@dataclass(frozen=True, slots=True, kw_only=True)
class KaplanFrontier:
    """Kaplan's compute-efficient frontier, a one-parameter family of N, D and loss (Kaplan et al. 2020, table 6).

    C_min in PF-days (1 PF-day = 8.64e19 FLOPs), N without embeddings = 12·n_layer·n_embd², loss in nats/token.
    """

    N_scale: float = 1.3e9  # N = 1.3e9 · C_min^0.73
    N_exponent: float = 0.73
    C_scale: float = 3.1e8  # L = (3.1e8 / C_min)^0.050
    L_exponent: float = 0.050
    D_scale: float = 2e10  # D = 2e10 · C_min^0.27
    D_exponent: float = 0.27
    B_scale: float = 2.0e6  # B = 2.0e6 · C_min^0.24
    B_exponent: float = 0.24

    def compute(self, N: Any) -> Any:
        """C_min in PF-days at which a model of N parameters is optimal, elementwise."""
        return (N / self.N_scale) ** (1 / self.N_exponent)

    def loss(self, N: Any) -> Any:
        """L(C_min(N)) in nats per token, elementwise."""
        return (self.C_scale / self.compute(N)) ** self.L_exponent

    def tokens(self, N: Any) -> Any:
        """Tokens processed at C_min(N), elementwise."""
        return self.D_scale * self.compute(N) ** self.D_exponent

    def batch_tokens(self, N: Any) -> Any:
        """Critical batch size in tokens at C_min(N), elementwise."""
        return self.B_scale * self.compute(N) ** self.B_exponent


@dataclass(frozen=True, slots=True, kw_only=True)
class Repetition:
    """Effective N and D of a run that saw U distinct tokens (Muennighoff et al. 2023, eq. 5 and 11).

    D' = U + U·R_D·(1 − exp(−(D/U − 1)/R_D));   N' = U_N + U_N·R_N·(1 − exp(−(N/U_N − 1)/R_N)) with U_N = min(N, U/20).
    R_D and R_N are the repetitions after which a further one is worth 1/e of a fresh one.
    """

    R_N: float
    R_D: float

    def __post_init__(self) -> None:
        for name in ("R_N", "R_D"):
            if not getattr(self, name) > 0:
                raise BadInput(f"{name} is {getattr(self, name):g}; it must be positive")

    def effective(self, N: Array, D: Array, U: Array) -> tuple[Array, Array]:
        """(N', D'), elementwise; both unchanged where nothing is repeated."""
        repeated = D > U * _EDGE
        base = np.where(repeated, np.minimum(N, U / TOKENS_PER_PARAM), N)
        fresh = np.where(repeated, U, D)
        tokens = fresh * (1 - self.R_D * np.expm1(-(D / fresh - 1) / self.R_D))
        params = base * (1 - self.R_N * np.expm1(-(N / base - 1) / self.R_N))
        return params, tokens

    def tokens_worth(self, effective: Array, U: Array) -> Array:
        """The D whose D' is `effective`, elementwise: the inverse of D'; infinite from U·(1 + R_D) on."""
        excess = np.maximum(effective / U - 1, 0.0)
        with np.errstate(divide="ignore"):
            repeats = np.where(
                excess < self.R_D, -self.R_D * np.log1p(-np.minimum(excess, self.R_D) / self.R_D), np.inf
            )
        return np.asarray(np.minimum(effective, U) + U * repeats)


PUBLISHED_REPETITION = Repetition(R_N=5.309743, R_D=15.387756)  # Muennighoff et al. 2023, appendix A


class Settings(TypedDict, total=False):
    """Coordinates of a law that `predict` takes by name: what a run is trained with besides N and D."""

    lr: ArrayLike
    batch_tokens: ArrayLike
    aspect: ArrayLike
    n_experts: ArrayLike
    vocab_size: ArrayLike


@runtime_checkable
class LossModel(Protocol):
    """A law that predicts loss: published or fitted. Planning, prediction, scoring and monitoring all ask one.

    Losses are in nats per token, N is in the law's `convention`, and every method gives the same loss for one point.
    """

    @property
    def name(self) -> str:
        """Name of the published law or of the law's file."""

    @property
    def source(self) -> str:
        """Citation, or the number of observations fitted."""

    @property
    def sha256(self) -> str:
        """Hash of the constants, or of the law's file."""

    @property
    def convention(self) -> Convention:
        """Parameters that N counts."""

    @property
    def domain(self) -> Domain:
        """Fitted ranges of N, D and C."""

    @property
    def eval_set(self) -> str:
        """Evaluation set of the losses; empty where not named."""

    @property
    def group(self) -> str:
        """Group of the fitted runs (corpus, tokenizer, architecture); empty where not named."""

    @property
    def frontier(self) -> KaplanFrontier | None:
        """Compute-efficient frontier of a law that fixes each size's tokens; None for a law of N and D alone."""

    @property
    def repetition(self) -> Repetition:
        """Value of repeated tokens: fitted, else published."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons to doubt or to restrict the law."""

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Columns besides N and D that the law depends on."""

    @property
    def irreducible(self) -> float:
        """Loss that no size and no data go below."""

    @property
    def irreducible_interval_80(self) -> tuple[float, float] | None:
        """80 % interval of `irreducible`; None where the law has none."""

    @property
    def reference(self) -> LawReference:
        """Identity of the law, for files that hold its predictions."""

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
        """Loss of a run with intervals, in nats per token, after a check of the domain.

        Args:
            N: parameters in the law's convention, or `params`, or a published member's name as `family`.
            D: training tokens, or `tokens`.
            params: see N.
            tokens: see D.
            family: see N.
            unique_tokens: distinct tokens among D (default: all).
            convention: the caller's convention of N, checked against the law's.
            force: predict even more than 1,000 times outside the fitted domain.
            own: coordinates by their columns' names, also the user's own columns.
            settings: the same of the columns that every law knows, such as lr.
        """

    def loss(self, N: ArrayLike, D: ArrayLike, *, unique_tokens: ArrayLike | None = None) -> Any:
        """Point prediction without a check of the domain, elementwise: `predict(N, D).loss`."""

    def allocate(self, C: float, *, flops_per_param_token: float = 6.0, force: bool = False) -> Allocation:
        """Compute-optimal N and D for C FLOPs, and the loss predicted there."""

    def tokens_for(self, N: ArrayLike, loss: float, *, unique_tokens: float | None = None) -> Array:
        """Fewest tokens at which models of N parameters are predicted to reach a loss; infinite where none do."""


def resolve_point(
    law_convention: Convention,
    N: ArrayLike | None,
    D: ArrayLike | None,
    *,
    params: ArrayLike | None = None,
    tokens: ArrayLike | None = None,
    family: str | None = None,
    convention: Convention | None = None,
) -> tuple[ArrayLike, ArrayLike]:
    """N and D of a prediction, from positions or from names.

    Args:
        law_convention: parameters that the law's N counts.
        N: parameters in that convention.
        D: tokens.
        params: another name for N.
        tokens: another name for D.
        family: a published member's name, counted by the law's convention in place of N.
        convention: the caller's convention of N, where it is known.

    Raises:
        BadInput: not exactly one size and one number of tokens, or another convention than the law's.
    """
    if convention is not None and convention != law_convention:
        raise BadInput(f"convention is {convention!r}; this law was fitted on {law_convention!r} parameters")
    if sum(value is not None for value in (N, params, family or None)) != 1:
        raise BadInput("give one of N (or params) and family")
    if (D is None) == (tokens is None):
        raise BadInput("give one of D and tokens")
    size = accounting.count(member(family).spec, law_convention) if family else params if N is None else N
    length = tokens if D is None else D
    assert size is not None
    assert length is not None
    return size, length


def as_points(N: ArrayLike, D: ArrayLike) -> tuple[Array, Array, tuple[int, ...]]:
    """N and D broadcast and flattened, and the shape to give back.

    Raises:
        BadInput: a value is not positive and finite, or above 1e100.
    """
    n, d = np.broadcast_arrays(np.asarray(N, dtype=np.float64), np.asarray(D, dtype=np.float64))
    for name, values in (("N", n), ("D", d)):
        bad = ~(np.isfinite(values) & (values > 0))
        if bad.any():
            raise BadInput(f"{name} is {float(values[bad].flat[0]):g}; it must be positive and finite")
        if values.size and values.max() > LARGEST:
            raise BadInput(f"{name} is {values.max():g}; at most {LARGEST:g} can be computed with")
    return n.ravel(), d.ravel(), n.shape


def fresh_points(
    repetition: Repetition, n: Array, d: Array, unique_tokens: ArrayLike | None, shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """N' and D' as a law of fresh data takes them, of flat points; n and d themselves where every token is distinct.

    Args:
        repetition: value of repeated tokens.
        n: parameters, shape (k,).
        d: tokens, shape (k,).
        unique_tokens: distinct tokens of each point, in a shape that broadcasts to `shape`; None for all.
        shape: the points' shape before they were flattened.

    Raises:
        BadInput: a number of distinct tokens is not positive and finite.
    """
    if unique_tokens is None:
        return n, d
    unique = np.broadcast_to(np.asarray(unique_tokens, dtype=np.float64), shape).ravel()
    if not (np.isfinite(unique) & (unique > 0)).all():
        raise BadInput(f"unique tokens are {unique.min():g}; they must be positive and finite")
    return repetition.effective(n, d, unique)


def in_shape(values: Array, shape: tuple[int, ...]) -> Any:
    """Flat values in a shape; a float for the shape of a scalar."""
    return values.reshape(shape) if shape else float(values[0])
