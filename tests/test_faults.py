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


# How many calls on from one that fails to the next, and the first of them; whether all later ones fail too, as on a full disk.
# Another first call each time that the number of calls changes; all of them: python -m tests.faults FOLDER.
FAULTS = {
    **dict.fromkeys(("fit", "plan", "gather", "compare"), "1/1"),
    "train": "71/2/lasting",
    "report": "53/1",
    "ladder": "293/2/lasting",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What happened to each verb; in one process, since torch takes seconds to import."""
    verbs = ",".join(f"{verb}/{how}" for verb, how in FAULTS.items())
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", tmp_path_factory.mktemp("faults"), "--verbs", verbs],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(faults.__file__).parents[1],
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {row["verb"]: row for row in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("verb", FAULTS)
def test_after_a_failed_call_the_same_command_completes_with_the_same_bytes(verb, found):
    assert found[verb]["failed"] >= 2, found[verb]
    assert found[verb]["problems"] == []
