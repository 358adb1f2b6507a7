"""Named loss surfaces, and runs that lie on them."""

import itertools

import numpy as np

from scaling.laws import Law, kaplan_law
from scaling.runs import Run

BESIROGLU = Law(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
HOFFMANN = Law(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
# The surface on which boxes of A, B below 1e4 turn alpha .684 into .502 (PITFALLS row 3).
STEEP = Law(E=3.169, A=215886.0, B=4750.0, alpha=0.684, beta=0.439)
GENERAL = Law(E=1.6, A=1.5e5, B=6e5, alpha=0.6, beta=0.58, gamma=0.45)
KAPLAN = kaplan_law(Nc=6.4e13, Dc=1.8e13, aN=0.076, aD=0.103)


def grid(law, sizes=(1e7, 1e9), ratios=(3, 300), count=7, noise=0.0, seed=0):
    """Runs at every pair of a size and a ratio of tokens to parameters; noise: sd of the log loss."""
    rng = np.random.default_rng(seed)
    cells = itertools.product(np.geomspace(*sizes, count), np.geomspace(*ratios, count))
    return [
        Run(run=f"{i}", params=N, tokens=N * r, loss=law.loss(N, N * r) * np.exp(noise * rng.normal()))
        for i, (N, r) in enumerate(cells)
    ]
