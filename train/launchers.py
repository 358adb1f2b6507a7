"""Files that start the runs of a job on a cluster: each launches one torchrun command.

Every value that comes from a plan or an option is one quoted word to the shell, or a scalar that PyYAML quotes.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from families.units import BadInput, format_size
from scaling.hardware import Accelerator
from scaling.paths import StudyPaths
from scaling.planning.seal import read_verified_plan
from scaling.version import __version__

from .emitting import EmitJob, EmitRun, Emitted
from .slurm import Needs, SlurmProfile, read_profile, sweep
from .slurm.sbatch import job_files

PORT = 29500  # where the processes of a run meet: torchrun's own default

CLAIM = "scaling-study"  # PersistentVolumeClaim that holds the study

# Of the container, where NCCL exchanges data between the processes of a pod.
_SHARED_MEMORY = "/dev/shm"  # noqa: S108

LARGEST_CONFIG_MAP = 1_000_000  # bytes; Kubernetes takes 1 MiB

# SkyPilot's names of accelerators where they differ from the catalogue's without its hyphens (its catalogue, 2026).
_SKYPILOT = {
    "A100": "A100-80GB",
    "A100-40GB": "A100",
    "V100": "V100",
    "V100-32GB": "V100-32GB",
    "H100-PCIe": "H100",
    "H100-NVL": "H100-NVL",
    "RTX-6000-Ada": "RTX6000-Ada",
}


def slurm(job: EmitJob) -> Emitted:
    """Write the job files for sbatch of a plan's members, with a profile of the devices or the cluster's own.

    Raises:
        BadInput: a run given as key=value, devices that fill no whole nodes, or as `sweep` and `job_files`.
    """
    if job.plan is None:
        raise BadInput(
            "--to slurm launches the members of a plan; with keys use --to torchrun, or make a plan"
        )
    nodes, each = _nodes(job)
    sharded: dict[str, dict[str, Any]] = {
        run.member.member: {"zero": 3} for run in job.runs if run.member.shards > 1
    }
    if job.profile is None:
        gres = None if job.accelerator is None else f"gpu:{each}"
        profile = SlurmProfile(nodes=nodes, devices=each, gres=gres, members=sharded)
    else:
        profile = read_profile(job.profile)
    tasks = sweep(
        read_verified_plan(job.plan),
        job.plan,
        StudyPaths(job.study),
        seed=job.seed,
        profile=profile,
        only=[run.member.member for run in job.runs],
    )
    logs = str(tasks.study.folder / "slurm")
    notes = [f"before sbatch: make the folder {logs}, where every node sees it, the plan and the study"]
    if job.data is not None:
        notes.append(
            "before sbatch: prepare the text; this command does, and submits the jobs itself: "
            f"scaling ladder {shlex.quote(str(job.plan))} --data {shlex.quote(job.data)} "
            f"--study {shlex.quote(str(job.study))} --launcher slurm"
        )
    files = {file.name: file.text for file in job_files(tasks, profile, logs)}
    return Emitted(files=files, notes=tuple(notes))


def torchrun(job: EmitJob) -> Emitted:
    """Write a shell script of each run, to be started on every node.

    Raises:
        BadInput: devices that fill no whole nodes.
    """
    nodes, each = _nodes(job)
    files = {}
    for run in job.runs:
        words = _words(job, run, None if job.plan is None else job.plan.resolve(), job.study.resolve())
        lines = [
            "#!/bin/bash",
            f"# Written by scaling {__version__}: {_what(job, run)}.",
            *_how(nodes),
            "set -eu",
            f"exec {_torchrun(nodes, each, _MEET_BY_NAME)} {shlex.join(words)}",
        ]
        files[job.place(run, "run.sh")] = "\n".join(lines) + "\n"
    return Emitted(files=files)


_MEET_BY_NAME = f'"${{MASTER_ADDR:?the name of the first node}}:{PORT}"'


def _how(nodes: int) -> list[str]:
    if nodes == 1:
        return ["# On the node: bash run.sh"]
    return [f"# On each of {nodes} nodes: MASTER_ADDR=first-node bash run.sh"]


def skypilot(job: EmitJob) -> Emitted:
    """Write a SkyPilot task of each run: `sky launch task.yaml`.

    The plan lies beside the task and is copied with it; the study is a bucket that all nodes mount.

    Raises:
        BadInput: no accelerator is named, a TPU, or devices that fill no whole nodes.
    """
    nodes, each = _nodes(job)
    device = _gpu(job)
    meet = f'"$MASTER_ADDR:{PORT}"'
    name = _SKYPILOT.get(device.name, device.name.replace("RTX-", "RTX").replace("PRO-", "PRO"))
    files = {}
    for run in job.runs:
        words = _words(job, run, None if job.plan is None else Path("plan.json"), Path("/study"))
        task = {
            "name": _dns_name(run.name),
            "resources": {"accelerators": f"{name}:{each}"},
            "num_nodes": nodes,
            "workdir": ".",
            "file_mounts": {"/study": {"name": _dns_name(f"scaling-{job.study.name}"), "mode": "MOUNT"}},
            "setup": "pip install 'scaling-planner[train]'\n",
            "run": (
                'MASTER_ADDR="$(echo "$SKYPILOT_NODE_IPS" | head -n 1)"\n'
                f"{_torchrun(nodes, each, meet)} {shlex.join(words)}\n"
            ),
        }
        files[job.place(run, "task.yaml")] = _yaml(f"{_what(job, run)}: sky launch task.yaml", [task])
        if job.plan is not None:
            files[job.place(run, "plan.json")] = job.plan.read_text(encoding="utf-8")
    notes = ("bucket names are global: change file_mounts /study name to one of yours", *_text_note(job))
    return Emitted(files=files, notes=notes)


def kubernetes(job: EmitJob) -> Emitted:
    """Write a JobSet of each run, a pod for each node, with the plan as a ConfigMap: `kubectl apply -f jobset.yaml`.

    Raises:
        BadInput: no accelerator or no image is named, a TPU, devices that fill no whole nodes, or too large a plan.
    """
    nodes, each = _nodes(job)
    device = _gpu(job)
    if job.image is None:
        raise BadInput("--to kubernetes needs --image, a container image with scaling and torch in it")
    files = {}
    for run in job.runs:
        name = _dns_name(run.name)
        words = _words(job, run, None if job.plan is None else Path("/plan/plan.json"), Path("/study"))
        volumes: list[dict[str, Any]] = [
            {"name": "study", "persistentVolumeClaim": {"claimName": CLAIM}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ]
        mounts = [{"name": "study", "mountPath": "/study"}, {"name": "shm", "mountPath": _SHARED_MEMORY}]
        documents: list[dict[str, Any]] = []
        if job.plan is not None:
            text = job.plan.read_text(encoding="utf-8")
            if len(text.encode()) > LARGEST_CONFIG_MAP:
                raise BadInput(
                    f"{job.plan} has {format_size(len(text.encode()))} bytes; a ConfigMap holds 1 MiB"
                )
            documents.append(
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": f"{name}-plan"},
                    "data": {"plan.json": text},
                }
            )
            volumes.append({"name": "plan", "configMap": {"name": f"{name}-plan"}})
            mounts.append({"name": "plan", "mountPath": "/plan"})
        first = f"{name}-workers-0-0.{name}"  # the pod of index 0, by the JobSet's headless service
        container = {
            "name": "train",
            "image": job.image,
            "command": ["bash", "-c", f"{_torchrun(nodes, each, f'{first}:{PORT}')} {shlex.join(words)}"],
            "resources": {"limits": {_resource(device): each}},
            "volumeMounts": mounts,
        }
        pod = {"restartPolicy": "Never", "containers": [container], "volumes": volumes}
        template = {
            "spec": {
                "parallelism": nodes,
                "completions": nodes,
                "completionMode": "Indexed",
                "backoffLimit": 0,
                "template": {"spec": pod},
            }
        }
        documents.append(
            {
                "apiVersion": "jobset.x-k8s.io/v1alpha2",
                "kind": "JobSet",
                "metadata": {"name": name},
                "spec": {
                    "network": {"enableDNSHostnames": True},
                    "failurePolicy": {"maxRestarts": 10},
                    "replicatedJobs": [{"name": "workers", "replicas": 1, "template": template}],
                },
            }
        )
        files[job.place(run, "jobset.yaml")] = _yaml(
            f"{_what(job, run)}: kubectl apply -f jobset.yaml", documents
        )
    notes = (f"the claim {CLAIM} must exist and be writable by all nodes (ReadWriteMany)", *_text_note(job))
    return Emitted(files=files, notes=notes)


def _text_note(job: EmitJob) -> tuple[str, ...]:
    """A note where the nodes would have no text."""
    if job.data is not None or job.plan is None:
        return ()
    return ("the study must hold its text, prepared where it lies; or give --data hub:OWNER/NAME",)


def _nodes(job: EmitJob) -> tuple[int, int]:
    """Number of nodes, and of devices on each.

    Raises:
        BadInput: the devices fill no whole number of nodes.
    """
    each = min(job.devices, job.per_node)
    if job.devices % each:
        raise BadInput(
            f"{job.devices} devices are no whole number of nodes of {job.per_node}; give --per-node, or other devices"
        )
    return job.devices // each, each


def _gpu(job: EmitJob) -> Accelerator:
    """The accelerator of a job.

    Raises:
        BadInput: none is named, or torchrun does not start it.
    """
    if job.accelerator is None:
        raise BadInput(
            "no devices are named; give --on 8xH100, or make the plan with a budget that names them"
        )
    if job.accelerator.name.startswith("TPU"):
        raise BadInput(f"{job.accelerator.name} is no GPU; these runs train with torch on GPUs")
    return job.accelerator


def _resource(device: Accelerator) -> str:
    return "amd.com/gpu" if device.name.startswith("MI") else "nvidia.com/gpu"


def _torchrun(nodes: int, each: int, meet: str) -> str:
    """Words up to the command, `meet` as the shell reads it; nothing for one process."""
    if nodes == 1:
        return shlex.join(torchrun_words("scaling", Needs(nodes=1, devices=each))).strip()
    *words, last = torchrun_words("scaling", Needs(nodes=nodes, devices=each), ("--rdzv-backend=c10d",))
    return f"{shlex.join(words)} --rdzv-id=scaling --rdzv-endpoint={meet} {last}"


def _words(job: EmitJob, run: EmitRun, plan: Path | None, study: Path) -> list[str]:
    """The command of a run, with the plan and the study where it finds them."""
    if plan is None:
        return ["scaling", *run.words, "--study", str(study), "--yes"]
    words = ["scaling", "ladder", str(plan), "--study", str(study), "--seed", str(job.seed), "--yes"]
    words += [] if run.member.shards == 1 else ["--zero", "3"]
    words += [] if job.data is None else ["--data", job.data]
    return [*words, "--member", run.member.member]


def _what(job: EmitJob, run: EmitRun) -> str:
    """One line on what a file starts; names of members may hold anything."""
    name = "" if job.accelerator is None else f" {job.accelerator.name}"
    return f"{run.name} on {job.devices}{name} device{'s' * (job.devices > 1)}"


def _yaml(comment: str, documents: Sequence[dict[str, Any]]) -> str:
    text = yaml.dump_all(documents, Dumper=_Blocks, sort_keys=False, width=1000)
    return f"# Written by scaling {__version__}: {comment}\n{text}"


class _Blocks(yaml.SafeDumper):
    """PyYAML's safe dumper, with texts of several lines as blocks."""


def _block(dumper: yaml.SafeDumper, text: str) -> Any:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Blocks.add_representer(str, _block)


def _dns_name(name: str) -> str:
    """A name as Kubernetes and buckets take it (RFC 1123), short enough for the pods' own."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:40].strip("-") or "run"


def torchrun_words(command: str, needs: Needs, meet: Sequence[str] = ("--standalone",)) -> list[str]:
    """Return the torchrun words that precede the command of a run of several processes; empty for one process.

    torchrun is taken from the folder of the scaling program.
    """
    if needs.nodes == 1 and needs.devices == 1:
        return []
    folder, slash, _ = command.rpartition("/")
    counts = [f"--nnodes={needs.nodes}", f"--nproc-per-node={needs.devices}"]
    return [f"{folder}{slash}torchrun", *counts, *meet, "--no-python"]
