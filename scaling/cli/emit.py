"""scaling emit: the files with which other programs and clusters run a plan, or a run given as key=value."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from families.units import BadInput

from ..budget import parse_devices
from ..files import atomic_writes, refuse_overwrite_text
from .output import JsonOption, SeedOption, StudyOption, YesOption, echo, log, print_json

if TYPE_CHECKING:
    from train.config import TrainConfig
    from train.emitting import Devices, EmitJob

EMIT_EPILOG = "Example: scaling emit --deepspeed family=gpt2-medium tokens=1B batch_size=512 devices=8 zero=2"


def emit(
    words: Annotated[
        list[str],
        typer.Argument(metavar="PLAN|KEY=VALUE…", help="A plan.json, or keys of scaling train."),
    ],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="Targets with commas: config, deepspeed, slurm, torchrun, skypilot, kubernetes, megatron, automodel "
            "(default: config).",
        ),
    ] = None,
    deepspeed: Annotated[
        bool, typer.Option("--deepspeed", help="The same as --to config,deepspeed.")
    ] = False,
    on: Annotated[
        str | None,
        typer.Option("--on", help="Devices to write for, like 64xH100 (default: the plan's, else devices=)."),
    ] = None,
    member: Annotated[
        list[str] | None, typer.Option("--member", help="Members of the plan (default: all).")
    ] = None,
    nodes: Annotated[
        int | None, typer.Option("--nodes", min=1, help="Nodes, in place of the number of devices of --on.")
    ] = None,
    per_node: Annotated[int, typer.Option("--per-node", min=1, help="Devices of one node.")] = 8,
    data: Annotated[
        str | None, typer.Option("--data", help="Text to train on (default: that of the study).")
    ] = None,
    profile: Annotated[
        Path | None, typer.Option("--profile", help="With --to slurm: the cluster's profile, a YAML file.")
    ] = None,
    image: Annotated[
        str | None, typer.Option("--image", help="With --to kubernetes: the container image.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder to write into.")] = Path("emitted"),
    study: StudyOption = Path("study"),
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Write a plan's or a run's files for other programs and clusters: configs, and job scripts."""
    from train.emitting import emit_files, parse_targets

    targets = parse_targets(to or "config")
    if deepspeed:
        targets = parse_targets("config,deepspeed" if to is None else f"{to},deepspeed")
    asks_deepspeed = "deepspeed" in {target.name for target in targets}
    job = _job(words, on, member or (), deepspeed=asks_deepspeed, count=nodes and nodes * per_node)
    job = replace(job, per_node=per_node, data=data, profile=profile, image=image, study=study, seed=seed)
    found = emit_files(job, targets)
    files = {out / path: text for one in found.values() for path, text in one.files.items()}
    for path, text in files.items():
        refuse_overwrite_text(path, text, "this job's", replace=yes)
    for one in found.values():
        for name, shard in one.shards.items():
            shard.write(out / name)
    atomic_writes(files)
    for note in dict.fromkeys(note for one in found.values() for note in one.notes):
        log(note)
    if as_json:
        print_json({name: _paths(out, one.files, job) for name, one in found.items()})
    else:
        echo("\n".join(f"wrote {path}" for path in files))


def _paths(out: Path, files: Mapping[str, str], job: "EmitJob") -> str | list[str]:
    """Return the one path of a run's file, or a list of a plan's."""
    paths = [str(out / path) for path in files]
    return paths if job.plan is not None or len(paths) > 1 else paths[0]


def _job(
    words: Sequence[str], on: str | None, members: Sequence[str], *, deepspeed: bool, count: int | None
) -> "EmitJob":
    """Read a plan and the names of its members, or the keys of one run; count: devices by --nodes."""
    from train.emitting import job_of_config, job_of_plan

    devices: Devices | None = None if on is None else parse_devices(on)
    if count is not None:
        if devices is not None and devices[0] not in (None, count):
            raise BadInput(f"--on names {devices[0]} devices and --nodes gives {count}; give one of them")
        devices = count, None if devices is None else devices[1]
    plans = [word for word in words if "=" not in word]
    if not plans:
        if members:
            raise BadInput(f"--member {members[0]} names a member of a plan, and no plan is given")
        return job_of_config(_config(words, deepspeed=deepspeed), tuple(words), devices)
    if len(words) > 1:
        raise BadInput(f"{words[0]!r} and {words[1]!r} are given; give one plan, or keys alone")
    from ..planning.seal import read_verified_plan

    path = Path(plans[0])
    return job_of_plan(read_verified_plan(path).only(members), path, devices)


def _config(words: Sequence[str], *, deepspeed: bool) -> "TrainConfig":
    """Read the keys of a run; no text is read, and DeepSpeed's config may ask for what DeepSpeed alone has."""
    from train.config import TrainConfig

    from .run_options import merge

    keys = {word.partition("=")[0] for word in words}
    defaults = {"data": "stdlib", **({"engine": "deepspeed"} if deepspeed else {})}
    return merge(
        TrainConfig, [*words, *(f"{key}={value}" for key, value in defaults.items() if key not in keys)]
    )
