"""Memory of one device in training under tensor, pipeline, context, expert and data parallelism, LoRA and 8-bit optimisers."""

from dataclasses import dataclass
from typing import Literal, get_args

from .accounting import parameters, params
from .architectures import Attention, architecture
from .spec import ModelSpec, nearest_divisors
from .units import BadInput

Precision = Literal["fp32", "autocast", "mixed", "bf16"]
OptimizerName = Literal["adamw", "adamw8bit", "adafactor", "sgd"]

# Bytes per parameter of weights and of gradients. autocast: 32-bit weights with copies in 16 bits, as torch and
# transformers' Trainer keep them; mixed: 16-bit weights and gradients, with a 32-bit copy in the optimiser, as DeepSpeed's
# and Megatron's (Rajbhandari et al. 2020); bf16: everything but the moments in 16 bits.
WEIGHTS: dict[Precision, int] = {"fp32": 4, "autocast": 6, "mixed": 2, "bf16": 2}
GRADIENTS: dict[Precision, int] = {"fp32": 4, "autocast": 4, "mixed": 2, "bf16": 2}
MASTER = 4  # of the optimiser's own copy under mixed
# Bytes of the moments: two in 32 bits; two in 8 bits with a 32-bit scale for each 256 (Dettmers et al. 2022); Adafactor
# keeps a row and a column of each matrix, which is next to nothing (Shazeer and Stern 2018).
MOMENTS: dict[OptimizerName, float] = {"adamw": 8, "adamw8bit": 2 + 8 / 256, "adafactor": 0.01, "sgd": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a training run is laid out over devices, and what it keeps.

    Args:
        tensor: devices that share each matrix, and the sequence between them (Korthikanti et al. 2022).
        pipeline: devices that share the blocks, in stages that are as even as can be.
        context: devices that share each sequence, and pass keys and values around (Liu et al. 2023, ring attention).
        expert: devices that share the experts of a mixture.
        shards: devices among which states are divided: all of them at stage 3 (FSDP), at stage 1 the optimiser's alone, its
            32-bit weights included (Megatron's distributed optimizer). Experts are shared by `expert` of these devices, and
            each sequence by `context` of them, so that shards / context are the replicas.
        stage: 3 or 1, of ZeRO.
        precision: number formats of weights and gradients.
        optimizer: adamw, adamw8bit, adafactor or sgd.
        lora_rank: rank of adapters on every matrix of the blocks (Hu et al. 2021); 0 trains all weights.
        checkpointing: recompute activations in the backward pass.

    Raises:
        BadInput: a degree below 1, or a stage, a format or an optimiser that there is not.
    """

    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    expert: int = 1
    shards: int = 1
    stage: int = 3
    precision: Precision = "autocast"
    optimizer: OptimizerName = "adamw"
    lora_rank: int = 0
    checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("tensor", "pipeline", "context", "expert", "shards"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.lora_rank < 0:
            raise BadInput(f"lora rank is {self.lora_rank}; it must be at least 0")
        if self.stage not in (1, 3):
            raise BadInput(f"stage is {self.stage}; it must be 1 or 3")
        for name, allowed in (("precision", get_args(Precision)), ("optimizer", get_args(OptimizerName))):
            if getattr(self, name) not in allowed:
                raise BadInput(f"{name} is {getattr(self, name)!r}; known: {', '.join(allowed)}")

    @property
    def devices(self) -> int:
        """Devices that hold one copy of the model together."""
        return self.tensor * self.pipeline * max(self.expert, self.shards, self.context)

    def stage_layers(self, n_layer: int) -> int:
        """Return the blocks of the largest stage of the pipeline."""
        return -(-n_layer // self.pipeline)


def check_layout(spec: ModelSpec, layout: Layout) -> None:
    """Check that a model can be laid out so.

    Args:
        spec: the model.
        layout: the degrees.

    Raises:
        BadInput: a degree that does not divide what it shares, or more stages than blocks. Stages need not be even.
    """
    number = experts(spec)
    if layout.pipeline > spec.n_layer:
        raise BadInput(
            f"pipeline is {layout.pipeline}; there are {spec.n_layer} blocks, and a stage needs one"
        )
    shared = [("tensor", "n_head", spec.n_head), ("context", "n_positions", spec.n_positions)]
    if layout.expert > 1:
        if not number:
            raise BadInput(f"expert is {layout.expert}; {spec.architecture} has no experts")
        shared.append(("expert", "the number of experts", number))
    for name, what, value in shared:
        degree = getattr(layout, name)
        if value % degree:
            near = " and ".join(map(str, nearest_divisors(value, min(degree, value))))
            raise BadInput(
                f"{name} is {degree}, which does not divide {what}, {value}; the nearest that do are {near}"
            )


def degrees_text(tensor: int, pipeline: int, expert: int, context: int = 1) -> str:
    """Degrees above 1 in words: "8-way tensor and 4-way pipeline parallelism".

    Args:
        tensor: devices that share each matrix.
        pipeline: stages.
        expert: devices that share the experts.
        context: devices that share each sequence.
    """
    ways = [("tensor", tensor), ("pipeline", pipeline), ("context", context), ("expert", expert)]
    return " and ".join(f"{degree}-way {name}" for name, degree in ways if degree > 1) + " parallelism"


def stages(n_layer: int, pipeline: int) -> tuple[int, ...]:
    """Return the blocks of each stage of a pipeline, in order: as even as can be, the last stages the shorter ones.

    The last stage holds the head, so it is the one to have less else to do.

    Args:
        n_layer: blocks of the model.
        pipeline: stages.
    """
    whole, more = divmod(n_layer, pipeline)
    return (whole + 1,) * more + (whole,) * (pipeline - more)


def experts(spec: ModelSpec) -> int:
    """Return the number of routed experts of a block; 0 for a dense model."""
    found = architecture(spec.architecture)
    mixture = getattr(found, "mixture", None)
    return 0 if mixture is None else int(found.to_hugging_face(spec)[mixture.number])


def lora_parameters(spec: ModelSpec, rank: int) -> int:
    """Count adapters of that rank on q, k, v, the output and the feed-forward matrices of every block, experts left out.

    Args:
        spec: the model.
        rank: columns of A and rows of B; a matrix of m × n gets rank·(m + n) parameters.
    """
    d, inner = spec.n_embd, spec.n_inner
    size = spec.config.get("head_dim") or d // spec.n_head
    wide, narrow = spec.n_head * size, spec.n_kv_head * size
    matrices = [(d, wide), (d, narrow), (d, narrow), (wide, d)]
    if not experts(spec):
        gated = getattr(architecture(spec.architecture), "gated", False)
        matrices += [(d, inner)] * (3 if gated else 2)
    return spec.n_layer * rank * sum(m + n for m, n in matrices)


def device_memory(
    spec: ModelSpec, micro_batch: int, layout: Layout, attention: Attention = "sdpa"
) -> dict[str, int]:
    """Estimate bytes by part on the device that holds most, at the peak of a training step without dropout.

    With degrees of 1, AdamW and all weights trained it is `accounting.training_memory`. A pipeline's first stage keeps the
    activations of as many micro-batches as there are stages, so its blocks' part does not shrink (Narayanan et al. 2021).

    Args:
        spec: the model.
        micro_batch: sequences of n_positions tokens in one forward pass.
        layout: the degrees, formats and optimiser.
        attention: sdpa, a fused kernel, or eager, which stores the scores.

    Raises:
        BadInput: a degree does not divide what it shares.
    """
    check_layout(spec, layout)
    parts = parameters(spec)
    embeddings = sum(parts[name] for name in architecture(spec.architecture).embedding_parts())
    head, routed = parts.get("head", 0), parts.get("experts", 0)
    blocks = params(spec) - embeddings - head - routed
    ends = embeddings + head if layout.pipeline == 1 else max(embeddings, head)
    layers = layout.stage_layers(spec.n_layer)

    def held(count: int, ways: int) -> int:  # of what all blocks have, by the largest stage
        return -(-count * layers // (spec.n_layer * ways))

    own = (
        held(blocks, layout.tensor) + -(-ends // layout.tensor),
        held(routed, layout.tensor * layout.expert),
    )
    adapters = held(lora_parameters(spec, layout.lora_rank), layout.tensor) if layout.lora_rank else 0
    found = _states(layout, own, (adapters, 0) if adapters else own, frozen=bool(adapters))
    precision = layout.precision
    if layout.shards > 1 and layout.stage == 3:
        lookups = -(-(embeddings if layout.pipeline == 1 else ends) // layout.tensor)
        widest = max(2 * (sum(own) - lookups) // layers, lookups)
        found["gathered"] = (4 if precision == "fp32" else 2) * widest
    saved = architecture(spec.architecture).activation_bytes(spec, micro_batch, attention)
    half = precision != "fp32"
    layer = (saved.layer + saved.wide) // 2 if half else saved.layer
    inputs = 4 * micro_batch * spec.n_positions * spec.n_embd
    flight = (
        layers * layout.pipeline
    )  # blocks whose activations the first stage keeps, of all micro-batches in flight
    kept = flight * inputs + layer if layout.checkpointing else flight * layer
    ways = layout.tensor * layout.context
    found["activations"] = -(-(kept + saved.trunk) // ways)
    found["logits"] = -(-3 * saved.logits // ways)
    return found


def _states(
    layout: Layout, own: tuple[int, int], trained: tuple[int, int], *, frozen: bool
) -> dict[str, int]:
    """Bytes of weights, gradients and optimiser states on one device.

    Args:
        layout: the degrees, formats and optimiser.
        own: parameters of the device before sharding, without and in routed experts.
        trained: those of them, or of adapters, that have gradients.
        frozen: True if `own` itself is not trained.
    """
    precision = layout.precision
    copy = 4 if precision == "fp32" else 2  # bytes of a weight as products read it
    moments = MOMENTS[layout.optimizer] + (MASTER if precision == "mixed" else 0)
    experts_shards = max(1, layout.shards // layout.expert)

    def bytes_of(each: float, counts: tuple[int, int], *, divided: bool) -> int:
        parts = (layout.shards, experts_shards) if divided else (1, 1)
        return sum(-(-round(each * count) // part) for count, part in zip(counts, parts, strict=True))

    whole = layout.stage == 3
    return {
        "weights": (bytes_of(copy, own, divided=whole) if frozen else 0)
        + bytes_of(copy, trained, divided=whole)
        + bytes_of(WEIGHTS[precision] - copy, trained, divided=True),
        "gradients": bytes_of(GRADIENTS[precision], trained, divided=whole),
        "optimizer": bytes_of(moments, trained, divided=True),
    }
