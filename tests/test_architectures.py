"""Decoders of today against transformers' own counts, torch's FLOP counter and what autograd keeps."""

import json
import sys

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.configs import outcome
from families import MEMBERS, BadInput, ModelSpec, accounting, member
from families.architectures import REGISTRY, architecture, config_json
from families.architectures.decoder import Decoder
from families.configs import is_estimated, read_config, spec_of_config, unread_entries
from train.model.config import hugging_face_config

from .test_families import count, kept_by_autograd

DECODERS = sorted(name for name, found in REGISTRY.items() if isinstance(found, Decoder))
MIXTURES = [name for name in DECODERS if REGISTRY[name].mixture is not None]
LATENT = {
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 24,
    "qk_nope_head_dim": 16,
    "n_group": 1,
    "topk_group": 1,
}


@st.composite
def specs(draw, names=tuple(DECODERS)):
    """A small shape of any decoder: grouped queries, heads of their own size, tied or not, biases, windows, latents, experts."""
    name = draw(st.sampled_from(names))
    found = REGISTRY[name]
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 3))
    grouped = "num_key_value_heads" in found.library and not found.latent
    config = {"tie_word_embeddings": draw(st.booleans())}
    for flag in ("attention_bias", "mlp_bias"):
        if flag in found.library:
            config[flag] = draw(st.booleans())
    if "head_dim" in found.library:
        config["head_dim"] = draw(st.sampled_from([8, 16, 32]))
    if "sliding_window" in found.library:
        windows = [4, 12] if "gemma" in name else [None, 4, 12]
        config["sliding_window"] = draw(st.sampled_from(windows))
    if "use_sliding_window" in found.library:
        config["use_sliding_window"] = (
            config["sliding_window"] is not None
        )  # without it the library drops the window
    if "max_window_layers" in found.library:
        config["max_window_layers"] = draw(st.integers(0, 3))
    if "decoder_sparse_step" in found.library:
        config |= {
            "decoder_sparse_step": draw(st.integers(1, 2)),
            "mlp_only_layers": draw(st.sampled_from([[], [0]])),
        }
    if found.mixture is not None:
        config[found.mixture.number] = experts = draw(st.integers(2, 6))
        config["num_experts_per_tok"] = draw(st.integers(1, experts))
        if found.mixture.first_dense:
            config |= {**LATENT, found.mixture.first_dense: draw(st.integers(0, 2))}
            config["q_lora_rank"] = draw(st.sampled_from([None, 8, 24]))
            for key in ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"):
                config[key] = 2 * draw(st.integers(2, 12))
            config[found.mixture.shared] = draw(st.integers(1, 2))
    spec = ModelSpec(
        architecture=name,
        n_layer=draw(st.integers(1, 3)),
        n_head=heads,
        n_embd=heads * draw(st.sampled_from([8, 16])),
        n_inner=9 * draw(st.integers(1, 8)),
        n_positions=draw(st.integers(8, 24)),
        vocab_size=draw(st.integers(40, 300)),
        n_kv_head=kv_heads if grouped else 0,
        config=config,
    )
    usual = found.to_hugging_face(ModelSpec(**{**fields(spec), "config": {}}))
    return ModelSpec(
        **{**fields(spec), "config": {key: value for key, value in config.items() if usual[key] != value}}
    )


def fields(spec):
    return {name: getattr(spec, name) for name in ModelSpec.__dataclass_fields__}


def model_of(spec, *, attention="eager", device="cpu"):
    config = hugging_face_config(spec, attn_implementation=attention, experts_implementation="eager")
    with torch.device(device):
        return getattr(transformers, architecture(spec.architecture).model_class)(config)


