"""Parameters, training FLOPs and memory of a model, each with its convention in its name."""

from typing import Literal

from .architectures import Attention, architecture
from .architectures.decoder import Decoder
from .spec import ModelSpec

# Of N: all parameters, all but the embeddings, or those that one token of a mixture of experts passes through.
Convention = Literal["total", "non_embedding", "active"]

STATES = ("weights", "gradients", "optimizer")  # parts of the memory that no micro-batch changes


def parameters(spec: ModelSpec) -> dict[str, int]:
    """Count trainable parameters by part."""
    return architecture(spec.architecture).parameters(spec)


def params(spec: ModelSpec) -> int:
    """Count all parameters, embeddings included, as transformers counts them."""
    return sum(parameters(spec).values())


def params_non_embedding(spec: ModelSpec) -> int:
    """Count all parameters but token and position embeddings."""
    parts = parameters(spec)
    return sum(parts.values()) - sum(
        parts[name] for name in architecture(spec.architecture).embedding_parts()
    )


def params_active(spec: ModelSpec) -> int:
    """Count the parameters that one token passes through, embeddings included: all but the experts left out."""
    return params(spec) - architecture(spec.architecture).idle_parameters(spec)


def experts(spec: ModelSpec) -> tuple[int, int]:
    """Count the routed experts of a layer, and those that a token passes through: (1, 1) of a dense model."""
    found = architecture(spec.architecture)
    if not isinstance(found, Decoder) or found.mixture is None:
        return 1, 1
    entries = found.entries(spec)
    return int(entries[found.mixture.number]), int(entries["num_experts_per_tok"])


def count(spec: ModelSpec, convention: Convention) -> int:
    """N as a law of that convention counts it."""
    if convention == "active":
        return params_active(spec)
    return params(spec) if convention == "total" else params_non_embedding(spec)


def params_kaplan(spec: ModelSpec) -> int:
    """Count matmul weights of the blocks, Kaplan's N: 12·n_layer·n_embd² for GPT-2's shapes.

    Biases, norms, embeddings and head are left out (Kaplan et al. 2020, eq. 2.1).
    """
    return architecture(spec.architecture).block_weights(spec)


def train_flops_per_token(spec: ModelSpec) -> int:
    """Count forward and backward FLOPs per token: 6 per matmul weight, head included, plus attention scores."""
    return architecture(spec.architecture).train_flops_per_token(spec)


def describe(spec: ModelSpec) -> dict[str, object]:
    """Return shape, parameter counts and training FLOPs per token, by the names of `--json`."""
    return {
        "architecture": spec.architecture,
        "n_layer": spec.n_layer,
        "n_head": spec.n_head,
        "n_embd": spec.n_embd,
        "n_inner": spec.n_inner,
        "n_kv_head": spec.n_kv_head,
        "n_positions": spec.n_positions,
        "vocab_size": spec.vocab_size,
        "config": dict(spec.config),
        "params": params(spec),
        "params_non_embedding": params_non_embedding(spec),
        "params_active": params_active(spec),
        "parameters_by_part": parameters(spec),
        "train_flops_per_token": train_flops_per_token(spec),
    }


def train_flops(spec: ModelSpec, tokens: float) -> float:
    """Count FLOPs of training on `tokens` tokens."""
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
    """Estimate bytes by part at the peak of one training step with AdamW, weights and states in 32 bits, no dropout.

    Activations and a third of the logits are what autograd keeps: in 32 bits exact to the byte for two or more heads
    and sequences (with one, some views need no copies); under bf16 autocast within 7 %, with 2-byte copies of the
    weights. Tests check both. The other two thirds are the logits and their gradient. With checkpointing a block keeps
    its input only, and one block at a time is recomputed. The allocator's fragmentation, library workspaces and the
    device's context are not included: PyTorch's CUDA context and cuBLAS workspace take about 0.6 GB.

    Args:
        spec: the model.
        micro_batch: sequences of n_positions tokens in one forward pass.
        checkpointing: recompute activations in the backward pass.
        attention: sdpa, a fused kernel, or eager, which stores the scores.
        bf16: autocast to bf16.
        shards: devices among which weights, gradients and optimiser states are divided (ZeRO 3, FSDP).

    Returns:
        Bytes of one device. With shards "gathered" are the weights it holds whole for a while: the block in
        computation and the one prefetched, or the embeddings where those are larger.
    """
    count = params(spec)
    saved = architecture(spec.architecture).activation_bytes(spec, micro_batch, attention)
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
    """Return the largest power of two of sequences whose training step fits into memory; 0 if one does not.

    Args:
        spec: the model.
        memory: bytes of one device.
        most: largest micro-batch considered.
        checkpointing: recompute activations in the backward pass.
        bf16: autocast to bf16.
        shards: devices among which weights, gradients and optimiser states are divided.
    """
    best, batch = 0, 1
    while batch <= most:
        parts = training_memory(spec, batch, checkpointing=checkpointing, bf16=bf16, shards=shards)
        if sum(parts.values()) > memory:
            break
        best, batch = batch, 2 * batch
    return best


def inference_flops_per_token(spec: ModelSpec) -> float:
    """Count FLOPs of one forward pass per token over the full context: a third of training's."""
    return train_flops_per_token(spec) / 3
