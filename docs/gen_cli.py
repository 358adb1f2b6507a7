"""Write the command-line reference, cli.md, from the commands' own help (run by mkdocs-gen-files)."""

import re

import mkdocs_gen_files
from typer.cli import get_docs_for_click

from scaling.cli.app import build

_LIST_OF_COMMANDS = re.compile(r"^\*\*(Commands)\*\*:", re.M)


def cli_reference() -> str:
    """Markdown of every command: usage, arguments, options, example."""
    group = build()
    pages = [
        "# Command line\n\nEvery command has `--help`, and `--json` prints one JSON object. "
        "Exit status 2 means that the input was refused and nothing was written.\n"
    ]
    for name in sorted(group.commands):
        # A lazy command is replaced by the real one in its own context.
        context = group.commands[name].make_context(name, [], resilient_parsing=True)
        text = get_docs_for_click(obj=context.command, ctx=context, name=f"scaling {name}", indent=1)
        pages.append(
            re.sub(r"^(\s*)Example: (.+)$", r"\1Example:\n\n```console\n$ \2\n```", text, flags=re.M)
        )
    return _LIST_OF_COMMANDS.sub(r"**\1**:", "\n".join(pages))


with mkdocs_gen_files.open("cli.md", "w") as page:
    page.write(cli_reference())