# Parameters, and those that one token passes through: model cards, papers and the hub's safetensors counts.
PUBLISHED = {
    "llama-2-7b": (6_738_415_616, 6_738_415_616),
    "llama-2-13b": (13_015_864_320, 13_015_864_320),
    "llama-2-70b": (68_976_648_192, 68_976_648_192),
    "llama-3.2-1b": (1_235_814_400, 1_235_814_400),
    "llama-3.2-3b": (3_212_749_824, 3_212_749_824),
    "llama-3-8b": (8_030_261_248, 8_030_261_248),
    "llama-3-70b": (70_553_706_496, 70_553_706_496),
    "llama-3.1-405b": (405_853_388_800, 405_853_388_800),
    "mistral-7b": (7_241_732_096, 7_241_732_096),
    "mistral-7b-v0.3": (7_248_023_552, 7_248_023_552),
    "qwen2.5-0.5b": (494_032_768, 494_032_768),
    "qwen2.5-1.5b": (1_543_714_304, 1_543_714_304),
    "qwen2.5-3b": (3_085_938_688, 3_085_938_688),
    "qwen2.5-7b": (7_615_616_512, 7_615_616_512),
    "qwen2.5-14b": (14_770_033_664, 14_770_033_664),
    "qwen2.5-32b": (32_763_876_352, 32_763_876_352),
    "qwen2.5-72b": (72_706_203_648, 72_706_203_648),
    "qwen3-0.6b": (596_049_920, 596_049_920),
    "qwen3-1.7b": (1_720_574_976, 1_720_574_976),
    "qwen3-4b": (4_022_468_096, 4_022_468_096),
    "qwen3-8b": (8_190_735_360, 8_190_735_360),
    "qwen3-14b": (14_768_307_200, 14_768_307_200),
    "qwen3-32b": (32_762_123_264, 32_762_123_264),
    "qwen3-30b-a3b": (30_532_122_624, 3_353_032_704),
    "qwen3-235b-a22b": (235_093_634_560, 22_190_763_520),
    "gemma-2-2b": (2_614_341_888, 2_614_341_888),
    "gemma-2-9b": (9_241_705_984, 9_241_705_984),
    "gemma-2-27b": (27_227_128_320, 27_227_128_320),
    "gemma-3-1b": (999_885_952, 999_885_952),
    "olmo-2-1b": (1_484_916_736, 1_484_916_736),
    "olmo-2-7b": (7_298_617_344, 7_298_617_344),
    "olmo-2-13b": (13_716_198_400, 13_716_198_400),
    "pythia-70m": (70_426_624, 70_426_624),
    "pythia-160m": (162_322_944, 162_322_944),
    "pythia-410m": (405_334_016, 405_334_016),
    "pythia-1b": (1_011_781_632, 1_011_781_632),
    "pythia-1.4b": (1_414_647_808, 1_414_647_808),
    "pythia-2.8b": (2_775_208_960, 2_775_208_960),
    "pythia-6.9b": (6_857_302_016, 6_857_302_016),
    "pythia-12b": (11_846_072_320, 11_846_072_320),
    "smollm2-135m": (134_515_008, 134_515_008),
    "smollm2-360m": (361_821_120, 361_821_120),
    "smollm2-1.7b": (1_711_376_384, 1_711_376_384),
    "phi-3-mini": (3_821_079_552, 3_821_079_552),
    "phi-3-medium": (13_960_238_080, 13_960_238_080),
    "mixtral-8x7b": (46_702_792_704, 12_879_925_248),
    "mixtral-8x22b": (140_630_071_296, 39_161_468_928),
    "olmoe-1b-7b": (6_919_161_856, 1_282_017_280),
    "deepseek-v3": (671_026_404_352, 37_552_282_624),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sizes_are_exact(name):
    spec = member(name).spec
    assert (accounting.params(spec), accounting.params_active(spec)) == PUBLISHED[name]


@pytest.mark.parametrize(
    "name", [name for name, known in MEMBERS.items() if known.spec.architecture in DECODERS]
)
def test_a_published_shape_survives_its_config(name):
    spec = member(name).spec
    found = architecture(spec.architecture)
    assert found.from_hugging_face(json.loads(json.dumps(config_json(spec, None)))) == spec


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sizes_are_those_of_transformers_on_the_meta_device(name):
    spec = member(name).spec
    assert count(model_of(spec, device="meta")) == PUBLISHED[name][0]


def check_parameters(spec):
    model = model_of(spec, device="meta")
    assert accounting.params(spec) == count(model)
    assert accounting.params_non_embedding(spec) == count(model) - count(model.get_input_embeddings())


@given(spec=specs(names=("qwen3", "mixtral")))
@settings(max_examples=5)
def test_parameters_equal_transformers_own(spec):
    check_parameters(spec)


@pytest.mark.slow
@given(spec=specs())
@settings(max_examples=60)
def test_parameters_of_every_decoder_equal_transformers_own(spec):
    check_parameters(spec)


def flops_of(spec, device):
    """torch's count of a forward and backward pass; the experts of a mixture depend on values, so on no meta device."""
    ids = torch.arange(2 * spec.n_positions, device=device).view(2, -1) % spec.vocab_size
    model = model_of(spec, device=device)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids).logits.sum().backward()
    return counter.get_total_flops(), accounting.train_flops(spec, ids.numel())


@given(spec=specs(names=("qwen3",)))
@settings(max_examples=3)
def test_training_flops_equal_torchs_flop_counter(spec):
    counted, ours = flops_of(spec, "meta")
    assert counted == ours


