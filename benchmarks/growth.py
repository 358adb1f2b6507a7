"""How time and memory grow with a study: its runs, a plan's members, people at work at once, and bytes of text.

Run: python benchmarks/growth.py [--only PART] [--json] [--check] [--quick]. Each part has three sizes, each stage is a process
of its own with one thread. `runs`: a simulated study as in `scale.py` (10,000 runs are 1,000,000 ledger rows), and the verbs
that read it. `members`: a sealed plan of as many members, all of them trained. `users`: processes at once on one study, each
of which adds a run and ledger entries, fits, plans and reports; afterwards nothing may be lost. `text`: a text of as many
bytes, of shuffled documents of the standard library, is tokenised by a vocabulary of 8,192 that is trained on it. Bars are
on processor time, which a busy machine changes little: the exponent of its growth, and the most megabytes resident.

To measure another version, put its folder first: PYTHONPATH=OTHER python benchmarks/growth.py.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scale import TRUTH, measured, simulate

ROOT = Path(__file__).parents[1]
EXPONENT = 1.2  # of processor time, at the most
SCALING = [sys.executable, "-c", "from scaling.cli import main; main()"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
ENTRIES = 200  # ledger entries that each user appends


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one stage took at one size. `seconds` of wall clock, `busy` of processor; `megabytes` resident at the most."""

    part: str
    stage: str
    size: int
    seconds: float
    busy: float
    megabytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One quantity that grows.

    Args:
        sizes: three of it, the last being what is promised; `quick` are smaller ones.
        run: costs by stage of one size, in an empty folder.
        most: megabytes by stage at the largest size.
    """

    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    run: Callable[[Path, int], Mapping[str, tuple[float, float, float]]]
    most: Mapping[str, float]


def python(code: str) -> list[str]:
    """A command that runs a line of Python."""
    return [sys.executable, "-c", code]


def documents() -> list[str]:
    """The sources of the running interpreter's library, packages installed beside it left out."""
    root = Path(sysconfig.get_path("stdlib"))
    return [
        path.read_text(encoding="utf-8", errors="ignore")
        for path in sorted(root.rglob("*.py"))
        if "site-packages" not in path.parts
    ]


def write_text(path: Path, size: int) -> None:
    """Write a text of `size` bytes: the documents, shuffled anew each time they are through."""
    every, rng, left = documents(), random.Random(0), size
    with path.open("wb") as file:
        while left > 0:
            rng.shuffle(every)
            for document in every:
                data = f"{document}\n\n".encode()[:left]
                file.write(data)
                left -= len(data)


def text_costs(place: Path, size: int) -> dict[str, tuple[float, float, float]]:
    """Tokenise a text of `size` bytes, as `train` and `ladder` do at their start."""
    write_text(place / "text.txt", size)
    code = (
        "from pathlib import Path; from train.data.prepare import prepare; "
        f"made = prepare({str(place / 'text.txt')!r}, Path({str(place / 'data')!r}), vocab_size=8192); "
        "print(made.train_tokens + made.heldout.tokens)"
    )
    return {"tokenise": measured(python(code))}


def scaling(*words: str) -> list[str]:
    """A command that runs the program."""
    return [*SCALING, *words]


def under_way(study: Path, last: str) -> None:
    """Give each run of a simulated study the plan of its rung and its result, but for one run that is still in training."""
    for folder in (study / "runs").iterdir():
        row = json.loads((folder / "runs.jsonl").read_text().splitlines()[1])
        plan = {
            "kind": "underway", "version": 1, "created_at": "2026-11-30T00:00:00Z", "inputs": {}, "run": folder.name,
            "rungs": [{"steps": 500 if folder.name != last else 800, "folder": "rung"}], "batch_tokens": 2**19, "lr": 1e-3,
            "warmup": 5, "schedule": "wsd", "params": row["params"], "params_non_embedding": row["params_non_embedding"],
        }  # fmt: skip
        (folder / "underway.json").write_text(json.dumps(plan))
        if folder.name != last:
            (folder / "rung").mkdir()
            (folder / "rung" / "rung.json").write_text(json.dumps({"observation": {"loss": row["loss"]}}))


def run_costs(place: Path, size: int) -> dict[str, tuple[float, float, float]]:
    """Read a study of `size` runs with the verbs that `scale.py` leaves out."""
    study = place / "study"
    simulate(study, size)
    where = ("--study", str(study))
    last = sorted(path.name for path in (study / "runs").iterdir())[-1]
    under_way(study, last)
    return {
        "gather": measured(
            python(f"from scaling.runs.store import gather_runs; gather_runs({str(study / 'runs.jsonl')!r})")
        ),
        "fit": measured(scaling("fit", *where)),
        "next": measured(scaling("next", *where, "--target", "5B", "--tokens", "100B")),
        "watch": measured(scaling("watch", last, *where, "--once")),
        "plan": measured(scaling("plan", "--budget", "1e21", *where, "--force", "--yes")),
    }


