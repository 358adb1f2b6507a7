"""scaling stamp: the time of a sealed plan, attested from outside."""

from pathlib import Path
from typing import Annotated

import typer

from families.units import BadInput

from ..planning.stamp import attestations
from .output import JsonOption, echo, log, print_json

STAMP_EPILOG = "Example: scaling stamp study/plan.json"

CaOption = Annotated[
    Path | None, typer.Option("--ca", help="Root certificates (PEM) to trust besides the system's.")
]


def stamp(
    plan: Annotated[Path, typer.Argument(help="Sealed plan.")],
    url: Annotated[
        str | None, typer.Option("--url", help="Timestamp server (RFC 3161), http or https.")
    ] = None,
    ca: CaOption = None,
    git: Annotated[
        bool, typer.Option("--git", help="Sign the digest as a tag of the repository around the plan.")
    ] = False,
    ots: Annotated[
        bool, typer.Option("--ots", help="Ask the OpenTimestamps client (ots) for a proof.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Have the time of a seal attested by another party; without an option, print who attests it."""
    from ..planning import stamp as stamps
    from ..planning.seal import open_seal

    contents = open_seal(plan)
    if sum((url is not None, git, ots)) > 1:
        raise BadInput("--url, --git and --ots are three ways to stamp; give one of them at a time")
    if ca is not None and url is None:
        raise BadInput("--ca names the roots of a timestamp server; give --url too")
    if url is not None:
        stamps.stamp(plan, url, ca)
    elif git:
        log(f"tagged {stamps.stamp_by_tag(plan)}; push it, so that others have its date")
    elif ots:
        stamps.stamp_by_proof(plan)
    said = attestations(plan, contents)
    if as_json:
        seal = contents.seal
        assert seal is not None
        print_json({"digest": seal.digest, "sealed_at": seal.sealed_at, "attested": list(said)})
        return
    for line in said:
        echo(line)
