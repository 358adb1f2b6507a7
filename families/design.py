"""Design rules: realisable model shapes from a size, a depth or a width, at a chosen ratio of width to depth."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .accounting import params
from .members import Family, Member
from .rules import Maker, maker
from .spec import LARGEST_SIZE, ModelSpec, nearest_divisors, nearest_multiples
from .units import BadInput, format_size

DEEP = 16  # layers from which depths are multiples of DEEP_MULTIPLE, so that pipeline stages split evenly (as 24, 36, 48)
DEEP_MULTIPLE = 4
SIZE_SLACK = 0.15  # relative error of the size above which the ratio is relaxed
NOTE_ABOVE = 0.1  # relative error of a size or width above which it is reported
DEEPEST = 1024
LONGEST = 10**8  # tokens of a vocabulary or of a context
LARGEST = 1e14  # parameters: about fifty times the largest model that was trained
USUAL = (15e6, 50e6, 150e6, 500e6, 1.5e9)  # sizes where only a ratio is given: from a pilot to GPT-2 xl


@dataclass(frozen=True, slots=True, kw_only=True)
class DesignRule:
    """Width follows depth: n_embd ≈ ratio·n_layer, rounded to a multiple of `head_size` (and of `multiple`).

    Args:
        ratio: n_embd per layer. GPT-2 small has 64, xl 33; loss is nearly flat from 32 to 128 (Kaplan et al. 2020, fig. 5).
        head_size: n_embd per attention head; 64 throughout GPT-2; 0 stands for the makers' choice at each width.
        n_positions: context length in tokens.
        vocab_size: tokens of the vocabulary.
        architecture: a name of `families.rules.MAKERS`, such as gpt2, llama3 or qwen3.
        multiple: a further divisor of n_embd, such as a tile of the matrix units times the tensor-parallel degree.
        kv_heads: key and value heads of grouped queries; 0 stands for the makers' choice.
        experts: routed experts of a layer, of a family that has them; 0 stands for the makers' choice.

    Raises:
        BadInput: a value is out of range.
    """

    ratio: float = 64.0
    head_size: int = 64
    n_positions: int = 1024
    vocab_size: int = 50257
    architecture: str = "gpt2"
    multiple: int = 1
    kv_heads: int = 0
    experts: int = 0

    def __post_init__(self) -> None:
        maker(self.architecture)
        if not (math.isfinite(self.ratio) and self.ratio > 0):
            raise BadInput(f"ratio is {self.ratio:g}; it must be positive (GPT-2 has 33 to 64)")
        if not 0.1 <= self.ratio <= 1e6:
            raise BadInput(f"ratio is {self.ratio:g}; it must be from 0.1 to 1,000,000 (GPT-2 has 33 to 64)")
        if self.head_size < 0:
            raise BadInput(f"head size is {self.head_size}; it must be at least 1 (GPT-2 has 64)")
        if self.kv_heads < 0:
            raise BadInput(f"key and value heads are {self.kv_heads}; there must be at least 1")
        for name, value in (("vocabulary", self.vocab_size), ("context", self.n_positions)):
            if not 1 <= value <= LONGEST:
                raise BadInput(f"{name} is {format_size(value)}; it must be from 1 to {format_size(LONGEST)}")
        if self.experts < 0:
            raise BadInput(f"experts is {self.experts}; there must be at least 1")
        if not 1 <= self.multiple <= LARGEST_SIZE:
            raise BadInput(f"multiple is {self.multiple}; it must be at least 1 and at most {LARGEST_SIZE:,}")

    @property
    def step(self) -> int:
        """Smallest width, of which all widths are multiples."""
        return math.lcm(self.head_size or self.maker.head(1), self.multiple)

    @property
    def maker(self) -> Maker:
        """The family's rule."""
        return maker(self.architecture)

    def widths(self, most: int) -> list[int]:
        """Return the widths up to `most` that the heads and the multiple divide."""
        found = range(self.step, most + 1, self.step)
        return [width for width in found if width % self._head(width) == 0]

    def _head(self, width: int) -> int:
        return self.head_size or self.maker.head(width)

    def name_of(self, spec: ModelSpec) -> str:
        """Return a name like llama3-1.2b-l16-d2048 from the family, the size and the shape."""
        return name_of(spec, self.architecture)

    def spec(self, n_layer: int, n_embd: int) -> ModelSpec:
        """Return the spec of this depth and of the realisable width nearest to `n_embd`."""
        step = math.lcm(self._head(n_embd), self.multiple)
        width = max(1, math.floor(n_embd / step + 0.5)) * step
        return self.maker.spec(
            n_layer,
            width,
            head_size=self._head(width) if width % self._head(width) == 0 else self._head(n_embd),
            n_positions=self.n_positions,
            vocab_size=self.vocab_size,
            kv_heads=self.kv_heads,
            experts=self.experts,
        )

    def at_width(self, n_embd: int) -> ModelSpec:
        """Return the spec of this width: depth from the ratio, at least 1 layer."""
        width = self.spec(1, n_embd).n_embd
        return self.spec(realisable_depth(width / self.ratio), width)

    def at_depth(self, n_layer: int) -> ModelSpec:
        """Return the spec of this depth: width from the ratio."""
        return self.spec(n_layer, round(self.ratio * n_layer))

    def at_params(self, size: float) -> ModelSpec:
        """Return the spec nearest to `size` parameters, embeddings included.

        Shapes at each depth are tried first; shapes at each width where those miss the size by more than 15 %.
        """
        best = _nearest(size, (self.at_depth(depth) for depth in depths()))
        if abs(_log_ratio(best, size)) <= math.log(1 + SIZE_SLACK):
            return best
        return self.nearest(size)

    def nearest(self, size: float) -> ModelSpec:
        """Return the spec nearest to `size` parameters among the shapes at each depth and at each width."""
        widths = (self.at_width(width) for width in itertools.count(self.step, self.step))
        at_depths = (self.at_depth(depth) for depth in depths())
        return min(
            (_nearest(size, at_depths), _nearest(size, widths)), key=lambda spec: abs(_log_ratio(spec, size))
        )

    def at_params_and_depth(self, size: float, n_layer: int) -> ModelSpec:
        """Return the spec of this depth whose width comes nearest to the size; the ratio does not apply."""
        return _nearest(size, (self.spec(n_layer, width) for width in itertools.count(self.step, self.step)))

    def at_params_and_width(self, size: float, n_embd: int) -> ModelSpec:
        """Return the spec of this width whose depth comes nearest to the size; the ratio does not apply."""
        return _nearest(size, (self.spec(depth, n_embd) for depth in range(1, DEEPEST)))


