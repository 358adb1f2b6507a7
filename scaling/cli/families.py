"""scaling design, families and hardware: model shapes, published members, accelerators."""

import json
from dataclasses import replace
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any, cast

import typer

from families import MEMBERS, Member, accounting, member
from families.architectures import architecture
from families.configs import is_estimated, unread_entries
from families.design import design_members as design
from families.design import kv_notes, rule_for, size_notes, width_notes
from families.memory import Layout, OptimizerName, Precision, device_memory
from families.rules import MAKERS
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
from ..hardware import PRICES_OF, accelerator, known, user_file
from ..planning.candidates import candidates
from ..planning.law import find_law
from ..planning.plan import compute_optimal
from ..planning.published_mfu import generation, reached
from ..planning.throughput import TimeModel, fit_times, parse_times
from .output import (
    WIDTH,
    JsonOption,
    YesOption,
    echo,
    format_table,
    log,
    print_json,
)

DESIGN_EPILOG = "Example: scaling design --params 85M --ratio 64"


def design_members(
    params: Annotated[
        str | None,
        typer.Option(
            "--params",
            help="Parameters, like 85M or 10M,85M (default with --ratio: five sizes, 15M to 1.5B).",
        ),
    ] = None,
    depth: Annotated[str | None, typer.Option("--depth", help="Numbers of layers, like 12 or 6,12.")] = None,
    width: Annotated[
        str | None, typer.Option("--width", help="Values of n_embd, like 768 or 256,512.")
    ] = None,
    compute: Annotated[
        str | None, typer.Option("--compute", help="Budgets to be compute-optimal for, like 1e19.")
    ] = None,
    law: Annotated[str, typer.Option("--law", help="With --compute: the scaling law.")] = "chinchilla",
    ratio: Annotated[
        float | None, typer.Option("--ratio", help="n_embd per layer (default: 64; GPT-2 xl has 33).")
    ] = None,
    head_size: Annotated[
        int | None, typer.Option("--head-size", help="n_embd per attention head (default: the family's).")
    ] = None,
    kv_heads: Annotated[
        int,
        typer.Option("--kv-heads", help="Key and value heads of grouped queries (default: the family's)."),
    ] = 0,
    multiple: Annotated[int, typer.Option("--multiple", help="Additional divisor of n_embd.")] = 1,
    vocab: Annotated[
        str | None, typer.Option("--vocab", help="Vocabulary size (default: the family's).")
    ] = None,
    context: Annotated[
        str | None, typer.Option("--context", help="Context length, n_positions (default: the family's).")
    ] = None,
    architecture: Annotated[str, typer.Option("--architecture", help=", ".join(MAKERS) + ".")] = "gpt2",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write config.json of each model into a folder of its name here."),
    ] = None,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Design model shapes from parameters, depth, width or compute, and a ratio of width to depth."""
    rule: dict[str, Any] = {
        "head_size": head_size,
        "multiple": multiple,
        "vocab_size": None if vocab is None else parse_count(vocab, "vocab"),
        "n_positions": None if context is None else parse_count(context, "context"),
        "kv_heads": kv_heads,
    }
    if compute is not None:
        if params or depth or width:
            raise BadInput(
                f"--compute {compute} determines the size; leave out --params, --depth and --width"
            )
        shapes = candidates("all", rule_for(architecture, ratio=ratio, **rule))
        budgets = [parse_budget(part) for part in split_budgets(compute)]
        members = tuple(compute_optimal(budget.flops, find_law(law), shapes) for budget in budgets)
        notes: list[str] = []
    else:
        sizes = [parse_size(part, "params") for part in _parts(params, "params")]
        widths = [parse_count(part, "width") for part in _parts(width, "width")]
        members = design(
            params=tuple(sizes),
            depth=tuple(parse_count(part, "depth") for part in _parts(depth, "depth")),
            width=tuple(widths),
            ratio=ratio,
            architecture=architecture,
            **rule,
        )
        notes = size_notes(members, sizes) + width_notes(members, widths, multiple)
    notes += kv_notes(members, kv_heads)
    paths = _emit(members, out, yes) if out is not None else [None for _ in members]
    for line in notes:
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


def _emit(members: tuple[Member, ...], out: Path, replace: bool) -> list[Path | None]:
    from train.model.config import check_config, write_config

    for shape in members:
        check_config(shape.spec, out / shape.name, replace=replace)
    return [write_config(shape.spec, out / shape.name) for shape in members]


def _member_facts(member: Member, path: Path | None) -> dict[str, Any]:
    spec = member.spec
    return {
        "member": member.name,
        **accounting.describe(spec),
        "ratio": spec.n_embd / spec.n_layer,
        "path": None if path is None else str(path),
    }


app = typer.Typer(help="Published models: list, show, write a Hugging Face config.", no_args_is_help=True)


@app.command("list", epilog="Example: scaling families list --json")
def list_members(as_json: JsonOption = False) -> None:
    """List published models with their shapes and sizes."""
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
            f"{fact['n_positions']:,}",
            format_size(fact["train_flops_per_token"]),
        ]
        for fact in facts
    ]
    echo(format_table(["member", "shape", "parameters", "non-embedding", "context", "FLOPs/token"], rows))
    echo("FLOPs/token: of training at the context named; show MEMBER --context 8192 counts another")


@app.command("show", epilog="Example: scaling families show gpt2-83m")
def show_member(
    name: Annotated[str, typer.Argument(help="Name of a published model, or the path of a config.json.")],
    context: Annotated[
        str | None, typer.Option("--context", help="Context length, n_positions (default: the model's).")
    ] = None,
    micro_batch: Annotated[
        int, typer.Option("--micro-batch", min=1, help="Sequences in one forward pass.")
    ] = 1,
    tensor: Annotated[int, typer.Option("--tensor", help="Memory: tensor-parallel devices.")] = 1,
    pipeline: Annotated[int, typer.Option("--pipeline", help="Memory: pipeline-parallel devices.")] = 1,
    context_parallel: Annotated[
        int, typer.Option("--context-parallel", help="Memory: devices that share each sequence.")
    ] = 1,
    expert: Annotated[int, typer.Option("--expert", help="Memory: devices that share the experts.")] = 1,
    shards: Annotated[
        int, typer.Option("--shards", help="Memory: devices that share the states (ZeRO 3, FSDP).")
    ] = 1,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Memory: fp32, autocast, mixed or bf16.")
    ] = None,
    optimizer: Annotated[
        str, typer.Option("--optimizer", help="Memory: adamw, adamw8bit, adafactor or sgd.")
    ] = "adamw",
    lora_rank: Annotated[int, typer.Option("--lora-rank", help="Memory: rank of LoRA adapters.")] = 0,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Memory: recompute activations.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the parameters of a model by part, its FLOPs, memory and source."""
    layout = Layout(
        tensor=tensor,
        pipeline=pipeline,
        context=context_parallel,
        expert=expert,
        shards=shards,
        precision=cast(
            Precision,
            precision
            or ("fp32" if tensor * pipeline * context_parallel * expert * shards == 1 else "autocast"),
        ),
        optimizer=cast(OptimizerName, optimizer),
        lora_rank=lora_rank,
        checkpointing=checkpointing,
    )
    fact = _family_facts(name, context, layout, micro_batch)
    if as_json:
        print_json(fact)
        return
    echo(f"{fact['member']}: {fact['architecture']} L{fact['n_layer']} d{fact['n_embd']} h{fact['n_head']}")
    echo(fill(f"source: {fact['source']}", WIDTH, subsequent_indent="  "))
    rows = [[part, f"{count:,}"] for part, count in fact["parameters_by_part"].items()]
    echo(format_table(["part", "parameters"], [*rows, ["total", f"{fact['params']:,}"]]))
    echo("; ".join(f"{name} {count:,}" for name, count in fact["counts"].items()) + " in transformers")
    echo(f"non-embedding {fact['params_non_embedding']:,}; Kaplan's N {fact['params_kaplan']:,}")
    if fact["params_active"] < fact["params"]:
        echo(f"active per token {fact['params_active']:,}: the router leaves the other experts out")
    flops, kind = fact["train_flops_per_token"], "6·N_active + attention" if fact["estimated"] else "exact"
    echo(
        f"training FLOPs per token {flops:,} at a context of {fact['n_positions']:,} ({kind}; "
        f"6N would be {6 * fact['params_active']:,})"
    )
    memory = fact["training_memory"]
    parts = ", ".join(f"{k} {format_bytes(v)}" for k, v in memory.items())
    sequences = "one sequence" if micro_batch == 1 else f"{micro_batch} sequences"
    how = ", ".join(
        f"{degree}-way {name}"
        for name, degree in (
            ("tensor", tensor),
            ("pipeline", pipeline),
            ("context", context_parallel),
            ("expert", expert),
            ("shards", shards),
        )
        if degree > 1
    )
    where = f" on each device, {how}" if how else ""
    echo(
        fill(
            f"training memory{where}, {sequences}, {layout.precision}: {parts}", WIDTH, subsequent_indent="  "
        )
    )
    if how or lora_rank or micro_batch > 1 or optimizer != "adamw" or checkpointing:
        echo(f"in all {format_bytes(sum(memory.values()))}, without workspaces and fragmentation")
    for line in fact["notes"]:
        echo(fill(f"note: {line}", WIDTH, subsequent_indent="  "))


