"""Runs chosen in sequence against all of them: how much of the data a prediction needs.

The task is that of the active-sl benchmark (runs of a table at their cost, targets far above them in compute, budget a share of
the cost of all), simulated on tables in view: the targets are a table's seven costliest runs, the pool the rest. Each step
refits the law on what was bought and buys the run that narrows the targets most per FLOP, to first order in the law's
constants (`experiment_design`). R² and the mean error on the targets at 2, 5, 10 and 20 % of the pool's cost stand beside
those of all runs, of random order and of the cheapest first.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from scaling.fitting.fit import fit
from scaling.laws import Law
from scaling.planning.experiment_design import jacobian, prior, rows_information, variance
from scaling.runs import Run, RunTable
from scaling.runs.readers import read_runs
from scaling.stats import Array

TARGETS = 7
SHARES = (0.02, 0.05, 0.1, 0.2)
START = 6  # cheapest runs of different sizes, which the choice begins with
REFIT = 1.3  # the law is fitted again when this many times as much was spent
TABLES = {
    "farseer.csv": None,
    "gemstones.csv": "cool_end",
    "datablations.csv": None,
    "overtraining.csv": None,
}


def pool_and_targets(path: Path, group: str | None) -> tuple[RunTable, RunTable]:
    """Runs to buy, and the seven costliest, which are predicted; repeated data is left out."""
    table = read_runs(path, max_bad_share=1.0)
    fresh = [run for run in table if run.annealed and run.tokens <= (run.unique_tokens or run.tokens) * 1.001]
    groups: dict[str, list[Run]] = {}
    for run in fresh:
        groups.setdefault(run.group, []).append(run)
    rows = groups[group] if group in groups else max(groups.values(), key=len)
    order = np.argsort([run.flops for run in rows])
    ordered = [rows[i].model_copy(update={"run": f"r{i}", "annealed": True}) for i in order]
    return RunTable(ordered[:-TARGETS]), RunTable(ordered[-TARGETS:])


def law_of(rows: RunTable) -> Callable[[Array, Array], Array]:
    """Prediction of a fit to some rows."""
    found = fit(rows, bootstrap=0, coordinates=())
    return lambda N, D: np.asarray(found.predict(N, D, force=True).loss)


def main_law(rows: RunTable) -> Law:
    """The closed form of a fit to some rows."""
    return fit(rows, bootstrap=0, coordinates=()).main_form.law


def chosen(pool: RunTable, targets: RunTable, budget: float) -> list[int]:
    """Indices of the runs bought in sequence, in the order of buying."""
    cost = pool.C
    sizes = np.unique(pool.N.round(-5))
    bought = [int(np.flatnonzero(np.abs(pool.N / size - 1) < 0.02)[0]) for size in sizes[:START]]
    bought = list(dict.fromkeys(bought))
    top = float((6 * targets.N * targets.D).max())
    spent_at_fit = 0.0
    information: Array = np.zeros((6, 6))
    each: Array = np.zeros((len(pool), 6, 6))
    gradients: Array = np.zeros((len(targets), 6))
    while True:
        spent = float(cost[bought].sum())
        if spent > REFIT * spent_at_fit:
            law, spent_at_fit = main_law(RunTable([pool[i] for i in bought])), spent
            each = np.stack([rows_information(law, pool.N[[i]], pool.D[[i]], top) for i in range(len(pool))])
            gradients = jacobian(law, targets.N, targets.D)
            information = prior(float(np.median(pool.N)), float(np.median(pool.D))) + each[bought].sum(axis=0)
        left = np.array([i for i in range(len(pool)) if i not in set(bought) and cost[i] <= budget - spent])
        if not len(left):
            return bought
        before = float(np.mean([variance(information, g) for g in gradients]))
        after = np.mean([variance(information + each[left], g) for g in gradients], axis=0)
        best = int(left[np.argmax((before - after) / cost[left])])
        bought.append(best)
        information = information + each[best]


def by_order(order: Array, cost: Array, budget: float) -> list[int]:
    """The first runs of an order within a budget, those that do not fit left out."""
    found, spent = [], 0.0
    for index in order.tolist():
        if spent + cost[index] <= budget:
            found.append(index)
            spent += float(cost[index])
    return found


def score(pool: RunTable, targets: RunTable, bought: list[int]) -> tuple[float, float]:
    """R² and mean |relative error| on the targets."""
    predicted = law_of(RunTable([pool[i] for i in bought]))(targets.N, targets.D)
    rest = ((predicted - targets.L) ** 2).sum() / ((targets.L - targets.L.mean()) ** 2).sum()
    return 1 - float(rest), float(np.abs(predicted / targets.L - 1).mean())


def main() -> int:
    """Print R² and error by table, share and order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="random orders, whose mean is shown")
    asked = parser.parse_args()
    print(f"{'table':<14}{'share':>7}{'runs':>6}   {'sequence':>16}{'random':>16}{'cheapest':>16}")
    for name, group in TABLES.items():
        pool, targets = pool_and_targets(asked.data / name, group)
        total = float(pool.C.sum())
        ordered = np.argsort(pool.C)
        for share in SHARES:
            bought = chosen(pool, targets, share * total)
            orders = [np.random.default_rng(seed).permutation(len(pool)) for seed in range(asked.seeds)]
            random = [by_order(order, pool.C, share * total) for order in orders]
            scores = [
                score(pool, targets, bought),
                tuple(np.mean([score(pool, targets, one) for one in random if len(one) >= 5], axis=0)),
                score(pool, targets, by_order(ordered, pool.C, share * total)),
            ]
            cells = "".join(f"{r2:>9.3f} {error:>6.2%}" for r2, error in scores)
            print(f"{name[:-4]:<14}{share:>7.0%}{len(bought):>6}   {cells}", flush=True)
        r2, error = score(pool, targets, list(range(len(pool))))
        print(f"{name[:-4]:<14}{'all':>7}{len(pool):>6}   {r2:>9.3f} {error:>6.2%}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
