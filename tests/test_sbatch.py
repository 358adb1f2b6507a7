"""The files for sbatch: readable, and nothing from a plan, a profile or a path reaches the shell as shell."""

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from families.units import BadInput
from scaling.paths import StudyPaths
from scaling.planning.planfile import PlanFile
from train.slurm import SlurmProfile, client, read_profile, sweep
from train.slurm.client import Node, check
from train.slurm.sbatch import ARRAY, job_files

from .small_plan import planned

NASTY = st.text(
    alphabet=st.sampled_from(list("ab -'\"$`\\;&|<>(){}[]*?!#~%\n\té=,:@")), min_size=1, max_size=20
).map(lambda text: f"{text}a")


def files(tmp_path, names, logs="/logs", path="plan.json", **profile):
    profile = SlurmProfile.model_validate(profile)
    plan = PlanFile(members=tuple(planned(name) for name in names))
    wanted = sweep(plan, tmp_path / path, StudyPaths(tmp_path / "study"), seed=1, profile=profile)
    return job_files(wanted, profile, logs)


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    """A program that writes its arguments as JSON, in the place of scaling and of Slurm's commands."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "scaling"
    program.write_text("#!/usr/bin/env python3\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    program.chmod(0o755)
    (folder / "apptainer").symlink_to(program)
    (folder / "srun").write_text('#!/bin/bash\nwhile [[ "$1" == -* ]]; do shift; done\n"$@"\n')
    (folder / "scontrol").write_text('#!/bin/bash\necho "   NodeAddr=10.0.0.7 NodeHostName=x"\n')
    for name in ("srun", "scontrol"):
        (folder / name).chmod(0o755)
    return folder


def played(text, echo, folder, task):
    """What a file's program is called with, when bash runs it."""
    script = folder / "job.sh"
    script.write_text(text)
    done = subprocess.run(
        ["bash", script],
        env={"PATH": f"{echo}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_ID": "41",
             "SLURM_JOB_NODELIST": "n[1-2]", "SLURMD_NODENAME": "n1"},
        capture_output=True, text=True, cwd=folder, timeout=30,
    )  # fmt: skip
    assert done.stderr == ""
    return json.loads(done.stdout)


@given(name=NASTY, folder=NASTY, value=NASTY)
@settings(max_examples=25)
def test_whatever_a_name_a_path_or_a_variable_holds_is_one_word(name, folder, value, echo, tmp_path_factory):
    place = tmp_path_factory.mktemp("sbatch")
    path = f"{folder.replace('/', '')}.json"
    (place / path).write_text("{}")
    value = value.replace("\n", " ").replace("\t", " ")
    (file,) = files(
        place, ["plain", name], path=path, command=str(echo / "scaling"), environment={"X": value}
    )
    before = sorted(place.iterdir())
    words = played(file.text, echo, place, [task.member for task in file.tasks].index(name))
    assert words == [
        "ladder",
        str(place / path),
        "--study",
        str(place / "study"),
        "--seed",
        "1",
        "--yes",
        "--member",
        name,
    ]
    assert (
        sorted(place.iterdir()) == [*before, place / "job.sh"]
        or len(list(place.iterdir())) == len(before) + 1
    )
    options = [line for line in file.text.splitlines() if line.startswith("#SBATCH")]
    assert options == file.text.splitlines()[1 : 1 + len(options)]


