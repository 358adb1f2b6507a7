"""The shapes a plan chooses from, as arrays: a published family, a design rule's members, or a whole grid."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from families import FAMILIES, MEMBERS, Member, ModelSpec, accounting, family, member
from families.configs import is_config_path
from families.design import DEEPEST, DesignRule, name_of, rule_for
from families.rules import MAKERS, is_rule, maker
from families.spec import SIZES
from families.units import BadInput, format_size, nearest, parse_size

Ints = NDArray[np.int64]
WIDEST = 16384  # of designed candidates; GPT-3 has 12288
FLAT = (32.0, 128.0)  # n_embd per layer within which shape costs next to no loss (Kaplan et al. 2020, fig. 5)
_GPT2 = ("gpt2-kaplan", "gpt2")
LISTS = (*_GPT2, "gpt2-deep-shallow", "bert", "llama")  # names that mean the published members, not a rule


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """Shapes of one architecture, smallest first: ModelSpec's sizes as arrays of shape (n,).

    The arithmetic of `families.accounting` is plain + and ·, so it counts all shapes of one config at once.

    Args:
        configs: the different `ModelSpec.config` among them; `kind` has the index of each shape's.
        family: what the names of designed shapes begin with; the architecture, where it is empty.
        coarse: name of a list of published members, of which there are few; empty for a rule.
    """

    architecture: str
    n_layer: Ints
    n_head: Ints
    n_embd: Ints
    n_inner: Ints
    n_positions: Ints
    vocab_size: Ints
    n_kv_head: Ints
    kind: Ints
    configs: tuple[Mapping[str, Any], ...]
    named: Mapping[ModelSpec, Member]
    family: str = ""
    coarse: str = ""

    def __len__(self) -> int:
        return len(self.n_layer)

    def chosen(self, mask: NDArray[np.bool_] | Ints) -> "Candidates":
        """Those where the mask of shape (n,) is true, or those of integer indices."""
        columns = {name: getattr(self, name)[mask] for name in (*SIZES, "kind")}
        return replace(self, **columns)

    def count(self, of: Callable[[ModelSpec], Any]) -> NDArray[Any]:
        """What a function of `families.accounting` counts for each, shape (n,)."""
        found = np.zeros(len(self), dtype=np.int64)
        for kind, config in enumerate(self.configs):
            rows = np.flatnonzero(self.kind == kind)
            if len(rows) == 1:
                found[rows[0]] = of(self.spec(int(rows[0])))
            elif len(rows):
                found[rows] = of(cast(ModelSpec, _Shapes(self, rows, config)))
        return found

    @property
    def params(self) -> Ints:
        """All parameters of each."""
        return self.count(accounting.params)

    @property
    def flops_per_token(self) -> Ints:
        """Exact training FLOPs per token of each."""
        return self.count(accounting.train_flops_per_token)

    def spec(self, index: int) -> ModelSpec:
        """The shape of one of them."""
        fields: dict[str, Any] = {name: int(getattr(self, name)[index]) for name in SIZES}
        config = self.configs[int(self.kind[index])]
        return ModelSpec(architecture=self.architecture, config=config, **fields)

    def member(self, index: int) -> Member:
        """One of them, under its published name where it has one."""
        spec = self.spec(index)
        return self.named.get(spec) or Member(
            name=name_of(spec, self.family), spec=spec, source="design rule"
        )

    @classmethod
    def of(cls, members: Iterable[Member], family: str = "", coarse: str = "") -> "Candidates":
        """From members; of two with one shape the first gives its name.

        Args:
            members: of one architecture.
            family: what the names of further shapes begin with.
            coarse: name of the list of published members that they are.

        Raises:
            BadInput: none, or of more than one architecture.
        """
        named: dict[ModelSpec, Member] = {}
        for each in members:
            named.setdefault(each.spec, each)
        kinds = {spec.architecture for spec in named}
        if len(kinds) != 1:
            raise BadInput(f"candidates are of {len(kinds)} architectures; one law needs exactly 1")
        return _sorted(kinds.pop(), list(named), named, family, coarse)


class _Shapes:
    """Shapes of one config as arrays, with the names of a ModelSpec's fields."""

    def __init__(self, shapes: Candidates, rows: Ints, config: Mapping[str, Any]) -> None:
        self.architecture, self.config = shapes.architecture, config
        for name in SIZES:
            setattr(self, name, getattr(shapes, name)[rows])


