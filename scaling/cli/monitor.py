"""scaling watch, validate and table: runs in progress, and finished models."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from families.units import BadInput, format_size, parse_count

from ..files import atomic_write, refuse_overwrite_text
from ..monitoring import Assessment, find_run, study_of, watch
from ..stats import Interval, format_loss
from .output import (
    JsonOption,
    Progress,
    StudyOption,
    YesOption,
    echo,
    format_table,
    log,
    loss_and_error,
    print_json,
    readable_study,
)

WATCH_EPILOG = (
    "Example: scaling watch gpt2-941k-l4-d128-s1 --study demo, "
    "or scaling watch demo/runs/gpt2-941k-l4-d128-s1 --once"
)

SECONDS = 5.0  # between two readings of a run's files


def watch_run(
    run: Annotated[
        str,
        typer.Argument(
            help="Folder of a run, its name in the study, or a Trainer's or TensorBoard's folder of a run made elsewhere."
        ),
    ],
    study: StudyOption = Path("study"),
    tokens: Annotated[
        str | None, typer.Option("--tokens", help="Tokens of the rung (default: the one in training).")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Planned steps of a run trained elsewhere.")
    ] = None,
    batch_tokens: Annotated[
        str | None, typer.Option("--batch-tokens", help="Tokens per step of a run trained elsewhere.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print the current status once and exit.")] = False,
    every: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between updates.")] = SECONDS,
    as_json: JsonOption = False,
) -> None:
    """Forecast the final loss of a run in progress, and report early when it leaves its plan.

    Updates until the run ends; --once and --json print the current status and exit.
    """
    current = _reader(run, study, tokens, steps, batch_tokens)
    status = current()
    if as_json:
        print_json(status.model_dump(mode="json"))
        return
    if once:
        echo(_page(status))
        return
    last = ""
    while True:
        line = _line(status)
        if line != last:
            _show(line)
            last = line
        if status.state == "finished":
            break
        time.sleep(every)
        status = current()
    if sys.stderr.isatty():
        log("")
    echo(_page(status))


def _reader(
    run: str, study: Path, tokens: str | None, steps: int | None, batch_tokens: str | None
) -> Callable[[], Assessment]:
    """A function that reads the run's status anew.

    Raises:
        BadInput: there is no such run, or an option is for a run made elsewhere and this one is ours.
    """
    from ..monitoring import watch_foreign
    from ..monitoring.foreign import is_foreign
    from ..paths import open_study

    if is_foreign(Path(run)):
        batch = None if batch_tokens is None else float(parse_count(batch_tokens, "batch-tokens"))
        if steps is not None and tokens is not None:
            raise BadInput("steps and tokens both state how long the run is; one of the two is enough")
        return lambda: watch_foreign(
            Path(run), open_study(study), steps=steps, batch_tokens=batch, tokens=tokens
        )
    folder = find_run(run, study)
    for name, value in (("steps", steps), ("batch-tokens", batch_tokens)):
        if value is not None:
            raise BadInput(
                f"{name} is {value}; {folder} is a run of a study, which states it: --tokens names a rung"
            )
    readable_study(study_of(folder).folder)
    length = _rung_steps(folder, tokens)
    return lambda: watch(folder, steps=length)


def _rung_steps(folder: Path, tokens: str | None) -> int | None:
    """Return the length of the rung in steps; None for the default."""
    if tokens is None:
        return None
    from ..monitoring.curves import read_run
    from ..schedule import whole_steps

    return whole_steps(parse_count(tokens, "tokens"), read_run(folder).plan.batch_tokens)


def _show(line: str) -> None:
    """Rewrite the line on a terminal; print a new one elsewhere."""
    if sys.stderr.isatty():
        sys.stderr.write("\r" + line[:99].ljust(99))
        sys.stderr.flush()
    else:
        log(line)


def _line(status: Assessment) -> str:
    share = status.step / status.steps
    now = "" if status.loss_now is None else f" loss {format_loss(status.loss_now)}"
    return f"{share:4.0%}  {status.run} at {format_size(status.tokens)} tokens{now}: {status.sentence}"


def _page(status: Assessment) -> str:
    """Format a status, one fact on a line."""
    from ..monitoring import TARGET_TEXT

    lines = [
        f"{status.run}: {status.sentence}",
        f"at        step {status.step:,} of {status.steps:,}, {format_size(status.tokens)} of "
        f"{format_size(status.tokens_planned)} tokens",
    ]
    if status.loss_now is not None:
        lines.append(f"now       training loss {format_loss(status.loss_now)}")
    if status.forecast is not None and status.interval_80 and status.interval_95 and status.target:
        lines.append(
            f"forecast  {format_loss(status.forecast)}   80 %: {_interval(status.interval_80)}   "
            f"95 %: {_interval(status.interval_95)}"
        )
        siblings = f"{status.siblings} finished sibling{'s' if status.siblings != 1 else ''}"
        lines.append(f"          of its {TARGET_TEXT[status.target]}; from its curve and {siblings}")
    if status.promise is not None:
        kind = "sealed" if status.promise.sealed else "law.json"
        interval = status.promise.interval_80
        range_text = "" if interval is None else f"   80 %: {_interval(interval)}"
        lines.append(f"{kind:<10}{format_loss(status.promise.loss)}{range_text}")
    return "\n".join(lines)


def _interval(interval: Interval) -> str:
    return f"{format_loss(interval[0])} to {format_loss(interval[1])}"


VALIDATE_EPILOG = 'Example: scaling validate study/runs/gpt2-52m-s0 --prompt "Hello, my dog is cute"'


def validate(
    folder: Annotated[Path, typer.Argument(help="Folder of a Hugging Face model, a rung or a run.")],
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="Data of a study, or another text (default: the text of the recorded loss)."
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="Prompt to continue by greedy decoding.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", min=0, help="Tolerance in nats per token (default: 1e-4; bf16 5e-3)."),
    ] = None,
    eval_tokens: Annotated[
        int, typer.Option("--eval-tokens", min=1, help="Maximum tokens to evaluate of another text.")
    ] = 1_000_000,
    context: Annotated[
        int | None,
        typer.Option(
            "--context", min=1, help="Tokens of a window (default: as trained, or the model's own)."
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Load a model with transformers, repeat its evaluation, and generate from a prompt.

    Exit status 1 if the loss differs from the recorded one.
    """
    from train.data.prepare import find_prepared_data, model_folder

    if device not in ("auto", "cpu"):  # torch tells whether the machine has one
        from train.loop import pick_device

        pick_device(device)
    find_prepared_data(model_folder(folder), data)  # missing data is reported before torch loads
    bar = Progress(elsewhere=False)
    bar.at(0, 1, "loading transformers")
    from train.validate import validate as measure

    result = measure(
        folder,
        data=data,
        prompt=prompt,
        tolerance=tolerance,
        eval_tokens=eval_tokens,
        context=context,
        device=device,
        progress=bar.at,
    )
    bar.end()
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        for line in _validation_lines(result):
            echo(line)
    if result.equal is False:
        raise typer.Exit(1)


