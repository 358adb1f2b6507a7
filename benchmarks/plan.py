"""How fast a plan is: 20,000 shapes with 1,000-draw intervals, and the start of the program, beside bare imports.

Run: python benchmarks/plan.py [--json] [--check]. Times are the least of several runs, interpreter start included; the
ratios are to importing torch and scipy.optimize in this same run, so that they mean the same on any machine.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from families import accounting
from families.design import DesignRule, design_family
from scaling.fitting.fit import fit
from scaling.fitting.predictor import load_law
from scaling.laws import Law
from scaling.planning.candidates import candidates
from scaling.runs import Run

REPEATS = 5
DRAWS = 1000
TRUTH = Law(E=2.0, A=60.0, B=300.0, alpha=0.35, beta=0.4)


def seconds(command: list[str], repeats: int) -> float:
    """Least wall time of a process."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def write_law(path: Path) -> None:
    """A law fitted on 25 noisy observations of a known surface, with 1,000 resampled draws."""
    rng = np.random.default_rng(0)
    rule = DesignRule(ratio=32, head_size=16, n_positions=1024)
    runs = []
    for member in design_family(rule, (64, 128, 192, 256, 384)).members:
        size = accounting.params(member.spec)
        for tokens in (1e8, 3e8, 1e9, 3e9, 1e10):
            loss = TRUTH.loss(size, tokens) * math.exp(0.003 * rng.standard_normal())
            runs.append(Run(run=member.name, params=size, tokens=tokens, loss=loss))
    fit(runs, seed=0, bootstrap=DRAWS).save(path)


def main() -> int:
    """Print the bars; exit status 1 under --check where one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="taken for the benchmarks' common form; nothing is read")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    program = str(Path(sys.executable).with_name("scaling"))
    shapes = len(candidates("grid"))
    with tempfile.TemporaryDirectory() as folder:
        law = Path(folder) / "law.json"
        write_law(law)
        draws = max(len(form.draws) for form in load_law(law).forms)
        asked = [program, "plan", "--law", str(law), "--family", "grid", "--budget", "1e20", "--json"]
        plan = seconds(asked, REPEATS)
        short = seconds([program, "plan", "--budget", "8xA100-hours", "--json"], REPEATS)
        help_ = seconds([program, "--help"], REPEATS)
        torch = seconds([sys.executable, "-c", "import torch"], 3)
        scipy = seconds([sys.executable, "-c", "import scipy.optimize"], 3)
    bars = [
        {"name": "candidate shapes", "value": shapes, "at_least": 20_000},
        {"name": "draws behind each interval", "value": draws, "at_least": DRAWS},
        {"name": "plan over the grid, s", "value": plan, "at_most": 1.0},
        {"name": "plan over the grid / import torch", "value": plan / torch, "at_most": 1.0},
        {"name": "plan over the grid / import scipy.optimize", "value": plan / scipy, "at_most": math.inf},
        {"name": "plan of a budget, s", "value": short, "at_most": 0.6},
        {"name": "scaling --help, s", "value": help_, "at_most": 0.5},
        {"name": "scaling --help / import scipy.optimize", "value": help_ / scipy, "at_most": math.inf},
    ]
    for bar in bars:
        bar["holds"] = bar["value"] >= bar.get("at_least", -math.inf) and bar["value"] <= bar.get(
            "at_most", math.inf
        )
        if bar.get("at_most") == math.inf:
            del bar["at_most"]  # shown for scale; no bar is set
    if options.json:
        print(json.dumps({"bars": bars}, indent=2))
    else:
        for bar in bars:
            limit = (
                f"at least {bar['at_least']:g}" if "at_least" in bar else f"at most {bar.get('at_most', '—')}"
            )
            print(f"{bar['name']:45} {bar['value']:10.4g}  {limit:16} {'holds' if bar['holds'] else 'FAILS'}")
    return 1 if options.check and not all(bar["holds"] for bar in bars) else 0


if __name__ == "__main__":
    sys.exit(main())
