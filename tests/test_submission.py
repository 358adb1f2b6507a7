"""Sending and following with a stand-in for Slurm's commands: races, kills, a controller that is away, jobs that loop."""

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import time

import pytest

from families.units import BadInput
from scaling.paths import StudyPaths
from scaling.planning.planfile import PlanFile
from train.slurm import SlurmProfile, client, read_profile, submit, sweep
from train.slurm.sbatch import job_files
from train.slurm.submit import Submission, follow, send_rest

from .small_plan import planned

# A queue in a folder: a folder for each job, with the number of its tasks; what is in `state` is the state of all.
PROGRAMS = {
    "sinfo": 'echo "main*|n1|idle|8|64000"',
    "sbatch": """
file="${!#}"
grep -q gpu:8 "$file" && { echo "sbatch: error: Invalid generic resource" >&2; exit 1; }
number=1
while ! mkdir "$QUEUE/$number" 2>/dev/null; do number=$((number + 1)); done
sed -n 's/#SBATCH --array=0-//p' "$file" >"$QUEUE/$number/last"
sleep 0.2
echo "$number"
""",
    "squeue": """
[ -f "$QUEUE/away" ] && { echo "squeue: error: Unable to contact slurm controller" >&2; exit 1; }
for job in "$QUEUE"/[0-9]*; do
  [ -d "$job" ] || continue
  for task in $(seq 0 "$(cat "$job/last")"); do
    echo "$(basename "$job")_$task|$(cat "$QUEUE/state" 2>/dev/null || echo PENDING)|None|n1"
  done
done
""",
    "scontrol": """
[ -f "$QUEUE/kill" ] && kill -9 "$PPID" && exit
[ "$1" = release ] && for job in "${@:2}"; do touch "$QUEUE/$job/released"; done
[ "$*" = "show job 7" ] && echo "   JobState=RUNNING Reason=None"
[ "$1" = requeue ] && touch "$QUEUE/requeued"
[ "$1" = --oneliner ] && echo "JobId=1 ExitCode=$(cat "$QUEUE/code")"
true
""",
    "scancel": 'for job in "$@"; do rm -r "$QUEUE/$job"; done',
}


@pytest.fixture
def queue(tmp_path, monkeypatch):
    place, programs = tmp_path / "queue", tmp_path / "programs"
    place.mkdir()
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("QUEUE", str(place))
    return place


def wanted(folder, names=("a", "b"), **profile):
    chosen = SlurmProfile.model_validate({"command": "/bin/true", **profile})
    plan = PlanFile(members=tuple(planned(name) for name in names))
    return sweep(plan, folder / "plan.json", StudyPaths(folder / "study"), seed=0, profile=chosen), chosen


def send(folder, **profile):
    return send_rest(*wanted(folder, **profile), anyway=False)


def jobs(queue):
    return sorted(path.name for path in queue.iterdir() if path.is_dir())


def submissions(folder):
    return [Submission.read(path) for path in sorted(folder.glob("study/slurm/*/submission.json"))]


def _send(folder, start, results):
    start.wait()
    try:
        send(folder)
        results.put("sent")
    except BadInput as error:
        results.put(str(error))


def test_of_two_who_send_one_study_at_once_one_does_and_the_other_is_told(queue, tmp_path):
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    senders = [context.Process(target=_send, args=(tmp_path, start, results)) for _ in range(3)]
    for sender in senders:
        sender.start()
    start.set()
    said = [results.get(timeout=30) for _ in senders]
    for sender in senders:
        sender.join()
    assert "sent" in said
    assert all(words == "sent" or "is sending members of" in words for words in said)
    assert jobs(queue) == ["1"]
    assert len(submissions(tmp_path)) == 1
    assert len(send(tmp_path)) == 2
    assert jobs(queue) == ["1"]


def test_a_sender_that_is_killed_before_it_releases_is_finished_by_the_next(queue, tmp_path):
    (queue / "kill").touch()
    killed = multiprocessing.get_context("fork").Process(target=send, args=(tmp_path,))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert (jobs(queue), [one.released for one in submissions(tmp_path)]) == (["1"], [False])
    assert not (queue / "1" / "released").exists()
    (queue / "kill").unlink()
    assert set(send(tmp_path)) == {"a", "b"}
    assert (jobs(queue), [one.released for one in submissions(tmp_path)]) == (["1"], [True])
    assert (queue / "1" / "released").exists()


