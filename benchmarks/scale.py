"""Past this machine, on paper: a simulated study of thousands of runs is read, gathered, fitted, planned from and reported.

Run: python benchmarks/scale.py [--runs 1000,10000] [--json] [--check]; --efficiency prints docs/scale.md's table of published
MFUs, nothing is measured for it. Each run has one observation, a curve of 50 lines
and 100 entries in its ledger, all in files of its own, as the trainer leaves them: 10,000 runs are 1,000,000 ledger rows in
30,000 files. Each stage is a process of its own, and its time and the most memory it took include the interpreter's start. The
bars are on processor time, which a busy machine does not change much, and on how it grows: an exponent of 1 is in step with
the number of runs.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from families import accounting
from families.design import DesignRule, design_family
from families.units import format_size
from scaling.laws import Law
from scaling.planning.planfile import PlanFile, PlannedMember
from scaling.planning.published_mfu import MeasuredRun
from scaling.planning.throughput import predicted_published
from scaling.recipe import recipe

TRUTH = Law(E=1.9, A=400.0, B=4000.0, alpha=0.34, beta=0.37)
MEMBERS = design_family(DesignRule(ratio=64, n_positions=1024), tuple(range(128, 1281, 64))).members
ENTRIES = 100  # ledger entries of a run
LINES = 50  # of a run's curve
STAGES = ("gather", "read", "ledger", "one ledger", "queue", "fit", "plan", "report")
# Processor seconds and megabytes at the most, at 10,000 runs.
BARS = {
    "gather": (5.0, 200.0),
    "read": (5.0, 200.0),
    "ledger": (20.0, 200.0),
    "one ledger": (20.0, 200.0),
    "queue": (20.0, 300.0),
    "fit": (30.0, 500.0),
    "plan": (5.0, 200.0),
    "report": (60.0, 1000.0),
}
GROWTH = 1.2  # the exponent of processor time with the number of runs, at the most


def simulate(study: Path, count: int) -> None:
    """Write a study of so many runs: sizes and tokens spread over three orders of magnitude, 0.5 % of noise."""
    rng = np.random.default_rng(count)
    (study / "runs").mkdir(parents=True)
    for index in range(count):
        spec = MEMBERS[index % len(MEMBERS)].spec
        size, tokens = accounting.params(spec), round(10 ** rng.uniform(8.5, 10.5))
        flops = 6.0 * size * tokens
        loss = float(TRUTH.loss(size, tokens) * math.exp(0.005 * rng.standard_normal()))
        name = f"sweep-{index:05}-s0"
        folder = study / "runs" / name
        (folder / "trunk").mkdir(parents=True)
        row = {
            "run": name, "params": size, "params_non_embedding": accounting.params_non_embedding(spec), "tokens": tokens,
            "loss": loss, "loss_se": 0.003, "compute": flops, "compute_kind": "exact", "annealed": True, "seed": 0,
            "eval_set": "heldout", "n_layer": spec.n_layer, "n_embd": spec.n_embd, "n_head": spec.n_head,
            "n_positions": spec.n_positions, "vocab_size": spec.vocab_size, "lr": 0.001, "wall_s": flops / 1e14,
        }  # fmt: skip
        opening = {"version": 1, "created_at": "2026-11-21T00:00:00Z", "inputs": {}}
        lines = [{"kind": "runs", **opening}, row]
        (folder / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        work = [
            {
                "run": name, "part": "trunk", "from_step": 100 * k, "to_step": 100 * (k + 1), "tokens": tokens // ENTRIES,
                "flops": flops / ENTRIES, "wall_s": flops / ENTRIES / 1e14, "settings_sha256": "0" * 64,
                "at": "2026-11-21T00:00:00Z",
            }
            for k in range(ENTRIES)
        ]  # fmt: skip
        (folder / "ledger.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in ({"kind": "ledger", **opening}, *work))
        )
        steps = np.arange(1, LINES + 1)
        at = (steps * tokens / LINES).tolist()
        curve = (
            TRUTH.loss(size, steps * tokens / LINES) * np.exp(0.01 * rng.standard_normal(LINES))
        ).tolist()
        (folder / "trunk" / "metrics.jsonl").write_text(
            "".join(
                json.dumps({"step": 10 * step, "tokens": int(t), "loss": value, "lr": 1e-3, "grad_norm": 1.0})
                + "\n"
                for step, t, value in zip(steps.tolist(), at, curve, strict=True)
            )
        )


def in_one(study: Path) -> None:
    """The same ledgers as one file of a study whose runs have none of their own, and a plan of all its runs."""
    (study / "one").mkdir()
    with (study / "one" / "ledger.jsonl").open("w") as whole:
        for number, part in enumerate(sorted(study.glob("runs/*/ledger.jsonl"))):
            opening, _, rest = part.read_text().partition("\n")
            whole.write(rest if number else f"{opening}\n{rest}")
    members = []
    for index, run in enumerate(sorted(path.name for path in (study / "runs").iterdir())):
        spec = MEMBERS[index % len(MEMBERS)].spec
        members.append(
            PlannedMember.of(
                run.removesuffix("-s0"), spec, tokens=2**20, recipe=recipe(spec, 2**20, batch_tokens=2**16)
            )
        )
    PlanFile(members=tuple(members)).write(study / "sweep.json")


def commands(study: Path) -> dict[str, list[str]]:
    """Each stage as a process of its own."""
    scaling = [sys.executable, "-c", "from scaling.cli import main; main()"]

    def python(imports: str, call: str) -> list[str]:
        return [
            sys.executable,
            "-c",
            f"from pathlib import Path; {imports}; place = Path({str(study)!r}); {call}",
        ]

    return {
        "gather": python("from scaling.runs.store import gather_runs", "gather_runs(place / 'runs.jsonl')"),
        "read": python(
            "from scaling.runs.readers import read_runs", "print(len(read_runs(place / 'runs.jsonl').runs))"
        ),
        "ledger": python(
            "from scaling.runs.store import read_totals", "print(len(read_totals(place / 'ledger.jsonl')))"
        ),
        "one ledger": python(
            "from scaling.runs.store import read_totals",
            "print(len(read_totals(place / 'one' / 'ledger.jsonl')))",
        ),
        "queue": [
            *scaling,
            "ladder",
            str(study / "sweep.json"),
            "--study",
            str(study),
            "--launcher",
            "slurm",
            "--dry-run",
        ],
        "fit": [*scaling, "fit", "--study", str(study)],
        "plan": [*scaling, "plan", "--budget", "1e21", "--study", str(study), "--yes"],
        "report": [*scaling, "report", "--study", str(study)],
    }


# What a process says of its own memory when it ends: rusage would count this process's too, from before the exec.
PEAK = r"""
import atexit, re, sys
def peak():
    status = open("/proc/self/status").read()
    print("VmHWM", re.search(r"VmHWM:\s+(\d+) kB", status)[1], file=sys.stderr)
