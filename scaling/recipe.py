"""Training recipes: learning rate, batch size, warm-up, weight decay and betas by published rules."""

import math
from collections.abc import Callable
from itertools import pairwise

from pydantic import Field

from families import ModelSpec, params_kaplan, params_non_embedding, train_flops
from families.units import BadInput, nearest

from .files import Record
from .laws import KaplanFrontier
from .schedule import Kind, whole_steps

DEFAULT_RULE = "capped"
# Share of the shortest run: a warm-up longer than that biases the law at small sizes (Porian et al. 2024, section 3.2).
# Measured on models of 62k to 941k parameters: at a tenth the largest lose up to 0.12 nats, at a fifth none is worse.
LONGEST_WARMUP = 0.2
SHORTEST_WARMUP = 10  # steps, for estimates of Adam's second moments
COOLDOWN = 0.2  # of the steps, for wsd (Hägele et al. 2024 find 10 to 20 % as good as cosine)


class Recipe(Record):
    """Hyperparameters of a training run with AdamW.

    Args:
        rule: name of the rule that gave them.
        lr: peak learning rate.
        batch_sequences: sequences of a step.
        batch_tokens: tokens of a step.
        steps: optimiser steps.
        warmup_steps: steps of linear warm-up.
        weight_decay: decoupled weight decay.
        beta1: Adam's decay rate of the first moment.
        beta2: Adam's decay rate of the second moment.
        grad_clip: largest norm of the gradients.
        init_std: standard deviation of initial weights: GPT-2's 0.02 from width 512 up; below, the variance grows as
            1/width (Yang et al. 2022), without which narrow models stay at the unigram loss for long.
        schedule: wsd or cosine.
        cooldown_fraction: share of the steps over which wsd decays to 0; cosine decays over all of them.
        source: publication or measurement behind the rule.
    """

    rule: str
    lr: float = Field(gt=0)
    batch_sequences: int = Field(ge=1)
    batch_tokens: int = Field(ge=1)
    steps: int = Field(ge=1)
    warmup_steps: int = Field(ge=0)
    weight_decay: float = Field(ge=0)
    beta1: float = Field(ge=0, lt=1)
    beta2: float = Field(ge=0, lt=1)
    grad_clip: float = Field(gt=0)
    init_std: float = Field(default=0.02, gt=0)
    schedule: Kind = "wsd"
    cooldown_fraction: float = Field(default=COOLDOWN, ge=0, le=1)
    source: str

    @property
    def tokens(self) -> int:
        """Training tokens."""
        return self.steps * self.batch_tokens


class _Advice(Record):
    """Advice of a rule before rounding; None where it gives none and the default rule applies."""

    lr: float
    batch_tokens: float | None = None
    warmup_steps: float | None = None
    weight_decay: float = 0.1  # Brown et al. 2020, appendix B
    beta1: float = 0.9
    beta2: float | None = None
    batch_power: float = 0.0  # of lr in the batch over the rule's own
    source: str


Rule = Callable[[ModelSpec, float], _Advice]

# Measured on GPT-2 shapes (stdlib text, vocabulary 1024, batch 4096, 300 steps of wsd), nats/token at lr .002,
# .004, .008, .016: L1 d32 – – 4.305 4.279; L2 d64 – 4.054 3.967 4.014; L4 d128 3.905 3.826 4.332 –. So 0.4/width lies
# below each optimum, before the loss diverges; at width 768 it gives 5.2e-4 where the card's family uses 6e-4.
_LR_TIMES_WIDTH = 0.4
_WIDTH_CAP = 1e-2
# GPT-2's, and the narrowest of the card's models, which were trained with it. Measured below (L2 d64, 1M tokens, batch
# 1024, lr .006): 4.69 at 0.02, 4.29 at 0.05, 4.26 at 0.08 nats/token.
_INIT_STD, _INIT_WIDTH = 0.02, 512


# Measured on GPT-2 shapes (stdlib text, vocabulary 1024, wsd; docs/log.md#e147), nats/token at lr .002, .004, .008, .016:
# L2 d64 on 2M tokens 3.127 3.040 3.039 3.246; L3 d96 on 3M 2.788 2.722 2.739 2.834; L4 d128 on 3M 2.608 2.561 2.666 2.802.
_LR_CAP = 4.5e-3
LR_BY_BATCH = 0.3  # between the two groups of the public grid: 0.35 and 0.27 (docs/log.md#e145)


