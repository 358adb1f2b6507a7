"""Run and RunTable: the contract between whoever makes training runs and whoever learns from them."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, ValidationError, model_validator

from families.units import BadInput, format_size

from ..files import Record, canonical_json, first_problem, sha256_bytes
from ..laws import PARAMS_FIELD, Convention, n_params
from ..stats import Array

if TYPE_CHECKING:
    import pandas

RUNS_VERSION = 1

LARGEST_COUNT = 1e30  # of parameters or tokens: far beyond any, and products of two stay finite

_OBSERVED = ("params", "params_non_embedding", "tokens", "loss", "group", "eval_set", "schedule")

_ARRAYS = ("N", "D", "U", "C", "L")  # what `RunTable.with_arrays` may replace


class Run(Record):
    """One observation (docs/formats.md). Losses are in nats per token; rows of one training run share `run`."""

    run: str = Field(min_length=1)
    group: str = ""
    params: float | None = Field(default=None, gt=0, le=LARGEST_COUNT)
    params_non_embedding: float | None = Field(default=None, gt=0, le=LARGEST_COUNT)
    params_active: float | None = Field(default=None, gt=0, le=LARGEST_COUNT)
    tokens: float = Field(gt=0, le=LARGEST_COUNT)
    loss: float = Field(gt=0)
    unique_tokens: float | None = Field(default=None, gt=0, le=LARGEST_COUNT)
    compute: float | None = Field(default=None, gt=0)
    compute_kind: Literal["exact", "6ND"] | None = None
    annealed: bool = True
    schedule: str = ""
    loss_se: float | None = Field(default=None, ge=0)
    seed: int | None = None
    eval_set: str = ""
    n_positions: int | None = Field(default=None, gt=0)
    vocab_size: int | None = Field(default=None, gt=0)
    batch_tokens: float | None = Field(default=None, gt=0, le=LARGEST_COUNT)
    lr: float | None = Field(default=None, gt=0)
    n_layer: int | None = Field(default=None, gt=0)
    n_embd: int | None = Field(default=None, gt=0)
    n_head: int | None = Field(default=None, gt=0)
    architecture: str = ""
    wall_s: float | None = Field(default=None, ge=0)
    accelerator: str = ""
    n_experts: int | None = Field(default=None, gt=0)
    extra: dict[str, float | str] | None = None  # columns of the user's own, by name

    @model_validator(mode="after")
    def _one_size(self) -> "Run":
        if self.params is None and self.params_non_embedding is None:
            raise ValueError("params and params_non_embedding are both missing; one of the two is needed")
        return self

    def n_params(self, convention: Convention | None = None) -> float:
        """N in a convention; without one, total parameters where they are known, else those without embeddings.

        Raises:
            BadInput: the run does not state its N in that convention.
        """
        if convention is None:
            convention = "total" if self.params is not None else "non_embedding"
        return n_params(self, convention, f"run {self.run!r}")

    def column(self, name: str) -> float | str | None:
        """A value by its column: a field, n_embd/n_layer as "aspect", or a column of the user's own."""
        if self.extra and name in self.extra:
            return self.extra[name]
        if name == "aspect":
            return self.n_embd / self.n_layer if self.n_embd and self.n_layer else None
        value = self.__dict__.get(
            name
        )  # where pydantic keeps fields, and much faster than to ask for their names
        return value if isinstance(value, int | float | str) and value != "" else None

    @property
    def row_hash(self) -> str:
        """SHA-256 of what was observed, whatever the run is called: N, tokens, loss, group, eval set and schedule."""
        facts = {name: getattr(self, name) for name in _OBSERVED}
        return sha256_bytes(canonical_json(facts))

    @property
    def flops(self) -> float:
        """Training FLOPs: `compute`, or 6·N·D where that is not stated, N the active parameters of a mixture."""
        if self.compute is not None:
            return self.compute
        return 6 * (self.params_active or self.n_params()) * self.tokens


