"""Validation of a model folder: its loss, measured through transformers' public classes, against the recorded one."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from families.units import BadInput
from scaling.files import Record, sha256_bytes

from .config import Settings
from .data import DataManifest, Tokens
from .data.encode import Encoder
from .data.prepare import DATA, find_prepared_data, model_folder
from .data.readers import read_chunks
from .data.remote import local_text
from .data.text import find_texts
from .data.tokenizer import LEAST_LOST, check_merges, neutral
from .evaluate import EvalSet, eval_set, evaluate
from .loop import pick_device
from .model.objective import EVALUATION_KEY, Causal, objective_of
from .model.pretrained import first_message_line, has_tokenizer, read_model
from .rung import RUN, RUNG, RungFile

# In nats per token. fp32 sums differ in their last digits between machines; bf16 has 8 significant bits.
TOLERANCE = {"fp32": 1e-4, "bf16": 5e-3}
MAX_NEW_TOKENS = 20

FEW_WINDOWS = 16  # of a text, below which its last, shorter window is scored too

UNBOUNDED = (
    2048  # context of a model whose positions have no limit (BLOOM, Mamba), unless another is asked for
)

MOST_LOGITS = 2**28  # of a window in fp32, 1 GiB: what bounds the context that is not asked for

_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx")


class Validation(Record):
    """Measured loss of a folder's model, in nats per token, and the recorded one.

    Args:
        equal: True if they agree within the tolerance; None if nothing is recorded for this text.
        eval_set: hash of the measured text; `recorded_eval_set` of the recorded one.
        context: tokens of a window.
        left_out: tokens after the last whole window, which are not scored.
        generated: the prompt and its continuation by greedy decoding.
    """

    folder: str
    parameters: int
    data: str
    eval_set: str
    eval_tokens: int
    context: int
    left_out: int = 0
    lost: float = 0.0  # share of the text's characters that the tokenizer does not know or drops
    loss: float
    loss_se: float | None  # None for a single window, which has no spread
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
    context: int | None = None,
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
        context: tokens of a window; default: as trained, or as many as the model has positions for, within MOST_LOGITS.
        device: "auto", "cpu" or "cuda".
        progress: called with the work done, its total, and a description.

    Raises:
        BadInput: the device, the model or the data is missing, the recorded loss is of other data, or a context longer than
            the model's.
    """
    device = pick_device(device)
    model = model_folder(folder)
    recorded = RungFile.read(model / RUNG) if (model / RUNG).exists() else None
    tokens = find_prepared_data(model, data)
    progress(0, 1, "loading the model")
    loaded = load(model, device)
    settings = _settings(model, loaded, context)
    if context is not None and recorded is not None and context != recorded.observation.n_positions:
        recorded = None  # a loss at another context does not compare
    heldout, source, left_out, lost = _held_out(model, tokens, data, settings, recorded, loaded, eval_tokens)
    objective = None
    if settings.objective == "causal":
        objective = _Logits()
        _check_causal(loaded, model)
    result = evaluate(loaded.model, settings, heldout, loaded.device, progress=progress, objective=objective)
    allowed = TOLERANCE[settings.dtype] if tolerance is None else tolerance
    same = recorded is not None and recorded.observation.eval_set == heldout.name
    difference = result.loss - recorded.observation.loss if same and recorded is not None else None
    return Validation(
        folder=str(model),
        parameters=sum(weight.numel() for weight in loaded.model.parameters()),
        data=source,
        eval_set=heldout.name,
        eval_tokens=result.tokens,
        context=settings.n_positions,
        left_out=left_out,
        lost=lost,
        loss=result.loss,
        loss_se=result.se or None,
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
    check_merges(folder / "tokenizer.json", str(folder))
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **options)
        # By its tokenizer.json where there is one: from the model's type alone the library would take another
        # pre-tokenizer than the file's, for Qwen2 and others.
        kind = (
            transformers.PreTrainedTokenizerFast
            if (folder / "tokenizer.json").is_file()
            else transformers.AutoTokenizer
        )
        tokenizer = kind.from_pretrained(folder, **options) if has_tokenizer(folder) else None
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
    start = loaded.tokenizer(prompt)["input_ids"] or [loaded.tokenizer.bos_token_id or 0]
    context = longest_context(loaded.model.config) or UNBOUNDED
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


