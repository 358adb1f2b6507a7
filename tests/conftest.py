"""What tests share."""

import os
import signal
import subprocess

import pytest
from hypothesis import settings

from scaling.collector import spare_imports

from . import tiny, warm

spare_imports()  # torch's objects are those of the whole session

# The same examples every time: what passed here passes on another machine. No deadlines: a busy machine is slow, not wrong.
settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")

# Variables that nothing imported beforehand has read, so that a command may be a fork (warm.py).
READ_LATE = ("SCALING_", "PYTEST_", "OMP_NUM_THREADS", "COLUMNS")

# Files that take longest, by measured seconds: begun last, one of them would keep one worker busy and leave the rest idle.
LONGEST_FIRST = (
    *(
        "test_parallel.py",
        "test_exact.py",
        "test_parallel_engine.py",
        "test_nasty.py",
        "test_pool.py",
        "test_faults.py",
    ),
    *(
        "test_demo.py",
        "test_slurm.py",
        "test_examples.py",
        "test_report.py",
        "test_cli.py",
        "test_plan_command.py",
    ),
    *("test_tune.py", "test_refusals.py", "test_one_answer.py", "test_fit_command.py", "test_uncertainty.py"),
    *(
        "test_buying.py",
        "test_queue.py",
        "test_resume.py",
        "test_safety.py",
        "test_train.py",
        "test_sweep.py",
    ),
    *("test_tracking.py", "test_product.py", "test_core.py", "test_ladder.py", "test_api.py"),
)


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest; tests of a file keep their order."""
    rank = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory, pytestconfig):
    """What is probed stays out of the user's cache; what torch compiles is shared by all tests, and by the next session.

    Compiling is the larger part of the suite: two proofs of the compiled loss take 41 s of CPU without it and 12 with it.
    """
    os.environ["SCALING_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    if pytestconfig.pluginmanager.has_plugin("cacheprovider"):  # not with -p no:cacheprovider
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(pytestconfig.cache.mkdir("inductor")))


@pytest.fixture(autouse=True)
def own_interrupts():
    """A command that has ended in this process heeds no interrupt any more; the tests after it, and their children, do."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def console():
    """Run the console script as a person would, from the start of Python on: console("plan", "--budget", "1e18")."""

    def run(*arguments, cwd=None, **environment):
        return subprocess.run(
            [warm.SCRIPT, *arguments], capture_output=True, text=True, check=False, cwd=cwd,
            env={**os.environ, **environment},
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def begin():
    """Begin a command in a process of its own, whose imports from others are there already: begin("plan", …) is like a Popen."""
    from scaling.cli.app import VERBS

    servers = {trains: warm.Server(warm.HEAVY if trains else warm.LIGHT) for trains in (True, False)}
    trains = {verb.name: verb.trains for verb in VERBS}

    def run(*arguments, cwd=None, **environment):
        server = servers[trains.get(str(arguments[0]) if arguments else "", False)]
        return server.begin(arguments, cwd=cwd, environment=environment)

    yield run
    for server in servers.values():
        server.close()


@pytest.fixture(scope="session")
def cli(begin, console):
    """Run a command in a process of its own and wait for it: cli("plan", "--budget", "1e18").

    The console script runs it where the test changes what other packages read as they are imported.
    """
    before = dict(os.environ)

    def run(*arguments, cwd=None, **environment):
        changed = {name for name, value in {**os.environ, **environment}.items() if before.get(name) != value}
        changed |= before.keys() - os.environ.keys()
        if any(not name.startswith(READ_LATE) for name in changed):
            return console(*arguments, cwd=cwd, **environment)
        command = begin(*arguments, cwd=cwd, **environment)
        out, err = command.communicate()
        return subprocess.CompletedProcess(command.args, command.returncode, out, err)

    return run


@pytest.fixture(scope="module")
def one_thread():
    """torch on one thread, for the time of a file."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A little text as tokens, which nobody changes."""
    return tiny.text_in(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def ladder(text, one_thread, tmp_path_factory):
    """A tiny model trained to three rungs: its folder, and the rungs."""
    from train.ladder import RunOptions, train_ladder
    from train.lease import Stop

    folder = tmp_path_factory.mktemp("ladder")
    habits = RunOptions(save_every=1e9, log_every=4)
    return folder, train_ladder(
        tiny.settings(text), (1024, 2048, 4096), text, tiny.places(folder), habits, Stop()
    )
