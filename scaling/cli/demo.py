"""scaling demo: a whole study on this machine, from text to report, in about five minutes."""

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from families.design import DesignRule
from families.units import BadInput, format_size

from ..files import hashes, sha256_file
from ..paths import StudyFile, StudyPaths, open_study
from ..planning.pilot import (
    expected_hours,
    ladder_plan,
    longest_rung,
    pilot_family,
    sealed_plan,
    target_member,
)
from ..planning.planfile import PlanFile, PlannedMember, open_seal, seal, write_plan
from ..runs.readers import read_runs
from ..runs.store import exists, read_ledger
from .output import JsonOption, SeedOption, StudyOption, echo, log, print_json

if TYPE_CHECKING:
    from ..doctor import Part


# MERGED DOCSTRINGS
# scaling doctor: five famous results derived again, and the state of the installation.

DEMO_EPILOG = "Example: scaling demo --study demo --seed 1, or scaling demo --data text/ --study mine"

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
    from .train import train_members

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
    log(f"1/6  text: {_named(data)}")
    manifest = _text(place, data)
    log(f"2/6  plan: {len(WIDTHS)} members sized to {seconds:.0f} s of training on this machine")
    ladders, target = _plans(place, seconds, manifest)
    log("3/6  train the smaller members as ladders")
    train_members(ladders, place, side_by_side=cores(), **habits)
    log("4/6  fit the laws, and seal the prediction for the largest member")
    sealed = _seal(place, target, seed)
    log("5/6  train the largest member, whose loss is sealed")
    train_members(sealed, place, threads=threads(), **habits)
    log("6/6  compare and report")
    found = compared(place)
    from .report import write_report

    report = write_report(place.folder)
    if as_json:
        print_json({**found.model_dump(mode="json"), "report": str(report)})
        return
    echo(comparison_text(found))
    echo(f"report: {report}")


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Threads for one model of this size: more than a few wait for each other."""
    return min(MOST_THREADS, cores())


def _named(data: str) -> str:
    """What the text is, as a person says it."""
    return "the sources of Python's own standard library" if data == LIBRARY else Path(data).name


def _begin(place: StudyPaths, seed: int, seconds: float, data: str) -> None:
    """Write study.json, or check that this is the study that was begun."""
    from train.data.text import find_texts

    wanted = StudyFile(
        title=f"A prediction made before the run, on {_named(data)}",
        text=data,
        seed=seed,
        seconds=seconds,
        python=platform.python_version(),
        machine=f"{platform.machine()}, {platform.system()}",
    )
    if not place.file.exists():
        if exists(place.runs) or place.plan.exists():
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


def _text(place: StudyPaths, data: str) -> Any:
    """Tokenise the text, or take what is there."""
    from train.data.prepare import prepare

    from .output import Progress

    bar = Progress()
    manifest = prepare(
        data,
        place.data,
        vocab_size=RULE.vocab_size,
        progress=lambda what, share: bar.at(share, 1.0, what),
    )
    bar.end()
    return manifest


def _plans(place: StudyPaths, seconds: float, manifest: Any) -> tuple[PlanFile, PlannedMember]:
    """The ladders' plan and the member to predict, sized by a probe the first time and read from ladder.json after."""
    from train.backend import probe_members

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
        log(f"     {member.member:22} {format_size(member.params):>6} parameters, tokens {rungs}")
    return plan, target_member(pilot, longest)


def _seal(place: StudyPaths, target: PlannedMember, seed: int) -> PlanFile:
    """Fit on the ladders alone, predict the target, seal; done once, and only before the target is trained."""
    from ..fitting.fit import fit
    from ..fitting.lawfile import LawFile

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
            log(
                f"     sealed: {member.member} reaches {member.prediction.loss:.3f} nats/token "
                f"({low:.3f} to {high:.3f} at 80 %), perplexity {member.prediction.ppl:.1f}"
            )
    return plan


DOCTOR_EPILOG = "Example: scaling doctor"

FAILED = 1


def doctor(as_json: JsonOption = False) -> int:
    """Derive five famous results again, and look over the installation; exit status 1 if a result fails."""
    from textwrap import wrap

    from ..doctor import Checkup, checks, installation

    checkup = Checkup(checks=checks(), installation=(*installation(), *compute_parts()))
    if as_json:
        print_json({**checkup.model_dump(mode="json"), "passed": checkup.passed})
        return 0 if checkup.passed else FAILED
    for check in checkup.checks:
        echo(f"{'pass' if check.passed else 'FAIL'}  {check.name} ({check.seconds:.2f} s)")
        for label, text in (("claim", check.claim), ("found", check.found), ("expected", check.expected)):
            for line in wrap(text, 100, initial_indent=f"      {label:<10}", subsequent_indent=" " * 16):
                echo(line)
    echo()
    for part in checkup.installation:
        text = f"{part.state}: WARNING, {part.warning}" if part.warning else part.state
        for line in wrap(text, 100, initial_indent=f"{part.name:<16}", subsequent_indent=" " * 16):
            echo(line)
    echo()
    passed = sum(check.passed for check in checkup.checks)
    echo(f"{passed} of {len(checkup.checks)} results hold")
    return 0 if checkup.passed else FAILED


def compute_parts() -> "tuple[Part, ...]":
    """What torch computes in here; nothing where it is not installed. A broken torch is a warning, not a crash."""
    from ..doctor import Part, formats, importable

    if not importable("torch"):  # its own line of the installation says so
        return ()
    try:
        from train.runtime import probe

        found = probe()
    except (ImportError, OSError, RuntimeError) as error:
        return (Part(name="torch works", state="no", warning=" ".join(str(error).split())),)
    return formats(found.fp32, found.bf16, found.amx, found.threads, found.gpus)
