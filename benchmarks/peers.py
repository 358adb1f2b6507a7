"""The public packages that fit Chinchilla's form, beside ours: their seconds, and their constants under our objective.

Run by benchmarks/fit.py --peers. Each runs in a process of its own, under a cap of seconds.
"""

import importlib.util
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scaling.fitting.optimise import Problem, objective
from scaling.laws import Law

Array = NDArray[np.float64]
DELTA = 1e-3  # of the Huber loss, on raw losses: vpnls' own documented setting for these data
STEP = 0.01  # of the grid in alpha and beta, from 0.01 to 0.99: its default
REWEIGHTINGS = 10  # its default, max_irls_iter
ENDS = {"E": (1.2, 2.0), "a": (4.0, 8.0), "b": (5.0, 9.0), "alpha": (0.25, 0.5), "beta": (0.25, 0.5)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """What a peer took and reached. seconds is None where it did not finish under the cap; `note` says what ran."""

    name: str
    note: str
    seconds: float | None
    objective: float | None


def peers(path: Path, problem: Problem, cap: float) -> list[Peer]:
    """Every peer on a file of N, D and L, a line of JSON each."""
    packaged = importlib.util.find_spec("vpnls") is not None
    wanted = {
        "vpnls": "the package, grid of 0.01, Huber 1e-3"
        if packaged
        else "not installable here: our own NumPy version of the published method (grid of 0.01 in alpha and beta, "
        "non-negative least squares for E, A, B, reweighted for Huber 1e-3); the package's compiled loop is faster",
    }
    if importlib.util.find_spec("chinchilla") is not None:
        smallest = (
            "the package, in its 64-bit mode, from 2 values a constant (32 starts; its README uses 3,125)"
        )
        wanted["chinchilla, its asymmetric loss"] = smallest
        wanted["chinchilla, its log-Huber"] = smallest
    found = [_peer(name, note, path, problem, cap) for name, note in wanted.items()]
    if len(wanted) == 1:
        note = "not installed: pip install chinchilla"
        found.append(Peer(name="chinchilla", note=note, seconds=None, objective=None))
    return found


def _peer(name: str, note: str, path: Path, problem: Problem, cap: float) -> Peer:
    try:
        done = subprocess.run(
            [sys.executable, __file__, name, path], capture_output=True, text=True, timeout=cap, check=True
        )
    except subprocess.TimeoutExpired:
        return Peer(name=name, note=f"{note}; stopped after {cap:g} s", seconds=None, objective=None)
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().split("\n")[-1]
        return Peer(name=name, note=f"{note}; failed: {reason}", seconds=None, objective=None)
    found = json.loads(done.stdout.strip().split("\n")[-1])
    theta = problem.theta(Law(**found["law"]))
    return Peer(
        name=name,
        note=note,
        seconds=found["seconds"],
        objective=float(objective(problem, theta[None])[0]),
    )


def vpnls(N: Array, D: Array, L: Array) -> Law:
    """The package at its documented settings for Chinchilla's data, or the grid below."""
    if importlib.util.find_spec("vpnls") is None:
        return vpnls_grid(N, D, L)
    # Peers are installed by whoever wants to time them; where they are not, mypy cannot find them.
    from vpnls.api import fit_vpnls, huber  # type: ignore[import-not-found]

    found = fit_vpnls(N / 1e6, D / 1e9, L, resolution=STEP, loss=huber(DELTA))
    return Law(
        E=found.E,
        A=found.A * 1e6**found.alpha,
        B=found.B * 1e9**found.beta,
        alpha=found.alpha,
        beta=found.beta,
    )


def vpnls_grid(N: Array, D: Array, L: Array) -> Law:
    """E, A, B by reweighted non-negative least squares at every (alpha, beta); the pair with the least Huber loss."""
    x, z = np.log(N / 1e6), np.log(D / 1e9)
    grid = np.arange(STEP, 1, STEP)
    tokens = np.exp(-grid[:, None] * z)
    best, law = np.inf, None
    for alpha in grid:
        basis = np.stack(
            [np.ones_like(tokens), np.broadcast_to(np.exp(-alpha * x), tokens.shape), tokens], axis=1
        )
        weights = np.ones_like(tokens)
        for _ in range(1 + REWEIGHTINGS):
            solved = _non_negative(basis, weights, L)
            r = np.abs((solved[:, None] @ basis)[:, 0] - L)
            weights = DELTA / np.maximum(r, DELTA)
        cost = np.where(r <= DELTA, 0.5 * r * r, DELTA * (r - 0.5 * DELTA)).sum(axis=1)
        at = int(cost.argmin())
        if cost[at] < best:
            best = float(cost[at])
            E, A, B = solved[at]
            beta = float(grid[at])
            law = Law(
                E=float(E), A=float(A * 1e6**alpha), B=float(B * 1e9**beta), alpha=float(alpha), beta=beta
            )
    assert law is not None
    return law


def _non_negative(basis: Array, weights: Array, L: Array) -> Array:
    """The non-negative least squares of three columns for many problems at once: the best feasible subset of them."""
    weighted = basis * weights[:, None]
    left, right = weighted @ basis.transpose(0, 2, 1), weighted @ L
    best = np.full(len(basis), np.inf)
    found = np.zeros((len(basis), 3))
    for size in (3, 2, 1):
        for columns in map(list, combinations(range(3), size)):
            part = left[:, columns][:, :, columns]
            part = part + 1e-12 * np.einsum("kii->ki", part)[:, :, None] * np.eye(size)
            solved = np.linalg.solve(part, right[:, columns, None])[:, :, 0]
            cost = -(solved * right[:, columns]).sum(axis=1)
            better = (solved >= 0).all(axis=1) & (cost < best)
            best[better] = cost[better]
            found[better] = 0
            found[np.ix_(better, columns)] = solved[better]
        if np.isfinite(best).all():
            break  # where all of a size are feasible, no smaller subset is better
    return found


def chinchilla(N: Array, D: Array, L: Array, loss: str) -> Law:
    """kyo-takano/chinchilla, in the 64-bit mode that its source offers for quick tests, from the ends of a grid."""
    import tempfile
    from functools import partial

    # As above: the package, and pandas which it brings, are no dependencies of ours.
    import pandas as pd  # type: ignore[import-not-found,import-untyped]
    from chinchilla import Chinchilla, _metrics, core  # type: ignore[import-not-found]

    core.DTYPE = np.double
    measures = {
        "asymmetric": _metrics.asymmetric_mae,
        "log-Huber": partial(_metrics.log_huber, delta=DELTA),
    }
    with tempfile.TemporaryDirectory() as folder:
        table = pd.DataFrame({"C": 6 * N * D, "N": N, "D": D, "loss": L})
        table.to_csv(Path(folder) / "df.csv", index=False)
        model = Chinchilla(
            folder,
            param_grid={name: np.array(ends) for name, ends in ENDS.items()},
            loss_fn=measures[loss],
            log_level=40,
        )
        model.fit(simulation=False)
    return Law(**{name: float(getattr(model, name)) for name in ("E", "A", "B", "alpha", "beta")})


def main() -> None:
    """Run one peer on one file: its law and its seconds, imports left out, as a line of JSON."""
    name, path = sys.argv[1], Path(sys.argv[2])
    N, D, L = np.loadtxt(path, delimiter=",", unpack=True)
    if name == "vpnls":
        vpnls(N, D, L)  # a first call, as ours has
        start = time.perf_counter()
        law = vpnls(N, D, L)
    else:
        start = time.perf_counter()
        law = chinchilla(N, D, L, "asymmetric" if "asymmetric" in name else "log-Huber")
    print(json.dumps({"law": asdict(law), "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
