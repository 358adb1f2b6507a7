"""A queue that is the study's folder: killed and begun again, or shared, it does everything once."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from families.units import BadInput
from scaling.paths import StudyPaths
from scaling.planning.planfile import PlanFile
from train.jobs import pool
from train.jobs.plan import train_sweep
from train.lease import Stop, leased
from train.slurm import SlurmProfile, sweep

from .small_plan import BATCH, planned

# Stands for the program: claims the run, books that it worked, and leaves the observation that the queue looks for.
STAND_IN = """#!{python}
import json, pathlib, sys, time
from train.lease import leased
words = sys.argv[1:]
study, member = pathlib.Path(words[words.index("--study") + 1]), words[words.index("--member") + 1]
folder = study / "runs" / (member + "-s0")
with leased(folder):
    if (folder / "rung-{tokens}" / "rung.json").exists():
        sys.exit(0)  # somebody was faster: the program does nothing again
    if member == "bad":
        print("scaling: the loss is nan at step 4", file=sys.stderr)
        sys.exit(1)
    time.sleep({seconds})
    with (folder / "worked").open("a") as file:
        file.write("once\\n")
    (folder / "rung-{tokens}").mkdir()
    (folder / "rung-{tokens}" / "rung.json").write_text(json.dumps({{"member": member}}))
