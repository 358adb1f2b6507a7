"""Files of a finished rung and where they lie; imports no torch."""

from pathlib import Path
from typing import Any, ClassVar

from scaling.files import Document, Record
from scaling.runs import Run

RUN = "run.json"
TRUNK = "trunk"  # subfolder of a run for the part that its rungs share; each rung has a folder beside it
RUNG = "rung.json"
MODEL = "model"  # subfolder of a rung that Hugging Face's libraries load


class Epoch(Record):
    """The end of one epoch; losses in nats per predicted token, train_loss the mean over its steps."""

    epoch: int
    step: int
    train_loss: float | None = None
    loss: float
    loss_se: float
    loss_per_word: float | None


class RungFile(Document):
    """rung.json, written last: the observation of a finished rung, and measures that compare across tokenizers."""

    KIND: ClassVar[str] = "rung"

    observation: Run
    trunk_checkpoint: str = (
        ""  # checkpoint where its cooldown started, kept so that another cooldown can start there
    )
    perplexity: float
    bits_per_byte: float | None  # None for masked language models, which define no code length
    loss_per_word: float | None
    eval_tokens: int
    train_loss: float | None = (
        None  # mean over the last pass over the text, or over the run if that is shorter
    )
    epochs: tuple[Epoch, ...] = ()  # with epochs=
    best_model: str = ""  # folder of the best epoch's model, relative to the run's

    def facts(self) -> dict[str, Any]:
        """Return the rung as one flat JSON object, the fields of its observation first."""
        facts: dict[str, Any] = self.model_dump(
            mode="json", exclude={"kind", "version", "tool", "created_at", "inputs"}
        )
        return {**facts.pop("observation"), **facts}


def finished_rungs(study: Path) -> tuple[Path, ...]:
    """Return the folders of a study's finished rungs, sorted; a study of one run (out=) has them at its top level."""
    return tuple(
        sorted(path.parent for form in ("runs/*/rung-*", "rung-*") for path in study.glob(f"{form}/{RUNG}"))
    )
