"""Recipes are realisable, sourced, and sane from laptop models to the card's family."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from families import ModelSpec, member, params_kaplan
from families.units import BadInput
from scaling.recipe import RULES, recipe, recipes

SHAPES = st.builds(
    lambda layers, heads, head_size, context: ModelSpec(
        n_layer=layers, n_head=heads, n_embd=heads * head_size, n_positions=context, vocab_size=2048
    ),
    st.integers(1, 48),
    st.integers(1, 25),
    st.sampled_from([16, 32, 64, 128]),
    st.sampled_from([64, 128, 256, 1024]),
)


@given(spec=SHAPES, tokens=st.floats(1e5, 1e12), rule=st.sampled_from(sorted(RULES)))
def test_every_rule_gives_whole_steps_near_the_tokens(spec, tokens, rule):
    found = recipe(spec, tokens, rule=rule)
    assert found.batch_tokens == found.batch_sequences * spec.n_positions
    assert found.tokens == pytest.approx(tokens, abs=found.batch_tokens)
    assert found.warmup_steps <= 0.2 * found.steps
    assert found.source


@given(spec=SHAPES, tokens=st.floats(1e6, 1e9), share=st.floats(0.05, 1))
def test_warm_up_takes_a_fifth_of_the_shortest_rung_at_most(spec, tokens, share):
    found = recipe(spec, tokens, shortest=share * tokens)
    assert found.warmup_steps * found.batch_tokens <= 0.2 * share * tokens + 1e-6


@pytest.mark.parametrize("width", [32, 64, 96, 128, 160])
def test_the_default_rule_suits_laptop_models(width):
    spec = ModelSpec(
        n_layer=max(1, width // 32), n_head=width // 16, n_embd=width, n_positions=128, vocab_size=2048
    )
    found = recipe(spec, 2_000_000)
    assert 1e-3 <= found.lr <= 1e-2
    assert 1024 <= found.batch_tokens <= 16384
    assert 100 <= found.steps <= 3000


def test_learning_rate_falls_with_width_under_the_default_rule():
    rates = [recipe(member(name).spec, 5e9).lr for name in ("gpt2-52m", "gpt2-83m", "gpt2-125m")]
    assert rates == sorted(rates, reverse=True)


def test_the_card_rule_is_the_cards_own_recipe():
    tokens = {"gpt2-52m": 4_718_592_000, "gpt2-83m": 5_767_168_000, "gpt2-125m": 7_340_032_000}
    for (name, count), lr, steps in zip(
        tokens.items(), (1.5e-3, 1e-3, 6e-4), (9000, 11000, 14000), strict=True
    ):
        found = recipe(member(name).spec, count, rule="card")
        assert (found.lr, found.steps, found.batch_tokens) == (lr, steps, 524288)
        assert found.warmup_steps == steps // 100
        assert (found.beta1, found.beta2, found.weight_decay, found.grad_clip) == (0.9, 0.999, 0.0, 1.0)


def test_kaplans_learning_rate_is_his_formula():
    spec = member("gpt2-125m").spec
    expected = 0.003239 - 0.0001395 * math.log(params_kaplan(spec))
    assert recipe(spec, 7e9, rule="kaplan").lr == pytest.approx(expected, rel=5e-3)


def test_steplaw_is_its_formula():
    found = recipe(member("gpt2").spec, 2e9, rule="steplaw")
    n = 85_056_000  # blocks and final norm of GPT-2 small
    assert found.lr == pytest.approx(1.79 * n**-0.713 * 2e9**0.307, rel=5e-3)
    assert found.batch_tokens == pytest.approx(0.58 * 2e9**0.571, rel=0.05)


def test_deepseeks_compute_is_of_the_layers_without_the_head():
    spec = member("gpt2").spec
    compute = (72 * 12 * 768**2 + 12 * 12 * 768 * 1024) * 2e9  # their equation 2: 72·L·d² + 12·L·d·T a token
    found = recipe(spec, 2e9, rule="deepseek")
    assert found.lr == pytest.approx(0.3118 * compute**-0.125, rel=5e-3)
    assert found.batch_tokens == pytest.approx(0.2920 * compute**0.3271, rel=0.05)


def test_all_rules_can_be_compared():
    assert set(recipes(member("gpt2-83m").spec, 6e9)) == set(RULES)


def test_an_unknown_rule_gets_the_nearest():
    with pytest.raises(BadInput, match="did you mean porian"):
        recipe(member("gpt2").spec, 1e9, rule="poria")


@pytest.mark.parametrize(
    ("layers", "width", "tokens", "losses"),
    [  # own sweeps (docs/log.md#e147): loss at each learning rate, nats per token
        (2, 64, 2e6, {0.002: 3.1270, 0.004: 3.0395, 0.008: 3.0385, 0.016: 3.2461}),
        (3, 96, 3e6, {0.002: 2.7875, 0.004: 2.7219, 0.008: 2.7391, 0.016: 2.8342}),
        (4, 128, 3e6, {0.002: 2.6078, 0.004: 2.5612, 0.008: 2.6661, 0.016: 2.8018}),
    ],
)
def test_the_default_learning_rate_gives_little_away_on_own_sweeps(layers, width, tokens, losses):
    spec = ModelSpec(n_layer=layers, n_head=width // 32, n_embd=width, n_positions=128, vocab_size=1024)
    found = recipe(spec, tokens, batch_tokens=2048 if width == 64 else 3072)
    rates = np.log(list(losses))
    curve = np.polyfit(rates, list(losses.values()), 3)
    fine = np.linspace(rates[0], rates[-1], 400)
    assert np.polyval(curve, math.log(found.lr)) / np.polyval(curve, fine).min() - 1 < 0.005


def test_the_default_rule_is_steplaws_at_scale_and_bent_below():
    for name, tokens, most in (("gpt2-xl", 3e10, 0.02), ("gpt2-52m", 1e9, 0.4)):
        steplaw, capped = (recipe(member(name).spec, tokens, rule=rule) for rule in ("steplaw", "capped"))
        assert 1 - most < capped.lr / steplaw.lr <= 1.001
        assert capped.batch_tokens == steplaw.batch_tokens
