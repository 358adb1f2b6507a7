"""From a table of own runs to a sealed plan: read, fit, predict, plan.

    python examples/own_csv_to_plan.py [FOLDER]

runs.csv holds simulated runs: Chinchilla's constants (Besiroglu et al. 2024) with 0.3 % noise on each loss.
"""

import sys
import tempfile
from pathlib import Path

import scaling as sc

RUNS = Path(__file__).with_name("runs.csv")
BUDGET = "4xA100-hours"


def main(folder: Path) -> sc.Plan:
    """Write law.json, plan.json and the figures into a folder."""
    runs = sc.read_runs(RUNS)
    print(runs)

    fit = sc.fit(runs)
    print(fit)
    print("alpha, 80 % interval:", fit.interval("alpha"))
    print("N* grows as C^a, a in", fit.interval("a", level=0.95), "at 95 %")
    print(f"largest residual: {abs(fit.residuals).max():.2%} of the loss")
    fit.save(folder / "law.json")
    fit.plot("surface").savefig(folder / "surface.png")

    print(fit.predict(83e6, 5.5e9))
    print(fit.predict(family="gpt2-83m", tokens=5.5e9))
    print(fit.allocate(1e19))

    plan = sc.plan(BUDGET, law=folder / "law.json", mfu=0.3).seal()
    print(plan)
    plan.save(folder / "plan.json")
    plan.plot().savefig(folder / "plan.png")
    return plan


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else temporary))
