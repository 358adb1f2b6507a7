"""Do the intervals hold? Simulated surfaces and rollouts of public tables: coverage beside width.

On simulated surfaces, whose law is known, also those of the constants and of the best split of ten times the compute.

Run: python benchmarks/coverage.py [--data DIR] [--sims N] [--json] [--check]
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from extrapolation import APART, SHIFTS, before, score, tables

from scaling.fitting.fit import fit
from scaling.fitting.predictor import Fit
from scaling.laws import Law
from scaling.runs import Run
from scaling.stats import Interval

SURFACES = {
    "symmetric": Law(E=1.8, A=480.0, B=480.0, alpha=0.35, beta=0.35),
    "asymmetric": Law(E=1.7, A=180.0, B=9000.0, alpha=0.28, beta=0.45),
    "general": Law(E=1.6, A=1.5e5, B=6e5, alpha=0.6, beta=0.58, gamma=0.45),
}
NOISES = (0.002, 0.005, 0.01)
DESIGNS = ("isoflop", "ladder", "checkpoints")
BANDS = {80: (0.72, 0.88), 95: (0.88, 0.99)}
TARGET = 1e20  # FLOPs, ten times the largest simulated run
CONSTANTS = ("E", "alpha", "beta", "gamma")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One prediction ten times beyond the data."""

    inside_80: float
    inside_95: float
    width_80: float
    error: float
    known: "tuple[Known, ...]" = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One quantity whose true value the simulation knows, its estimate and 80 % interval; NaN where there is none."""

    name: str
    truth: float
    estimate: float
    low: float
    high: float

    @property
    def inside(self) -> bool:
        """True where the interval holds the truth."""
        return self.low <= self.truth <= self.high

    @property
    def beside_estimate(self) -> bool:
        """True where the interval does not hold its own estimate."""
        return not self.low <= self.estimate <= self.high


def design(kind: str, law: Law, noise: float, rng: np.random.Generator) -> list[Run]:
    """Runs up to 1e19 FLOPs. In `checkpoints` six runs have four annealed points each, which share the run's noise."""
    if kind == "isoflop":
        cells = [
            (np.sqrt(C / 120) * ratio, C)
            for C in np.geomspace(1e16, 1e19, 6)
            for ratio in np.geomspace(0.25, 4, 7)
        ]
        points = [(f"{i}", N, C / 6 / N) for i, (N, C) in enumerate(cells)]
        own = rng.normal(0, noise, len(points))
    elif kind == "ladder":
        sizes = np.geomspace(1e7, 2.9e8, 20)
        points = [(f"{i}", N, N * 20 * np.exp(rng.normal(0, 0.6))) for i, N in enumerate(sizes)]
        own = rng.normal(0, noise, len(points))
    else:
        points = [(f"{N:g}", N, N * ratio) for N in np.geomspace(1e7, 2.9e8, 6) for ratio in (5, 10, 20, 40)]
        own = np.repeat(rng.normal(0, noise, 6), 4) + rng.normal(0, noise / 4, 24)
    return [
        Run(run=name, params=float(N), tokens=float(D), loss=float(law.loss(N, D) * np.exp(e)))
        for (name, N, D), e in zip(points, own, strict=True)
    ]


def trial(kind: str, law: Law, noise: float, seed: int) -> Trial:
    """Simulate, fit, predict a run of 1e20 FLOPs, and look."""
    rng = np.random.default_rng(seed)
    found = fit(design(kind, law, noise, rng), seed=seed, bootstrap=100)
    N = np.sqrt(TARGET / 120) * np.exp(rng.uniform(-0.7, 0.7, 5))
    D = TARGET / 6 / N
    actual = np.asarray(law.loss(N, D)) * np.exp(rng.normal(0, noise, 5))
    p = found.predict(N, D)
    assert p.interval_80 is not None
    assert p.interval_95 is not None
    return Trial(
        inside_80=float(((p.interval_80[0] <= actual) & (actual <= p.interval_80[1])).mean()),
        inside_95=float(((p.interval_95[0] <= actual) & (actual <= p.interval_95[1])).mean()),
        width_80=float(np.mean((p.interval_80[1] - p.interval_80[0]) / p.loss)),
        error=float(np.abs(p.loss / actual - 1).mean()),
        known=known(found, law, float(rng.normal(0, noise))),
    )


def known(found: Fit, law: Law, own: float) -> tuple[Known, ...]:
    """The constants, and N*, D* and the loss of a run there at TARGET; `own` is the log noise of that run."""
    best, true = found.allocate(TARGET), law.allocate(TARGET)
    run = float(law.loss(best.N, best.D) * np.exp(own))
    quantities: list[tuple[str, float, float, Interval | None]] = [
        (name, getattr(law, name), getattr(found.main_form.law, name), found.interval(name))
        for name in CONSTANTS
    ]
    quantities += [
        ("N*", true.N, best.N, best.N_interval_80),
        ("D*", true.D, best.D, best.D_interval_80),
        ("loss at N*", run, float(best.loss), best.loss_interval_80),
    ]
    return tuple(
        Known(name=name, truth=truth, estimate=estimate, low=float(low), high=float(high))
        for name, truth, estimate, bounds in quantities
        for low, high in ((np.nan, np.nan) if bounds is None else bounds,)
    )


