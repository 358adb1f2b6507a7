"""Steps of the demo: a study sized to this machine, from text to a sealed prediction."""

import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from families.design import DesignRule
from families.units import BadInput
from scaling.files import hashes
from scaling.fitting.fit import fit
from scaling.fitting.predictor import load_law
from scaling.machine import BUSY, cpu_share
from scaling.paths import StudyFile, StudyPaths
from scaling.planning.match import sealed_text
from scaling.planning.pilot import (
    expected_hours,
    ladder_plan,
    longest_rung,
    pilot_family,
    sealed_plan,
    target_member,
    training_seconds,
)
from scaling.planning.planfile import PlanFile, PlannedMember, write_plan
from scaling.planning.seal import BENT, SHOWN, open_seal, seal
from scaling.runs.readers import read_runs
from scaling.runs.store import exists, read_ledger

from ..backend import probe_members
from ..data import DataManifest
from ..data.prepare import prepare
from ..data.text import find_texts
from .pool import cores

LIBRARY = "stdlib"  # the sources of Python's standard library, as a text that every machine has
WIDTHS = (32, 48, 64, 96, 128)  # n_embd of the members, the last of which is predicted
RULE = DesignRule(ratio=32, head_size=16, n_positions=128, vocab_size=1024)
BATCH_SEQUENCES = 8
MAX_THREADS = 4  # for one model of this size; more threads wait for each other
OVERRUN, LATE = 1.3, 5.0  # times the expected seconds, and seconds beyond them: what is said
SAVE_EVERY = 10.0  # seconds between checkpoints, the most that an interrupted demo loses
EVAL_TOKENS = (2**13, 2**16)  # held-out tokens evaluated at each rung, at least and at most
EVAL_TOKENS_A_SECOND = 1280  # per second of training: a quick demo would evaluate for as long as it trains


def threads() -> int:
    """Return the number of threads to train the largest member on."""
    return min(MAX_THREADS, cores())


def training_options(seed: int, seconds: float) -> dict[str, Any]:
    """Options of `train` for all members.

    Args:
        seed: random seed.
        seconds: training time that the study is sized to.
    """
    least, most = EVAL_TOKENS
    eval_tokens = min(most, max(least, int(seconds * EVAL_TOKENS_A_SECOND)))
    return {"yes": True, "save_every": SAVE_EVERY, "eval_tokens": eval_tokens, "device": "cpu", "seed": seed}


def text_name(data: str) -> str:
    """Return the name of the text for people."""
    return "the sources of Python's own standard library" if data == LIBRARY else Path(data).name


def study_contents(study: StudyPaths, seed: int, seconds: float, data: str) -> StudyFile:
    """Contents of study.json, which the folder holds or is to hold.

    Args:
        study: paths of the study.
        seed: random seed.
        seconds: training time that the study is sized to.
        data: a file, a folder or "stdlib".

    Raises:
        BadInput: the folder holds another study, or the text does not exist.
    """
    contents = StudyFile(
        title=f"A prediction made before the run, on {text_name(data)}",
        text=data,
        seed=seed,
        seconds=seconds,
        python=platform.python_version(),
        machine=f"{platform.machine()}, {platform.system()}",
    )
    if not study.file.exists():
        if exists(study.runs) or study.plan.exists():
            raise BadInput(f"{study.folder} holds another study; give another --study")
        find_texts(data)
        return contents
    recorded = StudyFile.read(study.file)
    for key in ("text", "seed", "seconds"):
        there, here = getattr(recorded, key), getattr(contents, key)
        if there != here:
            raise BadInput(
                f"{study.folder} holds a study with {key} {there}; this one has {here}: give another --study"
            )
    return recorded


