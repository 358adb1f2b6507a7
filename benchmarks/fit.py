"""How fast the certified fit is, and that nothing finds a better objective: one run, interleaved, ratio of medians.

Run: python benchmarks/fit.py [--data DIR] [--starts N] [--json] [--check]
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from scaling.certify import certify
from scaling.laws import Law
from scaling.optimise import SHAPES, Problem, objective
from scaling.predictor import Status
from scaling.runs import columns, read_runs
from scaling.uncertainty import cluster_draws

REPEATS = 7
RESAMPLES = 1000
BIG_ROWS = 5000


def main() -> int:
    """Print a table, or one JSON object; status 1 with --check if a bar fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / "../shared/data")
    parser.add_argument("--starts", type=int, default=1000, help="random starts of L-BFGS-B")
    parser.add_argument(
        "--peers", action="store_true", help="time vpnls and chinchilla too, where installed: minutes"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    table = columns(read_runs(options.data / "chinchilla.csv").runs)
    shape = SHAPES["chinchilla"]
    problem = Problem.of(table.N, table.D, table.L)
    certify(problem, shape)  # first call: numpy's own warm-up

    fits, slices, values = [], [], []
    rng = np.random.default_rng(0)
    share = max(1, options.starts // REPEATS)
    found = certify(problem, shape)
    for _ in range(REPEATS):
        fits.append(timed(lambda: certify(problem, shape)))
        seconds, best = multistart(problem, rng, share)
        slices.append(seconds * options.starts / share)
        values.append(best)
    resampling = timed(lambda: cluster_draws(problem, shape, found.theta, table.cluster, RESAMPLES, 0))
    ours, theirs = float(np.median(fits)), float(np.median(slices))
    reference = min(values)
    big = big_file()
    bars = [
        bar("certified fit, ms", ours * 1e3, at_most=50),
        bar(
            "objective over the best of L-BFGS-B's starts, minus 1",
            found.objective / reference - 1,
            at_most=1e-6,
        ),
        bar(f"times faster than {options.starts} starts of L-BFGS-B", theirs / ours, at_least=300),
        bar(f"{RESAMPLES} cluster bootstraps, s", resampling, at_most=2),
        bar(f"scaling fit on {BIG_ROWS} rows, s", big, at_most=2),
    ]
    peers = [one for work in (vpnls, chinchilla) if options.peers and (one := work(table, problem))]
    for one in peers:
        bars.append(bar(f"times faster than {one['name']}", one["seconds"] / ours, at_least=1))
        ratio = found.objective / one["objective"] - 1
        bars.append(bar(f"objective over {one['name']}'s, minus 1", ratio, at_most=1e-6))
    result = {
        "status": str(found.status),
        "certified": found.status is Status.OK,
        "objective": found.objective,
        "multistart_seconds": theirs,
        "peers": peers,
        "bars": bars,
    }
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print(
            f"{len(table)} rows; fit is {found.status}, objective {found.objective:.9g}, best of L-BFGS-B {reference:.9g}"
        )
        for one in bars:
            bound = f"at most {one['at_most']:g}" if "at_most" in one else f"at least {one['at_least']:g}"
            print(f"{'ok  ' if one['holds'] else 'FAIL'} {one['name']}: {one['value']:.4g} ({bound})")
        if not peers:
            print("vpnls and chinchilla: not measured (--peers, where they are installed)")
    return 1 if options.check and not all(one["holds"] for one in bars) else 0


def timed(work: Callable[[], Any]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def multistart(problem: Problem, rng: np.random.Generator, count: int) -> tuple[float, float]:
    """(seconds, best objective) of scipy's L-BFGS-B with analytic gradient from random starts of the same coordinates."""
    x, z, y, delta = problem.x, problem.z, problem.y, problem.delta

    def cost(theta: np.ndarray) -> tuple[float, np.ndarray]:
        e, a, b, alpha, beta = theta
        terms = np.stack([np.full_like(x, e), a - alpha * x, b - beta * z])
        top = terms.max(axis=0)
        shares = np.exp(terms - top)
        total = shares.sum(axis=0)
        r = top + np.log(total) - y
        shares /= total
        psi = np.clip(r, -delta, delta)
        slope = shares @ psi
        return float((psi * (r - 0.5 * psi)).sum()) * 1e3, 1e3 * np.array(
            [slope[0], slope[1], slope[2], -(shares[1] * x) @ psi, -(shares[2] * z) @ psi]
        )

    start = time.perf_counter()
    best = np.inf
    for _ in range(count):
        first = np.array([*rng.uniform(-2, 1.5, 3), *rng.uniform(0.05, 1.5, 2)])
        found = minimize(
            cost, first, jac=True, method="L-BFGS-B", options={"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-10}
        )
        best = min(best, float(found.fun) / 1e3)
    return time.perf_counter() - start, best


def big_file() -> float:
    """Seconds of `scaling fit` on a file of 5,000 rows, process start and all."""
    rng = np.random.default_rng(1)
    law = Law(E=1.8, A=480, B=2000, alpha=0.35, beta=0.37)
    N = 10 ** rng.uniform(7, 10, BIG_ROWS)
    D = N * 10 ** rng.uniform(0.7, 2.3, BIG_ROWS)
    L = np.asarray(law.loss(N, D)) * np.exp(rng.normal(0, 0.004, BIG_ROWS))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.csv"
        rows = (
            f"r{i},{n:.0f},{d:.0f},{loss:.6f}" for i, (n, d, loss) in enumerate(zip(N, D, L, strict=True))
        )
        path.write_text("run,params,tokens,loss\n" + "\n".join(rows) + "\n")
        command = [
            Path(sys.executable).with_name("scaling"),
            "fit",
            path,
            "--out",
            Path(folder) / "law.json",
            "--json",
        ]
        return min(timed(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(3))


def vpnls(table: Any, problem: Problem) -> dict[str, Any] | None:
    """Open-Athena/vpnls, at its defaults, if it is installed."""
    if importlib.util.find_spec("vpnls") is None:
        return None
    from vpnls import fit_vpnls  # type: ignore[import-not-found]

    seconds, found = [], None
    for _ in range(3):
        start = time.perf_counter()
        found = fit_vpnls(table.N, table.D, table.L)
        seconds.append(time.perf_counter() - start)
    assert found is not None
    return peer("vpnls", float(np.median(seconds)), found, problem)


def chinchilla(table: Any, problem: Problem) -> dict[str, Any] | None:
    """kyo-takano/chinchilla, at its defaults, if it is installed."""
    if importlib.util.find_spec("chinchilla") is None:
        return None
    import pandas as pd  # type: ignore[import-not-found,import-untyped]
    from chinchilla import Chinchilla  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder:
        pd.DataFrame({"C": 6 * table.N * table.D, "N": table.N, "D": table.D, "loss": table.L}).to_csv(
            Path(folder) / "df.csv", index=False
        )
        grid = {
            "E": np.log(np.linspace(1, 2, 5)),
            "a": np.linspace(1, 10, 5),
            "b": np.linspace(1, 10, 5),
            "alpha": np.linspace(0.1, 0.7, 5),
            "beta": np.linspace(0.1, 0.7, 5),
        }
        start = time.perf_counter()
        model = Chinchilla(folder, param_grid=grid)
        model.fit(simulation=False)
        return peer("chinchilla", time.perf_counter() - start, model, problem)


def peer(name: str, seconds: float, found: Any, problem: Problem) -> dict[str, Any]:
    """A peer's time and its constants under the same objective."""
    law = Law(**{key: float(getattr(found, key)) for key in ("E", "A", "B", "alpha", "beta")})
    return {
        "name": name,
        "seconds": seconds,
        "objective": float(objective(problem, problem.theta(law)[None])[0]),
    }


def bar(
    name: str, value: float, *, at_most: float | None = None, at_least: float | None = None
) -> dict[str, Any]:
    """One bar."""
    if at_most is not None:
        return {"name": name, "value": float(value), "at_most": at_most, "holds": bool(value <= at_most)}
    assert at_least is not None
    return {"name": name, "value": float(value), "at_least": at_least, "holds": bool(value >= at_least)}


if __name__ == "__main__":
    sys.exit(main())
