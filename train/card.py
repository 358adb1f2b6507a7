"""The model card of a finished rung: data, plan, predicted and actual, how to reproduce it, and `model-index`.

A card is a function of the files beside it (rung.json, run.json, data.json, and the study's sealed plan where there is
one), so it can be written again when more is known.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from families import params
from families.errors import BadInput
from families.units import format_duration, format_size
from scaling.compare import ComparisonRow, run_for, score, sealed_predictions
from scaling.files import write_whole
from scaling.seal import open_seal
from scaling.study import Study

from .config import Settings, TrainConfig
from .manifest import DataManifest
from .rung import MODEL, RUN, RUNG, RungFile, finished_rungs
from .shape import predicted_tokens

CARD = "README.md"
_TASKS = {
    "causal": ("text-generation", "Text Generation", "AutoModelForCausalLM"),
    "mlm": ("fill-mask", "Fill-Mask", "AutoModelForMaskedLM"),
}
# What YAML does not print, and line ends that are not ours: inside double quotes they must be escaped.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a card is made of. `sealed` is the prediction and its outcome, where one was sealed before the run."""

    settings: Settings
    rung: RungFile
    manifest: DataManifest
    sealed: ComparisonRow | None = None


def card(facts: Facts) -> str:
    """The whole README.md."""
    parts = [
        f"---\n{yaml(front_matter(facts))}---\n",
        f"# {_name(facts)}\n\n{_opening(facts)}\n",
        f"## Use\n\n{_use(facts)}\n",
        f"## Data\n\n{_data(facts)}\n",
        f"## Training\n\n{_training(facts)}\n",
        f"## Results\n\n{_results(facts)}\n",
        f"## Predicted and actual\n\n{_predicted(facts)}\n",
        f"## Reproduce\n\n{_reproduce(facts)}\n",
    ]
    return "\n".join(parts)


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


def front_matter(facts: Facts) -> dict[str, Any]:
    """What the hub reads, `model-index` among it."""
    task, title, _ = _TASKS[facts.settings.objective]
    run, rung = facts.rung.observation, facts.rung
    metrics = [
        ("loss", "Loss, nats per token", run.loss),
        ("perplexity", "Perplexity, per token", rung.perplexity),
        ("bits_per_byte", "Bits per byte", rung.bits_per_byte),
        ("loss_per_word", "Loss per word, nats", rung.loss_per_word),
    ]
    known = [(kind, name, value) for kind, name, value in metrics if value is not None]
    return {
        "library_name": "transformers",
        "pipeline_tag": task,
        "tags": ["scaling", facts.settings.architecture],
        "model-index": [
            {
                "name": _name(facts),
                "results": [
                    {
                        "task": {"type": task, "name": title},
                        "dataset": {
                            "name": f"{_source(facts)}, held out",
                            "type": "text",
                            "config": run.eval_set,
                            "split": "validation",
                        },
                        "metrics": [
                            {"type": kind, "name": name, "value": value} for kind, name, value in known
                        ],
                    }
                ],
            }
        ],
    }


def yaml(value: Any, indent: int = 0) -> str:
    """A value as block YAML. Every string is in double quotes, so that no name can be read as something else."""
    pad = "  " * indent
    lines = []
    items = value.items() if isinstance(value, Mapping) else [(None, one) for one in value]
    for key, one in items:
        head = f"{pad}- " if key is None else f"{pad}{key}:"
        if not isinstance(one, str) and isinstance(one, Mapping | Sequence) and not one:
            lines.append(f"{head.rstrip()} {'{}' if isinstance(one, Mapping) else '[]'}\n")
        elif isinstance(one, Mapping):
            inner = yaml(one, indent + 1)
            lines.append(head + inner[len(pad) + 2 :] if key is None else f"{head}\n{inner}")
        elif isinstance(one, Sequence) and not isinstance(one, str):
            lines.append(f"{head.rstrip()}\n{yaml(one, indent + 1)}")
        else:
            lines.append(f"{head}{'' if key is None else ' '}{_scalar(one)}\n")
    return "".join(lines)


def _scalar(value: object) -> str:
    if isinstance(value, str):
        return _UNPRINTABLE.sub(
            lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False)
        )
    text = json.dumps(value, allow_nan=False)
    exponential = isinstance(value, float) and "." not in text
    return text.replace("e", ".0e") if exponential else text  # YAML 1.1 reads 1e+18 as a word


def _name(facts: Facts) -> str:
    return f"{facts.settings.run} on {format_size(facts.rung.observation.tokens)} tokens"


def _source(facts: Facts) -> str:
    return Path(facts.manifest.source).name or facts.manifest.source


