"""Questions of reach: the cheap runs of a table and its far points, of public tables and of simulated surfaces."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scaling.fitting.selection import select_runs
from scaling.laws import Law
from scaling.runs import Run, RunTable
from scaling.runs.readers import read_runs

REACHES = (10, 30, 100)
HELD = 3  # rows above C_max/3 are scored, at every reach the same
FEWEST_ROWS, FEWEST_RUNS = 8, 4  # to fit

# The sources that the bars are means over. Groups that are noise-free or repeat their data are shown apart.
SOURCES = (
    "chinchilla",
    "datablations",
    "farseer",
    "gemstones",
    "lr_batch_grid",
    "opt",
    "overtraining",
    "porian_isoflop",
    "random_settings",
    "vocabulary",
)
APART = {"cs336": "noise-free", "c4_repeated": "repeated data", "dedup": "deduplicated, repeated"}
TUNED = ("lr_batch_grid",)  # sweeps of the learning rate: the best row of each size and length is a run
UNIGRAM = 7.0  # nats, added to losses that are normalised by the unigram's, to make them positive
VOCABULARIES = ("4096", "8192", "16384", "32768", "64512")  # every second one: they share runs' settings

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question: the cheap runs, and the far points with their losses."""

    source: str
    group: str
    reach: int
    cheap: RunTable
    N: Array
    D: Array
    U: Array
    L: Array
    held: RunTable | None = None  # the rows at the far points, where they are runs with settings of their own


def read_group_tables(path: Path) -> dict[str, RunTable]:
    """The groups of one table, its rows comparable and its losses positive."""
    if path.stem == "vocabulary":
        return _vocabulary(path)
    groups = {}
    for name, runs in read_runs(path).by_group().items():
        mixed = len({run.annealed for run in runs}) > 1
        chosen, _ = select_runs(runs, group=None, annealed="only" if mixed else None)
        groups[name] = _best_of_cells(chosen) if path.stem in TUNED else chosen
    return groups


def _vocabulary(path: Path) -> dict[str, RunTable]:
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["vocab_size"] in VOCABULARIES]
    return {
        f"vocabulary {size}": RunTable.from_arrays(
            N=[float(row["params_non_embedding"]) for row in rows if row["vocab_size"] == size],
            D=[float(row["tokens"]) for row in rows if row["vocab_size"] == size],
            loss=[UNIGRAM + float(row["loss"]) for row in rows if row["vocab_size"] == size],
            convention="non_embedding",
        )
        for size in VOCABULARIES
    }


def _best_of_cells(runs: RunTable) -> RunTable:
    cells: dict[tuple[float, float], Run] = {}
    for run in runs:
        key = run.n_params(), run.tokens
        if key not in cells or run.loss < cells[key].loss:
            cells[key] = run
    return RunTable(cells.values())


def public_cases(folder: Path, reaches: Sequence[int] = REACHES) -> Iterator[Case]:
    """Every group that has rows enough at each reach; the noise-free source too."""
    for source in (*SOURCES, "cs336_isoflop"):
        path = folder / f"{source}.csv"
        if not path.exists():
            continue
        for group, runs in read_group_tables(path).items():
            for reach in reaches:
                C = runs.C
                cheap, held = runs.select(C.max() / reach * (1 + 1e-9) >= C), runs.select(C.max() / HELD < C)
                if len(cheap) < FEWEST_ROWS or len(set(cheap.cluster.tolist())) < FEWEST_RUNS:
                    continue
                held = held.counted(cheap.convention)
                yield Case(
                    source=source,
                    group=group,
                    reach=reach,
                    cheap=cheap,
                    N=held.N,
                    D=held.D,
                    U=held.U,
                    L=held.L,
                    held=held,
                )


