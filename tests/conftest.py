"""What tests share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples every time: what passed here passes on another machine.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What is probed and compiled stays out of the user's cache."""
    os.environ["SCALING_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def cli():
    """Run the console script in a process of its own, as a person would: cli("plan", "--budget", "1e18")."""

    def run(*arguments, cwd=None, **environment):
        return subprocess.run(
            [Path(sys.executable).with_name("scaling"), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            env={**os.environ, **environment},
        )

    return run
