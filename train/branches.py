"""A ladder in steps: the trunk that its rungs share, and the branch of each."""

from collections.abc import Sequence

from scaling.schedule import Schedule, whole_steps

from .config import Settings, TrainConfig


def rung_steps(settings: Settings, rungs: Sequence[int]) -> list[int]:
    """The lengths of a ladder's rungs in steps, from their tokens: ascending, each once."""
    return sorted({whole_steps(tokens, settings.batch_tokens) for tokens in rungs})


def trunk_schedule(settings: Settings, steps: int) -> Schedule:
    """The schedule of a rung of so many steps: its trunk is the same for every rung of wsd."""
    base = Schedule(peak=settings.lr, warmup=settings.warmup, steps=steps, kind=settings.schedule)
    return (
        base if settings.schedule == "cosine" else base.to(steps, settings.cooldown, settings.cooldown_shape)
    )


def trunk_end(schedule: Schedule) -> int:
    """The last step of a rung that is the trunk's: where its cooldown begins."""
    return 0 if schedule.kind == "cosine" else schedule.decay_starts


def branch_name(settings: Settings, steps: int) -> str:
    """A rung's folder: rung-TOKENS, and what its cooldown is where that is not the default."""
    name = f"rung-{steps * settings.batch_tokens}"
    usual = TrainConfig.model_fields
    if settings.schedule == "cosine" or (settings.cooldown, settings.cooldown_shape) == (
        usual["cooldown"].default,
        usual["cooldown_shape"].default,
    ):
        return name
    return f"{name}-{settings.decay.replace(' ', '-')}"


def planned_steps(settings: Settings, rungs: tuple[int, ...]) -> int:
    """Steps that a ladder trains in all: its longest trunk and every branch."""
    schedules = [trunk_schedule(settings, steps) for steps in rung_steps(settings, rungs)]
    if settings.schedule == "cosine":
        return sum(schedule.steps for schedule in schedules)
    return max(s.decay_starts for s in schedules) + sum(s.cooldown_steps for s in schedules)
