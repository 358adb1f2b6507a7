"""Families as rules: the shapes that their makers chose come out, and any size between them can be had."""

import json

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import scaling
from families import BadInput, accounting, member
from families.architectures import architecture
from families.configs import spec_of_config
from families.design import design, design_members, rule_for
from families.rules import MAKERS, MIXTURES, maker, maker_of
from scaling.planning.candidates import candidates
from scaling.planning.law import plan_params, shape_sizes
from scaling.planning.query import rule_of
from scaling.published_laws import published_law
from scaling.runs import Run
from train.model.config import hugging_face_config

from .test_families import count

MODERN = [name for name in MAKERS if name not in ("gpt2", "bert", "llama")]


@pytest.mark.parametrize(
    ("family", "published", "context"),
    [
        ("llama3", "llama-3-8b", 8192),
        ("llama3", "llama-3-70b", 8192),
        ("llama2", "llama-2-13b", 4096),
        ("qwen3", "qwen3-1.7b", 32768),
        ("qwen3", "qwen3-8b", 32768),
        ("olmo2", "olmo-2-7b", 4096),
        ("olmo2", "olmo-2-13b", 4096),
        ("mixtral", "mixtral-8x7b", 32768),
        ("mistral", "mistral-7b-v0.3", 32768),
        ("pythia", "pythia-160m", 2048),
        ("smollm2", "smollm2-135m", 8192),
        ("smollm2", "smollm2-360m", 8192),
    ],
)
def test_at_a_published_depth_and_width_the_rule_gives_the_published_model(family, published, context):
    spec = member(published).spec
    made = design(architecture=family, depth=spec.n_layer, width=spec.n_embd, n_positions=context)
    assert made.spec == spec


@given(family=st.sampled_from(MODERN), layers=st.integers(1, 40), width=st.integers(1, 9000))
@settings(max_examples=30)
def test_a_designed_member_is_realisable(family, layers, width):
    rule = rule_for(family)
    spec = rule.spec(layers, width)
    size = spec.n_embd // spec.n_head
    assert size in (64, 128)
    assert spec.n_embd % spec.n_head == spec.n_head % spec.n_kv_head == 0
    assert abs(spec.n_embd - width) <= max(size / 2, size - width)
    config = architecture(spec.architecture).to_hugging_face(spec)
    ends = [config[key] for key in ("bos_token_id", "eos_token_id") if config[key] is not None]
    assert all(0 <= end < spec.vocab_size for end in ends)
    assert spec_of_config({**config, "model_type": spec.architecture}) == spec
    assert maker_of(spec) in ((family, "llama") if family == "llama2" else (family,))


@pytest.mark.slow
@pytest.mark.parametrize("family", MODERN)
@pytest.mark.parametrize("width", [256, 1024, 2560])
def test_transformers_builds_a_designed_member_and_counts_it_alike(family, width):
    spec = rule_for(family).spec(4, width)
    with torch.device("meta"):
        model = getattr(transformers, architecture(spec.architecture).model_class)(hugging_face_config(spec))
    assert count(model) == accounting.params(spec)


def test_key_value_heads_that_do_not_divide_become_the_nearest_that_do():
    (one,) = design_members(architecture="llama3", depth=(12,), width=(768,), kv_heads=5)
    assert (one.spec.n_head, one.spec.n_kv_head) == (12, 4)
    (two,) = design_members(architecture="llama3", depth=(12,), width=(768,), kv_heads=3)
    assert two.spec.n_kv_head == 3


def test_a_size_asked_for_is_met_within_fifteen_percent_where_the_vocabulary_leaves_room():
    for family in MODERN:
        for size in (1e9, 8e9):
            made = design(architecture=family, params=size)
            assert made.n_params == pytest.approx(size, rel=0.16), made.name
            assert made.name.startswith(f"{family}-")


def test_a_kind_of_family_says_which_there_are():
    with pytest.raises(BadInput, match=", ".join(MIXTURES)):
        maker("moe")
    with pytest.raises(BadInput, match="did you mean qwen3"):
        maker("qwen33")
    assert maker("gpt_neox").name == "pythia"


@pytest.mark.parametrize("family", ["llama3", "qwen3-moe"])
def test_a_grid_counts_each_shape_as_the_shape_itself_does(family):
    grid = candidates(family)
    law = published_law("chinchilla")
    for index in np.linspace(0, len(grid) - 1, 25).astype(int).tolist():
        spec = grid.spec(index)
        assert grid.params[index] == accounting.params(spec)
        assert grid.flops_per_token[index] == accounting.train_flops_per_token(spec)
        assert shape_sizes(law, grid)[index] == plan_params(law, spec)
    assert len(grid) > 1000
    assert (np.diff(grid.params) >= 0).all()


def test_a_published_law_of_dense_models_sees_the_active_parameters_of_a_mixture():
    spec = member("mixtral-8x7b").spec
    assert plan_params(published_law("chinchilla"), spec) == accounting.params_active(spec) == 12_879_925_248


@pytest.mark.parametrize("family", ["llama3", "qwen3", "mixtral"])
def test_a_plan_searches_a_family_that_is_a_rule_and_carries_its_config(family):
    made = scaling.plan("1e20", law="chinchilla", family=family)
    assert made.recommended.architecture == maker(family).architecture
    assert made.recommended.member.startswith(family)
    (planned,) = made.document.members
    assert maker_of(planned.spec) == family
    assert json.loads(made.document.dump())["members"][0]["config"] == dict(planned.spec.config)
    again = type(made.document).parse(made.document.dump(), "plan.json")
    assert again.members[0].spec == planned.spec


def test_a_study_of_llamas_never_offers_gpt2_shapes():
    shapes = [(4, 256, 4), (6, 384, 6), (8, 512, 8)]
    runs = [
        Run(run=f"r{layers}", params=1e6 * layers, tokens=1e8, loss=3.0, architecture="llama3", n_layer=layers,
            n_embd=width, n_head=heads, vocab_size=512, n_positions=128)
        for layers, width, heads in shapes
    ]  # fmt: skip
    rule = rule_of(runs)
    offered = candidates("all", rule)
    assert offered.architecture == "llama"
    assert {maker_of(offered.spec(index)) for index in range(0, len(offered), 20)} == {"llama3"}
    assert set(offered.vocab_size.tolist()) == {512}


def test_a_config_file_is_a_plans_only_candidate(tmp_path):
    folder = tmp_path / "mine"
    member("qwen3-0.6b").to_hf_config(folder)
    made = scaling.plan("1e20", law="chinchilla", family=str(folder))
    assert (made.recommended.member, made.recommended.params) == ("mine", 596_049_920)


def test_a_family_too_coarse_for_a_budget_says_so_and_offers_the_rule():
    notes = " ".join(scaling.plan("1e23", law="chinchilla", family="gpt2").document.notes)
    assert "family gpt2 has 4 sizes, none near" in notes
    assert "--family grid" in notes
    fine = " ".join(scaling.plan("1e19", law="chinchilla", family="gpt2").document.notes)
    assert "sizes, none near" not in fine
