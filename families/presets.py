"""Published members, each with its source."""

from .errors import BadInput
from .spec import Family, Member, ModelSpec
from .units import nearest

_CARD = "MosaicML Composer's GPT-2 model card: the Pareto members under Kaplan's law"
_RADFORD = "Radford et al. 2019, as published on the Hugging Face hub"


def _gpt2(name: str, n_layer: int, n_embd: int, n_head: int, source: str) -> Member:
    return Member(name=name, spec=ModelSpec(n_layer=n_layer, n_embd=n_embd, n_head=n_head), source=source)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="gpt2-kaplan",
            source=_CARD,
            members=(
                _gpt2("gpt2-52m", 8, 512, 8, _CARD),
                _gpt2("gpt2-83m", 10, 640, 10, _CARD),
                _gpt2("gpt2-125m", 12, 768, 12, _CARD),
            ),
        ),
        Family(
            name="gpt2",
            source=_RADFORD,
            members=(
                _gpt2("gpt2", 12, 768, 12, _RADFORD),
                _gpt2("gpt2-medium", 24, 1024, 16, _RADFORD),
                _gpt2("gpt2-large", 36, 1280, 20, _RADFORD),
                _gpt2("gpt2-xl", 48, 1600, 25, _RADFORD),
            ),
        ),
    )
}

MEMBERS: dict[str, Member] = {
    member.name: member for family in FAMILIES.values() for member in family.members
}


def member(name: str) -> Member:
    """The published member of that name, in any case.

    Raises:
        BadInput: with the nearest match.
    """
    found = MEMBERS.get(name.strip().lower())
    if found is None:
        raise BadInput(f"family is {name!r}; {nearest(name, MEMBERS)}")
    return found


def family(name: str) -> Family:
    """The published family of that name."""
    found = FAMILIES.get(name.strip().lower())
    if found is None:
        raise BadInput(f"family is {name!r}; {nearest(name, FAMILIES)}")
    return found