def test_a_run_of_several_nodes_meets_at_the_address_of_the_first(echo, tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    needs = {"nodes": 2, "devices": 2, "zero": 3, "cpus": 8, "gres": "gpu:2"}
    program = echo / "meeting"
    program.write_text(
        "#!/usr/bin/env python3\nimport json, os, sys\n"
        'print(json.dumps([os.environ["SCALING_NODES"], os.environ["SCALING_MEET"], *sys.argv[1:]]))\n'
    )
    program.chmod(0o755)
    (file,) = files(tmp_path, ["big one"], command=str(program), **needs)
    assert not file.array
    words = played(file.text, echo, tmp_path, 0)
    assert words[:3] == ["2", "tcp://10.0.0.7:20041", "ladder"]
    assert words[-6:] == ["--devices", "2", "--zero", "3", "--member", "big one"]
    assert "#SBATCH --nodes=2" in file.text


def test_all_nodes_start_again_where_one_was_out_of_memory(echo, tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    (tmp_path / "study" / "runs").mkdir(parents=True)
    program = echo / "scarce"
    program.write_text(
        "#!/bin/bash\n"
        f'if [ ! -e {tmp_path}/tried ]; then touch {tmp_path}/tried "$SCALING_RETRY"; exit 143; fi\n'
        'echo "[\\"again\\"]"\n'
    )
    program.chmod(0o755)
    (file,) = files(tmp_path, ["a"], command=str(program), nodes=2)
    assert played(file.text, echo, tmp_path, 0) == ["again"]
    assert not list((tmp_path / "study" / "runs").iterdir())


def test_a_container_is_entered_with_the_study_in_it(echo, tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    (file,) = files(
        tmp_path,
        ["a"],
        command=str(echo / "scaling"),
        container={"image": "my image.sif", "mounts": ["/data"]},
    )
    words = played(file.text, echo, tmp_path, 0)
    assert words[:2] == ["exec", "--nv"]
    assert words[2:] == [
        "--bind", str(tmp_path / "study"), "--bind", str(tmp_path), "--bind", "/data", "my image.sif",
        str(echo / "scaling"), "ladder", str(tmp_path / "plan.json"), "--study", str(tmp_path / "study"), "--seed", "1",
        "--yes", "--member", "a",
    ]  # fmt: skip
    (file,) = files(tmp_path, ["a"], container={"image": "x", "tool": "pyxis"})
    assert "srun --kill-on-bad-exit=1 --container-image=x --container-mounts=" in file.text


def test_a_sweep_is_one_array_and_what_needs_more_has_files_of_its_own(tmp_path):
    found = files(
        tmp_path,
        ["a", "b", "c", "d"],
        at_once=2,
        time="12:00:00",
        members={"c": {"nodes": 2}, "d": {"memory": "64G"}},
    )
    assert [(file.name, len(file.tasks)) for file in found] == [
        ("sweep.sbatch", 2),
        ("c-on-2-nodes.sbatch", 1),
        ("sweep-2.sbatch", 1),
    ]
    assert "#SBATCH --array=0-1%2\n" in found[0].text
    assert "#SBATCH --mem=64G\n" in found[2].text
    assert all("#SBATCH --time=12:00:00\n" in file.text for file in found)


def test_an_array_is_no_longer_than_slurm_takes(tmp_path):
    found = files(tmp_path, [f"m{index}" for index in range(ARRAY + 1)])
    assert [len(file.tasks) for file in found] == [ARRAY, 1]


@pytest.mark.parametrize("logs", ["/a%b", '/a"b', "/a\\b", "/a\nb"])
def test_a_folder_that_slurm_would_read_otherwise_is_refused(logs, tmp_path):
    with pytest.raises(BadInput, match="Slurm cannot write its logs there"):
        files(tmp_path, ["a"], logs=logs)


def test_two_members_of_one_name_are_refused(tmp_path):
    with pytest.raises(BadInput, match="two members whose run is a-b-s1"):
        files(tmp_path, ["a b", "a-b"])


def test_a_batch_that_the_processes_cannot_share_is_refused_before_anything_is_sent(tmp_path):
    with pytest.raises(
        BadInput, match="a has a batch of 4 sequences; it must be a multiple of its 3 processes"
    ):
        files(tmp_path, ["a"], nodes=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partition: 'a\n  b; rm'", "partition is 'a b; rm': it must be one word"),
        ("partition: a --uid=0", "it must be one word"),
        ("tim: 1", "unknown key 'tim'; did you mean time?"),
        ("memory: lots", "memory is 'LOTS'|memory is 'lots'"),
        ("time: soon", "it must be minutes, MM:SS"),
        ("members: {x: {nods: 1}}", "members x: unknown key 'nods'; did you mean nodes?"),
        ("environment: {'A B': 1}", "no name of a variable"),
        ("prologue: [\"a\\nb\"]", "it must be one line"),
        ("devices: 2", "devices is 2 and gres is missing; give gres: gpu:2, or gres: none"),
        ("members: {x: {devices: 4}}", "members x: devices is 4 and gres is missing"),
        ("nodes: 0", "greater than or equal to 1"),
        ("a: [", "is not YAML"),
        ("- 1", "is not a profile"),
        ("!!python/object/apply:os.system [id]", "is not YAML"),
    ],
)  # fmt: skip
def test_a_wrong_profile_is_one_clear_line(text, message, tmp_path):
    path = tmp_path / "profile.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=message) as caught:
        read_profile(path)
    assert "\n" not in str(caught.value)


def test_a_time_in_a_profile_is_what_was_written_and_a_partition_may_be_called_no(tmp_path):
    path = tmp_path / "profile.yaml"
    path.write_text("time: 12:00:00\npartition: no\nmemory: 2g\n")
    found = read_profile(path)
    assert (found.time, found.partition, found.memory_mb) == ("12:00:00", "no", 2048)


def test_the_profile_in_the_docs_is_one(tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "slurm.md").read_text(encoding="utf-8")
    path = tmp_path / "profile.yaml"
    path.write_text(text.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    found = read_profile(path)
    assert (found.of("gpt2-xl").nodes, found.of("gpt2-xl").time) == (4, "2-00:00:00")
    assert found.of("gpt2-52m").gres == "gpu:1"
    assert set(SlurmProfile.model_fields) - found.model_fields_set <= {"nodes", "devices", "zero"}


CLUSTER = tuple(
    Node(name=name, partition=partition, is_default=partition == "main", state=state, cpus=8, memory_mb=64000)
    for partition, name, state in [
        ("main", "n1", "idle"), ("main", "n2", "mix"), ("asleep", "n9", "down*"), ("cloud", "n5", "idle~"),
    ]
)  # fmt: skip


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ({"partition": "mian"}, "partition is 'mian'; did you mean main?"),
        ({"memory": "100G"}, "memory is 100G; the largest node of partition main, n2, has 62.5G"),
        ({"cpus": 9}, "cpus is 9; the largest node of partition main, n2, has 8"),
        ({"nodes": 3}, "nodes is 3; partition main has 2"),
        ({"partition": "asleep"}, r"0 of 1 nodes up and 1 are needed \(n9 is down\*\)"),
    ],
)
def test_what_a_cluster_cannot_run_is_refused_before_it_is_sent(needs, message):
    with pytest.raises(BadInput, match=message) as caught:
        check(SlurmProfile.model_validate(needs), CLUSTER, anyway=False)
    assert "nothing was submitted" in str(caught.value)


def test_a_node_that_sleeps_until_it_is_needed_is_not_away_and_one_that_is_can_be_waited_for():
    check(SlurmProfile(partition="cloud"), CLUSTER, anyway=False)
    check(SlurmProfile(partition="asleep"), CLUSTER, anyway=True)


def test_without_slurm_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="sbatch is not on the PATH: this machine has no Slurm"):
        client.need_slurm()
