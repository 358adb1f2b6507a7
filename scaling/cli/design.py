"""scaling design."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from families import Member, ModelSpec, accounting
from families.design import DesignRule, design, off_size, off_width
from families.errors import BadInput
from families.units import format_size, listed, parse_count, parse_size

from ..budget import parse_budget, split_budgets
from ..planner import compute_optimal
from ..planning.candidates import candidates
from ..planning.planlaw import find_law
from .show import (
    ContextOption,
    HeadSizeOption,
    JsonOption,
    VocabOption,
    YesOption,
    note,
    print_json,
    say,
    table,
)

EPILOG = "Example: scaling design --params 85M --ratio 64"


def design_members(
    params: Annotated[
        str | None,
        typer.Option(
            "--params", help="Sizes to hit, like 85M or 10M,85M (with --ratio alone: five, 15M to 1.5B)."
        ),
    ] = None,
    depth: Annotated[str | None, typer.Option("--depth", help="Numbers of layers, like 12 or 6,12.")] = None,
    width: Annotated[
        str | None, typer.Option("--width", help="Values of n_embd, like 768 or 256,512.")
    ] = None,
    compute: Annotated[
        str | None, typer.Option("--compute", help="Budgets whose optimal members these are, like 1e19.")
    ] = None,
    law: Annotated[str, typer.Option("--law", help="With --compute: the law that decides.")] = "chinchilla",
    ratio: Annotated[
        float | None, typer.Option("--ratio", help="n_embd per layer (default: 64; GPT-2 xl has 33).")
    ] = None,
    head_size: HeadSizeOption = 64,
    multiple: Annotated[int, typer.Option("--multiple", help="What n_embd must divide by besides.")] = 1,
    vocab: VocabOption = "50257",
    context: ContextOption = "1024",
    architecture: Annotated[str, typer.Option("--architecture", help="gpt2, bert or llama.")] = "gpt2",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write each member's config.json into a folder here.")
    ] = None,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Turn one dial (parameters, depth, width or compute) and a rule into realisable models."""
    rule: dict[str, Any] = {
        "head_size": head_size,
        "multiple": multiple,
        "vocab_size": parse_count(vocab, "vocab"),
        "n_positions": parse_count(context, "context"),
        "architecture": architecture,
    }
    if compute is not None:
        if params or depth or width:
            raise BadInput(f"--compute {compute} decides the size; leave --params, --depth and --width out")
        shapes = candidates("all", DesignRule(ratio=64.0 if ratio is None else ratio, **rule))
        budgets = [parse_budget(part) for part in split_budgets(compute)]
        members = tuple(compute_optimal(budget.flops, find_law(law, None), shapes) for budget in budgets)
    else:
        members = design(
            params=tuple(parse_size(part, "params") for part in _parts(params, "params")),
            depth=tuple(parse_count(part, "depth") for part in _parts(depth, "depth")),
            width=tuple(parse_count(part, "width") for part in _parts(width, "width")),
            ratio=ratio,
            **rule,
        )
    paths = _emit(members, out, yes) if out is not None else [None for _ in members]
    for line in _misses(members, params, width):
        note(f"note: {line}")
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


def _parts(text: str | None, name: str) -> list[str]:
    return listed(text, name) if text is not None else []


def _misses(members: tuple[Member, ...], params: str | None, width: str | None) -> list[str]:
    """A line for each size, or width, that no realisable shape comes near: the nearest of the members missed it."""

    def near(value: float, of: Callable[[ModelSpec], int]) -> ModelSpec:
        return min((one.spec for one in members), key=lambda spec: abs(math.log(of(spec) / value)))

    if params is not None:
        sizes = [parse_size(part, "params") for part in _parts(params, "params")]
        lines = [off_size(size, near(size, accounting.params)) for size in sizes]
    else:
        widths = [parse_count(part, "width") for part in _parts(width, "width")]
        lines = [off_width(one, near(one, lambda spec: spec.n_embd)) for one in widths]
    return [line for line in lines if line]


def _emit(members: tuple[Member, ...], out: Path, replace: bool) -> list[Path | None]:
    from train.model import check_config, write_config

    for member in members:
        check_config(member.spec, out / member.name, replace=replace)
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