class _Logits(Causal):
    """Next-token prediction of any model that returns logits."""

    def losses(self, model: Any, examples: torch.Tensor) -> torch.Tensor:
        """Return the loss of each next token in nats, shape (batch, n_positions)."""
        logits_BxTxV, targets = model(input_ids=examples[:, :-1]).logits, examples[:, 1:]
        losses = functional.cross_entropy(
            logits_BxTxV.flatten(0, 1).float(), targets.flatten(), reduction="none"
        )
        return losses.view(targets.shape)


@torch.no_grad()
def _check_causal(loaded: Loaded, place: Path) -> None:
    """Check that a model's predictions do not change with the tokens after them, as XLNet's or an encoder's do.

    Raises:
        BadInput: they do; their loss would be of text that the model sees.
    """
    length = min(_CAUSAL, longest_context(loaded.model.config) or _CAUSAL)
    ids = (
        torch.arange(2, 2 + length, device=loaded.device)[None]
        % loaded.model.config.get_text_config().vocab_size
    )
    other = ids.clone()
    other[0, -1] = ids[0, 0]
    first, second = (loaded.model(input_ids=one).logits[:, : length - 1].float() for one in (ids, other))
    if length > 1 and (first - second).abs().max() > _SAME * first.abs().max():
        raise BadInput(
            f"{place} is no causal language model: its predictions change with the tokens after them, so that its loss would "
            "be of text that it sees"
        )


_CAUSAL = 8  # tokens of the window on which it is checked

_SAME = 1e-4  # of the largest logit


def longest_context(config: Any) -> int | None:
    """Return the number of positions that a model has; None if they have no limit."""
    text = config.get_text_config()
    found = (getattr(text, key, None) for key in _POSITIONS)
    return next((int(value) for value in found if isinstance(value, int) and value > 0), None)