def main() -> int:
    """Print a table, or one JSON object; status 1 with --check if a bar fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / "../shared/data")
    parser.add_argument("--sims", type=int, default=8, help="simulations per surface, noise and design")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    simulated = {
        (kind, surface, noise): [trial(kind, law, noise, 1000 * i + 7) for i in range(options.sims)]
        for kind in DESIGNS
        for surface, law in SURFACES.items()
        for noise in NOISES
    }
    rows = [
        summary(f"simulated, {kind}", [t for key, ts in simulated.items() if key[0] == kind for t in ts])
        for kind in DESIGNS
    ]
    rows += [
        summary(f"simulated, {name}", [t for key, ts in simulated.items() if key[1] == name for t in ts])
        for name in SURFACES
    ]
    rows += [
        summary(f"simulated, noise {n:.1%}", [t for key, ts in simulated.items() if key[2] == n for t in ts])
        for n in NOISES
    ]
    everything = summary("simulated, all", [t for ts in simulated.values() for t in ts])
    real = summary("rollouts of public tables", rollouts(options.data))
    rows += [everything, real]
    bars = [
        {
            "name": f"{row['name']}: nominal {level} %",
            "value": row[f"coverage_{level}"],
            "at_least": low,
            "at_most": high,
            "holds": bool(low <= row[f"coverage_{level}"] <= high),
        }
        for row in (everything, real)
        for level, (low, high) in BANDS.items()
    ]
    held = quantities([t for ts in simulated.values() for t in ts])
    low, high = BANDS[80]
    for one in held:
        bars.append(
            {
                "name": f"simulated, {one['name']}: nominal 80 %",
                "value": one["coverage_80"],
                "at_least": low,
                "at_most": high,
                "holds": bool(low <= one["coverage_80"] <= high),
            }
        )
    beside = float(np.mean([one["beside_estimate"] for one in held]))
    bars.append(
        {
            "name": "simulated, intervals beside their estimate",
            "value": beside,
            "at_least": 0.0,
            "at_most": 0.0,
            "holds": beside == 0,
        }
    )
    result = {"rows": rows, "quantities": held, "bars": bars}
    print(json.dumps(result, indent=2) if options.json else text(result))
    return 1 if options.check and not all(bar["holds"] for bar in bars) else 0


def rollouts(folder: Path) -> list[Trial]:
    """The top decade of every table that counts, and three earlier decades of each."""
    found = []
    for name, runs in tables(folder).items():
        for shift in (0.0, *SHIFTS):
            one = score(before(runs, shift)) if name not in APART else None
            if one and one.fit_rows >= 20:
                d = one.default
                found.append(
                    Trial(
                        inside_80=d.coverage_80,
                        inside_95=d.coverage_95,
                        width_80=d.relative_width_80,
                        error=d.mean_error,
                    )
                )
    return found


def summary(name: str, trials: list[Trial]) -> dict[str, Any]:
    """Means over trials."""
    return {
        "name": name,
        "trials": len(trials),
        "coverage_80": float(np.mean([t.inside_80 for t in trials])),
        "coverage_95": float(np.mean([t.inside_95 for t in trials])),
        "width_80": float(np.mean([t.width_80 for t in trials])),
        "error": float(np.mean([t.error for t in trials])),
    }


def quantities(trials: list[Trial]) -> list[dict[str, Any]]:
    """Of each known quantity: shares of trials inside the interval, and the median half width.

    Half widths are shares of the estimate.
    """
    found = []
    for name in dict.fromkeys(one.name for t in trials for one in t.known):
        ones = [one for t in trials for one in t.known if one.name == name]
        found.append(
            {
                "name": name,
                "coverage_80": float(np.mean([one.inside for one in ones])),
                "beside_estimate": float(np.mean([one.beside_estimate for one in ones])),
                "half_width_80": float(np.median([(one.high - one.low) / 2 / one.estimate for one in ones])),
            }
        )
    return found


def text(result: dict[str, Any]) -> str:
    """The result for a person."""
    lines = [f"{'':<32}{'trials':>7}{'in 80 %':>9}{'in 95 %':>9}{'80 % width':>12}{'mean error':>12}"]
    lines += [
        f"{r['name']:<32}{r['trials']:>7}{r['coverage_80']:>9.1%}{r['coverage_95']:>9.1%}{r['width_80']:>12.2%}{r['error']:>12.2%}"
        for r in result["rows"]
    ]
    lines += [
        f"{'interval of ' + q['name']:<32}{result['rows'][-2]['trials']:>7}{q['coverage_80']:>9.1%}{'':>9}"
        f"{2 * q['half_width_80']:>12.2%}"
        for q in result["quantities"]
    ]
    lines += [
        f"{'ok  ' if b['holds'] else 'FAIL'} {b['name']}: {b['value']:.1%} ({b['at_least']:.0%} to {b['at_most']:.0%})"
        for b in result["bars"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