def _capped(spec: ModelSpec, tokens: float) -> _Advice:
    return _Advice(
        lr=(steplaw_lr(params_non_embedding(spec), tokens) ** -2 + _LR_CAP**-2) ** -0.5,
        batch_tokens=steplaw_batch(tokens),
        batch_power=LR_BY_BATCH,
        source="lr and batch of StepLaw (Li et al. 2025), the lr bent below 4.5e-3 towards toy sizes, where StepLaw's "
        "diverges, and moved by (batch/StepLaw's)^0.3; measured: 0.14 % of loss given away in the mean and 0.36 % at "
        "worst on 41 public cells of 60M to 1.1B parameters, under 0.2 % on own sweeps of 100k to 800k; warm-up of as "
        "many tokens as parameters, at most a fifth of the shortest run (Porian et al. 2024)",
    )


def _width(spec: ModelSpec, tokens: float) -> _Advice:
    return _Advice(
        lr=min(_WIDTH_CAP, _LR_TIMES_WIDTH / spec.n_embd),
        source="lr in inverse proportion to width (Yang et al. 2022, muP): 0.4/width, measured on widths 32 to "
        "128, at most 1e-2; batch by StepLaw; warm-up of as many tokens as parameters, at most a fifth of the "
        "shortest run (Porian et al. 2024)",
    )


def _card(spec: ModelSpec, tokens: float) -> _Advice:
    knots = ((512, 1.5e-3), (640, 1.0e-3), (768, 6e-4))  # the family's own training files
    return _Advice(
        lr=_through(knots, spec.n_embd),
        batch_tokens=512 * 1024,
        weight_decay=0.0,
        beta2=0.999,
        warmup_steps=0.01 * tokens / (512 * 1024),
        source="the GPT-2 52M/83M/125M family's own training files; log-log between them, 1/width beyond",
    )


def _kaplan(spec: ModelSpec, tokens: float) -> _Advice:
    size = params_kaplan(spec)
    return _Advice(
        lr=0.003239 - 0.0001395 * math.log(size),  # appendix D.6, eq. D.1
        batch_tokens=KaplanFrontier().batch_tokens(size),
        warmup_steps=3000,  # section 2.2
        weight_decay=0.0,
        beta2=0.999,
        source="Kaplan et al. 2020: lr(N) of eq. D.1, the critical batch of table 6, 3000 steps of warm-up",
    )


def _porian(spec: ModelSpec, tokens: float) -> _Advice:
    size = params_non_embedding(spec) + spec.vocab_size * spec.n_embd  # they count the head, not the lookup
    return _Advice(
        lr=3.7 * size**-0.36,
        batch_tokens=0.7576 * size**0.703,
        weight_decay=0.1,
        source="Porian et al. 2024, arXiv:2406.19146: lr 3.7·N^-0.36, batch 0.7576·N^0.703 tokens, at 20 "
        "tokens per parameter; beta2 higher at small batches; warm-up of N tokens",
    )


def _deepseek(spec: ModelSpec, tokens: float) -> _Advice:
    head = 6 * spec.vocab_size * spec.n_embd  # their C is of the layers alone: 72·L·d² + 12·L·d·T a token
    compute = train_flops(spec, tokens) - head * tokens
    return _Advice(
        lr=0.3118 * compute**-0.1250,
        batch_tokens=0.2920 * compute**0.3271,
        warmup_steps=2000,
        beta2=0.95,
        source="Bi et al. 2024 (DeepSeek LLM), arXiv:2401.02954: lr 0.3118·C^-0.1250, "
        "batch 0.2920·C^0.3271 tokens with C of the layers without the head, 2000 steps of warm-up",
    )


def _steplaw(spec: ModelSpec, tokens: float) -> _Advice:
    return _Advice(
        lr=steplaw_lr(params_non_embedding(spec), tokens),
        batch_tokens=steplaw_batch(tokens),
        warmup_steps=2000,
        beta2=0.95,
        source="Li et al. 2025 (StepLaw), arXiv:2503.04715: lr 1.79·N^-0.713·D^0.307, "
        "batch 0.58·D^0.571 tokens",
    )


def steplaw_lr(params_non_embedding: float, tokens: float) -> float:
    """StepLaw's learning rate (Li et al. 2025, arXiv:2503.04715)."""
    return float(1.79 * params_non_embedding**-0.713 * tokens**0.307)


def steplaw_batch(tokens: float) -> float:
    """StepLaw's batch in tokens (Li et al. 2025, arXiv:2503.04715)."""
    return float(0.58 * tokens**0.571)


