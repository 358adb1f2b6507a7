"""Validation of a model folder: its loss, measured through transformers' public classes, against the recorded one."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from families.units import BadInput
from scaling.files import Record

from .config import Settings
from .data import DataManifest, Tokens
from .data.prepare import DATA, Encoder, find_prepared_data, model_folder
from .data.remote import local_text
from .data.text import find_texts, read_chunks
from .evaluate import EvalSet, eval_set, evaluate
from .loop import pick_device
from .model.objective import objective_of
from .model.pretrained import first_message_line, has_tokenizer, read_model
from .rung import RUN, RUNG, RungFile

# In nats per token. fp32 sums differ in their last digits between machines; bf16 has 8 significant bits.
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-3}
MAX_NEW_TOKENS = 20


class Validation(Record):
    """Measured loss of a folder's model, in nats per token, and the recorded one.

    Args:
        equal: True if they agree within the tolerance; None if nothing is recorded for this text.
        eval_set: hash of the measured text; `recorded_eval_set` of the recorded one.
        generated: the prompt and its continuation by greedy decoding.
    """

    folder: str
    parameters: int
    data: str
    eval_set: str
    eval_tokens: int
    loss: float
    loss_se: float
    perplexity: float
    bits_per_byte: float | None  # None for masked tokens
    loss_per_word: float | None
    recorded_loss: float | None = None
    recorded_eval_set: str | None = None
    difference: float | None = None
    tolerance: float
    equal: bool | None = None
    prompt: str | None = None
    generated: str | None = None


def validate(
    folder: Path,
    *,
    data: str | None = None,
    prompt: str | None = None,
    tolerance: float | None = None,
    eval_tokens: int = 1_000_000,
    device: str = "auto",
    progress: Callable[[float, float, str], None] = lambda done, total, text: None,
) -> Validation:
    """Load a model with transformers, measure its loss on held-out text, and continue a prompt.

    Args:
        folder: the model's folder, a rung's or a run's.
        data: a study's prepared data, or a text file or folder, all of which is then held out; default: the recorded
            data, found beside the model.
        prompt: text to continue; default: none.
        tolerance: largest difference of the losses in nats per token; default: by number format.
        eval_tokens: largest number of held-out tokens.
        device: "auto", "cpu" or "cuda".
        progress: called with the work done, its total, and a description.

    Raises:
        BadInput: the device, the model or the data is missing, or the recorded loss is of other data.
    """
    device = pick_device(device)
    model = model_folder(folder)
    recorded = RungFile.read(model / RUNG) if (model / RUNG).exists() else None
    tokens = find_prepared_data(model, data)
    progress(0, 1, "loading the model")
    loaded = load(model, device)
    settings = _settings(model, loaded)
    heldout, source = _held_out(model, tokens, data, settings, recorded, loaded, eval_tokens)
    result = evaluate(loaded.model, settings, heldout, loaded.device, progress=progress)
    allowed = TOLERANCE[settings.dtype] if tolerance is None else tolerance
    same = recorded is not None and recorded.observation.eval_set == heldout.name
    difference = result.loss - recorded.observation.loss if same and recorded is not None else None
    return Validation(
        folder=str(model),
        parameters=sum(weight.numel() for weight in loaded.model.parameters()),
        data=source,
        eval_set=heldout.name,
        eval_tokens=result.tokens,
        loss=result.loss,
        loss_se=result.se,
        perplexity=result.perplexity,
        bits_per_byte=result.bits_per_byte,
        loss_per_word=result.loss_per_word,
        recorded_loss=None if recorded is None else recorded.observation.loss,
        recorded_eval_set=None if recorded is None else recorded.observation.eval_set,
        difference=difference,
        tolerance=allowed,
        equal=None if difference is None else abs(difference) <= allowed,
        prompt=prompt,
        generated=None if prompt is None else continuation(loaded, prompt),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model and its tokenizer, loaded by transformers."""

    model: Any
    tokenizer: Any
    device: str