@pytest.mark.slow
@given(spec=specs())
@settings(max_examples=40)
def test_training_flops_of_every_decoder_equal_torchs_flop_counter(spec):
    counted, ours = flops_of(spec, "cpu" if spec.architecture in MIXTURES else "meta")
    assert counted == ours


def test_flops_of_a_mixture_are_those_of_one_tokens_experts():
    config = {"num_local_experts": 4, "tie_word_embeddings": True}
    spec = ModelSpec(
        architecture="mixtral", n_layer=1, n_head=2, n_embd=16, n_inner=24, n_kv_head=1, n_positions=8,
        vocab_size=50, config=config,
    )  # fmt: skip
    counted, ours = flops_of(spec, "cpu")
    assert counted == ours


@given(spec=specs())
@settings(max_examples=20)
def test_a_spec_survives_its_config_and_the_config_is_the_librarys(spec):
    found, config = architecture(spec.architecture), hugging_face_config(spec)
    assert found.from_hugging_face(config.to_dict()) == spec
    assert json.loads(json.dumps(config_json(spec, transformers.__version__))) == json.loads(
        json.dumps(config.to_dict())
    )


SMALL = {"n_layer": 4, "n_head": 4, "n_embd": 64, "n_inner": 144, "n_positions": 64, "vocab_size": 300}
OFF = {"gpt_neox": 0.08, "deepseek_v3": 0.13}  # relative error of the estimate, where it is above 6 %


def small(name):
    found = REGISTRY[name]
    config = {} if found.mixture is None else {found.mixture.number: 6, "num_experts_per_tok": 2}
    if found.latent:
        config |= {**LATENT, found.mixture.first_dense: 1}
    grouped = "num_key_value_heads" in found.library and not found.latent
    return ModelSpec(architecture=name, **SMALL, n_kv_head=2 if grouped else 0, config=config)


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_activations_are_what_autograd_keeps_within_what_the_docs_say(name, attention):
    if (name, attention) == ("gemma2", "sdpa"):
        pytest.skip("transformers has no fused kernel for capped scores")
    spec = small(name)
    ids = torch.randint(0, 300, (4, 64), generator=torch.Generator().manual_seed(0))
    kept = kept_by_autograd(model_of(spec, attention=attention).train(), ids)
    memory = accounting.training_memory(spec, 4, attention=attention)
    assert memory["activations"] + memory["logits"] // 3 == pytest.approx(kept, rel=OFF.get(name, 0.06))


# Files that people have: transformers 4's names, and entries of their own.
OLD = {
    "llama": {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True,
        "max_position_embeddings": 131072, "rope_theta": 500000.0, "torch_dtype": "bfloat16", "head_dim": 64,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    },
    "gpt_neox": {"model_type": "gpt_neox", "hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 6,
                 "intermediate_size": 2048, "rotary_pct": 0.5, "rotary_emb_base": 20000},
    "qwen3_moe": {"model_type": "qwen3_moe", "num_experts": 16, "num_experts_per_tok": 4, "rope_theta": 1e6,
                  "sliding_window": 4096, "use_sliding_window": False, "head_dim": 128},
    "gemma3_text": {"model_type": "gemma3_text", "hidden_size": 1152, "num_attention_heads": 4,
                    "num_key_value_heads": 1, "intermediate_size": 6912, "sliding_window": 512,
                    "sliding_window_pattern": 3, "rope_local_base_freq": 10000, "rope_theta": 1000000,
                    "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "phi3": {"model_type": "phi3", "rope_theta": 10000.0, "partial_rotary_factor": 0.75, "sliding_window": 2047},
    "mistral": {"model_type": "mistral", "rope_theta": 1e6, "num_hidden_layers": 2, "head_dim": None},
}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_an_older_config_is_read_as_transformers_reads_it(name):
    found = architecture(name)
    theirs = getattr(transformers, found.config_class).from_dict(json.loads(json.dumps(OLD[name])))
    spec = spec_of_config(OLD[name])
    assert spec == spec_of_config(theirs.to_dict())
    ours = hugging_face_config(spec)
    assert ours.rope_parameters == theirs.rope_parameters
    assert getattr(ours, "layer_types", None) == getattr(theirs, "layer_types", None)


def test_the_tied_llama_that_people_have_is_counted_without_a_second_table():
    spec = spec_of_config(OLD["llama"])
    assert (accounting.params(spec), accounting.params_non_embedding(spec)) == (1_235_814_400, 973_146_112)


def write(folder, config):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_config_file_is_a_member_named_after_its_folder(tmp_path):
    folder = write(tmp_path / "Llama-3.2-1B", OLD["llama"])
    for path in (folder, folder / "config.json"):
        assert member(str(path)).name == "llama-3.2-1b"
        assert member(str(path)).spec == spec_of_config(OLD["llama"])


def test_an_unknown_architecture_is_counted_by_transformers_and_marked(tmp_path):
    config = transformers.OPTConfig(
        hidden_size=64, ffn_dim=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=100,
        max_position_embeddings=32, word_embed_proj_dim=64,
    )  # fmt: skip
    found = member(str(write(tmp_path / "opt", json.loads(json.dumps(config.to_dict())))))
    with torch.device("meta"):
        model = transformers.OPTForCausalLM(config)
    assert found.n_params == count(model)
    assert accounting.train_flops_per_token(found.spec) == 6 * count(model) + 12 * 2 * 64 * 32
    assert is_estimated(found.spec)
    assert "estimated" in found.source
    with pytest.raises(BadInput, match="not written or trained"):
        found.to_hf_config()


def test_idle_experts_of_an_unknown_mixture_are_told_by_their_names(tmp_path):
    config = transformers.Qwen2MoeConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        moe_intermediate_size=16, shared_expert_intermediate_size=16, num_experts=6, num_experts_per_tok=2, vocab_size=80,
    )  # fmt: skip
    spec = member(str(write(tmp_path / "moe", json.loads(json.dumps(config.to_dict()))))).spec
    assert accounting.params(spec) - accounting.params_active(spec) == 2 * 4 * 3 * 32 * 16


