"""What a training run is asked to do: every key of `scaling train key=value …`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from families import MEMBERS, ModelSpec, member
from families.architectures import architecture
from families.design import name_of
from families.units import BadInput, listed, parse_count
from scaling.files import Document, Record, canonical_json, sha256_bytes
from scaling.recipe import COOLDOWN
from scaling.schedule import Kind, Shape

# MERGED DOCSTRINGS
# Where a ladder's rungs are: listed token counts, or so many in a geometric row that ends at the last.
# The shape that a run was asked for, from a member, a checkpoint or keys, and what such a model is trained on.

_ROW = re.compile(r"(\d+)\s*x\s*(\d+(?:\.\d+)?|\.\d+)", re.IGNORECASE)

MOST = 64  # rungs in a row: more is a slip of the keyboard


class Rungs(Record):
    """`listed` token counts; or `count` rungs in all, each `factor` times the one before, the last at the run's tokens."""

    listed: tuple[int, ...] = ()
    count: int = 1
    factor: float = 2.0

    @classmethod
    def parse(cls, value: Any) -> Any:
        """1M,2M,4M lists them; 5x2 is five rungs, each twice the one before.

        Raises:
            BadInput: neither, or a row that does not grow.
        """
        if isinstance(value, list | tuple):
            return cls(listed=tuple(parse_count(part, "rungs") for part in value))
        if not isinstance(value, str):
            return value
        if "x" not in value.lower():
            return cls(listed=tuple(parse_count(part, "rungs") for part in listed(value, "rungs") if part))
        match = _ROW.fullmatch(value.strip())
        if match is None:
            raise BadInput(f"rungs is {value!r}; it must be token counts like 1M,2M,4M, or a row like 5x2")
        count, factor = int(match[1]), float(match[2])
        if not 1 <= count <= MOST or factor <= 1:
            raise BadInput(f"rungs is {value!r}; a row has 1 to {MOST} rungs and a factor above 1")
        return cls(count=count, factor=factor)

    def at(self, tokens: int) -> tuple[int, ...]:
        """Token counts of all rungs, ascending, `tokens` the last.

        Raises:
            BadInput: a listed rung beyond `tokens`, or a row that starts below one token.
        """
        if any(rung > tokens for rung in self.listed):
            raise BadInput(f"rungs has {max(self.listed)}; none may exceed tokens, which is {tokens}")
        if tokens / self.factor ** (self.count - 1) < 1:
            raise BadInput(
                f"rungs is {self.count}x{self.factor:g}; its first would be below one token of {tokens}"
            )
        row = (round(tokens / self.factor**step) for step in range(self.count))
        return tuple(sorted({*self.listed, *row}))

    @property
    def many(self) -> bool:
        """Whether there is more than the run's own end."""
        return bool(self.listed) or self.count > 1


ObjectiveKind = Literal["causal", "mlm"]

MASKED_SHARE = 0.15  # of a window's tokens are predicted (Devlin et al. 2019, 3.1)

_ENCODER = {"architecture": "bert", "n_positions": 512, "vocab_size": 30522}  # as the published BERTs have it


SHAPE_KEYS = ("n_layer", "n_head", "n_embd", "n_inner", "n_positions", "vocab_size")

SHAPE_FIELDS = ("architecture", *SHAPE_KEYS)


def asked_spec(
    family: str, init: str | None, objective: ObjectiveKind | None, given: Mapping[str, int]
) -> ModelSpec:
    """The checkpoint's shape (`init`) or the member's (`family`), changed where `given` says so."""
    if init is not None:
        return _spec_of_init(family, init, given)
    if {"n_layer", "n_head", "n_embd"} <= given.keys():
        usual: dict[str, Any] = {"architecture": "gpt2"} if objective != "mlm" else _ENCODER
        known = MEMBERS.get(family.strip().lower())
        if known is not None:
            usual = _ENCODER if known.spec.architecture == "bert" else _kind_of(known.spec, given)
        return ModelSpec(**{**usual, **given})
    base = member(family).spec
    shape = {name: getattr(base, name) for name in SHAPE_FIELDS if name != "n_inner"}
    inner = base.n_inner if given.get("n_embd") is None else 0
    return ModelSpec(**{**shape, **_kind_of(base, given), "n_inner": inner, **given})


def shown_name(family: str, spec: ModelSpec) -> str:
    """A published member's name; where its layers, heads or widths are others, one that tells the shape."""
    known = MEMBERS.get(family.strip().lower())
    told = ("n_layer", "n_head", "n_embd", "n_inner")
    if known is None or all(getattr(spec, key) == getattr(known.spec, key) for key in told):
        return family
    return name_of(spec)


