"""The first quarter of an hour on one GPU: what training needs to know of it, in order of worth.

    python benchmarks/gpu.py [--minutes 14] [--only gemm,grid] [--out findings.jsonl] [--check]
    python benchmarks/gpu.py --device cpu --smoke         the same code at toy size, to see that it runs

Where a command may take 10 minutes at most, run it in two:

    python benchmarks/gpu.py --minutes 8 --only machine,gemm,attention,correct,grid,profile --out findings.jsonl
    python benchmarks/gpu.py --minutes 6 --only large,resume,peers,tune,small --out findings.jsonl

Each part is a process with a time limit of its own (benchmarks/gpu_parts.py). Every finding is a line of JSON, on standard
output and in the file; what is not reached is said at the end. MFU = exact training FLOPs per second / the dense bf16 peak
of the catalogue.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], os.environ.get("PYTHONPATH", "")])


class Part(NamedTuple):
    """A part: its name in gpu_parts, its limit in seconds, and what an H200 should say by the step model."""

    name: str
    limit: float
    expected: str


PARTS = (
    Part("machine", 40, "8192^3 bf16 770-798 TFLOP/s, copy 4.3 TB/s"),
    Part("gemm", 40, "K = 768 forward / dX / dW 600 / 600 / 500 TFLOP/s"),
    Part("attention", 30, "forward / backward flash 190 / 140, cuDNN 280 / 220 TFLOP/s"),
    Part("correct", 90, "bf16 against fp32: loss within 1e-3, gradients within 1e-2"),
    Part("grid", 200, "cuDNN compiled 500-540k tokens/s, flash 470-500k, eager bf16 200-280k, fp32 25-50k"),
    Part("profile", 60, "GEMM 63 %, attention 12-18 %, fused 20 %, optimiser 1 %, gaps under 2 %"),
    Part("large", 120, "355M 200k, 774M 99k, 1558M 52k tokens/s"),
    Part("resume", 60, "losses differ by less than 1e-3: atomics add in no fixed order"),
    Part("tune", 150, "the grid's best within 3 %, memory within 5 %"),
    Part("small", 60, "launch-bound below 10M parameters"),
    Part("peers", 120, "1.25 times nanoGPT compiled, 1.8 times the Trainer"),
)

GOALS = {"124M": 0.47, "355M": 0.50, "774M": 0.53, "1558M": 0.55}  # MFU


def run_part(part: Part, options: argparse.Namespace, room: float) -> tuple[list[dict[str, Any]], str]:
    """Run a part in a process of its own; its findings, and why it has no more of them, or ""."""
    words = [sys.executable, __file__, "--part", part.name, "--device", options.device]
    began = time.monotonic()
    child = subprocess.Popen(
        [*words, *(["--smoke"] if options.smoke else [])],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    reason = ""
    try:
        said, complaint = child.communicate(timeout=room)
        if child.returncode:
            reason = (complaint.strip().splitlines() or [f"status {child.returncode}"])[-1][:200]
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        said, _ = child.communicate()
        reason = f"its {room:.0f} s were over"
    found = [json.loads(line) for line in said.splitlines() if line.startswith("{") and line.endswith("}")]
    return [
        {"part": part.name, **line, "part_s": round(time.monotonic() - began, 1)} for line in found
    ], reason


def bars(findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The goals that the findings speak of."""
    found = []
    for size, least in GOALS.items():
        if reached := [one["mfu"] for one in findings if one.get("size") == size and "mfu" in one]:
            found.append(
                {
                    "bar": f"MFU of {size}",
                    "at_least": least,
                    "value": max(reached),
                    "holds": max(reached) >= least,
                }
            )
    return found


def say(line: dict[str, Any], file: Path | None) -> None:
    """Print a finding, and add it to the file."""
    text = json.dumps(line)
    print(text, flush=True)
    if file is not None:
        with file.open("a", encoding="utf-8") as out:
            out.write(text + "\n")


def main() -> int:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--smoke", action="store_true", help="toy sizes: that it runs, not how fast")
    parser.add_argument("--minutes", type=float, default=14.0, help="for all parts together")
    parser.add_argument(
        "--only", default="", help=f"parts with commas, of {', '.join(part.name for part in PARTS)}"
    )
    parser.add_argument("--out", type=Path, help="add the findings to this file too")
    parser.add_argument("--check", action="store_true", help="fail where a goal is missed or a part left out")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        from benchmarks import gpu_parts

        for finding in getattr(gpu_parts, options.part)(
            gpu_parts.Bench(device=options.device, smoke=options.smoke)
        ):
            print(json.dumps(finding), flush=True)
        return 0
    wanted = [name for name in options.only.split(",") if name]
    if unknown := set(wanted) - {part.name for part in PARTS}:
        parser.error(f"--only has {min(unknown)!r}; the parts are {', '.join(part.name for part in PARTS)}")
    end = time.monotonic() + 60 * options.minutes - 10
    findings: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    for part in PARTS:
        if wanted and part.name not in wanted:
            continue
        limit = 10 * part.limit if options.smoke else part.limit  # a CPU compiles for minutes
        room = min(limit, end - time.monotonic())
        if room < 10:
            left_out[part.name] = "no time left"
            continue
        print(f"== {part.name}, at most {room:.0f} s; an H200 should say: {part.expected}", file=sys.stderr)
        lines, reason = run_part(part, options, room)
        for line in lines:
            say(line, options.out)
        findings += lines
        if reason:
            left_out[part.name] = reason
    checked = [] if options.smoke else bars(findings)
    say({"bars": checked, "left_out": left_out}, options.out)
    if options.smoke:
        return 1 if left_out else 0
    return 1 if options.check and (left_out or not checked or not all(bar["holds"] for bar in checked)) else 0


if __name__ == "__main__":
    sys.exit(main())
