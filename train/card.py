"""The model card of a finished rung: data, plan, predicted and actual, how to reproduce it, and `model-index`.

A card is a function of the files beside it (rung.json, run.json, data.json, and the study's sealed plan where there is
one), so it can be written again when more is known.
"""

import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from families import params
from families.errors import BadInput
from families.units import format_duration, format_size
from scaling.compare import ComparisonRow, run_for, score, sealed_predictions
from scaling.files import write_whole
from scaling.rendering import markdown_environment
from scaling.seal import open_seal
from scaling.study import Study

from .config import Settings, TrainConfig
from .manifest import DataManifest
from .rung import MODEL, RUN, RUNG, RungFile, finished_rungs
from .shape import predicted_tokens

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
    """What a card is made of. `sealed` is the prediction and its outcome, where one was sealed before the run."""

    settings: Settings
    rung: RungFile
    manifest: DataManifest
    sealed: ComparisonRow | None = None


def card(facts: Facts) -> str:
    """The whole README.md."""
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
        command=_command(facts),
    )
    return str(ModelCard(f"---\n{front_matter(facts).to_yaml()}\n---\n\n{body}"))


@cache
def _template() -> "Template":
    made = markdown_environment("train")
    made.filters["fmt"] = format
    made.filters["duration"] = format_duration
    return made.get_template("model_card.md")


def write_card(folder: Path, facts: Facts) -> Path:
    """Write a model folder's README.md."""
    path = folder / CARD
    write_whole(path, card(facts))
    return path


def write_cards(study: Study) -> tuple[Path, ...]:
    """Write the cards of a study's finished rungs again, with what its sealed plan predicted of each."""
    manifest = study.data / "data.json"
    folders = [branch / MODEL for branch in finished_rungs(study.folder)]
    told = [folder for folder in folders if (folder / RUN).exists() and (folder / RUNG).exists()]
    if not told or not manifest.exists():
        return ()
    text = DataManifest.read(manifest)
    written = []
    for folder in told:
        rung = RungFile.read(folder / RUNG)
        sealed = outcome(study.plan, rung)
        facts = Facts(settings=Settings.read(folder / RUN), rung=rung, manifest=text, sealed=sealed)
        written.append(write_card(folder, facts))
    return tuple(written)


def outcome(plan: Path, rung: RungFile) -> ComparisonRow | None:
    """The sealed prediction of this very rung, scored; None where no plan is sealed, or it says nothing of the rung."""
    if not plan.exists():
        return None
    try:
        promised = sealed_predictions(open_seal(plan))
    except BadInput:
        return None  # no seal, or a broken one: nothing that was promised
    for prediction in promised:
        try:
            return score(prediction, run_for(prediction, [rung.observation]))
        except BadInput:
            continue
    return None


def front_matter(facts: Facts) -> "ModelCardData":
    """What the hub reads, `model-index` among it."""
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
    words["validation"] = manifest.inputs.get("validation")
    if settings.epochs:
        words["tokens"] = None
    command = " ".join(shlex.quote(f"{key}={value}") for key, value in words.items() if value is not None)
    fence = "`" * (1 + max(2, *(len(run) for run in ["", *re.findall("`+", command)])))
    return Markup(f"{fence}\nscaling train {command}\n{fence}")  # noqa: S704 - a fence longer than any inside
