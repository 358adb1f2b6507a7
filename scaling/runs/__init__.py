"""Run: one observation of a training run, the contract between whoever makes runs and whoever learns from them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from families.units import BadInput

from ..files import Record
from ..laws import Convention

RUNS_VERSION = 1


class Run(Record):
    """One observation (docs/formats.md). Losses are in nats per token; rows of one training run share `run`."""

    run: str = Field(min_length=1)
    group: str = ""
    params: float | None = Field(default=None, gt=0)
    params_non_embedding: float | None = Field(default=None, gt=0)
    tokens: float = Field(gt=0)
    loss: float = Field(gt=0)
    unique_tokens: float | None = Field(default=None, gt=0)
    compute: float | None = Field(default=None, gt=0)
    compute_kind: Literal["exact", "6ND"] | None = None
    annealed: bool = True
    schedule: str = ""
    loss_se: float | None = Field(default=None, ge=0)
    seed: int | None = None
    eval_set: str = ""
    n_positions: int | None = Field(default=None, gt=0)
    vocab_size: int | None = Field(default=None, gt=0)
    batch_tokens: float | None = Field(default=None, gt=0)
    lr: float | None = Field(default=None, gt=0)
    n_layer: int | None = Field(default=None, gt=0)
    n_embd: int | None = Field(default=None, gt=0)
    n_head: int | None = Field(default=None, gt=0)
    wall_s: float | None = Field(default=None, ge=0)
    accelerator: str = ""

    @model_validator(mode="after")
    def _one_size(self) -> "Run":
        if self.params is None and self.params_non_embedding is None:
            raise ValueError("params and params_non_embedding are both missing; one of the two is needed")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Runs as arrays of shape (n,), in the order of the rows.

    N by `convention`; D tokens; U distinct tokens; C training FLOPs; L nats per token; se its standard error (NaN where
    unknown); cluster numbers rows of one training run alike; annealed is false for a point in mid-schedule.
    """

    N: NDArray[np.float64]
    D: NDArray[np.float64]
    U: NDArray[np.float64]
    C: NDArray[np.float64]
    L: NDArray[np.float64]
    se: NDArray[np.float64]
    cluster: NDArray[np.intp]
    annealed: NDArray[np.bool_]
    convention: Convention

    def __len__(self) -> int:
        return len(self.N)


def convention_of(runs: Sequence[Run]) -> Convention:
    """ "total" where every row has `params`, else "non_embedding" where every row has that.

    Raises:
        BadInput: some rows have only the one and some only the other.
    """
    if all(run.params is not None for run in runs):
        return "total"
    if all(run.params_non_embedding is not None for run in runs):
        return "non_embedding"
    raise BadInput(
        "some rows count params and others only params_non_embedding; one law needs one convention in every row"
    )


def columns(runs: Sequence[Run], convention: Convention | None = None) -> Columns:
    """Runs as arrays, N counted by `convention` (default: total where every row has it).

    Raises:
        BadInput: no rows, or a row without N in that convention.
    """
    if not runs:
        raise BadInput("there are 0 runs; at least 1 is needed")
    convention = convention or convention_of(runs)
    field = "params" if convention == "total" else "params_non_embedding"
    for run in runs:
        if getattr(run, field) is None:
            raise BadInput(f"run {run.run!r} has no {field}, which the convention {convention!r} counts")
    numbers = {name: index for index, name in enumerate(dict.fromkeys(run.run for run in runs))}

    def array(values: Iterable[float]) -> NDArray[np.float64]:
        return np.fromiter(values, dtype=np.float64, count=len(runs))

    return Columns(
        N=array(getattr(run, field) for run in runs),
        D=array(run.tokens for run in runs),
        U=array(run.tokens if run.unique_tokens is None else run.unique_tokens for run in runs),
        C=array(compute_of(run) for run in runs),
        L=array(run.loss for run in runs),
        se=array(math.nan if run.loss_se is None else run.loss_se for run in runs),
        cluster=np.fromiter((numbers[run.run] for run in runs), dtype=np.intp, count=len(runs)),
        annealed=np.fromiter((run.annealed for run in runs), dtype=np.bool_, count=len(runs)),
        convention=convention,
    )


def compute_of(run: Run) -> float:
    """Training FLOPs; 6·N·D where the row does not say."""
    if run.compute is not None:
        return run.compute
    size = run.params if run.params is not None else run.params_non_embedding
    assert size is not None
    return 6 * size * run.tokens


def by_group(runs: Sequence[Run]) -> dict[str, tuple[Run, ...]]:
    """Runs of each group, groups in the order they first appear: one law per group."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    return {name: tuple(members) for name, members in groups.items()}