def load(folder: Path, device: str) -> Loaded:
    """Load a model from local files, without running code of the folder.

    Raises:
        BadInput: transformers cannot load it.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **options)
        tokenizer = (
            transformers.AutoTokenizer.from_pretrained(folder, **options) if has_tokenizer(folder) else None
        )
    except Exception as error:  # the library raises many kinds on broken files
        raise BadInput(f"{folder} cannot be loaded: {first_message_line(error)}") from error
    if tokenizer is None:  # the library would create an empty one
        raise BadInput(f"{folder} cannot be loaded: it has no tokenizer.json")
    masked = any("MaskedLM" in name for name in config.architectures or ())
    model = read_model(
        transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM, folder
    )
    return Loaded(model=model.to(device).eval(), tokenizer=tokenizer, device=device)


def continuation(loaded: Loaded, prompt: str) -> str:
    """Return the prompt and a causal model's greedy continuation.

    Raises:
        BadInput: the model does not generate, or the prompt fills its context.
    """
    if not loaded.model.can_generate():
        raise BadInput("the model fills in masked tokens and does not generate; leave out --prompt")
    start = loaded.tokenizer(prompt)["input_ids"] or [loaded.tokenizer.bos_token_id]
    context = loaded.model.config.max_position_embeddings
    if len(start) >= context:
        raise BadInput(
            f"prompt has {len(start)} tokens; the model's context is {context}, and one must be left"
        )
    ids = torch.tensor([start], device=loaded.device)
    out = loaded.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=min(MAX_NEW_TOKENS, context - len(start)),
        pad_token_id=loaded.tokenizer.eos_token_id,
    )
    return str(loaded.tokenizer.decode(out[0], skip_special_tokens=True))


def _settings(place: Path, loaded: Loaded) -> Settings:
    """Return the settings needed for measuring; a folder of other origin is measured in fp32."""
    if (place / RUN).exists():
        return Settings.read(place / RUN)
    config = loaded.model.config
    context, size = config.max_position_embeddings, config.vocab_size
    if not loaded.model.can_generate():
        raise BadInput(
            f"{place} is a masked language model without {RUN}, which says what it was trained to predict"
        )
    return Settings(
        run=place.name or "model", member=place.name or "model", group="", architecture=config.model_type,
        n_layer=config.num_hidden_layers, n_head=config.num_attention_heads, n_embd=config.hidden_size, n_inner=0,
        n_positions=context, vocab_size=size, eos_token_id=loaded.tokenizer.eos_token_id or 0, seed=0, batch_size=1,
        micro_batch=1, lr=1e-3, warmup=0, schedule="wsd", cooldown=0.2, weight_decay=0.0, beta1=0.9, beta2=0.999,
        grad_clip=1.0, dropout=0.0, init_std=0.02, dtype="fp32", data_sha256="",
    )  # fmt: skip


def _held_out(
    place: Path,
    folder: Path | None,
    data: str | None,
    settings: Settings,
    recorded: RungFile | None,
    loaded: Loaded,
    limit: int,
) -> tuple[EvalSet, str]:
    """Return the evaluation set, from prepared tokens or another text, and its source."""
    if folder is None:
        if data is None:
            raise BadInput(
                f"there is no {DATA} beside {place} or above it; --data names the text to measure on"
            )
        return _text(data, settings, loaded, limit), data
    manifest = DataManifest.read(folder / DATA)
    heldout = Tokens.open(folder, (manifest.heldout,), manifest.dtype, settings.n_positions)
    objective = objective_of(settings)
    if recorded is not None:
        window = heldout.windows(np.zeros(1, dtype=np.int64))
        scored = objective.scored(objective.examples(window, (0,)))
        limit = recorded.eval_tokens // scored * settings.n_positions
    held = eval_set(heldout, manifest, limit, objective)
    if recorded is not None and held.name != recorded.observation.eval_set:
        raise BadInput(
            f"data is {folder}, whose held-out text is {held.name}; the recorded loss is of "
            f"{recorded.observation.eval_set}: --data names the study's own data, or another text"
        )
    return held, str(folder)


def _text(data: str, settings: Settings, loaded: Loaded, limit: int) -> EvalSet:
    """Return an evaluation set of a whole text, each document followed by the end-of-text token."""
    dtype = np.dtype("<u4")
    coder = loaded.tokenizer.backend_tokenizer
    with tempfile.TemporaryDirectory() as folder:
        texts = find_texts(local_text(data, Path(folder) / "fetched"))
        writer = Encoder(coder, settings.eos_token_id, Path(folder), dtype, lambda done: None)
        written = writer.write([(text, read_chunks(text)) for text in texts], "heldout")
        total = sum(shard.tokens for shard in written.shards)
        if total <= settings.n_positions:
            raise BadInput(
                f"data is {data!r}, which has {total} tokens; at least {settings.n_positions + 1} are needed"
            )
        tokens = Tokens.open(Path(folder), written.shards, "uint32", settings.n_positions)
        return EvalSet.of(
            tokens,
            limit,
            objective_of(settings),
            tokens_per_byte=total / written.bytes,
            tokens_per_word=total / max(1, written.words),
        )
