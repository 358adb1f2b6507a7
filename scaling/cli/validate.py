"""scaling validate: a model folder, loaded as others will load it, measured again."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .show import JsonOption, print_json, say, table

EPILOG = 'Example: scaling validate study/runs/gpt2-52m-s0 --prompt "Hello, my dog is cute"'


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
    from train.measured import model_folder, prepared

    from .progress import Progress

    if device not in ("auto", "cpu"):  # whether it is there, torch knows
        from train.loop import pick_device

        pick_device(device)
    prepared(model_folder(folder), data)  # what is not there is said before torch and transformers load
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
            say(line)
    if found.equal is False:
        raise typer.Exit(1)


def lines(found: Any) -> list[str]:
    """What was measured, and whether it is what is recorded."""
    said = [
        f"{found.folder}: {found.parameters:,} parameters, loaded with transformers",
        f"{found.eval_tokens:,} held-out tokens of {found.data} ({found.eval_set})",
        "",
        table(
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
