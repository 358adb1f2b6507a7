"""scaling watch RUN: where a run will end, while it runs."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from ..watch import Verdict, find_run, study_of, watch
from .show import JsonOption, StudyOption, note, print_json, readable_study, say

EPILOG = "Example: scaling watch L4-d128-s0 --study demo, or scaling watch demo/runs/L4-d128-s0 --once"
SECONDS = 5.0


def watch_run(
    run: Annotated[str, typer.Argument(help="A run's folder, or the name of a run of the study.")],
    study: StudyOption = Path("study"),
    tokens: Annotated[
        str | None, typer.Option("--tokens", help="Which rung (default: the one in hand).")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Say how it stands now, and leave.")] = False,
    every: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between looks.")] = SECONDS,
    as_json: JsonOption = False,
) -> None:
    """Forecast a run's final loss from its curve so far, and say early when it leaves its plan.

    Looks again until the run ends; --once and --json look once.
    """
    folder = find_run(run, study)
    readable_study(study_of(folder).folder)
    steps = _steps(folder, tokens)
    verdict = watch(folder, steps=steps)
    if as_json:
        print_json(verdict.model_dump(mode="json"))
        return
    if once:
        say(_page(verdict))
        return
    last = ""
    while True:
        line = _line(verdict)
        if line != last:
            _show(line)
            last = line
        if verdict.state == "finished":
            break
        time.sleep(every)
        verdict = watch(folder, steps=steps)
    if sys.stderr.isatty():
        note("")
    say(_page(verdict))


def _steps(folder: Path, tokens: str | None) -> int | None:
    """The rung's length in steps."""
    if tokens is None:
        return None
    from families.units import parse_count

    from ..schedule import whole_steps
    from ..watching.curves import read_run

    return whole_steps(parse_count(tokens, "tokens"), read_run(folder).underway.batch_tokens)


def _show(line: str) -> None:
    """Rewrite the line on a terminal; elsewhere add one."""
    if sys.stderr.isatty():
        sys.stderr.write("\r" + line[:99].ljust(99))
        sys.stderr.flush()
    else:
        note(line)


def _line(verdict: Verdict) -> str:
    from families.units import format_size

    share = verdict.step / verdict.steps
    now = "" if verdict.loss_now is None else f" loss {verdict.loss_now:.3f}"
    return f"{share:4.0%}  {verdict.run} at {format_size(verdict.tokens)} tokens{now}: {verdict.sentence}"


def _page(verdict: Verdict) -> str:
    """The verdict for a person, a fact to a line."""
    from families.units import format_size

    from ..watch import TARGETS

    lines = [
        f"{verdict.run}: {verdict.sentence}",
        f"at        step {verdict.step:,} of {verdict.steps:,}, {format_size(verdict.tokens)} of "
        f"{format_size(verdict.tokens_planned)} tokens",
    ]
    if verdict.loss_now is not None:
        lines.append(f"now       training loss {verdict.loss_now:.3f}")
    if verdict.forecast is not None and verdict.interval_80 and verdict.interval_95 and verdict.target:
        (low, high), (least, most) = verdict.interval_80, verdict.interval_95
        lines.append(
            f"forecast  {verdict.forecast:.3f}   80 %: {low:.3f} to {high:.3f}   95 %: {least:.3f} to {most:.3f}"
        )
        taught = f"{verdict.siblings} finished sibling{'s' if verdict.siblings != 1 else ''}"
        lines.append(f"          of its {TARGETS[verdict.target]}; learnt from its curve and {taught}")
    if verdict.promise is not None:
        kind = "sealed" if verdict.promise.sealed else "law.json"
        interval = verdict.promise.interval_80
        within = "" if interval is None else f"   80 %: {interval[0]:.3f} to {interval[1]:.3f}"
        lines.append(f"{kind:<10}{verdict.promise.loss:.3f}{within}")
    return "\n".join(lines)
