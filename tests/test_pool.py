"""Processes that never outlive the one that started them, and ladders side by side that are killed, shared or fail."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from families import params
from families.design import name_of
from families.units import BadInput
from scaling.machine import cpu_share
from scaling.paths import StudyPaths
from scaling.runs.readers import read_runs
from scaling.runs.store import read_ledger
from train.data import DataManifest
from train.jobs import demo, ladders, pool
from train.jobs.demo import Sizing, overrun
from train.jobs.ladders import Job, train_ladders
from train.jobs.pool import Pool, Process, python
from train.ladder import Interrupted, RunOptions
from train.lease import Stop, stop_signals

from . import tiny

RUNGS = (128 * 100, 128 * 200)  # tokens; 200 steps and a cooldown, a second or two
DRIVER = "import sys; from tests.test_pool import drive; drive(*sys.argv[1:])"
HEIR = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def heard(number, frame):
    (folder / "heard").touch()
    if sys.argv[2] == "obeys":
        sys.exit(0)
signal.signal(signal.SIGTERM, heard)
(folder / "ready").touch()
time.sleep(120)
"""
PARENT = """
import pathlib, sys, time
from train.jobs import pool
pool.ORPHAN_GRACE = 0.5
with pool.Pool() as found:
    process = found.start(pool.python({heir!r}, *sys.argv[1:]))
    (pathlib.Path(sys.argv[1]) / "pid").write_text(str(process.popen.pid))
    time.sleep(120)
"""


