"""How big a model is and what it costs, with the convention in the name of each number."""

from .architectures import architecture
from .spec import ModelSpec


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


def params_kaplan(spec: ModelSpec) -> int:
    """Kaplan's N = 12·n_layer·n_embd² (Kaplan et al. 2020, eq. 2.1): matmul weights of the blocks, no biases
    or norms.
    """
    return spec.n_layer * (4 * spec.n_embd**2 + 2 * spec.n_embd * spec.n_inner)


def train_flops_per_token(spec: ModelSpec) -> int:
    """Forward and backward FLOPs per token: 6 per matmul weight (head included) plus attention scores."""
    return architecture(spec.architecture).train_flops_per_token(spec)


def train_flops(spec: ModelSpec, tokens: float) -> float:
    """FLOPs to train on that many tokens."""
    return train_flops_per_token(spec) * tokens


def training_memory(spec: ModelSpec, micro_batch: int, bytes_per_activation: int = 4) -> dict[str, int]:
    """Bytes by part to train with AdamW in 32-bit states, without activation checkpointing.

    Activations are counted per layer and token as what autograd keeps in eager attention: the inputs of each
    matmul, norm and non-linearity (about 16·n_embd + 3·n_inner values) and two score matrices of
    n_head·n_positions; then the logits, kept thrice (logits, log-probabilities, their gradient).
    """
    count = params(spec)
    tokens = micro_batch * spec.n_positions
    per_token = spec.n_layer * (16 * spec.n_embd + 3 * spec.n_inner + 2 * spec.n_head * spec.n_positions)
    return {
        "weights": 4 * count,
        "gradients": 4 * count,
        "optimizer": 8 * count,
        "activations": bytes_per_activation * tokens * per_token,
        "logits": 3 * 4 * tokens * spec.vocab_size,
    }