def _settings(place: Path, loaded: Loaded, context: int | None) -> Settings:
    """Return the settings needed for measuring; a folder of other origin is measured in fp32.

    Raises:
        BadInput: a masked model that was not trained here, or a context that the model does not have.
    """
    config = loaded.model.config
    longest, size = longest_context(config), config.get_text_config().vocab_size
    if context is not None and (context < 1 or (longest is not None and context > longest)):
        most = f"1 to {longest:,}" if longest else "at least 1"
        raise BadInput(f"context is {context}; {place} has {most} positions")
    if (place / RUN).exists():
        settings = Settings.read(place / RUN)
        return settings.model_copy(update={"n_positions": context or settings.n_positions})
    if not loaded.model.can_generate():
        raise BadInput(
            f"{place} is a masked language model without {RUN}, which says what it was trained to predict"
        )
    within = 2 ** ((MOST_LOGITS // size).bit_length() - 1)
    return Settings(
        run=place.name or "model", member=place.name or "model", group="", architecture=config.model_type,
        n_layer=1, n_head=1, n_embd=1, n_inner=0, n_positions=context or min(longest or UNBOUNDED, within), vocab_size=size,
        eos_token_id=loaded.tokenizer.eos_token_id or 0, seed=0, batch_size=1,
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
) -> tuple[EvalSet, str, int, float]:
    """Return the evaluation set, of prepared tokens or another text, its source, its tokens left out, and the share lost."""
    if folder is None:
        if data is None:
            raise BadInput(
                f"there is no {DATA} beside {place} or above it; --data names the text to measure on"
            )
        held, left, lost = _text(data, settings, loaded, limit)
        return held, data, left, lost
    manifest = DataManifest.read(folder / DATA)
    heldout = Tokens.open(folder, (manifest.heldout,), manifest.dtype, settings.n_positions)
    objective = objective_of(settings)
    if recorded is not None:
        window = heldout.windows(np.zeros(1, dtype=np.int64))
        scored = objective.scored(objective.examples(window, (0,)))
        limit = recorded.eval_tokens // scored * settings.n_positions
    elif len(heldout) == 0:
        raise BadInput(
            f"data is {folder}, whose held-out text has {manifest.heldout.tokens} tokens, less than one context of "
            f"{settings.n_positions}: --context names a shorter one"
        )
    held = eval_set(heldout, manifest, limit, objective)
    if recorded is not None and held.name != recorded.observation.eval_set:
        raise BadInput(
            f"data is {folder}, whose held-out text is {held.name}; the recorded loss is of "
            f"{recorded.observation.eval_set}: --data names the study's own data, or another text"
        )
    return held, str(folder), 0, 0.0


def _text(data: str, settings: Settings, loaded: Loaded, limit: int) -> tuple[EvalSet, int, float]:
    """Return an evaluation set of a whole text, its tokens after the last window, and the share that its tokenizer loses.

    Its documents are separated by the end-of-text token. A text of few windows has a last, shorter one of what is left.

    Raises:
        BadInput: the text has no token to predict.
    """
    dtype = np.dtype("<u4")
    objective, context = objective_of(settings), settings.n_positions
    with tempfile.TemporaryDirectory() as folder:
        texts = find_texts(local_text(data, Path(folder) / "fetched"))
        writer = Encoder(_coder(loaded), settings.eos_token_id, Path(folder), dtype, lambda done: None)
        written = writer.write([(text, read_chunks(text)) for text in texts], "heldout")
        total = written.shards[0].tokens - 1 if written.shards else 0  # without the end of the last document
        if total < 2:
            raise BadInput(f"data is {data!r}, which has {total} tokens; at least 2 are needed")
        ids = np.fromfile(Path(folder) / written.shards[0].name, dtype=dtype)[:total].astype(np.int64)
    lost = writer.coverage.lost if writer.coverage.lost >= LEAST_LOST else 0.0
    per_byte, per_word = total / max(1, written.bytes), total / max(1, written.words)
    windows = Tokens((ids,), context)
    begin = len(windows) * context
    if len(windows) >= FEW_WINDOWS or total - begin < 2:
        held = EvalSet.of(windows, limit, objective, tokens_per_byte=per_byte, tokens_per_word=per_word)
        return held, total - 1 - begin, lost
    examples = objective.examples(windows.windows(np.arange(len(windows))), EVALUATION_KEY)
    rest = objective.examples(ids[None, begin:], EVALUATION_KEY)
    digest = sha256_bytes(examples.astype("<i8").tobytes() + rest.astype("<i8").tobytes())[:12]
    return EvalSet(examples, f"heldout-{digest}", per_byte, per_word, rest), 0, lost


def _coder(loaded: Loaded) -> Any:
    """Return the tokenizer as one of the tokenizers library, neutral; one in Python gets the methods that are used."""
    own = getattr(loaded.tokenizer, "backend_tokenizer", None)
    return neutral(own) if own is not None else _PythonTokenizer(loaded.tokenizer)


class _Ids(NamedTuple):
    ids: list[int]


@dataclass(frozen=True, slots=True)
class _PythonTokenizer:
    """A tokenizer of transformers that is written in Python."""

    own: Any
    encode_special_tokens: bool = False

    def get_vocab(self) -> dict[str, int]:
        """Return the ids by name."""
        return dict(self.own.get_vocab())

    def get_added_tokens_decoder(self) -> dict[int, Any]:
        """Return the added tokens by id."""
        return dict(self.own.added_tokens_decoder)

    def encode_batch(self, texts: list[str], *, add_special_tokens: bool) -> list[_Ids]:
        """Encode without truncation or padding."""
        return [
            _Ids(self.own.encode(text, add_special_tokens=add_special_tokens, truncation=False))
            for text in texts
        ]
