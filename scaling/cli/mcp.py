"""`scaling mcp`: a server of the Model Context Protocol, whose tools are the verbs that read.

Every tool runs its verb in a process of its own, so that nothing it prints mixes with the protocol on standard output and
a fault ends no session. Values never become options: each is given as --option=value, and paths come after `--`.
"""

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from families.units import BadInput

from ..version import __version__

MCP_EPILOG = "Example: scaling mcp --check"

LIMIT_SECONDS = 600.0

_READS = {"readOnlyHint": True, "destructiveHint": False, "idempotentHint": True, "openWorldHint": False}
_WRITES = {"readOnlyHint": False, "destructiveHint": False, "idempotentHint": True, "openWorldHint": False}


def serve(
    write: Annotated[
        bool, typer.Option("--write", help="Let plan and fit write their file where the client asks (out).")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Print the tools and exit.")] = False,
) -> None:
    """Serve plan, fit, predict, backtest and audit to agents, over standard input and output."""
    if check and not _installed():
        typer.echo(f"not installed: {INSTALL}")
        return
    server = build_server(write=write)
    if check:
        import asyncio

        for tool in asyncio.run(server.list_tools()):
            keys = ", ".join(tool.input_schema["properties"])
            typer.echo(f"{tool.name:<9} {(tool.description or '').partition(chr(10))[0]}\n          {keys}")
        return
    server.run("stdio")


INSTALL = "scaling mcp needs the Model Context Protocol's SDK: pip install 'scaling-planner[mcp]'"


def _installed() -> bool:
    from importlib.util import find_spec

    return find_spec("mcp") is not None


def build_server(*, write: bool = False) -> Any:
    """Build the server.

    Args:
        write: plan and fit may write their file.

    Raises:
        BadInput: the SDK is not installed.
    """
    if not _installed():
        raise BadInput(INSTALL)
    from mcp.server.mcpserver import MCPServer
    from mcp.types import ToolAnnotations

    from .agents import guide_text

    server = MCPServer("scaling", version=__version__, instructions=guide_text())
    reads, writes = ToolAnnotations(**_READS), ToolAnnotations(**_WRITES)
    for either in (plan, fit):
        server.tool(annotations=writes if write else reads)(either if write else _without_out(either))
    for read in (predict, backtest, audit):
        server.tool(annotations=reads)(read)
    return server


def _without_out(tool: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The same tool without `out`, in its signature and its description: it can only read."""
    signature = inspect.signature(tool)

    def reads(**arguments: Any) -> dict[str, Any]:
        return tool(**arguments)

    kept = [parameter for name, parameter in signature.parameters.items() if name != "out"]
    lines = (tool.__doc__ or "").splitlines()
    reads.__name__, reads.__doc__ = (
        tool.__name__,
        "\n".join(x for x in lines if not x.strip().startswith("out: ")),
    )
    reads.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]  # inspect reads it
    reads.__annotations__ = {name: kind for name, kind in tool.__annotations__.items() if name != "out"}
    return reads


def plan(
    budget: str | None = None,
    law: str | None = None,
    family: str | None = None,
    mfu: str | None = None,
    on: str | None = None,
    params: str | None = None,
    target_loss: float | None = None,
    tokens_available: str | None = None,
    inference_tokens: str | None = None,
    out: str | None = None,
) -> dict[str, Any]:
    """Choose model size and tokens for a budget, or the budget for a target loss; predict the loss.

    Args:
        budget: "8xA100-hours", "64 H100 for 2 weeks", "$5000 on H100", "1e21".
        law: a law.json of `fit`, or chinchilla (default), kaplan, hoffmann.
        family: a family of published models, "all", or "grid" (any realisable shape).
        mfu: model FLOPs utilisation, like 0.4 (the default, assumed).
        on: devices for a budget that names none, like 8xA100.
        params: a size or several, like "1B,3B,8B".
        target_loss: nats per token; the cheapest way to it.
        tokens_available: distinct tokens there are, like 50B.
        inference_tokens: tokens to be served, like 1T.
        out: file to write the sealed plan to.
    """
    return _run(
        "plan", budget=budget, law=law, family=family, mfu=mfu, on=on, params=params, target_loss=target_loss,
        tokens_available=tokens_available, inference_tokens=inference_tokens, out=out,
    )  # fmt: skip


def fit(
    runs: str,
    columns: str | None = None,
    group: str | None = None,
    eval_set: str | None = None,
    annealed: str | None = None,
    form: str | None = None,
    out: str | None = None,
) -> dict[str, Any]:
    """Fit a scaling law to a table of runs, certify it, and return it with its card.

    Args:
        runs: path of a table or of a tracker's export.
        columns: names of columns that were not recognised, like "params=N,tokens=D,loss=val".
        group: the group of runs to fit, where there are several.
        eval_set: the evaluation set, where there are several.
        annealed: "only", "all" or "no": what to do with rows of unfinished schedules.
        form: a form instead of the default, like chinchilla.
        out: file to write the law to.
    """
    return _run(
        "fit", runs, columns=columns, group=group, eval_set=eval_set, annealed=annealed, form=form, out=out
    )


def predict(law: str, tokens: str, params: str | None = None, family: str | None = None) -> dict[str, Any]:
    """Predict loss and perplexity of a model, with 80 % and 95 % intervals where the law has them.

    Args:
        law: path of a law.json, or chinchilla, kaplan, hoffmann.
        tokens: training tokens, like 5.5B.
        params: parameters, like 85M; or else
        family: a published model, like gpt2-83m.
    """
    keys = {"params": params, "family": family, "tokens": tokens}
    return _run("predict", law, *(f"{key}={value}" for key, value in keys.items() if value is not None))


def backtest(runs: str, holdout: str | None = None) -> dict[str, Any]:
    """Fit the cheap runs of a table, predict the expensive ones, and score the predictions.

    Args:
        runs: path of a table of runs.
        holdout: "top-decade" (default), "top-20%", "params>X", "tokens>X" or "compute>X".
    """
    return _run("backtest", runs, holdout=holdout)


def audit(table: str) -> dict[str, Any]:
    """Recompute the numbers of a table of training runs or of a model card; explain what is inconsistent.

    Args:
        table: path of a .csv, .json, .jsonl or .md file.
    """
    return _run("audit", table)


def _run(verb: str, *words: str, **options: object) -> dict[str, Any]:
    """Run a verb with --json in a process of its own; returns its object.

    Raises:
        ToolError: its one line of standard error.
    """
    from mcp.server.mcpserver.exceptions import ToolError

    given = [f"--{key.replace('_', '-')}={value}" for key, value in options.items() if value is not None]
    command = [sys.executable, "-P", "-c", "from scaling.cli import main; main()", verb, "--json", *given]
    try:
        done = subprocess.run(  # noqa: S603 - words, no shell
            [*command, "--", *words], capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"scaling {verb} took longer than {LIMIT_SECONDS:.0f} s") from error
    try:
        found = json.loads(done.stdout)
    except json.JSONDecodeError:
        lines = done.stderr.strip().splitlines() or [f"scaling {verb} ended with status {done.returncode}"]
        raise ToolError(lines[-1].removeprefix("scaling: ")) from None
    assert isinstance(found, dict)
    notes = [line for line in done.stderr.splitlines() if line.strip()]
    return {**found, "notes_on_stderr": notes} if notes else found
