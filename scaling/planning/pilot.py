"""Pilot studies: small members to fit a law on and a larger one to predict, sized to a machine's time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from families.design import DesignRule, name_of
from families.spec import ModelSpec
from families.units import BadInput, format_size

from ..fitting.predictor import Fit
from ..fitting.selection import bend_on_card
from ..laws import LossModel, Prediction, n_params
from ..recipe import COOLDOWN, recipe
from ..runs.store import WorkEntry
from ..schedule import ladder_length, whole_steps
from .notes import bend_note, doubts
from .planfile import PlanFile, PlannedLoss, PlannedMember

RUNGS = (
    0.35,
    0.5,
    0.71,
    1.0,
)  # of the longest: evenly spread in log D, the shortest past the first bend of the curve
REACH = (
    1.0  # the target's tokens in units of the pilots' longest rung: it extrapolates in N, not in D as well
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pilot:
    """Members to fit on, smallest first, and the one to predict; they share the batch and the context."""

    learn: tuple[ModelSpec, ...]
    target: ModelSpec
    batch_sequences: int

    @property
    def specs(self) -> tuple[ModelSpec, ...]:
        """All members, smallest first."""
        return (*self.learn, self.target)


def pilot_family(
    rule: DesignRule, widths: Sequence[int], *, batch_sequences: int, least_layers: int = 2
) -> Pilot:
    """Shapes of these widths under a rule; at least two layers, below which attention cannot copy (Olsson et al. 2022).

    Args:
        rule: gives each width its shape.
        widths: n_embd of each member, in any order; the largest is the target.
        batch_sequences: sequences in a step, the same for all members.
        least_layers: fewest layers of a member.

    Raises:
        BadInput: fewer than 5 widths: 4 to learn from and 1 to predict.
    """
    if len(widths) < 5:
        raise BadInput(
            f"a pilot has {len(widths)} members; it needs at least 5: 4 to learn from and 1 to predict"
        )
    specs = []
    for width in sorted(widths):
        spec = rule.at_width(width)
        specs.append(_deeper(spec, least_layers))
    return Pilot(learn=tuple(specs[:-1]), target=specs[-1], batch_sequences=batch_sequences)


def _deeper(spec: ModelSpec, least: int) -> ModelSpec:
    return replace(spec, n_layer=max(least, spec.n_layer))


def longest_rung(
    pilot: Pilot,
    step_seconds: Mapping[str, float],
    seconds: float,
    unique_tokens: int,
    *,
    side_by_side: int = 1,
) -> int:
    """Tokens D of the pilots' longest rung, such that all of the training takes `seconds`; no text is read twice.

    A ladder to D with cooldown share f takes D·(1 − f) + f·ΣD_rung of its member's time, the target REACH·D of its own.
    Ladders that climb side by side take their sum over the number that do, and no less than the longest.

    Args:
        pilot: the members.
        step_seconds: of each member by name, as it will run: on one thread where ladders climb side by side.
        seconds: for all of the training.
        unique_tokens: in the training text.
        side_by_side: ladders trained at the same time.

    Raises:
        BadInput: the text is too short for ladders of 20 steps and more.
    """
    batch = pilot.batch_sequences * pilot.target.n_positions
    per_step = sum(training_seconds(pilot, step_seconds, batch, side_by_side=side_by_side))
    tokens = min(seconds * batch / per_step, unique_tokens / REACH)
    least = round(20 / RUNGS[0]) * batch
    if unique_tokens < least * REACH:
        raise BadInput(
            f"the training text has {format_size(unique_tokens)} tokens; these ladders need "
            f"{format_size(least * REACH)}, so that no text is read twice: give more text"
        )
    return max(round(tokens / batch) * batch, least)


def training_seconds(
    pilot: Pilot, step_seconds: Mapping[str, float], longest: float, *, side_by_side: int = 1
) -> tuple[float, float]:
    """Seconds of all ladders to `longest` tokens, and of the target after them; as `longest_rung` counts them.

    Args:
        pilot: the members.
        step_seconds: of each member by name.
        longest: tokens of the longest rung.
        side_by_side: ladders trained at the same time.
    """
    steps = longest / (pilot.batch_sequences * pilot.target.n_positions)
    each = [step_seconds[name_of(spec)] for spec in pilot.learn]
    ladders = steps * ladder_length(RUNGS, COOLDOWN) * max(sum(each) / side_by_side, max(each))
    return ladders, steps * REACH * step_seconds[name_of(pilot.target)]


def ladder_flops(member: PlannedMember) -> float:
    """Exact training FLOPs of a member's ladder: the trunk to the last cooldown's start once, and each rung's cooldown."""
    branch = (
        member.recipe.cooldown_fraction if member.recipe.schedule == "wsd" else 1.0
    )  # others share no trunk
    return float(member.flops / member.tokens * ladder_length(member.ends, branch))


