"""exp(loss), also of losses that nobody should reach: a diverged run, or a law far below its data."""

import math

LARGEST_EXPONENT = 700.0  # what a float holds
MANY = 1e7  # from here on a perplexity is printed by its order of magnitude


def perplexity(loss: float) -> float:
    """exp(loss), per token; of a loss beyond 700 nats the perplexity of 700."""
    return math.exp(min(loss, LARGEST_EXPONENT))


def format_perplexity(value: float) -> str:
    """Two decimals, or three digits where it is very large."""
    return f"{value:.2f}" if value < MANY else f"{value:.3g}"
