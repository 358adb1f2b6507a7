"""The shapes a plan chooses from, as arrays: a published family, a design rule's members, or a whole grid."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from families import FAMILIES, MEMBERS, Member, ModelSpec, accounting, family
from families.architectures import architecture
from families.design import DEEPEST, DesignRule, name_of
from families.spec import SIZES
from families.units import BadInput, format_size, nearest, parse_size

Ints = NDArray[np.int64]
WIDEST = 16384  # of designed candidates; GPT-3 has 12288
FLAT = (32.0, 128.0)  # n_embd per layer within which shape costs next to no loss (Kaplan et al. 2020, fig. 5)
_GPT2 = ("gpt2-kaplan", "gpt2")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """Shapes of one architecture, smallest first: ModelSpec's fields as arrays of shape (n,).

    The arithmetic of `families.accounting` is plain + and ·, so it counts all of them at once.
    """

    architecture: str
    n_layer: Ints
    n_head: Ints
    n_embd: Ints
    n_inner: Ints
    n_positions: Ints
    vocab_size: Ints
    n_kv_head: Ints
    named: Mapping[ModelSpec, Member]

    def __len__(self) -> int:
        return len(self.n_layer)

    @property
    def as_spec(self) -> ModelSpec:
        """Itself, for functions that count a ModelSpec's fields."""
        return cast(ModelSpec, self)

    def chosen(self, mask: NDArray[np.bool_]) -> "Candidates":
        """Those where the mask of shape (n,) is true."""
        columns = {name: getattr(self, name)[mask] for name in SIZES}
        return replace(self, **columns)

    @property
    def params(self) -> Ints:
        """All parameters of each."""
        return np.asarray(accounting.params(self.as_spec))

    @property
    def flops_per_token(self) -> Ints:
        """Exact training FLOPs per token of each."""
        return np.asarray(accounting.train_flops_per_token(self.as_spec))

    def member(self, index: int) -> Member:
        """One of them, under its published name where it has one."""
        fields: dict[str, Any] = {name: int(getattr(self, name)[index]) for name in SIZES}
        spec = ModelSpec(architecture=self.architecture, **fields)
        return self.named.get(spec) or Member(name=name_of(spec), spec=spec, source="design rule")

    @classmethod
    def of(cls, members: Iterable[Member]) -> "Candidates":
        """From members; of two with one shape the first gives its name.

        Raises:
            BadInput: none, or of more than one architecture.
        """
        named: dict[ModelSpec, Member] = {}
        for member in members:
            named.setdefault(member.spec, member)
        kinds = {spec.architecture for spec in named}
        if len(kinds) != 1:
            raise BadInput(f"candidates are of {len(kinds)} architectures; one law needs exactly 1")
        specs = sorted(named, key=accounting.params)
        columns = {name: np.array([getattr(spec, name) for spec in specs], dtype=np.int64) for name in SIZES}
        return cls(architecture=kinds.pop(), named=named, **columns)


def candidates(name: str = "all", rule: DesignRule | None = None) -> Candidates:
    """Candidate shapes by name.

    Args:
        name: a published family; "all" for GPT-2's published members and the rule's own at every width; "grid" for every
            depth and width whose ratio is between 32 and 128, about 30,000 shapes.
        rule: design rule of "all" and "grid".

    Raises:
        BadInput: no such family.
    """
    rule = rule or DesignRule()
    if rule.step > WIDEST:
        raise BadInput(f"widths come in multiples of {rule.step:,}; candidates go up to {WIDEST:,}")
    key = name.strip().lower()
    if key == "grid":
        return _grid(rule)
    if key != "all":
        if key not in FAMILIES:
            raise BadInput(f"family is {name!r}; {nearest(name, ('all', 'grid', *FAMILIES))}")
        return Candidates.of(family(key).members)
    published = (
        [member for kind in _GPT2 for member in FAMILIES[kind].members] if rule == DesignRule() else []
    )
    widths = range(rule.step, WIDEST + 1, rule.step)
    source = f"design rule, ratio {rule.ratio:g}"
    designed = (Member(name=name_of(spec), spec=spec, source=source) for spec in map(rule.at_width, widths))
    return Candidates.of([*published, *designed])


def _grid(rule: DesignRule) -> Candidates:
    depths, widths = np.arange(1, DEEPEST // 4 + 1), np.arange(rule.step, WIDEST + 1, rule.step)
    layers, wide = (axis.ravel().astype(np.int64) for axis in np.meshgrid(depths, widths, indexing="ij"))
    flat = (wide >= FLAT[0] * layers) & (wide <= FLAT[1] * layers)
    layers, wide = layers[flat], wide[flat]
    inner = {int(width): architecture(rule.architecture).default_inner(int(width)) for width in widths}
    heads = wide // rule.head_size
    columns: dict[str, Any] = {
        "n_layer": layers,
        "n_head": heads,
        "n_embd": wide,
        "n_inner": np.array([inner[width] for width in wide.tolist()], dtype=np.int64),
        "n_positions": np.full(len(wide), rule.n_positions, dtype=np.int64),
        "vocab_size": np.full(len(wide), rule.vocab_size, dtype=np.int64),
        "n_kv_head": heads,
    }
    named = {member.spec: member for kind in reversed(_GPT2) for member in FAMILIES[kind].members}
    unsorted = Candidates(architecture=rule.architecture, named=named, **columns)
    order = np.argsort(unsorted.params, kind="stable")
    return Candidates(
        architecture=rule.architecture, named=named, **{key: column[order] for key, column in columns.items()}
    )


def designed(size: float, rule: DesignRule) -> Candidates:
    """The shape nearest to a size: of the rule, or of GPT-2's published members under the default rule."""
    nearest_shape = rule.nearest(size)
    known = {member.spec: member for kind in reversed(_GPT2) for member in FAMILIES[kind].members}
    shapes = [nearest_shape, *known] if rule == DesignRule() else [nearest_shape]
    spec = min(shapes, key=lambda shape: abs(math.log(accounting.params(shape) / size)))
    return Candidates.of([known.get(spec) or Member(name=name_of(spec), spec=spec, source="design rule")])


COARSE = 0.1  # relative error of a size above which a published family has no member for it


def sized(sizes: Sequence[float], name: str | None, rule: DesignRule) -> Candidates:
    """The shape nearest to each size, of the rule or of a published family.

    Args:
        sizes: parameters.
        name: a published family; None, "all" and "grid" for designed shapes.
        rule: design rule of designed shapes.

    Raises:
        BadInput: no such family, or a published family has no member within 10 % of a size.
    """
    if name is None or name.strip().lower() in ("all", "grid"):
        return Candidates.of([designed(size, rule).member(0) for size in sizes])
    members = [candidates(name, rule).member(index) for index in range(len(candidates(name, rule)))]
    chosen = []
    for size in sizes:
        near = min(members, key=lambda one: abs(math.log(accounting.params(one.spec) / size)))
        if abs(accounting.params(near.spec) / size - 1) > COARSE:
            raise BadInput(
                f"family {name} has no member of about {format_size(size)} parameters; the nearest is {near.name} with "
                f"{format_size(accounting.params(near.spec))}: leave out --family for a designed shape"
            )
        chosen.append(near)
    return Candidates.of(chosen)


def named_or_designed(text: str, rule: DesignRule) -> Member:
    """Return the published member of that name, or the shape nearest to a size like 125M.

    Raises:
        BadInput: neither a member's name nor a size.
    """
    published = MEMBERS.get(text.strip().lower())
    return published or designed(parse_size(text, "target"), rule).member(0)
