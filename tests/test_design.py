"""One dial and a rule give realisable models."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from families import BadInput, accounting, member
from families.design import DesignRule, design_family, design_members, name_of


def test_the_gpt2_family_follows_from_its_rule():
    for name in ("gpt2-52m", "gpt2-83m", "gpt2-125m"):
        spec = member(name).spec
        assert design_members(params=(accounting.params(spec),), ratio=64)[0].spec == spec


@pytest.mark.parametrize(
    ("ratio", "size", "shape", "printed"),
    [
        (33, 1.5e9, (48, 1600), "1.56B"),
        (85, 1.5e9, (24, 2048), "1.32B"),
        (33, 1.56e9, (48, 1600), "1.56B"),
        (85, 1.32e9, (24, 2048), "1.32B"),
    ],
)
def test_deep_and_shallow_at_equal_size(ratio, size, shape, printed):
    spec = design_members(params=(size,), ratio=ratio, n_positions=2048)[0].spec
    assert (spec.n_layer, spec.n_embd) == shape
    layers, d, context, vocab = spec.n_layer, spec.n_embd, 2048, 50257
    theirs = layers * (12 * d**2 + 13 * d) + vocab * d + context * d + 2 * d  # the pair's own size formula
    assert accounting.params(spec) == theirs
    assert f"{theirs / 10**9:.2f}B" == printed
    assert int(d / layers) == ratio


@given(
    size=st.floats(2e6, 1e11),
    ratio=st.floats(16, 128),
    head_size=st.sampled_from([32, 64, 128]),
    multiple=st.sampled_from([1, 8, 128]),
)
def test_designed_shapes_keep_the_rule(size, ratio, head_size, multiple):
    rule = DesignRule(ratio=ratio, head_size=head_size, multiple=multiple, vocab_size=1024)
    spec = rule.at_params(size)
    assert spec.n_embd % head_size == 0
    assert spec.n_embd % multiple == 0
    assert spec.n_embd == spec.n_head * head_size
    assert spec.n_layer < 16 or spec.n_layer % 4 == 0
    if spec.n_layer > 8 and spec.n_embd > 8 * rule.step:
        assert spec.n_embd / spec.n_layer == pytest.approx(ratio, rel=0.15)
        assert accounting.params(spec) == pytest.approx(size, rel=0.25)


def test_two_dials_decide_the_third():
    assert design_members(depth=(6,), width=(384,))[0].spec.shape == "L6 d384 h6"
    assert design_members(params=(124e6,), depth=(12,))[0].spec.shape == "L12 d768 h12"
    assert design_members(params=(124e6,), width=(768,))[0].spec.shape == "L12 d768 h12"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "missing"),
        ({"params": (1e6,), "depth": (2,), "width": (64,)}, "two of them"),
        ({"params": (1e6,), "depth": (2,), "ratio": 64.0}, "decide the ratio"),
        ({"params": (1e6,), "ratio": -1.0}, "positive"),
        ({"params": (1e6,), "head_size": 0}, "at least 1"),
        ({"params": (1e30,)}, "at most 100T"),
        ({"depth": (10**12,)}, "at most 1,000,000,000"),
        ({"params": (1e6,), "vocab_size": 10**15}, "from 1 to 100M"),
        ({"params": (1e6,), "architecture": "gtp2"}, "did you mean gpt2"),
    ],
)
def test_dials_that_contradict_are_refused(arguments, said):
    with pytest.raises(BadInput, match=said):
        design_members(**arguments)


def test_a_family_grows_with_its_widths():
    family = design_family(
        DesignRule(ratio=32, head_size=16, vocab_size=1024, n_positions=128), (96, 32, 64, 160)
    )
    sizes = [accounting.params(found.spec) for found in family.members]
    assert sizes == sorted(sizes)
    assert [found.spec.n_embd for found in family.members] == [32, 64, 96, 160]
    assert name_of(family.members[0].spec) == family.members[0].name


def test_the_command_prints_one_json_object(cli):
    found = json.loads(cli("design", "--params", "85M", "--ratio", "64", "--json").stdout)["members"]
    assert [(fact["n_layer"], fact["n_embd"], fact["params"]) for fact in found] == [(10, 640, 82_056_320)]


@pytest.mark.parametrize(
    "arguments", [("--params", "big"), ("--depth", "0"), ("--params", "1M", "--vocab", "-3"), ()]
)
def test_the_command_refuses_bad_input_in_one_line(cli, arguments):
    result = cli("design", *arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_command_emits_configs_of_the_promised_size(cli, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    cli(
        "design",
        "--width",
        "64",
        "--head-size",
        "16",
        "--vocab",
        "500",
        "--context",
        "32",
        "--out",
        str(tmp_path),
    )
    (folder,) = tmp_path.iterdir()
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    spec = DesignRule(head_size=16, vocab_size=500, n_positions=32).at_width(64)
    assert sum(weight.numel() for weight in model.parameters()) == accounting.params(spec)


@pytest.mark.parametrize(("ratio", "shape"), [("33", (48, 1600)), ("85", (24, 2048))])
def test_a_rule_alone_gives_the_usual_sizes_up_to_the_deep_and_the_shallow_one(cli, ratio, shape):
    members = json.loads(cli("design", "--ratio", ratio, "--json").stdout)["members"]
    assert len(members) == 5
    assert (members[-1]["n_layer"], members[-1]["n_embd"]) == shape


def test_compute_is_a_dial_too(cli):
    found = json.loads(cli("design", "--compute", "1e18,1e20", "--json").stdout)["members"]
    assert [fact["member"] for fact in found] == ["gpt2-83m", "gpt2-883m-l24-d1664"]
    assert cli("design", "--compute", "1e18", "--params", "1M").returncode == 2


def test_llama_shapes_keep_their_feed_forward_at_eight_thirds():
    spec = design_members(params=(1.1e9,), architecture="llama", n_positions=2048, vocab_size=32000)[0].spec
    assert spec.n_inner % 256 == 0
    assert spec.n_inner / spec.n_embd == pytest.approx(8 / 3, rel=0.1)
    assert accounting.params(spec) == pytest.approx(1.1e9, rel=0.15)
