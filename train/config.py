"""Configuration of a training run: the keys of `scaling train key=value …`, and the settings they resolve to."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from families import FAMILIES, MEMBERS, Member, ModelSpec, member, params, params_active
from families.architectures import architecture
from families.configs import is_config_path, read_config
from families.design import name_of, rule_for
from families.rules import is_rule, maker
from families.units import BadInput, listed, parse_count
from scaling.files import Document, Record, canonical_json, sha256_bytes
from scaling.recipe import COOLDOWN
from scaling.schedule import Kind, Shape

_SERIES = re.compile(r"(\d+)\s*x\s*(\d+(?:\.\d+)?|\.\d+)", re.IGNORECASE)

MAX_RUNGS = 64  # of a geometric series; larger values are typing errors


class Rungs(Record):
    """Rungs of a ladder: listed token counts, or a geometric series that ends at the run's tokens.

    Args:
        listed: token counts; the run's tokens are added.
        count: number of rungs of the series.
        factor: ratio of two neighbouring rungs.
    """

    listed: tuple[int, ...] = ()
    count: int = 1
    factor: float = 2.0

    @classmethod
    def parse(cls, value: Any) -> Any:
        """Parse `1M,2M,4M`, a list, or `5x2`, five rungs, each twice the one before.

        Raises:
            BadInput: neither of these, or a series that does not grow.
        """
        if isinstance(value, list | tuple):
            return cls(listed=tuple(parse_count(part, "rungs") for part in value))
        if not isinstance(value, str):
            return value
        if "x" not in value.lower():
            return cls(listed=tuple(parse_count(part, "rungs") for part in listed(value, "rungs") if part))
        match = _SERIES.fullmatch(value.strip())
        if match is None:
            raise BadInput(
                f"rungs is {value!r}; it must be token counts such as 1M,2M,4M, or a series such as 5x2"
            )
        count, factor = int(match[1]), float(match[2])
        if not 1 <= count <= MAX_RUNGS or factor <= 1:
            raise BadInput(f"rungs is {value!r}; a series has 1 to {MAX_RUNGS} rungs and a factor above 1")
        return cls(count=count, factor=factor)

    def at(self, tokens: int) -> tuple[int, ...]:
        """Return the token counts of all rungs, ascending, `tokens` the last.

        Raises:
            BadInput: a listed rung exceeds `tokens`, or the series starts below one token.
        """
        if any(rung > tokens for rung in self.listed):
            raise BadInput(f"rungs has {max(self.listed)}; none may exceed tokens, which is {tokens}")
        if tokens / self.factor ** (self.count - 1) < 1:
            raise BadInput(
                f"rungs is {self.count}x{self.factor:g}; the first rung would be below one token, with tokens {tokens}"
            )
        series = (round(tokens / self.factor**step) for step in range(self.count))
        return tuple(sorted({*self.listed, *series}))

    @property
    def many(self) -> bool:
        """True if there are rungs besides the run's own end."""
        return bool(self.listed) or self.count > 1


ObjectiveKind = Literal["causal", "mlm"]

MASKED_SHARE = 0.15  # of a window's tokens are predicted (Devlin et al. 2019, 3.1)

_ENCODER = {"architecture": "bert", "n_positions": 512, "vocab_size": 30522}  # as in the published BERTs

SHAPE_KEYS = ("n_layer", "n_head", "n_embd", "n_inner", "n_positions", "vocab_size")

SHAPE_FIELDS = ("architecture", *SHAPE_KEYS)


