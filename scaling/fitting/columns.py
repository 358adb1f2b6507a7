"""Columns that may be coordinates of a law: which of them the runs can carry, and which of those rollouts ask for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from families.units import BadInput, nearest

from ..runs import RunTable
from ..stats import Array, products
from .coordinates import KINDS, Coordinate, Coordinates, Kind, multiplier, setting, term
from .ensemble import CUTS, FEWEST_HELD_ROWS
from .joint import Rows, cells, fit_joint, model

REPETITION = "unique_tokens"  # the fourth kind: `laws.Repetition`, fitted by `repetition`

ASPECT = "aspect"  # n_embd/n_layer

KNOWN: dict[str, Kind] = {
    "batch_tokens": "setting",
    "lr": "setting",
    ASPECT: "setting",
    "n_experts": "multiplier",
    "vocab_size": "term",
}

SAME_SIZE = 0.05  # of log N within which rows are of one size

FEWEST_SIZES = (
    2  # that have three values of a column (two of a multiplier, which has one constant), or else …
)

MANY_SIZES, VARIED = (
    30,
    0.3,
)  # … so many sizes, and this spread of log values about a quadratic in log N and log D

LEAST_VARIED = (
    0.1  # of log values about the same, whatever the sizes: a rate that follows a rule says nothing of others
)

FEWEST_PER_ARM = 2  # runs

MOST_ARMS = 8

GAIN, LOSS = (
    0.95,
    1.5,
)  # of the rollouts' scatter and of their error, at most, with a coordinate that is added

FEWEST_IN_CELL = 3  # rows of like N and D

MOST_TRIED = 400  # rows of a rollout, evenly in compute

FEWEST_ROWS = 12  # below a cut

LEAST_SHARE = 0.01  # by which a share of the data must vary

_HINTS = {"batch_tokens": "; a batch in sequences needs their length: --columns n_positions=2048"}

LIKELY_STEPS = 1e6  # of a run; more of them mean that the batch is counted in sequences


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Coordinates to fit, and a reason for each column that was looked at.

    Args:
        parts: the coordinates, without constants.
        reasons: column to text.
        forced: true where the caller named the columns.
    """

    parts: tuple[Coordinate, ...] = ()
    reasons: Mapping[str, str]
    forced: bool = False


def columns_of(coordinates: Coordinates | None, table: RunTable) -> dict[str, Any]:
    """Values by column, as `Fit.predict` takes them, of rows that state every one of a law's coordinates."""
    if coordinates is None:
        return {}
    found = {name: table.column(name) for name in coordinates.names}
    return {name: values for name, values in found.items() if values is not None}


def choose(table: RunTable, asked: Sequence[str] | None, own: Mapping[str, Kind | None], seed: int) -> Chosen:
    """The coordinates of a fit.

    Args:
        table: the runs, in effective N and D where tokens repeat.
        asked: columns that the caller names; None for those that rollouts ask for.
        own: columns of the caller's own by kind, None for a setting if it is the law's and else a multiplier.
        seed: of the fits.

    Raises:
        BadInput: a column that is asked for and unknown, missing, constant or not told apart from N and D.
    """
    names = [*KNOWN] if asked is None else [name for name in asked if name != REPETITION]
    for name in names:
        if name not in KNOWN and name not in own:
            raise BadInput(f"coordinates has {name!r}; {nearest(name, [*KNOWN, REPETITION, *own])}")
    names = [
        *(name for name in KNOWN if name in names),
        *(name for name in own if name not in KNOWN or name in names),
    ]
    usable: dict[str, tuple[Coordinate, ...]] = {}
    reasons: dict[str, str] = {}
    for name in names:
        kind = own.get(name) or KNOWN.get(name, "multiplier")
        try:
            values = table.column(name)
            if values is None:
                raise BadInput(f"no row has {name}{_HINTS.get(name, '')}")
            earlier = [part.column for parts in usable.values() for part in parts if part.kind == "setting"]
            usable[name] = parts_of(table, name, kind, values, earlier)
        except BadInput as error:
            if asked is not None or name in own:
                raise BadInput(f"coordinate {name}: {error}") from error
            if values_or_none(table, name):
                reasons[name] = f"left out: {error}"
    if asked is not None or own:
        named = own if asked is None else {**dict.fromkeys(asked), **own}
        forced = {name: parts for name, parts in usable.items() if name in named}
    else:
        forced = {}
    rest = {name: parts for name, parts in usable.items() if name not in forced}
    kept = tuple(part for parts in forced.values() for part in parts)
    reasons |= dict.fromkeys(forced, "asked for")
    added = _by_rollouts(table, kept, rest, reasons, seed)
    order = [*KNOWN, *own]
    parts = sorted((*kept, *added), key=lambda part: (part.kind != "setting", order.index(part.column)))
    return Chosen(parts=coupled(parts), reasons=reasons, forced=bool(forced))


