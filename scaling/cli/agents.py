"""What a program or an agent reads before it calls the verbs: the guide, and the schemas of their JSON."""

from importlib.resources import files
from typing import Annotated

import typer

from .output import print_json

GUIDE_EPILOG = "Example: scaling guide"
SCHEMA_EPILOG = "Example: scaling schema plan"


def guide_text() -> str:
    """Return the guide, as Markdown."""
    return (files(__package__) / "guide.md").read_text(encoding="utf-8")


def guide() -> None:
    """Print the guide for programs and agents: which verb when, files, JSON, refusals."""
    typer.echo(guide_text().rstrip())


def schema(
    verb: Annotated[list[str], typer.Argument(help="A verb, like plan, or families show.")],
) -> None:
    """Print the JSON schema of what a verb prints with --json."""
    from .schemas import schema as schema_of

    print_json(schema_of(" ".join(verb)))
