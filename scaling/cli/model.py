"""scaling generate: text from a model. scaling push: a model to the Hugging Face hub."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..untrusted import shown
from .output import JsonOption, Progress, SeedOption, echo, log, print_json

GENERATE_EPILOG = (
    'Example: scaling generate study/runs/gpt2-52m-s0 --prompt "Once upon a time" --temperature 0.7'
)

PUSH_EPILOG = "Example: scaling push study/runs/gpt2-52m-s0 user/gpt2-52m"

ModelArgument = Annotated[Path, typer.Argument(help="Folder of a run, a rung or a Hugging Face model.")]


def generate(
    folder: ModelArgument,
    prompt: Annotated[
        str,
        typer.Option("--prompt", help="Text to continue, or message to answer (default: begin a document)."),
    ] = "",
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Maximum tokens to generate.")] = 200,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, max=10, help="Temperature; 0 takes the likeliest token.")
    ] = 0.8,
    top_p: Annotated[
        float,
        typer.Option(
            "--top-p", min=0.01, max=1, help="Sample from the likeliest tokens of this probability."
        ),
    ] = 0.95,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the prompt although the model has a chat template.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Generate text with a model, printed as it comes; by the model's chat template where it has one."""
    from train.data.prepare import model_folder

    model_folder(folder)  # a wrong folder is reported before torch loads
    bar = Progress(elsewhere=False)
    bar.at(0, 1, "loading the model")
    from train.generate import generate as sample

    def write(text: str) -> None:
        bar.end()
        sys.stdout.write(shown(text))
        sys.stdout.flush()

    result = sample(
        folder, prompt=prompt, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, raw=raw,
        device=device, write=(lambda text: None) if as_json else write,
    )  # fmt: skip
    bar.end()
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    sys.stdout.write("\n")
    if result.prompt_cut:
        log(
            f"the first {result.prompt_cut:,} tokens of the prompt are beyond the model's context and were left out"
        )
    if result.stopped == "context":
        log(f"stopped after {result.tokens:,} tokens, where the model's context ends")


def push(
    folder: ModelArgument,
    repo: Annotated[
        str, typer.Argument(metavar="USER/NAME", help="Repository on the hub, created if missing.")
    ],
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public (default: private).")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be sent; send nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Send a model to the Hugging Face hub: card, weights, config and tokenizer. Without a token nothing is sent."""
    from train.push import push as send

    result = send(folder, repo, public=public, dry_run=dry_run, log=log)
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    for line in result.lines:
        echo(line)
