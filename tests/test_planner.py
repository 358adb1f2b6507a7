"""The planner against the published table, the closed form and brute force."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from families import accounting, member
from families.errors import BadInput
from scaling.budget import parse_budget
from scaling.planner import PlanLaw, candidates, choose, find_law, make_plan
from scaling.published import PUBLISHED, published

# Kaplan's frontier at N = 12·n_layer·n_embd²: the card's "predicted perplexity", to the last digit.
CARD = {
    "gpt2-52m": ("02:44@8xA100", 0.0684, 3.482618529842513, 32.54483020726001, 4.649e9, 0.985),
    "gpt2-83m": ("04:52@8xA100", 0.0748, 3.32654107284093, 27.8418719514438, 5.956e9, 1.032),
    "gpt2-125m": ("08:25@8xA100", 0.0830, 3.2042232768969785, 24.63635695536824, 7.291e9, 0.993),
}


@pytest.mark.parametrize("name", CARD)
@pytest.mark.parametrize("family", ["all", "gpt2-kaplan"])
def test_the_cards_budgets_recommend_the_cards_members(name, family):
    text, mfu, loss, ppl, tokens, share = CARD[name]
    budget = parse_budget(text, mfu=mfu)
    plan = make_plan(budget, find_law("kaplan", None), candidates(family))
    chosen = plan.recommended
    assert chosen.member == name
    assert chosen.loss == loss
    assert chosen.ppl == ppl
    assert chosen.tokens == pytest.approx(tokens, rel=2e-4)
    assert chosen.share == pytest.approx(share, abs=1e-3)
    assert chosen.flops == pytest.approx(
        accounting.train_flops_per_token(member(name).spec) * tokens, rel=2e-4
    )
    assert any("counts as affordable" in note for note in plan.notes) == (share > 1)


@given(flops=st.floats(1e17, 1e24))
@settings(deadline=None, max_examples=30)
def test_no_candidate_beats_the_recommended_one_under_a_law_of_n_and_d(flops):
    law = PlanLaw.published(published("chinchilla"))
    members = candidates()
    best, frontier = choose(parse_budget(repr(flops)), law, members)
    for other in members:
        tokens = flops / accounting.train_flops_per_token(other.spec)
        assert law.law.loss(accounting.params(other.spec), tokens) >= best.loss
    assert best.share == pytest.approx(1)
    assert frontier[-1].member == best.member


@given(flops=st.floats(1e19, 1e24))
@settings(deadline=None, max_examples=30)
def test_the_choice_lies_near_the_closed_form_allocation(flops):
    """Exact FLOPs shift the optimum a little from C = 6ND; the grid of shapes is about 20 % apart."""
    best, _ = choose(parse_budget(repr(flops)), PlanLaw.published(published("chinchilla")), candidates())
    closed = published("chinchilla").law.allocate(flops)
    assert best.params == pytest.approx(closed.N, rel=0.35)
    assert best.loss == pytest.approx(closed.loss, rel=0.01)


@given(flops=st.floats(1e16, 1e23), name=st.sampled_from(sorted(PUBLISHED)))
@settings(deadline=None, max_examples=30)
def test_no_frontier_choice_dominates_another(flops, name):
    _, frontier = choose(parse_budget(repr(flops)), PlanLaw.published(published(name)), candidates())
    for one in frontier:
        for other in frontier:
            if one.member != other.member:
                assert not (
                    one.loss <= other.loss
                    and one.inference_flops_per_token <= other.inference_flops_per_token
                    and round(one.share, 9) <= round(other.share, 9)
                )


def test_the_plan_says_what_other_laws_would_choose_and_leaves_superseded_ones_out():
    budget = parse_budget("1e20")
    assert {other.law for other in make_plan(budget, find_law("kaplan", None), candidates()).others} == {
        "chinchilla"
    }
    plan = make_plan(budget, find_law("hoffmann", None), candidates())
    assert {other.law for other in plan.others} == {"kaplan", "chinchilla"}
    assert any("superseded" in note for note in plan.notes)


def test_the_planned_member_is_whole_steps_and_its_prediction_is_for_exactly_those():
    law = find_law("chinchilla", None)
    planned = make_plan(parse_budget("1e20"), law, candidates()).members[0]
    assert planned.tokens == planned.recipe.steps * planned.recipe.batch_tokens
    assert planned.prediction.loss == law.law.loss(planned.params, planned.tokens)
    assert accounting.params(planned.spec) == planned.params


@pytest.mark.parametrize("law", ["kaplan", "chinchilla"])
def test_nothing_affordable_names_the_cheapest(law):
    with pytest.raises(BadInput, match=r"the cheapest is gpt2-52m at .* FLOPs"):
        make_plan(parse_budget("1e9"), find_law(law, None), candidates("gpt2-kaplan"))


def test_an_unknown_law_gets_the_nearest():
    with pytest.raises(BadInput, match="did you mean chinchilla"):
        find_law("chinchila", None)