def requested_spec(
    family: str, init: str | None, objective: ObjectiveKind | None, given: Mapping[str, int]
) -> ModelSpec:
    """Return the shape of the checkpoint (`init`) or the member (`family`), with the fields in `given` replaced.

    Args:
        family: a published member, or a name for the shape.
        init: checkpoint folder or name; None without one.
        objective: requested objective; None for the architecture's own.
        given: fields of the shape that are set.
    """
    if init is not None:
        return _spec_of_init(family, init, given)
    if {"n_layer", "n_head", "n_embd"} <= given.keys():
        defaults: dict[str, Any] = {"architecture": "gpt2"} if objective != "mlm" else _ENCODER
        known = _named(family)
        if known is not None:
            defaults = _ENCODER if known.spec.architecture == "bert" else _kind_of(known.spec, given)
        elif is_rule(family):
            rule = rule_for(family, n_positions=given.get("n_positions"), vocab_size=given.get("vocab_size"))
            made = rule.maker.spec(
                given["n_layer"],
                given["n_embd"],
                head_size=given["n_embd"] // given["n_head"] or 1,
                n_positions=rule.n_positions,
                vocab_size=rule.vocab_size,
            )
            defaults = {field: getattr(made, field) for field in ModelSpec.__dataclass_fields__}
        return ModelSpec(**{**defaults, **given})
    base = _of_name(family).spec
    shape = {name: getattr(base, name) for name in SHAPE_FIELDS if name != "n_inner"}
    inner = base.n_inner if given.get("n_embd") is None else 0
    return ModelSpec(**{**shape, **_kind_of(base, given), "n_inner": inner, **given})


def shown_name(family: str, spec: ModelSpec) -> str:
    """Return a published member's name; if its layers, heads or widths are changed, a name made from the shape."""
    known = _named(family)
    naming = ("n_layer", "n_head", "n_embd", "n_inner")
    if known is not None and all(getattr(spec, key) == getattr(known.spec, key) for key in naming):
        return known.name if is_config_path(family) else family
    if known is None:
        return family
    return name_of(spec)


def _named(family: str) -> Member | None:
    """Return the published member of that name, or the one of a config.json's path; None for any other name."""
    return MEMBERS.get(family.strip().lower()) or (
        read_config(family) if family and is_config_path(family) else None
    )


def _of_name(family: str) -> Member:
    if is_rule(family) and family.strip().lower() not in MEMBERS:
        raise BadInput(
            f"family is {family!r}, a rule for many sizes: n_layer=, n_head= and n_embd= are needed too, or a member such as "
            f"{FAMILIES[maker(family).published].members[0].name}"
        )
    return member(family)


def _spec_of_init(family: str, init: str, given: Mapping[str, int]) -> ModelSpec:
    from .model.pretrained import check_same_shape, checkpoint_folder, checkpoint_spec

    theirs = checkpoint_spec(checkpoint_folder(init))
    shape = {field: getattr(theirs, field) for field in (*SHAPE_FIELDS, "n_kv_head", "config")}
    known = _named(family)
    if known is not None:
        shape = {field: getattr(known.spec, field) for field in shape} | {"n_positions": theirs.n_positions}
    spec = ModelSpec(**{**shape, **given})
    check_same_shape(spec, theirs, init)
    return spec


def _kind_of(base: ModelSpec, given: Mapping[str, int]) -> dict[str, Any]:
    """Return a member's architecture and config, its key-value heads and head size if the number of heads is the member's."""
    if given.get("n_head", base.n_head) == base.n_head and given.get("n_embd", base.n_embd) == base.n_embd:
        return {"architecture": base.architecture, "n_kv_head": base.n_kv_head, "config": base.config}
    kept = {key: value for key, value in base.config.items() if key != "head_dim"}
    heads = given.get("n_head", base.n_head)
    shared = base.n_kv_head if heads == base.n_head else 0
    return {"architecture": base.architecture, "n_kv_head": shared, "config": kept}


def objective_for(spec: ModelSpec) -> ObjectiveKind:
    """Return the objective of an architecture: causal for decoders, mlm for encoders."""
    return "causal" if architecture(spec.architecture).causal else "mlm"


def predicted_tokens(objective: ObjectiveKind, n_positions: int) -> int:
    """Return the number of predicted tokens in a window: all next tokens, or the masked ones."""
    return n_positions if objective == "causal" else max(1, round(MASKED_SHARE * n_positions))


