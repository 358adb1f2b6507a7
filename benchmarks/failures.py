"""What failures cost a run of many GPUs, by simulation: checkpoint interval, stall, the write beside the training, and restart.

Run: python benchmarks/failures.py [--json] [--check]. GPUs fail independently, at the rate that Meta published: 419 unexpected
interruptions of 16,384 GPUs in 54 days (The Llama 3 Herd of Models, 2024, section 3.3.4), one in 50,700 GPU-hours. The simulation
is held against Daly's closed form (A higher order estimate of the optimum checkpoint interval, 2006, eq. 20), which knows no
write beside the training. Bandwidths are assumptions, and named so.
"""

import argparse
import json
import math
import sys

import numpy as np

GPU_HOURS = 54 * 24 * 16384 / 419  # between failures
BYTES = 12  # of a checkpoint for each parameter: fp32 weights and AdamW's two moments
TO_HOST = (
    25e9  # assumed bytes/s: process 0 gathers everything through one PCIe 4.0 x16 link while training waits
)
TO_DISK = 2e9  # assumed bytes/s: of one writer to a shared file system, beside the training
RESTART = 600.0  # assumed seconds: back through the queue, processes started, checkpoint read
SAVE_EVERY = 300.0  # seconds: the trainer's default
MODELS = {"1B": 1e9, "7B": 7e9, "70B": 70e9}
GPUS = (8, 128, 1000, 16384)
FAILURES = 20_000  # simulated for each row


def useful_share(
    mean: float, every: float, stall: float, write: float, restart: float, rng: np.random.Generator
) -> float:
    """Share of wall-clock time in which steps were trained that were kept, over many failures.

    Args:
        mean: seconds between failures of the whole job, exponential; a restart can fail too.
        every: seconds trained between checkpoints.
        stall: seconds that training waits for the copy.
        write: seconds until the copy is whole; the next checkpoint waits for it.
    """
    # What is whole at a time t after a start: every cycle is train, stall; a copy counts once it is written.
    cycle = every + stall + max(0.0, write - every)
    alive = rng.exponential(mean, FAILURES) - restart
    trained = np.maximum(alive, 0.0)
    kept = np.floor(np.maximum(trained - write, 0.0) / cycle)
    # A copy is begun at the end of its cycle's training and stall.
    return float((kept * every).sum() / (np.where(alive > 0, trained + restart, alive + restart)).sum())


def daly(mean: float, every: float, stall: float, restart: float) -> float:
    """The same without a write beside the training."""
    return every / (mean * math.exp(restart / mean) * math.expm1((every + stall) / mean))


def young(mean: float, stall: float) -> float:
    """Seconds between checkpoints that lose least: sqrt(2 stall M) (Young 1974)."""
    return math.sqrt(2 * stall * mean)


def best_interval(mean: float, stall: float, write: float, restart: float, seed: int) -> float:
    """Seconds between checkpoints with the greatest share, of a grid of 5 % steps."""
    grid = np.geomspace(10.0, 20_000.0, 156)
    shares = [useful_share(mean, every, stall, write, restart, np.random.default_rng(seed)) for every in grid]
    return float(grid[int(np.argmax(shares))])


def table() -> list[dict[str, float | str]]:
    """Every model on every number of GPUs that it is trained on."""
    rows: list[dict[str, float | str]] = []
    for gpus in GPUS:
        mean = GPU_HOURS / gpus * 3600
        for name, params in MODELS.items():
            size = BYTES * params
            stall, write = size / TO_HOST, size / TO_DISK
            sharded = (stall * min(1.0, 8 / gpus), write * min(1.0, 8 / gpus))  # every node of 8 its own part
            rng = np.random.default_rng([gpus, round(params)])
            rows.append(
                {
                    "gpus": gpus,
                    "hours_between_failures": mean / 3600,
                    "model": name,
                    "stall_s": stall,
                    "write_s": write,
                    "useful": useful_share(mean, SAVE_EVERY, stall, write, RESTART, rng),
                    "best_every_s": best_interval(mean, stall, write, RESTART, gpus),
                    "young_s": young(mean, stall),
                    "useful_waiting": useful_share(mean, SAVE_EVERY, stall + write, 0.0, RESTART, rng),
                    "useful_sharded": useful_share(mean, SAVE_EVERY, *sharded, RESTART, rng),
                }
            )
            best = float(rows[-1]["best_every_s"])
            rows[-1]["useful_best"] = useful_share(mean, best, stall, write, RESTART, rng)
    return rows


def main() -> int:
    """Print the table and the bars; exit status 1 under --check where one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    rows = table()
    off = max(
        abs(
            useful_share(mean, every, stall, 0.0, RESTART, np.random.default_rng(1))
            - daly(mean, every, stall, RESTART)
        )
        for mean in (GPU_HOURS / gpus * 3600 for gpus in GPUS)
        for every in (100.0, 1000.0)
        for stall in (1.0, 30.0)
    )
    seven = next(row for row in rows if (row["gpus"], row["model"]) == (1000, "7B"))
    bars = [
        {"name": "simulation against Daly's closed form: largest difference of the share", "value": off, "at_most": 0.01},
        {"name": "7B on 1,000 GPUs: useful share at the default interval", "value": seven["useful"], "at_least": 0.97},
    ]  # fmt: skip
    for bar in bars:
        bar["holds"] = bar["value"] <= bar["at_most"] if "at_most" in bar else bar["value"] >= bar["at_least"]
    if options.json:
        print(json.dumps({"rows": rows, "bars": bars}, indent=2))
    else:
        print("GPUs    M, h   model  stall s  write s  share   waiting  sharded  best every  share   Young")
        for row in rows:
            print(
                "{gpus:6,} {hours_between_failures:8.4g}  {model:>4} {stall_s:8.3g} {write_s:8.3g}  {useful:6.1%}"
                " {useful_waiting:7.1%} {useful_sharded:8.1%} {best_every_s:9.0f} s {useful_best:7.1%} {young_s:7.0f} s".format(
                    **row
                )
            )
        for bar in bars:
            limit = f"at most {bar['at_most']}" if "at_most" in bar else f"at least {bar['at_least']}"
            print(f"{'ok ' if bar['holds'] else 'NO '} {bar['name']}: {bar['value']:.4g} ({limit})")
    return 1 if options.check and not all(bar["holds"] for bar in bars) else 0


if __name__ == "__main__":
    sys.exit(main())