def _spec_of_init(family: str, init: str, given: Mapping[str, int]) -> ModelSpec:
    from .model.pretrained import check_same_shape, checkpoint_folder, checkpoint_spec

    theirs = checkpoint_spec(checkpoint_folder(init))
    asked = {field: getattr(theirs, field) for field in (*SHAPE_FIELDS, "n_kv_head")}
    known = MEMBERS.get(family.strip().lower())
    if known is not None:
        asked = {field: getattr(known.spec, field) for field in asked} | {"n_positions": theirs.n_positions}
    spec = ModelSpec(**{**asked, **given})
    check_same_shape(spec, theirs, init)
    return spec


def _kind_of(base: ModelSpec, given: Mapping[str, int]) -> dict[str, Any]:
    """A member's architecture, and its grouping of heads where they are as many as it has."""
    heads = base.n_kv_head if given.get("n_head", base.n_head) == base.n_head else 0
    return {"architecture": base.architecture, "n_kv_head": heads}


def objective_for(spec: ModelSpec) -> ObjectiveKind:
    """What an architecture is trained on."""
    return "causal" if architecture(spec.architecture).causal else "mlm"


def predicted_tokens(objective: ObjectiveKind, n_positions: int) -> int:
    """How many tokens of a window are predicted: each next one, or those that are masked."""
    return n_positions if objective == "causal" else max(1, round(MASKED_SHARE * n_positions))


def check_objective(wanted: ObjectiveKind | None, spec: ModelSpec) -> None:
    """Refuse an objective that the architecture cannot have.

    Raises:
        BadInput: saying what it is trained on.
    """
    own = objective_for(spec)
    if wanted not in (None, own):
        kind = "a decoder" if own == "causal" else "an encoder"
        raise BadInput(f"objective is {wanted}; {spec.architecture} is {kind}, which is trained with {own}")


OptimizerKind = Literal["adamw", "adafactor"]

EngineKind = Literal["torch", "deepspeed"]


def _count(value: Any, info: ValidationInfo) -> int:
    return parse_count(value, info.field_name or "count")


Count = Annotated[int, BeforeValidator(_count)]