RULES: dict[str, Rule] = {
    "capped": _capped,
    "width": _width,
    "card": _card,
    "kaplan": _kaplan,
    "porian": _porian,
    "deepseek": _deepseek,
    "steplaw": _steplaw,
}


def recipe(
    spec: ModelSpec,
    tokens: float,
    *,
    rule: str = DEFAULT_RULE,
    schedule: Kind = "wsd",
    batch_tokens: float | None = None,
    batch_sequences: int | None = None,
    shortest: float | None = None,
) -> Recipe:
    """Return the recipe of a rule for a model and its tokens, rounded to whole sequences and steps.

    Args:
        spec: the model.
        tokens: training tokens.
        rule: a key of RULES.
        schedule: wsd or cosine.
        batch_tokens: tokens of a step in place of the rule's, for members of a ladder that share them.
        batch_sequences: sequences of a step, exactly, in place of the rule's, such as a multiple of the devices.
        shortest: tokens of the shortest run or rung with the same warm-up, which takes a fifth of it at most.

    Raises:
        BadInput: the rule is unknown, tokens are not positive, or the rule's learning rate is not positive.
    """
    if rule not in RULES:
        raise BadInput(f"rule is {rule!r}; {nearest(rule, RULES)}")
    if not (math.isfinite(tokens) and tokens >= 1):
        raise BadInput(f"tokens is {tokens:g}; it must be at least 1")
    advice = RULES[rule](spec, tokens)
    if advice.lr <= 0:
        raise BadInput(
            f"rule {rule} gives {spec.shape} a learning rate of {advice.lr:g}; it does not apply to this size"
        )
    requested = batch_tokens or advice.batch_tokens or steplaw_batch(tokens)
    sequences = batch_sequences or _whole_sequences(requested, spec.n_positions, tokens)
    batch = sequences * spec.n_positions
    steps = whole_steps(tokens, batch)
    warmup = (
        max(SHORTEST_WARMUP, params_non_embedding(spec) / batch)
        if advice.warmup_steps is None
        else advice.warmup_steps
    )
    longest = LONGEST_WARMUP * min(steps, (shortest or tokens) / batch)
    return Recipe(
        rule=rule,
        lr=_rounded(advice.lr * (batch / (advice.batch_tokens or batch)) ** advice.batch_power),
        batch_sequences=sequences,
        batch_tokens=batch,
        steps=steps,
        warmup_steps=int(min(warmup, longest)),
        weight_decay=advice.weight_decay,
        beta1=advice.beta1,
        beta2=_beta2(batch) if advice.beta2 is None else advice.beta2,
        grad_clip=1.0,
        init_std=_rounded(_INIT_STD * max(1.0, _INIT_WIDTH / spec.n_embd) ** 0.5),
        schedule=schedule,
        source=advice.source,
    )


def recipes(spec: ModelSpec, tokens: float) -> dict[str, Recipe]:
    """Return the recipe of every rule by its name; rules that do not apply to this size are left out."""
    advised = {}
    for name in RULES:
        try:
            advised[name] = recipe(spec, tokens, rule=name)
        except BadInput:
            continue
    return advised


def _beta2(batch_tokens: int) -> float:
    """Return beta2: longer averages at small batches, whose gradients are noisy (Porian et al. 2024, section 4)."""
    return 0.99 if batch_tokens < 2**18 else 0.95


def _whole_sequences(batch_tokens: float, n_positions: int, tokens: float) -> int:
    """Round to sequences per step: a multiple of 8 from 12 up, and few enough for 20 steps."""
    sequences = max(1.0, batch_tokens / n_positions)
    most = max(1, int(tokens / n_positions / 20))
    whole = 8 * round(sequences / 8) if sequences >= 12 else round(sequences)
    return max(1, min(whole, most))


def _rounded(value: float) -> float:
    """Round to three significant digits, the precision of a learning rate."""
    return float(f"{value:.3g}")


def _through(knots: tuple[tuple[int, float], ...], width: int) -> float:
    """Interpolate log-log; in proportion to 1/width beyond the ends."""
    if width <= knots[0][0]:
        return knots[0][1] * knots[0][0] / width
    for (x0, y0), (x1, y1) in pairwise(knots):
        if width <= x1:
            share = math.log(width / x0) / math.log(x1 / x0)
            return float(y0 ** (1 - share) * y1**share)
    return knots[-1][1] * knots[-1][0] / width
