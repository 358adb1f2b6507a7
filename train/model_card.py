"""The model card of a finished rung: data, plan, predicted and actual, how to reproduce it, and `model-index`.

A card is a function of the files beside it (rung.json, run.json, data.json, and the study's sealed plan where there is
one), so it can be written again when more is known.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from families import params
from families.units import BadInput, format_duration, format_size
from scaling.files import Record, atomic_write, csv_text
from scaling.paths import StudyPaths
from scaling.planning.seal import open_seal, sealed_predictions
from scaling.planning.stamp import UNATTESTED, attestations
from scaling.rendering import markdown_environment
from scaling.scoring import ComparisonRow
from scaling.scoring import outcome as compare_one
from scaling.scoring.verify import GRADES, Basis

from .config import Settings, TrainConfig, predicted_tokens, shown_name
from .data import DataManifest
from .rung import MODEL, RUN, RUNG, RungFile, finished_rungs

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData
    from jinja2 import Template
    from markupsafe import Markup


CARD = "README.md"

_TASKS = {
    "causal": ("text-generation", "Text Generation", "AutoModelForCausalLM"),
    "mlm": ("fill-mask", "Fill-Mask", "AutoModelForMaskedLM"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Data of a model card.

    Args:
        settings: settings of the run.
        rung: the finished rung.
        manifest: manifest of the text.
        sealed: a sealed prediction of its size, with the outcome or the reasons why it does not count; None without one.
        attested: who attests the time of the seal, a sentence each.
    """

    settings: Settings
    rung: RungFile
    manifest: DataManifest
    sealed: ComparisonRow | None = None
    attested: tuple[str, ...] = ()


def card(facts: Facts) -> str:
    """Return the README.md."""
    from huggingface_hub import ModelCard

    settings, run = facts.settings, facts.rung.observation
    task, _, loader = _TASKS[settings.objective]
    body = _template().render(
        name=_name(facts),
        params=params(settings.spec()),
        settings=settings,
        run=run,
        rung=facts.rung,
        manifest=facts.manifest,
        source=_source(facts),
        task=task,
        loader=loader,
        steps=round(run.tokens / settings.batch_tokens),
        sealed=facts.sealed,
        attested=facts.attested or (UNATTESTED,),
        command=_command(facts),
    )
    return str(ModelCard(f"---\n{front_matter(facts).to_yaml()}\n---\n\n{body}"))


@cache
def _template() -> "Template":
    made = markdown_environment("train")
    made.filters["fmt"] = format
    made.filters["duration"] = format_duration
    made.globals["grades"] = GRADES
    return made.get_template("model_card.md")


def write_card(folder: Path, facts: Facts) -> Path:
    """Write a model folder's README.md."""
    path = folder / CARD
    atomic_write(path, card(facts))
    return path


def write_cards(study: StudyPaths) -> tuple[Path, ...]:
    """Rewrite the cards of a study's finished rungs, with the predictions of its sealed plan."""
    folders = [branch / MODEL for branch in finished_rungs(study.folder)]
    finished = [folder for folder in folders if (folder / RUN).exists() and (folder / RUNG).exists()]
    attested = attestations(study.plan) if finished else ()
    written = []
    texts: dict[Path, DataManifest] = {}
    for folder in finished:
        own = folder.parent.parent / "data" / "data.json"  # of a run that went on with other text
        manifest = own if own.exists() else study.data / "data.json"
        if not manifest.exists():
            continue
        text = texts.setdefault(manifest, DataManifest.read(manifest))
        rung = RungFile.read(folder / RUNG)
        sealed = outcome(study, rung)
        facts = Facts(
            settings=Settings.read(folder / RUN), rung=rung, manifest=text, sealed=sealed, attested=attested
        )
        written.append(write_card(folder, facts))
    return tuple(written)


def outcome(study: StudyPaths, rung: RungFile) -> ComparisonRow | None:
    """Return the scored sealed prediction of this rung, a `NotPrediction` if it is not its outcome; None without one."""
    if not study.plan.exists():
        return None
    try:
        plan = open_seal(study.plan)
        predictions = sealed_predictions(plan)
    except BadInput:
        return None  # no seal, or a broken one
    basis = Basis(plan=plan, study=study)
    for prediction in predictions:
        row, apart = compare_one(basis, prediction, [rung.observation])
        if row is not None or apart:
            return row or apart[0]
    return None


def front_matter(facts: Facts) -> "ModelCardData":
    """Return the card's metadata for the hub, including `model-index`."""
    from huggingface_hub import EvalResult, ModelCardData

    task, title, _ = _TASKS[facts.settings.objective]
    run, rung = facts.rung.observation, facts.rung
    metrics = [
        ("loss", "Loss, nats per token", run.loss),
        ("perplexity", "Perplexity, per token", rung.perplexity),
        ("bits_per_byte", "Bits per byte", rung.bits_per_byte),
        ("loss_per_word", "Loss per word, nats", rung.loss_per_word),
    ]
    results = [
        EvalResult(
            task_type=task,
            task_name=title,
            dataset_name=f"{_source(facts)}, held out",
            dataset_type="text",
            dataset_config=run.eval_set,
            dataset_split="validation",
            metric_type=kind,
            metric_name=name,
            metric_value=value,
        )
        for kind, name, value in metrics
        if value is not None
    ]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=task,
        tags=["scaling", facts.settings.architecture],
        model_name=_name(facts),
        eval_results=results,
    )


def _name(facts: Facts) -> str:
    return f"{facts.settings.run} on {format_size(facts.rung.observation.tokens)} tokens"


def _source(facts: Facts) -> str:
    return Path(facts.manifest.source).name or facts.manifest.source


def _quoted(word: str) -> str:
    """Quote a word for bash; what a terminal would obey or hide is written by its number, as bash reads it in $'…'."""
    if word.isprintable():
        return shlex.quote(word)
    letters = {"\\": "\\\\", "'": "\\'"}
    shown = (letters.get(c, c) if c.isprintable() else f"\\U{ord(c):08x}" for c in word)
    return f"$'{''.join(shown)}'"


def _command(facts: Facts) -> "Markup":
    """The command that trains the same again, as a block of code.

    Every setting is given that a recipe or a default of another version could change.
    """
    from markupsafe import Markup

    settings, manifest = facts.settings, facts.manifest
    words: dict[str, object] = {
        "family": settings.member,
        "data": manifest.source,
        "tokens": round(facts.rung.observation.tokens),
        "tokenizer": manifest.inputs.get("tokenizer") or None,
        "held_out": manifest.held_out,
        "eval_tokens": facts.rung.eval_tokens
        // predicted_tokens(settings.objective, settings.n_positions)
        * settings.n_positions,
    }
    for key in (key for key in TrainConfig.model_fields if key in Settings.model_fields):
        value, optional = getattr(settings, key), not Settings.model_fields[key].is_required()
        unset = optional and not isinstance(value, bool) and not value  # "" or 0: it was not asked for
        words[key] = None if unset else value
    for key in ("validation", "field", "special_tokens"):
        words[key] = manifest.inputs.get(key)
    if settings.epochs:
        words["tokens"] = None
    command = " ".join(_quoted(f"{key}={value}") for key, value in words.items() if value is not None)
    fence = "`" * (1 + max(2, *(len(run) for run in ["", *re.findall("`+", command)])))
    return Markup(f"{fence}\nscaling train {command}\n{fence}")  # noqa: S704 - a fence longer than any inside


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
        """Return the facts of a run from its settings and its rung."""
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