"""
DRIVER = """
import sys
from tests.test_queue import queue
queue(sys.argv[1], sys.argv[2:])
"""


def program(folder, seconds=0.0):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "scaling"
    path.write_text(STAND_IN.format(python=sys.executable, seconds=seconds, tokens=16 * BATCH))
    path.chmod(0o755)


def queue(folder, names, at_once=2, told=lambda line: None, **profile):
    plan = PlanFile(members=tuple(planned(name) for name in names))
    chosen = SlurmProfile.model_validate({"command": f"{folder}/scaling", **profile})
    wanted = sweep(
        plan, Path(folder) / "plan.json", StudyPaths(Path(folder) / "study"), seed=0, profile=chosen
    )
    return train_sweep(
        wanted,
        plan,
        Stop(),
        jobs=at_once,
        yes=True,
        eval_tokens=2**20,
        log=told,
        report=lambda *said: None,
        poll=0.02,
    )


def worked(folder):
    return {path.parent.name: path.read_text().count("once") for path in folder.glob("study/runs/*/worked")}


def test_every_member_is_done_once_and_one_that_fails_does_not_stop_the_others(tmp_path):
    program(tmp_path)
    found = queue(tmp_path, ["a", "bad", "c"])
    assert found.done == {"a", "c"}
    assert "the loss is nan at step 4" in found.failed["bad"]
    assert "logs/bad-s0.log" in found.failed["bad"]
    again = queue(tmp_path, ["a", "c", "d"])
    assert again.done == {"a", "c", "d"}
    assert worked(tmp_path) == {"a-s0": 1, "c-s0": 1, "d-s0": 1}


def test_members_of_one_process_share_the_gpus_where_there_are_fewer_of_them(tmp_path, monkeypatch):
    program(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    given = []
    start = pool.Pool.start

    def started(self, words, *, environment, **rest):
        given.append(environment)
        return start(self, words, environment=environment, **rest)

    monkeypatch.setattr(pool.Pool, "start", started)
    two = {"members": {"c": {"devices": 2, "zero": 0, "gres": "none"}}}
    queue(tmp_path, ["a", "b", "c"], **two)
    alone = [one for one in given if "CUDA_VISIBLE_DEVICES" not in one]
    shared = [one for one in given if one.get("CUDA_VISIBLE_DEVICES") == "0"]
    assert (len(alone), len(shared)) == (1, 2)
    assert all(one["SCALING_GPU_SHARE"] == "0.5" for one in shared)


def test_members_that_do_not_fit_on_one_gpu_together_are_refused_before_any_is_trained(tmp_path, monkeypatch):
    def refuse(settings, at_once, log):
        raise BadInput(f"jobs is {at_once}; {len(settings)} members need more")

    for name, value in (
        ("pick_device", lambda asked: "cuda"),
        ("check_shared", refuse),
        ("planned_settings", lambda members, *rest, device, **others: [device for _ in members]),
        ("DataManifest", SimpleNamespace(read=lambda path: None)),
    ):
        monkeypatch.setattr(f"train.jobs.plan.{name}", value)
    program(tmp_path)
    monkeypatch.setattr("train.jobs.plan.sys.executable", f"{tmp_path}/python")
    with pytest.raises(BadInput, match="jobs is 2; 3 members need more"):
        queue(tmp_path, ["a", "b", "c"])
    assert worked(tmp_path) == {}


def written_claims(folder):
    """Those of which a first line is there: a claim is made before it is written."""
    texts = [path.read_text() for path in folder.glob("study/runs/*/claim-*.json")]
    return [json.loads(text) for text in texts if text.endswith("\n")]


def driven(folder, names):
    return subprocess.Popen([sys.executable, "-c", DRIVER, folder, *names])


def test_a_queue_that_is_killed_leaves_no_process_and_goes_on_where_it_was(tmp_path):
    program(tmp_path, seconds=1.0)
    killed = driven(tmp_path, ["a", "b", "c"])
    deadline = time.monotonic() + 30
    while len(claims := written_claims(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    owners = [claim["pid"] for claim in claims]
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    time.sleep(0.3)
    assert len(owners) == 2
    assert not any(_runs(pid) for pid in owners)
    assert worked(tmp_path) == {}
    found = queue(tmp_path, ["a", "b", "c"])
    assert found.done == {"a", "b", "c"}
    assert worked(tmp_path) == {"a-s0": 1, "b-s0": 1, "c-s0": 1}


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_two_queues_on_one_study_share_the_work(tmp_path):
    program(tmp_path, seconds=0.3)
    names = ["a", "b", "c", "d"]
    other = driven(tmp_path, names)
    found = queue(tmp_path, names)
    assert other.wait(60) == 0
    assert found.done == set(names)
    assert worked(tmp_path) == {f"{name}-s0": 1 for name in names}


def test_a_run_that_somebody_else_is_training_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("train.jobs.ladders.ELSEWHERE_SECONDS", 0.1)
    program(tmp_path)
    heard = []
    with leased(tmp_path / "study" / "runs" / "a-s0"):
        other = driven(tmp_path, ["a"])
        time.sleep(0.5)
        assert worked(tmp_path) == {}
        other.send_signal(signal.SIGTERM)
        other.wait()
    assert queue(tmp_path, ["a"], told=heard.append).done == {"a"}
    assert heard == ["a is done"]


def test_a_member_of_several_nodes_is_refused(tmp_path):
    program(tmp_path)
    with pytest.raises(BadInput, match="a needs 2 nodes; launcher=local has this one"):
        queue(tmp_path, ["a"], nodes=2)


def rungs_of(done):
    assert done.returncode == 0, done.stderr
    return [(rung["run"], rung["loss"]) for rung in json.loads(done.stdout)["rungs"]]


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory, cli):
    """The losses of two members' rungs, trained one after the other."""
    from .small_plan import small_study

    plan, study = small_study(tmp_path_factory.mktemp("turn"), planned("a"), planned("b", 48), name="alone")
    done = cli("ladder", plan, "--study", study.folder, "--yes", "--json", OMP_NUM_THREADS="1")
    return rungs_of(done)


@pytest.mark.slow
@pytest.mark.parametrize("how", [("--launcher", "local", "--jobs", "2"), ("--jobs", "2", "--yes")])
def test_the_real_program_in_a_queue_gives_what_it_gives_alone(how, in_turn, tmp_path, cli):
    from .small_plan import small_study

    plan, study = small_study(tmp_path, planned("a"), planned("b", 48))
    queued = cli("ladder", plan, "--study", study.folder, *how, "--json", OMP_NUM_THREADS="1")
    assert rungs_of(queued) == in_turn
    assert study.runs.read_text().count("\n") == 3