def test_a_file_that_is_refused_leaves_nothing_in_the_queue_and_the_next_call_sends_all(queue, tmp_path):
    with pytest.raises(
        BadInput, match=r"Slurm refuses sweep-2\.sbatch: Invalid generic resource; nothing was submitted"
    ):
        send(tmp_path, members={"b": {"gres": "gpu:8"}})
    assert jobs(queue) == []
    assert set(send(tmp_path)) == {"a", "b"}
    assert [len(one.jobs) for one in submissions(tmp_path)] == [1, 1]
    assert jobs(queue) == ["1"]


def test_a_controller_that_is_away_for_a_while_does_not_end_the_following(queue, tmp_path, monkeypatch):
    plan, profile = wanted(tmp_path)
    sent = send_rest(plan, profile, anyway=False)
    (queue / "away").touch()
    heard, pauses = [], itertools.count()

    def pause(seconds):
        if next(pauses) == 2:
            (queue / "away").unlink()
            (queue / "state").write_text("FAILED")
            (queue / "code").write_text("127:0")

    found = follow(plan, sent, profile, log=heard.append, progress=lambda *said: None, pause=pause)
    assert set(found.failed) == {"a", "b"}
    assert sum("Unable to contact slurm controller; asking again" in line for line in heard) == 3
    assert "say with command: in the profile where it is" in found.failed["a"]
    (queue / "away").touch()
    monkeypatch.setattr(submit, "_UNHEARD", -1.0)
    with pytest.raises(BadInput, match="Unable to contact slurm controller"):
        follow(plan, sent, profile, log=heard.append, progress=lambda *said: None, pause=pause)


def test_while_slurm_has_a_job_nobody_looks_whether_it_is_done(queue, tmp_path, monkeypatch):
    plan, profile = wanted(tmp_path)
    sent = send_rest(plan, profile, anyway=False)
    looks = []
    monkeypatch.setattr(type(plan.tasks[0]), "done", lambda task, study: looks.append(task.member) or True)
    (queue / "state").write_text("RUNNING")
    pauses = itertools.count()

    def pause(seconds):
        assert looks == []
        if next(pauses) == 2:
            (queue / "state").write_text("COMPLETED")

    found = follow(plan, sent, profile, log=lambda line: None, progress=lambda *said: None, pause=pause)
    assert (found.done, sorted(looks)) == ({"a", "b"}, ["a", "b"])


def test_a_job_that_no_node_starts_is_given_up_and_taken_out_of_the_queue(queue, tmp_path):
    plan, profile = wanted(tmp_path, ["a"], start_within=1)
    sent = send_rest(plan, profile, anyway=False)
    (queue / "1").rename(queue / "1_0")  # the task, by its own number
    (queue / "1_0" / "last").write_text("0")
    (queue / "1").mkdir()
    (queue / "1" / "last").write_text("0")
    time.sleep(1.1)
    found = follow(plan, sent, profile, log=lambda line: None, progress=lambda *said: None, pause=time.sleep)
    assert list(found.failed) == ["a"]
    assert "1 s" in found.failed["a"]
    assert not (queue / "1_0").exists()


def test_a_node_that_does_not_see_the_plan_says_so_and_trains_nothing(queue, tmp_path):
    plan, profile = wanted(tmp_path, ["a"])
    (file,) = job_files(plan, profile, "/logs")
    (tmp_path / "job.sh").write_text(file.text)
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "0", "SLURMD_NODENAME": "n7"}
    job = subprocess.run(["bash", tmp_path / "job.sh"], capture_output=True, text=True, env=environment)
    assert job.returncode == 72
    assert (
        f"scaling: n7 does not see {tmp_path}/plan.json: a study must lie where every node can read it"
        in job.stderr
    )


RUN = """#!/bin/bash
trap '[ -n "$SAVES" ] && mkdir -p "$STUDY/runs/a-s0/trunk/step-00000009"; exit 130' USR1
touch "$QUEUE/begun"
while true; do sleep 0.05; done
"""


