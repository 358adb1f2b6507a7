"""scaling design."""

from pathlib import Path
from typing import Annotated, Any

import typer

from families import Member, accounting
from families.design import design
from families.units import format_size, parse_count, parse_size

from .show import JsonOption, print_json, say, table

EPILOG = "Example: scaling design --params 85M --ratio 64"


def design_members(
    params: Annotated[
        str | None, typer.Option("--params", help="Sizes to hit, like 85M or 10M,85M,1B.")
    ] = None,
    depth: Annotated[
        str | None, typer.Option("--depth", help="Numbers of layers, like 12 or 6,12,24.")
    ] = None,
    width: Annotated[
        str | None, typer.Option("--width", help="Values of n_embd, like 768 or 256,512.")
    ] = None,
    ratio: Annotated[
        float | None, typer.Option("--ratio", help="n_embd per layer (default: 64; GPT-2 xl has 33).")
    ] = None,
    head_size: Annotated[int, typer.Option("--head-size", help="n_embd per attention head.")] = 64,
    vocab: Annotated[str, typer.Option("--vocab", help="Vocabulary size.")] = "50257",
    context: Annotated[str, typer.Option("--context", help="Context length, n_positions.")] = "1024",
    architecture: Annotated[str, typer.Option("--architecture", help="gpt2, bert or llama.")] = "gpt2",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write each member's config.json into a folder here.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn one dial (parameters, depth or width) and a rule into realisable models."""
    members = design(
        params=_sizes(params, "params"),
        depth=_counts(depth, "depth"),
        width=_counts(width, "width"),
        ratio=ratio,
        head_size=head_size,
        vocab_size=parse_count(vocab, "vocab"),
        n_positions=parse_count(context, "context"),
        architecture=architecture,
    )
    paths = _emit(members, out) if out is not None else [None for _ in members]
    facts = [_facts(member, path) for member, path in zip(members, paths, strict=True)]
    if as_json:
        print_json({"members": facts})
        return
    rows = [
        [
            fact["member"],
            f"L{fact['n_layer']} d{fact['n_embd']} h{fact['n_head']}",
            f"{fact['ratio']:.1f}",
            f"{fact['params']:,}",
            format_size(fact["params_non_embedding"]),
            format_size(fact["train_flops_per_token"]),
        ]
        for fact in facts
    ]
    say(table(["member", "shape", "ratio", "parameters", "non-embedding", "FLOPs/token"], rows, left=2))


def _sizes(text: str | None, name: str) -> tuple[float, ...]:
    return tuple(parse_size(part, name) for part in text.split(",")) if text is not None else ()


def _counts(text: str | None, name: str) -> tuple[int, ...]:
    return tuple(parse_count(part, name) for part in text.split(",")) if text is not None else ()


def _emit(members: tuple[Member, ...], out: Path) -> list[Path | None]:
    from train.model import write_config

    return [write_config(member.spec, out / member.name) for member in members]


def _facts(member: Member, path: Path | None) -> dict[str, Any]:
    spec = member.spec
    return {
        "member": member.name,
        "architecture": spec.architecture,
        "n_layer": spec.n_layer,
        "n_head": spec.n_head,
        "n_kv_head": spec.n_kv_head,
        "n_embd": spec.n_embd,
        "n_inner": spec.n_inner,
        "n_positions": spec.n_positions,
        "vocab_size": spec.vocab_size,
        "ratio": spec.n_embd / spec.n_layer,
        "params": accounting.params(spec),
        "params_non_embedding": accounting.params_non_embedding(spec),
        "parameters_by_part": accounting.parameters(spec),
        "train_flops_per_token": accounting.train_flops_per_token(spec),
        "path": None if path is None else str(path),
    }