def _code(text: object) -> str:
    """Text as inline code, whatever it holds."""
    words = " ".join(str(text).split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", words)), default=0))
    pad = " " if words.startswith("`") or words.endswith("`") else ""
    return f"{fence}{pad}{words}{pad}{fence}"


def _rows(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {key} | {value.replace('|', '&#124;')} |" for key, value in rows)]
    )


def _opening(facts: Facts) -> str:
    settings, run = facts.settings, facts.rung.observation
    spec = settings.spec()
    return (
        f"A {settings.architecture} model of {params(spec):,} parameters ({settings.n_layer} layers, width "
        f"{settings.n_embd}, {settings.n_head} heads, context {settings.n_positions}, vocabulary "
        f"{settings.vocab_size:,}), trained on {run.tokens:,.0f} tokens: loss {run.loss:.4f} nats per token on held-out "
        f"text, perplexity {facts.rung.perplexity:.2f}."
    )


def _use(facts: Facts) -> str:
    task, _, loader = _TASKS[facts.settings.objective]
    taught = "trained on the text below and on nothing else"
    if facts.settings.init:
        taught = "trained further on the text below from the weights named there"
    return (
        f"```python\nfrom transformers import AutoTokenizer, {loader}\n\n"
        f'model, tokenizer = {loader}.from_pretrained("."), AutoTokenizer.from_pretrained(".")\n```\n\n'
        f"It is a base model for {task.replace('-', ' ')}, {taught}: it was not "
        "tuned to follow instructions or to be safe. `scaling validate .` measures its loss again."
    )


def _data(facts: Facts) -> str:
    run, manifest = facts.rung.observation, facts.manifest
    unique = run.unique_tokens or run.tokens
    return _rows(
        [
            ("text", f"{_code(_source(facts))}, {len(manifest.files)} file{'s' * (len(manifest.files) != 1)}"),
            ("tokenizer", f"{_code(manifest.tokenizer)}, {manifest.vocab_size:,} entries"),
            ("training split", f"{manifest.train_tokens:,} tokens"),
            ("trained on", f"{run.tokens:,.0f} tokens, {unique:,.0f} of them distinct: "
                f"{run.tokens / manifest.train_tokens:.3g} times the training split"),
            ("held out", f"{manifest.heldout.tokens:,} tokens, SHA-256 {_code(manifest.heldout_sha256[:16])}"),
            ("evaluated on", f"{facts.rung.eval_tokens:,} of them, {_code(run.eval_set)}"),
        ]
    )  # fmt: skip


def _training(facts: Facts) -> str:
    settings, run = facts.settings, facts.rung.observation
    steps = round(run.tokens / settings.batch_tokens)
    shape = (
        f"constant, then {settings.cooldown_shape} to 0 over the last {settings.cooldown:.0%}"
        if settings.schedule == "wsd"
        else "cosine to 0"
    )
    betas = f", betas {settings.beta1:g} {settings.beta2:g}" if settings.optimizer == "adamw" else ""
    rows = [
        ("steps", f"{steps:,} of {settings.batch_size} × {settings.n_positions} tokens"),
        ("learning rate", f"{settings.lr:g}, {settings.warmup} steps of warm-up, {shape}"),
        (
            "optimiser",
            f"{settings.optimizer}{betas}, weight decay {settings.weight_decay:g}, gradients clipped at "
            f"{settings.grad_clip:g}",
        ),
        ("dropout", f"{settings.dropout:g}"),
        ("arithmetic", f"{settings.dtype}, seed {settings.seed}"),
        ("compute", f"{run.compute:.4g} FLOPs, exact" if run.compute else "not recorded"),
        (
            "time",
            f"{format_duration(run.wall_s)} on {run.accelerator or 'an unnamed device'}" if run.wall_s else "not recorded",
        ),
    ]  # fmt: skip
    if settings.init:
        rows.insert(0, ("began from", f"{_code(settings.init)}, SHA-256 {_code(settings.init_sha256[:16])}"))
    if settings.recipe:
        rows.append(("recipe", settings.recipe))
    return _rows(rows)


def _results(facts: Facts) -> str:
    run, rung = facts.rung.observation, facts.rung
    error = f" ± {run.loss_se:.4f}" if run.loss_se is not None else ""
    unit = "token" if facts.settings.objective == "causal" else "masked token"
    rows = [
        (f"loss, nats per {unit}", f"{run.loss:.4f}{error}"),
        (f"perplexity, per {unit}", f"{rung.perplexity:.2f}"),
    ]
    if rung.bits_per_byte is not None:
        rows.append(("bits per byte", f"{rung.bits_per_byte:.4f}"))
    if rung.loss_per_word is not None:
        rows.append(("loss per word, nats", f"{rung.loss_per_word:.3f}"))
    return _rows(rows)


def _predicted(facts: Facts) -> str:
    row = facts.sealed
    if row is None:
        return "No prediction of this rung was sealed before it was trained."
    inside = "inside the 80 % interval" if row.inside_80 else (
        "inside the 95 % interval" if row.inside_95 else "outside the 95 % interval"
    )  # fmt: skip
    return (
        "| | loss | perplexity |\n|---|---|---|\n"
        f"| predicted | {row.predicted_loss:.4f} | {row.predicted_ppl:.2f} |\n"
        f"| 80 % interval | {row.interval_80[0]:.4f} to {row.interval_80[1]:.4f} | |\n"
        f"| actual | {row.actual_loss:.4f} | {row.actual_ppl:.2f} |\n\n"
        f"Sealed at {row.sealed_at}, before this rung was finished; the outcome is {inside}, {row.error:+.2%} "
        "predicted over actual."
    )


def _reproduce(facts: Facts) -> str:
    """One command, with every setting given that a recipe or a default of another version could change."""
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
    return (
        f"With {settings.tool}:\n\n{fence}\nscaling train {command}\n{fence}\n\n"
        f"Settings {_code(settings.identity()[:16])}, data {_code(settings.data_sha256[:16])}."
    )
