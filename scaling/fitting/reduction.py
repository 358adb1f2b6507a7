"""Runs brought to their best settings: the chosen coordinates fitted, and the rows as a law of N and D alone has them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from families.units import BadInput

from ..runs import RunTable
from ..stats import Z_80, Array, Interval
from .columns import KNOWN, LEAST_SHARE, Chosen, coupled, in_sequences, rows_of_table
from .coordinates import Coordinate, Coordinates, Scatter
from .divergence import without_diverged
from .joint import LAW, JointFit, Rows, cells, fit_joint, model, resampled

SIDES = 0.03  # of the rows that must lie on either side of a valley's bottom

NEAR = 0.02  # of log loss up a valley: rows nearer its bottom than this show the law itself

FEWEST_NEAR = 0.25  # of the rows

FEWEST_FAR, FEWEST_OF_A_SIDE = 4, 12  # rows that tell the scatter up a valley, and on one side of it

POWERS = (0.5, 0.75, 1.0)  # of s in the scatter: a form is the less exact, the farther from its bottom

OUTSIDE = 10.0  # 2/(1 − 0.8): the price of what lies outside an 80 % interval (Gneiting & Raftery 2007)

MOST_NEAR = 120  # rows that show the law itself, the nearest of each cell of like N and D

BETTER_SHAPE = 0.98  # of the residual noise with which another shape of a multiplier is taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced:
    """Fitted coordinates, and the rows as the law of N and D alone has them.

    Args:
        coordinates: with their constants.
        rows: those near the bottom of every valley, losses at their best settings and references.
        effective: the same with N and D multiplied.
        joint: the fit and its certificate.
    """

    coordinates: Coordinates
    rows: RunTable
    effective: RunTable
    joint: JointFit


def _check_shares(table: RunTable, parts: Sequence[Coordinate]) -> None:
    """Refuse shares that sum to more than 1."""
    rows = rows_of_table(table, [part for part in parts if part.is_share])
    most = float(np.max(sum(rows.columns.values(), np.zeros(len(rows.x)))))
    if most > 1 + LEAST_SHARE:
        raise BadInput(f"the shares sum to {most:g} in some row; they must sum to at most 1")


def _best_shapes(table: RunTable, parts: tuple[Coordinate, ...], seed: int) -> tuple[Coordinate, ...]:
    """The parts with each of the caller's own multipliers, and all shares together, in the shape that fits best."""
    shares = tuple(part.column for part in parts if part.is_share)
    own = [(part.column,) for part in parts if _may_be_logarithmic(part)]
    for names in filter(None, [shares, *own]):
        other = tuple(_other_shape(part) if part.column in names else part for part in parts)
        try:
            noises = [
                fit_joint(tries, rows_of_table(table, tries), starts=1, seed=seed).noise
                for tries in (parts, other)
            ]
        except BadInput:
            continue
        parts = other if noises[1] < BETTER_SHAPE * noises[0] else parts
    return parts


def _may_be_logarithmic(part: Coordinate) -> bool:
    plain = part.kind == "multiplier" and not (part.is_share or part.level or part.saturating)
    return plain and part.column not in KNOWN and part.span[0] > 0


def _other_shape(part: Coordinate) -> Coordinate:
    return part.shaped("sum", part.reference) if part.is_share else part.shaped("log", part.span[0])


def unreached(part: Coordinate, own: Array, rows: Rows, deviation: Array) -> str:
    """The bound on a setting whose best value no run reaches; empty where runs lie on both sides of it.

    Args:
        part: the setting.
        own: its constants.
        rows: the rows of the fit.
        deviation: log of each row's value over its best, shape (n,).
    """
    above, below = float((deviation > 0).mean()), float((deviation < 0).mean())
    if min(above, below) >= SIDES:
        return ""
    known = rows.columns[part.key]
    if above < SIDES:
        return (
            f"the best is at least {np.exp(known.max()):.3g}: no run lies beyond its best, so that is a bound"
        )
    return (
        f"the best is at most {np.exp(known.min()):.3g}: every run lies beyond its best, so that is a bound"
    )


def reduce_rows(
    table: RunTable, chosen: Chosen, *, bootstrap: int, seed: int
) -> tuple[Reduced | None, Mapping[str, str]]:
    """Fit the chosen coordinates, and bring the rows to their best settings.

    Args:
        table: the runs, in effective N and D where tokens repeat.
        chosen: the coordinates.
        bootstrap: resamples of whole runs.
        seed: of the starts and the resamples.

    Returns:
        The coordinates with the rows; None where none is left. And the reasons, by column.

    Raises:
        BadInput: a coordinate that was asked for never reaches its best value, or its fit does not converge.
    """
    _check_shares(table, chosen.parts)
    parts, reasons = _best_shapes(table, chosen.parts, seed), dict(chosen.reasons)
    while parts:
        rows = rows_of_table(table, parts)
        joint = fit_joint(parts, rows, seed=seed)
        problem = _problem(parts, rows, joint)
        if not problem:
            break
        name, text = problem
        if chosen.forced and reasons.get(name) == "asked for":
            raise BadInput(f"coordinate {name}: {text}")
        reasons[name] = f"left out: {text}"
        parts = coupled([part for part in parts if part.column != name])
    if not parts:
        return None, reasons
    split = without_diverged(parts, rows, joint, lambda some: _refitted(parts, some, seed))
    divergence = None
    if split is not None:
        keep, joint, divergence = split
        reasons["lr"] += (
            f"; {(~keep).sum()} runs above it diverged, to a loss of about {np.exp(divergence.level):.2f}, and are no part "
            "of its valley"
        )
        table, rows = table.select(keep), rows.select(keep)
    coordinates = Coordinates(
        log_N=rows.log_N, log_D=rows.log_D, parts=tuple(parts), divergence=divergence,
        batch_tokens=_stated_batch(table, parts),
    )  # fmt: skip
    draws = resampled(parts, rows, joint, bootstrap, seed)
    predicted, _, shift = model(parts, joint.q, rows)
    below, above = scatters(rows.y - predicted, shift.share, shift.above, joint.noise)
    coordinates = coordinates.with_values(joint.q[LAW:], _rounded(draws[:, LAW:]))
    coordinates = replace(coordinates, below=below, above=above)
    near = _near(rows, shift.share)
    clean = table.L * np.exp(-shift.share) - shift.add
    near = near[clean[near] > 0]
    at_best = table.with_arrays(L=np.maximum(clean, 1e-9)).select(near)
    effective = at_best.with_arrays(
        N=table.N[near] * np.exp(shift.dx[near]), D=table.D[near] * np.exp(shift.dz[near])
    )
    return Reduced(coordinates=coordinates, rows=at_best, effective=effective, joint=joint), reasons


