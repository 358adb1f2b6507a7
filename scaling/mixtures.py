"""The published joint law of dense models and mixtures of experts (Ludziejewski et al. 2025)."""

import math

from families.units import BadInput

from .laws import Law
from .published_laws import PublishedLaw

NAME = "joint-moe"

MOST_EXPERTS = 32  # for each one that a token passes through, in the paper's runs

# arXiv:2502.05172, table 3: L = a·Ê^δ·N^(α + γ·ln Ê) + b·Ê^ω·D^(β + ζ·ln Ê) + c, N active parameters with embeddings.
_A, _ALPHA, _DELTA, _GAMMA = 35.91, -0.1889, -0.2285, 0.0098
_B, _BETA, _OMEGA, _ZETA = 35.98, -0.1775, 0.5529, -0.0259
_C, _START, _MOST = 1.3637, 2.0732, 290.4521


def effective_experts(experts: float) -> float:
    """Ê of equation 4: the first experts count little, and many of them saturate (after Clark et al. 2022).

    Args:
        experts: routed experts for each one that a token passes through; 1 of a dense model.

    Raises:
        BadInput: fewer than 1.
    """
    if not (math.isfinite(experts) and experts >= 1):
        raise BadInput(f"experts is {experts:g}; there must be at least 1")
    return 1 / (1 / (experts - 1 + 1 / (1 / _START - 1 / _MOST)) + 1 / _MOST)


def joint_law(experts: float) -> PublishedLaw:
    """The law at a number of experts, where it has Chinchilla's form; N counts active parameters, embeddings included.

    Its experts are as wide as a dense feed-forward layer, and a token passes through one of them.

    Args:
        experts: routed experts for each one that a token passes through; 1 of a dense model.

    Raises:
        BadInput: fewer than 1.

    Examples:
        >>> dense, sparse = joint_law(1), joint_law(8)
        >>> round(dense.loss(1e9, 2e10), 3), round(sparse.loss(1e9, 2e10), 3)
        (2.578, 2.509)
    """
    count = effective_experts(experts)
    log = math.log(count)
    return PublishedLaw(
        name=NAME,
        law=Law(
            E=_C,
            A=_A * count**_DELTA,
            B=_B * count**_OMEGA,
            alpha=-(_ALPHA + _GAMMA * log),
            beta=-(_BETA + _ZETA * log),
        ),
        convention="total",
        source=f"Ludziejewski et al. 2025, arXiv:2502.05172, table 3, at {experts:g} experts for each one in use",
        domain_N=(7.9e7, 2.7e9),
        domain_D=(5e8, 8e10),
        text="the paper's own text, GPT-2 tokenizer",
    )
