"""How fast the certified fit is, and that nothing finds a better objective: one run, interleaved, ratio of medians.

Run: python benchmarks/fit.py [--data DIR] [--starts N] [--json] [--check]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from peers import Peer, peers
from scipy.optimize import minimize

from scaling.fitting.certify import certify
from scaling.fitting.forms import Status
from scaling.fitting.optimise import SHAPES, Problem
from scaling.fitting.uncertainty import cluster_draws
from scaling.laws import Law
from scaling.runs import RunTable
from scaling.runs.readers import read_runs

REPEATS = 7
RESAMPLES = 1000
BIG_ROWS = 5000


def main() -> int:
    """Print a table, or one JSON object; status 1 with --check if a bar fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / "../shared/data")
    parser.add_argument("--starts", type=int, default=1000, help="random starts of L-BFGS-B")
    parser.add_argument("--peers", action="store_true", help="time vpnls and chinchilla too: about a minute")
    parser.add_argument("--cap", type=float, default=120, help="seconds after which a peer is stopped")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    table = read_runs(options.data / "chinchilla.csv")
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
    beside = measured_peers(table, problem, options.cap) if options.peers else []
    for peer in beside:
        if peer.seconds is not None and peer.objective is not None:
            bars.append(bar(f"times faster than {peer.name}", peer.seconds / ours, at_least=1))
            ratio = found.objective / peer.objective - 1
            bars.append(bar(f"objective over {peer.name}'s, minus 1", ratio, at_most=1e-6))
    result = {
        "status": str(found.status),
        "certified": found.status is Status.OK,
        "objective": found.objective,
        "multistart_seconds": theirs,
        "peers": [asdict(peer) for peer in beside],
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
        for peer in beside:
            told = (
                "did not finish"
                if peer.seconds is None
                else f"{peer.seconds:.3g} s, objective {peer.objective:.6g}"
            )
            print(f"     {peer.name}: {told} ({peer.note})")
        if not beside:
            print("vpnls and chinchilla: not measured (--peers)")
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


def measured_peers(table: RunTable, problem: Problem, cap: float) -> list[Peer]:
    """The peers on the same rows, handed over as a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        np.savetxt(path, np.column_stack([table.N, table.D, table.L]), fmt="%.17g", delimiter=",")
        return peers(path, problem, cap)


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
