"""The seal of a plan: made before its runs, checked whenever the plan is read, and the predictions under it (docs/seal.md)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from families.units import BadInput

from ..files import (
    canonical_json,
    now,
    read_text,
    sha256_bytes,
)
from ..published_laws import PUBLISHED
from ..stats import Interval
from ..untrusted import parse_json
from .planfile import PlanFile, Seal

SEAL_FORMAT = 2


def digest(value: dict[str, object]) -> str:
    """SHA-256 of a plan's JSON value, the seal's own digest left out."""
    seal = value.get("seal")
    bare = (
        {**value, "seal": {k: v for k, v in seal.items() if k != "digest"}}
        if isinstance(seal, dict)
        else value
    )
    return sha256_bytes(canonical_json(bare))


_MEND = "restore the sealed file, or make a new plan (scaling plan … --out another.json)"


BENT = "the law does not describe its own runs yet"  # so begins the note of a plan that is not to be sealed

FORCED = "; sealed all the same (--force)"

SHOWN = "; sealed all the same, to show the whole flow"  # of a demo, which ends with a report on any machine


def seal(plan: PlanFile, *, data_sha256: str = "", seeds: Sequence[int] = ()) -> PlanFile:
    """The plan with its seal: the time now, the law's hash, and the SHA-256 of everything else in it (docs/seal.md).

    Args:
        plan: an unsealed plan.
        data_sha256: text that its members are to be trained on, as `sealed_text` finds it.
        seeds: of the runs that are to be scored, so that one which was thrown away is missed. Without any, whatever
            matches is scored.

    Raises:
        BadInput: it is sealed already, or its law's residuals bend by more than its prediction allows.
    """
    if plan.seal is not None:
        raise BadInput(f"the plan was sealed at {plan.seal.sealed_at}; a seal is set once")
    for note in plan.notes:
        if note.startswith(BENT) and not note.endswith((FORCED, SHOWN)):
            raise BadInput(f"not sealed: {note} (`scaling plan --force` seals it all the same, and says so)")
    law = plan.law.sha256 if plan.law is not None else ""
    named = tuple(dict.fromkeys(seeds))
    made = Seal(
        sealed_at=now(),
        law_sha256=law,
        digest="",
        data_sha256=data_sha256,
        seed=named[0] if len(named) == 1 else None,
        seeds=named,
        format=SEAL_FORMAT,
    )
    open_ = plan.model_copy(update={"seal": made})
    closed = made.model_copy(update={"digest": digest(open_.model_dump(mode="json"))})
    return open_.model_copy(update={"seal": closed})


def open_seal(path: Path) -> PlanFile:
    """Read a sealed plan and check that it is unchanged.

    Raises:
        BadInput: not a plan, not sealed, or changed after it was sealed.
    """
    text = read_text(path)
    plan = PlanFile.parse(text, str(path))
    if plan.seal is None:
        raise BadInput(
            f"{path} is not sealed, so it holds no prediction made before the runs: `scaling fit --study {path.parent}`, "
            f"then `scaling plan --study {path.parent} --budget …` seals a prediction in its place"
        )
    actual = digest(parse_json(text))
    if actual != plan.seal.digest:
        raise BadInput(
            f"{path} was edited after it was sealed at {plan.seal.sealed_at}: "
            f"its digest is {actual[:12]}…, the seal says {plan.seal.digest[:12]}…; {_MEND}"
        )
    if plan.law is not None and plan.law.sha256 != plan.seal.law_sha256:
        raise BadInput(f"{path} names another law than the one it was sealed under; {_MEND}")
    try:
        _ = plan.seal.time
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    return plan


def read_verified_plan(path: Path) -> PlanFile:
    """Read a plan, sealed or not, before anything is spent on it; a sealed one must be unchanged.

    Raises:
        BadInput: not a plan, or modified after sealing.
    """
    plan = PlanFile.read(path)
    return plan if plan.seal is None else open_seal(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedPrediction:
    """Prediction sealed before the run: the part of a plan that a comparison needs."""

    member: str
    params: float
    tokens: float
    loss: float
    interval_80: Interval
    interval_95: Interval
    sealed_at: str
    flops: float | None = None
    hours: float | None = None


def sealed_predictions(plan: PlanFile) -> tuple[SealedPrediction, ...]:
    """Predictions of a sealed plan with intervals, by member.

    Raises:
        BadInput: the plan is not sealed, or predicts nothing with intervals.
    """
    if plan.seal is None:
        raise BadInput("the plan is not sealed; only a prediction sealed before the run can be scored")
    if plan.law is not None and plan.law.name in PUBLISHED:
        raise BadInput(
            f"the plan's predictions are by law {plan.law.name}, on the text it was fitted on; a prediction of own runs "
            "needs a law fitted to own runs: scaling fit, then plan --law law.json"
        )
    predictions = [
        SealedPrediction(
            member=planned.member,
            params=planned.params,
            tokens=planned.tokens,
            loss=planned.prediction.loss,
            interval_80=planned.prediction.interval_80,
            interval_95=planned.prediction.interval_95,
            sealed_at=plan.seal.sealed_at,
            flops=planned.flops,
            hours=planned.hours,
        )
        for planned in plan.members
        if planned.prediction and planned.prediction.interval_80 and planned.prediction.interval_95
    ]
    if not predictions:
        raise BadInput("the plan predicts no member's loss with an interval")
    return tuple(predictions)
