"""A plan's members in this process: their text, their settings and their training."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from scaling.paths import StudyPaths
from scaling.planning.planfile import PlanFile, PlannedMember
from scaling.runs.store import gather_runs

from ..backend import BackendRequest
from ..config import Settings
from ..data import DataManifest, read_prepared
from ..data.prepare import prepare_planned
from ..distributed import ALONE, World, join
from ..ladder import RunOptions, no_op
from ..lease import Stop
from ..loop import pick_device
from ..rung import RUN, RungFile
from ..settings import (
    TextFacts,
    settings_of_planned,
    with_recorded_settings,
)
from .ladders import Job, ProgressCallback, train_ladders
from .launch import raise_on_rank0, unless_refused
from .machine import check_machine, with_engine, with_residual
from .sealing import check_text, with_seal


def train_plan(
    members: Sequence[PlannedMember], study: StudyPaths, *, seed: int, yes: bool, stop: Stop, log: Callable[[str], None],
    report: ProgressCallback, eval_tokens: int, save_every: float = 300.0, device: str = "auto", side_by_side: int = 1,
    threads: int | None = None, gathers: bool = True, zero: int = 0, wanted: BackendRequest | None = None,
    sealed: PlanFile | None = None,
) -> tuple[RungFile, ...]:  # fmt: skip
    """Train the ladder of each planned member, cheapest first; work is counted in FLOPs over all members.

    Args:
        members: the planned members.
        study: the study that holds the text and the runs.
        seed: seed of every run.
        yes: True to accept members too large for this machine.
        stop: stop signal, polled after every step.
        log: called with each message.
        report: called with FLOPs done, total FLOPs, a description, and True for work that was just trained.
        eval_tokens: largest number of held-out tokens in an evaluation.
        save_every: seconds between checkpoints.
        device: "cpu", "cuda" or "auto".
        side_by_side: number of members that train at a time on a CPU, one thread each; 1 gives each all `threads` in turn.
        threads: threads of torch; None keeps its default.
        gathers: True to update the study's runs.jsonl at the end; False for one of many jobs.
        zero: ZeRO stage, 0 to 3, by which a member is divided among the processes that a launcher has started.
        wanted: requested step backend, measured where "auto"; None selects the plain engine without a measurement.
        sealed: the plan of the members, if it is sealed; their runs carry its digest.

    Raises:
        BadInput: the study has no text yet, or as `train`.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    manifest = read_prepared(study.data)
    device = pick_device(device)
    with join(zero, device) as world:
        if not world.first:
            log, report = no_op, no_op  # only process 0 reports
        if device == "cuda" or world.size > 1:
            side_by_side = 1
        if wanted is not None and side_by_side > 1:
            wanted = replace(wanted, threads=1)

        cheapest_first = sorted(members, key=lambda planned: planned.flops)
        texts = world.do(
            lambda: [
                settings.model_dump_json()
                for settings in planned_settings(
                    cheapest_first,
                    manifest,
                    study,
                    device=device,
                    seed=seed,
                    yes=yes,
                    wanted=wanted,
                    log=log,
                    sealed=sealed,
                    world=world,
                )
            ]
        )
        jobs = [
            Job.of(Settings.model_validate_json(text), planned.ends, study, shared=side_by_side > 1)
            for planned, text in zip(cheapest_first, texts, strict=True)
        ]
        options = RunOptions(
            device=device, world=world, save_every=save_every, eval_tokens=eval_tokens, log=log
        )
        try:
            with raise_on_rank0(world):
                return train_ladders(jobs, options, stop, report, side_by_side=side_by_side)
        finally:
            if gathers and world.first:
                gather_runs(study.runs)


def prepare_members(
    plan: PlanFile, study: StudyPaths, data: str | None, tokenizer: str | None, trained: Sequence[str] = (),
    log: Callable[[str], None] = no_op,
) -> None:  # fmt: skip
    """Tokenise the text of a plan's members into a study, unless it is there; a sealed member takes the sealed text alone.

    Args:
        plan: the plan.
        study: the study.
        data: the text; None takes what is there.
        tokenizer: a folder or file; None trains one.
        trained: names of the members to be trained; empty means all.
        log: called with each message.

    Raises:
        BadInput: as `prepare_planned`, or the text is not the sealed one; a text prepared for nothing is removed.
    """
    with unless_refused(study.data):
        prepare_planned(plan, study.data, data, tokenizer, trained, log)
        if plan.seal is not None:
            manifest = DataManifest.read(study.data / "data.json")
            for member in plan.only(trained).members:
                if member.prediction is not None:
                    facts = TextFacts.of(manifest, member.architecture)
                    check_text(member.member, facts.group, facts.data_sha256, plan)


def check_members(
    members: Sequence[PlannedMember], study: StudyPaths, *, seed: int, device: str = "auto"
) -> None:
    """Refuse members too large for this machine before their text is read; members already begun are accepted.

    Args:
        members: the planned members.
        study: the study that holds the runs.
        seed: seed of every run.
        device: "cpu", "cuda" or "auto".

    Raises:
        BadInput: as `check_machine`.
    """
    device = pick_device(device)
    for planned in members:
        settings = settings_of_planned(planned, TextFacts(), device, seed=seed)
        if not (study.run_folder(settings.run) / RUN).exists():
            check_machine(settings, planned.ends, device, yes=False, log=no_op)


def planned_settings(
    members: Sequence[PlannedMember], manifest: DataManifest, study: StudyPaths, *, device: str, seed: int, yes: bool,
    wanted: BackendRequest | None, log: Callable[[str], None], sealed: PlanFile | None = None, world: World = ALONE,
) -> list[Settings]:  # fmt: skip
    """Return the settings of planned members for this text, after a check of the machine and a choice of the engine.

    Args:
        members: the planned members.
        manifest: manifest of the tokenised text.
        study: the study that holds the runs; recorded settings of runs already begun are kept.
        device: "cpu" or "cuda".
        seed: seed of every run.
        yes: True to accept members too large for this machine.
        wanted: requested step backend, measured where "auto"; None selects the plain engine without a measurement.
        log: called with each message of a measurement.
        sealed: the plan of the members, if it is sealed.
        world: the processes that share each run.

    Raises:
        BadInput: as `check_machine`, or the text is not the sealed one.
    """
    found = []
    for planned in members:
        facts = TextFacts.of(manifest, planned.architecture)
        settings = settings_of_planned(planned, facts, device, seed=seed)
        folder = study.run_folder(settings.run)
        if sealed is not None and sealed.seal is not None and planned.prediction is not None:
            settings = with_seal(settings, sealed, folder, log)
        settings = with_recorded_settings(settings, folder)
        need = check_machine(settings, planned.ends, device, yes=yes, log=no_op, world=world)
        if wanted is not None and not (folder / RUN).exists():
            settings = with_engine(settings, planned.ends, wanted, need, device, log)
        if not (folder / RUN).exists():
            settings = with_residual(settings, world.zero)
        found.append(settings)
    return found
