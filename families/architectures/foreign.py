"""An architecture that is not counted here: transformers counts it on the meta device, and FLOPs are 6·N_active + attention.

Full attention is counted in the layers that have any, as far as the config tells which those are.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from ..spec import Extras, ModelSpec
from ..units import BadInput
from .base import ActivationBytes, Attention, score_values, train_flops, whole

NAME = "other"  # of the architecture in a spec, in place of a model_type
_SIZES = {  # names that configs of transformers have for the sizes, the most usual first
    "n_layer": (
        "num_hidden_layers",
        "n_layer",
        "n_layers",
        "num_layers",
        "num_decoder_layers",
        "decoder_layers",
    ),
    "n_head": (
        "num_attention_heads",
        "n_head",
        "n_heads",
        "num_heads",
        "decoder_attention_heads",
        "num_decoder_attention_heads",
        "encoder_attention_heads",
        "attention_heads",
    ),
    "n_embd": ("hidden_size", "n_embd", "d_model", "dim", "emb_dim"),
    "n_positions": (
        "max_position_embeddings",
        "n_positions",
        "max_seq_len",
        "max_sequence_length",
        "seq_length",
    ),
    "vocab_size": ("vocab_size",),
}
_PER_TOKEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_top_k",
    "moe_k",
    "top_k_experts",
    "top_k",
)
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "n_expert")
# Mixers of tokens without scores of each with each: state spaces and linear attention.
_NO_ATTENTION = frozenset({"falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm"})
_LAYER_KINDS = ("layer_types", "layers_block_type", "block_types")
_MOST = {"n_layer": 2048, "n_embd": 10**6, "vocab_size": 10**8}  # beyond which no library need try
_NO_TEXT_CONTEXT = 2048  # positions where a config states none, as Bloom's


class Foreign:
    """Counts that transformers gave, kept in a spec's `config` under model_type, total, embeddings, idle and attended.

    `attended` are the widths of scores and of values in all heads of all layers together. Where the config does not say how
    many experts a token passes through, `idle` is 0 and `experts_unknown` true.
    """

    model_type = NAME
    config_class = "AutoConfig"
    model_class = "AutoModelForCausalLM"
    causal = True

    def parameters(self, spec: ModelSpec) -> dict[str, int]:
        """Return the two parts that are known: the embeddings, and everything else."""
        total, embeddings = spec.config["total"], spec.config["embeddings"]
        return {"embeddings": embeddings, "rest": total - embeddings}

    def counts(self, spec: ModelSpec) -> dict[str, int]:
        """Return transformers' count of the language model."""
        return {spec.config["model_class"]: spec.config["total"]}

    def idle_parameters(self, spec: ModelSpec) -> int:
        """Return the parameters of the experts that a token does not pass through, as far as their names tell them."""
        found: int = spec.config["idle"]
        return found

    def default_inner(self, n_embd: int) -> int:
        """Return 4·n_embd."""
        return 4 * n_embd

    def block_weights(self, spec: ModelSpec) -> int:
        """Return everything but the embeddings, which is all that is known."""
        return self.parameters(spec)["rest"]

    def embedding_parts(self) -> tuple[str, ...]:
        """Return the part of the lookups."""
        return ("embeddings",)

    def train_flops_per_token(self, spec: ModelSpec) -> int:
        """Estimate 6 per active parameter and full attention in every block (Kaplan et al. 2020)."""
        active, attended = spec.config["total"] - spec.config["idle"], spec.config.get("attended")
        if attended is None:  # a plan of before
            return train_flops(active, spec)
        return int(6 * active + 6 * attended * spec.n_positions)

    def activation_bytes(self, spec: ModelSpec, batch: int, attention: Attention) -> ActivationBytes:
        """Estimate as of a Llama with full key and value heads and a feed-forward layer of 4·n_embd."""
        tokens, d = batch * spec.n_positions, spec.n_embd
        layer = 26 * d + score_values(spec, attention) + 2
        return ActivationBytes(
            layer=4 * tokens * layer,
            wide=4 * tokens * (4 * d + 2 + spec.n_head),
            trunk=4 * tokens * (3 * d + 1) + 16 * tokens,
            logits=4 * tokens * spec.vocab_size,
        )

    def to_hugging_face(self, spec: ModelSpec) -> dict[str, Any]:
        """Refuse: only the counts of such a model are known.

        Raises:
            BadInput: always.
        """
        raise BadInput(
            f"model_type is {spec.config['model_type']!r}, of which the counts alone are known: it can be planned and audited, "
            "not written or trained here"
        )

    def library_defaults(self, spec: ModelSpec) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def from_hugging_face(self, config: dict[str, Any]) -> ModelSpec:
        """Return the spec of any config of transformers, which is asked for the counts.

        Raises:
            BadInput: transformers is not installed, does not know the model, or cannot build it; or a size is missing.
        """
        kind = config.get("model_type")
        text = config.get("text_config")
        flat = {**text, **config} if isinstance(text, dict) else config
        sizes = _sizes(flat, str(kind))
        found = counted(config)
        found["attended"] = _attended(flat, sizes, str(kind))
        if sizes["n_embd"] % sizes["n_head"]:
            sizes["n_head"] = 1  # heads of a size of their own; no count here needs it
        return ModelSpec(architecture=NAME, **sizes, config=Extras(found))


