"""The decoders of today trained, resumed bit for bit and read by transformers; checkpoints compute what they computed."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from families import MEMBERS, ModelSpec, params
from families.architectures import architecture
from families.architectures.llama import rope
from families.published import llama3_rope
from families.rules import maker_of
from train.checkpoint import load, save
from train.loop import start, train_step
from train.model.config import build, hugging_face_config
from train.model.kernels import use_attention
from train.model.objective import Causal

from .test_architectures import DECODERS, small
from .tiny import settings, text_in, trained

pytestmark = pytest.mark.usefixtures("one_thread")
FAMILIES = ("llama3", "qwen3", "olmo2", "mixtral")
TINY = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 32, "vocab_size": 300}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return text_in(tmp_path_factory.mktemp("modern"))


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name == "mixtral" else pytest.mark.slow) for name in FAMILIES]
)
def test_a_modern_run_resumes_bit_for_bit(family, text, tmp_path):
    session = start(settings(text, family=family, **TINY), "cpu")
    windows = torch.from_numpy(text.train.windows(np.arange(4)))
    for _ in range(2):
        train_step(session, windows, 1e-3)
    save(session, tmp_path / "step-00000002", text.folder / "tokenizer.json")
    losses = [train_step(session, windows, 1e-3)[0].item() for _ in range(2)]
    resumed = load(session.settings, tmp_path / "step-00000002", "cpu")
    assert [train_step(resumed, windows, 1e-3)[0].item() for _ in range(2)] == losses
    assert losses[1] < losses[0]
    for mine, whole in zip(resumed.model.parameters(), session.model.parameters(), strict=True):
        assert torch.equal(mine, whole)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_modern_family_is_trained_to_the_end_and_reloaded_by_transformers(family, text, tmp_path):
    rungs = trained(
        tmp_path, family=family, data=str(text.folder.parent / "corpus"), tokens=4096, batch_size=4, lr=3e-3,
        compile=False, dtype="fp32", eval_tokens=2000, **TINY,
    )  # fmt: skip
    run = rungs[-1].observation
    assert run.architecture == family
    (folder,) = tmp_path.glob("runs/*/rung-*/model")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.model_type == architecture(model.config.model_type).model_type
    assert sum(weight.numel() for weight in model.parameters()) == run.params
    config = json.loads((folder / "config.json").read_text())
    assert config["vocab_size"] == 300
    again = settings(text, family="tuned", init=str(folder), n_layer=None, n_head=None, n_embd=None)
    assert maker_of(again.spec()) == family
    session = start(again, "cpu")
    for name, weight in load_file(folder / "model.safetensors").items():
        if name in dict(session.model.named_parameters()):
            assert torch.equal(session.model.get_parameter(name), weight)


def checkpoint(folder, spec, **changes):
    """A folder that transformers saved, with random weights and the sort of config.json that people have."""
    torch.manual_seed(0)
    config = hugging_face_config(spec, initializer_range=0.2, **changes)
    getattr(transformers, architecture(spec.architecture).model_class)(config).save_pretrained(folder)
    return folder


TWIST = {  # what a careless loader would take from its own defaults
    "llama": {**llama3_rope(8.0), "rms_norm_eps": 1e-3, "head_dim": 32, "tie_word_embeddings": True},
    "mistral": {"sliding_window": 8, "rope_parameters": rope(100.0)},
    "qwen2": {"rope_parameters": rope(1e6), "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1,
              "layer_types": ["full_attention"] + ["sliding_attention"] * 3},
    "qwen3": {"head_dim": 32, "attention_bias": True},
    "gemma2": {"sliding_window": 8, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3_text": {"sliding_window": 8, "query_pre_attn_scalar": 7},
    "gpt_neox": {"use_parallel_residual": False, "hidden_act": "relu"},
    "mixtral": {"sliding_window": 8},
    "qwen3_moe": {"norm_topk_prob": True},
    "deepseek_v3": {"routed_scaling_factor": 1.5},
}  # fmt: skip


def twisted(name):
    spec = small(name)
    return ModelSpec(
        architecture=name, n_layer=spec.n_layer, n_head=spec.n_head, n_embd=spec.n_embd, n_inner=spec.n_inner,
        n_positions=32, vocab_size=300, n_kv_head=spec.n_kv_head, config={**spec.config, **TWIST.get(name, {})},
    )  # fmt: skip


FAST = ("gemma2",)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in DECODERS]
)
def test_a_loaded_checkpoint_computes_transformers_logits(name, text, tmp_path):
    folder = checkpoint(tmp_path / "theirs", twisted(name))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", experts_implementation="eager"
    ).eval()
    session = start(
        settings(text, family="tuned", init=str(folder), n_layer=None, n_head=None, n_embd=None), "cpu"
    )
    ids = torch.from_numpy(text.train.windows(np.arange(2)))[:, :-1]
    with torch.no_grad():
        expected = theirs(ids).logits
        for attention in ("eager", "sdpa"):
            use_attention(session.model.eval(), attention)
            assert torch.allclose(
                session.model(ids).logits, expected, atol=1e-4 * float(expected.abs().max())
            )


def test_a_mixtures_training_loss_has_the_load_balancing_part_and_its_evaluation_does_not(text):
    spec = ModelSpec(architecture="mixtral", **TINY, n_kv_head=1, config={"router_aux_loss_coef": 0.5})
    model = build(spec, seed=0)
    windows = torch.from_numpy(text.train.windows(np.arange(2)))
    theirs = model(windows[:, :-1], output_router_logits=True).aux_loss
    plain = Causal().losses(model.eval(), windows).mean()
    balanced = Causal().losses(model.train(), windows).mean()
    assert (balanced - plain).item() == pytest.approx(0.5 * theirs.item(), rel=1e-5)


def test_a_rule_needs_a_shape_and_an_unknown_architecture_is_not_trained(tmp_path):
    from train.config import TrainConfig

    with pytest.raises(ValueError, match="a rule for many sizes"):
        TrainConfig.model_validate({"family": "llama3", "data": "x", "tokens": 10})
    with pytest.raises(ValueError, match="not compiled"):
        TrainConfig.model_validate({"family": "mixtral", "data": "x", "tokens": 10, "compile": True, **TINY})


def test_a_members_config_stays_with_a_run_whose_context_is_shorter():
    from train.config import requested_spec

    spec = requested_spec("llama-3.2-1b", None, None, {"n_positions": 4096})
    assert params(spec) == MEMBERS["llama-3.2-1b"].n_params
    assert spec.config == MEMBERS["llama-3.2-1b"].spec.config


def test_a_checkpoint_of_an_architecture_that_is_not_trained_is_one_line(text, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "opt"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="known: gpt2, bert, llama"):
        settings(text, family="tuned", init=str(tmp_path), n_layer=None, n_head=None, n_embd=None)