def values_or_none(table: RunTable, column: str) -> bool:
    """True where any row has the column."""
    return any(run.column(column) is not None for run in table)


def parts_of(
    table: RunTable, name: str, kind: Kind, values: Array | tuple[str, ...], earlier: Sequence[str]
) -> tuple[Coordinate, ...]:
    """The coordinates of one column, several for the arms of a text.

    Args:
        table: the runs.
        name: the column.
        kind: of the coordinate.
        values: the column, shape (n,).
        earlier: settings whose columns come before it.

    Raises:
        BadInput: the runs do not tell its effect apart from that of N, D and the settings before it.
    """
    if isinstance(values, tuple):
        return _arms(table, name, kind, values)
    if kind == "share":
        return (_share(table, name, values),)
    if not (np.isfinite(values) & (values > 0)).all():
        raise BadInput(f"it is {values.min():g} in some rows; it must be positive")
    distinct = np.unique(values)
    if len(distinct) == 1:
        raise BadInput(f"it is {distinct[0]:g} in every row")
    if name == "batch_tokens" and in_sequences(table, values):
        raise BadInput(
            f"the median run would have {np.median(table.D / values):.2g} steps: is it in sequences? It must be in "
            "tokens, sequences × context length"
        )
    needed = 2 if kind == "multiplier" else 3
    _check_varied(table, values, [np.log(table.column(other)) for other in earlier], needed)  # type: ignore[arg-type]
    span = float(distinct[0]), float(distinct[-1])
    if kind == "setting":
        return (replace(setting(name), span=span),)
    if kind == "term":
        return (replace(term(name, reference=float(np.exp(np.median(np.log(values))))), span=span),)
    reference = 1.0 if name == "n_experts" else float(np.exp(np.median(np.log(values))))
    saturating = name == "n_experts" and len(distinct) >= 4
    return (replace(multiplier(name, reference=reference, saturating=saturating, trend=False), span=span),)


def in_sequences(table: RunTable, batches: Array) -> bool:
    """True where the median run would have so many steps that its batch must be counted in sequences."""
    return float(np.median(table.D / batches)) > LIKELY_STEPS


def _share(table: RunTable, name: str, values: Array) -> Coordinate:
    """The share of a domain in the training data: a multiplier of D."""
    if not ((values >= 0) & (values <= 1)).all():
        raise BadInput(f"it is {values.max():g} in some rows; a share must be between 0 and 1")
    if np.ptp(values) < LEAST_SHARE:
        raise BadInput(f"it is {values[0]:g} in every row")
    x, z = np.log(table.N), np.log(table.D)
    basis = np.stack([np.ones_like(x), x - x.mean(), z - z.mean()], axis=1)
    left = values - basis @ np.linalg.lstsq(basis, values, rcond=None)[0]
    if float(np.std(left)) < LEAST_SHARE:
        raise BadInput("it moves with N and D, so its effect and theirs are not told apart")
    span = float(values.min()), float(values.max())
    return replace(multiplier(name, "D", trend=False), span=span).shaped("exponential", float(values.mean()))