atexit.register(peak)
"""


def measured(command: list[str]) -> tuple[float, float, float]:
    """Seconds of wall clock and of processor, and the most megabytes resident, of one process."""
    program, option, code, *words = command
    start = time.perf_counter()
    process = subprocess.Popen(
        [program, option, PEAK + code, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    said = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    taken = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status) > 1:  # 1: a fit that is doubtful
        raise SystemExit(f"{' '.join(command)} failed: {said[-2000:]}")
    return taken, usage.ru_utime + usage.ru_stime, int(said.rpartition("VmHWM ")[2]) / 1024


def efficiency_table() -> str:
    """MFUs of published runs beside the planner's, each estimated from others of its generation and engine, as Markdown.

    One row for a model on one kind of device at one context: devices, published, estimated and their ratio, least to most.
    """
    groups: dict[tuple[str, str, str, str], list[tuple[MeasuredRun, float]]] = {}
    for run, mfu in predicted_published():
        degrees = run.layout
        ways = [
            f"{word} {degree}"
            for word, degree in (
                ("tp", degrees.tensor),
                ("pp", degrees.pipeline),
                ("cp", degrees.context),
                ("ep", degrees.expert),
            )
            if degree > 1
        ]
        how = ", ".join(ways) or ("FSDP, recomputed" if degrees.checkpointing else "FSDP")
        model = run.model or f"MPT {format_size(accounting.params(run.spec), 2)}"
        key = (run.accelerator.name, model, f"{run.spec.n_positions:,}", how)
        groups.setdefault(key, []).append((run, mfu))
    lines = [
        "| GPUs | model | context | degrees | published | estimated | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for (device, model, context, how), runs in groups.items():

        def span(values: list[float], form: str) -> str:
            low, high = format(min(values), form), format(max(values), form)
            return low if low == high else f"{low} to {high}"

        lines.append(
            f"| {span([run.devices for run, _ in runs], ',')} {device} | {model} | {context} | {how} | "
            f"{span([run.mfu for run, _ in runs], '.3f')} | {span([mfu for _, mfu in runs], '.3f')} | "
            f"{span([mfu / run.mfu for run, mfu in runs], '.2f')} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print the table and the bars; exit status 1 under --check where one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="taken for the benchmarks' common form; nothing is read")
    parser.add_argument("--runs", default="1000,10000")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--efficiency", action="store_true")
    options = parser.parse_args()
    if options.efficiency:
        print(efficiency_table(), end="")
        return 0
    counts = [int(word) for word in options.runs.split(",")]
    found: dict[int, dict[str, tuple[float, float, float]]] = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as place:
            study = Path(place) / "study"
            simulate(study, count)
            in_one(study)
            found[count] = {}
            for name, command in commands(study).items():
                if name in options.stages.split(","):
                    found[count][name] = measured(command)
                    print(count, name, *(f"{x:.4g}" for x in found[count][name]), file=sys.stderr)
    bars = []
    most, least = max(counts), min(counts)
    for name, (seconds, megabytes) in BARS.items():
        if name not in found[most]:
            continue
        _, busy, memory = found[most][name]
        factor = max(1.0, most / 10_000)
        bars += [
            {
                "name": f"{name}: processor seconds at {most:,} runs",
                "value": busy,
                "at_most": seconds * factor,
            },
            {"name": f"{name}: megabytes at {most:,} runs", "value": memory, "at_most": megabytes * factor},
        ]
        if most > least:
            grows = math.log(busy / found[least][name][1]) / math.log(most / least)
            bars.append(
                {"name": f"{name}: growth from {least:,} to {most:,} runs", "value": grows, "at_most": GROWTH}
            )
    for bar in bars:
        bar["holds"] = bar["value"] <= bar["at_most"]
    if options.json:
        rows = [
            {"runs": count, "stage": name, "seconds": taken, "processor_seconds": busy, "megabytes": memory}
            for count, stages in found.items()
            for name, (taken, busy, memory) in stages.items()
        ]
        print(json.dumps({"rows": rows, "bars": bars}, indent=2))
    else:
        for bar in bars:
            print(
                f"{'ok ' if bar['holds'] else 'NO '} {bar['name']}: {bar['value']:.3g} (at most {bar['at_most']:.3g})"
            )
    return 1 if options.check and not all(bar["holds"] for bar in bars) else 0


if __name__ == "__main__":
    sys.exit(main())
