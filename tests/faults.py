"""Fails the n-th open, write, fsync, rename, mkdir or truncate of a command, for every n, and repeats the command.

    python -m tests.faults FOLDER [--verbs fit,plan,train/71/2/lasting] [--every K] [--first N] [--lasting]

(where a verb has its own every/first/lasting)
prints one line of JSON for each verb: how many calls it makes, how many of them were failed, and what went wrong: an
attempt that ended with anything but success or one line, or a repetition that did not give the bytes of an undisturbed
run. The faults come from a library that the C compiler makes of faults.c. Each verb runs once in this process, so that all it
imports is there; attempts are forks of that.
"""

import argparse
import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from scaling.collector import spare_imports

from . import tiny

PREPARED = "FAULTS_PREPARED"
MODEL = {**tiny.SMALLER, "batch_size": 4, "warmup": 2, "device": "cpu", "compile": "false"}
TRAIN = [
    "train",
    "family=tiny",
    "data=corpus",
    "tokens=1536",
    "--study",
    "fresh",
    "--yes",
    *tiny.words(**MODEL),
]
LADDER = ["ladder", "plan.json", "--study", "study", "--yes"]
SEALED = [
    ["fit", "runs.csv", "--out", "law.json"],
    ["plan", "--law", "law.json", "--budget", "1e15", "--out", "sealed.json"],
]
VERBS = {  # each with the commands that come before it, undisturbed
    "fit": ([], ["fit", "runs.csv", "--out", "law.json"]),
    "plan": (SEALED[:1], SEALED[1]),
    "train": ([], TRAIN),
    "ladder": ([], LADDER),
    "gather": ([LADDER, ["rm", "study/runs.jsonl"]], ["gather", "study/runs.jsonl"]),
    "compare": ([], ["compare", "--study", "known"]),
    "report": ([], ["report", "--study", "known"]),
}
# What two undisturbed runs differ in: times, what was measured with a clock, processes, and hashes over those.
VARIES = re.compile(
    rb'"[^"]*(?:_at|at|seconds|_s|_per_second|mfu|wall|host|pid|began|sha256|digest|seal)[^"]*": ?'
    rb'(?:"[^"]*"|[-\d.e]+|\{[^{}]*\})|\d{4}-\d\d-\d\d[T ][\d:.+Z]+|\b[0-9a-f]{32,64}\b'
)
UNCOMPARED = re.compile(
    r"(^|/)(timing\.jsonl|events\.jsonl|claim-.*|.*\.html|.*\.svg|.*\.png|ledger\.jsonl|trainer_state\.json|README\.md|.*\.log)$"
)


def library(folder):
    """Compile faults.c."""
    built = folder / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", built, source, "-ldl"], check=True)
    return built


def bytes_of(folder):
    """What a command left: every file's bytes but for what varies, by path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file():
            compared = b"" if UNCOMPARED.search(name) else VARIES.sub(b"~", path.read_bytes())
            found[name] = hashlib.sha256(compared).hexdigest()
    return found


def attempt(words, place, calls, *, number=errno.EIO, lasting=False, out=None):
    """Run a command in a fork whose n-th call fails; returns (exit status, its output, the calls that it made)."""
    out.unlink(missing_ok=True)
    counted = out.with_suffix(".count")
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.chdir(place)
            descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            faults = ctypes.CDLL(os.environ["LD_PRELOAD"])
            faults.faults_arm(os.fsencode(place), calls, number, int(lasting))
            if words[0] == "rm":
                Path(words[1]).unlink()
                status = 0
            elif words[0] == "gather":
                status = gathered(words[1])
            else:
                status = run(words)
            seen = faults.faults_seen()
            faults.faults_arm(b"", 0, 0, 0)
            counted.write_text(str(seen))
        except BaseException:  # what no command may do
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, out.read_text(errors="replace"), int(counted.read_text()) if counted.exists() else 0


def run(words):
    """Run the command line in this process; returns its exit status."""
    from scaling.cli import main

    sys.argv = ["scaling", *words]
    try:
        main()
    except SystemExit as ended:
        return ended.code or 0
    return 0


def warm_up(words, place):
    """Run a command here, without faults: what it imports and measures is there for every fork."""
    here = Path.cwd()
    os.chdir(place)
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        status = gathered(words[1]) if words[0] == "gather" else run(words)
    os.chdir(here)
    assert status == 0, words


def gathered(path):
    """Gather a study's rows, as fit, compare and report do first; returns the exit status they would have."""
    from families.units import BadInput
    from scaling.runs.store import gather_runs

    try:
        gather_runs(path)
    except BadInput as error:
        print(f"scaling: {error}")
        return 2
    return 0


