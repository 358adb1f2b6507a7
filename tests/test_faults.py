"""Commands whose n-th open, write, fsync or rename fails: one line, and the same bytes once the command is repeated."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from . import faults

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("cc") is None or sys.platform != "linux", reason="needs a C compiler on Linux"
    ),
]


@pytest.mark.parametrize(
    ("verbs", "every", "lasting"),
    [
        ("fit,plan,gather,compare", 1, False),
        ("train", 71, True),
        ("report", 53, False),
        ("ladder", 293, True),
    ],
    ids=lambda value: str(value),
)
def test_after_a_failed_call_the_same_command_completes_with_the_same_bytes(verbs, every, lasting, tmp_path):
    # Another first call each time that the number of calls changes; all of them: python -m tests.faults FOLDER.
    first = 2 if lasting and every > 1 else 1
    words = [tmp_path, "--verbs", verbs, "--every", str(every), "--first", str(first)]
    if lasting:
        words.append("--lasting")
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(faults.__file__).parents[1],
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["verb"] for row in found] == verbs.split(",")
    for row in found:
        assert row["failed"] >= 2, row
        assert row["problems"] == [], row["problems"][0]
