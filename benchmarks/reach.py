"""How far the default predictor reaches: 10, 30 and 100 times the data, and whether its intervals hold there.

Every group of the public tables is fitted on the rows up to C_max/reach and scored on those above C_max/3; simulated runs,
whose law is known, on runs of `reach` times the largest compute. An interval's score is its width plus ten times what lies
outside (Gneiting & Raftery 2007, for 80 %), in shares of the loss: less is better.

Run: python benchmarks/reach.py [--data DIR] [--sims N] [--elsewhere] [--json] [--check]
"""

import argparse
import csv
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from leave_one_out import PRIORS, predicting_with
from numpy.typing import NDArray

from scaling.fitting.ensemble import FormPrior
from scaling.fitting.fit import fit
from scaling.fitting.selection import select_runs
from scaling.laws import Law
from scaling.runs import Run, RunTable
from scaling.runs.readers import read_runs

REACHES = (10, 30, 100)
HELD = 3  # rows above C_max/3 are scored, at every reach the same
FEWEST_ROWS, FEWEST_RUNS = 8, 4  # to fit
BOOTSTRAP = 100
OUTSIDE = 10.0  # 2/(1 − 0.8): the price of what lies outside an 80 % interval

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

# Today's figures (log e135), and the bars relative to them.
TODAY = {
    10: {"error": 0.0313, "interval_score": 0.2175},
    30: {"error": 0.0350, "interval_score": 0.2353},
    100: {"error": 0.0451, "interval_score": 0.2613},
}

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One case: shares of the loss, but `inside`, and `one_side`: all rows outside the interval on one side."""

    source: str
    group: str
    reach: int
    fit_rows: int
    held_rows: int
    error: float
    bias: float
    inside: float
    half_width: float
    interval_score: float
    one_side: bool
    warned: bool

    @classmethod
    def of(cls, case: Case, loss: Array, low: Array, high: Array, *, warned: bool = False) -> "Score":
        """Judge predictions (n,) and their 80 % bounds."""
        off = np.maximum(low - case.L, case.L - high)
        return cls(
            source=case.source,
            group=case.group,
            reach=case.reach,
            fit_rows=len(case.cheap),
            held_rows=len(case.L),
            error=float(np.abs(loss / case.L - 1).mean()),
            bias=float((loss / case.L - 1).mean()),
            inside=float((off <= 0).mean()),
            half_width=float(((high - low) / 2 / loss).mean()),
            interval_score=float(((high - low + OUTSIDE * np.maximum(off, 0)) / case.L).mean()),
            one_side=bool((low > case.L).all() or (high < case.L).all()),
            warned=warned,
        )


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
                )


def ask(cases: Sequence[Case]) -> list[Score]:
    """Fit each cheap part once, and judge its predictions."""
    scores: list[Score] = []
    fitted, known = None, None
    for case in cases:
        if fitted is None or case.cheap is not known:
            known = case.cheap
            # N and D alone: the questions ask without settings, and untuned rows are not at their best
            fitted = fit(case.cheap, annealed="all", bootstrap=BOOTSTRAP, coordinates=("unique_tokens",))
        unique = None if fitted.fitted_repetition is None else case.U
        answer = fitted.predict(case.N, case.D, unique_tokens=unique, force=True)
        assert answer.interval_80 is not None
        warned = fitted.card["warnings"] != "none"
        scores.append(Score.of(case, answer.loss, *answer.interval_80, warned=warned))
    return scores


def mean_over(scores: Sequence[Score]) -> dict[str, float]:
    """Means over groups."""
    names = ("error", "bias", "inside", "half_width", "interval_score", "one_side", "warned")
    return {
        "groups": len(scores),
        **{name: float(np.mean([getattr(one, name) for one in scores])) for name in names},
    }


def by_source(scores: Sequence[Score], reach: int) -> dict[str, dict[str, float]]:
    """Means of each source's groups at one reach."""
    found = {}
    for source in dict.fromkeys(one.source for one in scores):
        here = [one for one in scores if one.source == source and one.reach == reach]
        if here:
            found[source] = mean_over(here)
    return found


def over_sources(scores: Sequence[Score], reach: int) -> dict[str, float]:
    """Means over sources of the means over their groups; `one_side` is a share of all groups."""
    sources = by_source(scores, reach)
    means = {
        name: float(np.mean([one[name] for one in sources.values()])) for name in next(iter(sources.values()))
    }
    means["groups"] = sum(one["groups"] for one in sources.values())
    means["one_side"] = float(np.mean([one.one_side for one in scores if one.reach == reach]))
    return means


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


DRIFTS, SHARES = (0.5, 0.7, 1.0, 1.4, 2.0), (0.25, 0.5, 1.0, 2.0, 4.0)  # times those in use


def answers(cases: Sequence[Case], prior: FormPrior) -> dict[tuple[float, float], list[Score]]:
    """Scores under one prior, for each factor of the drift and of the constants' variance."""
    found: dict[tuple[float, float], list[Score]] = {}
    for case in cases:
        with predicting_with(prior):
            one = fit(case.cheap, annealed="all", bootstrap=BOOTSTRAP)
        unique = None if one.fitted_repetition is None else case.U
        for drift, share in product(DRIFTS, SHARES):
            other = replace(one, drift=drift * one.drift, predicted=share * one.predicted)
            answer = other.predict(case.N, case.D, unique_tokens=unique, force=True)
            assert answer.interval_80 is not None
            found.setdefault((drift, share), []).append(Score.of(case, answer.loss, *answer.interval_80))
    return found


