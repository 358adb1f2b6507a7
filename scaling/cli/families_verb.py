"""scaling families list | show | emit."""

from pathlib import Path
from textwrap import fill
from typing import Annotated, Any

import typer

from families import MEMBERS, accounting, member
from families.architectures import architecture
from families.units import format_bytes, format_size

from .show import WIDTH, JsonOption, YesOption, print_json, say, table

app = typer.Typer(
    help="Published members of model families: list, show, emit a Hugging Face config.", no_args_is_help=True
)


@app.command("list", epilog="Example: scaling families list --json")
def list_members(as_json: JsonOption = False) -> None:
    """List the published members, their shapes and sizes."""
    facts = [_facts(name) for name in MEMBERS]
    if as_json:
        print_json({"members": facts})
        return
    rows = [
        [
            fact["member"],
            f"L{fact['n_layer']} d{fact['n_embd']} h{fact['n_head']}",
            f"{fact['params']:,}",
            format_size(fact["params_non_embedding"]),
            format_size(fact["train_flops_per_token"]),
        ]
        for fact in facts
    ]
    say(table(["member", "shape", "parameters", "non-embedding", "FLOPs/token"], rows))


@app.command("show", epilog="Example: scaling families show gpt2-83m")
def show_member(
    name: Annotated[str, typer.Argument(help="A member's name.")],
    as_json: JsonOption = False,
) -> None:
    """Show a member's parameters by part, FLOPs and source."""
    fact = _facts(name)
    if as_json:
        print_json(fact)
        return
    say(f"{fact['member']}: {fact['architecture']} L{fact['n_layer']} d{fact['n_embd']} h{fact['n_head']}")
    say(fill(f"source: {fact['source']}", WIDTH, subsequent_indent="  "))
    rows = [[part, f"{count:,}"] for part, count in fact["parameters_by_part"].items()]
    say(table(["part", "parameters"], [*rows, ["all", f"{fact['params']:,}"]]))
    say("; ".join(f"{name} {count:,}" for name, count in fact["counts"].items()) + " in transformers")
    say(f"without embeddings {fact['params_non_embedding']:,}; Kaplan's N {fact['params_kaplan']:,}")
    flops = fact["train_flops_per_token"]
    say(f"training FLOPs per token {flops:,} (exact; 6N would be {6 * fact['params']:,})")
    memory = fact["training_memory"]
    parts = ", ".join(f"{k} {format_bytes(v)}" for k, v in memory.items())
    say(fill(f"training memory, one sequence, fp32: {parts}", WIDTH, subsequent_indent="  "))


@app.command(epilog="Example: scaling families emit gpt2-83m --out gpt2-83m")
def emit(
    name: Annotated[str, typer.Argument(help="A member's name.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write config.json into.")],
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Write a member's Hugging Face config.json."""
    from train.model import check_config, write_config

    check_config(member(name).spec, out, replace=yes)
    path = write_config(member(name).spec, out)
    if as_json:
        print_json(
            {"member": member(name).name, "path": str(path), "params": accounting.params(member(name).spec)}
        )
    else:
        say(f"wrote {path}: {accounting.params(member(name).spec):,} parameters")


def _facts(name: str) -> dict[str, Any]:
    found = member(name)
    spec = found.spec
    return {
        "member": found.name,
        "source": found.source,
        "architecture": spec.architecture,
        "n_layer": spec.n_layer,
        "n_head": spec.n_head,
        "n_embd": spec.n_embd,
        "n_inner": spec.n_inner,
        "n_positions": spec.n_positions,
        "vocab_size": spec.vocab_size,
        "parameters_by_part": accounting.parameters(spec),
        "params": accounting.params(spec),
        "counts": architecture(spec.architecture).counts(spec),
        "params_non_embedding": accounting.params_non_embedding(spec),
        "params_kaplan": accounting.params_kaplan(spec),
        "train_flops_per_token": accounting.train_flops_per_token(spec),
        "training_memory": accounting.training_memory(spec, 1),
        "hugging_face": architecture(spec.architecture).to_hugging_face(spec),
    }