def _arms(table: RunTable, name: str, kind: Kind, values: tuple[str, ...]) -> tuple[Coordinate, ...]:
    if kind != "multiplier":
        raise BadInput(f"it is text, and only numbers are a {kind}")
    levels = list(dict.fromkeys(values))
    if len(levels) == 1:
        raise BadInput(f"it is {levels[0]!r} in every row")
    if len(levels) > MOST_ARMS:
        raise BadInput(f"it has {len(levels)} texts; at most {MOST_ARMS} are arms")
    for level in levels:
        count = len({run.run for run, value in zip(table, values, strict=True) if value == level})
        if count < FEWEST_PER_ARM:
            raise BadInput(f"{level!r} has {count} run; an arm needs at least {FEWEST_PER_ARM}")
    first = max(levels, key=values.count)
    return tuple(
        replace(multiplier(name, "C", level=level, trend=False), span=(0.0, 1.0))
        for level in levels
        if level != first
    )


def _check_varied(table: RunTable, values: Array, earlier: Sequence[Array], needed: int) -> None:
    """Refuse a column that N and D determine: one learning rate per size says nothing about another."""
    x, z, h = np.log(table.N), np.log(table.D), np.log(values)
    sizes = np.unique((x / SAME_SIZE).round().astype(int), return_inverse=True)[1].ravel()
    varied = sum(len(np.unique(h[sizes == size].round(2))) >= needed for size in range(sizes.max() + 1))
    u, v = x - x.mean(), z - z.mean()
    by_size = [np.ones_like(x), u, v, u * u, u * v, v * v]
    alone = _spread_about(h, by_size)
    spread = _spread_about(h, [*by_size, *earlier])
    number = {2: "two", 3: "three"}[needed]
    if varied < FEWEST_SIZES and not (sizes.max() + 1 >= MANY_SIZES and spread > VARIED):
        raise BadInput(
            f"the runs have nearly one value for each size, so its effect and that of N are not told apart; {number} "
            "values at each of two sizes are needed"
        )
    if alone < LEAST_VARIED:
        raise BadInput(
            f"N and D nearly determine it, so its effect and theirs are not told apart; {number} values at one N and D are "
            "needed, at each of two sizes"
        )
    if earlier and spread < 0.3 * VARIED:
        raise BadInput("it moves with the other settings, so its effect and theirs are not told apart")


def _spread_about(h: Array, columns: Sequence[Array]) -> float:
    """Standard deviation of values (n,) about their regression on columns of shape (n,), the first being ones."""
    basis = np.stack(columns)
    basis[1:] -= basis[1:].mean(axis=1, keepdims=True)
    inverse = np.linalg.pinv(products(basis, basis), rcond=1e-12, hermitian=True)
    slopes = inverse @ products(basis, h[None])[:, 0]
    left = h - np.einsum("p,pn->n", slopes, basis)
    return float(np.sqrt((left**2).sum() / max(len(h) - len(basis), 1)))


def coupled(parts: Sequence[Coordinate]) -> tuple[Coordinate, ...]:
    """The parts in their order, each setting with a coefficient for the deviations of the settings before it."""
    settings: list[str] = []
    found = []
    for part in parts:
        if part.kind == "setting":
            fresh = setting(part.column, [name for name in settings if part.column == "lr"])
            part = replace(fresh, span=part.span)
            settings.append(part.column)
        found.append(part)
    return tuple(found)


def rows_of_table(table: RunTable, parts: Sequence[Coordinate]) -> Rows:
    """The rows of a joint fit."""
    columns: dict[str, Array] = {}
    for part in parts:
        values = table.column(part.column)
        if isinstance(values, tuple):
            columns[part.key] = np.array([value == part.level for value in values], dtype=np.float64)
        elif values is not None:
            columns[part.key] = np.log(values) if part.kind == "setting" else values
    return Rows.of(table.N, table.D, table.L, columns, table.cluster)