def _refitted(parts: Sequence[Coordinate], rows: Rows, seed: int) -> JointFit | None:
    """The fit to fewer rows; None where these do not determine the coordinates."""
    try:
        joint = fit_joint(parts, rows, seed=seed)
    except BadInput:
        return None
    return None if _problem(parts, rows, joint) else joint


def _stated_batch(table: RunTable, parts: Sequence[Coordinate]) -> Interval | None:
    """Least and largest batch of the rows, in tokens; None where some state none, or it is a coordinate."""
    batches = [run.batch_tokens for run in table if run.batch_tokens]
    if len(batches) < len(table) or any(part.column == "batch_tokens" for part in parts):
        return None
    if in_sequences(table, np.array(batches)):
        return None
    return float(min(batches)), float(max(batches))


def _rounded(draws: Array) -> Array:
    return np.array([[float(f"{v:.10g}") for v in row] for row in draws.tolist()]).reshape(draws.shape)


def _problem(parts: Sequence[Coordinate], rows: Rows, joint: JointFit) -> tuple[str, str] | None:
    """The first coordinate that the rows do not determine, and why."""
    at = LAW
    for part in parts:
        own = joint.q[at : at + len(part.names)]
        if part.kind == "setting":
            best = Coordinates(log_N=0.0, log_D=0.0, parts=tuple(parts)).best_log(
                part.column, np.exp(rows.x), np.exp(rows.z), rows.columns, joint.q[LAW:]
            )
            text = unreached(part, own, rows, rows.columns[part.key] - best)
            if text:
                return part.column, text
        at += len(part.names)
    if not joint.certified:
        return parts[-1].column, (
            f"its fit did not converge ({joint.agreeing} of {joint.starts} starts agree, scaled gradient "
            f"{joint.gradient:.1g})"
        )
    return None


def scatters(residual: Array, share: Array, above: Array, noise: float) -> tuple[Scatter, Scatter]:
    """The scatter of runs about their valley, below its bottom and above it.

    On each side the size is such that 80 % intervals hold 80 % of the rows, and the power that of POWERS with the least
    interval score; a side of few rows has that of both.

    Args:
        residual: of log loss, shape (n,).
        share: s of each row, shape (n,).
        above: the part of it of settings above their best, shape (n,).
        noise: standard deviation of log loss between like runs at the bottom.
    """
    far = share > NEAR
    high = above > share / 2
    both = _scatter(residual[far], share[far], noise)
    return tuple(  # type: ignore[return-value]  # of two sides
        _scatter(residual[side], share[side], noise) if side.sum() >= FEWEST_OF_A_SIDE else both
        for side in (far & ~high, far & high)
    )


def _scatter(residual: Array, share: Array, noise: float) -> Scatter:
    if len(residual) < FEWEST_FAR:
        return Scatter()
    off = np.abs(residual)
    beyond = np.sqrt(np.maximum(off**2 - noise**2, 0.0))
    found = []
    for power in POWERS:
        size = float(np.quantile(beyond / share**power, 0.8)) / Z_80
        half = Z_80 * np.hypot(noise, size * share**power)
        score = float(np.mean(2 * half + OUTSIDE * np.maximum(off - half, 0.0)))
        found.append((score, -power, size))
    _, power, size = min(found)
    return Scatter(size=float(f"{size:.10g}"), power=-power)


def _near(rows: Rows, share: Array) -> NDArray[np.intp]:
    """Rows near the bottom of every valley, at most MOST_NEAR: the nearest of each cell of like N and D, in their order."""
    if not share.any():
        return np.arange(len(share))
    cell = cells(rows)
    order = np.lexsort([share, cell])
    starts = np.r_[0, np.flatnonzero(np.diff(cell[order])) + 1]
    rank = np.empty(len(share), dtype=np.intp)
    rank[order] = np.arange(len(share)) - np.repeat(starts, np.diff(np.r_[starts, len(share)]))
    count = max(int((share <= NEAR).sum()), int(np.ceil(FEWEST_NEAR * len(share))))
    nearest_first = np.lexsort([share, rank]) if count > MOST_NEAR else np.argsort(share, kind="stable")
    return np.sort(nearest_first[: min(count, MOST_NEAR)])
