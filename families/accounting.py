"""How big a model is and what it costs, with the convention in the name of each number."""

from typing import Literal

from .architectures import Attention, architecture
from .spec import ModelSpec

Convention = Literal["total", "non_embedding"]  # of N: all parameters, or all but the embeddings

STATES = ("weights", "gradients", "optimizer")  # parts of the memory that no micro-batch changes


def parameters(spec: ModelSpec) -> dict[str, int]:
    """Trainable parameters by part."""
    return architecture(spec.architecture).parameters(spec)


def params(spec: ModelSpec) -> int:
    """All parameters, embeddings included: transformers' own count."""
    return sum(parameters(spec).values())


def params_non_embedding(spec: ModelSpec) -> int:
    """All parameters but token and position embeddings."""
    parts = parameters(spec)
    return sum(parts.values()) - sum(
        parts[name] for name in architecture(spec.architecture).embedding_parts()
    )


def count(spec: ModelSpec, convention: Convention) -> int:
    """N as a law of that convention counts it."""
    return params(spec) if convention == "total" else params_non_embedding(spec)


def params_kaplan(spec: ModelSpec) -> int:
    """Kaplan's N, 12·n_layer·n_embd² for GPT-2's shapes: matmul weights of the blocks, no biases or norms
    (Kaplan et al. 2020, eq. 2.1).
    """
    return architecture(spec.architecture).block_weights(spec)


def train_flops_per_token(spec: ModelSpec) -> int:
    """Forward and backward FLOPs per token: 6 per matmul weight (head included) plus attention scores."""
    return architecture(spec.architecture).train_flops_per_token(spec)


def train_flops(spec: ModelSpec, tokens: float) -> float:
    """FLOPs to train on that many tokens."""
    return train_flops_per_token(spec) * tokens


def training_memory(
    spec: ModelSpec,
    micro_batch: int,
    *,
    checkpointing: bool = False,
    attention: Attention = "sdpa",
    bf16: bool = False,
    shards: int = 1,
) -> dict[str, int]:
    """Bytes by part at the peak of one training step with AdamW, weights and states in 32 bits, dropout off.

    Activations and a third of the logits are what autograd keeps: in 32 bits to the byte, for two or more
    heads and sequences (with one, some views need no copies); under bf16 autocast within 7 %, and the weights
    then have copies of 2 bytes. Both are tests. The logits and their gradient are the other two thirds. With
    checkpointing a block keeps its input alone, and one block at a time is computed again. The allocator's
    slack, the libraries' workspaces and the device's own context come on top: PyTorch's CUDA context and
    cuBLAS workspace take about 0.6 GB.

    Args:
        micro_batch: sequences of n_positions tokens in one forward pass.
        shards: devices that weights, gradients and optimiser states are divided over (ZeRO 3, FSDP). "gathered" is
        then what a device holds whole for a while: the block at work and the one fetched ahead of it, or the
        embeddings where those are larger.
    """
    count = params(spec)
    saved = architecture(spec.architecture).saved(spec, micro_batch, attention)
    layer = (saved.layer + saved.wide) // 2 if bf16 else saved.layer
    inputs = 4 * micro_batch * spec.n_positions * spec.n_embd
    blocks = spec.n_layer * inputs + layer if checkpointing else spec.n_layer * layer
    parts = {
        "weights": (6 if bf16 else 4) * count,
        "gradients": 4 * count,
        "optimizer": 8 * count,
        "activations": blocks + saved.trunk,
        "logits": 3 * saved.logits,
    }
    if shards > 1:
        parts |= {name: -(-parts[name] // shards) for name in STATES}
        body = params_non_embedding(spec)
        parts["gathered"] = (2 if bf16 else 4) * max(2 * body // spec.n_layer, count - body)
    return parts


def largest_micro_batch(
    spec: ModelSpec,
    memory: float,
    *,
    most: int = 1024,
    checkpointing: bool = False,
    bf16: bool = False,
    shards: int = 1,
) -> int:
    """The largest power of two of sequences whose training step fits into so many bytes; 0 if not even one
    does.
    """
    best, batch = 0, 1
    while batch <= most:
        parts = training_memory(spec, batch, checkpointing=checkpointing, bf16=bf16, shards=shards)
        if sum(parts.values()) > memory:
            break
        best, batch = batch, 2 * batch
    return best


def inference_flops_per_token(spec: ModelSpec) -> float:
    """FLOPs of one forward pass per token over the full context: a third of training's."""
    return train_flops_per_token(spec) / 3
