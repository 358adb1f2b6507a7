"""The published laws: constants with their sources, domains and, where their papers allow them, intervals."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from families.accounting import Convention
from families.units import BadInput, nearest

from .files import canonical_json, sha256_bytes
from .laws import (
    CONSTANTS,
    JUST_REPEATED,
    PUBLISHED_REPETITION,
    Allocation,
    Domain,
    KaplanFrontier,
    Law,
    LawReference,
    Prediction,
    Repetition,
    Settings,
    as_points,
    fresh_points,
    in_shape,
    kaplan_law,
    resolve_point,
)
from .stats import Z_80, Z_95, Array

DRIFT = 0.005  # of log loss per factor of ten beyond the data: what a fit of ours assumes of any law (docs/math.md)


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertainty:
    """How far a published law may be off, in log loss: by its constants and by what its runs scatter about it.

    Args:
        log_N: mean log N of its runs; log_D likewise. There the three terms are least correlated.
        covariance: of (log E, log A - alpha·log_N, log B - beta·log_D, alpha, beta), shape (5, 5).
        noise: standard deviation of a run's log loss about the law.
        source: where both are from.
    """

    log_N: float
    log_D: float
    covariance: tuple[tuple[float, ...], ...]
    noise: float
    source: str

    def deviation(self, law: Law, N: Array, D: Array, beyond: float) -> Array:
        """Standard deviation of the log loss of one run, elementwise.

        Args:
            law: the law, of Chinchilla's form.
            N: parameters.
            D: tokens.
            beyond: factor by which the points lie outside the fitted domain; 1 within.
        """
        terms = np.stack([np.full(np.shape(N), law.E), law.A * N**-law.alpha, law.B * D**-law.beta])
        shares = terms / terms.sum(axis=0)
        slopes = [*shares, -shares[1] * (np.log(N) - self.log_N), -shares[2] * (np.log(D) - self.log_D)]
        gradient = np.stack(slopes)
        constants = np.einsum("i...,ij,j...->...", gradient, np.array(self.covariance), gradient)
        drift = DRIFT * math.log10(max(1.0, beyond))
        return np.asarray(np.sqrt(self.noise**2 + np.maximum(constants, drift**2)))


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedLaw:
    """Constants from a paper, as a `LossModel`, with prediction intervals where their uncertainty is known.

    Args:
        domain_N: (smallest, largest) N of the paper's runs; domain_D likewise their tokens.
        text: corpus and tokenizer, since nats per token compare only within one.
        superseded_by: name of a better fit of the same data.
        frontier: Kaplan's compute-efficient frontier. `predict` gives his L(N, D); the frontier gives L(C_min).
        uncertainty: of the constants and of a run; None where the paper's data do not allow it.
    """

    name: str
    law: Law
    convention: Convention
    source: str
    domain_N: tuple[float, float]
    domain_D: tuple[float, float]
    text: str
    superseded_by: str = ""
    frontier: KaplanFrontier | None = None
    uncertainty: Uncertainty | None = None

    @property
    def domain(self) -> Domain:
        """Fitted ranges; the largest model on the most tokens is taken to be the largest run."""
        return Domain(N=self.domain_N, D=self.domain_D, C=(0.0, 6 * self.domain_N[1] * self.domain_D[1]))

    @property
    def sha256(self) -> str:
        """Hash of the constants."""
        return sha256_bytes(canonical_json({name: getattr(self.law, name) for name in CONSTANTS}))

    @property
    def eval_set(self) -> str:
        """Empty: papers evaluate on text of their own."""
        return ""

    @property
    def group(self) -> str:
        """Empty: a published law belongs to no group of runs."""
        return ""

    @property
    def repetition(self) -> Repetition:
        """The published value of repeated tokens."""
        return PUBLISHED_REPETITION

    @property
    def warnings(self) -> tuple[str, ...]:
        """The text it holds for, and the law that supersedes it."""
        text = f"{self.name} holds for {self.text}; losses on other text or tokens do not compare"
        superseded = f"{self.name} is superseded: use {self.superseded_by}"
        return (text, superseded) if self.superseded_by else (text,)

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Empty: N and D alone."""
        return ()

    @property
    def irreducible(self) -> float:
        """The constant E."""
        return self.law.E

    @property
    def irreducible_interval_80(self) -> tuple[float, float] | None:
        """By the published standard error's like, of a refit of the same data; None without one."""
        if self.uncertainty is None:
            return None
        spread = math.exp(Z_80 * math.sqrt(self.uncertainty.covariance[0][0]))
        return self.law.E / spread, self.law.E * spread

    @property
    def reference(self) -> LawReference:
        """Identity of the law, for files that hold its predictions."""
        return LawReference(
            name=self.name, sha256=self.sha256, convention=self.convention, source=self.source
        )

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
        """Loss L(N, D) of a run on the law's own text, with intervals where its uncertainty is known.

        Args:
            N: parameters in the law's convention, or `params`, or a published member's name as `family`.
            D: training tokens, or `tokens`.
            params: see N.
            tokens: see D.
            family: see N.
            unique_tokens: distinct tokens among D (default: all).
            convention: the caller's convention of N, checked against the law's.
            force: predict even more than 1,000 times outside the domain.
            own: none that a published law has.
            settings: likewise.

        Raises:
            BadInput: a setting; and see `resolve_point`, `as_points` and `Extrapolation.check`.
        """
        if given := {**(own or {}), **settings}:
            raise BadInput(f"{next(iter(given))} is given, and {self.name} depends on N and D alone")
        size, length = resolve_point(
            self.convention, N, D, params=params, tokens=tokens, family=family, convention=convention
        )
        n, d, shape = as_points(size, length)
        extrapolation = self.domain.extrapolation(n, d)
        extrapolation.check(force=force)
        loss = self.loss(in_shape(n, shape), in_shape(d, shape), unique_tokens=unique_tokens)
        intervals: list[tuple[Any, Any] | None] = [None, None]
        if self.uncertainty is not None:
            fresh = fresh_points(self.repetition, n, d, unique_tokens, shape)
            spread = self.uncertainty.deviation(self.law, *fresh, extrapolation.factor)
            for level, z in enumerate((Z_80, Z_95)):
                edges = (np.ravel(loss) * np.exp(sign * z * spread) for sign in (-1, 1))
                low, high = (in_shape(edge, shape) for edge in edges)
                intervals[level] = (low, high)
        return Prediction(
            loss=loss,
            interval_80=intervals[0],
            interval_95=intervals[1],
            extrapolation=extrapolation,
            N=in_shape(n, shape),
            D=in_shape(d, shape),
        )

    def loss(self, N: ArrayLike, D: ArrayLike, *, unique_tokens: ArrayLike | None = None) -> Any:
        """L(N, D) in nats per token, elementwise, repeated tokens at their published value."""
        if unique_tokens is None:
            return self.law.loss(N, D)
        n, d, shape = as_points(N, D)
        fresh = fresh_points(self.repetition, n, d, unique_tokens, shape)
        return in_shape(np.asarray(self.law.loss(*fresh)), shape)

    def allocate(self, C: float, *, flops_per_param_token: float = 6.0, force: bool = False) -> Allocation:
        """The closed-form optimum of L(N, D) at C = k·N·D FLOPs.

        Raises:
            BadInput: C is not positive, or more than 1,000 times the largest fitted, without `force`.
        """
        self.domain.check_compute(C, force=force)
        return self.law.allocate(C, flops_per_param_token=flops_per_param_token)

    def tokens_for(self, N: ArrayLike, loss: float, *, unique_tokens: float | None = None) -> Array:
        """Fewest tokens at which models of N parameters reach a loss, elementwise; infinite where none do."""
        fresh = self.law.tokens_for(N, loss)
        if unique_tokens is None:
            return fresh
        n, unique = np.asarray(N, dtype=np.float64), np.full(np.shape(N), float(unique_tokens))
        effective_N, _ = self.repetition.effective(n, 2 * unique, unique)
        needed = np.maximum(self.law.tokens_for(effective_N, loss), unique * JUST_REPEATED)
        return np.asarray(np.where(fresh <= unique, fresh, self.repetition.tokens_worth(needed, unique)))


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
            uncertainty=Uncertainty(
                log_N=20.534854168,
                log_D=23.616815666,
                covariance=(
                    (1.529e-04, -2.611e-04, -4.495e-04, 7.559e-05, 1.336e-04),
                    (-2.611e-04, 3.0435e-03, -1.8155e-03, -7.971e-04, 5.077e-04),
                    (-4.495e-04, -1.8155e-03, 3.9128e-03, 4.382e-04, -1.1320e-03),
                    (7.559e-05, -7.971e-04, 4.382e-04, 2.1408e-04, -1.2444e-04),
                    (1.336e-04, 5.077e-04, -1.1320e-03, -1.2444e-04, 3.3350e-04),
                ),
                noise=0.0047,
                source="1,000 bootstraps of Besiroglu's fit over 234 of the digitised points (docs/log.md#e125)",
            ),
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

ALIASES = {"besiroglu": "chinchilla"}


def published_law(name: str) -> PublishedLaw:
    """Look up a published law.

    Args:
        name: "kaplan" (Kaplan et al. 2020), "chinchilla" (Besiroglu et al. 2024, a refit; also "besiroglu") or
            "hoffmann" (Hoffmann et al. 2022, approach 3), in any case.

    Returns:
        The law, with its source, its convention of N and the domain it was fitted on.

    Raises:
        BadInput: no such law; the nearest name is suggested.

    Examples:
        >>> law = published_law("chinchilla")
        >>> law.convention, round(law.predict(7e9, 1.4e11).loss, 4)
        ('total', 2.1733)
    """
    key = name.strip().lower()
    law = PUBLISHED.get(ALIASES.get(key, key))
    if law is None:
        raise BadInput(f"law is {name!r}; {nearest(name, [*PUBLISHED, *ALIASES])}, or the path of a law.json")
    return law
