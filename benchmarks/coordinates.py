"""Coordinates of the law: learning rate and batch, experts, vocabulary on public tables; changes that pay in simulation.

The grid of learning rates and batches is fitted on cells below 0.5B and scored above: what the chosen settings give away at
the grid's nearest point, and the error of all rows. Experts are fitted on the smaller dense sizes; the vocabulary's term on
the smaller compute. Changes of one arm over another are simulated on three surfaces. Tasks of SLDBench without data here are
simulated on the surfaces of their papers, with larger points held out as the benchmark does (docs/benchmarks.md).

Run: python benchmarks/coordinates.py [--data DIR] [--sims N] [--only NAME] [--json] [--check]
"""

import argparse
import csv
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaling.fitting.columns import columns_of
from scaling.fitting.downstream import fit_scores
from scaling.fitting.downstream_scores import Scores
from scaling.fitting.fit import fit
from scaling.fitting.predictor import Fit
from scaling.fitting.versus import versus
from scaling.laws import Law
from scaling.runs import Run, RunTable
from scaling.runs.readers import read_runs

SMALL = 0.5e9  # parameters below which the grid is fitted

UNIGRAM = 7.0  # nats, added to losses that are normalised by the unigram's, to make them positive

SURFACES = {
    "chinchilla": Law(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658),
    "gamma 0.45": Law(E=1.6, A=1.5e5, B=6e5, alpha=0.6, beta=0.58, gamma=0.45),
    "low floor": Law(E=0.3, A=60.0, B=300.0, alpha=0.16, beta=0.2),
}

NOISE, EFFECT = 0.003, 1.15

TASKS = 6  # simulations of each of SLDBench's tasks

Floats = np.ndarray[Any, np.dtype[np.float64]]

