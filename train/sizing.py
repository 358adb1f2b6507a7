"""Model, vocabulary and tokens for a text and a time, where none of them is given: `scaling train data=my.txt`.

The model is compute-optimal for what this machine does in the time, as long as the text lasts: it is read MOST_PASSES
times at most.
"""

import bz2
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from families import ModelSpec, params, train_flops_per_token
from families.design import name_of
from families.units import BadInput, format_bytes, format_duration, format_size
from scaling.budget import parse_duration
from scaling.machine import step_flops
from scaling.monitoring.curves import RunPlan
from scaling.paths import StudyPaths, safe_name, seeded_name
from scaling.recipe import recipe

from .backend import estimate, random_examples
from .config import Settings, TrainConfig
from .data.prepare import sample_text, text_bytes
from .data.text import dataset_name
from .loop import pick_device, start, train_step
from .rung import RUN, RungFile
from .settings import TextFacts, settings_of
from .speed import STEP_EFFICIENCY, speed_of

TIME = 600.0  # seconds, where time= is not given

LONGER = 0.5  # a finished run goes on where the time allows for half as much again: estimates err by less

TRAINING_SHARE = 0.85  # of the time; the rest is for reading the text, the first step and the evaluation

MEASURED_SECONDS = 2.0  # of steps that tell the speed

LEAST_BYTES = 10_000  # of text, below which there is nothing to learn and next to nothing to hold out

MOST_PASSES = 16  # over the text: repeats are worth almost as much up to 4, and next to nothing beyond (Muennighoff et al. 2023)

TOKENS_PER_PARAMETER = 20  # compute-optimal (Hoffmann et al. 2022)

VOCABULARIES = (512, 1024, 2048, 4096, 8192, 16384, 32768)

SHAPES = (
    (32, 2, 2),
    (64, 2, 4),
    (96, 3, 6),
    (128, 4, 8),
    (192, 4, 6),
    (256, 6, 8),
    (384, 6, 6),
    (512, 8, 8),
    (768, 12, 12),
    (1024, 24, 16),
)  # n_embd, n_layer, n_head; heads of 16 to 64

PARAMETERS_PER_TOKEN = 2.0  # of the text; larger models learn it by heart in MOST_PASSES

CONTEXTS = (32, 64, 128, 256)  # n_positions; the held-out text is to have four at least

SAMPLE = 2**20  # bytes of text that are compressed for the expected loss

# Bits per byte on held-out text, in units of what bzip2 needs for the text: MIDDLE·(C/3e11)^SLOPE, within a factor of LOW to
# HIGH. Of the four studies in docs/studies (English and Python read once, 6.8e10 to 1.2e13 FLOPs) all 37 runs that were the
# best yet by compute lie within, at 0.90 to 1.19 of the middle; texts read several times should lie lower.
MIDDLE, SLOPE, LOW, HIGH = 1.18, -0.06, 0.8, 1.2

MEASURED_FLOPS = (6e10, 1e14)  # outside, nothing is expected of the loss


def vocabulary(text_bytes: float) -> int:
    """Return the vocabulary of a tokenizer trained on so much text: about the root of its bytes, so that entries occur often.

    1 MB has 1,024 entries, each some 400 times; 100 MB 8,192.
    """
    root = math.sqrt(max(1.0, text_bytes))
    return min(VOCABULARIES, key=lambda size: abs(math.log2(size / root)))