def check_objective(requested: ObjectiveKind | None, spec: ModelSpec) -> None:
    """Check that an architecture can be trained with an objective.

    Raises:
        BadInput: it cannot; names the one it is trained with.
    """
    own = objective_for(spec)
    if requested not in (None, own):
        kind = "a decoder" if own == "causal" else "an encoder"
        raise BadInput(
            f"objective is {requested}; {spec.architecture} is {kind}, which is trained with {own}"
        )


OptimizerKind = Literal["adamw", "adafactor", "muon"]

EngineKind = Literal["torch", "deepspeed"]

GRAPHS: Final = "reduce-overhead"

CompileMode = Literal["default", "max-autotune-no-cudagraphs", "reduce-overhead"]  # torch.compile's own names


def _count(value: Any, info: ValidationInfo) -> int:
    return parse_count(value, info.field_name or "count")


Count = Annotated[int, BeforeValidator(_count)]


class TrainConfig(Record):
    """One training run. Sizes read as 52M, 200k or 1e6; defaults that are not here come from the recipe."""

    family: str = Field(
        default="",
        description="A published member (see scaling families list), or a name for the shape given by n_layer, n_head and "
        "n_embd; with init=, default: the checkpoint's.",
    )
    data: str = Field(
        description="A text file or a folder of plain text, .jsonl, .json, .csv, .parquet or .arrow, also compressed (.gz, .zst, "
        ".xz); files called valid or test are held out; stdlib for Python's own sources; "
        "wikitext-2, wikitext-103, imdb, openwebtext or hub:OWNER/NAME from the Hugging Face hub (extra `hub`); "
        "or a URL of a store, s3://bucket/text (extra `s3`)."
    )
    validation: str | None = Field(
        default=None,
        description="Held-out text, a file or a folder (default: a share of data, or the data set's own validation split).",
    )
    tokens: Count = Field(default=0, description="Tokens to train on.")
    epochs: int | None = Field(
        default=None,
        ge=1,
        description="Passes over the training text, instead of tokens; the best epoch is recorded.",
    )
    init: str | None = Field(
        default=None,
        description="Weights to start from: a Hugging Face folder, a rung or checkpoint of a run, or a name on the hub.",
    )
    name: str | None = Field(default=None, description="Name of the run, NAME-sSEED (default: the family).")
    out: Path | None = Field(default=None, description="The run's folder (default: STUDY/runs/NAME).")
    export: str | None = Field(
        default=None, description="URL to copy finished models to, such as s3://bucket/models."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the initialisation and of the order of the data.")
    tokenizer: str | None = Field(
        default=None,
        description="A Hugging Face tokenizer folder or tokenizer.json (default: a byte-level BPE trained on the data).",
    )

    field: str | None = Field(
        default=None,
        description="Field of records, or column, that holds their text (default: text, content, …, or the only one).",
    )
    special_tokens: Literal["markers", "text"] = Field(
        default="markers",
        description="What special tokens written in the text, such as <|endoftext|>, are: markers (one token each) or text.",
    )

    n_layer: int | None = Field(default=None, ge=1)
    n_head: int | None = Field(default=None, ge=1)
    n_embd: int | None = Field(default=None, ge=1)
    n_inner: int | None = Field(default=None, ge=1)
    n_positions: int | None = Field(default=None, ge=2, description="Context length.")
    vocab_size: int | None = Field(
        default=None, ge=257, description="Vocabulary size; at least 257: 256 bytes and the end of text."
    )

    batch_size: int | None = Field(default=None, ge=1, description="Sequences per step.")
    micro_batch: int | None = Field(
        default=None, ge=1, description="Sequences per forward pass; must divide batch_size."
    )
    objective: ObjectiveKind | None = Field(
        default=None, description="causal (decoders) or mlm (BERT); default: the architecture's."
    )
    ablate: Literal["steps", "data"] | None = Field(
        default=None,
        description="steps: rungs at fractions of tokens; data: the same steps on fractions of the text, repeated.",
    )
    jobs: int | None = Field(
        default=None,
        ge=1,
        description="Runs of a sweep in parallel, one thread each (default: one per core for models below 1M parameters); on a "
        "GPU, runs that share it and its memory (default: 1).",
    )
    fractions: tuple[float, ...] = Field(
        default=(0.25, 0.5, 1.0),
        description="Fractions for ablate, comma-separated, each above 0 and at most 1.",
    )
    data_fraction: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Share of the training windows used; they are repeated as needed.",
    )
    optimizer: OptimizerKind = Field(
        default="adamw", description="adamw, adafactor, or muon for blocks with adamw for the rest."
    )
    lr: float | None = Field(default=None, gt=0, le=1, description="Peak learning rate.")
    warmup: int | None = Field(default=None, ge=0, description="Warm-up steps.")
    schedule: Kind = Field(default="wsd", description="wsd (constant, then a cooldown to 0) or cosine to 0.")
    cooldown: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of the steps in the cooldown of wsd (default: 0.2; with init=, 1, as in transformers' Trainer).",
    )
    cooldown_shape: Shape = Field(default="linear", description="Shape of the cooldown of wsd.")
    rungs: Annotated[Rungs, BeforeValidator(Rungs.parse)] = Field(
        default=Rungs(),
        description="Cooldown branches, each with an annealed observation: token counts such as 1M,2M,4M, or a series "
        "that ends at tokens: 5x2 is five rungs, each twice the one before.",
    )
    weight_decay: float | None = Field(default=None, ge=0)
    beta1: float | None = Field(default=None, gt=0, lt=1)
    beta2: float | None = Field(default=None, gt=0, lt=1)
    grad_clip: float = Field(default=1.0, gt=0)
    dropout: float | None = Field(
        default=None, ge=0, lt=1, description="Dropout (default: 0; with init=, the checkpoint's)."
    )
    init_std: float | None = Field(
        default=None, gt=0, le=1, description="Standard deviation of the initial weights (GPT-2: 0.02)."
    )

    dtype: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto",
        description="Number format of the matmuls; weights stay in fp32. auto: the faster one, measured on this machine; fp16, "
        "with a loss scale, on GPUs without bf16.",
    )
    residual: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="Number format of the activations between blocks. bf16: of all weights' copies too, as FSDP2 gathers them. "
        "auto: bf16 with dtype=bf16 and zero=2 or 3, else fp32.",
    )
    deterministic: bool = Field(
        default=False,
        description="Use deterministic kernels only, so that a run on a GPU repeats bit for bit; slower there.",
    )
    compile: Literal["auto", True, False, "all"] = Field(
        default="auto",
        description="Compile the step. auto: if the time saved exceeds the compile time; all: step and evaluations.",
    )
    compile_mode: CompileMode = Field(
        default="default",
        description="Search of the compiler. max-autotune-no-cudagraphs measures several kernels for each matrix product, which "
        "takes minutes at the start; reduce-overhead runs a model below 10M parameters as CUDA graphs. Both need compile=true.",
    )
    attention: Literal["auto", "eager", "sdpa", "flash", "cudnn", "flash3"] = Field(
        default="auto",
        description="Attention backend; flash and cudnn need a GPU, flash3 a Hopper GPU and flash_attn_interface or kernels. "
        "auto: the fastest measured.",
    )
    threads: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto", description="CPU threads. auto: the fastest measured."
    )
    checkpointing: bool = Field(
        default=False,
        description="Recompute activations in the backward pass: less memory, a third more compute.",
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = Field(
        default=1,
        ge=1,
        description="Processes on this machine that share the run, each with one GPU or a share of the cores.",
    )
    zero: Literal[0, 1, 2, 3] = Field(
        default=0,
        description="ZeRO stage: 0 shards only the batch (DDP), 2 also gradients and optimiser state, 3 also weights (FSDP2); "
        "1, the optimiser state alone, needs engine=deepspeed.",
    )
    engine: EngineKind = Field(
        default="torch",
        description="torch or deepspeed (extra `deepspeed`), which implements the same stages.",
    )
    held_out: float = Field(
        default=0.05, gt=0, lt=0.5, description="Share of the text held out for evaluation."
    )
    eval_tokens: Count = Field(
        default=1_000_000, description="Largest number of held-out tokens in an evaluation."
    )
    tensorboard: bool = Field(
        default=False,
        description="Also write TensorBoard event files (extra `tensorboard`) beside metrics.jsonl.",
    )
    log_every: int = Field(default=10, ge=1, description="Steps between lines of metrics.jsonl.")
    save_every: float = Field(
        default=300.0, gt=0, description="Seconds between checkpoints: the most work a kill costs."
    )

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
        if self.compile_mode != "default" and not self.compiles:
            raise ValueError(
                f"compile_mode is {self.compile_mode} and compile {str(self.compile).lower()}; it needs compile=true"
            )
        if self.residual == "bf16" and self.dtype not in ("auto", "bf16"):
            raise ValueError(f"residual is bf16 and dtype {self.dtype}; residual=bf16 needs dtype=bf16")
        if (self.rungs.many or self.ablate == "steps") and self.schedule != "wsd":
            raise ValueError(f"schedule is {self.schedule}; rungs need wsd")
        spec = self.spec()
        check_objective(self.objective, spec)
        if self.compiles and params_active(spec) < params(spec):
            raise ValueError(
                f"compile is {str(self.compile).lower()}; the experts of a mixture depend on each token, and are not compiled"
            )
        return self

    @property
    def compiles(self) -> bool:
        """True if the step is asked to be compiled, with or without the evaluations."""
        return self.compile in (True, "all")

    def _check_engine(self) -> None:
        if self.engine == "deepspeed":
            if self.compiles:
                raise ValueError(
                    f"compile is {str(self.compile).lower()}; engine=deepspeed does not compile the step"
                )
            if self.dtype == "fp16" or self.residual == "bf16":
                odd = "dtype is fp16" if self.dtype == "fp16" else "residual is bf16"
                raise ValueError(f"{odd}, which only engine=torch has")
        elif self.zero == 1:
            raise ValueError(
                "zero is 1, which only engine=deepspeed has; with engine=torch 0 is DDP, 2 and 3 are FSDP2"
            )

    def _check_length(self) -> None:
        if bool(self.tokens) == bool(self.epochs):
            given = (
                f"tokens is {self.tokens} and epochs {self.epochs}" if self.tokens else "tokens= is missing"
            )
            raise ValueError(f"{given}; one of tokens= and epochs= is needed")
        if self.epochs and (self.rungs.many or self.ablate == "steps"):
            raise ValueError(f"epochs is {self.epochs}; rungs and ablate=steps need tokens= instead")
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
        """Return the token counts of all rungs, ascending; `tokens` is the last."""
        if self.ablate == "steps":
            rungs = {round(fraction * self.tokens) for fraction in self.fractions}
            return Rungs(listed=tuple(sorted(rung for rung in rungs if rung > 0))).at(self.tokens)
        return self.rungs.at(self.tokens)

    def spec(self) -> ModelSpec:
        """Return the model's shape: that of the checkpoint or member, with the given keys replaced."""
        given = {name: value for name in SHAPE_KEYS if (value := getattr(self, name)) is not None}
        return requested_spec(self.family, self.init, self.objective, given)


NOT_IDENTITY = (
    "created_at", "tool", "inputs", "micro_batch", "threads", "checkpointing", "recipe", "cooldown", "cooldown_shape",
    "usual_cooldown", "init", "epochs", "dataset", "seal", "compile_mode", "compile_eval",
)  # fmt: skip


_ADDED = ("residual", "deterministic", "config")  # settings of later versions, which older checkpoints lack


class Settings(Document):
    """run.json: a run with all defaults resolved. A run resumes only with the settings it started with."""

    KIND: ClassVar[str] = "run"

    run: str
    member: str
    group: str
    architecture: str
    n_layer: int
    n_head: int
    n_embd: int
    n_inner: int
    n_kv_head: int = 0  # key-value heads of grouped-query attention; 0 stands for n_head
    config: dict[str, Any] = Field(
        default_factory=dict
    )  # entries that differ from the architecture's usual config
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
    usual_cooldown: float = COOLDOWN  # linear, of the rungs whose folders are named by their tokens alone
    weight_decay: float
    beta1: float
    beta2: float
    grad_clip: float
    dropout: float
    init_std: float
    dtype: Literal["fp32", "bf16", "fp16"]
    residual: Literal["fp32", "bf16"] = "fp32"  # activations between blocks; bf16: copies of all weights too
    deterministic: bool = False  # deterministic kernels only, on a GPU too
    compile: bool = False
    compile_mode: CompileMode = "default"
    compile_eval: bool = False  # evaluations are compiled too
    attention: Literal["eager", "sdpa", "flash", "cudnn", "flash3"] = "sdpa"
    threads: int = 0  # CPU threads; 0: as many as the process has
    checkpointing: bool = False  # recompute activations in the backward pass
    objective: ObjectiveKind = "causal"
    mask_token_id: int | None = None  # of mlm
    tokenizer_size: int | None = None  # of mlm, which draws random tokens from the tokenizer's
    optimizer: OptimizerKind = "adamw"
    init: str = ""  # folder of the initial weights
    init_sha256: str = ""
    epochs: int = 0  # passes, with an evaluation after each
    dataset: str = ""  # display name of the text
    data_fraction: float = 1.0  # share of the training windows
    data_sha256: str  # of source files, token shards and their split (data.json)
    recipe: str = ""  # source of lr, batch and warm-up
    seal: str = ""  # digest of the sealed plan whose prediction this run is to meet; set before the first step, never after

    def spec(self) -> ModelSpec:
        """Return the model's shape."""
        return ModelSpec(**{name: getattr(self, name) for name in (*SHAPE_FIELDS, "n_kv_head", "config")})

    @property
    def batch_tokens(self) -> int:
        """Tokens per optimiser step."""
        return self.batch_size * self.n_positions

    @property
    def decay(self) -> str:
        """Decay of the learning rate: e.g. "wsd 0.2 linear", or "cosine"."""
        return "cosine" if self.schedule == "cosine" else f"wsd {self.cooldown!r} {self.cooldown_shape}"

    def identity(self) -> str:
        """Return the SHA-256 of all settings that determine the trunk's numbers, which every branch continues.

        The cooldown belongs to the branch (`decay`); micro-batch, threads and the compiler's search only change rounding.
        Settings added since count where they differ from their default, so that older checkpoints keep their identity.
        """
        return sha256_bytes(canonical_json(self._identifying()))

    def _identifying(self) -> dict[str, Any]:
        fields = Settings.model_fields
        usual = {
            name
            for name in _ADDED
            if getattr(self, name) == fields[name].get_default(call_default_factory=True)
        }
        return self.model_dump(mode="json", exclude=usual.union(NOT_IDENTITY))

    def ledger_opening(self) -> dict[str, Any]:
        """Return what the run's ledger opens with: its seal, and the settings whose hash every entry states."""
        return {"seal": self.seal, "settings": self._identifying()}

    def order_of_batches(self) -> str:
        """Return the SHA-256 of all settings that determine the tokens of a step; equal for runs with the same batches."""
        names = ("seed", "batch_size", "n_positions", "data_sha256", "data_fraction")
        return sha256_bytes(canonical_json({name: getattr(self, name) for name in names}))
