"""One general law of loss against parameters and tokens; Chinchilla and Kaplan are restrictions of it."""

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike

from families import ModelSpec, params, params_non_embedding
from families.units import BadInput, format_size, nearest

# MERGED DOCSTRINGS
# Where a law was fitted, how far a point lies outside, and how far outside is too far.
# Published constants as laws, with where they come from and the domain they were fitted on.
Convention = Literal["total", "non_embedding"]

PARAMS_FIELD: dict[Convention, str] = {"total": "params", "non_embedding": "params_non_embedding"}


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
    size = getattr(sized, field)
    if size is None:
        raise BadInput(f"{name} has no {field}, which the convention {convention!r} counts")
    return float(size)


def spec_params(spec: ModelSpec, convention: Convention) -> Any:
    """N of a model's shape in a convention; an array for a shape in arrays."""
    return params(spec) if convention == "total" else params_non_embedding(spec)


CONSTANTS = ("E", "A", "B", "alpha", "beta", "gamma")

LARGEST_LOG = 300.0  # of N and D: far beyond any size, and within what a float holds


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Allocation:
    """The compute-optimal split of a budget: C FLOPs into N parameters and D tokens, and the loss it reaches."""

    C: float
    N: float
    D: float
    loss: float

    def __repr__(self) -> str:
        """As a notebook shows it."""
        return (
            f"{format_size(self.C)} FLOPs: N {format_size(self.N)}, D {format_size(self.D)}, "
            f"D/N {self.tokens_per_param:.3g}, loss {self.loss:.4f}"
        )

    @property
    def tokens_per_param(self) -> float:
        """D/N, in the law's convention of N."""
        return self.D / self.N


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
        """exp L(N, D), per token."""
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

    def tokens_for_loss(self, loss: float, N: float) -> float:
        """Tokens at which a model of N parameters reaches that loss.

        Raises:
            BadInput: no number of tokens reaches it.
        """
        floor = self.loss(N, math.inf)
        if loss <= floor or self.B == 0:
            raise BadInput(
                f"loss {loss:g} is out of reach for {N:g} parameters: its limit is {floor:.4g} nats/token"
            )
        rest = (loss - self.E) ** (1 / self.gamma) - self.A * N**-self.alpha
        return float((self.B / rest) ** (1 / self.beta))


def kaplan_law(*, Nc: float, Dc: float, aN: float, aD: float) -> Law:
    """Kaplan's L(N, D) = [(Nc/N)^(aN/aD) + Dc/D]^aD as the general law."""
    alpha = aN / aD
    return Law(E=0.0, A=Nc**alpha, alpha=alpha, B=Dc, beta=1.0, gamma=aD)


@dataclass(frozen=True, slots=True, kw_only=True)
class KaplanFrontier:
    """Kaplan's compute-efficient frontier, a law of one dial (Kaplan et al. 2020, table 6 and appendix A).

    C_min in PF-days (1 PF-day = 8.64e19 FLOPs), N without embeddings = 12·n_layer·n_embd², loss in nats/token.
    """

    N_scale: float = 1.3e9  # N = 1.3e9 · C_min^0.73
    N_exponent: float = 0.73
    C_scale: float = 3.1e8  # L = (3.1e8 / C_min)^0.050
    L_exponent: float = 0.050
    D_scale: float = 2e10  # D = 2e10 · C_min^0.27
    D_exponent: float = 0.27
    S_scale: float = 5.4e3  # S_min = 5.4e3 · C_min^0.03
    S_exponent: float = 0.03
    B_scale: float = 2.0e6  # B = 2.0e6 · C_min^0.24
    B_exponent: float = 0.24

    def compute(self, N: float) -> float:
        """C_min in PF-days at which a model of N parameters is optimal."""
        return float((N / self.N_scale) ** (1 / self.N_exponent))

    def loss(self, N: float) -> float:
        """Nats per token at C_min(N)."""
        return float((self.C_scale / self.compute(N)) ** self.L_exponent)

    def tokens(self, N: float) -> float:
        """Tokens processed at C_min(N)."""
        return float(self.D_scale * self.compute(N) ** self.D_exponent)

    def steps(self, N: float) -> float:
        """Fewest optimiser steps, S_min."""
        return float(self.S_scale * self.compute(N) ** self.S_exponent)

    def batch_tokens(self, N: float) -> float:
        """Critical batch size in tokens."""
        return float(self.B_scale * self.compute(N) ** self.B_exponent)


@dataclass(frozen=True, slots=True, kw_only=True)
class KaplanSteps:
    """L(N, S) = (Nc/N)^aN + (Sc/S_min)^aS: loss against parameters and steps (Kaplan et al. 2020, eq. 1.6 and table 3).

    N without embeddings; S_min the steps that a batch far above the critical one would need. Loss in nats/token.
    """

    Nc: float = 6.5e13
    Sc: float = 2.1e3
    aN: float = 0.077
    aS: float = 0.76

    def loss(self, N: ArrayLike, S_min: ArrayLike) -> Any:
        """L(N, S_min), elementwise; a float for two floats."""
        n, s = np.asarray(N, dtype=np.float64), np.asarray(S_min, dtype=np.float64)
        value = (self.Nc / n) ** self.aN + (self.Sc / s) ** self.aS
        return value if value.ndim else float(value)

    def steps(self, loss: float, N: float, *, batches: float) -> float:
        """Steps to that loss at a batch of `batches` critical batches: S = S_min·(1 + 1/batches) (eq. 5.4).

        The critical batch in tokens is `recipe.critical_batch(loss)`.

        Raises:
            BadInput: a model of N parameters never reaches that loss.
        """
        rest = loss - (self.Nc / N) ** self.aN
        if rest <= 0:
            raise BadInput(
                f"loss {loss:g} is out of reach for {N:g} parameters, whose limit is {loss - rest:.4g} nats/token"
            )
        S_min = self.Sc / rest ** (1 / self.aS)
        return float(S_min * (1 + 1 / batches))


