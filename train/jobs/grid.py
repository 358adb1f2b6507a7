"""The grid of a sweep: every combination of the values that are given as lists. Imports no torch."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from families.units import BadInput, listed

# What a sweep is over: these are compared with each other, best first …
TUNED = (
    "lr", "batch_size", "warmup", "weight_decay", "beta1", "beta2", "grad_clip", "dropout", "init_std", "optimizer",
)  # fmt: skip

# … within each of these, which make a cell of their own. Seeds are averaged over.
CELLS = ("family", "n_layer", "n_head", "n_embd", "n_inner", "n_positions", "vocab_size", "init")

SWEPT = (*TUNED, *CELLS, "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One run of a sweep: its key=value words, and the values that it has of the lists."""

    words: tuple[str, ...]
    chosen: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """Suffix that distinguishes the name of the run, which already contains the family and the seed."""
        return "-".join(
            f"{key}{value.rstrip('/').rsplit('/', 1)[-1]}"
            for key, value in self.chosen
            if key not in ("family", "seed")
        )


def expand(words: Sequence[str]) -> tuple[Point, ...]:
    """Return every combination of the values given as lists: lr=1e-3,2e-3 batch_size=8,16 are four runs.

    Raises:
        BadInput: a value is empty or given twice.
    """
    lists: list[list[tuple[str, str]]] = []
    for word in words:
        key, _, value = word.partition("=")
        if key not in SWEPT or "," not in value:
            continue
        values = listed(value, key)
        if "" in values or len(set(values)) < len(values):
            raise BadInput(f"{key} is {value!r}; each value of a sweep must be there, and once")
        lists.append([(key, part) for part in values])
    swept = {pairs[0][0] for pairs in lists}
    fixed = tuple(word for word in words if word.partition("=")[0] not in swept)
    return tuple(
        Point(words=(*fixed, *(f"{key}={value}" for key, value in chosen)), chosen=chosen)
        for chosen in itertools.product(*lists)
    )