@app.command(epilog="Example: scaling families emit gpt2-83m --out gpt2-83m")
def emit(
    name: Annotated[str, typer.Argument(help="Name of a published model, or the path of a config.json.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write config.json into.")],
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> None:
    """Write the Hugging Face config.json of a model."""
    from train.model.config import check_config, write_config

    check_config(member(name).spec, out, replace=yes)
    path = write_config(member(name).spec, out)
    if as_json:
        print_json(
            {"member": member(name).name, "path": str(path), "params": accounting.params(member(name).spec)}
        )
    else:
        echo(f"wrote {path}: {accounting.params(member(name).spec):,} parameters")


def _family_facts(
    name: str, context: str | None = None, layout: Layout | None = None, micro_batch: int = 1
) -> dict[str, Any]:
    published = member(name)
    spec = published.spec
    if context is not None:
        spec = replace(spec, n_positions=parse_count(context, "context"))
    return {
        "member": published.name,
        "source": published.source,
        **accounting.describe(spec),
        "counts": architecture(spec.architecture).counts(spec),
        "params_kaplan": accounting.params_kaplan(spec),
        "training_memory": device_memory(spec, micro_batch, layout or Layout(precision="fp32")),
        "hugging_face": {} if is_estimated(spec) else architecture(spec.architecture).to_hugging_face(spec),
        "estimated": is_estimated(spec),
        "notes": _notes(name, published),
    }


def _notes(name: str, published: Member) -> list[str]:
    """What the counts of a config.json leave out."""
    notes = []
    if is_estimated(published.spec):
        notes.append(
            f"counted by transformers as a {published.spec.config['model_type']}, memory roughly estimated"
        )
    windows = published.spec.config.get("sliding_window")
    if isinstance(windows, int) and windows < published.spec.n_positions:
        notes.append(
            f"sliding windows of {windows:,} tokens are counted over the whole context of {published.spec.n_positions:,}"
        )
    if name.strip().lower() not in MEMBERS:
        unread = unread_entries(json.loads(Path(published.source.split(";")[0]).read_text(encoding="utf-8")))
        if unread:
            notes.append(f"not read: {', '.join(unread)}")
    return notes


HARDWARE_EPILOG = "Example: scaling hardware --times 1=66m40s,2=40m19s,4=32m44s --at 8"


def hardware(
    name: Annotated[str | None, typer.Argument(help="Name of an accelerator (default: all).")] = None,
    times: Annotated[
        str | None,
        typer.Option("--times", help="Measured times by number of devices, like 1=66m40s,2=40m19s."),
    ] = None,
    at: Annotated[int, typer.Option("--at", help="With --times: number of devices to predict.")] = 8,
    as_json: JsonOption = False,
) -> None:
    """List accelerators and their dense peaks, or predict a run's time on more devices from measured times."""
    if times is not None:
        model = fit_times(parse_times(times))
        if at < 1:
            raise BadInput(f"at is {at}; it must be at least 1")
        _predict(model, at, as_json)
        return
    entries = [accelerator(name)] if name is not None else list(known().values())
    if as_json:
        print_json({"accelerators": [entry.facts() for entry in entries], "own": str(user_file())})
        return
    rows = [
        [
            entry.name,
            entry.training_format,
            f"{entry.training_peak / 1e12:g}",
            f"{entry.memory / 1e9:g}",
            f"{entry.bandwidth / 1e9:,.0f}",
            "–" if entry.price is None else f"{entry.price:.2f}",
        ]
        for entry in entries
    ]
    echo(format_table(["accelerator", "format", "TFLOP/s dense", "GB", "GB/s", "USD/hour"], rows, left=2))
    if name is not None:
        echo(f"source: {entries[0].source}")
        if (known_mfu := reached(entries[0].name)) is not None:
            kind = generation(entries[0].name)
            echo(f"MFU of {known_mfu.counted} on {kind}s: {known_mfu} (docs/planning.md)")
    else:
        echo(f"prices: typical on-demand list prices of {PRICES_OF}; sources: scaling hardware NAME")
        echo(f"additions: {user_file()}, or the file named by $SCALING_HARDWARE")


def _predict(model: TimeModel, at: int, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "devices": at,
                "seconds": model.seconds(at),
                "efficiency": model.efficiency(at),
                "pays_until": model.pays_until(),
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
    echo(f"beyond {model.pays_until()} devices, doubling them saves less than 10 % of the time")
