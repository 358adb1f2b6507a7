"""Decoders of today as one class with parameters: a new one is a value of it, with its makers' defaults."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..spec import Extras, ModelSpec
from ..units import BadInput
from .base import ASIDE, ActivationBytes, Attention, extras_of, score_values, train_flops, whole
from .legacy import modern_names

SIZE_KEYS = {
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_embd": "hidden_size",
    "n_inner": "intermediate_size",
    "n_positions": "max_position_embeddings",
    "vocab_size": "vocab_size",
    "n_kv_head": "num_key_value_heads",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Entries of a config that describe its experts.

    Args:
        number: entry with the number of routed experts.
        inner: entry with the width of one expert; None where that is n_inner.
        shared: entry with the number of experts that every token passes through; None without any.
        first_dense: entry with the number of dense layers at the start; None without any.
        widths: an expert's usual width is n_inner divided by this.
    """

    number: str
    inner: str | None = None
    shared: str | None = None
    first_dense: str | None = None
    widths: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """A pre- or post-norm decoder with rotary positions.

    Args:
        model_type: name in config.json and in the registry.
        class_name: the classes of transformers are this with Config, Model and ForCausalLM.
        library: transformers' default of every entry of the config, sizes included.
        usual: entries that our own models have otherwise.
        inner: usual width of the feed-forward layer by n_embd.
        config_name: name of the config's class, where it does not begin as the others do.
        norms: norms of a block.
        layer_norm: norms have weights and biases, and a mean; else RMSNorm.
        qk_norm: norms of queries and keys: "head" with the weights of one head, "width" with those of all of them.
        gated: the feed-forward layer has three matrices, else two.
        qkv_bias: queries, keys and values have biases; or the entry of the config that says so.
        out_bias: the attention's output has a bias; or the entry that says so.
        mlp_bias: the feed-forward layer has biases; or the entry that says so.
        mixture: its experts, if it has any.
        latent: queries, keys and values come from low-rank latents (DeepSeek-AI 2024, multi-head latent attention).
        layer_types: the entry layer_types for a number of layers and the other entries.
        derived: entries that transformers derives, and writes.
    """

    model_type: str
    class_name: str
    library: Mapping[str, Any]
    inner: Callable[[int], int]
    config_name: str = ""
    usual: Mapping[str, Any] = field(default_factory=dict)
    norms: int = 2
    layer_norm: bool = False
    qk_norm: Literal["", "head", "width"] = ""
    gated: bool = True
    qkv_bias: bool | str = False
    out_bias: bool | str = False
    mlp_bias: bool | str = False
    mixture: Mixture | None = None
    latent: bool = False
    layer_types: Callable[[int, Mapping[str, Any]], list[str]] | None = None
    derived: Callable[[ModelSpec, Mapping[str, Any]], dict[str, Any]] | None = None
    causal: bool = True

    @property
    def config_class(self) -> str:
        """Return the name of the config's class."""
        return self.config_name or f"{self.class_name}Config"

    @property
    def model_class(self) -> str:
        """Return the name of the language model's class."""
        return f"{self.class_name}ForCausalLM"

    def entries(self, spec: ModelSpec) -> dict[str, Any]:
        """Return all entries of the config but the sizes: the usual ones, then the spec's own.

        Works for sizes that are arrays too, as long as nothing asks for layer_types.
        """
        return {**self._usual(spec), **spec.config}

    def _usual(self, spec: ModelSpec) -> dict[str, Any]:
        found = {
            key: value
            for key, value in {**self.library, **self.usual}.items()
            if key not in self._size_keys.values() and key != "layer_types"
        }
        if "head_dim" in found:
            found["head_dim"] = spec.n_embd // spec.n_head
        if self.mixture is not None and self.mixture.inner is not None:
            found[self.mixture.inner] = spec.n_inner // self.mixture.widths
        end = spec.vocab_size - 1  # as in the models that are trained here, whose last token ends a text
        return {**found, "bos_token_id": end, "eos_token_id": end, "pad_token_id": None}

    @property
    def _size_keys(self) -> dict[str, str]:
        return {size: key for size, key in SIZE_KEYS.items() if key in self.library}

    def parameters(self, spec: ModelSpec) -> dict[str, int]:
        """Count by part. Positions are rotations and have no parameters; a tied head has none of its own."""
        d, layers, entries = spec.n_embd, spec.n_layer, self.entries(spec)
        sparse = self._sparse_layers(spec, entries)
        weights, biases = self._attention(spec, entries)
        parts: dict[str, int] = {
            "token_embedding": spec.vocab_size * d,
            "attention": layers * (weights + biases),
            "feed_forward": (layers - sparse) * self._feed_forward(spec, spec.n_inner, entries),
        }
        if self.mixture is not None:
            inner = self._expert_inner(spec, entries)
            one = 3 * d * inner
            parts["experts"] = sparse * entries[self.mixture.number] * one
            parts["shared_experts"] = sparse * self._shared(entries) * one
            parts["router"] = sparse * entries[self.mixture.number] * d
            absent = [] if self.mixture.shared else ["shared_experts"]
            if isinstance(spec.n_layer, int) and sparse == spec.n_layer:
                absent.append("feed_forward")  # every layer has experts
            parts = {part: count for part, count in parts.items() if part not in absent}
        name = "layer_norm" if self.layer_norm else "rms_norm"
        parts[name] = layers * self._norm_weights(spec, entries) + (2 if self.layer_norm else 1) * d
        if not self._tied(entries):
            parts["head"] = spec.vocab_size * d
        return parts

    def idle_parameters(self, spec: ModelSpec) -> int:
        """Count the experts that the router leaves out."""
        if self.mixture is None:
            return 0
        entries = self.entries(spec)
        idle: int = entries[self.mixture.number] - entries["num_experts_per_tok"]
        one: int = 3 * spec.n_embd * self._expert_inner(spec, entries)
        return self._sparse_layers(spec, entries) * idle * one

    def counts(self, spec: ModelSpec) -> dict[str, int]:
        """Count the language model, and the trunk without a head of its own."""
        parts = self.parameters(spec)
        total = sum(parts.values())
        return {
            self.model_class: total,
            f"{self.config_class.removesuffix('Config')}Model": total - parts.get("head", 0),
        }

    def default_inner(self, n_embd: int) -> int:
        """Return the makers' usual width."""
        return self.inner(n_embd)

    def block_weights(self, spec: ModelSpec) -> int:
        """Count the blocks' matrices: attention, feed-forward, routers and all experts."""
        entries = self.entries(spec)
        dense = 3 if self.gated else 2
        sparse = self._sparse_layers(spec, entries)
        found = spec.n_layer * self._attention(spec, entries)[0]
        found += (spec.n_layer - sparse) * dense * spec.n_embd * spec.n_inner
        if self.mixture is not None:
            number = entries[self.mixture.number]
            experts = (number + self._shared(entries)) * 3 * self._expert_inner(spec, entries)
            found += sparse * spec.n_embd * (experts + number)
        return found

    def embedding_parts(self) -> tuple[str, ...]:
        """Return the token embedding; the head is a matrix of its own, or tied and has no parameters."""
        return ("token_embedding",)

    def train_flops_per_token(self, spec: ModelSpec) -> int:
        """Count forward and backward through the experts of one token. Grouped queries save weights, not scores.

        Sliding windows are counted over the full context, as an eager kernel computes them.
        """
        entries = self.entries(spec)
        weights = self.block_weights(spec) - self.idle_parameters(spec) + spec.vocab_size * spec.n_embd
        return train_flops(weights, spec, spec.n_head * sum(self._head_sizes(spec, entries)))

    def activation_bytes(self, spec: ModelSpec, batch: int, attention: Attention) -> ActivationBytes:
        """Count bytes that autograd keeps.

        Per layer and token: three values of each norm and its statistic, q, the attention's output, k and v (copied to
        every head in eager attention), four feed-forward values of a gated layer and three of another. Exact for Llama;
        within 6 % of what autograd keeps for the others, 8 % for GPT-NeoX, 13 % for DeepSeek-V3 with a fused kernel.
        """
        tokens, d, entries = batch * spec.n_positions, spec.n_embd, self.entries(spec)
        key, value = self._head_sizes(spec, entries)
        queries, values = spec.n_head * key, spec.n_head * value
        kv_heads = spec.n_head if attention == "eager" or self.latent else spec.n_kv_head
        keys_and_values = kv_heads * (key + value)
        norms = self.norms * (2 * d + 2 if self.layer_norm else 3 * d + 1)
        if self.norms == 4:
            norms -= 2 * d  # nothing reads the outputs of the second norms but a sum
        if self.qk_norm:
            norms += 2 * (spec.n_head + spec.n_kv_head) * key
            norms += spec.n_head + spec.n_kv_head if self.qk_norm == "head" else 2
        if self.latent:
            norms += 3 * ((entries["q_lora_rank"] or 0) + entries["kv_lora_rank"])
        feed_forward = self._inner_values(spec, entries)
        scores = score_values(spec, attention) * (2 if entries.get("attn_logit_softcapping") else 1)
        layer = norms + queries + values + keys_and_values + scores + feed_forward
        rotations = 8 * spec.n_positions * key  # cosines and sines, once for all layers
        trunk = 4 * tokens * (3 * d + 1) + 16 * tokens + rotations + 4  # 64-bit ids and labels
        wide = 2 * self.norms * d + self.norms + spec.n_head
        return ActivationBytes(
            layer=4 * tokens * layer, wide=4 * tokens * wide, trunk=trunk, logits=4 * tokens * spec.vocab_size
        )

    def _inner_values(self, spec: ModelSpec, entries: Mapping[str, Any]) -> int:
        """Count values kept per token in the feed-forward part of a block, the mean of dense and sparse ones."""
        kept = 4 if self.gated else 2
        sparse = self._sparse_layers(spec, entries)
        found = kept * spec.n_inner
        if self.mixture is None or not sparse:
            return found
        per_token = entries["num_experts_per_tok"]
        inner = (per_token + self._shared(entries)) * self._expert_inner(spec, entries)
        copies = (2 * per_token + 1) * spec.n_embd  # of the input to each expert, and of what each returns
        routed: int = 4 * inner + copies + 3 * entries[self.mixture.number]
        return (sparse * routed + (spec.n_layer - sparse) * found) // spec.n_layer

    def to_hugging_face(self, spec: ModelSpec) -> dict[str, Any]:
        """Return all arguments of the config; nothing is left to the library's defaults. Dropout is off."""
        found = self.entries(spec)
        found |= {key: 0.0 for key in found if "drop" in key and key not in ASIDE}
        found = {key: value for key, value in found.items() if key not in self._asides}
        for key in ("bos_token_id", "eos_token_id"):
            if isinstance(found[key], int) and found[key] >= spec.vocab_size:
                found[key] = spec.vocab_size - 1  # the vocabulary is another
        if isinstance(found["pad_token_id"], int) and found["pad_token_id"] >= spec.vocab_size:
            found["pad_token_id"] = None
        if self.layer_types is not None:
            own = spec.config.get("layer_types") or self.layer_types(spec.n_layer, found)
            if len(own) < spec.n_layer:
                raise BadInput(f"layer_types names {len(own)} layers; the model has {spec.n_layer}")
            found["layer_types"] = own[: spec.n_layer]
        return {**{key: getattr(spec, size) for size, key in self._size_keys.items()}, **found}

    @property
    def _asides(self) -> set[str]:
        return {key for key in self.library if key in ASIDE and key not in ("initializer_range", "use_cache")}

    def library_defaults(self, spec: ModelSpec) -> dict[str, Any]:
        """Return entries of classifiers and of book-keeping, and those that follow from others."""
        found = {key: self.library[key] for key in self._asides}
        return found if self.derived is None else {**found, **self.derived(spec, self.entries(spec))}

    def from_hugging_face(self, config: dict[str, Any]) -> ModelSpec:
        """Return the spec of a config's dictionary, in older names too; missing entries take the library's defaults."""
        given = modern_names(config, self.library)
        stated = {**self.library, **given}
        sizes = {size: stated[key] for size, key in self._size_keys.items()}
        for size in sizes:
            sizes[size] = whole(stated, self._size_keys[size]) if sizes[size] is not None else 0
        if not sizes["n_head"]:
            raise BadInput(f"{self._size_keys['n_head']} is null; it must be a number of heads")
        if (
            "n_kv_head" in sizes
            and sizes["n_head"] % (sizes["n_kv_head"] or 1)
            and "num_key_value_heads" not in given
        ):
            sizes["n_kv_head"] = 0  # the library's default does not divide these heads
        own = {}
        if "head_dim" in self.library:
            if stated["head_dim"] is None:
                stated["head_dim"] = sizes["n_embd"] // sizes["n_head"]
            whole(stated, "head_dim")
            own = {"head_dim": stated["head_dim"]} if sizes["n_embd"] % sizes["n_head"] else {}
        spec = ModelSpec(architecture=self.model_type, **sizes, config=Extras(own))
        usual = self._usual(spec)
        extras = {**own, **extras_of({**usual, **stated}, usual)}
        if self.layer_types is not None:
            types = given.get("layer_types") or self.layer_types(spec.n_layer, stated)
            if not isinstance(types, list) or len(types) < spec.n_layer:
                raise BadInput(f"layer_types is {types!r}; it must name each of {spec.n_layer} layers")
            if types != self.layer_types(spec.n_layer, {**usual, **extras}):
                extras["layer_types"] = types
        found = replace(spec, config=Extras(extras))
        self._check(found)
        return found

    def _check(self, spec: ModelSpec) -> None:
        """Check the entries that are counted.

        Raises:
            BadInput: one that is not a whole number, or more experts per token than there are.
        """
        entries = self.entries(spec)
        if self.latent:
            for key in ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"):
                whole(entries, key)
            if entries["q_lora_rank"] is not None:
                whole(entries, "q_lora_rank")
        if self.mixture is None:
            return
        number, per_token = whole(entries, self.mixture.number), whole(entries, "num_experts_per_tok")
        if per_token > number:
            raise BadInput(
                f"num_experts_per_tok is {per_token}; {self.mixture.number} is {number}, which is the most"
            )
        if self.mixture.inner is not None:
            whole(entries, self.mixture.inner)
        for entry in (self.mixture.shared, self.mixture.first_dense):
            if entry is not None:
                whole(entries, entry, least=0)
        if "decoder_sparse_step" in entries:
            whole(entries, "decoder_sparse_step")

    def _tied(self, entries: Mapping[str, Any]) -> Any:
        return entries["tie_word_embeddings"]

    def _flag(self, flag: bool | str, entries: Mapping[str, Any]) -> bool:
        return bool(entries[flag]) if isinstance(flag, str) else flag

    def _head_sizes(self, spec: ModelSpec, entries: Mapping[str, Any]) -> tuple[int, int]:
        """Return the widths of one head's queries and keys, and of its values."""
        if self.latent:
            return entries["qk_nope_head_dim"] + entries["qk_rope_head_dim"], entries["v_head_dim"]
        size = entries.get("head_dim")
        size = spec.n_embd // spec.n_head if size is None else size
        return size, size

    def _attention(self, spec: ModelSpec, entries: Mapping[str, Any]) -> tuple[int, int]:
        """Count the weights and the biases of one block's attention."""
        d, heads = spec.n_embd, spec.n_head
        key, value = self._head_sizes(spec, entries)
        biased, out_biased = self._flag(self.qkv_bias, entries), self._flag(self.out_bias, entries)
        if self.latent:
            rank, kv_rank, rotary = (
                entries["q_lora_rank"],
                entries["kv_lora_rank"],
                entries["qk_rope_head_dim"],
            )
            queries = d * heads * key if rank is None else rank * (d + heads * key)
            keys_and_values = d * (kv_rank + rotary) + kv_rank * heads * (key - rotary + value)
            biases = (((rank or 0) + kv_rank + rotary) if biased else 0) + (d if out_biased else 0)
            return queries + keys_and_values + heads * value * d, biases
        wide, narrow = heads * key, spec.n_kv_head * key
        biases = (wide + 2 * narrow if biased else 0) + (d if out_biased else 0)
        return 2 * d * wide + 2 * d * narrow, biases

    def _feed_forward(self, spec: ModelSpec, inner: int, entries: Mapping[str, Any]) -> int:
        """Count the weights and biases of one dense feed-forward layer."""
        matrices, d = (3 if self.gated else 2), spec.n_embd
        biases = (matrices - 1) * inner + d if self._flag(self.mlp_bias, entries) else 0
        return matrices * d * inner + biases

    def _norm_weights(self, spec: ModelSpec, entries: Mapping[str, Any]) -> int:
        """Count the weights of one block's norms."""
        found = self.norms * (2 if self.layer_norm else 1) * spec.n_embd
        key, _ = self._head_sizes(spec, entries)
        if self.qk_norm:
            found += 2 * key if self.qk_norm == "head" else (spec.n_head + spec.n_kv_head) * key
        if self.latent:
            found += (entries["q_lora_rank"] or 0) + entries["kv_lora_rank"]
        return found

    def _sparse_layers(self, spec: ModelSpec, entries: Mapping[str, Any]) -> int:
        """Count the blocks whose feed-forward layer is a mixture of experts."""
        if self.mixture is None:
            return 0
        if self.mixture.first_dense is not None:
            dense: int = entries[self.mixture.first_dense]
            return spec.n_layer - dense if not isinstance(spec.n_layer, int) else max(0, spec.n_layer - dense)
        step, listed = entries.get("decoder_sparse_step", 1), entries.get("mlp_only_layers") or []
        if step == 1 and not listed:
            return spec.n_layer
        return sum((layer + 1) % step == 0 and layer not in listed for layer in range(spec.n_layer))

    def _shared(self, entries: Mapping[str, Any]) -> int:
        """Return the number of experts that every token passes through."""
        shared = self.mixture.shared if self.mixture is not None else None
        return 0 if shared is None else entries[shared] or 0

    def _expert_inner(self, spec: ModelSpec, entries: Mapping[str, Any]) -> int:
        """Return the width of one expert."""
        assert self.mixture is not None
        return spec.n_inner if self.mixture.inner is None else entries[self.mixture.inner]
