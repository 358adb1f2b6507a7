"""Members trained by a real Slurm of two nodes: sweeps, preemption, and what goes wrong, said in one line.

Slow, and needs Slurm. CI installs it and says NEED_SLURM=1, under which its absence fails; elsewhere it skips.
"""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from scaling.paths import StudyPaths
from scaling.planning.planfile import PlanFile
from scaling.runs.readers import read_runs
from scaling.runs.store import read_ledger
from train.slurm.submit import Submission

from ..small_plan import planned, small_study
from . import cluster as slurm

pytestmark = pytest.mark.slow

PROFILE = {"partition": "main", "time": "10:00", "memory": "1500M", "cpus": 2, "save_before": 60}
LONG = {"width": 64, "steps": 200}  # a run of many lines in its log


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """A folder that the second node does not have."""
    return tmp_path_factory.mktemp("hidden")


@pytest.fixture(scope="module")
def cluster(hidden):
    if gone := slurm.missing():
        said = f"these tests need Slurm; {', '.join(gone)} not installed: {slurm.INSTALL}"
        (pytest.fail if os.environ.get("NEED_SLURM") else pytest.skip)(said)
    with slurm.cluster(hidden_from_n2=hidden if slurm.can_hide() else None) as found:
        yield found


@pytest.fixture
def empty(cluster):
    """The queue, and that a test left it empty."""
    yield cluster
    left = ("squeue", "--noheader", "--states=PENDING,RUNNING,COMPLETING")
    deadline = time.monotonic() + 20
    while (found := cluster.run(*left)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert found == ""


def ladder(cluster, plan, study, *options, profile=None, timeout=240, **more):
    """Run the command as a person would."""
    path = plan.with_name(f"{study.folder.name}.yaml")
    path.write_text(yaml.safe_dump({**PROFILE, **(profile or {})}))
    return subprocess.run(
        [Path(sys.executable).with_name("scaling"), "ladder", plan, "--study", study.folder, "--launcher", "slurm",
         "--profile", path, *options],
        capture_output=True, text=True, timeout=timeout, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **cluster.environment, **more},
    )  # fmt: skip


def states(cluster, job):
    """Job or task to its node, of what has ended well."""
    said = cluster.run("squeue", "--array", "--noheader", "--states=all", "--jobs", job, "--format=%i %T %N")
    return {words[0]: words[2] for line in said.splitlines() if (words := line.split())[1] == "COMPLETED"}


def submissions(study):
    return [Submission.read(path) for path in sorted(study.folder.glob("slurm/*/submission.json"))]