class TrainConfig(Record):
    """One training run. Sizes read as 52M, 200k or 1e6; every default that is not here comes from the recipe."""

    family: str = Field(
        default="",
        description="A published member (scaling families list), or a name for the shape that n_layer, n_head and n_embd "
        "give; with init= the checkpoint's.",
    )
    data: str = Field(
        description="A text file or a folder of .txt, .md, .py, .jsonl or .parquet; stdlib for Python's own sources; "
        "wikitext-2, wikitext-103, imdb, openwebtext or hub:OWNER/NAME from the Hugging Face hub (extra `hub`); "
        "or a URL of a store, s3://bucket/text (extra `s3`)."
    )
    validation: str | None = Field(
        default=None,
        description="Text that is held out, as a file or a folder (default: a share of data, or the data set's own).",
    )
    tokens: Count = Field(default=0, description="Tokens to train on.")
    epochs: int | None = Field(
        default=None,
        ge=1,
        description="Passes over the training text, in place of tokens; the best one is noted.",
    )
    init: str | None = Field(
        default=None,
        description="Weights to begin from: a Hugging Face folder, a rung's or a checkpoint's, or a name on the hub.",
    )
    name: str | None = Field(
        default=None, description="The run is called NAME-sSEED (default: the family's)."
    )
    out: Path | None = Field(default=None, description="The run's folder (default: STUDY/runs/NAME).")
    export: str | None = Field(
        default=None, description="URL that finished models are copied to, such as s3://bucket/models."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the initialisation and of the order of the data.")
    tokenizer: str | None = Field(
        default=None,
        description="A Hugging Face tokenizer folder or tokenizer.json (default: a byte-level BPE trained on the data).",
    )

    n_layer: int | None = Field(default=None, ge=1)
    n_head: int | None = Field(default=None, ge=1)
    n_embd: int | None = Field(default=None, ge=1)
    n_inner: int | None = Field(default=None, ge=1)
    n_positions: int | None = Field(default=None, ge=2, description="Context length.")
    vocab_size: int | None = Field(
        default=None, ge=257, description="Vocabulary; 256 bytes and the end of text at least."
    )

    batch_size: int | None = Field(default=None, ge=1, description="Sequences per step.")
    micro_batch: int | None = Field(
        default=None, ge=1, description="Sequences per forward pass; must divide batch_size."
    )
    objective: ObjectiveKind | None = Field(
        default=None, description="causal (decoders) or mlm (BERT): the architecture's own by default."
    )
    ablate: Literal["steps", "data"] | None = Field(
        default=None,
        description="steps: rungs at fractions of tokens; data: the same steps on fractions of the text, repeated.",
    )
    jobs: int | None = Field(
        default=None,
        ge=1,
        description="Runs of a sweep at a time, a thread each (default: the cores where models are below 1M parameters).",
    )
    fractions: tuple[float, ...] = Field(
        default=(0.25, 0.5, 1.0), description="Of ablate, comma-separated, each above 0 and at most 1."
    )
    data_fraction: float = Field(
        default=1.0, gt=0, le=1, description="Share of the training windows that is used, and repeated."
    )
    optimizer: OptimizerKind = Field(default="adamw", description="adamw or adafactor.")
    lr: float | None = Field(default=None, gt=0, le=1, description="Peak learning rate.")
    warmup: int | None = Field(default=None, ge=0, description="Warm-up steps.")
    schedule: Kind = Field(default="wsd", description="wsd (constant, then a cooldown to 0) or cosine to 0.")
    cooldown: float = Field(
        default=COOLDOWN, gt=0, le=1, description="Share of the steps in the cooldown of wsd."
    )
    cooldown_shape: Shape = Field(default="linear", description="Of the cooldown of wsd.")
    rungs: Annotated[Rungs, BeforeValidator(Rungs.parse)] = Field(
        default=Rungs(),
        description="Where a cooldown branch gives an annealed observation: token counts like 1M,2M,4M, or a row that "
        "ends at tokens: 5x2 is five rungs, each twice the one before.",
    )
    weight_decay: float | None = Field(default=None, ge=0)
    beta1: float | None = Field(default=None, gt=0, lt=1)
    beta2: float | None = Field(default=None, gt=0, lt=1)
    grad_clip: float = Field(default=1.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    init_std: float | None = Field(
        default=None, gt=0, le=1, description="Standard deviation of the weights at the start (GPT-2: 0.02)."
    )

    dtype: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="Arithmetic of the matmuls; weights stay in fp32. auto: the faster, as a probe of this machine says.",
    )
    compile: Literal["auto", True, False] = Field(
        default="auto",
        description="Compile the step. auto: where the steps it saves are worth the time it takes.",
    )
    attention: Literal["auto", "eager", "sdpa", "flash", "cudnn"] = Field(
        default="auto",
        description="Attention's backend; flash and cudnn are a GPU's. auto: the fastest probed.",
    )
    threads: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto", description="CPU threads. auto: the fastest probed."
    )
    checkpointing: bool = Field(
        default=False,
        description="Compute activations again in the backward pass: less memory, a third more work.",
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = Field(
        default=1,
        ge=1,
        description="Processes of this machine that share the run, one GPU each or a share of the cores.",
    )
    zero: Literal[0, 1, 2, 3] = Field(
        default=0,
        description="What they divide: 0 the batch (DDP), 2 also gradients and optimiser state, 3 also weights (FSDP2); "
        "1, the optimiser state alone, is DeepSpeed's.",
    )
    engine: EngineKind = Field(
        default="torch",
        description="torch, or deepspeed (extra `deepspeed`), which runs the same stages its way.",
    )
    held_out: float = Field(
        default=0.05, gt=0, lt=0.5, description="Share of the text held out for evaluation."
    )
    eval_tokens: Count = Field(default=1_000_000, description="Held-out tokens evaluated, at most.")
    tensorboard: bool = Field(
        default=False,
        description="Write TensorBoard event files (extra `tensorboard`) beside metrics.jsonl too.",
    )
    log_every: int = Field(default=10, ge=1, description="Steps between lines of metrics.jsonl.")
    save_every: float = Field(default=300.0, gt=0, description="Seconds between checkpoints.")

    @field_validator("zero", mode="before")
    @classmethod
    def _stage(cls, value: Any) -> Any:
        return int(value) if str(value).isdecimal() else value

    @field_validator("compile", mode="before")
    @classmethod
    def _yes_or_no(cls, value: Any) -> Any:
        return (
            {"true": True, "false": False}.get(value.strip().lower(), value)
            if isinstance(value, str)
            else value
        )

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("fractions"), str):
            return {**values, "fractions": tuple(part for part in values["fractions"].split(",") if part)}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> "TrainConfig":
        if not (self.family or self.init):
            raise ValueError("family= is missing; it is needed, or init=")
        self._check_length()
        if self.batch_size and self.micro_batch and self.batch_size % self.micro_batch:
            raise ValueError(
                f"micro_batch is {self.micro_batch}; it must divide batch_size, which is {self.batch_size}"
            )
        if self.batch_size and self.batch_size % self.devices:
            raise ValueError(f"batch_size is {self.batch_size}; devices={self.devices} must divide it")
        self._check_engine()
        if (self.rungs.many or self.ablate == "steps") and self.schedule != "wsd":
            raise ValueError(f"schedule is {self.schedule}; rungs need wsd")
        check_objective(self.objective, self.spec())
        return self

    def _check_engine(self) -> None:
        if self.engine == "deepspeed":
            if self.compile is True:
                raise ValueError("compile is true; engine=deepspeed takes steps that are not compiled")
        elif self.zero == 1:
            raise ValueError(
                "zero is 1, which DeepSpeed alone has: engine=deepspeed; here 0 is DDP, 2 and 3 are FSDP2"
            )

    def _check_length(self) -> None:
        if bool(self.tokens) == bool(self.epochs):
            given = (
                f"tokens is {self.tokens} and epochs {self.epochs}" if self.tokens else "tokens= is missing"
            )
            raise ValueError(f"{given}; one of tokens= and epochs= is needed")
        if self.epochs and (self.rungs.many or self.ablate == "steps"):
            raise ValueError(f"epochs is {self.epochs}; rungs and ablate=steps need tokens= in its place")
        if self.rungs.many and self.ablate == "steps":
            raise ValueError("rungs and ablate=steps are both given; choose one")
        if self.data_fraction < 1 and self.ablate == "data":
            raise ValueError("data_fraction and ablate=data are both given; choose one")
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                raise ValueError(f"fractions has {fraction:g}; each must be above 0 and at most 1")
        if self.tokens:
            self.rung_tokens()

    def rung_tokens(self) -> tuple[int, ...]:
        """Token counts of all rungs, ascending; `tokens` is the last."""
        if self.ablate == "steps":
            rungs = {round(fraction * self.tokens) for fraction in self.fractions}
            return Rungs(listed=tuple(sorted(rung for rung in rungs if rung > 0))).at(self.tokens)
        return self.rungs.at(self.tokens)

    def spec(self) -> ModelSpec:
        """The model's shape: the checkpoint's or the member's, changed where a key says so."""
        given = {name: value for name in SHAPE_KEYS if (value := getattr(self, name)) is not None}
        return asked_spec(self.family, self.init, self.objective, given)