def prepare_text(study: StudyPaths, data: str, progress: Callable[[str, float], None]) -> DataManifest:
    """Tokenise the text into the study, or read what is there."""
    return prepare(data, study.data, vocab_size=RULE.vocab_size, progress=progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """Seconds that training is expected to take, and the share of the cores that the machine gave when it was sized."""

    ladders: float
    target: float
    share: float

    def warning(self, seconds: float) -> str:
        """What to expect where the machine is busy, or even the smallest study takes longer; empty otherwise.

        Args:
            seconds: of training that were asked for.
        """
        expected = self.ladders + self.target
        if expected > OVERRUN * seconds:
            return (
                f"the smallest ladders that a law can be fitted to take about {expected:.0f} s of training here, not "
                f"{seconds:.0f}{self._busy()}; the prediction is sealed all the same"
            )
        return f"sized to what is left{self._busy()}" if self._busy() else ""

    def _busy(self) -> str:
        return f": other work takes {1 - self.share:.0%} of the cores" if self.share < BUSY else ""


def overrun(part: str, expected: float, took: float) -> str:
    """A line on training that took much longer than its probe said; empty otherwise.

    Args:
        part: what was trained.
        expected: seconds.
        took: seconds.
    """
    if took <= OVERRUN * expected or took - expected < LATE:
        return ""
    return (
        f"{part} took {took:.0f} s and not the {expected:.0f} s that the probe predicted, so other work came between: times "
        "cannot be predicted on a machine this busy; losses do not depend on them"
    )


def plan_members(
    study: StudyPaths, seconds: float, train_tokens: int
) -> tuple[PlanFile, PlannedMember, Sizing | None]:
    """Plan the ladders and the target; sized by a probe the first time, read from ladder.json afterwards.

    Args:
        study: paths of the study.
        seconds: training time of all members.
        train_tokens: tokens of the training text, none of which is read twice.

    Returns:
        The plan of the ladders, the member to predict, and the time expected; None where the study was sized before.
    """
    pilot = pilot_family(RULE, WIDTHS, batch_sequences=BATCH_SEQUENCES)
    sizing = None
    if not study.ladder.exists():
        share = cpu_share(cores())
        speeds = probe_members(pilot.learn, BATCH_SEQUENCES, threads=1, share=share)
        speeds |= probe_members((pilot.target,), BATCH_SEQUENCES, threads=threads(), share=share)
        side_by_side = min(cores(), len(pilot.learn))
        longest = longest_rung(pilot, speeds, seconds, train_tokens, side_by_side=side_by_side)
        ladders, target = training_seconds(pilot, speeds, longest, side_by_side=side_by_side)
        sizing = Sizing(ladders=ladders, target=target, share=share)
        inputs = hashes((study.data / "data.json",))
        ladder_plan(pilot, longest).model_copy(update={"inputs": inputs}).write(study.ladder)
    plan = PlanFile.read(study.ladder)
    return plan, target_member(pilot, max(member.tokens for member in plan.members)), sizing


def seal_target(
    study: StudyPaths, target: PlannedMember, seed: int, seconds: float | None = None
) -> PlanFile:
    """Fit the law on the ladders alone and seal its prediction for the target; done once, before the target is trained.

    Args:
        study: the demo's.
        target: the largest member.
        seed: of the fit and of the target's run.
        seconds: of training that the probe expects; None where the ladders' speed is all that is known, which had one
            thread each.
    """
    if not study.plan.exists():
        ladders = read_runs(study.runs).select(lambda run: run.params != target.params)
        replace(fit(ladders, seed=seed), inputs=hashes((study.runs,))).save(study.law)
        law = load_law(study.law)
        hours = expected_hours(target, read_ledger(study.ledger)) if seconds is None else seconds / 3600
        made = sealed_plan(target, law, hours)
        notes = tuple(note + SHOWN if note.startswith(BENT) else note for note in made.notes)
        made = made.model_copy(update={"notes": notes})
        write_plan(seal(made, data_sha256=sealed_text(study.folder, made), seeds=(seed,)), study.plan)
    return open_seal(study.plan)
