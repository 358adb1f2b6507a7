"""What a model is, against transformers' own counts and torch's own FLOP counter."""

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from families import MEMBERS, BadInput, ModelSpec, accounting, family, member
from families.architectures import architecture

GPT2 = {"gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200}
CARD = {"gpt2-52m": 51_475_968, "gpt2-83m": 82_056_320, "gpt2-125m": 124_439_808}

SPECS = st.builds(
    lambda layers, heads, head_size, inner, context, vocab: ModelSpec(
        n_layer=layers,
        n_head=heads,
        n_embd=heads * head_size,
        n_inner=inner * heads,
        n_positions=context,
        vocab_size=vocab,
    ),
    st.integers(1, 4),
    st.integers(1, 5),
    st.sampled_from([4, 8, 16]),
    st.integers(0, 70),
    st.integers(4, 48),
    st.integers(10, 500),
)


def meta_model(spec):
    config = transformers.GPT2Config(
        **architecture("gpt2").to_hugging_face(spec), attn_implementation="eager"
    )
    with torch.device("meta"):
        return transformers.GPT2LMHeadModel(config)


def count(model):
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("name", [*GPT2, *CARD])
def test_the_published_sizes_are_exact(name):
    assert accounting.params(member(name).spec) == {**GPT2, **CARD}[name]


@pytest.mark.parametrize("name", [*GPT2, *CARD])
def test_presets_count_as_transformers_does(name):
    assert accounting.params(member(name).spec) == count(meta_model(member(name).spec))


@given(spec=SPECS)
@settings(deadline=None, max_examples=15)
def test_parameter_count_equals_transformers_own(spec):
    model = meta_model(spec)
    assert accounting.params(spec) == count(model)
    tables = model.transformer.wte.weight.numel() + model.transformer.wpe.weight.numel()
    assert accounting.params_non_embedding(spec) == count(model) - tables


@given(spec=SPECS, batch=st.integers(1, 3))
@settings(deadline=None, max_examples=15)
def test_train_flops_per_token_equal_torchs_flop_counter_in_eager_attention(spec, batch):
    model = meta_model(spec)
    ids = torch.zeros((batch, spec.n_positions), dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids).logits.sum().backward()
    assert counter.get_total_flops() == accounting.train_flops(spec, batch * spec.n_positions)


def test_kaplans_n_is_twelve_layers_width_squared():
    assert accounting.params_kaplan(member("gpt2-52m").spec) == 25_165_824
    assert accounting.params_kaplan(member("gpt2-125m").spec) == 84_934_656


@given(spec=SPECS)
@settings(deadline=None, max_examples=15)
def test_a_spec_survives_its_hugging_face_config(spec):
    config = transformers.GPT2Config(**architecture("gpt2").to_hugging_face(spec))
    assert architecture("gpt2").from_hugging_face(config.to_dict()) == spec


def test_the_config_gives_every_argument_that_matters():
    given_arguments = architecture("gpt2").to_hugging_face(member("gpt2-52m").spec)
    config = transformers.GPT2Config(**given_arguments).to_dict()
    assert {name: config[name] for name in given_arguments} == given_arguments
    assert (
        given_arguments["resid_pdrop"]
        == given_arguments["attn_pdrop"]
        == given_arguments["embd_pdrop"]
        == 0.0
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_embd": 65}, "multiple of n_head"),
        ({"n_layer": 0}, "at least 1"),
        ({"vocab_size": 1.5}, "whole number"),
        ({"n_kv_head": 3}, "multiple of n_kv_head"),
    ],
)
def test_an_impossible_shape_is_refused(changes, said):
    with pytest.raises(BadInput, match=said):
        ModelSpec(**{"n_layer": 2, "n_head": 4, "n_embd": 64, **changes})


def test_an_unknown_member_gets_the_nearest():
    with pytest.raises(BadInput, match="did you mean gpt2-83m"):
        member("gpt2-38m")
    with pytest.raises(BadInput, match="did you mean gpt2-kaplan"):
        family("gpt2-kaplam")
    assert member(" GPT2-XL ") is MEMBERS["gpt2-xl"]
