"""A finished rung: what it gives, and where it lies. Nothing here needs torch."""

from pathlib import Path
from typing import Any, ClassVar

from scaling.files import Document, Record
from scaling.runs import Run

RUN = "run.json"
TRUNK = "trunk"  # the folder in a run's own of what its rungs share; each rung has one beside it
RUNG = "rung.json"
MODEL = "model"  # the folder in a rung's own that Hugging Face's libraries load


class Epoch(Record):
    """The end of one epoch; losses in nats per predicted token, train_loss the mean over its steps."""

    epoch: int
    step: int
    train_loss: float | None = None
    loss: float
    loss_se: float
    loss_per_word: float | None


class RungFile(Document):
    """rung.json, written last: the observation a finished rung gives, and what perplexity cannot say."""

    KIND: ClassVar[str] = "rung"

    observation: Run
    trunk_checkpoint: str = ""  # of the step where its cooldown began, kept: another cooldown can start there
    perplexity: float
    bits_per_byte: float | None  # None for masked tokens, of which no text's length in bits follows
    loss_per_word: float | None
    eval_tokens: int
    train_loss: float | None = (
        None  # mean over the last pass over the text; over the whole run if that is shorter
    )
    epochs: tuple[Epoch, ...] = ()  # where epochs were asked for
    best_model: str = ""  # folder of the best epoch's model, in the run's

    def facts(self) -> dict[str, Any]:
        """Return the rung as one flat JSON object, the fields of its observation first."""
        facts: dict[str, Any] = self.model_dump(
            mode="json", exclude={"kind", "version", "tool", "created_at", "inputs"}
        )
        return {**facts.pop("observation"), **facts}


def finished_rungs(study: Path) -> tuple[Path, ...]:
    """The rung folders of a study that are done, by name; a study of one run (out=) has them beside its other files."""
    return tuple(
        sorted(path.parent for form in ("runs/*/rung-*", "rung-*") for path in study.glob(f"{form}/{RUNG}"))
    )
