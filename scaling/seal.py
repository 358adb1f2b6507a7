"""A prediction frozen before the run: the plan's own hash, so that a later edit shows."""

import json
from pathlib import Path

from families.errors import BadInput

from .files import now, read_text
from .planfile import PlanFile, Seal, digest

_MEND = "put back the file that was sealed, or plan anew (scaling plan … --out another.json)"


def seal(plan: PlanFile, *, sealed_at: str | None = None) -> PlanFile:
    """The plan with its seal: time, the law's hash, and the SHA-256 of everything else in it.

    Raises:
        BadInput: it is sealed already.
    """
    if plan.seal is not None:
        raise BadInput(f"the plan was sealed at {plan.seal.sealed_at}; a seal is set once")
    law = plan.law.sha256 if plan.law is not None else ""
    open_ = plan.model_copy(update={"seal": Seal(sealed_at=sealed_at or now(), law_sha256=law, digest="")})
    assert open_.seal is not None
    closed = open_.seal.model_copy(update={"digest": digest(open_.model_dump(mode="json"))})
    return open_.model_copy(update={"seal": closed})


def open_seal(path: Path) -> PlanFile:
    """Read a sealed plan and check that nobody has edited it since.

    Raises:
        BadInput: not a plan, not sealed, or changed after it was sealed.
    """
    text = read_text(path)
    plan = PlanFile.parse(text, str(path))
    if plan.seal is None:
        raise BadInput(
            f"{path} is not sealed, so nothing was promised before the runs: `scaling fit --study {path.parent}`, "
            f"then `scaling plan --study {path.parent} --budget …` seals a prediction in its place"
        )
    found = digest(json.loads(text))
    if found != plan.seal.digest:
        raise BadInput(
            f"{path} was edited after it was sealed at {plan.seal.sealed_at}: "
            f"its digest is {found[:12]}…, the seal says {plan.seal.digest[:12]}…; {_MEND}"
        )
    if plan.law is not None and plan.law.sha256 != plan.seal.law_sha256:
        raise BadInput(f"{path} names another law than the one it was sealed under; {_MEND}")
    return plan


def plan_to_train(path: Path) -> PlanFile:
    """Read a plan, sealed or not, before anything is spent on it: a sealed one must be as it was sealed.

    Raises:
        BadInput: not a plan, or changed after it was sealed: its runs would meet predictions that nobody made of them.
    """
    plan = PlanFile.read(path)
    return plan if plan.seal is None else open_seal(path)
