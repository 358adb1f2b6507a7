"""Where the files of a study lie, and the names of what is in it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from families.units import BadInput

from .files import Document, StrPath

_UNSAFE = re.compile(r"[^A-Za-z0-9._=-]+")


class StudyFile(Document):
    """study.json: what the study is about. Its version guards the whole folder."""

    KIND: ClassVar[str] = "study"

    title: str
    text: str = "stdlib"  # what it is trained on: a path, or the interpreter's own library
    seed: int = 0
    target: str = ""  # the member whose loss is predicted before it is trained
    seconds: float | None = None  # what the training was sized to
    python: str = ""
    machine: str = ""


@dataclass(frozen=True, slots=True)
class StudyPaths:
    """Where each file of a study lies (docs/formats.md)."""

    folder: Path

    @property
    def file(self) -> Path:
        """study.json."""
        return self.folder / "study.json"

    @property
    def data(self) -> Path:
        """Tokens, tokenizer and data.json."""
        return self.folder / "data"

    @property
    def ladder(self) -> Path:
        """The plan of the pilot ladders."""
        return self.folder / "ladder.json"

    @property
    def plan(self) -> Path:
        """The plan with the sealed prediction."""
        return self.folder / "plan.json"

    @property
    def runs(self) -> Path:
        """Observations."""
        return self.folder / "runs.jsonl"

    @property
    def ledger(self) -> Path:
        """Work done."""
        return self.folder / "ledger.jsonl"

    @property
    def law(self) -> Path:
        """The fitted law."""
        return self.folder / "law.json"

    @property
    def comparison(self) -> Path:
        """Predicted against actual."""
        return self.folder / "comparison.json"

    @property
    def report(self) -> Path:
        """The page to read."""
        return self.folder / "report.html"

    def seed(self) -> int:
        """The study's seed; 0 without study.json.

        Raises:
            BadInput: study.json cannot be read.
        """
        return StudyFile.read(self.file).seed if self.file.exists() else 0

    def run_folder(self, run: str) -> Path:
        """Where a run's checkpoints and metrics lie."""
        return self.folder / "runs" / run


def open_study(folder: StrPath) -> StudyPaths:
    """The paths of the study in a folder; one that has no study.json yet is a study too.

    Raises:
        BadInput: it was written by a newer version.
    """
    study = StudyPaths(Path(folder))
    if study.file.exists():
        StudyFile.read(study.file)
    return study


def seeded_name(name: str, seed: int) -> str:
    """A run's name: what is trained, and with which seed, like gpt2-52m-s0."""
    return f"{name}-s{seed}"


def safe_name(text: str) -> str:
    """A name that is one harmless folder, whatever was typed.

    Raises:
        BadInput: nothing is left of it.
    """
    name = _UNSAFE.sub("-", text).strip(".-")
    if not name:
        raise BadInput(f"name is {text!r}; it must hold letters or digits")
    return name[:80]