def bytes_per_token(vocab_size: int) -> float:
    """Return the bytes of a token of a byte-level BPE trained on the text, roughly.

    Measured on tinyshakespeare, wikitext-2 and Python's library: 1.9 to 2.1 with 512 entries, 2.4 to 2.7 with 1,024, 2.9 to
    3.2 with 2,048, 3.3 to 3.7 with 4,096, 3.6 to 4.2 with 8,192.
    """
    return max(1.0, 2.0 + 0.47 * math.log2(vocab_size / 512))


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was chosen, as key=value words, and what is expected of it.

    Args:
        words: keys of `scaling train`.
        lines: what was chosen and is expected, for people.
        seconds: expected time of training; None where a run goes on.
        flops_per_s: speed of a step, measured; None likewise.
        bits_per_byte: lowest and highest expected loss on held-out text; None where nothing is expected of it.
    """

    words: dict[str, str]
    lines: tuple[str, ...]
    seconds: float | None
    flops_per_s: float | None
    bits_per_byte: tuple[float, float] | None


def choose(asked: TrainConfig, given: Mapping[str, str], limit: str | None, study: Path) -> Choice:
    """Choose vocabulary, shape and tokens for a text and a time; a run that was begun keeps what it has.

    Args:
        asked: the run with what is given, and any model.
        given: the keys that are given, which are kept.
        limit: the time, such as 10m; None for TIME.
        study: folder of the study.

    Raises:
        BadInput: no text, or too little of it.
    """
    for key in ("tokens", "epochs"):
        if limit is not None and key in given:
            raise BadInput(f"time and {key} are both given; choose one")
    seconds = TIME if limit is None else seconds_of(limit)
    name = safe_name(asked.name or dataset_name(asked.data))
    begun = _begun(asked, name, limit, study)
    if begun is not None:
        return begun
    size = text_bytes(asked.data, asked.validation, asked.field or "", study)
    if size < LEAST_BYTES:
        raise BadInput(
            f"data is {asked.data!r}, {format_bytes(size)} of text; a model trained from scratch needs "
            f"{format_bytes(LEAST_BYTES)} at least, and some megabytes to write well: give more text, or fine-tune a trained "
            "model on it with init="
        )
    vocab = asked.vocab_size or vocabulary(size)
    all_tokens = size / bytes_per_token(vocab)
    unique, held = (1 - asked.held_out) * all_tokens, asked.held_out * all_tokens
    positions = asked.n_positions or max(n for n in CONTEXTS if n == CONTEXTS[0] or 4 * n <= held)
    device = pick_device(asked.device)
    spec, flops_per_s = _shape(seconds * TRAINING_SHARE, unique, vocab, positions, device)
    per_token = train_flops_per_token(spec)
    tokens = (
        asked.tokens if "tokens" in given else _tokens(spec, seconds * TRAINING_SHARE * flops_per_s, unique)
    )
    if asked.epochs:
        tokens = int(asked.epochs * unique)
    batch = asked.batch_size or max(
        1, min(recipe(spec, tokens).batch_sequences, int(0.8 * unique / positions))
    )
    words = {
        "name": name,
        "family": name_of(spec),
        **{
            key: str(getattr(spec, key))
            for key in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")
        },
        **({} if asked.epochs else {"tokens": str(tokens)}),
        "batch_size": str(batch),
    }
    expected = tokens * per_token / flops_per_s
    spare = expected < 0.5 * seconds and "tokens" not in given and not asked.epochs
    why = f"; more would only repeat it, {MOST_PASSES} times is the most" if spare else ""
    bits = expected_bits(asked, tokens * per_token)
    told = "" if bits is None else f", {bits[0]:.2f} to {bits[1]:.2f} bits per byte on held-out text"
    return Choice(
        words=words,
        lines=(
            f"{Path(asked.data).name}: {format_bytes(size)} of text; chosen for it and {format_duration(seconds)} here: a "
            f"vocabulary of {vocab:,}, {name_of(spec)} ({format_size(params(spec))} parameters), {format_size(tokens)} tokens "
            f"(the text {tokens / unique:.1f} times{why})",
            f"expected: {format_duration(expected)} of training at {flops_per_s / 1e9:.0f} GFLOP/s, measured now{told}; "
            "time=1h asks for more, and any key can be given",
        ),
        seconds=expected,
        flops_per_s=flops_per_s,
        bits_per_byte=bits,
    )


def expected_bits(asked: TrainConfig, flops: float) -> tuple[float, float] | None:
    """Return the lowest and highest loss that is expected on held-out text, from how well bzip2 compresses the text.

    Args:
        asked: the run.
        flops: its training FLOPs.
    """
    if asked.objective == "mlm" or not MEASURED_FLOPS[0] <= flops <= MEASURED_FLOPS[1]:
        return None
    sample = sample_text(asked.data, asked.field or "", SAMPLE).encode()
    middle = MIDDLE * (flops / 3e11) ** SLOPE * 8 * len(bz2.compress(sample)) / max(1, len(sample))
    return LOW * middle, HIGH * middle


def outcome(choice: Choice, rung: RungFile) -> str:
    """Return a line that compares what was expected with what came out."""
    took, bits = rung.observation.wall_s or 0.0, rung.bits_per_byte
    line = f"expected {format_duration(choice.seconds or 0.0)} of training, took {format_duration(took)}"
    if choice.bits_per_byte is None or bits is None:
        return line
    low, high = choice.bits_per_byte
    where = "lower" if bits < low else "higher" if bits > high else "as expected"
    return f"{line}; expected {low:.2f} to {high:.2f} bits per byte, reached {bits:.2f}: {where}"


def seconds_of(words: str) -> float:
    """Return the seconds of a time such as 10m or 1h.

    Raises:
        BadInput: it is no time, or less than a second.
    """
    try:
        seconds = parse_duration(words)
    except BadInput as error:
        raise BadInput(f"time is {words!r}; it must be a time such as 10m, 90s or 1h") from error
    if not 1 <= seconds < math.inf:
        raise BadInput(f"time is {words!r}; it must be a second at least")
    return seconds


def _begun(asked: TrainConfig, name: str, limit: str | None, study: Path) -> Choice | None:
    """Return the choice of a run that was begun, so that the same command goes on; None if there is none."""
    folder = asked.out or StudyPaths(study).run_folder(seeded_name(name, asked.seed))
    if not ((folder / RUN).exists() and (folder / "underway.json").exists()):
        return None
    settings, plan = Settings.read(folder / RUN), RunPlan.read(folder / "underway.json")
    steps = max(rung.steps for rung in plan.rungs)
    words = {
        "name": name,
        "family": settings.member,
        **{
            key: str(getattr(settings, key))
            for key in ("n_layer", "n_head", "n_embd", "n_inner", "n_positions", "vocab_size")
        },
        "batch_size": str(settings.batch_size),
        "tokens": str(steps * settings.batch_tokens),
    }
    finished = [RungFile.read(path) for path in folder.glob("rung-*/rung.json")]
    longest = max(finished, key=lambda rung: rung.observation.tokens, default=None)
    line = f"{settings.run} goes on as it was begun: {settings.member}, {format_size(steps * settings.batch_tokens)} tokens"
    if longest is not None and limit is not None:  # a longer time than before: a longer rung of the same run
        spent = longest.observation.wall_s or 0.0
        more = seconds_of(limit) * TRAINING_SHARE - spent
        if spent > 0 and more > LONGER * spent:
            tokens = round(longest.observation.tokens * (1 + more / spent))
            words["tokens"] = str(tokens)
            line = f"{settings.run} goes on to {format_size(tokens)} tokens, {format_duration(more)} more at its speed so far"
    words = {key: value for key, value in words.items() if not (key == "n_inner" and value == "0")}
    return Choice(words=words, lines=(line,), seconds=None, flops_per_s=None, bits_per_byte=None)


def _shape(seconds: float, unique: float, vocab: int, positions: int, device: str) -> tuple[ModelSpec, float]:
    """Return the shape whose tokens take the time, and its speed in FLOP/s here and now."""
    speed = speed_of(device, "fp32") * STEP_EFFICIENCY
    chosen = _optimal(seconds * speed, unique, vocab, positions)
    for _ in range(2):
        speed = measured_speed(_settings(chosen, device), device)
        better = _optimal(seconds * speed, unique, vocab, positions)
        if params(better) >= params(chosen):  # a larger one would be as slow, or slower
            break
        chosen = better
    return chosen, speed


def measured_speed(settings: Settings, device: str) -> float:
    """Return the FLOP/s of steps here and now: the mean over MEASURED_SECONDS, other work on the machine included."""
    session = start(settings, device)
    windows = random_examples(settings, settings.batch_size).to(device)
    float(train_step(session, windows, 1e-4)[0])  # reads the loss, and so waits for a GPU
    began, steps = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < MEASURED_SECONDS or steps < 3:
        float(train_step(session, windows, 1e-4)[0])
        steps += 1
    return steps * step_flops(settings.spec(), settings.batch_size) / spent


def _optimal(budget: float, unique: float, vocab: int, positions: int) -> ModelSpec:
    """Return the largest shape that reads TOKENS_PER_PARAMETER tokens in a budget of FLOPs, and that the text is enough for."""
    specs = [
        ModelSpec(n_layer=layers, n_head=heads, n_embd=width, n_positions=positions, vocab_size=vocab)
        for width, layers, heads in SHAPES
    ]
    fitting = [
        spec
        for spec in specs
        if TOKENS_PER_PARAMETER * params(spec) * train_flops_per_token(spec) <= budget
        and params(spec) <= PARAMETERS_PER_TOKEN * unique
    ]
    return fitting[-1] if fitting else specs[0]


def _tokens(spec: ModelSpec, budget: float, unique: float) -> int:
    tokens = min(budget / train_flops_per_token(spec), MOST_PASSES * unique)
    return max(20 * spec.n_positions, int(tokens))


def _settings(spec: ModelSpec, device: str) -> Settings:
    """Return settings to measure a step of a shape with."""
    shape = {key: getattr(spec, key) for key in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")}
    config = TrainConfig.model_validate(
        {
            "family": name_of(spec),
            "data": "text",
            "tokens": 10**6,
            "batch_size": max(1, 2048 // spec.n_positions),
            **shape,
        }
    )
    return settings_of(config, TextFacts(), device)


def tokens_for(limit: str, config: TrainConfig, study: Path) -> tuple[int, str]:
    """Return the tokens that a model trains on in a time, at the speed estimated here, and a line that says so.

    A model that is trained further reads the text MOST_PASSES times at most.

    Args:
        limit: the time, such as 1h.
        config: the run, with any number of tokens.
        study: folder of the study.
    """
    device = pick_device(config.device)
    settings = settings_of(config, TextFacts(), device)
    need = estimate(settings, 1, device)
    tokens = int(seconds_of(limit) * TRAINING_SHARE * need.flops_per_s / train_flops_per_token(config.spec()))
    tokens = max(tokens, 20 * settings.batch_tokens)
    speed = f"at {need.flops_per_s / 1e9:.0f} GFLOP/s, {need.source}"
    line = f"time={limit}: {format_size(tokens)} tokens {speed}"
    if config.init:
        most = most_tokens(config, config.spec().vocab_size, study)
        if tokens > most:
            line = (
                f"time={limit} would do for {format_size(tokens)} tokens {speed}, but the text is short: {format_size(most)}, "
                f"which is {MOST_PASSES} times the text and the most that helps"
            )
            tokens = max(1, most)
    return tokens, line


def most_tokens(config: TrainConfig, vocab_size: int, study: Path) -> int:
    """Return about how many tokens MOST_PASSES over the training text are."""
    size = text_bytes(config.data, config.validation, config.field or "", study)
    return int(MOST_PASSES * (1 - config.held_out) * size / bytes_per_token(vocab_size))
