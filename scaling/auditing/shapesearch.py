"""The shapes that a rounded parameter count could have come from."""

import math
from dataclasses import dataclass

from families import ModelSpec, params

from .stated import Stated

_GENERATOR = "an earlier generator of the same GPT-2 family (heads of 48, feed-forward not 4·d)"
EARLIER: tuple[tuple[int, int, int, int], ...] = (
    # n_layer, n_embd, n_inner, n_head: shapes under which the 52M, 83M and 125M members were first sized
    (6, 576, 2376, 12),
    (8, 720, 2800, 15),
    (9, 816, 3320, 17),
)
_HEADS = (32, 48, 64, 80, 96, 128)  # widths of an attention head that people use
_INNER = (3.5, 4.5)  # n_inner per n_embd of GPT-2-like shapes
_ASPECT = (24.0, 144.0)  # n_embd per layer
_TILE = 8  # n_inner comes in multiples of this
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A shape whose count prints as a stated one."""

    spec: ModelSpec
    source: str = ""

    @property
    def count(self) -> int:
        """All its parameters."""
        return params(self.spec)

    def __str__(self) -> str:
        spec = self.spec
        return f"L{spec.n_layer} d{spec.n_embd} ff{spec.n_inner} h{spec.n_head} ({self.count:,})"


def explanations(count: Stated, like: ModelSpec) -> tuple[tuple[Shape, ...], int]:
    """Shapes whose parameters print as `count`: known ones first, then those most like GPT-2; and how many fit.

    Args:
        like: vocabulary and context, and the depth-to-width ratio that a plausible shape is near.
    """
    known = [
        Shape(spec=spec, source=_GENERATOR)
        for layers, width, inner, heads in EARLIER
        if count.agrees(params(spec := _spec(like, layers, width, inner, heads)))
    ]
    aspect = like.n_embd / like.n_layer
    found: list[tuple[float, Shape]] = []
    for layers in range(2, 65):
        low, high = (max(_TILE, round(ratio * layers)) for ratio in _ASPECT)
        for width in range(low - low % 16, high + 1, 16):
            head = next((size for size in (64, *_HEADS) if width % size == 0), None)
            if head is None:
                continue
            for inner in _inners(count, like, layers, width):
                spec = _spec(like, layers, width, inner, width // head)
                oddity = abs(inner / width - 4) + 0.2 * abs(math.log(width / layers / aspect))
                found.append((oddity + (0.05 if head != 64 else 0), Shape(spec=spec)))
    found.sort(key=lambda pair: pair[0])
    distinct = {(shape.spec.n_layer, shape.spec.n_embd): shape for shape in known}
    for _, shape in found:
        distinct.setdefault((shape.spec.n_layer, shape.spec.n_embd), shape)
    return tuple(distinct.values())[: len(known) + _SHOWN], len(found)


def _spec(like: ModelSpec, layers: int, width: int, inner: int, heads: int) -> ModelSpec:
    return ModelSpec(
        n_layer=layers,
        n_embd=width,
        n_inner=inner,
        n_head=heads,
        n_positions=like.n_positions,
        vocab_size=like.vocab_size,
    )


def _inners(count: Stated, like: ModelSpec, layers: int, width: int) -> range:
    """The feed-forward widths with which that depth and width print as `count`: parameters are linear in n_inner."""
    base = params(_spec(like, layers, width, 1, 1))
    slope = layers * (2 * width + 1)
    low = max(1 + (count.value - count.unit / 2 - base) / slope, _INNER[0] * width)
    high = min(1 + (count.value + count.unit - base) / slope, _INNER[1] * width)
    return range(_TILE * math.ceil(low / _TILE), math.floor(high) + 1, _TILE)