SIZES = (1e7, 2e7, 4e7, 8e7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A measured value and the range that it must lie in."""

    name: str
    value: float
    at_least: float
    at_most: float

    @property
    def holds(self) -> bool:
        """True inside the range."""
        return self.at_least <= self.value <= self.at_most


def given_away(law: Fit, held: RunTable) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Loss of the grid point nearest the law's best learning rate and batch over the best of each cell, less 1."""
    lr, batch = (np.array([getattr(run, name) for run in held]) for name in ("lr", "batch_tokens"))
    shares = []
    for N, D in sorted(set(zip(held.N.tolist(), held.D.tolist(), strict=True))):
        cell = np.flatnonzero((held.N == N) & (held.D == D))
        off = np.log(lr[cell] / law.best("lr", N, D).value) ** 2
        off += np.log(batch[cell] / law.best("batch_tokens", N, D).value) ** 2
        shares.append(held.L[cell[off.argmin()]] / held.L[cell].min() - 1)
    return np.array(shares)


def grid_bars(folder: Path, sims: int) -> list[Bar]:
    """Learning rate and batch on the public grid."""
    groups = read_runs(folder / "lr_batch_grid.csv").by_group()
    bars = []
    for name, runs in groups.items():
        law = fit(runs.select(runs.N < SMALL))
        held = runs.select(runs.N >= SMALL)
        shares = given_away(law, held)
        found = law.predict(held.N, held.D, own=columns_of(law.fitted_coordinates, held))
        assert found.interval_80 is not None
        error = np.abs(found.loss / held.L - 1)
        inside = (found.interval_80[0] <= held.L) & (found.interval_80[1] >= held.L)
        limits = (0.002, 0.004, 0.01) if name == "dense" else (1.0, 1.0, 1.0)
        bars += [
            Bar(name=f"{name}: given away, mean", value=float(shares.mean()), at_least=0, at_most=limits[0]),
            Bar(name=f"{name}: given away, worst", value=float(shares.max()), at_least=0, at_most=limits[1]),
            Bar(name=f"{name}: error of all rows", value=float(error.mean()), at_least=0, at_most=limits[2]),
            Bar(name=f"{name}: rows in 80 %", value=float(inside.mean()), at_least=0, at_most=1),
        ]
    began = time.process_time()
    law = fit(
        RunTable([run.model_copy(update={"group": ""}) for run in read_runs(folder / "lr_batch_grid.csv")])
    )
    bars.append(
        Bar(name="2,702 rows: CPU seconds", value=time.process_time() - began, at_least=0, at_most=1.0)
    )
    bars.append(
        Bar(name="2,702 rows: certified", value=float(law.status.value == "ok"), at_least=1, at_most=1)
    )
    return bars


def settings_bars(folder: Path, sims: int) -> list[Bar]:
    """Random settings, fitted on a tenth and less of the largest compute."""
    runs = read_runs(folder / "random_settings.csv")
    bars = []
    for reach in (10, 42):
        cheap, held = runs.select(runs.C.max() / reach >= runs.C), runs.select(runs.C.max() / 3 < runs.C)
        for name, coordinates in (("with settings", None), ("N and D alone", ())):
            law = fit(cheap, coordinates=coordinates, bootstrap=0)
            found = law.predict(held.N, held.D, own=columns_of(law.fitted_coordinates, held), force=True)
            error = float(np.abs(found.loss / held.L - 1).mean())
            bars.append(Bar(name=f"random settings, {reach}x, {name}", value=error, at_least=0, at_most=1))
    return bars


def expert_bars(folder: Path, sims: int) -> list[Bar]:
    """Experts: fitted on dense sizes below 1e8, scored on the two above."""
    runs = read_runs(folder / "moe_experts.csv")
    law = fit(runs.select(runs.N < 1e8), coordinates=["n_experts"], bootstrap=0)
    held = runs.select(runs.N >= 1e8)
    predicted = law.predict(held.N, held.D, own=columns_of(law.fitted_coordinates, held)).loss
    experts = np.array([run.n_experts for run in held])
    cells = sorted(set(zip(held.N.tolist(), experts.tolist(), strict=True)))
    medians = np.array([np.median(held.L[(held.N == N) & (experts == E)]) for N, E in cells])
    own = {"n_experts": np.array([E for _, E in cells])}
    means = np.array([held.L[(held.N == N) & (experts == E)].mean() for N, E in cells])
    at_cells = law.predict(np.array([N for N, _ in cells]), held.D[0], own=own).loss
    oracle = np.array(
        [np.median(held.L[(run.n_params() == held.N) & (experts == run.n_experts)]) for run in held]
    )
    r2 = 1 - ((predicted - held.L) ** 2).sum() / ((held.L - held.L.mean()) ** 2).sum()
    measured = (
        ("error of rows", np.abs(predicted / held.L - 1).mean(), 0.0, 1.0),
        ("error of cell medians", np.abs(at_cells / medians - 1).mean(), 0.0, 0.005),
        ("error of cell means", np.abs(at_cells / means - 1).mean(), 0.0, 0.005),
        ("error of the cells' own medians", np.abs(oracle / held.L - 1).mean(), 0.0, 1.0),
        ("R2 of rows", r2, 0.85, 1.0),
    )
    return [Bar(name=f"experts: {name}", value=float(value), at_least=low, at_most=high)
            for name, value, low, high in measured]  # fmt: skip


def vocabulary_runs(folder: Path) -> RunTable:
    """The vocabulary table, losses made positive."""
    with (folder / "vocabulary.csv").open() as file:
        rows = list(csv.DictReader(file))
    return RunTable(
        [
            Run(run=row["run"], params_non_embedding=float(row["params_non_embedding"]), tokens=float(row["tokens"]),
                vocab_size=int(row["vocab_size"]), loss=UNIGRAM + float(row["loss"]))
            for row in rows
        ]
    )  # fmt: skip


def vocabulary_bars(folder: Path, sims: int) -> list[Bar]:
    """The vocabulary's term: fitted below the largest vocabulary, scored on it."""
    runs = vocabulary_runs(folder)
    sizes = np.array([run.vocab_size for run in runs])
    bars = []
    for name, keep in (
        ("largest vocabulary", sizes < sizes.max()),
        ("top third of compute", runs.C.max() / 3 > runs.C),
    ):
        held = runs.select(~keep)
        law = fit(runs.select(keep), coordinates=["vocab_size"], bootstrap=0)
        predicted = law.predict(held.N, held.D, own=columns_of(law.fitted_coordinates, held)).loss
        r2 = 1 - ((predicted - held.L) ** 2).sum() / ((held.L - held.L.mean()) ** 2).sum()
        bars.append(Bar(name=f"vocabulary, {name}: R2", value=float(r2), at_least=-9, at_most=1))
    return bars


def arm(law: Law, multiplier: float, rng: np.random.Generator) -> RunTable:
    """Two seeds at four sizes on 20 tokens per parameter."""
    return RunTable(
        [
            Run(run=f"{N:g}-{twin}", params=N, tokens=20 * N,
                loss=law.loss(N * multiplier**0.5, 20 * N * multiplier**0.5) * np.exp(NOISE * rng.normal()))
            for N in SIZES
            for twin in range(2)
        ]
    )  # fmt: skip


def versus_bars(folder: Path, sims: int) -> list[Bar]:
    """Coverage, false alarms and power of the compute multiplier."""
    bars = []
    largest = 6 * 20 * SIZES[-1] ** 2
    for name, law in SURFACES.items():
        inside, pays = {1.0: 0, EFFECT: 0}, {1.0: 0, EFFECT: 0}
        for seed in range(sims):
            for effect in inside:
                rng = np.random.default_rng([seed, 7])
                found = versus(arm(law, 1.0, rng), arm(law, effect, rng)).at(largest)
                inside[effect] += found.interval_80[0] <= effect <= found.interval_80[1]
                pays[effect] += found.verdict == "pays"
        bars += [
            Bar(name=f"versus, {name}: in 80 %", value=inside[EFFECT] / sims, at_least=0.72, at_most=0.88),
            Bar(
                name=f"versus, {name}: pays without effect", value=pays[1.0] / sims, at_least=0, at_most=0.05
            ),
            Bar(name=f"versus, {name}: power at 1.15", value=pays[EFFECT] / sims, at_least=0.8, at_most=1),
        ]
    return bars


def r_squared(found: Floats, actual: Floats) -> float:
    """1 − squared errors over squares about the mean, as the benchmark scores a task."""
    return float(1 - ((found - actual) ** 2).sum() / ((actual - actual.mean()) ** 2).sum())


def repetition_bars(folder: Path, sims: int) -> list[Bar]:
    """Repeated data: fitted below the costliest eighth of all C4 runs, scored on it."""
    runs = RunTable([run.model_copy(update={"group": ""}) for run in read_runs(folder / "datablations.csv")
                     if run.group.startswith("c4") and "dedup" not in run.group])  # fmt: skip
    cheap = np.quantile(runs.C, 7 / 8) >= runs.C
    law, held = fit(runs.select(cheap), bootstrap=0), runs.select(~cheap)
    found = law.predict(held.N, held.D, unique_tokens=held.U, force=True).loss
    return [Bar(name="repeated data: R2", value=r_squared(found, held.L), at_least=-9, at_most=1)]


def parallel_task(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Predicted and simulated losses of 8 streams from those of 1, 2 and 4 (Chen et al. 2025, arXiv:2505.10475)."""
    sizes = (5.36e8, 6.93e8, 1.09e9, 1.57e9, 2.57e9, 4.38e9)
    found, actual = [], []
    for E, A, alpha, k in ((1.2888, 1.973e8, 0.1958, 0.3342), (0.6910, 1.130e7, 0.1894, 0.3937)):

        def loss(N: float, P: int, E: float = E, A: float = A, alpha: float = alpha, k: float = k) -> float:
            clean = E + (A / (N * (k * np.log(P) + 1))) ** alpha
            return float(clean * np.exp(0.001 * rng.normal()))

        runs = [Run(run=f"{N:g}-{P}", params=N, tokens=1, loss=loss(N, P), extra={"parallel_size": P})
                for N in sizes for P in (1, 2, 4)]  # fmt: skip
        law = fit(runs, bootstrap=0, own={"parallel_size": "multiplier"})
        found += [float(law.predict(N, 1.0, own={"parallel_size": 8}).loss) for N in sizes]
        actual += [loss(N, 8) for N in sizes]
    return np.array(found), np.array(actual)


def mixture_task(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Predicted and simulated losses of one of five domains on held mixtures (Ye et al. 2024, arXiv:2403.16952)."""
    t = np.r_[-rng.uniform(1.5, 6), rng.normal(0, 0.4, 4)]
    names = [f"proportion_domain_{j}" for j in range(1, 6)]

    def runs(count: int) -> list[Run]:
        return [
            Run(run=f"{N:g}-{i}", params=N, tokens=3e10, extra=dict(zip(names, map(float, r), strict=True)),
                loss=(1.9 + 0.6 * (N / 7e7) ** -0.25 + 0.9 * np.exp(r @ t)) * np.exp(0.003 * rng.normal()))
            for N in (7e7, 1.6e8, 4.1e8, 1e9) for i, r in enumerate(rng.dirichlet(np.ones(5), count))
        ]  # fmt: skip

    law = fit(runs(20), bootstrap=0, own=dict.fromkeys(names, "share"))
    held = RunTable(runs(6))
    found = law.predict(held.N, held.D, own=columns_of(law.fitted_coordinates, held)).loss
    return np.asarray(found), held.L


def tuning_task(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Predicted and simulated losses at the largest of 13 doublings of data (Lin et al. 2024, arXiv:2402.02314)."""
    D = 200 * 2.0 ** np.arange(13)
    found, actual = [], []
    for _ in range(10):
        E, B, power, before = (
            rng.uniform(1.2, 2),
            rng.uniform(20, 200),
            rng.uniform(0.3, 0.6),
            rng.uniform(10, 60),
        )
        loss = (E + B / (before + D**power)) * np.exp(0.003 * rng.normal(size=13))
        law = fit(N=np.ones(12), D=D[:-1], loss=loss[:-1], bootstrap=0)
        found.append(float(law.predict(1.0, D[-1]).loss))
        actual.append(loss[-1])
    return np.array(found), np.array(actual)


def turning_task(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Predicted and simulated scores beyond 8e22 FLOPs of easy questions, which rise, fall and rise (arXiv:2410.01692)."""
    x = np.sort(rng.uniform(20.1, 23.9, 65))
    middle, steep, top = rng.uniform(22.2, 23.0), rng.uniform(1.5, 3), rng.uniform(0.4, 0.65)
    score = 0.3 + top / (1 + np.exp(-steep * (x - middle))) + 0.12 * np.exp(-0.5 * ((x - 20.6) / 0.5) ** 2)
    score += 0.015 * rng.normal(size=65)
    names, early = [str(i) for i in range(65)], x < 22.9
    compute = dict(zip(names, 10**x, strict=True))
    by_run = {name: float(s) for name, s, seen in zip(names, score, early, strict=True) if seen}
    law = fit_scores(Scores(task="easy", by_run=by_run, compute=compute), (), chance=0.3)
    return np.array([law.at(-np.log(C)) for C in 10 ** x[~early]]), score[~early]


def task_bars(folder: Path, sims: int) -> list[Bar]:
    """R² of the tasks of SLDBench whose data are not here, on simulated surfaces: the median of several."""
    bars = repetition_bars(folder, sims) if folder.is_dir() else []
    for name, task, least in (
        ("parallel streams", parallel_task, 0.95),
        ("domain mixture", mixture_task, 0.9),
        ("fine-tuning", tuning_task, 0.9),
        ("easy questions", turning_task, -9.0),
    ):
        found = [task(np.random.default_rng([seed, 11])) for seed in range(TASKS)]
        scores = [max(r_squared(*each), -1.0) for each in found]
        errors = [float(np.abs(predicted - actual).mean()) for predicted, actual in found]
        bars += [
            Bar(
                name=f"simulated {name}: R2, median",
                value=float(np.median(scores)),
                at_least=least,
                at_most=1,
            ),
            Bar(
                name=f"simulated {name}: R2 (at least -1), mean",
                value=float(np.mean(scores)),
                at_least=-1,
                at_most=1,
            ),
            Bar(name=f"simulated {name}: error, mean", value=float(np.mean(errors)), at_least=0, at_most=1),
        ]
    return bars


PARTS: dict[str, Callable[[Path, int], list[Bar]]] = {
    "grid": grid_bars,
    "settings": settings_bars,
    "experts": expert_bars,
    "vocabulary": vocabulary_bars,
    "versus": versus_bars,
    "tasks": task_bars,
}


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and check the bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder of public run tables"
    )
    parser.add_argument("--sims", type=int, default=300, help="simulated comparisons of each kind")
    parser.add_argument("--only", choices=list(PARTS), help="one part")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--check", action="store_true", help="exit status 1 where a bar does not hold")
    options = parser.parse_args(words)
    began = time.monotonic()
    bars = []
    for name, part in PARTS.items():
        if options.only in (None, name) and (name in ("versus", "tasks") or options.data.is_dir()):
            bars += part(options.data, options.sims)
    if options.json:
        print(
            json.dumps(
                [{**{k: getattr(b, k) for k in Bar.__slots__}, "holds": b.holds} for b in bars], indent=2
            )
        )
    else:
        for bar in bars:
            print(
                f"{'ok  ' if bar.holds else 'FAIL'} {bar.name:<52}{bar.value:>9.4f}  ({bar.at_least:g} to {bar.at_most:g})"
            )
        print(f"{time.monotonic() - began:.0f} s")
    return 1 if options.check and not all(bar.holds for bar in bars) else 0


if __name__ == "__main__":
    sys.exit(main())