def _sorted(
    architecture: str,
    specs: Sequence[ModelSpec],
    named: Mapping[ModelSpec, Member],
    family: str,
    coarse: str = "",
) -> Candidates:
    """Candidates of specs, smallest first."""
    kinds = {config: kind for kind, config in enumerate(dict.fromkeys(spec.config for spec in specs))}
    columns: dict[str, Any] = {
        name: np.array([getattr(spec, name) for spec in specs], dtype=np.int64) for name in SIZES
    }
    unsorted = Candidates(
        architecture=architecture,
        kind=np.array([kinds[spec.config] for spec in specs], dtype=np.int64),
        configs=tuple(kinds),
        named=named,
        family=family,
        coarse=coarse,
        **columns,
    )
    return unsorted.chosen(np.argsort(unsorted.params, kind="stable"))


def is_own_rule(name: str | None) -> bool:
    """True for the name of a family that is a rule, and not also that of a list of published members."""
    return name is not None and is_rule(name) and name.strip().lower() not in LISTS


def at_context(each: Member, context: int) -> Member:
    """A member trained at a shorter context than its own, under a name that says so.

    Args:
        each: the member.
        context: in tokens.

    Raises:
        BadInput: the member does not reach so far.
    """
    if context > each.spec.n_positions:
        raise BadInput(
            f"context is {context:,}; {each.name} reaches {each.spec.n_positions:,} tokens, and a plan can shorten that only"
        )
    if context == each.spec.n_positions:
        return each
    spec = replace(each.spec, n_positions=context)
    return Member(name=f"{each.name}-ctx{context}", spec=spec, source=each.source)


def candidates(name: str = "all", rule: DesignRule | None = None, context: int | None = None) -> Candidates:
    """Candidate shapes by name.

    Args:
        name: a published family or member, the path of a config.json, or a family that is a rule, such as llama3, whose
            shapes are a grid; "all" for the rule's own at every width, and GPT-2's published members; "grid" for every depth
            and width whose ratio is between 32 and 128, about 30,000 shapes.
        rule: design rule of "all", "grid" and of a family that is one.
        context: in tokens, in place of published members' own.

    Raises:
        BadInput: no such family, or a member that does not reach so far.
    """
    key = name.strip().lower()

    def published_of(members: Iterable[Member], coarse: str = "") -> Candidates:
        return Candidates.of(
            members if context is None else [at_context(each, context) for each in members], coarse=coarse
        )

    if key not in ("all", "grid") and key in LISTS:
        return published_of(family(key).members, key)
    if is_rule(key):
        rule = rule if rule is not None and rule.architecture == maker(key).name else rule_for(key)
        key = "grid"
    rule = rule or DesignRule()
    if rule.step > WIDEST:
        raise BadInput(f"widths come in multiples of {rule.step:,}; candidates go up to {WIDEST:,}")
    if key == "grid":
        return _grid(rule)
    if key != "all":
        if key in FAMILIES:
            return published_of(family(key).members, key)
        if key in MEMBERS or is_config_path(name):
            return published_of([member(name)])
        raise BadInput(
            f"family is {name!r}; {nearest(name, ('all', 'grid', *LISTS, *MAKERS, *FAMILIES), shown=40)}"
        )
    published = [each for kind in _GPT2 for each in FAMILIES[kind].members] if rule == DesignRule() else []
    source = f"design rule, ratio {rule.ratio:g}"
    designed = (
        Member(name=rule.name_of(spec), spec=spec, source=source)
        for spec in map(rule.at_width, rule.widths(WIDEST))
    )
    return Candidates.of([*published, *designed], family=rule.architecture)


