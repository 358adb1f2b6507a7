"""Launchers that `scaling emit` writes: valid by their schemas, one torchrun command each, no name read by a shell."""

import json
import shlex
import subprocess

import jsonschema
import pytest
import yaml

import scaling as sc
from families.units import BadInput
from scaling.cli.app import build
from scaling.planning.planfile import PlanFile

# The parts of SkyPilot's task schema (sky/utils/schemas.py, get_task_schema) that a launcher uses.
SKYPILOT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["resources", "run"],
    "properties": {
        "name": {"type": "string"},
        "workdir": {"type": "string"},
        "num_nodes": {"type": "integer", "minimum": 1},
        "setup": {"type": "string"},
        "run": {"type": "string"},
        "resources": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"accelerators": {"type": "string", "pattern": r"^[A-Za-z0-9-]+:\d+$"}},
        },
        "file_mounts": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string"},
                    "mode": {"enum": ["MOUNT", "COPY", "MOUNT_CACHED"]},
                },
            },
        },
    },
}
LABEL = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
# The parts of JobSet's OpenAPI schema (jobset.x-k8s.io/v1alpha2) and of batch/v1's Job that a launcher uses.
JOBSET = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"},
        "kind": {"const": "JobSet"},
        "metadata": {"type": "object", "properties": {"name": LABEL}, "required": ["name"]},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "network": {"type": "object", "properties": {"enableDNSHostnames": {"type": "boolean"}}},
                "failurePolicy": {"type": "object", "properties": {"maxRestarts": {"type": "integer"}}},
                "replicatedJobs": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["name", "template"],
                        "properties": {
                            "name": LABEL,
                            "replicas": {"type": "integer"},
                            "template": {"$ref": "#/$defs/job"},
                        },
                    },
                },
            },
        },
    },
    "$defs": {
        "job": {
            "type": "object",
            "properties": {
                "spec": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "parallelism": {"type": "integer"},
                        "completions": {"type": "integer"},
                        "completionMode": {"enum": ["Indexed", "NonIndexed"]},
                        "backoffLimit": {"type": "integer"},
                        "template": {
                            "type": "object",
                            "properties": {
                                "spec": {
                                    "type": "object",
                                    "required": ["containers"],
                                    "properties": {
                                        "restartPolicy": {"enum": ["Never", "OnFailure"]},
                                        "containers": {
                                            "type": "array",
                                            "items": {"$ref": "#/$defs/container"},
                                        },
                                    },
                                }
                            },
                        },
                    },
                }
            },
        },
        "container": {
            "type": "object",
            "required": ["name", "image"],
            "properties": {
                "name": LABEL,
                "image": {"type": "string"},
                "command": {"type": "array", "items": {"type": "string"}},
                "resources": {
                    "type": "object",
                    "properties": {"limits": {"type": "object", "additionalProperties": {"type": "integer"}}},
                },
                "volumeMounts": {"type": "array", "items": {"required": ["name", "mountPath"]}},
            },
        },
    },
}


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """A folder with a sealed plan of two members on 64 H100, one of them sharded."""
    monkeypatch.chdir(tmp_path)
    sc.plan("64 H100 for 1 hour,64 H100 for 2 weeks", law="chinchilla").seal().save("plan.json")
    return PlanFile.read(tmp_path / "plan.json")


def emit(*words, out="out"):
    build()(["emit", *words, "--out", out], standalone_mode=False)


def torchrun_of(text):
    """Words of the one torchrun command in a text."""
    (line,) = (line for line in text.splitlines() if "torchrun" in line)
    return shlex.split(line)


