"""Published constants as laws, with where they come from and the domain they were fitted on."""

from dataclasses import dataclass

from families.errors import BadInput
from families.units import nearest

from .domain import Domain
from .laws import KaplanFrontier, Law, kaplan_law
from .runs import Convention


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedLaw:
    """Constants from a paper. `domain` is (smallest, largest) of N, D; `superseded_by` names a better fit of the same data."""

    name: str
    law: Law
    convention: Convention
    source: str
    domain_N: tuple[float, float]
    domain_D: tuple[float, float]
    text: str  # the corpus and tokenizer, since nats per token compare only within one
    superseded_by: str = ""
    frontier: KaplanFrontier | None = None

    @property
    def domain(self) -> Domain:
        """What it was fitted on; compute as 6·N·D."""
        return Domain.of_ranges(self.domain_N, self.domain_D)


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
_ALIASES = {"besiroglu": "chinchilla"}


def published(name: str) -> PublishedLaw:
    """The published law of that name.

    Raises:
        BadInput: with the nearest match.
    """
    key = name.strip().lower()
    found = PUBLISHED.get(_ALIASES.get(key, key))
    if found is None:
        raise BadInput(
            f"law is {name!r}; {nearest(name, [*PUBLISHED, *_ALIASES])}, or the path of a law.json"
        )
    return found