# Surfaces whose loss is known at any size: three laws of the general form, and three that no law of it follows far.
LAWS = {
    "symmetric": Law(E=1.8, A=480.0, B=480.0, alpha=0.35, beta=0.35),
    "asymmetric": Law(E=1.7, A=180.0, B=9000.0, alpha=0.28, beta=0.45),
    "general": Law(E=1.6, A=1.5e5, B=6e5, alpha=0.6, beta=0.58, gamma=0.45),
    "E near 0": Law(E=0.05, A=19.0, B=25.0, alpha=0.13, beta=0.13),
    "offset": Law(E=1.8, A=480.0, B=480.0, alpha=0.35, beta=0.35),
    "broken": Law(E=1.8, A=480.0, B=480.0, alpha=0.35, beta=0.35),
}
OFFSET = 3e8  # tokens that teach nothing, of the surface "offset"
BREAK, SLOWER = (
    1e18,
    0.3,
)  # FLOPs from where the surface "broken" bends, and by how much its reducible slope falls
TOP = 1e19  # FLOPs of the largest simulated run
NOISES = (0.002, 0.005, 0.01)  # of log loss between like runs; every size has an offset of half of that
DESIGNS = ("isoflop", "ladder", "checkpoints", "untuned")
UNTUNED = 0.03  # of loss: how far the smallest runs of that design lie too high
TARGETS = 5  # points at each reach


def surface(name: str, N: Array, D: Array) -> Array:
    """Loss of a simulated surface in nats per token, elementwise."""
    law = LAWS[name]
    if name == "offset":
        return np.asarray(law.loss(N, D * D / (D + OFFSET)))
    loss = np.asarray(law.loss(N, D))
    if name == "broken":
        bend = (1 + 6 * N * D / BREAK) ** (0.5 * SLOWER * law.alpha)
        return np.asarray(law.E + (loss - law.E) * bend)
    return loss


def simulated_cases(sims: int, reaches: Sequence[int] = REACHES) -> Iterator[Case]:
    """Runs of every surface, design and noise, and targets of unseen sizes beyond them; one table for all reaches."""
    for name, kind, noise, number in product(LAWS, DESIGNS, NOISES, range(sims)):
        rng = np.random.default_rng(
            [number, sorted(LAWS).index(name), DESIGNS.index(kind), round(noise * 1e3)]
        )
        run, N, D = _design(kind, rng)
        own = rng.normal(0, noise, len(set(run)))[np.unique(run, return_inverse=True)[1]]
        if kind == "checkpoints":
            own = own + rng.normal(0, noise / 4, len(run))
        sizes, at = np.unique(N.round(-3), return_inverse=True)
        own = own + rng.normal(0, noise / 2, len(sizes))[at]
        if kind == "untuned":
            own = own + UNTUNED * np.maximum(1 - np.log10(N * D / (N * D).min()), 0)
        cheap = RunTable.from_arrays(N=N, D=D, loss=surface(name, N, D) * np.exp(own), run=run)
        for reach in reaches:
            C = reach * TOP
            size = np.sqrt(C / 120) * np.exp(rng.uniform(-0.7, 0.7, TARGETS))
            tokens = C / 6 / size
            off = rng.normal(0, noise * np.sqrt(1.25), TARGETS)
            yield Case(
                source=f"simulated {name}",
                group=f"{kind} {noise:.1%} {number}",
                reach=reach,
                cheap=cheap,
                N=size,
                D=tokens,
                U=tokens,
                L=surface(name, size, tokens) * np.exp(off),
            )


def _design(kind: str, rng: np.random.Generator) -> tuple[list[str], Array, Array]:
    """Runs up to 1e19 FLOPs: names, N and D."""
    if kind in ("isoflop", "untuned"):
        C, ratio = (v.ravel() for v in np.meshgrid(np.geomspace(1e16, TOP, 6), np.geomspace(0.25, 4, 7)))
        N = np.sqrt(C / 120) * ratio
        D = C / 6 / N
    elif kind == "ladder":
        N = np.geomspace(1e7, 2.9e8, 20)
        D = N * 20 * np.exp(rng.normal(0, 0.6, 20))
    else:
        N, ratio = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 2.9e8, 6), (5.0, 10.0, 20.0, 40.0)))
        D = N * ratio
    names = [f"{n:g}" for n in N] if kind == "checkpoints" else [f"{i}" for i in range(len(N))]
    return names, N, D
