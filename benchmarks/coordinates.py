"""Coordinates of the law: learning rate and batch, experts, vocabulary on public tables; changes that pay in simulation.

The grid of learning rates and batches is fitted on cells below 0.5B and scored above: what the chosen settings give away at
the grid's nearest point, and the error of all rows. Experts are fitted on the smaller dense sizes; the vocabulary's term on
the smaller compute. Changes of one arm over another are simulated on three surfaces.

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


PARTS: dict[str, Callable[[Path, int], list[Bar]]] = {
    "grid": grid_bars,
    "settings": settings_bars,
    "experts": expert_bars,
    "vocabulary": vocabulary_bars,
    "versus": versus_bars,
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
        if options.only in (None, name) and (name == "versus" or options.data.is_dir()):
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
