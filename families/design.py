"""A rule turns one dial into realisable members: shapes a GPU likes, at a chosen depth-to-width ratio."""

import math
from dataclasses import dataclass

from .accounting import params
from .errors import BadInput
from .spec import Family, Member, ModelSpec
from .units import format_size


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignRule:
    """Width follows depth: n_embd ≈ ratio·n_layer, rounded to a multiple of `head_size`.

    ratio: n_embd per layer. GPT-2 small has 64, xl 33; loss is nearly flat from 32 to 128 (Kaplan et al. 2020, fig. 5).
    head_size: n_embd per attention head. 64 throughout GPT-2.
    """

    ratio: float = 64.0
    head_size: int = 64
    n_positions: int = 1024
    vocab_size: int = 50257
    architecture: str = "gpt2"

    def __post_init__(self) -> None:
        if self.ratio <= 0:
            raise BadInput(f"ratio is {self.ratio:g}; it must be positive (GPT-2 has 33 to 64)")
        if self.head_size < 1:
            raise BadInput(f"head size is {self.head_size}; it must be at least 1 (GPT-2 has 64)")

    def at_width(self, n_embd: int) -> ModelSpec:
        """The spec of that width: depth from the ratio, at least 1 layer."""
        heads = max(1, round(n_embd / self.head_size))
        width = heads * self.head_size
        return ModelSpec(
            architecture=self.architecture,
            n_layer=max(1, round(width / self.ratio)),
            n_head=heads,
            n_embd=width,
            n_positions=self.n_positions,
            vocab_size=self.vocab_size,
        )

    def at_depth(self, n_layer: int) -> ModelSpec:
        """The spec of that depth."""
        heads = max(1, round(self.ratio * n_layer / self.head_size))
        return ModelSpec(
            architecture=self.architecture,
            n_layer=n_layer,
            n_head=heads,
            n_embd=heads * self.head_size,
            n_positions=self.n_positions,
            vocab_size=self.vocab_size,
        )

    def at_params(self, size: float) -> ModelSpec:
        """The spec nearest to that many parameters (all of them) in ratio."""
        best = self.at_width(self.head_size)
        width = self.head_size
        while True:
            spec = self.at_width(width)
            if abs(_log_ratio(spec, size)) < abs(_log_ratio(best, size)):
                best = spec
            if params(spec) > 2 * size:
                return best
            width += self.head_size


def _log_ratio(spec: ModelSpec, size: float) -> float:
    return math.log(params(spec) / size)


def name_of(spec: ModelSpec) -> str:
    """gpt2-1.2m-l3-d96: architecture, size and shape, safe as a folder's name."""
    return f"{spec.architecture}-{format_size(params(spec)).lower()}-l{spec.n_layer}-d{spec.n_embd}"


def design_family(rule: DesignRule, widths: tuple[int, ...], name: str = "designed") -> Family:
    """One member for each width, smallest first."""
    specs = sorted((rule.at_width(width) for width in widths), key=params)
    members = tuple(Member(name=name_of(spec), spec=spec, source=f"design rule, ratio {rule.ratio:g}") for spec in specs)
    return Family(name=name, members=members, source=f"design rule, ratio {rule.ratio:g}")
