"""Two arms found in files, a sealed verdict on them (versus.json), and the verdict opened when larger runs are there."""

from math import exp, log
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from families.units import BadInput, format_size, nearest

from ..files import Document, Record, canonical_json, now, sha256_bytes
from ..fitting.versus import SCALES, Versus, versus
from ..paths import StudyPaths
from ..runs import Run, RunTable
from ..runs.readers import read_runs
from ..stats import Interval, StatusEnum

BEYOND = 1.5  # times the sealed compute from which on a run is a new scale


class VerdictAt(Record):
    """The multiplier predicted at a compute."""

    C: float = Field(gt=0)
    value: float = Field(gt=0)
    interval_80: Interval
    verdict: str


class VersusFile(Document):
    """versus.json: the verdict on two arms, sealed before larger runs.

    Args:
        names: of A and B.
        by: column whose values the two are; empty for groups or files.
        convention: what N counts.
        scaling: growing, shrinking, constant or undecided.
        C: least and largest compute that both arms had.
        at: the multiplier at 1, 10 and 100 times that.
        runs: names of the runs behind it.
        sealed_at: time of sealing.
        digest: SHA-256 of everything else.
    """

    KIND: ClassVar[str] = "versus"
    MADE_BY: ClassVar[str] = "scaling versus A B --seal versus.json"

    names: tuple[str, str]
    by: str = ""
    scaling: str
    C: Interval
    at: tuple[VerdictAt, ...] = Field(min_length=1)
    runs: tuple[str, ...]
    sealed_at: str
    digest: str = ""

    def digest_of_all(self) -> str:
        """SHA-256 of the file's canonical JSON without its digest."""
        return sha256_bytes(canonical_json(self.model_dump(mode="json", exclude={"digest"})))


class Kept(StatusEnum):
    """How a sealed verdict came out. Each member carries its message."""

    HELD = "held", "the multiplier lies inside the sealed 80 % interval"
    MISSED = "missed", "the multiplier lies outside the sealed 80 % interval"


class Opened(Record):
    """A sealed multiplier beside the one that came.

    Args:
        C: compute of the largest runs that both arms have now.
        times: the same over the largest compute at sealing.
        sealed: multiplier predicted there, on the line through the sealed ones in logarithms.
        sealed_interval_80: its interval.
        actual: multiplier fitted to all runs.
        actual_interval_80: its interval.
        new_runs: runs that were not there at sealing.
        verdict: held or missed.
    """

    C: float
    times: float
    sealed: float
    sealed_interval_80: Interval
    actual: float
    actual_interval_80: Interval
    new_runs: int
    verdict: Kept


def find_arms(a: str, b: str, *, runs: Path, by: str = "") -> tuple[RunTable, RunTable]:
    """The runs of two arms: each a table's or a study's path, else a group, or a value of a column, of one table.

    Args:
        a: the arm without the change.
        b: the arm with it.
        runs: the table that groups and values are looked up in.
        by: column of whose values the arms are two; empty for groups.

    Raises:
        BadInput: no such file, group or value, or both arms are the same.
    """
    if a == b:
        raise BadInput(f"both arms are {a!r}; a comparison needs two")
    table: RunTable | None = None
    found = []
    for name in (a, b):
        path = Path(name)
        if path.is_dir() and (StudyPaths(path).runs).exists():
            found.append(read_runs(StudyPaths(path).runs))
        elif path.is_file():
            found.append(read_runs(path))
        else:
            if table is None:
                table = read_runs(runs, own_columns=[by] if by and by not in Run.model_fields else ())
            values = np.array([_arm_of(run, by) for run in table])
            if name not in values:
                known = nearest(name, sorted(set(values.tolist())))
                raise BadInput(f"arm is {name!r}; {known}, or the path of a table or a study")
            found.append(table.select(values == name))
    return found[0], found[1]


def _arm_of(run: Run, by: str) -> str:
    """The name of a run's arm: its group, or its value of a column; 1 where that is the number 1.0."""
    value = run.column(by) if by else run.group
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def seal_verdict(result: Versus, arms: tuple[RunTable, RunTable], *, by: str = "") -> VersusFile:
    """The verdict as a file that shows any later edit."""
    points = [result.at(times * result.C[1]) for times in SCALES]
    made = VersusFile(
        names=result.names,
        by=by,
        scaling=result.scaling,
        C=result.C,
        at=tuple(
            VerdictAt(C=p.C, value=p.value, interval_80=p.interval_80, verdict=p.verdict) for p in points
        ),
        runs=tuple(sorted({run.run for table in arms for run in table})),
        sealed_at=now(),
    )
    return made.model_copy(update={"digest": made.digest_of_all()})


def open_verdict(sealed: VersusFile, arms: tuple[RunTable, RunTable], *, seed: int = 0) -> Opened:
    """Score a sealed verdict at the largest compute that both arms have now.

    Args:
        sealed: the file.
        arms: all runs of A and of B, those behind the verdict among them.
        seed: of the fits of settings.

    Raises:
        BadInput: the file was changed after sealing, or an arm has no new run beyond the sealed compute.
    """
    if sealed.digest != sealed.digest_of_all():
        raise BadInput("the sealed verdict was changed after sealing; restore the sealed file")
    known = set(sealed.runs)
    new = [[run for run in table if run.run not in known] for table in arms]
    for name, runs in zip(sealed.names, new, strict=True):
        largest = max((6 * run.n_params() * run.tokens for run in runs), default=0.0)
        if largest < BEYOND * sealed.C[1]:
            raise BadInput(
                f"{name} has no new run beyond {format_size(BEYOND * sealed.C[1])} FLOPs, {BEYOND:g} times the sealed "
                "compute; train one of each arm"
            )
    result = versus(*arms, names=sealed.names, seed=seed)
    there = result.at(result.C[1])
    points = sealed.at
    right = next((i for i in range(1, len(points) - 1) if there.C <= points[i].C), len(points) - 1)
    first, second = points[right - 1], points[right]
    share = log(there.C / first.C) / log(second.C / first.C)
    value, low, high = (
        exp((1 - share) * log(x) + share * log(y))
        for x, y in zip((first.value, *first.interval_80), (second.value, *second.interval_80), strict=True)
    )
    return Opened(
        C=there.C,
        times=there.C / sealed.C[1],
        sealed=value,
        sealed_interval_80=(low, high),
        actual=there.value,
        actual_interval_80=there.interval_80,
        new_runs=sum(map(len, new)),
        verdict=Kept.HELD if low <= there.value <= high else Kept.MISSED,
    )