def test_each_launcher_is_valid_and_runs_one_torchrun_command_on_the_plans_devices(plan, tmp_path):
    emit(
        "plan.json",
        "--to",
        "slurm,torchrun,skypilot,kubernetes",
        "--image",
        "here/scaling:1",
        "--data",
        "hub:a/b",
    )
    for member in plan.members:
        folder = tmp_path / "out" / member.member
        task = yaml.safe_load((folder / "task.yaml").read_text())
        jsonschema.validate(task, SKYPILOT)
        assert (task["num_nodes"], task["resources"]["accelerators"]) == (8, "H100:8")
        assert (folder / "plan.json").read_bytes() == (tmp_path / "plan.json").read_bytes()
        plan_map, jobset = yaml.safe_load_all((folder / "jobset.yaml").read_text())
        jsonschema.validate(jobset, JOBSET)
        assert plan_map["data"]["plan.json"] == (tmp_path / "plan.json").read_text()
        job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
        (container,) = job["template"]["spec"]["containers"]
        assert (job["completions"], container["resources"]["limits"]) == (8, {"nvidia.com/gpu": 8})
        sbatch = (tmp_path / "out" / f"{member.member}-on-8-nodes.sbatch").read_text()
        assert "#SBATCH --nodes=8" in sbatch
        assert "#SBATCH --gres=gpu:8" in sbatch
        for text in ((folder / "run.sh").read_text(), task["run"], container["command"][-1]):
            words = torchrun_of(text)
            assert {"--nnodes=8", "--nproc-per-node=8"} <= set(words)
            assert words[words.index("--member") + 1] == member.member
            assert ("--zero" in words) == (member.shards > 1)
            assert words[words.index("--data") + 1] == "hub:a/b"


@pytest.mark.parametrize("file", ["run.sh", "task.yaml"])
def test_a_hostile_name_is_one_word_to_the_shell(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = sc.plan("8 H100 for 1 hour", law="chinchilla").document
    name = "a'; touch pwned #$(touch pwned)\n`touch pwned`"
    hostile = made.members[0].model_copy(update={"member": name})
    made.model_copy(update={"members": (hostile,)}).write(tmp_path / "plan.json")
    emit("plan.json", "--to", "torchrun,skypilot")
    (path,) = (tmp_path / "out").glob(f"*/{file}")
    script = path.read_text() if file == "run.sh" else yaml.safe_load(path.read_text())["run"]
    script = script.replace("torchrun", "printf '%s\\0'")
    done = subprocess.run(
        ["bash", "-c", script.replace("exec ", "")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\0")[-2] == name
    assert not list(tmp_path.rglob("pwned"))


def test_the_scripts_of_one_node_and_of_keys_run_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    emit(
        "family=gpt2", "tokens=1B", "batch_size=512", "--on", "8xA100", "--to", "torchrun,skypilot", "--json"
    )
    paths = json.loads(capsys.readouterr().out)
    words = torchrun_of((tmp_path / paths["torchrun"]).read_text())
    assert {"--standalone", "family=gpt2", "tokens=1B"} <= set(words)
    task = yaml.safe_load((tmp_path / paths["skypilot"]).read_text())
    jsonschema.validate(task, SKYPILOT)
    assert task["resources"]["accelerators"] == "A100-80GB:8"
    assert subprocess.run(["bash", "-n", paths["torchrun"]], check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plan.json", "--to", "kubernetes"), "needs --image"),
        (("plan.json", "--to", "slurp"), "did you mean slurm"),
        (("plan.json", "--to", "torchrun", "--per-node", "7"), "no whole number of nodes of 7"),
        (("plan.json", "--to", "torchrun", "--on", "TPU-v4-64", "--to", "skypilot"), "is no GPU"),
        (("family=gpt2", "tokens=1B", "--to", "slurm"), "launches the members of a plan"),
        (("family=gpt2", "tokens=1B", "--to", "skypilot"), "no devices are named; give --on 8xH100"),
        (
            ("family=gpt2", "tokens=1B", "devices=2", "batch_size=8", "--on", "8xA100"),
            "--on names 8; give one",
        ),
        (("plan.json", "family=gpt2"), "give one plan, or keys alone"),
        (("family=gpt2", "tokens=1B", "--member", "gpt2"), "no plan is given"),
    ],
)
def test_what_cannot_be_launched_is_refused_in_one_line_and_nothing_is_written(plan, words, said, tmp_path):
    with pytest.raises(BadInput, match=said) as refused:
        emit(*words)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()