def sealed_study(place: Path, count: int) -> Path:
    """Write a study with a sealed plan of `count` members and the run of each, as training leaves it."""
    from families import ModelSpec, params, params_non_embedding
    from scaling.paths import StudyPaths
    from scaling.planning.planfile import PlanFile, PlannedLoss, PlannedMember, write_plan
    from scaling.planning.seal import seal
    from scaling.recipe import recipe
    from scaling.runs import Run
    from scaling.runs.store import append_run

    sys.path[:] = [
        str(ROOT),
        *(entry for entry in sys.path if Path(entry) != ROOT / "benchmarks"),
    ]  # train.py shadows train
    from tests.synthetic import leave_run

    study, rng = StudyPaths(place / "study"), np.random.default_rng(count)

    def observed(name: str, width: int, tokens: int) -> tuple[ModelSpec, Run]:
        spec = ModelSpec(n_layer=2, n_head=width // 16, n_embd=width, n_positions=128, vocab_size=1024)
        loss = float(TRUTH.loss(params(spec), tokens) * np.exp(0.005 * rng.normal()))
        return spec, Run(run=f"{name}-s0", group="text", params=params(spec), tokens=tokens, loss=loss, eval_set="heldout",
                         params_non_embedding=params_non_embedding(spec), schedule="wsd 0.2 linear", seed=0)  # fmt: skip

    for width in (32, 48, 64, 80):
        for steps in (250, 500, 1000):
            append_run(study.runs, observed(f"d{width}-{steps}", width, steps * 1024)[1])
    subprocess.run(scaling("fit", "--study", str(study.folder)), check=False, capture_output=True)
    from scaling.fitting.predictor import load_law

    law = load_law(study.law)
    members, runs = [], []
    for index in range(count):
        tokens = (2000 + index // 10) * 1024
        spec, run = observed(f"m{index:04}", 96 + 16 * (index % 10), tokens)
        promise = PlannedLoss.of(law.predict(params(spec), tokens, force=True))
        members.append(PlannedMember.of(f"m{index:04}", spec, tokens=tokens, prediction=promise,
                                        recipe=recipe(spec, tokens, batch_tokens=1024)))  # fmt: skip
        runs.append(run)
    plan = seal(PlanFile(law=law.reference, members=tuple(members)))
    write_plan(plan, study.plan)
    for member, run in zip(members, runs, strict=True):
        leave_run(study.run_folder(run.run), member, run, seal=plan.seal.digest if plan.seal else "")
        append_run(study.run_folder(run.run) / "runs.jsonl", run)
    return study.folder


def member_costs(place: Path, size: int) -> dict[str, tuple[float, float, float]]:
    """Plan, compare and report `size` members."""
    study = sealed_study(place, size)
    where = ("--study", str(study))
    budgets = ",".join(f"{1e18 * 10 ** (4 * index / size):.5g}" for index in range(size))
    return {
        "plan": measured(scaling("plan", "--budget", budgets, "--law", "chinchilla", "--json")),
        "compare": measured(scaling("compare", *where)),
        "report": measured(scaling("report", *where)),
        "ladder": measured(scaling("ladder", str(study / "plan.json"), *where, "launcher=slurm", "dry_run=true")),
        "table": measured(scaling("table", str(study))),
    }  # fmt: skip


USER = """
import subprocess, sys, time
from pathlib import Path
from scaling.runs import Run
from scaling.runs.store import WorkEntry, append_entry, record_run
study, name, entries = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
shard = study / "runs" / name
for k in range(entries):
    append_entry(shard / "ledger.jsonl", WorkEntry(run=name, part="trunk", from_step=k, to_step=k + 1, tokens=1, flops=1.0,
                 wall_s=0.1, settings_sha256="0" * 64, at="2026-11-30T00:00:00Z"))
record_run(shard / "runs.jsonl",
           Run(run=name, params=1e7, tokens=1e9 + int(name[4:]), loss=4.0, annealed=True, eval_set="heldout"))
for words in (["fit"], ["plan", "--budget", "1e20", "--force", "--yes"], ["report"]):
    done = subprocess.run([sys.executable, "-c", "from scaling.cli import main; main()", *words, "--study", str(study)],
                          capture_output=True, text=True)
    if done.returncode > 1 or "Traceback" in done.stderr:
        sys.exit(f"{words}: {done.returncode} {done.stderr[-600:]}")
"""


def user_costs(place: Path, size: int) -> dict[str, tuple[float, float, float]]:
    """Let `size` processes work on one study at once; afterwards every row and entry must be there."""
    study = place / "study"
    simulate(study, 40)
    start = time.perf_counter()
    processes = [
        subprocess.Popen([sys.executable, "-c", USER, str(study), f"user{index}", str(ENTRIES)], env=ENVIRONMENT,
                         stderr=subprocess.PIPE, text=True)
        for index in range(size)
    ]  # fmt: skip
    busy = megabytes = 0.0
    for process in processes:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        if os.waitstatus_to_exitcode(status):
            raise SystemExit(f"a user of {size} failed: {said[-1500:]}")
        busy += usage.ru_utime + usage.ru_stime
        megabytes = max(megabytes, usage.ru_maxrss / 1024)
    taken = time.perf_counter() - start
    check_whole(study, size)
    return {"at once": (taken, busy, megabytes)}


def check_whole(study: Path, users: int) -> None:
    """Raise SystemExit where a row or an entry is lost, or a file is not whole."""
    from scaling.fitting.predictor import load_law
    from scaling.planning.seal import open_seal
    from scaling.runs.readers import read_runs
    from scaling.runs.store import read_totals

    names = {run.run for run in read_runs(study / "runs.jsonl")}
    steps = {total.run: total.to_step for total in read_totals(study / "ledger.jsonl")}
    for index in range(users):
        if f"user{index}" not in names or steps.get(f"user{index}") != ENTRIES:
            raise SystemExit(f"user{index}'s run or entries are lost")
    load_law(study / "law.json")
    open_seal(study / "plan.json")
    if "</html>" not in (study / "report.html").read_text(encoding="utf-8"):
        raise SystemExit("report.html is not whole")


PARTS: dict[str, Part] = {
    "runs": Part(
        sizes=(1000, 3000, 10_000), quick=(100, 300, 1000), run=run_costs,
        most={"gather": 200.0, "fit": 300.0, "next": 300.0, "watch": 300.0, "plan": 300.0},
    ),
    "members": Part(
        sizes=(50, 160, 500), quick=(10, 20, 40), run=member_costs,
        most={"plan": 300.0, "compare": 300.0, "report": 600.0, "ladder": 300.0, "table": 300.0},
    ),
    "users": Part(sizes=(2, 6, 20), quick=(1, 2, 4), run=user_costs, most={"at once": 400.0}),
    "text": Part(
        sizes=(20_000_000, 200_000_000, 2_000_000_000), quick=(2_000_000, 6_000_000, 20_000_000),
        run=text_costs, most={"tokenise": 1000.0},
    ),
}  # fmt: skip


def costs(name: str, size: int) -> list[Cost]:
    """One part at one size, in a folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as place:
        found = PARTS[name].run(Path(place), size)
    rows = [
        Cost(part=name, stage=stage, size=size, seconds=taken, busy=busy, megabytes=memory)
        for stage, (taken, busy, memory) in found.items()
    ]
    for row in rows:
        print(f"{name} {row.stage} {size:,}: {row.seconds:.1f} s, {row.busy:.1f} s of processor, {row.megabytes:.0f} MB",
              file=sys.stderr, flush=True)  # fmt: skip
    return rows


def exponent(rows: Sequence[Cost]) -> float:
    """Slope of log processor time against log size, by the two largest: smaller ones are the interpreter's start."""
    before, last = sorted(rows, key=lambda row: row.size)[-2:]
    return math.log(last.busy / before.busy) / math.log(last.size / before.size)


def bars_of(rows: Sequence[Cost]) -> list[dict[str, Any]]:
    """What is promised of each stage."""
    bars = []
    for name, part in PARTS.items():
        for stage, most in part.most.items():
            own = [row for row in rows if (row.part, row.stage) == (name, stage)]
            if not own:
                continue
            largest = max(own, key=lambda row: row.size)
            bars.append(
                {
                    "name": f"{name}, {stage}: megabytes at {largest.size:,}",
                    "value": largest.megabytes,
                    "at_most": most,
                }
            )
            if len(own) > 1:
                bars.append(
                    {"name": f"{name}, {stage}: exponent", "value": exponent(own), "at_most": EXPONENT}
                )
    for bar in bars:
        bar["holds"] = bar["value"] <= bar["at_most"]
    return bars


def main() -> int:
    """Print the costs and the bars; exit status 1 under --check where one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="taken for the benchmarks' common form; nothing is read")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="one part; repeatable")
    parser.add_argument("--sizes", help="sizes of that part, with commas")
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    rows = []
    for name in options.only or PARTS:
        part = PARTS[name]
        sizes = part.quick if options.quick else part.sizes
        if options.sizes:
            sizes = tuple(int(word) for word in options.sizes.split(","))
        for size in sizes:
            rows += costs(name, size)
    bars = bars_of(rows)
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "bars": bars}, indent=2))
    else:
        for bar in bars:
            print(
                f"{'ok  ' if bar['holds'] else 'FAIL'} {bar['name']}: {bar['value']:.3g} (at most {bar['at_most']:.3g})"
            )
    return 1 if options.check and not all(bar["holds"] for bar in bars) else 0


if __name__ == "__main__":
    sys.exit(main())
