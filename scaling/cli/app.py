"""The verbs, in the order of the workflow. A verb's module is imported when the verb is used, so that help starts fast."""

import os
import re
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from families.units import BadInput, nearest

from . import output

_HELP = """Plan, train and check language models with scaling laws.

Workflow: design -> train -> fit -> plan -> seal -> train -> compare -> report. `scaling demo` runs it in five minutes.
"""


class Verb(NamedTuple):
    """A command, and where it is defined.

    Args:
        name: name on the command line.
        where: "module:function" in this package, or "module:app" for a group of commands.
        summary: description in the list of commands, at most 60 characters.
        trains: the command needs the extra [train].
        keys: options other than --study, --yes and --json are given as key=value.
    """

    name: str
    where: str
    summary: str
    trains: bool = False
    keys: bool = False


VERBS = (
    Verb("design", "families:design_members", "Design model shapes from a size, a depth or a width."),
    Verb("families", "families:app", "Published models: list, show, write a Hugging Face config."),
    Verb("hardware", "families:hardware", "List accelerators; predict the time on more devices."),
    Verb("pilot", "pilot:pilot", "Choose the pilot runs that narrow a prediction most."),
    Verb("next", "pilot:next_run", "Recommend the next run of a study."),
    Verb("simulate", "pilot:simulate_plan", "Simulate a planned sweep on a known loss surface."),
    Verb("plan", "plan:plan", "Choose model size and tokens for a budget; predict loss."),
    Verb("fit", "fit:fit", "Fit a scaling law to runs, certify it, print its card."),
    Verb("predict", "fit:predict", "Predict loss and perplexity with intervals."),
    Verb("versus", "versus:versus", "Estimate whether a change pays, and at what scale."),
    Verb("backtest", "fit:backtest", "Fit the cheap runs, predict the expensive ones, and score."),
    Verb("audit", "compare:audit", "Recompute the numbers of a table; explain inconsistencies."),
    Verb("train", "train:train", "Train a model on text, resumable.", trains=True),
    Verb("emit", "emit:emit", "Write a plan's or a run's files for other programs."),
    Verb("ingest", "ingest:ingest", "Add a run of Megatron or AutoModel from its logs."),
    Verb(
        "tune", "tune:tune", "Find the fastest settings for training on this machine.", trains=True, keys=True
    ),
    Verb(
        "ladder", "train:ladder", "Train every member of a plan to each of its rungs.", trains=True, keys=True
    ),
    Verb(
        "validate", "monitor:validate", "Load a model with transformers; repeat its evaluation.", trains=True
    ),
    Verb("generate", "model:generate", "Generate text with a trained model.", trains=True),
    Verb("push", "model:push", "Send a trained model to the Hugging Face hub.", trains=True),
    Verb("watch", "monitor:watch_run", "Forecast the final loss of a run in progress; warn early."),
    Verb("table", "monitor:table", "Print finished runs as a table of fine-tuning results."),
    Verb("stamp", "stamp:stamp", "Have the time of a sealed plan attested from outside."),
    Verb("compare", "compare:compare_study", "Score sealed predictions against the finished runs."),
    Verb("report", "report:report", "Write report.html and every figure of a study."),
    Verb("plot", "report:plot", "Draw one figure of a study, or write its data."),
    Verb("doctor", "demo:doctor", "Reproduce five published results; check the installation."),
    Verb("guide", "agents:guide", "Print the guide for programs and agents."),
    Verb("schema", "agents:schema", "Print the JSON schema of a verb's --json."),
    Verb("mcp", "mcp:serve", "Serve the verbs that read to agents (MCP)."),
    Verb("demo", "demo:demo", "Run the whole workflow on this machine's CPU.", trains=True),
)


_SHARED = ("study", "yes", "json", "help")  # options of every verb; they stay options beside keys
_KEY = re.compile(r"[a-z][a-z0-9_]*")


class Stopped(Exception):
    """A KeyboardInterrupt with its message, which typer would drop."""