def rule_for(
    name: str = "gpt2",
    *,
    ratio: float | None = None,
    head_size: int | None = None,
    n_positions: int | None = None,
    vocab_size: int | None = None,
    multiple: int = 1,
    kv_heads: int = 0,
) -> DesignRule:
    """Return the rule of a family, with its makers' values where none is given.

    Args:
        name: the family, such as gpt2, llama3 or qwen3.
        ratio: n_embd per layer (default: the published members' median; 64 of GPT-2).
        head_size: n_embd per attention head.
        n_positions: context length in tokens.
        vocab_size: tokens of the vocabulary.
        multiple: a further divisor of n_embd.
        kv_heads: key and value heads of grouped queries.

    Raises:
        BadInput: no such family, or a value out of range.
    """
    found = maker(name)
    if head_size is not None and head_size < 1:
        raise BadInput(f"head size is {head_size}; it must be at least 1 (GPT-2 has 64)")
    constant = 0 if found.head_size is None else found.head(1)
    return DesignRule(
        ratio=found.ratio if ratio is None else ratio,
        head_size=constant if head_size is None else head_size,
        n_positions=found.n_positions if n_positions is None else n_positions,
        vocab_size=found.vocab_size if vocab_size is None else vocab_size,
        architecture=found.name,
        multiple=multiple,
        kv_heads=kv_heads,
    )


