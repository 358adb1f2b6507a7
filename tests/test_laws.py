"""Laws: the closed forms against grids and published tables."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from families.units import BadInput
from scaling.laws import KaplanFrontier, Law, kaplan_law
from scaling.published_laws import PUBLISHED, published_law

laws = st.builds(
    Law,
    E=st.floats(0, 3),
    A=st.floats(10, 1e6),
    B=st.floats(10, 1e6),
    alpha=st.floats(0.15, 0.9),
    beta=st.floats(0.15, 0.9),
    gamma=st.floats(0.2, 2),
)


@given(laws, st.floats(1e17, 1e25))
def test_no_other_point_on_the_isoflop_beats_the_allocation(law, C):
    best = law.allocate(C)
    N = best.N * np.geomspace(0.01, 100, 401)
    assert best.loss <= law.loss(N, C / 6 / N).min() * (1 + 1e-9)
    assert pytest.approx(C) == 6 * best.N * best.D


@given(laws, st.floats(1e7, 1e11), st.floats(1e9, 1e13))
def test_tokens_for_a_loss_is_the_inverse_of_the_loss(law, N, D):
    assume(law.B * D**-law.beta > 1e-9 * law.A * N**-law.alpha)  # else the tokens leave no trace in the loss
    assert law.loss(N, float(law.tokens_for(N, law.loss(N, D)))) == pytest.approx(law.loss(N, D), rel=1e-6)


def test_a_loss_below_the_limit_of_a_size_is_out_of_reach():
    law = PUBLISHED["chinchilla"].law
    assert law.tokens_for(1e9, 1.8) == math.inf


def test_kaplans_form_is_the_general_law_with_its_restrictions():
    Nc, Dc, aN, aD = 6.4e13, 1.8e13, 0.076, 0.103
    N, D = 1e8, 3e9
    own = ((Nc / N) ** (aN / aD) + Dc / D) ** aD
    assert kaplan_law(Nc=Nc, Dc=Dc, aN=aN, aD=aD).loss(N, D) == pytest.approx(own, rel=1e-12)


@pytest.mark.parametrize(
    ("N", "loss", "perplexity", "tokens"),
    [
        (25_165_824, 3.482618529842513, 32.54483020726001, 4.649e9),
        (49_152_000, 3.32654107284093, 27.8418719514438, 5.956e9),
        (84_934_656, 3.2042232768969785, 24.63635695536824, 7.291e9),
    ],
)
def test_the_frontier_gives_the_predicted_perplexities_of_the_gpt2_card(N, loss, perplexity, tokens):
    frontier = KaplanFrontier()
    assert frontier.loss(N) == pytest.approx(loss, rel=1e-12)
    assert math.exp(frontier.loss(N)) == pytest.approx(perplexity, rel=1e-12)
    assert frontier.tokens(N) == pytest.approx(tokens, rel=1e-3)


def test_nanogpts_riddle_is_solved_by_the_refitted_constants():
    # PITFALLS row 2: 316M/11.65B at 2.21e19 FLOPs under superseded constants.
    best = published_law("chinchilla").law.allocate(2.21e19)
    assert pytest.approx(394e6, rel=0.01) == best.N
    assert pytest.approx(9.4e9, rel=0.01) == best.D
    assert published_law("hoffmann").superseded_by == "chinchilla"


@pytest.mark.parametrize("C", [0, -1, math.nan, math.inf])
def test_a_budget_that_is_no_budget_is_refused(C):
    with pytest.raises(BadInput, match="compute must be positive"):
        PUBLISHED["chinchilla"].law.allocate(C)


@pytest.mark.parametrize(
    ("N", "D", "message"), [(1e308, 1e9, "N is 1e"), (1e9, 1e101, "D is 1e"), (1e9, 0, "positive")]
)
def test_sizes_that_nothing_can_be_computed_with_are_refused_though_forced(N, D, message):
    with pytest.raises(BadInput, match=message):
        PUBLISHED["chinchilla"].predict(N, D, force=True)


def test_a_law_of_one_variable_has_no_split():
    with pytest.raises(BadInput, match="only one of N and D"):
        Law(E=1.7, A=400, B=0, alpha=0.3, beta=0.3).allocate(1e20)


@pytest.mark.parametrize("name", ["E", "A", "alpha", "gamma"])
def test_a_negative_constant_is_refused_by_name(name):
    values = {"E": 1.7, "A": 400.0, "B": 400.0, "alpha": 0.3, "beta": 0.3, "gamma": 1.0, name: -1.0}
    with pytest.raises(BadInput, match=f"{name} is -1"):
        Law(**values)