@pytest.mark.parametrize("saves", ["", "yes"])
def test_a_job_whose_time_is_up_is_requeued_only_if_it_got_further(saves, queue, tmp_path):
    program = tmp_path / "scaling"
    program.write_text(RUN)
    program.chmod(0o755)
    (tmp_path / "plan.json").write_text("{}")
    plan, profile = wanted(tmp_path, ["a"], command=str(program))
    (file,) = job_files(plan, profile, "/logs")
    (tmp_path / "job.sh").write_text(file.text)
    job = subprocess.Popen(
        ["bash", tmp_path / "job.sh"], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0", "SAVES": saves, "STUDY": str(plan.study.folder)},
    )  # fmt: skip
    deadline = time.monotonic() + 20
    while not (queue / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    _, said = job.communicate(timeout=20)
    assert job.returncode == 130
    assert (queue / "requeued").exists() == bool(saves)
    assert (
        "goes back into the queue" if saves else "before a had saved anything new; give it more time"
    ) in said


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 1800), ("10:00", 600), ("1:00:30", 3630), ("2-0", 172800), ("1-02:03", 93780), ("1-02:03:04", 93784)],
)  # fmt: skip
def test_a_time_limit_is_read_as_slurm_reads_it(text, seconds):
    assert SlurmProfile(time=text).seconds == seconds


def test_a_job_that_would_save_before_it_has_begun_is_refused(tmp_path):
    path = tmp_path / "profile.yaml"
    path.write_text("time: 5:00\nmembers: {big: {time: 3:00}}\n")
    with pytest.raises(
        BadInput, match=r"members big: time is 3:00, 180 s, and save_before 120 s; time must be at least"
    ):
        read_profile(path)


def test_what_a_profile_says_of_members_that_a_plan_does_not_have_is_named(cli, tmp_path):
    PlanFile(members=(planned("gpt2-a"),)).write(tmp_path / "plan.json")
    (tmp_path / "cluster.yaml").write_text("members: {gpt2-b: {nodes: 2}, 'gpt2-?': {cpus: 2}}\n")
    words = ("--launcher", "slurm", "--profile", tmp_path / "cluster.yaml", "--dry-run")
    found = cli("ladder", tmp_path / "plan.json", "--study", tmp_path / "study", *words)
    assert found.returncode == 0
    assert "cluster.yaml has settings for gpt2-b, " in found.stderr
    assert "#SBATCH --cpus-per-task=2" in found.stdout
    assert not (tmp_path / "study").exists()


def test_processors_are_those_of_every_process_of_a_node(tmp_path):
    plan, profile = wanted(tmp_path, ["a"], cpus=4, devices=4)
    (file,) = job_files(plan, profile, "/logs")
    assert "#SBATCH --cpus-per-task=16\n" in file.text
    node = client.Node(name="n1", partition="main", is_default=True, state="idle", cpus=8, memory_mb=1)
    with pytest.raises(
        BadInput, match="cpus is 4 for each of 4 devices; the largest node of partition main, n1, has 8"
    ):
        client.check(profile, [node], anyway=False)


@pytest.mark.parametrize("name", ["a,b", "a:b"])
def test_a_folder_that_a_container_would_read_as_several_is_refused(name, tmp_path):
    plan, profile = wanted(tmp_path / name, container={"image": "x.sif"})
    with pytest.raises(BadInput, match="at which a container's list of mounts is cut"):
        job_files(plan, profile, "/logs")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--detach",), "detach= needs a launcher"),
        (("--launcher", "local", "--detach"), "detach=true needs launcher=slurm"),
        (("--launcher", "slum"), "launcher is 'slum'; did you mean slurm?"),
        (("--launcher", "slurm"), "sbatch is not on the PATH: this machine has no Slurm"),
        (("--launcher", "slurm", "--export", "models"), "it must be a URL"),
        (("--launcher", "slurm", "--detach", "--export", "file:///x"), "leave out detach=true"),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_is_one_line_and_nothing_is_left(words, message, cli, tmp_path):
    PlanFile(members=(planned("a"),)).write(tmp_path / "plan.json")
    empty = tmp_path / "bin"
    empty.mkdir()
    found = cli("ladder", tmp_path / "plan.json", "--study", tmp_path / "study", *words, PATH=str(empty))
    assert (found.returncode, found.stdout) == (2, "")
    assert message in found.stderr
    assert found.stderr.count("\n") == 1
    assert not list((tmp_path / "study").rglob("*.sbatch"))
    assert json.loads((tmp_path / "plan.json").read_text())["kind"] == "plan"