class _Verbs(TyperGroup):
    """The group of all verbs."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Stopped(str(error)) from error


class _LazyCommand(TyperCommand):
    """A verb's name and summary; loads the command itself when it is called, completed or its help is printed."""

    def __init__(self, verb: Verb) -> None:
        super().__init__(verb.name, help=verb.summary, short_help=verb.summary, rich_markup_mode=None)
        self.verb = verb

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Return the context of the real command, which is then the one that runs."""
        return load(self.verb).make_context(*args, **extra)


class _KeyValueCommand(TyperCommand):
    """A command whose options, but for those all verbs share, are given and documented as key=value.

    The spelling --key value is accepted too. A flag takes true or false, a repeatable option a list with commas.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Turn key=value words into options, then parse.

        Raises:
            BadInput: an unknown key, unless the command takes further keys itself, a repeated one, or a flag that is
                neither true nor false.
        """
        options = {name: option for option in self.params for name in option.opts}
        words: list[str] = []
        given: set[str] = set()
        rest = iter(args)
        for word in rest:
            words.append(word)
            key, equals, value = word.partition("=")
            option = options.get(key)
            if option is not None and not equals and not getattr(option, "is_flag", False):
                words += [value for value in [next(rest, None)] if value is not None]
            elif _KEY.fullmatch(key) and equals:
                words[-1:] = self._as_options(key, value, given)
        return super().parse_args(ctx, words)

    def _as_options(self, key: str, value: str, given: set[str]) -> list[str]:
        keys = self._keys()
        if key not in keys:
            if any(param.name == "words" for param in self.params):
                return [f"{key}={value}"]
            raise BadInput(f"unknown key {key!r}; {nearest(key, keys, 30)}")
        if key in given:
            raise BadInput(f"{key} is given twice")
        given.add(key)
        option = keys[key]
        name = option.opts[0]
        if option.is_flag:
            if value.lower() not in ("true", "false"):
                raise BadInput(f"{key} is {value!r}; it must be true or false")
            return [name] if value.lower() == "true" else []
        return [f"{name}={part}" for part in (value.split(",") if option.multiple else [value])]

    def _keys(self) -> dict[str, Any]:
        """Options that are given as key=value, by key."""
        options = (param for param in self.params if param.param_type_name == "option")
        return {
            name: option
            for option in options
            for name in [option.opts[0].lstrip("-").replace("-", "_")]
            if name not in _SHARED
        }

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line, with KEY=VALUE."""
        pieces = super().collect_usage_pieces(ctx)
        return pieces if any("KEY=VALUE" in piece for piece in pieces) else [*pieces, "[KEY=VALUE…]"]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the keys, then the options that all verbs share."""
        keys = self._keys()
        rows = []
        for key, option in keys.items():
            spelling, text = option.get_help_record(ctx)
            kind = spelling.partition(" ")[2].strip("<>").removesuffix(" range")
            metavar = "true|false" if option.is_flag else "A,B,…" if option.multiple else kind
            rows.append((f"{key}={metavar}", text))
        with formatter.section("Keys"):
            formatter.write_dl(rows)
        hidden = [option for option in keys.values() if not option.hidden]
        for option in hidden:
            option.hidden = True
        try:
            super().format_options(ctx, formatter)
        finally:
            for option in hidden:
                option.hidden = False


def load(verb: Verb) -> Any:
    """Load the command of a verb, or its group of commands."""
    if not verb.trains:
        # Set before numpy loads. Its products here are small, and OpenBLAS's threads wait for each other by spinning:
        # fitting 5,000 rows takes 1.2 s of CPU with one thread, and 5 to 8 beside a busy process with two.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    file, _, name = verb.where.partition(":")
    module = import_module(f".{file}", __package__)
    outer = typer.Typer(add_completion=False, rich_markup_mode=None)
    outer.callback()(output.root)  # a callback makes it a group, also of one command
    if name == "app":
        outer.add_typer(module.app, name=verb.name)
    else:
        kind = _KeyValueCommand if verb.keys else TyperCommand
        epilog = getattr(module, f"{verb.name.upper()}_EPILOG")
        outer.command(verb.name, cls=kind, epilog=epilog)(getattr(module, name))
    group = get_command(outer)
    assert isinstance(group, TyperGroup)
    command = group.commands[verb.name]
    if verb.trains:
        command.callback = _with_training(verb.name, command.callback)
    return command


def _with_training(name: str, body: Callable[..., Any] | None) -> Callable[..., Any]:
    """Check for the extra [train] before a command's body: help and usage errors need no torch."""
    assert body is not None

    @wraps(body)
    def checked(*args: Any, **options: Any) -> Any:
        from ..extras import require_training

        require_training(name)
        return body(*args, **options)

    return checked


def build() -> TyperGroup:
    """Build the command line."""
    app = typer.Typer(
        name="scaling",
        cls=_Verbs,
        help=_HELP,
        no_args_is_help=True,
        add_completion=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(output.root)
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    for verb in VERBS:
        group.add_command(_LazyCommand(verb))
    return group


def usage_error(error: Exception) -> str | None:
    """Return the message of a usage error (unknown option, missing argument); None for other errors."""
    format_message = getattr(error, "format_message", None)
    if format_message is None:
        return None
    message = str(format_message())
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context is not None else ""
    return message.rstrip(".") + hint