def test_a_sweep_of_four_runs_on_two_nodes_is_one_study(empty, tmp_path):
    members = [
        planned(name, width) for name, width in (("a", 32), ("b; touch pwned", 32), ("c", 48), ("d", 64))
    ]
    plan, study = small_study(tmp_path, *members, name="a #1 study; $(touch pwned) '`touch pwned`'")
    done = ladder(empty, plan, study, "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["rungs"]) == 4
    (sent,) = submissions(study)
    (job,) = sent.jobs
    assert job.members == tuple(member.member for member in members)
    assert set(states(empty, job.job).values()) == {"n1", "n2"}
    runs = read_runs(study.runs).runs
    assert {run.run for run in runs} == {"a-s0", "b-touch-pwned-s0", "c-s0", "d-s0"}
    assert study.runs.read_text().count("\n") == 5
    for run in runs:
        assert sum(work.tokens for work in read_ledger(study.ledger) if work.run == run.run) == run.tokens
    again = ladder(empty, plan, study, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == json.loads(done.stdout)
    assert submissions(study) == [sent]
    assert not list(Path.cwd().glob("pwned"))


def let_it_train(study, log, begun, seconds=120):
    """Until a job has begun for that time, and has trained some steps beyond those that were saved."""
    metrics = study.run_folder("long-s0") / "trunk" / "metrics.jsonl"
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        said = log.read_text() if log.exists() else ""
        saved = max(map(int, re.findall(r"is saved at step (\d+)", said)), default=0)
        steps = [json.loads(line)["step"] for line in lines(metrics)]
        if said.count("long-s0 trunk\n") >= begun and steps and steps[-1] > saved:
            return
        time.sleep(0.05)
    raise TimeoutError(
        f"{log} does not show {begun} beginnings and steps within {seconds} s: {log.read_text()}"
    )


def lines(path):
    """Those that are whole."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


def halted(study):
    """Stop the process that trains, where it is: signals wait for it, however fast the machine and slow the cluster."""
    claim = max(study.run_folder("long-s0").glob("claim-*.json"))
    pid = json.loads(claim.read_text())["pid"]
    os.kill(pid, signal.SIGSTOP)
    return pid


def go_on(pid, number, told, seconds=60):
    """Let it go on once a signal waits for it, or somebody says that it was sent."""
    deadline = time.monotonic() + seconds
    with suppress(FileNotFoundError, ProcessLookupError):  # it went on by itself, and has ended
        while not told() and time.monotonic() < deadline:
            status = Path(f"/proc/{pid}/status").read_text()
            if int(re.search(r"ShdPnd:\s*(\w+)", status)[1], 16) >> (number - 1) & 1:
                break
            time.sleep(0.02)
        os.kill(pid, signal.SIGCONT)


def undisturbed(folder, study, run):
    """Another study with the same text, and a run that is to compute its steps as this one did."""
    other = StudyPaths(folder / "undisturbed")
    other.run_folder(run).mkdir(parents=True)
    (other.folder / "data").symlink_to(study.data)
    shutil.copy(study.run_folder(run) / "run.json", other.run_folder(run))
    return other


def begin_alone(plan, study):
    """The only rung of a plan, trained by one process without Slurm."""
    return subprocess.Popen(
        [Path(sys.executable).with_name("scaling"), "ladder", plan, "--study", study.folder, "--yes", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def ended_alone(process):
    """Its observation."""
    said, complaint = process.communicate(timeout=240)
    assert process.returncode == 0, complaint
    (rung,) = json.loads(said)["rungs"]
    return rung


def test_a_run_that_is_warned_preempted_and_requeued_is_the_run_it_would_have_been(empty, tmp_path):
    plan, study = small_study(tmp_path, planned("long", **LONG))
    sent = ladder(empty, plan, study, "--detach", "--json")
    assert sent.returncode == 0, sent.stderr
    job = json.loads(sent.stdout)["jobs"]["long"]
    log = study.folder / "slurm" / "0001" / f"{job}.log"
    let_it_train(study, log, 1)
    alone = undisturbed(tmp_path, study, "long-s0")
    # What Slurm sends ahead of a time limit: --signal=B:USR1, to the batch shell alone.
    process = halted(study)
    empty.run("scancel", "--batch", "--signal=USR1", job)
    go_on(process, signal.SIGUSR1, lambda: False)
    empty.wait_for(("squeue", "-h", "-j", job, "-o", "%T"), "PENDING", 30)
    beside = begin_alone(plan, alone)  # while this one waits for its turn
    let_it_train(study, log, 2)
    process = halted(study)
    urgent = empty.run(
        "sbatch",
        "--parsable",
        "--partition=urgent",
        "--nodes=2",
        "--exclusive",
        "--output=/dev/null",
        "--wrap=sleep 2",
    ).strip()
    go_on(process, signal.SIGTERM, lambda: "PREEMPTION" in log.read_text())
    empty.wait_for(("squeue", "-h", "-j", urgent, "-t", "all", "-o", "%T"), "COMPLETED", 60)
    done = ladder(empty, plan, study, "--json")
    assert done.returncode == 0, done.stderr
    assert len(submissions(study)) == 1
    assert log.read_text().count("is saved at step") == 2, log.read_text()
    theirs = ended_alone(beside)
    same = {"loss", "loss_se", "tokens", "compute", "perplexity", "bits_per_byte"}
    (ours,) = json.loads(done.stdout)["rungs"]
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
    for part in ("trunk", f"rung-{ours['tokens']:.0f}"):
        mine, its = (place.run_folder("long-s0") / part / "metrics.jsonl" for place in (study, alone))
        assert mine.read_bytes() == its.read_bytes()
    entries = read_ledger(study.ledger)
    steps = [(entry.from_step, entry.to_step) for entry in entries]
    assert steps[0][0] == 0
    assert all(before[1] == after[0] for before, after in itertools.pairwise(steps))
    assert len(entries) > len(read_ledger(alone.ledger))
    for sums in ("tokens", "flops"):
        ours, theirs = (sum(getattr(w, sums) for w in read_ledger(s.ledger)) for s in (study, alone))
        assert ours == theirs


def test_every_process_of_a_node_hears_the_warning_and_the_run_goes_on_where_it_was(empty, tmp_path):
    plan, study = small_study(tmp_path, planned("long", **LONG))
    two = {
        "devices": 2,
        "gres": "none",
        "zero": 3,
        "memory": "2500M",
        "environment": {"GLOO_SOCKET_IFNAME": "lo"},
    }
    sent = ladder(empty, plan, study, "--detach", "--json", profile=two)
    assert sent.returncode == 0, sent.stderr
    job = json.loads(sent.stdout)["jobs"]["long"]
    log = study.folder / "slurm" / "0001" / f"{job}.log"
    let_it_train(study, log, 1)
    empty.run("scancel", "--batch", "--signal=USR1", job)
    empty.wait_for(("squeue", "-h", "-j", job, "-o", "%T"), "PENDING", 60)
    done = ladder(empty, plan, study, "--json", profile=two)
    assert done.returncode == 0, done.stderr + log.read_text()
    assert log.read_text().count("is saved at step") == 1, log.read_text()
    entries = read_ledger(study.ledger)
    assert entries[0].to_step > 0
    assert all(before.to_step == after.from_step for before, after in itertools.pairwise(entries))


def test_a_member_on_two_nodes_is_divided_among_them_and_is_the_run_of_one_process(empty, tmp_path):
    plan, study = small_study(tmp_path, planned("wide", 64))
    two = {"members": {"wide": {"nodes": 2, "zero": 3, "memory": "2500M"}}}
    loopback = {"GLOO_SOCKET_IFNAME": "lo"}  # the nodes are one machine, whose name may not resolve
    done = ladder(empty, plan, study, "--json", profile={**two, "environment": loopback})
    log = next(study.folder.glob("slurm/0001/*.log"))
    assert done.returncode == 0, done.stderr + log.read_text()
    (sent,) = submissions(study)
    assert sent.jobs[0].file == "wide-on-2-nodes.sbatch"
    assert states(empty, sent.jobs[0].job)[sent.jobs[0].job] == "n[1-2]"
    alone = undisturbed(tmp_path, study, "wide-s0")
    whole = ended_alone(begin_alone(plan, alone))
    (ours,) = json.loads(done.stdout)["rungs"]
    assert ours["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert ours["tokens"] == sum(work.tokens for work in read_ledger(study.ledger)) == whole["tokens"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"partition": "mian"}, "partition is 'mian'; did you mean main?"),
        ({"memory": "100G"}, "memory is 100G; the largest node of partition main, n2, has 3.91G"),
        ({"partition": "asleep"}, "0 of 1 nodes up and 1 are needed (n9 is "),
        ({"gres": "gpu:8"}, "Slurm refuses sweep.sbatch: Invalid generic resource"),
    ],
)
def test_what_the_cluster_cannot_run_is_one_line_and_nothing_is_submitted(change, message, empty, tmp_path):
    plan, study = small_study(tmp_path, planned("a"), planned("big", 48))
    found = ladder(empty, plan, study, "--json", profile=change)
    assert (found.returncode, found.stdout) == (2, "")
    assert message in found.stderr
    assert found.stderr.count("\n") == 1
    assert "nothing was submitted" in found.stderr


def test_a_file_that_slurm_refuses_takes_the_ones_before_it_out_again(empty, tmp_path):
    plan, study = small_study(tmp_path, planned("a"), planned("z", 48))
    found = ladder(empty, plan, study, profile={"members": {"z": {"gres": "gpu:8"}}})
    assert found.returncode == 2
    assert "Slurm refuses sweep-2.sbatch" in found.stderr
    assert read_states(empty) == {}


def read_states(cluster):
    said = cluster.run("squeue", "--array", "--noheader", "--states=PENDING,RUNNING", "--format=%i %T")
    return dict(line.split() for line in said.splitlines())


def test_a_node_that_never_starts_is_given_up_after_the_time_one_allows(empty, tmp_path):
    plan, study = small_study(tmp_path, planned("a"))
    late = {"partition": "asleep", "start_within": 3}
    found = ladder(empty, plan, study, "--yes", profile=late)
    assert found.returncode == 1
    last = found.stderr.splitlines()[-1]
    assert "1 of 1 members are not done: a: no node has started it within 3 s" in last
    assert read_states(empty) == {}


@pytest.mark.skipif(not slurm.can_hide(), reason="this machine lets nobody hide a folder: unshare --mount")
def test_a_node_that_does_not_see_the_study_is_named(empty, hidden):
    plan, study = small_study(hidden, planned("a"))
    found = ladder(empty, plan, study, profile={"partition": "second"})
    assert found.returncode == 1
    last = found.stderr.splitlines()[-1]
    assert "on n2 does not see" in last
    assert "a study must lie where every node can read and write it" in last


def test_a_dry_run_prints_the_files_and_sends_nothing(empty, tmp_path):
    plan, study = small_study(tmp_path, planned("a"), planned("b", 48))
    found = ladder(empty, plan, study, "--dry-run")
    assert found.returncode == 0, found.stderr
    assert "#SBATCH --array=0-1" in found.stdout
    assert not (study.folder / "slurm").exists()
    assert [member.member for member in PlanFile.read(plan).members] == ["a", "b"]
