"""scaling watch RUN: where a run will end, while it runs."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..files import atomic_write, refuse_overwrite_text
from ..monitoring import Assessment, find_run, study_of, watch
from .output import JsonOption, StudyOption, YesOption, echo, format_table, log, print_json, readable_study
from .output import format_table as aligned

# MERGED DOCSTRINGS
# scaling validate: a model folder, loaded as others will load it, measured again.
# scaling table RUNS…: finished runs as the table in which people report fine-tuning.

WATCH_EPILOG = (
    "Example: scaling watch gpt2-941k-l4-d128-s1 --study demo, "
    "or scaling watch demo/runs/gpt2-941k-l4-d128-s1 --once"
)

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
        echo(_page(verdict))
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
        log("")
    echo(_page(verdict))


def _steps(folder: Path, tokens: str | None) -> int | None:
    """The rung's length in steps."""
    if tokens is None:
        return None
    from families.units import parse_count

    from ..monitoring.curves import read_run
    from ..schedule import whole_steps

    return whole_steps(parse_count(tokens, "tokens"), read_run(folder).underway.batch_tokens)


def _show(line: str) -> None:
    """Rewrite the line on a terminal; elsewhere add one."""
    if sys.stderr.isatty():
        sys.stderr.write("\r" + line[:99].ljust(99))
        sys.stderr.flush()
    else:
        log(line)


def _line(verdict: Assessment) -> str:
    from families.units import format_size

    share = verdict.step / verdict.steps
    now = "" if verdict.loss_now is None else f" loss {verdict.loss_now:.3f}"
    return f"{share:4.0%}  {verdict.run} at {format_size(verdict.tokens)} tokens{now}: {verdict.sentence}"


def _page(verdict: Assessment) -> str:
    """The verdict for a person, a fact to a line."""
    from families.units import format_size

    from ..monitoring import TARGETS

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


VALIDATE_EPILOG = 'Example: scaling validate study/runs/gpt2-52m-s0 --prompt "Hello, my dog is cute"'


def validate(
    folder: Annotated[Path, typer.Argument(help="A Hugging Face model folder, a rung's folder or a run's.")],
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="A study's data, or another text (default: what the loss was recorded on)."
        ),
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Generate from this text, greedily.")] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance", min=0, help="Nats per token that count as equal (default: 1e-4; bf16 5e-3)."
        ),
    ] = None,
    eval_tokens: Annotated[
        int, typer.Option("--eval-tokens", min=1, help="Of another text: tokens evaluated, at most.")
    ] = 1_000_000,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Load a model with transformers, measure its validation loss again, and generate from a prompt. Exit status 1 if
    the loss is not the recorded one.
    """
    from train.data.prepare import find_prepared_data, model_folder

    from .output import Progress

    if device not in ("auto", "cpu"):  # whether it is there, torch knows
        from train.loop import pick_device

        pick_device(device)
    find_prepared_data(
        model_folder(folder), data
    )  # what is not there is said before torch and transformers load
    bar = Progress(elsewhere=False)
    bar.at(0, 1, "loading transformers")
    from train.validate import validate as measure

    found = measure(
        folder,
        data=data,
        prompt=prompt,
        tolerance=tolerance,
        eval_tokens=eval_tokens,
        device=device,
        progress=bar.at,
    )
    bar.end()
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        for line in lines(found):
            echo(line)
    if found.equal is False:
        raise typer.Exit(1)


def lines(found: Any) -> list[str]:
    """What was measured, and whether it is what is recorded."""
    said = [
        f"{found.folder}: {found.parameters:,} parameters, loaded with transformers",
        f"{found.eval_tokens:,} held-out tokens of {found.data} ({found.eval_set})",
        "",
        format_table(
            ["loss ± se", "perplexity", "bits/byte", "loss/word"],
            [
                [
                    f"{found.loss:.4f} ± {found.loss_se:.4f}",
                    f"{found.perplexity:.2f}",
                    "–" if found.bits_per_byte is None else f"{found.bits_per_byte:.3f}",
                    "–" if found.loss_per_word is None else f"{found.loss_per_word:.2f}",
                ]
            ],
        ),
        "",
    ]
    if found.equal is None and found.recorded_loss is None:
        said.append("nothing is recorded to compare with")
    elif found.equal is None:
        said.append(
            f"recorded: {found.recorded_loss:.6f} on another text ({found.recorded_eval_set}), so nothing to compare with"
        )
    else:
        verdict = "equal" if found.equal else "NOT equal"
        said.append(
            f"recorded: {found.recorded_loss:.6f}, measured: {found.loss:.6f}, {found.difference:+.2e} nats: {verdict} "
            f"within {found.tolerance:g}"
        )
    if found.generated is not None:
        said += ["", json.dumps(found.generated, ensure_ascii=False)]
    return said


TABLE_EPILOG = "Example: scaling table study/runs/gpt2-ft-s0 study/runs/gpt2-medium-ft-s0 --format md"


def table(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, of rungs, or whole studies.")],
    form: Annotated[Literal["text", "md", "csv"], typer.Option("--format", help="How to print it.")] = "text",
    every: Annotated[bool, typer.Option("--all", help="Every rung, not only the longest of a run.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write it to this file besides.")] = None,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Print finished runs: dataset, context, model, batch, training, validation and adjusted loss, best epoch, run."""
    from train.model_card import SHORT, as_csv, markdown, rows

    found = rows(runs, every=every)
    if form == "md":
        text = markdown(found)
    elif form == "csv":
        text = as_csv(found)
    else:
        text = aligned(SHORT, [row.cells() for row in found])
    if out is not None:
        refuse_overwrite_text(out, text.split("\n")[0], "such a table", replace=yes)
        atomic_write(out, text + "\n")
    if as_json:
        print_json({"rows": [row.model_dump(mode="json") for row in found]})
    else:
        echo(text)