def prepare(folder):
    """A table of runs, a text, and a plan of four tiny members in a study."""
    from .small_plan import planned, small_study
    from .synthetic import TRUTH, write_study

    folder.mkdir()
    small_study(folder, *(planned(f"m{n}", width=16 * n, steps=4 * n) for n in (1, 2, 3, 4)))
    (folder / "study-plan.json").rename(folder / "plan.json")
    write_study(folder / "known")
    table = [
        f"r{params:.0f}-{ratio},{params:.0f},{params * ratio:.0f},{TRUTH.loss(params, params * ratio):.6f}"
        for params in (1e7, 3e7, 1e8, 3e8)
        for ratio in (5, 20, 80)
    ]
    (folder / "runs.csv").write_text("\n".join(["run,params,tokens,loss", *table]) + "\n")


def loop(verb, folder, *, every, first, lasting):
    """Fail every `every`-th call of a verb, from the `first`; returns what happened."""
    before, words = VERBS[verb]
    base, place, out = folder / f"{verb}-base", folder / "place", folder / f"{verb}.out"
    shutil.copytree(folder / "prepared", base)
    problems = []
    shutil.rmtree(place, ignore_errors=True)
    # The same path for all: what a command writes may name it.
    base.rename(place)
    for earlier in before:
        status, said, _ = attempt(earlier, place, 0, out=out)
        assert status == 0, (earlier, said)
    place.rename(base)

    def fresh():
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(base, place, symlinks=True)

    fresh()
    warm_up(words, place)
    fresh()
    status, said, calls = attempt(words, place, 0, out=out)
    assert status == 0, (words, said)
    whole = bytes_of(place)
    failed = 0
    for number in range(first, calls + 1, every):
        print(f"{verb}: call {number} of {calls}, {len(problems)} problems", file=sys.stderr)
        fresh()
        failed += 1
        kind = errno.ENOSPC if lasting or number % 2 else errno.EIO
        status, said, _ = attempt(words, place, number, number=kind, lasting=lasting, out=out)
        last = said.strip().splitlines()[-1:] or [""]
        told = status == 0 or (status in (1, 2) and last[0].startswith("scaling: "))
        if not told or "Traceback" in said:
            problems.append({"call": number, "status": status, "said": said[-1500:]})
            continue
        again, said_again = 0, said
        if status:
            again, said_again, _ = attempt(words, place, 0, out=out)
        found = bytes_of(place)
        if again != 0 or found != whole:
            differ = sorted(name for name in {*whole, *found} if whole.get(name) != found.get(name))
            problems.append(
                {
                    "call": number,
                    "first": last[0],
                    "again": again,
                    "differ": differ[:8],
                    "said": said_again[-600:],
                }
            )
            print(json.dumps(problems[-1]), file=sys.stderr)
    return {"verb": verb, "calls": calls, "failed": failed, "problems": problems}


def main():
    """Start again under the library, then loop over the verbs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--verbs", default=",".join(VERBS))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument(
        "--lasting", action="store_true", help="every later call fails too, as on a full disk"
    )
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if PREPARED not in os.environ:
        environment = {
            **os.environ, "LD_PRELOAD": str(library(folder)), PREPARED: "1", "SCALING_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
        }  # fmt: skip
        os.execve(sys.executable, [sys.executable, "-m", "tests.faults", *sys.argv[1:]], environment)
    spare_imports()
    import torch

    torch.set_num_threads(1)
    prepare(folder / "prepared")
    for word in asked.verbs.split(","):
        verb, *own = word.split("/")
        every, first = (int(own[0]), int(own[1])) if own else (asked.every, asked.first)
        found = loop(verb, folder, every=every, first=first, lasting=asked.lasting or own[2:] == ["lasting"])
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
