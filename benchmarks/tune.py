"""What the tuner finds with four probes, held against every cell of a grid.

    python benchmarks/tune.py [--quick] [--json] [--check]

The grid: four engines (plain in 32 bits, plain in bf16 with fused and with written-out attention, compiled in bf16) at
every micro-batch of a batch of 16, whole steps timed in a process for each engine that is compiled and one for each that
is not. --quick takes a smaller member and a batch of 4.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["PYTHONPATH"] = sys.path[0]

SMALL = {"n_layer": 4, "n_embd": 256, "n_head": 4, "n_positions": 256, "vocab_size": 8192, "batch_size": 16}
QUICK = {"n_layer": 2, "n_embd": 128, "n_head": 2, "n_positions": 128, "vocab_size": 2048, "batch_size": 4}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    os.environ["SCALING_CACHE"] = tempfile.mkdtemp(prefix="tune-")  # nothing known, nothing compiled

    from scaling.machine import StepBackend
    from train.backend import BackendRequest
    from train.config import TrainConfig
    from train.settings import TextFacts, settings_of
    from train.tune.model import TrialConfig, micro_batches
    from train.tune.probe import probe_request, run_probe
    from train.tune.tuner import tune

    shape = QUICK if options.quick else SMALL
    config = TrainConfig.model_validate({"family": "small", "data": "none", "tokens": "100M", **shape})
    settings = settings_of(config, TextFacts(), "cpu")
    threads = len(os.sched_getaffinity(0))
    found = tune(
        settings,
        BackendRequest(threads=threads),
        device="cpu",
        room=None,
        log=lambda line: print(line, file=sys.stderr),
    )

    began = time.monotonic()
    engines = [
        StepBackend(threads=threads),
        StepBackend(dtype="bf16", threads=threads),
        StepBackend(dtype="bf16", attention="eager", threads=threads),
        StepBackend(dtype="bf16", compile=True, attention="eager", threads=threads),
    ]
    picked, batch = found.picked, settings.batch_size
    if picked.model.way.engine not in engines:
        engines.append(picked.model.way.engine)
    grid = {}
    for engine in engines:
        asks = [
            (m, probe_request(found, TrialConfig(engine=engine), m, batch=batch))
            for m in micro_batches(batch)
        ]
        for group in [[one] for one in asks] if engine.compile else [asks]:
            for (micro, _), answer in zip(group, run_probe([one for _, one in group]), strict=True):
                grid[engine.name, micro] = answer["step"] if answer["fits"] else float("inf")
        print(f"grid: {engine.name}", file=sys.stderr)
    grid_seconds = time.monotonic() - began
    best = min(grid, key=grid.get)
    chosen = (picked.model.way.engine.name, picked.micro)

    # The pick and the grid's best once more, in turns: a busy moment must not decide between them.
    ways = {name: next(engine for engine in engines if engine.name == name[0]) for name in {best, chosen}}
    again = {name: [] for name in ways}
    for _ in range(2 if options.quick else 3):
        for name, engine in ways.items():
            again[name].append(
                run_probe([probe_request(found, TrialConfig(engine=engine), name[1], batch=batch)])[0]["step"]
            )
    behind = statistics.median(again[chosen]) / statistics.median(again[best]) - 1

    starved = run_probe([{**probe_request(found, picked.model.way, batch), "limit": 3e8}])
    seen = found.verified
    bars = [
        {"name": "probes", "value": found.probes, "at_most": 4},
        {"name": "seconds of tuning", "value": found.seconds, "at_most": 180},
        {"name": "cells of the grid that it stands for", "value": len(grid), "at_least": 3 if options.quick else 15},
        {"name": "step of the pick over the grid's best - 1", "value": behind, "at_most": 0.03},
        {"name": "|memory predicted / measured - 1|", "value": abs(picked.memory / seen.probed.memory - 1), "at_most": 0.05},
        {"name": "|step predicted / measured - 1|", "value": abs(picked.step / seen.step - 1), "at_most": 0.10},
        {"name": "a starved probe says so, and this process goes on", "value": int(starved == [{"fits": False}]), "at_least": 1},
    ]  # fmt: skip
    for bar in bars:
        bar["holds"] = (
            bar["value"] >= bar["at_least"] if "at_least" in bar else bar["value"] <= bar["at_most"]
        )
    facts = {
        "picked": list(chosen), "grid_best": list(best), "grid_seconds": grid_seconds,
        "grid": [{"engine": name, "micro": micro, "step": step} for (name, micro), step in grid.items()],
        "samples_per_s": {"baseline": found.baseline.samples_per_s(batch), "tuned": batch / seen.step},
    }  # fmt: skip
    if options.json:
        print(json.dumps({"bars": bars, "facts": facts}, indent=2))
    else:
        for bar in bars:
            limit = f"at least {bar['at_least']:g}" if "at_least" in bar else f"at most {bar['at_most']:g}"
            print(f"{bar['name']:56}{bar['value']:10.3f}  {limit:16}{'holds' if bar['holds'] else 'FAILS'}")
        print(
            f"\npicked {chosen[0]} at {chosen[1]}; the grid's best is {best[0]} at {best[1]}, found in {grid_seconds:.0f} s"
        )
        for (name, micro), step in grid.items():
            print(f"  {name:28}{micro:4}{step:9.3f} s{batch / step:9.2f} samples/s")
    return 1 if options.check and not all(bar["holds"] for bar in bars) else 0


if __name__ == "__main__":
    sys.exit(main())