MAX_EXTRAPOLATION = 1e3  # times beyond the fitted N, D or compute, from where on a prediction is refused

_EDGE = 1 + 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Extrapolation:
    """How far a point lies outside the fitted domain: 1 is on its edge or inside, 10 is ten times beyond."""

    compute_factor: float  # C over the largest fitted C; below 1 inside
    N_factor: float
    D_factor: float

    @property
    def factor(self) -> float:
        """Of N, D and compute the one that lies furthest outside; 1 where none does."""
        return max(1.0, self.compute_factor, self.N_factor, self.D_factor)

    @property
    def inside(self) -> bool:
        """Within the fitted ranges of N, D and C."""
        return self.factor <= _EDGE

    @property
    def message(self) -> str:
        """Empty inside the domain, else what lies outside and by how much."""
        parts = []
        if self.compute_factor > _EDGE:
            parts.append(f"compute is {self.compute_factor:.3g}x the largest fitted")
        for name, factor in (("N", self.N_factor), ("D", self.D_factor)):
            if factor > _EDGE:
                parts.append(f"{name} is {factor:.3g}x outside the fitted range")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """The fitted rows' (smallest, largest) N, D and C, in the law's convention of N; C = 6·N·D where they say no other."""

    N: tuple[float, float]
    D: tuple[float, float]
    C: tuple[float, float]

    @classmethod
    def of_ranges(cls, N: tuple[float, float], D: tuple[float, float]) -> "Domain":
        """From the ranges that a paper states, its largest model on its most tokens taken to be its largest run."""
        return cls(N=N, D=D, C=(0.0, 6 * N[1] * D[1]))

    def reach(self, N: ArrayLike, D: ArrayLike) -> Extrapolation:
        """How far the farthest of the points lies outside."""
        n, d = np.asarray(N, dtype=np.float64), np.asarray(D, dtype=np.float64)
        return Extrapolation(
            compute_factor=float((6 * n * d).max() / self.C[1]),
            N_factor=float(max(n.max() / self.N[1], self.N[0] / n.min(), 1.0)),
            D_factor=float(max(d.max() / self.D[1], self.D[0] / d.min(), 1.0)),
        )

    def check(self, reach: Extrapolation, *, force: bool) -> None:
        """Refuse what lies too far outside.

        Raises:
            BadInput: N, D or compute more than 1,000 times outside, without `force`.
        """
        if reach.factor > MAX_EXTRAPOLATION and not force:
            raise BadInput(
                f"{reach.message}; a law reaches {MAX_EXTRAPOLATION:,.0f} times at most, unless forced (--force)"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedLaw:
    """Constants from a paper. `domain` is (smallest, largest) of N, D; `superseded_by` names a better fit of the same data."""

    name: str
    law: Law
    convention: Convention
    source: str
    domain_N: tuple[float, float]
    domain_D: tuple[float, float]
    text: str  # the corpus and tokenizer, since nats per token compare only within one
    superseded_by: str = ""
    frontier: KaplanFrontier | None = None

    @property
    def domain(self) -> Domain:
        """What it was fitted on; compute as 6·N·D."""
        return Domain.of_ranges(self.domain_N, self.domain_D)


PUBLISHED: dict[str, PublishedLaw] = {
    law.name: law
    for law in (
        PublishedLaw(
            name="kaplan",
            law=kaplan_law(Nc=6.4e13, Dc=1.8e13, aN=0.076, aD=0.103),
            convention="non_embedding",
            source="Kaplan et al. 2020, arXiv:2001.08361, sections 4 and 6, table 6",
            domain_N=(768, 1.5e9),
            domain_D=(2.2e7, 2.3e10),
            text="WebText2, GPT-2 tokenizer",
            frontier=KaplanFrontier(),
        ),
        PublishedLaw(
            name="chinchilla",
            law=Law(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658),
            convention="total",
            source="Besiroglu et al. 2024, arXiv:2404.10102, a refit of Hoffmann et al. 2022's data",
            domain_N=(4.4e7, 1.6e10),
            domain_D=(1e9, 1.5e12),
            text="MassiveText, SentencePiece 32k",
        ),
        PublishedLaw(
            name="hoffmann",
            law=Law(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28),
            convention="total",
            source="Hoffmann et al. 2022, arXiv:2203.15556, approach 3",
            domain_N=(4.4e7, 1.6e10),
            domain_D=(1e9, 1.5e12),
            text="MassiveText, SentencePiece 32k",
            superseded_by="chinchilla",
        ),
    )
}

_ALIASES = {"besiroglu": "chinchilla"}


def published(name: str) -> PublishedLaw:
    """The published law of that name.

    Raises:
        BadInput: with the nearest match.
    """
    key = name.strip().lower()
    found = PUBLISHED.get(_ALIASES.get(key, key))
    if found is None:
        raise BadInput(
            f"law is {name!r}; {nearest(name, [*PUBLISHED, *_ALIASES])}, or the path of a law.json"
        )
    return found
