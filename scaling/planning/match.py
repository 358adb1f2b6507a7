"""A planned member against a run's settings, and the text that the runs behind a law read."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from families.units import BadInput

from ..files import StrPath, read_text
from ..paths import StudyPaths
from ..runs.readers import read_runs
from ..untrusted import parse_json
from .planfile import PlanFile, PlannedMember, Seal
from .seal import open_seal

SAME_TOKENS = 1e-3  # relative difference up to which a run has the tokens of its prediction: steps are whole

_SHAPE = ("architecture", "n_layer", "n_head", "n_embd", "n_inner", "n_positions", "vocab_size")
# Settings that no recipe varies: a planned member is trained with these (train.settings).
_USUAL = {"dropout": 0.0, "optimizer": "adamw", "init_sha256": "", "data_fraction": 1.0}


def same_size(member: PlannedMember, params: float | None, tokens: float) -> bool:
    """True if a run has the parameters of a member, and its tokens within one part in a thousand."""
    return params == member.params and abs(tokens / member.tokens - 1) < SAME_TOKENS


def differences(member: PlannedMember, settings: Mapping[str, Any], schedule: str = "") -> Iterator[str]:
    """Yield what a run's settings have other than the planned member: shape, then recipe.

    Args:
        member: the planned member.
        settings: settings of the run by the names of run.json; what is not stated is not compared.
        schedule: the run's decay as an observation states it, like "wsd 0.2 linear"; "" where it is not known.
    """
    recipe = member.recipe
    planned: dict[str, Any] = {name: getattr(member, name) for name in _SHAPE}
    planned |= {
        "batch_size": recipe.batch_sequences,
        "lr": recipe.lr,
        "warmup": recipe.warmup_steps,
        "schedule": recipe.schedule,
        **{
            name: getattr(recipe, name)
            for name in ("weight_decay", "beta1", "beta2", "grad_clip", "init_std")
        },
        **_USUAL,
    }
    for name, value in planned.items():
        if name in settings and settings[name] != value:
            yield f"{name} is {settings[name]}, sealed {value}"
    heads = settings.get("n_kv_head") or settings.get("n_head", member.n_head)
    if heads != (member.n_kv_head or member.n_head):
        yield f"n_kv_head is {heads}, sealed {member.n_kv_head or member.n_head}"
    decay = "cosine" if recipe.schedule == "cosine" else f"wsd {recipe.cooldown_fraction!r} linear"
    if schedule and schedule != decay:
        yield f"schedule is {schedule}, sealed {decay}"


def sealed_text(study: StrPath, plan: PlanFile) -> str:
    """`data_sha256` of the text that the runs behind a plan's law read; "" where they do not say, or not the same.

    Args:
        study: folder of the study that holds the runs.
        plan: a plan under a law fitted on them.
    """
    paths = StudyPaths(Path(study))
    if plan.law is None or not plan.law.row_hashes:
        return ""
    try:
        rows = read_runs(paths.runs)
    except BadInput:
        return ""
    behind = set(plan.law.row_hashes)
    return _only(run_settings(paths, run.run) for run in rows if run.row_hash in behind)


def _only(found: Iterable[Mapping[str, Any] | None]) -> str:
    texts = {str(settings.get("data_sha256") or "") if settings else "" for settings in found}
    return texts.pop() if len(texts) == 1 else ""


def run_folders(paths: StudyPaths, run: str) -> tuple[Path, ...]:
    """Where a run of a study may lie: its own folder, or the study's (out=); a name that is a path has none."""
    return (paths.run_folder(run), paths.folder) if Path(run).name == run else ()


def run_settings(paths: StudyPaths, run: str) -> dict[str, Any] | None:
    """The run.json of a run in a study, unchecked; None where there is none.

    A run whose folder is the study itself (out=) has it there.
    """
    found = (settings_in(folder) for folder in run_folders(paths, run))
    return next((value for value in found if value is not None and value.get("run") == run), None)


def settings_in(folder: Path) -> dict[str, Any] | None:
    """The run.json in a run's folder, unchecked; None where there is none."""
    try:
        value = parse_json(read_text(folder / "run.json"))
    except (BadInput, ValueError):
        return None
    return value if isinstance(value, dict) and value.get("kind") == "run" else None


def sealed_member(study: StudyPaths, params: float, tokens: float) -> tuple[Seal, PlannedMember] | None:
    """The seal of the study's plan and its member of that size, whose loss it predicts; None where it has none.

    Raises:
        BadInput: the plan was edited after it was sealed.
    """
    if not study.plan.exists() or PlanFile.read(study.plan).seal is None:
        return None
    plan = open_seal(study.plan)
    assert plan.seal is not None
    for member in plan.members:
        if member.prediction is not None and same_size(member, params, tokens):
            return plan.seal, member
    return None