def _grid(rule: DesignRule) -> Candidates:
    depths, widths = np.arange(1, DEEPEST // 4 + 1), rule.widths(WIDEST)
    layers, column = (
        axis.ravel().astype(np.int64) for axis in np.meshgrid(depths, np.arange(len(widths)), indexing="ij")
    )
    wide = np.array(widths, dtype=np.int64)[column]
    flat = (wide >= FLAT[0] * layers) & (wide <= FLAT[1] * layers)
    layers, column = layers[flat], column[flat]
    of_width = [rule.spec(1, width) for width in widths]  # all but the depth follows from the width
    kinds = {config: kind for kind, config in enumerate(dict.fromkeys(spec.config for spec in of_width))}
    columns: dict[str, Any] = {
        name: np.array([getattr(spec, name) for spec in of_width], dtype=np.int64)[column] for name in SIZES
    }
    unsorted = Candidates(
        architecture=rule.maker.architecture,
        kind=np.array([kinds[spec.config] for spec in of_width], dtype=np.int64)[column],
        configs=tuple(kinds),
        named=_published(rule),
        family=rule.architecture,
        **{**columns, "n_layer": layers},
    )
    return unsorted.chosen(np.argsort(unsorted.params, kind="stable"))


def _published(rule: DesignRule) -> dict[ModelSpec, Member]:
    """The published members that may be among a rule's shapes, by their shape."""
    kinds = _GPT2 if rule.architecture == "gpt2" else (rule.maker.published,)
    return {each.spec: each for kind in reversed(kinds) for each in FAMILIES[kind].members}


def designed(size: float, rule: DesignRule) -> Candidates:
    """The shape nearest to a size: of the rule, or of GPT-2's published members under the default rule."""
    nearest_shape = rule.nearest(size)
    known = _published(rule)
    shapes = [nearest_shape, *known] if rule == DesignRule() else [nearest_shape]
    spec = min(shapes, key=lambda shape: abs(math.log(accounting.params(shape) / size)))
    found = known.get(spec) or Member(name=rule.name_of(spec), spec=spec, source="design rule")
    return Candidates.of([found], family=rule.architecture)


def instead_of(name: str) -> str:
    """The option that designs shapes like those of a list of published members."""
    own = next((rule.name for rule in MAKERS.values() if name.strip().lower() == rule.published), "")
    return f"--family {own}" if own and own not in LISTS else "--family grid"


COARSE = 0.1  # relative error of a size above which a published family has no member for it


def sized(
    sizes: Sequence[float], name: str | None, rule: DesignRule, context: int | None = None
) -> Candidates:
    """The shape nearest to each size, of the rule or of a published family.

    Args:
        sizes: parameters.
        name: a published family; None, "all" and "grid" for designed shapes.
        rule: design rule of designed shapes.
        context: in tokens, in place of published members' own.

    Raises:
        BadInput: no such family, or a published family has no member within 10 % of a size.
    """
    if name is None or name.strip().lower() in ("all", "grid") or is_own_rule(name):
        return Candidates.of([designed(size, rule).member(0) for size in sizes], family=rule.architecture)
    listed = candidates(name, rule, context)
    members = [listed.member(index) for index in range(len(listed))]
    chosen = []
    for size in sizes:
        near = min(members, key=lambda one: abs(math.log(accounting.params(one.spec) / size)))
        if abs(accounting.params(near.spec) / size - 1) > COARSE:
            raise BadInput(
                f"family {name} has no member of about {format_size(size)} parameters; the nearest is {near.name} with "
                f"{format_size(accounting.params(near.spec))}: {instead_of(name)} designs a shape of any size"
            )
        chosen.append(near)
    return Candidates.of(chosen)


def named(text: str) -> Member | None:
    """Return the published member of that name, or of the config.json at that path; None for a size like 125M.

    Raises:
        BadInput: neither a name, a path nor a size.
    """
    if is_config_path(text):
        return member(text)
    published = MEMBERS.get(text.strip().lower())
    if published is None:
        try:
            parse_size(text, "target")
        except BadInput as error:
            raise BadInput(
                f"target is {text!r}; a size like 125M, or a member: {nearest(text, MEMBERS)}"
            ) from error
    return published


def named_or_designed(text: str, rule: DesignRule) -> Member:
    """Return the published member of that name, or the shape nearest to a size like 125M.

    Raises:
        BadInput: neither a member's name nor a size.
    """
    return named(text) or designed(parse_size(text, "target"), rule).member(0)