def _validation_lines(result: Any) -> list[str]:
    """Format a repeated evaluation and its comparison with the recorded one."""
    lines = [
        f"{result.folder}: {result.parameters:,} parameters, loaded with transformers",
        f"{result.eval_tokens:,} held-out tokens of {result.data} ({result.eval_set}) in windows of {result.context:,}"
        + (f"; the last {result.left_out:,} fill no window and are left out" if result.left_out else ""),
        "",
        format_table(
            ["loss ± se", "perplexity", "bits/byte", "loss/word"],
            [
                [
                    loss_and_error(result.loss, result.loss_se),
                    f"{result.perplexity:.2f}",
                    "–" if result.bits_per_byte is None else f"{result.bits_per_byte:.3f}",
                    "–" if result.loss_per_word is None else f"{result.loss_per_word:.2f}",
                ]
            ],
        ),
        "",
    ]
    if result.lost:
        lines[2:2] = [
            f"the tokenizer loses {result.lost:.1%} of the text's characters, which are unknown to it or dropped"
        ]
    if result.equal is None and result.recorded_loss is None:
        lines.append("no recorded loss to compare with")
    elif result.equal is None:
        lines.append(
            f"recorded: {result.recorded_loss:.6f} on another text ({result.recorded_eval_set}), not comparable"
        )
    else:
        outcome = "equal" if result.equal else "NOT equal"
        lines.append(
            f"recorded: {result.recorded_loss:.6f}, measured: {result.loss:.6f}, {result.difference:+.2e} nats: {outcome} "
            f"within {result.tolerance:g}"
        )
    if result.generated is not None:
        lines += ["", json.dumps(result.generated, ensure_ascii=False)]
    return lines


TABLE_EPILOG = "Example: scaling table study/runs/gpt2-ft-s0 study/runs/gpt2-medium-ft-s0 --format md"


def table(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, rungs or studies.")],
    form: Annotated[
        Literal["text", "md", "csv"], typer.Option("--format", help="Format of the table.")
    ] = "text",
    every: Annotated[
        bool, typer.Option("--all", help="Every rung, not only the longest of each run.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Also write the table to this file.")] = None,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Print a table of finished runs: dataset, context, model, batch, losses, best epoch."""
    from train.model_card import SHORT, as_csv, markdown, rows

    results = rows(runs, every=every)
    if form == "md":
        text = markdown(results)
    elif form == "csv":
        text = as_csv(results)
    else:
        text = format_table(SHORT, [row.cells() for row in results])
    if out is not None:
        refuse_overwrite_text(out, text.split("\n")[0], "such a table", replace=yes)
        atomic_write(out, text + "\n")
    if as_json:
        print_json({"rows": [row.model_dump(mode="json") for row in results]})
    else:
        echo(text)
