"""Runs that a sealed plan predicts: they carry its digest, and are of its text."""

from collections.abc import Callable
from pathlib import Path

from families import params
from families.units import BadInput
from scaling.paths import StudyPaths
from scaling.planning.match import differences, sealed_member
from scaling.planning.planfile import PlanFile, Seal

from ..config import Settings
from ..rung import RUN


def with_study_seal(
    settings: Settings, tokens: int, study: StudyPaths, folder: Path, log: Callable[[str], None]
) -> Settings:
    """Return the settings with the digest of the study's sealed plan, if this is a run that it predicts.

    A run of the predicted size that is not the sealed one is trained without a seal, and says so.

    Args:
        settings: settings of the run.
        tokens: tokens of its last rung.
        study: the study whose plan may predict it.
        folder: the run's folder; a run that has begun there keeps what it recorded.
        log: called with the reason why it is not the sealed run.

    Raises:
        BadInput: the study's plan was edited after it was sealed.
    """
    found = sealed_member(study, params(settings.spec()), tokens)
    if found is None:
        return settings
    seal, member = found
    others = list(differences(member, settings.model_dump(), settings.decay))
    if seal.data_sha256 not in ("", settings.data_sha256):
        others.insert(0, "the text is another than that of the runs behind the sealed law")
    if not others and (folder / RUN).exists() and Settings.read(folder / RUN).seal != seal.digest:
        others.append("it began without this seal")
    if others:
        log(
            f"{settings.run} is not the sealed run of {member.member}: {others[0]}; "
            "scaling compare will list it under 'not predictions'"
        )
        return settings
    say_seed(settings, seal, log)
    return settings.model_copy(update={"seal": seal.digest})


def with_seal(settings: Settings, plan: PlanFile, folder: Path, log: Callable[[str], None]) -> Settings:
    """Return the settings with the digest of their sealed plan.

    Args:
        settings: settings of a member's run.
        plan: its sealed plan.
        folder: the run's folder.
        log: called with what the seal does not cover.

    Raises:
        BadInput: the study holds another text than the one that the plan was sealed for.
    """
    seal = plan.seal
    assert seal is not None
    check_text(settings.member, settings.group, settings.data_sha256, plan)
    say_seed(settings, seal, log)
    if (folder / RUN).exists() and Settings.read(folder / RUN).seal != seal.digest:
        log(
            f"{settings.run} is not the sealed run: it began without this seal; "
            "scaling compare will list it under 'not predictions'"
        )
    return settings.model_copy(update={"seal": seal.digest})


def say_seed(settings: Settings, seal: Seal, log: Callable[[str], None]) -> None:
    """Say what a run's seed is to a plan that names others, or more."""
    if seal.named and settings.seed not in seal.named:
        log(
            f"{settings.run} has seed {settings.seed}; the plan named {seal.named_text}, and only that is scored"
        )
    elif len(seal.named) > 1:
        log(f"{settings.run} is scored together with the plan's other seeds: it names {seal.named_text}")


def check_text(member: str, group: str, data_sha256: str, plan: PlanFile) -> None:
    """Refuse a text other than that of the runs behind a sealed law; where the seal does not know it, another group.

    Args:
        member: name of the member.
        group: group of the study's text.
        data_sha256: hash of the study's text.
        plan: the sealed plan.

    Raises:
        BadInput: the study's text is another.
    """
    sealed = plan.law.group if plan.law is not None else ""
    bound = plan.seal.data_sha256 if plan.seal is not None else ""
    if bound not in ("", data_sha256) or (not bound and sealed not in ("", group)):
        raise BadInput(
            f"{member} was sealed for another text than the study holds: its group is {group}, sealed "
            f"{sealed or bound[:12]}; train it in the study of the sealed text, or make a new plan"
        )