def realisable_depth(n_layer: float) -> int:
    """Round to a whole depth, at least 1; to a multiple of 4 from 16 layers on."""
    if n_layer >= DEEP:
        return DEEP_MULTIPLE * max(DEEP // DEEP_MULTIPLE, round(n_layer / DEEP_MULTIPLE))
    return max(1, round(n_layer))


def depths() -> Iterator[int]:
    """Yield all realisable depths in increasing order."""
    yield from range(1, DEEP)
    yield from range(DEEP, DEEPEST + 1, DEEP_MULTIPLE)


def _nearest(size: float, specs: Iterable[ModelSpec]) -> ModelSpec:
    """Return the spec nearest to the size, in ratio, of specs in increasing order.

    Raises:
        BadInput: the size is above LARGEST.
    """
    if not size <= LARGEST:
        raise BadInput(f"size is {format_size(size)} parameters; it must be at most {format_size(LARGEST)}")
    best: ModelSpec | None = None
    for spec in specs:
        if best is None or abs(_log_ratio(spec, size)) < abs(_log_ratio(best, size)):
            best = spec
        if params(spec) > 2 * size:
            break
    assert best is not None
    return best


def _log_ratio(spec: ModelSpec, size: float) -> float:
    return math.log(params(spec) / size)


def design_members(
    *,
    params: tuple[float, ...] = (),
    depth: tuple[int, ...] = (),
    width: tuple[int, ...] = (),
    ratio: float | None = None,
    head_size: int | None = None,
    n_positions: int | None = None,
    vocab_size: int | None = None,
    architecture: str = "gpt2",
    multiple: int = 1,
    kv_heads: int = 0,
) -> tuple[Member, ...]:
    """Design members from sizes, depths or widths and a ratio, from two of the three, or from a ratio alone.

    Args:
        params: parameters, embeddings included; with a ratio alone five sizes from 15M to 1.5B.
        depth: numbers of layers.
        width: values of n_embd.
        ratio: n_embd per layer (default: the family's; 64 of GPT-2).
        head_size: n_embd per attention head (default: the family's).
        n_positions: context length in tokens (default: the family's).
        vocab_size: tokens of the vocabulary (default: the family's).
        architecture: a family, such as gpt2, llama3, qwen3 or mixtral.
        multiple: a further divisor of n_embd.
        kv_heads: key and value heads of grouped queries (default: the family's).

    Raises:
        BadInput: nothing, all three, or two and a ratio are given, or a value is out of range.
    """
    dials = [name for name, values in (("params", params), ("depth", depth), ("width", width)) if values]
    if not dials and ratio is None:
        raise BadInput("params, depth and width are all missing; give one of them, or a ratio alone")
    if not dials:
        dials, params = ["params"], USUAL
    if len(dials) == 3:
        raise BadInput("params, depth and width are all given; two of them decide the third")
    if len(dials) == 2 and ratio is not None:
        raise BadInput(f"{dials[0]} and {dials[1]} decide the ratio; leave out --ratio {ratio:g}")
    rule = rule_for(
        architecture,
        ratio=ratio,
        head_size=head_size,
        n_positions=n_positions,
        vocab_size=vocab_size,
        multiple=multiple,
        kv_heads=kv_heads,
    )
    if dials == ["params"]:
        specs = [rule.at_params(size) for size in params]
    elif dials == ["depth"]:
        specs = [rule.at_depth(layers) for layers in depth]
    elif dials == ["width"]:
        specs = [rule.at_width(n_embd) for n_embd in width]
    elif dials == ["params", "depth"]:
        specs = [rule.at_params_and_depth(size, layers) for size in params for layers in depth]
    elif dials == ["params", "width"]:
        specs = [rule.at_params_and_width(size, n_embd) for size in params for n_embd in width]
    else:
        specs = [rule.spec(layers, n_embd) for layers in depth for n_embd in width]
    source = "chosen shape" if len(dials) == 2 else f"design rule, ratio {rule.ratio:g}"
    return tuple(
        Member(name=rule.name_of(spec), spec=spec, source=source)
        for spec in dict.fromkeys(map(_trainable, specs))
    )


def design(
    *,
    params: float | None = None,
    depth: int | None = None,
    width: int | None = None,
    ratio: float | None = None,
    head_size: int | None = None,
    n_positions: int | None = None,
    vocab_size: int | None = None,
    architecture: str = "gpt2",
    multiple: int = 1,
    kv_heads: int = 0,
) -> Member:
    """Design one realisable model from a size, a depth or a width and a rule, or from two of them.

    The shape is the nearest one that hardware likes: whole heads, and depths in fours from 16 layers on. Where no shape
    comes near the size, the nearest is returned; `Member.n_params` is exact.

    Args:
        params: number of parameters, embeddings included.
        depth: number of layers, n_layer.
        width: n_embd.
        ratio: n_embd per layer, 64 by default; GPT-2 small has 64, xl 33, and loss is nearly flat from 32 to 128
            (Kaplan et al. 2020, fig. 5). With two of the sizes given it follows from them.
        head_size: n_embd per attention head; by default the family's, 64 throughout GPT-2 (Radford et al. 2019).
        n_positions: context length in tokens; by default the family's, 1,024 of GPT-2.
        vocab_size: number of tokens in the vocabulary; by default the family's.
        architecture: a family, such as "gpt2", "llama3", "qwen3" or "mixtral".
        multiple: a number that n_embd must be divisible by besides the head size.
        kv_heads: key and value heads of grouped queries; by default the family's.

    Returns:
        The model, named after its architecture, size and shape.

    Raises:
        BadInput: none or all three of params, depth and width, two of them and a ratio, or a value out of range.

    Examples:
        >>> member = design(params=85e6, ratio=64)
        >>> member.name, member.n_params
        ('gpt2-82.1m-l10-d640', 82056320)
        >>> member.to_hf_config()["n_layer"]
        10
    """
    if params is None and depth is None and width is None:
        raise BadInput("params, depth and width are all missing; give one or two of them")
    (member,) = design_members(
        params=() if params is None else (params,),
        depth=() if depth is None else (depth,),
        width=() if width is None else (width,),
        ratio=ratio,
        head_size=head_size,
        n_positions=n_positions,
        vocab_size=vocab_size,
        architecture=architecture,
        multiple=multiple,
        kv_heads=kv_heads,
    )
    return member


def _trainable(spec: ModelSpec) -> ModelSpec:
    """Return the spec.

    Raises:
        BadInput: it has more than LARGEST parameters.
    """
    if params(spec) > LARGEST:
        raise BadInput(
            f"L{spec.n_layer} d{spec.n_embd} has {format_size(params(spec))} parameters; "
            f"at most {format_size(LARGEST)} are allowed"
        )
    return spec


def size_notes(members: Sequence[Member], sizes: Iterable[float]) -> list[str]:
    """Return a note for each size that the nearest member misses by more than 10 %.

    Args:
        members: designed members.
        sizes: requested parameters.
    """
    nearest = ((size, min(members, key=lambda one: abs(_log_ratio(one.spec, size))).spec) for size in sizes)
    return [note for size, spec in nearest if (note := size_note(size, spec))]


def width_notes(members: Sequence[Member], widths: Iterable[int], multiple: int = 1) -> list[str]:
    """Return a note for each width that no member has, with the nearest that can be had.

    Args:
        members: designed members.
        widths: requested values of n_embd.
        multiple: the further divisor of n_embd that was asked for.
    """
    notes = []
    for width in widths:
        spec = min((one.spec for one in members), key=lambda got: abs(math.log(got.n_embd / width)))
        if spec.n_embd != width:
            head = spec.n_embd // spec.n_head
            fitting = nearest_multiples(width, math.lcm(head, multiple))
            notes.append(
                f"width {width} requested, {spec.n_embd} designed: widths are multiples of --head-size ({head}) and "
                f"--multiple ({multiple}), the nearest {fitting}"
            )
    return notes


def kv_notes(members: Sequence[Member], kv_heads: int) -> list[str]:
    """Return a note for each member whose heads the key and value heads asked for do not divide.

    Args:
        members: designed members.
        kv_heads: requested key and value heads; 0 for the makers' choice.
    """
    return [
        f"{kv_heads} key and value heads requested, {one.spec.n_kv_head} designed for {one.name}: they must divide its "
        f"{one.spec.n_head} heads, and the nearest that do are "
        f"{' and '.join(map(str, nearest_divisors(one.spec.n_head, min(kv_heads, one.spec.n_head))))}"
        for one in members
        if kv_heads and one.spec.n_kv_head != kv_heads
    ]


def size_note(size: float, spec: ModelSpec) -> str:
    """Return a note where a spec misses the requested parameters by more than 10 %; else the empty string."""
    actual = params(spec)
    if abs(actual / size - 1) <= NOTE_ABOVE:
        return ""
    embedding = spec.vocab_size * spec.n_embd
    reason = (
        f"widths are multiples of {spec.n_embd // spec.n_head} (--head-size), at this ratio of width to depth"
    )
    if actual > size and embedding > size / 2:
        reason = (
            f"the embedding of {spec.vocab_size:,} tokens at width {spec.n_embd} has {format_size(embedding)}; a smaller "
            "--vocab or --head-size comes nearer"
        )
    return (
        f"{format_size(size)} parameters requested, {format_size(actual)} designed "
        f"({100 * (actual / size - 1):+,.0f} %): {reason}"
    )


def name_of(spec: ModelSpec, family: str = "") -> str:
    """Return a name like gpt2-1.2m-l3-d96, safe as the name of a folder.

    Args:
        spec: the shape, whose size and shape are in the name.
        family: what it begins with (default: the architecture).
    """
    kind = family or spec.architecture
    return f"{kind}-{format_size(params(spec)).lower()}-l{spec.n_layer}-d{spec.n_embd}"


def design_family(rule: DesignRule, widths: tuple[int, ...], name: str = "designed") -> Family:
    """Design one member for each width, smallest first."""
    source = f"design rule, ratio {rule.ratio:g}"
    specs = sorted((rule.at_width(width) for width in widths), key=params)
    members = tuple(Member(name=rule.name_of(spec), spec=spec, source=source) for spec in specs)
    return Family(name=name, members=members, source=source)