def _by_rollouts(
    table: RunTable,
    kept: tuple[Coordinate, ...],
    rest: Mapping[str, tuple[Coordinate, ...]],
    reasons: dict[str, str],
    seed: int,
) -> tuple[Coordinate, ...]:
    """The coordinates that lower the rollout error, one column at a time, the best first."""
    if not rest:
        return ()
    rows = rows_of_table(table, [*kept, *(part for parts in rest.values() for part in parts)])
    added: tuple[Coordinate, ...] = ()
    best = _rollout_error(rows, coupled([*kept]), seed)
    if best is None:
        reasons |= dict.fromkeys(
            rest, "left out: too few runs for a rollout that could show whether it helps"
        )
        return ()
    left = dict(rest)
    errors: dict[tuple[str, ...], RolloutError] = {}
    while left:
        errors = {}
        together = [name for name, parts in left.items() if parts[0].kind == "setting"]
        tries = {(name,) for name in left} | ({tuple(together)} if len(together) > 1 else set())
        for names in sorted(tries):
            parts = [part for name in names for part in left[name]]
            found = _rollout_error(rows, coupled(_ordered([*kept, *added, *parts])), seed)
            errors[names] = RolloutError(np.inf, np.inf) if found is None else found
        names = min(errors, key=lambda key: errors[key].scatter)
        if not errors[names].below(best):
            break
        reasons |= dict.fromkeys(names, f"used: {errors[names].against(best)}")
        best = errors[names]
        added = (*added, *(part for name in names for part in left.pop(name)))
    reasons |= {name: f"left out: {errors[name,].against(best)}" for name in left}
    return added


def _centres(rows: Rows, off: Array) -> Array:
    """The median error of each row's cell of like N and D; of all rows where a cell has less than three."""
    centres = np.full(len(off), np.median(off))
    cell = cells(rows)
    for at in np.flatnonzero(np.bincount(cell) >= FEWEST_IN_CELL):
        centres[cell == at] = np.median(off[cell == at])
    return centres


def _ordered(parts: Sequence[Coordinate]) -> list[Coordinate]:
    order = list(KNOWN)
    return sorted(
        parts,
        key=lambda part: (part.kind != "setting", order.index(part.column) if part.column in order else 99),
    )


class RolloutError(NamedTuple):
    """Mean |log error| of held rows, and the same about the median error of rows of like N and D.

    The law may lie off at a size whatever the settings; how runs of one size differ is for the settings to say.
    """

    error: float
    scatter: float

    def below(self, other: "RolloutError") -> bool:
        """True where the scatter is clearly less than the other's, and the error not much more."""
        return self.scatter <= GAIN * other.scatter and self.error <= LOSS * other.error

    def against(self, other: "RolloutError") -> str:
        """Both, with and without."""
        if not np.isfinite(self.error):
            return "too few runs for a rollout that could show whether it helps"
        return (
            f"rollout error {self.error:.2%} with it, {other.error:.2%} without, "
            f"scatter {self.scatter:.2%} and {other.scatter:.2%}"
        )


def _rollout_error(rows: Rows, parts: Sequence[Coordinate], seed: int) -> RolloutError | None:
    """The error of the rows above each cut, fitted below it, averaged over cuts; None without a rollout."""
    product = rows.x + rows.z
    if len(product) > MOST_TRIED:
        order = np.argsort(product, kind="stable")
        rows = rows.select(order[np.linspace(0, len(order) - 1, MOST_TRIED).round().astype(int)])
        product = rows.x + rows.z
    errors = []
    before = 0
    for gap in CUTS:
        cheap = product <= product.max() - gap * np.log(10) + 1e-9
        if (
            cheap.sum() < max(FEWEST_ROWS, 2 * sum(len(part.names) for part in parts))
            or cheap.sum() == before
        ):
            continue
        if (~cheap).sum() < FEWEST_HELD_ROWS:
            continue
        before = int(cheap.sum())
        try:
            found = fit_joint(parts, rows.select(cheap), starts=1, seed=seed)
        except BadInput:
            continue
        high = rows.select(~cheap)
        off = model(parts, found.q, high)[0] - high.y
        errors.append((np.abs(off).mean(), np.abs(off - _centres(high, off)).mean()))
    return RolloutError(*map(float, np.mean(errors, axis=0))) if errors else None


def own_kind(text: str) -> tuple[list[str], Kind | None]:
    """Parse "COLUMN" or "COLUMN:kind"; several columns are separated by commas.

    Raises:
        BadInput: an unknown kind.
    """
    name, _, kind = text.partition(":")
    if kind and kind not in KINDS:
        raise BadInput(f"with is {text!r}; {nearest(kind, KINDS)}")
    return [part.strip() for part in name.split(",") if part.strip()], next(
        (known for known in KINDS if known == kind), None
    )