def chosen_elsewhere(cases: Sequence[Case]) -> dict[int, dict[str, float]]:
    """The prior, the drift and the constants' share chosen on all sources but one, and scored on that one.

    The prior by the mean over sources and reaches of the error over its own largest among priors, the two factors by the
    same of the interval score: each table is looked at once for every prior and pair of factors.
    """
    everything = {name: answers(cases, prior) for name, prior in PRIORS.items()}
    sources = list(dict.fromkeys(case.source for case in cases))
    picked: list[Score] = []
    for source in sources:

        def mean(scores: list[Score], name: str, left_out: str = source) -> float:
            rows = [
                float(np.log(row[name]))
                for reach in REACHES
                for origin, row in by_source(scores, reach).items()
                if origin != left_out
            ]
            return float(np.mean(rows))

        prior = min(everything, key=lambda name: mean(everything[name][1.0, 1.0], "error"))
        pairs = everything[prior]
        best = min(pairs, key=lambda pair: mean(pairs[pair], "interval_score"))
        picked += [one for one in pairs[best] if one.source == source]
    return {reach: over_sources(picked, reach) for reach in REACHES}


def main() -> int:
    """Print a table, or one JSON object; status 1 with --check if a bar fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / "../shared/data")
    parser.add_argument(
        "--sims", type=int, default=1, help="simulations per surface, design and noise; 0: none"
    )
    parser.add_argument("--elsewhere", action="store_true", help="choose constants on other sources: minutes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    began = time.monotonic()
    everything = ask(list(public_cases(options.data)))
    counted = [one for one in everything if one.group not in APART]
    simulated = ask(list(simulated_cases(options.sims)))
    result: dict[str, Any] = {
        "scores": [asdict(one) for one in everything],
        "sources": {reach: by_source(counted, reach) for reach in REACHES},
        "over_sources": {reach: over_sources(counted, reach) for reach in REACHES},
        "apart": {one.group: asdict(one) for one in everything if one.group in APART},
        "simulated": {reach: by_source(simulated, reach) for reach in REACHES} if simulated else {},
        "over_simulated": {reach: over_sources(simulated, reach) for reach in REACHES} if simulated else {},
    }
    if options.elsewhere:
        cases = [case for case in public_cases(options.data) if case.group not in APART]
        result["elsewhere"] = chosen_elsewhere([case for case in cases if case.source in SOURCES])
    result["bars"] = judged(result)
    result["seconds"] = time.monotonic() - began
    print(json.dumps(result, indent=2) if options.json else text(result))
    return 1 if options.check and not all(bar["holds"] for bar in result["bars"]) else 0


def judged(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What is promised of the public tables; with constants chosen elsewhere, where that was asked for."""
    bars = []
    for reach, means in result.get("elsewhere", result["over_sources"]).items():
        today = TODAY[reach]
        for name, value, low, high in (
            ("80 % intervals hold", means["inside"], 0.72, 0.90),
            ("error over that of e135", means["error"] / today["error"], 0.0, 0.8),
            ("interval score over that of e135", means["interval_score"] / today["interval_score"], 0.0, 0.7),
            ("groups all on one side and outside", means["one_side"], 0.0, 0.15),
        ):
            bars.append(
                {
                    "name": f"{reach} times: {name}",
                    "value": value,
                    "at_least": low,
                    "at_most": high,
                    "holds": bool(low <= value <= high),
                }
            )
    return bars


def text(result: dict[str, Any]) -> str:
    """The result for a person."""
    lines = []
    for title, sources, means in (
        ("public tables", result["sources"], result["over_sources"]),
        ("simulated", result["simulated"], result["over_simulated"]),
    ):
        for reach in sources:
            lines.append(
                f"{title + f', {reach} times':<28}{'groups':>7}{'error':>9}{'bias':>9}{'in 80 %':>9}"
                f"{'half':>8}{'score':>8}{'1 side':>8}"
            )
            rows = {**sources[reach], "mean over sources": means[reach]}
            lines += [
                f"{name.removeprefix('simulated ')[:27]:<28}{row['groups']:>7.0f}{row['error']:>9.2%}{row['bias']:>+9.2%}"
                f"{row['inside']:>9.0%}{row['half_width']:>8.1%}{row['interval_score']:>8.1%}{row['one_side']:>8.0%}"
                for name, row in rows.items()
            ]
            lines.append("")
    for reach, row in result.get("elsewhere", {}).items():
        lines.append(
            f"constants chosen on other sources, {reach} times: error {row['error']:.2%}, bias {row['bias']:+.2%}, "
            f"in 80 % {row['inside']:.0%}, half {row['half_width']:.1%}, score {row['interval_score']:.1%}"
        )
    lines += [
        f"{'ok  ' if bar['holds'] else 'FAIL'} {bar['name']}: {bar['value']:.3f} "
        f"({bar['at_least']:g} to {bar['at_most']:g})"
        for bar in result["bars"]
    ]
    lines.append(f"{result['seconds']:.0f} s")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
