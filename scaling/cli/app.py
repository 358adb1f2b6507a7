"""The verbs, in the order of the flow. A verb's file is imported when the verb is used, so that help starts at once."""

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from . import output

_HELP = """Plan, train and check language models with scaling laws.

The flow: design -> train -> fit -> plan -> seal -> train -> compare -> report. `scaling demo` walks it in five minutes.
"""


class Verb(NamedTuple):
    """name; "file:function" in this folder, or "file:app" for a verb of verbs; what it does, at most 60 letters; whether it
    needs the extra [train].
    """

    name: str
    where: str
    summary: str
    trains: bool = False


VERBS = (
    Verb("design", "families:design_members", "Turn one dial and a rule into realisable models."),
    Verb("families", "families:app", "Published members: list, show, emit a Hugging Face config."),
    Verb("hardware", "families:hardware", "Accelerators and their peaks; time on more devices."),
    Verb("pilot", "pilot:pilot", "Choose the pilot runs that narrow a prediction most."),
    Verb("next", "pilot:next_run", "Say which run to do next."),
    Verb("simulate", "pilot:simulate_plan", "Try a planned sweep on a known surface, before any device."),
    Verb("plan", "plan:plan", "Turn a budget into a model, its tokens and its loss."),
    Verb("fit", "fit:fit", "Fit a scaling law to runs, certify it, print its card."),
    Verb("predict", "fit:predict", "Predict loss and perplexity with intervals."),
    Verb("backtest", "fit:backtest", "Fit the cheap runs, predict the expensive ones, and score."),
    Verb("audit", "compare:audit", "Recompute a table, and explain what does not add up."),
    Verb("train", "train:train", "Train a member on real text, resumable.", trains=True),
    Verb("emit", "tune:emit", "Write a run's configs for other programs: DeepSpeed."),
    Verb("tune", "tune:tune", "Find the fastest way to run a member on this machine.", trains=True),
    Verb("ladder", "train:ladder", "Train every member of a plan to each of its rungs.", trains=True),
    Verb(
        "validate", "monitor:validate", "Load a checkpoint with transformers; measure it again.", trains=True
    ),
    Verb("watch", "monitor:watch_run", "Forecast a run's final loss while it runs; warn early."),
    Verb("table", "monitor:table", "Finished runs as the table of a fine-tuning report."),
    Verb("compare", "compare:compare_study", "Open the seal and score its predictions."),
    Verb("report", "report:report", "Write report.html and every figure of a study."),
    Verb("plot", "report:plot", "Draw one figure of a study, or write its data."),
    Verb("doctor", "demo:doctor", "Derive five famous results again; check the installation."),
    Verb("demo", "demo:demo", "Walk the whole flow on this machine's CPU.", trains=True),
)


class Stopped(Exception):
    """A KeyboardInterrupt and what it says: typer ends at one by itself, and says nothing."""


class _Verbs(TyperGroup):
    """The group of all verbs."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Stopped(str(error)) from error


class _LazyCommand(TyperCommand):
    """A verb's name and summary; the verb itself takes its place once it is called, asked for help or completed."""

    def __init__(self, verb: Verb) -> None:
        super().__init__(verb.name, help=verb.summary, short_help=verb.summary, rich_markup_mode=None)
        self.verb = verb

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """The real command's; what runs after is the context's command, so this one is out of the way."""
        return load(self.verb).make_context(*args, **extra)


def load(verb: Verb) -> Any:
    """The verb's own command, or group of commands."""
    file, _, name = verb.where.partition(":")
    module = import_module(f".{file}", __package__)
    outer = typer.Typer(add_completion=False, rich_markup_mode=None)
    outer.callback()(output.root)  # with a callback it is a group, whatever it holds
    if name == "app":
        outer.add_typer(module.app, name=verb.name)
    else:
        outer.command(verb.name, epilog=getattr(module, f"{verb.name.upper()}_EPILOG"))(getattr(module, name))
    group = get_command(outer)
    assert isinstance(group, TyperGroup)
    command = group.commands[verb.name]
    if verb.trains:
        command.callback = _with_training(verb.name, command.callback)
    return command


def _with_training(name: str, body: Callable[..., Any] | None) -> Callable[..., Any]:
    """A verb's body behind the check for the extra [train]: its help and its usage errors need no torch."""
    assert body is not None

    @wraps(body)
    def checked(*args: Any, **options: Any) -> Any:
        from ..doctor import require_training

        require_training(name)
        return body(*args, **options)

    return checked


def build() -> TyperGroup:
    """The whole command line."""
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
    """The message of a usage error (unknown option, missing argument), or None if it is something else."""
    format_message = getattr(error, "format_message", None)
    if format_message is None:
        return None
    message = str(format_message())
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context is not None else ""
    return message.rstrip(".") + hint