def ladder_plan(pilot: Pilot, longest: int) -> PlanFile:
    """Plan of the small members, each to every rung, without predictions."""
    batch = pilot.batch_sequences * pilot.target.n_positions
    rungs = tuple(whole_steps(share * longest, batch) * batch for share in RUNGS)
    members = tuple(_planned(spec, rungs[-1], rungs, batch, shortest=rungs[0]) for spec in pilot.learn)
    return PlanFile(members=members, notes=("pilot ladders on which the law is fitted",))


def target_member(pilot: Pilot, longest: int) -> PlannedMember:
    """The member to predict: the same recipe, one rung."""
    batch = pilot.batch_sequences * pilot.target.n_positions
    tokens = round(REACH * longest / batch) * batch
    return _planned(pilot.target, tokens, (tokens,), batch, shortest=round(RUNGS[0] * longest))


def expected_hours(target: PlannedMember, work: Sequence[WorkEntry]) -> float | None:
    """Wall-clock hours at the recorded FLOP/s of the run with the most FLOPs, the nearest in size.

    Training alone, without evaluation and checkpoints; None without records.
    """
    recorded: dict[str, tuple[float, float]] = {}
    for entry in work:
        flops, seconds = recorded.get(entry.run, (0.0, 0.0))
        recorded[entry.run] = (flops + entry.flops, seconds + entry.wall_s)
    if not recorded:
        return None
    flops, seconds = max(recorded.values())
    return target.flops * seconds / flops / 3600


def sealed_plan(target: PlannedMember, law: LossModel, hours: float | None = None) -> PlanFile:
    """A plan for the target alone, with the law's prediction; ready to be sealed.

    Raises:
        BadInput: the law has no intervals, so that it could not be scored.
    """
    size = n_params(target, law.convention)
    prediction = law.predict(size, target.tokens)
    if prediction.interval_80 is None or prediction.interval_95 is None:
        raise BadInput("the law has no intervals (fewer than 4 runs); a sealed prediction needs one")
    planned = target.model_copy(update={"prediction": PlannedLoss.of(prediction), "hours": hours})
    return PlanFile(
        law=law.reference,
        members=(planned,),
        notes=tuple(
            filter(None, [prediction.extrapolation.message, *_bends(law, prediction), *doubts(law, size)])
        ),
        inputs={law.name: law.sha256},
    )


def _bends(law: LossModel, prediction: Prediction) -> list[str]:
    """What the pilot would need before its law describes it; empty where its residuals are noise."""
    bend = bend_on_card(law.card.get("warnings", "")) if isinstance(law, Fit) else None
    note = bend_note(law, float(prediction.loss), prediction.interval_80)
    return [note] if note else [] if bend is None else [bend.text]


def _planned(
    spec: ModelSpec, tokens: int, rungs: tuple[int, ...], batch: int, *, shortest: int
) -> PlannedMember:
    """The warm-up is that of the shortest rung for all, so that no member's differs with its tokens."""
    advice = recipe(spec, tokens, batch_tokens=batch, shortest=shortest)
    return PlannedMember.of(name_of(spec), spec, tokens=tokens, recipe=advice, rungs=rungs)
