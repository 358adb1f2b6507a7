"""scaling demo: a study from text to report on this machine. scaling doctor: published results and the installation."""

import time
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

from families.units import format_size

from ..paths import open_study
from ..stats import format_loss, format_perplexity
from .output import WIDTH, JsonOption, Progress, SeedOption, StudyOption, echo, log, print_json

if TYPE_CHECKING:
    from ..doctor import Part

DEMO_EPILOG = "Example: scaling demo --study demo --seed 1, or scaling demo --data text/ --study mine"

SECONDS, QUICK_SECONDS = 190.0, 25.0  # of training; text, probe, fit and report take about a minute more


def demo(
    study: StudyOption = Path("study"),
    seed: SeedOption = 0,
    data: Annotated[
        str,
        typer.Option(
            "--data", help="Training text: a file, a folder, or Python's standard library (stdlib)."
        ),
    ] = "stdlib",
    quick: Annotated[bool, typer.Option("--quick", help="Run a much smaller study.")] = False,
    training_seconds: Annotated[
        float, typer.Option("--seconds", min=1.0, help="Training time on this machine, which sets the sizes.")
    ] = SECONDS,
    as_json: JsonOption = False,
) -> None:
    """Run the whole workflow on this machine's CPU: text, ladders, law, sealed prediction, target, comparison, report.

    It can be interrupted at any point; the same command resumes it.
    """
    from plots.output import write_report
    from train.jobs import demo as steps
    from train.jobs.pool import cores

    from .compare import compared, comparison_text
    from .train import train_members

    paths = open_study(study)
    seconds = QUICK_SECONDS if quick else training_seconds
    contents = steps.study_contents(paths, seed, seconds, data)
    bar, opening = Progress(), [f"1/6  text: {steps.text_name(data)}"]

    def at(text: str, share: float) -> None:
        while opening:  # not before the text is read: one that is refused is one line
            log(opening.pop())
        bar.at(share, 1.0, text)

    manifest = steps.prepare_text(paths, data, progress=at)
    bar.end()
    for line in opening:
        log(line)
    if not paths.file.exists():  # only now: a text that is refused leaves no study
        contents.write(paths.file)
    log(f"2/6  plan: {len(steps.WIDTHS)} members, sized to {seconds:.0f} s of training on this machine")
    ladders, target, sizing = steps.plan_members(paths, seconds, manifest.train_tokens)
    if sizing is not None and (warning := sizing.warning(seconds)):
        log(f"     {warning}")
    for member in (*ladders.members, target):
        rungs = ", ".join(format_size(rung) for rung in member.rungs)
        log(f"     {member.member:22} {format_size(member.params):>6} parameters, tokens {rungs}")
    log("3/6  train the smaller members as ladders")
    options = steps.training_options(seed, seconds)
    began = time.monotonic()
    train_members(ladders, paths, side_by_side=cores(), **options)
    if sizing is not None and (
        late := steps.overrun("the ladders", sizing.ladders, time.monotonic() - began)
    ):
        log(f"     {late}")
    log("4/6  fit the law, and seal the prediction for the largest member")
    sealed = steps.seal_target(paths, target, seed, None if sizing is None else sizing.target)
    for member in sealed.members:
        if member.prediction and member.prediction.interval_80:
            low, high = map(format_loss, member.prediction.interval_80)
            log(
                f"     sealed: {member.member}, loss {format_loss(member.prediction.loss)} nats/token "
                f"(80 %: {low} to {high}), perplexity {format_perplexity(member.prediction.ppl)}"
            )
    for note in sealed.notes:
        log(f"     note: {note}")
    log("5/6  train the largest member")
    began = time.monotonic()
    train_members(sealed, paths, threads=steps.threads(), **options)
    if sizing is not None and (
        late := steps.overrun("the last member", sizing.target, time.monotonic() - began)
    ):
        log(f"     {late}")
    log("6/6  compare and report")
    comparison = compared(paths)
    report, _ = write_report(paths.folder)
    if as_json:
        print_json({**comparison.model_dump(mode="json"), "report": str(report)})
        return
    echo(comparison_text(comparison))
    echo(f"report: {report}")


DOCTOR_EPILOG = "Example: scaling doctor"

FAILED = 1


def doctor(as_json: JsonOption = False) -> int:
    """Reproduce five published results, and check the installation; exit status 1 if a result is not reproduced."""
    from ..doctor import Checkup, checks, installation

    checkup = Checkup(checks=checks(), installation=(*installation(), *compute_parts()))
    if as_json:
        print_json({**checkup.model_dump(mode="json"), "passed": checkup.passed})
        return 0 if checkup.passed else FAILED
    for check in checkup.checks:
        echo(f"{'pass' if check.passed else 'FAIL'}  {check.name} ({check.seconds:.2f} s)")
        for label, text in (("claim", check.claim), ("found", check.found), ("expected", check.expected)):
            for line in wrap(text, WIDTH, initial_indent=f"      {label:<10}", subsequent_indent=" " * 16):
                echo(line)
    echo()
    for part in checkup.installation:
        text = f"{part.state}: WARNING, {part.warning}" if part.warning else part.state
        for line in wrap(text, WIDTH, initial_indent=f"{part.name:<16}", subsequent_indent=" " * 16):
            echo(line)
    echo()
    passed = sum(check.passed for check in checkup.checks)
    echo(f"{passed} of {len(checkup.checks)} results reproduced")
    return 0 if checkup.passed else FAILED


def compute_parts() -> "tuple[Part, ...]":
    """Probe what torch computes with here; a torch that cannot be imported is a warning, a missing one nothing."""
    from ..doctor import Part, formats
    from ..extras import importable

    if not importable("torch"):  # a line of the installation reports it
        return ()
    try:
        from train.runtime import probe

        speed = probe()
    except (ImportError, OSError, RuntimeError) as error:
        return (Part(name="torch works", state="no", warning=" ".join(str(error).split())),)
    return formats(speed.fp32, speed.bf16, speed.amx, speed.threads, speed.gpus)