KINDS = (
    "bart",
    "ernie4_5_moe",
    "jamba",
    "jetmoe",
    "mamba",
    "nemotron_h",
)  # a sample of benchmarks/configs.py


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_type_of_the_library_is_counted_as_the_library_counts_it(kind):
    assert outcome(kind).outcome == "estimated"


def test_layers_without_scores_and_experts_of_unknown_number_are_not_counted_silently(tmp_path):
    def found(kind, **changes):
        config = transformers.CONFIG_MAPPING[kind](**changes).to_dict()
        return member(str(write(tmp_path / kind, json.loads(json.dumps(config, default=str)))))

    state_space = found("mamba", num_hidden_layers=2, hidden_size=32, vocab_size=64)
    assert accounting.train_flops_per_token(state_space.spec) == 6 * state_space.n_params
    mixed = found(
        "jamba",
        num_hidden_layers=8,
        hidden_size=64,
        intermediate_size=64,
        num_attention_heads=4,
        vocab_size=64,
    )
    active = accounting.params_active(mixed.spec)
    assert active < mixed.n_params
    assert (
        accounting.train_flops_per_token(mixed.spec) == 6 * active + 12 * 64 * mixed.spec.n_positions
    )  # one layer of 8
    stacked = found("dbrx", d_model=32, n_heads=2, n_layers=1, vocab_size=64, attn_config={"kv_n_heads": 2, "rope_theta": 1e4},
                    ffn_config={"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 1})  # fmt: skip
    assert stacked.n_params - accounting.params_active(stacked.spec) == 3 * 3 * 32 * 16
    unknown = found("deepseek_v2", num_hidden_layers=3, num_experts_per_tok=None)
    assert accounting.params_active(unknown.spec) == unknown.n_params
    assert "how many experts a token passes through is not stated" in unknown.source


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not a Hugging Face config"),
        ("{}", "no model_type"),
        (
            '{"model_type": "nobodys", "d_model": 8, "n_layer": 1, "n_head": 1, "vocab_size": 9}',
            "not know either",
        ),
        ('{"model_type": 3}', "no model_type"),
        ('{"model_type": "opt", "hidden_size": 64}', "num_hidden_layers"),
        ('{"model_type": "llama", "hidden_size": 1e400}', "hidden_size"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_file_that_is_no_config_is_refused_by_its_name(tmp_path, text, said):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadInput, match=said) as refusal:
        read_config(tmp_path)
    assert str(tmp_path / "config.json") in str(refusal.value)


def test_without_transformers_an_unknown_architecture_is_refused_clearly(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BadInput, match="'opt', which is not counted here; transformers would"):
        read_config(write(tmp_path, {"model_type": "opt", "num_hidden_layers": 2, "num_attention_heads": 2,
                                     "hidden_size": 8, "vocab_size": 9}))  # fmt: skip


def test_entries_that_nothing_reads_are_listed():
    assert unread_entries({**OLD["llama"], "mup_scale": 2, "_note": 1}) == ["mup_scale"]
