"""Killed at any moment and started again, a run is the run that nobody killed: every weight, moment, draw and line of it."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from scaling.runs.store import read_ledger

PARTS = ("trunk", "rung-768", "rung-1536")


def bytes_that_numbers_decide(folder):
    """Metrics, finished models, and the state (moments, random generators) where the branches start."""
    run = folder / "run"
    names = [f"{part}/metrics.jsonl" for part in PARTS]
    names += [f"{part}/model/model.safetensors" for part in PARTS[1:]]
    for start in sorted(run.glob("trunk/step-*")):
        if json.loads((start / "checkpoint.json").read_text())["starts_branch"]:
            names += [f"trunk/{start.name}/{name}" for name in ("model.safetensors", "state.safetensors")]
    assert len(names) == 9
    return {name: (run / name).read_bytes() for name in names}


@pytest.fixture
def quick_disk(tmp_path):
    """A folder in memory where there is one: thousands of fsyncs are not what is tested."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "compiled", "kills"),
    [(1, 0, 7), (1, 1, 7), (2, 0, 6), (2, 1, 3)],
    ids=["one", "one-compiled", "two", "two-compiled"],
)
def test_a_run_killed_at_many_moments_is_the_run_that_nobody_killed(processes, compiled, kills, quick_disk):
    """Twenty-three kills in all; SCALING_KILLS and SCALING_KILLS_SEED ask for more of each kind, and for others."""
    kills, seed = os.environ.get("SCALING_KILLS", str(kills)), os.environ.get("SCALING_KILLS_SEED", "0")
    done = subprocess.run(
        [sys.executable, "-m", "tests.killing", quick_disk, str(processes), str(compiled), kills, seed],
        cwd=Path(__file__).parent.parent, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    did = json.loads(done.stdout.splitlines()[-1])
    assert len(did["killed"]) >= int(kills)
    whole = bytes_that_numbers_decide(quick_disk / "whole")
    planned = sum(work.tokens for work in read_ledger(quick_disk / "whole" / "ledger.jsonl"))
    for number in range(1, did["finished"] + 1):
        folder = quick_disk / f"finished-{number}"
        assert bytes_that_numbers_decide(folder) == whole
        assert sum(work.tokens for work in read_ledger(folder / "ledger.jsonl")) == planned
        names, expected = (
            sorted(path.relative_to(root).as_posix() for path in (root / "run").rglob("*"))
            for root in (folder, quick_disk / "whole")
        )
        assert names == expected  # nothing is left over, and nothing else is kept
