"""Finished runs as the table in which people report fine-tuning. Nothing here needs torch."""

from collections.abc import Sequence
from pathlib import Path

from families.errors import BadInput
from scaling.files import Record, csv_text

from .config import Settings
from .rung import RUN, RUNG, RungFile, finished_rungs
from .shape import shown_name

COLUMNS = (
    "dataset", "context len", "model", "batch size", "train loss", "val loss", "adj val loss", "best epoch", "run",
)  # fmt: skip


SHORT = (
    "dataset",
    "context",
    "model",
    "batch",
    "train",
    "val",
    "adj val",
    "best",
    "run",
)  # for a terminal's width


class Row(Record):
    """One finished run at the epoch that was best on held-out text; losses in nats per token.

    train_loss: the mean over that epoch (over the last pass, or the whole of a shorter run, where no epochs were asked
    for). adjusted_loss: validation loss per word, loss · tokens / words, which compares across tokenizers; None for
    masked tokens. best_epoch: None where no epochs were asked for.
    """

    dataset: str
    context: int
    model: str
    batch_size: int
    train_loss: float | None
    validation_loss: float
    adjusted_loss: float | None
    best_epoch: int | None
    run: str

    @classmethod
    def of(cls, settings: Settings, rung: RungFile) -> "Row":
        """What a run's settings and its rung say."""
        best = min(rung.epochs, key=lambda epoch: epoch.loss, default=None)
        return cls(
            dataset=settings.dataset,
            context=settings.n_positions,
            model=shown_name(settings.member, settings.spec()),
            batch_size=settings.batch_size,
            train_loss=best.train_loss if best else rung.train_loss,
            validation_loss=best.loss if best else rung.observation.loss,
            adjusted_loss=best.loss_per_word if best else rung.loss_per_word,
            best_epoch=best.epoch if best else None,
            run=settings.run,
        )

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of COLUMNS; what is not known is a dash."""
        return (
            self.dataset or "-", str(self.context), self.model, str(self.batch_size), _loss(self.train_loss),
            _loss(self.validation_loss), _loss(self.adjusted_loss), "-" if self.best_epoch is None else str(self.best_epoch),
            self.run,
        )  # fmt: skip


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def rows(paths: Sequence[Path], *, every: bool = False) -> tuple[Row, ...]:
    """A row for each run, by the order of the paths: a study, a run's folder or a rung's. Its longest rung, or `every` one.

    Raises:
        BadInput: a path without a finished run.
    """
    found: dict[Path, Row] = {}
    for path in paths:
        folders = _rungs(path)
        if not folders:
            raise BadInput(f"{path} holds no finished run; it must be a study, a run's folder or a rung's")
        by_run: dict[Path, list[tuple[RungFile, Path]]] = {}
        for folder in folders:
            by_run.setdefault(folder.parent, []).append((RungFile.read(folder / RUNG), folder))
        for run, rungs in by_run.items():
            settings = Settings.read(run / RUN)
            longest = max(rung.observation.tokens for rung, _ in rungs)
            for rung, folder in sorted(rungs, key=lambda pair: (pair[0].observation.tokens, pair[1].name)):
                if every or rung.observation.tokens == longest:
                    found[folder] = Row.of(settings, rung)
    return tuple(found.values())


def _rungs(path: Path) -> tuple[Path, ...]:
    if path.name == RUNG:
        path = path.parent
    if (path / RUNG).is_file() and path.name.startswith("rung-"):
        return (path,)
    return finished_rungs(path)


def markdown(table: Sequence[Row]) -> str:
    """A table as READMEs have it."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *(row.cells() for row in table)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def as_csv(table: Sequence[Row]) -> str:
    """Every digit, under the names of the record's fields; an empty cell is not known."""
    return csv_text(list(Row.model_fields), (row.model_dump().values() for row in table)).rstrip("\n")