def until(true, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:  # an orphan of a container may stay unreaped, and is dead all the same
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


# The pool


@pytest.mark.parametrize("manner", ["obeys", "ignores"])
def test_a_killed_parent_takes_any_program_with_it_which_may_save_first(manner, tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT.format(heir=HEIR), tmp_path, manner])
    until((tmp_path / "ready").exists)
    until((tmp_path / "pid").exists)
    pid = int((tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    until(lambda: gone(pid))
    assert (tmp_path / "heard").exists()


def test_a_pool_that_is_left_has_no_process_any_more(tmp_path):
    with Pool() as found:
        process = found.start(python("import time; time.sleep(120)"))
    assert process.poll() == -signal.SIGKILL


def test_of_a_log_the_reason_is_read_and_not_what_an_earlier_process_wrote(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("scaling: the earlier reason\n")
    with Pool() as found:
        quiet = found.start(python(""), log=log)
        quiet.popen.wait()
        assert quiet.last_words() == ""
        code = "import sys; sys.exit('scaling: the loss is nan\\nand more')"
        failed = found.start(python(code), log=log)
        failed.popen.wait()
    assert failed.last_words() == "the loss is nan"
    assert Process(failed.popen).last_words() == ""


def test_a_signal_is_forwarded_and_the_handlers_are_as_before(tmp_path):
    before = [signal.getsignal(number) for number in stop_signals()]
    with Pool() as found, pool.forward_signals(found) as passed_on:
        process = found.start(python("import time; time.sleep(120)"))
        signal.raise_signal(signal.SIGTERM)
        assert process.popen.wait(30) == -signal.SIGTERM
    assert passed_on == {signal.SIGTERM}
    assert [signal.getsignal(number) for number in stop_signals()] == before


def test_processes_side_by_side_share_the_cores_and_the_gpus(monkeypatch):
    monkeypatch.setattr(pool, "cores", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert pool.share_of_machine(0, 1) == {}
    assert pool.share_of_machine(1, 2) == {"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "5"}
    assert pool.share_of_machine(2, 3) == {"OMP_NUM_THREADS": "2"}
    shared = {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "3", "SCALING_GPU_SHARE": "0.5"}
    assert pool.share_of_machine(2, 3, of_gpus=True) == shared


# Ladders side by side


def jobs_in(folder, data, names, rungs=RUNGS, **changes):
    from train.settings import planned_steps

    facts = DataManifest.read(Path(data) / "data.json")
    found = []
    for seed, name in enumerate(names):
        chosen = tiny.settings(
            None, _facts(facts), family=name, seed=seed, tokens=rungs[-1], name=name, threads=1, **changes
        )
        found.append(
            Job(
                settings=chosen, rungs=rungs, paths=ladders.RunPaths.of(StudyPaths(Path(folder)), chosen.run),
                data=Path(data), work_per_step=1.0, steps=planned_steps(chosen, rungs), shared=True,
            )
        )  # fmt: skip
    return found


def _facts(manifest):
    from train.settings import TextFacts

    return TextFacts.of(manifest, "gpt2")


def drive(folder, data, *names):
    """Train ladders two at a time, for a process of its own; prints their losses."""
    habits = RunOptions(save_every=1e-6, log_every=10)
    rungs = train_ladders(jobs_in(folder, data, names), habits, Stop(), lambda *what: None, side_by_side=2)
    print(json.dumps([(rung.observation.run, rung.observation.loss) for rung in rungs]))


def driven(folder, data, *names):
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, folder, data, *names], stdout=subprocess.PIPE, text=True
    )


def assert_booked_once(folder, names, data):
    for job in jobs_in(folder, data, names):
        work = read_ledger(job.paths.ledger)
        for part in {entry.part for entry in work}:
            steps = sorted((entry.from_step, entry.to_step) for entry in work if entry.part == part)
            assert all(earlier[1] == later[0] for earlier, later in itertools.pairwise(steps)), steps
        assert sum(entry.to_step - entry.from_step for entry in work) == job.steps


@pytest.fixture(scope="module")
def alone(text, one_thread, tmp_path_factory):
    """Losses of three ladders trained in turn, in this process."""
    folder = tmp_path_factory.mktemp("alone")
    jobs = jobs_in(folder, text.folder, ["a", "b", "c"])
    rungs = train_ladders(jobs, RunOptions(log_every=10), Stop(), lambda *what: None, side_by_side=1)
    return [[rung.observation.run, rung.observation.loss] for rung in rungs]


@pytest.mark.slow
def test_a_killed_queue_leaves_no_worker_and_goes_on_where_each_run_was(text, alone, tmp_path):
    names = ["a", "b", "c"]
    killed = driven(tmp_path, text.folder, *names)
    until(lambda: len(list(tmp_path.glob("runs/*/trunk/step-*/checkpoint.json"))) > 2, 60)
    owners = [json.loads(path.read_text())["pid"] for path in tmp_path.glob("runs/*/claim-*.json")]
    killed.kill()
    killed.communicate(timeout=60)  # a worker that outlives it would hold the pipe
    until(lambda: all(map(gone, owners)))
    assert len(owners) == 2
    again = driven(tmp_path, text.folder, *names)
    found, _ = again.communicate(timeout=120)
    assert json.loads(found) == alone
    assert_booked_once(tmp_path, names, text.folder)


@pytest.mark.slow
def test_two_queues_on_one_folder_share_the_ladders_and_both_know_all(text, alone, tmp_path, monkeypatch):
    names = ["a", "b", "c"]
    both = [driven(tmp_path, text.folder, *names) for _ in range(2)]
    for queue in both:
        found, _ = queue.communicate(timeout=180)
        assert json.loads(found) == alone
    assert_booked_once(tmp_path, names, text.folder)


@pytest.mark.slow
def test_a_ladder_that_fails_does_not_stop_the_others_and_is_named(text, tmp_path):
    (good,) = jobs_in(tmp_path, text.folder, ["good"])
    (bad,), (other,) = (jobs_in(tmp_path, text.folder, ["bad"], lr=lr) for lr in (1e-3, 3e-3))
    bad.paths.folder.mkdir(parents=True)
    other.settings.write(bad.paths.folder / "run.json")
    with pytest.raises(BadInput, match=r"lr 0\.003; this one has 0\.001"):
        train_ladders([bad, good], RunOptions(), Stop(), lambda *what: None, side_by_side=2)
    assert good.done()
    assert not bad.done()


@pytest.mark.slow
def test_an_observation_that_a_killed_process_had_not_recorded_is_recorded_by_the_next_queue(text, tmp_path):
    (job,) = jobs_in(tmp_path, text.folder, ["a"], rungs=(1024,))
    (rung,) = train_ladders([job], RunOptions(), Stop(), lambda *what: None, side_by_side=1)
    job.paths.runs.unlink()
    tasks = [ladders.Task.of("a", job)]
    found = ladders.run_queue(tasks, RunOptions(), Stop(), lambda *what: None, at_once=2)
    assert found.done == {"a": (rung,)}
    assert [run.loss for run in read_runs(job.paths.runs).runs] == [rung.observation.loss]


@pytest.mark.slow
def test_a_queue_that_is_asked_to_stop_has_saved_every_run(text, tmp_path):
    jobs = jobs_in(tmp_path, text.folder, ["a", "b"], rungs=(128 * 20_000,))
    stop = Stop()

    def report(done, total, what, trained):
        lines = [path.read_text().count("\n") for path in tmp_path.glob("runs/*/trunk/metrics.jsonl")]
        if len(lines) == 2 and min(lines) > 2:
            stop.request()

    with pytest.raises(Interrupted, match=r"is saved at step .*; run the same command to resume"):
        train_ladders(jobs, RunOptions(log_every=1), stop, report, side_by_side=2)
    assert len(list(tmp_path.glob("runs/*/trunk/step-*/checkpoint.json"))) == 2
    assert not list(tmp_path.glob("runs/*/claim-*"))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads are bound to a core")
def test_two_that_share_a_core_get_half_of_two():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert 0 < cpu_share(2, 0.2) < 0.6
    finally:
        os.sched_setaffinity(0, before)


def test_a_demo_on_a_tenth_of_the_cores_is_sized_shorter(tmp_path, monkeypatch):
    def probed(specs, batch_size, *, threads, share):
        return {name_of(spec): params(spec) * 5e-9 / share for spec in specs}

    monkeypatch.setattr(demo, "probe_members", probed)

    def sized(share):
        monkeypatch.setattr(demo, "cpu_share", lambda at_once: share)
        study = StudyPaths(tmp_path / f"{share}")
        study.data.mkdir(parents=True)
        (study.data / "data.json").write_text("{}")
        plan, _, sizing = demo.plan_members(study, 190.0, 10**7)
        assert sizing.share == share
        return max(member.tokens for member in plan.members)

    assert sized(0.1) < sized(1.0) / 2


def test_a_busy_machine_says_what_it_expects_and_that_times_cannot_be_predicted():
    quiet = Sizing(ladders=15.0, target=9.0, share=0.97)
    assert quiet.warning(25.0) == ""
    assert "other work takes 60% of the cores" in Sizing(ladders=15.0, target=9.0, share=0.4).warning(25.0)
    assert "take about 80 s of training here, not 25" in Sizing(ladders=50.0, target=30.0, share=0.4).warning(
        25.0
    )
    assert overrun("the ladders", 15.0, 18.0) == ""
    assert "took 60 s and not the 15 s" in overrun("the ladders", 15.0, 60.0)