NOT_IDENTITY = (
    "created_at", "tool", "inputs", "micro_batch", "threads", "checkpointing", "recipe", "cooldown", "cooldown_shape",
    "init", "epochs", "dataset",
)  # fmt: skip


class Settings(Document):
    """run.json: a run with every default resolved. A run resumes only under the settings it began with."""

    KIND: ClassVar[str] = "run"

    run: str
    member: str
    group: str
    architecture: str
    n_layer: int
    n_head: int
    n_embd: int
    n_inner: int
    n_kv_head: int = 0  # of grouped-query attention; 0 stands for n_head
    n_positions: int
    vocab_size: int
    eos_token_id: int
    seed: int
    batch_size: int  # sequences per step
    micro_batch: int  # sequences per forward pass
    lr: float
    warmup: int  # steps
    schedule: Kind
    cooldown: float  # share of a rung's steps
    cooldown_shape: Shape = "linear"
    weight_decay: float
    beta1: float
    beta2: float
    grad_clip: float
    dropout: float
    init_std: float
    dtype: Literal["fp32", "bf16"]
    compile: bool = False
    attention: Literal["eager", "sdpa", "flash", "cudnn"] = "sdpa"
    threads: int = 0  # of the CPU; 0: as many as the process has
    checkpointing: bool = False  # activations are computed again
    objective: ObjectiveKind = "causal"
    mask_token_id: int | None = None  # of mlm
    tokenizer_size: int | None = None  # of mlm, whose random tokens are real ones
    optimizer: OptimizerKind = "adamw"
    init: str = ""  # the folder whose weights it began with
    init_sha256: str = ""
    epochs: int = 0  # passes after each of which the held-out text is scored
    dataset: str = ""  # what people call the text
    data_fraction: float = 1.0  # of the training windows
    data_sha256: str  # of data.json's token files, by way of their own hashes
    recipe: str = ""  # where lr, batch and warm-up come from

    def spec(self) -> ModelSpec:
        """The model's shape."""
        return ModelSpec(**{name: getattr(self, name) for name in (*SHAPE_FIELDS, "n_kv_head")})

    @property
    def batch_tokens(self) -> int:
        """Tokens per optimiser step."""
        return self.batch_size * self.n_positions

    @property
    def decay(self) -> str:
        """How a branch ends: "wsd 0.2 linear", or "cosine"."""
        return "cosine" if self.schedule == "cosine" else f"wsd {self.cooldown!r} {self.cooldown_shape}"

    def identity(self) -> str:
        """SHA-256 of what decides the trunk's numbers, which every branch continues.

        The cooldown is a branch's own (`decay`); micro-batch and threads only change rounding.
        """
        return sha256_bytes(canonical_json(self.model_dump(mode="json", exclude=set(NOT_IDENTITY))))

    def order_of_batches(self) -> str:
        """SHA-256 of what decides which tokens a step reads: runs that share it read the same batches in the same order."""
        names = ("seed", "batch_size", "n_positions", "data_sha256", "data_fraction")
        return sha256_bytes(canonical_json({name: getattr(self, name) for name in names}))
