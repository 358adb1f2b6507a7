"""Pilot runs chosen by optimal design against the usual isoFLOP grid, at equal cost, on surfaces that are
known.

Run: python benchmarks/pilot.py [--json] [--check]. Each surface is sampled with the stated noise by both
designs, a law is fitted to each sample, and the target is predicted: what counts is the width of the 80 %
interval and the error that was made. The design is drawn up under a published law, never under the surface
that it is tried on.
"""

import argparse
import json
import math
import sys
import warnings

import numpy as np

from families import accounting, member
from families.design import DesignRule
from scaling.fitting.fit import fit
from scaling.laws import Law
from scaling.planning.candidates import Candidates, candidates
from scaling.planning.experiment_design import LadderSpec, select_ladders
from scaling.planning.simulate import SimulatedSweep
from scaling.published_laws import published_law

TARGET, TOKENS, SHARE = "gpt2-125m", 2.5e9, 0.05
REPLICATES = 12
BUDGETS = tuple(3.0**-k for k in range(4))
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
SURFACES = {
    "refit of Chinchilla": Law(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658),
    "steeper in N": Law(E=2.1, A=1900.0, B=900.0, alpha=0.43, beta=0.33),
    "bent, gamma 0.7": Law(E=1.6, A=2500.0, B=9000.0, alpha=0.42, beta=0.42, gamma=0.7),
}


def isoflop_grid(law: Law, shapes: Candidates, budget: float) -> list[LadderSpec]:
    """Four budgets a factor of 3 apart, five sizes each from a quarter to four times the optimum, single
    annealed runs.
    """
    top = budget / (len(FACTORS) * sum(BUDGETS))
    found = []
    for share in BUDGETS:
        compute = top * share
        optimum = law.allocate(compute).N
        for factor in FACTORS:
            index = int(np.argmin(np.abs(np.log(shapes.params / (optimum * factor)))))
            tokens = compute / float(shapes.flops_per_token[index])
            size = float(shapes.params[index])
            found.append(
                LadderSpec(
                    member=shapes.member(index),
                    N=size,
                    tokens=round(tokens),
                    rungs=(round(tokens),),
                    flops=compute,
                )
            )
    return found


def main() -> int:
    """Print the bars; exit status 1 under --check where one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="taken for the benchmarks' common form; nothing is read")
    parser.add_argument("--replicates", type=int, default=REPLICATES)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    planning = published_law("chinchilla").law
    shapes = candidates("all", DesignRule(ratio=40, head_size=32))
    spec = member(TARGET).spec
    size = float(accounting.params(spec))
    budget = SHARE * accounting.train_flops(spec, TOKENS)
    basket = select_ladders(
        planning, shapes, shapes.params.astype(float), target=(member(TARGET), size, TOKENS), budget=budget
    )
    designs = {"bought": list(basket.ladders), "isoflop": isoflop_grid(planning, shapes, budget)}
    widths: dict[str, list[float]] = {name: [] for name in designs}
    errors: dict[str, list[float]] = {name: [] for name in designs}
    for number, surface in enumerate(SURFACES.values()):
        truth = float(surface.loss(size, TOKENS))
        for replicate in range(options.replicates):
            for name, design in designs.items():
                rng = np.random.default_rng([number, replicate, name == "bought"])
                sweep = SimulatedSweep(members=tuple((one.member.name, one.N, one.rungs) for one in design))
                found = fit(sweep.observe(surface, rng), seed=replicate).predict(size, TOKENS)
                low, high = found.interval_80
                widths[name].append(math.log(high / low))
                errors[name].append(math.log(found.loss / truth))
    width = {name: float(np.mean(values)) for name, values in widths.items()}
    error = {name: float(np.sqrt(np.mean(np.square(values)))) for name, values in errors.items()}
    bars = [
        {
            "name": "interval at the target, bought / isoFLOP grid",
            "value": width["bought"] / width["isoflop"],
            "at_most": 0.7,
        },
        {
            "name": "rms error at the target, bought / isoFLOP grid",
            "value": error["bought"] / error["isoflop"],
            "at_most": 0.7,
        },
        {"name": "cost, bought / isoFLOP grid", "value": basket.flops / budget, "at_most": 1.0},
    ]
    for bar in bars:
        bar["holds"] = bar["value"] <= bar["at_most"]
    facts = {
        "mean 80 % interval, log": width,
        "rms error, log": error,
        "runs": {k: len(v) for k, v in designs.items()},
    }
    if options.json:
        print(json.dumps({"bars": bars, "facts": facts}, indent=2))
    else:
        for bar in bars:
            print(
                f"{bar['name']:50} {bar['value']:8.3f}  at most {bar['at_most']:g}  {'holds' if bar['holds'] else 'FAILS'}"
            )
        for name, values in facts.items():
            print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in values.items()))
    return 1 if options.check and not all(bar["holds"] for bar in bars) else 0


if __name__ == "__main__":
    sys.exit(main())