@dataclass(frozen=True, init=False, repr=False, eq=False)
class RunTable(Sequence[Run]):
    """Runs as a sequence and as arrays of shape (n,), in the order of the rows.

    Every reader returns one and `scaling.fit` takes one, so what a reader had to say reaches the fit card. Slicing and
    `select` keep it too.

    Attributes:
        runs: the rows.
        warnings: what looks wrong in the data that were read, a line each.
        bad: rows that could not be read and were left out, like "line 7: loss is -1: …".
        ignored_columns: columns of the file that are not fields of a run.
    """

    runs: tuple[Run, ...]
    warnings: tuple[str, ...]
    bad: tuple[str, ...]
    ignored_columns: tuple[str, ...]
    _convention: Convention | None
    _replaced: Mapping[str, Array]

    def __init__(
        self,
        runs: Iterable[Run] = (),
        convention: Convention | None = None,
        *,
        warnings: Iterable[str] = (),
        bad: Iterable[str] = (),
        ignored_columns: Iterable[str] = (),
    ) -> None:
        """Build a table from runs.

        Args:
            runs: the rows.
            convention: what N counts. Default: active parameters where every row states them and a token passes by some, since
                compute goes with them; else all where every row states those, else those without embeddings.
            warnings: what looks wrong in the data.
            bad: rows that were left out, and why.
            ignored_columns: columns of the source that were not read.
        """
        for name, value in (
            ("runs", tuple(runs)),
            ("warnings", tuple(warnings)),
            ("bad", tuple(bad)),
            ("ignored_columns", tuple(ignored_columns)),
            ("_convention", convention),
            ("_replaced", {}),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, runs: Sequence[Run], convention: Convention | None = None) -> "RunTable":
        """Any sequence of runs as a table; a table stays itself, counted by `convention` where one is given."""
        if not isinstance(runs, RunTable):
            return cls(runs, convention)
        return runs if convention is None else runs.counted(convention)

    @classmethod
    def from_arrays(
        cls,
        *,
        N: ArrayLike,
        D: ArrayLike,
        loss: ArrayLike,
        unique_tokens: ArrayLike | None = None,
        compute: ArrayLike | None = None,
        loss_se: ArrayLike | None = None,
        run: Sequence[str] | None = None,
        convention: Convention = "total",
    ) -> "RunTable":
        """A table from arrays of shape (n,).

        Args:
            N: parameters, counted by `convention`.
            D: training tokens.
            loss: nats per token.
            unique_tokens: distinct training tokens; default: D.
            compute: training FLOPs; default: 6·N·D.
            loss_se: standard errors of the losses.
            run: name of the training run that each row belongs to; default: each row is a run of its own.
            convention: what N counts.

        Raises:
            BadInput: arrays of different lengths or of more than one dimension, or a value that no run can have.
        """
        given = {
            PARAMS_FIELD[convention]: N,
            "tokens": D,
            "loss": loss,
            "unique_tokens": unique_tokens,
            "compute": compute,
        }
        given["loss_se"] = loss_se
        columns = {
            name: np.atleast_1d(np.asarray(values, dtype=np.float64))
            for name, values in given.items()
            if values is not None
        }
        shapes = {name: values.shape for name, values in columns.items()}
        if run is not None:
            shapes["run"] = (len(run),)
        if len(set(shapes.values())) > 1 or len(shapes["loss"]) != 1:
            stated = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise BadInput(f"the arrays have shapes {stated}; all must have the same shape (n,)")
        names = [f"row {row}" for row in range(1, shapes["loss"][0] + 1)] if run is None else list(run)
        runs = []
        for row, name in enumerate(names):
            values = {field: float(column[row]) for field, column in columns.items()}
            try:
                runs.append(Run.model_validate({"run": name, **values}))
            except ValidationError as error:
                raise BadInput(f"row {row + 1}: {first_problem(error)}") from error
        return cls(runs, convention)

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> "RunTable": ...
    def __getitem__(self, index: int | slice) -> "Run | RunTable":
        """A row, or a table of the rows of a slice."""
        return self.select(np.arange(len(self))[index]) if isinstance(index, slice) else self.runs[index]

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RunTable):
            return NotImplemented
        return self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        """Ranges of the rows and everything the reader had to say, as a notebook shows it."""
        head = f"RunTable: {_count(len(self), 'row')} of {_count(len({run.run for run in self}), 'run')}"
        groups = {run.group for run in self}
        if len(groups) > 1:
            head += f" in {len(groups)} groups"
        if self.runs:
            sizes = [run.n_params(self._convention if self._has(self._convention) else None) for run in self]
            for name, values in (("N", sizes), ("D", [run.tokens for run in self])):
                head += f", {name} {format_size(min(values))} to {format_size(max(values))}"
            losses = [run.loss for run in self]
            head += f", loss {min(losses):.4f} to {max(losses):.4f}"
        notes = [f"warning: {line}" for line in self.warnings] + [f"left out: {line}" for line in self.bad]
        return "\n  ".join([head, *notes])

    @property
    def convention(self) -> Convention:
        """Parameters that N counts.

        Raises:
            BadInput: none is set, and some rows have only the one count and some only the other.
        """
        if self._convention is not None:
            return self._convention
        if self._has("active") and any(
            run.params is None or (run.params_active or 0) < run.params for run in self
        ):
            return "active"  # mixtures of experts
        if self._has("total"):
            return "total"
        if self._has("non_embedding"):
            return "non_embedding"
        raise BadInput(
            "some rows count params and others only params_non_embedding; one law needs one convention in every row"
        )

    @cached_property
    def N(self) -> Array:
        """Parameters by `convention`.

        Raises:
            BadInput: there are no rows, or a row does not state its N in that convention.
        """

        def sizes() -> Iterator[float]:
            convention = self.convention  # looks at every row, so once
            return (run.n_params(convention) for run in self)

        return self._array("N", sizes)

    @cached_property
    def D(self) -> Array:
        """Training tokens."""
        return self._array("D", lambda: (run.tokens for run in self))

    @cached_property
    def U(self) -> Array:
        """Distinct training tokens; D where a row does not state them."""
        return self._array(
            "U", lambda: (run.tokens if run.unique_tokens is None else run.unique_tokens for run in self)
        )

    @cached_property
    def C(self) -> Array:
        """Training FLOPs; 6·N·D where a row does not state them."""
        return self._array("C", lambda: (run.flops for run in self))

    @cached_property
    def L(self) -> Array:
        """Losses in nats per token."""
        return self._array("L", lambda: (run.loss for run in self))

    @cached_property
    def se(self) -> Array:
        """Standard errors of the losses; NaN where a row does not state one."""
        return self._array("se", lambda: (math.nan if run.loss_se is None else run.loss_se for run in self))

    @cached_property
    def cluster(self) -> NDArray[np.intp]:
        """Number of the training run that each row belongs to, from 0 in the order of appearance."""
        numbers = {name: index for index, name in enumerate(dict.fromkeys(run.run for run in self))}
        return np.fromiter((numbers[run.run] for run in self), dtype=np.intp, count=len(self))

    @cached_property
    def annealed(self) -> NDArray[np.bool_]:
        """False where a row is a point in mid-schedule."""
        return np.fromiter((run.annealed for run in self), dtype=np.bool_, count=len(self))

    def column(self, name: str) -> Array | tuple[str, ...] | None:
        """A column besides N, D and the loss, such as lr: numbers (n,), else texts; None where no row has it.

        Raises:
            BadInput: some rows lack it, or some are numbers and others text.
        """
        found = [run.column(name) for run in self]
        missing = sum(value is None for value in found)
        if missing == len(found):
            return None
        if missing:
            raise BadInput(f"{missing} of {len(found)} rows have no {name}")
        texts = [value for value in found if isinstance(value, str)]
        if not texts:
            return np.array(found, dtype=np.float64)
        if len(texts) < len(found):
            raise BadInput(f"{name} is a number in {len(found) - len(texts)} rows and text in {len(texts)}")
        return tuple(texts)

    def counted(self, convention: Convention) -> "RunTable":
        """The same rows with N by another convention."""
        if convention == self._convention:
            return self
        return self._copy(self.runs, convention, {k: v for k, v in self._replaced.items() if k != "N"})

    def select(self, keep: Callable[[Run], bool] | ArrayLike) -> "RunTable":
        """The rows for which `keep` is true, or those of a boolean mask (n,) or of integer indices."""
        chosen = [bool(keep(run)) for run in self] if callable(keep) else keep
        rows = np.arange(len(self))[np.asarray(chosen, dtype=None if np.size(chosen) else np.intp)]
        runs = tuple(self.runs[row] for row in rows.tolist())
        return self._copy(runs, self._convention, {k: v[rows] for k, v in self._replaced.items()})

    def by_group(self) -> dict[str, "RunTable"]:
        """The rows of each group, groups in the order they first appear: one law per group."""
        rows: dict[str, list[int]] = {}
        for row, run in enumerate(self):
            rows.setdefault(run.group, []).append(row)
        return {name: self.select(members) for name, members in rows.items()}

    def with_arrays(self, **arrays: Array) -> "RunTable":
        """The same rows with some of N, D, U, C and L replaced, such as by effective sizes."""
        unknown = set(arrays) - set(_ARRAYS)
        if unknown:
            raise TypeError(f"{', '.join(sorted(unknown))}: not one of {', '.join(_ARRAYS)}")
        return self._copy(self.runs, self._convention, {**self._replaced, **arrays})

    def to_pandas(self) -> "pandas.DataFrame":
        """A DataFrame with a column for each field of `Run` that any row states.

        Raises:
            BadInput: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise BadInput("to_pandas needs pandas: pip install pandas") from error
        stated: dict[str, list[Any]] = {
            name: [getattr(run, name) for run in self]
            for name, info in Run.model_fields.items()
            if info.is_required() or any(getattr(run, name) not in (None, "") for run in self)
        }
        return pandas.DataFrame(stated)

    @property
    def _key(self) -> tuple[object, ...]:
        replaced = tuple(sorted((name, values.tobytes()) for name, values in self._replaced.items()))
        return (self.runs, self.warnings, self.bad, self.ignored_columns, self._convention, replaced)

    def _has(self, convention: Convention | None) -> bool:
        return convention is not None and all(
            getattr(run, PARAMS_FIELD[convention]) is not None for run in self
        )

    def _array(self, name: str, values: Callable[[], Iterable[float]]) -> Array:
        if not self.runs:
            raise BadInput("there are 0 runs; at least 1 is needed")
        if name in self._replaced:
            return self._replaced[name]
        return np.fromiter(values(), dtype=np.float64, count=len(self))

    def _copy(
        self, runs: tuple[Run, ...], convention: Convention | None, replaced: Mapping[str, Array]
    ) -> "RunTable":
        table = RunTable(
            runs, convention, warnings=self.warnings, bad=self.bad, ignored_columns=self.ignored_columns
        )
        object.__setattr__(table, "_replaced", dict(replaced))
        return table


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
