"""scaling emit: what another program needs to train a member as we would."""

from pathlib import Path
from typing import Annotated

import typer

from .show import JsonOption, YesOption, note, print_json, say

EPILOG = "Example: scaling emit --deepspeed family=gpt2-medium tokens=1B batch_size=512 devices=8 zero=2"


def emit(
    words: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUE…", help="As of scaling train; family and tokens are needed."),
    ],
    deepspeed: Annotated[
        bool, typer.Option("--deepspeed", help="Write DeepSpeed's config JSON, for devices= and zero=, too.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder to write into.")] = Path("emitted"),
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Write a run's Hugging Face config.json, and the config with which DeepSpeed takes the same steps."""
    from train.config import TrainConfig
    from train.model import check_config, write_config

    from .keyvalue import merge

    keys = {word.partition("=")[0] for word in words}
    usual = {
        "data": "stdlib",
        **({"engine": "deepspeed"} if deepspeed else {}),
    }  # no text is read: any will do
    config = merge(TrainConfig, [*words, *(f"{key}={usual[key]}" for key in usual if key not in keys)])
    check_config(config.spec(), out, replace=yes)
    files = {}
    if deepspeed:
        from train.deepspeed_config import write_config_of

        files["deepspeed"], said = write_config_of(config, out, replace=yes)
        note(said)
    files = {"config": write_config(config.spec(), out), **files}
    if as_json:
        print_json({name: str(path) for name, path in files.items()})
    else:
        say("\n".join(f"wrote {path}" for path in files.values()))
