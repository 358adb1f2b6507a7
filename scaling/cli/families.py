"""scaling design."""

import math
from collections.abc import Callable
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any

import typer

from families import MEMBERS, Member, ModelSpec, accounting, member
from families.architectures import architecture
from families.design import DesignRule, design, off_size, off_width
from families.units import (
    BadInput,
    format_bytes,
    format_duration,
    format_size,
    listed,
    parse_count,
    parse_size,
)

from ..budget import parse_budget, split_budgets
from ..hardware import PRICES_OF, Accelerator, accelerator, known, user_file
from ..planning.candidates import candidates
from ..planning.law import find_law
from ..planning.plan import compute_optimal
from ..planning.throughput import TimeModel, fit_times, parse_times
from .output import (
    WIDTH,
    ContextOption,
    HeadSizeOption,
    JsonOption,
    VocabOption,
    YesOption,
    echo,
    format_table,
    log,
    print_json,
)

# MERGED DOCSTRINGS
# scaling families list | show | emit.
# scaling hardware.

DESIGN_EPILOG = "Example: scaling design --params 85M --ratio 64"


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
        log(f"note: {line}")
    facts = [_member_facts(member, path) for member, path in zip(members, paths, strict=True)]
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
    echo(
        format_table(["member", "shape", "ratio", "parameters", "non-embedding", "FLOPs/token"], rows, left=2)
    )


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
    from train.model.config import check_config, write_config

    for one in members:
        check_config(one.spec, out / one.name, replace=replace)
    return [write_config(one.spec, out / one.name) for one in members]


def _member_facts(member: Member, path: Path | None) -> dict[str, Any]:
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


app = typer.Typer(
    help="Published members of model families: list, show, emit a Hugging Face config.", no_args_is_help=True
)


@app.command("list", epilog="Example: scaling families list --json")
def list_members(as_json: JsonOption = False) -> None:
    """List the published members, their shapes and sizes."""
    facts = [_family_facts(name) for name in MEMBERS]
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
    echo(format_table(["member", "shape", "parameters", "non-embedding", "FLOPs/token"], rows))


@app.command("show", epilog="Example: scaling families show gpt2-83m")
def show_member(
    name: Annotated[str, typer.Argument(help="A member's name.")],
    as_json: JsonOption = False,
) -> None:
    """Show a member's parameters by part, FLOPs and source."""
    fact = _family_facts(name)
    if as_json:
        print_json(fact)
        return
    echo(f"{fact['member']}: {fact['architecture']} L{fact['n_layer']} d{fact['n_embd']} h{fact['n_head']}")
    echo(fill(f"source: {fact['source']}", WIDTH, subsequent_indent="  "))
    rows = [[part, f"{count:,}"] for part, count in fact["parameters_by_part"].items()]
    echo(format_table(["part", "parameters"], [*rows, ["all", f"{fact['params']:,}"]]))
    echo("; ".join(f"{name} {count:,}" for name, count in fact["counts"].items()) + " in transformers")
    echo(f"without embeddings {fact['params_non_embedding']:,}; Kaplan's N {fact['params_kaplan']:,}")
    flops = fact["train_flops_per_token"]
    echo(f"training FLOPs per token {flops:,} (exact; 6N would be {6 * fact['params']:,})")
    memory = fact["training_memory"]
    parts = ", ".join(f"{k} {format_bytes(v)}" for k, v in memory.items())
    echo(fill(f"training memory, one sequence, fp32: {parts}", WIDTH, subsequent_indent="  "))


@app.command(epilog="Example: scaling families emit gpt2-83m --out gpt2-83m")
def emit(
    name: Annotated[str, typer.Argument(help="A member's name.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write config.json into.")],
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Write a member's Hugging Face config.json."""
    from train.model.config import check_config, write_config

    check_config(member(name).spec, out, replace=yes)
    path = write_config(member(name).spec, out)
    if as_json:
        print_json(
            {"member": member(name).name, "path": str(path), "params": accounting.params(member(name).spec)}
        )
    else:
        echo(f"wrote {path}: {accounting.params(member(name).spec):,} parameters")


def _family_facts(name: str) -> dict[str, Any]:
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


HARDWARE_EPILOG = "Example: scaling hardware --times 1=66m40s,2=40m19s,4=32m44s --at 8"


def hardware(
    name: Annotated[str | None, typer.Argument(help="An accelerator's name (default: all).")] = None,
    times: Annotated[
        str | None,
        typer.Option("--times", help="Measured times by number of devices, like 1=66m40s,2=40m19s."),
    ] = None,
    at: Annotated[int, typer.Option("--at", help="With --times: the number of devices to predict.")] = 8,
    as_json: JsonOption = False,
) -> None:
    """Show the accelerators and their dense peaks, or predict a run's time on more devices from measured times."""
    if times is not None:
        model = fit_times(parse_times(times))
        if at < 1:
            raise BadInput(f"at is {at}; it must be at least 1")
        _predict(model, at, as_json)
        return
    shown = [accelerator(name)] if name is not None else list(known().values())
    if as_json:
        print_json({"accelerators": [_accelerator_facts(entry) for entry in shown], "own": str(user_file())})
        return
    rows = [
        [
            entry.name,
            entry.training_format,
            f"{entry.training_peak / 1e12:g}",
            f"{entry.memory / 1e9:g}",
            f"{entry.bandwidth / 1e9:,.0f}",
            "—" if entry.price is None else f"{entry.price:.2f}",
        ]
        for entry in shown
    ]
    echo(format_table(["accelerator", "format", "TFLOP/s dense", "GB", "GB/s", "USD/hour"], rows, left=2))
    if name is not None:
        echo(f"source: {shown[0].source}")
    else:
        echo(f"prices are typical on-demand ones of {PRICES_OF}; `scaling hardware NAME` gives an entry's source")
        echo(f"your own: {user_file()}, or the file that $SCALING_HARDWARE names")


def _predict(model: TimeModel, at: int, as_json: bool) -> None:
    enough = model.pays_until()
    if as_json:
        print_json(
            {
                "devices": at,
                "seconds": model.seconds(at),
                "efficiency": model.efficiency(at),
                "pays_until": enough,
                "floor_s": model.floor,
                "parallel_s": model.parallel,
                "exponent": model.exponent,
                "fit_error": model.error,
            }
        )
        return
    echo(f"{at} devices: {format_duration(model.seconds(at))}, efficiency {model.efficiency(at):.0%}")
    echo(
        f"T(n) = {format_duration(model.floor)} + {format_duration(model.parallel)} · n^-{model.exponent:.2f}, "
        f"within {model.error:.2%} of the measured times"
    )
    echo(f"beyond {enough} devices a doubling saves less than 10 % of the time")


def _accelerator_facts(entry: Accelerator) -> dict[str, object]:
    return {
        "name": entry.name,
        "training_format": entry.training_format,
        "training_peak": entry.training_peak,
        "peak": entry.peak,
        "memory": entry.memory,
        "bandwidth": entry.bandwidth,
        "price": entry.price,
        "source": entry.source,
    }
