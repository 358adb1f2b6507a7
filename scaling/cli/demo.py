"""scaling demo: a whole study on this machine, from text to report, in about five minutes."""

import os
import platform
from pathlib import Path
from typing import Annotated, Any

import typer

from families.design import DesignRule
from families.errors import BadInput
from families.units import format_size

from ..files import hashes, sha256_file
from ..gather import written
from ..ledger import read_ledger
from ..planfile import PlanFile, PlannedMember, write_plan
from ..planning.pilot import (
    expected_hours,
    ladder_plan,
    longest_rung,
    pilot_family,
    sealed_plan,
    target_member,
)
from ..runs import read_runs
from ..seal import open_seal, seal
from ..study import Study, StudyFile, open_study
from .show import JsonOption, SeedOption, StudyOption, note, print_json, say

EPILOG = "Example: scaling demo --study demo --seed 1, or scaling demo --data text/ --study mine"
LIBRARY = "stdlib"
WIDTHS = (32, 48, 64, 96, 128)
RULE = DesignRule(ratio=32, head_size=16, n_positions=128, vocab_size=1024)
BATCH_SEQUENCES = 8
SECONDS = 190.0  # of training; text, probe, fit and report take about a minute more
QUICK_SECONDS = 25.0
MOST_THREADS = 4
EVAL_TOKENS = 2**16
SAVE_EVERY = 10.0  # seconds between checkpoints: an interrupted demo loses at most these


def demo(
    study: StudyOption = Path("study"),
    seed: SeedOption = 0,
    data: Annotated[
        str,
        typer.Option("--data", help="Text to learn: a file, a folder, or Python's own library (stdlib)."),
    ] = LIBRARY,
    quick: Annotated[
        bool, typer.Option("--quick", help="A much smaller study, to see that all works.")
    ] = False,
    sized_to: Annotated[
        float, typer.Option("--seconds", min=1.0, help="Training time on this machine to size the study to.")
    ] = SECONDS,
    as_json: JsonOption = False,
) -> None:
    """Walk the whole flow on this machine's CPU: text, ladders, law, sealed prediction, target, comparison, report.

    Interrupt it at any point; the same command goes on where it was.
    """
    from .compare import compared, comparison_text
    from .ladder import train_members

    place = open_study(study)
    seconds = QUICK_SECONDS if quick else sized_to
    habits = {
        "seed": seed,
        "yes": True,
        "save_every": SAVE_EVERY,
        "eval_tokens": EVAL_TOKENS,
        "device": "cpu",
    }
    _begin(place, seed, seconds, data)
    note(f"1/6  text: {_named(data)}")
    manifest = _text(place, data)
    note(f"2/6  plan: {len(WIDTHS)} members sized to {seconds:.0f} s of training on this machine")
    ladders, target = _plans(place, seconds, manifest)
    note("3/6  train the smaller members as ladders")
    train_members(ladders, place, side_by_side=cores(), **habits)
    note("4/6  fit the laws, and seal the prediction for the largest member")
    sealed = _seal(place, target, seed)
    note("5/6  train the largest member, whose loss is sealed")
    train_members(sealed, place, threads=threads(), **habits)
    note("6/6  compare and report")
    found = compared(place)
    from .report import write_report

    report = write_report(place.folder)
    if as_json:
        print_json({**found.model_dump(mode="json"), "report": str(report)})
        return
    say(comparison_text(found))
    say(f"report: {report}")


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Threads for one model of this size: more than a few wait for each other."""
    return min(MOST_THREADS, cores())


def _named(data: str) -> str:
    """What the text is, as a person says it."""
    return "the sources of Python's own standard library" if data == LIBRARY else Path(data).name


def _begin(place: Study, seed: int, seconds: float, data: str) -> None:
    """Write study.json, or check that this is the study that was begun."""
    from train.text import find_texts

    wanted = StudyFile(
        title=f"A prediction made before the run, on {_named(data)}",
        text=data,
        seed=seed,
        seconds=seconds,
        python=platform.python_version(),
        machine=f"{platform.machine()}, {platform.system()}",
    )
    if not place.file.exists():
        if written(place.runs) or place.plan.exists():
            raise BadInput(f"{place.folder} holds another study; give another --study")
        find_texts(data)  # a wrong path leaves no folder behind
        wanted.write(place.file)
        return
    found = StudyFile.read(place.file)
    for key in ("text", "seed", "seconds"):
        there, here = getattr(found, key), getattr(wanted, key)
        if there != here:
            raise BadInput(
                f"{place.folder} holds a study with {key} {there}; this one has {here}: give another --study"
            )


def _text(place: Study, data: str) -> Any:
    """Tokenise the text, or take what is there."""
    from train.prepare import prepare

    from .progress import Progress

    bar = Progress()
    manifest = prepare(
        data,
        place.data,
        vocab_size=RULE.vocab_size,
        progress=lambda what, share: bar.at(share, 1.0, what),
    )
    bar.end()
    return manifest


def _plans(place: Study, seconds: float, manifest: Any) -> tuple[PlanFile, PlannedMember]:
    """The ladders' plan and the member to predict, sized by a probe the first time and read from ladder.json after."""
    from train.autotune import probe_members

    pilot = pilot_family(RULE, WIDTHS, batch_sequences=BATCH_SEQUENCES)
    if not place.ladder.exists():
        speeds = probe_members(pilot.learn, BATCH_SEQUENCES, threads=1)
        speeds |= probe_members((pilot.target,), BATCH_SEQUENCES, threads=threads())
        longest = longest_rung(
            pilot, speeds, seconds, manifest.train_tokens, side_by_side=min(cores(), len(pilot.learn))
        )
        inputs = hashes((place.data / "data.json",))
        ladder_plan(pilot, longest).model_copy(update={"inputs": inputs}).write(place.ladder)
    plan = PlanFile.read(place.ladder)
    longest = max(member.tokens for member in plan.members)
    for member in (*plan.members, target_member(pilot, longest)):
        rungs = ", ".join(format_size(rung) for rung in member.rungs)
        note(f"     {member.member:22} {format_size(member.params):>6} parameters, tokens {rungs}")
    return plan, target_member(pilot, longest)


def _seal(place: Study, target: PlannedMember, seed: int) -> PlanFile:
    """Fit on the ladders alone, predict the target, seal; done once, and only before the target is trained."""
    from ..fits import fit
    from ..lawfile import LawFile

    if not place.plan.exists():
        learned = [run for run in read_runs(place.runs).runs if run.params != target.params]
        fit(learned, seed=seed).document(hashes((place.runs,))).write(place.law)
        law = LawFile.read(place.law)
        hours = expected_hours(target, read_ledger(place.ledger))
        write_plan(seal(sealed_plan(target, law, sha256_file(place.law), hours)), place.plan)
    plan = open_seal(place.plan)
    for member in plan.members:
        if member.prediction and member.prediction.interval_80:
            low, high = member.prediction.interval_80
            note(
                f"     sealed: {member.member} reaches {member.prediction.loss:.3f} nats/token "
                f"({low:.3f} to {high:.3f} at 80 %), perplexity {member.prediction.ppl:.1f}"
            )
    return plan
