"""Time of an audit against its rows: 10,000 and 100,000 rows of a random search.

Run: python benchmarks/audit.py [--rows N] [--json] [--check]
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from scaling.auditing import audit

GROWTH = 15.0  # ten times the rows take ten times as long; a quadratic audit takes a hundred times


def main() -> int:
    """Print the seconds and their ratio, or one JSON object; status 1 with --check if a bar fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    few, many = (seconds(rows) for rows in (options.rows // 10, options.rows))
    value = many / few
    bars = [
        {"name": "time at ten times the rows", "value": value, "at_most": GROWTH, "holds": value <= GROWTH},
        {"name": "seconds of the larger", "value": many, "at_most": 60.0, "holds": many <= 60.0},
    ]
    if options.json:
        print(json.dumps({"rows": options.rows, "seconds": [few, many], "bars": bars}, indent=2))
    else:
        print(f"{options.rows // 10:,} rows {few:.2f} s, {options.rows:,} rows {many:.2f} s")
        for bar in bars:
            mark = "ok  " if bar["holds"] else "MISS"
            print(f"{mark} {bar['name']}: {bar['value']:.3g} (at most {bar['at_most']:g})")
    return 1 if options.check and not all(bar["holds"] for bar in bars) else 0


def seconds(rows: int) -> float:
    """Wall time of an audit of so many rows with sizes, tokens, losses, devices and hours, in seconds."""
    rng = np.random.default_rng(0)
    N, D = 10 ** rng.uniform(6, 9, rows), 10 ** rng.uniform(8, 11, rows)
    loss = 1.8 + 400 * N**-0.34 + 400 * D**-0.28
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        lines = ["run,params,tokens,loss,accelerator,hours"]
        lines += [
            f"r{i},{n:.6g},{d:.6g},{value:.5f},8xA100,5"
            for i, (n, d, value) in enumerate(zip(N, D, loss, strict=True))
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        start = time.perf_counter()
        audit(path)
        return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
