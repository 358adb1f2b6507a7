"""scaling predict: the loss of a run that has not been made."""

from typing import Annotated

import typer

from .show import WIDTH, JsonOption, note, print_json, say

EPILOG = "Example: scaling predict law.json family=gpt2-83m tokens=5.5B"


def predict(
    law: Annotated[str, typer.Argument(help="A law.json, or kaplan, chinchilla, hoffmann.")],
    words: Annotated[
        list[str],
        typer.Argument(help="family=gpt2-83m or params=85M, and tokens=5.5B.", metavar="KEY=VALUE..."),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Predict past 1,000 times the fitted N, D or compute.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Predict loss and perplexity with intervals."""
    from textwrap import fill

    from ..forecast import Question, forecast
    from .keyvalue import merge

    answer = forecast(law, merge(Question, words), force=force)
    for line in answer.warnings:
        note(f"scaling: {line}")
    if as_json:
        print_json(answer.model_dump(mode="json"))
        return
    for line in answer.lines():
        say(fill(line, WIDTH, subsequent_indent="  ") if len(line) > WIDTH else line)