def _sizes(config: Mapping[str, Any], kind: str) -> dict[str, int]:
    found = {}
    for size, names in _SIZES.items():
        key = next((name for name in names if config.get(name) is not None), None)
        if key is None and size == "n_positions":
            found[size] = _NO_TEXT_CONTEXT
            continue
        if key is None and size == "n_head" and kind in _NO_ATTENTION:
            found[size] = 1
            continue
        if key is None and size == "n_layer" and _layer_kinds(config):
            found[size] = len(_layer_kinds(config))
            continue
        if key is None:
            raise BadInput(f"model_type is {kind!r}, and its config has none of {', '.join(names)}")
        found[size] = whole(config, key)
        if found[size] > _MOST.get(size, found[size]):
            raise BadInput(f"{key} is {found[size]:,}; at most {_MOST[size]:,} can be counted")
    return found


def _layer_kinds(config: Mapping[str, Any]) -> list[str]:
    """Return what the config calls its layers, or the first of them where they repeat; none where it does not say."""
    for key in _LAYER_KINDS:
        if isinstance(config.get(key), list):
            return [str(one) for one in config[key]]
    return []


def _attended(config: Mapping[str, Any], sizes: Mapping[str, int], kind: str) -> int:
    """Return the widths of scores and of values in all heads of the layers that attend."""
    if kind in _NO_ATTENTION:
        return 0
    layers = sizes["n_layer"]
    listed, period = _layer_kinds(config), config.get("attn_layer_period")
    if listed:
        kinds = [listed[layer % len(listed)] for layer in range(layers)]
        layers = sum(("attention" in one and "linear" not in one) or one == "hybrid" for one in kinds)
    elif "attn_layer_indices" in config:
        layers = len(set(config["attn_layer_indices"] or ()) & set(range(layers)))
    elif isinstance(period, int) and period > 0:
        layers = sum(layer % period == config.get("attn_layer_offset", 0) for layer in range(layers))
    head = config.get("head_dim")
    width = sizes["n_embd"]
    if isinstance(head, int) and not isinstance(head, bool) and 0 < head <= width:
        width = sizes["n_head"] * head
    return 2 * layers * width


def counted(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return model_type, model_class, total, embeddings, idle and experts_unknown, by transformers on the meta device.

    No weight is allocated, nothing is downloaded and no code of the folder is run.

    Args:
        config: a Hugging Face config's dictionary.

    Raises:
        BadInput: as `Foreign.from_hugging_face`.
    """
    kind = config.get("model_type")
    try:
        torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    except ImportError:
        raise BadInput(
            f"model_type is {kind!r}, which is not counted here; transformers would count it: "
            "pip install 'scaling-planner[train]'"
        ) from None
    if kind not in transformers.CONFIG_MAPPING:
        raise BadInput(
            f"model_type is {kind!r}, which transformers {transformers.__version__} does not know either"
        )
    values = {
        key: value for key, value in config.items() if key not in ("auto_map", "quantization_config", "dtype")
    }
    try:
        built = transformers.CONFIG_MAPPING[kind].from_dict(values)
        with torch.device("meta"):
            model = _model(transformers, built)
    except Exception as error:  # a library that reads what strangers wrote fails in many ways
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"transformers cannot build a {kind} of this config: {reason[:300]}") from error
    weights = dict(model.named_parameters())
    total = sum(weight.numel() for weight in weights.values())
    lookups = {
        id(module.weight): module.weight.numel()
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding)
    }
    flat = {**(config.get("ffn_config") or {}), **(config.get("text_config") or {}), **config}
    idle = _idle(weights, flat)
    return {
        "model_type": kind,
        "model_class": type(model).__name__,
        "total": total,
        "embeddings": sum(lookups.values()),
        "idle": idle or 0,
        **({"experts_unknown": True} if idle is None else {}),
    }


def _model(transformers: Any, config: Any) -> Any:
    for name in ("AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForSeq2SeqLM", "AutoModel"):
        try:
            return getattr(transformers, name).from_config(config, trust_remote_code=False)
        except ValueError as error:
            if "Unrecognized configuration class" not in str(error):
                raise
    raise ValueError("it has no language model")


def _idle(weights: Mapping[str, Any], config: Mapping[str, Any]) -> int | None:
    """Count routed experts that a token does not pass through: weights under `experts`, stacked or one by one.

    Weights of three axes, the first of them as long as the config has experts, are stacked experts whatever their name.

    Returns:
        The count, or None where there are experts and the config does not say how many of them a token passes through.
    """
    per_token = next((config[key] for key in _PER_TOKEN if isinstance(config.get(key), int)), None)
    stated = {config[key] for key in _EXPERTS if isinstance(config.get(key), int) and config[key] > 1}
    idle, routed = 0, 0
    for name, weight in weights.items():
        parts = name.split(".")
        named = "experts" in parts[:-1] and "shared" not in parts[parts.index("experts") - 1]
        if not named and not (weight.dim() == 3 and weight.shape[0] in stated):
            continue
        after = parts[parts.index("experts") + 1] if named else ""
        number = weight.shape[0]
        if len(stated) == 1 and number not in stated and number % min(stated) == 0:
            number = min(stated)  # experts one below the other in a matrix, as DBRX's
        if after.isdecimal():
            prefix = ".".join(parts[: parts.index("experts") + 1])
            number = len(
                {
                    other[len(prefix) + 1 :].split(".")[0]
                    for other in weights
                    if other.startswith(prefix + ".")
                }
            )
        routed += 1
        if per_token is not None and number > per_token:
            idle += weight.numel() * (number - per_token) // number
    return None if routed and per_token is None else idle
